//! What the rows are for a cluster, warnings included.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by panicking")]

use std::net::IpAddr;

use desired::{
    Attachment, ClusterView, Desired, End, HOST_PORT, Host, Local, Node, NodeAddress, ObjectName, Pod,
    ROUTER_MAC, Rows, TUNNEL_PORT, UPLINK_PORT, Uplink, Vxlan, Way, apply, diff, router_way,
};
use proptest::prelude::*;
use proto::control::PortMapping;
use proto::dataplane::{
    Ethdev, Frontend, InterfaceAddress, Limit, Limits, PortKind, PortSpec, Protocol, RouteKey, RouteTarget,
    Router,
};
use wire::{IpPrefix, MacAddr};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(n: u8) -> Node {
    Node {
        created: Some(i64::from(n)),
        pod_cidrs: vec![format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")],
        addresses: [
            ("InternalIP", format!("192.168.77.1{n}")),
            ("InternalIP", format!("fd00:77::1{n}")),
            ("Hostname", format!("knode{n}")),
        ]
        .map(|(kind, address)| NodeAddress { kind: kind.into(), address })
        .into(),
        router_addresses: Some(format!("172.16.0.{n},fd00:16::{n}")),
        router_way: None,
        zone: Box::default(),
    }
}

fn view<const NODES: usize, const PODS: usize>(
    nodes: [(u8, Node); NODES],
    pods: [(&str, Pod); PODS],
) -> ClusterView {
    let named = |name: &str| ObjectName { namespace: "shop".into(), name: name.into() };
    ClusterView {
        nodes: nodes.into_iter().map(|(n, node)| (format!("knode{n}"), node)).collect(),
        pods: pods.into_iter().map(|(name, pod)| (named(name), pod)).collect(),
        ..ClusterView::default()
    }
}

fn pod(node: &str, ips: &[&str]) -> Pod {
    Pod { node: node.into(), pod_ips: ips.iter().map(|text| (*text).into()).collect(), ..Pod::default() }
}

fn own(text: &str, prefix_len: u8) -> InterfaceAddress {
    InterfaceAddress { address: ip(text), prefix_len }
}

fn local() -> Local {
    Local {
        node: "knode1".into(),
        router: Router {
            gateway4: "169.254.1.1".parse().unwrap(),
            gateway6: "fe80::1".parse().unwrap(),
            dns_servers: vec![],
            dns_search: vec![],
        },
        uplink: Some(Uplink {
            device: Ethdev::new("net_af_packet0"),
            mtu: 1500,
            addresses: vec![own("172.16.0.1", 24), own("fd00:16::1", 64)],
            gateways: vec![ip("172.16.0.254"), ip("fe80::254")],
        }),
        host: Some(Host { mac: MacAddr([2, 0, 0, 0, 0, 9]), mtu: 1500 }),
        vxlan: None,
        subnets: vec![],
        masquerade: None,
        node_port_addresses: vec![],
        kept: vec![],
        attachments: vec![Attachment {
            port: "p0".into(),
            endpoint: "shop/front".into(),
            pod: None,
            kind: PortKind::Tap,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            network: 0,
            addresses: vec![ip("10.244.1.2"), ip("fd00:10:244:1::2")],
            routes: vec![],
            host_ports: vec![],
            limits: Limits { ingress: None, egress: Some(Limit { rate: 125_000, burst: 131_072 }) },
        }],
    }
}

fn warnings(desired: &Desired) -> Vec<&str> {
    desired.warnings().collect()
}

fn target<'a>(desired: &'a Desired, prefix: &str) -> Option<&'a RouteTarget> {
    desired.rows.routes.get(&RouteKey { network: 0, prefix: prefix.parse().unwrap() })
}

fn via(address: &str) -> RouteTarget {
    RouteTarget::NextHop { port: UPLINK_PORT.into(), address: ip(address), inside: true }
}

/// Out of the cluster.
fn out(address: &str) -> RouteTarget {
    RouteTarget::NextHop { port: UPLINK_PORT.into(), address: ip(address), inside: false }
}

