//! The control process on a node to throw away: real sockets, namespaces and TAPs, with a data plane that forwards
//! nothing but keeps real rows. Needs root.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by panicking")]

mod cluster;
mod fake;
mod faults;
mod harness;
mod policies;
mod requests;
mod tls;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use desired::ROUTER_MAC;
use harness::{Netns, Node, pod, until};
use proto::control::{AttachPort, AttachRequest, Request, Response};
use proto::dataplane::{EndpointKind, PortKind, RouteTarget};

fn via(address: &str) -> Option<RouteTarget> {
    Some(RouteTarget::NextHop { port: "uplink".into(), address: address.parse().unwrap(), inside: true })
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn an_attached_pod_has_a_working_interface_until_it_is_detached() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let netns = Netns::new();
    let loopback = netns.link("lo").unwrap();
    let request = AttachRequest { mtu: Some(1450), ..pod("front", &netns) };
    let attached = node.attach(request.clone(), &netns);
    assert_eq!(texts(&attached.addresses), ["10.244.1.2", "fd00:10:244:1::2"]);
    assert_eq!(texts(&attached.gateways), ["169.254.1.1", "fe80::1"]);
    assert_eq!((attached.mtu, attached.routes.len(), attached.socket), (1450, 3, None));

    // The kernel's side.
    let link = netns.link("eth0").unwrap();
    assert_eq!(link["mtu"], 1450);
    assert_eq!(link["address"], attached.mac.to_string());
    assert!(netns.has_carrier("eth0"), "{link}");
    assert_eq!(netns.link("lo").unwrap(), loopback, "what a pod's containers share is its runtime's");
    for (address, length) in [("10.244.1.2", 32), ("fd00:10:244:1::2", 128)] {
        let info = link["addr_info"].as_array().unwrap();
        let own = info.iter().find(|own| own["local"] == address).unwrap();
        assert_eq!(own["prefixlen"], length);
        assert!(own["tentative"].is_null(), "{own}");
    }
    let routes = netns.ip(&["route"]);
    assert!(routes.contains("default via 169.254.1.1 dev eth0"), "{routes}");
    assert!(routes.contains("169.254.1.1 dev eth0") && routes.contains("scope link"), "{routes}");
    let routes = netns.ip(&["-6", "route"]);
    assert!(routes.contains("default via fe80::1 dev eth0"), "{routes}");

    // The data plane's side, and a packet that crosses from one to the other.
    let (rows, ports) = fake.contents();
    let endpoint = &rows.endpoints["shop/front"];
    assert_eq!((endpoint.mac, endpoint.kind), (attached.mac, EndpointKind::Pod));
    assert_eq!(endpoint.addresses, attached.addresses);
    let port = &ports[&endpoint.port];
    assert_eq!((port.mac, port.mtu, &port.kind), (Some(ROUTER_MAC), 1450, &PortKind::Tap));
    let tap = fake.with(|state| state.taps[&endpoint.port].try_clone().unwrap());
    let file = std::fs::File::open(netns.path()).unwrap();
    tap::netns::in_netns(file.as_fd(), || {
        let socket = UdpSocket::bind("10.244.1.2:0").unwrap();
        socket.send_to(b"hello", "10.244.2.5:9").unwrap();
    })
    .unwrap();
    // An ARP request (RFC 826) for the gateway, behind the ten bytes of vnet header and fourteen of Ethernet.
    let mut frame = [0; 256];
    until("the pod asks for its gateway", || {
        let length = rustix::io::read(&tap, &mut frame).unwrap_or(0);
        length >= 52 && frame[22..24] == [0x08, 0x06] && frame[48..52] == [169, 254, 1, 1]
    });
    assert_eq!(frame[16..22], attached.mac.0);

    let (code, reason) = node.attach_fails(request.clone(), &netns);
    assert!(code == 100 && reason.contains("attached already"), "{code}: {reason}");
    let other = pod("other", &netns);
    let (code, reason) = node.attach_fails(other, &netns);
    assert!(code == 101 && reason.contains("`eth0`"), "{code}: {reason}");
    assert!(!node.journal().contains("container-other"));
    assert_eq!(fake.contents().0.endpoints.len(), 2);

    drop(tap);
    node.detach(&request);
    assert!(netns.link("eth0").is_none());
    let (rows, ports) = fake.contents();
    assert_eq!((rows.endpoints.len(), ports.len()), (1, 2));
    node.detach(&request);
    // The address that was given last is used last.
    let again = node.attach(request, &netns);
    assert_ne!(again.addresses, attached.addresses);
}

