//! Where packets go, and what is changed in them on the way.

use pipeline::{DropReason, GsoKind, Offload, Output, RouterConfig, Verdict};

use crate::body::{HOST, IDLE, NARROW, OTHER, POD_A, POD_B, UPLINK, UPLINK2, mac, port_mac};
use crate::frames::*;

/// Forwarded there, with this destination MAC if it is known; otherwise as it was, but for TTL and checksum.
#[track_caller]
fn forwards(
    bench: &mut Bench,
    port: tables::PortId,
    frame: &[u8],
    output: Output,
    dst: Option<wire::MacAddr>,
) {
    let (verdict, after) = bench.put(port, frame);
    assert_eq!(verdict, Verdict::Forward(output));
    let (old, new) = (read(frame), read(&after));
    assert_eq!((new.hops, new.src, new.dst, new.payload), (old.hops - 1, old.src, old.dst, old.payload));
    assert_eq!(new.src_mac, port_mac(output.port()));
    if let Some(dst) = dst {
        assert_eq!(new.dst_mac, dst);
    }
}

#[test]
fn pods_reach_pods_the_host_and_the_outside() {
    let mut bench = Bench::new();
    let outside = |hop: &str| Output::Neighbour { port: UPLINK, next_hop: ip(hop) };
    for (src, dst, output, dst_mac) in [
        ("10.244.1.2", "10.244.1.3", by(POD_B), Some(mac(POD_B))),
        ("fd00:1::2", "fd00:1::3", by(POD_B), Some(mac(POD_B))),
        ("10.244.1.2", "10.0.0.10", by(HOST), Some(mac(HOST))),
        ("fd00:1::2", "fd00:a::10", by(HOST), Some(mac(HOST))),
        // By a route to the host's endpoint.
        ("10.244.1.2", "100.64.1.1", by(HOST), Some(mac(HOST))),
        // A neighbour, and what is behind a next hop.
        ("10.244.1.2", "192.0.2.77", outside("192.0.2.77"), None),
        ("10.244.1.2", "198.51.100.1", outside("192.0.2.254"), None),
        ("fd00:1::2", "2001:db8:2::77", outside("2001:db8:2::77"), None),
        ("fd00:1::2", "2001:db8:100::1", outside("2001:db8:2::fe"), None),
    ] {
        for payload in [udp(1, 2, b"data"), udp(1, 2, &[7; 1400])] {
            forwards(&mut bench, POD_A, &from(POD_A, src, dst, UDP, &payload), output, dst_mac);
        }
        forwards(&mut bench, POD_A, &from(POD_A, src, dst, 132, &[9; 12]), output, dst_mac);
    }
}

#[test]
fn the_outside_and_the_host_reach_pods() {
    let mut bench = Bench::new();
    for (port, src) in
        [(UPLINK, "198.51.100.1"), (UPLINK, "8.8.8.8"), (HOST, "10.0.0.10"), (HOST, "203.0.113.9")]
    {
        forwards(
            &mut bench,
            port,
            &from(port, src, "10.244.1.2", UDP, &udp(1, 2, &[])),
            by(POD_A),
            Some(mac(POD_A)),
        );
    }
    for (port, src) in [(UPLINK, "2001:db8:100::1"), (HOST, "fd00:a::10"), (HOST, "2001:db8:100::1")] {
        forwards(
            &mut bench,
            port,
            &from(port, src, "fd00:1::2", UDP, &udp(1, 2, &[])),
            by(POD_A),
            Some(mac(POD_A)),
        );
    }
    // From one neighbour to another: an uplink may be left by where it was entered.
    let output = Output::Neighbour { port: UPLINK, next_hop: ip("192.0.2.254") };
    forwards(
        &mut bench,
        UPLINK,
        &from(UPLINK, "192.0.2.7", "198.51.100.1", UDP, &udp(1, 2, &[])),
        output,
        None,
    );
}

