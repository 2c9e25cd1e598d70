//! Ports and rows that come and go: whole or not at all, while others forward.

use proto::dataplane::{
    Backend, BackendState, Endpoint, Ethdev, Frontend, FrontendKey, Identity, IdentityKey, Interface,
    InterfaceAddress, Limit, Limits, Masquerade, Membership, Op, Peer, Policy, PolicyStatus, PortKind,
    PortRange, PortSpec, Protocol, Request, Response, Route, RouteKey, RouteTarget, Rule, RuleVerdict,
};

use crate::dataplane::{Dataplane, ROUTER};
use crate::frames::{endpoint, pcap, udp};
use crate::pod::Pod;

#[test]
fn a_bad_transaction_names_what_is_wrong_and_changes_nothing() {
    let mut dataplane = Dataplane::start(&["--vdev", "net_null0"]);
    dataplane.ethdev("uplink", "net_null0");
    dataplane.add("a", PortKind::Memory { rx_pcap: None, tx_pcap: None, repeat: false });
    let good = vec![
        Op::SetEndpoints { endpoints: vec![endpoint(1, "a")] },
        Op::SetInterfaces {
            interfaces: vec![Interface {
                port: "uplink".into(),
                network: 0,
                addresses: vec![InterfaceAddress { address: "192.0.2.1".parse().unwrap(), prefix_len: 24 }],
            }],
        },
    ];
    dataplane.commit(0, good);
    let Response::Snapshot(before) = dataplane.call(&Request::Snapshot) else { panic!() };

    let route = |port: &str| Route {
        key: RouteKey { network: 0, prefix: "198.51.100.0/24".parse().unwrap() },
        target: RouteTarget::NextHop {
            port: port.into(),
            address: "192.0.2.9".parse().unwrap(),
            inside: false,
        },
    };
    let twin = Endpoint { name: "twin".into(), ..endpoint(1, "a") };
    let first = Op::SetRoutes { routes: vec![route("uplink")] };
    for (second, words) in [
        (
            Op::SetRoutes { routes: vec![route("nowhere")] },
            vec!["op 1", "198.51.100.0/24", "nowhere", "uplink"],
        ),
        (Op::SetEndpoints { endpoints: vec![twin] }, vec!["op 1", "twin", "pod1"]),
        (Op::RemoveEndpoints { names: vec!["ghost".into()] }, vec!["op 1", "ghost"]),
        (Op::RemoveInterfaces { ports: vec!["a".into()] }, vec!["op 1"]),
    ] {
        let reason = dataplane.rejected(1, vec![first.clone(), second]);
        for word in words {
            assert!(reason.contains(word), "`{word}` is missing in: {reason}");
        }
    }
    assert!(dataplane.rejected(0, vec![first]).contains("generation 0"));
    match dataplane.call(&Request::RemovePort { name: "a".into() }) {
        Response::Failed { reason } => assert!(reason.contains("pod1"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(dataplane.call(&Request::Snapshot), Response::Snapshot(before));
}

#[test]
fn services_and_policies_come_back_as_they_were_set() {
    let mut dataplane = Dataplane::start(&[]);
    let key =
        FrontendKey { network: 0, address: "10.96.0.10".parse().unwrap(), port: 443, protocol: Protocol(6) };
    let backend = |last: u8, state| Backend { address: [10, 244, 1, last].into(), port: 8443, state };
    let frontend = Frontend {
        key,
        name: "shop/front:https".into(),
        backends: [backend(3, BackendState::Serving), backend(2, BackendState::Draining)].into(),
        drops: true,
        sources: vec![],
        affinity_seconds: None,
    };
    let identity =
        Identity { key: IdentityKey { network: 3, prefix: "10.244.0.0/16".parse().unwrap() }, identity: 7 };
    let block =
        Identity { key: IdentityKey { network: 0, prefix: "0.0.0.0/0".parse().unwrap() }, identity: 8 };
    let membership = |groups: &[u32]| Membership { identity: 4_000_000_000, groups: groups.to_vec() };
    let rule = Rule {
        id: 4,
        name: "shop/web ingress[1]".into(),
        says: String::new(),
        peer: Peer::Groups { groups: vec![9, 4_000_000_000, 5] },
        protocol: Some(Protocol(132)),
        ports: Some(PortRange { first: 80, last: 90 }),
        verdict: RuleVerdict::Deny,
    };
    let policy = Policy { endpoint: "shop/front".into(), ingress: Some(vec![rule]), egress: Some(vec![]) };
    let masquerade = Masquerade {
        network: 3,
        source4: Some([192, 0, 2, 1].into()),
        source6: None,
        exclude: vec!["10.0.0.0/8".parse().unwrap()],
        link_local: true,
        service4: None,
        service6: None,
        ports: PortRange { first: 1024, last: 2048 },
    };
    let all = vec![
        Op::SetFrontends { frontends: vec![frontend.clone().into()] },
        Op::SetIdentities { identities: vec![identity] },
        Op::SetBlocks { blocks: vec![block] },
        Op::SetMemberships { memberships: vec![membership(&[9, 3, 9])] },
        Op::SetPolicies { policies: vec![policy.clone()] },
        Op::SetMasquerades { masquerades: vec![masquerade.clone()] },
    ];
    dataplane.commit(0, all);
    let Response::Snapshot(rows) = dataplane.call(&Request::Snapshot) else { panic!() };
    assert_eq!((&rows.frontends, &rows.identities), (&vec![frontend.clone().into()], &vec![identity]));
    assert_eq!((&rows.blocks, &rows.memberships), (&vec![block], &vec![membership(&[3, 9])]));
    assert_eq!((&rows.policies, &rows.masquerades), (&vec![policy.clone()], &vec![masquerade]));
    let services = dataplane.call(&Request::ShowServices);
    assert_eq!(services, Response::Services { services: vec![frontend.clone()] });
    let policies = dataplane.call(&Request::ShowPolicies);
    let waits = PolicyStatus { policy, present: false, denied_ingress: 0, denied_egress: 0 };
    assert_eq!(policies, Response::Policies { policies: vec![waits] });

    let twice = Frontend { backends: frontend.backends.repeat(2).into(), ..frontend };
    for (op, words) in [
        (Op::SetFrontends { frontends: vec![twice.into()] }, "backend 10.244.1.3:8443 is there twice"),
        (Op::SetIdentities { identities: vec![Identity { identity: 0, ..identity }] }, "10.244.0.0/16"),
        (Op::SetBlocks { blocks: vec![Identity { identity: 0, ..block }] }, "block 0.0.0.0/0"),
        (Op::RemoveBlocks { blocks: vec![identity.key] }, "block 10.244.0.0/16"),
        (Op::SetMemberships { memberships: vec![membership(&[0])] }, "group 0"),
        (Op::RemoveMemberships { identities: vec![7] }, "membership of identity 7"),
        (Op::RemovePolicies { endpoints: vec!["shop/back".into()] }, "`shop/back`"),
        (Op::RemoveMasquerades { networks: vec![0] }, "masquerade of network 0"),
    ] {
        let reason = dataplane.rejected(1, vec![op]);
        assert!(reason.contains("op 0") && reason.contains(words), "{reason}");
    }
    let none = vec![
        Op::RemoveFrontends { keys: vec![key] },
        Op::RemoveIdentities { identities: vec![identity.key] },
        Op::RemoveBlocks { blocks: vec![block.key] },
        Op::RemoveMemberships { identities: vec![4_000_000_000] },
        Op::RemovePolicies { endpoints: vec!["shop/front".into()] },
        Op::RemoveMasquerades { networks: vec![3] },
    ];
    dataplane.commit(1, none);
    let Response::Snapshot(rows) = dataplane.call(&Request::Snapshot) else { panic!() };
    assert!(rows.frontends.is_empty() && rows.identities.is_empty());
    assert!(rows.blocks.is_empty() && rows.memberships.is_empty());
    assert!(rows.policies.is_empty() && rows.masquerades.is_empty());
}

#[test]
fn ports_come_and_go_while_others_forward() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    pcap(&source, &(0..32).map(|_| udp(1, 2, 64)).collect::<Vec<_>>());
    let vdev = format!("net_pcap0,rx_pcap={},infinite_rx=1", source.display());
    let mut dataplane = Dataplane::start(&["--vdev", &vdev, "--vdev", "net_null0,no-rx=1", "--idle", "poll"]);
    dataplane.ethdev("a", "net_pcap0");
    dataplane.ethdev("b", "net_null0");
    let mut other = endpoint(2, "b");
    other.addresses.truncate(1);
    dataplane.commit(0, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), other] }]);
    dataplane.until("packets flow", |d| d.port("b").tx_packets > 1_000);

    let idle_before = dataplane.drops("a", "port-idle");
    let mut generation = 1;
    for round in 0..40 {
        let name = format!("m{round}");
        let before = dataplane.port("b").tx_packets;
        dataplane.add(&name, PortKind::Memory { rx_pcap: None, tx_pcap: None, repeat: false });
        let mut pod = endpoint(3, &name);
        pod.name = name.clone();
        dataplane.commit(generation, vec![Op::SetEndpoints { endpoints: vec![pod] }]);
        dataplane.commit(generation + 1, vec![Op::RemoveEndpoints { names: vec![name.clone()] }]);
        generation += 2;
        assert_eq!(dataplane.call(&Request::RemovePort { name }), Response::Done);
        dataplane.until("packets still flow", |d| d.port("b").tx_packets > before);
    }
    assert_eq!(dataplane.drops("a", "port-idle"), idle_before, "nothing was lost to the changes");
    assert_eq!((dataplane.port("b").tx_drops, dataplane.port("a").rx_drops), (0, idle_before));

    // At rest, everything that was received has gone somewhere.
    dataplane.commit(generation, vec![Op::RemoveEndpoints { names: vec!["pod1".into(), "pod2".into()] }]);
    assert_eq!(dataplane.call(&Request::RemovePort { name: "a".into() }), Response::Done);
    dataplane.assert_ledger();
}