#[test]
fn control_that_was_killed_comes_back_to_the_same() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let netns = Netns::new();
    let attached = node.attach(pod("front", &netns), &netns);
    let before = fake.contents();
    let port = before.0.endpoints["shop/front"].port.clone();
    fake.with(|state| state.log.clear());
    node.kill();
    assert!(netns.has_carrier("eth0"));

    node.start_and_sync(&fake);
    until("duplicates of both TAPs", || {
        fake.with(|state| state.log.iter().filter(|line| line.starts_with("duplicate")).count() == 2)
    });
    assert_eq!(fake.contents(), before);
    // Compared, not torn down: nothing was made, moved or taken away.
    fake.with(|state| assert!(state.log.iter().all(|line| line.starts_with("duplicate")), "{:?}", state.log));
    let (code, _) = node.attach_fails(pod("front", &netns), &netns);
    assert_eq!(code, 100);
    let second = Netns::new();
    let other = node.attach(pod("other", &second), &second);
    assert_ne!(other.addresses, attached.addresses);

    // The duplicate is a second holder: the carrier outlasts the data plane.
    drop(fake);
    assert!(netns.has_carrier("eth0") && node.host.has_carrier("podrouter0"));
    let fake = node.fake();
    until("the port is there again", || fake.with(|state| state.taps.contains_key(&port)));
}

#[test]
fn a_data_plane_that_starts_anew_gets_all_again() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let (first, second) = (Netns::new(), Netns::new());
    node.attach(pod("front", &first), &first);
    let queue_pairs = Some(4);
    let vhost = AttachRequest { port: AttachPort::VhostUser, queue_pairs, ..pod("vm", &second) };
    let attached = node.attach(vhost.clone(), &second);
    let before = fake.contents();
    let socket = attached.socket.unwrap();
    assert!(socket.starts_with(node.path("vhost")) && socket.as_os_str().len() <= 107);
    let port = &before.1[&before.0.endpoints["shop/vm"].port];
    assert_eq!(port.kind, PortKind::Vhost { path: socket, server: true, queue_pairs: 4 });
    assert!(second.link("eth0").is_none());

    drop(fake);
    until("control has seen it go", || !node.status().connected);
    assert!(first.has_carrier("eth0"));
    // What is detached meanwhile is not brought back.
    node.detach(&vhost);
    let fake = node.fake();
    until("ports and rows again", || fake.contents().0.endpoints.contains_key("shop/front"));
    let (rows, ports) = fake.contents();
    let mut expected = before;
    let gone = expected.0.endpoints.remove("shop/vm").unwrap();
    expected.1.remove(&gone.port);
    assert_eq!((rows, ports), expected);

    // Both gone: the devices are opened again by the journalled path.
    node.kill();
    drop(fake);
    until("no carrier", || !first.has_carrier("eth0"));
    let fake = node.fake();
    node.start_and_sync(&fake);
    until("the same again", || fake.contents() == expected);
    assert!(first.has_carrier("eth0"));
    assert!(first.ip(&["route"]).contains("default via 169.254.1.1 dev eth0"));
}

