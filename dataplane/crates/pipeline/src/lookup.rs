//! Second step: is this a packet of a known flow, whose decision still holds? Then it does as the last one did.
//!
//! In rounds over the burst, with prefetches between: tuples and hashes; buckets; records. What is left over is decided, a packet at a
//! time: it is the first of its flow, or something has changed that its flow rests on, or it is out of the ordinary.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use flow::{Action, Signal};
use tables::{Frontend, Target};
use wire::{Addrs, Fragment};

use crate::address::{is_host, is_link_local, macs};
use crate::adjacency::Adjacency;
use crate::burst::{Side, State, Turn, Work, Works};
use crate::connection::{Ends, ends, following, signal, tracked};
use crate::decide::{Desk, Subject};
use crate::icmp_quote::quoted;
use crate::policy::Parties;
use crate::route::largest;
use crate::tracker::{Known, Tracker};
use crate::{
    BURST, Buffer, DropReason, FlowCounts, FragmentLookup, Fragments, Offload, Packet, Transport, Verdict,
    policy, route, service, source,
};

/// What a packet of a known flow does: leaves by this adjacency, with these ends if they change.
#[derive(Clone, Copy)]
pub(crate) struct Replay {
    pub(crate) adjacency: Adjacency,
    pub(crate) index: u32,
    pub(crate) turn: Option<Ends>,
}

/// What is looked for on behalf of a packet.
struct Sought<'t> {
    ends: Ends,
    hash: u64,
    /// The frontend that it is sent to, if that was looked for already.
    frontend: Option<Option<&'t Frontend>>,
}

/// Finds the flows of a burst, and decides the packets that have none. `transport` is of a later fragment that has waited, if the
/// burst is one.
pub(crate) fn burst<'t, B: Buffer>(
    desk: &Desk<'_, 't>,
    tracker: &mut Tracker,
    fragments: &mut Fragments<Packet<B>>,
    packets: &[Packet<B>],
    transport: Option<Transport>,
    works: &mut Works<'t>,
    counts: &mut FlowCounts,
) {
    let mut found: ArrayVec<Option<Sought<'t>>, BURST> = ArrayVec::new();
    for work in works.iter_mut() {
        let head = packets[work.at].buffer.head();
        let ends = match transport {
            Some(transport) => following(&work.parsed, &transport, work.ingress.network),
            None if work.parsed.fragment == Fragment::Whole => ends(&work.parsed, head, work.ingress.network),
            None => fragment(desk, fragments, work, head),
        };
        found.push(ends.map(|ends| Sought { hash: tracker.prefetch(&ends), ends, frontend: None }));
    }
    for Sought { ends, hash, frontend } in found.iter_mut().flatten() {
        if !tracker.prefetch_record(ends, *hash) {
            // Most likely the first of its flow. The processor walks for several packets at a time, as long as nothing waits.
            let walked = service::frontend(desk.tables, ends);
            walked.into_iter().for_each(|frontend| frontend.backends.prefetch());
            *frontend = Some(walked);
        }
    }
    for (work, found) in works.iter_mut().zip(&found) {
        let packet = &packets[work.at];
        let head = packet.buffer.head();
        let Some(Sought { ends, hash, frontend }) = found else {
            apart(desk, tracker, work, packet.offload, head);
            continue;
        };
        let subject = Subject {
            ingress: &work.ingress,
            parsed: &work.parsed,
            offload: packet.offload,
            head,
            ends,
            frontend: *frontend,
            signal: signal(&work.parsed, head),
        };
        let known = tracker.find_hashed(ends, *hash).filter(|known| known.life.is_live());
        if let Some(known) = known
            && let Some(replay) = replay(desk, tracker, &subject, known, counts)
        {
            work.state = State::Replay(replay);
            continue;
        }
        work.state = match source::check(&work.ingress, &work.parsed, head) {
            Err(halt) => halt.into(),
            Ok(()) => {
                let decision = match known {
                    Some(known) => desk.decide_known(tracker, &subject, known, counts),
                    None => desk.decide_new(tracker, &subject, counts),
                };
                match decision {
                    Ok((hop, turn)) => State::Onward(hop, turn.map(Turn::Ends)),
                    Err(halt) => halt.into(),
                }
            }
        };
    }
}

