//! What control does in a cluster of 5,000 nodes, in one of 20,000 Services with 200,000 endpoints, and in one of 10,000 NetworkPolicies
//! and 150,000 pods: rows from the whole view, once, and for each change rows from the rows before and the operations between, which bounds how fast a change can be in force.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use desired::{
    AttachedPod, Attachment, ClusterView, Desired, EndpointSlice, Labels, Local, Namespace, NetworkPolicy,
    Node, NodeAddress, ObjectName, Pod, PolicyPeer, PolicyPort, PolicyRule, PortMatch, Protocol, Selector,
    Service, ServicePort, SliceEndpoint, SlicePort, Uplink, diff,
};
use proto::dataplane::{Ethdev, InterfaceAddress, Limits, PortKind, Router};
use wire::MacAddr;

const NODES: u16 = 5_000;

fn node(n: u16) -> (String, Node) {
    let [a, b] = n.to_be_bytes();
    let node = Node {
        created: Some(i64::from(n)),
        pod_cidrs: vec![format!("10.{a}.{b}.0/24"), format!("fd00:10:{n:x}::/64")],
        addresses: [format!("172.16.{a}.{b}"), format!("fd00:16::{n:x}")]
            .map(|address| NodeAddress { kind: "InternalIP".to_owned(), address })
            .into(),
        router_addresses: Some(format!("172.17.{a}.{b},fd00:17::{n:x}")),
        ..Node::default()
    };
    (format!("node-{n:05}"), node)
}

fn local() -> Local {
    let own = |address: IpAddr, prefix_len| InterfaceAddress { address, prefix_len };
    Local {
        node: "node-00001".to_owned(),
        router: Router {
            gateway4: Ipv4Addr::new(169, 254, 1, 1),
            gateway6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            dns_servers: vec![],
            dns_search: vec![],
        },
        uplink: Some(Uplink {
            device: Ethdev::new("net_null0"),
            mtu: 1500,
            addresses: vec![
                own(Ipv4Addr::new(172, 17, 0, 1).into(), 16),
                own(Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 1).into(), 64),
            ],
            gateways: vec![],
        }),
        host: None,
        vxlan: None,
        subnets: vec![],
        masquerade: Some(vec![]),
        node_port_addresses: vec![],
        kept: vec![],
        attachments: vec![],
    }
}

fn nodes(c: &mut Criterion) {
    let mut view = ClusterView { nodes: (1..=NODES).map(node).collect(), ..ClusterView::default() };
    let local = local();
    let before = Desired::build(&view, &local);
    assert_eq!(before.warnings().next(), None);
    let old_view = view.clone();
    if let Some(node) = view.nodes.get_mut("node-02500") {
        node.router_addresses = Some("172.17.255.1,fd00:17::ff01".to_owned());
    }
    let after = before.next((&old_view, &local), &view, &local);
    let mut group = c.benchmark_group("desired/5000-nodes");
    group.sample_size(20);
    group.bench_function("build", |b| b.iter(|| Desired::build(black_box(&view), black_box(&local))));
    group.bench_function("next-by-one-node", |b| {
        b.iter(|| black_box(&before).next((black_box(&old_view), &local), black_box(&view), &local));
    });
    group.bench_function("diff-of-one-node", |b| {
        b.iter(|| {
            let ops = diff(black_box(&before.rows), black_box(&after.rows));
            assert_eq!(ops.len(), 1);
            ops
        });
    });
    group.finish();
}

/// Ten endpoints each.
const SERVICES: u16 = 20_000;

fn slice(n: u16, last: u8) -> (ObjectName, EndpointSlice) {
    let [a, b] = n.to_be_bytes();
    let endpoint = |i: u8| SliceEndpoint {
        address: format!("10.{}.{b}.{}", 64 + a, 1 + i).as_str().into(),
        ready: i != last,
        serving: true,
        terminating: i == last,
        ..SliceEndpoint::default()
    };
    let slice = EndpointSlice {
        service: format!("service-{n}").into(),
        family: "IPv4".into(),
        endpoints: (0..10).map(endpoint).collect(),
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: Some(8080) }],
    };
    (ObjectName { namespace: "shop".into(), name: format!("service-{n}-x").into() }, slice)
}

