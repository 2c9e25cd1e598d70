//! What the stamps say of a decision, against what the decision would find: never "unchanged" where an answer differs.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use tables::{
    Backend, BackendState, Classifier, Endpoint, EndpointId, EndpointKind, Frontend, FrontendKey, Generation,
    GroupId, IdentityId, Interface, Masquerade, NetworkId, Peer, Policy, PortEntry, PortId, PortRole, Rests,
    RouteTarget, Router, Rule, RuleVerdict, Tables, Target,
};
use wire::{IpPrefix, MacAddr};

const TCP: u8 = 6;
const NETWORKS: [NetworkId; 2] = [NetworkId(0), NetworkId(9)];
/// Pods, a Service, the outside; the last bits make them fall into the same prefixes or not.
const ADDRESSES: [&str; 8] = [
    "10.1.1.1",
    "10.1.1.2",
    "10.1.2.1",
    "10.2.0.1",
    "192.0.2.1",
    "fd00:1:1:1::1",
    "fd00:1:1:2::1",
    "2001:db8::1",
];
const LENGTHS4: [u8; 7] = [0, 8, 12, 16, 23, 24, 32];
const LENGTHS6: [u8; 7] = [0, 16, 33, 48, 64, 96, 128];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(n: u8) -> IpAddr {
    ip(ADDRESSES[usize::from(n) % ADDRESSES.len()])
}

fn network(n: u8) -> NetworkId {
    NETWORKS[usize::from(n / 64 % 2)]
}

fn prefix(n: u8, length: u8) -> IpPrefix {
    let (addr, length) = (address(n), usize::from(length) % LENGTHS4.len());
    let len = if addr.is_ipv4() { LENGTHS4[length] } else { LENGTHS6[length] };
    IpPrefix::containing(addr, len).unwrap()
}

fn key(n: u8, port: u8) -> FrontendKey {
    FrontendKey { network: network(n), addr: address(n), port: 80 + u16::from(port % 2), protocol: TCP }
}

fn port(n: u8, look: u8) -> PortEntry {
    PortEntry {
        id: PortId(u16::from(n % 6)),
        name: format!("port{}", n % 6),
        mac: MacAddr([2, 0, 0, 0, 0, look % 2]),
        mtu: 1500,
        role: PortRole::Idle,
    }
}

/// One rule, which all match where it names no groups.
fn rules(id: u32, groups: &[u32]) -> Option<Arc<Classifier>> {
    let (name, verdict) = ("a rule".into(), RuleVerdict::Allow);
    let named = || Peer::Groups(groups.iter().copied().map(GroupId).collect());
    let peer = if groups.is_empty() { Peer::Any } else { named() };
    let rule = Rule { id, name, says: "".into(), peer, protocol: None, ports: None, verdict };
    Some(Arc::new(Classifier::new(vec![rule])))
}

fn policy(n: u8) -> Policy {
    let [a, b, c] = [n % 4, n / 4 % 4, n / 16 % 4].map(u32::from);
    match n / 64 {
        0 => Policy { ingress: rules(a, &[]), egress: None },
        1 => Policy { ingress: rules(1, &[1 + a, 1 + b]), egress: rules(1, &[1 + c]) },
        _ => Policy { ingress: None, egress: rules(1, &[1 + a]) },
    }
}

