//! Services: kube-proxy's rules written as plainly as can be, against what the rows are, one change after the other.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use desired::{
    Address, Attachment, ClusterView, Desired, EndpointSlice, Hints, Host, LoadBalancerAddress, Local, Node,
    NodeAddress, ObjectName, Protocol, ROUTER_MAC, Service, ServicePort, SliceEndpoint, SlicePort, Uplink,
    apply, diff,
};
use proptest::prelude::*;
use proto::control::PortMapping;
use proto::dataplane::{BackendState, Ethdev, InterfaceAddress, Limits, PortKind, Router};

const NODE: &str = "node-1";
/// Of this node, those of its router among them.
const NODE_ADDRESSES: [&str; 4] = ["172.16.0.1", "10.244.1.1", "fd00:1::1", "fd01::1"];
const ROUTER: [&str; 2] = ["10.244.1.1", "fd00:1::1"];
/// Of another, where it is there.
const OTHER_NODE: &str = "172.16.0.2";
/// What Services call theirs, this node's own address among them.
const WORLD: [&str; 5] = ["192.0.2.1", "192.0.2.2", OTHER_NODE, "172.16.0.1", "2001:db8::1"];

fn named(name: &str) -> ObjectName {
    ObjectName { namespace: "shop".into(), name: name.into() }
}

fn local() -> Local {
    let own = InterfaceAddress { address: "172.16.0.1".parse().unwrap(), prefix_len: 24 };
    Local {
        node: NODE.into(),
        router: Router {
            gateway4: "169.254.1.1".parse().unwrap(),
            gateway6: "fe80::1".parse().unwrap(),
            dns_servers: vec![],
            dns_search: vec![],
        },
        uplink: Some(Uplink { device: Ethdev::new("d"), mtu: 1500, addresses: vec![own], gateways: vec![] }),
        host: Some(Host { mac: ROUTER_MAC, mtu: 1500 }),
        vxlan: None,
        subnets: vec![],
        masquerade: Some(vec![]),
        node_port_addresses: vec![],
        kept: vec![],
        attachments: vec![],
    }
}

fn own_node(zone: &str) -> Node {
    let address = |own: &str| NodeAddress { kind: "InternalIP".into(), address: own.into() };
    Node {
        pod_cidrs: vec!["10.244.1.0/24".into(), "fd00:1::/64".into()],
        addresses: vec![address("172.16.0.1"), address("fd01::1")],
        zone: zone.into(),
        ..Node::default()
    }
}

fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port: 0 }
}

fn service(ips: &[&str], ports: &[ServicePort]) -> Service {
    Service {
        kind: "ClusterIP".into(),
        cluster_ips: ips.iter().map(|ip| (*ip).into()).collect(),
        ports: ports.to_vec(),
        ..Service::default()
    }
}

fn slice(of: &str, port: u16, addresses: &[&str]) -> EndpointSlice {
    EndpointSlice {
        service: of.into(),
        family: if addresses.iter().any(|own| own.contains(':')) { "IPv6" } else { "IPv4" }.into(),
        endpoints: addresses.iter().map(|own| ready(own)).collect(),
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: Some(port) }],
    }
}

fn ready(address: &str) -> SliceEndpoint {
    SliceEndpoint { address: address.into(), ready: true, serving: true, ..SliceEndpoint::default() }
}

fn view<const S: usize, const E: usize>(
    services: [(&str, Service); S],
    slices: [(&str, EndpointSlice); E],
) -> ClusterView {
    ClusterView {
        nodes: [(NODE.to_owned(), own_node("a"))].into_iter().collect(),
        services: services.into_iter().map(|(name, own)| (named(name), own)).collect(),
        endpoint_slices: slices.into_iter().map(|(name, own)| (named(name), own)).collect(),
        ..ClusterView::default()
    }
}

/// `address:port/protocol name -> backends`, those that drain in brackets.
fn frontends(desired: &Desired) -> Vec<String> {
    let line = |row: &proto::dataplane::Frontend| {
        let backends = row.backends.iter().map(|own| match own.state {
            BackendState::Serving => format!("{}:{}", own.address, own.port),
            BackendState::ServingOwn => format!("own:{}:{}", own.address, own.port),
            BackendState::ServingOthers => format!("others:{}:{}", own.address, own.port),
            BackendState::Draining => format!("({}:{})", own.address, own.port),
        });
        format!("{} {} -> {}", row.key, row.name, backends.collect::<Vec<_>>().join(" "))
    };
    desired.rows.frontends.values().map(|own| line(own)).collect()
}

