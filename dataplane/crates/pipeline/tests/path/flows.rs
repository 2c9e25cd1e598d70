//! Connections: what is chosen for the first packet, and done with all that follow, either way.

use std::net::{IpAddr, SocketAddr};

use pipeline::{Buffer as _, DropReason, Fate, FlowCounts, GsoKind, Offload, Output, Verdict};
use proptest::prelude::*;
use smoltcp::wire::{IpAddress, TcpPacket, UdpPacket};
use tables::{
    Backend, BackendState, Endpoint, EndpointId, EndpointKind, Frontend, FrontendKey, Masquerade, NetworkId,
    Policy, PortEntry, PortId, PortRole, Tables,
};

use crate::body::{HOST, POD_A, POD_B, UPLINK, mac, port_mac};
use crate::frames::*;
use crate::policies::only_from;

pub(crate) const NET: NetworkId = NetworkId(0);
pub(crate) const SYN: u8 = 0x02;
pub(crate) const SYN_ACK: u8 = 0x12;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN: u8 = 0x11;
const RST: u8 = 0x04;

pub(crate) fn sock(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A frame from whoever is behind `port`, with a right checksum.
pub(crate) fn frame(port: PortId, src: &str, dst: &str, protocol: u8, flags: u8) -> Vec<u8> {
    let (src, dst) = (sock(src), sock(dst));
    let (from_ip, to_ip): (IpAddress, IpAddress) = (src.ip().into(), dst.ip().into());
    let payload = if protocol == TCP {
        let mut bytes = tcp(flags, b"odd");
        let mut packet = TcpPacket::new_unchecked(&mut bytes[..]);
        packet.set_src_port(src.port());
        packet.set_dst_port(dst.port());
        packet.set_header_len(20);
        packet.fill_checksum(&from_ip, &to_ip);
        bytes
    } else {
        let mut bytes = udp(src.port(), dst.port(), b"odd");
        UdpPacket::new_unchecked(&mut bytes[..]).fill_checksum(&from_ip, &to_ip);
        bytes
    };
    from(port, &src.ip().to_string(), &dst.ip().to_string(), protocol, &payload)
}

/// What a frame says of its ends, its checksums being right.
#[track_caller]
fn ends(frame: &[u8], protocol: u8) -> (SocketAddr, SocketAddr) {
    let read = read(frame);
    assert!(read.transport_checksum_is_right(protocol));
    let port = |at| u16::from_be_bytes([read.payload[at], read.payload[at + 1]]);
    ((read.src, port(0)).into(), (read.dst, port(2)).into())
}

/// It goes there, and has these ends then.
#[track_caller]
pub(crate) fn becomes(
    bench: &mut Bench,
    port: PortId,
    frame: &[u8],
    output: PortId,
    src: &str,
    dst: &str,
) -> Vec<u8> {
    let protocol = if frame[12..14] == [8, 0] { frame[23] } else { frame[20] };
    let (verdict, after) = bench.send(port, frame);
    let Verdict::Forward(out) = verdict else { panic!("{verdict:?}") };
    assert_eq!(out.port(), output);
    assert_eq!(ends(&after, protocol), (sock(src), sock(dst)));
    assert_eq!(read(&after).hops, 63);
    after
}

pub(crate) fn frontend(addr: &str, protocol: u8, backends: &[(&str, BackendState)]) -> Frontend {
    let socket = sock(addr);
    Frontend {
        key: FrontendKey { network: NET, addr: socket.ip(), port: socket.port(), protocol },
        name: format!("default/web-{addr}").into(),
        backends: backends
            .iter()
            .map(|&(text, state)| Backend { addr: sock(text).ip(), port: sock(text).port(), state })
            .collect(),
        drops: false,
        sources: vec![],
        affinity: 0,
    }
}

pub(crate) const SERVING: BackendState = BackendState::Serving;
const DRAINING: BackendState = BackendState::Draining;

pub(crate) fn with_frontend(bench: &mut Bench, addr: &str, protocol: u8, backends: &[(&str, BackendState)]) {
    bench.change(|tables| tables.set_frontend(frontend(addr, protocol, backends)).unwrap());
}

fn since(bench: &Bench, before: FlowCounts) -> (u64, u64, u64) {
    let now = bench.router.flow_counts();
    (now.replayed - before.replayed, now.decided - before.decided, now.made - before.made)
}

#[test]
fn a_service_is_translated_both_ways_and_decided_once() {
    let mut bench = Bench::new();
    for (a, b, vip) in
        [("10.244.1.2", "10.244.1.3", "10.96.0.10"), ("[fd00:1::2]", "[fd00:1::3]", "[fd00:96::10]")]
    {
        for protocol in [TCP, UDP] {
            let (vip, backend, client) = (format!("{vip}:80"), format!("{b}:8080"), format!("{a}:40000"));
            with_frontend(&mut bench, &vip, protocol, &[(&backend, SERVING)]);
            let before = bench.router.flow_counts();
            becomes(&mut bench, POD_A, &frame(POD_A, &client, &vip, protocol, SYN), POD_B, &client, &backend);
            assert_eq!(since(&bench, before), (0, 1, 1));
            let answer = frame(POD_B, &backend, &client, protocol, SYN_ACK);
            becomes(&mut bench, POD_B, &answer, POD_A, &vip, &client);
            assert_eq!(since(&bench, before), (0, 2, 1));
            for _ in 0..3 {
                let data = frame(POD_A, &client, &vip, protocol, ACK);
                let after = becomes(&mut bench, POD_A, &data, POD_B, &client, &backend);
                assert_eq!(read(&after).dst_mac, mac(POD_B));
                assert_eq!(read(&after).src_mac, port_mac(POD_B));
                let answer = frame(POD_B, &backend, &client, protocol, ACK);
                becomes(&mut bench, POD_B, &answer, POD_A, &vip, &client);
            }
            assert_eq!(since(&bench, before), (6, 2, 1));
        }
    }
}

#[test]
fn a_service_without_backends_is_refused_and_one_that_comes_is_used() {
    let mut bench = Bench::new();
    with_frontend(&mut bench, "10.96.0.10:53", UDP, &[("10.244.1.3:53", DRAINING)]);
    let ask = frame(POD_A, "10.244.1.2:5000", "10.96.0.10:53", UDP, 0);
    let (verdict, answer) = bench.send(POD_A, &ask);
    let fate = Fate::Dropped(DropReason::NoBackend);
    assert_eq!(verdict, Verdict::Answer { fate, output: by(POD_A) });
    assert_eq!((read(&answer).icmp().0, read(&answer).icmp().1), (3, 3));
    // One that has them elsewhere alone says nothing.
    let silent = Frontend { drops: true, ..frontend("10.96.0.10:53", UDP, &[]) };
    bench.change(|tables| tables.set_frontend(silent).unwrap());
    assert_eq!(bench.send(POD_A, &ask).0, Verdict::Drop(DropReason::NoLocalBackend));
    with_frontend(&mut bench, "10.96.0.10:53", UDP, &[("10.244.1.3:53", SERVING)]);
    becomes(&mut bench, POD_A, &ask, POD_B, "10.244.1.2:5000", "10.244.1.3:53");
}

#[test]
fn datagrams_leave_a_backend_that_serves_no_more_and_connections_stay() {
    let mut bench = Bench::new();
    let (first, second) = ("10.244.1.3:53", "10.244.1.5:53");
    for protocol in [UDP, TCP] {
        with_frontend(&mut bench, "10.96.0.10:53", protocol, &[(first, SERVING)]);
        let ask = frame(POD_A, "10.244.1.2:5000", "10.96.0.10:53", protocol, SYN);
        becomes(&mut bench, POD_A, &ask, POD_B, "10.244.1.2:5000", first);
        let go_on = frame(POD_A, "10.244.1.2:5000", "10.96.0.10:53", protocol, ACK);
        for (backends, serves) in
            [(&[(first, DRAINING), (second, SERVING)][..], true), (&[(second, SERVING)], false)]
        {
            with_frontend(&mut bench, "10.96.0.10:53", protocol, backends);
            let stays = serves || protocol == TCP;
            let (output, to) = if stays { (POD_B, first) } else { (PortId(5), second) };
            becomes(&mut bench, POD_A, &go_on, output, "10.244.1.2:5000", to);
        }
        // With the Service itself gone, too.
        let key = frontend("10.96.0.10:53", protocol, &[]).key;
        bench.change(|tables| tables.remove_frontend(key).unwrap());
        if protocol == TCP {
            becomes(&mut bench, POD_A, &go_on, POD_B, "10.244.1.2:5000", first);
        } else {
            let verdict = bench.send(POD_A, &go_on).0;
            assert!(matches!(verdict, Verdict::Answer { fate: Fate::Dropped(DropReason::NoRoute), .. }));
        }
    }
}

#[test]
fn an_answer_of_an_unknown_connection_is_never_passed_as_it_is() {
    let mut bench = Bench::new();
    with_frontend(&mut bench, "10.96.0.10:80", TCP, &[("10.244.1.3:8080", SERVING)]);
    for flags in [SYN_ACK, ACK, FIN, RST] {
        let answer = frame(POD_B, "10.244.1.3:8080", "10.244.1.2:40000", TCP, flags);
        assert_eq!(bench.send(POD_B, &answer).0, Verdict::Drop(DropReason::ReplyUnbound));
    }
    // What a client sends finds the same backend again, and then its answers pass.
    let data = frame(POD_A, "10.244.1.2:40000", "10.96.0.10:80", TCP, ACK);
    becomes(&mut bench, POD_A, &data, POD_B, "10.244.1.2:40000", "10.244.1.3:8080");
    let answer = frame(POD_B, "10.244.1.3:8080", "10.244.1.2:40000", TCP, ACK);
    becomes(&mut bench, POD_B, &answer, POD_A, "10.96.0.10:80", "10.244.1.2:40000");
    // A connection that a backend itself opens is none of the Service's.
    let own = frame(POD_B, "10.244.1.3:8080", "10.244.1.2:22", TCP, SYN);
    becomes(&mut bench, POD_B, &own, POD_A, "10.244.1.3:8080", "10.244.1.2:22");
}

#[test]
fn a_pod_behind_its_own_service_reaches_itself() {
    let mut bench = Bench::new();
    for (a, vip, gateway) in
        [("10.244.1.2", "10.96.0.10", "169.254.1.1"), ("[fd00:1::2]", "[fd00:96::10]", "[fe80::1]")]
    {
        let (client, server, vip) = (format!("{a}:40000"), format!("{a}:8080"), format!("{vip}:80"));
        let router = format!("{gateway}:40000");
        with_frontend(&mut bench, &vip, TCP, &[(&server, SERVING)]);
        for flags in [SYN, ACK] {
            becomes(&mut bench, POD_A, &frame(POD_A, &client, &vip, TCP, flags), POD_A, &router, &server);
            let answer = frame(POD_A, &server, &router, TCP, SYN_ACK);
            becomes(&mut bench, POD_A, &answer, POD_A, &vip, &client);
        }
    }
}

fn masquerade() -> Masquerade {
    Masquerade {
        source4: Some("192.0.2.1".parse().unwrap()),
        source6: Some("2001:db8:2::1".parse().unwrap()),
        exclude: vec!["198.51.100.128/25".parse().unwrap()],
        ports: (40_000, 40_001),
        ..Masquerade::default()
    }
}

#[test]
fn pods_go_out_by_the_routers_address_and_answers_come_back() {
    let mut bench = Bench::new();
    bench.change(|tables| tables.set_masquerade(NET, Some(masquerade())).unwrap());
    for (pod, far, own) in
        [("10.244.1.2", "198.51.100.7", "192.0.2.1"), ("[fd00:1::2]", "[2001:db8:100::7]", "[2001:db8:2::1]")]
    {
        for protocol in [TCP, UDP] {
            // Its own port, where it is in the range and free.
            let (client, server, masked) =
                (format!("{pod}:40001"), format!("{far}:443"), format!("{own}:40001"));
            becomes(
                &mut bench,
                POD_A,
                &frame(POD_A, &client, &server, protocol, SYN),
                UPLINK,
                &masked,
                &server,
            );
            let answer = frame(UPLINK, &server, &masked, protocol, SYN_ACK);
            becomes(&mut bench, UPLINK, &answer, POD_A, &server, &client);
            // The other one for the next, and none for a third; to another server both are free.
            let second = frame(POD_A, &format!("{pod}:999"), &server, protocol, SYN);
            becomes(&mut bench, POD_A, &second, UPLINK, &format!("{own}:40000"), &server);
            let third = frame(POD_A, &format!("{pod}:1000"), &server, protocol, SYN);
            assert_eq!(bench.send(POD_A, &third).0, Verdict::Drop(DropReason::SourcePortsExhausted));
            let elsewhere = format!("{far}:444");
            becomes(
                &mut bench,
                POD_A,
                &frame(POD_A, &client, &elsewhere, protocol, SYN),
                UPLINK,
                &masked,
                &elsewhere,
            );
        }
    }
    // What nobody asked for is not let in.
    let stranger = frame(UPLINK, "198.51.100.9:443", "192.0.2.1:40001", TCP, SYN_ACK);
    assert_eq!(bench.send(UPLINK, &stranger).0, Verdict::Drop(DropReason::NoService));
}

#[test]
fn who_is_excepted_sees_the_pods_own_address() {
    let mut bench = Bench::new();
    bench.change(|tables| tables.set_masquerade(NET, Some(masquerade())).unwrap());
    let near = frame(POD_A, "10.244.1.2:999", "198.51.100.200:443", TCP, SYN);
    becomes(&mut bench, POD_A, &near, UPLINK, "10.244.1.2:999", "198.51.100.200:443");
    // The host, and pod to pod.
    let host = frame(HOST, "10.0.0.10:999", "198.51.100.7:443", TCP, SYN);
    becomes(&mut bench, HOST, &host, UPLINK, "10.0.0.10:999", "198.51.100.7:443");
    let pod = frame(POD_A, "10.244.1.2:998", "10.244.1.3:443", TCP, SYN);
    becomes(&mut bench, POD_A, &pod, POD_B, "10.244.1.2:998", "10.244.1.3:443");
}

#[test]
fn pings_go_out_by_identifier() {
    let mut bench = Bench::new();
    let ports = (1, u16::MAX);
    bench.change(|t| t.set_masquerade(NET, Some(Masquerade { ports, ..masquerade() })).unwrap());
    for (pods, far, own) in [
        ([(POD_A, "10.244.1.2"), (POD_B, "10.244.1.3")], "198.51.100.7", "192.0.2.1"),
        ([(POD_A, "fd00:1::2"), (POD_B, "fd00:1::3")], "2001:db8:100::7", "2001:db8:2::1"),
    ] {
        let mut idents = Vec::new();
        for (port, pod) in pods {
            let (verdict, out) = bench.send(port, &ping(port, pod, far, b"data"));
            assert!(matches!(verdict, Verdict::Forward(Output::Neighbour { port: UPLINK, .. })));
            let read = read(&out);
            assert_eq!((read.src, read.dst), (ip(own), ip(far)));
            let (kind, _, rest) = read.icmp();
            idents.push((kind, [rest[0], rest[1]]));
        }
        assert_eq!(idents[0].1, [1, 2]);
        assert_ne!(idents[0].1, idents[1].1);
        for ((port, pod), (_, ident)) in pods.into_iter().zip(idents) {
            let data = [&ident[..], &[0, 3], b"data"].concat();
            let reply = if ip(far).is_ipv4() {
                from(UPLINK, far, own, ICMP, &icmp4(0, 0, &data))
            } else {
                from(UPLINK, far, own, ICMPV6, &icmp6(far, own, 129, 0, &data))
            };
            let (verdict, back) = bench.send(UPLINK, &reply);
            assert_eq!(verdict, Verdict::Forward(by(port)));
            assert_eq!(read(&back).dst, ip(pod));
            assert_eq!(read(&back).icmp().2[..2], [1, 2]);
        }
    }
}

/// Pod `n` of many, each behind a port of its own.
fn pod(tables: &mut Tables, n: u16, mac_at: u8) {
    let id = PortId(100 + n);
    let mtu = 1500;
    let port =
        PortEntry { id, name: format!("many-{n}"), mac: port_mac(PortId(1)), mtu, role: PortRole::Idle };
    tables.set_port(port).unwrap();
    let [high, low] = n.to_be_bytes();
    tables
        .set_endpoint(Endpoint {
            id: EndpointId(0),
            name: format!("many-{n}"),
            network: NET,
            port: id,
            mac: wire::MacAddr([2, 9, 9, mac_at, high, low]),
            addresses: vec![IpAddr::from([10, 244, 2 + high, low])],
            routes: vec![],
            kind: EndpointKind::Pod,
        })
        .unwrap();
}

#[test]
fn a_change_to_one_pod_decides_that_pods_flows_again_and_no_others() {
    const PODS: u16 = 200;
    let mut bench = Bench::new();
    bench.change(|tables| (0..PODS).for_each(|n| pod(tables, n, 0)));
    let to = |n: u16| {
        let [high, low] = n.to_be_bytes();
        frame(POD_A, "10.244.1.2:5000", &format!("10.244.{}.{low}:80", 2 + high), UDP, 0)
    };
    let all = |bench: &mut Bench| {
        let before = bench.router.flow_counts();
        for n in 0..PODS {
            assert!(matches!(bench.send(POD_A, &to(n)).0, Verdict::Forward(_)), "{n}");
        }
        since(bench, before)
    };
    assert_eq!(all(&mut bench), (0, 200, 200));
    assert_eq!(all(&mut bench), (200, 0, 0));
    // One moves to another MAC; one gets a policy; a third is a Service's backend now; another pod comes, and a route.
    bench.change(|tables| pod(tables, 17, 1));
    assert_eq!(all(&mut bench), (199, 1, 0));
    let open = Policy { ingress: None, egress: only_from(1, None) };
    bench.change(|tables| tables.set_policy("many-18", open).unwrap());
    assert_eq!(all(&mut bench), (199, 1, 0));
    with_frontend(&mut bench, "10.96.0.10:80", TCP, &[("10.244.2.19:80", SERVING)]);
    assert_eq!(all(&mut bench), (199, 1, 0));
    bench.change(|tables| pod(tables, PODS, 0));
    assert_eq!(all(&mut bench), (200, 0, 0));
    bench.change(|t| {
        t.set_route(NET, "10.250.0.0/16".parse().unwrap(), tables::RouteTarget::Blackhole).unwrap();
    });
    assert_eq!(all(&mut bench), (200, 0, 0));
    // What all rest on.
    bench.change(|tables| tables.set_masquerade(NET, Some(masquerade())).unwrap());
    assert_eq!(all(&mut bench), (0, 200, 0));
}

#[test]
fn a_connection_that_is_over_gives_its_ends_to_the_next() {
    let mut bench = Bench::new();
    with_frontend(&mut bench, "10.96.0.10:80", TCP, &[("10.244.1.3:8080", SERVING)]);
    let (client, vip) = ("10.244.1.2:40000", "10.96.0.10:80");
    becomes(&mut bench, POD_A, &frame(POD_A, client, vip, TCP, SYN), POD_B, client, "10.244.1.3:8080");
    with_frontend(&mut bench, vip, TCP, &[("10.244.1.5:8080", SERVING)]);
    becomes(&mut bench, POD_A, &frame(POD_A, client, vip, TCP, RST), POD_B, client, "10.244.1.3:8080");
    becomes(&mut bench, POD_A, &frame(POD_A, client, vip, TCP, SYN), PortId(5), client, "10.244.1.5:8080");
}

#[test]
fn a_known_flow_is_still_checked_and_limited() {
    let mut bench = Bench::new();
    let good = frame(POD_A, "10.244.1.2:1", "10.244.1.3:2", UDP, 0);
    becomes(&mut bench, POD_A, &good, POD_B, "10.244.1.2:1", "10.244.1.3:2");
    // By another port, with another MAC, at its last hop, too large.
    let mut spoofed = frame(POD_B, "10.244.1.2:1", "10.244.1.3:2", UDP, 0);
    assert_eq!(bench.send(POD_B, &spoofed).0, Verdict::Drop(DropReason::SourceAddressSpoofed));
    spoofed = good.clone();
    spoofed[6..12].copy_from_slice(&mac(POD_B).0);
    assert_eq!(bench.send(POD_A, &spoofed).0, Verdict::Drop(DropReason::SourceMacSpoofed));
    let (verdict, _) = bench.send(POD_A, &with_hop_limit(good.clone(), 1));
    assert!(matches!(verdict, Verdict::Answer { fate: Fate::Dropped(DropReason::TtlExceeded), .. }));
    let large = from(POD_A, "10.244.1.2", "10.244.1.3", UDP, &udp(1, 2, &[0; 1600]));
    let (verdict, _) = bench.send(POD_A, &large);
    assert!(matches!(verdict, Verdict::Answer { fate: Fate::Dropped(DropReason::PacketTooBig), .. }));
    becomes(&mut bench, POD_A, &good, POD_B, "10.244.1.2:1", "10.244.1.3:2");
}

#[test]
fn what_is_left_to_finish_of_a_known_flow_goes_the_short_way_and_stays_so() {
    let mut bench = Bench::new();
    let (a, b, vip) = ("10.244.1.2:40000", "10.244.1.3:8080", "10.96.0.10:80");
    with_frontend(&mut bench, vip, TCP, &[(b, SERVING)]);
    becomes(&mut bench, POD_A, &frame(POD_A, a, vip, TCP, SYN), POD_B, a, b);
    becomes(&mut bench, POD_B, &frame(POD_B, b, a, TCP, SYN_ACK), POD_A, vip, a);
    // As large as several of the link's packets; what counts is each of those.
    let mut large = from(POD_A, "10.244.1.2", "10.96.0.10", TCP, &tcp(ACK, &[7; 1_900]));
    large[34..38].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    let (start, offset) = (34, 16);
    let gso = |size| Offload::Gso { kind: GsoKind::TcpV4, size, header_len: 54, start, offset };
    let plain = frame(POD_A, a, vip, TCP, ACK);
    let before = bench.router.flow_counts();
    for (frame, left) in [(&plain, Offload::Partial { start, offset }), (&large, gso(700))] {
        let put = bench.send_offloaded(POD_A, frame, left);
        assert_eq!((put.verdict, put.packet.offload), (Verdict::Forward(by(POD_B)), left));
        let after = put.packet.buffer.head();
        let port = |at: usize| u16::from_be_bytes([after[at], after[at + 1]]);
        assert_eq!((&after[26..34], port(34), port(36)), (&[10, 244, 1, 2, 10, 244, 1, 3][..], 40_000, 8080));
        // The sum is of the pseudo-header alone: it knows the new address, and no port.
        let sum = |frame: &[u8]| u16::from_be_bytes([frame[50], frame[51]]);
        let delta = wire::ChecksumDelta::replace_ipv4([10, 96, 0, 10].into(), [10, 244, 1, 3].into());
        assert_eq!(sum(after), delta.apply_partial(sum(frame)));
    }
    assert_eq!(since(&bench, before), (2, 0, 0));
    // Too large a piece is refused as ever, by the long way.
    let put = bench.send_offloaded(POD_A, &large, gso(1_600));
    assert!(matches!(put.verdict, Verdict::Answer { fate: Fate::Dropped(DropReason::PacketTooBig), .. }));
}

#[test]
fn direct_and_translated_connections_of_the_same_ends_are_told_apart() {
    let mut bench = Bench::new();
    with_frontend(&mut bench, "10.96.0.10:80", TCP, &[("10.244.1.3:8080", SERVING)]);
    let (client, vip, server) = ("10.244.1.2:40000", "10.96.0.10:80", "10.244.1.3:8080");
    // The direct one first: the other gets another source port.
    becomes(&mut bench, POD_A, &frame(POD_A, client, server, TCP, SYN), POD_B, client, server);
    let (verdict, after) = bench.send(POD_A, &frame(POD_A, client, vip, TCP, SYN));
    assert_eq!(verdict, Verdict::Forward(by(POD_B)));
    let (src, dst) = ends(&after, TCP);
    assert_eq!((src.ip(), dst), (ip("10.244.1.2"), sock(server)));
    assert_ne!(src.port(), 40000);
    let answer = frame(POD_B, server, &src.to_string(), TCP, SYN_ACK);
    becomes(&mut bench, POD_B, &answer, POD_A, vip, client);
    let answer = frame(POD_B, server, client, TCP, SYN_ACK);
    becomes(&mut bench, POD_B, &answer, POD_A, server, client);
    // The other way round the direct one would get the other's answers.
    let client = "10.244.1.2:41000";
    becomes(&mut bench, POD_A, &frame(POD_A, client, vip, TCP, SYN), POD_B, client, server);
    assert_eq!(
        bench.send(POD_A, &frame(POD_A, client, server, TCP, SYN)).0,
        Verdict::Drop(DropReason::FlowClash)
    );
    // Once that is closed nobody waits for them.
    for flags in [FIN, RST] {
        let over = frame(POD_A, client, vip, TCP, flags);
        becomes(&mut bench, POD_A, &over, POD_B, client, server);
        if flags == FIN {
            let verdict = bench.send(POD_A, &frame(POD_A, client, server, TCP, SYN)).0;
            assert_eq!(verdict, Verdict::Drop(DropReason::FlowClash), "its server may still speak");
        }
    }
    becomes(&mut bench, POD_A, &frame(POD_A, client, server, TCP, SYN), POD_B, client, server);
    let answer = frame(POD_B, server, client, TCP, SYN_ACK);
    becomes(&mut bench, POD_B, &answer, POD_A, server, client);
}

/// Bytes of a frame's headers that are made others, some of them so that checks behind it are reached.
fn edited(mut frame: Vec<u8>, edits: &[(usize, u8)], padding: usize, fixed: bool) -> Vec<u8> {
    for &(at, byte) in edits {
        if let Some(place) = frame.get_mut(at) {
            *place = byte;
        }
    }
    if fixed && frame[12..14] == [8, 0] {
        frame[24..26].fill(0);
        let sum = wire::checksum::internet_checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame.resize(frame.len() + padding, 0);
    frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The short way does what the long one would, byte for byte: `Bench::send` asks the trace, which knows the long one alone.
    #[test]
    fn packets_of_known_flows_go_the_short_way_as_the_long_one(
        v6: bool, tcp: bool, service: bool,
        variants in prop::collection::vec(
            (
                prop::collection::vec((12_usize..76, any::<u8>()), 0..3),
                prop_oneof![3 => Just(0_usize), 1 => 1..20_usize],
                prop::bool::weighted(0.8),
                prop::bool::weighted(0.3),
                prop_oneof![
                    Just(None), Just(None),
                    (0_u16..3, 0_u16..1_600, -1_i16..3).prop_map(Some),
                ],
            ),
            1..40,
        ),
    ) {
        let mut bench = Bench::new();
        let (a, b, vip) = if v6 {
            ("[fd00:1::2]:40000", "[fd00:1::3]:8080", "[fd00:96::10]:80")
        } else {
            ("10.244.1.2:40000", "10.244.1.3:8080", "10.96.0.10:80")
        };
        let protocol = if tcp { TCP } else { UDP };
        with_frontend(&mut bench, vip, protocol, &[(b, SERVING)]);
        let asked = if service { vip } else { b };
        becomes(&mut bench, POD_A, &frame(POD_A, a, asked, protocol, SYN), POD_B, a, b);
        becomes(&mut bench, POD_B, &frame(POD_B, b, a, protocol, SYN_ACK), POD_A, asked, a);
        let before = bench.router.flow_counts();
        becomes(&mut bench, POD_A, &frame(POD_A, a, asked, protocol, ACK), POD_B, a, b);
        prop_assert_eq!(since(&bench, before), (1, 0, 0));
        for (edits, padding, fixed, answer, unfinished) in variants {
            let (port, plain) = if answer {
                (POD_B, frame(POD_B, b, a, protocol, ACK))
            } else {
                (POD_A, frame(POD_A, a, asked, protocol, ACK))
            };
            let left = unfinished.map_or(Offload::Done, |(kind, size, off)| {
                let l4: u16 = if v6 { 54 } else { 34 };
                let (start, offset) = (l4.saturating_add_signed(off.min(0)), if tcp { 16 } else { 6 } + u16::from(off > 1));
                let header_len = l4 + if tcp { 20 } else { 8 };
                match (kind, tcp, v6) {
                    (0, ..) => Offload::Partial { start, offset },
                    (_, true, false) => Offload::Gso { kind: GsoKind::TcpV4, size, header_len, start, offset },
                    (_, true, true) => Offload::Gso { kind: GsoKind::TcpV6, size, header_len, start, offset },
                    (_, false, _) => Offload::Gso { kind: GsoKind::Udp, size, header_len, start, offset },
                }
            });
            bench.send_offloaded(port, &edited(plain, &edits, padding, fixed), left);
        }
    }
}
