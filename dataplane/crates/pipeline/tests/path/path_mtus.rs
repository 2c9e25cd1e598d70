//! A way to a tunnel's end that carries less than this node's link: who is believed about it, who is told, and for how long.

use std::net::IpAddr;

use pipeline::{
    Adjacencies, ConsumeReason, DropReason, Fate, GsoKind, Offload, Outcome, Output, Packet, RouterConfig,
    Tick, VecBuffer, Verdict, tunnel,
};
use tables::{PortEntry, RouteTarget};
use wire::MacAddr;

use crate::body::{OVER, POD_A, TUNNEL, UPLINK, UPLINK2};
use crate::frames::*;

/// Our end's addresses.
const OURS: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];
/// Routers on the way.
const ROUTERS: [&str; 2] = ["203.0.113.77", "2001:db8:77::1"];

const CONSUMED: Verdict = Verdict::Consume(ConsumeReason::PathMtu);
const ON: Verdict = Verdict::Forward(Output::Port(TUNNEL));

fn family<T: Copy>(of: &str, [v4, v6]: [T; 2]) -> T {
    if ip(of).is_ipv4() { v4 } else { v6 }
}

/// A datagram of ours, as much as routers quote, and what may be wrong with it.
#[derive(Clone, Copy)]
struct Sent<'a> {
    src: &'a str,
    peer: &'a str,
    ports: (u16, u16),
    protocol: u8,
    vni: [u8; 4],
    len: usize,
}

impl<'a> Sent<'a> {
    fn to(peer: &'a str) -> Self {
        let [_, a, b, c] = OVER.vni.to_be_bytes();
        let vni = [a, b, c, 0];
        Self { src: family(peer, OURS), peer, ports: (50_123, OVER.udp_port), protocol: UDP, vni, len: 200 }
    }

    fn quoted(self) -> Vec<u8> {
        let payload = [&[8, 0, 0, 0][..], &self.vni, &[7; 1_400]].concat();
        let datagram = udp(self.ports.0, self.ports.1, &payload);
        packet(MacAddr::default(), MacAddr::default(), self.src, self.peer, self.protocol, &datagram)[14..]
            [..self.len]
            .to_vec()
    }
}

/// What a router says of a datagram.
fn too_big(sent: Sent<'_>, mtu: u32) -> Vec<u8> {
    let (router, own) = (family(sent.peer, ROUTERS), family(sent.peer, OURS));
    let data = [&mtu.to_be_bytes()[..], &sent.quoted()].concat();
    match ip(sent.peer) {
        IpAddr::V4(_) => from(UPLINK, router, own, ICMP, &icmp4(3, 4, &data)),
        IpAddr::V6(_) => from(UPLINK, router, own, ICMPV6, &icmp6(router, own, 2, 0, &data)),
    }
}

/// An inner packet of so many bytes.
fn inner(dst: &str, len: usize) -> Vec<u8> {
    let (src, header) = if ip(dst).is_ipv4() { ("10.244.1.2", 20) } else { ("fd00:1::2", 40) };
    from(POD_A, src, dst, UDP, &udp(7, 9, &vec![5; len - header - 8]))
}

/// The pod's packet of so many bytes goes on, one more does not, and the pod is told.
#[track_caller]
fn carries(bench: &mut Bench, dst: &str, mtu: u16) {
    // Twice: what is decided anew, and what does as the last one.
    for _ in 0..2 {
        assert_eq!(bench.put(POD_A, &inner(dst, mtu.into())).0, ON);
    }
    let (verdict, answer) = bench.put(POD_A, &inner(dst, usize::from(mtu) + 1));
    let fate = Fate::Dropped(DropReason::PacketTooBig);
    assert_eq!(verdict, Verdict::Answer { fate, output: by(POD_A) });
    let answer = read(&answer);
    let (kind, code, rest) = answer.icmp();
    assert_eq!((kind, code), if ip(dst).is_ipv4() { (3, 4) } else { (2, 0) });
    assert_eq!(rest[..4], u32::from(mtu).to_be_bytes());
}

