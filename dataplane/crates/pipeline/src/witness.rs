//! Who watches a decision being made: nobody, for packets, and whoever asks what would become of one.
//!
//! The steps that decide tell a [`Witness`] what they found. `()` is not interested, and the compiler leaves nothing of what it would
//! be told; a list keeps it. So a trace is told by the code that decides packets, compiled once more.

use std::net::{IpAddr, SocketAddr};

use tables::{
    Asker, Backend, Classifier, Decision, Endpoint, Frontend, NetworkId, Origin, RuleVerdict, Tables, Target,
};
use wire::{IpPrefix, MacAddr, Parsed};

use crate::burst::{Halt, Hop, Ingress, Station};
use crate::connection::Ends;
use crate::lookup::Anew;
use crate::route::largest;
use crate::{DropReason, Offload, Verdict};

mod words;

/// Is told what a step found.
pub(crate) trait Witness {
    /// `name` is the step's; the outcome is made only for those who want it.
    fn note(&mut self, name: &'static str, outcome: impl FnOnce() -> Outcome);
}

impl Witness for () {
    #[inline]
    fn note(&mut self, _: &'static str, _: impl FnOnce() -> Outcome) {}
}

impl Witness for Vec<Step> {
    fn note(&mut self, name: &'static str, outcome: impl FnOnce() -> Outcome) {
        self.push(Step { name, outcome: outcome() });
    }
}

/// What one step of the path found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// As in `route`; of policy, `egress` and `ingress`.
    pub name: &'static str,
    /// In words by `Display`.
    pub outcome: Outcome,
}

/// What was found. Ports and endpoints are named as the tables name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It comes in by the port of an endpoint.
    FromEndpoint { port: String, endpoint: String },
    /// It comes in by a port with neighbours.
    FromUplink { port: String },
    /// No port leads to its source.
    FromNowhere { src: IpAddr },
    /// The port is not there, or has no role.
    PortIdle,
    /// The frame that it would be is not taken.
    NotTaken(DropReason),
    /// Source MAC and address are the sender's.
    SourceRight,
    /// They are not, or it is for nobody but the router.
    SourceStops(Stop),
    /// It can belong to no connection.
    Connectionless,
    /// No flow is known.
    NoFlow,
    /// A known flow, whose decision holds; `fresh` if it is of this generation.
    Holds { reply: bool, state: &'static str, generation: u32, fresh: bool },
    /// A known flow that is decided anew.
    Anew { reply: bool, state: &'static str, why: Anew },
    /// Nothing is at this address and port; `address` if there is at another port.
    NoFrontend { address: bool },
    /// A Service, and who serves this connection; `stays`: as the client's last one.
    Chosen { service: String, backend: SocketAddr, serving: usize, backends: usize, stays: bool },
    /// A Service that is not for this client.
    NotAdmitted { service: String },
    /// A Service that nobody serves.
    NoBackend { service: String, backends: usize },
    /// It comes from behind a Service, and its connection is not known.
    UnboundReply,
    /// The flow keeps what was chosen for it, if anything was.
    Kept { backend: Option<SocketAddr> },
    /// What was chosen for it serves no more.
    Lost { backend: SocketAddr },
    /// Where the destination is reached.
    Route { dst: IpAddr, matched: Option<(IpPrefix, Origin)>, way: Way },
    /// From an address to itself: no policy is asked.
    ToItself,
    /// From the node itself: its pods' policies are not asked.
    FromNode,
    /// No policy of this direction, of an endpoint here or because there is none.
    Unrestricted { endpoint: Option<String> },
    /// What the rule says that decides.
    Judged { endpoint: String, allowed: bool, rule: u32, name: String },
    /// None of the rules matches; `policies` are those that they are of.
    Unmatched { endpoint: String, rules: usize, policies: Vec<String> },
    /// It does not open a connection: it may be the answer of one that may.
    OtherWay,
    /// Whether it may leave by the link.
    Link { port: String, length: u32, mtu: u16, stop: Option<DropReason> },
    /// It keeps its source.
    KeepsSource,
    /// It gets another one; `returns`: for its answers to come back here.
    Source { returns: bool, source: IpAddr, ports: (u16, u16), chosen: Option<u16> },
    /// The answers that it might have are those of other flows.
    NoReply(DropReason),
    /// What it becomes.
    Becomes { src: SocketAddr, dst: SocketAddr },
    /// Who takes it from there.
    Endpoint { mac: MacAddr },
    /// A neighbour, and its MAC if that is known.
    Neighbour { next_hop: IpAddr, mac: Option<MacAddr> },
    /// How it ends; `port` is the one that it, or the router's answer, leaves by.
    Verdict { verdict: Verdict, port: Option<String> },
}

/// Why a packet goes no further than this step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is dropped.
    Dropped(DropReason),
    /// It is for the router.
    Router,
}

/// Where a destination is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// An endpoint of this node.
    Endpoint { endpoint: String, port: String },
    /// A neighbour.
    Neighbour { port: String, next_hop: IpAddr },
    /// Nowhere, or not further than the router.
    Ends(Stop),
}