#[test]
fn networks_are_apart() {
    let mut bench = Bench::new();
    // Both pods have the same address; the other network has no route to pod B.
    let frame = from(OTHER, "10.244.1.2", "10.244.1.3", UDP, &udp(1, 2, &[]));
    let (verdict, _) = bench.put(OTHER, &frame);
    assert!(
        matches!(verdict, Verdict::Answer { fate: pipeline::Fate::Dropped(DropReason::NoRoute), output } if output == by(OTHER))
    );
    let frame = from(UPLINK, "198.51.100.1", "10.244.1.2", UDP, &udp(1, 2, &[]));
    assert_eq!(bench.put(UPLINK, &frame).0, Verdict::Forward(by(POD_A)));
}

#[test]
fn padding_is_cut_and_odd_packets_pass() {
    let mut bench = Bench::new();
    let plain = from(POD_A, "10.244.1.2", "10.244.1.3", UDP, &udp(1, 2, b"odd"));
    let mut padded = plain.clone();
    padded.resize(60, 0xee);
    let (verdict, after) = bench.put(POD_A, &padded);
    assert_eq!((verdict, after.len()), (Verdict::Forward(by(POD_B)), plain.len()));
    // Options (here router alert and a filler), fragments first and later, and IPv6 extension headers.
    let to_b = (by(POD_B), Some(mac(POD_B)));
    for frame in [
        edited_v4(&plain, 2, 0x4000, &[148, 4, 0, 0, 1, 1, 1, 0]),
        edited_v4(&from(POD_A, "10.244.1.2", "10.244.1.3", UDP, &udp(1, 2, &[1; 8])), 64, 0x2000, &[]),
        edited_v4(&from(POD_A, "10.244.1.2", "10.244.1.3", UDP, &[1; 5]), 64, 2, &[]),
    ] {
        forwards(&mut bench, POD_A, &frame, to_b.0, to_b.1);
    }
    let plain = from(POD_A, "fd00:1::2", "fd00:1::3", UDP, &udp(1, 2, &[1; 8]));
    for (kind, header) in [
        (0, [0, 0, 1, 4, 0, 0, 0, 0]),
        (60, [0, 0, 1, 4, 0, 0, 0, 0]),
        (43, [0, 0, 9, 0, 0, 0, 0, 0]),
        (44, [0, 0, 0, 1, 0, 0, 0, 7]),
        (44, [0, 0, 0, 16, 0, 0, 0, 7]),
    ] {
        let frame = extended_v6(&plain, kind, header);
        forwards(&mut bench, POD_A, &frame, to_b.0, to_b.1);
    }
}

#[test]
fn nowhere_in_silence() {
    let mut bench = Bench::new();
    let mut drops = |dst: &str, reason| {
        let src = if dst.contains(':') { "fd00:1::2" } else { "10.244.1.2" };
        bench.drops(POD_A, &from(POD_A, src, dst, UDP, &udp(1, 2, &[])), reason);
    };
    drops("203.0.113.1", DropReason::Blackhole);
    drops("2001:db8:dead::1", DropReason::Blackhole);
    drops("10.244.1.2", DropReason::SamePort);
    drops("fd00:1::2", DropReason::SamePort);
    for group in ["224.0.0.251", "239.1.2.3", "255.255.255.255", "ff02::fb", "ff05::2"] {
        drops(group, DropReason::Multicast);
    }
    // To all of a subnet that is connected (RFC 2644).
    for all in ["192.0.2.255", "192.0.2.0"] {
        drops(all, DropReason::Multicast);
    }
    for bad in ["127.0.0.1", "0.0.0.0", "0.1.2.3", "240.0.0.1", "::", "::1", "::ffff:10.0.0.1", "fe80::99"] {
        drops(bad, DropReason::DestinationInvalid);
    }
}

