//! Longest-prefix match: our trie, and what DPDK has for either family.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use benches::{Random, hits, routes_v4, routes_v6};
use dpdk::{Eal, Fib, Fib6, FibLookup, Lpm, Lpm6, RouteRoom};
use tables::lpm::{Key, Lpm as Trie};
use wire::IpPrefix;

use crate::contest::{ADDED, BURST, Contest, Failure, Table};

/// Values are below all tables' bounds, and so many that a wrong one is hardly ever the right one. A prime, so that neighbours in
/// any order differ.
const VALUES: u32 = 65_521;
/// `rte_lpm` scans all rules of a length for each that is added: a million take a minute, ten million hours.
const MOST_FOR_LPM: u32 = 2_000_000;
/// IPv4 addresses are read as numbers from packets; IPv6 addresses as they are.
type Addr6 = [u8; 16];

/// A route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route<A> {
    addr: A,
    len: u8,
    value: u32,
}

/// What differs between the families.
pub(crate) trait Family: Copy + 'static {
    type Key: Key;
    fn key(self) -> Self::Key;
    fn of(addr: IpAddr) -> Self;
    fn prefixes(count: usize) -> Vec<IpPrefix>;
    fn random(random: &mut Random) -> Self;
    fn show(&self) -> String;
}

impl Family for u32 {
    type Key = Self;
    #[inline]
    fn key(self) -> Self {
        self
    }
    fn of(addr: IpAddr) -> Self {
        if let IpAddr::V4(addr) = addr { addr.to_bits() } else { 0 }
    }
    fn prefixes(count: usize) -> Vec<IpPrefix> {
        routes_v4(count)
    }
    fn random(random: &mut Random) -> Self {
        // Half a word is cut off.
        Self::try_from(random.next_u64() >> 32).unwrap_or(0)
    }
    fn show(&self) -> String {
        Ipv4Addr::from_bits(*self).to_string()
    }
}

impl Family for Addr6 {
    type Key = u128;
    #[inline]
    fn key(self) -> u128 {
        u128::from_be_bytes(self)
    }
    fn of(addr: IpAddr) -> Self {
        if let IpAddr::V6(addr) = addr { addr.octets() } else { [0; 16] }
    }
    fn prefixes(count: usize) -> Vec<IpPrefix> {
        routes_v6(count)
    }
    fn random(random: &mut Random) -> Self {
        // Within 2000::/3, where some of them meet a short prefix.
        (random.next_u128() >> 3 | 1 << 125).to_be_bytes()
    }
    fn show(&self) -> String {
        Ipv6Addr::from_octets(*self).to_string()
    }
}

/// The case of so many IPv4 routes.
pub(crate) fn v4(
    eal: &Eal,
    entries: u32,
    rounds: u32,
    keys: usize,
) -> Result<Contest<u32, Route<u32>>, Failure> {
    let plan = Plan::<u32>::new(entries, rounds, keys);
    let room = plan.room();
    let mut tables = vec![plan.ours()];
    if entries <= MOST_FOR_LPM {
        let table = || Ok(Lpm4 { lpm: Lpm::new(eal, room)?, fours: false, answers: [0; BURST], bytes: 0 });
        tables.push(plan.fill(eal, table, |table, bytes| table.bytes = bytes)?);
    }
    let table = || {
        let mut fib = Fib::new(eal, room)?;
        let ways = ways(&FIB, |lookup| fib.select(lookup).is_ok());
        Ok(Fib4 { fib, ways, answers: [0; BURST], bytes: 0 })
    };
    tables.push(plan.fill(eal, table, |table, bytes| table.bytes = bytes)?);
    Ok(plan.contest("routes-v4", tables))
}

/// The case of so many IPv6 routes.
pub(crate) fn v6(
    eal: &Eal,
    entries: u32,
    rounds: u32,
    keys: usize,
) -> Result<Contest<Addr6, Route<Addr6>>, Failure> {
    let plan = Plan::<Addr6>::new(entries, rounds, keys);
    let room = plan.room();
    let mut tables = vec![plan.ours()];
    let table = || Ok(Lpm6Table { lpm: Lpm6::new(eal, room)?, answers: [0; BURST], bytes: 0 });
    tables.push(plan.fill(eal, table, |table, bytes| table.bytes = bytes)?);
    let room = plan.room_of_fib6();
    let table = || {
        let mut fib = Fib6::new(eal, room)?;
        let ways = ways(&FIB6, |lookup| fib.select(lookup).is_ok());
        Ok(Fib6Table { fib, ways, answers: [0; BURST], bytes: 0 })
    };
    tables.push(plan.fill(eal, table, |table, bytes| table.bytes = bytes)?);
    Ok(plan.contest("routes-v6", tables))
}