#[test]
fn a_device_is_one_port_at_a_time_and_can_come_back() {
    let mut dataplane = Dataplane::start(&["--vdev", "net_ring0"]);
    let spec = |name: &str, device: &str, devargs: Option<&str>| PortSpec {
        name: name.into(),
        kind: PortKind::Ethdev(Ethdev { devargs: devargs.map(Into::into), ..Ethdev::new(device) }),
        mac: Some(ROUTER),
        mtu: 1500,
        limits: Limits::default(),
    };
    let reason = dataplane.try_add(spec("x", "net_nonsense7", None), &[]).unwrap_err();
    for word in ["`x`", "net_nonsense7", "net_ring0"] {
        assert!(reason.contains(word), "`{word}` is missing in: {reason}");
    }
    let reason = dataplane.try_add(spec("x", "net_ring9", Some("net_ring8")), &[]).unwrap_err();
    assert!(reason.contains("net_ring8") && reason.contains("net_ring9"), "{reason}");

    // One named at start, and one that comes with its arguments; each twice.
    for (round, (device, devargs)) in [
        ("net_ring0", None),
        ("net_ring0", None),
        ("net_ring5", Some("net_ring5")),
        ("net_ring5", Some("net_ring5")),
    ]
    .into_iter()
    .enumerate()
    {
        let id = dataplane.try_add(spec("ring", device, devargs), &[]).unwrap();
        assert_eq!(dataplane.try_add(spec("ring", device, devargs), &[]), Ok(id), "asked again, it is there");
        let reason = dataplane.try_add(spec("other", device, devargs), &[]).unwrap_err();
        assert!(reason.contains("open already"), "{reason}");
        let reason =
            dataplane.try_add(PortSpec { mtu: 1400, ..spec("ring", device, devargs) }, &[]).unwrap_err();
        assert!(reason.contains("other settings"), "{reason}");

        let source = dataplane.dir.path().join(format!("in{round}"));
        pcap(&source, &(0..10).map(|_| udp(1, 2, 64)).collect::<Vec<_>>());
        dataplane.add("a", PortKind::Memory { rx_pcap: Some(source), tx_pcap: None, repeat: false });
        let base = u64::try_from(round).unwrap() * 2;
        dataplane
            .commit(base, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "ring")] }]);
        // A ring gives back what it is sent; the pod's own MAC is not the router's.
        dataplane.until("ten frames went out and came back", |d| {
            let port = d.port("ring");
            (port.tx_packets, port.rx_packets) == (10, 10)
        });
        dataplane.assert_ledger();
        dataplane.commit(base + 1, vec![Op::RemoveEndpoints { names: vec!["pod1".into(), "pod2".into()] }]);
        dataplane.remove("ring");
        dataplane.remove("a");
    }
}

