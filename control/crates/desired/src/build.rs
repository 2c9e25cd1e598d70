//! From view and local side to ports and rows; and from one such to the next.
//!
//! The order of the steps is the order of precedence: what is this node's own comes before what other nodes say, so
//! that no object of another node can take a local pod's traffic away. [`Desired::build`] says what is right; [`Desired::next`]
//! comes to the same in the time of what changed. What nodes and pods contest it does anew without the Services, of which there are many more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use proto::dataplane::{FrontendKey, Limits, PortKind, PortSpec, RouteKey, RouteTarget};
use wire::IpPrefix;

use crate::HOST_PORT;
use crate::by_kernel::ByKernel;
use crate::host_ports::HostPort;
use crate::nodes::Nodes;
use crate::objects::ObjectName;
use crate::policies::Policies;
use crate::rows::Rows;
use crate::services::{HealthCheck, NodePort, Services};
use crate::view::{ClusterView, Local};

/// What the data plane and the node's kernel ought to hold. A copy costs next to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// By name.
    pub ports: BTreeMap<String, PortSpec>,
    pub rows: Rows,
    /// This node's own podCIDRs: where its pods' addresses come from.
    pub own_cidrs: Vec<IpPrefix>,
    /// What the node's kernel routes to the host port: all podCIDRs that lead somewhere, and cluster addresses.
    pub host_prefixes: Prefixes,
    /// This node's addresses that its kernel holds, InternalIP first: sources of what it sends to pods.
    pub host_addresses: Vec<IpAddr>,
    /// Without an uplink: the way to other nodes.
    pub by_kernel: ByKernel,
    /// Ports of the node that lead to its pods, each by whom it is asked first.
    pub host_ports: Vec<HostPort>,
    /// The router's own among its pods' addresses, one a family.
    pub router_addresses: Vec<IpAddr>,
    /// Services' ports on the node's addresses: there the kernel passes them on to the router's address.
    pub node_ports: OrdSet<NodePort>,
    /// Services' ports on addresses that the world may know: there the kernel passes them on as they are.
    pub externals: OrdSet<FrontendKey>,
    /// Where load balancers ask whether a Service has endpoints here, by port.
    pub health_checks: OrdMap<u16, HealthCheck>,
    /// Those addresses, and the router's.
    pub(crate) node_port_addresses: Vec<IpAddr>,
    pub(crate) services: Services,
    pub(crate) policies: Policies,
    /// Those of `host_ports`.
    pub(crate) host_frontends: Vec<FrontendKey>,
    /// What was left out, each naming object, field and value, by what it is about.
    warnings: OrdMap<About, Vec<String>>,
    /// All nodes, this one among them.
    pub(crate) nodes: Nodes,
    /// Two nodes, or pods of others, claim the same thing: who has it depends on both.
    pub(crate) contested: bool,
    /// There are pods that need a look at their own addresses.
    pub(crate) has_strays: bool,
}

/// A set of prefixes; a copy costs nothing.
pub type Prefixes = OrdSet<IpPrefix>;

/// What a warning that the cluster is told of is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// This node.
    Node,
    /// Every node has the same to say.
    Service(ObjectName),
    /// Nodes say so that have a pod which it selects.
    NetworkPolicy(ObjectName),
}

/// What a warning is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// This node's own side.
    Local,
    Node(String),
    Pods,
    Service(ObjectName),
    Policy(ObjectName),
}

impl Desired {
    /// Works it out. Total: what cannot be honoured is left out and named in [`Self::warnings`].
    #[must_use]
    pub fn build(view: &ClusterView, local: &Local) -> Self {
        let mut desired = Self::unpoliced(view, local);
        let nothing = Local { attachments: Vec::new(), ..local.clone() };
        desired.police((&ClusterView::default(), &nothing), view, local);
        desired
    }

    /// All but what policies come to.
    fn unpoliced(view: &ClusterView, local: &Local) -> Self {
        let (mut desired, _) = Self::default().with_nodes(view, local);
        desired.serve_all(view, local);
        desired
    }