/// The ends of a fragment that passes through, if its first one has come; otherwise it waits, or is refused. Who may not send it has no
/// part in that, and what is for the router itself is left to the step that says so.
#[cold]
fn fragment<B: Buffer>(
    desk: &Desk<'_, '_>,
    fragments: &mut Fragments<Packet<B>>,
    work: &mut Work<'_>,
    head: &[u8],
) -> Option<Ends> {
    let network = work.ingress.network;
    if let Err(state) = source::check(&work.ingress, &work.parsed, head) {
        work.state = state.into();
        return None;
    }
    let dst = match work.parsed.addrs {
        Addrs::V4 { dst, .. } => IpAddr::V4(dst),
        Addrs::V6 { dst, .. } => IpAddr::V6(dst),
        Addrs::None => return None,
    };
    // Where an address of the router's stands for another's, its flows are known by what the first fragment says: the gateway's, for a
    // pod that reaches itself by a Service, and those that others' packets leave with.
    let router = desk.tables.router();
    let stands_in = match work.ingress.side {
        Side::Endpoint(_) if [router.gateway4.into(), IpAddr::V6(router.gateway6)].contains(&dst) => true,
        _ => desk.tables.masquerade(network).is_some_and(|own| own.is_source(dst)),
    };
    let passes = !is_link_local(dst) && desk.tables.lookup(network, dst) != Some(Target::Local);
    if !is_host(dst) || macs(head).0.is_multicast() || !(passes || stands_in) {
        return None;
    }
    match fragments.look_up(desk.tick, network, &work.parsed, head) {
        FragmentLookup::Whole | FragmentLookup::First => ends(&work.parsed, head, network),
        FragmentLookup::Follow(transport) => following(&work.parsed, &transport, network),
        FragmentLookup::Hold(ticket) => {
            work.state = State::Done(Verdict::Hold(ticket));
            None
        }
        FragmentLookup::Refused(reason) => {
            work.state = reason.into();
            None
        }
    }
}

/// What belongs to no flow of its own. An ICMP error about a known one goes to whoever sent the packet that it quotes, translated as that was
/// (RFC 5508, section 4.2), and passes whatever policies there are; all else is judged by itself.
#[cold]
pub(crate) fn apart<'t>(
    desk: &Desk<'_, 't>,
    tracker: &Tracker,
    work: &mut Work<'t>,
    offload: Offload,
    head: &[u8],
) {
    let (src, dst) = match work.parsed.addrs {
        Addrs::V4 { src, dst } => (IpAddr::V4(src), IpAddr::V4(dst)),
        Addrs::V6 { src, dst } => (IpAddr::V6(src), IpAddr::V6(dst)),
        Addrs::None => return,
    };
    if !matches!(work.state, State::Live) {
        return;
    }
    let about = quoted(head, &work.parsed).and_then(|quote| {
        let sent = tracked(&quote.ends, quote.protocol, work.ingress.network);
        let known = tracker.find(&sent.reversed()).filter(|known| known.life.is_live())?;
        // Who tells somebody else of it tells him something of his own.
        (dst == sent.src).then_some((sent, known))
    });
    let (ingress, parsed) = (&work.ingress, &work.parsed);
    let is_routers = is_link_local(dst)
        || dst == IpAddr::V4(desk.tables.router().gateway4)
        || desk.tables.lookup(ingress.network, dst) == Some(Target::Local);
    if about.is_none() && (is_routers || !is_host(dst) || macs(head).0.is_multicast()) {
        // The link's own business, or the router's.
        return;
    }
    if let Err(state) = source::check(ingress, parsed, head) {
        work.state = state.into();
        return;
    }
    let Some((sent, known)) = about else {
        let network = ingress.network.0;
        let ends = Ends { src, dst, src_port: 0, dst_port: 0, network, protocol: parsed.protocol };
        let parties = Parties::of(desk.tables, ingress, &ends, ingress.port.id);
        if let Err(denial) = policy::judge(desk.tables, &ends, parties, &mut ()) {
            work.state = denial.into();
        }
        return;
    };
    if !tracker.binding(known).is_translated() {
        return;
    }
    let becomes = tracker.becomes(known);
    // Whoever answers for the other end speaks with the address that the sender knows; a router on the way has its own.
    let src = if src == sent.dst { becomes.src } else { src };
    let hop = route::destination(desk.tables, ingress, parsed, head, becomes.dst)
        .and_then(|hop| route::onward(desk, ingress, parsed, offload, hop, true));
    let turn = Turn::Quote { becomes, src };
    work.state = match hop {
        Ok(hop) => State::Onward(hop, Some(turn)),
        Err(_) => DropReason::DestinationInvalid.into(),
    };
}

