//! Translated packets against the same built afresh for the new addresses and ports.

use proptest::prelude::*;
use wire::{Fragment, Ipv4Packet, Ipv6Packet, protocol};

use super::*;
use crate::specimen::{Finish, Kind, Part, Specimen, naive_sum, specimens};

type Side = ([u32; 2], [u128; 2], [u16; 2]);

#[expect(clippy::cast_possible_truncation, reason = "two halves of an address")]
fn plain_v6(&(_, [a, b], [c, d]): &Side) -> PlainV6 {
    PlainV6 {
        addrs: [(a >> 64) as u64, a as u64, (b >> 64) as u64, b as u64],
        ports: u32::from(c) << 16 | u32::from(d),
    }
}

fn plain_v4(&([a, b], _, [c, d]): &Side) -> PlainV4 {
    PlainV4 { addrs: [u64::from(a) << 32 | u64::from(b)], ports: u32::from(c) << 16 | u32::from(d) }
}

fn sides() -> impl Strategy<Value = Side> {
    // Some values meet, so that differences of zero occur.
    let port = prop_oneof![Just(0u16), Just(0xffff), any::<u16>()];
    let v4 = prop_oneof![Just(0x0a00_0001u32), any::<u32>()];
    let v6 = prop_oneof![Just(1u128), any::<u128>()];
    ([v4.clone(), v4], [v6.clone(), v6], [port.clone(), port])
}

fn specimen(kind: Kind) -> Specimen {
    Specimen {
        v6: false,
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
    }
}

const A: ([u32; 2], [u128; 2], [u16; 2]) = ([0x0a00_0001, 0x0a60_0001], [1, 2], [40_000, 80]);
const B: ([u32; 2], [u128; 2], [u16; 2]) = ([0x0a00_0001, 0x0a00_0107], [1, 99], [40_000, 8080]);

/// As the path sees it: headers in one piece, the rest elsewhere.
fn translated(frame: &mut [u8], head: usize, finish: &Specimen, to: &Ends) -> Result<(), DropReason> {
    let parsed = wire::parse(&frame[..head], frame.len()).unwrap();
    translate(&mut frame[..head], &parsed, finish.offload(parsed.l4_offset), to)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn as_built_afresh(specimen in specimens(), a in sides(), b in sides(), head in 0usize..400, all: bool) {
        let (a, b) = (specimen.fit(a.0, a.1, a.2), specimen.fit(b.0, b.1, b.2));
        let (from, to) = (specimen.frame(&a), specimen.frame(&b));
        let mut frame = from.clone();
        let head = if all { frame.len() } else { (256 + head).min(frame.len()) };
        let parsed = wire::parse(&frame[..head], frame.len()).unwrap();
        prop_assert_eq!(parsed.protocol, specimen.protocol());
        if parsed.fragment == Fragment::Later {
            prop_assert_eq!(ends(&frame[..head], &parsed), None);
        } else {
            prop_assert_eq!(ends(&frame[..head], &parsed), Some(a));
        }
        let result = translated(&mut frame, head, &specimen, &b);
        let same_ports = (a.src_port, a.dst_port) == (b.src_port, b.dst_port);
        if specimen.kind == Kind::Sctp && specimen.part == Part::First && !same_ports {
            prop_assert_eq!(result, Err(DropReason::Untranslatable));
            prop_assert_eq!(frame, from);
            return Ok(());
        }
        prop_assert_eq!(result, Ok(()));
        if specimen.part == Part::Later {
            // Its payload is a piece of a datagram of the old ports.
            let l4 = usize::from(parsed.l4_offset);
            prop_assert_eq!(&frame[..l4], &to[..l4]);
            prop_assert_eq!(&frame[l4..], &from[l4..]);
        } else {
            prop_assert_eq!(&frame, &to);
        }
        prop_assert_eq!(translated(&mut frame, head, &specimen, &a), Ok(()));
        prop_assert_eq!(frame, from);
    }

    #[test]
    fn plain_is_the_same_and_one_hop_less(
        mut specimen in specimens(), a in sides(), b in sides(), v6: bool,
        kind in prop::sample::select(vec![Kind::Tcp, Kind::Udp, Kind::UdpZero]),
    ) {
        (specimen.v6, specimen.kind, specimen.options) = (v6, kind, 0);
        (specimen.part, specimen.finish, specimen.extensions) = (Part::Whole, Finish::Done, [false; 4]);
        let (from, to) = (specimen.fit(a.0, a.1, a.2), specimen.fit(b.0, b.1, b.2));
        let mut frame = specimen.frame(&from);
        let mut expected = specimen.frame(&to);
        if v6 {
            translate_plain_v6(&mut frame, specimen.protocol(), plain_v6(&a), plain_v6(&b));
            Ipv6Packet::new_checked(&mut expected[14..]).unwrap().decrement_hop_limit();
        } else {
            translate_plain_v4(&mut frame, specimen.protocol(), plain_v4(&a), plain_v4(&b));
            Ipv4Packet::new_checked(&mut expected[14..]).unwrap().decrement_ttl();
        }
        prop_assert_eq!(&frame, &expected);
        let mut back = specimen.frame(&to);
        if v6 {
            hop_less_v6(&mut back);
        } else {
            hop_less_v4(&mut back);
        }
        prop_assert_eq!(back, expected);
        let turned = |([a, b], [c, d], [e, f]): Side| ([b, a], [d, c], [f, e]);
        prop_assert_eq!(plain_v4(&a).reversed(), plain_v4(&turned(a)));
        prop_assert_eq!(plain_v6(&a).reversed(), plain_v6(&turned(a)));
    }

    /// Whatever `parsed` says of whatever bytes: no panic, and nothing touched that is refused.
    #[test]
    fn total(specimen in specimens(), a in sides(), b in sides(), bytes in prop::collection::vec(any::<u8>(), 0..120), cut: u8) {
        let to = specimen.fit(b.0, b.1, b.2);
        let frame = specimen.frame(&specimen.fit(a.0, a.1, a.2));
        let parsed = wire::parse(&frame, frame.len()).unwrap();
        for mut head in [bytes, frame[..usize::from(cut).min(frame.len())].to_vec()] {
            let before = head.clone();
            let _ = ends(&head, &parsed);
            if translate(&mut head, &parsed, specimen.offload(parsed.l4_offset), &to).is_err() {
                prop_assert_eq!(head, before);
            }
        }
    }
}