#[test]
fn ports_without_a_role_take_nothing() {
    let mut bench = Bench::new();
    let frame = packet(port_mac(IDLE), NEIGHBOUR, "10.244.1.2", "10.244.1.3", UDP, &udp(1, 2, &[]));
    bench.drops(IDLE, &frame, DropReason::PortIdle);
    bench.drops(tables::PortId(99), &frame, DropReason::PortIdle);
    bench.drops(tables::PortId(u16::MAX), &frame, DropReason::PortIdle);
}

#[test]
fn malformed_frames_are_dropped_by_name() {
    let mut bench = Bench::new();
    let good = from(POD_A, "10.244.1.2", "10.244.1.3", UDP, &udp(1, 2, &[]));
    bench.drops(POD_A, &good[..10], DropReason::FrameTooShort);
    bench.drops(POD_A, &good[..30], DropReason::Ipv4HeaderInvalid);
    bench.drops(POD_A, &good[..40], DropReason::Ipv4LengthInvalid);
    let mut bad = good.clone();
    bad[24] ^= 1;
    bench.drops(POD_A, &bad, DropReason::Ipv4ChecksumWrong);
    bad[12] = 0x81;
    bench.drops(POD_A, &bad, DropReason::UnsupportedEtherType);
}

#[test]
fn mtu_is_that_of_the_output_port() {
    let mut bench = Bench::new();
    let fits = from(POD_A, "10.244.1.2", "10.244.1.5", UDP, &udp(1, 2, &[0; 1280 - 28]));
    assert_eq!(bench.put(POD_A, &fits).0, Verdict::Forward(by(NARROW)));
    // Without DF no error is due, and none is sent.
    let large = from(POD_A, "10.244.1.2", "10.244.1.5", UDP, &udp(1, 2, &[0; 1281 - 28]));
    let large = edited_v4(&large, 64, 0, &[]);
    bench.drops(POD_A, &large, DropReason::PacketTooBig);
    // Where the output's owner cuts packets up, it goes on.
    let mut bench = Bench::with(RouterConfig { fragment: true, ..RouterConfig::default() });
    let put = bench.put_now(POD_A, &large, Offload::Done);
    assert_eq!(put.verdict, Verdict::Forward(by(NARROW)));
}

#[test]
fn large_segments_are_measured_by_their_pieces() {
    let mut bench = Bench::new();
    let gso = |kind, size, start, offset| Offload::Gso { kind, size, header_len: 0, start, offset };
    let frame = from(POD_A, "10.244.1.2", "10.244.1.5", TCP, &tcp(0x10, &[1; 20_000]));
    let put = bench.put_now(POD_A, &frame, gso(GsoKind::TcpV4, 1240, 34, 16));
    assert_eq!(put.verdict, Verdict::Forward(by(NARROW)));
    // The length of the headers is told right, whatever was said.
    let expected = Offload::Gso { kind: GsoKind::TcpV4, size: 1240, header_len: 54, start: 34, offset: 16 };
    assert_eq!(put.packet.offload, expected);
    let put = bench.put_now(POD_A, &frame, gso(GsoKind::TcpV4, 1241, 34, 16));
    let dropped = pipeline::Fate::Dropped(DropReason::PacketTooBig);
    assert_eq!(put.verdict, Verdict::Answer { fate: dropped, output: by(POD_A) });
    assert_eq!(put.packet.offload, Offload::Done);
    let frame = from(POD_A, "fd00:1::2", "fd00:1::5", TCP, &tcp(0x10, &[1; 20_000]));
    for (size, fits) in [(1220, true), (1221, false)] {
        let put = bench.put_now(POD_A, &frame, gso(GsoKind::TcpV6, size, 54, 16));
        assert_eq!(matches!(put.verdict, Verdict::Forward(_)), fits);
    }
    let frame = from(POD_A, "10.244.1.2", "10.244.1.5", UDP, &udp(1, 2, &[1; 20_000]));
    for (size, fits) in [(1252, true), (1253, false)] {
        let put = bench.put_now(POD_A, &frame, gso(GsoKind::Udp, size, 34, 6));
        assert_eq!(matches!(put.verdict, Verdict::Forward(_)), fits);
    }
}