    /// With all but Services; and of those that it has already which are to be served again.
    fn with_nodes(self, view: &ClusterView, local: &Local) -> (Self, BTreeSet<ObjectName>) {
        let mut desired = self;
        desired.take_in(&view.nodes);
        let again = desired.local(local);
        for (prefix, target) in desired.default_routes(local) {
            desired.route(prefix, target);
        }
        for &prefix in &desired.own_cidrs.clone() {
            // A pod that is not there is told so at once; those that are have longer prefixes of their own.
            desired.route(prefix, RouteTarget::Unreachable);
            desired.host_prefixes.insert(prefix);
        }
        if let Some(uplink) = &local.uplink {
            let own = desired.rows.addresses().collect();
            for name in view.nodes.keys().filter(|name| **name != local.node) {
                desired.reach(name, local, uplink, &own);
            }
            desired.stray_pods(view, local, uplink, &own);
        } else if local.host.is_some() {
            desired.reach_all_by_kernel(view, local);
        }
        (desired, again)
    }

    /// As [`Self::build`] of `view` and `local`, made from what it was `before`.
    #[must_use]
    pub fn next(&self, before: (&ClusterView, &Local), view: &ClusterView, local: &Local) -> Self {
        let is_same = is_same_but_attachments(before.1, local);
        let advanced = is_same.then(|| self.advanced(before, view, local)).flatten();
        let mut next = advanced.unwrap_or_else(|| {
            let renewed = is_same.then(|| self.renewed(before.0, view, local)).flatten();
            let mut next = renewed.unwrap_or_else(|| Self::unpoliced(view, local));
            // They rest on nothing that is contested there.
            next.police_as(self);
            next
        });
        next.police(before, view, local);
        next
    }

    /// All anew but the Services that are as they were; `None` where what changed may concern any of them.
    fn renewed(&self, old_view: &ClusterView, view: &ClusterView, local: &Local) -> Option<Self> {
        let mut next = Self::default();
        next.keep_services_of(self);
        let about_services = self.warnings.iter().filter(|(about, _)| matches!(about, About::Service(_)));
        next.warnings = about_services.map(|(about, texts)| (about.clone(), texts.clone())).collect();
        let (mut next, again) = next.with_nodes(view, local);
        let zone = |view: &ClusterView| view.nodes.get(&local.node).map(|own| own.zone.clone());
        let own = |desired: &Self| {
            let Self { node_port_addresses, router_addresses, host_addresses, .. } = desired;
            (node_port_addresses.clone(), router_addresses.clone(), host_addresses.clone())
        };
        if own(&next) != own(self)
            || zone(old_view) != zone(view)
            || next
                .nodes
                .different(&self.nodes)
                .any(|name| self.is_served_at(name) || next.is_served_at(name))
        {
            return None;
        }
        next.serve_changed(old_view, view, local, again);
        Some(next)
    }

    /// `None` where what changed may concern any node.
    fn advanced(&self, before: (&ClusterView, &Local), view: &ClusterView, local: &Local) -> Option<Self> {
        let (old_view, old_local) = before;
        let is_of_services = old_view.nodes.diff(&view.nodes).next().is_none()
            && old_view.pods.diff(&view.pods).next().is_none()
            && old_view.other_pods.diff(&view.other_pods).next().is_none()
            && old_local.attachments == local.attachments;
        if is_of_services {
            let mut next = self.clone();
            next.serve_changed(old_view, view, local, BTreeSet::new());
            return Some(next);
        }
        if self.contested {
            return None;
        }
        let Some(uplink) = &local.uplink else { return self.advanced_by_kernel(before, view, local) };
        let mut next = self.clone();
        let mut again = BTreeSet::new();
        if old_local.attachments != local.attachments {
            if self.has_strays {
                return None;
            }
            let old: BTreeSet<IpAddr> = next.rows.addresses().collect();
            again = next.local(local);
            if (&next.node_port_addresses, &next.host_addresses)
                != (&self.node_port_addresses, &self.host_addresses)
            {
                return None;
            }
            if next
                .rows
                .addresses()
                .any(|address| !old.contains(&address) && next.is_elsewhere(address, local))
            {
                return None;
            }
        }
        let mut own = None;
        for (name, node) in old_view.nodes.diff(&view.nodes).map(changed) {
            if *name == local.node || self.has_strays {
                return None;
            }
            if next.is_served_at(name) {
                return None;
            }
            let old = next.forget(name);
            if let Some(node) = node {
                next.judge(name, node);
                if next.is_served_at(name) {
                    return None;
                }
                let own = own.get_or_insert_with(|| next.rows.addresses().collect());
                next.reach(name, local, uplink, own);
            }
            // A pod that its node's ranges covered may be covered no more.
            if !old.is_subset(&next.nodes.cidrs_of(name))
                && view.all_pods().any(|(_, pod)| *pod.node == **name)
            {
                return None;
            }
        }
        let pods = old_view.pods.diff(&view.pods).chain(old_view.other_pods.diff(&view.other_pods));
        for (_, old, new) in pods.map(parts) {
            if old.into_iter().chain(new).any(|pod| next.is_stray(pod, local)) {
                return None;
            }
        }
        if next.contested {
            return None;
        }
        next.serve_changed(old_view, view, local, again);
        Some(next)
    }