#[test]
fn a_malformed_manifest_leaves_the_last_good_state_in_force() {
    let mut node = Node::new();
    let fake = node.fake();
    let third = "kind: Node\napiVersion: v1\nmetadata:\n  name: knode3\n  annotations: {podrouter.io/router-addresses: 172.16.0.3}\n\
                 spec:\n  podCIDRs: [10.244.3.0/24]\n";
    node.manifest("third.yaml", third);
    node.start_and_sync(&fake);
    assert_eq!(fake.route("10.244.3.0/24"), via("172.16.0.3"));
    assert_eq!(fake.route("10.244.2.0/24"), via("172.16.0.2"));
    assert_eq!(fake.route("fd00:10:244:2::/64"), via("fd00:16::2"));
    assert_eq!(fake.route("192.168.77.12/32"), via("172.16.0.2"));
    assert_eq!(fake.route("10.244.1.0/24"), Some(RouteTarget::Unreachable));
    assert_eq!(node.status().warnings, Vec::<String>::new());
    let generation = node.status().committed;

    node.manifest("third.yaml", &third.replace("[10.244.3.0/24]", "10.244.9.0/24"));
    until("the warning", || !node.status().warnings.is_empty());
    let warning = node.status().warnings.concat();
    for part in ["third.yaml", "spec.podCIDRs", "10.244.9.0/24", "line 7"] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    assert!(node.log().contains(&warning));
    assert_eq!((fake.route("10.244.3.0/24"), node.status().committed), (via("172.16.0.3"), generation));

    // A value that is misspelt is an error of its file as well: nothing of it counts, and nothing is withdrawn.
    node.manifest("third.yaml", &third.replace("[10.244.3.0/24]", "[10.244.3.0/24, \"fd00::/200\"]"));
    until("the warning", || node.status().warnings.concat().contains("fd00::/200"));
    let warning = node.status().warnings.concat();
    for part in ["third.yaml", "spec.podCIDRs", "line 7"] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    assert_eq!((fake.route("10.244.3.0/24"), node.status().committed), (via("172.16.0.3"), generation));

    // Well spelt, and half of it no use: that half alone is left out.
    node.manifest("third.yaml", &third.replace("[10.244.3.0/24]", "[\"ff00::/64\", 10.244.4.0/24]"));
    until("the new route", || fake.route("10.244.4.0/24") == via("172.16.0.3"));
    assert_eq!(fake.route("10.244.3.0/24"), None);
    let warning = node.status().warnings.concat();
    assert!(warning.contains("Node knode3: spec.podCIDRs[0] `ff00::/64`"), "{warning}");

    std::fs::remove_file(node.path("manifests/third.yaml")).unwrap();
    until("the route goes", || fake.route("10.244.4.0/24").is_none());
    assert_eq!(fake.route("10.244.2.0/24"), via("172.16.0.2"));
}

#[test]
fn nothing_is_committed_before_every_manifest_was_read_once() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let before = fake.contents();
    node.kill();
    node.manifest("a.yaml", "kind: Node\nmetadata: [");
    fake.with(|state| state.log.clear());
    node.start();
    until("the data plane is connected", || node.status().connected);
    until("the manifests were looked at", || !node.status().warnings.is_empty());
    let netns = Netns::new();
    let (code, reason) = node.attach_fails(pod("front", &netns), &netns);
    assert!(code == 11 && reason.contains("manifests"), "{code}: {reason}");
    until("the file is named", || node.status().warnings.iter().any(|text| text.contains("a.yaml: ")));
    assert!(!node.status().synced);
    assert_eq!(fake.contents(), before);
    fake.with(|state| assert_eq!(state.log, Vec::<String>::new()));
    node.manifest("a.yaml", "kind: Secret\n");
    until("it goes on", || node.status().synced);
    node.attach(pod("front", &netns), &netns);
}

#[test]
fn an_attach_that_fails_leaves_nothing() {
    let mut node = Node::new();
    let netns = Netns::new();
    let nothing_left = |node: &Node| {
        assert!(netns.link("eth0").is_none());
        assert_eq!(node.status().attachments, 0);
    };
    node.start();
    let (code, reason) = node.attach_fails(pod("front", &netns), &netns);
    assert!(code == 11 && reason.contains("data plane is away"), "{code}: {reason}");
    nothing_left(&node);
    assert!(!node.journal().contains("attach"));

    let fake = node.fake();
    until("connected", || node.status().synced && fake.contents().0.endpoints.contains_key("host"));
    let before = fake.contents();
    fake.with(|state| state.refuse_ports = Some("p".into()));
    let (code, reason) = node.attach_fails(pod("front", &netns), &netns);
    assert!(code == 103 && reason.contains("told to refuse this port"), "{code}: {reason}");
    nothing_left(&node);
    fake.with(|state| (state.refuse_ports, state.refuse_rows) = (None, true));
    let (code, reason) = node.attach_fails(pod("front", &netns), &netns);
    assert!(code == 103 && reason.contains("told to refuse rows"), "{code}: {reason}");
    nothing_left(&node);
    fake.with(|state| state.refuse_rows = false);
    until("the refused port is taken away", || fake.contents() == before);

    let nowhere = Request::Attach(pod("front", &netns));
    let Response::Failed { code: 4, reason, .. } = node.call(&nowhere, None) else {
        panic!("no descriptor, and no failure")
    };
    assert!(reason.contains(&netns.0), "{reason}");
    nothing_left(&node);

    node.manifest("cluster.yaml", "kind: Node\nmetadata: {name: another}\n");
    until("the node is missing", || node.status().warnings.iter().any(|text| text.contains("knode1")));
    let (code, reason) = node.attach_fails(pod("front", &netns), &netns);
    assert!(code == 11 && reason.contains("podCIDRs"), "{code}: {reason}");
    nothing_left(&node);
}

