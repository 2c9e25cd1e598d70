//! Flow keys of IPv4 and IPv6, and how a record of each is laid out.
//!
//! A key is a packet's tuple as whole words, compared as a whole. Its last word has the ports, the network, the protocol and a low
//! bit that is always set, so that no key is all zeros.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sync::{AtomicU64, Ordering, Words};

/// Two words: addresses; ports, network and protocol.
pub type Key4 = [u64; 2];
/// Five words: source, destination; ports, network and protocol.
pub type Key6 = [u64; 5];

/// A packet's addresses and ports, in its own direction. ICMP echo has its identifier as source port in a request and as
/// destination port in a reply, and 0 for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Routing domain.
    pub network: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl<A> Tuple<A> {
    /// The tuple of the packet that answers this one.
    #[must_use]
    pub fn reversed(self) -> Self {
        let Self { src, dst, src_port, dst_port, network, protocol } = self;
        Self { src: dst, dst: src, src_port: dst_port, dst_port: src_port, network, protocol }
    }
}

/// An address family: key and record layout, in words of 64 bits.
pub trait Family: Copy + Debug + Send + Sync + 'static {
    /// The key.
    type Key: Copy + Eq + Debug + AsRef<[u64]> + Send;
    /// The address.
    type Addr: Copy + Eq + Debug + Into<IpAddr>;
    /// The part of a record that every packet reads: whole cache lines, the first key at the beginning.
    type Hot: AsRef<[AtomicU64]> + Debug + Send + Sync + 'static;
    /// Words of it.
    const HOT: usize;
    /// How far the reply's key is from the first one.
    const KEY_STEP: usize;
    /// Where the first action is.
    const ACTION: usize;
    /// How far the reply's action is from that.
    const ACTION_STEP: usize;
    /// Where owner and binding are.
    const META: usize;
    /// Where phase, state and last use are.
    const LIFE: usize;

    /// Records as they lie in words.
    fn records(words: Words) -> &'static [Self::Hot];
    /// The key of a tuple.
    fn key(tuple: &Tuple<Self::Addr>) -> Self::Key;
    /// The tuple of a key.
    fn tuple(key: &Self::Key) -> Tuple<Self::Addr>;
    /// The same key, but for the destination port.
    fn to_port(key: &Self::Key, port: u16) -> Self::Key;
    /// A hash of 64 good bits.
    fn hash(key: &Self::Key, seeds: &[u64; 3]) -> u64;
    /// The key that stands at `at` in a record.
    fn read(record: &[AtomicU64], at: usize) -> Self::Key;
    /// Whether it is this one.
    fn is(record: &[AtomicU64], at: usize, key: &Self::Key) -> bool;
}

/// IPv4: a record is one cache line.
#[derive(Debug, Clone, Copy)]
pub struct V4;
/// IPv6: a record is two lines, one a direction.
#[derive(Debug, Clone, Copy)]
pub struct V6;

/// The last word of a key.
#[inline]
fn tail<A>(tuple: &Tuple<A>) -> u64 {
    u64::from(tuple.src_port) << 48
        | u64::from(tuple.dst_port) << 32
        | u64::from(tuple.network) << 16
        | u64::from(tuple.protocol) << 8
        | 1
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "each field is cut out of the word")]
fn from_tail<A>(src: A, dst: A, tail: u64) -> Tuple<A> {
    Tuple {
        src,
        dst,
        src_port: (tail >> 48) as u16,
        dst_port: (tail >> 32) as u16,
        network: (tail >> 16) as u16,
        protocol: (tail >> 8) as u8,
    }
}

/// A tail with another destination port.
#[inline]
const fn tail_to(tail: u64, port: u16) -> u64 {
    tail & !(0xffff << 32) | (port as u64) << 32
}

/// Both halves of the product: every bit of both operands reaches every bit of the result (wyhash's mixing step).
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    let low = product as u64;
    let high = (product >> 64) as u64;
    low ^ high
}

impl Family for V4 {
    type Key = Key4;
    type Addr = Ipv4Addr;
    type Hot = [AtomicU64; 8];
    const HOT: usize = 8;
    const KEY_STEP: usize = 2;
    const ACTION: usize = 4;
    const ACTION_STEP: usize = 1;
    const META: usize = 6;
    const LIFE: usize = 7;

