//! Second step: is this a packet of a known flow, whose decision still holds? Then it does as the last one did.
//!
//! In rounds over the burst, with prefetches between: tuples and hashes; buckets; records. What is left over is decided, a packet at a
//! time: it is the first of its flow, or something has changed that its flow rests on, or it is out of the ordinary.

use arrayvec::ArrayVec;
use flow::Signal;

use crate::address::macs;
use crate::adjacency::Adjacency;
use crate::burst::{Side, State, Works};
use crate::connection::{Ends, ends, signal};
use crate::decide::{Desk, Subject};
use crate::route::largest;
use crate::tracker::{Known, Tracker};
use crate::{BURST, Buffer, FlowCounts, Packet, source};

/// What a packet of a known flow does: leaves by this adjacency, with these ends if they change.
#[derive(Clone, Copy)]
pub(crate) struct Replay {
    pub(crate) adjacency: Adjacency,
    pub(crate) index: u32,
    pub(crate) turn: Option<Ends>,
}

/// Finds the flows of a burst, and decides the packets that have none.
pub(crate) fn burst<'t, B: Buffer>(
    desk: &Desk<'_, 't>,
    tracker: &mut Tracker,
    packets: &[Packet<B>],
    works: &mut Works<'t>,
    counts: &mut FlowCounts,
) {
    let mut found: ArrayVec<Option<(Ends, u64)>, BURST> = ArrayVec::new();
    for work in works.iter() {
        let head = packets[work.at].buffer.head();
        let ends = ends(&work.parsed, head, work.ingress.network);
        found.push(ends.map(|ends| (ends, tracker.prefetch(&ends))));
    }
    for (ends, hash) in found.iter().flatten() {
        tracker.prefetch_record(ends, *hash);
    }
    for (work, found) in works.iter_mut().zip(found) {
        let packet = &packets[work.at];
        let Some((ends, hash)) = found else { continue };
        let head = packet.buffer.head();
        let subject = Subject {
            ingress: work.ingress,
            parsed: &work.parsed,
            offload: packet.offload,
            head,
            ends,
            signal: signal(&work.parsed, head),
        };
        let known = tracker.find_hashed(&ends, hash).filter(|known| known.life.is_live());
        if let Some(known) = known
            && let Some(replay) = replay(desk, tracker, &subject, known, counts)
        {
            work.state = State::Replay(replay);
            continue;
        }
        work.state = match source::check(&work.ingress, &work.parsed, head) {
            Err(state) => state,
            Ok(()) => {
                let decision = match known {
                    Some(known) => desk.decide_known(tracker, &subject, known, counts),
                    None => desk.decide_new(tracker, &subject, counts),
                };
                match decision {
                    Ok((hop, turn)) => State::Onward(hop, turn),
                    Err(state) => state,
                }
            }
        };
    }
}

/// As the last packet of this direction, if that decision holds and this packet asks for nothing else.
fn replay(
    desk: &Desk<'_, '_>,
    tracker: &Tracker,
    subject: &Subject<'_, '_>,
    known: Known,
    counts: &mut FlowCounts,
) -> Option<Replay> {
    let Subject { ingress, parsed, offload, head, signal, .. } = subject;
    let action = tracker.decided(known);
    let reopened = *signal == Signal::Open && known.life.state().is_over();
    if !action.is_some() || action.in_port() != ingress.port.id.0 || parsed.ttl <= 1 || reopened {
        return None;
    }
    let (dst, src) = macs(head);
    let own = match ingress.side {
        Side::Endpoint(endpoint) => endpoint.mac == src,
        Side::Uplink(_) => true,
    };
    let adjacency = desk.adjacencies.get(action.adjacency())?;
    if !own || dst.is_multicast() || largest(parsed, *offload) > u32::from(adjacency.mtu()) {
        return None;
    }
    let stamp = desk.tables.stamp();
    if action.generation() != stamp {
        if !desk.holds(tracker, known, action.generation()) {
            return None;
        }
        counts.revalidated += 1;
        tracker.decide(known, action, action.at(stamp));
    }
    counts.replayed += 1;
    tracker.touch(known, *signal, desk.now);
    let turn = action.is_translated().then(|| tracker.becomes(known));
    Some(Replay { adjacency, index: action.adjacency(), turn })
}
