//! Neighbours of the uplink ports: whose MAC is whose, whether that still holds, and what waits to know.
//!
//! The state machine is RFC 4861's (section 7.3), for ARP as well. It owns the packets that wait: at most
//! `held_per_neighbour` for one and `held_total` for all. It sends nothing: [`Neighbours::tick`] says what to ask, and
//! [`solicit_frame`](crate::solicit_frame) builds the question. Work per call is bounded, and so is the table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hashbrown::HashMap;
use tables::PortId;
use wire::MacAddr;

use crate::held::{Held, Queue};
use crate::{DropReason, Tick};

/// Sizes and times; RFC 4861, section 10 where that has them.
#[derive(Debug, Clone, Copy)]
pub struct NeighbourConfig {
    /// Neighbours there may be. At most half of them may be unresolved, so that a scan of a subnet leaves room for those
    /// that exist (RFC 6583).
    pub capacity: u32,
    /// Packets that wait for one neighbour. A further one takes the place of the oldest (RFC 4861, section 7.2.2).
    pub held_per_neighbour: u32,
    /// Packets that wait for all of them.
    pub held_total: u32,
    /// How long an answer holds, in ms: REACHABLE_TIME, randomised by 0.5 to 1.5.
    pub reachable_ms: u64,
    /// How long to wait for other proof before probing, in ms: DELAY_FIRST_PROBE_TIME.
    pub delay_ms: u64,
    /// Between two questions, in ms: RETRANS_TIMER.
    pub retrans_ms: u64,
    /// Questions to all before giving up: MAX_MULTICAST_SOLICIT.
    pub max_multicast: u8,
    /// Questions to a known neighbour before giving up: MAX_UNICAST_SOLICIT.
    pub max_unicast: u8,
    /// How long an entry stays that nobody uses, in ms.
    pub stale_ms: u64,
    /// How long a neighbour that never answered is remembered for the operator, in ms; the next packet to it asks again.
    pub failed_ms: u64,
}

impl Default for NeighbourConfig {
    fn default() -> Self {
        Self {
            capacity: 4096,
            held_per_neighbour: 8,
            held_total: 512,
            reachable_ms: 30_000,
            delay_ms: 5_000,
            retrans_ms: 1_000,
            max_multicast: 3,
            max_unicast: 3,
            stale_ms: 600_000,
            failed_ms: 20_000,
        }
    }
}

/// What is known of a neighbour (RFC 4861, section 7.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Asked for, not answered yet.
    Incomplete,
    /// It answered lately.
    Reachable,
    /// Known, unproven, and not used since.
    Stale,
    /// Used again, and about to be probed.
    Delay,
    /// Being asked whether it is still there.
    Probe,
    /// It did not answer. RFC 4861 deletes the entry; here it stays for a while to be shown.
    Failed,
}

impl NeighbourState {
    /// The name, as in `reachable`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delay",
            Self::Probe => "probe",
            Self::Failed => "failed",
        }
    }
}

/// What ARP or ND taught of a neighbour on `port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// The port it is on.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC; absent from some advertisements, which then only prove that it is there.
    pub mac: Option<MacAddr>,
    /// By what it was heard of.
    pub heard: Heard,
}

/// What kind of message taught it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It asked for one of our addresses: it is there, and wants an answer soon (RFC 826; RFC 4861, section 7.2.3).
    Solicitation,
    /// An ARP reply, a neighbour advertisement, or gratuitous ARP (RFC 4861, section 7.2.5). Makes no entry.
    Advertisement {
        /// It answers us, which proves that both directions work.
        solicited: bool,
        /// It may replace another MAC.
        overrides: bool,
        /// It forwards packets.
        is_router: bool,
    },
}

/// What [`Neighbours::resolve`] says of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolution<P> {
    /// The MAC, and the packet back.
    Known(MacAddr, P),
    /// The packet waits. [`Neighbours::tick`] is due at once.
    Held,
    /// This packet goes no further. With [`DropReason::NeighbourQueueFull`] it may be an older one of the same neighbour,
    /// whose place the new one took.
    Refused(DropReason, P),
}

/// What [`Neighbours::tick`] wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum NeighbourEvent<P> {
    /// Ask.
    Solicit(Solicit),
    /// The packet waited in vain: see [`Router::unreachable`](crate::Router::unreachable).
    GiveUp {
        /// By this port it would have left,
        port: PortId,
        /// to this neighbour, which did not answer.
        address: IpAddr,
        /// The packet.
        packet: P,
    },
}

/// A question to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicit {
    /// By this port.
    pub port: PortId,
    /// Who has this?
    pub address: IpAddr,
    /// To this station, known from before; `None`: to all.
    pub unicast_to: Option<MacAddr>,
}

