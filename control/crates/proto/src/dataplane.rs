//! What the data plane is asked and answers, on its Unix socket.
//!
//! A client says [`Request::Hello`] first. Ports have a life of their own (they are devices); everything else is a row of
//! the tables and moves by [`Transaction`], whole or not at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wire::{IpPrefix, MacAddr};

use crate::text;

mod flows;
mod large;
mod policies;
mod ports;
mod services;

pub use flows::{
    FlowFilter, FlowQuery, FlowStatus, FlowUse, FlowWay, Trace, TraceQuestion, TraceStep, TraceVerdict,
    WorkerFlows,
};
pub use policies::{Identity, IdentityKey, Membership, Peer, Policy, PolicyStatus, Rule, RuleVerdict};
pub use ports::{Ethdev, Limit, Limits, PortInfo, PortKind, PortSpec};
pub use services::{Backend, BackendState, Frontend, FrontendKey, Masquerade, PortRange, Protocol};

/// Client to data plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "type", rename_all = "kebab-case")]
pub enum Request {
    /// First message of a connection. Answer: [`Response::Hello`].
    Hello {
        version: u32,
        program: String,
    },
    /// Make a port, or find that it is there as asked (idempotent by name). Limits may differ, and the MTU of all but DPDK devices: what is asked
    /// for holds from then on, an MTU with the next generation. A TAP's descriptor travels beside the message. Answer: [`Response::Port`].
    AddPort(PortSpec),
    /// Take a port away. Refused while a row of the tables names it. Answer: [`Response::Done`].
    RemovePort {
        name: String,
    },
    /// A duplicate of a TAP's descriptor, for a control process that has lost its own. Answer: [`Response::Tap`].
    DuplicateTap {
        name: String,
    },
    /// All rows and ports as they are. Answer: [`Response::Snapshot`].
    Snapshot,
    /// Change the tables. Answer, once every worker has the new generation: [`Response::Committed`], or
    /// [`Response::Rejected`].
    Transaction(Transaction),
    /// Read-only queries of the command line. Answers: the responses of the same names.
    ShowStatus,
    ShowPorts,
    ShowRoutes,
    ShowServices,
    ShowPolicies,
    ShowNeighbours,
    ShowWorkers,
    ShowDrops,
    /// A page of the known connections.
    ShowFlows(FlowQuery),
    /// What would become of a packet. Nothing is sent, and nothing changes.
    Trace(TraceQuestion),
}

/// Data plane to client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "type", rename_all = "kebab-case")]
pub enum Response {
    Hello(Hello),
    Port(PortInfo),
    Done,
    /// One descriptor travels beside this message.
    Tap {
        name: String,
    },
    Snapshot(Snapshot),
    Committed {
        generation: u64,
    },
    /// Nothing was applied. `current` is the generation that goes on forwarding; a wrong `base` alone asks for a resync.
    Rejected {
        current: u64,
        wrong_base: bool,
        reason: String,
    },
    /// The request could not be served; `reason` says what failed and what to do.
    Failed {
        reason: String,
    },
    Status(Status),
    Ports {
        ports: Vec<PortStatus>,
    },
    Routes {
        generation: u64,
        routes: Vec<RouteStatus>,
    },
    Services {
        services: Vec<Frontend>,
    },
    Policies {
        policies: Vec<PolicyStatus>,
    },
    Neighbours {
        neighbours: Vec<NeighbourStatus>,
    },
    Workers {
        workers: Vec<WorkerStatus>,
    },
    Drops {
        drops: Vec<DropStatus>,
    },
    Flows {
        flows: Vec<FlowStatus>,
        /// Where the next page begins; `None`: there is none.
        #[serde(default)]
        next: Option<u64>,
    },
    Trace(Trace),
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    /// Differs at every start of the data plane: control knows by it that ports and rows are gone.
    pub instance: String,
    pub generation: u64,
}

