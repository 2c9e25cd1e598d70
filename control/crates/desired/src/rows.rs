//! The rows of one generation, and what an operation does to them.
//!
//! Two generations share what they have in common, so that a copy costs nothing and a comparison what differs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use proto::dataplane::{
    Endpoint, Frontend, FrontendKey, Identity, IdentityKey, Interface, Masquerade, Membership, Op, Policy,
    Route, RouteKey, RouteTarget, Router, Snapshot, TunnelPeer, TunnelPeerKey,
};
use wire::IpPrefix;

/// All rows of one generation, by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    pub router: Option<Router>,
    /// By port.
    pub interfaces: OrdMap<String, Interface>,
    /// By name.
    pub endpoints: OrdMap<String, Endpoint>,
    pub routes: OrdMap<RouteKey, RouteTarget>,
    pub frontends: OrdMap<FrontendKey, Arc<Frontend>>,
    /// Of pods.
    pub identities: OrdMap<IdentityKey, u32>,
    /// Of ranges.
    pub blocks: OrdMap<IdentityKey, u32>,
    /// The groups of each identity.
    pub memberships: OrdMap<u32, Arc<[u32]>>,
    /// By the name of their endpoint, which need not be there.
    pub policies: OrdMap<String, Policy>,
    /// By network.
    pub masquerades: OrdMap<u16, Masquerade>,
    pub tunnel_peers: OrdMap<TunnelPeerKey, TunnelPeer>,
}

/// Why an operation was refused; nothing after it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("there is no {kind} `{key}` to remove")]
    Absent { kind: &'static str, key: String },
    #[error("endpoint `{endpoint}` is in use by a route")]
    InUse { endpoint: String },
    #[error("a tunnel peer is in use by route {route}")]
    PeerInUse { route: String },
    #[error("{held} would belong to both {first} and {second}")]
    Conflict { held: String, first: String, second: String },
}

impl Rows {
    /// Whether a row names the port.
    #[must_use]
    pub fn uses_port(&self, port: &str) -> bool {
        self.interfaces.contains_key(port)
            || self.endpoints.values().any(|endpoint| endpoint.port == port)
            || self.tunnel_peers.keys().any(|key| key.port == port)
            || self.routes.values().any(|target| port_of(target) == Some(port))
    }

    /// The rows that can be had while only some ports are there.
    #[must_use]
    pub fn restricted(&self, available: impl Fn(&str) -> bool) -> Self {
        Self {
            interfaces: kept(&self.interfaces, |port, _| available(port)),
            tunnel_peers: kept(&self.tunnel_peers, |key, _| available(&key.port)),
            endpoints: kept(&self.endpoints, |_, endpoint| available(&endpoint.port)),
            routes: kept(&self.routes, |_, target| match target {
                RouteTarget::Endpoint { name } => {
                    self.endpoints.get(name).is_some_and(|endpoint| available(&endpoint.port))
                }
                other => port_of(other).is_none_or(&available),
            }),
            ..self.clone()
        }
    }

    /// Everything that only one row may have, and the row that has it.
    pub(crate) fn holdings(&self) -> impl Iterator<Item = (Held<'_>, Owner<'_>)> {
        let interfaces = self.interfaces.values().flat_map(held_by_interface);
        interfaces.chain(self.endpoints.values().flat_map(held_by_endpoint))
    }

    /// Every address of this node, with its network.
    pub(crate) fn all_addresses(&self) -> impl Iterator<Item = (u16, IpAddr)> {
        self.holdings().filter_map(|(held, _)| match held {
            Held::Address(network, address) => Some((network, address)),
            Held::Port(_) => None,
        })
    }

    /// Those of the pods' own network.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.all_addresses().filter_map(|(network, address)| (network == 0).then_some(address))
    }
}

fn kept<K: Ord + Clone, V: Clone>(rows: &OrdMap<K, V>, keep: impl Fn(&K, &V) -> bool) -> OrdMap<K, V> {
    rows.iter().filter(|(key, row)| keep(key, row)).map(|(key, row)| (key.clone(), row.clone())).collect()
}

/// What an interface alone may have.
pub(crate) fn held_by_interface(row: &Interface) -> impl Iterator<Item = (Held<'_>, Owner<'_>)> {
    let addresses = row.addresses.iter().map(|own| Held::Address(row.network, own.address));
    addresses.chain([Held::Port(&row.port)]).map(|held| (held, Owner::Interface(&row.port)))
}

/// What an endpoint alone may have.
pub(crate) fn held_by_endpoint(row: &Endpoint) -> impl Iterator<Item = (Held<'_>, Owner<'_>)> {
    let addresses = row.addresses.iter().map(|own| Held::Address(row.network, *own));
    addresses.chain([Held::Port(&row.port)]).map(|held| (held, Owner::Endpoint(&row.name)))
}

/// What only one row may have: an address of a network, a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Held<'a> {
    Address(u16, IpAddr),
    Port(&'a str),
}

impl std::fmt::Display for Held<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(0, address) => write!(f, "address {address}"),
            Self::Address(network, address) => write!(f, "address {address} of network {network}"),
            Self::Port(port) => write!(f, "port `{port}`"),
        }
    }
}