/// Destinations behind ends of both families, with what is in front of an inner packet.
const WAYS: [(&str, &str, u16); 4] = [
    ("10.244.2.5", "192.0.2.20", 50),
    ("fd00:2::5", "192.0.2.20", 50),
    ("10.244.3.5", "2001:db8:2::30", 70),
    ("fd00:3::5", "2001:db8:2::30", 70),
];

#[test]
fn a_narrow_way_is_told_to_the_pod_and_flows_follow_that_are_known() {
    for (dst, peer, over) in WAYS {
        let mut bench = Bench::new();
        carries(&mut bench, dst, 1_430);
        assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), 1_400)).0, CONSUMED);
        let mtu = 1_400 - over;
        let before = bench.router.flow_counts();
        assert_eq!(bench.put(POD_A, &inner(dst, mtu.into())).0, ON);
        // What fits goes the short way, as before.
        let after = bench.router.flow_counts();
        assert_eq!((after.replayed, after.decided), (before.replayed + 1, before.decided));
        carries(&mut bench, dst, mtu);
        // A new flow, and a node that is reached another way.
        let of_another = |len: u16| {
            let mut frame = inner(dst, len.into());
            let port = if frame[12] == 8 { 34 } else { 54 };
            frame[port] ^= 0x40;
            frame
        };
        assert_eq!(bench.put(POD_A, &of_another(mtu)).0, ON);
        assert!(matches!(bench.put(POD_A, &of_another(mtu + 1)).0, Verdict::Answer { .. }));
        carries(&mut bench, "10.244.4.5", 1_430);
        // Narrower, and said by a router that quotes as little as it must.
        let less = Sent { len: family(peer, [28, 48]), ..Sent::to(peer) };
        assert_eq!(bench.put(UPLINK, &too_big(less, 1_370)).0, CONSUMED);
        carries(&mut bench, dst, 1_370 - over);
    }
}

#[test]
fn it_is_learnt_before_anything_was_sent_by_this_process() {
    let mut bench = Bench::new();
    assert_eq!(bench.put(UPLINK, &too_big(Sent::to("192.0.2.20"), 1_400)).0, CONSUMED);
    carries(&mut bench, "10.244.2.5", 1_350);
}

#[test]
fn nothing_is_raised_by_it_and_nothing_goes_below_what_ipv6_needs() {
    for (dst, peer, over) in WAYS {
        let mut bench = Bench::new();
        // As much as is used, and more: understood, and nothing to do.
        for mtu in [1_430 + u32::from(over), 1_500, 9_000, 65_535] {
            assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), mtu)).0, CONSUMED);
        }
        carries(&mut bench, dst, 1_430);
        assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), 1_380)).0, CONSUMED);
        assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), 1_400)).0, CONSUMED);
        carries(&mut bench, dst, 1_380 - over);
        if ip(peer).is_ipv6() {
            // No link of IPv6 has less (RFC 8201, section 4).
            for mtu in [0, 68, 1_279] {
                bench.drops(UPLINK, &too_big(Sent::to(peer), mtu), DropReason::NoService);
            }
            assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), u32::MAX)).0, CONSUMED);
            carries(&mut bench, dst, 1_380 - over);
        }
        let least = family(peer, [0, 1_280]);
        assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), least)).0, CONSUMED);
        carries(&mut bench, dst, 1_280);
    }
    for mtu in [1, 68, 576, 1_329] {
        let mut bench = Bench::new();
        assert_eq!(bench.put(UPLINK, &too_big(Sent::to("192.0.2.20"), mtu)).0, CONSUMED);
        carries(&mut bench, "10.244.2.5", 1_280);
    }
}

