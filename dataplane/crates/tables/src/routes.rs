//! Changes to configured routes, and the list of all routes.

use std::net::IpAddr;

use wire::IpPrefix;

use crate::entry::is_unicast;
use crate::error::TableError;
use crate::id::NetworkId;
use crate::network::Origin;
use crate::prefixes::Rows;
use crate::stamp::Place;
use crate::tables::Tables;
use crate::target::{RouteTarget, Target};

/// One route, as [`Tables::routes`] lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network it is in.
    pub network: NetworkId,
    /// The destinations it holds.
    pub prefix: IpPrefix,
    /// Where it leads.
    pub target: Target,
    /// Why it is there.
    pub origin: Origin,
}

impl Tables {
    /// Adds a configured route, or replaces the one to this prefix. It may be hidden by a route of another origin to the
    /// same prefix, and comes into force when that goes.
    ///
    /// # Errors
    /// A port, endpoint or tunnel peer that is not there, a next hop that is not one node or, but in a tunnel, of the other address
    /// family, no room for another next hop.
    pub fn set_route(
        &mut self,
        network: NetworkId,
        prefix: IpPrefix,
        target: RouteTarget,
    ) -> Result<(), TableError> {
        self.check_target(network, prefix, target)?;
        let route = self.targets.acquire(target).ok_or_else(|| no_room(network, prefix))?;
        let old = self.networks.change(network, |routes| routes.set(prefix, route));
        if old != Some(route) {
            self.touch(Place::of(network, prefix));
        }
        if let Some(old) = old {
            self.targets.release(old);
        }
        Ok(())
    }

    /// Sets many routes, of two to one prefix the later one, or none of them. As [`Tables::set_route`] for each in turn, and much faster
    /// where many are near each other.
    ///
    /// # Errors
    /// The first that `routes` gives, or as [`Tables::set_route`]. While they are being set, old and new next hops both take room.
    pub fn set_routes<E: From<TableError>>(
        &mut self,
        network: NetworkId,
        routes: impl IntoIterator<Item = Result<(IpPrefix, RouteTarget), E>>,
    ) -> Result<(), E> {
        let before = self.targets.clone();
        let rows = self.acquire_all(network, routes).inspect_err(|_| self.targets = before);
        let (mut rows, Self { networks, stamps, targets, .. }) = (rows?, self);
        networks.change(network, |routes| {
            routes.set_all(&mut rows, |prefix, new, old| {
                if old != Some(new) {
                    stamps.touch(Place::of(network, prefix));
                }
                if let Some(old) = old {
                    targets.release(old);
                }
            });
        });
        Ok(())
    }

    /// Looks at each route before any is set, and counts what they lead to.
    fn acquire_all<E: From<TableError>>(
        &mut self,
        network: NetworkId,
        routes: impl IntoIterator<Item = Result<(IpPrefix, RouteTarget), E>>,
    ) -> Result<Rows, E> {
        let mut rows = Rows::default();
        // Of many routes, most lead where the one before leads.
        let mut last = None;
        for route in routes {
            let (prefix, target) = route?;
            let as_last = (target, prefix.addr().is_ipv4());
            let packed = match last {
                Some((checked, packed)) if checked == as_last => {
                    self.targets.again(packed);
                    packed
                }
                _ => {
                    self.check_target(network, prefix, target)?;
                    self.targets.acquire(target).ok_or_else(|| no_room(network, prefix))?
                }
            };
            last = Some((as_last, packed));
            rows.push(prefix, packed.0);
        }
        Ok(rows)
    }

    fn check_target(
        &self,
        network: NetworkId,
        prefix: IpPrefix,
        target: RouteTarget,
    ) -> Result<(), TableError> {
        let item = || route_title(network, prefix);
        if let Some(port) = target.port().filter(|&port| self.port(port).is_none()) {
            return Err(TableError::UnknownPort { item: item(), port });
        }
        match target {
            RouteTarget::Endpoint(id) if self.endpoint(id).is_none() => {
                return Err(TableError::UnknownEndpointId { item: item(), id });
            }
            RouteTarget::NextHop { port, addr: address, .. } => {
                if self.tunnel(port).is_some() {
                    // A tunnel's families, inside and outside, have nothing to do with each other.
                    let there = self.tunnel_peer_at(port, address);
                    return there.map(drop).ok_or(TableError::UnknownPeer { port, address });
                }
                if matches!(address, IpAddr::V4(_)) != matches!(prefix.addr(), IpAddr::V4(_)) {
                    return Err(TableError::NextHopFamily { item: item(), address });
                }
                if !is_unicast(address) {
                    let why = "a next hop needs a unicast address";
                    return Err(TableError::Address { item: item(), address, why });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes the configured route to this prefix. Routes of other origins are not touched.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_route(&mut self, network: NetworkId, prefix: IpPrefix) -> Result<(), TableError> {
        let old = self.networks.change(network, |routes| routes.remove(prefix, Origin::Configured));
        let Some(old) = old else {
            return Err(TableError::UnknownRoute { network, prefix });
        };
        self.targets.release(old);
        self.touch(Place::of(network, prefix));
        Ok(())
    }

    /// All routes: by network, IPv4 before IPv6, by address, by length. Of several to one prefix the first is in force,
    /// the others are hidden by it.
    pub fn routes(&self) -> impl Iterator<Item = Route> + '_ {
        self.networks.iter().flat_map(move |(network, routes)| {
            routes.iter().filter_map(move |(prefix, route)| {
                let target = self.targets.resolve(route.0)?;
                Some(Route { network, prefix, target, origin: route.origin() })
            })
        })
    }

    /// The route by which [`Tables::lookup`] answers, with its prefix. Tries each length in turn: for people who ask why, not for packets.
    /// [`None`] for the gateways too, which are on every endpoint's link and have no route.
    #[must_use]
    pub fn route_to(&self, network: NetworkId, addr: IpAddr) -> Option<Route> {
        let routes = self.networks.get(network)?;
        let longest = if addr.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|length| {
            let prefix = IpPrefix::containing(addr, length)?;
            let route = routes.at(prefix)?;
            let target = self.targets.resolve(route.0)?;
            Some(Route { network, prefix, target, origin: route.origin() })
        })
    }

    /// What to call the first configured route that leads to `target`. Looks at all routes; for messages only.
    pub(crate) fn route_title_to(&self, target: RouteTarget) -> String {
        self.routes()
            .find(|route| route.origin == Origin::Configured && route.target == target.into())
            .map_or_else(|| "a route".to_owned(), |route| route_title(route.network, route.prefix))
    }
}

fn no_room(network: NetworkId, prefix: IpPrefix) -> TableError {
    TableError::NextHopsFull { item: route_title(network, prefix) }
}

fn route_title(network: NetworkId, prefix: IpPrefix) -> String {
    format!("route {prefix} in network {network}")
}
