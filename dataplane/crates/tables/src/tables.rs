//! The value that a generation is, and the lookups on the path of a packet.
//!
//! Changes are in the files named after what they change. Each one either succeeds or leaves the tables as they were.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use wire::IpPrefix;

use crate::by_network::ByNetwork;
use crate::chunked::Chunked;
use crate::entry::{Endpoint, Interface, PortEntry, Router, is_unicast};
use crate::error::TableError;
use crate::id::{Generation, NetworkId, PortId};
use crate::map::Map;
use crate::masquerade::Masquerade;
use crate::memberships::Memberships;
use crate::network::{Network, Origin};
use crate::policies::Policies;
use crate::prefixes::Prefixes;
use crate::resolver::Resolver;
use crate::services::Services;
use crate::stamp::{Place, Stamps};
use crate::target::{Target, Targets};
use crate::tunnels::{Tunnel, TunnelPeer};

/// All that is true in one generation. A clone costs some twenty reference counts.
///
/// A change that fails leaves the tables as they were. Several changes become one by cloning, changing the clone, and
/// throwing it away where one of them failed.
#[derive(Clone, Default)]
pub struct Tables {
    pub(crate) generation: Generation,
    pub(crate) router: Router,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) ports: Chunked<PortEntry>,
    pub(crate) endpoints: Chunked<Endpoint>,
    pub(crate) endpoint_names: Map<Arc<str>, u32>,
    pub(crate) interfaces: Chunked<Interface>,
    /// By uplink.
    pub(crate) tunnels: Chunked<Tunnel>,
    pub(crate) tunnel_peers: Chunked<TunnelPeer>,
    pub(crate) tunnel_peer_index: Map<(PortId, IpAddr), u32>,
    pub(crate) networks: ByNetwork<Network>,
    pub(crate) targets: Targets,
    pub(crate) services: Services,
    pub(crate) identities: ByNetwork<Prefixes>,
    /// Identities of ranges.
    pub(crate) blocks: ByNetwork<Prefixes>,
    pub(crate) memberships: Memberships,
    pub(crate) policies: Policies,
    pub(crate) masquerades: ByNetwork<Option<Masquerade>>,
    pub(crate) stamps: Stamps,
}

impl Tables {
    /// No rows of any kind; generation 0 and the default [`Router`].
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The number of these tables.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Where a packet to `addr` in `network` goes; [`None`] if no route holds it. The gateways are `Local` in
    /// every network.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, network: NetworkId, addr: Ipv4Addr) -> Option<Target> {
        if addr == self.router.gateway4 {
            return Some(Target::Local);
        }
        self.targets.resolve(self.networks.get(network)?.lookup_v4(addr))
    }

    /// The same for IPv6. An interface's link-local addresses have no routes: ask [`Tables::interface`].
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, network: NetworkId, addr: Ipv6Addr) -> Option<Target> {
        if addr == self.router.gateway6 {
            return Some(Target::Local);
        }
        self.targets.resolve(self.networks.get(network)?.lookup_v6(addr))
    }

    /// The same for either family.
    #[inline]
    #[must_use]
    pub fn lookup(&self, network: NetworkId, addr: IpAddr) -> Option<Target> {
        match addr {
            IpAddr::V4(addr) => self.lookup_v4(network, addr),
            IpAddr::V6(addr) => self.lookup_v6(network, addr),
        }
    }

    /// What all endpoints have in common.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Sets the gateways' addresses and MAC address.
    ///
    /// # Errors
    /// An address or MAC address that cannot be a gateway's, or that an endpoint or interface holds.
    pub fn set_router(&mut self, router: Router) -> Result<(), TableError> {
        if router == self.router {
            return Ok(());
        }
        let item = || "router".to_owned();
        if !router.mac.is_unicast() {
            return Err(TableError::Mac { item: item(), mac: router.mac });
        }
        let bad = |address, why| Err(TableError::Address { item: item(), address, why });
        let (gateway4, gateway6) = (IpAddr::V4(router.gateway4), IpAddr::V6(router.gateway6));
        if !is_unicast(gateway4) {
            return bad(gateway4, "gateway4 must be a unicast address, such as 169.254.1.1");
        }
        if !router.gateway6.is_unicast_link_local() {
            return bad(gateway6, "gateway6 must be link-local, such as fe80::1 (RFC 4861, section 6.1.2)");
        }
        for (network, _) in self.networks.iter() {
            if let Some((_, holder)) = self.holder(network, gateway4) {
                return Err(TableError::AddressHeld { item: item(), address: gateway4, network, holder });
            }
        }
        self.router = router;
        self.touch(Place::Everything);
        Ok(())
    }

    /// The bytes that all routes take, shared with other generations or not.
    #[must_use]
    pub fn route_bytes(&self) -> usize {
        self.networks.iter().map(|(_, network)| network.heap_bytes()).sum()
    }

    /// The endpoint or interface that holds an address: its port, and what to call it.
    pub(crate) fn holder(&self, network: NetworkId, addr: IpAddr) -> Option<(PortId, String)> {
        let routes = self.networks.get(network)?;
        let prefix = IpPrefix::host(addr);
        if let Some(route) = routes.get(prefix, Origin::Local) {
            let port = PortId(u16::try_from(route.number()).ok()?);
            return Some((port, self.interface_title(port)));
        }
        let endpoint = self.endpoints.get(routes.get(prefix, Origin::Endpoint)?.number())?;
        Some((endpoint.port, format!("endpoint `{}`", endpoint.name)))
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables")
            .field("generation", &self.generation)
            .field("ports", &self.ports.len())
            .field("endpoints", &self.endpoints.len())
            .field("interfaces", &self.interfaces.len())
            .finish_non_exhaustive()
    }
}