/// A change of some kind; many are refused, which must leave no trace either.
fn change(tables: &mut Tables, [kind, a, b, c]: [u8; 4]) {
    let name = format!("pod{}", a % 4);
    let refused = match kind % 20 {
        0 | 1 => tables
            .set_endpoint(Endpoint {
                id: EndpointId::default(),
                name,
                network: network(b),
                port: PortId(u16::from(a % 4)),
                mac: MacAddr([2, 0, 0, 0, 1, c % 2]),
                addresses: if c & 4 == 0 { vec![address(b)] } else { vec![address(b), address(c)] },
                routes: vec![],
                kind: if c & 0xf8 == 0 { EndpointKind::Host } else { EndpointKind::Pod },
            })
            .map(drop),
        2 => tables.remove_endpoint(&name),
        3 => tables.set_interface(Interface {
            port: PortId(4 + u16::from(a % 2)),
            network: network(b),
            addresses: vec![(address(b), if address(b).is_ipv4() { 24 } else { 64 })],
        }),
        4 => tables.remove_interface(PortId(4 + u16::from(a % 2))),
        5 | 6 => {
            let target = match c % 6 {
                0 => RouteTarget::Blackhole,
                1 => RouteTarget::Unreachable,
                2 => RouteTarget::Endpoint(EndpointId(u32::from(c / 64))),
                _ => RouteTarget::Connected(PortId(u16::from(c / 8 % 6))),
            };
            tables.set_route(network(a), prefix(a, b), target)
        }
        7 => tables.remove_route(network(a), prefix(a, b)),
        8 => tables.set_port(port(a, b)),
        9 if b == 0 => {
            let gateway4 = [169, 254, 1, 1 + c % 2].into();
            tables.set_router(Router { gateway4, ..Router::default() })
        }
        9 => tables.set_identity(network(a), prefix(a, b), IdentityId(u32::from(c % 3))),
        10 => tables.remove_identity(network(a), prefix(a, b)),
        11 | 12 => {
            let backend = |n: u8| Backend {
                addr: address(n),
                port: 8080,
                state: if n < 128 { BackendState::Serving } else { BackendState::Draining },
            };
            let backends = if c & 1 == 0 { vec![backend(b)] } else { vec![backend(b), backend(c)] };
            tables.set_frontend(Frontend {
                key: key(a, b),
                name: format!("s{}", c % 2).into(),
                backends: backends.into(),
                drops: false,
                sources: vec![],
                affinity: 0,
            })
        }
        13 => tables.remove_frontend(key(a, b)),
        14 if b == 0 => {
            let source4 = Some([192, 0, 2, 1 + c % 2].into());
            tables.set_masquerade(network(a), Some(Masquerade { source4, ..Masquerade::default() }))
        }
        14 => tables.set_policy(&name, policy(c)),
        15 => tables.remove_policy(&name),
        16 => tables.set_block(network(a), prefix(a, b), IdentityId(u32::from(c % 3))),
        17 => tables.remove_block(network(a), prefix(a, b)),
        18 => {
            let groups = (0..5).filter(|bit| b >> bit & 1 == 1).map(|bit| GroupId(1 + bit)).collect();
            tables.set_membership(IdentityId(u32::from(a % 3)), groups)
        }
        _ => tables.remove_membership(IdentityId(u32::from(a % 3))),
    };
    drop(refused);
}

const fn port_of(rests: &Rests) -> u16 {
    rests.dst_port
}

/// All that a decision may read of a packet, in words.
fn findings(tables: &Tables, rests: &Rests) -> String {
    let &Rests { network, src, dst, to, dst_port: port, protocol } = rests;
    let leads = |addr, peer| {
        let target = tables.lookup(network, addr);
        let port = match target {
            Some(Target::Endpoint(id)) => tables.endpoint(id).map(|row| row.port),
            Some(Target::Connected(port) | Target::NextHop { port, .. }) => Some(port),
            _ => None,
        };
        let port = port.and_then(|port| tables.port(port)).map(|row| (row.id, row.mac, row.mtu, row.role));
        // What its policy says of the other address; who that is matters as far as rules name it.
        let groups = tables.groups(network, peer);
        let says = |policy: &Policy| {
            [&policy.ingress, &policy.egress].map(|rules| {
                let decision = rules.as_ref()?.decide(groups, protocol, port_of(rests));
                Some((decision.verdict, decision.rule.cloned()))
            })
        };
        let endpoint = match target {
            Some(Target::Endpoint(id)) => {
                let row = tables.endpoint(id).filter(|row| row.addresses.contains(&addr));
                let policy = row.and_then(|row| tables.policy(row.id));
                Some((tables.endpoint(id), policy, policy.map(says)))
            }
            _ => None,
        };
        let own = (tables.identity(network, addr), tables.block(network, addr));
        format!("{target:?} {port:?} {endpoint:?} {own:?}")
    };
    let frontend = tables.frontend(&FrontendKey { network, addr: dst, port, protocol });
    format!(
        "{} | {} | {:?} {} | {} {} | {:?} {:?}",
        leads(src, to),
        leads(to, src),
        frontend.map(|row| &row.backends),
        tables.has_frontends(network, dst),
        tables.is_backend(network, src, 8080, protocol),
        tables.is_backend(network, to, 8080, protocol),
        tables.masquerade(network),
        tables.router(),
    )
}