/// A row of `show neighbours`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourRow {
    /// The port it is on.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC, if it ever answered.
    pub mac: Option<MacAddr>,
    /// What is known of it.
    pub state: NeighbourState,
    /// When that state began.
    pub since: Tick,
    /// It said that it forwards packets.
    pub is_router: bool,
    /// Packets that wait for it.
    pub held: u32,
}

#[derive(Debug)]
struct Entry {
    port: PortId,
    address: IpAddr,
    mac: Option<MacAddr>,
    state: NeighbourState,
    since: Tick,
    due: Tick,
    asked: u8,
    is_router: bool,
    queue: Queue,
}

impl Entry {
    /// The MAC by which packets may go without a look at the state.
    fn usable(&self) -> Option<MacAddr> {
        let sure =
            matches!(self.state, NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe);
        self.mac.filter(|_| sure)
    }
}

/// The neighbours of the uplink ports that one worker owns.
#[derive(Debug)]
pub struct Neighbours<P> {
    config: NeighbourConfig,
    index: HashMap<(PortId, IpAddr), usize>,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// Each entry once, by when something is to be done about it.
    due: BTreeSet<(Tick, usize)>,
    held: Held<P>,
    incomplete: usize,
    /// Who can now be sent to without asking, by which MAC, and who can no longer.
    changed: Vec<(PortId, IpAddr, Option<MacAddr>)>,
    /// Where the search for something to evict goes on.
    hand: usize,
    random: u64,
}

/// Entries looked at to make room for one.
const EVICTION_LOOKS: usize = 32;

impl<P> Neighbours<P> {
    /// None yet.
    #[must_use]
    pub fn new(config: NeighbourConfig) -> Self {
        let capacity = usize::try_from(config.capacity).unwrap_or(usize::MAX);
        Self {
            index: HashMap::with_capacity(capacity),
            entries: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            due: BTreeSet::new(),
            held: Held::new(config.held_total),
            incomplete: 0,
            changed: Vec::new(),
            hand: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            config,
        }
    }

    /// The MAC of `next_hop` on `port` for `packet`, or the packet waits for it.
    pub fn resolve(&mut self, now: Tick, port: PortId, next_hop: IpAddr, packet: P) -> Resolution<P> {
        let found = self.index.get(&(port, next_hop)).copied();
        let known = found.and_then(|at| Some((at, self.entries.get(at)?.as_ref()?)));
        let at = match known.map(|(at, entry)| (at, entry.state, entry.mac)) {
            Some((
                _,
                NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe,
                Some(mac),
            )) => {
                return Resolution::Known(mac, packet);
            }
            Some((at, NeighbourState::Stale, Some(mac))) => {
                self.enter(at, NeighbourState::Delay, now, now.after_ms(self.config.delay_ms));
                return Resolution::Known(mac, packet);
            }
            Some((at, NeighbourState::Incomplete, _)) => at,
            // A neighbour that failed is asked for anew, but its old MAC is not believed.
            Some((at, _, _)) => {
                if self.too_many_incomplete() {
                    return Resolution::Refused(DropReason::NeighbourTableFull, packet);
                }
                self.enter(at, NeighbourState::Incomplete, now, now);
                at
            }
            None => {
                if self.too_many_incomplete() {
                    return Resolution::Refused(DropReason::NeighbourTableFull, packet);
                }
                match self.insert(now, port, next_hop, NeighbourState::Incomplete, now) {
                    Some(at) => at,
                    None => return Resolution::Refused(DropReason::NeighbourTableFull, packet),
                }
            }
        };
        self.hold(at, packet)
    }