/// All rows of one generation, and the ports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    pub generation: u64,
    pub ports: Vec<PortInfo>,
    #[serde(default)]
    pub router: Option<Router>,
    pub interfaces: Vec<Interface>,
    pub endpoints: Vec<Endpoint>,
    /// Only routes that were set; those which follow from endpoints and interfaces are not listed.
    pub routes: Vec<Route>,
    #[serde(default)]
    pub frontends: Vec<Arc<Frontend>>,
    /// Of pods, by their addresses.
    #[serde(default)]
    pub identities: Vec<Identity>,
    /// Identities of ranges; the longest prefix counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<Identity>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memberships: Vec<Membership>,
    #[serde(default)]
    pub policies: Vec<Policy>,
    #[serde(default)]
    pub masquerades: Vec<Masquerade>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunnel_peers: Vec<TunnelPeer>,
}

/// A change from generation `base` to `target`, whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// The generation it was computed against; another one is refused.
    pub base: u64,
    /// The generation it makes; greater than `base`.
    pub target: u64,
    /// Applied in this order.
    pub ops: Vec<Op>,
}

/// One step of a transaction. Setting replaces by key; removing what is not there is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "op", rename_all = "kebab-case")]
pub enum Op {
    SetRouter { router: Router },
    SetInterfaces { interfaces: Vec<Interface> },
    RemoveInterfaces { ports: Vec<String> },
    SetEndpoints { endpoints: Vec<Endpoint> },
    RemoveEndpoints { names: Vec<String> },
    SetRoutes { routes: Vec<Route> },
    RemoveRoutes { routes: Vec<RouteKey> },
    SetFrontends { frontends: Vec<Arc<Frontend>> },
    RemoveFrontends { keys: Vec<FrontendKey> },
    SetIdentities { identities: Vec<Identity> },
    RemoveIdentities { identities: Vec<IdentityKey> },
    SetBlocks { blocks: Vec<Identity> },
    RemoveBlocks { blocks: Vec<IdentityKey> },
    SetMemberships { memberships: Vec<Membership> },
    RemoveMemberships { identities: Vec<u32> },
    SetPolicies { policies: Vec<Policy> },
    RemovePolicies { endpoints: Vec<String> },
    SetMasquerades { masquerades: Vec<Masquerade> },
    RemoveMasquerades { networks: Vec<u16> },
    SetTunnelPeers { peers: Vec<TunnelPeer> },
    RemoveTunnelPeers { peers: Vec<TunnelPeerKey> },
}

/// The gateway that every pod sees, and what it tells of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// Link-local, the same in every pod (169.254.1.1 by default).
    pub gateway4: Ipv4Addr,
    /// Link-local, the same in every pod (fe80::1 by default).
    pub gateway6: Ipv6Addr,
    /// DNS servers that pods are told of which ask for their address, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_servers: Vec<IpAddr>,
    /// The domains that they are to seek short names in, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
}

/// The router's own addresses on an uplink. It answers ARP, ND and ping for them, and reaches their subnets directly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interface {
    pub port: String,
    #[serde(default)]
    pub network: u16,
    pub addresses: Vec<InterfaceAddress>,
}

/// An address and the length of the subnet it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InterfaceAddress {
    pub address: IpAddr,
    pub prefix_len: u8,
}

/// A pod's or the host's attachment: traffic to its addresses goes to its port, and its port may send only from them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Unique; `namespace/pod` where that is known.
    pub name: String,
    pub port: String,
    #[serde(default)]
    pub network: u16,
    /// The station on the other end of the port.
    #[serde(with = "text")]
    pub mac: MacAddr,
    pub addresses: Vec<IpAddr>,
    /// What a guest is told that its gateway leads to; empty: everything. Sixteen at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "text::list")]
    pub routes: Vec<IpPrefix>,
    pub kind: EndpointKind,
}

/// What is behind an endpoint's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointKind {
    /// Its source addresses are checked.
    Pod,
    /// The node's kernel: it forwards for others too, so only its MAC is checked.
    Host,
}

