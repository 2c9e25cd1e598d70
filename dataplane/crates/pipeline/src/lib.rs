//! The path of a packet, a file a step.
//!
//! ```text
//! rx ─▶ hit ─▶ parse ─▶ lookup ──hit, still valid────────────────────────▶ rewrite ────▶ tx
//!                  │ miss, or no longer valid                          ▲
//!                  └▶ source ─▶ service ─▶ policy ─▶ route ─▶ flow ────┤
//!                                                     ├─▶ answer (ARP, ND, ping to the router) ▶ tx
//!                                                     └─▶ icmp_error (refused: tell the source) ▶ tx
//! ```
//!
//! Each step runs over the whole burst before the next begins. What comes out is a [`Verdict`] a packet; the caller
//! moves packets, counts and transmits. Nothing here allocates on the path of a packet, reads a clock ([`Tick`] is an
//! argument), logs, or fails: parsing is total, and every packet that goes nowhere has a [`DropReason`].

#![forbid(unsafe_code)]

use std::sync::Arc;

use arrayvec::ArrayVec;
use flow::{Flows, Local};
use tables::{PortId, Tables};

mod address;
mod adjacency;
mod advertise;
mod affinity;
mod answer;
mod arp;
mod burst;
mod connection;
mod decide;
mod dhcp;
mod dhcp6;
mod drop;
mod echo;
mod fragments;
mod held;
mod hit;
mod icmp_error;
mod icmp_quote;
mod limit;
mod lookup;
mod nd;
mod neighbour;
mod packet;
mod parse;
mod policy;
mod rewrite;
mod route;
pub mod segment;
mod service;
mod solicit;
mod source;
#[cfg(test)]
mod specimen;
mod trace;
mod tracker;
mod translate;
pub mod tunnel;
mod verdict;
mod witness;

pub use adjacency::Adjacencies;
pub use advertise::{Advertisement, advertisement_frame};
pub use drop::DropReason;
pub use fragments::{FragmentConfig, FragmentLookup, FragmentTicket, Fragments, Transport};
pub use hit::{Left, Replayed};
pub use lookup::Anew;
pub use neighbour::{
    Heard, Learned, NeighbourConfig, NeighbourEvent, NeighbourRow, NeighbourState, Neighbours, Resolution,
    Solicit,
};
pub use packet::{Buffer, GsoKind, Offload, Packet, Tick, VecBuffer};
pub use solicit::solicit_frame;
pub use trace::{Ground, Question, trace, trace_packet};
#[doc(hidden)]
pub use translate::{Ends, Plain, PlainV4, PlainV6, translate, translate_plain_v4, translate_plain_v6};
pub use verdict::{ConsumeReason, Fate, Output, Verdict};
pub use witness::{Outcome, Step, Stop, Way};

use burst::{Ingress, State, Work, Works};
use decide::Desk;
use icmp_error::Complaint;
use limit::{Limiter, Rates};
use tracker::Tracker;

/// Packets that the path takes at a time, at most.
pub const BURST: usize = 32;

/// How a worker's path behaves.
#[derive(Clone, Copy, Debug)]
pub struct RouterConfig {
    /// ICMP errors a second, of one worker.
    pub icmp_errors_per_second: u32,
    /// How many of them at once.
    pub icmp_error_burst: u32,
    /// ICMP errors a second about packets of one input port, of one worker.
    pub port_icmp_errors_per_second: u32,
    /// How many of them at once.
    pub port_icmp_error_burst: u32,
    /// Whether the output ports' owners cut up IPv4 packets above the MTU that do not forbid it ([`segment::Fragmenter`]; RFC
    /// 1812, section 4.2.2.7). If so they are forwarded as they are; otherwise dropped as
    /// [`DropReason::PacketTooBig`], and no error is due, since that is for packets that do forbid it.
    pub fragment: bool,
    /// Fragments that come in.
    pub fragments: FragmentConfig,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            icmp_errors_per_second: 1000,
            icmp_error_burst: 50,
            port_icmp_errors_per_second: 100,
            port_icmp_error_burst: 10,
            fragment: false,
            fragments: FragmentConfig::default(),
        }
    }
}

