//! What would become of a packet, step by step, and why. Nothing is changed, and no flow is made.
//!
//! The packet in question is built, and goes the path with a witness at its side: the very functions that decide packets decide it, on a
//! copy that nobody sends. Only what happens in a race, or for want of room in the flow table, cannot be told before.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use flow::{Direction, Flows, Local, Seat};
use tables::{NetworkId, PortId, Tables};

use crate::adjacency::Adjacencies;
use crate::burst::{Halt, Hop, Ingress, Side, State, Station, Turn, Work, Works};
use crate::connection::{Ends, ends, signal};
use crate::decide::{Decision, Desk, Plan, Renewal, Source, Subject, replies};
use crate::limit::{Limiter, Rates};
use crate::lookup::{Ready, Replay, apart, ready};
use crate::tracker::{Known, Tracker};
use crate::witness::{Outcome, Step, Stop, Witness, port_of};
use crate::{
    Buffer, DropReason, Offload, Output, Packet, Tick, VecBuffer, Verdict, answer, icmp_error, parse,
    rewrite, route, source,
};

mod frame;

/// The packet that is asked about: whole, and the first of its connection as far as it can show that (a TCP SYN, an SCTP INIT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Routing domain.
    pub network: NetworkId,
    /// Who sends it.
    pub src: IpAddr,
    /// Of the same family.
    pub dst: IpAddr,
    /// IP protocol number. ICMP is an echo request.
    pub protocol: u8,
    /// Of an echo request, its identifier.
    pub src_port: u16,
    /// Not of an echo request.
    pub dst_port: u16,
    /// The port that it comes in by; `None`: the one that leads to its source, or else an uplink.
    pub in_port: Option<PortId>,
    /// Bytes of the IP packet, if it is longer than its headers.
    pub length: u16,
}

/// What it is decided by.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// Of the current generation.
    pub tables: &'a Tables,
    /// Read while workers write: a flow that ends meanwhile may be told of by halves.
    pub flows: &'a Arc<Flows>,
    /// Of all links.
    pub adjacencies: &'a Adjacencies,
    /// As the workers have it.
    pub now: Tick,
    /// As [`RouterConfig::fragment`](crate::RouterConfig::fragment).
    pub fragment: bool,
}

/// Says what would become of the packet. The last step is always the [`Outcome::Verdict`]; none at all if there is no such packet, since
/// its addresses are of two families.
#[must_use]
pub fn trace(ground: &Ground<'_>, question: &Question) -> Vec<Step> {
    let mut steps = Vec::new();
    if question.src.is_ipv4() != question.dst.is_ipv4() {
        return steps;
    }
    let tables = ground.tables;
    let uplink = || tables.interfaces().find(|interface| interface.network == question.network);
    let port = question
        .in_port
        .or_else(|| port_of(tables, question.network, question.src))
        .or_else(|| uplink().map(|interface| interface.port));
    let Some(port) = port else {
        steps.note("port", || Outcome::FromNowhere { src: question.src });
        return ended(tables, steps, Verdict::Drop(DropReason::PortIdle));
    };
    let bytes = frame::build(tables, port, question);
    let buffer = VecBuffer::with_capacity(&bytes, bytes.len().max(2048));
    trace_packet(ground, &mut Packet { buffer, in_port: port, offload: Offload::Done }, steps)
}