/// As the last packet of this direction, if that decision holds and this packet asks for nothing else.
fn replay(
    desk: &Desk<'_, '_>,
    tracker: &Tracker,
    subject: &Subject<'_, '_>,
    known: Known,
    counts: &mut FlowCounts,
) -> Option<Replay> {
    let Ready { action, adjacency, index } = ready(desk, tracker, subject, known).ok()?;
    let stamp = desk.tables.stamp();
    if action.generation() != stamp {
        counts.revalidated += 1;
        tracker.confirm(known, action.at(stamp));
    }
    counts.replayed += 1;
    tracker.touch(known, subject.signal, desk.now);
    let turn = action.is_translated().then(|| tracker.becomes(known));
    Some(Replay { adjacency, index, turn })
}

/// A decision that holds, of this generation or an older one, and where it leads.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) action: Action,
    pub(crate) adjacency: Adjacency,
    pub(crate) index: u32,
}

/// Whether a packet does as the last one of its direction did; if not, why it is decided anew. Changes nothing.
#[inline]
pub(crate) fn ready(
    desk: &Desk<'_, '_>,
    tracker: &Tracker,
    subject: &Subject<'_, '_>,
    known: Known,
) -> Result<Ready, Anew> {
    let Subject { ingress, parsed, offload, head, signal, .. } = subject;
    let action = tracker.decided(known);
    if *signal == Signal::Open && known.life.state().is_over() {
        return Err(Anew::Reopened);
    }
    if !action.is_some() {
        return Err(Anew::Undecided);
    }
    if action.in_port() != ingress.port.id.0 {
        return Err(Anew::OtherPort);
    }
    let (dst, src) = macs(head);
    let own = match ingress.side {
        Side::Endpoint(endpoint) => endpoint.mac == src,
        Side::Uplink(_) => true,
    };
    let adjacency = desk.adjacencies.get(action.adjacency()).ok_or(Anew::Undecided)?;
    let odd = parsed.ttl <= 1 || !own || dst.is_multicast();
    if odd || largest(parsed, *offload) > u32::from(adjacency.mtu()) {
        return Err(Anew::Odd);
    }
    if action.generation() != desk.tables.stamp() && !desk.holds(tracker, known, action.generation()) {
        return Err(Anew::Changed);
    }
    Ok(Ready { action, adjacency, index: action.adjacency() })
}

/// Why a packet of a known flow cannot simply do as the last one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anew {
    /// The connection is over, and the packet opens another on the same addresses and ports.
    Reopened,
    /// Nothing has been decided for this direction yet.
    Undecided,
    /// It came by another port than the ones before it.
    OtherPort,
    /// Its last hop, too long, or not from whom it should be.
    Odd,
    /// Something has changed that the decision rests on.
    Changed,
}
