//! Every message as it is written, held by the files in `tests/golden`.
//!
//! A change of a file is a change of the protocol: fields may be added, none may change its meaning. After adding one,
//! run with `PODROUTER_REGENERATE_GOLDEN=1` and read the difference.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by panicking")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::control::{
    self, AttachAddresses, AttachPort, AttachRequest, Attached, AttachedRoute, Bandwidth, PodName,
    PortMapping, Secondary,
};
use proto::dataplane::{
    self, Backend, BackendState, DeviceCounter, DeviceStatus, DropStatus, Endpoint, EndpointKind, Ethdev,
    FlowFilter, FlowQuery, FlowStatus, FlowUse, FlowWay, Frontend, FrontendKey, Hello, Identity, IdentityKey,
    Interface, InterfaceAddress, Ledger, Limit, Limits, Masquerade, Membership, NeighbourStatus, Op, Peer,
    Policy, PolicyStatus, PortInfo, PortKind, PortRange, PortSpec, PortStatus, Protocol, Route, RouteKey,
    RouteStatus, RouteTarget, Router, Rule, RuleVerdict, Snapshot, Trace, TraceQuestion, TraceStep,
    TraceVerdict, Transaction, TunnelPeer, TunnelPeerKey, WorkerFlows, WorkerLoad, WorkerStatus,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::{IpPrefix, MacAddr};

const MAC: MacAddr = MacAddr([0x02, 0x70, 0x6f, 0x64, 0x00, 0x01]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

fn port(name: &str, kind: PortKind) -> PortSpec {
    PortSpec { name: name.into(), kind, mac: Some(MAC), mtu: 1500, limits: Limits::default() }
}

fn info() -> PortInfo {
    PortInfo { id: 3, spec: PortSpec { mac: None, ..port("p0", PortKind::Tap) }, mac: MAC }
}

fn router() -> Router {
    Router {
        gateway4: "169.254.1.1".parse().unwrap(),
        gateway6: "fe80::1".parse().unwrap(),
        dns_servers: vec!["10.96.0.10".parse().unwrap()],
        dns_search: vec!["svc.cluster.local".to_owned(), "cluster.local".to_owned()],
    }
}

fn interface() -> Interface {
    let own = |text: &str, prefix_len| InterfaceAddress { address: ip(text), prefix_len };
    Interface {
        port: "uplink".into(),
        network: 0,
        addresses: vec![own("192.168.77.11", 24), own("fd00:77::11", 64)],
    }
}

fn endpoints() -> Vec<Endpoint> {
    let endpoint = |name: &str, address: &str, kind| Endpoint {
        name: name.into(),
        port: "p0".into(),
        network: 7,
        mac: MAC,
        addresses: vec![ip(address)],
        routes: vec![],
        kind,
    };
    vec![
        endpoint("shop/front", "10.244.1.2", EndpointKind::Pod),
        Endpoint {
            routes: vec![prefix("10.5.0.0/16"), prefix("fd05::/64")],
            ..endpoint("shop/front@net1", "10.5.0.2", EndpointKind::Pod)
        },
        endpoint("host", "fd00:77::11", EndpointKind::Host),
    ]
}

fn routes() -> Vec<Route> {
    let route = |text: &str, target| Route { key: RouteKey { network: 0, prefix: prefix(text) }, target };
    let uplink = || "uplink".to_owned();
    vec![
        route(
            "10.244.2.0/24",
            RouteTarget::NextHop { port: uplink(), address: ip("192.168.77.12"), inside: false },
        ),
        route("fd00:10:244:2::/64", RouteTarget::Connected { port: uplink() }),
        route("10.244.1.0/24", RouteTarget::Unreachable),
        route("0.0.0.0/0", RouteTarget::Endpoint { name: "host".into() }),
        route("0.0.0.0/0", RouteTarget::Blackhole),
    ]
}

fn frontend() -> Frontend {
    let backend = |text: &str, state| Backend { address: ip(text), port: 8080, state };
    Frontend {
        key: FrontendKey { network: 0, address: ip("10.96.0.10"), port: 80, protocol: Protocol(6) },
        name: "shop/front:http".into(),
        backends: Arc::from([
            backend("10.244.1.2", BackendState::Serving),
            backend("10.244.1.4", BackendState::ServingOwn),
            backend("10.244.1.5", BackendState::ServingOthers),
            backend("10.244.2.3", BackendState::Draining),
        ]),
        drops: true,
        sources: vec![prefix("198.51.100.0/24")],
        affinity_seconds: std::num::NonZeroU32::new(10_800),
    }
}

fn identities() -> Vec<Identity> {
    let of =
        |text: &str, identity| Identity { key: IdentityKey { network: 0, prefix: prefix(text) }, identity };
    vec![of("10.244.1.2/32", 7), of("fd00:10:244::2/128", 9)]
}

fn block() -> Identity {
    Identity { key: IdentityKey { network: 0, prefix: prefix("192.0.2.0/24") }, identity: 11 }
}

fn membership() -> Membership {
    Membership { identity: 7, groups: vec![3, 4_000_000_000] }
}

fn policy() -> Policy {
    let known = Peer::Groups { groups: vec![3, 7] };
    let rule = |id, peer, protocol, ports, verdict| {
        let name = if id == 3 { String::new() } else { format!("shop/allow-dns ingress[{id}]") };
        let says = if peer == Peer::Any { String::new() } else { "pods app=front of shop".to_owned() };
        Rule { id, name, says, peer, protocol, ports, verdict }
    };
    Policy {
        endpoint: "shop/front".into(),
        ingress: Some(vec![
            rule(1, known, Some(Protocol(17)), Some(PortRange { first: 53, last: 60 }), RuleVerdict::Allow),
            rule(2, Peer::Any, Some(Protocol(47)), None, RuleVerdict::Deny),
            rule(3, Peer::Any, None, None, RuleVerdict::Allow),
        ]),
        egress: None,
    }
}

fn masquerade() -> Masquerade {
    Masquerade {
        network: 0,
        source4: Some("192.168.77.11".parse().unwrap()),
        source6: None,
        exclude: vec![prefix("10.244.0.0/16"), prefix("fd00:10:244::/48")],
        link_local: false,
        service4: Some("10.244.1.1".parse().unwrap()),
        service6: None,
        ports: PortRange { first: 32_768, last: 65_535 },
    }
}

fn tunnel_peer() -> TunnelPeer {
    let key = TunnelPeerKey { port: "uplink.vxlan".into(), address: "192.168.78.12".parse().unwrap() };
    TunnelPeer { key, mac: MAC }
}

fn transaction() -> Transaction {
    Transaction {
        base: 41,
        target: 42,
        ops: vec![
            Op::RemoveRoutes { routes: vec![RouteKey { network: 1, prefix: prefix("10.244.3.0/24") }] },
            Op::RemoveEndpoints { names: vec!["shop/gone".into()] },
            Op::RemoveInterfaces { ports: vec!["old".into()] },
            Op::SetRouter { router: router() },
            Op::SetInterfaces { interfaces: vec![interface()] },
            Op::SetEndpoints { endpoints: endpoints() },
            Op::SetRoutes { routes: routes() },
            Op::RemoveFrontends { keys: vec![frontend().key] },
            Op::RemoveIdentities { identities: vec![identities()[0].key] },
            Op::RemoveBlocks { blocks: vec![block().key] },
            Op::RemoveMemberships { identities: vec![7] },
            Op::RemovePolicies { endpoints: vec!["shop/gone".into()] },
            Op::RemoveMasquerades { networks: vec![7] },
            Op::SetFrontends { frontends: vec![frontend().into()] },
            Op::SetMemberships { memberships: vec![membership()] },
            Op::SetIdentities { identities: identities() },
            Op::SetBlocks { blocks: vec![block()] },
            Op::SetPolicies { policies: vec![policy()] },
            Op::SetMasquerades { masquerades: vec![masquerade()] },
            Op::RemoveTunnelPeers { peers: vec![tunnel_peer().key] },
            Op::SetTunnelPeers { peers: vec![tunnel_peer()] },
        ],
    }
}

fn flows() -> Vec<FlowStatus> {
    let socket = |text: &str| text.parse().unwrap();
    let way = |input: &str, output: &str, next_hop| FlowWay {
        input: input.into(),
        output: output.into(),
        next_hop,
        generation: 42,
    };
    let plain = FlowStatus {
        network: 0,
        protocol: Protocol(58),
        client: socket("[fd00:10:244:1::2]:9"),
        service: None,
        destination: socket("[fd00:10:244:1::3]:0"),
        masqueraded: None,
        state: "new".into(),
        joined: false,
        age_seconds: 0,
        idle_seconds: 0,
        left_seconds: 31,
        owner: "p0".into(),
        forward: Some(way("p0", "p1", None)),
        reply: None,
        egress_rule: None,
        ingress_rule: None,
        egress_rule_name: None,
        ingress_rule_name: None,
    };
    let translated = FlowStatus {
        protocol: Protocol(6),
        client: socket("10.244.1.2:40000"),
        service: Some(socket("10.96.0.10:80")),
        destination: socket("10.244.2.3:8080"),
        masqueraded: Some(socket("192.168.77.11:40000")),
        state: "established".into(),
        joined: true,
        age_seconds: 100,
        idle_seconds: 3,
        left_seconds: 452_981,
        forward: Some(way("p0", "uplink", Some(ip("192.168.77.12")))),
        reply: Some(way("uplink", "p0", None)),
        egress_rule: Some(3),
        ingress_rule: Some(1),
        ingress_rule_name: Some("shop/allow-dns ingress[1]".into()),
        ..plain.clone()
    };
    vec![translated, plain]
}

fn trace(verdict: TraceVerdict) -> dataplane::Response {
    let step = TraceStep { step: "flow".into(), says: "not known: it is decided".into() };
    dataplane::Response::Trace(Trace { generation: 42, steps: vec![step], verdict })
}

fn dataplane_requests() -> Vec<(&'static str, dataplane::Request)> {
    use dataplane::Request;
    let ethdev = |devargs: Option<&str>| {
        PortKind::Ethdev(Ethdev { devargs: devargs.map(str::to_owned), ..Ethdev::new("net_af_packet0") })
    };
    let memory = |repeat| PortKind::Memory { rx_pcap: Some("/tmp/in.pcap".into()), tx_pcap: None, repeat };
    vec![
        ("hello", Request::Hello { version: 1, program: "podrouter-control".into() }),
        ("add-port-tap", Request::AddPort(port("p0", PortKind::Tap))),
        ("add-port-limited", {
            let limits = Limits {
                ingress: Some(Limit { rate: 1_250_000, burst: 131_072 }),
                egress: Some(Limit { rate: 125_000, burst: 1_000_000 }),
            };
            Request::AddPort(PortSpec { limits, ..port("p0", PortKind::Tap) })
        }),
        ("add-port-vhost", {
            let path = "/run/podrouter/vhost/p1.sock".into();
            Request::AddPort(PortSpec {
                mtu: 9000,
                ..port("p1", PortKind::Vhost { path, server: true, queue_pairs: 1 })
            })
        }),
        ("add-port-vxlan", {
            let kind = PortKind::Vxlan { uplink: "uplink".into(), vni: 1, udp_port: 4789 };
            Request::AddPort(port("uplink.vxlan", kind))
        }),
        ("add-port-ethdev", Request::AddPort(PortSpec { mac: None, ..port("uplink", ethdev(None)) })),
        ("add-port-ethdev-devargs", Request::AddPort(port("uplink", ethdev(Some("iface=eth1"))))),
        ("add-port-ethdev-vlan", {
            let (queues, vlan) = (Some(2), Some(100));
            let ethdev = Ethdev { queues, vlan, offloads: false, ..Ethdev::new("0000:3b:00.0") };
            Request::AddPort(port("uplink", PortKind::Ethdev(ethdev)))
        }),
        ("add-port-memory", Request::AddPort(port("m0", memory(false)))),
        ("add-port-memory-repeat", Request::AddPort(port("m0", memory(true)))),
        ("remove-port", Request::RemovePort { name: "p0".into() }),
        ("duplicate-tap", Request::DuplicateTap { name: "p0".into() }),
        ("snapshot", Request::Snapshot),
        ("transaction", Request::Transaction(transaction())),
        ("show-status", Request::ShowStatus),
        ("show-ports", Request::ShowPorts),
        ("show-routes", Request::ShowRoutes),
        ("show-services", Request::ShowServices),
        ("show-policies", Request::ShowPolicies),
        ("show-neighbours", Request::ShowNeighbours),
        ("show-workers", Request::ShowWorkers),
        ("show-drops", Request::ShowDrops),
        ("show-flows", Request::ShowFlows(FlowQuery::default())),
        ("show-flows-filtered", {
            let filter = FlowFilter {
                endpoint: Some("shop/front".into()),
                prefix: Some(prefix("10.96.0.0/12")),
                port: Some(80),
                protocol: Some(Protocol(6)),
                state: Some("established".into()),
            };
            Request::ShowFlows(FlowQuery { filter, from: 65_536, limit: Some(100) })
        }),
        ("trace", {
            Request::Trace(TraceQuestion {
                network: 0,
                source: ip("10.244.1.2"),
                destination: ip("10.96.0.10"),
                protocol: Protocol(6),
                source_port: 40_000,
                destination_port: 80,
                input: Some("p0".into()),
                length: 1500,
            })
        }),
    ]
}

fn dataplane_responses() -> Vec<(&'static str, dataplane::Response)> {
    use dataplane::Response;
    let ledger = Ledger {
        rx: 100,
        handed_in: 5,
        originated: 2,
        split_extra: 1,
        tx: 90,
        drops: 6,
        punts: 1,
        handed_out: 4,
        held: 3,
        consumed: 4,
    };
    vec![
        ("hello", Response::Hello(Hello { version: 1, instance: "7f3a".into(), generation: 42 })),
        ("port", Response::Port(info())),
        ("done", Response::Done),
        ("tap", Response::Tap { name: "p0".into() }),
        ("snapshot", {
            let (interfaces, endpoints, routes) = (vec![interface()], endpoints(), routes());
            let router = Some(router());
            Response::Snapshot(Snapshot {
                generation: 42,
                ports: vec![info()],
                router,
                interfaces,
                endpoints,
                routes,
                frontends: vec![frontend().into()],
                identities: identities(),
                blocks: vec![block()],
                memberships: vec![membership()],
                policies: vec![policy()],
                masquerades: vec![masquerade()],
                tunnel_peers: vec![tunnel_peer()],
            })
        }),
        ("snapshot-empty", Response::Snapshot(Snapshot::default())),
        ("committed", Response::Committed { generation: 42 }),
        (
            "rejected",
            Response::Rejected { current: 41, wrong_base: true, reason: "base 40 is not 41".into() },
        ),
        ("failed", Response::Failed { reason: "there is no device net_x".into() }),
        (
            "status",
            Response::Status(dataplane::Status {
                version: "0.1.0".into(),
                instance: "7f3a".into(),
                pid: 4711,
                uptime_seconds: 60,
                generation: 42,
                committed: 42,
                dpdk: "22.11.11".into(),
                hugepages: true,
                mbufs: 65535,
                mbufs_in_use: 512,
                ports: 3,
                endpoints: 2,
                routes: 4,
                workers: 2,
                flows4: FlowUse { used: 7, capacity: 1_048_576 },
                flows6: FlowUse { used: 0, capacity: 65_536 },
                warnings: vec!["no hugepages".into()],
            }),
        ),
        (
            "ports",
            Response::Ports {
                ports: vec![PortStatus {
                    info: info(),
                    worker: 1,
                    up: true,
                    role: "shop/front".into(),
                    rx_packets: 1,
                    rx_bytes: 2,
                    rx_drops: 3,
                    tx_packets: 4,
                    tx_bytes: 5,
                    tx_drops: 6,
                    device: Some(DeviceStatus {
                        driver: "net_ixgbe".into(),
                        speed_mbps: Some(10_000),
                        rx_queues: 2,
                        tx_queues: 2,
                        rx_offloads: vec!["tcp-checksum".into()],
                        tx_offloads: vec!["tso".into()],
                        counters: vec![DeviceCounter { name: "rx_missed_errors".into(), count: 7 }],
                    }),
                }],
            },
        ),
        (
            "routes",
            Response::Routes {
                generation: 42,
                routes: vec![RouteStatus {
                    network: 0,
                    prefix: prefix("10.244.2.0/24"),
                    origin: "configured".into(),
                    target: "via 192.168.77.12 dev uplink".into(),
                }],
            },
        ),
        ("services", Response::Services { services: vec![frontend()] }),
        (
            "policies",
            Response::Policies {
                policies: vec![PolicyStatus {
                    policy: policy(),
                    present: true,
                    denied_ingress: 12,
                    denied_egress: 3,
                }],
            },
        ),
        ("neighbours", {
            let neighbour = |mac: Option<MacAddr>, state: &str| NeighbourStatus {
                port: "uplink".into(),
                address: ip("192.168.77.12"),
                mac,
                state: state.into(),
                age_ms: 1500,
                held: 2,
                path_mtu: None,
            };
            let narrow = NeighbourStatus { path_mtu: Some(1350), ..neighbour(Some(MAC), "permanent") };
            Response::Neighbours {
                neighbours: vec![neighbour(Some(MAC), "reachable"), neighbour(None, "incomplete"), narrow],
            }
        }),
        ("workers", {
            let poll = WorkerStatus {
                id: 0,
                kind: "poll".into(),
                core: Some(2),
                ports: vec!["uplink".into()],
                generation: 42,
                parked: false,
                busy_permille: 250,
                icmp_errors_suppressed: 8,
                handed_waiting: 2,
                handover_full: 9,
                ledger,
                flows: WorkerFlows {
                    replayed: 80,
                    revalidated: 7,
                    decided: 9,
                    made: 6,
                    untracked: 1,
                    expired: 5,
                },
                load: WorkerLoad {
                    busy_us: 1_000,
                    cycles_per_second: 2_500_000_000,
                    empty_rounds: 77,
                    bursts: [1, 2, 3, 4, 5, 6],
                },
            };
            let kernel =
                WorkerStatus { id: 1, kind: "kernel".into(), core: None, parked: true, ..poll.clone() };
            Response::Workers { workers: vec![poll, kernel] }
        }),
        ("flows", Response::Flows { flows: flows(), next: Some(65_536) }),
        ("flows-last", Response::Flows { flows: vec![], next: None }),
        ("trace-forward", {
            let next_hop = Some(ip("192.168.77.12"));
            trace(TraceVerdict::Forward { output: "uplink".into(), next_hop })
        }),
        ("trace-drop", {
            let (reason, description) = ("no-route".into(), "No route to the destination.".into());
            trace(TraceVerdict::Drop { reason, description, told: true })
        }),
        ("trace-consume", trace(TraceVerdict::Consume { reason: "echo".into(), answered: true })),
        (
            "drops",
            Response::Drops {
                drops: vec![DropStatus {
                    port: "p0".into(),
                    direction: "rx".into(),
                    reason: "ttl-exceeded".into(),
                    description: "the packet's hop limit ran out".into(),
                    packets: 9,
                }],
            },
        ),
    ]
}

fn control_requests() -> Vec<(&'static str, control::Request)> {
    use control::Request;
    let attach = AttachRequest {
        network: "pods".into(),
        container: "c0ffee".into(),
        interface: "eth0".into(),
        netns: "/run/netns/cni-1".into(),
        port: AttachPort::Tap,
        port_chosen: false,
        device: None,
        queue_pairs: None,
        mtu: None,
        mac: None,
        addresses: AttachAddresses::Any,
        secondary: None,
        port_mappings: vec![],
        pod: None,
        bandwidth: None,
    };
    let mapping = |host: Option<&str>, protocol| PortMapping {
        host: host.map(ip),
        host_port: 8080,
        container_port: 80,
        protocol: Protocol(protocol),
    };
    let mapped = AttachRequest {
        port_mappings: vec![mapping(None, 6), mapping(Some("127.0.0.1"), 17)],
        ..attach.clone()
    };
    let secondary = AttachRequest {
        interface: "net1".into(),
        secondary: Some(Secondary { id: 7, subnets: vec![prefix("10.5.0.0/16"), prefix("fd05::/64")] }),
        ..attach.clone()
    };
    let addresses = vec![ip("10.244.1.9"), ip("fd00:10:244:1::9")];
    let wanted = AttachRequest {
        addresses: AttachAddresses::Wanted { addresses: addresses.clone() },
        ..attach.clone()
    };
    let given = AttachRequest { addresses: AttachAddresses::Given { addresses }, ..attach.clone() };
    let named = AttachRequest {
        port: AttachPort::VhostUser,
        port_chosen: true,
        device: Some("dev-7".into()),
        queue_pairs: Some(4),
        mtu: Some(9000),
        mac: Some(MAC),
        pod: Some(PodName {
            namespace: "shop".into(),
            name: "front".into(),
            uid: Some("a270ad20-31a6-4358-96d7-96475d9e81f1".into()),
        }),
        ..attach.clone()
    };
    let limited = AttachRequest {
        bandwidth: Some(Bandwidth {
            ingress_rate: 10_000_000,
            ingress_burst: 4_294_967_295,
            egress_rate: 1_000_000,
            egress_burst: 0,
        }),
        ..attach.clone()
    };
    vec![
        ("attach-limited", Request::Attach(limited)),
        ("attach-mapped", Request::Attach(mapped)),
        ("attach-secondary", Request::Attach(secondary)),
        ("hello", Request::Hello { version: 1, program: "podrouter-cni".into() }),
        ("attach-tap", Request::Attach(attach)),
        ("attach-vhost-user", Request::Attach(named)),
        ("attach-wanted", Request::Attach(wanted)),
        ("attach-given", Request::Attach(given)),
        ("check", {
            let (network, container, interface) = ("pods".into(), "c0ffee".into(), "eth0".into());
            Request::Check { network, container, interface }
        }),
        ("detach", {
            let (network, container, interface) = ("pods".into(), "c0ffee".into(), "eth0".into());
            Request::Detach { network, container, interface }
        }),
        ("collect", {
            let valid = control::AttachmentName { container: "c0ffee".into(), interface: "eth0".into() };
            Request::Collect { network: "pods".into(), valid: vec![valid] }
        }),
        ("status", Request::Status),
        ("show-endpoints", Request::ShowEndpoints { namespace: "shop".into(), service: "web".into() }),
    ]
}

fn control_responses() -> Vec<(&'static str, control::Response)> {
    use control::Response;
    let attached = Attached {
        mac: MAC,
        mtu: 1500,
        addresses: vec![ip("10.244.1.2"), ip("fd00:10:244:1::2")],
        gateways: vec![ip("169.254.1.1"), ip("fe80::1")],
        routes: vec![
            AttachedRoute { destination: prefix("169.254.1.1/32"), gateway: None },
            AttachedRoute { destination: prefix("0.0.0.0/0"), gateway: Some(ip("169.254.1.1")) },
        ],
        network_id: 0,
        socket: None,
    };
    let secondary = Attached {
        addresses: vec![ip("10.5.0.2")],
        gateways: vec![ip("169.254.1.1")],
        routes: vec![AttachedRoute { destination: prefix("10.5.0.0/16"), gateway: Some(ip("169.254.1.1")) }],
        network_id: 7,
        ..attached.clone()
    };
    let vhost = Attached { socket: Some("/run/podrouter/vhost/p1.sock".into()), ..attached.clone() };
    vec![
        ("hello", Response::Hello { version: 1 }),
        ("attached-tap", Response::Attached(attached)),
        ("attached-secondary", Response::Attached(secondary)),
        ("attached-vhost-user", Response::Attached(vhost)),
        ("detached", Response::Detached),
        (
            "collected",
            Response::Collected { removed: 2, failures: vec!["pods/c0ffee/eth0: the disk is full".into()] },
        ),
        (
            "status",
            Response::Status(control::Status {
                version: "0.1.0".into(),
                pid: 4712,
                node: "knode1".into(),
                source: "manifests /etc/podrouter/manifests".into(),
                synced: true,
                connected: true,
                unready: Some("every address of 10.244.1.0/24 is in use".into()),
                committed: 42,
                nodes: 2,
                pods: 5,
                namespaces: 4,
                services: 6,
                endpoint_slices: 7,
                policies: 1,
                attachments: 1,
                warnings: vec!["Node knode2: spec.podCIDRs[1] `fd00::/200`: left out".into()],
            }),
        ),
        (
            "endpoints",
            Response::Endpoints(control::Endpoints {
                says: vec!["spec.externalIPs[0] `x`: is no IP address; left out".into()],
                endpoints: vec![control::EndpointUse {
                    port: "http (80)".into(),
                    protocol: Protocol(6),
                    endpoint: "10.244.2.3:8080".parse().unwrap(),
                    node: "knode2".into(),
                    conditions: "serving, terminating".into(),
                    cluster: "what it has: it terminates, and others are ready".into(),
                    world: "what it has: it is on another node, and the policy is Local".into(),
                }],
            }),
        ),
        (
            "failed",
            Response::Failed {
                code: 11,
                reason: "the data plane is away".into(),
                details: "try again".into(),
            },
        ),
    ]
}

/// Names a file for each variant; a new variant does not compile until it has a message above.
fn named(messages: &BTreeSet<String>) {
    use control::{Request as CtlQ, Response as CtlA};
    use dataplane::{Request as Q, Response as A};
    for (_, message) in dataplane_requests() {
        match message {
            Q::Hello { .. } | Q::AddPort(_) | Q::RemovePort { .. } | Q::DuplicateTap { .. } | Q::Snapshot => {
            }
            Q::Transaction(_) | Q::ShowStatus | Q::ShowPorts | Q::ShowRoutes | Q::ShowNeighbours => {}
            Q::ShowServices | Q::ShowPolicies | Q::ShowWorkers | Q::ShowDrops => {}
            Q::ShowFlows(_) | Q::Trace(_) => {}
        }
    }
    for (_, message) in dataplane_responses() {
        match message {
            A::Hello(_) | A::Port(_) | A::Done | A::Tap { .. } | A::Snapshot(_) | A::Committed { .. } => {}
            A::Rejected { .. } | A::Failed { .. } | A::Status(_) | A::Ports { .. } | A::Routes { .. } => {}
            A::Services { .. }
            | A::Policies { .. }
            | A::Neighbours { .. }
            | A::Workers { .. }
            | A::Drops { .. } => {}
            A::Flows { .. } | A::Trace(_) => {}
        }
    }
    for (_, message) in control_requests() {
        match message {
            CtlQ::Hello { .. }
            | CtlQ::Attach(_)
            | CtlQ::Check { .. }
            | CtlQ::Detach { .. }
            | CtlQ::Collect { .. }
            | CtlQ::Status
            | CtlQ::ShowEndpoints { .. } => {}
        }
    }
    for (_, message) in control_responses() {
        match message {
            CtlA::Hello { .. }
            | CtlA::Attached(_)
            | CtlA::Detached
            | CtlA::Status(_)
            | CtlA::Endpoints(_)
            | CtlA::Collected { .. }
            | CtlA::Failed { .. } => {}
        }
    }
    let files: BTreeSet<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(&files, messages, "files in tests/golden, and messages");
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Prints as the file has it, parses to the same, and bears a field that a later release may add.
fn check<T>(side: &str, messages: Vec<(&'static str, T)>, seen: &mut BTreeSet<String>)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let regenerate = std::env::var_os("PODROUTER_REGENERATE_GOLDEN").is_some();
    for (name, message) in messages {
        let name = format!("{side}-{name}.json");
        let path = directory().join(&name);
        let printed = serde_json::to_string_pretty(&message).unwrap() + "\n";
        if regenerate {
            std::fs::create_dir_all(directory()).unwrap();
            std::fs::write(&path, &printed).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(printed, golden, "{name}: run with PODROUTER_REGENERATE_GOLDEN=1 and read the difference");
        assert_eq!(serde_json::from_str::<T>(&golden).unwrap(), message, "{name}");

        let mut later: serde_json::Value = serde_json::from_str(&golden).unwrap();
        later["field-of-a-later-release"] = serde_json::json!({ "any": [1, null] });
        assert_eq!(serde_json::from_value::<T>(later.clone()).unwrap(), message, "{name}");
        assert_eq!(serde_json::from_str::<T>(&turned(&later)).unwrap(), message, "{name}");
        assert!(seen.insert(name));
    }
}

/// As another program may write it: each object's fields the other way round, and one more that nobody knows. What tells the kinds of
/// a message apart is then rarely the first.
fn turned(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().rev().map(|(name, value)| format!("{name:?}:{}", turned(value))).collect();
            format!("{{{},\"unknown\":[{{}}]}}", fields.join(","))
        }
        serde_json::Value::Array(items) => {
            format!("[{}]", items.iter().map(turned).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let transaction = |ops: &str| format!(r#"{{"type":"transaction","base":1,"target":2,"ops":[{ops}]}}"#);
    let routes = |row: &str| transaction(&format!(r#"{{"op":"set-routes","routes":[{row}]}}"#));
    let target = r#""target":{"via":"blackhole"}"#;
    for (message, named) in [
        (r#"{"base":1}"#.to_owned(), "missing field `type`"),
        ("{}".to_owned(), "missing field `type`"),
        (r#"{"type":5}"#.to_owned(), "invalid type: integer `5`"),
        (r#"["hello"]"#.to_owned(), "an object with a field `type`"),
        (r#"{"type":"dance"}"#.to_owned(), "unknown variant `dance`, expected one of `hello`"),
        (transaction(r#"{"op":"dance"}"#), "unknown variant `dance`, expected one of `set-router`"),
        (transaction(r#"{"op":"set-routes"}"#), "missing field `routes`"),
        (transaction(r#"{"op":"set-routes","routes":[],"routes":[]}"#), "duplicate field `routes`"),
        (routes(&format!(r#"{{{target}}}"#)), "missing field `prefix`"),
        (routes(r#"{"prefix":"10.0.0.0/8"}"#), "missing field `target`"),
        (
            routes(&format!(r#"{{"prefix":"10.0.0.1/8",{target}}}"#)),
            "`10.0.0.1/8` has bits set past its length",
        ),
        (routes(&format!(r#"{{"prefix":5,{target}}}"#)), "invalid type: integer `5`, expected a string"),
        (
            routes(r#"{"prefix":"::/0","target":{"via":"magic"}}"#),
            "unknown variant `magic`, expected one of `next-hop`",
        ),
        (routes(r#"{"prefix":"::/0","target":{"via":"connected"}}"#), "missing field `port`"),
    ] {
        let error = serde_json::from_str::<dataplane::Request>(&message).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("at line 1 column"), "{message}: {error}");
    }
}

#[test]
fn every_message_is_as_its_file_says() {
    let mut seen = BTreeSet::new();
    check("dataplane-request", dataplane_requests(), &mut seen);
    check("dataplane-response", dataplane_responses(), &mut seen);
    check("control-request", control_requests(), &mut seen);
    check("control-response", control_responses(), &mut seen);
    named(&seen);
}
