//! What NetworkPolicies come to: each decision beside one that is made as the API's documentation reads, and step by step beside all at once.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by panicking")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use desired::{
    AttachedPod, Attachment, ClusterView, Desired, Expression, Labels, Local, NamedPort, Namespace,
    NetworkPolicy, ObjectName, Operator, Pod, PolicyPeer, PolicyPort, PolicyRule, PortMatch, Protocol, Rows,
    Selector, apply, diff,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use proto::dataplane::{self as rows, IdentityKey, Limits, PortKind, Router};
use wire::{IpPrefix, MacAddr};

const NODE: &str = "n1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName { namespace: namespace.into(), name: name.into() }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn app(value: &str) -> Selector {
    Selector { labels: labels(&[("app", value)]), expressions: vec![] }
}

fn local() -> Local {
    Local {
        node: NODE.into(),
        router: Router {
            gateway4: Ipv4Addr::new(169, 254, 1, 1),
            gateway6: Ipv6Addr::LOCALHOST,
            dns_servers: vec![],
            dns_search: vec![],
        },
        uplink: None,
        host: None,
        vxlan: None,
        subnets: vec![],
        masquerade: None,
        node_port_addresses: vec![],
        kept: vec![],
        attachments: vec![],
    }
}

fn attachment(port: &str, pod: Option<AttachedPod>, addresses: &[&str]) -> Attachment {
    Attachment {
        port: port.into(),
        endpoint: pod.as_ref().map_or_else(|| port.to_owned(), |own| format!("{}@{port}", own.name)),
        pod,
        kind: PortKind::Tap,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        network: 0,
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        routes: vec![],
        host_ports: vec![],
        limits: Limits::default(),
    }
}

fn attached(pod: ObjectName) -> Option<AttachedPod> {
    Some(AttachedPod { name: pod, ..AttachedPod::default() })
}

fn pod(node: &str, labels: Labels, addresses: &[&str]) -> Pod {
    let pod_ips = addresses.iter().map(|text| (*text).into()).collect();
    Pod { node: node.into(), pod_ips, labels, ..Pod::default() }
}

fn warnings(desired: &Desired) -> Vec<&str> {
    desired.warnings().filter(|text| text.starts_with("NetworkPolicy")).collect()
}

/// A packet that is judged where one of its ends is.
#[derive(Debug, Clone, Copy)]
struct Question<'a> {
    endpoint: &'a str,
    comes_in: bool,
    peer: IpAddr,
    protocol: u8,
    /// The destination's.
    port: u16,
}

/// As the data plane decides by rows; `None`: nothing restricts it.
fn by_rows(rows: &Rows, asked: Question<'_>) -> Option<bool> {
    let policy = rows.policies.get(asked.endpoint)?;
    let rules = if asked.comes_in { &policy.ingress } else { &policy.egress }.as_ref()?;
    let lengths = (0..=if asked.peer.is_ipv4() { 32 } else { 128 }).rev();
    let prefixes = lengths.filter_map(|len| IpPrefix::containing(asked.peer, len));
    let mut keys = prefixes.map(|prefix| IdentityKey { network: 0, prefix });
    let of_pod = rows.identities.get(&IdentityKey { network: 0, prefix: IpPrefix::host(asked.peer) });
    let of_ranges = keys.find_map(|key| rows.blocks.get(&key));
    let groups = of_pod.into_iter().chain(of_ranges).filter_map(|own| rows.memberships.get(own));
    let groups: Vec<u32> = groups.flat_map(|own| own.iter().copied()).collect();
    Some(rules.iter().any(|rule| {
        let peers = match &rule.peer {
            rows::Peer::Any => true,
            rows::Peer::Groups { groups: named } => named.iter().any(|own| groups.contains(own)),
        };
        peers
            && rule.protocol.is_none_or(|own| own.0 == asked.protocol)
            && rule.ports.is_none_or(|own| own.first <= asked.port && asked.port <= own.last)
    }))
}

/// A pod that an address is of.
#[derive(Debug, Clone)]
struct Owner {
    namespace: String,
    labels: Labels,
    ports: Vec<NamedPort>,
}

/// The same as the documentation reads (`NetworkPolicySpec` and on, networking.k8s.io/v1).
struct Oracle<'a> {
    view: &'a ClusterView,
    owners: BTreeMap<IpAddr, Owner>,
    endpoints: BTreeMap<String, Owner>,
}

