//! What becomes of a packet whose flow is new, or whose decision no longer holds: service, policy, route, and then a flow that
//! remembers it.
//!
//! A plan is made without a change to anything, so that `trace` can ask for one. Carrying it out makes the flow. Two things always hold: a
//! packet that needs translation is translated or dropped by name; and a flow keeps its translation when its decision is made anew.

use std::net::IpAddr;

use flow::{Action, Binding, Direction, Seconds, Signal, State as FlowState};
use tables::{Asker, Endpoint, EndpointKind, Frontend, NetworkId, PortId, PortRole, Tables};
use wire::Parsed;

use crate::adjacency::Adjacencies;
use crate::affinity::Affinity;
use crate::burst::{Halt, Hop, Ingress, Side, Station};
use crate::connection::{Ends, has_ports, has_states};
use crate::icmp_error::Complaint;
use crate::policy::{self, Parties, Rules};
use crate::service::{self, Choice};
use crate::tracker::{Known, Made, Proposal, Tracker};
use crate::witness::{Outcome, Witness};
use crate::{DropReason, FlowCounts, Offload, Tick, route, tunnel};

/// What deciding rests on, the same for all packets of a burst.
pub(crate) struct Desk<'a, 't> {
    pub(crate) tables: &'t Tables,
    pub(crate) adjacencies: &'a Adjacencies,
    pub(crate) now: Seconds,
    /// The same, for what waits shorter.
    pub(crate) tick: Tick,
    /// Whether outputs fragment what may be.
    pub(crate) fragment: bool,
}

/// A packet to be decided.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'p, 't> {
    pub(crate) ingress: &'p Ingress<'t>,
    pub(crate) parsed: &'p Parsed,
    pub(crate) offload: Offload,
    pub(crate) head: &'p [u8],
    pub(crate) ends: &'p Ends,
    /// The frontend that it is sent to, if that was looked for already.
    pub(crate) frontend: Option<Option<&'t Frontend>>,
    pub(crate) signal: Signal,
}

/// What would be done.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'t> {
    pub(crate) hop: Hop<'t>,
    /// The packet's ends after the choice of a backend, before any change of the source.
    pub(crate) went: Ends,
    /// What it gets instead of its own.
    pub(crate) source: Option<Source>,
    pub(crate) rules: Rules,
    /// Of a client that is to stay with its backend.
    pub(crate) affinity: Option<Affinity>,
}

/// A source that is not the sender's.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) addr: IpAddr,
    /// To choose from, first and last.
    pub(crate) ports: (u16, u16),
    /// Whether it is for answers to come by this router, which is to translate them; or else for the world outside, which knows no pod.
    pub(crate) returns: bool,
}

impl Plan<'_> {
    /// Whether packets change on their way, given the ends that they came with.
    pub(crate) fn is_translated(&self, ends: &Ends) -> bool {
        self.went != *ends || self.source.is_some()
    }

    /// Why there is no flow, where each of the answers that it might have is another flow's.
    pub(crate) const fn without_reply(&self) -> DropReason {
        if self.source.is_some() { DropReason::SourcePortsExhausted } else { DropReason::FlowClash }
    }
}

/// What becomes of a known flow, and of its packet, when it is decided anew.
pub(crate) enum Renewal<'t> {
    /// It goes on, translated as it is.
    Kept(Hop<'t>, Rules),
    /// It has ended, and the packet is the first of another.
    Replaced,
    /// It has ended, and the packet goes nowhere.
    Ended(Halt),
    /// It stays, and this packet goes nowhere.
    Refused(Halt),
}

/// What is done: where the packet goes, and what its ends become if they change.
pub(crate) type Decision<'t> = Result<(Hop<'t>, Option<Ends>), Halt>;

/// Ports that are tried for a translated source, before they count as exhausted.
const PORT_TRIES: u16 = 128;

