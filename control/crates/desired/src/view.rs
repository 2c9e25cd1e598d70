//! What [`Desired`](crate::Desired) is made from: the cluster as its objects say it, and this node's own side.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use proto::control::PortMapping;
use proto::dataplane::{Ethdev, InterfaceAddress, Limits, PortKind, Router};
use wire::{IpPrefix, MacAddr};

use crate::objects::{
    EndpointSlice, Labels, NamedPort, Namespace, NetworkPolicy, Node, ObjectName, Pod, Service,
};

/// The cluster's objects, trimmed to what is used of them. A copy costs nothing, and a comparison with one what differs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// By name.
    pub nodes: OrdMap<String, Node>,
    /// This node's own; from a directory of manifests, all.
    pub pods: OrdMap<ObjectName, Arc<Pod>>,
    /// Those of other nodes and of none yet, while something selects by labels ([`NetworkPolicy::selects_pods`]); else empty. Two maps,
    /// because two watches write them: a pod that is scheduled here leaves one and enters the other in any order.
    pub other_pods: OrdMap<ObjectName, Arc<Pod>>,
    /// By name.
    pub namespaces: OrdMap<String, Namespace>,
    pub services: OrdMap<ObjectName, Service>,
    pub endpoint_slices: OrdMap<ObjectName, EndpointSlice>,
    pub policies: OrdMap<ObjectName, NetworkPolicy>,
}

/// What a source says of the objects of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<K, T> {
    /// The object is there, as it is here.
    Set(K, T),
    /// The object is gone.
    Remove(K),
    /// All others are gone: a list was read to its end.
    Only(BTreeSet<K>),
}

/// A step from one [`ClusterView`] to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewChange {
    /// Everything was read anew.
    All(ClusterView),
    Node(Change<String, Node>),
    Pod(Change<ObjectName, Pod>),
    OtherPod(Change<ObjectName, Pod>),
    Namespace(Change<String, Namespace>),
    Service(Change<ObjectName, Service>),
    EndpointSlice(Change<ObjectName, EndpointSlice>),
    NetworkPolicy(Change<ObjectName, NetworkPolicy>),
}

impl ClusterView {
    /// Carries it out; whether anything is different now. An object that is set as it was, or removed where it was not,
    /// is no difference.
    pub fn apply(&mut self, change: ViewChange) -> bool {
        match change {
            ViewChange::All(view) => {
                let different = *self != view;
                *self = view;
                different
            }
            ViewChange::Node(change) => apply(&mut self.nodes, change),
            ViewChange::Pod(change) => apply(&mut self.pods, shared(change)),
            ViewChange::OtherPod(change) => apply(&mut self.other_pods, shared(change)),
            ViewChange::Namespace(change) => apply(&mut self.namespaces, change),
            ViewChange::Service(change) => apply(&mut self.services, change),
            ViewChange::EndpointSlice(change) => apply(&mut self.endpoint_slices, change),
            ViewChange::NetworkPolicy(change) => apply(&mut self.policies, change),
        }
    }

    /// All that are known, of this node and of others. One that is just being scheduled may come twice.
    pub fn all_pods(&self) -> impl Iterator<Item = (&ObjectName, &Pod)> {
        self.pods.iter().chain(self.other_pods.iter()).map(|(name, pod)| (name, &**pod))
    }
}

/// Objects that are large go into a map by a pointer: half of what a map has room for is empty.
fn shared<K, T>(change: Change<K, T>) -> Change<K, Arc<T>> {
    match change {
        Change::Set(key, object) => Change::Set(key, Arc::new(object)),
        Change::Remove(key) => Change::Remove(key),
        Change::Only(keys) => Change::Only(keys),
    }
}

fn apply<K: Ord + Clone, T: PartialEq + Clone>(objects: &mut OrdMap<K, T>, change: Change<K, T>) -> bool {
    match change {
        Change::Set(key, object) => {
            let different = objects.get(&key) != Some(&object);
            if different {
                objects.insert(key, object);
            }
            different
        }
        Change::Remove(key) => objects.remove(&key).is_some(),
        Change::Only(keys) => {
            let gone: Vec<K> = objects.keys().filter(|key| !keys.contains(*key)).cloned().collect();
            for key in &gone {
                objects.remove(key);
            }
            !gone.is_empty()
        }
    }
}

