//! A transaction's way: validate, build, publish, wait until every worker has it, answer.
//!
//! The new generation is built on a clone, which shares its structure with the current one. Whatever is wrong, the
//! clone is thrown away and the current generation goes on forwarding.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use proto::dataplane::{self as rows, Op, Response, RouteKey, Transaction};
use tables::{
    Endpoint, EndpointId, EndpointKind, Generation, IdentityId, Interface, NetworkId, Resolver, RouteTarget,
    Router, Tables, TunnelPeer,
};

use crate::convert;
use crate::core::Core;

/// A worker takes new tables between two bursts; one that has not by now is stuck.
const COMMIT: Duration = Duration::from_secs(10);

/// How long the wait for it spins: a burst, and a worker's nap.
const SPIN: Duration = Duration::from_micros(300);

impl Core {
    /// Applies a transaction, whole or not at all.
    pub(crate) fn transact(&mut self, transaction: &Transaction) -> Response {
        let current = self.publisher.generation();
        let rejected = |wrong_base, reason: String| Response::Rejected { current, wrong_base, reason };
        let Transaction { base, target, ops } = transaction;
        if *base != current {
            return rejected(true, format!("it is based on generation {base}, but {current} is current"));
        }
        if *target <= current {
            return rejected(false, format!("target {target} is not above the current generation {current}"));
        }
        let mut tables = self.tables.clone();
        for (number, op) in ops.iter().enumerate() {
            if let Err(error) = self.apply(&mut tables, op) {
                return rejected(false, format!("op {number}: {error:#}"));
            }
        }
        tables.seal(Generation(*target));
        // An endpoint's MAC goes first: who still has older tables sends to where it is now.
        self.adjacencies.sync(&tables);
        if let Err(error) = self.publisher.publish(Arc::new(tables.clone()), *target) {
            return rejected(false, error.to_string());
        }
        self.tables = tables;
        match self.wait_for_commit(*target) {
            Ok(()) => Response::Committed { generation: *target },
            Err(error) => Response::Failed { reason: format!("{error:#}") },
        }
    }

