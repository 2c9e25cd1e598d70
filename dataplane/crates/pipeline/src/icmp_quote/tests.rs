//! Errors translated outside and inside against the same built afresh.

use proptest::prelude::*;
use wire::protocol;

use super::*;
use crate::specimen::{Finish, Kind, Part, Specimen, specimens};

type Side = ([u32; 2], [u128; 2], [u16; 2]);

/// An error about `quote`, of which `extension` follows if the type may say how long the quote is.
#[derive(Clone, Debug)]
struct Message {
    kind: u8,
    code: u8,
    /// Bytes of the quoted packet.
    cut: usize,
    extension: Vec<u8>,
}

impl Message {
    fn bytes(&self, quote: &[u8], v6: bool) -> Vec<u8> {
        let cut = self.cut.min(quote.len());
        let mut b = vec![self.kind, self.code, 0, 0, 0, 0, 0, 0];
        let (at, unit) = if v6 { (4, 8) } else { (5, 4) };
        b.extend(&quote[..cut]);
        if self.has_length() && cut.is_multiple_of(unit) && cut / unit <= 255 {
            b[at] = u8::try_from(cut / unit).unwrap();
            b.extend(&self.extension);
        }
        b
    }

    fn has_length(&self) -> bool {
        !self.extension.is_empty() && matches!(self.kind, 1 | 3 | 11 | 12)
    }
}

/// Where the transport of a specimen's IP packet begins.
fn l4_of(specimen: &Specimen, ends: &Ends) -> usize {
    let frame = specimen.frame(ends);
    usize::from(wire::parse(&frame, frame.len()).unwrap().l4_offset) - 14
}

fn outer(inner: &Specimen, options: u8, extensions: [bool; 4]) -> Specimen {
    let payload = Vec::new();
    let (kind, part, finish) = (Kind::OtherIcmp, Part::Whole, Finish::Done);
    Specimen { kind, part, finish, options, extensions, payload, ..inner.clone() }
}

fn messages() -> impl Strategy<Value = (usize, u8, usize, Vec<u8>)> {
    (
        0usize..4,
        0u8..16,
        prop_oneof![0usize..24, 0usize..1300],
        prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 20)],
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn as_built_afresh(
        inner in specimens(), (kind, code, more, extension) in messages(), options in 0u8..=10, extensions: [bool; 4],
        a: Side, b: Side, outer_a: Side, outer_b: Side, head: u8,
    ) {
        let inner = Specimen { finish: Finish::Done, ..inner };
        let outer = outer(&inner, options, extensions);
        let kind = if inner.v6 { [1, 2, 3, 4][kind] } else { [3, 4, 11, 12][kind] };
        let (a, b) = (inner.fit(a.0, a.1, a.2), inner.fit(b.0, b.1, b.2));
        let (outer_a, outer_b) =
            (outer.fit(outer_a.0, outer_a.1, outer_a.2), outer.fit(outer_b.0, outer_b.1, outer_b.2));
        let l4 = l4_of(&inner, &a);
        let message = Message { kind, code, cut: l4 + 8 + more, extension };
        let from = outer.icmp_frame(&outer_a, &message.bytes(&inner.packet(&a), inner.v6));
        let mut quote = inner.packet(&b);
        // A checksum that is cut through stays as it was, and so does one of a packet whose length is not known.
        let unknown = inner.kind == Kind::Sctp && inner.part == Part::First;
        if let Some(field) = inner.checksum_field() {
            let (begin, end) = (l4 + field.start, l4 + field.end);
            if unknown || begin < message.cut && message.cut < end {
                quote[begin..end].copy_from_slice(&inner.packet(&a)[begin..end]);
            }
        }
        let to = outer.icmp_frame(&outer_b, &message.bytes(&quote, inner.v6));

        let mut frame = from.clone();
        let head = (256 + usize::from(head)).min(frame.len());
        let parsed = wire::parse(&frame[..head], frame.len()).unwrap();
        let found = quoted(&frame[..head], &parsed);
        if inner.part == Part::Later || inner.kind == Kind::OtherIcmp {
            prop_assert_eq!(found, None);
            return Ok(());
        }
        let found = found.unwrap();
        prop_assert_eq!((found.protocol, found.ends), (inner.protocol(), a));
        let done = translate_quote(&mut frame[..head], &parsed, &found, &b, outer_b.src, outer_b.dst);
        prop_assert_eq!(done, Ok(()));
        prop_assert_eq!(&frame, &to);
        let found = quoted(&frame[..head], &parsed).unwrap();
        prop_assert_eq!(found.ends, b);
        let done = translate_quote(&mut frame[..head], &parsed, &found, &a, outer_a.src, outer_a.dst);
        prop_assert_eq!(done, Ok(()));
        prop_assert_eq!(frame, from);
    }

    /// Whatever is quoted, and however it is cut: no panic, and nothing touched that is refused.
    #[test]
    fn total(
        inner in specimens(), a: Side, b: Side, kind in 0u8..16, flips in prop::collection::vec((any::<u8>(), any::<u8>()), 0..6),
        cut in 0usize..120, zeros: [u8; 4],
    ) {
        let outer = outer(&inner, 0, [false; 4]);
        let mut quote = inner.packet(&inner.fit(a.0, a.1, a.2));
        for (at, with) in flips {
            let at = usize::from(at) % quote.len();
            quote[at] ^= with;
        }
        quote.truncate(cut);
        let message = [&[kind, 0, 0, 0][..], &zeros, &quote].concat();
        let (outer_a, outer_b) = (outer.fit(a.0, a.1, a.2), outer.fit(b.0, b.1, b.2));
        let mut frame = outer.icmp_frame(&outer_a, &message);
        let parsed = wire::parse(&frame, frame.len()).unwrap();
        if let Some(found) = quoted(&frame, &parsed) {
            let (to, before) = (inner.fit(b.0, b.1, b.2), frame.clone());
            if translate_quote(&mut frame, &parsed, &found, &to, outer_b.src, outer_b.dst).is_err() {
                prop_assert_eq!(&frame, &before);
            } else {
                // The message adds up, whatever the quote was.
                let mut again = frame[usize::from(parsed.l4_offset)..].to_vec();
                again[2..4].fill(0);
                prop_assert_eq!(&frame, &outer.icmp_frame(&outer_b, &again));
            }
            for short in 0..frame.len() {
                let _ = translate_quote(&mut frame[..short], &parsed, &found, &to, outer_b.src, outer_b.dst);
                let _ = quoted(&frame[..short], &parsed);
            }
        }
    }
}