#[test]
fn who_did_not_see_a_datagram_of_ours_is_not_believed() {
    for peer in ["192.0.2.20", "2001:db8:2::30"] {
        let dst = family(peer, ["10.244.2.5", "10.244.3.5"]);
        let mut bench = Bench::new();
        carries(&mut bench, dst, 1_430);
        let right = Sent::to(peer);
        for forged in [
            Sent { peer: family(peer, ["192.0.2.21", "2001:db8:2::31"]), ..right },
            Sent { src: family(peer, ["192.0.2.9", "2001:db8:2::9"]), ..right },
            // Ours, but not the one that it is said to.
            Sent { src: family(peer, ["172.16.0.1", "fe80::8"]), ..right },
            Sent { ports: (50_123, 4_790), ..right },
            Sent { ports: (49_151, OVER.udp_port), ..right },
            Sent { ports: (OVER.udp_port, 50_123), ..right },
            Sent { protocol: TCP, ..right },
            Sent { vni: [0, 0x12, 0x35, 0], ..right },
            Sent { len: family(peer, [27, 47]), ..right },
        ] {
            bench.drops(UPLINK, &too_big(forged, 1_400), DropReason::NoService);
        }
        let right = too_big(right, 1_400);
        let mut damaged = right.clone();
        *damaged.last_mut().unwrap() ^= 1;
        bench.drops(UPLINK, &damaged, DropReason::IcmpChecksumWrong);
        // Other errors, of which nothing follows for its length.
        let icmp = family(peer, [34, 54]);
        for (kind, code) in family(peer, [[(3, 1), (3, 3), (11, 0)], [(1, 4), (3, 0), (4, 0)]]) {
            let mut other = right.clone();
            other[icmp] = kind;
            other[icmp + 1] = code;
            let (src, own) = (family(peer, ROUTERS), family(peer, OURS));
            let told = if ip(peer).is_ipv4() {
                from(UPLINK, src, own, ICMP, &icmp4(kind, code, &other[icmp + 4..]))
            } else {
                from(UPLINK, src, own, ICMPV6, &icmp6(src, own, kind, code, &other[icmp + 4..]))
            };
            bench.drops(UPLINK, &told, DropReason::NoService);
        }
        carries(&mut bench, dst, 1_430);
    }
    let mut bench = Bench::new();
    // By a link that is not the tunnel's, and out of the tunnel itself.
    let right = too_big(Sent::to("192.0.2.20"), 1_400);
    let by_another = [&from(UPLINK2, ROUTERS[0], OURS[0], ICMP, &right[34..])[..]].concat();
    bench.drops(UPLINK2, &by_another, DropReason::NoService);
    let inside = from(TUNNEL, "10.244.2.5", OURS[0], ICMP, &right[34..]);
    bench.drops(TUNNEL, &inside, DropReason::NoService);
    // To another link's address, as if that had sent it; and to one of ours, when another one of ours sent it.
    let by_its_other = too_big(Sent { src: "172.16.0.1", ..Sent::to("192.0.2.20") }, 1_400);
    let to_another = from(UPLINK, ROUTERS[0], "172.16.0.1", ICMP, &by_its_other[34..]);
    bench.drops(UPLINK, &to_another, DropReason::NoService);
    bench.change(|tables| {
        let mut interface = tables.interface(UPLINK).unwrap().clone();
        interface.addresses.push((ip("192.0.2.3"), 24));
        tables.set_interface(interface).unwrap();
    });
    let by_its_other = too_big(Sent { src: "192.0.2.3", ..Sent::to("192.0.2.20") }, 1_400);
    bench.drops(UPLINK, &by_its_other, DropReason::NoService);
    // In pieces, nobody knows what it says.
    bench.drops(UPLINK, &edited_v4(&right, 64, 0x2000, &[]), DropReason::FragmentToRouter);
    // From a pod, with whatever addresses.
    let from_pod = from(POD_A, "10.244.1.2", OURS[0], ICMP, &right[34..]);
    bench.drops(POD_A, &from_pod, DropReason::NoService);
    carries(&mut bench, "10.244.2.5", 1_430);
}

#[test]
fn what_this_machine_left_to_finish_is_believed_as_what_is_finished() {
    let right = too_big(Sent::to("192.0.2.20"), 1_400);
    let mut unfinished = right.clone();
    unfinished[36..38].copy_from_slice(&[0, 0]);
    for (offload, verdict) in [
        (Offload::Partial { start: 34, offset: 2 }, CONSUMED),
        (Offload::Partial { start: 34, offset: 6 }, Verdict::Drop(DropReason::IcmpChecksumWrong)),
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.put_offloaded(UPLINK, &unfinished, offload).verdict, verdict);
        carries(&mut bench, "10.244.2.5", if verdict == CONSUMED { 1_350 } else { 1_430 });
    }
}