fn node() -> Tables {
    let mut tables = Tables::empty();
    (0..6).for_each(|n| tables.set_port(port(n, 0)).unwrap());
    tables
}

fn rests(network: NetworkId, src: &str, dst: &str) -> Rests {
    Rests { network, src: ip(src), dst: ip(dst), to: ip(dst), dst_port: 80, protocol: TCP }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_is_unchanged_is_found_as_it_was(
        start in prop_oneof![Just(0_u64), Just(u64::from(u32::MAX) - 3), Just(1 << 31)],
        generations in prop::collection::vec(prop::collection::vec(any::<[u8; 4]>(), 0..4), 1..12),
        packets in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 6),
    ) {
        let packets: Vec<Rests> = packets
            .into_iter()
            .map(|(a, b, c)| Rests {
                network: network(a),
                src: address(a),
                dst: address(b),
                to: if c < 128 { address(b) } else { address(c) },
                dst_port: 80 + u16::from(b / 128),
                protocol: TCP,
            })
            .collect();
        let mut tables = node();
        tables.seal(Generation(start));
        keeps_its_word(tables, generations, &packets)?;
    }

    /// The same of policies alone, among few pods that have some.
    #[test]
    fn what_is_unchanged_is_judged_as_it_was(
        generations in prop::collection::vec(prop::collection::vec(policed(), 0..4), 1..12),
        packets in prop::collection::vec((0_u8..5, 0_u8..5), 6),
    ) {
        let rests = |(a, b)| Rests {
            network: NETWORKS[0],
            src: address(a),
            dst: address(b),
            to: address(b),
            dst_port: 80,
            protocol: TCP,
        };
        let packets: Vec<Rests> = packets.into_iter().map(rests).collect();
        let (mut tables, _) = grouped();
        tables.set_membership(IdentityId(1), vec![GroupId(1), GroupId(2)]).unwrap();
        tables.set_membership(IdentityId(2), vec![GroupId(3)]).unwrap();
        tables.seal(Generation(3));
        keeps_its_word(tables, generations, &packets)?;
    }
}

/// Changes to who is who, to groups, and to policies that name them.
fn policed() -> impl Strategy<Value = [u8; 4]> {
    let kind = prop_oneof![Just(9_u8), Just(10), Just(14), Just(14), Just(15), Just(16), Just(17), 18_u8..20];
    // The first five addresses, as such or by their ranges; pods that are there, most of them.
    let length = prop_oneof![Just(6_u8), Just(6), Just(5), Just(0)];
    (kind, 0_u8..5, length, any::<u8>(), 0_u8..32)
        .prop_map(|(kind, a, length, c, groups)| [kind, a, if kind == 18 { groups } else { length }, c])
}

