//! Datagrams to other nodes and from them: what smoltcp reads in those that are made, and which are taken.

use pipeline::{
    Adjacencies, Buffer, DropReason, Fate, Offload, Output, VecBuffer, Verdict,
    tunnel::{self, Decapsulator, Encapsulator},
};
use smoltcp::wire::{IpAddress, Ipv4Packet, UdpPacket};
use tables::{PortId, Tables, TunnelPeer};
use wire::MacAddr;

use crate::body::{HOST, OVER, PEERS, POD_A, TUNNEL, UPLINK, port_mac, tables as node};
use crate::frames::*;

/// What an inner frame looks like on the uplink, from another node's end to ours.
pub(crate) fn datagram(outer_src: &str, vni: u32, inner: &[u8]) -> Vec<u8> {
    let own = if ip(outer_src).is_ipv4() { "192.0.2.1" } else { "2001:db8:2::1" };
    datagram_to(own, outer_src, vni, inner)
}

fn datagram_to(own: &str, outer_src: &str, vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    let payload = [&[8, 0, 0, 0, a, b, c, 0][..], inner].concat();
    from(UPLINK, outer_src, own, UDP, &udp(50_000, OVER.udp_port, &payload))
}

/// What is left of a datagram from the uplink.
pub(crate) fn open(tables: &Tables, frame: &[u8]) -> Option<Result<Vec<u8>, DropReason>> {
    if !tunnel::looks_tunnelled(&OVER, frame) {
        return None;
    }
    let mut buffer = VecBuffer::with_capacity(frame, 2048);
    let mut decapsulator = Decapsulator::default();
    let opened = decapsulator.decapsulate(tables, &OVER, &mut buffer, Offload::Done);
    // What it has kept changes nothing.
    let mut again = VecBuffer::with_capacity(frame, 2048);
    assert_eq!(decapsulator.decapsulate(tables, &OVER, &mut again, Offload::Done), opened);
    assert_eq!(again.head(), buffer.head());
    Some(opened?.map(|offload| {
        assert_eq!(offload, Offload::Done);
        buffer.head().to_vec()
    }))
}

fn seal(tables: &Tables, adjacencies: &Adjacencies, frame: &[u8]) -> Result<(Output, Vec<u8>), DropReason> {
    let mut buffer = VecBuffer::with_capacity(frame, 4096);
    let output = Encapsulator::default().encapsulate(tables, adjacencies, &OVER, &mut buffer)?;
    Ok((output, buffer.head().to_vec()))
}

#[test]
fn what_a_pod_sends_to_another_nodes_goes_in_a_datagram_to_that_node() {
    for (dst, outer, next_hop) in [
        ("10.244.2.5", "192.0.2.20", "192.0.2.20"),
        ("fd00:2::5", "192.0.2.20", "192.0.2.20"),
        ("10.244.3.5", "2001:db8:2::30", "2001:db8:2::30"),
        ("fd00:3::5", "2001:db8:2::30", "2001:db8:2::30"),
        ("10.244.4.5", "198.51.100.40", "192.0.2.254"),
    ] {
        let src = if ip(dst).is_ipv4() { "10.244.1.2" } else { "fd00:1::2" };
        let mut bench = Bench::new();
        let frame = from(POD_A, src, dst, UDP, &udp(7, 9, &[5; 200]));
        // The second is of a known flow.
        let [(verdict, first), again] = [(); 2].map(|()| bench.put(POD_A, &frame));
        assert_eq!(verdict, Verdict::Forward(by(TUNNEL)));
        assert_eq!((verdict, &first), (again.0, &again.1));
        let (output, outside) = seal(&bench.tables, &Adjacencies::default(), &first).unwrap();
        assert_eq!(output, Output::Neighbour { port: UPLINK, next_hop: ip(next_hop) });
        let read_outside = read(&outside);
        assert_eq!(read_outside.src_mac, port_mac(UPLINK));
        assert_eq!((read_outside.dst, read_outside.hops), (ip(outer), 64));
        let own = if ip(outer).is_ipv4() { "192.0.2.1" } else { "2001:db8:2::1" };
        assert_eq!(read_outside.src, ip(own));
        let datagram = UdpPacket::new_checked(read_outside.payload).unwrap();
        assert_eq!((datagram.dst_port(), usize::from(datagram.len())), (4_789, read_outside.payload.len()));
        assert!(datagram.src_port() >= 49_152);
        if ip(outer).is_ipv4() {
            assert_eq!(datagram.checksum(), 0);
            assert!(Ipv4Packet::new_checked(&outside[14..]).unwrap().dont_frag());
        } else {
            let ends: [IpAddress; 2] = [read_outside.src.into(), read_outside.dst.into()];
            assert!(datagram.checksum() != 0 && datagram.verify_checksum(&ends[0], &ends[1]));
        }
        assert_eq!(datagram.payload()[..8], [8, 0, 0, 0, 0, 0x12, 0x34, 0]);
        let inside = read(&datagram.payload()[8..]);
        let mac = PEERS.iter().find(|(peer, _)| *peer == outer).unwrap().1;
        assert_eq!((inside.dst_mac, inside.src_mac), (mac, port_mac(TUNNEL)));
        assert_eq!((inside.src, inside.dst, inside.hops), (ip(src), ip(dst), 63));
        assert_eq!(inside.payload, udp(7, 9, &[5; 200]));
    }
}