#[test]
fn each_port_of_each_cluster_address_has_the_endpoints_of_all_slices() {
    let web = service(
        &["10.96.0.7", "fd00:96::7"],
        &[port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)],
    );
    let of = |family: &[&str], ports: &[(&str, Protocol, u16)]| EndpointSlice {
        ports: ports
            .iter()
            .map(|(name, protocol, port)| SlicePort {
                name: (*name).into(),
                protocol: protocol.clone(),
                port: Some(*port),
            })
            .collect(),
        ..slice("web", 0, family)
    };
    let (http, dns) = (("http", Protocol::Tcp, 8080), ("dns", Protocol::Udp, 5353));
    let all = view(
        [("web", web)],
        [
            ("web-1", of(&["10.244.1.2"], &[http.clone(), dns.clone()])),
            ("web-2", of(&["10.244.2.2"], &[("http", Protocol::Tcp, 9090)])),
            ("web-6", of(&["fd00::2"], &[http, dns])),
            ("other", slice("other", 80, &["10.244.9.9"])),
        ],
    );
    let desired = Desired::build(&all, &local());
    assert_eq!(
        frontends(&desired),
        [
            "10.96.0.7:53/udp shop/web:dns -> 10.244.1.2:5353",
            "10.96.0.7:80/tcp shop/web:http -> 10.244.1.2:8080 10.244.2.2:9090",
            "[fd00:96::7]:53/udp shop/web:dns -> fd00::2:5353",
            "[fd00:96::7]:80/tcp shop/web:http -> fd00::2:8080",
        ]
    );
    // The node itself reaches them by us.
    let prefixes: Vec<String> = desired.host_prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.96.0.7/32", "10.244.1.0/24", "fd00:1::/64", "fd00:96::7/128"]);
    assert_eq!(desired.warnings().count(), 0);
}

#[test]
fn a_service_that_is_not_ours_or_has_no_address_has_no_frontend() {
    let ports = [port("", Protocol::Tcp, 80)];
    let plain = service(&["10.96.0.7"], &ports);
    for (not_ours, why) in [
        (Service { left_alone: true, ..plain.clone() }, "another proxy's"),
        (Service { kind: "ExternalName".into(), ..plain.clone() }, "a name"),
        (service(&["None"], &ports), "headless"),
        (service(&[], &ports), "not given an address yet"),
    ] {
        let desired = Desired::build(&view([("web", not_ours)], []), &local());
        assert_eq!((frontends(&desired), desired.warnings().count()), (vec![], 0), "{why}");
    }
    // What cannot be honoured is named.
    let more = service(&["10.96.0.7", "127.0.0.1"], &ports);
    let desired = Desired::build(&view([("web", more)], []), &local());
    let told: Vec<&str> = desired.warnings().collect();
    assert_eq!(frontends(&desired), ["10.96.0.7:80/tcp shop/web -> "]);
    assert!(told[0].contains("spec.clusterIPs[1] `127.0.0.1`"), "{told:?}");
    // Of two that claim one address and port, one has it, and the other is told.
    let twice = view([("a", plain.clone()), ("b", plain)], []);
    let desired = Desired::build(&twice, &local());
    assert_eq!(frontends(&desired), ["10.96.0.7:80/tcp shop/a -> "]);
    assert!(desired.warnings().any(|text| text.contains("shop/b") && text.contains("the shop/a")));
}