/// What a worker shares with the others, and its own part of it.
#[derive(Debug)]
pub struct Tracking {
    /// All flows.
    pub flows: Arc<Flows>,
    /// Of all links.
    pub adjacencies: Arc<Adjacencies>,
    /// This worker's seat and stock.
    pub local: Local,
}

impl Tracking {
    /// Small tables of its own: for tests and benches, since their memory is never given back.
    ///
    /// # Errors
    /// Never; the sizes are right.
    pub fn alone() -> Result<Self, flow::StorageError> {
        let config = flow::FlowsConfig {
            v4: 1024,
            v6: 1024,
            seats: 1,
            seeds: [0x1357_9bdf_0246_8ace, 0xfdb9_7531_eca8_6420, 0x0f1e_2d3c_4b5a_6978],
            timeouts: flow::Timeouts::default(),
        };
        let words = (0..Flows::words(&config)).map(|_| flow::AtomicU64::new(0)).collect();
        let (flows, _) = Flows::adopt(Vec::leak(words), &config)?;
        Ok(Self { flows: Arc::new(flows), adjacencies: Arc::default(), local: Local::new(flow::Seat(0)) })
    }
}

/// What became of packets at the flow table, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowCounts {
    /// Did as the last packet of their flow.
    pub replayed: u64,
    /// Of those, the ones that found tables newer than the decision, and nothing changed that it rests on.
    pub revalidated: u64,
    /// Went through service, policy and route.
    pub decided: u64,
    /// Of those, the ones that made a flow.
    pub made: u64,
    /// Went on without a flow: there was no room, or a race for it.
    pub untracked: u64,
    /// Flows that ended by time.
    pub expired: u64,
}

/// How [`Router::replay`] sees a packet.
fn whole<B: Buffer>(packet: &mut Packet<B>, in_port: PortId) -> Option<(&mut [u8], usize, Offload)> {
    let Packet { buffer, in_port: port, offload } = packet;
    let len = buffer.frame_len();
    (*port == in_port).then(|| (buffer.head_mut(), len, *offload))
}

/// What one worker's path keeps between bursts: rate limiters, what it has just learned, its part of the flow table. No I/O, no clock.
#[derive(Debug)]
pub struct Router<B> {
    tracker: Tracker,
    fragments: Fragments<Packet<B>>,
    adjacencies: Arc<Adjacencies>,
    counts: FlowCounts,
    limiter: Limiter,
    learned: ArrayVec<Learned, BURST>,
    fragment: bool,
}

impl<B: Buffer> Router<B> {
    /// A path with full buckets.
    #[must_use]
    pub fn new(config: RouterConfig, tracking: Tracking) -> Self {
        let Tracking { flows, adjacencies, local } = tracking;
        let rates = Rates {
            per_second: config.icmp_errors_per_second,
            burst: config.icmp_error_burst,
            port_per_second: config.port_icmp_errors_per_second,
            port_burst: config.port_icmp_error_burst,
        };
        flows.epochs.wake(local.seat);
        Self {
            tracker: Tracker { flows, local },
            fragments: Fragments::new(config.fragments),
            adjacencies,
            counts: FlowCounts::default(),
            limiter: Limiter::new(rates),
            learned: ArrayVec::new(),
            fragment: config.fragment,
        }
    }

    /// Before this worker sleeps: others need not wait for it.
    pub fn rest(&self) {
        self.tracker.flows.epochs.leave(self.tracker.local.seat);
    }

    /// When it wakes, before the next burst.
    pub fn wake(&self) {
        self.tracker.flows.epochs.wake(self.tracker.local.seat);
    }

