//! Longest-prefix match alone: a lookup in tables of 1 to 10 M routes, one change in a million, and bytes a route.
//!
//! `random` addresses each lie in some route; `batch` looks up 32 at a time, as a burst does, so that loads overlap;
//! `dependent` makes each address wait for the answer before, which is the latency of one lookup.

use std::fmt::Debug;
use std::hint::black_box;
use std::net::IpAddr;

use benches::{hits, routes_v4, routes_v6, sizes};
use criterion::{Criterion, criterion_group, criterion_main};
use measured::Group;
use tables::lpm::{Key, Lpm};
use wire::IpPrefix;

mod measured;

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
    let most = sizes().into_iter().max().unwrap_or(1);
    let prefixes = K::routes(most as usize);
    let mut group = Group::new(c, format!("lpm/{}", K::NAME), 32);
    for size in sizes() {
        let routes = &prefixes[..size as usize];
        let trie = build::<K>(routes);
        let bytes = trie.heap_bytes();
        eprintln!("lpm/{}: {size} routes, {bytes} bytes, {} a route", K::NAME, bytes / routes.len());
        let probes: Vec<K> = hits(routes, PROBES).into_iter().map(K::of).collect();
        group.elements(32);
        let mut bursts = probes.chunks(32).cycle();
        group.bench("batch", size, || {
            bursts.next().map(|burst| burst.iter().fold(0, |sum: u32, &addr| sum ^ trie.lookup(addr)))
        });
        group.elements(1);
        let mut addresses = probes.iter().cycle();
        let mut last = 0;
        group.bench("dependent", size, || {
            if let Some(&addr) = addresses.next() {
                last = trie.lookup(black_box(addr.after(last)));
            }
            last
        });
    }

    let (old, fresh) = prefixes[..1_000_000].split_at(999_000);
    let trie = build::<K>(old);
    let mut next = fresh.iter().cycle();
    let input = || (trie.clone(), next.next());
    group.bench_with("one more, old one kept", 1_000_000, input, |(trie, route)| {
        route.map(|prefix| trie.insert(K::of(prefix.addr()), prefix.len(), 3))
    });
    let mut next = old.iter().step_by(997).cycle();
    let input = || (trie.clone(), next.next());
    group.bench_with("one less, old one kept", 1_000_000, input, |(trie, route)| {
        route.map(|prefix| trie.remove(K::of(prefix.addr()), prefix.len()))
    });
}

fn lpm(c: &mut Criterion) {
    family::<u32>(c);
    family::<u128>(c);
}

criterion_group!(benches, lpm);
criterion_main!(benches);