    /// What was left out, each naming object, field and value.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.warnings.values().flatten().map(String::as_str)
    }

    /// Those that there were not `before`, in the time of what is different.
    pub fn warnings_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a str> {
        before.warnings.diff(&self.warnings).flat_map(|item| {
            let (_, old, new) = parts(item);
            let known = move |text: &&String| old.is_some_and(|old| old.contains(*text));
            new.into_iter().flatten().filter(move |text| !known(text)).map(String::as_str)
        })
    }

    pub(crate) fn warnings_about(&self, about: &About) -> impl Iterator<Item = &str> {
        self.warnings.get(about).into_iter().flatten().map(String::as_str)
    }

    /// Those that this node tells the cluster of, and what each is about: of its own making, about its own Node, or about an object that
    /// it is to honour.
    pub fn told(&self, node: &str) -> impl Iterator<Item = (Subject, &str)> {
        let subject = move |about: &About| match about {
            About::Local => Some(Subject::Node),
            About::Node(name) => (name == node).then_some(Subject::Node),
            About::Service(name) => Some(Subject::Service(name.clone())),
            About::Policy(name) => Some(Subject::NetworkPolicy(name.clone())),
            About::Pods => None,
        };
        let about = self.warnings.iter().filter_map(move |(about, texts)| Some((subject(about)?, texts)));
        about.flat_map(|(subject, texts)| texts.iter().map(move |text| (subject.clone(), text.as_str())))
    }

    pub(crate) fn warn(&mut self, about: About, text: String) {
        self.warnings.entry(about).or_default().push(text);
    }

    pub(crate) fn take_back(&mut self, about: &About) {
        self.warnings.remove(about);
    }

    /// A port without limits.
    pub(crate) fn port(&mut self, name: &str, kind: PortKind, mac: Option<wire::MacAddr>, mtu: u16) {
        self.limited_port(PortSpec { name: name.to_owned(), kind, mac, mtu, limits: Limits::default() });
    }

    pub(crate) fn limited_port(&mut self, spec: PortSpec) {
        self.ports.insert(spec.name.clone(), spec);
    }

    pub(crate) fn route(&mut self, prefix: IpPrefix, target: RouteTarget) {
        self.contested |= self.rows.routes.insert(RouteKey { network: 0, prefix }, target).is_some();
    }

    pub(crate) fn has_route(&self, prefix: IpPrefix) -> bool {
        self.rows.routes.contains_key(&RouteKey { network: 0, prefix })
    }

    /// Where goes what no other route covers: to the uplink's gateways, or without an uplink to the node's kernel.
    fn default_routes(&self, local: &Local) -> Vec<(IpPrefix, RouteTarget)> {
        let Some(uplink) = &local.uplink else {
            let target = RouteTarget::Endpoint { name: HOST_PORT.to_owned() };
            let families =
                if self.rows.endpoints.contains_key(HOST_PORT) { [true, false].as_slice() } else { &[] };
            return families.iter().filter_map(|v4| Some((everything(*v4)?, target.clone()))).collect();
        };
        let by = |&address: &IpAddr| {
            let target = RouteTarget::NextHop { port: crate::UPLINK_PORT.to_owned(), address, inside: false };
            Some((everything(address.is_ipv4())?, target))
        };
        uplink.gateways.iter().filter_map(by).collect()
    }

    /// Whether another node has the address.
    fn is_elsewhere(&self, address: IpAddr, local: &Local) -> bool {
        self.nodes.owner_of(address).is_some_and(|owner| owner != local.node)
            || self.has_route(IpPrefix::host(address))
    }
}