#[test]
fn flows_are_told_apart_outside_and_packets_of_one_are_not() {
    let tables = node();
    let mut bench = Bench::new();
    let mut source_port = |src_port: u16, data: &[u8]| {
        let frame = from(POD_A, "10.244.1.2", "10.244.2.5", UDP, &udp(src_port, 9, data));
        let (_, frame) = bench.put(POD_A, &frame);
        let (_, outside) = seal(&tables, &Adjacencies::default(), &frame).unwrap();
        UdpPacket::new_checked(&outside[34..]).unwrap().src_port()
    };
    let ports: std::collections::BTreeSet<u16> = (1..=256).map(|port| source_port(port, b"a")).collect();
    assert!(ports.len() > 230, "{}", ports.len());
    assert_eq!(source_port(7, b"a"), source_port(7, b"another"));
}

#[test]
fn a_neighbour_that_is_known_is_not_asked_for_and_what_changes_is_followed() {
    let mut bench = Bench::new();
    let adjacencies = Adjacencies::default();
    let mut encapsulator = Encapsulator::default();
    let frame = from(POD_A, "10.244.1.2", "10.244.2.5", UDP, &udp(7, 9, b"x"));
    let (_, frame) = bench.put(POD_A, &frame);
    let mut send = |tables: &Tables| {
        let mut buffer = VecBuffer::with_capacity(&frame, 4096);
        let output = encapsulator.encapsulate(tables, &adjacencies, &OVER, &mut buffer)?;
        Ok::<_, DropReason>((output, buffer.head().to_vec()))
    };
    let unknown = Output::Neighbour { port: UPLINK, next_hop: ip("192.0.2.20") };
    assert_eq!(send(&bench.tables).unwrap().0, unknown);
    adjacencies.resolve(UPLINK, ip("192.0.2.20"), Some(NEIGHBOUR));
    let (output, known) = send(&bench.tables).unwrap();
    assert_eq!((output, read(&known).dst_mac), (by(UPLINK), NEIGHBOUR));
    // Another station, another next hop, and none.
    let mac = MacAddr([2, 9, 9, 9, 9, 9]);
    bench.change(|tables| {
        let addr = ip("192.0.2.20");
        tables.set_tunnel_peer(TunnelPeer { port: TUNNEL, addr, mac }).unwrap();
    });
    assert_eq!(read(&send(&bench.tables).unwrap().1[50..]).dst_mac, mac);
    let via = tables::RouteTarget::NextHop { port: UPLINK, addr: ip("192.0.2.200"), inside: false };
    let prefix = "192.0.2.20/32".parse().unwrap();
    bench.change(|tables| tables.set_route(tables::NetworkId(0), prefix, via).unwrap());
    let next_hop = ip("192.0.2.200");
    assert_eq!(send(&bench.tables).unwrap().0, Output::Neighbour { port: UPLINK, next_hop });
    bench.change(|tables| {
        tables.set_route(tables::NetworkId(0), prefix, tables::RouteTarget::Blackhole).unwrap()
    });
    assert_eq!(send(&bench.tables), Err(DropReason::NoRoute));
    bench.change(|tables| {
        for prefix in ["10.244.2.0/24", "fd00:2::/64"] {
            tables.remove_route(tables::NetworkId(0), prefix.parse().unwrap()).unwrap();
        }
        tables.remove_tunnel_peer(TUNNEL, ip("192.0.2.20")).unwrap();
    });
    assert_eq!(send(&bench.tables), Err(DropReason::TunnelPeerUnknown));
}