#[test]
fn it_is_forgotten_after_ten_minutes_and_no_look_makes_it_last() {
    for (dst, peer, over) in WAYS {
        let mut bench = Bench::new();
        carries(&mut bench, dst, 1_430);
        assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), 1_400)).0, CONSUMED);
        let told = bench.now;
        for minutes in [1, 4, 9] {
            bench.now = told.after_ms(minutes * 60_000);
            carries(&mut bench, dst, 1_400 - over);
            // The same again is no news.
            assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), 1_400)).0, CONSUMED);
        }
        bench.now = told.after_ms(602_000);
        // Whatever has been decided since with what was known: what is longer is decided anew, and all that follows does as it.
        let before = bench.router.flow_counts();
        assert_eq!(bench.put(POD_A, &inner(dst, 1_430)).0, ON);
        assert_eq!(bench.put(POD_A, &inner(dst, 1_430)).0, ON);
        let after = bench.router.flow_counts();
        assert_eq!((after.replayed - before.replayed, after.decided - before.decided), (1, 1));
        carries(&mut bench, dst, 1_430);
        // And it may be told anew.
        assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), 1_390)).0, CONSUMED);
        carries(&mut bench, dst, 1_390 - over);
    }
}

#[test]
fn the_ports_own_mtu_holds_where_it_is_less_and_does_not_undo_what_is_known() {
    let set = |bench: &mut Bench, mtu| {
        bench.change(|tables| {
            let port = tables.port(TUNNEL).unwrap().clone();
            tables.set_port(PortEntry { mtu, ..port }).unwrap();
        });
    };
    let mut bench = Bench::new();
    carries(&mut bench, "10.244.2.5", 1_430);
    assert_eq!(bench.put(UPLINK, &too_big(Sent::to("192.0.2.20"), 1_400)).0, CONSUMED);
    for (own, mtu) in [(1_420, 1_350), (1_300, 1_300), (1_430, 1_350), (1_350, 1_350), (1_440, 1_350)] {
        set(&mut bench, own);
        carries(&mut bench, "10.244.2.5", mtu);
        carries(&mut bench, "10.244.3.5", own);
    }
    // What is more than the port's own is no news.
    set(&mut bench, 1_300);
    assert_eq!(bench.put(UPLINK, &too_big(Sent::to("2001:db8:2::30"), 1_400)).0, CONSUMED);
    set(&mut bench, 1_430);
    carries(&mut bench, "10.244.3.5", 1_430);
    // Other changes decide flows anew, and leave it.
    bench.change(|tables| {
        let through = RouteTarget::NextHop { port: TUNNEL, addr: ip("192.0.2.20"), inside: true };
        tables.set_route(tables::NetworkId(0), "10.244.2.0/25".parse().unwrap(), through).unwrap();
    });
    carries(&mut bench, "10.244.2.5", 1_350);
}