#[test]
fn an_offload_fits_its_headers_or_the_packet_is_dropped() {
    let mut bench = Bench::new();
    let tcp4 = from(POD_A, "10.244.1.2", "10.244.1.3", TCP, &tcp(0x10, &[1; 100]));
    let udp6 = from(POD_A, "fd00:1::2", "fd00:1::3", UDP, &udp(1, 2, &[1; 100]));
    let gso = |kind, size, start, offset| Offload::Gso { kind, size, header_len: 54, start, offset };
    let partial = |start, offset| Offload::Partial { start, offset };
    for (frame, offload, fits) in [
        (&tcp4, partial(34, 16), true),
        (&tcp4, partial(60, 92), true),
        (&tcp4, partial(60, 93), false),
        (&tcp4, partial(33, 16), false),
        (&tcp4, partial(0, 0), false),
        (&tcp4, partial(u16::MAX, u16::MAX), false),
        (&tcp4, gso(GsoKind::TcpV4, 10, 34, 16), true),
        (&tcp4, gso(GsoKind::TcpV4, 0, 34, 16), false),
        (&tcp4, gso(GsoKind::TcpV4, 10, 35, 16), false),
        (&tcp4, gso(GsoKind::TcpV4, 10, 34, 6), false),
        (&tcp4, gso(GsoKind::TcpV6, 10, 34, 16), false),
        (&tcp4, gso(GsoKind::Udp, 10, 34, 6), false),
        (&udp6, gso(GsoKind::Udp, 10, 54, 6), true),
        (&udp6, gso(GsoKind::TcpV6, 10, 54, 16), false),
    ] {
        let expected =
            if fits { Verdict::Forward(by(POD_B)) } else { Verdict::Drop(DropReason::OffloadInvalid) };
        assert_eq!(bench.put_offloaded(POD_A, frame, offload).verdict, expected, "{offload:?}");
    }
    let later = edited_v4(&from(POD_A, "10.244.1.2", "10.244.1.3", UDP, &[1; 64]), 64, 2, &[]);
    let put = bench.put_offloaded(POD_A, &later, partial(34, 6));
    assert_eq!(put.verdict, Verdict::Drop(DropReason::OffloadInvalid));
}

#[test]
fn a_burst_of_all_kinds_keeps_its_order() {
    let bench = Bench::new();
    let mut router = router(RouterConfig::default());
    let to_b = from(POD_A, "10.244.1.2", "10.244.1.3", UDP, &udp(1, 2, &[]));
    let back = from(POD_B, "10.244.1.3", "10.244.1.2", UDP, &udp(1, 2, &[]));
    let mut packets: Vec<_> = (0..pipeline::BURST)
        .map(|n| {
            let (in_port, frame) = match n % 4 {
                0 => (POD_A, &to_b[..]),
                1 => (POD_B, &back[..]),
                2 => (POD_A, &to_b[..20]),
                _ => (UPLINK2, &to_b[..]),
            };
            let buffer = pipeline::VecBuffer::with_capacity(frame, 2048);
            pipeline::Packet { buffer, in_port, offload: Offload::Done }
        })
        .collect();
    let mut verdicts = arrayvec::ArrayVec::new();
    // What a former burst left there is gone.
    verdicts.push(Verdict::Drop(DropReason::Shutdown));
    router.run(&bench.tables, bench.now, &mut packets, &mut verdicts);
    for (n, verdict) in verdicts.iter().enumerate() {
        let expected = match n % 4 {
            0 => Verdict::Forward(by(POD_B)),
            1 => Verdict::Forward(by(POD_A)),
            2 => Verdict::Drop(DropReason::Ipv4HeaderInvalid),
            _ => Verdict::Drop(DropReason::NotForUs),
        };
        assert_eq!(*verdict, expected, "{n}");
    }
    assert_eq!(verdicts.len(), pipeline::BURST);
    router.run(&bench.tables, bench.now, &mut [], &mut verdicts);
    assert!(verdicts.is_empty());
}
