//! Which groups an identity is in: rules name groups, and so does nothing that comes with a pod but the row of its identity.
//!
//! A change of it is none of a place: it touches those endpoints alone whose rules name a group that an identity has come into or left,
//! and those only if some row gives that identity to an address.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::error::TableError;
use crate::id::{EndpointId, NetworkId};
use crate::identities::IdentityId;
use crate::map::Map;
use crate::tables::Tables;

/// A set of identities that a rule speaks of. Above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The groups that one peer is in: as the pod that has its address, and as part of the ranges that hold it. Each ascending.
pub type Groups<'t> = [&'t [GroupId]; 2];

#[derive(Clone, Default)]
pub(crate) struct Memberships {
    /// Ascending, each once.
    groups: Map<IdentityId, Arc<[GroupId]>>,
    /// How many rows give this identity to a prefix, if any does.
    rows: Map<IdentityId, u32>,
}

impl Tables {
    /// The groups of whoever is behind `addr`.
    #[inline]
    #[must_use]
    pub fn groups(&self, network: NetworkId, addr: IpAddr) -> Groups<'_> {
        [self.identity(network, addr), self.block(network, addr)].map(|identity| self.groups_of(identity))
    }

    /// The groups that an identity is in, ascending.
    #[inline]
    #[must_use]
    pub fn groups_of(&self, identity: IdentityId) -> &[GroupId] {
        if identity == IdentityId::NONE {
            return &[];
        }
        self.memberships.groups.get(&identity).map(|groups| &**groups).unwrap_or_default()
    }

    /// All identities that have been said to be in groups, or in none; in no order that means anything.
    pub fn memberships(&self) -> impl Iterator<Item = (IdentityId, &[GroupId])> + '_ {
        self.memberships.groups.iter().map(|(&identity, groups)| (identity, &**groups))
    }

    /// Says which groups an identity is in, in any order.
    ///
    /// # Errors
    /// Identity 0 or group 0, which no row speaks of.
    pub fn set_membership(
        &mut self,
        identity: IdentityId,
        mut groups: Vec<GroupId>,
    ) -> Result<(), TableError> {
        let item = || format!("membership of identity {identity}");
        if identity == IdentityId::NONE {
            return Err(TableError::ZeroIdentity { item: item() });
        }
        if groups.contains(&GroupId(0)) {
            return Err(TableError::ZeroGroup { item: item() });
        }
        groups.sort_unstable();
        groups.dedup();
        let old = self.memberships.groups.get(&identity).cloned();
        if old.as_deref() == Some(&groups) {
            return Ok(());
        }
        self.touch_members(identity, old.as_deref().unwrap_or_default(), &groups);
        self.memberships.groups.insert(identity, groups.into());
        Ok(())
    }

    /// Forgets which groups an identity is in: it is in none.
    ///
    /// # Errors
    /// Nothing was said of it.
    pub fn remove_membership(&mut self, identity: IdentityId) -> Result<(), TableError> {
        let Some(old) = self.memberships.groups.get(&identity).cloned() else {
            return Err(TableError::UnknownMembership { identity });
        };
        self.touch_members(identity, &old, &[]);
        self.memberships.groups.remove(&identity);
        Ok(())
    }

    /// Notes that an identity's groups change. An address whose row changes in the same generation is touched by that, whichever
    /// comes first; so it suffices to look at the rows that there are now.
    fn touch_members(&mut self, identity: IdentityId, old: &[GroupId], new: &[GroupId]) {
        if self.memberships.rows.get(&identity).is_none() {
            return;
        }
        let only = |one: &'_ [GroupId], other: &'_ [GroupId]| -> Vec<GroupId> {
            one.iter().filter(|group| other.binary_search(group).is_err()).copied().collect()
        };
        let changed = only(old, new).into_iter().chain(only(new, old));
        let endpoints: BTreeSet<EndpointId> =
            changed.flat_map(|group| self.policies.naming(group).collect::<Vec<_>>()).collect();
        for id in endpoints {
            self.touch_endpoint(id);
        }
    }
}

impl Memberships {
    /// A row gives another identity than it did; 0 is none.
    pub(crate) fn recount(&mut self, old: IdentityId, new: IdentityId) {
        if new != IdentityId::NONE {
            let rows = self.rows.get(&new).copied().unwrap_or(0);
            self.rows.insert(new, rows.saturating_add(1));
        }
        match self.rows.get(&old).copied() {
            Some(0 | 1) => {
                self.rows.remove(&old);
            }
            Some(rows) => self.rows.insert(old, rows - 1),
            None => {}
        }
    }
}
