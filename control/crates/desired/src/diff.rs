//! The operations between two sets of rows.
//!
//! Removals come first, users before what they use; then sets, what is used before its users. A row that gives up an
//! address or a port which another one takes is removed and set anew, so that neither has two owners in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use proto::dataplane::{Endpoint, Identity, Interface, Membership, Op, Route, RouteTarget};

use crate::rows::{Owner, Rows, held_by_endpoint, held_by_interface, next_hop_key, port_of};

/// What turns `current` into `desired`; empty if they are equal. A router, once set, is never removed: a `desired`
/// without one leaves it as it is. It takes the time of what differs, where one was made from the other.
#[must_use]
pub fn diff(current: &Rows, desired: &Rows) -> Vec<Op> {
    let interfaces = Delta::of(&current.interfaces, &desired.interfaces);
    let endpoints = Delta::of(&current.endpoints, &desired.endpoints);
    let routes = Delta::of(&current.routes, &desired.routes);
    let frontends = Delta::of(&current.frontends, &desired.frontends);
    let identities = Delta::of(&current.identities, &desired.identities);
    let blocks = Delta::of(&current.blocks, &desired.blocks);
    let memberships = Delta::of(&current.memberships, &desired.memberships);
    let policies = Delta::of(&current.policies, &desired.policies);
    let masquerades = Delta::of(&current.masquerades, &desired.masquerades);
    let peers = Delta::of(&current.tunnel_peers, &desired.tunnel_peers);
    let router = desired.router.clone().filter(|router| current.router.as_ref() != Some(router));

    let gone_peers = peers.gone();
    let (mut gone_ports, mut gone_names) = (interfaces.gone(), endpoints.gone());
    for giver in givers(&interfaces, &endpoints) {
        match giver {
            Owner::Interface(port) => gone_ports.insert(port),
            Owner::Endpoint(name) => gone_names.insert(name),
        };
    }
    // A route by a port or to an endpoint that goes for a moment goes with it.
    let (mut gone_routes, mut set_routes) = (routes.gone(), routes.set());
    if !gone_ports.is_empty() || !gone_names.is_empty() {
        let goes = |target: &RouteTarget| match target {
            RouteTarget::Endpoint { name } => gone_names.contains(name),
            other => port_of(other).is_some_and(|port| gone_ports.iter().any(|gone| *gone == port)),
        };
        for (key, _) in current.routes.iter().filter(|(_, target)| goes(target)) {
            gone_routes.insert(key);
            set_routes.extend(desired.routes.get(key).map(|target| (key, target)));
        }
    }

    // And one that led to a peer which goes for good.
    let led = |target: &RouteTarget| next_hop_key(target).is_some_and(|key| gone_peers.contains(&key));
    if !gone_peers.is_empty() {
        gone_routes.extend(routes.0.iter().filter(|(_, old, _)| old.is_some_and(led)).map(|(key, ..)| *key));
    }

    let mut ops = Vec::new();
    push(&mut ops, owned(gone_routes), |routes| Op::RemoveRoutes { routes });
    push(&mut ops, owned(gone_peers), |peers| Op::RemoveTunnelPeers { peers });
    push(&mut ops, owned(gone_names), |names| Op::RemoveEndpoints { names });
    push(&mut ops, owned(gone_ports), |ports| Op::RemoveInterfaces { ports });
    push(&mut ops, owned(frontends.gone()), |keys| Op::RemoveFrontends { keys });
    push(&mut ops, owned(identities.gone()), |identities| Op::RemoveIdentities { identities });
    push(&mut ops, owned(blocks.gone()), |blocks| Op::RemoveBlocks { blocks });
    push(&mut ops, owned(memberships.gone()), |identities| Op::RemoveMemberships { identities });
    push(&mut ops, owned(policies.gone()), |endpoints| Op::RemovePolicies { endpoints });
    push(&mut ops, owned(masquerades.gone()), |networks| Op::RemoveMasquerades { networks });
    ops.extend(router.map(|router| Op::SetRouter { router }));
    push(&mut ops, interfaces.rows(), |interfaces| Op::SetInterfaces { interfaces });
    push(&mut ops, peers.rows(), |peers| Op::SetTunnelPeers { peers });
    let membership =
        |(&identity, groups): (&_, &Arc<[u32]>)| Membership { identity, groups: groups.to_vec() };
    let members = memberships.set().into_iter().map(membership).collect();
    push(&mut ops, members, |memberships| Op::SetMemberships { memberships });
    let identity = |(&key, &identity): (&_, &_)| Identity { key, identity };
    let keyed = |rows: Delta<'_, _, _>| rows.set().into_iter().map(identity).collect::<Vec<_>>();
    push(&mut ops, keyed(identities), |identities| Op::SetIdentities { identities });
    push(&mut ops, keyed(blocks), |blocks| Op::SetBlocks { blocks });
    push(&mut ops, policies.rows(), |policies| Op::SetPolicies { policies });
    push(&mut ops, endpoints.rows(), |endpoints| Op::SetEndpoints { endpoints });
    let route = |(&key, target): (&_, &RouteTarget)| Route { key, target: target.clone() };
    push(&mut ops, set_routes.into_iter().map(route).collect(), |routes| Op::SetRoutes { routes });
    push(&mut ops, frontends.rows(), |frontends| Op::SetFrontends { frontends });
    push(&mut ops, masquerades.rows(), |masquerades| Op::SetMasquerades { masquerades });
    ops
}

