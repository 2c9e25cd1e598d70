//! Checksums, segments and fragments in software, against what they must add up to.

use pipeline::segment::{Fragmenter, Segmenter, finish_checksum};
use pipeline::{DropReason, GsoKind, Offload};
use proptest::prelude::*;
use smoltcp::wire::{Ipv4Packet, TcpPacket, UdpPacket};

use crate::body::POD_A;
use crate::frames::*;

fn gso(kind: GsoKind, size: u16) -> Offload {
    // What is said of offsets is not needed: the frame says it.
    Offload::Gso { kind, size, header_len: 0, start: 0, offset: 0 }
}

fn segments(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let segmenter = Segmenter::new(frame, offload).unwrap();
    let mut all = Vec::new();
    for index in 0..segmenter.segments() {
        let mut out = vec![0xee; segmenter.longest()];
        let len = segmenter.write(index, &mut out).unwrap();
        assert_eq!(segmenter.write(index, &mut vec![0; len - 1]), None);
        all.push(out[..len].to_vec());
    }
    assert_eq!(segmenter.write(all.len(), &mut [0; 70_000]), None);
    all
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

const V4: (&str, &str) = ("10.244.1.2", "10.244.1.3");
const V6: (&str, &str) = ("fd00:1::2", "fd00:1::3");

proptest! {
    #[test]
    fn tcp_segments_make_the_whole(
        six: bool, len in 0usize..20_000, size in 1u16..3000, flags: u8, options in 0usize..11, ident: u16, seq: u32,
    ) {
        // At most some hundred pieces.
        prop_assume!(len / usize::from(size) < 200);
        let payload = data(len);
        let mut segment = tcp(flags, &[]);
        segment[4..8].copy_from_slice(&seq.to_be_bytes());
        segment[12] = u8::try_from(5 + options).unwrap() << 4;
        segment.extend(vec![1; options * 4]);
        segment.extend(&payload);
        let (src, dst) = if six { V6 } else { V4 };
        let mut frame = from(POD_A, src, dst, TCP, &segment);
        if !six {
            frame[18..20].copy_from_slice(&ident.to_be_bytes());
            fill_header_checksum(&mut frame);
        }
        let pieces = segments(&frame, gso(if six { GsoKind::TcpV6 } else { GsoKind::TcpV4 }, size));
        prop_assert_eq!(pieces.len(), len.div_ceil(usize::from(size)).max(1));
        let mut whole = Vec::<u8>::new();
        for (n, piece) in pieces.iter().enumerate() {
            let last = n + 1 == pieces.len();
            let read = read(piece);
            prop_assert_eq!((read.src, read.dst, read.hops), (ip(src), ip(dst), 64));
            prop_assert!(read.transport_checksum_is_right(TCP));
            let packet = TcpPacket::new_checked(read.payload).unwrap();
            prop_assert_eq!(packet.seq_number().0.cast_unsigned(), seq.wrapping_add(u32::try_from(whole.len()).unwrap()));
            prop_assert_eq!(packet.options().len(), options * 4);
            let expected = flags & if last { 0xff } else { !0x09 } & if n == 0 { 0xff } else { !0x80 };
            prop_assert_eq!(read.payload[13], expected);
            prop_assert_eq!((&piece[..14], &read.payload[..4]), (&frame[..14], &segment[..4]));
            if !six {
                let packet = Ipv4Packet::new_checked(&piece[14..]).unwrap();
                prop_assert_eq!(packet.ident(), ident.wrapping_add(u16::try_from(n).unwrap()));
                prop_assert!(packet.dont_frag());
            }
            prop_assert!(last || packet.payload().len() == usize::from(size));
            whole.extend(packet.payload());
        }
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn udp_datagrams_make_the_whole(six: bool, len in 0usize..20_000, size in 1u16..3000) {
        prop_assume!(len / usize::from(size) < 200);
        let payload = data(len);
        let (src, dst) = if six { V6 } else { V4 };
        let pieces = segments(&from(POD_A, src, dst, UDP, &udp(7, 9, &payload)), gso(GsoKind::Udp, size));
        let mut whole = Vec::<u8>::new();
        for (n, piece) in pieces.iter().enumerate() {
            let read = read(piece);
            prop_assert!(read.transport_checksum_is_right(UDP));
            let packet = UdpPacket::new_checked(read.payload).unwrap();
            prop_assert_eq!((packet.src_port(), packet.dst_port()), (7, 9));
            prop_assert_eq!(usize::from(packet.len()), read.payload.len());
            prop_assert!(n + 1 == pieces.len() || packet.payload().len() == usize::from(size));
            whole.extend(packet.payload());
        }
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn partial_checksums_are_finished(six: bool, len in 0usize..3000, protocol in prop::sample::select(&[TCP, UDP][..])) {
        let (src, dst) = if six { V6 } else { V4 };
        let (offset, mut segment) =
            if protocol == TCP { (16u16, tcp(0x18, &data(len))) } else { (6, udp(1, 2, &data(len))) };
        let transport = u16::try_from(segment.len()).unwrap();
        let pseudo_header = match (ip(src), ip(dst)) {
            (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
                wire::checksum::pseudo_header_v4(src, dst, protocol, transport)
            }
            (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
                wire::checksum::pseudo_header_v6(src, dst, protocol, transport.into())
            }
            _ => unreachable!(),
        };
        let at = usize::from(offset);
        segment[at..at + 2].copy_from_slice(&wire::checksum::fold(pseudo_header).to_be_bytes());
        let mut frame = from(POD_A, src, dst, protocol, &segment);
        finish_checksum(&mut frame, if six { 54u16 } else { 34 }, offset).unwrap();
        prop_assert!(read(&frame).transport_checksum_is_right(protocol));
    }

    #[test]
    fn fragments_make_the_whole(len in 0usize..9000, mtu in 68u16..2000, options: bool, again: bool) {
        let payload = data(len);
        let frame = from(POD_A, V4.0, V4.1, 200, &payload);
        // Loose source route, which is copied, a timestamp, which is not, and a filler.
        let listed = [131, 7, 4, 10, 0, 0, 1, 68, 8, 5, 0, 0, 0, 0, 0, 1];
        let frame = edited_v4(&frame, 64, 0, if options { &listed } else { &[] });
        prop_assume!(!options || mtu >= 72);
        let mut pieces = fragments(&frame, mtu);
        if again {
            // Fragments of fragments are as good.
            pieces = pieces.iter().flat_map(|piece| fragments(piece, mtu / 2 + 40)).collect();
        }
        let mut whole = vec![0; len];
        let mut covered = 0;
        for (n, piece) in pieces.iter().enumerate() {
            prop_assert!(piece.len() - 14 <= usize::from(mtu));
            let packet = Ipv4Packet::new_checked(&piece[14..]).unwrap();
            prop_assert!(packet.verify_checksum() && !packet.dont_frag());
            let at = usize::from(packet.frag_offset());
            let expected = match (options, at) {
                (false, _) => 20,
                (true, 0) => 36,
                (true, _) => 28,
            };
            prop_assert_eq!(packet.header_len(), expected);
            if options && at > 0 {
                prop_assert_eq!(&piece[34..42], &[131, 7, 4, 10, 0, 0, 1, 0]);
            }
            prop_assert_eq!(packet.more_frags(), n + 1 < pieces.len());
            prop_assert_eq!((packet.ident(), packet.hop_limit()), (0x1234, 64));
            let data = &piece[14 + usize::from(packet.header_len())..];
            whole[at..at + data.len()].copy_from_slice(data);
            covered += data.len();
        }
        prop_assert_eq!(covered, len);
        prop_assert_eq!(whole, payload);
        prop_assert!(again || len + 36 > usize::from(mtu) || pieces.len() == 1);
    }
}

fn fragments(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let fragmenter = Fragmenter::new(frame, mtu).unwrap();
    let mut all = Vec::new();
    for index in 0..fragmenter.fragments() {
        let mut out = [0; 10_000];
        let len = fragmenter.write(index, &mut out).unwrap();
        assert_eq!(fragmenter.write(index, &mut out[..len - 1]), None);
        all.push(out[..len].to_vec());
    }
    all
}

#[test]
fn zero_is_no_udp_checksum() {
    // Data that sum to all ones with the pseudo-header, so that the checksum computes to zero.
    let mut segment = udp(0, 0, &[0, 0]);
    let sum = wire::checksum::pseudo_header_v4(v4(V4.0), v4(V4.1), UDP, 10);
    let rest = wire::checksum::fold(sum + wire::checksum::sum(&segment));
    segment[8..10].copy_from_slice(&(!rest).to_be_bytes());
    let frame = from(POD_A, V4.0, V4.1, UDP, &segment);
    let pieces = segments(&frame, gso(GsoKind::Udp, 100));
    assert_eq!(pieces[0][40..42], [0xff, 0xff]);
    let mut frame = frame;
    frame[40..42].copy_from_slice(&wire::checksum::fold(sum).to_be_bytes());
    finish_checksum(&mut frame, 34usize, 6usize).unwrap();
    assert_eq!(frame, pieces[0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let invalid = Some(DropReason::SegmentInvalid);
    let tcp4 = from(POD_A, V4.0, V4.1, TCP, &tcp(0x10, &[1; 100]));
    for offload in [
        Offload::Done,
        Offload::Partial { start: 34, offset: 16 },
        gso(GsoKind::TcpV4, 0),
        gso(GsoKind::TcpV6, 9),
        gso(GsoKind::Udp, 9),
    ] {
        assert_eq!(Segmenter::new(&tcp4, offload).err(), invalid, "{offload:?}");
    }
    assert_eq!(Segmenter::new(&tcp4[..60], gso(GsoKind::TcpV4, 9)).err(), invalid);
    let part = edited_v4(&from(POD_A, V4.0, V4.1, TCP, &tcp(0x10, &[1; 100])), 64, 0x2000, &[]);
    assert_eq!(Segmenter::new(&part, gso(GsoKind::TcpV4, 9)).err(), invalid);
    assert_eq!(finish_checksum(&mut tcp4.clone(), 200usize, 0usize), Err(DropReason::SegmentInvalid));
    assert_eq!(finish_checksum(&mut tcp4.clone(), 34usize, 119usize), Err(DropReason::SegmentInvalid));

    let too_big = Some(DropReason::PacketTooBig);
    assert_eq!(Fragmenter::new(&tcp4, 100).err(), too_big);
    assert_eq!(Fragmenter::new(&from(POD_A, V6.0, V6.1, UDP, &udp(1, 2, &[])), 100).err(), too_big);
    assert_eq!(Fragmenter::new(&edited_v4(&tcp4, 64, 0, &[]), 27).err(), invalid);
    assert_eq!(Fragmenter::new(&tcp4[..30], 100).err(), invalid);
}
