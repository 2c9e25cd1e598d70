//! The operations between two sets of rows.
//!
//! Removals come first, users before what they use; then sets, what is used before its users. A row that gives up an
//! address or a port which another one takes is removed and set anew, so that neither has two owners in between.

use std::collections::{BTreeMap, BTreeSet};

use proto::dataplane::{Op, Route};

use crate::rows::{Owner, Rows, port_of};

/// What turns `current` into `desired`; empty if they are equal. A router, once set, is never removed: a `desired`
/// without one leaves it as it is.
#[must_use]
pub fn diff(current: &Rows, desired: &Rows) -> Vec<Op> {
    let moved = givers(current, desired);
    let replaced = |owner| moved.contains(&owner);

    let gone_ports: Vec<String> = current
        .interfaces
        .keys()
        .filter(|port| !desired.interfaces.contains_key(*port) || replaced(Owner::Interface(port)))
        .cloned()
        .collect();
    let gone_names: Vec<String> = current
        .endpoints
        .keys()
        .filter(|name| !desired.endpoints.contains_key(*name) || replaced(Owner::Endpoint(name)))
        .cloned()
        .collect();
    // A route by a port whose interface goes for a moment goes with it.
    let gone_routes: Vec<_> = current
        .routes
        .iter()
        .filter(|(key, target)| {
            let on_gone_port = port_of(target).is_some_and(|port| gone_ports.iter().any(|gone| gone == port));
            !desired.routes.contains_key(key) || on_gone_port
        })
        .map(|(key, _)| *key)
        .collect();

    let interfaces: Vec<_> = desired
        .interfaces
        .iter()
        .filter(|(port, row)| current.interfaces.get(*port) != Some(*row) || gone_ports.contains(port))
        .map(|(_, row)| row.clone())
        .collect();
    let endpoints: Vec<_> = desired
        .endpoints
        .iter()
        .filter(|(name, row)| {
            current.endpoints.get(*name) != Some(*row) || gone_names.binary_search(name).is_ok()
        })
        .map(|(_, row)| row.clone())
        .collect();
    let routes: Vec<_> = desired
        .routes
        .iter()
        .filter(|(key, row)| current.routes.get(*key) != Some(*row) || gone_routes.binary_search(key).is_ok())
        .map(|(&key, target)| Route { key, target: target.clone() })
        .collect();
    let router = desired.router.filter(|router| current.router != Some(*router));

    let steps = [
        (!gone_routes.is_empty()).then_some(Op::RemoveRoutes { routes: gone_routes }),
        (!gone_names.is_empty()).then_some(Op::RemoveEndpoints { names: gone_names }),
        (!gone_ports.is_empty()).then_some(Op::RemoveInterfaces { ports: gone_ports }),
        router.map(|router| Op::SetRouter { router }),
        (!interfaces.is_empty()).then_some(Op::SetInterfaces { interfaces }),
        (!endpoints.is_empty()).then_some(Op::SetEndpoints { endpoints }),
        (!routes.is_empty()).then_some(Op::SetRoutes { routes }),
    ];
    steps.into_iter().flatten().collect()
}

/// Those of `current` that hold what belongs to another one in `desired`.
fn givers<'a>(current: &'a Rows, desired: &'a Rows) -> BTreeSet<Owner<'a>> {
    let takers: BTreeMap<_, _> = desired.holdings().collect();
    current
        .holdings()
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
        Endpoint, EndpointKind, Interface, InterfaceAddress, RouteKey, RouteTarget, Router,
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

    /// Rows in which every address and port has one owner: few of each, so that they meet often.
    fn rows() -> impl Strategy<Value = Rows> {
        let owners = btree_map((0u16..2, 0u8..12), 0u8..6, 0..12);
        let ports = Just((0..6).map(|n| format!("port{n}")).collect::<Vec<_>>()).prop_shuffle();
        let looks = vec(0u8..3, 6);
        let routes = btree_map((0u16..2, 0u8..12), 0u8..6, 0..8);
        (owners, ports, looks, routes, 1u8..4).prop_map(|(owners, ports, looks, routes, gateway)| {
            let mut rows = Rows {
                router: Some(Router {
                    gateway4: Ipv4Addr::new(169, 254, 1, gateway),
                    gateway6: Ipv6Addr::LOCALHOST,
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
                    let (addresses, kind) = (vec![], EndpointKind::Pod);
                    let new = Endpoint { name: name.clone(), port, network, mac, addresses, kind };
                    let row = rows.endpoints.entry(name).or_insert(new);
                    if row.network == network {
                        row.addresses.push(address(own));
                    }
                }
            }
            for ((network, to), via) in routes {
                let key = RouteKey { network, prefix: IpPrefix::host(address(to)) };
                let port = format!("port{}", via % 2);
                let target = match via {
                    0 => RouteTarget::Blackhole,
                    1 => RouteTarget::Unreachable,
                    2 | 3 => RouteTarget::Connected { port },
                    _ => RouteTarget::NextHop { port, address: address(via) },
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
            kind: EndpointKind::Pod,
        };
        let mut old = Rows::default();
        let mut new = Rows::default();
        old.endpoints.extend([("a".into(), endpoint("a", 2)), ("b".into(), endpoint("b", 4))]);
        new.endpoints.extend([("a".into(), endpoint("a", 4)), ("b".into(), endpoint("b", 2))]);
        let ops = diff(&old, &new);
        assert_eq!(ops[0], Op::RemoveEndpoints { names: vec!["a".into(), "b".into()] });
        apply(&mut old, &ops).unwrap();
        assert_eq!(old, new);
    }
}
