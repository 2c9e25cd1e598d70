//! The path of a packet, a file a step.
//!
//! ```text
//!                                     ┌─▶ rewrite ─────────────────────────────────▶ tx
//! rx ─▶ parse ─▶ source ─▶ route ─────┼─▶ answer (ARP, ND, ping to the router) ────▶ tx
//!                                     └─▶ icmp_error (refused: tell the source) ───▶ tx
//! ```
//!
//! Each step runs over the whole burst before the next begins. What comes out is a [`Verdict`] a packet; the caller
//! moves packets, counts and transmits. Nothing here allocates on the path of a packet, reads a clock ([`Tick`] is an
//! argument), logs, or fails: parsing is total, and every packet that goes nowhere has a [`DropReason`].

#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use tables::Tables;

mod address;
mod answer;
mod arp;
mod burst;
mod drop;
mod echo;
mod fragments;
mod held;
mod icmp_error;
#[cfg_attr(not(test), expect(dead_code, reason = "the path does not translate yet"))]
mod icmp_quote;
mod limit;
mod nd;
mod neighbour;
mod packet;
mod parse;
mod rewrite;
mod route;
pub mod segment;
mod solicit;
mod source;
#[cfg(test)]
mod specimen;
mod translate;
mod verdict;

pub use drop::DropReason;
pub use fragments::{FragmentConfig, FragmentLookup, FragmentTicket, Fragments, Transport};
pub use neighbour::{
    Heard, Learned, NeighbourConfig, NeighbourEvent, NeighbourRow, NeighbourState, Neighbours, Resolution,
    Solicit,
};
pub use packet::{Buffer, GsoKind, Offload, Packet, Tick, VecBuffer};
pub use solicit::solicit_frame;
#[doc(hidden)]
pub use translate::{Ends, PlainV4, translate, translate_plain_v4};
pub use verdict::{ConsumeReason, Fate, Output, Verdict};

use burst::{Ingress, State, Work, Works};
use icmp_error::Complaint;
use limit::{Limiter, Rates};

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
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            icmp_errors_per_second: 1000,
            icmp_error_burst: 50,
            port_icmp_errors_per_second: 100,
            port_icmp_error_burst: 10,
            fragment: false,
        }
    }
}

/// What one worker's path keeps between bursts: rate limiters, and what it has just learned. No I/O, no clock.
#[derive(Debug)]
pub struct Router {
    limiter: Limiter,
    learned: ArrayVec<Learned, BURST>,
    fragment: bool,
}

impl Default for Router {
    fn default() -> Self {
        Self::new(RouterConfig::default())
    }
}

impl Router {
    /// A path with full buckets.
    #[must_use]
    pub fn new(config: RouterConfig) -> Self {
        let rates = Rates {
            per_second: config.icmp_errors_per_second,
            burst: config.icmp_error_burst,
            port_per_second: config.port_icmp_errors_per_second,
            port_burst: config.port_icmp_error_burst,
        };
        Self { limiter: Limiter::new(rates), learned: ArrayVec::new(), fragment: config.fragment }
    }

    /// Decides a burst of at most [`BURST`] packets (the rest is not looked at), and edits their headers in place. `verdicts`
    /// then has one for each, in the same order.
    pub fn run<B: Buffer>(
        &mut self,
        tables: &Tables,
        now: Tick,
        packets: &mut [Packet<B>],
        verdicts: &mut ArrayVec<Verdict, BURST>,
    ) {
        debug_assert!(packets.len() <= BURST);
        let burst = packets.len().min(BURST);
        let packets = &mut packets[..burst];
        verdicts.clear();
        verdicts.extend(packets.iter().map(|_| Verdict::Drop(DropReason::PortIdle)));
        self.learned.clear();
        let mut works = Works::new();

        parse::burst(tables, packets, &mut works, |at, reason| verdicts[at] = Verdict::Drop(reason));
        source::burst(packets, &mut works);
        route::burst(tables, self.fragment, packets, &mut works);
        rewrite::burst(packets, &mut works);
        answer::burst(tables, packets, &mut works, &mut self.learned);
        icmp_error::burst(tables, now, &mut self.limiter, packets, &mut works);

        for work in works {
            if let State::Done(verdict) = work.state {
                verdicts[work.at] = verdict;
            }
        }
    }

    /// What ARP and ND in the last burst taught, for the [`Neighbours`] of the port's owner. The next burst forgets it.
    pub fn learned(&mut self) -> arrayvec::Drain<'_, Learned, BURST> {
        self.learned.drain(..)
    }

    /// Drops a packet that waited for a neighbour in vain, and tells its source, as "host unreachable" or "address
    /// unreachable" (RFC 1812, section 5.2.7.1; RFC 4861, section 7.2.2).
    pub fn unreachable<B: Buffer>(&mut self, tables: &Tables, now: Tick, packet: &mut Packet<B>) -> Verdict {
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
