//! ICMP errors: what is told, to whom, from which address, and when nothing is.

use std::net::IpAddr;

use pipeline::{Buffer, DropReason, Fate, Offload, Output, Packet, RouterConfig, Tick, VecBuffer, Verdict};
use tables::PortId;

use crate::body::{HOST, NARROW, POD_A, POD_B, UPLINK, mac, port_mac};
use crate::frames::*;

/// What an error says, once its checksums are found right.
struct Told {
    from: IpAddr,
    kind: u8,
    code: u8,
    rest: u32,
    quoted: Vec<u8>,
}

/// Dropped for `reason`, and an error goes to the frame's source by `output`.
#[track_caller]
fn told(bench: &mut Bench, port: PortId, frame: &[u8], reason: DropReason, output: Output) -> Told {
    let (verdict, error) = bench.put(port, frame);
    assert_eq!(verdict, Verdict::Answer { fate: Fate::Dropped(reason), output });
    judge(frame, &error, output)
}

#[track_caller]
fn judge(frame: &[u8], error: &[u8], output: Output) -> Told {
    let (about, read) = (read(frame), read(error));
    assert_eq!((read.dst, read.hops, read.src_mac), (about.src, 64, port_mac(output.port())));
    let (kind, code, rest) = read.icmp();
    let (front, quoted) = rest.split_at(4);
    // It quotes the packet's beginning, as much as fits.
    let most = if read.src.is_ipv4() { 576 - 28 } else { 1280 - 48 };
    assert_eq!(quoted.len(), most.min(frame.len() - 14));
    assert_eq!(quoted, &frame[14..14 + quoted.len()]);
    let rest = u32::from_be_bytes(front.try_into().unwrap());
    Told { from: read.src, kind, code, rest, quoted: quoted.to_vec() }
}

impl Told {
    fn what(&self) -> (u8, u8, u32) {
        (self.kind, self.code, self.rest)
    }
}

fn datagram(port: PortId, src: &str, dst: &str, len: usize) -> Vec<u8> {
    from(port, src, dst, UDP, &udp(1, 9, &vec![5; len]))
}

#[test]
fn each_reason_has_its_message() {
    let mut bench = Bench::new();
    let (a4, a6) = ("10.244.1.2", "fd00:1::2");
    for len in [0, 3, 500, 1300] {
        for (src, dst, reason, v4, v6) in [
            (a4, "8.8.8.8", DropReason::NoRoute, (3, 0, 0), (0, 0, 0)),
            (a6, "2001:4860::8888", DropReason::NoRoute, (0, 0, 0), (1, 0, 0)),
            (a4, "10.244.1.77", DropReason::Unreachable, (3, 1, 0), (0, 0, 0)),
            (a6, "fd00:1::77", DropReason::Unreachable, (0, 0, 0), (1, 3, 0)),
            (a4, "169.254.1.1", DropReason::NoService, (3, 3, 0), (0, 0, 0)),
            (a6, "fe80::1", DropReason::NoService, (0, 0, 0), (1, 4, 0)),
        ] {
            let told = told(&mut bench, POD_A, &datagram(POD_A, src, dst, len), reason, by(POD_A));
            assert_eq!(told.what(), if src == a4 { v4 } else { v6 }, "{dst}");
        }
        for (src, dst, expected) in [(a4, "10.244.1.3", (11, 0, 0)), (a6, "fd00:1::3", (3, 0, 0))] {
            for hops in [0, 1] {
                let frame = with_hop_limit(datagram(POD_A, src, dst, len), hops);
                let told = told(&mut bench, POD_A, &frame, DropReason::TtlExceeded, by(POD_A));
                assert_eq!(told.what(), expected);
            }
        }
    }
    for (src, dst, expected) in [(a4, "10.244.1.5", (3, 4, 1280)), (a6, "fd00:1::5", (2, 0, 1280))] {
        let frame = datagram(POD_A, src, dst, 1300);
        assert_eq!(told(&mut bench, POD_A, &frame, DropReason::PacketTooBig, by(POD_A)).what(), expected);
    }
}