/// Whatever the tables say is unchanged is found as it was, at each generation since it was decided.
fn keeps_its_word(
    mut tables: Tables,
    generations: Vec<Vec<[u8; 4]>>,
    packets: &[Rests],
) -> Result<(), TestCaseError> {
    let start = tables.generation().0;
    let mut history: Vec<(u32, Vec<String>)> = vec![(tables.stamp(), all_findings(&tables, packets))];
    for (number, changes) in (start + 1..).zip(generations) {
        // One that is thrown away leaves nothing behind.
        changes.iter().rev().for_each(|&bytes| change(&mut tables.clone(), bytes));
        let mut next = tables.clone();
        changes.iter().for_each(|&bytes| change(&mut next, bytes));
        next.seal(Generation(number));
        tables = next;
        let now = all_findings(&tables, packets);
        for (since, then) in &history {
            for (i, rests) in packets.iter().enumerate() {
                if tables.unchanged(*since, rests) {
                    prop_assert_eq!(&then[i], &now[i], "{:?} since {} at {}", rests, since, number);
                }
            }
        }
        prop_assert!(packets.iter().all(|rests| tables.unchanged(tables.stamp(), rests)));
        history.push((tables.stamp(), now));
    }
    Ok(())
}

fn all_findings(tables: &Tables, packets: &[Rests]) -> Vec<String> {
    packets.iter().map(|rests| findings(tables, rests)).collect()
}

/// Two pods and a Service, sealed as generation 1.
fn cluster() -> Tables {
    let mut tables = node();
    for (n, addr) in [(0, "10.1.1.1"), (1, "10.1.1.2")] {
        set(&mut tables, pod(n, addr));
    }
    tables.set_frontend(service("10.96.0.1", &["10.1.1.2"])).unwrap();
    tables.set_route(NETWORKS[0], "0.0.0.0/0".parse().unwrap(), RouteTarget::Connected(PortId(4))).unwrap();
    tables.seal(Generation(1));
    tables
}

fn pod(n: u16, addr: &str) -> Endpoint {
    Endpoint {
        id: EndpointId::default(),
        name: format!("pod{n}"),
        network: NETWORKS[0],
        port: PortId(n),
        mac: MacAddr([2, 0, 0, 0, 1, 1]),
        addresses: vec![ip(addr)],
        routes: vec![],
        kind: EndpointKind::Pod,
    }
}

fn set(tables: &mut Tables, endpoint: Endpoint) {
    tables.set_endpoint(endpoint).unwrap();
}

fn service(addr: &str, backends: &[&str]) -> Frontend {
    let key = FrontendKey { network: NETWORKS[0], addr: ip(addr), port: 80, protocol: TCP };
    let state = BackendState::Serving;
    let backends = backends.iter().map(|addr| Backend { addr: ip(addr), port: 8080, state }).collect();
    Frontend { key, name: "shop/front".into(), backends, drops: false, sources: vec![], affinity: 0 }
}