/// What a tunnel's peer is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TunnelPeerKey {
    /// The tunnel.
    pub port: String,
    /// Where the peer is, on the uplink's network. Routes name it as their next hop.
    pub address: IpAddr,
}

/// The other end of a tunnel: packets from it are taken if their source is routed to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TunnelPeer {
    #[serde(flatten)]
    pub key: TunnelPeerKey,
    /// Its station inside the tunnel.
    #[serde(with = "text")]
    pub mac: MacAddr,
}

/// What a route is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteKey {
    #[serde(default)]
    pub network: u16,
    #[serde(with = "text")]
    pub prefix: IpPrefix,
}

/// A prefix and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "large::RouteFields")]
pub struct Route {
    #[serde(flatten)]
    pub key: RouteKey,
    pub target: RouteTarget,
}

/// Where a prefix goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "via", rename_all = "kebab-case")]
pub enum RouteTarget {
    /// To a neighbour on a port, resolved by ARP or ND; or to a peer of a tunnel.
    NextHop {
        port: String,
        address: IpAddr,
        /// What goes there stays in the cluster: it keeps its source, whatever masquerade there is.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        inside: bool,
    },
    /// The destination itself is the neighbour.
    Connected { port: String },
    /// To an endpoint, which forwards it: the host.
    Endpoint { name: String },
    /// Dropped without a word.
    Blackhole,
    /// Answered with "host unreachable" (RFC 792) or "address unreachable" (RFC 4443).
    Unreachable,
}

/// `podrouter status`, the data plane's half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub instance: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    pub generation: u64,
    /// Lowest generation that every worker has.
    pub committed: u64,
    pub dpdk: String,
    pub hugepages: bool,
    pub mbufs: u32,
    pub mbufs_in_use: u32,
    pub ports: u32,
    pub endpoints: u32,
    pub routes: u64,
    pub workers: u32,
    #[serde(default)]
    pub flows4: FlowUse,
    #[serde(default)]
    pub flows6: FlowUse,
    /// What needs attention, in words; empty when all is well.
    pub warnings: Vec<String>,
}

/// `podrouter show ports`, a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    pub info: PortInfo,
    /// The worker that receives from and sends to it.
    pub worker: u32,
    /// The kernel's or the peer's side is there: carrier, link, or a running vhost-user peer.
    pub up: bool,
    /// Endpoint behind it, or `uplink`, `tunnel`, or empty.
    pub role: String,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_drops: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_drops: u64,
    /// Of DPDK devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceStatus>,
}

/// What a DPDK device says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// `net_ixgbe`.
    pub driver: String,
    /// `None`: the driver does not know.
    #[serde(default)]
    pub speed_mbps: Option<u32>,
    pub rx_queues: u16,
    pub tx_queues: u16,
    /// Offloads in use: `tcp-checksum`, `vlan-strip`.
    pub rx_offloads: Vec<String>,
    /// Offloads in use: `tso`, `multi-segs`.
    pub tx_offloads: Vec<String>,
    /// All that the driver counts, in its order, since the port was made.
    pub counters: Vec<DeviceCounter>,
}

/// One of a device's counters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceCounter {
    /// DPDK's name: `rx_missed_errors`, `rx_q0_packets`.
    pub name: String,
    pub count: u64,
}

/// `podrouter show routes`, a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    pub network: u16,
    #[serde(with = "text")]
    pub prefix: IpPrefix,
    /// `configured`, `endpoint`, `connected` or `local`.
    pub origin: String,
    /// In words, as `via 192.168.77.1 dev uplink0`.
    pub target: String,
}

