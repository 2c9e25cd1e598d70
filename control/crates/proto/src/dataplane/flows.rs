//! Connections that are known, a page at a time, and what would become of a packet.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use wire::IpPrefix;

use super::Protocol;
use crate::text;

/// Which flows are wanted, and from where on. An answer comes after some ten thousand records that were looked at, whether or not
/// they were wanted, so that it neither takes long nor is long.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FlowQuery {
    #[serde(default)]
    pub filter: FlowFilter,
    /// `next` of the last answer; 0 at first.
    #[serde(default)]
    pub from: u64,
    /// Rows in the answer at most, if that is less than the data plane's own limit.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// All of it must fit; what is not there fits anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FlowFilter {
    /// Either end is an address of this endpoint.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Any of its addresses lies in it: of the client, the Service, the backend, or the source that it was given.
    #[serde(default, with = "text::option")]
    pub prefix: Option<IpPrefix>,
    /// Any of its ports.
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default, with = "text::option")]
    pub protocol: Option<Protocol>,
    /// As in `established`.
    #[serde(default)]
    pub state: Option<String>,
}

/// `podrouter show flows`, a row: a connection, both directions. ICMP has the identifier for a port. Of state `affinity` it is none: the
/// backend that a client stays with, whatever its port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStatus {
    #[serde(default)]
    pub network: u16,
    #[serde(with = "text")]
    pub protocol: Protocol,
    /// Who sent the first packet.
    pub client: SocketAddr,
    /// What it was sent to, where that is a Service.
    #[serde(default)]
    pub service: Option<SocketAddr>,
    /// Where it went: the chosen backend, or what it was sent to.
    pub destination: SocketAddr,
    /// The source that it got, if another.
    #[serde(default)]
    pub masqueraded: Option<SocketAddr>,
    /// `new`, `replied`, `opening`, `accepted`, `established`, `finished-forward`, `finished-reply`, `finished`, `reset`; or `affinity`.
    pub state: String,
    /// It had begun before it was known.
    #[serde(default)]
    pub joined: bool,
    pub age_seconds: u64,
    /// Since the last packet.
    pub idle_seconds: u64,
    /// Until it ends, if no packet comes.
    pub left_seconds: u64,
    /// The port that it counts against.
    pub owner: String,
    /// What is decided for packets as the first one, if anything is.
    #[serde(default)]
    pub forward: Option<FlowWay>,
    /// And for their answers.
    #[serde(default)]
    pub reply: Option<FlowWay>,
    /// Numbers of the policy rules that allowed it.
    #[serde(default)]
    pub egress_rule: Option<u32>,
    #[serde(default)]
    pub ingress_rule: Option<u32>,
    /// What these are called, if they are still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_rule_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_rule_name: Option<String>,
}

/// The decision for one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowWay {
    /// Where such packets come in.
    pub input: String,
    /// Where they leave.
    pub output: String,
    /// To this neighbour, if not to an endpoint.
    #[serde(default)]
    pub next_hop: Option<IpAddr>,
    /// The low 32 bits of the generation that it was last found right in.
    pub generation: u32,
}

/// Use of one flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FlowUse {
    pub used: u32,
    pub capacity: u32,
}

/// What became of a worker's packets at the flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerFlows {
    /// Did as the last packet of their flow.
    pub replayed: u64,
    /// Of those, the ones whose decision was older than the tables, and still held.
    pub revalidated: u64,
    /// Went through service, policy and route.
    pub decided: u64,
    /// Of those, the ones that made a flow.
    pub made: u64,
    /// Went on without a flow.
    pub untracked: u64,
    /// Flows that ended by time.
    pub expired: u64,
}

/// The packet that [`Request::Trace`](super::Request::Trace) asks about: one that opens a connection, or a ping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceQuestion {
    #[serde(default)]
    pub network: u16,
    pub source: IpAddr,
    pub destination: IpAddr,
    #[serde(with = "text")]
    pub protocol: Protocol,
    /// Of a ping, its identifier.
    pub source_port: u16,
    pub destination_port: u16,
    /// The port that it comes in by; `None`: the one that leads to its source, or else an uplink.
    #[serde(default)]
    pub input: Option<String>,
    /// Bytes of the IP packet, if it is longer than its headers.
    #[serde(default)]
    pub length: u16,
}

/// What would become of it, by the tables of `generation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    pub generation: u64,
    pub steps: Vec<TraceStep>,
    pub verdict: TraceVerdict,
}

/// What one step found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    /// As in `route`.
    pub step: String,
    /// In words.
    pub says: String,
}

/// How it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum TraceVerdict {
    /// It leaves by this port, to a neighbour or to an endpoint.
    Forward {
        output: String,
        #[serde(default)]
        next_hop: Option<IpAddr>,
    },
    /// It goes nowhere; `told` if its source is sent an ICMP error.
    Drop { reason: String, description: String, told: bool },
    /// The router takes it as this, as `echo`; `answered` if it has something to say.
    Consume { reason: String, answered: bool },
}
