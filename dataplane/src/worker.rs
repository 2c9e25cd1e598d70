//! The loop of a worker: both kinds run it, and differ only in how they wait.
//!
//! A worker owns its ports outright, and shares [`WorkerShared`]. Between two bursts it takes newer tables, new ports
//! and what other workers hand to it. It never blocks while there is traffic, and never takes a lock.

mod commands;
mod exit;
mod fragments;
mod guests;
mod neighbours;
mod tunnels;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dpdk::{Burst, Mbuf};
use pipeline::{
    Adjacencies, BURST, DropReason, Fate, NeighbourConfig, Neighbours, Output, Packet, Router, RouterConfig,
    Tick, Tracking, Verdict,
    tunnel::{Decapsulator, Encapsulator},
};
use publish::Reader;
use tables::{MAX_PORTS, PortId, PortRole, Tables};

use crate::clock;
use crate::frame::Frame;
use crate::handover::{Batch, PortOwners, WorkerShared};
use crate::io::{Device, Packets, Received, Staged, Tools, finish};
use crate::limits::{PortLimits, police_received};
use crate::wait::Waiter;

/// A port and what waits to leave by it.
pub(crate) struct Slot {
    pub(crate) id: PortId,
    /// Largest IP packet, in bytes.
    pub(crate) mtu: u16,
    pub(crate) device: Device,
    pub(crate) staged: Staged,
    pub(crate) limits: PortLimits,
}

/// A worker's ports, in no order. A slot is kilobytes, and moves by pointer: between threads, and when a port goes.
pub(crate) type Slots = Vec<Box<Slot>>;

/// Ports of every kind cut up what is too long and may be.
pub(crate) const FRAGMENT: bool = true;

/// Time between two looks at flows, in microseconds.
const EXPIRE_US: u64 = 1_000;
/// Records looked at in one of them, a family, with and without traffic.
const EXPIRE_BUSY: u32 = 64;
const EXPIRE_IDLE: u32 = 65_536;
/// A worker without traffic looks at flows this often, in milliseconds.
const FLOWS_MS: u64 = 500;

/// How the router sees a frame that has nothing left to finish.
#[inline]
fn finished(mbuf: &mut Mbuf, _in_port: PortId) -> Option<(&mut [u8], usize, ())> {
    let len = mbuf.total_len();
    Some((mbuf.data_mut(), len, ()))
}

/// The place of a port that this worker does not own.
const NO_SLOT: u16 = u16::MAX;

/// All that a worker has to itself.
pub(crate) struct Worker {
    shared: Arc<WorkerShared>,
    /// All workers by id, this one among them.
    workers: Arc<[Arc<WorkerShared>]>,
    owners: Arc<PortOwners>,
    tables: Reader<Tables>,
    router: Router<Frame>,
    adjacencies: Arc<Adjacencies>,
    neighbours: Neighbours<Packet<Frame>>,
    slots: Slots,
    /// Position in `slots` by port id.
    slot_of: Box<[u16]>,
    /// Slots with something staged.
    dirty: ArrayVec<u16, 64>,
    /// Bursts in the making for other workers, by worker id.
    leaving: Vec<Batch>,
    /// Buffers to be freed together.
    trash: Burst,
    tools: Tools,
    waiter: Waiter,
    /// When flows were last looked at for their time.
    expired: Tick,
    guests: guests::Guests,
    encapsulator: Encapsulator,
    decapsulator: Decapsulator,
    /// Of a large segment that leaves by a tunnel.
    pieces: Vec<Frame>,
}

/// What [`Worker::new`] is given.
pub(crate) struct WorkerConfig {
    pub(crate) shared: Arc<WorkerShared>,
    pub(crate) workers: Arc<[Arc<WorkerShared>]>,
    pub(crate) owners: Arc<PortOwners>,
    pub(crate) tables: Reader<Tables>,
    pub(crate) tools: Tools,
    pub(crate) waiter: Waiter,
    pub(crate) neighbours: NeighbourConfig,
    pub(crate) tracking: Tracking,
}

impl Worker {
    pub(crate) fn new(config: WorkerConfig) -> Self {
        let leaving = config.workers.iter().map(|_| Batch::new()).collect();
        Self {
            shared: config.shared,
            workers: config.workers,
            owners: config.owners,
            tables: config.tables,
            adjacencies: Arc::clone(&config.tracking.adjacencies),
            router: Router::new(
                RouterConfig { fragment: FRAGMENT, ..RouterConfig::default() },
                config.tracking,
            ),
            neighbours: Neighbours::new(config.neighbours),
            slots: Vec::new(),
            slot_of: vec![NO_SLOT; usize::from(MAX_PORTS)].into(),
            dirty: ArrayVec::new(),
            leaving,
            trash: Burst::new(),
            tools: config.tools,
            waiter: config.waiter,
            expired: clock::now(),
            guests: guests::Guests::new(),
            encapsulator: Encapsulator::default(),
            decapsulator: Decapsulator::default(),
            pieces: Vec::with_capacity(finish::MOST_SEGMENTS),
        }
    }