impl<'a> Oracle<'a> {
    fn new(view: &'a ClusterView, local: &Local) -> Self {
        // From the weakest claim of an address to the strongest.
        let mut remote: Vec<(&ObjectName, &Pod)> = view
            .all_pods()
            .filter(|(_, pod)| *pod.node != *local.node && !pod.host_network && !pod.finished)
            .collect();
        remote.sort_by_key(|(name, pod)| {
            (!pod.terminating, pod.created.unwrap_or(i64::MIN), std::cmp::Reverse(*name))
        });
        let mut owners = BTreeMap::new();
        for (name, pod) in remote {
            for address in pod.pod_ips.iter().filter_map(|own| own.to_string().parse::<IpAddr>().ok()) {
                owners.insert(address, Owner::of(name, &pod.labels, &pod.named_ports));
            }
        }
        let mut endpoints = BTreeMap::new();
        for own in local.attachments.iter().rev().filter(|own| own.network == 0) {
            let Some(pod) = &own.pod else { continue };
            let known =
                view.pods.get(&pod.name).filter(|known| known.uid == pod.uid || known.uid * pod.uid == 0);
            let owner = match known {
                Some(known) => Owner::of(&pod.name, &known.labels, &known.named_ports),
                None => Owner::of(&pod.name, &pod.labels, &pod.named_ports),
            };
            endpoints.insert(own.endpoint.clone(), owner.clone());
            owners.extend(own.addresses.iter().map(|address| (*address, owner.clone())));
        }
        Self { view, owners, endpoints }
    }

    fn answer(&self, asked: Question<'_>) -> Option<bool> {
        let own = self.endpoints.get(asked.endpoint)?;
        let selects = |(name, policy): &(&ObjectName, &NetworkPolicy)| {
            *name.namespace == own.namespace && selected(&policy.pods, &own.labels, "")
        };
        let rules = |policy: &'a NetworkPolicy| {
            if asked.comes_in { policy.ingress.as_ref() } else { policy.egress.as_ref() }
        };
        let policies: Vec<_> = self.view.policies.iter().filter(selects).collect();
        if !policies.iter().any(|(_, policy)| rules(policy).is_some()) {
            return None;
        }
        Some(policies.iter().any(|(name, policy)| {
            rules(policy).into_iter().flatten().any(|rule| {
                let port = |port: &PolicyPort| {
                    let peer = |peer: &PolicyPeer| {
                        self.is_peer(&name.namespace, peer, asked.peer) && !is_nobodys(peer, port, asked)
                    };
                    self.is_port(own, port, asked) && (rule.peers.is_empty() || rule.peers.iter().any(peer))
                };
                let peer = |peer: &PolicyPeer| self.is_peer(&name.namespace, peer, asked.peer);
                match rule.ports.is_empty() {
                    true => rule.peers.is_empty() || rule.peers.iter().any(peer),
                    false => rule.ports.iter().any(port),
                }
            })
        }))
    }

    fn is_peer(&self, namespace: &str, peer: &PolicyPeer, address: IpAddr) -> bool {
        match peer {
            PolicyPeer::Unread(_) => false,
            PolicyPeer::Block { cidr, except } => {
                let holds = |text: &str| text.parse::<IpPrefix>().unwrap().contains(address);
                holds(cidr) && !except.iter().any(|own| holds(own))
            }
            PolicyPeer::Pods { namespaces, pods } => {
                let Some(owner) = self.owners.get(&address) else { return false };
                let nothing = Labels::default();
                let there = self.view.namespaces.get(&owner.namespace).map_or(&nothing, |own| &own.labels);
                let namespace = match namespaces {
                    None => owner.namespace == namespace,
                    // What is not known of a namespace may not be missing there.
                    Some(selector) if !self.view.namespaces.contains_key(&owner.namespace) => {
                        let by_name = |own: &Expression| {
                            *own.key == *"kubernetes.io/metadata.name"
                                || matches!(own.operator, Operator::In | Operator::Exists)
                        };
                        selector.expressions.iter().all(by_name)
                            && selected(selector, there, &owner.namespace)
                    }
                    Some(selector) => selected(selector, there, &owner.namespace),
                };
                namespace && pods.as_ref().is_none_or(|own| selected(own, &owner.labels, ""))
            }
        }
    }

    fn is_port(&self, own: &Owner, port: &PolicyPort, asked: Question<'_>) -> bool {
        let spoken_to = if asked.comes_in { Some(own) } else { self.owners.get(&asked.peer) };
        let number = match port.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
            Protocol::Other(_) => return false,
        };
        number == asked.protocol
            && match &port.port {
                None => true,
                Some(PortMatch::Unread(_)) => false,
                Some(PortMatch::Range(first, last)) => (*first..=*last).contains(&asked.port),
                Some(PortMatch::Named(name)) => spoken_to.is_some_and(|pod| {
                    let found =
                        pod.ports.iter().find(|own| own.name == *name && own.protocol == port.protocol);
                    found.is_some_and(|own| own.port == asked.port)
                }),
            }
    }
}

impl Owner {
    fn of(name: &ObjectName, labels: &Labels, ports: &[NamedPort]) -> Self {
        Self { namespace: name.namespace.to_string(), labels: labels.clone(), ports: ports.to_vec() }
    }
}