    fn records(words: Words) -> &'static [Self::Hot] {
        words.as_chunks().0
    }

    #[inline]
    fn key(tuple: &Tuple<Ipv4Addr>) -> Key4 {
        [u64::from(tuple.src.to_bits()) << 32 | u64::from(tuple.dst.to_bits()), tail(tuple)]
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each address is half the word")]
    fn tuple(key: &Key4) -> Tuple<Ipv4Addr> {
        let (src, dst) = ((key[0] >> 32) as u32, key[0] as u32);
        from_tail(Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst), key[1])
    }

    #[inline]
    fn to_port(key: &Key4, port: u16) -> Key4 {
        [key[0], tail_to(key[1], port)]
    }

    #[inline]
    fn hash(key: &Key4, seeds: &[u64; 3]) -> u64 {
        fold(fold(key[0] ^ seeds[0], key[1] ^ seeds[1]) ^ seeds[2], 0x9e37_79b9_7f4a_7c15)
    }

    #[inline]
    fn read(record: &[AtomicU64], at: usize) -> Key4 {
        let word = |i: usize| record[at + i].load(Ordering::Relaxed);
        [word(0), word(1)]
    }

    #[inline]
    fn is(record: &[AtomicU64], at: usize, key: &Key4) -> bool {
        let [a, b] = Self::read(record, at);
        (a ^ key[0]) | (b ^ key[1]) == 0
    }
}

impl Family for V6 {
    type Key = Key6;
    type Addr = Ipv6Addr;
    type Hot = [AtomicU64; 16];
    const HOT: usize = 16;
    const KEY_STEP: usize = 8;
    const ACTION: usize = 5;
    const ACTION_STEP: usize = 8;
    const META: usize = 6;
    const LIFE: usize = 7;

    fn records(words: Words) -> &'static [Self::Hot] {
        words.as_chunks().0
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each word is half the address")]
    fn key(tuple: &Tuple<Ipv6Addr>) -> Key6 {
        let (src, dst) = (tuple.src.to_bits(), tuple.dst.to_bits());
        [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64, tail(tuple)]
    }

    #[inline]
    fn tuple(key: &Key6) -> Tuple<Ipv6Addr> {
        let addr = |high: u64, low: u64| Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
        from_tail(addr(key[0], key[1]), addr(key[2], key[3]), key[4])
    }

    #[inline]
    fn to_port(key: &Key6, port: u16) -> Key6 {
        [key[0], key[1], key[2], key[3], tail_to(key[4], port)]
    }

    #[inline]
    fn hash(key: &Key6, seeds: &[u64; 3]) -> u64 {
        let addresses =
            fold(key[0] ^ seeds[0], key[1] ^ seeds[1]) ^ fold(key[2] ^ seeds[1], key[3] ^ seeds[2]);
        fold(addresses ^ seeds[0], key[4] ^ seeds[2])
    }

    #[inline]
    fn read(record: &[AtomicU64], at: usize) -> Key6 {
        let word = |i: usize| record[at + i].load(Ordering::Relaxed);
        [word(0), word(1), word(2), word(3), word(4)]
    }

    #[inline]
    fn is(record: &[AtomicU64], at: usize, key: &Key6) -> bool {
        let [a, b, c, d, e] = Self::read(record, at);
        (a ^ key[0]) | (b ^ key[1]) | (c ^ key[2]) | (d ^ key[3]) | (e ^ key[4]) == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuple<A>(src: A, dst: A, ports: (u16, u16), network: u16, protocol: u8) -> Tuple<A> {
        Tuple { src, dst, src_port: ports.0, dst_port: ports.1, network, protocol }
    }

    proptest! {
        #[test]
        fn keys_hold_their_tuples(a: u128, b: u128, ports: (u16, u16), network: u16, protocol: u8) {
            let six = tuple(Ipv6Addr::from_bits(a), Ipv6Addr::from_bits(b), ports, network, protocol);
            prop_assert_eq!(V6::tuple(&V6::key(&six)), six);
            let cut = |x: u128| Ipv4Addr::from_bits((x & 0xffff_ffff).try_into().unwrap());
            let four = tuple(cut(a), cut(b), ports, network, protocol);
            prop_assert_eq!(V4::tuple(&V4::key(&four)), four);
            prop_assert_eq!(four.reversed().reversed(), four);
        }
    }

    #[test]
    fn neighbouring_keys_spread() {
        // A /16 of clients with a few ports each: no bucket of 4,096 gets far more than its share of 16.
        let seeds = [0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3211, 0x0f0f_1234_aaaa_5555];
        let mut buckets = vec![0u32; 4096];
        for host in 0..8192_u32 {
            for port in 0..8_u16 {
                let src = Ipv4Addr::from_bits(0x0a00_0000 + host);
                let t = tuple(src, Ipv4Addr::new(10, 96, 0, 1), (30_000 + port, 80), 0, 6);
                let bucket = V4::hash(&V4::key(&t), &seeds) & 4095;
                buckets[usize::try_from(bucket).unwrap()] += 1;
            }
        }
        assert!(buckets.iter().all(|&n| n < 48), "{:?}", buckets.iter().max());
    }
}