#[test]
fn what_does_not_fit_a_datagram_is_told_to_its_source_by_its_size() {
    let mut bench = Bench::new();
    let frame = from(POD_A, "10.244.1.2", "10.244.2.5", UDP, &udp(7, 9, &[0; 1_403]));
    let (verdict, answer) = bench.put(POD_A, &frame);
    let fate = Fate::Dropped(DropReason::PacketTooBig);
    assert_eq!(verdict, Verdict::Answer { fate, output: by(POD_A) });
    let answer = read(&answer);
    let (kind, code, rest) = answer.icmp();
    assert_eq!((kind, code, &rest[2..4]), (3, 4, &1_430_u16.to_be_bytes()[..]));
    // Whoever is behind the tunnel's own MTU is not there; the uplink's is held too.
    let (_, frame) = bench.put(POD_A, &from(POD_A, "10.244.1.2", "10.244.2.5", UDP, &udp(7, 9, &[0; 1_402])));
    assert!(seal(&bench.tables, &Adjacencies::default(), &frame).is_ok());
    let long = [&frame[..], &[0; 21]].concat();
    assert_eq!(seal(&bench.tables, &Adjacencies::default(), &long), Err(DropReason::PacketTooBig));
}

#[test]
fn what_a_known_node_sends_from_its_own_addresses_is_taken() {
    for (outer, src, dst) in [
        ("192.0.2.20", "10.244.2.5", "10.244.1.2"),
        ("192.0.2.20", "fd00:2::5", "fd00:1::2"),
        // By the end of the other family, which is the same node's.
        ("2001:db8:2::20", "10.244.2.5", "10.244.1.2"),
        ("2001:db8:2::30", "fd00:3::5", "fd00:1::2"),
        ("198.51.100.40", "10.244.4.9", "10.244.1.2"),
        // The node itself, as the source of an error.
        ("192.0.2.20", "192.0.2.20", "10.244.1.2"),
        ("192.0.2.20", "2001:db8:2::20", "fd00:1::2"),
    ] {
        let mut bench = Bench::new();
        let inner = from(TUNNEL, src, dst, UDP, &udp(7, 9, &[5; 20]));
        let opened = open(&bench.tables, &datagram(outer, OVER.vni, &inner)).unwrap().unwrap();
        assert_eq!((&opened[..6], &opened[12..]), (&inner[..6], &inner[12..]));
        for _ in 0..2 {
            let (verdict, frame) = bench.put(TUNNEL, &opened);
            assert_eq!(verdict, Verdict::Forward(by(POD_A)));
            assert_eq!((read(&frame).src, read(&frame).dst), (ip(src), ip(dst)));
        }
        // The answer goes back to that node.
        let answer = from(POD_A, dst, src, UDP, &udp(9, 7, b"yes"));
        let (verdict, answer) = bench.put(POD_A, &answer);
        if ip(src) != ip(outer) && src != "2001:db8:2::20" {
            assert_eq!(verdict, Verdict::Forward(by(TUNNEL)));
            seal(&bench.tables, &Adjacencies::default(), &answer).unwrap();
        }
        // With what Ethernet pads behind it, and with a checksum that nobody looks at.
        let mut padded = datagram(outer, OVER.vni, &inner);
        padded.extend([0; 9]);
        assert_eq!(open(&bench.tables, &padded).unwrap().unwrap(), opened);
    }
}