#[test]
fn two_nodes_reach_each_other_in_both_families() {
    let view = view([(1, node(1)), (2, node(2))], [("db", pod("knode2", &["10.244.2.5"]))]);
    let desired = Desired::build(&view, &local());
    assert_eq!(warnings(&desired), Vec::<&str>::new());
    assert_eq!(target(&desired, "10.244.1.0/24"), Some(&RouteTarget::Unreachable));
    assert_eq!(target(&desired, "fd00:10:244:1::/64"), Some(&RouteTarget::Unreachable));
    assert_eq!(target(&desired, "10.244.2.0/24"), Some(&via("172.16.0.2")));
    assert_eq!(target(&desired, "fd00:10:244:2::/64"), Some(&via("fd00:16::2")));
    assert_eq!(target(&desired, "192.168.77.12/32"), Some(&via("172.16.0.2")));
    assert_eq!(target(&desired, "fd00:77::12/128"), Some(&via("fd00:16::2")));
    assert_eq!(target(&desired, "0.0.0.0/0"), Some(&out("172.16.0.254")));
    assert_eq!(target(&desired, "::/0"), Some(&out("fe80::254")));
    assert_eq!(desired.rows.routes.len(), 8);

    assert_eq!(desired.rows.endpoints[HOST_PORT].addresses, [ip("192.168.77.11"), ip("fd00:77::11")]);
    assert_eq!(desired.rows.endpoints["shop/front"].port, "p0");
    assert_eq!(desired.ports.keys().collect::<Vec<_>>(), [HOST_PORT, "p0", UPLINK_PORT]);
    assert_eq!(desired.ports["p0"].mac, Some(ROUTER_MAC));
    assert_eq!(desired.host_prefixes.len(), 4);
    assert_eq!(desired.own_cidrs.len(), 2);
}

const VXLAN: Vxlan = Vxlan { across_subnets: false, vni: 7, udp_port: 4_789 };

fn tunnelled(across_subnets: bool) -> Local {
    Local { vxlan: Some(Vxlan { across_subnets, ..VXLAN }), ..local() }
}

fn through(address: &str) -> RouteTarget {
    RouteTarget::NextHop { port: TUNNEL_PORT.into(), address: ip(address), inside: true }
}

fn peers(desired: &Desired) -> Vec<IpAddr> {
    desired.rows.tunnel_peers.keys().map(|key| key.address).collect()
}

#[test]
fn in_tunnels_other_nodes_are_reached_by_the_ends_that_they_tell() {
    let mut four = node(3);
    four.router_addresses = Some("172.16.0.3".into());
    let view = view([(1, node(1)), (2, node(2)), (3, four)], []);
    let desired = Desired::build(&view, &tunnelled(false));
    assert_eq!(warnings(&desired), Vec::<&str>::new());
    assert_eq!(target(&desired, "10.244.2.0/24"), Some(&through("172.16.0.2")));
    assert_eq!(target(&desired, "fd00:10:244:2::/64"), Some(&through("fd00:16::2")));
    assert_eq!(target(&desired, "192.168.77.12/32"), Some(&through("172.16.0.2")));
    // One that has no end of a family is reached by that of the other.
    assert_eq!(target(&desired, "fd00:10:244:3::/64"), Some(&through("172.16.0.3")));
    assert_eq!(target(&desired, "0.0.0.0/0"), Some(&out("172.16.0.254")));
    assert_eq!(peers(&desired), ["172.16.0.2", "172.16.0.3", "fd00:16::2"].map(ip));
    // One node, one station, by whatever name it is reached; another node another; and this one its own.
    let macs: Vec<MacAddr> = desired.rows.tunnel_peers.values().map(|peer| peer.mac).collect();
    assert!(macs[0] == macs[2] && macs[0] != macs[1] && macs.iter().all(|mac| mac.is_unicast()));
    let PortSpec { kind, mac, mtu, .. } = &desired.ports[TUNNEL_PORT];
    assert_eq!(*kind, PortKind::Vxlan { uplink: UPLINK_PORT.into(), vni: 7, udp_port: 4_789 });
    assert_eq!((*mtu, macs.contains(&mac.unwrap())), (1_430, false));
    // Seen from there, this node's station is the one that it has itself.
    let mut there = tunnelled(false);
    there.node = "knode2".into();
    there.uplink.as_mut().unwrap().addresses = vec![own("172.16.0.2", 24)];
    let seen = Desired::build(&view, &there);
    let own = seen.rows.tunnel_peers.values().find(|peer| peer.key.address == ip("172.16.0.1")).unwrap();
    assert_eq!((Some(own.mac), seen.ports[TUNNEL_PORT].mtu), (*mac, 1_450));
}

#[test]
fn across_subnets_only_what_is_on_none_of_the_uplinks_is_tunnelled() {
    let mut far = node(3);
    far.router_addresses = Some("172.17.0.3,fd00:17::3".into());
    let view = view([(1, node(1)), (2, node(2)), (3, far)], []);
    let desired = Desired::build(&view, &tunnelled(true));
    assert_eq!(warnings(&desired), Vec::<&str>::new());
    assert_eq!(target(&desired, "10.244.2.0/24"), Some(&via("172.16.0.2")));
    assert_eq!(target(&desired, "10.244.3.0/24"), Some(&through("172.17.0.3")));
    assert_eq!(target(&desired, "fd00:10:244:3::/64"), Some(&through("fd00:17::3")));
    assert_eq!(peers(&desired), ["172.17.0.3", "fd00:17::3"].map(ip));
}

