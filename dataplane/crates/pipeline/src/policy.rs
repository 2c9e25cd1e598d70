//! Policy step: may this sender talk to that receiver? Enforced where the pod is, for what leaves it and for what reaches it.
//!
//! It sees the chosen backend, not the Service, and the client's own address, not the one that a masquerade gives it. Answers are not
//! judged: the connection was, by its first packet.

use std::net::IpAddr;

use tables::{Endpoint, EndpointKind, NetworkId, RuleVerdict, Tables, Target};

use crate::DropReason;
use crate::burst::{Ingress, Side};
use crate::connection::Ends;
use crate::witness::{Outcome, Witness};

/// The rules that allowed a connection, out of the sender and into the receiver; 0 is none.
pub(crate) type Rules = [u32; 2];

/// The endpoints of this node that a connection is between.
#[derive(Clone, Copy)]
pub(crate) struct Parties<'t> {
    pub(crate) sender: Option<&'t Endpoint>,
    pub(crate) receiver: Option<&'t Endpoint>,
}

impl<'t> Parties<'t> {
    /// Of a packet, or of the connection that it belongs to.
    pub(crate) fn of(tables: &'t Tables, ingress: &Ingress<'t>, ends: &Ends) -> Self {
        let [sender, receiver] = [ends.src, ends.dst].map(|addr| party(tables, ingress, addr));
        Self { sender, receiver }
    }

    const fn reversed(self) -> Self {
        Self { sender: self.receiver, receiver: self.sender }
    }
}

/// The endpoint of this node that has the address: most often the one that the packet came from.
#[inline]
pub(crate) fn party<'t>(tables: &'t Tables, ingress: &Ingress<'t>, addr: IpAddr) -> Option<&'t Endpoint> {
    let has = |endpoint: &&Endpoint| endpoint.addresses.contains(&addr);
    if let Side::Endpoint(own) = ingress.side
        && has(&own)
    {
        return Some(own);
    }
    match tables.lookup(ingress.network, addr)? {
        // A route may lead others to the host's port; what is asked is whose address it is.
        Target::Endpoint(id) => tables.endpoint(id).filter(has),
        _ => None,
    }
}

/// Judges a connection by its first packet as it goes on: after the choice of a backend, before any change of the source.
pub(crate) fn judge(
    tables: &Tables,
    ends: &Ends,
    parties: Parties<'_>,
    witness: &mut impl Witness,
) -> Result<Rules, DropReason> {
    let network = NetworkId(ends.network);
    let Parties { sender, receiver } = parties;
    let mut rules = [0, 0];
    if ends.src == ends.dst {
        // A pod reaches itself, also through a Service.
        witness.note("policy", || Outcome::ToItself);
        return Ok(rules);
    }
    let egress = sender.and_then(|own| tables.policy(own.id)?.egress.as_deref());
    if egress.is_none() {
        witness.note("egress", || Outcome::unrestricted(sender));
    }
    if let Some(egress) = egress {
        let peer = tables.identity(network, ends.dst);
        let decision = egress.decide(peer, ends.protocol, ends.dst_port);
        witness.note("egress", || Outcome::judged(sender, peer, decision));
        if decision.verdict == RuleVerdict::Deny {
            return Err(DropReason::PolicyEgress);
        }
        rules[0] = decision.rule.unwrap_or(0);
    }
    // What the node itself sends reaches its pods: the kubelet's probes (Kubernetes, NetworkPolicy).
    let from_node = sender.is_some_and(|own| own.kind == EndpointKind::Host);
    let ingress = receiver.and_then(|own| tables.policy(own.id)?.ingress.as_deref());
    if ingress.is_none() {
        witness.note("ingress", || Outcome::unrestricted(receiver));
    } else if from_node {
        witness.note("ingress", || Outcome::FromNode);
    }
    if let Some(ingress) = ingress.filter(|_| !from_node) {
        let peer = tables.identity(network, ends.src);
        let decision = ingress.decide(peer, ends.protocol, ends.dst_port);
        witness.note("ingress", || Outcome::judged(receiver, peer, decision));
        if decision.verdict == RuleVerdict::Deny {
            return Err(DropReason::PolicyIngress);
        }
        rules[1] = decision.rule.unwrap_or(0);
    }
    Ok(rules)
}

/// Judges a connection that began before it was known: in the other direction too, and it may go on if either allows it.
pub(crate) fn judge_either(
    tables: &Tables,
    ends: &Ends,
    parties: Parties<'_>,
    witness: &mut impl Witness,
) -> Result<Rules, DropReason> {
    judge(tables, ends, parties, witness).or_else(|denied| {
        witness.note("policy", || Outcome::OtherWay);
        judge(tables, &ends.reversed(), parties.reversed(), witness).map_err(|_| denied)
    })
}
