//! What is asked of the link layer and of fragments: a neighbour's MAC, where an adjacency leads, what a later fragment belongs to.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use benches::Random;
use benches::world::{PODS, Rules, load};
use criterion::{Criterion, criterion_group, criterion_main};
use measured::Group;
use pipeline::{
    Adjacencies, FragmentConfig, Fragments, Heard, Learned, NeighbourConfig, Neighbours, Resolution, Tick,
};
use tables::PortId;
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

criterion_group!(benches, neighbours, adjacencies, fragments);
criterion_main!(benches);