#[test]
fn whoever_asks_the_router_by_the_tunnel_is_answered_by_it() {
    let mut bench = Bench::new();
    let inner = with_hop_limit(from(TUNNEL, "10.244.2.5", "10.244.1.2", UDP, &udp(7, 9, &[5; 20])), 1);
    let opened = open(&bench.tables, &datagram("192.0.2.20", OVER.vni, &inner)).unwrap().unwrap();
    let (verdict, answer) = bench.put(TUNNEL, &opened);
    let fate = Fate::Dropped(DropReason::TtlExceeded);
    assert_eq!(verdict, Verdict::Answer { fate, output: by(TUNNEL) });
    assert_eq!((read(&answer).src, read(&answer).dst), (ip("192.0.2.1"), ip("10.244.2.5")));
    let (_, outside) = seal(&bench.tables, &Adjacencies::default(), &answer).unwrap();
    assert_eq!(read(&outside).dst, ip("192.0.2.20"));
}

#[test]
fn what_is_refused_has_a_name() {
    let tables = node();
    let inner = from(TUNNEL, "10.244.2.5", "10.244.1.2", UDP, &udp(7, 9, &[5; 20]));
    let refused = |frame: &[u8], reason| assert_eq!(open(&tables, frame), Some(Err(reason)));
    let good = datagram("192.0.2.20", OVER.vni, &inner);
    refused(&datagram("192.0.2.20", 0, &inner), DropReason::TunnelVniOther);
    refused(&datagram("192.0.2.21", OVER.vni, &inner), DropReason::TunnelPeerUnknown);
    refused(&datagram("2001:db8:2::21", OVER.vni, &inner), DropReason::TunnelPeerUnknown);
    // A node that is known, with another's pod's address, one of ours, one of nobody's, and one of the world's.
    for src in ["10.244.3.5", "10.244.1.3", "10.0.0.10", "8.8.8.8", "198.51.100.7", "192.0.2.1", "0.0.0.0"] {
        let inner = from(TUNNEL, src, "10.244.1.2", UDP, &udp(7, 9, &[5; 20]));
        refused(&datagram("192.0.2.20", OVER.vni, &inner), DropReason::TunnelSourceSpoofed);
    }
    for src in ["fe80::1", "::"] {
        let inner = from(TUNNEL, src, "fd00:1::2", UDP, &udp(7, 9, &[5; 20]));
        refused(&datagram("192.0.2.20", OVER.vni, &inner), DropReason::TunnelSourceSpoofed);
    }
    // No identifier; neither ARP nor neighbour discovery; cut short anywhere.
    let mut none = good.clone();
    none[42] = 0;
    refused(&none, DropReason::TunnelInvalid);
    let arp = ethernet(port_mac(TUNNEL), NEIGHBOUR, 0x0806, &[0; 28]);
    refused(&datagram("192.0.2.20", OVER.vni, &arp), DropReason::TunnelInvalid);
    let told = icmp6("fd00:2::5", "fd00:1::2", 136, 0, &[0; 20]);
    let nd = with_hop_limit(from(TUNNEL, "fd00:2::5", "fd00:1::2", ICMPV6, &told), 255);
    refused(&datagram("192.0.2.20", OVER.vni, &nd), DropReason::TunnelInvalid);
    for len in 0..34 {
        refused(&datagram("192.0.2.20", OVER.vni, &inner[..len]), DropReason::TunnelInvalid);
    }
    refused(
        &from(UPLINK, "192.0.2.20", "192.0.2.1", UDP, &udp(1, 4_789, &[8, 0, 0])),
        DropReason::TunnelInvalid,
    );
}

#[test]
fn what_is_not_for_this_end_goes_on_as_any_packet() {
    let tables = node();
    let inner = from(TUNNEL, "10.244.2.5", "10.244.1.2", UDP, &udp(7, 9, &[5; 20]));
    let mut others = vec![
        // A pod may have tunnels of its own.
        datagram_to("10.244.1.2", "192.0.2.20", OVER.vni, &inner),
        from(UPLINK, "192.0.2.20", "192.0.2.1", UDP, &udp(4_789, 4_790, &[0; 64])),
        from(UPLINK, "192.0.2.20", "192.0.2.1", TCP, &tcp(2, &[0; 64])),
        edited_v4(&datagram("192.0.2.20", OVER.vni, &inner), 64, 0x2000, &[]),
        edited_v4(&datagram("192.0.2.20", OVER.vni, &inner), 64, 0, &[1, 1, 1, 0]),
        extended_v6(&datagram("2001:db8:2::20", OVER.vni, &inner), 0, [0, 0, 5, 2, 0, 0, 1, 0]),
    ];
    let mut elsewhere = datagram("192.0.2.20", OVER.vni, &inner);
    elsewhere[5] ^= 1;
    others.push(elsewhere);
    for frame in others {
        assert_eq!(open(&tables, &frame), None);
    }
    let mut bench = Bench::new();
    let own = datagram_to("10.244.1.2", "192.0.2.20", OVER.vni, &inner);
    assert_eq!(bench.put(UPLINK, &own).0, Verdict::Forward(by(POD_A)));
}

