//! Any bytes on any kind of port get one verdict, and what leaves is what a router may send.
//!
//! The first byte picks the port, the next three what is left to offload; the rest is the frame. Its IPv4 checksum, source MAC and
//! ICMP checksum are made right in a second round, to get behind those checks.

use std::sync::{LazyLock, Mutex};

use arrayvec::ArrayVec;
use pipeline::{
    Adjacencies, BURST, Buffer, ConsumeReason, Fate, GsoKind, Offload, Output, Packet, Router, RouterConfig,
    Tick, Tracking, VecBuffer, Verdict, segment, tunnel,
};
use tables::{
    Endpoint, EndpointId, EndpointKind, Interface, NetworkId, PortEntry, PortId, PortRole, RouteTarget,
    Tables, Tunnel, TunnelPeer,
};
use wire::{Addrs, MacAddr, PacketKind};

pub(crate) const POD_A: PortId = PortId(1);
pub(crate) const POD_B: PortId = PortId(2);
pub(crate) const HOST: PortId = PortId(3);
pub(crate) const UPLINK: PortId = PortId(4);
/// A pod behind the smallest MTU there is.
pub(crate) const NARROW: PortId = PortId(5);
pub(crate) const IDLE: PortId = PortId(6);
/// A pod of network 1, where pod A's addresses are its own.
pub(crate) const OTHER: PortId = PortId(7);
/// A second uplink, behind the smallest MTU, with addresses for its link alone.
pub(crate) const UPLINK2: PortId = PortId(8);

/// A tunnel over the first uplink.
pub(crate) const TUNNEL: PortId = PortId(9);
pub(crate) const OVER: Tunnel = Tunnel { port: TUNNEL, uplink: UPLINK, vni: 0x00_1234, udp_port: 4_789 };
/// Its ends: a node's by which it is reached in both families, another one's, and one across a router.
pub(crate) const PEERS: [(&str, MacAddr); 4] = [
    ("192.0.2.20", MacAddr([0x02, 0xcc, 0, 0, 0, 20])),
    ("2001:db8:2::20", MacAddr([0x02, 0xcc, 0, 0, 0, 20])),
    ("2001:db8:2::30", MacAddr([0x02, 0xcc, 0, 0, 0, 30])),
    ("198.51.100.40", MacAddr([0x02, 0xcc, 0, 0, 0, 40])),
];

pub(crate) fn port_mac(port: PortId) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 0, u8::try_from(port.0).unwrap()])
}

/// Of the endpoint behind a port.
pub(crate) fn mac(port: PortId) -> MacAddr {
    MacAddr([0x02, 0xaa, 0, 0, 0, u8::try_from(port.0).unwrap()])
}

fn endpoint(port: PortId, network: u16, kind: EndpointKind, addresses: &[&str]) -> Endpoint {
    Endpoint {
        id: EndpointId(0),
        name: format!("endpoint-{port}"),
        network: NetworkId(network),
        port,
        mac: mac(port),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        // Beside the pods' own network guests are told of routes.
        routes: if network == 0 {
            vec![]
        } else {
            vec!["10.245.0.0/16".parse().unwrap(), "fd01::/62".parse().unwrap()]
        },
        kind,
    }
}