/// What goes to a named port of an ipBlock is what we leave out, with a warning: an address gives numbers to no names.
fn is_nobodys(peer: &PolicyPeer, port: &PolicyPort, asked: Question<'_>) -> bool {
    !asked.comes_in
        && matches!(peer, PolicyPeer::Block { .. })
        && matches!(port.port, Some(PortMatch::Named(_)))
}

/// `namespace`: whose labels they are, if they are one's; it has its name for a label.
fn selected(selector: &Selector, labels: &Labels, namespace: &str) -> bool {
    let value = |key: &str| {
        let name = (key == "kubernetes.io/metadata.name" && !namespace.is_empty()).then_some(namespace);
        labels.get(key).or(name)
    };
    let expression = |own: &Expression| {
        let is_in = || value(&own.key).is_some_and(|value| own.values.iter().any(|other| **other == *value));
        match own.operator {
            Operator::In => is_in(),
            Operator::NotIn => !is_in(),
            Operator::Exists => value(&own.key).is_some(),
            Operator::DoesNotExist => value(&own.key).is_none(),
            // None is generated.
            Operator::Other(_) | Operator::Unread(_) => false,
        }
    };
    selector.labels.iter().all(|(key, own)| value(key) == Some(own))
        && selector.expressions.iter().all(expression)
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const PORTS: [(u8, u16); 7] = [(6, 80), (6, 81), (6, 8080), (17, 80), (132, 80), (1, 0), (6, 65_535)];

fn some_labels() -> impl Strategy<Value = Labels> {
    let value = |key: &'static str, values: [&'static str; 2]| {
        prop::option::weighted(0.8, prop::sample::select(values.to_vec()))
            .prop_map(move |own| own.map(|own| (key, own)))
    };
    (value("app", ["x", "y"]), value("tier", ["1", "2"]))
        .prop_map(|(app, tier)| app.into_iter().chain(tier).collect())
}

fn some_selector(key: &'static str, values: [&'static str; 3]) -> impl Strategy<Value = Selector> {
    let operator = prop_oneof![
        Just(Operator::In),
        Just(Operator::NotIn),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist)
    ];
    let key = prop_oneof![3 => Just(key), 1 => Just("tier")];
    let some = prop::collection::vec(prop::sample::select(values.to_vec()), 1..3);
    let expression = (key, operator, some).prop_map(|(key, operator, values)| {
        let values = match operator {
            Operator::In | Operator::NotIn => values.into_iter().map(Into::into).collect(),
            _ => vec![],
        };
        Expression { key: key.into(), operator, values }
    });
    let labels = prop::option::weighted(0.4, some_labels()).prop_map(Option::unwrap_or_default);
    (labels, prop::collection::vec(expression, 0..2))
        .prop_map(|(labels, expressions)| Selector { labels, expressions })
}

fn some_range() -> impl Strategy<Value = Box<str>> {
    let ranges = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.0.0/30",
        "10.2.0.2/32",
        "192.0.2.0/24",
        "192.0.2.64/26",
        "192.0.2.65/32",
        "::/0",
        "fd00::/16",
        "fd00:2::/32",
        "fd00:2::2/128",
    ];
    prop::sample::select(ranges.to_vec()).prop_map(Into::into)
}

fn some_peer() -> impl Strategy<Value = PolicyPeer> {
    let namespaces = prop_oneof![
        some_selector("app", ["x", "y", "z"]),
        some_selector("kubernetes.io/metadata.name", NAMESPACES)
    ];
    let pods = (prop::option::of(namespaces), prop::option::of(some_selector("app", ["x", "y", "z"])));
    let pods = pods.prop_map(|(namespaces, pods)| match (namespaces, pods) {
        (None, None) => PolicyPeer::Pods { namespaces: None, pods: Some(Selector::default()) },
        (namespaces, pods) => PolicyPeer::Pods { namespaces, pods },
    });
    let block = (some_range(), prop::collection::vec(some_range(), 0..3)).prop_map(
        |(cidr, mut except): (Box<str>, Vec<Box<str>>)| {
            except.retain(|own| own.contains(':') == cidr.contains(':'));
            PolicyPeer::Block { cidr, except }
        },
    );
    prop_oneof![12 => pods, 8 => block, 1 => Just(PolicyPeer::Unread("odd".into()))]
}

fn some_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn some_rule() -> impl Strategy<Value = PolicyRule> {
    let port = prop_oneof![
        3 => Just(None),
        1 => Just(Some(PortMatch::Unread("odd".into()))),
        6 => prop_oneof![Just((80, 80)), Just((80, 90)), Just((81, 65_535)), Just((1, 79))]
            .prop_map(|(first, last)| Some(PortMatch::Range(first, last))),
        9 => prop_oneof![Just("http"), Just("other")].prop_map(|own| Some(PortMatch::Named(own.into()))),
    ];
    let port = (some_protocol(), port).prop_map(|(protocol, port)| PolicyPort { protocol, port });
    (prop::collection::vec(some_peer(), 0..3), prop::collection::vec(port, 0..3))
        .prop_map(|(peers, ports)| PolicyRule { peers, ports })
}