#[test]
fn the_host_has_a_port_and_its_routes_follow_the_nodes() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let (rows, ports) = fake.contents();
    let link = node.host.link("podrouter0").unwrap();
    let endpoint = &rows.endpoints["host"];
    assert_eq!(
        (endpoint.kind, link["address"].as_str().unwrap()),
        (EndpointKind::Host, endpoint.mac.to_string().as_str())
    );
    assert_eq!(texts(&endpoint.addresses), ["192.168.77.11", "fd00:77::11"]);
    assert_eq!(ports["host"].mac, Some(ROUTER_MAC));
    assert!(node.host.has_carrier("podrouter0"));
    let route = |prefix: &str| {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        node.host.ip(&[family, "route", "show", prefix, "dev", "podrouter0"])
    };
    until("routes to pods", || {
        ["10.244.1.0/24", "10.244.2.0/24", "fd00:10:244:1::/64", "fd00:10:244:2::/64"]
            .iter()
            .all(|prefix| !route(prefix).is_empty())
    });
    assert!(
        route("10.244.2.0/24").contains("via 169.254.1.1")
            && route("10.244.2.0/24").contains("src 192.168.77.11")
    );
    assert!(
        route("fd00:10:244:2::/64").contains("via fe80::1")
            && route("fd00:10:244:2::/64").contains("src fd00:77::11")
    );
    let file = std::fs::File::open(node.host.path()).unwrap();
    let switch = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/podrouter0/{name}");
        tap::netns::in_netns(file.as_fd(), || std::fs::read_to_string(path).unwrap()).unwrap()
    };
    assert_eq!((switch("accept_local").trim(), switch("rp_filter").trim()), ("1", "2"));

    // One node goes, and one that was put there by somebody else stays.
    node.host.ip(&["route", "add", "10.99.0.0/16", "dev", "podrouter0"]);
    node.manifest(
        "cluster.yaml",
        "kind: Node\nmetadata: {name: knode1}\nspec: {podCIDRs: [10.244.1.0/24]}\n\
         status: {addresses: [{type: InternalIP, address: 192.168.77.99}]}\n",
    );
    until("the routes go", || route("10.244.2.0/24").is_empty() && route("fd00:10:244:1::/64").is_empty());
    assert!(!route("10.99.0.0/16").is_empty());
    // An address that this machine lacks cannot be a source: said, and the route is there all the same.
    until("the warning", || node.status().warnings.iter().any(|text| text.contains("192.168.77.99")));
    assert!(!route("10.244.1.0/24").is_empty());
    node.host.ip(&["addr", "add", "192.168.77.99/32", "dev", "lo"]);
    until("the source", || route("10.244.1.0/24").contains("src 192.168.77.99"));
    until("no warning", || node.status().warnings.is_empty());
}

#[test]
fn it_ends_cleanly_and_starts_only_once() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let netns = Netns::new();
    node.attach(pod("front", &netns), &netns);
    let (code, said) = node.start_and_fail();
    assert!(code == 1 && said.contains("--state-dir"), "{code}: {said}");
    let before = fake.contents();
    assert_eq!(node.stop(), 0);
    assert!(!node.path("control.sock").exists());
    assert_eq!(fake.contents(), before);
    assert!(netns.has_carrier("eth0") && node.host.has_carrier("podrouter0"));

    // A port that is to be otherwise is made anew, with its rows.
    node.extra.extend(["--uplink-mtu".into(), "9000".into()]);
    node.start();
    until("the uplink has its new size", || {
        fake.contents().1.get("uplink").is_some_and(|port| port.mtu == 9000)
    });
    until("rows as before", || fake.contents().0 == before.0);
    // And a pod that asked for no size of its own has the uplink's.
    until("the pod's port has it", || fake.contents().1.values().all(|port| port.mtu == 9000));
    assert_eq!(netns.link("eth0").unwrap()["mtu"], 9000);
    assert_eq!(node.stop(), 0);

    // A pod whose namespace is gone is released; what happened to the tables meanwhile is put right.
    drop(netns);
    fake.with(|state| {
        state.generation += 7;
        state.rows.routes.clear();
    });
    node.start_and_sync(&fake);
    until("the pod is released", || !fake.contents().0.endpoints.contains_key("shop/front"));
    assert_eq!(fake.contents().0.routes, before.0.routes);
    assert!(node.log().contains("is gone; released"));
    assert_eq!(node.status().attachments, 0);
    // Somebody else's transaction in between costs a comparison.
    fake.with(|state| state.generation += 5);
    let other = Netns::new();
    node.attach(pod("other", &other), &other);
    assert_eq!(node.stop(), 0);

    node.extra.extend(["--uplink-gateway".into(), "10.9.9.9".into()]);
    let (code, said) = node.start_and_fail();
    assert!(code == 3 && said.contains("--uplink-gateway 10.9.9.9"), "{code}: {said}");
    node.extra = vec!["--gateway4".into(), "x".into()];
    assert_eq!(node.start_and_fail().0, 2);
}