#[test]
fn a_port_that_cannot_be_is_refused_with_its_name_field_and_limit() {
    let mut dataplane = Dataplane::start(&[]);
    let memory = || PortKind::Memory { rx_pcap: None, tx_pcap: None, repeat: false };
    let vhost = PortKind::Vhost { path: dataplane.dir.path().join("v"), server: true, queue_pairs: 1 };
    let good = PortSpec {
        name: "a".into(),
        kind: memory(),
        mac: Some(ROUTER),
        mtu: 1500,
        limits: Limits::default(),
    };
    let long = dataplane.dir.path().join("long");
    pcap(&long, &[vec![0; 60], vec![0; 20_000]]);
    for (spec, words) in [
        (PortSpec { name: String::new(), ..good.clone() }, vec!["name", "63"]),
        (PortSpec { name: "x".repeat(64), ..good.clone() }, vec!["name", "63"]),
        (PortSpec { name: "a\nb".into(), ..good.clone() }, vec!["name", "control characters"]),
        (PortSpec { mtu: 1279, ..good.clone() }, vec!["`a`", "1279", "1280"]),
        (PortSpec { mtu: 20_000, ..good.clone() }, vec!["`a`", "20000"]),
        (PortSpec { mtu: 20_000, kind: vhost, ..good.clone() }, vec!["`a`", "20000"]),
        (PortSpec { mac: Some(wire::MacAddr([1; 6])), ..good.clone() }, vec!["`a`", "unicast"]),
        (PortSpec { kind: PortKind::Tap, ..good.clone() }, vec!["`a`", "descriptor"]),
        (
            PortSpec {
                limits: Limits { ingress: None, egress: Some(Limit { rate: 0, burst: 9 }) },
                ..good.clone()
            },
            vec!["`a`", "limits.egress", "rate 0", "burst 9"],
        ),
        (
            PortSpec {
                kind: PortKind::Memory { rx_pcap: Some(long), tx_pcap: None, repeat: false },
                ..good.clone()
            },
            vec!["`a`", "long", "record 1", "20000"],
        ),
    ] {
        let reason = dataplane.try_add(spec, &[]).unwrap_err();
        for word in words {
            assert!(reason.contains(word), "`{word}` is missing in: {reason}");
        }
    }
    assert!(dataplane.ports().is_empty());
    dataplane.try_add(good, &[]).unwrap();
}