fn services(c: &mut Criterion) {
    let service = |n: u16| {
        let [a, b] = n.to_be_bytes();
        let own = Service {
            kind: "ClusterIP".to_owned(),
            cluster_ips: vec![format!("10.96.{a}.{b}").into()],
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            ..Service::default()
        };
        (ObjectName { namespace: "shop".into(), name: format!("service-{n}").into() }, own)
    };
    let mut view = ClusterView {
        nodes: (1..=1).map(node).collect(),
        services: (1..=SERVICES).map(service).collect(),
        endpoint_slices: (1..=SERVICES).map(|n| slice(n, 99)).collect(),
        ..ClusterView::default()
    };
    let local = local();
    let before = Desired::build(&view, &local);
    assert_eq!((before.warnings().next(), before.rows.frontends.len()), (None, usize::from(SERVICES)));
    let old_view = view.clone();
    view.endpoint_slices.extend([slice(SERVICES / 2, 3)]);
    let after = before.next((&old_view, &local), &view, &local);
    let mut group = c.benchmark_group("desired/20000-services");
    group.sample_size(10);
    group.bench_function("build", |b| b.iter(|| Desired::build(black_box(&view), black_box(&local))));
    group.bench_function("next-by-one-slice", |b| {
        b.iter(|| black_box(&before).next((black_box(&old_view), &local), black_box(&view), &local));
    });
    group.bench_function("diff-of-one-slice", |b| {
        b.iter(|| {
            let ops = diff(black_box(&before.rows), black_box(&after.rows));
            assert_eq!(ops.len(), 1);
            ops
        });
    });
    // Two of them want one external address and port, which have nothing to do with the one that changes; and then one of the two does.
    let mut old_view = old_view;
    for n in [7, 8] {
        for view in [&mut old_view, &mut view] {
            let (name, own) = service(n);
            view.services.insert(name, Service { external_ips: vec!["192.0.2.1".into()], ..own });
        }
    }
    let contested = Desired::build(&old_view, &local);
    assert_eq!(contested.warnings().count(), 1);
    group.bench_function("next-by-one-slice-beside-a-conflict", |b| {
        b.iter(|| black_box(&contested).next((black_box(&old_view), &local), black_box(&view), &local));
    });
    let mut given_up = old_view.clone();
    given_up.services.extend([service(7)]);
    assert_eq!(contested.next((&old_view, &local), &given_up, &local).warnings().count(), 0);
    group.bench_function("next-by-the-end-of-a-conflict", |b| {
        b.iter(|| black_box(&contested).next((black_box(&old_view), &local), black_box(&given_up), &local));
    });
    // Two nodes have one range: none of the Services'.
    for view in [&mut old_view, &mut view] {
        view.nodes.extend([node(2), (node(3).0, node(2).1)]);
    }
    let contested = Desired::build(&old_view, &local);
    assert!(contested.warnings().count() > 1);
    group.bench_function("next-by-one-slice-beside-a-conflict-of-nodes", |b| {
        b.iter(|| black_box(&contested).next((black_box(&old_view), &local), black_box(&view), &local));
    });
    let mut apart = old_view.clone();
    apart.nodes.extend([node(3)]);
    group.bench_function("next-by-the-end-of-a-conflict-of-nodes", |b| {
        b.iter(|| black_box(&contested).next((black_box(&old_view), &local), black_box(&apart), &local));
    });
    group.finish();
}

/// Policies of so many namespaces, each with four that select the pods of one of its apps, and peers of all sorts.
const NAMESPACES: u32 = 2_500;
const PODS: u32 = 150_000;
/// Kinds of pods, which come to as many identities.
const KINDS: u32 = 5_000;
/// This node's.
const HERE: u32 = 250;

fn namespace(n: u32) -> std::sync::Arc<str> {
    format!("namespace-{}", n % NAMESPACES).into()
}

/// Of namespace and app by its number, as pods of one template are.
fn traits(n: u32) -> (ObjectName, Labels) {
    let kind = n % KINDS;
    let labels = [("app", format!("app-{}", kind / NAMESPACES)), ("team", format!("team-{}", kind % 100))];
    (ObjectName { namespace: namespace(kind), name: format!("pod-{n}").into() }, labels.into_iter().collect())
}

fn pod(n: u32) -> (ObjectName, Pod) {
    let (name, labels) = traits(n);
    let [_, a, b, c] = n.to_be_bytes();
    let pod_ips = [format!("10.{}.{b}.{c}", 128 + a).as_str().into()].into();
    (name, Pod { node: "node-00002".into(), labels, pod_ips, ..Pod::default() })
}