/// One operation for all rows of a kind, none for no rows.
fn push<T>(ops: &mut Vec<Op>, rows: Vec<T>, op: impl FnOnce(Vec<T>) -> Op) {
    if !rows.is_empty() {
        ops.push(op(rows));
    }
}

fn owned<K: Ord + Clone>(keys: BTreeSet<&K>) -> Vec<K> {
    keys.into_iter().cloned().collect()
}

/// What differs between the rows of one kind: each that was, and each that is to be.
struct Delta<'a, K, V>(Vec<(&'a K, Option<&'a V>, Option<&'a V>)>);

impl<'a, K: Ord, V: PartialEq + Clone> Delta<'a, K, V> {
    fn of(current: &'a OrdMap<K, V>, desired: &'a OrdMap<K, V>) -> Self {
        let items = current.diff(desired).map(|item| match item {
            DiffItem::Add(key, new) => (key, None, Some(new)),
            DiffItem::Update { old: (key, old), new: (_, new) } => (key, Some(old), Some(new)),
            DiffItem::Remove(key, old) => (key, Some(old), None),
        });
        Self(items.collect())
    }

    /// The keys that are no longer wanted.
    fn gone(&self) -> BTreeSet<&'a K> {
        self.0.iter().filter(|(_, _, new)| new.is_none()).map(|(key, _, _)| *key).collect()
    }

    /// The rows that are new or other than they were.
    fn set(&self) -> BTreeMap<&'a K, &'a V> {
        self.0.iter().filter_map(|(key, _, new)| Some((*key, (*new)?))).collect()
    }

    /// The same, of rows that hold their keys.
    fn rows(&self) -> Vec<V> {
        self.after().cloned().collect()
    }

    fn before(&self) -> impl Iterator<Item = &'a V> {
        self.0.iter().filter_map(|(_, old, _)| *old)
    }

    fn after(&self) -> impl Iterator<Item = &'a V> {
        self.0.iter().filter_map(|(_, _, new)| *new)
    }
}