#[test]
fn a_change_touches_what_rests_on_it_and_no_more() {
    type Change = fn(&mut Tables);
    let between = rests(NETWORKS[0], "10.1.1.1", "10.1.1.2");
    let outward = rests(NETWORKS[0], "10.1.1.1", "198.51.100.7");
    let to_service = Rests { dst: ip("10.96.0.1"), ..between };
    let all = [between, outward, to_service];
    let cases: [(&str, Change, [bool; 3]); 17] = [
        ("a pod comes", |t| set(t, pod(2, "10.1.1.3")), [true; 3]),
        ("a pod moves", |t| set(t, pod(1, "10.1.1.4")), [false, true, false]),
        ("a pod goes", |t| t.remove_endpoint("pod1").unwrap(), [false, true, false]),
        ("a pod's port", |t| t.set_port(port(1, 1)).unwrap(), [false, true, false]),
        ("a pod's policy", |t| t.set_policy("pod1", policy(1)).unwrap(), [false, true, false]),
        ("no pod's policy", |t| t.set_policy("pod9", policy(1)).unwrap(), [true; 3]),
        ("a Service comes", |t| t.set_frontend(service("10.96.0.2", &["10.1.1.2"])).unwrap(), [true; 3]),
        (
            "a backend comes",
            |t| t.set_frontend(service("10.96.0.1", &["10.1.1.2", "10.1.1.9"])).unwrap(),
            [true, true, false],
        ),
        (
            "a Service goes",
            |t| t.remove_frontend(service("10.96.0.1", &[]).key).unwrap(),
            [false, true, false],
        ),
        (
            "a route elsewhere",
            |t| t.set_route(NETWORKS[0], "20.0.0.0/24".parse().unwrap(), RouteTarget::Blackhole).unwrap(),
            [true; 3],
        ),
        (
            "a route on the way",
            |t| t.set_route(NETWORKS[0], "198.51.0.0/17".parse().unwrap(), RouteTarget::Blackhole).unwrap(),
            [true, false, true],
        ),
        (
            "a route of another network",
            |t| t.set_route(NETWORKS[1], "198.51.0.0/17".parse().unwrap(), RouteTarget::Blackhole).unwrap(),
            [true; 3],
        ),
        (
            "who is outside",
            |t| t.set_identity(NETWORKS[0], "198.51.100.0/24".parse().unwrap(), IdentityId(7)).unwrap(),
            [true, false, true],
        ),
        (
            "ranges outside",
            |t| t.set_block(NETWORKS[0], "198.51.100.0/24".parse().unwrap(), IdentityId(7)).unwrap(),
            [true, false, true],
        ),
        (
            "ranges that hold a pod",
            |t| t.set_block(NETWORKS[0], "10.1.1.2/32".parse().unwrap(), IdentityId(7)).unwrap(),
            [false, true, false],
        ),
        (
            "groups of no one's identity",
            |t| t.set_membership(IdentityId(7), vec![GroupId(1)]).unwrap(),
            [true; 3],
        ),
        ("masquerade", |t| t.set_masquerade(NETWORKS[0], Some(Masquerade::default())).unwrap(), [false; 3]),
    ];
    for (what, change, expected) in cases {
        let mut tables = cluster();
        change(&mut tables);
        tables.seal(Generation(2));
        assert_eq!(all.each_ref().map(|rests| tables.unchanged(1, rests)), expected, "{what}");
        // What was decided since knows of it.
        assert_eq!(all.each_ref().map(|rests| tables.unchanged(2, rests)), [true; 3], "{what}");
    }
}

/// Two pods and a third; the first two have rules that name group 1, or group 2. Identity 7 is the third's, and ranges' outside.
fn grouped() -> (Tables, [Rests; 3]) {
    let mut tables = cluster();
    set(&mut tables, pod(2, "10.1.1.3"));
    tables.set_policy("pod0", Policy { ingress: rules(1, &[1]), egress: None }).unwrap();
    tables.set_policy("pod1", Policy { ingress: None, egress: rules(1, &[2]) }).unwrap();
    tables.set_identity(NETWORKS[0], "10.1.1.3/32".parse().unwrap(), IdentityId(7)).unwrap();
    tables.set_block(NETWORKS[0], "198.51.100.0/24".parse().unwrap(), IdentityId(8)).unwrap();
    tables.seal(Generation(2));
    (tables, ["10.1.1.1", "10.1.1.2", "10.1.1.3"].map(|pod| rests(NETWORKS[0], "198.51.100.7", pod)))
}

/// Which flows to the three pods a change leaves as they were.
fn left_by(change: impl FnOnce(&mut Tables)) -> [bool; 3] {
    let (mut tables, to) = grouped();
    change(&mut tables);
    tables.seal(Generation(3));
    to.map(|rests| tables.unchanged(2, &rests))
}

#[test]
fn a_new_identity_touches_nobody() {
    let member = |t: &mut Tables| t.set_membership(IdentityId(9), vec![GroupId(1), GroupId(2)]).unwrap();
    assert_eq!(left_by(member), [true; 3]);
    // Nor does its first address touch any but that address.
    let has = |t: &mut Tables| {
        t.set_identity(NETWORKS[0], "10.9.9.9/32".parse().unwrap(), IdentityId(9)).unwrap();
    };
    assert_eq!(
        left_by(|t| [&member, &has as &dyn Fn(&mut _)].iter().for_each(|change| change(t))),
        [true; 3]
    );
    // Nor one that none has any more.
    let gone = |t: &mut Tables| {
        has(t);
        t.seal(Generation(2));
        t.remove_identity(NETWORKS[0], "10.9.9.9/32".parse().unwrap()).unwrap();
        member(t);
    };
    assert_eq!(left_by(gone), [true; 3]);
}

