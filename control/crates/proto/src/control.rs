//! What control is asked by the CNI bridge and the command line, and answers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wire::{IpPrefix, MacAddr};

use crate::dataplane::Protocol;
use crate::text;

/// Client to control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "a request is made, sent, and never kept by the thousand")]
pub enum Request {
    /// First message of a connection. Answer: [`Response::Hello`].
    Hello { version: u32, program: String },
    /// CNI ADD. The network namespace's descriptor travels beside it for a kernel pod. Answer, once the generation
    /// that holds the pod is committed: [`Response::Attached`].
    Attach(AttachRequest),
    /// CNI CHECK: whether the attachment is there, and in force. Answer: [`Response::Attached`], as ADD got it.
    Check { network: String, container: String, interface: String },
    /// CNI DEL; succeeds for what is already gone. Answer: [`Response::Detached`].
    Detach { network: String, container: String, interface: String },
    /// CNI GC: all attachments of the network but these are removed. Answer: [`Response::Collected`].
    Collect { network: String, valid: Vec<AttachmentName> },
    /// `podrouter status`. Answer: [`Response::Status`].
    Status,
    /// `podrouter show endpoints`. Answer: [`Response::Endpoints`].
    ShowEndpoints { namespace: String, service: String },
}

/// Control to client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Response {
    Hello {
        version: u32,
    },
    Attached(Attached),
    Detached,
    /// How many were removed, and which could not be, and why.
    Collected {
        removed: u32,
        failures: Vec<String>,
    },
    Status(Status),
    Endpoints(Endpoints),
    /// `code` is one of the CNI specification's error codes (CNI 1.1.0, section 5).
    Failed {
        code: u32,
        reason: String,
        details: String,
    },
}

/// A Service's endpoints, and what is to be said of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// What of it is not honoured, or why it is not served at all.
    pub says: Vec<String>,
    pub endpoints: Vec<EndpointUse>,
}

/// One of a Service's endpoints, for one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointUse {
    /// Of the Service, with its name if it has one.
    pub port: String,
    #[serde(with = "text")]
    pub protocol: Protocol,
    pub endpoint: SocketAddr,
    /// Empty: not said.
    pub node: String,
    /// As its slice says them: `ready`, `serving, terminating`.
    pub conditions: String,
    /// What it gets of those who ask at the cluster's addresses, and why.
    pub cluster: String,
    /// And of others than this node's own who ask at addresses of the world.
    pub world: String,
}

/// A pod's interface as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// `name` of the network configuration.
    pub network: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_NETNS`, journalled so that the device can be opened again.
    pub netns: PathBuf,
    /// Unless the pod's annotation says another.
    pub port: AttachPort,
    /// The runtime chose the port for this very interface: what the pod's annotations say does not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub port_chosen: bool,
    /// `deviceID`: the directory of a vhost-user pod's socket, below control's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Queue pairs that a vhost-user pod may have; `None`: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_pairs: Option<u16>,
    /// Largest IP packet; `None`: what the uplink allows.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// The pod's own MAC; `None`: made from its address.
    #[serde(default, with = "text::option")]
    pub mac: Option<MacAddr>,
    #[serde(default, skip_serializing_if = "AttachAddresses::is_any")]
    pub addresses: AttachAddresses,
    /// The network that the interface is on; `None`: the pods' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<Secondary>,
    /// From `CNI_ARGS` (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`), if Kubernetes asked.
    #[serde(default)]
    pub pod: Option<PodName>,
    /// Ports of the node that lead to the pod (`hostPort`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// How fast the pod may send and be sent to; `None`: as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

impl AttachRequest {
    /// The id of the network that the interface is on.
    #[must_use]
    pub fn network_id(&self) -> u16 {
        self.secondary.as_ref().map_or(0, |network| network.id)
    }
}

/// A port of the node that leads to one of the pod's, as CNI has it (CONVENTIONS.md, `portMappings`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// Which address of the node; unspecified: any of its family; `None`: any.
    #[serde(default)]
    pub host: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    /// TCP, UDP or SCTP.
    #[serde(with = "text")]
    pub protocol: Protocol,
}

