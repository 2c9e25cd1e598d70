//! Frontends, identities, policies and masquerade through the tables' public face: what a change does, what it refuses, and by
//! which words.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use tables::{
    Asker, Backend, BackendState, Classifier, Endpoint, EndpointId, EndpointKind, Frontend, FrontendKey,
    GroupId, IdentityId, Masquerade, NetworkId, Peer, Policy, PortEntry, PortId, PortRole, Rule, RuleVerdict,
    TableError, Tables,
};
use wire::{IpPrefix, MacAddr};

const PODS: NetworkId = NetworkId(0);
const OTHER: NetworkId = NetworkId(9);
const TCP: u8 = 6;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn key(addr: &str, port: u16) -> FrontendKey {
    FrontendKey { network: PODS, addr: ip(addr), port, protocol: TCP }
}

fn serving(addr: &str) -> Backend {
    Backend { addr: ip(addr), port: 8080, state: BackendState::Serving }
}

fn draining(addr: &str) -> Backend {
    Backend { state: BackendState::Draining, ..serving(addr) }
}

fn frontend(addr: &str, port: u16, backends: Vec<Backend>) -> Frontend {
    Frontend {
        key: key(addr, port),
        name: "shop/front".into(),
        backends: backends.into(),
        drops: false,
        sources: vec![],
        affinity: 0,
    }
}

#[track_caller]
fn refused(result: Result<(), TableError>, text: &str) {
    assert_eq!(result.unwrap_err().to_string(), text);
}

#[test]
fn frontends_come_and_go_with_what_follows_from_them() {
    let mut tables = Tables::empty();
    let (one, two) = (serving("10.244.1.2"), serving("10.244.1.3"));
    tables.set_frontend(frontend("10.96.0.1", 80, vec![one, two])).unwrap();
    tables.set_frontend(frontend("10.96.0.1", 443, vec![one])).unwrap();
    tables.set_frontend(frontend("10.96.0.2", 80, vec![])).unwrap();
    let old = tables.clone();
    let is_backend = |tables: &Tables, addr| tables.is_backend(PODS, ip(addr), 8080, TCP);

    assert_eq!(tables.frontend(&key("10.96.0.1", 80)).map(|row| row.backends.len()), Some(2));
    assert_eq!(tables.frontend(&FrontendKey { protocol: 17, ..key("10.96.0.1", 80) }), None);
    assert_eq!(tables.frontend(&FrontendKey { network: OTHER, ..key("10.96.0.1", 80) }), None);
    assert!(tables.has_frontends(PODS, ip("10.96.0.1")) && !tables.has_frontends(OTHER, ip("10.96.0.1")));
    assert!(is_backend(&tables, "10.244.1.2") && !is_backend(&tables, "10.96.0.1"));
    assert!(!tables.is_backend(PODS, ip("10.244.1.2"), 80, TCP));
    assert!(!tables.is_backend(PODS, ip("10.244.1.2"), 8080, 17));

    // One that drains is a backend still; one that two frontends have is one until the second lets go.
    tables.set_frontend(frontend("10.96.0.1", 80, vec![draining("10.244.1.3")])).unwrap();
    assert!(is_backend(&tables, "10.244.1.2") && is_backend(&tables, "10.244.1.3"));
    tables.remove_frontend(key("10.96.0.1", 443)).unwrap();
    assert!(!is_backend(&tables, "10.244.1.2") && tables.has_frontends(PODS, ip("10.96.0.1")));
    tables.remove_frontend(key("10.96.0.1", 80)).unwrap();
    assert!(!is_backend(&tables, "10.244.1.3") && !tables.has_frontends(PODS, ip("10.96.0.1")));
    assert!(tables.has_frontends(PODS, ip("10.96.0.2")));
    assert_eq!((tables.frontend_count(), old.frontend_count(), old.frontends().count()), (1, 3, 3));
    assert!(is_backend(&old, "10.244.1.2") && old.has_frontends(PODS, ip("10.96.0.1")));
    refused(tables.remove_frontend(key("10.96.0.1", 80)), "frontend 10.96.0.1:80/tcp does not exist");
}

