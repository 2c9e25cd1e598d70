//! What the benchmarks in `benches/` share: route tables like real ones, and addresses to look up in them; the path of a packet with
//! all that it needs; an allocator that counts, and how its counts are kept.
//!
//! Everything is made from a fixed seed: two runs, and two versions of the code, measure the same tables. Without DPDK, without root.
//! `cargo bench -p benches` runs all; `cargo bench -p benches --bench lpm -- ipv4` one part.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; nothing else here is")]
pub mod counting;
pub mod frame;
pub mod path;
pub mod tally;
pub mod world;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::IpPrefix;

/// The table sizes that benchmarks go through.
const SIZES: [u32; 4] = [1, 1_000, 100_000, 1_000_000];
/// Asks for [`MOST`] entries too.
pub const LARGE: &str = "PODROUTER_BENCH_LARGE";
/// The most entries that a table is filled with: some 2 GB.
const MOST: u32 = 10_000_000;

/// The table sizes that benchmarks go through, up to a million; to ten million where [`LARGE`] is in the environment.
#[must_use]
pub fn sizes() -> Vec<u32> {
    SIZES.into_iter().chain(std::env::var_os(LARGE).map(|_| MOST)).collect()
}

/// A small generator of numbers, good enough to spread addresses (splitmix64, Steele et al., OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// The next 128 bits.
    pub fn next_u128(&mut self) -> u128 {
        u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())
    }

    /// A number below `end`, which is above 0. The bias is below 2⁻³² for small ends.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }
}

/// Shares of prefix lengths in thousandths, roughly those of the default-free zone (CIDR report, BGP potaroo). What the
/// last entry leaves open goes to hosts, as a cluster adds them.
const MIX_V4: [(u8, u64); 12] = [
    (12, 1),
    (14, 2),
    (16, 14),
    (17, 9),
    (18, 15),
    (19, 27),
    (20, 45),
    (21, 55),
    (22, 115),
    (23, 105),
    (24, 592),
    (32, 20),
];
const MIX_V6: [(u8, u64); 8] =
    [(29, 20), (32, 110), (36, 60), (40, 80), (44, 90), (48, 500), (64, 100), (128, 40)];

/// `count` different prefixes of the IPv4 Internet's mix of lengths, in no order.
#[must_use]
pub fn routes_v4(count: usize) -> Vec<IpPrefix> {
    routes(count, &MIX_V4, |random| {
        // Unicast space: first octets 1 to 223. Neighbouring routes share their upper bytes as allocations do.
        let first = 1 + random.below(223);
        let rest = random.next_u64() & 0x00ff_ffff;
        u32::try_from(first << 24 | rest)
            .map_or(IpAddr::from([0; 4]), |bits| Ipv4Addr::from_bits(bits).into())
    })
}

/// `count` different prefixes of the IPv6 Internet's mix of lengths, in no order.
#[must_use]
pub fn routes_v6(count: usize) -> Vec<IpPrefix> {
    routes(count, &MIX_V6, |random| {
        // 2000::/3 is given out in few large pieces: some 40 /16s, and in each a few thousand /32s.
        let top = 0x2001 + random.below(40) * 0x10;
        let second = random.below(4096) << 4;
        let rest = random.next_u128() & (u128::MAX >> 32);
        Ipv6Addr::from_bits(u128::from(top) << 112 | u128::from(second) << 96 | rest).into()
    })
}

fn routes(count: usize, mix: &[(u8, u64)], mut address: impl FnMut(&mut Random) -> IpAddr) -> Vec<IpPrefix> {
    let mut random = Random::new(1);
    let total = mix.iter().map(|&(_, share)| share).sum();
    let mut seen = HashSet::with_capacity(count);
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let mut at = random.below(total);
        let len = mix.iter().find(|&&(_, share)| {
            let hit = at < share;
            at = at.saturating_sub(share);
            hit
        });
        let prefix = len.and_then(|&(len, _)| IpPrefix::containing(address(&mut random), len));
        out.extend(prefix.filter(|&prefix| seen.insert(prefix)));
    }
    out
}

/// `count` addresses, each in one of `prefixes`, with the bits past the length at random.
#[must_use]
pub fn hits(prefixes: &[IpPrefix], count: usize) -> Vec<IpAddr> {
    let mut random = Random::new(2);
    let most = u64::try_from(prefixes.len().max(1)).unwrap_or(u64::MAX);
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let number = usize::try_from(random.below(most)).unwrap_or(0);
        let Some(prefix) = prefixes.get(number) else { break };
        let free = u128::MAX.checked_shr(u32::from(prefix.len())).unwrap_or(0);
        let noise = random.next_u128() & free;
        out.push(match prefix.addr() {
            // An IPv4 address is the upper quarter here, so that the length counts from the same end.
            IpAddr::V4(addr) => u32::try_from(noise >> 96)
                .map_or(addr, |noise| Ipv4Addr::from_bits(addr.to_bits() | noise))
                .into(),
            IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() | noise).into(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_the_same_each_time_and_hits_hit() {
        for routes in [routes_v4, routes_v6] {
            let prefixes = routes(5_000);
            assert_eq!(prefixes, routes(5_000));
            assert_eq!(prefixes.iter().collect::<HashSet<_>>().len(), 5_000);
            let addresses = hits(&prefixes, 200);
            assert_eq!(addresses.len(), 200);
            assert!(addresses.iter().all(|&addr| prefixes.iter().any(|prefix| prefix.contains(addr))));
        }
        let full = routes_v4(10_000).iter().filter(|prefix| prefix.len() == 24).count();
        assert!((5_000..7_000).contains(&full), "{full} of 10,000 are /24s");
    }
}
