//! Who is behind an address, as policies know them: the longest prefix says.

use std::fmt;
use std::net::IpAddr;

use wire::IpPrefix;

use crate::error::TableError;
use crate::id::NetworkId;
use crate::stamp::Place;
use crate::tables::Tables;

/// A set of addresses that policies treat alike. 0 is what nothing is known of: the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IdentityId(pub u32);

impl IdentityId {
    /// What nothing is known of.
    pub const WORLD: Self = Self(0);
}

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Tables {
    /// The identity of the longest prefix that holds `addr`.
    #[inline]
    #[must_use]
    pub fn identity(&self, network: NetworkId, addr: IpAddr) -> IdentityId {
        IdentityId(self.identities.get(network).map_or(0, |prefixes| prefixes.lookup(addr)))
    }

    /// All prefixes with an identity, by network, IPv4 before IPv6, by address, by length.
    pub fn identities(&self) -> impl Iterator<Item = (NetworkId, IpPrefix, IdentityId)> + '_ {
        self.identities.iter().flat_map(|(network, prefixes)| {
            prefixes.iter().map(move |(prefix, id)| (network, prefix, IdentityId(id)))
        })
    }

    /// Says who is behind a prefix, apart from longer ones within.
    ///
    /// # Errors
    /// Identity 0, which is what a prefix has that is not set.
    pub fn set_identity(
        &mut self,
        network: NetworkId,
        prefix: IpPrefix,
        identity: IdentityId,
    ) -> Result<(), TableError> {
        if identity == IdentityId::WORLD {
            return Err(TableError::World { network, prefix });
        }
        if self.identities.change(network, |prefixes| prefixes.put(prefix, identity.0)) != identity.0 {
            self.touch(Place::of(network, prefix));
        }
        Ok(())
    }

    /// Forgets who is behind a prefix.
    ///
    /// # Errors
    /// It has no identity of its own.
    pub fn remove_identity(&mut self, network: NetworkId, prefix: IpPrefix) -> Result<(), TableError> {
        if self.identities.change(network, |prefixes| prefixes.put(prefix, 0)) == 0 {
            return Err(TableError::UnknownIdentity { network, prefix });
        }
        self.touch(Place::of(network, prefix));
        Ok(())
    }
}
