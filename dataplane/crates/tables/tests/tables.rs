//! The tables through their public face: what a change does, what it refuses, and by which words.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tables::{
    Endpoint, EndpointId, EndpointKind, Generation, Interface, MAX_PORTS, NetworkId, Origin, PortEntry,
    PortId, PortRole, Route, RouteTarget, Router, TableError, Tables, Target, Tunnel, TunnelPeer,
};
use wire::{IpPrefix, MacAddr};

const PODS: NetworkId = NetworkId(0);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn port(id: u16) -> PortEntry {
    let mac = MacAddr([2, 0, 0, 1, 0, 1]);
    PortEntry { id: PortId(id), name: format!("port{id}"), mac, mtu: 1500, role: PortRole::Idle }
}

fn pod(name: &str, port: u16, addresses: &[&str]) -> Endpoint {
    Endpoint {
        id: EndpointId::default(),
        name: name.to_owned(),
        network: PODS,
        port: PortId(port),
        mac: MacAddr([2, 0, 0, 2, 0, 1]),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        routes: vec![],
        kind: EndpointKind::Pod,
    }
}

fn interface(port: u16, addresses: &[(&str, u8)]) -> Interface {
    let addresses = addresses.iter().map(|&(text, len)| (ip(text), len)).collect();
    Interface { port: PortId(port), network: PODS, addresses }
}

fn hop(port: u16, addr: &str) -> RouteTarget {
    RouteTarget::NextHop { port: PortId(port), addr: ip(addr), inside: false }
}

/// Ports 0 to 4; pods a and b on 0 and 1; an uplink on 2 with a default route.
fn node() -> Tables {
    let mut tables = Tables::empty();
    for id in 0..5 {
        tables.set_port(port(id)).unwrap();
    }
    tables.set_endpoint(pod("a", 0, &["10.244.1.2", "fd00:10:244:1::2"])).unwrap();
    tables.set_endpoint(pod("b", 1, &["10.244.1.3", "fd00:10:244:1::3"])).unwrap();
    tables
        .set_interface(interface(2, &[("192.0.2.10", 24), ("2001:db8::10", 64), ("fe80::10", 64)]))
        .unwrap();
    tables.set_route(PODS, net("0.0.0.0/0"), hop(2, "192.0.2.1")).unwrap();
    tables.set_route(PODS, net("::/0"), hop(2, "2001:db8::1")).unwrap();
    tables
}

fn listing(tables: &Tables) -> Vec<String> {
    tables
        .routes()
        .map(|Route { network, prefix, target, origin }| format!("{network} {prefix} {origin:?} {target:?}"))
        .collect()
}

