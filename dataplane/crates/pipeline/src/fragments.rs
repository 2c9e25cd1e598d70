//! Fragments follow the first of their packet: it alone has the ports (RFC 791; RFC 8200, section 4.5).
//!
//! Nothing is put together here, only remembered: which bytes have come, and what the first fragment said. Those that come
//! before it wait, bounded by packet, by source and in all. No byte passes twice: from an overlap on (RFC 5722; an exact
//! repetition is one), or a contradiction about the length, what is left of the packet is dropped.
//!
//! [`Fragments::look_up`] is the path's and owns no packet; [`Fragments::hold`], [`Fragments::release`] and [`Fragments::expire`] are
//! the worker's. Memory is fixed, nothing is allocated after [`Fragments::new`], and all work is bounded.

use std::net::IpAddr;

use tables::NetworkId;
use wire::{Addrs, Fragment, PacketKind, Parsed};

use crate::held::{Held, Queue};
use crate::translate::Place;
use crate::{DropReason, Tick};

mod pieces;
mod table;
#[cfg(test)]
mod tests;

use table::{Key, State, Table};

/// Sizes and times of the table, for one worker.
#[derive(Clone, Copy, Debug)]
pub struct FragmentConfig {
    /// Packets under way in fragments. When all are taken, the one goes whose source has the most of them among the oldest few; a
    /// source that has no fewer itself gives up its own, or is refused.
    pub capacity: u32,
    /// Fragments of one packet that wait for its first: more than that, and it is given up.
    pub held_per_packet: u32,
    /// Fragments of one source that wait.
    pub held_per_source: u32,
    /// Fragments that wait in all.
    pub held_total: u32,
    /// How long a packet is remembered from the fragment on that came first, in ms. The kernel's
    /// `net.ipv4.ipfrag_time`.
    pub timeout_ms: u64,
}

impl Default for FragmentConfig {
    fn default() -> Self {
        Self {
            capacity: 2048,
            // As many as the longest packet has over an MTU of 1,500, but one.
            held_per_packet: 48,
            held_per_source: 96,
            held_total: 512,
            timeout_ms: 30_000,
        }
    }
}

/// What the first fragment of a packet says for the later ones. ICMP echo has its identifier as source port in a request
/// and as destination port in a reply; what has no ports has 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transport {
    /// The transport's number, which a later IPv6 fragment need not have.
    pub protocol: u8,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// The place of a fragment that is to wait: for [`Fragments::hold`], of the same table and burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentTicket {
    at: u32,
    generation: u32,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentLookup {
    /// It is no fragment.
    Whole,
    /// It has its ports, and others will follow it.
    First,
    /// It goes where packets with these ports go.
    Follow(Transport),
    /// It waits, its bytes as they are, until [`Fragments::release`] brings it back.
    Hold(FragmentTicket),
    /// It is dropped.
    Refused(DropReason),
}

/// Why packets are given up while they wait: each reason has a queue of those that are yet to be taken out.
const DOOMS: [DropReason; 5] = [
    DropReason::FragmentTimeout,
    DropReason::FragmentOverlap,
    DropReason::FragmentInconsistent,
    DropReason::FragmentQueueFull,
    DropReason::FragmentTableFull,
];

/// A packet that waits, and for whom.
#[derive(Debug)]
struct Waiting<P> {
    packet: P,
    ticket: FragmentTicket,
}

/// The fragments that one worker sees.
#[derive(Debug)]
pub struct Fragments<P> {
    config: FragmentConfig,
    table: Table,
    held: Held<Waiting<P>>,
    /// Those whose first fragment has come.
    ready: Queue,
    doomed: [Queue; DOOMS.len()],
}

impl<P> Fragments<P> {
    /// None yet.
    #[must_use]
    pub fn new(config: FragmentConfig) -> Self {
        Self {
            config,
            table: Table::new(config.capacity),
            held: Held::new(config.held_total),
            ready: Queue::EMPTY,
            doomed: [Queue::EMPTY; DOOMS.len()],
        }
    }

