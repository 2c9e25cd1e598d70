//! Changes to frontends, and what a packet asks of them.
//!
//! Beside the frontends themselves, two counts are kept: of the frontends on an address, and of the frontends that a backend serves. So that
//! an address is a Service's, or that a reply comes from a backend, is one lookup.

use std::collections::BTreeSet;
use std::net::IpAddr;

use wire::protocol::{SCTP, TCP, UDP};

use crate::backends::Backend;
use crate::entry::is_unicast;
use crate::error::TableError;
use crate::frontend::{Frontend, FrontendKey};
use crate::id::NetworkId;
use crate::map::Map;
use crate::stamp::Place;
use crate::tables::Tables;

#[derive(Clone, Default)]
pub(crate) struct Services {
    frontends: Map<FrontendKey, Frontend>,
    /// Frontends on an address.
    addresses: Map<FrontendKey, u32>,
    /// Frontends that a backend serves.
    backends: Map<FrontendKey, u32>,
}

/// All ports of an address share one key.
fn address(network: NetworkId, addr: IpAddr) -> FrontendKey {
    FrontendKey { network, addr, port: 0, protocol: 0 }
}

/// Where a frontend's backends are.
type Sockets = BTreeSet<(IpAddr, u16)>;

fn sockets(backends: &[Backend]) -> Sockets {
    backends.iter().map(|backend| (backend.addr, backend.port)).collect()
}

/// Counts one more; true if it is the first.
fn count(counts: &mut Map<FrontendKey, u32>, key: FrontendKey) -> bool {
    let before = counts.get(&key).copied().unwrap_or(0);
    counts.insert(key, before + 1);
    before == 0
}

/// Counts one less; true if it was the last.
fn discount(counts: &mut Map<FrontendKey, u32>, key: FrontendKey) -> bool {
    match counts.get(&key).copied() {
        Some(more @ 2..) => counts.insert(key, more - 1),
        _ => {
            counts.remove(&key);
            return true;
        }
    }
    false
}

impl Tables {
    /// The frontend of this address, port and protocol.
    #[inline]
    #[must_use]
    pub fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        self.services.frontends.get(key)
    }

    /// All frontends, in no order that means anything.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> + '_ {
        self.services.frontends.iter().map(|(_, frontend)| frontend)
    }

    /// How many frontends.
    #[must_use]
    pub fn frontend_count(&self) -> usize {
        self.services.frontends.len()
    }

    /// Whether the address has a frontend, on whatever port.
    #[inline]
    #[must_use]
    pub fn has_frontends(&self, network: NetworkId, addr: IpAddr) -> bool {
        self.services.addresses.get(&address(network, addr)).is_some()
    }

    /// Whether a frontend of this protocol has it as a backend.
    #[inline]
    #[must_use]
    pub fn is_backend(&self, network: NetworkId, addr: IpAddr, port: u16, protocol: u8) -> bool {
        self.services.backends.get(&FrontendKey { network, addr, port, protocol }).is_some()
    }

    /// Adds a frontend, or replaces the one of this address, port and protocol.
    ///
    /// # Errors
    /// An empty name, an address that is not one node's, port 0, a protocol without ports, a backend of the other family or that
    /// is there twice.
    pub fn set_frontend(&mut self, frontend: Frontend) -> Result<(), TableError> {
        let key = frontend.key;
        let old = self.services.frontends.get(&key);
        if old == Some(&frontend) {
            return Ok(());
        }
        check_frontend(&frontend)?;
        let new = sockets(&frontend.backends);
        let (before, renamed) = match old {
            Some(old) => {
                let Frontend { key: _, name: _, backends, drops, sources, affinity } = &frontend;
                let said = (&old.backends, &old.drops, &old.sources, &old.affinity);
                let renamed = said == (backends, drops, sources, affinity);
                (sockets(&old.backends), renamed)
            }
            None => (BTreeSet::new(), false),
        };
        let first_here = old.is_none() && count(&mut self.services.addresses, address(key.network, key.addr));
        if first_here {
            self.touch(Place::Host(key.network, key.addr));
        }
        self.count_backends(key, &before, &new);
        // Nothing rests on a name.
        if !renamed {
            self.touch(Place::Frontend(key));
        }
        self.services.frontends.insert(key, frontend);
        Ok(())
    }

    /// Removes a frontend.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), TableError> {
        let Some(old) = self.services.frontends.get(&key) else {
            return Err(TableError::UnknownFrontend { key });
        };
        let backends = sockets(&old.backends);
        self.services.frontends.remove(&key);
        self.count_backends(key, &backends, &BTreeSet::new());
        if discount(&mut self.services.addresses, address(key.network, key.addr)) {
            self.touch(Place::Host(key.network, key.addr));
        }
        self.touch(Place::Frontend(key));
        Ok(())
    }

    /// Counts the backends that a frontend gains and loses.
    fn count_backends(&mut self, key: FrontendKey, before: &Sockets, after: &Sockets) {
        let own = |&(addr, port)| FrontendKey { addr, port, ..key };
        for gained in after.difference(before).map(own) {
            if count(&mut self.services.backends, gained) {
                self.touch(Place::Host(gained.network, gained.addr));
            }
        }
        for lost in before.difference(after).map(own) {
            if discount(&mut self.services.backends, lost) {
                self.touch(Place::Host(lost.network, lost.addr));
            }
        }
    }
}

fn check_frontend(frontend: &Frontend) -> Result<(), TableError> {
    let Frontend { key, name, backends, drops: _, sources: _, affinity: _ } = frontend;
    let item = || format!("frontend {key}");
    if name.is_empty() {
        return Err(TableError::EmptyName { item: item() });
    }
    if !matches!(key.protocol, TCP | UDP | SCTP) {
        return Err(TableError::Protocol { item: item(), protocol: key.protocol });
    }
    let usable = |address: IpAddr, port, why| {
        if !is_unicast(address) {
            return Err(TableError::Address { item: item(), address, why });
        }
        if port == 0 { Err(TableError::PortZero { item: item(), address }) } else { Ok(()) }
    };
    usable(key.addr, key.port, "a frontend needs a unicast address")?;
    let mut seen = BTreeSet::new();
    for &Backend { addr: address, port, state: _ } in backends.iter() {
        usable(address, port, "a backend needs a unicast address")?;
        if address.is_ipv4() != key.addr.is_ipv4() {
            return Err(TableError::BackendFamily { item: item(), address });
        }
        if !seen.insert((address, port)) {
            return Err(TableError::BackendTwice { item: item(), address, port });
        }
    }
    Ok(())
}