impl PortMapping {
    /// Whether it is for this address of the node.
    #[must_use]
    pub fn is_for(&self, address: IpAddr) -> bool {
        self.host.is_none_or(|host| {
            host == address || host.is_unspecified() && host.is_ipv4() == address.is_ipv4()
        })
    }

    /// Whether a packet could be meant by either.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let hosts = match (self.host, other.host) {
            (Some(own), Some(theirs)) => self.is_for(theirs) || other.is_for(own),
            _ => true,
        };
        (self.host_port, self.protocol) == (other.host_port, other.protocol) && hosts
    }
}

/// A network beside the pods' own. Nothing passes from one to another, so that all may have the same addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secondary {
    /// Never 0, which is the pods' own.
    pub id: u16,
    /// What the pod reaches by this interface, and nothing else; unless an IPAM plug-in gives it, its address is out of them too.
    #[serde(with = "text::list")]
    pub subnets: Vec<IpPrefix>,
}

/// A pod's rates as CNI has them (CONVENTIONS.md, `bandwidth`): bits a second, and bits that may pass at once. A rate of 0 is no limit;
/// a burst of 0 is control's to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Towards the pod.
    #[serde(default)]
    pub ingress_rate: u64,
    #[serde(default)]
    pub ingress_burst: u64,
    /// From the pod.
    #[serde(default)]
    pub egress_rate: u64,
    #[serde(default)]
    pub egress_burst: u64,
}

/// Where a pod's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum AttachAddresses {
    /// Out of the node's podCIDRs or the secondary network's subnets, one a family.
    #[default]
    Any,
    /// These, out of the same; a family that has none here gets any.
    Wanted { addresses: Vec<IpAddr> },
    /// These, from a delegated IPAM plug-in that keeps account of them.
    Given { addresses: Vec<IpAddr> },
}

impl AttachAddresses {
    #[must_use]
    pub const fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }
}

/// An attachment within its network, as CNI's `cni.dev/valid-attachments` names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentName {
    pub container: String,
    pub interface: String,
}

/// A pod as Kubernetes names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    /// Tells a pod from one of its name before it; `None`: not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// The kind of port that a pod gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachPort {
    /// A TAP in the pod's network namespace.
    Tap,
    /// A vhost-user socket which the data plane makes and serves.
    VhostUser,
}

/// A pod's interface as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    #[serde(with = "text")]
    pub mac: MacAddr,
    pub mtu: u16,
    pub addresses: Vec<IpAddr>,
    /// One a family, the same for every pod.
    pub gateways: Vec<IpAddr>,
    /// Destinations that the pod reaches through its gateway.
    pub routes: Vec<AttachedRoute>,
    /// The network that it is on, as it was asked for. One of the release before knows of no other than the pods' own, 0.
    #[serde(default, skip_serializing_if = "is_pods_own")]
    pub network_id: u16,
    /// Where the vhost-user socket is, for that kind of port.
    #[serde(default)]
    pub socket: Option<PathBuf>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks it")]
const fn is_pods_own(network_id: &u16) -> bool {
    *network_id == 0
}

/// A route in the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedRoute {
    #[serde(with = "text")]
    pub destination: IpPrefix,
    /// `None`: on the link itself.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// `podrouter status`, control's half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub node: String,
    /// Where cluster state comes from, as `API server https://192.168.77.1:6443` or `manifests /etc/podrouter/manifests`.
    pub source: String,
    /// Every first list is complete.
    pub synced: bool,
    /// The data plane is connected.
    pub connected: bool,
    /// Why no pod can be attached now; `None`: one can.
    #[serde(default)]
    pub unready: Option<String>,
    /// Last generation that the data plane committed.
    pub committed: u64,
    pub nodes: u32,
    /// This node's; all, while a policy selects by labels.
    pub pods: u32,
    #[serde(default)]
    pub namespaces: u32,
    #[serde(default)]
    pub services: u32,
    #[serde(default)]
    pub endpoint_slices: u32,
    /// `NetworkPolicies`.
    #[serde(default)]
    pub policies: u32,
    pub attachments: u32,
    /// What it cannot honour, each naming file or object, field and value; empty when all is well.
    pub warnings: Vec<String>,
}