const A: Side = ([0x0a00_0001, 0x0a60_0001], [1, 2], [40_000, 80]);
const B: Side = ([0x0a00_0001, 0x0a00_0107], [1, 99], [40_000, 8080]);

fn about(kind: Kind, v6: bool) -> (Specimen, Specimen) {
    let inner = Specimen {
        v6,
        kind,
        part: Part::Whole,
        finish: Finish::Done,
        options: 0,
        extensions: [false; 4],
        segments_left: 0,
        tcp_options: 0,
        ttl: 64,
        ident: 1,
        payload: vec![0; 4],
    };
    let outer = outer(&inner, 0, [false; 4]);
    (inner, outer)
}

fn quoted_in(outer: &Specimen, message: &[u8]) -> Option<Quote> {
    let frame = outer.icmp_frame(&outer.fit(A.0, A.1, A.2), message);
    quoted(&frame, &wire::parse(&frame, frame.len()).unwrap())
}

#[test]
fn only_errors_with_eight_bytes_of_transport() {
    let header = |kind: u8| [kind, 0, 0, 0, 0, 0, 0, 0];
    for (v6, errors) in [(false, &[3, 4, 11, 12][..]), (true, &[1, 2, 3, 4])] {
        let (inner, outer) = about(Kind::Tcp, v6);
        let packet = inner.packet(&inner.fit(A.0, A.1, A.2));
        let least = packet.len() - 24 + 8;
        for kind in 0..=255 {
            let found = quoted_in(&outer, &[&header(kind)[..], &packet[..least]].concat());
            assert_eq!(found.is_some(), errors.contains(&kind), "{kind}");
            assert_eq!(quoted_in(&outer, &[&header(kind)[..], &packet[..least - 1]].concat()), None);
        }
        // No packet of the other family, and none that claims to be shorter than its headers.
        let mut other = packet.clone();
        other[0] ^= 0x20;
        assert_eq!(quoted_in(&outer, &[&header(errors[0])[..], &other].concat()), None);
        let mut short = packet.clone();
        let at = if v6 { 4 } else { 2 };
        short[at..at + 2].copy_from_slice(&[0, 7]);
        assert_eq!(quoted_in(&outer, &[&header(errors[0])[..], &short].concat()), None);
    }
}

#[test]
fn an_error_about_a_ping_has_its_identifier() {
    for (v6, error) in [(false, 3), (true, 1)] {
        let (inner, outer) = about(Kind::EchoRequest, v6);
        let packet = inner.packet(&inner.fit(A.0, A.1, A.2));
        let found = quoted_in(&outer, &[&[error, 0, 0, 0, 0, 0, 0, 0][..], &packet].concat()).unwrap();
        assert_eq!((found.ends.src_port, found.ends.dst_port), (40_000, 0));
        assert_eq!(found.protocol, if v6 { protocol::ICMPV6 } else { protocol::ICMP });
    }
}

#[test]
fn the_other_family_is_refused_and_nothing_done() {
    let (inner, outer) = about(Kind::Udp, false);
    let (to, six) = (inner.fit(B.0, B.1, B.2), about(Kind::Udp, true).0.fit(B.0, B.1, B.2));
    let packet = inner.packet(&inner.fit(A.0, A.1, A.2));
    let message = [&[11, 0, 0, 0, 0, 0, 0, 0][..], &packet].concat();
    let mut frame = outer.icmp_frame(&outer.fit(A.0, A.1, A.2), &message);
    let before = frame.clone();
    let parsed = wire::parse(&frame, frame.len()).unwrap();
    let found = quoted(&frame, &parsed).unwrap();
    for (inner, outer) in [(six, to), (to, six)] {
        let refused = translate_quote(&mut frame, &parsed, &found, &inner, outer.src, outer.dst);
        assert_eq!(refused, Err(DropReason::Untranslatable));
        assert_eq!(frame, before);
    }
}