/// This node's own side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Name of this node's Node object.
    pub node: String,
    pub router: Router,
    pub uplink: Option<Uplink>,
    pub host: Option<Host>,
    /// How packets to other nodes' pods go through what lies between; `None`: as they are.
    pub vxlan: Option<Vxlan>,
    /// Without an uplink: the networks that the node's kernel is on.
    pub subnets: Vec<IpPrefix>,
    /// Where beyond the cluster pods are seen as themselves; `None`: everywhere. All else sees this node.
    pub masquerade: Option<Vec<IpPrefix>>,
    /// In which of the node's addresses NodePorts are; empty: in all.
    pub node_port_addresses: Vec<IpPrefix>,
    /// What control itself is to reach as it is, whatever Service claims it: the API server.
    pub kept: Vec<IpAddr>,
    pub attachments: Vec<Attachment>,
}

/// The data plane's device towards other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    pub device: Ethdev,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    pub addresses: Vec<InterfaceAddress>,
    /// Next hops of everything that no other route covers, at most one a family.
    pub gateways: Vec<IpAddr>,
}

/// Tunnels to other nodes (RFC 7348).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    /// Nodes on the uplink's own subnets, or the kernel's, are reached without.
    pub across_subnets: bool,
    /// The network identifier, of 24 bits.
    pub vni: u32,
    pub udp_port: u16,
}

/// How a node reaches others, as [`crate::ROUTER_WAY`] says it; without an uplink by its kernel.
#[must_use]
pub fn router_way(uplink: Option<&Uplink>, vxlan: Option<Vxlan>, mtu: u16) -> String {
    let mode = if uplink.is_some() { "dedicated" } else { "kernel" };
    format!("{mode}, mtu {mtu}, {}", vxlan_text(vxlan))
}

/// Largest packet of a pod that reaches every other node whole, where `mtu` is the largest between them.
#[must_use]
pub fn pod_mtu(mtu: u16, uplink: Option<&Uplink>, vxlan: Option<Vxlan>) -> u16 {
    let only_v4 = uplink.is_some_and(|own| own.addresses.iter().all(|own| own.address.is_ipv4()));
    // Inner Ethernet, VXLAN, UDP, and the IP header of the family that may be used outside: which one the kernel's is, its addresses tell
    // only later.
    let outer = if only_v4 { 50 } else { 70 };
    mtu - if vxlan.is_some() { outer } else { 0 }
}

pub(crate) fn vxlan_text(vxlan: Option<Vxlan>) -> String {
    let Some(Vxlan { across_subnets, vni, udp_port }) = vxlan else { return "vxlan never".to_owned() };
    let when = if across_subnets { "across-subnets" } else { "always" };
    format!("vxlan {when}, vni {vni}, port {udp_port}")
}

/// What such a text says of tunnels.
pub(crate) fn tunnels(way: &str) -> Option<&str> {
    way.find("vxlan ").and_then(|at| way.get(at..))
}

impl Uplink {
    /// By what neighbour an address is reached: itself, or a gateway.
    pub(crate) fn way_to(&self, address: IpAddr) -> Option<IpAddr> {
        let gateway = || self.gateways.iter().copied().find(|own| own.is_ipv4() == address.is_ipv4());
        if self.is_on_link(address) { Some(address) } else { gateway() }
    }

    pub(crate) fn is_on_link(&self, address: IpAddr) -> bool {
        let holds = |own: &InterfaceAddress| {
            IpPrefix::containing(own.address, own.prefix_len).is_some_and(|net| net.contains(address))
        };
        self.addresses.iter().any(holds)
    }
}

/// The host's TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The kernel's own address on the TAP.
    pub mac: MacAddr,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// A pod that is attached, as it was known then: what holds while the cluster does not have it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachedPod {
    pub name: ObjectName,
    /// By [`crate::uid`]; 0: not known.
    pub uid: u128,
    pub labels: Labels,
    pub named_ports: Arc<[NamedPort]>,
}

/// A pod's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub port: String,
    /// The endpoint's name, unique among attachments.
    pub endpoint: String,
    /// Whose it is; `None` where the runtime did not say.
    pub pod: Option<AttachedPod>,
    pub kind: PortKind,
    pub mac: MacAddr,
    pub mtu: u16,
    /// Where its addresses are; 0: the pods' own network.
    pub network: u16,
    pub addresses: Vec<IpAddr>,
    /// What it reaches; empty: everything.
    pub routes: Vec<IpPrefix>,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<PortMapping>,
    /// How fast it may send and be sent to.
    pub limits: Limits,
}