#[test]
fn what_is_known_of_a_source_ends_with_its_route_and_with_its_node() {
    let mut bench = Bench::new();
    let mut decapsulator = Decapsulator::default();
    let inner = from(TUNNEL, "10.244.2.5", "10.244.1.2", UDP, &udp(7, 9, &[5; 20]));
    let mut opened = |tables: &Tables, outer| {
        let mut buffer = VecBuffer::with_capacity(&datagram(outer, OVER.vni, &inner), 2048);
        decapsulator.decapsulate(tables, &OVER, &mut buffer, Offload::Done).unwrap()
    };
    let (own, other) = ("192.0.2.20", "198.51.100.40");
    assert_eq!(opened(&bench.tables, own), Ok(Offload::Done));
    assert_eq!(opened(&bench.tables, other), Err(DropReason::TunnelSourceSpoofed));
    // Its range moves to another node.
    let target = tables::RouteTarget::NextHop { port: TUNNEL, addr: ip(other), inside: true };
    let prefix = |text: &str| text.parse().unwrap();
    bench.change(|tables| tables.set_route(tables::NetworkId(0), prefix("10.244.2.0/24"), target).unwrap());
    assert_eq!(opened(&bench.tables, own), Err(DropReason::TunnelSourceSpoofed));
    assert_eq!(opened(&bench.tables, other), Ok(Offload::Done));
    // And that node goes.
    bench.change(|tables| {
        for range in ["10.244.2.0/24", "10.244.4.0/24"] {
            tables.remove_route(tables::NetworkId(0), prefix(range)).unwrap();
        }
        tables.remove_tunnel_peer(TUNNEL, ip(other)).unwrap();
    });
    assert_eq!(opened(&bench.tables, other), Err(DropReason::TunnelPeerUnknown));
}

#[test]
fn what_came_out_of_a_tunnel_does_not_go_back_into_it() {
    let mut bench = Bench::new();
    let inner = from(TUNNEL, "10.244.2.5", "10.244.3.5", UDP, &udp(7, 9, &[5; 20]));
    let opened = open(&bench.tables, &datagram("192.0.2.20", OVER.vni, &inner)).unwrap().unwrap();
    bench.drops(TUNNEL, &opened, DropReason::SamePort);
}

#[test]
fn pods_and_the_host_do_not_reach_the_tunnels_ends() {
    let mut bench = Bench::new();
    let inner = from(TUNNEL, "10.244.1.3", "10.244.2.5", UDP, &udp(7, 9, &[5; 20]));
    let payload = [&[8, 0, 0, 0, 0, 0x12, 0x34, 0][..], &inner].concat();
    for (port, src) in [(POD_A, "10.244.1.2"), (HOST, "10.0.0.10"), (HOST, "192.0.2.1")] {
        let to = |dst, at| from(port, src, dst, UDP, &udp(9, at, &payload));
        bench.drops(port, &to("192.0.2.20", 4_789), DropReason::TunnelPortClosed);
        bench.drops(port, &to("198.51.100.40", 4_789), DropReason::TunnelPortClosed);
        // Another port of that node, the same port of somebody else, and our own end, where nobody listens.
        for (dst, at) in [("192.0.2.20", 4_790), ("192.0.2.77", 4_789)] {
            assert!(matches!(bench.put(port, &to(dst, at)).0, Verdict::Forward(Output::Neighbour { .. })));
        }
        let own = bench.put(port, &to("192.0.2.1", 4_789)).0;
        assert!(!matches!(own, Verdict::Forward(_)), "{own:?}");
    }
    // One who spoke with it before it was an end speaks with it no more.
    let frame = from(POD_A, "10.244.1.2", "192.0.2.77", UDP, &udp(9, 4_789, &payload));
    assert!(matches!(bench.put(POD_A, &frame).0, Verdict::Forward(_)));
    bench.change(|tables| {
        let peer = TunnelPeer { port: TUNNEL, addr: ip("192.0.2.77"), mac: MacAddr([2, 0, 0, 0, 7, 7]) };
        tables.set_tunnel_peer(peer).unwrap();
    });
    bench.drops(POD_A, &frame, DropReason::TunnelPortClosed);
}

