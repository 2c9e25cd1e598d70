//! Policy step: may this sender talk to that receiver? Enforced where the pod is, for what leaves it and for what reaches it.
//!
//! It sees the chosen backend, not the Service, and the client's own address, not the one that a masquerade gives it. Answers are not
//! judged: the connection was, by its first packet. Who is at the other end is asked only where rules restrict.

use std::net::IpAddr;

use tables::{Classifier, Endpoint, EndpointKind, NetworkId, PortId, RuleVerdict, Tables, Target};

use crate::burst::{Halt, Ingress, Side, State};
use crate::connection::Ends;
use crate::witness::{Outcome, Witness};
use crate::{DropReason, Verdict};

/// The rules that allowed a connection, out of the sender and into the receiver; 0 is none.
pub(crate) type Rules = [u32; 2];

/// Whose policy forbids a packet.
#[derive(Clone, Copy)]
pub(crate) struct Denial {
    reason: DropReason,
    /// The endpoint's.
    port: PortId,
}

impl From<Denial> for Halt {
    fn from(Denial { reason, port }: Denial) -> Self {
        Self::Done(Verdict::Denied { reason, port })
    }
}

impl From<Denial> for State<'_> {
    fn from(denial: Denial) -> Self {
        Halt::from(denial).into()
    }
}

/// The endpoints of this node that a connection is between.
#[derive(Clone, Copy)]
pub(crate) struct Parties<'t> {
    pub(crate) sender: Option<&'t Endpoint>,
    pub(crate) receiver: Option<&'t Endpoint>,
    /// The port by which its first packet came, if that is known.
    pub(crate) by: Option<PortId>,
}

impl<'t> Parties<'t> {
    /// Of a packet, or of the connection that it belongs to, whose first packet came by that port.
    pub(crate) fn of(tables: &'t Tables, ingress: &Ingress<'t>, ends: &Ends, by: PortId) -> Self {
        let [sender, receiver] = [ends.src, ends.dst].map(|addr| party(tables, ingress, addr));
        Self { sender, receiver, by: Some(by) }
    }

    /// Of the connection that this would be an answer of: its first packet would have come by the port that this one goes to.
    const fn reversed(self) -> Self {
        Self { sender: self.receiver, receiver: self.sender, by: None }
    }

    /// Whether a packet of the node's own connection, from the node by its address, has come by another port than the node's.
    pub(crate) fn is_feigned(&self, ingress: &Ingress<'_>) -> bool {
        self.is_from_node() && self.sender.is_some_and(|own| own.port != ingress.port.id)
    }

    /// Whether this node itself has opened it: by its own port and with an address of its own, since anyone on a link could claim one.
    fn is_from_node(&self) -> bool {
        let came_by = |port| self.by.is_none_or(|by| by == port);
        self.sender.is_some_and(|own| own.kind == EndpointKind::Host && came_by(own.port))
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
) -> Result<Rules, Denial> {
    if ends.src == ends.dst {
        // A pod reaches itself, also through a Service.
        witness.note("policy", || Outcome::ToItself);
        return Ok([0, 0]);
    }
    let Parties { sender, receiver, .. } = parties;
    let mut rules = [0, 0];
    match sender.and_then(|own| Some((own, tables.policy(own.id)?.egress.as_deref()?))) {
        None => witness.note("egress", || Outcome::unrestricted(sender)),
        Some((own, egress)) => {
            let question = Question { tables, ends, peer: ends.dst };
            let rule = question.ask(egress, own, "egress", witness);
            rules[0] = rule.ok_or(Denial { reason: DropReason::PolicyEgress, port: own.port })?;
        }
    }
    match receiver.and_then(|own| Some((own, tables.policy(own.id)?.ingress.as_deref()?))) {
        None => witness.note("ingress", || Outcome::unrestricted(receiver)),
        // What the node itself sends reaches its pods: the kubelet's probes (Kubernetes, NetworkPolicy).
        Some(_) if parties.is_from_node() => witness.note("ingress", || Outcome::FromNode),
        Some((own, ingress)) => {
            let question = Question { tables, ends, peer: ends.src };
            let rule = question.ask(ingress, own, "ingress", witness);
            rules[1] = rule.ok_or(Denial { reason: DropReason::PolicyIngress, port: own.port })?;
        }
    }
    Ok(rules)
}

/// What one direction of an endpoint's policy is asked.
struct Question<'q> {
    tables: &'q Tables,
    ends: &'q Ends,
    /// Who is at the other end.
    peer: IpAddr,
}

impl Question<'_> {
    /// The rule that allows it, 0 if that has no number; [`None`]: it is denied.
    #[inline]
    fn ask(
        &self,
        rules: &Classifier,
        own: &Endpoint,
        direction: &'static str,
        witness: &mut impl Witness,
    ) -> Option<u32> {
        let groups = self.tables.groups(NetworkId(self.ends.network), self.peer);
        let decision = rules.decide(groups, self.ends.protocol, self.ends.dst_port);
        witness.note(direction, || Outcome::judged(own, rules, decision));
        (decision.verdict == RuleVerdict::Allow).then(|| decision.rule.map_or(0, |rule| rule.id))
    }
}

/// Judges a connection that began before it was known: in the other direction too, and it may go on if either allows it.
pub(crate) fn judge_either(
    tables: &Tables,
    ends: &Ends,
    parties: Parties<'_>,
    witness: &mut impl Witness,
) -> Result<Rules, Denial> {
    judge(tables, ends, parties, witness).or_else(|denied| {
        witness.note("policy", || Outcome::OtherWay);
        judge(tables, &ends.reversed(), parties.reversed(), witness).map_err(|_| denied)
    })
}