#[test]
fn an_end_that_cannot_be_reached_is_named() {
    let mut local_only = node(2);
    local_only.router_addresses = Some("fe80::2".into());
    let mut far = node(3);
    far.router_addresses = Some("172.17.0.3".into());
    let view = view([(1, node(1)), (2, local_only), (3, far)], []);
    let mut local = tunnelled(false);
    local.uplink.as_mut().unwrap().gateways = vec![ip("fe80::254")];
    let desired = Desired::build(&view, &local);
    let told = warnings(&desired);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].contains("fe80::2") && told[0].contains("link-local"), "{told:#?}");
    assert!(told[1].contains("172.17.0.3") && told[1].contains("--uplink-gateway"), "{told:#?}");
    assert_eq!((target(&desired, "10.244.3.0/24"), peers(&desired)), (None, vec![]));
}

#[test]
fn two_nodes_that_do_not_agree_on_tunnels_are_told_so() {
    let says = |way: &str| Node { router_way: Some(way.to_owned()), ..node(2) };
    let own = router_way(tunnelled(false).uplink.as_ref(), Some(VXLAN), 1_430);
    assert_eq!(own, "dedicated, mtu 1430, vxlan always, vni 7, port 4789");
    let quiet = |way: &str, local: &Local| {
        let desired = Desired::build(&view([(1, node(1)), (2, says(way))], []), local);
        assert!(
            warnings(&desired)
                .iter()
                .all(|text| text.contains("Node knode2") && text.contains("--vxlan-vni"))
        );
        warnings(&desired).is_empty()
    };
    assert!(quiet(&own, &tunnelled(false)) && quiet("something new", &tunnelled(false)));
    assert!(quiet("kernel, mtu 1500, vxlan never", &local()));
    assert!(!quiet(&own, &local()) && !quiet(&own, &tunnelled(true)));
    assert!(!quiet("dedicated, mtu 1500, vxlan never", &tunnelled(false)));
}

/// Where the router has the node's own address, datagrams to it must not go into the tunnel that they are of.
#[test]
fn a_nodes_end_is_not_reached_through_itself() {
    let mut same = node(2);
    same.router_addresses = Some("172.16.0.2".into());
    same.addresses[0].address = "172.16.0.2".into();
    let desired = Desired::build(&view([(1, node(1)), (2, same)], []), &tunnelled(false));
    assert_eq!(target(&desired, "172.16.0.2/32"), Some(&via("172.16.0.2")));
    assert_eq!(target(&desired, "10.244.2.0/24"), Some(&through("172.16.0.2")));
}

#[test]
fn what_pods_send_beyond_the_cluster_has_the_uplinks_address() {
    let view = view([(1, node(1)), (2, node(2))], []);
    let plain = Desired::build(&view, &local()).rows.masquerades[&0].clone();
    assert_eq!((plain.source4, plain.source6), (None, None));
    let exclude = vec!["10.0.0.0/8".parse().unwrap()];
    let mut masked = Local { masquerade: Some(exclude.clone()), ..local() };
    masked.uplink.as_mut().unwrap().addresses.insert(0, own("fe80::7", 64));
    let desired = Desired::build(&view, &masked);
    let row = &desired.rows.masquerades[&0];
    assert_eq!(
        (row.source4.unwrap().to_string(), row.source6.unwrap().to_string()),
        ("172.16.0.1".into(), "fd00:16::1".into())
    );
    assert_eq!((&row.exclude, row.ports.first), (&exclude, 32_768));
    // Other nodes and their pods are within, everything else is not.
    let inside = |prefix: &str| match target(&desired, prefix) {
        Some(RouteTarget::NextHop { inside, .. }) => *inside,
        other => panic!("{other:?}"),
    };
    for prefix in ["10.244.2.0/24", "fd00:10:244:2::/64", "192.168.77.12/32", "fd00:77::12/128"] {
        assert!(inside(prefix), "{prefix}");
    }
    assert!(!inside("0.0.0.0/0") && !inside("::/0"));
    // By the node's kernel the same list is its.
    masked.uplink = None;
    let by_kernel = |local: &Local| Desired::build(&view, local).by_kernel.outside;
    let (listed, all) = (by_kernel(&masked), "0.0.0.0/0".parse::<IpPrefix>().unwrap());
    assert!(listed.contains(&exclude[0]) && !listed.contains(&all));
    masked.masquerade = None;
    assert!(by_kernel(&masked).contains(&all));
}