fn some_policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = || prop::option::weighted(0.7, prop::collection::vec(some_rule(), 0..3));
    (some_selector("app", ["x", "y", "z"]), rules(), rules())
        .prop_map(|(pods, ingress, egress)| NetworkPolicy { pods, ingress, egress })
}

fn some_ports() -> impl Strategy<Value = Vec<NamedPort>> {
    let port = (prop_oneof![Just("http"), Just("other")], some_protocol(), prop_oneof![Just(80), Just(8080)])
        .prop_map(|(name, protocol, port)| NamedPort { name: name.into(), protocol, port });
    prop::collection::vec(port, 0..3)
}

/// Where a pod is, its two addresses' last digits, and what else there is to it.
type SomePod = (u8, u8, u8, Labels, Vec<NamedPort>, u8);

#[derive(Debug, Clone)]
enum Step {
    Namespace(u8, Option<Labels>),
    /// The first one: whether it is among those of other nodes.
    Pod(bool, u8, Option<SomePod>),
    /// Its pod, the last digit of its addresses, whether it is on another network, and the labels that it had.
    Attachment(u8, Option<(u8, u8, bool, Labels)>),
    Policy(u8, u8, Option<NetworkPolicy>),
    /// Several at once.
    All(Vec<Step>),
}

fn step() -> impl Strategy<Value = Step> {
    let some_pod = (0u8..4, 0u8..4, 0u8..6, some_labels(), some_ports(), 0u8..16);
    let attachment = (0u8..6, 0u8..4, prop::bool::weighted(0.1), some_labels());
    let one = prop_oneof![
        1 => (0u8..3, prop::option::weighted(0.8, some_labels())).prop_map(|(n, own)| Step::Namespace(n, own)),
        4 => (any::<bool>(), 0u8..6, prop::option::weighted(0.8, some_pod))
            .prop_map(|(other, n, pod)| Step::Pod(other, n, pod)),
        2 => (0u8..4, prop::option::weighted(0.8, attachment)).prop_map(|(n, own)| Step::Attachment(n, own)),
        4 => (0u8..2, 0u8..4, prop::option::weighted(0.8, some_policy()))
            .prop_map(|(namespace, n, policy)| Step::Policy(namespace, n, policy)),
    ];
    let several = prop::collection::vec(one.clone(), 2..6).prop_map(Step::All);
    prop_oneof![4 => one, 1 => several]
}

fn pod_name(n: u8) -> ObjectName {
    name(NAMESPACES[usize::from(n % 3)], &format!("p{n}"))
}

fn take(step: Step, view: &mut ClusterView, local: &mut Local) {
    match step {
        Step::All(steps) => steps.into_iter().for_each(|step| take(step, view, local)),
        Step::Namespace(n, own) => {
            let name = NAMESPACES[usize::from(n)].to_owned();
            match own {
                Some(labels) => drop(view.namespaces.insert(name, Namespace { labels })),
                None => drop(view.namespaces.remove(&name)),
            }
        }
        Step::Pod(other, n, own) => {
            let pods = if other { &mut view.other_pods } else { &mut view.pods };
            let Some((node, v4, v6, labels, ports, flags)) = own else {
                pods.remove(&pod_name(n));
                return;
            };
            let own = Pod {
                uid: u128::from(flags & 1),
                created: Some(i64::from(flags & 2)),
                host_network: flags == 4,
                finished: flags == 8,
                terminating: flags & 9 == 9,
                named_ports: ports.into(),
                ..pod(&format!("n{node}"), labels, &[&format!("10.2.0.{v4}"), &format!("fd00:2::{v6}")])
            };
            pods.insert(pod_name(n), own.into());
        }
        Step::Attachment(n, own) => {
            let port = format!("p{n}");
            local.attachments.retain(|own| own.port != port);
            let Some((pod, last, elsewhere, labels)) = own else { return };
            // Some have one that a pod elsewhere claims.
            let net = if last == 0 { 2 } else { 1 };
            let addresses = [format!("10.{net}.0.{last}"), format!("fd00:{net}::{n}")];
            let pod = AttachedPod { name: pod_name(pod), uid: 1, labels, named_ports: [].into() };
            let new = attachment(&port, Some(pod), &addresses.each_ref().map(String::as_str));
            local.attachments.push(Attachment { network: u16::from(elsewhere), ..new });
            local.attachments.sort_by(|a, b| a.port.cmp(&b.port));
        }
        Step::Policy(namespace, n, policy) => {
            let name = name(NAMESPACES[usize::from(namespace)], &format!("policy{n}"));
            match policy {
                Some(policy) => drop(view.policies.insert(name, policy)),
                None => drop(view.policies.remove(&name)),
            }
        }
    }
}