    /// Takes in what was heard; packets that waited for it go to `released` with the MAC, oldest first.
    pub fn learn(&mut self, now: Tick, learned: &Learned, released: &mut impl FnMut(MacAddr, P)) {
        let at = match (self.index.get(&(learned.port, learned.address)), learned.heard, learned.mac) {
            (Some(&at), _, _) => at,
            (None, Heard::Solicitation, Some(mac)) => {
                let due = now.after_ms(self.config.stale_ms);
                if let Some(at) = self.insert(now, learned.port, learned.address, NeighbourState::Stale, due)
                {
                    self.set_mac(at, mac);
                }
                return;
            }
            (None, _, _) => return,
        };
        let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let (state, known) = (entry.state, entry.mac);
        let unresolved = matches!(state, NeighbourState::Incomplete | NeighbourState::Failed);
        let differs = learned.mac.is_some() && learned.mac != known;
        let next = match learned.heard {
            Heard::Solicitation if unresolved || differs => learned.mac.map(|_| NeighbourState::Stale),
            Heard::Solicitation => None,
            Heard::Advertisement { solicited, is_router, .. } if unresolved => {
                entry.is_router = is_router;
                // Without a MAC it is of no use yet (RFC 4861, section 7.2.5).
                learned.mac.map(|_| if solicited { NeighbourState::Reachable } else { NeighbourState::Stale })
            }
            // Someone else claims the address, but may not take it: trust ends, nothing else changes.
            Heard::Advertisement { overrides: false, .. } if differs => {
                if state == NeighbourState::Reachable {
                    self.enter(at, NeighbourState::Stale, now, now.after_ms(self.config.stale_ms));
                }
                return;
            }
            Heard::Advertisement { solicited, is_router, .. } => {
                entry.is_router = is_router;
                if solicited {
                    Some(NeighbourState::Reachable)
                } else {
                    differs.then_some(NeighbourState::Stale)
                }
            }
        };
        let Some(next) = next else { return };
        let due = match next {
            NeighbourState::Reachable => now.after_ms(self.reachable_ms()),
            _ => now.after_ms(self.config.stale_ms),
        };
        if let Some(mac) = learned.mac {
            self.set_mac(at, mac);
        }
        self.enter(at, next, now, due);
        if let Some(mac) = learned.mac {
            self.drain(at, |packet| released(mac, packet));
        }
    }

    /// Does what is due by `now`: at most `budget` entries, each with at most one question and `held_per_neighbour` packets.
    pub fn tick(&mut self, now: Tick, budget: usize, mut out: impl FnMut(NeighbourEvent<P>)) {
        for _ in 0..budget {
            match self.due.first() {
                Some(&(due, at)) if due <= now => self.expire(at, now, &mut out),
                _ => return,
            }
        }
    }

    /// When [`Neighbours::tick`] has something to do next: now or in the past if it is behind.
    #[must_use]
    pub fn next_tick(&self) -> Option<Tick> {
        self.due.first().map(|&(due, _)| due)
    }