#[test]
fn a_change_of_membership_touches_endpoints_that_name_the_group_and_no_other() {
    for identity in [7, 8].map(IdentityId) {
        let into = |groups: &'static [u32]| {
            move |t: &mut Tables| {
                t.set_membership(identity, groups.iter().copied().map(GroupId).collect()).unwrap();
            }
        };
        assert_eq!(left_by(into(&[1])), [false, true, true]);
        assert_eq!(left_by(into(&[2])), [true, false, true]);
        assert_eq!(left_by(into(&[3])), [true; 3]);
        // What an identity stays in is no change; what it leaves is.
        let later = |then: &'static [u32]| {
            move |t: &mut Tables| {
                into(&[1, 3])(t);
                t.seal(Generation(2));
                into(then)(t);
            }
        };
        assert_eq!(left_by(later(&[3, 1])), [true; 3]);
        assert_eq!(left_by(later(&[1, 2, 3])), [true, false, true]);
        assert_eq!(left_by(later(&[3])), [false, true, true]);
        let forgotten = |t: &mut Tables| {
            into(&[1])(t);
            t.seal(Generation(2));
            t.remove_membership(identity).unwrap();
        };
        assert_eq!(left_by(forgotten), [false, true, true]);
    }
}

#[test]
fn endpoints_are_known_by_the_groups_that_their_rules_name_now() {
    let joins = |t: &mut Tables| t.set_membership(IdentityId(7), vec![GroupId(1)]).unwrap();
    let left_after = |change: fn(&mut Tables)| {
        left_by(|t| {
            change(t);
            t.seal(Generation(2));
            joins(t);
        })
    };
    let named = || Policy { ingress: rules(1, &[5]), egress: rules(1, &[1, 5]) };
    let of_five = Policy { ingress: rules(1, &[5]), egress: None };
    assert_eq!(left_after(|t| t.remove_policy("pod0").unwrap()), [true; 3]);
    assert_eq!(
        left_by(|t| {
            t.set_policy("pod0", of_five).unwrap();
            t.seal(Generation(2));
            joins(t);
        }),
        [true; 3]
    );
    assert_eq!(
        left_by(|t| {
            t.set_policy("pod1", named()).unwrap();
            t.seal(Generation(2));
            joins(t);
        }),
        [false, false, true]
    );
    // A policy that waits for its endpoint, and one whose endpoint has gone and come back.
    assert_eq!(
        left_by(|t| {
            t.remove_endpoint("pod2").unwrap();
            t.set_policy("pod2", named()).unwrap();
            set(t, pod(2, "10.1.1.3"));
            t.seal(Generation(2));
            joins(t);
        }),
        [false, true, false]
    );
    let gone = |t: &mut Tables| {
        t.remove_endpoint("pod0").unwrap();
        t.set_route(NETWORKS[0], "10.1.1.1/32".parse().unwrap(), RouteTarget::Blackhole).unwrap();
    };
    assert_eq!(left_after(gone), [true; 3]);
}

#[test]
fn rows_and_memberships_may_change_in_either_order() {
    type Change = dyn Fn(&mut Tables);
    let row = |t: &mut Tables| {
        t.set_identity(NETWORKS[0], "198.51.100.7/32".parse().unwrap(), IdentityId(9)).unwrap();
    };
    let member = |t: &mut Tables| t.set_membership(IdentityId(9), vec![GroupId(1)]).unwrap();
    let orders: [[&Change; 2]; 2] = [[&row, &member], [&member, &row]];
    // The flows of the address that gets the identity are decided again, whoever they are with.
    for order in orders {
        assert_eq!(left_by(|t| order.iter().for_each(|change| change(t))), [false; 3]);
    }
    // An address that loses it and gets it back in one generation has lost nothing of what is noted.
    let there_and_back = |t: &mut Tables| {
        let prefix = "198.51.100.0/24".parse().unwrap();
        t.remove_block(NETWORKS[0], prefix).unwrap();
        t.set_membership(IdentityId(8), vec![GroupId(1)]).unwrap();
        t.set_block(NETWORKS[0], prefix, IdentityId(8)).unwrap();
    };
    assert_eq!(left_by(there_and_back), [false; 3]);
}