impl Stop {
    pub(crate) const fn of(state: &Halt) -> Self {
        match state {
            Halt::Refused(reason, _) | Halt::Done(Verdict::Drop(reason) | Verdict::Denied { reason, .. }) => {
                Self::Dropped(*reason)
            }
            _ => Self::Router,
        }
    }
}

impl Outcome {
    pub(crate) fn unrestricted(endpoint: Option<&Endpoint>) -> Self {
        Self::Unrestricted { endpoint: endpoint.map(|endpoint| endpoint.name.clone()) }
    }

    pub(crate) fn judged(endpoint: &Endpoint, rules: &Classifier, decision: Decision<'_>) -> Self {
        let (endpoint, rules) = (endpoint.name.clone(), rules.rules());
        let allowed = decision.verdict == RuleVerdict::Allow;
        if let Some(rule) = decision.rule {
            return Self::Judged { endpoint, allowed, rule: rule.id, name: rule.name.to_string() };
        }
        // A rule is called by its policy and where in it the rule is; those of a policy follow each other.
        let policy = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
        let mut policies: Vec<String> = rules.iter().map(|rule| policy(&rule.name)).collect();
        policies.retain(|policy| !policy.is_empty());
        policies.sort_unstable();
        policies.dedup();
        Self::Unmatched { endpoint, rules: rules.len(), policies }
    }

    pub(crate) fn chosen(frontend: &Frontend, asker: Asker, chosen: Option<&Backend>, stays: bool) -> Self {
        let (service, backends) = (frontend.name.to_string(), frontend.backends.len());
        match chosen {
            Some(backend) => Self::Chosen {
                service,
                backend: SocketAddr::new(backend.addr, backend.port),
                serving: frontend.backends.iter().filter(|one| one.state.takes(asker)).count(),
                backends,
                stays,
            },
            None => Self::NoBackend { service, backends },
        }
    }

    pub(crate) fn bound(first: &Ends, went: &Ends, keeps: bool) -> Self {
        let backend = SocketAddr::new(went.dst, went.dst_port);
        let bound = (first.dst, first.dst_port) != (went.dst, went.dst_port);
        if keeps { Self::Kept { backend: bound.then_some(backend) } } else { Self::Lost { backend } }
    }

    pub(crate) fn route(
        tables: &Tables,
        ingress: &Ingress<'_>,
        dst: IpAddr,
        hop: Result<Hop<'_>, Halt>,
    ) -> Self {
        let way = match &hop {
            Ok(Hop { port, to: Station::NextHop(next_hop) | Station::Peer(next_hop, _), .. }) => {
                Way::Neighbour { port: port.name.clone(), next_hop: *next_hop }
            }
            Ok(Hop { port, to, .. }) => {
                let endpoint = match to {
                    Station::Endpoint(endpoint) => endpoint.name.clone(),
                    _ => String::new(),
                };
                Way::Endpoint { endpoint, port: port.name.clone() }
            }
            Err(state) => Way::Ends(Stop::of(state)),
        };
        let matched = tables.route_to(ingress.network, dst).map(|route| (route.prefix, route.origin));
        Self::Route { dst, matched: matched.filter(|_| tables.lookup(ingress.network, dst).is_some()), way }
    }

    pub(crate) fn link(
        hop: &Hop<'_>,
        mtu: u16,
        parsed: &Parsed,
        offload: Offload,
        left: Result<Hop<'_>, Halt>,
    ) -> Self {
        let stop = left.err().map(|state| match Stop::of(&state) {
            Stop::Dropped(reason) => reason,
            Stop::Router => DropReason::NoService,
        });
        let port = hop.port.name.clone();
        Self::Link { port, length: largest(parsed, offload), mtu, stop }
    }
}

/// The port by which packets from `src` come.
pub(crate) fn port_of(tables: &Tables, network: NetworkId, src: IpAddr) -> Option<tables::PortId> {
    match tables.lookup(network, src)? {
        Target::Endpoint(id) => tables.endpoint(id).map(|endpoint| endpoint.port),
        Target::NextHop { port, .. } | Target::Connected(port) => Some(port),
        Target::Local | Target::Blackhole | Target::Unreachable => None,
    }
}