#[test]
fn the_quote_shows_options_and_extension_headers() {
    let mut bench = Bench::new();
    let frame = edited_v4(&datagram(POD_A, "10.244.1.2", "8.8.8.8", 30), 64, 0, &[1; 40]);
    let quoted = told(&mut bench, POD_A, &frame, DropReason::NoRoute, by(POD_A)).quoted;
    assert_eq!(quoted, frame[14..]);
    let frame =
        extended_v6(&datagram(POD_A, "fd00:1::2", "2001:4860::8888", 30), 60, [0, 0, 1, 4, 0, 0, 0, 0]);
    let quoted = told(&mut bench, POD_A, &frame, DropReason::NoRoute, by(POD_A)).quoted;
    assert_eq!(quoted, frame[14..]);
    // A first fragment shows whose it is.
    let frame = edited_v4(&datagram(POD_A, "10.244.1.2", "8.8.8.8", 8), 64, 0x2000, &[]);
    told(&mut bench, POD_A, &frame, DropReason::NoRoute, by(POD_A));
}

#[test]
fn errors_go_where_the_source_is_and_come_from_the_port_it_used() {
    let mut bench = Bench::new();
    let neighbour = |hop: &str| Output::Neighbour { port: UPLINK, next_hop: ip(hop) };
    let reason = DropReason::Unreachable;
    for (src, dst, output, own) in [
        ("192.0.2.9", "10.244.1.77", neighbour("192.0.2.9"), "192.0.2.1"),
        ("198.51.100.9", "10.244.1.77", neighbour("192.0.2.254"), "192.0.2.1"),
        ("2001:db8:100::9", "fd00:1::77", neighbour("2001:db8:2::fe"), "2001:db8:2::1"),
    ] {
        let told = told(&mut bench, UPLINK, &datagram(UPLINK, src, dst, 10), reason, output);
        assert_eq!(told.from, ip(own));
    }
    // Endpoints have no interface of ours on their link; one of its network's speaks.
    for (port, src, dst, own) in [
        (POD_A, "10.244.1.2", "10.244.1.77", "192.0.2.1"),
        (POD_A, "fd00:1::2", "fd00:1::77", "2001:db8:2::1"),
        (HOST, "10.0.0.10", "10.244.1.77", "192.0.2.1"),
    ] {
        let told = told(&mut bench, port, &datagram(port, src, dst, 10), reason, by(port));
        assert_eq!(told.from, ip(own));
    }
    // Where there is none, the gateway does; and about what was sent to us, the address that it was sent to.
    let mut bench = Bench::new();
    for port in [UPLINK, crate::body::UPLINK2] {
        let mut interface = bench.tables.interface(port).unwrap().clone();
        interface.addresses.clear();
        bench.tables.set_interface(interface).unwrap();
    }
    for (src, dst, own) in
        [("10.244.1.2", "10.244.1.77", "169.254.1.1"), ("fd00:1::2", "fd00:1::77", "fe80::1")]
    {
        let frame = datagram(POD_A, src, dst, 10);
        let (verdict, error) = bench.put_now(POD_A, &frame, Offload::Done).into();
        assert_eq!(verdict, Verdict::Answer { fate: Fate::Dropped(reason), output: by(POD_A) });
        assert_eq!(judge(&frame, &error, by(POD_A)).from, ip(own));
    }
    // To whom the node's kernel forwards for, that is the node.
    for (src, dst, output, own) in [
        ("10.0.0.10", "10.244.1.77", by(HOST), "169.254.1.1"),
        ("198.51.100.9", "10.244.1.77", neighbour("192.0.2.254"), "10.0.0.10"),
        ("2001:db8:100::9", "fd00:1::77", neighbour("2001:db8:2::fe"), "fd00:a::10"),
    ] {
        let frame = datagram(HOST, src, dst, 10);
        let (verdict, error) = bench.put_now(HOST, &frame, Offload::Done).into();
        assert_eq!(verdict, Verdict::Answer { fate: Fate::Dropped(reason), output });
        assert_eq!(judge(&frame, &error, output).from, ip(own));
    }
    let mut bench = Bench::new();
    for (src, dst) in [("10.244.1.2", "172.16.0.1"), ("fe80::77", "fe80::1"), ("fd00:1::2", "2001:db8:2::1")]
    {
        let told = told(&mut bench, POD_A, &datagram(POD_A, src, dst, 10), DropReason::NoService, by(POD_A));
        assert_eq!(told.from, ip(dst));
    }
    // What the host says in the narrow pod's name is that pod's to hear.
    told(&mut bench, HOST, &datagram(HOST, "10.244.1.5", "10.244.1.77", 10), reason, by(NARROW));
    // A source that no route leads to is not told.
    bench.drops(UPLINK, &datagram(UPLINK, "9.9.9.9", "10.244.1.77", 10), reason);
    bench.drops(UPLINK, &datagram(UPLINK, "192.0.2.1", "10.244.1.77", 10), reason);
}