/// The same of a packet as it is, behind the steps that are given; it becomes what would leave. Fragments are taken for whole.
#[must_use]
pub fn trace_packet<B: Buffer>(
    ground: &Ground<'_>,
    packet: &mut Packet<B>,
    mut steps: Vec<Step>,
) -> Vec<Step> {
    let &Ground { tables, flows, adjacencies, now, fragment } = ground;
    steps.note("port", || from(tables, packet.in_port));
    let desk = Desk { tables, adjacencies, now: now.seconds(), tick: now, fragment };
    // On no worker's seat: nothing is made or ended here, and nobody waits for us.
    let tracker = Tracker { flows: Arc::clone(flows), local: Local::new(Seat(usize::MAX)) };
    let packets = std::slice::from_mut(packet);
    let mut works = Works::new();
    let mut verdict = Verdict::Drop(DropReason::PortIdle);
    parse::burst(tables, packets, 0, &mut works, |_, reason| verdict = Verdict::Drop(reason));
    if let (true, Verdict::Drop(reason)) = (works.is_empty(), verdict) {
        steps.note("frame", || Outcome::NotTaken(reason));
    }
    for work in &mut works {
        consider(&desk, &tracker, &packets[0], work, &mut steps);
    }
    source::burst(packets, &mut works);
    route::burst(&desk, packets, &mut works);
    rewrite::burst(adjacencies, packets, &mut works);
    answer::burst(&desk, packets, &mut works, &mut ArrayVec::new(), &mut |_| {});
    let plenty = Rates { per_second: 1, burst: 1, port_per_second: 1, port_burst: 1 };
    icmp_error::burst(tables, now, &mut Limiter::new(plenty), packets, &mut works);
    if let Some(Work { state: State::Done(done), .. }) = works.first() {
        verdict = *done;
    }
    ended(tables, steps, verdict)
}

fn ended(tables: &Tables, mut steps: Vec<Step>, verdict: Verdict) -> Vec<Step> {
    let output = match verdict {
        Verdict::Forward(output) | Verdict::Answer { output, .. } => Some(output),
        Verdict::Drop(_) | Verdict::Denied { .. } | Verdict::Hold(_) | Verdict::Consume(_) => None,
    };
    let port = output.map(Output::port).and_then(|id| tables.port(id)).map(|port| port.name.clone());
    steps.note("verdict", || Outcome::Verdict { verdict, port });
    steps
}

fn from(tables: &Tables, id: PortId) -> Outcome {
    let Some(Ingress { port, side, .. }) = Ingress::of(tables, id) else { return Outcome::PortIdle };
    let port = port.name.clone();
    match side {
        Side::Endpoint(endpoint) => Outcome::FromEndpoint { port, endpoint: endpoint.name.clone() },
        Side::Uplink(_) => Outcome::FromUplink { port },
    }
}

/// As `lookup`, a packet at a time.
fn consider<'t, B: Buffer>(
    desk: &Desk<'_, 't>,
    tracker: &Tracker,
    packet: &Packet<B>,
    work: &mut Work<'t>,
    steps: &mut Vec<Step>,
) {
    let head = packet.buffer.head();
    let Some(ends) = ends(&work.parsed, head, work.ingress.network) else {
        steps.note("flow", || Outcome::Connectionless);
        steps.note("source", || vouched(source::check(&work.ingress, &work.parsed, head)));
        apart(desk, tracker, work, packet.offload, head);
        return;
    };
    let subject = Subject {
        ingress: &work.ingress,
        parsed: &work.parsed,
        offload: packet.offload,
        head,
        ends: &ends,
        frontend: None,
        signal: signal(&work.parsed, head),
    };
    let known = tracker.find(&ends).filter(|known| known.life.is_live());
    work.state = match replayed(desk, tracker, &subject, known, steps) {
        Some(replay) => State::Replay(replay),
        None => match decided(desk, tracker, &subject, known, steps) {
            Ok((hop, turn)) => {
                changed(&ends, turn, steps);
                steps.note("neighbour", || taker(desk.adjacencies, &hop));
                State::Onward(hop, turn.map(Turn::Ends))
            }
            Err(halt) => halt.into(),
        },
    };
}