impl From<Snapshot> for Rows {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            router: snapshot.router,
            interfaces: snapshot.interfaces.into_iter().map(|row| (row.port.clone(), row)).collect(),
            endpoints: snapshot.endpoints.into_iter().map(|row| (row.name.clone(), row)).collect(),
            routes: snapshot.routes.into_iter().map(|Route { key, target }| (key, target)).collect(),
            frontends: snapshot.frontends.into_iter().map(|row| (row.key, row)).collect(),
            identities: snapshot.identities.iter().map(keyed).collect(),
            blocks: snapshot.blocks.iter().map(keyed).collect(),
            memberships: snapshot.memberships.iter().map(grouped).collect(),
            policies: snapshot.policies.into_iter().map(|row| (row.endpoint.clone(), row)).collect(),
            masquerades: snapshot.masquerades.into_iter().map(|row| (row.network, row)).collect(),
            tunnel_peers: snapshot.tunnel_peers.into_iter().map(|row| (row.key.clone(), row)).collect(),
        }
    }
}

const fn keyed(&Identity { key, identity }: &Identity) -> (IdentityKey, u32) {
    (key, identity)
}

fn grouped(row: &Membership) -> (u32, Arc<[u32]>) {
    (row.identity, row.groups.as_slice().into())
}

/// Who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner<'a> {
    Interface(&'a String),
    Endpoint(&'a String),
}

impl std::fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interface(port) => write!(f, "interface `{port}`"),
            Self::Endpoint(name) => write!(f, "endpoint `{name}`"),
        }
    }
}

pub(crate) fn port_of(target: &RouteTarget) -> Option<&str> {
    match target {
        RouteTarget::NextHop { port, .. } | RouteTarget::Connected { port } => Some(port),
        RouteTarget::Endpoint { .. } | RouteTarget::Blackhole | RouteTarget::Unreachable => None,
    }
}

/// What a tunnel's peer would be called that a route leads to.
pub(crate) fn next_hop_key(target: &RouteTarget) -> Option<TunnelPeerKey> {
    match target {
        RouteTarget::NextHop { port, address, .. } => {
            Some(TunnelPeerKey { port: port.clone(), address: *address })
        }
        _ => None,
    }
}

/// Carries out operations in their order.
///
/// # Errors
/// What a data plane refuses too: removing what is not there, and an address or port with two owners after any operation.
/// `rows` is then partly changed: apply to a copy.
pub fn apply(rows: &mut Rows, ops: &[Op]) -> Result<(), ApplyError> {
    for op in ops {
        match op {
            Op::SetRouter { router } => rows.router = Some(router.clone()),
            Op::SetInterfaces { interfaces } => {
                rows.interfaces.extend(interfaces.iter().map(|row| (row.port.clone(), row.clone())));
                unique_owners(rows)?;
            }
            Op::SetEndpoints { endpoints } => {
                rows.endpoints.extend(endpoints.iter().map(|row| (row.name.clone(), row.clone())));
                unique_owners(rows)?;
            }
            Op::SetRoutes { routes } => {
                rows.routes.extend(routes.iter().map(|row| (row.key, row.target.clone())));
            }
            Op::SetFrontends { frontends } => {
                rows.frontends.extend(frontends.iter().map(|row| (row.key, Arc::clone(row))));
            }
            Op::SetIdentities { identities } => {
                rows.identities.extend(identities.iter().map(keyed));
            }
            Op::SetBlocks { blocks } => rows.blocks.extend(blocks.iter().map(keyed)),
            Op::SetMemberships { memberships } => rows.memberships.extend(memberships.iter().map(grouped)),
            Op::SetPolicies { policies } => {
                rows.policies.extend(policies.iter().map(|row| (row.endpoint.clone(), row.clone())));
            }
            Op::SetMasquerades { masquerades } => {
                rows.masquerades.extend(masquerades.iter().map(|row| (row.network, row.clone())));
            }
            Op::SetTunnelPeers { peers } => {
                rows.tunnel_peers.extend(peers.iter().map(|row| (row.key.clone(), row.clone())));
            }
            Op::RemoveTunnelPeers { peers } => {
                let used =
                    |target: &RouteTarget| next_hop_key(target).is_some_and(|key| peers.contains(&key));
                if let Some((route, _)) = rows.routes.iter().find(|(_, target)| used(target)) {
                    return Err(ApplyError::PeerInUse { route: prefix_name(route.network, route.prefix) });
                }
                remove(&mut rows.tunnel_peers, "tunnel peer", peers, |key| key.address.to_string())?;
            }
            Op::RemoveInterfaces { ports } => {
                remove(&mut rows.interfaces, "interface", ports, String::clone)?
            }
            Op::RemoveEndpoints { names } => {
                for target in rows.routes.values() {
                    if let RouteTarget::Endpoint { name } = target
                        && names.contains(name)
                    {
                        return Err(ApplyError::InUse { endpoint: name.clone() });
                    }
                }
                remove(&mut rows.endpoints, "endpoint", names, String::clone)?;
            }
            Op::RemoveRoutes { routes } => {
                remove(&mut rows.routes, "route", routes, |key| prefix_name(key.network, key.prefix))?
            }
            Op::RemoveFrontends { keys } => {
                remove(&mut rows.frontends, "frontend", keys, FrontendKey::to_string)?;
            }
            Op::RemoveIdentities { identities } => {
                let name = |key: &IdentityKey| prefix_name(key.network, key.prefix);
                remove(&mut rows.identities, "identity", identities, name)?;
            }
            Op::RemoveBlocks { blocks } => {
                let name = |key: &IdentityKey| prefix_name(key.network, key.prefix);
                remove(&mut rows.blocks, "block", blocks, name)?;
            }
            Op::RemoveMemberships { identities } => {
                remove(&mut rows.memberships, "membership of identity", identities, u32::to_string)?;
            }
            Op::RemovePolicies { endpoints } => {
                remove(&mut rows.policies, "policy", endpoints, String::clone)?;
            }
            Op::RemoveMasquerades { networks } => {
                remove(&mut rows.masquerades, "masquerade of network", networks, u16::to_string)?;
            }
        }
    }
    Ok(())
}

