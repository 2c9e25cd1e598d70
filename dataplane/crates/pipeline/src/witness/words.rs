//! What was found, in words: a clause each, without a full stop.

use std::fmt::{self, Display, Formatter};

use tables::Origin;

use super::{Outcome, Stop, Way};
use crate::lookup::Anew;
use crate::{DropReason, Fate, Output, Verdict};

impl Display for Stop {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped(reason) => dropped(*reason, f),
            Self::Router => f.write_str("it is for the router itself"),
        }
    }
}

/// The description is a sentence; here it stands within one.
fn dropped(reason: DropReason, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, "dropped as {}: {}", reason.name(), reason.description().trim_end_matches('.'))
}

const fn named(origin: Origin) -> &'static str {
    match origin {
        Origin::Local => "local",
        Origin::Endpoint => "endpoint",
        Origin::Connected => "connected",
        Origin::Configured => "configured",
    }
}

impl Display for Anew {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reopened => "that connection is over, and this packet opens another",
            Self::Undecided => "this direction is not decided yet",
            Self::OtherPort => "it comes by another port than those before it",
            Self::Odd => "it is at its last hop, too long, or not from whom it should be",
            Self::Changed => "something has changed that the decision rests on",
        })
    }
}

impl Display for Way {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { endpoint, port } => write!(f, "endpoint {endpoint} dev {port}"),
            Self::Neighbour { port, next_hop } => write!(f, "via {next_hop} dev {port}"),
            Self::Ends(stop) => stop.fmt(f),
        }
    }
}

/// A direction of a flow, and how far it has come.
struct Known(bool, &'static str);

impl Display for Known {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(reply, state) = self;
        let direction = if *reply { "the answers" } else { "the packets" };
        write!(f, "known, {direction} of a connection that is {state}")
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromEndpoint { port, endpoint } => write!(f, "by port {port}, from endpoint {endpoint}"),
            Self::FromUplink { port } => write!(f, "by port {port}, an uplink"),
            Self::FromNowhere { src } => write!(f, "no port leads to {src}, and there is no uplink"),
            Self::PortIdle => dropped(DropReason::PortIdle, f),
            Self::NotTaken(reason) | Self::NoReply(reason) => dropped(*reason, f),
            Self::SourceRight => f.write_str("the sender may have this MAC and address"),
            Self::SourceStops(stop) => stop.fmt(f),
            Self::Connectionless => f.write_str("such a packet is part of no connection"),
            Self::NoFlow => f.write_str("not known: it is decided"),
            Self::Holds { reply, state, generation, fresh } => {
                write!(f, "{}; ", Known(*reply, state))?;
                if *fresh {
                    write!(f, "decided in this generation, {generation}")
                } else {
                    write!(f, "decided in generation {generation}, and nothing has changed that it rests on")
                }
            }
            Self::Anew { reply, state, why } => write!(f, "{}; decided anew: {why}", Known(*reply, state)),
            Self::NoFrontend { address: false } => f.write_str("no Service has this address"),
            Self::NoFrontend { address: true } => {
                f.write_str("a Service has this address, but not with this port and protocol")
            }
            Self::Chosen { service, backend, serving, backends, stays } => {
                let stays = if *stays { ", where this client was sent last" } else { "" };
                write!(f, "{service}: to backend {backend}{stays}, one of {serving} that take it")?;
                if backends > serving { write!(f, " ({} do not)", backends - serving) } else { Ok(()) }
            }
            Self::NotAdmitted { service } => {
                write!(f, "{service}: ")?;
                dropped(DropReason::ServiceSourceDenied, f)
            }
            Self::NoBackend { service, backends: 0 } => write!(f, "{service}: it has no backend"),
            Self::NoBackend { service, backends } => {
                write!(f, "{service}: none of its {backends} backends takes it")
            }
            Self::UnboundReply => dropped(DropReason::ReplyUnbound, f),
            Self::Kept { backend: Some(backend) } => write!(f, "the connection keeps its backend {backend}"),
            Self::Kept { backend: None } => f.write_str("the connection goes to no Service"),
            Self::Lost { backend } => write!(f, "{backend} does not serve this connection any more"),
            Self::Route { dst, matched: Some((prefix, origin)), way } => {
                write!(f, "{dst} by {prefix} ({}): {way}", named(*origin))
            }
            Self::Route { dst, matched: None, way } => write!(f, "{dst}: {way}"),
            Self::ToItself => f.write_str("from an address to itself: no policy is asked"),
            Self::FromNode => f.write_str("from the node itself: its pods' policies are not asked"),
            Self::Unrestricted { endpoint: Some(endpoint) } => write!(f, "nothing restricts {endpoint}"),
            Self::Unrestricted { endpoint: None } => f.write_str("no endpoint of this node: not judged here"),
            Self::Judged { endpoint, allowed, rule, name } => {
                f.write_str(if *allowed { "allowed by " } else { "denied by " })?;
                match name.as_str() {
                    "" => write!(f, "rule {rule} of {endpoint}"),
                    name => write!(f, "{name} (rule {rule}) of {endpoint}"),
                }
            }
            Self::Unmatched { endpoint, rules, policies } => unmatched(endpoint, *rules, policies, f),
            Self::OtherWay => {
                f.write_str("it opens no connection: is it the answer of one that may be opened?")
            }
            Self::Link { port, length, mtu, stop } => {
                write!(f, "{length} bytes to {port}, whose MTU is {mtu}")?;
                match stop {
                    Some(reason) => {
                        f.write_str("; ")?;
                        dropped(*reason, f)
                    }
                    None => Ok(()),
                }
            }
            Self::KeepsSource => f.write_str("it keeps its source"),
            Self::Source { returns, source, ports: (first, last), chosen } => {
                let why =
                    if *returns { "so that its answers come back here" } else { "it leaves the cluster" };
                write!(f, "{why}: source {source}, ")?;
                match chosen {
                    Some(port) => write!(f, "port {port} of {first}-{last}"),
                    None => write!(f, "a port of {first}-{last}"),
                }
            }
            Self::Becomes { src, dst } => write!(f, "from {src} to {dst}"),
            Self::Endpoint { mac } => write!(f, "the endpoint itself, {mac}"),
            Self::Neighbour { next_hop, mac: Some(mac) } => write!(f, "{next_hop} is {mac}"),
            Self::Neighbour { next_hop, mac: None } => {
                write!(f, "{next_hop} is asked for its MAC, and the packet waits")
            }
            Self::Verdict { verdict, port } => verdict_words(*verdict, port.as_deref().unwrap_or("-"), f),
        }
    }
}