fn replayed(
    desk: &Desk<'_, '_>,
    tracker: &Tracker,
    subject: &Subject<'_, '_>,
    known: Option<Known>,
    steps: &mut Vec<Step>,
) -> Option<Replay> {
    let Some(known) = known else {
        steps.note("flow", || Outcome::NoFlow);
        return None;
    };
    let (reply, state) = (known.direction() == Direction::Reply, known.life.state().name());
    let Ready { action, adjacency, index } = match ready(desk, tracker, subject, known) {
        Ok(ready) => ready,
        Err(why) => {
            steps.note("flow", || Outcome::Anew { reply, state, why });
            return None;
        }
    };
    let (generation, fresh) = (action.generation(), action.generation() == desk.tables.stamp());
    steps.note("flow", || Outcome::Holds { reply, state, generation, fresh });
    let turn = action.is_translated().then(|| tracker.becomes(known));
    changed(subject.ends, turn, steps);
    steps.note("neighbour", || match desk.adjacencies.next_hop(index) {
        Some(next_hop) => {
            Outcome::Neighbour { next_hop, mac: adjacency.is_resolved().then(|| adjacency.dst()) }
        }
        None => Outcome::Endpoint { mac: adjacency.dst() },
    });
    Some(Replay { adjacency, index, turn })
}

fn decided<'t>(
    desk: &Desk<'_, 't>,
    tracker: &Tracker,
    subject: &Subject<'_, 't>,
    known: Option<Known>,
    steps: &mut Vec<Step>,
) -> Decision<'t> {
    let checked = source::check(subject.ingress, subject.parsed, subject.head);
    steps.note("source", || vouched(checked));
    checked?;
    if let Some(known) = known {
        match desk.renew(tracker, subject, known, steps) {
            Renewal::Kept(hop, _) => {
                let translated = tracker.binding(known).is_translated();
                return Ok((hop, translated.then(|| tracker.becomes(known))));
            }
            Renewal::Ended(halt) | Renewal::Refused(halt) => return Err(halt),
            Renewal::Replaced => {}
        }
    }
    let plan = desk.plan(tracker, subject, steps)?;
    let translated = plan.is_translated(subject.ends);
    let old = known.map(|known| tracker.origin(known));
    // As the flow table does: the first that no other flow has, and the one that is replaced is gone by then.
    let free = |reply: &Ends| {
        reply != subject.ends && tracker.find(reply).is_none_or(|other| Some(tracker.origin(other)) == old)
    };
    let (reply, mut ports) = replies(&plan, translated);
    let own = reply;
    let reply = ports.find_map(|port| Some(Ends { dst_port: port, ..reply }).filter(free));
    let reply = reply.or_else(|| tracker.closed(&own, subject.signal).map(|_| own));
    steps.note("masquerade", || source_of(&plan, reply));
    let Some(reply) = reply else {
        let reason = plan.without_reply();
        steps.note("flow", || Outcome::NoReply(reason));
        return Err(reason.into());
    };
    Ok((plan.hop, translated.then(|| reply.reversed())))
}

fn vouched(checked: Result<(), Halt>) -> Outcome {
    match checked {
        Ok(()) => Outcome::SourceRight,
        Err(halt) => Outcome::SourceStops(Stop::of(&halt)),
    }
}

fn source_of(plan: &Plan<'_>, reply: Option<Ends>) -> Outcome {
    match plan.source {
        None => Outcome::KeepsSource,
        Some(Source { addr, ports, returns }) => {
            Outcome::Source { returns, source: addr, ports, chosen: reply.map(|reply| reply.dst_port) }
        }
    }
}

fn changed(ends: &Ends, turn: Option<Ends>, steps: &mut Vec<Step>) {
    if let Some(becomes) = turn.filter(|becomes| becomes != ends) {
        steps.note("translation", || Outcome::Becomes {
            src: SocketAddr::new(becomes.src, becomes.src_port),
            dst: SocketAddr::new(becomes.dst, becomes.dst_port),
        });
    }
}

fn taker(adjacencies: &Adjacencies, hop: &Hop<'_>) -> Outcome {
    match hop.to {
        Station::Endpoint(endpoint) => Outcome::Endpoint { mac: endpoint.mac },
        Station::Sender(mac) => Outcome::Endpoint { mac },
        Station::Peer(next_hop, mac) => Outcome::Neighbour { next_hop, mac: Some(mac) },
        Station::NextHop(next_hop) => {
            Outcome::Neighbour { next_hop, mac: adjacencies.mac_of(hop.port.id, next_hop) }
        }
    }
}