    /// Ends flows whose time is over: as many records are looked at as `elapsed_us` microseconds are worth among `workers`, and `most`
    /// at most.
    pub fn expire(&mut self, now: Tick, elapsed_us: u64, workers: u32, most: u32) {
        let Tracker { flows, local } = &mut self.tracker;
        let ended = flows.expire(local, now.seconds(), elapsed_us, workers, most);
        self.counts.expired += u64::from(ended);
    }

    /// What became of packets at the flow table.
    #[must_use]
    pub const fn flow_counts(&self) -> FlowCounts {
        self.counts
    }

    /// Decides a burst of at most [`BURST`] packets (the rest is not looked at), and edits their headers in place. `verdicts`
    /// then has one for each, in the same order.
    pub fn run(
        &mut self,
        tables: &Tables,
        now: Tick,
        packets: &mut [Packet<B>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
    ) {
        let Some(in_port) = packets.first().map(|first| first.in_port) else { return verdicts.clear() };
        // Most bursts have nothing left to finish, and are asked nothing about it.
        let replayed = if packets.iter().all(|packet| packet.offload == Offload::Done) {
            self.replay(tables, now, in_port, packets, |packet, port| {
                let (head, len, _) = whole(packet, port)?;
                Some((head, len, ()))
            })
        } else {
            self.replay(tables, now, in_port, packets, whole)
        };
        self.decide(tables, now, packets, &replayed, verdicts);
    }

    /// The short way alone, for packets of whatever type that came by one port: those of known flows that are as most are leave it with
    /// their headers complete. The others are as they were, and due to [`Router::decide`]. `view` has a packet's contiguous first bytes,
    /// its length in all and what is left to finish, or `None` for one that came by another port.
    #[inline]
    pub fn replay<T, L: Left>(
        &mut self,
        tables: &Tables,
        now: Tick,
        in_port: PortId,
        packets: &mut [T],
        view: impl Fn(&mut T, PortId) -> Option<(&mut [u8], usize, L)>,
    ) -> Replayed {
        debug_assert!(packets.len() <= BURST);
        let burst = packets.len().min(BURST);
        if burst == 0 {
            return Replayed::none(in_port);
        }
        let Self { tracker, adjacencies, counts, fragment, .. } = self;
        tracker.flows.epochs.quiesce(tracker.local.seat);
        let desk = Desk { tables, adjacencies, now: now.seconds(), tick: now, fragment: *fragment };
        hit::burst(&desk, tracker, in_port, &mut packets[..burst], view, counts)
    }

    /// The whole path, of those in a burst that did not go the short way; what the others got from [`Router::replay`] are their verdicts.
    pub fn decide(
        &mut self,
        tables: &Tables,
        now: Tick,
        packets: &mut [Packet<B>],
        replayed: &Replayed,
        verdicts: &mut ArrayVec<Verdict, BURST>,
    ) {
        let burst = packets.len().min(BURST);
        verdicts.clear();
        // Whatever no step should have a word for goes nowhere.
        verdicts.extend(replayed.outputs[..burst].iter().enumerate().map(|(at, &port)| {
            if replayed.done >> at & 1 == 1 {
                Verdict::Forward(Output::Port(port))
            } else {
                Verdict::Drop(DropReason::PortIdle)
            }
        }));
        if replayed.done.count_ones() as usize != burst {
            self.steps(tables, now, &mut packets[..burst], replayed.done, None, verdicts);
        }
    }

    /// Decides a fragment that has waited for the first of its packet.
    pub fn follow(
        &mut self,
        tables: &Tables,
        now: Tick,
        packet: &mut Packet<B>,
        transport: Transport,
    ) -> Verdict {
        let mut verdicts = ArrayVec::new();
        verdicts.push(Verdict::Drop(DropReason::PortIdle));
        self.steps(tables, now, std::slice::from_mut(packet), 0, Some(transport), &mut verdicts);
        verdicts[0]
    }

    fn steps(
        &mut self,
        tables: &Tables,
        now: Tick,
        packets: &mut [Packet<B>],
        done: u32,
        transport: Option<Transport>,
        verdicts: &mut ArrayVec<Verdict, BURST>,
    ) {
        self.learned.clear();
        let Self { tracker, fragments, adjacencies, counts, limiter, learned, fragment } = self;
        tracker.flows.epochs.quiesce(tracker.local.seat);
        let desk = Desk { tables, adjacencies, now: now.seconds(), tick: now, fragment: *fragment };

        let mut works = Works::new();
        parse::burst(tables, packets, done, &mut works, |at, reason| verdicts[at] = Verdict::Drop(reason));
        lookup::burst(&desk, tracker, fragments, packets, transport, &mut works, counts);
        source::burst(packets, &mut works);
        route::burst(&desk, packets, &mut works);
        rewrite::burst(adjacencies, packets, &mut works);
        answer::burst(&desk, packets, &mut works, learned, &mut |told| adjacencies.narrow(told, desk.now));
        icmp_error::burst(tables, now, limiter, packets, &mut works);

        for work in &works {
            if let State::Done(verdict) = work.state {
                verdicts[work.at] = verdict;
            }
        }
    }

    /// Keeps a packet whose verdict is [`Verdict::Hold`].
    ///
    /// # Errors
    /// The packet, and why it is dropped after all.
    pub fn hold(&mut self, ticket: FragmentTicket, packet: Packet<B>) -> Result<(), (DropReason, Packet<B>)> {
        self.fragments.hold(ticket, packet)
    }

    /// Gives back up to `limit` packets that wait no longer: to be decided by [`Router::follow`], or dropped.
    pub fn release(
        &mut self,
        limit: usize,
        out: impl FnMut(Result<Transport, DropReason>, Packet<B>),
    ) -> usize {
        let before = self.fragments.held();
        if self.fragments.ready() > 0 {
            self.fragments.release(limit, out);
        }
        before - self.fragments.held()
    }

    /// Gives back packets that have waited in vain, at most `budget`.
    pub fn give_up(&mut self, now: Tick, budget: usize, out: impl FnMut(DropReason, Packet<B>)) {
        if self.fragments.next_expiry().is_some_and(|due| due <= now) {
            self.fragments.expire(now, budget, out);
        }
    }

    /// Gives back all packets that wait.
    pub fn clear(&mut self, out: impl FnMut(Packet<B>)) {
        self.fragments.clear(out);
    }

    /// Packets that wait.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.fragments.held()
    }