/// The same for all tables of a case.
struct Plan<A> {
    entries: u32,
    prefixes: Vec<IpPrefix>,
    routes: Vec<Route<A>>,
    keys: Vec<A>,
    more_keys: Vec<A>,
}

impl<A: Family> Plan<A> {
    fn new(entries: u32, rounds: u32, keys: usize) -> Self {
        let (first, more) = (entries as usize, rounds as usize * ADDED);
        let prefixes = A::prefixes(first + more);
        let route = |(prefix, number): (&IpPrefix, u32)| Route {
            addr: A::of(prefix.addr()),
            len: prefix.len(),
            value: 1 + number % VALUES,
        };
        let mut random = Random::new(5);
        let mut keys_of = |prefixes: &[IpPrefix], count| -> Vec<A> {
            let hits = hits(prefixes, count).into_iter().map(A::of);
            hits.zip(0_usize..)
                .map(|(hit, at)| if at % 16 == 15 { A::random(&mut random) } else { hit })
                .collect()
        };
        Self {
            entries,
            routes: prefixes.iter().zip(0..).map(route).collect(),
            keys: keys_of(&prefixes[..first], keys),
            more_keys: keys_of(&prefixes[first..], more * 8),
            prefixes,
        }
    }

    fn first(&self) -> &[Route<A>] {
        &self.routes[..self.entries as usize]
    }

    /// Groups below the first 24 bits: one for each address of 3, 4, … bytes that a longer prefix goes through; and some more, which
    /// are in use while a route is changed.
    fn room(&self) -> RouteRoom {
        let mut groups = 0;
        for depth in 3..16_u8 {
            let longer = self.prefixes.iter().filter(|prefix| prefix.len() > depth * 8);
            let nodes: HashSet<_> =
                longer.filter_map(|prefix| IpPrefix::containing(prefix.addr(), depth * 8)).collect();
            groups += nodes.len();
        }
        self.room_with(groups)
    }

    /// `rte_fib6` reserves groups for a route from the next shorter one on that holds it, whether or not others go the same way.
    fn room_of_fib6(&self) -> RouteRoom {
        let groups = |prefix: &IpPrefix| usize::from(prefix.len().div_ceil(8).saturating_sub(3));
        self.room_with(self.prefixes.iter().map(groups).sum())
    }

    fn room_with(&self, groups: usize) -> RouteRoom {
        // Both are below some ten million.
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        RouteRoom { routes: number(self.routes.len() + 64), groups: number(groups + groups / 8 + 256) }
    }

    fn ours(&self) -> Box<dyn Table<A, Route<A>>> {
        let mut trie = Trie::new();
        for route in self.first() {
            trie.insert(route.addr.key(), route.len, route.value);
        }
        Box::new(Ours { trie, answers: [0; BURST] })
    }

    /// A table of DPDK's with the routes in it, told how much memory it takes.
    fn fill<T: Table<A, Route<A>> + 'static>(
        &self,
        eal: &Eal,
        make: impl FnOnce() -> Result<T, Failure>,
        takes: impl FnOnce(&mut T, usize),
    ) -> Result<Box<dyn Table<A, Route<A>>>, Failure> {
        let before = eal.used_bytes();
        let mut table = make()?;
        self.first().iter().try_for_each(|route| table.add(route))?;
        takes(&mut table, eal.used_bytes().saturating_sub(before));
        Ok(Box::new(table))
    }

    fn contest(self, title: &'static str, tables: Vec<Box<dyn Table<A, Route<A>>>>) -> Contest<A, Route<A>> {
        let Self { entries, routes, keys, more_keys, .. } = self;
        let more = routes[entries as usize..].to_vec();
        Contest { title, entries, tables, keys, more, more_keys, show: A::show }
    }
}

struct Ours<A: Family> {
    trie: Trie<A::Key>,
    answers: [u32; BURST],
}

impl<A: Family> Table<A, Route<A>> for Ours<A> {
    fn ways(&self) -> &[&'static str] {
        &["podrouter"]
    }

    #[inline]
    fn look_up(&mut self, keys: &[A]) {
        for (answer, key) in self.answers.iter_mut().zip(keys) {
            *answer = self.trie.lookup(key.key());
        }
    }