    /// What to do with a packet of `network` as it came: `parsed` is of `head`, and nothing is translated yet. Each packet is
    /// looked up once; those that waited come out with what they need.
    #[inline]
    pub fn look_up(&mut self, now: Tick, network: NetworkId, parsed: &Parsed, head: &[u8]) -> FragmentLookup {
        if parsed.fragment == Fragment::Whole {
            return FragmentLookup::Whole;
        }
        match self.take_in(now, network, parsed, head) {
            Ok(lookup) => lookup,
            Err(reason) => FragmentLookup::Refused(reason),
        }
    }

    fn take_in(
        &mut self,
        now: Tick,
        network: NetworkId,
        parsed: &Parsed,
        head: &[u8],
    ) -> Result<FragmentLookup, DropReason> {
        let fields = parsed.fragment_fields(head).ok_or(DropReason::FragmentInvalid)?;
        let (src, dst) = match parsed.addrs {
            Addrs::V4 { src, dst } => (IpAddr::V4(src), IpAddr::V4(dst)),
            Addrs::V6 { src, dst } => (IpAddr::V6(src), IpAddr::V6(dst)),
            Addrs::None => return Err(DropReason::FragmentInvalid),
        };
        let protocol = if parsed.kind == PacketKind::Ipv4 { parsed.protocol } else { 0 };
        let key = Key { network, src, dst, ident: fields.ident, protocol };
        let first = match parsed.fragment {
            Fragment::First => {
                let ends = Place::of(parsed).ends(head).ok_or(DropReason::FragmentInvalid)?;
                let (src_port, dst_port) = (ends.src_port, ends.dst_port);
                Some(Transport { protocol: parsed.protocol, src_port, dst_port })
            }
            Fragment::Later | Fragment::Whole => None,
        };
        let at = self.entry(now, key).ok_or(DropReason::FragmentTableFull)?;
        let entry = self.table.get(at).ok_or(DropReason::FragmentTableFull)?;
        if let State::Refused(reason) = entry.state {
            return Err(reason);
        }
        if let Err(reason) = entry.pieces.add(fields.offset, fields.len, fields.more) {
            return Err(self.give_up(at, reason));
        }
        let ticket = FragmentTicket { at, generation: entry.generation };
        let lookup = match (first, entry.state) {
            (Some(transport), _) => {
                entry.state = State::Known(transport);
                self.held.append(&mut self.ready, &mut entry.queue);
                FragmentLookup::First
            }
            (None, State::Known(transport)) => FragmentLookup::Follow(transport),
            (None, _) => {
                if !self.table.wait(at, self.config.held_per_packet, self.config.held_per_source) {
                    return Err(self.give_up(at, DropReason::FragmentQueueFull));
                }
                FragmentLookup::Hold(ticket)
            }
        };
        self.forget_if_done(at);
        Ok(lookup)
    }

    /// Keeps a packet for which [`look_up`](Self::look_up) said [`FragmentLookup::Hold`].
    ///
    /// # Errors
    /// The packet, and why it is dropped: its packet has been given up since, or no more can wait.
    pub fn hold(&mut self, ticket: FragmentTicket, packet: P) -> Result<(), (DropReason, P)> {
        let found = self.table.get(ticket.at).filter(|entry| entry.generation == ticket.generation);
        let Some(entry) = found else {
            return Err((DropReason::FragmentTableFull, packet));
        };
        let queue = match entry.state {
            State::Refused(reason) => return Err((reason, packet)),
            // The first came later in the same burst.
            State::Known(_) => &mut self.ready,
            State::Open => &mut entry.queue,
        };
        match self.held.push(queue, Waiting { packet, ticket }) {
            Ok(()) => Ok(()),
            Err(waiting) => Err((self.give_up(ticket.at, DropReason::FragmentQueueFull), waiting.packet)),
        }
    }

    /// How many wait no longer: their first fragment has come.
    #[must_use]
    pub const fn ready(&self) -> usize {
        self.ready.len() as usize
    }