fn mapping(host: Option<&str>, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { host: host.map(ip), host_port, container_port, protocol: Protocol(6) }
}

#[test]
fn a_hosts_port_is_a_frontend_on_every_address_that_is_meant() {
    let view = view([(1, node(1))], []);
    let mut local = local();
    let ports = |local: &Local| {
        let desired = Desired::build(&view, local);
        let rows = desired.rows.frontends.values();
        let row = |row: &Frontend| format!("{} {} {:?}", row.key, row.name, row.backends[0].address);
        (rows.map(|own| row(own)).collect::<Vec<_>>(), warnings(&desired).concat(), desired.host_ports.len())
    };
    local.attachments[0].host_ports = vec![mapping(None, 8080, 80)];
    let any = [
        "172.16.0.1:8080/tcp hostPort of shop/front 10.244.1.2",
        "192.168.77.11:8080/tcp hostPort of shop/front 10.244.1.2",
        "[fd00:16::1]:8080/tcp hostPort of shop/front fd00:10:244:1::2",
        "[fd00:77::11]:8080/tcp hostPort of shop/front fd00:10:244:1::2",
    ];
    assert_eq!(ports(&local), (any.map(str::to_owned).to_vec(), String::new(), 1));
    // Of two, who names the address has it there; the other everywhere else.
    let second = Attachment {
        port: "p1".into(),
        endpoint: "shop/second".into(),
        addresses: vec![ip("10.244.1.3")],
        host_ports: vec![mapping(Some("192.168.77.11"), 8080, 80), mapping(Some("127.0.0.1"), 8080, 80)],
        ..local.attachments[0].clone()
    };
    local.attachments.push(second);
    let (rows, warned, all) = ports(&local);
    assert_eq!(rows[1], "192.168.77.11:8080/tcp hostPort of shop/second 10.244.1.3");
    assert_eq!((&rows[0], &rows[2..], all), (&any[0].to_owned(), &any.map(str::to_owned)[2..], 3));
    assert!(
        warned.contains("shop/front: port 192.168.77.11:8080/tcp of the node is the hostPort of shop/second"),
        "{warned}"
    );
    local.attachments[0].host_ports = vec![mapping(Some("0.0.0.0"), 8080, 80)];
    local.attachments.truncate(1);
    assert_eq!(ports(&local).0, any.map(str::to_owned)[..2]);
    // What is loopback's, only the node's kernel sees.
    local.attachments[0].host_ports = vec![mapping(Some("127.0.0.1"), 8080, 80)];
    assert_eq!(ports(&local), (vec![], String::new(), 1));
}

#[test]
fn an_address_that_the_uplink_holds_is_not_the_hosts() {
    let mut own = node(1);
    own.addresses.push(NodeAddress { kind: "ExternalIP".into(), address: "172.16.0.1".into() });
    let desired = Desired::build(&view([(1, own)], []), &local());
    assert!(!desired.rows.endpoints[HOST_PORT].addresses.contains(&ip("172.16.0.1")));
    assert!(warnings(&desired).is_empty(), "{:?}", warnings(&desired));
}

#[test]
fn a_pod_outside_its_nodes_ranges_has_a_route_of_its_own() {
    let mut stray = pod("knode2", &["10.250.0.9"]);
    let mut going = pod("knode3", &["10.250.0.9"]);
    going.terminating = true;
    let mut done = pod("knode2", &["10.250.0.10"]);
    done.finished = true;
    let mut host = pod("knode2", &["10.250.0.11"]);
    host.host_network = true;
    let thief = pod("knode2", &["10.244.1.2"]);
    let pods =
        [("a-going", going), ("stray", stray.clone()), ("done", done), ("host", host), ("thief", thief)];
    let desired = Desired::build(&view([(1, node(1)), (2, node(2)), (3, node(3))], pods), &local());
    assert_eq!(target(&desired, "10.250.0.9/32"), Some(&via("172.16.0.2")));
    assert_eq!(target(&desired, "10.250.0.10/32"), None);
    assert_eq!(target(&desired, "10.250.0.11/32"), None);
    assert_eq!(target(&desired, "10.244.1.2/32"), None);
    assert_eq!(warnings(&desired).len(), 2, "{:#?}", warnings(&desired));
    assert!(
        warnings(&desired)[0].starts_with("Pod shop/thief: status.podIPs[0].ip `10.244.1.2`"),
        "{:?}",
        warnings(&desired)
    );

    stray.node = "nowhere".into();
    assert!(
        warnings(&Desired::build(&view([(1, node(1))], [("stray", stray)]), &local()))[0]
            .contains("`nowhere`")
    );
}

