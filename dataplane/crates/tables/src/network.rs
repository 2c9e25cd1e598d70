//! The routes of one network: a trie a family, and at each prefix one route of each origin at most.
//!
//! The trie holds the route in force: local before endpoint before connected before configured. Where a prefix has routes of more
//! than one origin, which is rare, all of them are in a map beside; taking one out reveals the next.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::IpPrefix;

use crate::chunked::Chunked;
use crate::id::NetworkId;
use crate::lpm::Lpm;
use crate::map::Map;
use crate::target::Packed;

/// Why a route is there. At one prefix the lowest is in force; a longer prefix wins over a shorter one whatever the origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Origin {
    /// An address of an interface of ours.
    Local = 0,
    /// An endpoint's address.
    Endpoint = 1,
    /// The subnet of an interface.
    Connected = 2,
    /// Set by `set_route`.
    Configured = 3,
}

impl Origin {
    pub(crate) const fn of_bits(bits: u32) -> Self {
        match bits {
            0 => Self::Local,
            1 => Self::Endpoint,
            2 => Self::Connected,
            _ => Self::Configured,
        }
    }
}

/// By origin; 0 is none.
type Origins = [u32; 4];

#[derive(Clone, Default)]
pub(crate) struct Network {
    v4: Lpm<u32>,
    v6: Lpm<u128>,
    /// All routes of prefixes that have more than one.
    several: Map<IpPrefix, Origins>,
}

impl Network {
    #[inline]
    pub(crate) fn lookup_v4(&self, addr: Ipv4Addr) -> u32 {
        self.v4.lookup(addr.to_bits())
    }

    #[inline]
    pub(crate) fn lookup_v6(&self, addr: Ipv6Addr) -> u32 {
        self.v6.lookup(addr.to_bits())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The value in force at exactly this prefix; 0 if none.
    fn in_force(&self, prefix: IpPrefix) -> u32 {
        match prefix.addr() {
            IpAddr::V4(addr) => self.v4.get(addr.to_bits(), prefix.len()),
            IpAddr::V6(addr) => self.v6.get(addr.to_bits(), prefix.len()),
        }
    }

    fn put(&mut self, prefix: IpPrefix, value: u32) {
        match (prefix.addr(), value) {
            (IpAddr::V4(addr), 0) => self.v4.remove(addr.to_bits(), prefix.len()),
            (IpAddr::V6(addr), 0) => self.v6.remove(addr.to_bits(), prefix.len()),
            (IpAddr::V4(addr), value) => self.v4.insert(addr.to_bits(), prefix.len(), value),
            (IpAddr::V6(addr), value) => self.v6.insert(addr.to_bits(), prefix.len(), value),
        };
    }

    /// The routes at exactly this prefix.
    fn origins(&self, prefix: IpPrefix, in_force: u32) -> Origins {
        if !self.several.is_empty()
            && let Some(origins) = self.several.get(&prefix)
        {
            return origins;
        }
        let mut origins = [0; 4];
        if in_force != 0 {
            origins[Packed(in_force).origin() as usize] = in_force;
        }
        origins
    }

    /// The route of this origin at exactly this prefix.
    pub(crate) fn get(&self, prefix: IpPrefix, origin: Origin) -> Option<Packed> {
        let value = self.origins(prefix, self.in_force(prefix))[origin as usize];
        (value != 0).then_some(Packed(value))
    }

    /// Sets the route of its origin. Returns the one it replaces.
    pub(crate) fn set(&mut self, prefix: IpPrefix, route: Packed) -> Option<Packed> {
        self.change(prefix, route.origin(), route.0)
    }

    /// Takes out the route of this origin. Returns it.
    pub(crate) fn remove(&mut self, prefix: IpPrefix, origin: Origin) -> Option<Packed> {
        self.change(prefix, origin, 0)
    }

    fn change(&mut self, prefix: IpPrefix, origin: Origin, value: u32) -> Option<Packed> {
        let count = |origins: &Origins| origins.iter().filter(|&&value| value != 0).count();
        let in_force = self.in_force(prefix);
        let mut origins = self.origins(prefix, in_force);
        let before = count(&origins);
        let old = std::mem::replace(&mut origins[origin as usize], value);
        if count(&origins) > 1 {
            self.several.insert(prefix, origins);
        } else if before > 1 {
            self.several.remove(&prefix);
        }
        let first = origins.into_iter().find(|&value| value != 0).unwrap_or(0);
        if first != in_force {
            self.put(prefix, first);
        }
        (old != 0).then_some(Packed(old))
    }

    /// All routes, IPv4 first, in prefix order; of one prefix the one in force comes first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpPrefix, Packed)> + '_ {
        let v4 =
            self.v4.iter().map(|(addr, len, value)| (IpAddr::from(Ipv4Addr::from_bits(addr)), len, value));
        let v6 =
            self.v6.iter().map(|(addr, len, value)| (IpAddr::from(Ipv6Addr::from_bits(addr)), len, value));
        v4.chain(v6).flat_map(move |(addr, len, value)| {
            let prefix = IpPrefix::containing(addr, len);
            prefix.into_iter().flat_map(move |prefix| {
                let origins = self.origins(prefix, value);
                origins.into_iter().filter(|&value| value != 0).map(move |value| (prefix, Packed(value)))
            })
        })
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.v4.heap_bytes() + self.v6.heap_bytes()
    }
}

/// All networks. The pods' own is at hand; others cost three loads more.
#[derive(Clone, Default)]
pub(crate) struct Networks {
    primary: Network,
    others: Chunked<Network>,
}

impl Networks {
    #[inline]
    pub(crate) fn get(&self, id: NetworkId) -> Option<&Network> {
        if id.0 == 0 { Some(&self.primary) } else { self.others.get(u32::from(id.0)) }
    }

    /// Sets the route of its origin. Returns the one it replaces.
    pub(crate) fn set(&mut self, id: NetworkId, prefix: IpPrefix, route: Packed) -> Option<Packed> {
        if id.0 == 0 {
            return self.primary.set(prefix, route);
        }
        if self.others.get(u32::from(id.0)).is_none() {
            self.others.set(u32::from(id.0), Network::default());
        }
        self.others.get_mut(u32::from(id.0))?.set(prefix, route)
    }

    /// Takes out the route of this origin. A network without routes goes with its last one.
    pub(crate) fn remove(&mut self, id: NetworkId, prefix: IpPrefix, origin: Origin) -> Option<Packed> {
        self.get(id)?.get(prefix, origin)?;
        if id.0 == 0 {
            return self.primary.remove(prefix, origin);
        }
        let network = self.others.get_mut(u32::from(id.0))?;
        let old = network.remove(prefix, origin);
        if network.is_empty() {
            self.others.remove(u32::from(id.0));
        }
        old
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NetworkId, &Network)> + '_ {
        let others = self
            .others
            .iter()
            .filter_map(|(id, network)| Some((NetworkId(u16::try_from(id).ok()?), network)));
        std::iter::once((NetworkId(0), &self.primary)).chain(others)
    }
}