impl<'t> Desk<'_, 't> {
    /// A packet of no known flow.
    pub(crate) fn plan(
        &self,
        tracker: &Tracker,
        subject: &Subject<'_, 't>,
        witness: &mut impl Witness,
    ) -> Result<Plan<'t>, Halt> {
        let Subject { ingress, parsed, offload, head, ends, frontend, signal } = subject;
        let tables = self.tables;
        let mut went = **ends;
        let sender = policy::party(tables, ingress, ends.src);
        let asker = if sender.is_some() { Asker::Own } else { Asker::Other };
        let mut affinity = None;
        match service::choose((tables, tracker, self.now), ends, asker, *frontend, witness) {
            Choice::Backend(addr, port, entry) => (went.dst, went.dst_port, affinity) = (addr, port, entry),
            Choice::Denied => return Err(DropReason::ServiceSourceDenied.into()),
            Choice::NoBackend { drops: true } => return Err(DropReason::NoLocalBackend.into()),
            Choice::NoBackend { drops: false } => {
                return Err(Halt::Refused(DropReason::NoBackend, Complaint::PortUnreachable));
            }
            // An answer whose connection nobody remembers: it would need the Service's address as its source, and nobody
            // knows which.
            Choice::Plain
                if has_states(ends.protocol)
                    && *signal != Signal::Open
                    && tables.is_backend(NetworkId(ends.network), ends.src, ends.src_port, ends.protocol) =>
            {
                witness.note("service", || Outcome::UnboundReply);
                return Err(DropReason::ReplyUnbound.into());
            }
            Choice::Plain => {}
        }
        let translated = (went.dst, went.dst_port) != (ends.dst, ends.dst_port);
        let hop = route::destination(tables, ingress, parsed, head, went.dst);
        witness.note("route", || Outcome::route(tables, ingress, went.dst, hop));
        let hop = hop?;
        if tunnel::forbids(tables, ingress, &went, &hop) {
            return Err(DropReason::TunnelPortClosed.into());
        }
        let parties = Parties { sender, receiver: hop.holder(went.dst), by: Some(ingress.port.id) };
        let rules = if has_states(ends.protocol) && *signal != Signal::Open {
            policy::judge_either(tables, &went, parties, witness)
        } else {
            policy::judge(tables, &went, parties, witness)
        };
        let rules = rules.map_err(Halt::from)?;
        let left = route::onward(self, ingress, parsed, *offload, hop, translated);
        witness.note("link", || Outcome::link(&hop, self.mtu(&hop), parsed, *offload, left));
        let hop = left?;
        let source = self.source(ingress, &went, sender, &hop, translated)?;
        Ok(Plan { hop, went, source, rules, affinity })
    }

    /// Makes the flow that a plan asks for.
    pub(crate) fn carry_out(
        &self,
        tracker: &mut Tracker,
        subject: &Subject<'_, 't>,
        plan: &Plan<'t>,
        counts: &mut FlowCounts,
    ) -> Decision<'t> {
        let Subject { ends, signal, ingress, .. } = subject;
        let translated = plan.is_translated(ends);
        let proposal = Proposal {
            forward: ends,
            state: FlowState::first(has_states(ends.protocol), *signal),
            binding: Binding {
                owner: ingress.port.id.0,
                service: plan.went != **ends,
                masqueraded: plan.source.is_some(),
                joined: has_states(ends.protocol) && *signal != Signal::Open,
                since: self.now,
            },
            action: self.action(&plan.hop, ingress, translated),
            rules: plan.rules,
        };
        let (reply, ports) = replies(plan, translated);
        let mut made = tracker.make(&proposal, &reply, ports, self.now);
        if matches!(made, Made::ReplyTaken)
            && plan.source.is_none()
            && let Some(closed) = tracker.closed(&reply, *signal)
        {
            tracker.end(closed);
            made = tracker.make(&proposal, &reply, std::iter::once(reply.dst_port), self.now);
        }
        match made {
            Made::New(known) => {
                counts.made += 1;
                if let Some(affinity) = &plan.affinity {
                    tracker.remember(affinity, ingress.port.id.0, self.now);
                }
                Ok((plan.hop, translated.then(|| tracker.becomes(known))))
            }
            // Another worker was quicker: its choice holds, if it is one to be kept.
            Made::Exists(known) if known.life.is_live() => match self.renew(tracker, subject, known, &mut ())
            {
                Renewal::Kept(hop, rules) => Ok(self.keep(tracker, subject, known, hop, rules)),
                _ => Err(DropReason::FlowContended.into()),
            },
            Made::Exists(_) | Made::Contended if translated => Err(DropReason::FlowContended.into()),
            Made::Full if translated => Err(DropReason::FlowTableFull.into()),
            Made::ReplyTaken => Err(plan.without_reply().into()),
            // Nothing to translate: this packet goes, and the next one is decided again.
            Made::Exists(_) | Made::Contended | Made::Full => {
                counts.untracked += 1;
                Ok((plan.hop, None))
            }
        }
    }

    /// A packet of no known flow: plan, and carry it out.
    pub(crate) fn decide_new(
        &self,
        tracker: &mut Tracker,
        subject: &Subject<'_, 't>,
        counts: &mut FlowCounts,
    ) -> Decision<'t> {
        counts.decided += 1;
        let plan = self.plan(tracker, subject, &mut ())?;
        self.carry_out(tracker, subject, &plan, counts)
    }

    /// A packet of a known flow that cannot simply do as the last one did.
    pub(crate) fn decide_known(
        &self,
        tracker: &mut Tracker,
        subject: &Subject<'_, 't>,
        known: Known,
        counts: &mut FlowCounts,
    ) -> Decision<'t> {
        let renewal = self.renew(tracker, subject, known, &mut ());
        if matches!(renewal, Renewal::Replaced | Renewal::Ended(_)) {
            tracker.end(known);
        }
        match renewal {
            Renewal::Replaced => self.decide_new(tracker, subject, counts),
            Renewal::Ended(halt) | Renewal::Refused(halt) => {
                counts.decided += 1;
                Err(halt)
            }
            Renewal::Kept(hop, rules) => {
                counts.decided += 1;
                Ok(self.keep(tracker, subject, known, hop, rules))
            }
        }
    }

    /// Remembers what has been decided anew for a known flow.
    fn keep(
        &self,
        tracker: &Tracker,
        subject: &Subject<'_, 't>,
        known: Known,
        hop: Hop<'t>,
        rules: Rules,
    ) -> (Hop<'t>, Option<Ends>) {
        let translated = tracker.binding(known).is_translated();
        let old = tracker.decided(known);
        tracker.decide(known, old, self.action(&hop, subject.ingress, translated));
        tracker.set_rules(known, rules);
        tracker.touch(known, subject.signal, self.now);
        (hop, translated.then(|| tracker.becomes(known)))
    }

    /// What becomes of a known flow that is decided anew, without a change to anything.
    pub(crate) fn renew(
        &self,
        tracker: &Tracker,
        subject: &Subject<'_, 't>,
        known: Known,
        witness: &mut impl Witness,
    ) -> Renewal<'t> {
        let Subject { ingress, parsed, offload, head, signal, .. } = subject;
        if *signal == Signal::Open && known.life.state().is_over() {
            // The same ends, another connection.
            return Renewal::Replaced;
        }
        let (first, went) = tracker.origin(known);
        let ends = went_before_masquerade(tracker, known, &first, &went);
        let keeps = service::keeps(self.tables, &first, &ends);
        witness.note("service", || Outcome::bound(&first, &ends, keeps));
        if !keeps {
            return match known.direction() {
                Direction::Forward => Renewal::Replaced,
                // Its answer, from a backend that serves no more: nobody waits for it.
                Direction::Reply => Renewal::Ended(DropReason::ReplyUnbound.into()),
            };
        }
        let binding = tracker.binding(known);
        let parties = Parties::of(self.tables, ingress, &ends, PortId(binding.owner));
        let judged = if binding.joined {
            policy::judge_either(self.tables, &ends, parties, witness)
        } else {
            policy::judge(self.tables, &ends, parties, witness)
        };
        let rules = match judged {
            Ok(rules) if known.direction() == Direction::Forward && parties.is_feigned(ingress) => {
                // Not the node's own packet, though its connection may be: that goes on, by the node's port.
                match policy::judge(
                    self.tables,
                    &ends,
                    Parties { by: Some(ingress.port.id), ..parties },
                    witness,
                ) {
                    Ok(_) => rules,
                    Err(denial) => return Renewal::Refused(denial.into()),
                }
            }
            Ok(rules) => rules,
            // A policy that forbids it ends it. A connection with states leaves its record behind: without one its next packet would be
            // taken for what began before it was known, and be judged in the other direction too.
            Err(denial) if has_states(ends.protocol) => return Renewal::Refused(denial.into()),
            Err(denial) => return Renewal::Ended(denial.into()),
        };
        let dst = tracker.becomes(known).dst;
        let hop = route::destination(self.tables, ingress, parsed, head, dst);
        witness.note("route", || Outcome::route(self.tables, ingress, dst, hop));
        let hop = match hop {
            Ok(hop) if tunnel::forbids(self.tables, ingress, &ends, &hop) => {
                return Renewal::Ended(DropReason::TunnelPortClosed.into());
            }
            Ok(hop) => hop,
            // The address has been withdrawn.
            Err(state @ Halt::Refused(DropReason::Unreachable, _)) => return Renewal::Ended(state),
            Err(state) => return Renewal::Refused(state),
        };
        let left = route::onward(self, ingress, parsed, *offload, hop, binding.is_translated());
        witness.note("link", || Outcome::link(&hop, self.mtu(&hop), parsed, *offload, left));
        match left {
            Ok(hop) => Renewal::Kept(hop, rules),
            Err(state) => Renewal::Refused(state),
        }
    }

    /// Whether a decision made at `since` still holds for this flow.
    pub(crate) fn holds(&self, tracker: &Tracker, known: Known, since: u32) -> bool {
        tracker.unchanged(known, self.tables, since)
    }

    /// The longest packet that leaves by a hop: what its link takes, or the way to a tunnel's end carries.
    #[inline]
    pub(crate) fn mtu(&self, hop: &Hop<'_>) -> u16 {
        match hop.to {
            Station::Peer(addr, _) => self.adjacencies.peer_mtu(hop.port, addr, self.now),
            Station::Endpoint(_) | Station::NextHop(_) | Station::Sender(_) => hop.port.mtu,
        }
    }

    fn action(&self, hop: &Hop<'t>, ingress: &Ingress<'_>, translated: bool) -> Action {
        let port = hop.port;
        let adjacency = match hop.to {
            Station::Endpoint(_) => self.adjacencies.endpoint(port.id),
            Station::NextHop(addr) => self.adjacencies.neighbour(port.id, port.mac, port.mtu, addr),
            Station::Peer(addr, mac) => self.adjacencies.peer(port, addr, mac, self.now),
            Station::Sender(_) => None,
        };
        let new = |adjacency| Action::new(self.tables.stamp(), adjacency, ingress.port.id.0, translated);
        adjacency.map_or(Action::NONE, new)
    }

    /// The source that a packet gets instead of its own: the router's, or for want of it the gateway's, where it would come back to its
    /// sender; where it leaves the cluster by an uplink, the one that is configured; and the router's where a backend would answer by another
    /// way.
    fn source(
        &self,
        ingress: &Ingress<'_>,
        went: &Ends,
        sender: Option<&Endpoint>,
        hop: &Hop<'_>,
        translated: bool,
    ) -> Result<Option<Source>, DropReason> {
        let masquerade = || self.tables.masquerade(ingress.network);
        if translated && went.src == went.dst && hop.holder(went.dst).is_some() {
            let router = self.tables.router();
            let gateway =
                || if went.src.is_ipv4() { router.gateway4.into() } else { IpAddr::V6(router.gateway6) };
            // To a link-local address a pod may answer from one of its own (RFC 6724), which nobody waits for.
            let addr = masquerade().and_then(|own| own.service_source_for(went.dst)).unwrap_or_else(gateway);
            return Ok(Some(Source { addr, ports: (1024, u16::MAX), returns: true }));
        }
        let from_pod = matches!(ingress.side, Side::Endpoint(own) if own.kind == EndpointKind::Pod);
        let outside = hop.port.role == PortRole::Uplink && !hop.inside;
        let returns = translated && !is_answered_here(sender, hop);
        if !(returns || from_pod && outside) {
            return Ok(None);
        }
        let masquerade = masquerade();
        let of_outside = masquerade.filter(|_| outside).and_then(|own| own.source_for(went.dst));
        let of_router = || masquerade.filter(|_| returns).and_then(|own| own.service_source_for(went.dst));
        match (of_outside.or_else(of_router), masquerade) {
            (Some(addr), Some(masquerade)) => Ok(Some(Source { addr, ports: masquerade.ports, returns })),
            _ if returns => Err(DropReason::ServiceSourceUnknown),
            _ => Ok(None),
        }
    }
}

