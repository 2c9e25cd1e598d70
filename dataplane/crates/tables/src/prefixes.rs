//! Prefixes of both families with a value each: a trie a family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::IpPrefix;

use crate::by_network::Vacant;
use crate::lpm::Lpm;

/// Values are above zero; zero is "none".
#[derive(Clone, Default)]
pub(crate) struct Prefixes {
    v4: Lpm<u32>,
    v6: Lpm<u128>,
}

impl Prefixes {
    #[inline]
    pub(crate) fn lookup_v4(&self, addr: Ipv4Addr) -> u32 {
        self.v4.lookup(addr.to_bits())
    }

    #[inline]
    pub(crate) fn lookup_v6(&self, addr: Ipv6Addr) -> u32 {
        self.v6.lookup(addr.to_bits())
    }

    /// The value of the longest prefix that holds `addr`.
    #[inline]
    pub(crate) fn lookup(&self, addr: IpAddr) -> u32 {
        match addr {
            IpAddr::V4(addr) => self.lookup_v4(addr),
            IpAddr::V6(addr) => self.lookup_v6(addr),
        }
    }

    /// The value of exactly this prefix.
    pub(crate) fn get(&self, prefix: IpPrefix) -> u32 {
        match prefix.addr() {
            IpAddr::V4(addr) => self.v4.get(addr.to_bits(), prefix.len()),
            IpAddr::V6(addr) => self.v6.get(addr.to_bits(), prefix.len()),
        }
    }

    /// Sets a prefix's value, or takes it out where that is 0. Returns the old one.
    pub(crate) fn put(&mut self, prefix: IpPrefix, value: u32) -> u32 {
        match (prefix.addr(), value) {
            (IpAddr::V4(addr), 0) => self.v4.remove(addr.to_bits(), prefix.len()),
            (IpAddr::V6(addr), 0) => self.v6.remove(addr.to_bits(), prefix.len()),
            (IpAddr::V4(addr), value) => self.v4.insert(addr.to_bits(), prefix.len(), value),
            (IpAddr::V6(addr), value) => self.v6.insert(addr.to_bits(), prefix.len(), value),
        }
    }

    /// Sets many at once, as [`Lpm::insert_all`] does: `value` makes the new value of each from the row and the old value.
    pub(crate) fn put_all(&mut self, rows: &mut Rows, mut value: impl FnMut(IpPrefix, u32, u32) -> u32) {
        let Rows { v4, v6 } = rows;
        self.v4.insert_all(v4, |bits, len, row, old| value(prefix(Ipv4Addr::from_bits(bits), len), row, old));
        self.v6.insert_all(v6, |bits, len, row, old| value(prefix(Ipv6Addr::from_bits(bits), len), row, old));
    }

    /// All prefixes, IPv4 first, in prefix order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpPrefix, u32)> + '_ {
        let v4 = self.v4.iter().map(|(bits, len, value)| (Ipv4Addr::from_bits(bits).into(), len, value));
        let v6 = self.v6.iter().map(|(bits, len, value)| (Ipv6Addr::from_bits(bits).into(), len, value));
        v4.chain(v6).filter_map(|(addr, len, value)| Some((IpPrefix::containing(addr, len)?, value)))
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.v4.heap_bytes() + self.v6.heap_bytes()
    }
}

/// Prefixes of both families, and of each a number above 0, on their way into a trie: 12 bytes, or 32.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    v4: Vec<(u32, u8, u32)>,
    v6: Vec<(u128, u8, u32)>,
}

impl Rows {
    pub(crate) fn push(&mut self, prefix: IpPrefix, number: u32) {
        match prefix.addr() {
            IpAddr::V4(addr) => self.v4.push((addr.to_bits(), prefix.len(), number)),
            IpAddr::V6(addr) => self.v6.push((addr.to_bits(), prefix.len(), number)),
        }
    }
}

/// One of a trie's own. A length that the family does not have cannot be in it.
fn prefix(addr: impl Into<IpAddr>, len: u8) -> IpPrefix {
    let addr = addr.into();
    IpPrefix::containing(addr, len).unwrap_or(IpPrefix::host(addr))
}

impl Vacant for Prefixes {
    fn is_vacant(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}