fn peers() -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = Vec::new();
    for n in 0..5 {
        all.extend([ip(&format!("10.2.0.{n}")), ip(&format!("10.1.0.{n}"))]);
        all.extend([ip(&format!("fd00:2::{n}")), ip(&format!("fd00:1::{n}"))]);
    }
    all.extend(["192.0.2.1", "192.0.2.65", "192.0.2.66", "198.51.100.1", "2001:db8::1"].map(ip));
    all
}

/// Every decision is the one that the documentation asks for, after each of any changes, and these lead where all at once does.
#[test]
fn policies_say_what_their_documentation_says() {
    let (compared, allowed, denied) = (Cell::new(0_u64), Cell::new(0_u64), Cell::new(0_u64));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&prop::collection::vec(step(), 8..40), |steps| {
        let (mut view, mut local) = (ClusterView::default(), local());
        let mut desired = Desired::build(&view, &local);
        let mut rows = desired.rows.clone();
        let peers = peers();
        for (n, step) in steps.into_iter().enumerate() {
            let (old_view, old_local) = (view.clone(), local.clone());
            take(step.clone(), &mut view, &mut local);
            let next = desired.next((&old_view, &old_local), &view, &local);
            prop_assert_eq!(&next, &Desired::build(&view, &local), "after {:?}", step);
            prop_assert_eq!(apply(&mut rows, &diff(&desired.rows, &next.rows)), Ok(()));
            prop_assert_eq!(&rows, &next.rows);
            desired = next;
            if n % 3 != 0 {
                continue;
            }
            let oracle = Oracle::new(&view, &local);
            for endpoint in local.attachments.iter().map(|own| own.endpoint.as_str()) {
                for (comes_in, peer) in peers.iter().flat_map(|peer| [(true, *peer), (false, *peer)]) {
                    for (protocol, port) in PORTS {
                        let asked = Question { endpoint, comes_in, peer, protocol, port };
                        let (expected, found) = (oracle.answer(asked), by_rows(&rows, asked));
                        prop_assert_eq!(found, expected, "{:?} after {:?}", asked, step);
                        compared.set(compared.get() + 1);
                        allowed.set(allowed.get() + u64::from(found == Some(true)));
                        denied.set(denied.get() + u64::from(found == Some(false)));
                    }
                }
            }
        }
        Ok(())
    });
    result.unwrap();
    let (compared, allowed, denied) = (compared.get(), allowed.get(), denied.get());
    println!("{compared} compared: rules allowed {allowed} and denied {denied}");
    // A thousand of whatever histories have as many; fewer would show nothing.
    assert!(compared > 3_000_000 && allowed > 200_000 && denied > 200_000, "{compared} {allowed} {denied}");
}

/// A pod in `shop` on this node, and one policy that selects it.
fn alone(policy: NetworkPolicy) -> (ClusterView, Local) {
    let mut view = ClusterView::default();
    let ports = [
        NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 },
        NamedPort { name: "http".into(), protocol: Protocol::Udp, port: 53 },
    ];
    let web = Pod { named_ports: ports.into(), ..pod(NODE, labels(&[("app", "web")]), &[]) };
    view.pods.insert(name("shop", "web"), web.into());
    view.policies.insert(name("shop", "p"), policy);
    let mut local = local();
    local.attachments.push(attachment("p0", attached(name("shop", "web")), &["10.1.0.2"]));
    (view, local)
}

fn port(port: Option<PortMatch>) -> PolicyPort {
    PolicyPort { protocol: Protocol::Tcp, port }
}

fn block(cidr: &str, except: &[&str]) -> PolicyPeer {
    PolicyPeer::Block { cidr: cidr.into(), except: except.iter().map(|text| (*text).into()).collect() }
}

/// As `podrouter show policies` has them.
fn shown(desired: &Desired) -> Vec<String> {
    let rows = desired.rows.policies.values();
    let direction = |name: &str, rules: &Option<Vec<rows::Rule>>| {
        let rules: Vec<String> =
            rules.iter().flatten().map(|rule| format!("{name} {}: {rule}", rule.name)).collect();
        rules
    };
    rows.flat_map(|row| [direction("in", &row.ingress), direction("out", &row.egress)].concat()).collect()
}

