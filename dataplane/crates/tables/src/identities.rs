//! Who is behind an address, as policies know them: the pod that has it, by one table, and the ranges that hold it, by another. In each
//! the longest prefix says.

use std::fmt;
use std::net::IpAddr;

use wire::IpPrefix;

use crate::by_network::ByNetwork;
use crate::error::TableError;
use crate::id::NetworkId;
use crate::prefixes::Prefixes;
use crate::stamp::Place;
use crate::tables::Tables;

/// A set of addresses that policies treat alike. 0 is what no row speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IdentityId(pub u32);

impl IdentityId {
    /// What no row speaks of.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

type Rows = ByNetwork<Prefixes>;

impl Tables {
    /// The identity of the pod that has `addr`.
    #[inline]
    #[must_use]
    pub fn identity(&self, network: NetworkId, addr: IpAddr) -> IdentityId {
        of(&self.identities, network, addr)
    }

    /// The identity of the ranges that hold `addr`.
    #[inline]
    #[must_use]
    pub fn block(&self, network: NetworkId, addr: IpAddr) -> IdentityId {
        of(&self.blocks, network, addr)
    }

    /// All prefixes with a pod's identity, by network, IPv4 before IPv6, by address, by length.
    pub fn identities(&self) -> impl Iterator<Item = (NetworkId, IpPrefix, IdentityId)> + '_ {
        all(&self.identities)
    }

    /// All prefixes with an identity of ranges, in the same order.
    pub fn blocks(&self) -> impl Iterator<Item = (NetworkId, IpPrefix, IdentityId)> + '_ {
        all(&self.blocks)
    }

    /// Says which pod is behind a prefix, apart from longer ones within.
    ///
    /// # Errors
    /// Identity 0, which is what a prefix has that is not set.
    pub fn set_identity(
        &mut self,
        network: NetworkId,
        prefix: IpPrefix,
        identity: IdentityId,
    ) -> Result<(), TableError> {
        self.set_keyed(|tables| &mut tables.identities, identity_title, network, prefix, identity)
    }

    /// Says which ranges hold a prefix, apart from longer ones within.
    ///
    /// # Errors
    /// Identity 0, which is what a prefix has that is not set.
    pub fn set_block(
        &mut self,
        network: NetworkId,
        prefix: IpPrefix,
        identity: IdentityId,
    ) -> Result<(), TableError> {
        self.set_keyed(|tables| &mut tables.blocks, block_title, network, prefix, identity)
    }

    /// Forgets which pod is behind a prefix.
    ///
    /// # Errors
    /// It has no identity of its own.
    pub fn remove_identity(&mut self, network: NetworkId, prefix: IpPrefix) -> Result<(), TableError> {
        self.remove_keyed(|tables| &mut tables.identities, identity_title, network, prefix)
    }

    /// Forgets which ranges hold a prefix.
    ///
    /// # Errors
    /// It has no row of its own.
    pub fn remove_block(&mut self, network: NetworkId, prefix: IpPrefix) -> Result<(), TableError> {
        self.remove_keyed(|tables| &mut tables.blocks, block_title, network, prefix)
    }

    fn set_keyed(
        &mut self,
        rows: impl Fn(&mut Self) -> &mut Rows,
        title: fn(NetworkId, IpPrefix) -> String,
        network: NetworkId,
        prefix: IpPrefix,
        identity: IdentityId,
    ) -> Result<(), TableError> {
        if identity == IdentityId::NONE {
            return Err(TableError::ZeroIdentity { item: title(network, prefix) });
        }
        let old = rows(self).change(network, |prefixes| prefixes.put(prefix, identity.0));
        if old != identity.0 {
            self.memberships.recount(IdentityId(old), identity);
            self.touch(Place::of(network, prefix));
        }
        Ok(())
    }

    fn remove_keyed(
        &mut self,
        rows: impl Fn(&mut Self) -> &mut Rows,
        title: fn(NetworkId, IpPrefix) -> String,
        network: NetworkId,
        prefix: IpPrefix,
    ) -> Result<(), TableError> {
        let old = rows(self).change(network, |prefixes| prefixes.put(prefix, 0));
        if old == 0 {
            return Err(TableError::UnknownIdentity { item: title(network, prefix) });
        }
        self.memberships.recount(IdentityId(old), IdentityId::NONE);
        self.touch(Place::of(network, prefix));
        Ok(())
    }
}

#[inline]
fn of(rows: &Rows, network: NetworkId, addr: IpAddr) -> IdentityId {
    IdentityId(rows.get(network).map_or(0, |prefixes| prefixes.lookup(addr)))
}

fn all(rows: &Rows) -> impl Iterator<Item = (NetworkId, IpPrefix, IdentityId)> + '_ {
    rows.iter().flat_map(|(network, prefixes)| {
        prefixes.iter().map(move |(prefix, id)| (network, prefix, IdentityId(id)))
    })
}

fn identity_title(network: NetworkId, prefix: IpPrefix) -> String {
    format!("identity of {prefix} in network {network}")
}

fn block_title(network: NetworkId, prefix: IpPrefix) -> String {
    format!("block {prefix} in network {network}")
}
