//! What is asked of the link layer and of fragments: a neighbour's MAC, where an adjacency leads, what a later fragment belongs to, and
//! the way into a tunnel and out of it.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use benches::Random;
use benches::world::{PODS, Rules, load};
use criterion::{Criterion, criterion_group, criterion_main};
use measured::Group;
use pipeline::tunnel::{Decapsulator, Encapsulator};
use pipeline::{
    Adjacencies, Buffer, FragmentConfig, Fragments, Heard, Learned, NeighbourConfig, Neighbours, Offload,
    Resolution, Tick,
};
use tables::{
    Interface, NetworkId, PortEntry, PortId, PortRole, RouteTarget, TableError, Tables, Tunnel, TunnelPeer,
};
use wire::{Ipv4Packet, MacAddr, protocol};

mod measured;

const UPLINK: PortId = PortId(7);
const NOW: Tick = Tick(1 << 40);
/// Neighbours, and packets in fragments: 4,096 and 2,048 are what a data plane has by default.
const SIZES: [u32; 4] = [1, 1_000, 10_000, 100_000];

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

fn learned(number: u32) -> Learned {
    let [_, b, c, d] = number.to_be_bytes();
    let mac = Some(MacAddr([2, 0, 0, b, c, d]));
    Learned { port: UPLINK, address: address(number), mac, heard: Heard::Solicitation }
}

fn neighbours(c: &mut Criterion) {
    let mut group = Group::new(c, "neighbours", 1);
    for size in SIZES {
        let config = NeighbourConfig { capacity: size * 2, ..NeighbourConfig::default() };
        let mut neighbours = Neighbours::<()>::new(config);
        for number in 0..size {
            neighbours.learn(NOW, &learned(number), &mut |_, ()| {});
        }
        let mut random = Random::new(11);
        let asked: Vec<u32> =
            (0..1 << 14).map(|_| u32::try_from(random.below(size.into())).unwrap_or(0)).collect();
        let mut next = asked.iter().cycle();
        group.bench("resolve a known one", size, || {
            let number = next.next().copied().unwrap_or_default();
            matches!(neighbours.resolve(NOW, UPLINK, address(number), ()), Resolution::Known(..))
        });
        group.bench("hear of a known one", size, || {
            let number = next.next().copied().unwrap_or_default();
            neighbours.learn(NOW, &learned(number), &mut |_, ()| {});
        });
    }
}

fn adjacencies(c: &mut Criterion) {
    let mut group = Group::new(c, "adjacencies", 1);
    let adjacencies = Adjacencies::default();
    let rules = Rules { services: 1, policies: 2, routes: 1 };
    match load(rules) {
        Ok(tables) => {
            group.bench("sync with tables of two endpoints", 2, || adjacencies.sync(black_box(&tables)));
            let mut number = 0;
            group.bench("output", 2, || {
                number ^= 1;
                adjacencies.output(number)
            });
        }
        Err(error) => eprintln!("adjacencies: {error}"),
    }
}

/// One of the two fragments of a datagram.
fn fragment(ident: u16, first: bool) -> [u8; 64] {
    let mut b = [0; 64];
    b[12..14].copy_from_slice(&[8, 0]);
    let [high, low] = ident.to_be_bytes();
    // More fragments; or 24 bytes on, and none.
    let [flags, offset] = if first { [0x20, 0] } else { [0, 3] };
    b[14..24].copy_from_slice(&[0x45, 0, 0, 44, high, low, flags, offset, 64, protocol::UDP]);
    b[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    b[34..42].copy_from_slice(&[0x9c, 0x40, 0, 80, 0, 48, 0, 0]);
    if let Ok(mut packet) = Ipv4Packet::new_checked(&mut b[14..]) {
        packet.fill_checksum();
    }
    b
}

fn fragments(c: &mut Criterion) {
    let mut group = Group::new(c, "fragments", 2);
    for size in SIZES {
        let config = FragmentConfig { capacity: size + 16, ..FragmentConfig::default() };
        let mut fragments = Fragments::<()>::new(config);
        // Others are under way: their first fragment has come.
        for number in 0..size.min(60_000) {
            let frame = fragment(u16::try_from(number).unwrap_or(0), true);
            if let Ok(parsed) = wire::parse(&frame, 60) {
                black_box(fragments.look_up(NOW, PODS, &parsed, &frame));
            }
        }
        let pairs: Vec<_> =
            (60_000..65_000).map(|ident| [true, false].map(|first| fragment(ident, first))).collect();
        let mut next = pairs.iter().cycle();
        group.bench("first and last of a packet", size.min(60_000), || {
            for frame in next.next().into_iter().flatten() {
                if let Ok(parsed) = wire::parse(frame, 60) {
                    black_box(fragments.look_up(NOW, PODS, &parsed, frame));
                }
            }
        });
    }
}

/// A frame with room in front of it, as packet buffers have.
#[derive(Clone)]
struct Headroom {
    bytes: [u8; 2_048],
    begin: usize,
    end: usize,
}

impl Buffer for Headroom {
    fn head(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.end]
    }

    fn frame_len(&self) -> usize {
        self.end - self.begin
    }

    fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.begin + len);
    }

    fn resize(&mut self, len: usize) -> bool {
        self.end = self.begin + len;
        self.end <= self.bytes.len()
    }

    fn strip(&mut self, len: usize) -> bool {
        self.begin += len;
        self.begin < self.end
    }

    fn prepend(&mut self, len: usize) -> bool {
        self.begin -= len;
        true
    }
}