#[test]
fn congestion_inside_and_outside_is_one_rfc_6040() {
    let tables = node();
    // By inner and outer: not capable, capable (1), capable (0), experienced.
    let expected = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(2), Some(1), Some(2), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    for (src, dst) in [("10.244.2.5", "10.244.1.2"), ("fd00:2::5", "fd00:1::2")] {
        for outer in ["192.0.2.20", "2001:db8:2::20"] {
            for (inner_ecn, row) in (0..).zip(expected) {
                for (outer_ecn, expected) in (0..).zip(row) {
                    let inner = marked(&from(TUNNEL, src, dst, UDP, &udp(7, 9, &[5; 20])), 0xa0 | inner_ecn);
                    let frame = marked(&datagram(outer, OVER.vni, &inner), outer_ecn);
                    let opened = open(&tables, &frame).unwrap();
                    match expected {
                        None => assert_eq!(opened, Err(DropReason::TunnelCongestion)),
                        Some(ecn) => {
                            let opened = opened.unwrap();
                            read(&opened);
                            assert_eq!(opened[14..], marked(&inner, 0xa0 | ecn)[14..]);
                        }
                    }
                }
            }
        }
    }
    // On the way out it is said outside, and nothing else of the class is.
    let mut bench = Bench::new();
    for dst in ["10.244.2.5", "10.244.3.5"] {
        for ecn in 0..4 {
            let frame = marked(&from(POD_A, "10.244.1.2", dst, UDP, &udp(7, 9, b"x")), 0xa0 | ecn);
            let (_, frame) = bench.put(POD_A, &frame);
            let (_, outside) = seal(&bench.tables, &Adjacencies::default(), &frame).unwrap();
            read(&outside);
            let class = if outside[14] == 0x45 { outside[15] } else { outside[14] << 4 | outside[15] >> 4 };
            assert_eq!(class, ecn);
        }
    }
}

/// With that traffic class.
fn marked(frame: &[u8], class: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12] == 8 {
        frame[15] = class;
        fill_header_checksum(&mut frame);
    } else {
        frame[14] = 0x60 | class >> 4;
        frame[15] = class << 4;
    }
    frame
}

#[test]
fn what_a_kernel_left_to_finish_inside_stays_so() {
    let tables = node();
    let inner = from(TUNNEL, "10.244.2.5", "10.244.1.2", TCP, &tcp(2, &[1; 30]));
    let frame = datagram("192.0.2.20", OVER.vni, &inner);
    let left = |offload| {
        let mut buffer = VecBuffer::with_capacity(&frame, 2048);
        Decapsulator::default().decapsulate(&tables, &OVER, &mut buffer, offload).unwrap()
    };
    let inside = Offload::Partial { start: 50 + 34, offset: 16 };
    assert_eq!(left(inside), Ok(Offload::Partial { start: 34, offset: 16 }));
    assert_eq!(left(Offload::Partial { start: 34, offset: 6 }), Ok(Offload::Done));
    let kind = pipeline::GsoKind::Udp;
    let large = Offload::Gso { kind, size: 500, header_len: 42, start: 34, offset: 6 };
    assert_eq!(left(large), Err(DropReason::OffloadInvalid));
}

#[test]
fn a_trace_tells_of_the_way_through_a_tunnel() {
    let bench = Bench::new();
    let question = pipeline::Question {
        network: tables::NetworkId(0),
        src: ip("10.244.1.2"),
        dst: ip("10.244.2.5"),
        protocol: UDP,
        src_port: 7,
        dst_port: 9,
        in_port: None::<PortId>,
        length: 0,
    };
    let steps = pipeline::trace(&bench.ground(), &question);
    let told: Vec<_> = steps.iter().map(|step| step.outcome.to_string()).collect();
    let all = told.join("\n");
    assert!(all.contains("192.0.2.20") && all.contains("port-9"), "{all}");
}
