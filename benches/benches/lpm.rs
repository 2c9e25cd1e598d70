//! Longest-prefix match alone: a lookup in tables of 1 to 1 M routes, one change in the largest, and bytes a route.
//!
//! `random` addresses each lie in some route; `batch` looks up 32 at a time, as a burst does, so that loads overlap;
//! `dependent` makes each address wait for the answer before, which is the latency of one lookup.

use std::fmt::Debug;
use std::hint::black_box;
use std::net::IpAddr;

use benches::{SIZES, hits, routes_v4, routes_v6};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tables::lpm::{Key, Lpm};
use wire::IpPrefix;

const PROBES: usize = 1 << 16;

trait Family: Key + Debug {
    const NAME: &'static str;
    fn of(addr: IpAddr) -> Self;
    fn routes(count: usize) -> Vec<IpPrefix>;
    /// The key, changed by a value in a way that the compiler cannot see through and that changes nothing.
    fn after(self, value: u32) -> Self;
}

impl Family for u32 {
    const NAME: &'static str = "ipv4";
    fn of(addr: IpAddr) -> Self {
        if let IpAddr::V4(addr) = addr { addr.to_bits() } else { 0 }
    }
    fn routes(count: usize) -> Vec<IpPrefix> {
        routes_v4(count)
    }
    fn after(self, value: u32) -> Self {
        self ^ (value >> 31)
    }
}

impl Family for u128 {
    const NAME: &'static str = "ipv6";
    fn of(addr: IpAddr) -> Self {
        if let IpAddr::V6(addr) = addr { addr.to_bits() } else { 0 }
    }
    fn routes(count: usize) -> Vec<IpPrefix> {
        routes_v6(count)
    }
    fn after(self, value: u32) -> Self {
        self ^ Self::from(value >> 31)
    }
}

fn build<K: Family>(prefixes: &[IpPrefix]) -> Lpm<K> {
    let mut trie = Lpm::new();
    for (prefix, value) in prefixes.iter().zip(0_u32..) {
        // As few next hops as a node has; neighbouring routes often share one.
        trie.insert(K::of(prefix.addr()), prefix.len(), 1 + value % 16);
    }
    trie
}

fn family<K: Family>(c: &mut Criterion) {
    let prefixes = K::routes(1_000_000);
    let mut group = c.benchmark_group(format!("lpm/{}", K::NAME));
    for size in SIZES {
        let trie = build::<K>(&prefixes[..size]);
        let bytes = trie.heap_bytes();
        eprintln!("lpm/{}: {size} routes, {bytes} bytes, {} a route", K::NAME, bytes / size);
        let probes: Vec<K> = hits(&prefixes[..size], PROBES).into_iter().map(K::of).collect();
        group.throughput(Throughput::Elements(32));
        group.bench_function(BenchmarkId::new("batch", size), |b| {
            let mut bursts = probes.chunks(32).cycle();
            b.iter(|| {
                bursts.next().map(|burst| burst.iter().fold(0, |sum: u32, &addr| sum ^ trie.lookup(addr)))
            });
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("dependent", size), |b| {
            let mut addresses = probes.iter().cycle();
            let mut last = 0;
            b.iter(|| {
                if let Some(&addr) = addresses.next() {
                    last = trie.lookup(black_box(addr.after(last)));
                }
                last
            });
        });
    }

    let trie = build::<K>(&prefixes[..999_000]);
    let fresh: Vec<(K, u8)> =
        prefixes[999_000..].iter().map(|prefix| (K::of(prefix.addr()), prefix.len())).collect();
    let mut next = fresh.iter().cycle();
    group.bench_function("one more among 1 M, old one kept", |b| {
        b.iter_batched(
            || (trie.clone(), next.next().copied()),
            |(mut new, route)| {
                if let Some((key, len)) = route {
                    new.insert(key, len, 3);
                }
                new
            },
            BatchSize::SmallInput,
        );
    });
    let mut next = prefixes[..999_000].iter().step_by(997).cycle();
    group.bench_function("one less among 1 M, old one kept", |b| {
        b.iter_batched(
            || (trie.clone(), next.next().copied()),
            |(mut new, route)| {
                if let Some(prefix) = route {
                    new.remove(K::of(prefix.addr()), prefix.len());
                }
                new
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn lpm(c: &mut Criterion) {
    family::<u32>(c);
    family::<u128>(c);
}

criterion_group!(benches, lpm);
criterion_main!(benches);