/// Whether nothing else is different of this node's own side.
fn is_same_but_attachments(old: &Local, local: &Local) -> bool {
    let Local {
        node,
        router,
        uplink,
        host,
        vxlan,
        subnets,
        masquerade,
        node_port_addresses,
        kept,
        attachments: _,
    } = local;
    (&old.node, &old.router, &old.masquerade) == (node, router, masquerade)
        && (&old.uplink, &old.host, &old.vxlan, &old.subnets) == (uplink, host, vxlan, subnets)
        && (&old.node_port_addresses, &old.kept) == (node_port_addresses, kept)
}

/// All addresses of a family.
pub(crate) fn everything(v4: bool) -> Option<IpPrefix> {
    let all: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    IpPrefix::containing(all, 0)
}

/// The key of what differs, and what is there now.
pub(crate) fn changed<'a, K, V>(item: DiffItem<'a, 'a, K, V>) -> (&'a K, Option<&'a V>) {
    match item {
        DiffItem::Add(key, new) | DiffItem::Update { new: (key, new), .. } => (key, Some(new)),
        DiffItem::Remove(key, _) => (key, None),
    }
}

/// The key of what differs, what was there, and what is.
pub(crate) fn parts<'a, K, V>(item: DiffItem<'a, 'a, K, V>) -> (&'a K, Option<&'a V>, Option<&'a V>) {
    match item {
        DiffItem::Add(key, new) => (key, None, Some(new)),
        DiffItem::Update { old: (_, old), new: (key, new) } => (key, Some(old), Some(new)),
        DiffItem::Remove(key, old) => (key, Some(old), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Node, NodeAddress, Service, ServicePort};
    use crate::view::{Host, Uplink};
    use proto::dataplane::{Ethdev, InterfaceAddress, Router};

    fn node(n: u8) -> (String, Node) {
        let address = NodeAddress { kind: "InternalIP".into(), address: format!("192.168.77.{n}") };
        let node = Node {
            created: None,
            pod_cidrs: vec![format!("10.244.{n}.0/24")],
            addresses: vec![address],
            router_addresses: Some(format!("172.16.0.{n}")),
            router_way: None,
            zone: Box::default(),
        };
        (format!("n{n}"), node)
    }

    /// What happens all the time takes the short way; that it leads where the long one does is shown elsewhere.
    #[test]
    fn common_changes_take_the_short_way() {
        let own = InterfaceAddress { address: Ipv4Addr::new(172, 16, 0, 1).into(), prefix_len: 24 };
        let uplink = Uplink { device: Ethdev::new("d"), mtu: 1500, addresses: vec![own], gateways: vec![] };
        for uplink in [Some(uplink), None] {
            take_the_short_way(local_of(uplink));
        }
    }

    fn local_of(uplink: Option<Uplink>) -> Local {
        Local {
            node: "n1".into(),
            router: Router {
                gateway4: Ipv4Addr::new(169, 254, 1, 1),
                gateway6: Ipv6Addr::LOCALHOST,
                dns_servers: vec![],
                dns_search: vec![],
            },
            uplink,
            host: Some(Host { mac: crate::ROUTER_MAC, mtu: 1500 }),
            vxlan: None,
            subnets: vec![],
            masquerade: Some(vec![]),
            node_port_addresses: vec![],
            kept: vec![],
            attachments: vec![],
        }
    }

    fn take_the_short_way(mut local: Local) {
        let mut view = ClusterView { nodes: (1..9).map(node).collect(), ..ClusterView::default() };
        let mut desired = Desired::build(&view, &local);
        let mut go =
            |view: &mut ClusterView, local: &mut Local, step: &dyn Fn(&mut ClusterView, &mut Local)| {
                let before = (view.clone(), local.clone());
                step(view, local);
                let next = desired.advanced((&before.0, &before.1), view, local);
                desired = desired.next((&before.0, &before.1), view, local);
                next.is_some()
            };
        let insert = |n: u8, cidr: &str, view: &mut ClusterView| {
            view.nodes.insert(format!("n{n}"), Node { pod_cidrs: vec![cidr.to_owned()], ..node(n).1 });
        };
        assert!(go(&mut view, &mut local, &|view, _| insert(9, "10.244.9.0/24", view)));
        assert!(go(&mut view, &mut local, &|view, _| insert(9, "10.244.10.0/24", view)));
        assert!(go(&mut view, &mut local, &|view, _| drop(view.nodes.remove("n4"))));
        assert!(go(&mut view, &mut local, &|_, local| local.attachments.push(crate::Attachment {
            port: "p".into(),
            endpoint: "e".into(),
            pod: None,
            kind: PortKind::Tap,
            mac: crate::ROUTER_MAC,
            mtu: 1500,
            network: 0,
            addresses: vec![Ipv4Addr::new(10, 244, 1, 2).into()],
            routes: vec![],
            host_ports: vec![],
            limits: Limits::default(),
        })));
        assert!(go(&mut view, &mut local, &|_, local| local.attachments.clear()));
        assert!(!go(&mut view, &mut local, &|view, _| insert(9, "10.244.2.0/24", view)), "another's range");
        assert!(!go(&mut view, &mut local, &|view, _| insert(9, "10.244.9.0/24", view)), "it was contested");
        assert!(go(&mut view, &mut local, &|view, _| insert(9, "10.244.10.0/24", view)));
        assert!(!go(&mut view, &mut local, &|view, _| drop(view.nodes.remove("n1"))), "this node itself");
    }

    /// Where Services want the same, only they are made anew; where nodes do, no Service is.
    #[test]
    fn what_is_contested_costs_only_what_it_touches() {
        let local = local_of(None);
        let service = |n: u8| {
            let own = Service {
                kind: "ClusterIP".to_owned(),
                cluster_ips: vec![format!("10.96.0.{n}").into()],
                external_ips: vec!["192.0.2.1".into()],
                ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
                ..Service::default()
            };
            (ObjectName { namespace: "shop".into(), name: format!("s{n}").into() }, own)
        };
        let first = ClusterView {
            nodes: (1..9).map(node).collect(),
            services: (2..5).map(service).collect(),
            ..ClusterView::default()
        };
        let desired = Desired::build(&first, &local);
        assert_eq!(desired.warnings().count(), 2);
        let mut view = first.clone();
        view.services.extend([service(1)]);
        view.services.remove(&service(3).0);
        let next = desired.advanced((&first, &local), &view, &local).unwrap();
        assert_eq!(next, Desired::build(&view, &local));
        let told: Vec<&str> = next.warnings().collect();
        assert!(
            told.len() == 2 && told.iter().all(|text| text.contains("is the shop/s1 already")),
            "{told:?}"
        );
        // Two nodes with one range: what is no node's goes on, and what is costs nodes alone.
        let mut contested = view.clone();
        contested.nodes.extend([("n9".to_owned(), node(2).1)]);
        assert_eq!(next.advanced((&view, &local), &contested, &local), None);
        let next = next.renewed(&view, &contested, &local).unwrap();
        assert!(next.contested && next == Desired::build(&contested, &local));
        let mut later = contested.clone();
        later.services.remove(&service(1).0);
        let after = next.advanced((&contested, &local), &later, &local).unwrap();
        assert_eq!(after, Desired::build(&later, &local));
        contested.nodes.remove("n2");
        contested.services.remove(&service(1).0);
        let end = after.renewed(&later, &contested, &local).unwrap();
        assert!(!end.contested && end == Desired::build(&contested, &local));
    }
}