/// `podrouter show neighbours`, a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourStatus {
    pub port: String,
    pub address: IpAddr,
    #[serde(with = "text::option", default)]
    pub mac: Option<MacAddr>,
    /// `incomplete`, `reachable`, `stale`, `probe` or `failed` (RFC 4861, section 7.3.2); `permanent`: the other end of a tunnel.
    pub state: String,
    pub age_ms: u64,
    /// Packets that wait for the answer.
    pub held: u32,
    /// Of a tunnel's end: the longest packet that gets there, where a router on the way has said that it is less than the port's MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
}

/// `podrouter show workers`, a row: the ledger of DESIGN.md, and what it does with its time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub id: u32,
    /// `poll` or `kernel`.
    pub kind: String,
    /// The core it is pinned to.
    pub core: Option<u32>,
    pub ports: Vec<String>,
    pub generation: u64,
    pub parked: bool,
    /// ICMP errors that were not sent, for want of tokens.
    #[serde(default)]
    pub icmp_errors_suppressed: u64,
    /// Bursts that other workers have handed to it and that it has not taken yet.
    #[serde(default)]
    pub handed_waiting: u32,
    /// Packets for other workers that it dropped (`handover-full`), since as many bursts as there may be waited for them.
    #[serde(default)]
    pub handover_full: u64,
    /// Share of the last second spent on packets, in per mille.
    pub busy_permille: u32,
    pub ledger: Ledger,
    #[serde(default)]
    pub flows: WorkerFlows,
    #[serde(default)]
    pub load: WorkerLoad,
}

/// What a worker did with its time, since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerLoad {
    /// Microseconds spent on packets.
    pub busy_us: u64,
    /// Cycles of the machine's clock (TSC) in a second, for those who count in cycles.
    pub cycles_per_second: u64,
    /// Rounds in which no port had anything.
    pub empty_rounds: u64,
    /// Bursts received, by size: of 1, of 2, to 4, to 8, to 16, to 32 packets.
    pub bursts: [u64; 6],
}

impl WorkerLoad {
    /// The largest burst of each class.
    pub const BURSTS: [u32; 6] = [1, 2, 4, 8, 16, 32];

    /// Cycles spent on each of so many packets; none where there were none, or where the clock is not known.
    #[must_use]
    pub fn cycles_per_packet(&self, packets: u64) -> Option<u64> {
        let cycles = u128::from(self.busy_us) * u128::from(self.cycles_per_second) / 1_000_000;
        let each = cycles.checked_div(packets.into())?;
        u64::try_from(each).ok().filter(|_| self.cycles_per_second > 0)
    }

    /// What was done since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            busy_us: self.busy_us.saturating_sub(earlier.busy_us),
            cycles_per_second: self.cycles_per_second,
            empty_rounds: self.empty_rounds.saturating_sub(earlier.empty_rounds),
            bursts: std::array::from_fn(|class| self.bursts[class].saturating_sub(earlier.bursts[class])),
        }
    }
}

/// Where every packet of a worker went. At rest
/// `rx + handed_in + originated + split_extra = tx + drops + punts + handed_out + held + consumed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    pub rx: u64,
    pub handed_in: u64,
    pub originated: u64,
    pub split_extra: u64,
    pub tx: u64,
    pub drops: u64,
    pub punts: u64,
    pub handed_out: u64,
    pub held: u64,
    pub consumed: u64,
}

impl Ledger {
    /// What came in less what went out: 0 at rest, for a worker, and for all of them together.
    #[must_use]
    pub fn imbalance(&self) -> i128 {
        let inward = [self.rx, self.handed_in, self.originated, self.split_extra];
        let outward = [self.tx, self.drops, self.punts, self.handed_out, self.held, self.consumed];
        let sum = |side: &[u64]| side.iter().map(|&n| i128::from(n)).sum::<i128>();
        sum(&inward) - sum(&outward)
    }
}

/// `podrouter show drops`, a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropStatus {
    pub port: String,
    /// `rx` (refused on the way in) or `tx` (on the way out).
    pub direction: String,
    /// The name, as in `ttl-exceeded`.
    pub reason: String,
    pub description: String,
    pub packets: u64,
}