    /// Takes out up to `limit` packets whose first fragment has come, oldest first, with what it said, or why they are dropped after
    /// all. They go the whole path, but are not looked up again.
    pub fn release(&mut self, limit: usize, mut out: impl FnMut(Result<Transport, DropReason>, P)) {
        for _ in 0..limit {
            let Some(Waiting { packet, ticket }) = self.held.pop(&mut self.ready) else { return };
            let found = self.table.get(ticket.at).filter(|entry| entry.generation == ticket.generation);
            let transport = match found.map(|entry| entry.state) {
                Some(State::Known(transport)) => Ok(transport),
                Some(State::Refused(reason)) => Err(reason),
                // Its entry went to another packet.
                Some(State::Open) | None => Err(DropReason::FragmentTableFull),
            };
            if transport.is_ok() {
                self.table.forgive(ticket.at, 1);
                self.forget_if_done(ticket.at);
            }
            out(transport, packet);
        }
    }

    /// Takes out what was given up, and forgets packets that are too old: at most `budget` of both.
    pub fn expire(&mut self, now: Tick, budget: usize, mut out: impl FnMut(DropReason, P)) {
        for _ in 0..budget {
            if let Some((reason, packet)) = self.pop_doomed() {
                out(reason, packet);
                continue;
            }
            match self.table.oldest() {
                Some((at, opened)) if opened.after_ms(self.config.timeout_ms) <= now => {
                    self.remove(at, DropReason::FragmentTimeout);
                }
                _ => return,
            }
        }
    }

    /// When [`expire`](Self::expire) has something to do next: in the past if it is behind.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Tick> {
        if self.doomed.iter().any(|queue| queue.len() > 0) {
            return Some(Tick(0));
        }
        self.table.oldest().map(|(_, opened)| opened.after_ms(self.config.timeout_ms))
    }

    /// Takes out every packet that is here, and forgets all.
    pub fn clear(&mut self, mut out: impl FnMut(P)) {
        while let Some((at, _)) = self.table.oldest() {
            self.remove(at, DropReason::FragmentTimeout);
        }
        while let Some((_, packet)) = self.pop_doomed() {
            out(packet);
        }
        while let Some(waiting) = self.held.pop(&mut self.ready) {
            out(waiting.packet);
        }
    }

    /// Packets that are here: they wait, or are to be taken out.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held.len()
    }

    /// Packets under way in fragments.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// That of a packet, or a new one.
    fn entry(&mut self, now: Tick, key: Key) -> Option<u32> {
        if let Some(at) = self.table.find(&key) {
            let opened = self.table.get(at)?.opened;
            if opened.after_ms(self.config.timeout_ms) > now {
                return Some(at);
            }
            // Whoever uses the number anew is not to suffer for what was before.
            self.remove(at, DropReason::FragmentTimeout);
        }
        if let Some(at) = self.table.insert(now, key) {
            return Some(at);
        }
        let victim = self.table.victim(&key)?;
        self.remove(victim, DropReason::FragmentTableFull);
        self.table.insert(now, key)
    }

    /// Drops what comes of a packet from now on, and what waits.
    fn give_up(&mut self, at: u32, reason: DropReason) -> DropReason {
        self.table.forgive(at, u32::MAX);
        if let Some(entry) = self.table.get(at) {
            entry.state = State::Refused(reason);
            let mut queue = std::mem::replace(&mut entry.queue, Queue::EMPTY);
            self.doom(&mut queue, reason);
        }
        reason
    }

    fn remove(&mut self, at: u32, reason: DropReason) {
        if let Some(entry) = self.table.get(at) {
            let mut queue = std::mem::replace(&mut entry.queue, Queue::EMPTY);
            self.doom(&mut queue, reason);
        }
        self.table.remove(at);
    }

    fn doom(&mut self, queue: &mut Queue, reason: DropReason) {
        let number = DOOMS.iter().position(|doom| *doom == reason).unwrap_or_default();
        self.held.append(&mut self.doomed[number], queue);
    }

    fn pop_doomed(&mut self) -> Option<(DropReason, P)> {
        for (queue, reason) in self.doomed.iter_mut().zip(DOOMS) {
            if let Some(waiting) = self.held.pop(queue) {
                return Some((reason, waiting.packet));
            }
        }
        None
    }

    /// A packet that is complete needs no entry, once none of it waits.
    fn forget_if_done(&mut self, at: u32) {
        let done = self.table.get(at).is_some_and(|entry| {
            matches!(entry.state, State::Known(_)) && entry.waiting == 0 && entry.pieces.is_complete()
        });
        if done {
            self.table.remove(at);
        }
    }
}