/// Takes rows out, each of which must be there.
fn remove<K: Ord + Clone, V: Clone>(
    rows: &mut OrdMap<K, V>,
    kind: &'static str,
    keys: &[K],
    name: impl Fn(&K) -> String,
) -> Result<(), ApplyError> {
    for key in keys {
        if rows.remove(key).is_none() {
            return Err(ApplyError::Absent { kind, key: name(key) });
        }
    }
    Ok(())
}

fn unique_owners(rows: &Rows) -> Result<(), ApplyError> {
    let mut seen = BTreeMap::new();
    for (held, owner) in rows.holdings() {
        if let Some(first) = seen.insert(held, owner)
            && first != owner
        {
            let (held, first, second) = (held.to_string(), first.to_string(), owner.to_string());
            return Err(ApplyError::Conflict { held, first, second });
        }
    }
    Ok(())
}

fn prefix_name(network: u16, prefix: IpPrefix) -> String {
    if network == 0 { prefix.to_string() } else { format!("{prefix} of network {network}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::dataplane::EndpointKind;

    fn endpoint(name: &str, address: &str) -> Endpoint {
        Endpoint {
            name: name.into(),
            port: format!("port-{name}"),
            network: 0,
            mac: crate::ROUTER_MAC,
            addresses: vec![address.parse().unwrap()],
            routes: vec![],
            kind: EndpointKind::Pod,
        }
    }

    #[test]
    fn what_a_data_plane_refuses_is_refused() {
        let mut rows = Rows::default();
        let gone = Op::RemoveEndpoints { names: vec!["a".into()] };
        assert_eq!(apply(&mut rows, &[gone]).unwrap_err().to_string(), "there is no endpoint `a` to remove");
        let key = |network| IdentityKey { network, prefix: "10.0.0.0/8".parse().unwrap() };
        for (op, named) in [
            (Op::RemovePolicies { endpoints: vec!["a".into()] }, "policy `a`"),
            (Op::RemoveMasquerades { networks: vec![3] }, "masquerade of network `3`"),
            (Op::RemoveIdentities { identities: vec![key(0)] }, "identity `10.0.0.0/8`"),
            (Op::RemoveIdentities { identities: vec![key(2)] }, "identity `10.0.0.0/8 of network 2`"),
            (Op::RemoveBlocks { blocks: vec![key(0)] }, "block `10.0.0.0/8`"),
            (Op::RemoveMemberships { identities: vec![7] }, "membership of identity `7`"),
        ] {
            let message = apply(&mut rows, &[op]).unwrap_err().to_string();
            assert_eq!(message, format!("there is no {named} to remove"));
        }
        let two = Op::SetEndpoints { endpoints: vec![endpoint("a", "10.0.0.1"), endpoint("b", "10.0.0.1")] };
        let message = apply(&mut rows, &[two]).unwrap_err().to_string();
        assert!(
            message.contains("10.0.0.1") && message.contains("`a`") && message.contains("`b`"),
            "{message}"
        );
    }

    #[test]
    fn rows_of_ports_that_are_missing_wait() {
        let mut rows = Rows::default();
        let key = RouteKey { network: 0, prefix: "10.1.0.0/24".parse().unwrap() };
        let via = RouteTarget::NextHop {
            port: "uplink".into(),
            address: "10.0.0.9".parse().unwrap(),
            inside: false,
        };
        let other = RouteKey { network: 0, prefix: "10.2.0.0/24".parse().unwrap() };
        rows.endpoints.insert("a".into(), endpoint("a", "10.0.0.1"));
        rows.routes.extend([(key, via), (other, RouteTarget::Unreachable)]);
        assert!(rows.uses_port("uplink") && rows.uses_port("port-a") && !rows.uses_port("port-b"));
        let some = rows.restricted(|port| port == "port-a");
        assert_eq!((some.endpoints.len(), some.routes.len()), (1, 1));
        assert!(!some.uses_port("uplink"));
    }
}