#[test]
fn errors_are_never_about_these() {
    let mut bench = Bench::new();
    let to = "10.244.1.77";
    let quiet = |bench: &mut Bench, frame: &[u8]| bench.drops(POD_A, frame, DropReason::Unreachable);
    // ICMP errors, and redirects; but pings and their replies are like any packet.
    for kind in [3, 4, 5, 11, 12] {
        quiet(&mut bench, &from(POD_A, "10.244.1.2", to, ICMP, &icmp4(kind, 0, &[0; 36])));
    }
    for kind in [0, 8, 13] {
        let frame = from(POD_A, "10.244.1.2", to, ICMP, &icmp4(kind, 0, &[0; 36]));
        told(&mut bench, POD_A, &frame, DropReason::Unreachable, by(POD_A));
    }
    let message = |kind| icmp6("fd00:1::2", "fd00:1::77", kind, 0, &[0; 52]);
    for kind in [1, 2, 3, 4, 100, 127, 137] {
        quiet(&mut bench, &from(POD_A, "fd00:1::2", "fd00:1::77", ICMPV6, &message(kind)));
    }
    for kind in [128, 129] {
        let frame = from(POD_A, "fd00:1::2", "fd00:1::77", ICMPV6, &message(kind));
        told(&mut bench, POD_A, &frame, DropReason::Unreachable, by(POD_A));
    }
    // Later fragments, which follow a first one that was told.
    let first = edited_v4(&from(POD_A, "10.244.1.2", to, UDP, &udp(1, 2, &[1; 8])), 64, 0x2000, &[]);
    told(&mut bench, POD_A, &first, DropReason::Unreachable, by(POD_A));
    quiet(&mut bench, &edited_v4(&from(POD_A, "10.244.1.2", to, UDP, &[1; 16]), 64, 2, &[]));
    let frame = from(POD_A, "fd00:1::2", "fd00:1::77", UDP, &udp(1, 2, &[1; 8]));
    let first = extended_v6(&frame, 44, [0, 0, 0, 1, 0, 0, 0, 7]);
    told(&mut bench, POD_A, &first, DropReason::Unreachable, by(POD_A));
    quiet(&mut bench, &extended_v6(&frame, 44, [0, 0, 0, 16, 0, 0, 0, 7]));
    // Time exceeded obeys the same.
    let frame = from(POD_A, "10.244.1.2", "10.244.1.3", ICMP, &icmp4(11, 0, &[0; 36]));
    bench.drops(POD_A, &with_hop_limit(frame, 1), DropReason::TtlExceeded);
}

