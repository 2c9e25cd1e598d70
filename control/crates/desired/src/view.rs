//! What [`Desired`](crate::Desired) is made from: the cluster as its objects say it, and this node's own side.
//!
//! Texts of the objects stay texts here, so that a warning can quote them.

use std::net::IpAddr;

use proto::dataplane::{Ethdev, InterfaceAddress, PortKind, Router};
use wire::MacAddr;

/// Nodes and pods, trimmed to what routing needs. Order does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    pub nodes: Vec<Node>,
    pub pods: Vec<Pod>,
}

/// A Node object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    pub name: String,
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
    pub namespace: String,
    pub name: String,
    pub uid: String,
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