    fn answer(&self, at: usize) -> u32 {
        self.answers[at]
    }

    fn add(&mut self, route: &Route<A>) -> Result<(), Failure> {
        // The generation before stays whole until its last reader has gone, here at the end of this.
        let before = self.trie.clone();
        self.trie.insert(route.addr.key(), route.len, route.value);
        drop(before);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.trie.heap_bytes()
    }
}

struct Lpm4 {
    lpm: Lpm,
    fours: bool,
    answers: [u32; BURST],
    bytes: usize,
}

impl Table<u32, Route<u32>> for Lpm4 {
    fn ways(&self) -> &[&'static str] {
        &["rte_lpm bulk", "rte_lpm x4"]
    }

    fn choose(&mut self, way: usize) -> Result<(), Failure> {
        self.fours = way == 1;
        Ok(())
    }

    #[inline]
    fn look_up(&mut self, keys: &[u32]) {
        if self.fours {
            self.lpm.look_up_fours(keys, &mut self.answers);
        } else {
            self.lpm.look_up(keys, &mut self.answers);
        }
    }

    fn answer(&self, at: usize) -> u32 {
        if self.fours { self.answers[at] } else { Lpm::value(self.answers[at]) }
    }

    fn add(&mut self, route: &Route<u32>) -> Result<(), Failure> {
        Ok(self.lpm.add(route.addr, route.len, route.value)?)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

struct Lpm6Table {
    lpm: Lpm6,
    answers: [i32; BURST],
    bytes: usize,
}

impl Table<Addr6, Route<Addr6>> for Lpm6Table {
    fn ways(&self) -> &[&'static str] {
        &["rte_lpm6 bulk"]
    }

    #[inline]
    fn look_up(&mut self, keys: &[Addr6]) {
        self.lpm.look_up(keys, &mut self.answers);
    }

    fn answer(&self, at: usize) -> u32 {
        u32::try_from(self.answers[at]).unwrap_or(0)
    }

    fn add(&mut self, route: &Route<Addr6>) -> Result<(), Failure> {
        Ok(self.lpm.add(route.addr, route.len, route.value)?)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

const LOOKUPS: [FibLookup; 2] = [FibLookup::Scalar, FibLookup::Avx512];
const FIB: [&str; 2] = ["rte_fib scalar", "rte_fib avx512"];
const FIB6: [&str; 2] = ["rte_fib6 scalar", "rte_fib6 avx512"];

/// The ways that this machine has: those before the first that it has not.
fn ways(
    names: &'static [&'static str; 2],
    mut works: impl FnMut(FibLookup) -> bool,
) -> &'static [&'static str] {
    let working = LOOKUPS.into_iter().take_while(|&lookup| works(lookup)).count();
    &names[..working.max(1)]
}

struct Fib4 {
    fib: Fib,
    ways: &'static [&'static str],
    answers: [u64; BURST],
    bytes: usize,
}

impl Table<u32, Route<u32>> for Fib4 {
    fn ways(&self) -> &[&'static str] {
        self.ways
    }

    fn choose(&mut self, way: usize) -> Result<(), Failure> {
        Ok(self.fib.select(LOOKUPS[way])?)
    }

    #[inline]
    fn look_up(&mut self, keys: &[u32]) {
        self.fib.look_up(keys, &mut self.answers);
    }

    fn answer(&self, at: usize) -> u32 {
        u32::try_from(self.answers[at]).unwrap_or(u32::MAX)
    }

    fn add(&mut self, route: &Route<u32>) -> Result<(), Failure> {
        Ok(self.fib.add(route.addr, route.len, route.value)?)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

struct Fib6Table {
    fib: Fib6,
    ways: &'static [&'static str],
    answers: [u64; BURST],
    bytes: usize,
}

impl Table<Addr6, Route<Addr6>> for Fib6Table {
    fn ways(&self) -> &[&'static str] {
        self.ways
    }

    fn choose(&mut self, way: usize) -> Result<(), Failure> {
        Ok(self.fib.select(LOOKUPS[way])?)
    }

    #[inline]
    fn look_up(&mut self, keys: &[Addr6]) {
        self.fib.look_up(keys, &mut self.answers);
    }

    fn answer(&self, at: usize) -> u32 {
        u32::try_from(self.answers[at]).unwrap_or(u32::MAX)
    }

    fn add(&mut self, route: &Route<Addr6>) -> Result<(), Failure> {
        Ok(self.fib.add(route.addr, route.len, route.value)?)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}