    fn wait_for_commit(&mut self, target: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.publisher.committed() < target {
            if began.elapsed() > COMMIT {
                let late = self.publisher.committed();
                bail!("generation {target} is published, but a worker is still at {late} after {COMMIT:?}");
            }
            // A busy worker is there within a burst; only who has long to wait may sleep, which takes longer than it says.
            if began.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        self.publisher.reclaim();
        Ok(())
    }

    fn apply(&self, tables: &mut Tables, op: &Op) -> anyhow::Result<()> {
        match op {
            Op::SetRouter { router } => {
                let &rows::Router { gateway4, gateway6, ref dns_servers, ref dns_search } = router;
                let resolver = Resolver::new(dns_servers.clone(), dns_search.clone())?;
                tables.set_router(Router { gateway4, gateway6, ..*tables.router() })?;
                tables.set_resolver(resolver);
            }
            Op::SetInterfaces { interfaces } => {
                for interface in interfaces {
                    let set = self.interface(interface).and_then(|row| Ok(tables.set_interface(row)?));
                    set.with_context(|| format!("interface on `{}`", interface.port))?;
                }
            }
            Op::RemoveInterfaces { ports } => {
                for port in ports {
                    tables.remove_interface(self.ports.id(port)?)?;
                }
            }
            Op::SetTunnelPeers { peers } => {
                for rows::TunnelPeer { key: rows::TunnelPeerKey { port, address }, mac } in peers {
                    let (port, addr, mac) = (self.ports.id(port)?, *address, *mac);
                    tables.set_tunnel_peer(TunnelPeer { port, addr, mac })?;
                }
            }
            Op::RemoveTunnelPeers { peers } => {
                for rows::TunnelPeerKey { port, address } in peers {
                    tables.remove_tunnel_peer(self.ports.id(port)?, *address)?;
                }
            }
            Op::SetEndpoints { endpoints } => {
                for endpoint in endpoints {
                    let set = self.endpoint(endpoint).and_then(|row| Ok(tables.set_endpoint(row)?));
                    set.with_context(|| format!("endpoint `{}`", endpoint.name))?;
                }
            }
            Op::RemoveEndpoints { names } => {
                for name in names {
                    tables.remove_endpoint(name)?;
                }
            }
            Op::SetRoutes { routes } => {
                for of_one in routes.chunk_by(|a, b| a.key.network == b.key.network) {
                    self.set_routes(tables, of_one)?;
                }
            }
            Op::RemoveRoutes { routes } => {
                for &RouteKey { network, prefix } in routes {
                    tables.remove_route(NetworkId(network), prefix)?;
                }
            }
            Op::SetFrontends { frontends } => {
                for row in frontends {
                    tables
                        .set_frontend(convert::frontend(row))
                        .with_context(|| format!("service `{}`", row.name))?;
                }
            }
            Op::RemoveFrontends { keys } => {
                for &key in keys {
                    tables.remove_frontend(convert::frontend_key(key))?;
                }
            }
            Op::SetIdentities { identities } => {
                for &rows::Identity { key: rows::IdentityKey { network, prefix }, identity } in identities {
                    tables.set_identity(NetworkId(network), prefix, IdentityId(identity))?;
                }
            }
            Op::RemoveIdentities { identities } => {
                for &rows::IdentityKey { network, prefix } in identities {
                    tables.remove_identity(NetworkId(network), prefix)?;
                }
            }
            Op::SetBlocks { blocks } => {
                for &rows::Identity { key: rows::IdentityKey { network, prefix }, identity } in blocks {
                    tables.set_block(NetworkId(network), prefix, IdentityId(identity))?;
                }
            }
            Op::RemoveBlocks { blocks } => {
                for &rows::IdentityKey { network, prefix } in blocks {
                    tables.remove_block(NetworkId(network), prefix)?;
                }
            }
            Op::SetMemberships { memberships } => {
                for row in memberships {
                    tables.set_membership(IdentityId(row.identity), convert::groups(row))?;
                }
            }
            Op::RemoveMemberships { identities } => {
                for &identity in identities {
                    tables.remove_membership(IdentityId(identity))?;
                }
            }
            Op::SetPolicies { policies } => {
                for row in policies {
                    tables.set_policy(&row.endpoint, convert::policy(row))?;
                }
            }
            Op::RemovePolicies { endpoints } => {
                for endpoint in endpoints {
                    tables.remove_policy(endpoint)?;
                }
            }
            Op::SetMasquerades { masquerades } => {
                for row in masquerades {
                    tables.set_masquerade(NetworkId(row.network), Some(convert::masquerade(row)))?;
                }
            }
            Op::RemoveMasquerades { networks } => {
                for &network in networks {
                    if tables.masquerade(NetworkId(network)).is_none() {
                        bail!("masquerade of network {network} does not exist");
                    }
                    tables.set_masquerade(NetworkId(network), None)?;
                }
            }
        }
        Ok(())
    }

    /// All of one network.
    fn set_routes(&self, tables: &mut Tables, routes: &[rows::Route]) -> anyhow::Result<()> {
        let Some(first) = routes.first() else { return Ok(()) };
        // Shares everything with the one that is written.
        let before = tables.clone();
        // Of many routes, most lead where the one before leads.
        let mut last: Option<(&rows::RouteTarget, RouteTarget)> = None;
        let rows = routes.iter().map(|route| {
            let RouteKey { network, prefix } = route.key;
            let target = match last {
                Some((row, target)) if *row == route.target => target,
                _ => self
                    .target(&before, &route.target)
                    .with_context(|| format!("route {prefix} in network {network}"))?,
            };
            last = Some((&route.target, target));
            Ok::<_, anyhow::Error>((prefix, target))
        });
        tables.set_routes(NetworkId(first.key.network), rows)
    }

    fn interface(&self, row: &rows::Interface) -> anyhow::Result<Interface> {
        Ok(Interface {
            port: self.ports.id(&row.port)?,
            network: NetworkId(row.network),
            addresses: row.addresses.iter().map(|a| (a.address, a.prefix_len)).collect(),
        })
    }

    fn endpoint(&self, row: &rows::Endpoint) -> anyhow::Result<Endpoint> {
        Ok(Endpoint {
            id: EndpointId::default(),
            name: row.name.clone(),
            network: NetworkId(row.network),
            port: self.ports.id(&row.port)?,
            mac: row.mac,
            addresses: row.addresses.clone(),
            routes: row.routes.clone(),
            kind: match row.kind {
                rows::EndpointKind::Pod => EndpointKind::Pod,
                rows::EndpointKind::Host => EndpointKind::Host,
            },
        })
    }

    fn target(&self, tables: &Tables, target: &rows::RouteTarget) -> anyhow::Result<RouteTarget> {
        Ok(match target {
            rows::RouteTarget::NextHop { port, address, inside } => {
                RouteTarget::NextHop { port: self.ports.id(port)?, addr: *address, inside: *inside }
            }
            rows::RouteTarget::Connected { port } => RouteTarget::Connected(self.ports.id(port)?),
            rows::RouteTarget::Endpoint { name } => {
                let endpoint = tables.endpoint_by_name(name);
                RouteTarget::Endpoint(
                    endpoint.with_context(|| format!("endpoint `{name}` does not exist"))?.id,
                )
            }
            rows::RouteTarget::Blackhole => RouteTarget::Blackhole,
            rows::RouteTarget::Unreachable => RouteTarget::Unreachable,
        })
    }
}