#[test]
fn an_echo_reply_of_zeros_keeps_a_checksum() {
    // RFC 1624, section 3: the difference alone would give 0 here, which does not add up.
    let specimen = specimen(Kind::EchoReply);
    let (a, b) = (specimen.fit(A.0, A.1, [0, 7]), specimen.fit(B.0, B.1, [0, 0]));
    let mut frame = specimen.frame(&a);
    let len = frame.len();
    translated(&mut frame, len, &specimen, &b).unwrap();
    assert_eq!(frame, specimen.frame(&b));
    assert_eq!(frame[36..38], [0xff, 0xff]);
    // Changed by nothing it stays as well.
    translated(&mut frame, len, &specimen, &b).unwrap();
    assert_eq!(naive_sum(&frame[34..]), 0xffff);
    translated(&mut frame, len, &specimen, &a).unwrap();
    assert_eq!(frame, specimen.frame(&a));
}

#[test]
fn no_other_family_and_no_arp() {
    let specimen = specimen(Kind::Udp);
    let mut frame = specimen.frame(&specimen.fit(A.0, A.1, A.2));
    let other = Specimen { v6: true, ..specimen.clone() }.fit(B.0, B.1, B.2);
    let half = Ends { src: frame_src(), ..other };
    let mut parsed = wire::parse(&frame, frame.len()).unwrap();
    for to in [other, half] {
        assert_eq!(translate(&mut frame, &parsed, Offload::Done, &to), Err(DropReason::Untranslatable));
    }
    parsed.kind = PacketKind::Arp;
    let to = specimen.fit(B.0, B.1, B.2);
    assert_eq!(translate(&mut frame, &parsed, Offload::Done, &to), Err(DropReason::Untranslatable));
    assert_eq!(frame, specimen.frame(&specimen.fit(A.0, A.1, A.2)));
}

fn frame_src() -> IpAddr {
    IpAddr::from([10, 0, 0, 1])
}

#[test]
fn a_routing_header_with_stops_to_make_keeps_its_destination() {
    let specimen = Specimen { v6: true, extensions: [true; 4], segments_left: 1, ..specimen(Kind::Tcp) };
    let (a, b) = (specimen.fit(A.0, A.1, A.2), specimen.fit(B.0, B.1, B.2));
    let mut frame = specimen.frame(&a);
    let len = frame.len();
    assert_eq!(translated(&mut frame, len, &specimen, &b), Err(DropReason::Untranslatable));
    assert_eq!(frame, specimen.frame(&a));
    // The source is in the checksum, whatever the stops.
    assert_eq!(translated(&mut frame, len, &specimen, &Ends { dst: a.dst, ..b }), Ok(()));
}

#[test]
fn the_sum_of_an_encapsulated_packet_is_not_the_outer_ones() {
    // A guest's VXLAN: the inner TCP is partial, the outer UDP checksum finished by what the inner one will come to.
    let specimen = specimen(Kind::Udp);
    let (a, b) = (specimen.fit(A.0, A.1, A.2), specimen.fit(B.0, B.1, B.2));
    let mut frame = specimen.frame(&a);
    let parsed = wire::parse(&frame, frame.len()).unwrap();
    let inner = Offload::Partial { start: parsed.l4_offset + 8, offset: 0 };
    assert_eq!(translate(&mut frame, &parsed, inner, &b), Ok(()));
    assert_eq!(frame, specimen.frame(&b));
}

#[test]
fn a_short_head_is_left_alone() {
    let (v4, v6) = (PlainV4 { addrs: [1], ports: 2 }, PlainV6 { addrs: [1, 2, 3, 4], ports: 5 });
    for (protocol, len) in [(protocol::TCP, 53), (protocol::UDP, 41)] {
        let mut head = vec![7; len];
        translate_plain_v4(&mut head, protocol, v4, v4.reversed());
        assert_eq!(head, vec![7; len]);
        let mut head = vec![7; len + 20];
        translate_plain_v6(&mut head, protocol, v6, v6.reversed());
        assert_eq!(head, vec![7; len + 20]);
    }
    let mut head = [7; 33];
    hop_less_v4(&mut head);
    hop_less_v6(&mut head);
    assert_eq!(head, [7; 33]);
}
