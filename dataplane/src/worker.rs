//! The loop of a worker: both kinds run it, and differ only in how they wait.
//!
//! A worker owns its ports outright, and shares [`WorkerShared`]. Between two bursts it takes newer tables, new ports
//! and what other workers hand to it. It never blocks while there is traffic, and never takes a lock.

mod commands;
mod exit;
mod neighbours;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arrayvec::ArrayVec;
use dpdk::Burst;
use pipeline::{
    BURST, DropReason, Fate, NeighbourConfig, Neighbours, Packet, Router, RouterConfig, Tick, Verdict,
};
use publish::Reader;
use tables::{MAX_PORTS, PortId, PortRole, Tables};

use crate::frame::Frame;
use crate::handover::{Batch, PortOwners, WorkerShared};
use crate::io::{Device, Packets, Staged, Tools};
use crate::wait::Waiter;

/// A port and what waits to leave by it.
pub(crate) struct Slot {
    pub(crate) id: PortId,
    /// Largest IP packet, in bytes.
    pub(crate) mtu: u16,
    pub(crate) device: Device,
    pub(crate) staged: Staged,
}

/// A worker's ports, in no order. A slot is kilobytes, and moves by pointer: between threads, and when a port goes.
pub(crate) type Slots = Vec<Box<Slot>>;

/// The place of a port that this worker does not own.
const NO_SLOT: u16 = u16::MAX;

/// All that a worker has to itself.
pub(crate) struct Worker {
    shared: Arc<WorkerShared>,
    /// All workers by id, this one among them.
    workers: Arc<[Arc<WorkerShared>]>,
    owners: Arc<PortOwners>,
    tables: Reader<Tables>,
    router: Router,
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
    start: Instant,
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
    /// When the process began: tick 0.
    pub(crate) start: Instant,
}

impl Worker {
    pub(crate) fn new(config: WorkerConfig) -> Self {
        let leaving = config.workers.iter().map(|_| Batch::new()).collect();
        Self {
            shared: config.shared,
            workers: config.workers,
            owners: config.owners,
            tables: config.tables,
            router: Router::new(RouterConfig { fragment: true, ..RouterConfig::default() }),
            neighbours: Neighbours::new(config.neighbours),
            slots: Vec::new(),
            slot_of: vec![NO_SLOT; usize::from(MAX_PORTS)].into(),
            dirty: ArrayVec::new(),
            leaving,
            trash: Burst::new(),
            tools: config.tools,
            waiter: config.waiter,
            start: config.start,
        }
    }

    /// The path of a packet, on one screen.
    pub(crate) fn run(mut self) {
        let mut packets = Packets::new();
        let mut worked = false;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = self.now();
            self.waiter.account(now, worked, &self.shared.counters);
            self.tables.refresh();
            self.shared.counters.generation.set(self.tables.generation());
            worked = self.commands(now);
            worked |= self.take_handed(now);
            for at in 0..self.slots.len() {
                if self.waiter.is_ready(at) {
                    worked |= self.forward(at, now, &mut packets);
                }
            }
            self.look_after_neighbours(now);
            self.flush();
            let next = self.neighbours.next_tick();
            self.waiter.wait(worked, &self.slots, now, next, &self.shared, &mut self.tables);
        }
        self.drain();
    }

    /// Receive, decide, settle.
    fn forward(&mut self, at: usize, now: Tick, packets: &mut Packets) -> bool {
        let slot = &mut *self.slots[at];
        let (id, counters) = (slot.id, &self.shared.counters);
        if slot.device.waits_for_role()
            && self.tables.get().port(id).is_none_or(|port| port.role == PortRole::Idle)
        {
            return false;
        }
        slot.device.receive(id, &mut self.tools, packets, &mut |reason| {
            counters.ledger.rx.add(1);
            counters.port(id).rx.packets.add(1);
            counters.drop_rx(id, reason);
        });
        if packets.is_empty() {
            return false;
        }
        let bytes: usize = packets.iter().map(|p| p.buffer.0.total_len()).sum();
        counters.ledger.rx.add(packets.len() as u64);
        counters.port(id).rx.packets.add(packets.len() as u64);
        counters.port(id).rx.bytes.add(bytes as u64);

        let mut verdicts = ArrayVec::<Verdict, BURST>::new();
        self.router.run(self.tables.get(), now, packets, &mut verdicts);
        for (packet, verdict) in packets.drain(..).zip(verdicts) {
            self.settle(packet, verdict, now);
        }
        self.shared.counters.icmp_suppressed.set(self.router.icmp_errors_suppressed());
        self.learn(now);
        self.flush();
        true
    }

    fn settle(&mut self, packet: Packet<Frame>, verdict: Verdict, now: Tick) {
        let counters = &self.shared.counters;
        match verdict {
            Verdict::Forward(output) => self.output(packet, output, now),
            Verdict::Drop(reason) => {
                counters.drop_rx(packet.in_port, reason);
                self.discard(packet);
            }
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
        let now = self.now();
        while self.take_handed(now) {}
        for at in 0..self.slots.len() {
            self.forget_neighbours(self.slots[at].id, DropReason::Shutdown);
        }
        self.flush();
    }

    /// Since the process started.
    fn now(&self) -> Tick {
        Tick(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}