/// Whether the answers of a backend there come by this router, as what pods of this node send and are sent does. The node itself is another
/// matter: others may answer it by a network that it has beside ours.
fn is_answered_here(sender: Option<&Endpoint>, hop: &Hop<'_>) -> bool {
    let is_pod = |own: &Endpoint| own.kind == EndpointKind::Pod;
    matches!(hop.to, Station::Endpoint(own) if is_pod(own)) || sender.is_some_and(is_pod)
}

/// The ends that policy sees: the backend's, and the sender's own.
fn went_before_masquerade(tracker: &Tracker, known: Known, first: &Ends, went: &Ends) -> Ends {
    if tracker.binding(known).is_translated() {
        Ends { src: first.src, src_port: first.src_port, ..*went }
    } else {
        *went
    }
}

/// The ends of the answers to a plan's packets, and the destination ports that they may have instead, in the order in which they
/// are to be tried.
#[inline]
pub(crate) fn replies(plan: &Plan<'_>, translated: bool) -> (Ends, impl Iterator<Item = u16> + use<>) {
    let went = plan.went;
    let own = went.src_port;
    let (src, (first, last)) =
        plan.source.map_or((went.src, (1024, u16::MAX)), |source| (source.addr, source.ports));
    let choice = translated && has_ports(went.protocol);
    // Its own port if it may have that; then from somewhere in the range, which the ends choose.
    let keeps_own = !choice || plan.source.is_none() || (first..=last).contains(&own);
    let span = u32::from(last - first) + 1;
    let others = (0..if choice { PORT_TRIES } else { 0 }).map(move |step| {
        let mixed = u32::from(own).wrapping_mul(0x9e37_79b1) ^ mix(went.src) ^ mix(went.dst).rotate_left(7);
        let at = (mixed >> 8).wrapping_add(u32::from(step)) % span;
        // Below `span`, which is at most 65,536.
        first + u16::try_from(at).unwrap_or(0)
    });
    (Ends { src, ..went }.reversed(), keeps_own.then_some(own).into_iter().chain(others))
}

fn mix(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().wrapping_mul(0x85eb_ca6b),
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            let folded = bits ^ bits >> 64;
            u32::try_from((folded ^ folded >> 32) & 0xffff_ffff).unwrap_or(0).wrapping_mul(0x85eb_ca6b)
        }
    }
}