/// Nobody has another Service's address, a NodePort or the API server by calling them external ones, whatever he is called.
#[test]
fn an_external_address_takes_nothing_from_anybody() {
    let dns = service(&["10.96.0.7"], &[port("", Protocol::Udp, 53)]);
    let web = ServicePort { node_port: 30_080, ..port("", Protocol::Tcp, 80) };
    let taken = ["10.96.0.7", "10.244.1.1", "192.0.2.6"].map(Into::into).to_vec();
    let ports = [port("a", Protocol::Udp, 53), port("b", Protocol::Tcp, 30_080)];
    let greedy = Service { external_ips: taken, ..service(&["10.96.0.9"], &ports) };
    let before = view([("dns", dns), ("web", service(&["10.96.0.8"], &[web]))], []);
    let local = Local { kept: vec!["192.0.2.6".parse().unwrap()], ..local() };
    let first = Desired::build(&before, &local);
    let mut after = before.clone();
    after.services.insert(named("a-greedy"), greedy);
    let next = first.next((&before, &local), &after, &local);
    for (key, row) in &first.rows.frontends {
        assert_eq!(next.rows.frontends.get(key), Some(row));
    }
    let routed = |text: &str| next.host_prefixes.contains(&text.parse::<wire::IpPrefix>().unwrap());
    assert!(routed("10.96.0.7/32") && !routed("192.0.2.6/32"));
    let externals: Vec<String> = next.externals.iter().map(ToString::to_string).collect();
    assert_eq!(externals, ["10.96.0.7:30080/tcp", "10.244.1.1:53/udp"]);
    let told: Vec<&str> = next.warnings().filter(|text| text.contains("a-greedy")).collect();
    for what in
        ["10.96.0.7:53/udp is the shop/dns", "10.244.1.1:30080/tcp is the shop/web", "address 192.0.2.6"]
    {
        assert!(told.iter().any(|text| text.contains(what)), "{what}: {told:?}");
    }
}

/// Where load balancers ask: what is ready here counts alone, a pod once.
#[test]
fn a_load_balancer_hears_how_many_endpoints_are_ready_here() {
    let web =
        Service { external_local: true, health_check_node_port: 32_000, ..service(&["10.96.0.7"], &[]) };
    let here = |address: &str, ready: bool| SliceEndpoint {
        node: NODE.into(),
        ready,
        terminating: !ready,
        ..self::ready(address)
    };
    let mut of = slice("web", 80, &["10.244.2.2"]);
    of.endpoints.extend([here("10.244.1.2", true), here("10.244.1.3", true), here("10.244.1.4", false)]);
    let mut again = of.clone();
    again.endpoints.truncate(2);
    let six = EndpointSlice { endpoints: vec![here("fd00:1::2", true)], ..slice("web", 80, &["fd00::9"]) };
    let all = view([("web", web.clone())], [("web-1", of), ("web-2", again), ("web-6", six)]);
    let desired = Desired::build(&all, &local());
    let checks: Vec<_> =
        desired.health_checks.iter().map(|(port, own)| (*port, own.local_endpoints)).collect();
    assert_eq!(checks, [(32_000, 2)]);
    // By an uplink of ours, at its own address, that is passed on to the node's.
    let mut two = local();
    two.uplink.as_mut().unwrap().addresses[0].address = "172.16.0.9".parse().unwrap();
    let desired = Desired::build(&all, &two);
    assert_eq!(frontends(&desired), ["172.16.0.9:32000/tcp shop/web: health check -> 172.16.0.1:32000"]);
    let cluster = Service { external_local: false, ..web };
    let next = ClusterView { services: [(named("web"), cluster)].into_iter().collect(), ..all.clone() };
    let next = desired.next((&all, &two), &next, &two);
    assert!(next.health_checks.is_empty() && frontends(&next).is_empty());
}

/// kube-proxy's pkg/proxy/topology.go, of one port of one family: who gets new flows.
fn oracle(local: bool, of: &[(IpAddr, u16, SliceEndpoint)], zone: &str) -> BTreeSet<(IpAddr, u16)> {
    let is_local = |own: &SliceEndpoint| &*own.node == NODE;
    let hints = |own: &SliceEndpoint| own.hints.as_deref().cloned().unwrap_or_default();
    let for_node = |own: &SliceEndpoint| hints(own).nodes.iter().any(|hint| **hint == *NODE);
    let for_zone = |own: &SliceEndpoint| hints(own).zones.iter().any(|hint| **hint == *zone);
    let ready: Vec<_> = of.iter().filter(|(_, _, own)| own.ready).collect();
    let last: Vec<_> = of.iter().filter(|(_, _, own)| own.serving && own.terminating).collect();
    let mut usable = Vec::new();
    if local {
        usable.extend(ready.iter().filter(|(_, _, own)| is_local(own)).copied());
        if usable.is_empty() {
            usable.extend(last.iter().filter(|(_, _, own)| is_local(own)).copied());
        }
    } else {
        let all_say_nodes = ready.iter().all(|(_, _, own)| !hints(own).nodes.is_empty());
        let all_say_zones = ready.iter().all(|(_, _, own)| !hints(own).zones.is_empty());
        if all_say_nodes && ready.iter().any(|(_, _, own)| for_node(own)) {
            usable.extend(ready.iter().filter(|(_, _, own)| for_node(own)).copied());
        } else if all_say_zones && ready.iter().any(|(_, _, own)| for_zone(own)) {
            usable.extend(ready.iter().filter(|(_, _, own)| for_zone(own)).copied());
        } else {
            usable.extend(ready.iter().copied());
        }
        if usable.is_empty() {
            usable.extend(last.iter().copied());
        }
    }
    usable.iter().map(|(address, port, _)| (*address, *port)).collect()
}

