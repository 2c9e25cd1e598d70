//! The flow table: a burst looked up in the steps of the path of a packet, and a flow made and ended.
//!
//! Ten million flows take 1.5 GB for IPv4 and 2.3 GB for IPv6.

#![expect(clippy::expect_used, reason = "a benchmark that cannot prepare its table says so and ends")]

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use benches::{Random, sizes};
use criterion::{Criterion, criterion_group, criterion_main};
use flow::{
    Action, Binding, Family, Flows, FlowsConfig, Inserted, Life, Local, NewFlow, Seat, Seconds, Shelf, State,
    Table, Timeouts, Tuple, V4, V6,
};
use measured::Group;

mod measured;

const BURST: usize = 32;
const LEAST: u32 = 64;
const NOW: Seconds = Seconds(1000);

/// What differs between the families.
trait Side: Family {
    const NAME: &'static str;
    fn sizes(records: u32) -> (u32, u32);
    fn table(flows: &Flows) -> &Table<Self>;
    fn shelf(local: &mut Local) -> &mut Shelf;
    fn addr(bits: u32) -> Self::Addr;
}

impl Side for V4 {
    const NAME: &'static str = "ipv4";
    fn sizes(records: u32) -> (u32, u32) {
        (records, LEAST)
    }
    fn table(flows: &Flows) -> &Table<Self> {
        &flows.v4
    }
    fn shelf(local: &mut Local) -> &mut Shelf {
        &mut local.v4
    }
    fn addr(bits: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(bits)
    }
}

impl Side for V6 {
    const NAME: &'static str = "ipv6";
    fn sizes(records: u32) -> (u32, u32) {
        (LEAST, records)
    }
    fn table(flows: &Flows) -> &Table<Self> {
        &flows.v6
    }
    fn shelf(local: &mut Local) -> &mut Shelf {
        &mut local.v6
    }
    fn addr(bits: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(bits))
    }
}

/// Pods of a /10 on a Service's frontend.
fn tuple<F: Side>(number: u32) -> Tuple<F::Addr> {
    let (src, dst) = (F::addr(0x0a00_0000 + number / 4), F::addr(0x0a60_0001));
    let src_port = 30_000 + u16::try_from(number % 4).unwrap_or(0);
    Tuple { src, dst, src_port, dst_port: 80, network: 0, protocol: 6 }
}

fn insert<F: Side>(flows: &Flows, local: &mut Local, number: u32) -> Inserted {
    let tuple = tuple::<F>(number);
    let new = NewFlow {
        key: F::key(&tuple),
        state: State::Established,
        binding: Binding { since: NOW, ..Binding::default() },
        actions: [1, 2].map(|adjacency| Action::new(1, adjacency, 0, false)),
        rules: [0; 2],
    };
    let reply = F::key(&tuple.reversed());
    F::table(flows).insert(F::shelf(local), &flows.epochs, &new, [reply], NOW)
}

/// A table with so many flows, and a sixth of its records free.
fn filled<F: Side>(count: u32) -> (Flows, Local) {
    let (v4, v6) = F::sizes((count + count / 5).next_multiple_of(LEAST).max(2 * LEAST));
    let config =
        FlowsConfig { v4, v6, seats: 1, seeds: [0x5eed, 0xfeed, 0xbead], timeouts: Timeouts::default() };
    let words = shm::anonymous(Flows::words(&config)).expect("memory for the table");
    let (flows, _) = Flows::adopt(words, &config).expect("a table of this size");
    let mut local = Local::new(Seat(0));
    for number in 0..count {
        flows.epochs.quiesce(local.seat);
        black_box(insert::<F>(&flows, &mut local, number));
    }
    (flows, local)
}

/// As the pipeline does it: each step for the whole burst before the next.
fn look_up<F: Side>(table: &Table<F>, keys: &[F::Key], found: &mut [Option<Life>; BURST]) {
    let mut hashes = [0; BURST];
    for (hash, key) in hashes.iter_mut().zip(keys) {
        *hash = table.hash(key);
        table.prefetch(*hash);
    }
    let mut firsts = [None; BURST];
    for (first, &hash) in firsts.iter_mut().zip(&hashes) {
        *first = table.first(hash);
        if let Some(handle) = *first {
            table.prefetch_record(handle);
        }
    }
    for (((found, first), key), &hash) in found.iter_mut().zip(firsts).zip(keys).zip(&hashes) {
        *found = first
            .and_then(|handle| table.verify(handle, key))
            .or_else(|| table.find(hash, key).map(|found| found.life));
    }
}

fn lookup<F: Side>(c: &mut Criterion) {
    let mut group = Group::new(c, format!("flow/{}", F::NAME), BURST as u64);
    // 16,000 fill the second cache.
    let mut counts = sizes();
    counts.push(16_000);
    counts.sort_unstable();
    for count in counts {
        let (flows, _local) = filled::<F>(count);
        // In no order, so that no prefetcher guesses the next.
        let mut random = Random::new(3);
        let keys: Vec<F::Key> = (0..1 << 16)
            .map(|_| u32::try_from(random.below(count.into())).unwrap_or(0))
            .map(|number| F::key(&tuple::<F>(number)))
            .collect();
        let mut bursts = keys.chunks_exact(BURST).cycle();
        let mut found = [None; BURST];
        group.bench("look up a burst", count, || {
            if let Some(keys) = bursts.next() {
                look_up(F::table(&flows), keys, &mut found);
            }
            black_box(&found);
        });
    }
}

fn change<F: Side>(c: &mut Criterion) {
    let mut group = Group::new(c, format!("flow/{}", F::NAME), 1);
    for count in sizes() {
        let (flows, mut local) = filled::<F>(count);
        let mut number = count;
        group.bench("insert and end", count, || {
            number = number % 0x00ff_ffff + 1;
            if let Inserted::New(handle) = insert::<F>(&flows, &mut local, count + number) {
                F::table(&flows).end(F::shelf(&mut local), &flows.epochs, handle);
            }
            flows.epochs.quiesce(local.seat);
        });
    }
    // One goes for each that comes.
    let (flows, mut local) = filled::<F>(1_000_000);
    let mut number = 1_000_000;
    for _ in 0..300_000 {
        number += 1;
        black_box(insert::<F>(&flows, &mut local, number));
        flows.epochs.quiesce(local.seat);
    }
    group.bench("insert into a full table", 1_200_000, || {
        number = (number + 1) & 0x00ff_ffff;
        black_box(insert::<F>(&flows, &mut local, number));
        flows.epochs.quiesce(local.seat);
    });
}

criterion_group!(benches, lookup::<V4>, lookup::<V6>, change::<V4>, change::<V6>);
criterion_main!(benches);