#[test]
fn of_two_pods_with_one_address_the_newer_that_stays_has_it() {
    let born = |node: &str, second: i64| Pod { created: Some(second), ..pod(node, &["10.250.0.9"]) };
    let going = Pod { terminating: true, ..born("knode4", 9) };
    let ageless = pod("knode5", &["10.250.0.9"]);
    let pods = [("a", born("knode2", 1)), ("b", born("knode3", 2)), ("c", going), ("d", ageless)];
    let nodes = [(1, node(1)), (2, node(2)), (3, node(3)), (4, node(4)), (5, node(5))];
    let desired = Desired::build(&view(nodes, pods), &local());
    assert_eq!(target(&desired, "10.250.0.9/32"), Some(&via("172.16.0.3")));
    let warnings = warnings(&desired);
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    assert!(
        ["Pod shop/a", "Pod shop/d", "Pod shop/c"]
            .iter()
            .zip(&warnings)
            .all(|(pod, text)| text.starts_with(pod))
    );
    // A local attachment has it before any of them.
    let mut here = local();
    here.attachments[0].addresses.push(ip("10.250.0.9"));
    let nodes = [(1, node(1)), (2, node(2))];
    let desired = Desired::build(&view(nodes, [("a", born("knode2", 1))]), &here);
    assert_eq!(target(&desired, "10.250.0.9/32"), None);
    assert!(desired.rows.endpoints["shop/front"].addresses.contains(&ip("10.250.0.9")));
}

#[test]
fn a_node_without_the_annotation_is_named_and_the_rest_goes_on() {
    let mut silent = node(2);
    silent.router_addresses = None;
    let mut half = node(3);
    half.router_addresses = Some("172.16.0.3".into());
    let mut far = node(4);
    far.router_addresses = Some("198.51.100.1,fd00:16::4".into());
    let desired = Desired::build(&view([(1, node(1)), (2, silent), (3, half), (4, far)], []), &local());
    assert_eq!(target(&desired, "10.244.2.0/24"), None);
    assert_eq!(target(&desired, "10.244.3.0/24"), Some(&via("172.16.0.3")));
    assert_eq!(target(&desired, "fd00:10:244:3::/64"), None);
    assert_eq!(target(&desired, "10.244.4.0/24"), None);
    assert_eq!(target(&desired, "fd00:10:244:4::/64"), Some(&via("fd00:16::4")));
    let about = |node: &str| warnings(&desired).iter().filter(|text| text.starts_with(node)).count();
    assert_eq!(
        (about("Node knode2"), about("Node knode3"), about("Node knode4")),
        (2, 1, 1),
        "{:#?}",
        warnings(&desired)
    );
    assert!(warnings(&desired).iter().all(|text| text.contains("podrouter.io/router-addresses")));
}

#[test]
fn without_the_own_node_or_an_uplink_attachments_stay() {
    let mut alone = local();
    alone.uplink = None;
    let desired = Desired::build(&view([(2, node(2))], []), &alone);
    assert!(desired.rows.endpoints.contains_key("shop/front"));
    assert!(desired.rows.routes.is_empty() && desired.own_cidrs.is_empty());
    assert_eq!(warnings(&desired).len(), 1, "{:?}", warnings(&desired));
    assert!(warnings(&desired)[0].starts_with("Node knode1: is not among the nodes"));
    alone.host = None;
    let desired = Desired::build(&view([(2, node(2))], []), &alone);
    assert!(
        warnings(&desired)[1].contains("neither an uplink nor a host interface"),
        "{:?}",
        warnings(&desired)
    );
}

#[test]
fn without_an_uplink_the_nodes_kernel_is_the_way() {
    let mut local = local();
    local.uplink = None;
    local.masquerade = Some(vec![]);
    let mut third = node(3);
    third.router_addresses = Some("192.168.77.13".into());
    let view = view([(1, node(1)), (2, node(2)), (3, third)], []);
    let desired = Desired::build(&view, &local);
    let host = RouteTarget::Endpoint { name: HOST_PORT.into() };
    for (prefix, expected) in [
        ("0.0.0.0/0", &host),
        ("::/0", &host),
        ("10.244.1.0/24", &RouteTarget::Unreachable),
        ("fd00:10:244:1::/64", &RouteTarget::Unreachable),
    ] {
        assert_eq!(target(&desired, prefix), Some(expected), "{prefix}");
    }
    assert_eq!(desired.rows.routes.len(), 4, "the kernel knows the rest");
    let peers = ways(&desired);
    assert_eq!(
        peers,
        ["10.244.2.0/24 by 172.16.0.2", "10.244.3.0/24 by 192.168.77.13", "fd00:10:244:2::/64 by fd00:16::2"]
    );
    let [warning] = warnings(&desired)[..] else { panic!("{:?}", warnings(&desired)) };
    assert!(warning.contains("Node knode3") && warning.contains("no IPv6 address"), "{warning}");
    // All podCIDRs and addresses of all nodes.
    assert_eq!(desired.by_kernel.cluster.len(), 12);
    assert_eq!(desired.host_prefixes.len(), 2);
}