/// Those that hold now what is to belong to another one. Both differ from what they were.
fn givers<'a>(
    interfaces: &Delta<'a, String, Interface>,
    endpoints: &Delta<'a, String, Endpoint>,
) -> BTreeSet<Owner<'a>> {
    let takers: BTreeMap<_, _> = interfaces
        .after()
        .flat_map(held_by_interface)
        .chain(endpoints.after().flat_map(held_by_endpoint))
        .collect();
    let holders =
        interfaces.before().flat_map(held_by_interface).chain(endpoints.before().flat_map(held_by_endpoint));
    holders
        .filter(|(held, owner)| takers.get(held).is_some_and(|taker| taker != owner))
        .map(|(_, owner)| owner)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proto::dataplane::{
        Backend, BackendState, EndpointKind, Frontend, FrontendKey, IdentityKey, InterfaceAddress,
        Masquerade, Peer, Policy, PortRange, Protocol, RouteKey, RouteTarget, Router, Rule, RuleVerdict,
        TunnelPeer, TunnelPeerKey,
    };
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use wire::{IpPrefix, MacAddr};

    fn address(n: u8) -> IpAddr {
        if n.is_multiple_of(2) {
            Ipv4Addr::new(10, 0, 0, n).into()
        } else {
            Ipv6Addr::from(u128::from(n)).into()
        }
    }

    fn frontends() -> impl Strategy<Value = OrdMap<FrontendKey, Arc<Frontend>>> {
        let backends = btree_map(0u8..3, any::<bool>(), 0..3);
        btree_map((0u16..2, 0u8..3, 0u8..2), backends, 0..5).prop_map(|rows| {
            let row = |((network, at, port), backends): (_, BTreeMap<u8, bool>)| {
                let (address, port, protocol) = (address(2 * at), 80 + u16::from(port), Protocol(6));
                let backend = |(at, serving)| Backend {
                    address: self::address(2 * at),
                    port: 8080,
                    state: if serving { BackendState::Serving } else { BackendState::Draining },
                };
                let key = FrontendKey { network, address, port, protocol };
                let backends = backends.into_iter().map(backend).collect();
                let (name, drops, sources) = (format!("service{at}").into(), at % 3 == 0, vec![]);
                (key, Arc::new(Frontend { key, name, backends, drops, sources, affinity_seconds: None }))
            };
            rows.into_iter().map(row).collect()
        })
    }

    fn identities() -> impl Strategy<Value = OrdMap<IdentityKey, u32>> {
        let prefix = |n| IpPrefix::host(address(n));
        let key = (0u16..2, 0u8..4).prop_map(move |(network, n)| IdentityKey { network, prefix: prefix(n) });
        btree_map(key, 1u32..3, 0..5).prop_map(OrdMap::from)
    }

    fn memberships() -> impl Strategy<Value = OrdMap<u32, Arc<[u32]>>> {
        let groups = vec(1u32..4, 0..3).prop_map(Arc::from);
        btree_map(1u32..5, groups, 0..4).prop_map(OrdMap::from)
    }

    fn policies() -> impl Strategy<Value = OrdMap<String, Policy>> {
        let rule = (0u32..2, prop::option::of(0u32..2)).prop_map(|(id, peer)| Rule {
            id,
            name: String::new(),
            says: String::new(),
            peer: peer.map_or(Peer::Any, |one| Peer::Groups { groups: vec![one] }),
            protocol: None,
            ports: None,
            verdict: RuleVerdict::Allow,
        });
        let direction = || prop::option::of(vec(rule.clone(), 0..2));
        btree_map(0u8..5, (direction(), direction()), 0..4).prop_map(|rows| {
            let row = |(n, (ingress, egress))| {
                let endpoint = format!("endpoint{n}");
                (endpoint.clone(), Policy { endpoint, ingress, egress })
            };
            rows.into_iter().map(row).collect()
        })
    }

    fn masquerades() -> impl Strategy<Value = OrdMap<u16, Masquerade>> {
        btree_map(0u16..3, 1u8..3, 0..3).prop_map(|rows| {
            let row = |(network, n)| {
                let ports = PortRange { first: 1024, last: u16::MAX };
                let (source4, source6) = (Some(Ipv4Addr::new(192, 0, 2, n)), None);
                let (exclude, service4, service6) = (vec![], source4.filter(|_| n > 1), None);
                let link_local = n == 1;
                (
                    network,
                    Masquerade { network, source4, source6, exclude, link_local, service4, service6, ports },
                )
            };
            rows.into_iter().map(row).collect()
        })
    }

    /// Ends of a tunnel, and routes that lead there.
    fn tunnelled() -> impl Strategy<Value = BTreeMap<u8, (u8, Option<u8>)>> {
        btree_map(0u8..3, (1u8..3, prop::option::of(20u8..24)), 0..3)
    }

    fn rows() -> impl Strategy<Value = Rows> {
        let policed = (frontends(), identities(), identities(), memberships(), policies(), masquerades());
        (owned_rows(), policed, tunnelled()).prop_map(|(rows, policed, tunnelled)| {
            let (frontends, identities, blocks, memberships, policies, masquerades) = policed;
            let mut rows = Rows { frontends, identities, blocks, memberships, policies, masquerades, ..rows };
            for (peer, (look, to)) in tunnelled {
                let key = TunnelPeerKey { port: "tunnel".to_owned(), address: address(peer) };
                let row = TunnelPeer { key: key.clone(), mac: MacAddr([2, 0, 0, 0, 0, look]) };
                let TunnelPeerKey { port, address } = key.clone();
                rows.tunnel_peers.insert(key, row);
                if let Some(to) = to {
                    let key = RouteKey { network: 0, prefix: IpPrefix::host(self::address(to)) };
                    rows.routes.insert(key, RouteTarget::NextHop { port, address, inside: true });
                }
            }
            rows
        })
    }

    /// Rows in which every address and port has one owner: few of each, so that they meet often.
    fn owned_rows() -> impl Strategy<Value = Rows> {
        let owners = btree_map((0u16..2, 0u8..12), 0u8..6, 0..12);
        let ports = Just((0..6).map(|n| format!("port{n}")).collect::<Vec<_>>()).prop_shuffle();
        let looks = vec(0u8..3, 6);
        let routes = btree_map((0u16..2, 0u8..12), 0u8..8, 0..8);
        (owners, ports, looks, routes, 1u8..4).prop_map(|(owners, ports, looks, routes, gateway)| {
            let mut rows = Rows {
                router: Some(Router {
                    gateway4: Ipv4Addr::new(169, 254, 1, gateway),
                    gateway6: Ipv6Addr::LOCALHOST,
                    dns_servers: vec![Ipv4Addr::new(10, 96, 0, gateway / 2).into()],
                    dns_search: vec![],
                }),
                ..Rows::default()
            };
            for ((network, own), owner) in owners {
                let port = ports[usize::from(owner)].clone();
                let look = looks[usize::from(owner)];
                if owner < 2 {
                    let new = Interface { port: port.clone(), network, addresses: vec![] };
                    let row = rows.interfaces.entry(port).or_insert(new);
                    if row.network == network {
                        row.addresses.push(InterfaceAddress { address: address(own), prefix_len: 24 + look });
                    }
                } else {
                    let name = format!("endpoint{owner}");
                    let mac = MacAddr([2, 0, 0, 0, 0, look]);
                    let (addresses, routes, kind) = (vec![], vec![], EndpointKind::Pod);
                    let new = Endpoint { name: name.clone(), port, network, mac, addresses, routes, kind };
                    let row = rows.endpoints.entry(name).or_insert(new);
                    if row.network == network {
                        row.addresses.push(address(own));
                    }
                }
            }
            for ((network, to), via) in routes {
                let key = RouteKey { network, prefix: IpPrefix::host(address(to)) };
                let port = format!("port{}", via % 2);
                let name = format!("endpoint{}", 2 + via % 2);
                let target = match via {
                    // To one that is there.
                    6 | 7 if rows.endpoints.contains_key(&name) => RouteTarget::Endpoint { name },
                    0 => RouteTarget::Blackhole,
                    1 => RouteTarget::Unreachable,
                    2 | 3 => RouteTarget::Connected { port },
                    _ => RouteTarget::NextHop { port, address: address(via), inside: via == 5 },
                };
                rows.routes.insert(key, target);
            }
            rows
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn leads_from_any_rows_to_any_others(old in rows(), new in rows()) {
            let mut reached = old.clone();
            apply(&mut reached, &diff(&old, &new)).unwrap();
            prop_assert_eq!(&reached, &new);
            prop_assert_eq!(diff(&reached, &new), vec![]);
        }

        #[test]
        fn says_nothing_between_equals(rows in rows()) {
            prop_assert_eq!(diff(&rows, &rows), vec![]);
        }

        #[test]
        fn leads_from_nothing_to_any_rows(new in rows()) {
            let mut reached = Rows::default();
            apply(&mut reached, &diff(&Rows::default(), &new)).unwrap();
            prop_assert_eq!(reached, new);
        }
    }

    #[test]
    fn an_address_that_moves_is_given_up_first() {
        let endpoint = |name: &str, n| Endpoint {
            name: name.into(),
            port: name.into(),
            network: 0,
            mac: MacAddr([2, 0, 0, 0, 0, n]),
            addresses: vec![address(n)],
            routes: vec![],
            kind: EndpointKind::Pod,
        };
        let mut old = Rows::default();
        let mut new = Rows::default();
        old.endpoints.extend([("a".to_owned(), endpoint("a", 2)), ("b".to_owned(), endpoint("b", 4))]);
        new.endpoints.extend([("a".to_owned(), endpoint("a", 4)), ("b".to_owned(), endpoint("b", 2))]);
        let ops = diff(&old, &new);
        assert_eq!(ops[0], Op::RemoveEndpoints { names: vec!["a".into(), "b".into()] });
        apply(&mut old, &ops).unwrap();
        assert_eq!(old, new);
    }
}