#[test]
fn a_request_that_is_none_is_answered_and_ends_the_connection() {
    let mut node = Node::new();
    node.extra.extend(["--host-interface".into(), "none".into()]);
    node.start();
    assert!(node.host.link("podrouter0").is_none());
    let mut connection = proto::Connection::connect(&node.path("control.sock")).unwrap();
    connection.set_timeout(Some(Duration::from_secs(60))).unwrap();
    let (answer, _): (Response, _) = connection.call(&Request::Status, &[]).unwrap();
    assert!(matches!(answer, Response::Failed { code: 6, .. }), "{answer:?}");
    let mut connection = proto::Connection::connect(&node.path("control.sock")).unwrap();
    let (answer, _): (Response, _) = connection.call(&"what", &[]).unwrap();
    assert!(matches!(answer, Response::Failed { code: 6, .. }), "{answer:?}");
    let mut connection = proto::Connection::connect(&node.path("control.sock")).unwrap();
    let hello = Request::Hello { version: proto::VERSION + 2, program: "test".into() };
    let (answer, _): (Response, _) = connection.call(&hello, &[]).unwrap();
    assert!(matches!(answer, Response::Failed { code: 1, .. }), "{answer:?}");
}

#[test]
fn a_socket_path_that_is_too_long_is_refused_before_anything_is_made() {
    let mut node = Node::new();
    let long = node.path(&"x".repeat(100));
    node.extra.extend(["--vhost-dir".into(), long.display().to_string()]);
    let fake = node.fake();
    node.start_and_sync(&fake);
    let netns = Netns::new();
    let vhost = AttachRequest { port: AttachPort::VhostUser, ..pod("vm", &netns) };
    let (code, reason) = node.attach_fails(vhost, &netns);
    assert!(code == 7 && reason.contains("107"), "{code}: {reason}");
    assert_eq!((node.status().attachments, fake.contents().0.endpoints.len()), (0, 1));
}

#[test]
fn an_interface_that_somebody_replaced_is_left_alone() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let netns = Netns::new();
    let request = pod("front", &netns);
    node.attach(request.clone(), &netns);
    node.kill();
    drop(fake);
    netns.ip(&["link", "del", "eth0"]);
    netns.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "peer0"]);
    let fake = node.fake();
    node.start_and_sync(&fake);
    until("the warning", || node.status().warnings.iter().any(|text| text.contains("`eth0` is no longer")));
    assert!(!fake.contents().0.endpoints.contains_key("shop/front"));
    node.detach(&request);
    assert_eq!(node.status().attachments, 0);
    assert!(netns.ip(&["-d", "link", "show", "eth0"]).contains("veth"));
}

#[test]
fn pods_attached_at_the_same_time_have_addresses_of_their_own() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let all: Vec<Netns> = (0..12).map(|_| Netns::new()).collect();
    let shared = &node;
    let attached: Vec<_> = std::thread::scope(|scope| {
        let attach = |(n, netns)| scope.spawn(move || shared.attach(pod(&format!("pod{n}"), netns), netns));
        let threads: Vec<_> = all.iter().enumerate().map(attach).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let addresses: std::collections::BTreeSet<_> = attached.iter().flat_map(|own| &own.addresses).collect();
    assert_eq!(addresses.len(), 24);
    assert_eq!(fake.contents().0.endpoints.len(), 13);
    // A sandbox made anew while the old one is still there: two attachments of one pod.
    let again = Netns::new();
    let second = AttachRequest { container: "anew".into(), ..pod("pod0", &again) };
    node.attach(second, &again);
    assert_eq!(fake.contents().0.endpoints.keys().filter(|name| name.starts_with("shop/pod0")).count(), 2);
    std::thread::scope(|scope| {
        for (n, netns) in all.iter().enumerate() {
            scope.spawn(move || shared.detach(&pod(&format!("pod{n}"), netns)));
        }
    });
    assert_eq!((fake.contents().0.endpoints.len(), node.status().attachments), (2, 1));
}
