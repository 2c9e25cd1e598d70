//! Changes to endpoints. An endpoint's addresses are host routes of its network.

use std::net::IpAddr;
use std::sync::Arc;

use wire::IpPrefix;

use crate::entry::{Endpoint, EndpointKind, PortRole, is_link_local6, is_unicast};
use crate::error::TableError;
use crate::id::{EndpointId, MAX_ENDPOINT_ROUTES};
use crate::network::Origin;
use crate::stamp::Place;
use crate::tables::Tables;
use crate::target::{Packed, RouteTarget};

impl Tables {
    /// The endpoint of this number.
    #[inline]
    #[must_use]
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id.0)
    }

    /// The endpoint of this name.
    #[must_use]
    pub fn endpoint_by_name(&self, name: &str) -> Option<&Endpoint> {
        self.endpoints.get(*self.endpoint_names.get(name)?)
    }

    /// All endpoints, by number.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> + '_ {
        self.endpoints.iter().map(|(_, endpoint)| endpoint)
    }

    /// Adds an endpoint, or replaces the one of this name, which keeps its number. Returns the number.
    ///
    /// # Errors
    /// An empty name, a MAC address that no station can have, too many routes, a port that is not there or has another user, an
    /// address that is not one node's or that another endpoint, an interface or the router holds.
    pub fn set_endpoint(&mut self, endpoint: Endpoint) -> Result<EndpointId, TableError> {
        let old = self.endpoint_by_name(&endpoint.name);
        let id = match old {
            Some(old) => old.id,
            None => self
                .endpoints
                .vacant()
                .map(EndpointId)
                .ok_or(TableError::EndpointsFull { name: endpoint.name.clone() })?,
        };
        let endpoint = Endpoint { id, ..endpoint };
        if old == Some(&endpoint) {
            return Ok(id);
        }
        self.check_endpoint(&endpoint)?;

        self.touch_endpoint(id);
        self.detach(id);
        let route = Packed::endpoint(id);
        for &addr in &endpoint.addresses {
            self.networks.change(endpoint.network, |routes| routes.set(IpPrefix::host(addr), route));
        }
        self.set_role(endpoint.port, PortRole::Endpoint(id));
        if self.endpoint_names.get(endpoint.name.as_str()).is_none() {
            self.endpoint_names.insert(Arc::from(endpoint.name.as_str()), id.0);
            self.policies.bind(&endpoint.name, id);
        }
        self.endpoints.set(id.0, endpoint);
        self.touch_endpoint(id);
        Ok(id)
    }

    /// Removes an endpoint and the routes to its addresses.
    ///
    /// # Errors
    /// No such endpoint, or a configured route leads to it.
    pub fn remove_endpoint(&mut self, name: &str) -> Result<(), TableError> {
        let Some(endpoint) = self.endpoint_by_name(name) else {
            return Err(TableError::UnknownEndpoint { name: name.to_owned() });
        };
        let id = endpoint.id;
        if let Some(target) = self.targets.find(|target| target == RouteTarget::Endpoint(id)) {
            return Err(TableError::EndpointInUse {
                name: name.to_owned(),
                user: self.route_title_to(target),
            });
        }
        self.touch_endpoint(id);
        self.detach(id);
        self.endpoint_names.remove(name);
        self.policies.unbind(id);
        self.endpoints.remove(id.0);
        Ok(())
    }

    /// Notes that something of an endpoint, its port or its policy changes: call it with the old row in place and with the new one.
    pub(crate) fn touch_endpoint(&mut self, id: EndpointId) {
        let Some(endpoint) = self.endpoints.get(id.0) else { return };
        // The host forwards for others, and a route leads others' packets: addresses are not all that rests on it.
        if endpoint.kind == EndpointKind::Host || self.targets.has(RouteTarget::Endpoint(id)) {
            self.stamps.touch(Place::Everything);
        }
        for &addr in &endpoint.addresses {
            self.stamps.touch(Place::Host(endpoint.network, addr));
        }
    }

    fn check_endpoint(&self, endpoint: &Endpoint) -> Result<(), TableError> {
        let Endpoint { id, name, network, port, mac, addresses, routes, kind: _ } = endpoint;
        let item = || format!("endpoint `{name}`");
        if name.is_empty() {
            return Err(TableError::EmptyName { item: format!("endpoint on port {port}") });
        }
        if !mac.is_unicast() {
            return Err(TableError::Mac { item: item(), mac: *mac });
        }
        if routes.len() > MAX_ENDPOINT_ROUTES {
            return Err(TableError::EndpointRoutes { name: name.clone(), count: routes.len() });
        }
        let entry = self.port(*port).ok_or_else(|| TableError::UnknownPort { item: item(), port: *port })?;
        if entry.role != PortRole::Endpoint(*id)
            && let Some(user) = self.port_user(entry)
        {
            return Err(TableError::PortInUse { port: *port, name: entry.name.clone(), user });
        }
        // Where it stands now, its own addresses do not count as held.
        let own = self.endpoint(*id).map(|old| old.port);
        for (i, &address) in addresses.iter().enumerate() {
            if !is_unicast(address) || is_link_local6(address) {
                let why = "an endpoint needs unicast addresses of more than its link's scope";
                return Err(TableError::Address { item: item(), address, why });
            }
            if addresses[..i].contains(&address) {
                return Err(TableError::AddressTwice { item: item(), address });
            }
            if address == IpAddr::V4(self.router.gateway4) {
                let (network, holder) = (*network, "the router, as gateway4".to_owned());
                return Err(TableError::AddressHeld { item: item(), address, network, holder });
            }
            if let Some((_, holder)) = self.holder(*network, address).filter(|&(port, _)| Some(port) != own) {
                return Err(TableError::AddressHeld { item: item(), address, network: *network, holder });
            }
        }
        Ok(())
    }

    /// Takes an endpoint's routes away, and its port's role.
    fn detach(&mut self, id: EndpointId) {
        let Some(endpoint) = self.endpoints.get(id.0) else { return };
        let port = endpoint.port;
        for &addr in &endpoint.addresses {
            let host = IpPrefix::host(addr);
            self.networks.change(endpoint.network, |routes| routes.remove(host, Origin::Endpoint));
        }
        self.set_role(port, PortRole::Idle);
    }
}