/// How the kernel reaches other nodes' pods.
fn ways(desired: &Desired) -> Vec<String> {
    let text = |(prefix, way): (&IpPrefix, &Way)| match way {
        Way::Neighbour(address) => format!("{prefix} by {address}"),
        Way::Tunnel(end) => format!("{prefix} through {}", end.address),
    };
    desired.by_kernel.pods.iter().map(text).collect()
}

#[test]
fn the_kernels_tunnel_leads_to_pods_and_from_pods_to_nodes() {
    let mut local = Local { uplink: None, ..tunnelled(false) };
    local.host.as_mut().unwrap().mtu = 1_430;
    let mut v6_only = node(3);
    v6_only.router_addresses = Some("fd00:16::3".into());
    let view = view([(1, node(1)), (2, node(2)), (3, v6_only)], []);
    let desired = Desired::build(&view, &local);
    assert_eq!(ways(&desired), ["10.244.2.0/24 through 172.16.0.2", "fd00:10:244:2::/64 through 172.16.0.2"]);
    let stations: Vec<IpAddr> = desired.by_kernel.stations.keys().copied().collect();
    assert_eq!(stations, ["192.168.77.12", "fd00:77::12"].map(ip));
    let [warning] = warnings(&desired)[..] else { panic!("{:?}", warnings(&desired)) };
    assert!(warning.contains("Node knode3") && warning.contains("no IPv4 address"), "{warning}");
    let tunnel = desired.by_kernel.tunnel.unwrap();
    assert_eq!((tunnel.end.address, tunnel.vni, tunnel.udp_port), (ip("192.168.77.11"), 7, 4_789));
    assert_eq!(tunnel.mtu, 1_430);
    // Seen from there, this node's station is the one that it has itself.
    let there = Desired::build(&view, &Local { node: "knode2".into(), ..local.clone() });
    let seen = there.by_kernel.pods.get(&"10.244.1.0/24".parse::<IpPrefix>().unwrap()).copied();
    assert_eq!(seen, Some(Way::Tunnel(End { address: ip("172.16.0.1"), mac: tunnel.end.mac })));
    // Who is on a network of the kernel's is reached by it.
    local.vxlan = tunnelled(true).vxlan;
    local.subnets = vec!["172.16.0.0/24".parse().unwrap()];
    let desired = Desired::build(&view, &local);
    assert_eq!(ways(&desired)[..2], ["10.244.2.0/24 by 172.16.0.2", "fd00:10:244:2::/64 by fd00:16::2"]);
    assert!(desired.by_kernel.stations.is_empty());
}