#[test]
fn segments_are_held_to_it_and_what_may_be_fragmented_goes_on() {
    let mut bench = Bench::with(RouterConfig { fragment: true, ..RouterConfig::default() });
    let large = |dst, size| {
        let (kind, l4) = if ip(dst).is_ipv4() { (GsoKind::TcpV4, 34) } else { (GsoKind::TcpV6, 54) };
        let src = if ip(dst).is_ipv4() { "10.244.1.2" } else { "fd00:1::2" };
        let frame = from(POD_A, src, dst, TCP, &tcp(0x10, &[1; 1_900]));
        let header_len = l4 + 20;
        (frame, Offload::Gso { kind, size: size - (header_len - 14), header_len, start: l4, offset: 16 })
    };
    let put = |bench: &mut Bench, dst, size| {
        let (frame, offload) = large(dst, size);
        bench.put_offloaded(POD_A, &frame, offload).verdict
    };
    for (dst, peer, over) in WAYS {
        let mut bench = Bench::new();
        assert_eq!([put(&mut bench, dst, 1_430), put(&mut bench, dst, 1_430)], [ON; 2]);
        assert_eq!(bench.put(UPLINK, &too_big(Sent::to(peer), 1_400)).0, CONSUMED);
        let mtu = 1_400 - over;
        assert_eq!([put(&mut bench, dst, mtu), put(&mut bench, dst, mtu)], [ON; 2]);
        let told = put(&mut bench, dst, mtu + 1);
        let fate = Fate::Dropped(DropReason::PacketTooBig);
        assert_eq!(told, Verdict::Answer { fate, output: by(POD_A) });
    }
    // Who does not forbid it has it cut by the tunnel's own side, which asks how long pieces may be.
    let may_be_cut = edited_v4(&inner("10.244.2.5", 1_430), 64, 0, &[]);
    let narrow = |bench: &Bench, frame: &[u8]| {
        tunnel::narrowed(&bench.tables, &bench.adjacencies, &OVER, frame, bench.now)
    };
    let (verdict, frame) = bench.put(POD_A, &may_be_cut);
    assert_eq!((verdict, narrow(&bench, &frame)), (ON, None));
    assert!(!bench.adjacencies.any_path_mtu(bench.now));
    assert_eq!(bench.put(UPLINK, &too_big(Sent::to("192.0.2.20"), 1_400)).0, CONSUMED);
    let (verdict, frame) = bench.put(POD_A, &may_be_cut);
    assert_eq!((verdict, narrow(&bench, &frame)), (ON, Some(1_350)));
    assert!(bench.adjacencies.any_path_mtu(bench.now));
    let (_, elsewhere) = bench.put(POD_A, &inner("10.244.4.5", 1_430));
    assert_eq!(narrow(&bench, &elsewhere), None);
    for other in [&frame[..5], &may_be_cut] {
        assert_eq!(narrow(&bench, other), None);
    }
    bench.now = bench.now.after_ms(602_000);
    assert_eq!(narrow(&bench, &frame), None);
}

#[test]
fn the_routers_own_answers_are_held_to_it() {
    let mut bench = Bench::new();
    let asked = |data: usize| {
        let mut frame = ping(TUNNEL, "10.244.2.5", "192.0.2.1", &vec![1; data]);
        frame[..6].copy_from_slice(&crate::body::port_mac(TUNNEL).0);
        frame
    };
    // 20 of IP, 8 of ICMP.
    assert!(matches!(bench.put(TUNNEL, &asked(1_402)).0, Verdict::Answer { .. }));
    assert_eq!(bench.put(UPLINK, &too_big(Sent::to("192.0.2.20"), 1_400)).0, CONSUMED);
    assert!(matches!(bench.put(TUNNEL, &asked(1_322)).0, Verdict::Answer { .. }));
    bench.drops(TUNNEL, &asked(1_323), DropReason::PacketTooBig);
}

#[test]
fn to_ask_what_would_become_of_a_message_is_not_to_hear_it() {
    let mut bench = Bench::new();
    let frame = too_big(Sent::to("192.0.2.20"), 1_400);
    let buffer = VecBuffer::with_capacity(&frame, 2_048);
    let mut packet = Packet { buffer, in_port: UPLINK, offload: Offload::Done };
    let steps = pipeline::trace_packet(&bench.ground(), &mut packet, Vec::new());
    assert_eq!(steps.last().unwrap().outcome, Outcome::Verdict { verdict: CONSUMED, port: None });
    carries(&mut bench, "10.244.2.5", 1_430);
}

#[test]
fn lists_tell_of_it_as_long_as_it_holds() {
    let mut bench = Bench::new();
    let told = |bench: &Bench, peer, now: Tick| {
        let all: &Adjacencies = &bench.adjacencies;
        all.path_mtu(bench.tables.port(TUNNEL).unwrap(), ip(peer), now)
    };
    assert_eq!(told(&bench, "192.0.2.20", bench.now), None);
    assert_eq!(bench.put(UPLINK, &too_big(Sent::to("192.0.2.20"), 1_400)).0, CONSUMED);
    assert_eq!(told(&bench, "192.0.2.20", bench.now), Some(1_350));
    for other in ["2001:db8:2::20", "2001:db8:2::30", "198.51.100.40", "192.0.2.99"] {
        assert_eq!(told(&bench, other, bench.now), None);
    }
    assert_eq!(told(&bench, "192.0.2.20", bench.now.after_ms(602_000)), None);
}
