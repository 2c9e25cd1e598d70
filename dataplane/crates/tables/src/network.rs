//! The routes of one network: a trie a family, and at each prefix one route of each origin at most.
//!
//! The trie holds the route in force: local before endpoint before connected before configured. Where a prefix has routes of more
//! than one origin, which is rare, all of them are in a map beside; taking one out reveals the next.

use std::net::{Ipv4Addr, Ipv6Addr};

use wire::IpPrefix;

use crate::by_network::Vacant;
use crate::map::Map;
use crate::prefixes::{Prefixes, Rows};
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
    in_force: Prefixes,
    /// All routes of prefixes that have more than one.
    several: Map<IpPrefix, Origins>,
}

impl Network {
    #[inline]
    pub(crate) fn lookup_v4(&self, addr: Ipv4Addr) -> u32 {
        self.in_force.lookup_v4(addr)
    }

    #[inline]
    pub(crate) fn lookup_v6(&self, addr: Ipv6Addr) -> u32 {
        self.in_force.lookup_v6(addr)
    }

    /// The routes at exactly this prefix.
    fn origins(&self, prefix: IpPrefix, in_force: u32) -> Origins {
        origins(&self.several, prefix, in_force)
    }

    /// The route of this origin at exactly this prefix.
    pub(crate) fn get(&self, prefix: IpPrefix, origin: Origin) -> Option<Packed> {
        let value = self.origins(prefix, self.in_force.get(prefix))[origin as usize];
        (value != 0).then_some(Packed(value))
    }

    /// The route in force at exactly this prefix.
    pub(crate) fn at(&self, prefix: IpPrefix) -> Option<Packed> {
        let value = self.in_force.get(prefix);
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

    /// Sets many routes at once, the later of two with one prefix and origin last. `replaced` sees each with the one before it.
    pub(crate) fn set_all(
        &mut self,
        rows: &mut Rows,
        mut replaced: impl FnMut(IpPrefix, Packed, Option<Packed>),
    ) {
        let Self { in_force, several } = self;
        in_force.put_all(rows, |prefix, row, in_force| {
            let route = Packed(row);
            let (old, first) = change(several, prefix, in_force, route.origin(), row);
            replaced(prefix, route, old);
            first
        });
    }

    fn change(&mut self, prefix: IpPrefix, origin: Origin, value: u32) -> Option<Packed> {
        let in_force = self.in_force.get(prefix);
        let (old, first) = change(&mut self.several, prefix, in_force, origin, value);
        if first != in_force {
            self.in_force.put(prefix, first);
        }
        old
    }

    /// All routes, IPv4 first, in prefix order; of one prefix the one in force comes first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpPrefix, Packed)> + '_ {
        self.in_force.iter().flat_map(move |(prefix, value)| {
            let origins = self.origins(prefix, value);
            origins.into_iter().filter(|&value| value != 0).map(move |value| (prefix, Packed(value)))
        })
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.in_force.heap_bytes()
    }
}

/// The routes at exactly this prefix.
fn origins(several: &Map<IpPrefix, Origins>, prefix: IpPrefix, in_force: u32) -> Origins {
    if !several.is_empty()
        && let Some(origins) = several.get(&prefix)
    {
        return *origins;
    }
    let mut origins = [0; 4];
    if in_force != 0 {
        origins[Packed(in_force).origin() as usize] = in_force;
    }
    origins
}

/// Sets the route of one origin, or takes it out with 0. Returns the one it replaces, and the one in force then; 0 if none.
fn change(
    several: &mut Map<IpPrefix, Origins>,
    prefix: IpPrefix,
    in_force: u32,
    origin: Origin,
    value: u32,
) -> (Option<Packed>, u32) {
    let count = |origins: &Origins| origins.iter().filter(|&&value| value != 0).count();
    let mut origins = origins(several, prefix, in_force);
    let before = count(&origins);
    let old = std::mem::replace(&mut origins[origin as usize], value);
    if count(&origins) > 1 {
        several.insert(prefix, origins);
    } else if before > 1 {
        several.remove(&prefix);
    }
    let first = origins.into_iter().find(|&value| value != 0).unwrap_or(0);
    ((old != 0).then_some(Packed(old)), first)
}

impl Vacant for Network {
    fn is_vacant(&self) -> bool {
        self.in_force.is_vacant()
    }
}