#[test]
fn a_node_finds_its_way() {
    let tables = node();
    let to = |text| tables.lookup(PODS, ip(text));
    let id = |name| tables.endpoint_by_name(name).unwrap().id;
    assert_eq!(to("10.244.1.2"), Some(Target::Endpoint(id("a"))));
    assert_eq!(to("fd00:10:244:1::3"), Some(Target::Endpoint(id("b"))));
    assert_eq!(to("192.0.2.10"), Some(Target::Local));
    assert_eq!(to("192.0.2.77"), Some(Target::Connected(PortId(2))));
    assert_eq!(to("2001:db8::77"), Some(Target::Connected(PortId(2))));
    assert_eq!(to("8.8.8.8"), Some(hop(2, "192.0.2.1").into()));
    assert_eq!(to("2001:4860::1"), Some(hop(2, "2001:db8::1").into()));
    assert_eq!(to("169.254.1.1"), Some(Target::Local));
    assert_eq!(to("fe80::1"), Some(Target::Local));
    assert_eq!(tables.lookup(NetworkId(7), ip("10.244.1.2")), None);
    assert_eq!(tables.lookup(NetworkId(7), ip("169.254.1.1")), Some(Target::Local));
    assert_eq!(tables.port(PortId(0)).unwrap().role, PortRole::Endpoint(id("a")));
    assert_eq!(tables.port(PortId(2)).unwrap().role, PortRole::Uplink);
    assert_eq!(tables.endpoints().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(tables.ports().count(), 5);
}

#[test]
fn routes_are_listed_in_prefix_order_with_their_origin() {
    let mut tables = node();
    tables.set_route(NetworkId(3), net("10.0.0.0/8"), RouteTarget::Blackhole).unwrap();
    tables.set_route(PODS, net("10.244.2.0/24"), RouteTarget::Unreachable).unwrap();
    let shown: Vec<String> =
        tables.routes().map(|r| format!("{} {} {:?}", r.network, r.prefix, r.origin)).collect();
    assert_eq!(
        shown,
        [
            "0 0.0.0.0/0 Configured",
            "0 10.244.1.2/32 Endpoint",
            "0 10.244.1.3/32 Endpoint",
            "0 10.244.2.0/24 Configured",
            "0 192.0.2.0/24 Connected",
            "0 192.0.2.10/32 Local",
            "0 ::/0 Configured",
            "0 2001:db8::/64 Connected",
            "0 2001:db8::10/128 Local",
            "0 fd00:10:244:1::2/128 Endpoint",
            "0 fd00:10:244:1::3/128 Endpoint",
            "3 10.0.0.0/8 Configured",
        ]
    );
}

#[test]
fn a_route_hidden_by_another_origin_comes_back() {
    let mut tables = node();
    let host = net("10.244.1.2/32");
    tables.set_route(PODS, host, RouteTarget::Blackhole).unwrap();
    let to = |tables: &Tables| tables.lookup(PODS, ip("10.244.1.2"));
    assert!(matches!(to(&tables), Some(Target::Endpoint(_))));
    let both: Vec<Origin> = tables.routes().filter(|r| r.prefix == host).map(|r| r.origin).collect();
    assert_eq!(both, [Origin::Endpoint, Origin::Configured]);
    tables.remove_endpoint("a").unwrap();
    assert_eq!(to(&tables), Some(Target::Blackhole));
    tables.set_endpoint(pod("a", 0, &["10.244.1.2"])).unwrap();
    assert!(matches!(to(&tables), Some(Target::Endpoint(_))));
    tables.remove_route(PODS, host).unwrap();
    assert!(matches!(to(&tables), Some(Target::Endpoint(_))));
    assert_eq!(tables.routes().filter(|r| r.prefix == host).count(), 1);

    let subnet = net("192.0.2.0/24");
    tables.set_route(PODS, subnet, hop(2, "192.0.2.254")).unwrap();
    assert_eq!(tables.lookup(PODS, ip("192.0.2.77")), Some(Target::Connected(PortId(2))));
    tables.remove_interface(PortId(2)).unwrap();
    assert_eq!(tables.lookup(PODS, ip("192.0.2.77")), Some(hop(2, "192.0.2.254").into()));
    assert_eq!(tables.lookup(PODS, ip("192.0.2.10")), Some(hop(2, "192.0.2.254").into()));
}

#[test]
fn an_old_generation_stays_as_it_was() {
    let old = node();
    let before = listing(&old);
    let mut new = old.clone();
    new.seal(Generation(1));
    new.remove_endpoint("a").unwrap();
    new.set_endpoint(pod("b", 3, &["10.244.1.9"])).unwrap();
    new.remove_route(PODS, net("0.0.0.0/0")).unwrap();
    new.set_route(PODS, net("::/0"), RouteTarget::Blackhole).unwrap();
    new.remove_interface(PortId(2)).unwrap();
    new.remove_port(PortId(2)).unwrap();
    assert_eq!(listing(&old), before);
    assert_eq!((old.generation(), new.generation()), (Generation(0), Generation(1)));
    assert_eq!(old.port(PortId(2)).map(|p| p.role), Some(PortRole::Uplink));
    assert!(old.endpoint_by_name("a").is_some() && new.endpoint_by_name("a").is_none());
    assert_eq!(old.lookup(PODS, ip("8.8.8.8")), Some(hop(2, "192.0.2.1").into()));
    assert_eq!(new.lookup(PODS, ip("8.8.8.8")), None);
    assert_eq!(new.routes().count(), 2);
}

#[test]
fn an_endpoint_keeps_its_number_and_moves() {
    let mut tables = node();
    let id = tables.endpoint_by_name("b").unwrap().id;
    assert_eq!(tables.set_endpoint(pod("b", 3, &["10.244.1.3", "10.244.1.30"])), Ok(id));
    assert_eq!(tables.port(PortId(1)).unwrap().role, PortRole::Idle);
    assert_eq!(tables.port(PortId(3)).unwrap().role, PortRole::Endpoint(id));
    assert_eq!(tables.lookup(PODS, ip("10.244.1.30")), Some(Target::Endpoint(id)));
    assert_eq!(tables.lookup(PODS, ip("fd00:10:244:1::3")), Some(hop(2, "2001:db8::1").into()));
    let moved = Endpoint { network: NetworkId(5), ..pod("b", 3, &["10.244.1.2"]) };
    assert_eq!(tables.set_endpoint(moved), Ok(id));
    assert_eq!(tables.lookup(NetworkId(5), ip("10.244.1.2")), Some(Target::Endpoint(id)));
    assert_ne!(tables.lookup(PODS, ip("10.244.1.2")), Some(Target::Endpoint(id)));
    // A port that is set again keeps what is behind it.
    tables.set_port(PortEntry { mtu: 9000, ..port(3) }).unwrap();
    assert_eq!(tables.port(PortId(3)).map(|p| (p.mtu, p.role)), Some((9000, PortRole::Endpoint(id))));
}

#[test]
fn an_interface_is_replaced_as_a_whole() {
    let mut tables = node();
    tables
        .set_interface(interface(2, &[("198.51.100.1", 24), ("198.51.100.2", 24), ("203.0.113.1", 32)]))
        .unwrap();
    let shown: Vec<String> = tables
        .routes()
        .filter(|r| matches!(r.origin, Origin::Local | Origin::Connected))
        .map(|r| r.prefix.to_string())
        .collect();
    assert_eq!(shown, ["198.51.100.0/24", "198.51.100.1/32", "198.51.100.2/32", "203.0.113.1/32"]);
    assert_eq!(tables.interfaces().count(), 1);
    tables.remove_interface(PortId(2)).unwrap();
    assert_eq!(tables.interface(PortId(2)), None);
    assert_eq!(tables.lookup(PODS, ip("198.51.100.1")), Some(hop(2, "192.0.2.1").into()));
}

#[test]
fn what_is_in_use_cannot_go() {
    let mut tables = node();
    let refused = |tables: &mut Tables, id| tables.remove_port(PortId(id)).unwrap_err().to_string();
    assert_eq!(refused(&mut tables, 0), "port 0 (`port0`) is in use by endpoint `a`: remove that first");
    assert_eq!(
        refused(&mut tables, 2),
        "port 2 (`port2`) is in use by the interface on port 2 (`port2`): remove that first"
    );
    tables.remove_interface(PortId(2)).unwrap();
    assert_eq!(
        refused(&mut tables, 2),
        "port 2 (`port2`) is in use by route 0.0.0.0/0 in network 0: remove that first"
    );
    tables.remove_route(PODS, net("0.0.0.0/0")).unwrap();
    tables.remove_route(PODS, net("::/0")).unwrap();
    tables.remove_port(PortId(2)).unwrap();
    assert_eq!(refused(&mut tables, 2), "removal: port 2 does not exist: add it first");

    let a = tables.endpoint_by_name("a").unwrap().id;
    tables.set_route(PODS, net("10.9.0.0/16"), RouteTarget::Endpoint(a)).unwrap();
    assert_eq!(tables.lookup(PODS, ip("10.9.1.1")), Some(Target::Endpoint(a)));
    assert_eq!(
        tables.remove_endpoint("a").unwrap_err().to_string(),
        "endpoint `a` is in use by route 10.9.0.0/16 in network 0: remove that first"
    );
    tables.set_route(PODS, net("10.9.0.0/16"), RouteTarget::Blackhole).unwrap();
    tables.remove_endpoint("a").unwrap();
    tables.remove_port(PortId(0)).unwrap();
}

#[test]
fn an_address_has_one_holder() {
    let mut tables = node();
    let before = listing(&tables);
    let refused = |result: Result<(), TableError>| result.unwrap_err().to_string();
    assert_eq!(
        refused(tables.set_endpoint(pod("c", 3, &["10.244.1.7", "10.244.1.2"])).map(drop)),
        "endpoint `c`: address 10.244.1.2 in network 0 is already held by endpoint `a`: remove it there first"
    );
    assert_eq!(
        refused(tables.set_endpoint(pod("c", 3, &["192.0.2.10"])).map(drop)),
        "endpoint `c`: address 192.0.2.10 in network 0 is already held by the interface on port 2 (`port2`): remove it there first"
    );
    assert_eq!(
        refused(tables.set_endpoint(pod("c", 3, &["169.254.1.1"])).map(drop)),
        "endpoint `c`: address 169.254.1.1 in network 0 is already held by the router, as gateway4: remove it there first"
    );
    assert_eq!(
        refused(tables.set_interface(interface(4, &[("10.244.1.3", 32)]))),
        "interface on port 4: address 10.244.1.3 in network 0 is already held by endpoint `b`: remove it there first"
    );
    assert_eq!(
        refused(tables.set_interface(interface(4, &[("192.0.2.11", 24)]))),
        "interface on port 4: subnet 192.0.2.0/24 in network 0 is already connected by the interface on port 2 (`port2`): use another prefix"
    );
    let gateway = Router { gateway4: Ipv4Addr::new(10, 244, 1, 2), ..Router::default() };
    assert_eq!(
        refused(tables.set_router(gateway)),
        "router: address 10.244.1.2 in network 0 is already held by endpoint `a`: remove it there first"
    );
    assert_eq!(listing(&tables), before);
    assert!(tables.endpoint_by_name("c").is_none());
    assert_eq!(tables.port(PortId(3)).unwrap().role, PortRole::Idle);
    // Another network may have the same addresses.
    tables.set_endpoint(Endpoint { network: NetworkId(2), ..pod("c", 3, &["10.244.1.2"]) }).unwrap();
}

#[test]
fn bad_input_is_named() {
    let mut tables = node();
    let before = listing(&tables);
    let is = |result: Result<(), TableError>, text: &str| assert_eq!(result.unwrap_err().to_string(), text);
    is(tables.set_port(port(MAX_PORTS)), "port `port1024`: id 1024 is out of range: use one below 1024");
    is(
        tables.set_port(PortEntry { name: "port1".into(), ..port(9) }),
        "port 9: name `port1` is already that of port 1: choose another, or remove that port",
    );
    is(tables.set_port(PortEntry { name: String::new(), ..port(9) }), "port 9: name is empty: give it one");
    is(
        tables.set_port(PortEntry { mtu: 1279, ..port(9) }),
        "port `port9`: mtu 1279 is too small: IPv6 needs 1280 (RFC 8200, section 5)",
    );
    is(
        tables.set_port(PortEntry { mac: MacAddr::BROADCAST, ..port(9) }),
        "port `port9`: mac ff:ff:ff:ff:ff:ff is not the address of one station: use a unicast one, such as 02:00:00:00:00:01",
    );
    is(
        tables.set_endpoint(pod("c", 99, &[])).map(drop),
        "endpoint `c`: port 99 does not exist: add it first",
    );
    is(
        tables.set_endpoint(pod("c", 0, &[])).map(drop),
        "port 0 (`port0`) is in use by endpoint `a`: remove that first",
    );
    for bad in [
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "127.0.0.1",
        "::",
        "::1",
        "ff02::1",
        "fe80::2",
        "::ffff:1.2.3.4",
    ] {
        is(
            tables.set_endpoint(pod("c", 3, &[bad])).map(drop),
            &format!(
                "endpoint `c`: address {bad} cannot be used: an endpoint needs unicast addresses of more than its link's scope"
            ),
        );
    }
    is(
        tables.set_endpoint(Endpoint { routes: vec![net("10.5.0.0/16"); 17], ..pod("c", 3, &[]) }).map(drop),
        "endpoint `c`: 17 routes are too many: a guest is told of 16 at most",
    );
    is(
        tables.set_endpoint(pod("c", 3, &["10.1.1.1", "10.1.1.1"])).map(drop),
        "endpoint `c`: address 10.1.1.1 is there twice: name it once",
    );
    is(
        tables.set_interface(interface(3, &[("10.1.1.1", 33)])),
        "interface on port 3: prefix length 33 of address 10.1.1.1 is out of range: use at most 32",
    );
    is(
        tables.set_interface(interface(1, &[])),
        "port 1 (`port1`) is in use by endpoint `b`: remove that first",
    );
    is(tables.remove_interface(PortId(3)), "port 3 has no interface");
    is(tables.remove_endpoint("zz"), "endpoint `zz` does not exist");
    is(
        tables.set_route(PODS, net("10.0.0.0/8"), hop(77, "192.0.2.1")),
        "route 10.0.0.0/8 in network 0: port 77 does not exist: add it first",
    );
    is(
        tables.set_route(PODS, net("10.0.0.0/8"), hop(2, "2001:db8::1")),
        "route 10.0.0.0/8 in network 0: next hop 2001:db8::1 is of the other address family: use one of the prefix's own",
    );
    is(
        tables.set_route(PODS, net("10.0.0.0/8"), RouteTarget::Endpoint(EndpointId(50))),
        "route 10.0.0.0/8 in network 0: endpoint 50 does not exist: add it first",
    );
    is(tables.remove_route(PODS, net("10.0.0.0/8")), "route 10.0.0.0/8 in network 0 does not exist");
    is(tables.remove_route(PODS, net("192.0.2.0/24")), "route 192.0.2.0/24 in network 0 does not exist");
    let router = Router { gateway6: Ipv6Addr::LOCALHOST, ..Router::default() };
    is(
        tables.set_router(router),
        "router: address ::1 cannot be used: gateway6 must be link-local, such as fe80::1 (RFC 4861, section 6.1.2)",
    );
    assert_eq!(listing(&tables), before);
    assert_eq!(tables.ports().count(), 5);
}

#[test]
fn many_routes_and_endpoints_come_and_go() {
    let mut tables = Tables::empty();
    for id in 0..MAX_PORTS {
        tables.set_port(port(id)).unwrap();
    }
    for id in 0..MAX_PORTS {
        let addr = IpAddr::from(Ipv4Addr::from_bits(0x0af4_0000 + u32::from(id)));
        tables
            .set_endpoint(Endpoint { addresses: vec![addr], ..pod(&format!("pod-{id}"), id, &[]) })
            .unwrap();
    }
    for i in 0..50_000_u32 {
        let prefix =
            IpPrefix::containing(IpAddr::from(Ipv4Addr::from_bits(0x1400_0000 + (i << 8))), 24).unwrap();
        tables.set_route(PODS, prefix, hop(5, &format!("192.0.2.{}", 1 + i % 200))).unwrap();
    }
    assert_eq!(tables.routes().count(), 51_024);
    assert_eq!(tables.lookup(PODS, ip("20.0.7.9")), Some(hop(5, "192.0.2.8").into()));
    for i in 0..50_000_u32 {
        let prefix =
            IpPrefix::containing(IpAddr::from(Ipv4Addr::from_bits(0x1400_0000 + (i << 8))), 24).unwrap();
        tables.remove_route(PODS, prefix).unwrap();
    }
    for id in 0..MAX_PORTS {
        tables.remove_endpoint(&format!("pod-{id}")).unwrap();
        tables.remove_port(PortId(id)).unwrap();
    }
    assert_eq!((tables.routes().count(), tables.ports().count(), tables.route_bytes()), (0, 0, 0));
}

const TUNNEL: Tunnel = Tunnel { port: PortId(3), uplink: PortId(2), vni: 9, udp_port: 4_789 };

fn peer(addr: &str) -> TunnelPeer {
    TunnelPeer { port: PortId(3), addr: ip(addr), mac: MacAddr([2, 0, 0, 3, 0, 1]) }
}

#[test]
fn a_tunnel_and_its_peers_come_and_go_in_order() {
    let mut tables = node();
    tables.set_tunnel(TUNNEL).unwrap();
    assert_eq!((tables.tunnel(PortId(3)), tables.tunnel_over(PortId(2))), (Some(&TUNNEL), Some(&TUNNEL)));
    assert_eq!(tables.port(PortId(3)).unwrap().role, PortRole::Tunnel { uplink: PortId(2) });
    for addr in ["192.0.2.20", "2001:db8::20"] {
        tables.set_tunnel_peer(peer(addr)).unwrap();
    }
    let number = tables.tunnel_peer_at(PortId(3), ip("192.0.2.20")).unwrap();
    assert_eq!(tables.tunnel_peer(number), Some(&peer("192.0.2.20")));
    // Either family leads to either.
    tables.set_route(PODS, net("10.244.2.0/24"), hop(3, "2001:db8::20")).unwrap();
    tables.set_route(PODS, net("fd00:10:244:2::/64"), hop(3, "192.0.2.20")).unwrap();
    let way = tables.lookup(PODS, ip("10.244.2.9"));
    assert_eq!(way, Some(Target::NextHop { port: PortId(3), addr: ip("2001:db8::20"), inside: false }));
    // A new MAC keeps the number.
    let moved = TunnelPeer { mac: MacAddr([2, 0, 0, 3, 0, 2]), ..peer("192.0.2.20") };
    tables.set_tunnel_peer(moved).unwrap();
    assert_eq!(tables.tunnel_peer(number), Some(&moved));

    for (why, refused) in [
        (
            "in use by route fd00:10:244:2::/64",
            tables.clone().remove_tunnel_peer(PortId(3), ip("192.0.2.20")),
        ),
        ("in use by tunnel peer", tables.clone().remove_port(PortId(3))),
        ("in use by the interface", tables.clone().remove_port(PortId(2))),
        ("in use by a tunnel", tables.clone().set_interface(interface(3, &[]))),
        (
            "192.0.2.99 on port 3 does not exist",
            tables.clone().set_route(PODS, net("10.9.0.0/16"), hop(3, "192.0.2.99")),
        ),
        ("does not exist", tables.clone().remove_tunnel_peer(PortId(3), ip("192.0.2.99"))),
        (
            "port 2 is no tunnel",
            tables.clone().set_tunnel_peer(TunnelPeer { port: PortId(2), ..peer("192.0.2.21") }),
        ),
        ("unicast", tables.clone().set_tunnel_peer(peer("239.0.0.1"))),
        ("mac", tables.clone().set_tunnel_peer(TunnelPeer { mac: MacAddr::BROADCAST, ..peer("192.0.2.21") })),
    ] {
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(why), "{why}: {message}");
    }
    for prefix in ["10.244.2.0/24", "fd00:10:244:2::/64"] {
        tables.remove_route(PODS, net(prefix)).unwrap();
    }
    for addr in ["192.0.2.20", "2001:db8::20"] {
        tables.remove_tunnel_peer(PortId(3), ip(addr)).unwrap();
    }
    assert_eq!(tables.tunnel_peers().count(), 0);
    // Its uplink may not go while it is there, whatever else has gone.
    for route in tables.clone().routes().filter(|route| route.origin == Origin::Configured) {
        tables.remove_route(PODS, route.prefix).unwrap();
    }
    tables.remove_interface(PortId(2)).unwrap();
    let message = tables.clone().remove_port(PortId(2)).unwrap_err().to_string();
    assert!(message.contains("the tunnel on port 3"), "{message}");
    tables.remove_port(PortId(3)).unwrap();
    assert_eq!((tables.tunnel_over(PortId(2)), tables.port(PortId(3))), (None, None));
    tables.remove_port(PortId(2)).unwrap();
}