/// All frontends with their backends, and whether each takes new flows of this node's own pods, and of others; whether what none takes is
/// dropped; and from where they may be asked, and how long a client stays.
type Served = BTreeMap<String, (BTreeMap<(IpAddr, u16), (bool, bool)>, bool, (Vec<String>, Option<u32>))>;

/// One of a Service's addresses: with which port, of a policy that is Local or not for this node's own pods and for others.
struct Way<'a> {
    address: &'a str,
    port: u16,
    own_local: bool,
    others_local: bool,
    sources: Vec<String>,
    /// Whether others of the Service's own come first.
    external: bool,
}

fn ways<'a>(service: &'a Service, port: &ServicePort) -> Vec<Way<'a>> {
    let (number, others_local) = (port.port, service.external_local);
    let cluster = |address| Way {
        address,
        port: number,
        own_local: service.internal_local,
        others_local: service.internal_local,
        sources: vec![],
        external: false,
    };
    let external = |address, port| Way {
        address,
        port,
        own_local: false,
        others_local,
        sources: vec![],
        external: true,
    };
    let mut all: Vec<Way<'a>> = service.cluster_ips.iter().map(|ip| cluster(&**ip)).collect();
    let sources: Vec<String> = service.source_ranges.iter().map(ToString::to_string).collect();
    let balanced = service.load_balancer.iter().filter(|own| !own.is_proxy);
    all.extend(balanced.map(|own| Way { sources: sources.clone(), ..external(&*own.ip, number) }));
    all.extend(service.external_ips.iter().map(|ip| external(&**ip, number)));
    if port.node_port != 0 {
        all.extend(NODE_ADDRESSES.map(|own| Way { external: false, ..external(own, port.node_port) }));
    }
    // A family that the Service does not have is not served.
    all.retain(|way| service.cluster_ips.iter().any(|ip| ip.contains(':') == way.address.contains(':')));
    all
}

fn expected(view: &ClusterView) -> Served {
    let zone = view.nodes.get(NODE).map(|own| own.zone.clone()).unwrap_or_default();
    let mut all = Served::new();
    // Nobody has another Service's own address by calling it an external one.
    for (external, (name, service)) in
        [false, true].into_iter().flat_map(|external| view.services.iter().map(move |own| (external, own)))
    {
        if service.left_alone || service.kind == "ExternalName" || service.cluster_ips.is_empty() {
            continue;
        }
        let ways = service
            .ports
            .iter()
            .flat_map(|port| ways(service, port).into_iter().map(move |way| (way, port)))
            .filter(|(way, _)| way.external == external);
        for (way, port) in ways {
            let address: IpAddr = way.address.parse().unwrap();
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            // By address and port, first by first slice, save that one of this node comes before others.
            let mut merged: Vec<(IpAddr, u16, SliceEndpoint)> = Vec::new();
            for slice in view.endpoint_slices.values() {
                if *slice.service != *name.name || *slice.family != *family {
                    continue;
                }
                for slice_port in &slice.ports {
                    if slice_port.name != port.name || slice_port.protocol != port.protocol {
                        continue;
                    }
                    for endpoint in &slice.endpoints {
                        let (Address::Ip(at), Some(number)) = (&endpoint.address, slice_port.port) else {
                            continue;
                        };
                        let there = merged.iter().position(|own| (own.0, own.1) == (*at, number));
                        match there {
                            Some(place) if &*endpoint.node == NODE => merged[place].2 = endpoint.clone(),
                            Some(_) => {}
                            None => merged.push((*at, number, endpoint.clone())),
                        }
                    }
                }
            }
            let [own, others] = [way.own_local, way.others_local].map(|local| oracle(local, &merged, &zone));
            let serving = merged.iter().filter(|(_, _, own)| own.serving).map(|own| (own.0, own.1));
            let backends = serving
                .chain(own.iter().chain(&others).copied())
                .map(|key| (key, (own.contains(&key), others.contains(&key))))
                .collect();
            // hasAnyEndpoints: whether it is dropped, which else is refused.
            let any = merged.iter().any(|(_, _, own)| own.ready || own.serving && own.terminating);
            let drops = others.is_empty() && any;
            let number = match port.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                _ => "sctp",
            };
            let key = format!("{}/{number}", std::net::SocketAddr::new(address, way.port));
            // Of two that claim an address and port, the first has it.
            all.entry(key).or_insert((backends, drops, (way.sources, service.affinity_seconds)));
        }
    }
    all
}