#[test]
fn errors_are_limited_by_port_and_by_worker() {
    let mut bench = Bench::new();
    bench.router = router(RouterConfig {
        icmp_errors_per_second: 100,
        icmp_error_burst: 5,
        port_icmp_errors_per_second: 10,
        port_icmp_error_burst: 3,
        ..RouterConfig::default()
    });
    let mut sent = |port, src, now| {
        bench.now = now;
        let frame = datagram(port, src, "10.244.1.77", 10);
        match bench.put_now(port, &frame, Offload::Done).verdict {
            Verdict::Answer { .. } => (true, bench.router.icmp_errors_suppressed()),
            Verdict::Drop(DropReason::Unreachable) => (false, bench.router.icmp_errors_suppressed()),
            other => panic!("{other:?}"),
        }
    };
    let (a, b, c) = ("10.244.1.2", "10.244.1.3", "10.244.1.5");
    for n in 0..3 {
        assert_eq!(sent(POD_A, a, Tick(n)), (true, 0));
    }
    // Pod A has had its share; pod B has some left, until the worker has none.
    assert_eq!(sent(POD_A, a, Tick(3)), (false, 1));
    assert_eq!(sent(POD_B, b, Tick(4)), (true, 1));
    assert_eq!(sent(POD_B, b, Tick(5)), (true, 1));
    assert_eq!(sent(NARROW, c, Tick(6)), (false, 2));
    assert_eq!(sent(NARROW, c, Tick(6).after_ms(10)), (true, 2));
    assert_eq!(sent(POD_A, a, Tick(0).after_ms(99)), (false, 3));
    assert_eq!(sent(POD_A, a, Tick(0).after_ms(101)), (true, 3));
}

#[test]
fn what_waited_in_vain_is_told_too() {
    for (src, dst, what) in [
        ("10.244.1.2", "192.0.2.77", (3, 1, 0)),
        ("10.244.1.2", "198.51.100.1", (3, 1, 0)),
        ("fd00:1::2", "2001:db8:2::77", (1, 3, 0)),
    ] {
        let mut bench = Bench::new();
        let put = bench.put_now(POD_A, &datagram(POD_A, src, dst, 700), Offload::Done);
        assert!(matches!(put.verdict, Verdict::Forward(Output::Neighbour { port: UPLINK, .. })));
        let mut packet = put.packet;
        let sent = packet.buffer.head().to_vec();
        let fate = Fate::Dropped(DropReason::NeighbourUnreachable);
        let verdict = bench.router.unreachable(&bench.tables, bench.now, &mut packet);
        assert_eq!(verdict, Verdict::Answer { fate, output: by(POD_A) });
        let told = judge(&sent, packet.buffer.head(), by(POD_A));
        assert_eq!(told.what(), what);
        assert_eq!(read(packet.buffer.head()).dst_mac, mac(POD_A));
        // The error itself, had it waited, would go unmourned.
        let verdict = bench.router.unreachable(&bench.tables, bench.now, &mut packet);
        assert_eq!(verdict, Verdict::Drop(DropReason::NeighbourUnreachable));
    }
    // Of a port that is gone meanwhile, or bytes that are no packet.
    let mut bench = Bench::new();
    for (in_port, frame) in
        [(PortId(99), datagram(POD_A, "10.244.1.2", "192.0.2.77", 1)), (POD_A, vec![0; 5])]
    {
        let mut packet =
            Packet { buffer: VecBuffer::with_capacity(&frame, 2048), in_port, offload: Offload::Done };
        let verdict = bench.router.unreachable(&bench.tables, bench.now, &mut packet);
        assert_eq!(verdict, Verdict::Drop(DropReason::NeighbourUnreachable));
    }
}

#[test]
fn a_buffer_without_room_gets_no_error() {
    let mut bench = Bench::new();
    let frame = datagram(POD_A, "10.244.1.2", "10.244.1.77", 10);
    let mut packet = [Packet {
        buffer: VecBuffer::with_capacity(&frame, frame.len()),
        in_port: POD_A,
        offload: Offload::Done,
    }];
    let mut verdicts = arrayvec::ArrayVec::new();
    bench.router.run(&bench.tables, bench.now, &mut packet, &mut verdicts);
    assert_eq!(verdicts[..], [Verdict::Drop(DropReason::Unreachable)]);
}