#[test]
fn a_tap_goes_while_bursts_for_it_are_on_their_way() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    pcap(&source, &(0..32).map(|_| udp(1, 2, 64)).collect::<Vec<_>>());
    let vdev = format!("net_pcap0,rx_pcap={},infinite_rx=1", source.display());
    let pod = Pod::new(2);
    let mut dataplane = Dataplane::start(&["--vdev", &vdev]);
    dataplane.ethdev("a", "net_pcap0");
    dataplane.commit(0, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a")] }]);
    for round in 0..10 {
        dataplane.tap("b", pod.fd());
        dataplane.commit(1 + 2 * round, vec![Op::SetEndpoints { endpoints: vec![endpoint(2, "b")] }]);
        // The counters begin anew with each port, whatever its number counted before.
        let port = dataplane.port("b");
        assert!(port.up && port.rx_packets < 100, "{port:?}");
        dataplane.until("packets flow from worker to worker", |d| d.port("b").tx_packets > 100);
        dataplane.commit(2 + 2 * round, vec![Op::RemoveEndpoints { names: vec!["pod2".into()] }]);
        dataplane.remove("b");
    }
    dataplane.commit(21, vec![Op::RemoveEndpoints { names: vec!["pod1".into()] }]);
    dataplane.remove("a");
    dataplane.assert_ledger();
    let handed: u64 = dataplane.ledgers().iter().map(|ledger| ledger.handed_in).sum();
    assert!(handed >= 1_000, "{handed}");
    assert!(dataplane.terminate().success());
    assert!(!dataplane.log().contains("does not add up"), "{}", dataplane.log());
}