    /// Every neighbour, in no order.
    pub fn iter(&self) -> impl Iterator<Item = NeighbourRow> + '_ {
        self.entries.iter().flatten().map(|e| NeighbourRow {
            port: e.port,
            address: e.address,
            mac: e.mac,
            state: e.state,
            since: e.since,
            is_router: e.is_router,
            held: e.queue.len(),
        })
    }

    /// Forgets the neighbours on a port that goes, or goes to another worker; what waited for them goes to `out`.
    pub fn forget_port(&mut self, port: PortId, mut out: impl FnMut(P)) {
        for at in 0..self.entries.len() {
            if self.entries[at].as_ref().is_some_and(|entry| entry.port == port) {
                self.drain(at, &mut out);
                self.remove(at);
            }
        }
    }

    /// Who can be sent to by which MAC without asking here, or no longer can, since the last call. Told once for each change; who
    /// becomes stale is asked about when the next packet is sent to it.
    pub fn changed(&mut self) -> std::vec::Drain<'_, (PortId, IpAddr, Option<MacAddr>)> {
        self.changed.drain(..)
    }

    /// Packets that wait.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held.len()
    }

    /// Neighbours there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn expire(&mut self, at: usize, now: Tick, out: &mut impl FnMut(NeighbourEvent<P>)) {
        let Some(entry) = self.entries.get(at).and_then(Option::as_ref) else {
            return;
        };
        let NeighbourConfig { retrans_ms, stale_ms, failed_ms, max_multicast, max_unicast, .. } = self.config;
        let (asked, state) = (entry.asked, entry.state);
        let mut solicit = Solicit { port: entry.port, address: entry.address, unicast_to: entry.mac };
        match state {
            NeighbourState::Reachable => self.enter(at, NeighbourState::Stale, now, now.after_ms(stale_ms)),
            NeighbourState::Stale | NeighbourState::Failed => self.remove(at),
            NeighbourState::Delay => {
                self.enter(at, NeighbourState::Probe, now, now.after_ms(retrans_ms));
                self.ask(at, solicit, out);
            }
            NeighbourState::Incomplete if asked < max_multicast => {
                solicit.unicast_to = None;
                self.schedule(at, now.after_ms(retrans_ms));
                self.ask(at, solicit, out);
            }
            NeighbourState::Probe if asked < max_unicast => {
                self.schedule(at, now.after_ms(retrans_ms));
                self.ask(at, solicit, out);
            }
            NeighbourState::Incomplete | NeighbourState::Probe => {
                self.enter(at, NeighbourState::Failed, now, now.after_ms(failed_ms));
                let Solicit { port, address, .. } = solicit;
                self.drain(at, |packet| out(NeighbourEvent::GiveUp { port, address, packet }));
            }
        }
    }

    fn ask(&mut self, at: usize, solicit: Solicit, out: &mut impl FnMut(NeighbourEvent<P>)) {
        if let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) {
            entry.asked = entry.asked.saturating_add(1);
            out(NeighbourEvent::Solicit(solicit));
        }
    }

    fn hold(&mut self, at: usize, packet: P) -> Resolution<P> {
        let full = DropReason::NeighbourQueueFull;
        let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) else {
            return Resolution::Refused(DropReason::NeighbourTableFull, packet);
        };
        let oldest = if entry.queue.len() >= self.config.held_per_neighbour {
            self.held.pop(&mut entry.queue)
        } else {
            None
        };
        match (self.held.push(&mut entry.queue, packet), oldest) {
            (Ok(()), None) => Resolution::Held,
            (Ok(()), Some(oldest)) => Resolution::Refused(full, oldest),
            // With the oldest taken out there was a free slot; so none was.
            (Err(packet), _) => Resolution::Refused(full, packet),
        }
    }

    fn drain(&mut self, at: usize, mut out: impl FnMut(P)) {
        let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        while let Some(packet) = self.held.pop(&mut entry.queue) {
            out(packet);
        }
    }

    fn set_mac(&mut self, at: usize, mac: MacAddr) {
        if let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) {
            let before = entry.usable();
            entry.mac = Some(mac);
            if entry.usable() != before {
                self.changed.push((entry.port, entry.address, entry.usable()));
            }
        }
    }

    fn too_many_incomplete(&self) -> bool {
        self.incomplete >= usize::try_from(self.config.capacity).unwrap_or(usize::MAX).div_ceil(2)
    }

    /// Goes to a state, for which no question has been asked yet.
    fn enter(&mut self, at: usize, state: NeighbourState, now: Tick, due: Tick) {
        if let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) {
            self.incomplete -= usize::from(entry.state == NeighbourState::Incomplete);
            self.incomplete += usize::from(state == NeighbourState::Incomplete);
            // A state that is only proven again has not begun again.
            if entry.state != state {
                entry.since = now;
            }
            let before = entry.usable();
            entry.state = state;
            entry.asked = 0;
            if entry.usable() != before {
                self.changed.push((entry.port, entry.address, entry.usable()));
            }
        }
        self.schedule(at, due);
    }

    fn schedule(&mut self, at: usize, due: Tick) {
        if let Some(entry) = self.entries.get_mut(at).and_then(Option::as_mut) {
            self.due.remove(&(entry.due, at));
            entry.due = due;
            self.due.insert((due, at));
        }
    }

    fn insert(
        &mut self,
        now: Tick,
        port: PortId,
        address: IpAddr,
        state: NeighbourState,
        due: Tick,
    ) -> Option<usize> {
        let capacity = usize::try_from(self.config.capacity).unwrap_or(usize::MAX);
        if self.index.len() >= capacity {
            self.evict();
        }
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.entries.len() < capacity => {
                self.entries.push(None);
                self.entries.len() - 1
            }
            None => return None,
        };
        let entry = Entry {
            port,
            address,
            mac: None,
            state,
            since: now,
            due,
            asked: 0,
            is_router: false,
            queue: Queue::EMPTY,
        };
        self.entries[at] = Some(entry);
        self.index.insert((port, address), at);
        self.due.insert((due, at));
        self.incomplete += usize::from(state == NeighbourState::Incomplete);
        Some(at)
    }

    /// Makes room by forgetting one that failed or that nobody uses, if there is one among the next few.
    fn evict(&mut self) {
        for _ in 0..EVICTION_LOOKS.min(self.entries.len()) {
            self.hand = (self.hand + 1) % self.entries.len();
            let idle = |e: &Entry| matches!(e.state, NeighbourState::Failed | NeighbourState::Stale);
            if self.entries[self.hand].as_ref().is_some_and(idle) {
                return self.remove(self.hand);
            }
        }
    }

    /// Nothing waits for it any more.
    fn remove(&mut self, at: usize) {
        if let Some(entry) = self.entries.get_mut(at).and_then(Option::take) {
            self.incomplete -= usize::from(entry.state == NeighbourState::Incomplete);
            self.due.remove(&(entry.due, at));
            self.index.remove(&(entry.port, entry.address));
            if entry.usable().is_some() {
                self.changed.push((entry.port, entry.address, None));
            }
            self.free.push(at);
        }
    }

    /// 0.5 to 1.5 of the configured time, so that routers that began together do not ask together (RFC 4861, section 6.3.4).
    fn reachable_ms(&mut self) -> u64 {
        // xorshift64 (Marsaglia, 2003): nobody gains by guessing it.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let base = self.config.reachable_ms;
        base / 2 + self.random % (base + 1)
    }
}