#[test]
fn a_tunnel_that_cannot_be_is_refused_by_what_is_wrong_with_it() {
    let tables = node();
    for (tunnel, why) in [
        (Tunnel { port: PortId(9), ..TUNNEL }, "port 9 does not exist"),
        (Tunnel { uplink: PortId(9), ..TUNNEL }, "port 9 does not exist"),
        (Tunnel { port: PortId(0), ..TUNNEL }, "in use by endpoint `a`"),
        (Tunnel { uplink: PortId(0), ..TUNNEL }, "port 0 (`port0`) cannot carry it"),
        (Tunnel { uplink: PortId(3), ..TUNNEL }, "cannot carry it"),
        (Tunnel { vni: 1 << 24, ..TUNNEL }, "16777215"),
        (Tunnel { udp_port: 0, ..TUNNEL }, "4789"),
    ] {
        let message = tables.clone().set_tunnel(tunnel).unwrap_err().to_string();
        assert!(message.contains(why), "{why}: {message}");
    }
    let mut taken = tables;
    taken.set_tunnel(TUNNEL).unwrap();
    taken.set_tunnel(TUNNEL).unwrap();
    let message = taken.set_tunnel(Tunnel { port: PortId(4), ..TUNNEL }).unwrap_err().to_string();
    assert!(message.contains("the tunnel on port 3"), "{message}");
    // No tunnel in a tunnel.
    let nested = Tunnel { port: PortId(4), uplink: PortId(3), ..TUNNEL };
    assert!(taken.set_tunnel(nested).unwrap_err().to_string().contains("cannot carry it"));
}