    /// What ARP and ND in the last burst taught, for the [`Neighbours`] of the port's owner. The next burst forgets it.
    pub fn learned(&mut self) -> arrayvec::Drain<'_, Learned, BURST> {
        self.learned.drain(..)
    }

    /// Drops a packet that waited for a neighbour in vain, and tells its source, as "host unreachable" or "address
    /// unreachable" (RFC 1812, section 5.2.7.1; RFC 4861, section 7.2.2).
    pub fn unreachable(&mut self, tables: &Tables, now: Tick, packet: &mut Packet<B>) -> Verdict {
        let reason = DropReason::NeighbourUnreachable;
        let parsed = wire::parse(packet.buffer.head(), packet.buffer.frame_len());
        let (Some(ingress), Ok(parsed)) = (Ingress::of(tables, packet.in_port), parsed) else {
            return Verdict::Drop(reason);
        };
        let work = Work { at: 0, parsed, ingress, state: State::Live };
        let complaint = Complaint::HostUnreachable;
        icmp_error::complain(tables, now, &mut self.limiter, packet, &work, reason, complaint)
    }

    /// ICMP errors that the rate limits kept back, since the start.
    #[must_use]
    pub const fn icmp_errors_suppressed(&self) -> u64 {
        self.limiter.suppressed()
    }
}