#[test]
fn a_flow_keeps_its_backend_whoever_else_comes_and_goes() {
    let pool: Vec<Backend> = (1..=10).map(|n| serving(&format!("10.244.1.{n}"))).collect();
    let all = frontend("10.96.0.1", 80, pool.clone());
    let hashes = || (0..20_000_u64).map(|n| n.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut shares: BTreeMap<IpAddr, u32> = BTreeMap::new();
    hashes().for_each(|hash| {
        *shares.entry(all.backends.choose(hash, Asker::Own).unwrap().addr).or_default() += 1
    });
    assert!(shares.len() == 10 && shares.values().all(|share| (1_700..2_300).contains(share)), "{shares:?}");

    let reversed = frontend("10.96.0.1", 80, pool.iter().rev().copied().collect());
    let mut fewer = pool.clone();
    fewer[3].state = BackendState::Draining;
    let fewer = frontend("10.96.0.1", 80, fewer);
    for hash in hashes() {
        let chosen = all.backends.choose(hash, Asker::Own);
        assert_eq!(reversed.backends.choose(hash, Asker::Own), chosen);
        if chosen == Some(&pool[3]) {
            assert_ne!(fewer.backends.choose(hash, Asker::Own).unwrap().addr, pool[3].addr);
        } else {
            assert_eq!(fewer.backends.choose(hash, Asker::Own), chosen);
        }
    }
    assert_eq!(
        frontend("10.96.0.1", 80, vec![draining("10.244.1.1")]).backends.choose(7, Asker::Other),
        None
    );
    assert_eq!(all.backends.find(ip("10.244.1.4"), 8080), Some(&pool[3]));
    assert_eq!(all.backends.find(ip("10.244.1.4"), 80), None);
}

#[test]
fn bad_frontends_are_named() {
    let mut tables = Tables::empty();
    let mut set = |change: &dyn Fn(&mut Frontend), text: &str| {
        let mut row = frontend("10.96.0.1", 80, vec![serving("10.244.1.2")]);
        change(&mut row);
        refused(tables.set_frontend(row), text);
    };
    set(&|row| row.name = "".into(), "frontend 10.96.0.1:80/tcp: name is empty: give it one");
    set(
        &|row| row.key.protocol = 1,
        "frontend 10.96.0.1:80/1: protocol 1 has no ports: use TCP (6), UDP (17) or SCTP (132)",
    );
    set(
        &|row| row.key.addr = ip("224.0.0.1"),
        "frontend 224.0.0.1:80/tcp: address 224.0.0.1 cannot be used: a frontend needs a unicast address",
    );
    set(
        &|row| row.key.port = 0,
        "frontend 10.96.0.1:0/tcp: port of address 10.96.0.1 is 0: use one from 1 to 65535",
    );
    set(
        &|row| row.backends = vec![serving("0.0.0.0")].into(),
        "frontend 10.96.0.1:80/tcp: address 0.0.0.0 cannot be used: a backend needs a unicast address",
    );
    set(
        &|row| row.backends = vec![Backend { port: 0, ..serving("10.244.1.2") }].into(),
        "frontend 10.96.0.1:80/tcp: port of address 10.244.1.2 is 0: use one from 1 to 65535",
    );
    set(
        &|row| row.key.addr = ip("fd00:96::1"),
        "frontend [fd00:96::1]:80/tcp: backend 10.244.1.2 is of the other address family: use one of the frontend's own",
    );
    set(
        &|row| row.backends = vec![serving("10.244.1.2"), draining("10.244.1.2")].into(),
        "frontend 10.96.0.1:80/tcp: backend 10.244.1.2:8080 is there twice: name it once",
    );
    assert_eq!(tables.frontends().count(), 0);
    assert!(
        !tables.has_frontends(PODS, ip("10.96.0.1")) && !tables.is_backend(PODS, ip("10.244.1.2"), 8080, TCP)
    );
}

#[test]
fn the_longest_prefix_says_who_it_is() {
    let mut tables = Tables::empty();
    for (prefix, identity) in [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.1.1/32", 3), ("fd00::/8", 4)] {
        tables.set_identity(PODS, net(prefix), IdentityId(identity)).unwrap();
    }
    tables.set_identity(OTHER, net("10.1.0.0/16"), IdentityId(5)).unwrap();
    let who = |tables: &Tables, network, addr| tables.identity(network, ip(addr)).0;
    let of = ["10.9.9.9", "10.1.2.3", "10.1.1.1", "fd00::1", "192.0.2.1", "2001:db8::1"];
    assert_eq!(of.map(|addr| who(&tables, PODS, addr)), [1, 2, 3, 4, 0, 0]);
    assert_eq!(of.map(|addr| who(&tables, OTHER, addr)), [0, 5, 5, 0, 0, 0]);
    assert_eq!(tables.identities().count(), 5);
    tables.remove_identity(PODS, net("10.1.1.1/32")).unwrap();
    tables.remove_identity(OTHER, net("10.1.0.0/16")).unwrap();
    assert_eq!((who(&tables, PODS, "10.1.1.1"), who(&tables, OTHER, "10.1.1.1")), (2, 0));
    refused(
        tables.remove_identity(OTHER, net("10.1.0.0/16")),
        "identity of 10.1.0.0/16 in network 9 does not exist",
    );
    refused(
        tables.set_identity(PODS, net("::/0"), IdentityId::NONE),
        "identity of ::/0 in network 0: identity 0 is what no row speaks of: use one above it",
    );
}

#[test]
fn an_address_is_of_a_pod_and_of_ranges() {
    let mut tables = Tables::empty();
    for (prefix, identity) in [("10.0.0.0/8", 7), ("10.1.1.1/32", u32::MAX), ("::/0", 9)] {
        tables.set_block(PODS, net(prefix), IdentityId(identity)).unwrap();
    }
    tables.set_identity(PODS, net("10.1.1.1/32"), IdentityId(3)).unwrap();
    for (identity, groups) in [(3, vec![30, 10, 30]), (7, vec![20]), (u32::MAX, vec![20, u32::MAX])] {
        let groups = groups.into_iter().map(GroupId).collect();
        tables.set_membership(IdentityId(identity), groups).unwrap();
    }
    let groups = |tables: &Tables, network, addr| {
        tables.groups(network, ip(addr)).map(|groups| groups.iter().map(|group| group.0).collect::<Vec<_>>())
    };
    assert_eq!(groups(&tables, PODS, "10.1.1.1"), [vec![10, 30], vec![20, u32::MAX]]);
    assert_eq!(groups(&tables, PODS, "10.1.1.2"), [vec![], vec![20]]);
    // That identity is in no group; of other networks nothing is known.
    assert_eq!(groups(&tables, PODS, "fd00::1"), [vec![], vec![]]);
    assert_eq!(groups(&tables, OTHER, "10.1.1.1"), [vec![], vec![]]);
    assert_eq!((tables.blocks().count(), tables.memberships().count()), (3, 3));
    tables.remove_block(PODS, net("10.1.1.1/32")).unwrap();
    tables.remove_membership(IdentityId(3)).unwrap();
    assert_eq!(groups(&tables, PODS, "10.1.1.1"), [vec![], vec![20]]);
    refused(tables.remove_block(PODS, net("10.1.1.1/32")), "block 10.1.1.1/32 in network 0 does not exist");
    refused(
        tables.set_block(OTHER, net("10.0.0.0/8"), IdentityId::NONE),
        "block 10.0.0.0/8 in network 9: identity 0 is what no row speaks of: use one above it",
    );
    refused(tables.remove_membership(IdentityId(3)), "membership of identity 3 does not exist");
    refused(
        tables.set_membership(IdentityId::NONE, vec![]),
        "membership of identity 0: identity 0 is what no row speaks of: use one above it",
    );
    refused(
        tables.set_membership(IdentityId(3), vec![GroupId(1), GroupId(0)]),
        "membership of identity 3: group 0 cannot be used: use one above it",
    );
}

fn policy(id: u32) -> Policy {
    let (name, peer, verdict) = ("any".into(), Peer::Any, RuleVerdict::Allow);
    let rule = Rule { id, name, says: "".into(), peer, protocol: None, ports: None, verdict };
    Policy { ingress: Some(Arc::new(Classifier::new(vec![rule]))), egress: None }
}

#[test]
fn a_policy_waits_for_its_endpoint_and_outlives_it() {
    let mut tables = Tables::empty();
    let (name, mac) = ("port0".to_owned(), MacAddr([2, 0, 0, 0, 0, 1]));
    tables.set_port(PortEntry { id: PortId(0), name, mac, mtu: 1500, role: PortRole::Idle }).unwrap();
    let pod = || Endpoint {
        id: EndpointId::default(),
        name: "shop/front".into(),
        network: PODS,
        port: PortId(0),
        mac,
        addresses: vec![ip("10.244.1.2")],
        routes: vec![],
        kind: EndpointKind::Pod,
    };
    tables.set_policy("shop/front", policy(1)).unwrap();
    let id = tables.set_endpoint(pod()).unwrap();
    assert_eq!(tables.policy(id), Some(&policy(1)));
    tables.set_policy("shop/front", policy(2)).unwrap();
    assert_eq!(tables.policy(id), Some(&policy(2)));
    tables.remove_endpoint("shop/front").unwrap();
    assert_eq!((tables.policy(id), tables.policies().count()), (None, 1));
    // Its number may be another's now, which has no policy.
    let other = tables.set_endpoint(Endpoint { name: "shop/back".into(), ..pod() }).unwrap();
    assert_eq!((other, tables.policy(other)), (id, None));
    tables.remove_endpoint("shop/back").unwrap();
    let id = tables.set_endpoint(pod()).unwrap();
    assert_eq!(tables.policy(id), Some(&policy(2)));
    tables.remove_policy("shop/front").unwrap();
    assert_eq!((tables.policy(id), tables.policies().count()), (None, 0));
    refused(tables.remove_policy("shop/front"), "policy of endpoint `shop/front` does not exist");
    refused(tables.set_policy("", policy(1)), "policy of an endpoint: name is empty: give it one");
}

#[test]
fn masquerade_says_which_source_the_outside_sees() {
    let mut tables = Tables::empty();
    let row = Masquerade {
        source4: Some([192, 0, 2, 1].into()),
        exclude: vec![net("10.0.0.0/8"), net("fd00::/8")],
        ..Masquerade::default()
    };
    tables.set_masquerade(PODS, Some(row.clone())).unwrap();
    let to = |row: &Masquerade, addr| row.source_for(ip(addr)).map(|source| source.to_string());
    let source = Some("192.0.2.1".to_owned());
    assert_eq!(to(&row, "198.51.100.7"), source);
    assert_eq!(["10.1.1.1", "169.254.3.3", "2001:db8::1"].map(|addr| to(&row, addr)), [None, None, None]);
    let row = Masquerade { source6: Some(0x2001_0db8_u128.into()), link_local: true, ..row };
    assert_eq!(to(&row, "169.254.3.3"), source);
    assert!(to(&row, "fe80::3").is_some() && to(&row, "2600::1").is_some() && to(&row, "fd00::1").is_none());
    assert_eq!(row.ports, (32_768, 65_535));

    tables.set_masquerade(OTHER, Some(row.clone())).unwrap();
    assert_eq!(tables.masquerade(OTHER), Some(&row));
    assert_eq!(tables.masquerades().map(|(network, _)| network).collect::<Vec<_>>(), [PODS, OTHER]);
    tables.set_masquerade(PODS, None).unwrap();
    assert_eq!((tables.masquerade(PODS), tables.masquerade(NetworkId(3))), (None, None));

    let multicast = Masquerade { source4: Some([224, 0, 0, 1].into()), ..Masquerade::default() };
    refused(
        tables.set_masquerade(PODS, Some(multicast)),
        "masquerade of network 0: address 224.0.0.1 cannot be used: a source needs to be a unicast address",
    );
    for (first, last) in [(0, 9), (9, 8)] {
        refused(
            tables.set_masquerade(PODS, Some(Masquerade { ports: (first, last), ..Masquerade::default() })),
            &format!(
                "masquerade of network 0: ports {first} to {last} hold none that can be used: name the lowest, above 0, first"
            ),
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The counts beside the frontends, against looking at all of them.
    #[test]
    fn counts_are_those_of_the_frontends(
        ops in prop::collection::vec((any::<bool>(), 1_u16..3, 0_u8..3, prop::collection::btree_set(0_u8..4, 0..4)), 1..40)
    ) {
        let addr = |n: u8| IpAddr::from([10, 0, 0, n + 1]);
        let mut tables = Tables::empty();
        for (set, port, at, backends) in ops {
            let key = FrontendKey { network: PODS, addr: addr(at), port, protocol: TCP };
            let before = tables.clone();
            if set {
                let state = BackendState::Serving;
                let backends = backends.into_iter().map(|n| Backend { addr: addr(n), port: 80, state }).collect();
                tables.set_frontend(Frontend { key, name: "s".into(), backends, drops: false, sources: vec![], affinity: 0 }).unwrap();
            } else {
                prop_assert_eq!(tables.remove_frontend(key).is_ok(), before.frontend(&key).is_some());
            }
            for n in 0..4 {
                let on_it = tables.frontends().any(|row| row.key.addr == addr(n));
                let serves = tables.frontends().any(|row| row.backends.find(addr(n), 80).is_some());
                prop_assert_eq!(tables.has_frontends(PODS, addr(n)), on_it);
                prop_assert_eq!(tables.is_backend(PODS, addr(n), 80, TCP), serves);
            }
        }
    }
}