#[test]
fn a_policy_in_words() {
    let selector = |own: &[(&str, &str)]| Selector { labels: labels(own), expressions: vec![] };
    let pods = |namespaces: Option<Selector>, pods: Option<Selector>| PolicyPeer::Pods { namespaces, pods };
    let policy = NetworkPolicy {
        pods: app("web"),
        ingress: Some(vec![
            PolicyRule {
                peers: vec![
                    pods(None, Some(app("front"))),
                    pods(Some(selector(&[("team", "a")])), None),
                    block("10.0.0.0/8", &["10.1.0.0/16", "10.2.0.0/16"]),
                ],
                ports: vec![port(Some(PortMatch::Named("http".into()))), port(Some(PortMatch::Range(1, 9)))],
            },
            PolicyRule { peers: vec![pods(Some(Selector::default()), None)], ports: vec![] },
            PolicyRule { peers: vec![], ports: vec![port(Some(PortMatch::Named("none".into())))] },
        ]),
        egress: Some(vec![PolicyRule::default()]),
    };
    let (view, local) = alone(policy);
    let desired = Desired::build(&view, &local);
    let peers =
        "pods app=front of shop; pods of namespaces team=a; 10.0.0.0/8 except 10.1.0.0/16, 10.2.0.0/16";
    let expected = [
        format!("in shop/p ingress[0]: allow tcp 8080 for {peers}"),
        format!("in shop/p ingress[0]: allow tcp 1-9 for {peers}"),
        "in shop/p ingress[1]: allow anything for pods of all namespaces".to_owned(),
        "out shop/p egress[0]: allow anything for anyone".to_owned(),
    ];
    assert_eq!(shown(&desired), expected);
    assert_eq!(warnings(&desired), Vec::<&str>::new());
}

/// What of a policy cannot be honoured allows nothing, and is named; the rest of it is in force.
#[test]
fn what_is_not_known_of_a_policy_opens_nothing() {
    let odd =
        |key: &str| Expression { key: key.into(), operator: Operator::Other("Like".into()), values: vec![] };
    let by = |expression| Selector { labels: Labels::default(), expressions: vec![expression] };
    let peers = |peers: Vec<PolicyPeer>| PolicyRule { peers, ports: vec![] };
    let policy = NetworkPolicy {
        pods: app("web"),
        ingress: Some(vec![
            peers(vec![block("10.0.0.0/40", &[]), block("10.0.0.0/8", &["10.1.0"])]),
            peers(vec![PolicyPeer::Pods { namespaces: Some(by(odd("b"))), pods: Some(by(odd("c"))) }]),
            PolicyRule {
                peers: vec![PolicyPeer::Unread("a list".into()), block("192.0.2.0/24", &[])],
                ports: vec![
                    PolicyPort { protocol: Protocol::Other("QUIC".into()), port: None },
                    port(Some(PortMatch::Unread("a list".into()))),
                ],
            },
            // Host bits are the API's to warn of.
            peers(vec![
                block("192.0.2.7/24", &["192.0.2.65/26", "::ffff:192.0.2.128/121"]),
                block("10.0.0.0/8", &["fd00::/16"]),
            ]),
        ]),
        egress: Some(vec![PolicyRule {
            peers: vec![block("10.0.0.0/8", &[])],
            ports: vec![port(Some(PortMatch::Named("http".into())))],
        }]),
    };
    let (view, local) = alone(policy);
    let desired = Desired::build(&view, &local);
    assert_eq!(
        shown(&desired),
        [
            "in shop/p ingress[1]: allow anything for pods c Like () of namespaces b Like ()",
            "in shop/p ingress[3]: allow anything for 192.0.2.0/24 except 192.0.2.64/26, 192.0.2.128/25",
        ]
    );
    let row = &desired.rows.policies["shop/web@p0"];
    assert_eq!(row.egress, Some(vec![]));
    // Nobody is in the group of the second rule.
    assert_eq!((desired.rows.memberships.len(), desired.rows.identities.len()), (1, 0));
    let said = warnings(&desired);
    for (text, expected) in said.iter().zip([
        "spec.ingress[0].from[0].ipBlock.cidr `10.0.0.0/40`: ",
        "spec.ingress[0].from[1].ipBlock.except[0] `10.1.0`: ",
        "spec.ingress[1].from[0].namespaceSelector: matchExpressions: operator `Like` of key `b` is not known; it selects nobody",
        "spec.ingress[1].from[0].podSelector: matchExpressions: operator `Like` of key `c` is not known; it selects nobody",
        "spec.ingress[2].from[0] cannot be read: a list; it stands for nobody",
        "spec.ingress[3].from[1].ipBlock.cidr `10.0.0.0/8`: not all of its `except` are of its family; the ipBlock is left out",
        "spec.ingress[2].ports[0].protocol `QUIC` is not known; left out",
        "spec.ingress[2].ports[1] cannot be read: a list; left out",
        "spec.egress[0].ports[0]: port `http` is a name, which an ipBlock gives no number to; left out for the ipBlocks",
    ]) {
        assert!(text.starts_with(&format!("NetworkPolicy shop/p: {expected}")), "{text}\n{expected}");
    }
    assert_eq!(said.len(), 9, "{said:#?}");
    assert!(desired.told(NODE).any(|(about, _)| about == desired::Subject::NetworkPolicy(name("shop", "p"))));
}

