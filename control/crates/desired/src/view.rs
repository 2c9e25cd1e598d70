//! What [`Desired`](crate::Desired) is made from: the cluster as its objects say it, and this node's own side.
//!
//! Texts of the objects stay texts here, so that a warning can quote them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use imbl::OrdMap;
use proto::dataplane::{Ethdev, InterfaceAddress, PortKind, Router};
use wire::MacAddr;

/// The cluster's objects, trimmed to what is used of them. A copy costs nothing, and a comparison with one what differs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// By name.
    pub nodes: OrdMap<String, Node>,
    /// Those that the source has: all of them, or this node's own.
    pub pods: OrdMap<ObjectName, Pod>,
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
            ViewChange::Pod(change) => apply(&mut self.pods, change),
        }
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

/// The name of an object that is in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Node object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// `metadata.creationTimestamp` (RFC 3339, UTC, so that texts sort as times); `None` counts as the youngest.
    pub created: Option<String>,
    /// `spec.podCIDRs`, or `spec.podCIDR` alone.
    pub pod_cidrs: Vec<String>,
    /// `status.addresses`.
    pub addresses: Vec<NodeAddress>,
    /// The value of the annotation [`crate::ROUTER_ADDRESSES`].
    pub router_addresses: Option<String>,
}

/// One of `status.addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`; names (`Hostname`, `InternalDNS`, …) are not used.
    pub kind: String,
    pub address: String,
}

/// A Pod object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    pub uid: String,
    /// `metadata.creationTimestamp` (RFC 3339, UTC, so that texts sort as times); `None` counts as the oldest.
    pub created: Option<String>,
    /// `spec.nodeName`; empty while it is not scheduled.
    pub node: String,
    /// `status.podIPs`, or `status.podIP` alone.
    pub pod_ips: Vec<String>,
    pub host_network: bool,
    /// `status.phase`.
    pub phase: String,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
}

/// This node's own side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Name of this node's Node object.
    pub node: String,
    pub router: Router,
    pub uplink: Option<Uplink>,
    pub host: Option<Host>,
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

/// The host's TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The kernel's own address on the TAP.
    pub mac: MacAddr,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// A pod's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub port: String,
    /// The endpoint's name, unique among attachments.
    pub endpoint: String,
    pub kind: PortKind,
    pub mac: MacAddr,
    pub mtu: u16,
    pub addresses: Vec<IpAddr>,
}
