//! What the data plane ought to hold, from what the cluster and this node say; and the way there.
//!
//! [`Desired::build`] turns a [`ClusterView`] and a [`Local`] into ports and [`Rows`], and [`Desired::next`] goes on from there;
//! [`diff`] gives the operations between two sets of rows, [`apply`] carries them out, refusing what the data plane would refuse. Knows nothing of
//! sockets, files or clocks. What always holds: `apply(old, diff(old, new)) == new`, `diff(x, x)` is empty, and every
//! operation is valid at its place. What cannot be honoured is left out alone, and named in `warnings`.

#![forbid(unsafe_code)]

mod build;
mod by_kernel;
mod diff;
mod endpoints;
mod explain;
mod host_ports;
mod local;
mod nodes;
mod objects;
mod policies;
mod prefixes;
mod remote;
mod rows;
mod services;
mod view;

pub use build::{Desired, Prefixes, Subject};
pub use by_kernel::{ByKernel, End, KernelTunnel, Way};
pub use diff::diff;
pub use host_ports::HostPort;
pub use objects::{
    Address, EndpointSlice, Expression, Hints, Labels, LoadBalancerAddress, NamedPort, Namespace,
    NetworkPolicy, Node, NodeAddress, ObjectName, Operator, Pod, PolicyPeer, PolicyPort, PolicyRule, Pool,
    PortMatch, Protocol, Selector, Service, ServicePort, SliceEndpoint, SlicePort, uid,
};
pub use prefixes::range_fault;
pub use rows::{ApplyError, Rows, apply};
pub use services::{HealthCheck, NodePort};
pub use view::{
    AttachedPod, Attachment, Change, ClusterView, Host, Local, Uplink, ViewChange, Vxlan, pod_mtu, router_way,
};

/// The node annotation that names the next hop of a node's podCIDRs and addresses, one address a family.
pub const ROUTER_ADDRESSES: &str = "podrouter.io/router-addresses";

/// The node annotation that says how a node reaches others, for people and for those others: `dedicated, mtu 1430, vxlan always, vni 1, port 4789`.
pub const ROUTER_WAY: &str = "podrouter.io/router-way";

/// The pod annotation that names the kind of its ports, `tap` or `vhost-user`: for all its interfaces, or as `net1=vhost-user` for one,
/// with commas between.
pub const PORT: &str = "podrouter.io/port";

/// The pod annotation that says how many queue pairs its vhost-user ports may have, in the same way.
pub const QUEUE_PAIRS: &str = "podrouter.io/queue-pairs";

/// The name of the uplink's port.
pub const UPLINK_PORT: &str = "uplink";

/// The name of the tunnel's port. It comes behind the one that it needs.
pub const TUNNEL_PORT: &str = "uplink.vxlan";

/// The name of the host's port, and of its endpoint.
pub const HOST_PORT: &str = "host";

/// The router's own address on every pod's port and the host's: the same everywhere, so that a pod's neighbour entry
/// outlives its port.
pub const ROUTER_MAC: wire::MacAddr = wire::MacAddr([0x02, 0x70, 0x6f, 0x64, 0x00, 0x01]);