#[test]
fn many_changes_that_touch_few_endpoints_touch_no_others() {
    let (mut tables, to) = grouped();
    for n in 0..(1 << 18) {
        let [_, a, b, c] = u32::to_be_bytes(n);
        if n < 1_000 {
            let addr = IpAddr::from([20, a, b, c]);
            tables.set_identity(NETWORKS[0], IpPrefix::host(addr), IdentityId(100 + n)).unwrap();
            tables.seal(Generation(2));
        }
        let groups = if n / 1_000 % 2 == 0 { vec![GroupId(1), GroupId(2)] } else { vec![] };
        tables.set_membership(IdentityId(100 + n % 1_000), groups).unwrap();
    }
    tables.seal(Generation(3));
    assert_eq!(to.map(|rests| tables.unchanged(2, &rests)), [false, false, true]);
}

#[test]
fn setting_what_is_there_touches_nothing() {
    let mut tables = cluster();
    tables.set_masquerade(NETWORKS[0], Some(Masquerade::default())).unwrap();
    tables.set_policy("pod1", policy(1)).unwrap();
    tables.set_identity(NETWORKS[0], "0.0.0.0/0".parse().unwrap(), IdentityId(3)).unwrap();
    tables.seal(Generation(2));
    tables.set_endpoint(pod(1, "10.1.1.2")).unwrap();
    tables.set_frontend(service("10.96.0.1", &["10.1.1.2"])).unwrap();
    tables
        .set_frontend(Frontend { name: "shop/back".into(), ..service("10.96.0.1", &["10.1.1.2"]) })
        .unwrap();
    tables.set_route(NETWORKS[0], "0.0.0.0/0".parse().unwrap(), RouteTarget::Connected(PortId(4))).unwrap();
    tables.set_masquerade(NETWORKS[0], Some(Masquerade::default())).unwrap();
    tables.set_policy("pod1", policy(1)).unwrap();
    tables.set_identity(NETWORKS[0], "0.0.0.0/0".parse().unwrap(), IdentityId(3)).unwrap();
    tables.set_router(Router::default()).unwrap();
    tables.set_port(PortEntry { name: "renamed".into(), ..port(1, 0) }).unwrap();
    tables.seal(Generation(3));
    assert!(tables.unchanged(2, &rests(NETWORKS[0], "10.1.1.1", "10.1.1.2")));
    assert!(tables.unchanged(2, &rests(NETWORKS[0], "10.1.1.1", "10.96.0.1")));
    assert_eq!(tables.frontends().next().map(|row| &*row.name), Some("shop/back"));
}

#[test]
fn a_stamp_never_grows_so_old_that_it_seems_new() {
    let mut tables = cluster();
    let between = rests(NETWORKS[0], "10.1.1.1", "10.1.1.2");
    // Leaps of a quarter of the numbers there are, each with as many seals as it takes to look at every stamp.
    for leap in 1..=6_u64 {
        let now = leap << 30;
        for step in 0..(1 << 14) {
            tables.seal(Generation(now + step));
        }
        let since = tables.stamp();
        tables
            .set_identity(
                NETWORKS[0],
                IpPrefix::host(ip("10.9.9.9")),
                IdentityId(u32::try_from(leap).unwrap()),
            )
            .unwrap();
        tables.seal(Generation(now + (1 << 14)));
        assert!(tables.unchanged(since, &between), "{leap}");
    }
}