fn policy(n: u32) -> (ObjectName, NetworkPolicy) {
    let by = |key: &str, value: String| Selector {
        labels: [(key, value)].into_iter().collect(),
        expressions: vec![],
    };
    let apps = |app: u32| Some(by("app", format!("app-{app}")));
    let port = |port| PolicyPort { protocol: Protocol::Tcp, port: Some(PortMatch::Range(port, port)) };
    let peers = vec![
        PolicyPeer::Pods { namespaces: None, pods: apps(n % 2) },
        PolicyPeer::Pods { namespaces: Some(by("team", format!("team-{}", n % 100))), pods: apps(1) },
        PolicyPeer::Block { cidr: format!("172.{}.0.0/16", n % 256).into(), except: vec![] },
    ];
    let rule = PolicyRule { peers, ports: vec![port(80), port(443)] };
    let name = ObjectName { namespace: namespace(n), name: format!("policy-{n}").into() };
    (name, NetworkPolicy { pods: Selector::default(), ingress: Some(vec![rule]), egress: None })
}

fn policies(c: &mut Criterion) {
    let attachment = |n: u32| {
        let (name, labels) = traits(n * 37);
        let [_, _, b, c] = n.to_be_bytes();
        Attachment {
            port: format!("p{n}"),
            endpoint: format!("{name}@p{n}"),
            pod: Some(AttachedPod { name, labels, ..AttachedPod::default() }),
            kind: PortKind::Tap,
            mac: MacAddr([2; 6]),
            mtu: 1500,
            network: 0,
            addresses: vec![Ipv4Addr::new(10, 0, b, c).into()],
            routes: vec![],
            host_ports: vec![],
            limits: Limits::default(),
        }
    };
    let labels = |n: u32| [("team", format!("team-{}", n % 100))].into_iter().collect();
    // All of those pods are another node's.
    let (name, mut other) = node(2);
    other.pod_cidrs = vec!["10.128.0.0/9".to_owned()];
    let mut view = ClusterView {
        nodes: [node(1), (name, other)].into_iter().collect(),
        namespaces: (0..NAMESPACES)
            .map(|n| (namespace(n).to_string(), Namespace { labels: labels(n) }))
            .collect(),
        other_pods: (0..PODS).map(pod).collect(),
        policies: (0..10_000).map(policy).collect(),
        ..ClusterView::default()
    };
    let local = Local { attachments: (1..=HERE).map(attachment).collect(), ..local() };
    let before = Desired::build(&view, &local);
    assert!(before.rows.policies.len() == HERE as usize, "{}", before.rows.policies.len());
    let mut group = c.benchmark_group("desired/10000-policies");
    group.sample_size(10);
    group.bench_function("build", |b| b.iter(|| Desired::build(black_box(&view), black_box(&local))));
    let mut step = |what: &str, view: &ClusterView, changed: &ClusterView, ops: usize| {
        let next = before.next((view, &local), changed, &local);
        assert_eq!(diff(&before.rows, &next.rows).len(), ops, "{what}");
        group.bench_function(what, |b| {
            b.iter(|| black_box(&before).next((black_box(view), &local), black_box(changed), &local));
        });
    };
    let old_view = view.clone();
    let mut changed = |what: &str, ops, change: &dyn Fn(&mut ClusterView)| {
        change(&mut view);
        step(what, &old_view, &view, ops);
        view.clone_from(&old_view);
    };
    // Of the namespaces that have a pod here; all of those have policies in force.
    let (name, own) = pod(PODS + 37 + NAMESPACES);
    changed("next-by-one-pod", 1, &|view| drop(view.other_pods.insert(name.clone(), own.clone().into())));
    let labels: Labels =
        [("app", "app-1"), ("team", "team-1"), ("pod-template-hash", "x")].into_iter().collect();
    let other = Pod { labels, ..own.clone() };
    changed("next-by-one-label-set", 2, &|view| {
        drop(view.other_pods.insert(name.clone(), other.clone().into()))
    });
    let (name, own) = policy(37);
    let mut more = own.clone();
    let by = Selector {
        labels: [("app", "app-0"), ("team", "team-7")].into_iter().collect(),
        expressions: vec![],
    };
    if let Some(rule) = more.ingress.as_mut().and_then(|rules| rules.first_mut()) {
        rule.peers.push(PolicyPeer::Pods { namespaces: Some(Selector::default()), pods: Some(by) });
    }
    changed("next-by-one-policy", 3, &|view| drop(view.policies.insert(name.clone(), more.clone())));
    group.finish();
}

criterion_group!(benches, nodes, services, policies);
criterion_main!(benches);