/// Policies that a trace names; there may be hundreds.
const NAMED: usize = 4;

fn unmatched(endpoint: &str, rules: usize, policies: &[String], f: &mut Formatter<'_>) -> fmt::Result {
    match rules {
        0 => return write!(f, "denied: {endpoint} has a policy, and no rule that allows anything"),
        1 => write!(f, "denied: the one rule of {endpoint} does not match")?,
        _ => write!(f, "denied: none of the {rules} rules of {endpoint} matches")?,
    }
    let Some((first, others)) = policies.split_first() else { return Ok(()) };
    write!(f, " ({first}")?;
    others.iter().take(NAMED - 1).try_for_each(|policy| write!(f, ", {policy}"))?;
    match policies.len().saturating_sub(NAMED) {
        0 => f.write_str(")"),
        more => write!(f, " and {more} more)"),
    }
}

fn verdict_words(verdict: Verdict, port: &str, f: &mut Formatter<'_>) -> fmt::Result {
    match verdict {
        Verdict::Forward(Output::Port(_)) => write!(f, "forwarded by port {port}"),
        Verdict::Forward(Output::Neighbour { next_hop, .. }) => {
            write!(f, "forwarded by port {port} to {next_hop}")
        }
        Verdict::Drop(reason) | Verdict::Denied { reason, .. } => dropped(reason, f),
        Verdict::Consume(reason) => write!(f, "taken by the router as {}", reason.name()),
        Verdict::Hold(_) => f.write_str("it waits for the first fragment of its packet"),
        Verdict::Answer { fate: Fate::Dropped(reason), .. } => {
            dropped(reason, f)?;
            write!(f, "; its source is told by port {port}")
        }
        Verdict::Answer { fate: Fate::Consumed(reason), .. } => {
            write!(f, "answered by the router as {}, by port {port}", reason.name())
        }
    }
}