const TUNNEL: Tunnel = Tunnel { port: PortId(8), uplink: UPLINK, vni: 1, udp_port: 4_789 };
const STATION: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

/// The end of a tunnel, in IPv4 or IPv6, at a node that may be one of many.
fn end(number: u32, v4: bool) -> IpAddr {
    if v4 { address(number) } else { std::net::Ipv6Addr::from(0xfd00 << 112 | u128::from(number)).into() }
}

/// The ranges of nodes: 172.16.0.0 and on, 256 addresses each.
fn range(number: u32) -> u32 {
    0xac10_0000 + (number << 8)
}

/// A node that has tunnels to all others of so many.
fn node(own: u32, nodes: u32, v4: bool) -> Result<Tables, TableError> {
    let mut tables = Tables::empty();
    for (id, mtu) in [(UPLINK, 1_600), (TUNNEL.port, 1_500)] {
        let name = id.to_string();
        tables.set_port(PortEntry { id, name, mac: STATION, mtu, role: PortRole::Idle })?;
    }
    let addresses = vec![(end(own, v4), if v4 { 8 } else { 64 })];
    tables.set_interface(Interface { port: UPLINK, network: NetworkId(0), addresses })?;
    tables.set_tunnel(TUNNEL)?;
    for number in (0..nodes).filter(|&number| number != own) {
        let (port, addr) = (TUNNEL.port, end(number, v4));
        tables.set_tunnel_peer(TunnelPeer { port, addr, mac: STATION })?;
        let prefix = wire::IpPrefix::containing(Ipv4Addr::from_bits(range(number)).into(), 24);
        let target = RouteTarget::NextHop { port, addr, inside: true };
        prefix.map_or(Ok(()), |prefix| tables.set_route(NetworkId(0), prefix, target))?;
    }
    Ok(tables)
}

/// From a pod of the first node to one of another, on the tunnel's port there, so many bytes.
fn tunnelled(tables: &Tables, to: u32, v4: bool, len: usize) -> Headroom {
    let number = tables.tunnel_peer_at(TUNNEL.port, end(to, v4)).map_or(0, |number| number.0);
    let mut frame = Headroom { bytes: [0; 2_048], begin: 128, end: 128 + len };
    let b = frame.head_mut();
    b[..2].copy_from_slice(&[0x02, 0x76]);
    b[2..6].copy_from_slice(&number.to_be_bytes());
    b[6..12].copy_from_slice(&STATION.0);
    b[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    let ip_len = u16::try_from(len - 14).unwrap_or(0);
    b[16..18].copy_from_slice(&ip_len.to_be_bytes());
    b[22..24].copy_from_slice(&[64, protocol::UDP]);
    b[26..30].copy_from_slice(&(range(0) + 2).to_be_bytes());
    b[30..34].copy_from_slice(&(range(to) + 2).to_be_bytes());
    if let Ok(mut ip) = Ipv4Packet::new_checked(&mut b[14..34]) {
        ip.fill_checksum();
    }
    frame
}

fn tunnels(c: &mut Criterion) {
    let mut group = Group::new(c, "tunnels", 1);
    let adjacencies = Adjacencies::default();
    for (nodes, v4, len) in
        [(2, true, 64), (200, true, 64), (5_000, true, 64), (200, true, 1_400), (200, false, 1_400)]
    {
        let ways = [0, 1].map(|own| node(own, nodes, v4));
        let [Ok(here), Ok(there)] = &ways else {
            eprintln!("tunnels: {:?}", ways.map(|way| way.err()));
            return;
        };
        let mut encapsulator = Encapsulator::default();
        let mut random = Random::new(5);
        let frames: Vec<Headroom> = (0..256)
            .map(|_| 1 + u32::try_from(random.below(u64::from(nodes) - 1)).unwrap_or(0))
            .map(|to| tunnelled(here, to, v4, len))
            .collect();
        let what = format!("{nodes} nodes, {len} bytes, {}", if v4 { "IPv4" } else { "IPv6" });
        let mut next = frames.iter().cycle();
        let mut frame = frames[0].clone();
        group.bench("in", &what, || {
            // Its headers anew: what is behind them stays as it is.
            let head = next.next().map_or(&[][..], |next| &next.bytes[128..192]);
            (frame.begin, frame.end) = (128, 128 + len);
            frame.bytes[128..192].copy_from_slice(head);
            encapsulator.encapsulate(here, &adjacencies, &TUNNEL, &mut frame).is_ok()
        });
        // One that comes to the second node from the first.
        let mut made = tunnelled(here, 1, v4, len);
        if encapsulator.encapsulate(here, &adjacencies, &TUNNEL, &mut made).is_err() {
            eprintln!("tunnels: nothing to take out");
            return;
        }
        made.head_mut()[..6].copy_from_slice(&STATION.0);
        let (begin, end) = (made.begin, made.end);
        let mut decapsulator = Decapsulator::default();
        group.bench("out", &what, || {
            (made.begin, made.end) = (begin, end);
            decapsulator
                .decapsulate(there, &TUNNEL, &mut made, Offload::Done)
                .is_some_and(|taken| taken.is_ok())
        });
    }
}

criterion_group!(benches, neighbours, adjacencies, fragments, tunnels);
criterion_main!(benches);