fn served(desired: &Desired) -> Served {
    let row = |row: &proto::dataplane::Frontend| {
        let backend = |own: &proto::dataplane::Backend| {
            let takes = match own.state {
                BackendState::Serving => (true, true),
                BackendState::ServingOwn => (true, false),
                BackendState::ServingOthers => (false, true),
                BackendState::Draining => (false, false),
            };
            ((own.address, own.port), takes)
        };
        let sources = row.sources.iter().map(ToString::to_string).collect();
        let extras = (sources, row.affinity_seconds.map(std::num::NonZeroU32::get));
        (row.key.to_string(), (row.backends.iter().map(backend).collect(), row.drops, extras))
    };
    desired.rows.frontends.values().map(|own| row(own)).collect()
}

/// What the node's kernel is told: cluster addresses, which lead to us as a whole; ports of its own; and ports of what the world knows,
/// which no other port of the same address is taken for.
type OfKernel = (BTreeSet<IpAddr>, BTreeSet<String>, BTreeSet<String>);

fn expected_of_kernel(served: &Served) -> OfKernel {
    let (mut routed, mut ports, mut externals) = OfKernel::default();
    for key in served.keys() {
        let (socket, protocol) = key.split_once('/').unwrap();
        let socket: std::net::SocketAddr = socket.parse().unwrap();
        let address = socket.ip().to_string();
        if ROUTER.contains(&address.as_str()) {
            ports.insert(format!("{} {protocol} {}", socket.is_ipv4(), socket.port()));
        } else if WORLD.contains(&address.as_str()) && socket.port() < 30_000 {
            externals.insert(key.clone());
        } else if !NODE_ADDRESSES.contains(&address.as_str()) {
            routed.insert(socket.ip());
        }
    }
    (routed, ports, externals)
}

fn of_kernel(desired: &Desired) -> OfKernel {
    let hosts = desired.host_prefixes.iter().filter(|prefix| prefix.is_host()).map(|prefix| prefix.addr());
    let ports = desired.node_ports.iter().map(|own| format!("{} {} {}", own.v4, own.protocol, own.port));
    let externals = desired.externals.iter().map(ToString::to_string);
    (hosts.collect(), ports.collect(), externals.collect())
}

#[derive(Debug, Clone)]
enum Step {
    Service(u8, Option<Service>),
    Slice(u8, Option<EndpointSlice>),
    Zone(u8),
    Other(bool),
    /// A third one, which comes before that one, and some of whose ranges may be that one's; and whether it has a Service's address.
    Third(Option<(u8, bool)>),
    /// Whether a pod is there, with a port of the node's.
    Pod(u8, Option<u16>),
}

fn some_port() -> impl Strategy<Value = (String, Protocol, u16)> {
    (prop_oneof!["", "a", "b"], 0u8..3, 1u16..4).prop_map(|(name, protocol, port)| {
        (name, [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][usize::from(protocol)].clone(), port)
    })
}