/// A node with a port of every kind.
pub(crate) fn tables() -> Tables {
    let mut tables = Tables::empty();
    for id in [POD_A, POD_B, HOST, UPLINK, NARROW, IDLE, OTHER, UPLINK2, TUNNEL] {
        let mtu = match id {
            NARROW | UPLINK2 => 1280,
            TUNNEL => 1430,
            _ => 1500,
        };
        let port = PortEntry { id, name: format!("port-{id}"), mac: port_mac(id), mtu, role: PortRole::Idle };
        tables.set_port(port).unwrap();
    }
    let pods: [(PortId, u16, EndpointKind, &[&str]); 5] = [
        (POD_A, 0, EndpointKind::Pod, &["10.244.1.2", "fd00:1::2"]),
        (POD_B, 0, EndpointKind::Pod, &["10.244.1.3", "fd00:1::3"]),
        (NARROW, 0, EndpointKind::Pod, &["10.244.1.5", "fd00:1::5"]),
        (OTHER, 1, EndpointKind::Pod, &["10.244.1.2", "fd00:1::2"]),
        (HOST, 0, EndpointKind::Host, &["10.0.0.10", "fd00:a::10"]),
    ];
    for (port, network, kind, addresses) in pods {
        tables.set_endpoint(endpoint(port, network, kind, addresses)).unwrap();
    }
    let interface = |port, addresses: &[(&str, u8)]| Interface {
        port,
        network: NetworkId(0),
        addresses: addresses.iter().map(|&(a, len)| (a.parse().unwrap(), len)).collect(),
    };
    tables.set_interface(interface(UPLINK, &[("192.0.2.1", 24), ("2001:db8:2::1", 64)])).unwrap();
    tables.set_interface(interface(UPLINK2, &[("172.16.0.1", 24), ("fe80::8", 64)])).unwrap();
    tables.set_tunnel(OVER).unwrap();
    for (addr, mac) in PEERS {
        tables.set_tunnel_peer(TunnelPeer { port: TUNNEL, addr: addr.parse().unwrap(), mac }).unwrap();
    }
    let through = |a: &str| RouteTarget::NextHop { port: TUNNEL, addr: a.parse().unwrap(), inside: true };
    let hop = |a: &str| RouteTarget::NextHop { port: UPLINK, addr: a.parse().unwrap(), inside: false };
    let host = RouteTarget::Endpoint(tables.endpoint_by_name("endpoint-3").unwrap().id);
    for (prefix, target) in [
        ("198.51.100.0/24", hop("192.0.2.254")),
        ("2001:db8:100::/48", hop("2001:db8:2::fe")),
        ("10.244.1.0/24", RouteTarget::Unreachable),
        ("fd00:1::/64", RouteTarget::Unreachable),
        ("203.0.113.0/24", RouteTarget::Blackhole),
        ("2001:db8:dead::/48", RouteTarget::Blackhole),
        ("100.64.0.0/10", host),
        ("10.244.2.0/24", through("192.0.2.20")),
        ("fd00:2::/64", through("192.0.2.20")),
        ("10.244.3.0/24", through("2001:db8:2::30")),
        ("fd00:3::/64", through("2001:db8:2::30")),
        ("10.244.4.0/24", through("198.51.100.40")),
    ] {
        tables.set_route(NetworkId(0), prefix.parse().unwrap(), target).unwrap();
    }
    tables
}

pub(crate) fn body(data: &[u8]) {
    let Some((&[port, offload, size, start], frame)) = data.split_first_chunk() else { return };
    let port = PortId(u16::from(port % 11));
    let offload = offload_of(offload, size, start);
    let tables = tables();
    check(&tables, port, offload, frame);
    let mut fixed = frame.to_vec();
    fix(port, &mut fixed);
    check(&tables, port, offload, &fixed);
    if port == UPLINK {
        opened(&tables, offload, frame);
        opened(&tables, offload, &fixed);
    }
}

/// What comes out of a datagram is a packet like any other.
fn opened(tables: &Tables, offload: Offload, frame: &[u8]) {
    if !tunnel::looks_tunnelled(&OVER, frame) {
        return;
    }
    let mut buffer = VecBuffer::with_capacity(frame, 2048);
    let parsed = wire::parse(frame, frame.len());
    match tunnel::Decapsulator::default().decapsulate(tables, &OVER, &mut buffer, offload) {
        None => assert_eq!(buffer.head(), frame),
        // Whatever is taken for a datagram is one by the general rules.
        Some(_) if parsed.is_err() => panic!("{parsed:?}"),
        Some(Ok(offload)) => {
            check(tables, TUNNEL, offload, buffer.head());
        }
        Some(Err(_)) => {}
    }
}

/// What goes into a datagram comes out of it, but for the station that it is for.
fn tunnelled(tables: &Tables, frame: &[u8]) {
    let mut buffer = VecBuffer::with_capacity(frame, frame.len() + 128);
    let adjacencies = Adjacencies::default();
    let made = tunnel::Encapsulator::default().encapsulate(tables, &adjacencies, &OVER, &mut buffer);
    assert!(matches!(made, Ok(Output::Neighbour { port: UPLINK, .. })), "{made:?}");
    let outer = buffer.head();
    let parsed = wire::parse(outer, outer.len()).unwrap();
    assert_eq!((parsed.protocol, parsed.dst_port, parsed.dont_fragment), (17, OVER.udp_port, true));
    assert!(parsed.src_port >= 0xc000 && outer.len() <= 1514);
    assert_eq!(usize::try_from(parsed.frame_len).unwrap(), outer.len());
    if let Addrs::V6 { src, dst } = parsed.addrs {
        let message = &outer[usize::from(parsed.l4_offset)..];
        let pseudo = wire::checksum::pseudo_header_v6(src, dst, 17, u32::try_from(message.len()).unwrap());
        assert_eq!(wire::checksum::fold(pseudo + wire::checksum::sum(message)), 0xffff);
    }
    let inner = &outer[usize::from(parsed.l4_offset) + 16..];
    assert_eq!(inner[6..], frame[6..]);
    assert!(PEERS.iter().any(|(_, mac)| inner[..6] == mac.0));
}