/// Of a pod that it may not be for, it must not speak: rules of several policies add up.
#[test]
fn a_policy_that_selects_nobody_knows_whom_closes_and_allows_nothing() {
    let odd = Expression { key: "a".into(), operator: Operator::Other("Like".into()), values: vec![] };
    let odd = Selector { labels: Labels::default(), expressions: vec![odd] };
    for (pods, text) in
        [(odd, "operator `Like` of key `a`"), (Selector::unread("a text"), "cannot be read: a text")]
    {
        let anybody = Some(vec![PolicyRule::default()]);
        let (view, local) = alone(NetworkPolicy { pods, ingress: anybody.clone(), egress: None });
        let desired = Desired::build(&view, &local);
        let row = &desired.rows.policies["shop/web@p0"];
        assert_eq!((&row.ingress, &row.egress), (&Some(vec![]), &None));
        let said = warnings(&desired);
        assert!(said.len() == 1 && said[0].contains(text) && said[0].contains("allow nothing"), "{said:?}");
    }
}

/// One that comes to more than a policy may closes what it selects, says so once, and takes nothing from the others.
#[test]
fn a_policy_that_comes_to_too_much_allows_nothing() {
    let by = |n: usize| Selector { labels: labels(&[("app", &format!("a{n}"))]), ..Selector::default() };
    let pods =
        |many: usize| (0..many).map(|n| PolicyPeer::Pods { namespaces: None, pods: Some(by(n)) }).collect();
    let excepted = |n: usize| format!("10.{}.{}.0/24", n / 256, n % 256);
    let apart = |many: usize| (0..many).map(|n| block(&excepted(n), &[])).collect();
    let alike = |many: usize| (0..many).map(|n| block("10.0.0.0/8", &[&excepted(n)])).collect();
    let excepts = |many: usize| {
        let ranges: Vec<String> =
            (0..many).map(|n| format!("fd00::{:x}:{:x}/128", n >> 16, n & 0xffff)).collect();
        vec![block("fd00::/64", &ranges.iter().map(String::as_str).collect::<Vec<_>>())]
    };
    let ports = |many: u16| (1..=many).map(|n| port(Some(PortMatch::Range(n, n)))).collect::<Vec<_>>();
    let of = |peers: Vec<PolicyPeer>, ports| NetworkPolicy {
        pods: app("web"),
        ingress: Some(vec![PolicyRule { peers, ports }]),
        egress: None,
    };
    for (policy, too_much) in [
        (of(pods(1_000), vec![]), None),
        (of(pods(1_100), vec![]), Some("1024 different peers that are pods")),
        (of(apart(5_000), ports(10)), None),
        (of(apart(700), ports(100)), Some("65536 peers, exceptions and terms")),
        (of(excepts(5_000), ports(10)), None),
        (of(excepts(5_000), ports(20)), Some("65536 peers, exceptions and terms")),
        (of(alike(300), vec![]), None),
        (of(alike(600), vec![]), Some("262144 pairs of ipBlocks that overlap")),
        (of(excepts(60_000), vec![]), None),
        (of(vec![], ports(1_000)), None),
        (of(vec![], ports(1_100)), Some("1024 rules, one for each port")),
    ] {
        let (mut view, local) = alone(policy);
        let other = of(vec![block("192.0.2.0/24", &[])], vec![]);
        view.policies.insert(name("shop", "other"), other);
        let desired = Desired::build(&view, &local);
        let row = &desired.rows.policies["shop/web@p0"];
        let rules = row.ingress.as_ref().unwrap();
        assert!(rules.iter().any(|own| own.name == "shop/other ingress[0]"), "{too_much:?}");
        assert_eq!(
            (rules.len() == 1, &row.egress),
            (too_much.is_some(), &None),
            "{too_much:?}: {}",
            rules.len()
        );
        let said = warnings(&desired);
        assert_eq!(said.len(), usize::from(too_much.is_some()), "{said:?}");
        assert!(
            said.iter().all(|own| own.contains(too_much.unwrap()) && own.contains("allows nothing")),
            "{said:?}"
        );
    }
}