fn some_service(n: u8) -> impl Strategy<Value = Service> {
    let ports = prop::collection::vec(some_port(), 1..3);
    let external = || {
        let one = prop::sample::select(WORLD.to_vec());
        prop::collection::btree_set(one, 0..3)
    };
    let ranges = prop::collection::vec(prop::sample::select(vec!["198.51.100.0/24", "2001:db8::/32"]), 0..2);
    let policies =
        (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1), any::<bool>(), prop::option::of(1u32..3));
    let shares_address = prop::bool::weighted(0.3);
    (ports, (any::<bool>(), shares_address, 0u16..3), policies, external(), external(), ranges).prop_map(
        move |(
            ports,
            (both, shares_address, check),
            (internal_local, external_local, left_alone, on_node, affinity_seconds),
            external,
            balanced,
            ranges,
        )| {
            let of = if shares_address { 0 } else { n };
            let ips = [format!("10.96.0.{of}"), format!("fd00:96::{of}")];
            let ips: Vec<&str> = ips[..=usize::from(both)].iter().map(String::as_str).collect();
            // One of each protocol and number, as the API demands.
            let mut numbers = BTreeSet::new();
            let ports: Vec<ServicePort> = ports
                .into_iter()
                .filter(|(_, protocol, number)| numbers.insert((protocol.clone(), *number)))
                .map(|(name, protocol, number)| ServicePort {
                    // Some would have what is another Service's.
                    node_port: if on_node { 30_000 + 10 * u16::from(of) + number } else { 0 },
                    ..port(&name, protocol, number)
                })
                .collect();
            let ingress = |(i, ip): (usize, &str)| LoadBalancerAddress { ip: ip.into(), is_proxy: i > 1 };
            Service {
                internal_local,
                external_local,
                left_alone,
                affinity_seconds,
                external_ips: external.into_iter().map(Into::into).collect(),
                load_balancer: balanced.into_iter().enumerate().map(ingress).collect(),
                source_ranges: ranges.into_iter().map(Into::into).collect(),
                // Of two Services one number, too.
                health_check_node_port: if check == 0 { 0 } else { 30_000 + check },
                ..service(&ips, &ports)
            }
        },
    )
}

fn some_endpoint(v4: bool) -> impl Strategy<Value = SliceEndpoint> {
    let few = |kind: &'static str| {
        prop::collection::vec((0u8..3).prop_map(move |n| format!("{kind}{n}").into()), 0..3)
    };
    let hints = prop::option::weighted(0.7, (few("zone-"), few("node-")));
    let condition = prop::bool::weighted(0.6);
    (1u8..5, condition, condition, any::<bool>(), 0u8..3, hints).prop_map(
        move |(n, ready, serving, terminating, node, hints)| SliceEndpoint {
            address: if v4 { format!("10.244.1.{n}") } else { format!("fd00::{n}") }.as_str().into(),
            ready,
            serving: ready || serving,
            terminating: terminating && !ready,
            node: format!("node-{node}").into(),
            hints: hints.map(|(zones, nodes)| Box::new(Hints { zones, nodes })),
        },
    )
}

fn some_slice() -> impl Strategy<Value = EndpointSlice> {
    any::<bool>().prop_flat_map(|v4| {
        let endpoints = prop::collection::vec(some_endpoint(v4), 0..5);
        let ports = prop::collection::vec(some_port(), 1..3);
        (0u8..3, endpoints, ports).prop_map(move |(of, endpoints, ports)| EndpointSlice {
            service: format!("service-{of}").into(),
            family: if v4 { "IPv4" } else { "IPv6" }.into(),
            endpoints,
            ports: ports
                .into_iter()
                .map(|(name, protocol, port)| SlicePort {
                    name: name.as_str().into(),
                    protocol,
                    port: Some(port),
                })
                .collect(),
        })
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..3).prop_flat_map(|n| prop::option::weighted(0.8, some_service(n)).prop_map(move |own| Step::Service(n, own))),
        6 => (0u8..5, prop::option::weighted(0.8, some_slice())).prop_map(|(n, own)| Step::Slice(n, own)),
        1 => (0u8..3).prop_map(Step::Zone),
        1 => any::<bool>().prop_map(Step::Other),
        1 => prop::option::of((1u8..4, any::<bool>())).prop_map(Step::Third),
        1 => (2u8..5, prop::option::of(30_001u16..30_004)).prop_map(|(n, own)| Step::Pod(n, own)),
    ]
}