    /// The path of a packet, on one screen.
    pub(crate) fn run(mut self) {
        let (mut received, mut opened) = (Received::default(), Received::default());
        let mut worked = false;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = clock::now();
            self.waiter.account(now, worked, &self.shared.counters);
            self.tables.refresh();
            self.shared.counters.generation.set(self.tables.generation());
            worked = self.commands(now);
            worked |= self.take_handed(now);
            worked |= self.take_heard(now);
            for at in 0..self.slots.len() {
                if self.waiter.is_ready(at) {
                    worked |= self.forward(at, now, &mut received, &mut opened);
                }
            }
            self.look_after_neighbours(now);
            self.look_after_flows(now, worked);
            self.flush();
            if worked {
                self.waiter.wait(true, &self.slots, now, None, &self.shared, &mut self.tables);
            } else {
                self.shared.counters.empty_rounds.add(1);
                let flows = now.after_ms(FLOWS_MS);
                let next = self.neighbours.next_tick().map_or(flows, |next| next.min(flows));
                self.router.rest();
                self.waiter.wait(false, &self.slots, now, Some(next), &self.shared, &mut self.tables);
                self.router.wake();
            }
        }
        self.drain();
    }

    /// Receive, open what came in a tunnel, and take each on its way.
    fn forward(&mut self, at: usize, now: Tick, received: &mut Received, opened: &mut Received) -> bool {
        let slot = &mut *self.slots[at];
        let (id, counters, mut worked) = (slot.id, &self.shared.counters, false);
        if slot.device.waits_for_role()
            && self.tables.get().port(id).is_none_or(|port| port.role == PortRole::Idle)
        {
            return false;
        }
        slot.device.receive(id, &mut self.tools, received, &mut |reason| {
            counters.ledger.rx.add(1);
            counters.port(id).rx.packets.add(1);
            counters.drop_rx(id, reason);
        });
        if let Some(bucket) = &slot.limits.egress {
            let excess = police_received(bucket, now, received);
            counters.refuse_rx(id, DropReason::EgressRateExceeded, excess);
            worked = excess.packets > 0;
        }
        let n = received.len();
        if n == 0 {
            return worked;
        }
        counters.burst(n);
        counters.ledger.rx.add(n as u64);
        if let Some(&tunnel) = self.tables.get().tunnel_over(id) {
            self.open_datagrams(&tunnel, received, opened);
            self.decide(tunnel.port, now, opened);
        }
        self.decide(id, now, received);
        self.follow_fragments(now);
        self.flush();
        true
    }

    /// Decide, settle. All came by one port.
    fn decide(&mut self, id: PortId, now: Tick, received: &mut Received) {
        let (n, tables, counters) = (received.len(), self.tables.get(), &self.shared.counters);
        if n == 0 {
            return;
        }
        let replayed = self.router.replay(tables, now, id, received.frames.as_mut_slice(), finished);
        // Frames have been measured on the way.
        let packets: usize = received.packets.iter().map(|packet| packet.buffer.0.total_len()).sum();
        counters.port(id).rx.packets.add(n as u64);
        counters.port(id).rx.bytes.add((replayed.bytes + packets) as u64);

        if replayed.done.count_ones() as usize == n {
            self.stage_frames(&mut received.frames, &replayed, now);
        } else {
            let mut verdicts = ArrayVec::<Verdict, BURST>::new();
            if received.frames.is_empty() {
                self.router.run(tables, now, &mut received.packets, &mut verdicts);
            } else {
                self.router.decide(tables, now, received.unfold(id), &replayed, &mut verdicts);
            }
            self.stage_each(&mut received.packets, verdicts, now);
            self.shared.counters.icmp_suppressed.set(self.router.icmp_errors_suppressed());
            self.learn(now);
        }
    }

    fn stage_each(&mut self, packets: &mut Packets, verdicts: ArrayVec<Verdict, BURST>, now: Tick) {
        let mut lane = None;
        for (packet, verdict) in packets.drain(..).zip(verdicts) {
            match verdict {
                Verdict::Forward(Output::Port(port)) => self.stage_by(&mut lane, port, packet, now),
                _ => self.settle(packet, verdict, now),
            }
        }
    }

    fn settle(&mut self, packet: Packet<Frame>, verdict: Verdict, now: Tick) {
        let counters = &self.shared.counters;
        match verdict {
            Verdict::Forward(output) => self.output(packet, output, now),
            Verdict::Drop(reason) => {
                counters.drop_rx(packet.in_port, reason);
                self.discard(packet);
            }
            Verdict::Denied { reason, port } => {
                counters.deny(port, reason);
                counters.drop_rx(packet.in_port, reason);
                self.discard(packet);
            }
            Verdict::Hold(ticket) => self.hold(packet, ticket),
            Verdict::Consume(_) => {
                counters.ledger.consumed.add(1);
                self.discard(packet);
            }
            Verdict::Answer { fate, output } => {
                match fate {
                    Fate::Dropped(reason) => counters.drop_rx(packet.in_port, reason),
                    Fate::Consumed(_) => counters.ledger.consumed.add(1),
                }
                counters.ledger.originated.add(1);
                self.output(packet, output, now);
            }
        }
    }

    /// The end: what is on its way leaves, what waits is dropped by name. Ports have been taken away before, so that
    /// nothing new comes in by any worker.
    fn drain(&mut self) {
        let now = clock::now();
        while self.take_handed(now) {}
        for at in 0..self.slots.len() {
            self.forget_neighbours(self.slots[at].id, DropReason::Shutdown);
        }
        self.forget_fragments();
        self.flush();
    }

    /// Ends flows whose time is over, a few at a time, more when there is nothing else to do; and what else is looked at now and then.
    fn look_after_flows(&mut self, now: Tick, worked: bool) {
        let elapsed = now.since(self.expired);
        if elapsed < EXPIRE_US {
            return;
        }
        self.expired = now;
        self.give_up_fragments(now);
        self.look_after_guests(now);
        let most = if worked { EXPIRE_BUSY } else { EXPIRE_IDLE };
        let workers = u32::try_from(self.workers.len()).unwrap_or(1);
        self.router.expire(now, elapsed, workers, most);
        self.shared.counters.flows.set(self.router.flow_counts());
    }
}