fn offload_of(kind: u8, size: u8, start: u8) -> Offload {
    let (size, start) = (u16::from(size) * 8, u16::from(start));
    match kind % 8 {
        0 => Offload::Partial { start: 34, offset: 6 },
        1 => Offload::Partial { start, offset: size },
        2 => Offload::Gso { kind: GsoKind::TcpV4, size, header_len: start, start: 34, offset: 16 },
        3 => Offload::Gso { kind: GsoKind::TcpV6, size, header_len: start, start: 54, offset: 16 },
        4 => Offload::Gso { kind: GsoKind::Udp, size, header_len: start, start: 34, offset: 6 },
        _ => Offload::Done,
    }
}

/// Makes right what random bytes never have.
fn fix(port: PortId, frame: &mut [u8]) {
    let Some(l3) = frame.get_mut(14..) else { return };
    if let Ok(mut packet) = wire::Ipv4Packet::new_checked(l3) {
        packet.fill_checksum();
    }
    frame[..6].copy_from_slice(&port_mac(port).0);
    frame[6..12].copy_from_slice(&mac(port).0);
    let Ok(parsed) = wire::parse(frame, frame.len()) else { return };
    let (l4, end) = (usize::from(parsed.l4_offset), usize::try_from(parsed.frame_len).unwrap());
    if let (Addrs::V6 { src, dst }, 58) = (parsed.addrs, parsed.protocol) {
        // Groups get frames of theirs, and ND its hop limit.
        if dst.is_multicast() {
            frame[..6].copy_from_slice(&MacAddr::for_ipv6_multicast(dst).0);
        }
        frame[21] = 255;
        if let Ok(mut icmp) = wire::Icmpv6Packet::new_checked(&mut frame[l4..end]) {
            icmp.fill_checksum(src, dst);
        }
    }
    if let (Addrs::V6 { src, dst }, 17) = (parsed.addrs, parsed.protocol) {
        if dst.is_multicast() {
            frame[..6].copy_from_slice(&MacAddr::for_ipv6_multicast(dst).0);
        }
        let message = &mut frame[l4..end];
        if let Some(field) = message.get_mut(6..8) {
            field.fill(0);
            let pseudo =
                wire::checksum::pseudo_header_v6(src, dst, 17, u32::try_from(message.len()).unwrap());
            let sum = !wire::checksum::fold(pseudo + wire::checksum::sum(message));
            message[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
        }
    }
    if let (Addrs::V4 { .. }, 1) = (parsed.addrs, parsed.protocol)
        && let Ok(mut icmp) = wire::Icmpv4Packet::new_checked(&mut frame[l4..end])
    {
        icmp.fill_checksum();
    }
}

/// One for all frames: its flow table's memory is never given back.
static ROUTER: LazyLock<Mutex<Router<VecBuffer>>> = LazyLock::new(|| {
    let tracking = Tracking::alone().unwrap();
    tracking.adjacencies.sync(&tables());
    Mutex::new(Router::new(RouterConfig::default(), tracking))
});

/// Runs one frame in a burst with a plain one before and behind it, and looks at what became of them.
pub(crate) fn check(tables: &Tables, port: PortId, offload: Offload, frame: &[u8]) -> Verdict {
    let plain =
        || Packet { buffer: VecBuffer::with_capacity(&PLAIN, 2048), in_port: POD_A, offload: Offload::Done };
    let odd = Packet { buffer: VecBuffer::with_capacity(frame, 2048), in_port: port, offload };
    let mut burst = [plain(), odd, plain()];
    let mut router = ROUTER.lock().unwrap();
    let mut verdicts = ArrayVec::<Verdict, BURST>::new();
    router.run(tables, Tick(1), &mut burst, &mut verdicts);
    assert_eq!(verdicts.len(), 3);
    assert_eq!(verdicts[0], Verdict::Forward(Output::Port(POD_B)));
    assert_eq!(verdicts[2], verdicts[0]);
    assert!(router.learned().count() <= 1);
    let [_, packet, _] = burst;
    match verdicts[1] {
        Verdict::Forward(output) => forwarded(tables, frame, &packet, output),
        Verdict::Answer { fate, output } => answered(tables, &packet, fate, output),
        Verdict::Hold(ticket) => {
            // Held, or refused by name where too many wait; nothing else comes, and it is given back as it was.
            let mut back = Vec::new();
            match router.hold(ticket, packet.clone()) {
                Ok(()) => router.clear(|packet| back.push(packet)),
                Err((_, packet)) => back.push(packet),
            }
            assert!(back.iter().all(|back| back.buffer == packet.buffer));
            assert_eq!((back.len(), router.held()), (1, 0));
        }
        // By nobody else is the router told of the ways that its tunnels take.
        Verdict::Consume(reason) => assert!(reason != ConsumeReason::PathMtu || port == UPLINK),
        Verdict::Drop(_) | Verdict::Denied { .. } => {}
    }
    // A packet that is held by then may come back, whatever it is.
    let mut late = packet;
    match router.unreachable(tables, Tick(2), &mut late) {
        Verdict::Drop(_) => {}
        Verdict::Answer { fate, output } => answered(tables, &late, fate, output),
        other => panic!("{other:?}"),
    }
    verdicts[1]
}

/// Pod A to pod B, UDP.
const PLAIN: [u8; 42] = [
    2, 0, 0, 0, 0, 1, 2, 0xaa, 0, 0, 0, 1, 8, 0, // Ethernet
    0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0x22, 0xe5, 10, 244, 1, 2, 10, 244, 1, 3, // IPv4
    0, 7, 0, 9, 0, 8, 0, 0, // UDP
];

fn forwarded(tables: &Tables, before: &[u8], packet: &Packet<VecBuffer>, output: Output) {
    let after = packet.buffer.head();
    let old = wire::parse(before, before.len()).unwrap();
    let new = wire::parse(after, after.len()).unwrap();
    let port = tables.port(output.port()).unwrap();
    assert_eq!(after.len(), usize::try_from(old.frame_len).unwrap());
    assert!(old.ttl > 1);
    assert_eq!(new, wire::Parsed { ttl: old.ttl - 1, ..old });
    assert_eq!(after[6..12], port.mac.0);
    // TTL and checksum are bytes 22, 24 and 25 in IPv4; the hop limit is byte 21 in IPv6.
    let may = |at: usize| {
        at < 12 || if old.kind == PacketKind::Ipv4 { matches!(at, 22 | 24 | 25) } else { at == 21 }
    };
    for (at, (a, b)) in before.iter().zip(after).enumerate() {
        assert!(a == b || may(at), "byte {at}: {a:#x} became {b:#x}");
    }
    match packet.offload {
        Offload::Gso { .. } => {
            let segmenter = segment::Segmenter::new(after, packet.offload).unwrap();
            let mut payload = 0;
            for index in 0..segmenter.segments() {
                let mut out = [0; 4096];
                let len = segmenter.write(index, &mut out).unwrap();
                assert!(len <= segmenter.longest() && len - 14 <= usize::from(port.mtu));
                let parsed = wire::parse(&out[..len], len).unwrap();
                payload += len - usize::from(parsed.l4_offset);
            }
            assert!(payload >= after.len() - usize::from(new.l4_offset));
        }
        Offload::Partial { start, offset } => {
            assert!(after.len() - 14 <= usize::from(port.mtu));
            segment::finish_checksum(&mut after.to_vec(), start, offset).unwrap();
        }
        Offload::Done => {
            assert!(after.len() - 14 <= usize::from(port.mtu));
            if port.id == TUNNEL {
                tunnelled(tables, after);
            }
            if let Ok(fragmenter) = segment::Fragmenter::new(after, 68) {
                for index in 0..fragmenter.fragments() {
                    let mut out = [0; 96];
                    let len = fragmenter.write(index, &mut out).unwrap();
                    assert!(len <= 68 + 14 && wire::parse(&out[..len], len).is_ok());
                }
            }
        }
    }
}

/// What the router itself sends is valid to the last bit, and from it.
fn answered(tables: &Tables, packet: &Packet<VecBuffer>, fate: Fate, output: Output) {
    let frame = packet.buffer.head();
    assert_eq!(packet.offload, Offload::Done, "{fate:?}");
    let parsed = wire::parse(frame, frame.len()).unwrap();
    let port = tables.port(output.port()).unwrap();
    assert_eq!(frame.len(), usize::try_from(parsed.frame_len).unwrap());
    assert_eq!(frame[6..12], port.mac.0);
    assert!(usize::from(port.mtu) + 14 >= frame.len());
    let message = &frame[usize::from(parsed.l4_offset)..];
    match parsed.addrs {
        Addrs::V4 { src, dst } if parsed.protocol == 17 => {
            let len = u16::try_from(message.len()).unwrap();
            let pseudo = wire::checksum::pseudo_header_v4(src, dst, 17, len);
            assert_eq!(wire::checksum::fold(pseudo + wire::checksum::sum(message)), 0xffff);
        }
        Addrs::V6 { src, dst } if parsed.protocol == 17 => {
            let len = u32::try_from(message.len()).unwrap();
            let pseudo = wire::checksum::pseudo_header_v6(src, dst, 17, len);
            assert_eq!(wire::checksum::fold(pseudo + wire::checksum::sum(message)), 0xffff);
        }
        Addrs::V4 { .. } => assert!(wire::Icmpv4Packet::new_checked(message).unwrap().verify_checksum()),
        Addrs::V6 { src, dst } => {
            assert!(wire::Icmpv6Packet::new_checked(message).unwrap().verify_checksum(src, dst));
        }
        Addrs::None => assert_eq!(frame[20..22], [0, 2]),
    }
}