fn take(step: Step, view: &mut ClusterView, local: &mut Local) {
    match step {
        Step::Service(n, own) => {
            let name = named(&format!("service-{n}"));
            match own {
                Some(own) => drop(view.services.insert(name, own)),
                None => drop(view.services.remove(&name)),
            }
        }
        Step::Slice(n, own) => {
            let name = named(&format!("slice-{n}"));
            match own {
                Some(own) => drop(view.endpoint_slices.insert(name, own)),
                None => drop(view.endpoint_slices.remove(&name)),
            }
        }
        Step::Zone(n) => drop(view.nodes.insert(NODE.into(), own_node(&format!("zone-{n}")))),
        Step::Other(is_there) => {
            let address = NodeAddress { kind: "InternalIP".into(), address: OTHER_NODE.into() };
            let other = Node {
                pod_cidrs: vec!["10.244.2.0/24".into()],
                addresses: vec![address],
                router_addresses: Some(OTHER_NODE.into()),
                ..Node::default()
            };
            if is_there {
                view.nodes.insert("node-2".into(), other);
            } else {
                view.nodes.remove("node-2");
            }
        }
        Step::Third(None) => drop(view.nodes.remove("node-3")),
        Step::Third(Some((range, is_served))) => {
            let address = if is_served { "10.96.0.1" } else { OTHER_NODE };
            let address = NodeAddress { kind: "InternalIP".into(), address: address.into() };
            let third = Node {
                created: Some(1),
                pod_cidrs: vec![format!("10.244.{range}.0/24")],
                addresses: vec![address],
                router_addresses: Some("172.16.0.3".into()),
                ..Node::default()
            };
            view.nodes.insert("node-3".into(), third);
        }
        Step::Pod(n, host_port) => {
            let port = format!("p{n}");
            local.attachments.retain(|own| own.port != port);
            local.attachments.extend(host_port.map(|host_port| attachment(n, host_port)));
        }
    }
}

fn attachment(n: u8, host_port: u16) -> Attachment {
    let mapping =
        PortMapping { host: None, host_port, container_port: 80, protocol: proto::dataplane::Protocol(6) };
    Attachment {
        port: format!("p{n}"),
        pod: None,
        endpoint: format!("shop/pod-{n}"),
        kind: PortKind::Tap,
        mac: ROUTER_MAC,
        mtu: 1500,
        network: 0,
        addresses: vec![format!("10.244.1.{n}").parse().unwrap()],
        routes: vec![],
        host_ports: vec![mapping],
        limits: Limits::default(),
    }
}

/// This node's own range is nobody else's here, so that it keeps its addresses.
fn is_plain(step: &Step) -> bool {
    !matches!(step, Step::Third(_) | Step::Pod(..))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Services, nodes and pods that want the same: whoever has it at last has it whatever came first.
    #[test]
    fn who_has_what_several_want_does_not_hang_on_what_came_first(
        steps in prop::collection::vec(step(), 1..32),
        by_kernel in any::<bool>(),
    ) {
        let (mut view, mut local) = (view([], []), local());
        if by_kernel {
            local.uplink = None;
        }
        // By an uplink's own address, load balancers' questions are passed on to the node's.
        for own in local.uplink.iter_mut().flat_map(|uplink| &mut uplink.addresses) {
            own.address = "172.16.0.9".parse().unwrap();
        }
        let mut desired = Desired::build(&view, &local);
        let mut rows = desired.rows.clone();
        for step in steps {
            let before = (view.clone(), local.clone());
            take(step.clone(), &mut view, &mut local);
            let next = desired.next((&before.0, &before.1), &view, &local);
            prop_assert_eq!(&next, &Desired::build(&view, &local), "after {:?}", step);
            prop_assert_eq!(apply(&mut rows, &diff(&desired.rows, &next.rows)), Ok(()));
            prop_assert_eq!(&rows, &next.rows);
            desired = next;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8_000))]

    /// After each change as kube-proxy has it, as all at once would have it, and with the operations between.
    #[test]
    fn services_are_served_as_kube_proxy_serves_them(
        steps in prop::collection::vec(step(), 1..24),
        by_kernel in any::<bool>(),
    ) {
        let (mut view, mut local) = (view([], []), local());
        if by_kernel {
            local.uplink = None;
        }
        let mut desired = Desired::build(&view, &local);
        let mut rows = desired.rows.clone();
        for step in steps.into_iter().filter(is_plain) {
            let before = view.clone();
            take(step.clone(), &mut view, &mut local);
            let next = desired.next((&before, &local), &view, &local);
            let expected = expected(&view);
            prop_assert_eq!(served(&next), expected.clone(), "after {:?}", step);
            prop_assert_eq!(of_kernel(&next), expected_of_kernel(&expected), "after {:?}", step);
            prop_assert_eq!(&next, &Desired::build(&view, &local), "after {:?}", step);
            prop_assert_eq!(apply(&mut rows, &diff(&desired.rows, &next.rows)), Ok(()));
            prop_assert_eq!(&rows, &next.rows);
            desired = next;
        }
    }
}