/// Others' pods may give a name as many numbers as they like; that costs the rule that has the name, for as long as they are there.
#[test]
fn a_name_that_has_too_many_numbers_is_left_out_until_it_has_fewer() {
    let to = |port| PolicyRule { peers: vec![], ports: vec![port] };
    let rules =
        vec![to(port(Some(PortMatch::Named("http".into())))), to(port(Some(PortMatch::Range(443, 443))))];
    let (mut view, local) = alone(NetworkPolicy { pods: app("web"), ingress: None, egress: Some(rules) });
    let other = |n: u16| {
        let ports = [NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: n }];
        let [high, low] = n.to_be_bytes();
        let own = pod("n2", labels(&[("app", "other")]), &[&format!("10.2.{high}.{low}")]);
        (name("shop", &format!("other{n}")), std::sync::Arc::new(Pod { named_ports: ports.into(), ..own }))
    };
    view.other_pods.extend((1..=1_100).map(other));
    let full = Desired::build(&view, &local);
    let rules = |desired: &Desired| desired.rows.policies["shop/web@p0"].egress.as_ref().unwrap().len();
    assert_eq!(rules(&full), 1);
    assert!(
        warnings(&full)[0].contains("spec.egress[0].ports[0]: port `http`: pods give"),
        "{:?}",
        warnings(&full)
    );
    let before = view.clone();
    for n in 21..=1_100 {
        view.other_pods.remove(&other(n).0);
    }
    let few = full.next((&before, &local), &view, &local);
    // Those of the pod itself are among them.
    let own = Desired::build(&view, &local);
    assert_eq!((rules(&few), few.rows == own.rows), (rules(&own), true));
    assert!((21..=23).contains(&rules(&few)), "{}", rules(&few));
    assert_eq!(warnings(&few), Vec::<&str>::new());
}

/// A pod elsewhere that no rule here speaks of is nothing to this data plane; one of a kind that is known is one row.
#[test]
fn only_what_concerns_this_node_reaches_its_data_plane() {
    let from = |selector: Selector| NetworkPolicy {
        pods: app("web"),
        ingress: Some(vec![PolicyRule {
            peers: vec![PolicyPeer::Pods { namespaces: None, pods: Some(selector) }],
            ports: vec![],
        }]),
        egress: None,
    };
    let (mut view, local) = alone(from(app("front")));
    let mut desired = Desired::build(&view, &local);
    let mut go = |view: &mut ClusterView, step: &dyn Fn(&mut ClusterView)| {
        let before = view.clone();
        step(view);
        let next = desired.next((&before, &local), view, &local);
        let ops = diff(&desired.rows, &next.rows);
        desired = next;
        ops.iter().map(kind_of).collect::<Vec<_>>()
    };
    let other = |n: u8, own: &str| {
        let address = format!("10.2.0.{n}");
        (name("shop", &format!("other{n}")), pod("n2", labels(&[("app", own)]), &[&address]))
    };
    let mut add = |view: &mut ClusterView, n: u8, own: &str| {
        go(view, &|view| drop(view.other_pods.insert(other(n, own).0, other(n, own).1.into())))
    };
    assert_eq!(add(&mut view, 1, "back"), Vec::<String>::new());
    assert_eq!(add(&mut view, 2, "front"), ["SetMemberships", "SetIdentities"]);
    assert_eq!(add(&mut view, 3, "front"), ["SetIdentities"]);
    // It has other labels: another identity.
    assert_eq!(add(&mut view, 3, "back"), ["RemoveIdentities"]);
    let mut policy = |view: &mut ClusterView, namespace: &str, own: Option<NetworkPolicy>| {
        let at = name(namespace, "q");
        go(view, &|view| match own.clone() {
            Some(own) => drop(view.policies.insert(at.clone(), own)),
            None => drop(view.policies.remove(&at)),
        })
    };
    // One that selects nobody here.
    assert_eq!(policy(&mut view, "elsewhere", Some(from(app("back")))), Vec::<String>::new());
    // Two pods, one kind.
    assert_eq!(
        policy(&mut view, "shop", Some(from(app("back")))),
        ["SetMemberships", "SetIdentities", "SetPolicies"]
    );
    assert_eq!(policy(&mut view, "shop", None), ["RemoveIdentities", "RemoveMemberships", "SetPolicies"]);
}

fn kind_of(op: &rows::Op) -> String {
    format!("{op:?}").split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// Until the cluster has the pod, and when it has it no more, it is what it was when it was attached.
#[test]
fn a_pod_that_the_cluster_does_not_have_keeps_its_policies() {
    let deny = NetworkPolicy { pods: app("web"), ingress: Some(vec![]), egress: None };
    let (mut view, mut local) = alone(deny);
    let known = view.pods.remove(&name("shop", "web")).map(std::sync::Arc::unwrap_or_clone).unwrap();
    let closed = |view: &ClusterView, local: &Local| {
        Desired::build(view, local).rows.policies.contains_key("shop/web@p0")
    };
    assert!(!closed(&view, &local), "with no labels it is not meant");
    let pod = AttachedPod {
        uid: 7,
        labels: labels(&[("app", "web")]),
        ..local.attachments[0].pod.clone().unwrap()
    };
    local.attachments[0].pod = Some(pod);
    assert!(closed(&view, &local));
    // Another pod of its name is not it.
    view.pods.insert(
        name("shop", "web"),
        Pod { uid: 8, labels: labels(&[("app", "db")]), ..known.clone() }.into(),
    );
    assert!(closed(&view, &local));
    // And this is it, with other labels than it had.
    view.pods.insert(name("shop", "web"), Pod { uid: 7, labels: labels(&[("app", "db")]), ..known }.into());
    assert!(!closed(&view, &local));
}