/// A machine that was registered anew, and its Node of before is still there.
#[test]
fn of_two_nodes_with_one_end_the_older_has_it() {
    let local = Local { uplink: None, ..tunnelled(false) };
    let ends = |desired: &Desired| {
        let text = |(end, node): (&IpAddr, &String)| format!("{end} {node}");
        desired.by_kernel.ends.iter().map(text).collect::<Vec<_>>()
    };
    let mut again = node(3);
    again.router_addresses = node(2).router_addresses;
    for (created, older, younger) in [(Some(3), 2, 3), (Some(1), 3, 2), (None, 2, 3)] {
        again.created = created;
        let both = view([(1, node(1)), (2, node(2)), (3, again.clone())], []);
        let desired = Desired::build(&both, &local);
        assert_eq!(ends(&desired), [format!("172.16.0.2 knode{older}")]);
        let through = |n| {
            let ranges = [format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")];
            ranges.map(|prefix| format!("{prefix} through 172.16.0.2"))
        };
        assert_eq!(ways(&desired), through(older));
        let [warning] = warnings(&desired)[..] else { panic!("{:?}", warnings(&desired)) };
        let says = [
            format!("Node knode{younger}:"),
            "`172.16.0.2`".to_owned(),
            format!("an end of the older Node knode{older} too"),
        ];
        assert!(says.iter().all(|part| warning.contains(part)), "{warning}");
        // It is taken in when the other goes.
        let mut one = both.clone();
        one.nodes.remove(&format!("knode{older}"));
        let next = desired.next((&both, &local), &one, &local);
        assert_eq!((ends(&next), warnings(&next)), (vec![format!("172.16.0.2 knode{younger}")], vec![]));
        assert_eq!(ways(&next), through(younger));
    }
    // Nobody has what is this node's own.
    again.router_addresses = Some("192.168.77.11".into());
    let desired = Desired::build(&view([(1, node(1)), (3, again)], []), &local);
    assert_eq!((ends(&desired), ways(&desired)), (vec![], vec![]));
    let [warning] = warnings(&desired)[..] else { panic!("{:?}", warnings(&desired)) };
    assert!(warning.contains("Node knode3") && warning.contains("this node (knode1)"), "{warning}");
}

#[test]
fn in_the_kernels_tunnel_a_node_has_its_ranges_and_addresses() {
    let mut two = node(2);
    // One that its range has already, and one that says nothing beyond its link.
    two.addresses.push(NodeAddress { kind: "ExternalIP".into(), address: "10.244.2.9".into() });
    two.router_addresses = Some("172.16.0.2,fe80::2".into());
    let view = view([(1, node(1)), (2, two)], []);
    for across_subnets in [false, true] {
        // Whether it is reached by a tunnel or not: it may not see it as this node does.
        let subnets = vec!["172.16.0.0/16".parse().unwrap()];
        let local = Local { uplink: None, subnets, ..tunnelled(across_subnets) };
        let desired = Desired::build(&view, &local);
        assert_eq!(desired.by_kernel.stations.is_empty(), across_subnets);
        assert_eq!(desired.by_kernel.ends.keys().collect::<Vec<_>>(), [&ip("172.16.0.2")]);
        let text = |(end, source): &(IpAddr, IpPrefix)| format!("{end} {source}");
        let sources: Vec<_> = desired.by_kernel.sources.iter().map(text).collect();
        let expected =
            ["10.244.2.0/24", "172.16.0.2/32", "192.168.77.12/32", "fd00:10:244:2::/64", "fd00:77::12/128"];
        assert_eq!(sources, expected.map(|source| format!("172.16.0.2 {source}")));
    }
}

#[test]
fn two_attachments_of_one_address_do_not_reach_the_data_plane() {
    let mut twice = local();
    let mut second = twice.attachments[0].clone();
    second.endpoint = "shop/other".into();
    second.port = "p1".into();
    twice.attachments.push(second);
    let desired = Desired::build(&view([(1, node(1))], []), &twice);
    assert!(desired.rows.endpoints.contains_key("shop/front"));
    assert!(!desired.rows.endpoints.contains_key("shop/other"));
    assert_eq!(warnings(&desired).len(), 2, "{:?}", warnings(&desired));
}

proptest! {
    /// Whatever the objects say, the rows can be had from any others.
    #[test]
    fn any_texts_give_rows_that_can_be_applied(
        cidrs in proptest::collection::vec("(10|fd|0|x)[0-9.:]{0,8}/[0-9]{1,3}", 0..6),
        addresses in proptest::collection::vec("(10\\.244\\.1\\.[0-9]|172\\.16\\.0\\.[0-9]|fd00:16::[0-9]|[0-9a-f:.]{0,9})", 0..8),
        own in 0u8..4,
    ) {
        let mut nodes: Vec<Node> = (1..=3).map(node).collect();
        for (i, cidr) in cidrs.iter().enumerate() {
            nodes[i % 3].pod_cidrs.push(cidr.clone());
        }
        let mut pods = desired::ClusterView::default().pods;
        for (i, text) in addresses.iter().enumerate() {
            let kind = if i % 2 == 0 { "InternalIP" } else { "ExternalIP" };
            nodes[i % 3].addresses.push(NodeAddress { kind: kind.into(), address: text.clone() });
            nodes[(i + 1) % 3].router_addresses = Some(text.clone());
            let name = ObjectName { namespace: "shop".into(), name: format!("pod{i}").into() };
            pods.insert(name, pod(&format!("knode{}", 1 + i % 4), &[text]).into());
        }
        let nodes = (1..).zip(nodes).map(|(n, node)| (format!("knode{n}"), node)).collect();
        let view = ClusterView { nodes, pods, ..ClusterView::default() };
        let mut local = local();
        local.node = format!("knode{own}");
        let desired = Desired::build(&view, &local);
        let mut rows = Rows::default();
        let ops = diff(&rows, &desired.rows);
        prop_assert_eq!(apply(&mut rows, &ops), Ok(()));
        prop_assert_eq!(&rows, &desired.rows);
        for name in rows.endpoints.values().map(|row| &row.port).chain(rows.interfaces.keys()) {
            prop_assert!(desired.ports.contains_key(name));
        }
    }
}

/// A step of the cluster's or of this node's.
#[derive(Debug, Clone)]
enum Step {
    Node(u8, Option<(u8, u8, Option<u8>, bool)>),
    /// The second one: whether it is among those of other nodes.
    Pod(u8, bool, Option<(u8, u8, u8)>),
    /// The second one: its address, and whether it is on another network.
    Attachment(u8, Option<(u8, bool)>),
}

fn step() -> impl Strategy<Value = Step> {
    let ranges = (0u8..7, 0u8..7, prop::option::of(1u8..5), any::<bool>());
    prop_oneof![
        4 => (1u8..6, prop::option::weighted(0.8, ranges)).prop_map(|(n, node)| Step::Node(n, node)),
        2 => (0u8..4, any::<bool>(), prop::option::of((1u8..6, 0u8..7, 2u8..4)))
            .prop_map(|(n, other, pod)| Step::Pod(n, other, pod)),
        2 => (0u8..4, prop::option::of((0u8..8, any::<bool>()))).prop_map(|(n, own)| Step::Attachment(n, own)),
    ]
}

fn take(step: Step, view: &mut ClusterView, local: &mut Local) {
    match step {
        Step::Node(n, Some((range, address, router, second))) => {
            let mut new = node(n);
            if second {
                new.pod_cidrs.truncate(1);
            }
            // Mostly its own; some are another's, in part or as a whole.
            new.pod_cidrs[0] =
                format!("10.244.{}.0/{}", if range == 0 { n } else { range & 6 }, 23 + range % 2);
            new.addresses[0].address = format!("192.168.77.{}", if address == 0 { n } else { 10 + address });
            new.router_addresses = router.map(|router| format!("172.16.0.{router},fd00:16::{n}"));
            view.nodes.insert(format!("knode{n}"), new);
        }
        Step::Node(n, None) => drop(view.nodes.remove(&format!("knode{n}"))),
        Step::Pod(n, other, pod) => {
            let name = ObjectName { namespace: "shop".into(), name: format!("pod{n}").into() };
            let pods = if other { &mut view.other_pods } else { &mut view.pods };
            match pod {
                Some((node, range, last)) => {
                    let pod = self::pod(&format!("knode{node}"), &[&format!("10.244.{range}.{last}")]);
                    pods.insert(name, pod.into());
                }
                None => drop(pods.remove(&name)),
            }
        }
        Step::Attachment(n, address) => {
            let port = format!("p{n}");
            local.attachments.retain(|own| own.port != port);
            if let Some((address, elsewhere)) = address {
                let mut new = Attachment {
                    endpoint: format!("shop/{port}"),
                    port,
                    network: u16::from(elsewhere) * 7,
                    ..self::local().attachments[0].clone()
                };
                new.addresses = vec![ip(&match address {
                    0 => "192.168.77.13".to_owned(),
                    1 => "10.244.2.2".to_owned(),
                    _ => format!("10.244.1.{address}"),
                })];
                // Some of them ask for one and the same.
                new.host_ports = vec![mapping(None, 8080 + u16::from(n / 2), 80)];
                local.attachments.push(new);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Step by step leads where all at once does; and so do the operations between.
    #[test]
    fn going_on_comes_to_the_same_as_building_anew(
        steps in proptest::collection::vec(step(), 1..24),
        way in 0u8..6,
    ) {
        let mut view = view([(1, node(1)), (2, node(2)), (3, node(3))], []);
        let mut local = local();
        if way % 2 == 0 {
            local.uplink = None;
            local.subnets = vec!["172.16.0.0/25".parse().unwrap()];
        }
        local.vxlan = (way > 1).then_some(Vxlan { across_subnets: way > 3, ..VXLAN });
        let mut desired = Desired::build(&view, &local);
        let mut rows = desired.rows.clone();
        for step in steps {
            let (old_view, old_local) = (view.clone(), local.clone());
            take(step.clone(), &mut view, &mut local);
            let next = desired.next((&old_view, &old_local), &view, &local);
            prop_assert_eq!(&next, &Desired::build(&view, &local), "after {:?}", step);
            prop_assert_eq!(apply(&mut rows, &diff(&desired.rows, &next.rows)), Ok(()));
            prop_assert_eq!(&rows, &next.rows);
            desired = next;
        }
    }
}
