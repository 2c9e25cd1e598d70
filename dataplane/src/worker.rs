//! The loop of a worker: both kinds run it, and differ only in how they wait.
//!
//! A worker owns its ports outright, and shares [`WorkerShared`]. Between two bursts it takes newer tables, new ports
//! and what other workers hand to it. It never blocks while there is traffic, and never takes a lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arrayvec::ArrayVec;
use dpdk::Burst;
use pipeline::{BURST, DropReason, Fate, NeighbourEvent, Neighbours, Output, Packet, Resolution, Router, Tick, Verdict};
use publish::Reader;
use tables::{MAX_PORTS, PortId, PortRole, Tables};
use wire::MacAddr;

use crate::frame::Frame;
use crate::handover::{Batch, Command, Handed, PortOwners, WorkerShared};
use crate::io::{Device, Packets, Staged, Tools};
use crate::wait::Waiter;

/// A port and what waits to leave by it.
pub(crate) struct Slot {
    pub(crate) id: PortId,
    pub(crate) device: Device,
    pub(crate) staged: Staged,
}

/// Neighbours that one round may look at.
const NEIGHBOUR_BUDGET: usize = 64;

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
    slots: Vec<Box<Slot>>,
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
            router: Router::new(pipeline::RouterConfig::default()),
            neighbours: Neighbours::new(pipeline::NeighbourConfig::default()),
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
            let now = Tick(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX));
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
            let idle = self.slots.is_empty();
            self.waiter.wait(worked, idle, now, next, &self.shared, &mut self.tables);
        }
        self.drain();
    }

    /// Receive, decide, settle.
    fn forward(&mut self, at: usize, now: Tick, packets: &mut Packets) -> bool {
        let slot = &mut *self.slots[at];
        let (id, counters) = (slot.id, &self.shared.counters);
        if slot.device.waits_for_role() && self.tables.get().port(id).is_none_or(|port| port.role == PortRole::Idle) {
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

    /// To the port's owner, and there to its queue.
    fn output(&mut self, packet: Packet<Frame>, output: Output, now: Tick) {
        let port = output.port();
        match self.owners.get(port) {
            Some(owner) if owner == self.shared.id => match output {
                Output::Port(port) => self.stage(port, packet),
                Output::Neighbour { port, next_hop } => {
                    match self.neighbours.resolve(now, port, next_hop, packet) {
                        Resolution::Known(mac, packet) => self.stage_to(port, mac, packet),
                        Resolution::Held => self.count_held(),
                        Resolution::Refused(reason, packet) => self.refuse(port, reason, packet),
                    }
                }
            },
            Some(owner) => {
                let batch = &mut self.leaving[usize::from(owner)];
                batch.push(Handed { packet, output });
                if batch.is_full() {
                    self.hand_over(usize::from(owner));
                }
            }
            None => self.refuse(port, DropReason::PortGone, packet),
        }
    }

    fn stage_to(&mut self, port: PortId, mac: MacAddr, mut packet: Packet<Frame>) {
        use pipeline::Buffer;
        packet.buffer.head_mut()[..6].copy_from_slice(&mac.0);
        self.stage(port, packet);
    }

    fn stage(&mut self, port: PortId, packet: Packet<Frame>) {
        let at = self.slot_of[usize::from(port.0)];
        let Some(slot) = self.slots.get_mut(usize::from(at)) else {
            return self.refuse(port, DropReason::PortGone, packet);
        };
        if slot.staged.is_empty() {
            if self.dirty.is_full() {
                // More ports than slots in the list: send what is staged so far.
                self.flush_slots();
            }
            self.dirty.push(at);
        }
        let slot = &mut self.slots[usize::from(at)];
        slot.staged.push(packet);
        if slot.staged.is_full() {
            self.flush_slots();
        }
    }

    fn flush(&mut self) {
        self.flush_slots();
        for worker in 0..self.leaving.len() {
            if !self.leaving[worker].is_empty() {
                self.hand_over(worker);
            }
        }
        self.trash.clear();
    }

    fn flush_slots(&mut self) {
        for at in self.dirty.drain(..) {
            let slot = &mut *self.slots[usize::from(at)];
            let counters = &self.shared.counters;
            let sent = slot.device.send(&mut self.tools, &mut slot.staged);
            let port = &counters.port(slot.id).tx;
            port.packets.add(sent.packets);
            port.bytes.add(sent.bytes);
            counters.ledger.tx.add(sent.packets);
            counters.ledger.split_extra.add(sent.split_extra);
            for (reason, n) in sent.refused {
                counters.drop_tx(slot.id, reason, n);
            }
        }
    }

    fn hand_over(&mut self, worker: usize) {
        let batch = std::mem::take(&mut self.leaving[worker]);
        let n = batch.len() as u64;
        let target = &self.workers[worker];
        match target.inbox.push(batch) {
            Ok(()) => {
                self.shared.counters.ledger.handed_out.add(n);
                target.doorbell.ring();
            }
            Err(batch) => {
                for handed in batch {
                    self.refuse(handed.output.port(), DropReason::HandoverFull, handed.packet);
                }
            }
        }
    }

    fn take_handed(&mut self, now: Tick) -> bool {
        let mut any = false;
        // Bounded, so that own ports are served too.
        for _ in 0..8 {
            let Some(batch) = self.shared.inbox.pop() else { break };
            any = true;
            self.shared.counters.ledger.handed_in.add(batch.len() as u64);
            for Handed { packet, output } in batch {
                // The port may have moved on since: then it is gone, rather than handed over for ever.
                if self.owners.get(output.port()) == Some(self.shared.id) {
                    self.output(packet, output, now);
                } else {
                    self.refuse(output.port(), DropReason::PortGone, packet);
                }
            }
        }
        any
    }

    fn refuse(&mut self, port: PortId, reason: DropReason, packet: Packet<Frame>) {
        self.shared.counters.drop_tx(port, reason, 1);
        self.discard(packet);
    }

    /// Buffers are freed together, at the end of the burst.
    fn discard(&mut self, packet: Packet<Frame>) {
        if self.trash.is_full() {
            self.trash.clear();
        }
        // A full burst was emptied just now; a buffer that is given back is freed by its own drop.
        drop(self.trash.push(packet.buffer.0));
    }

    fn count_held(&self) {
        self.shared.counters.ledger.held.set(self.neighbours.held() as u64);
    }

    /// What the last burst taught about neighbours; packets that waited for it leave.
    fn learn(&mut self, now: Tick) {
        let Self { router, neighbours, .. } = self;
        let mut released: ArrayVec<(PortId, MacAddr, Packet<Frame>), 64> = ArrayVec::new();
        let mut over: Vec<(PortId, MacAddr, Packet<Frame>)> = Vec::new();
        let mut any = false;
        for learned in router.learned() {
            any = true;
            neighbours.learn(now, &learned, &mut |mac, packet| {
                if let Err(full) = released.try_push((learned.port, mac, packet)) {
                    over.push(full.element());
                }
            });
        }
        if !any {
            return;
        }
        for (port, mac, packet) in released.into_iter().chain(over) {
            self.stage_to(port, mac, packet);
        }
        self.count_held();
    }

    /// Retransmissions, probes and ageing, a few a round.
    fn look_after_neighbours(&mut self, now: Tick) {
        if self.neighbours.next_tick().is_none_or(|due| due > now) {
            return;
        }
        let mut events = Vec::new();
        self.neighbours.tick(now, NEIGHBOUR_BUDGET, &mut |event| events.push(event));
        for event in events {
            match event {
                NeighbourEvent::Solicit(solicit) => {
                    let frame = pipeline::solicit_frame(self.tables.get(), &solicit);
                    let Some(buffer) = frame.and_then(|bytes| self.tools.pools.frame(&bytes)) else { continue };
                    self.shared.counters.ledger.originated.add(1);
                    self.stage(
                        solicit.port,
                        Packet { buffer, in_port: solicit.port, offload: pipeline::Offload::Done },
                    );
                }
                NeighbourEvent::GiveUp { mut packet, .. } => {
                    let verdict = self.router.unreachable(self.tables.get(), now, &mut packet);
                    self.settle(packet, verdict, now);
                }
            }
        }
        self.count_held();
    }

    fn commands(&mut self, now: Tick) -> bool {
        let mut any = false;
        while let Some(command) = self.shared.commands.pop() {
            any = true;
            match command {
                Command::AddPort(slot) => self.add_port(slot),
                Command::RemovePort(id, reply) => {
                    if let Some(slot) = self.remove_port(id) {
                        // Whoever asked may have given up waiting; then the port is closed here.
                        drop(reply.send(slot));
                    }
                }
                Command::Neighbours(reply) => {
                    drop(reply.send((now, self.neighbours.iter().collect())));
                }
            }
        }
        any
    }

    fn add_port(&mut self, slot: Box<Slot>) {
        let at = self.slots.len();
        self.waiter.add(at, &slot.device);
        self.slot_of[usize::from(slot.id.0)] = u16::try_from(at).unwrap_or(NO_SLOT);
        self.slots.push(slot);
    }

    fn remove_port(&mut self, id: PortId) -> Option<Box<Slot>> {
        let at = usize::from(self.slot_of[usize::from(id.0)]);
        if at >= self.slots.len() {
            return None;
        }
        self.flush();
        let mut waiting = Vec::new();
        self.neighbours.forget_port(id, &mut |packet| waiting.push(packet));
        for packet in waiting {
            self.refuse(id, DropReason::PortGone, packet);
        }
        self.count_held();
        self.waiter.remove(at, &self.slots[at].device);
        let slot = self.slots.swap_remove(at);
        self.slot_of[usize::from(id.0)] = NO_SLOT;
        if let Some(moved) = self.slots.get(at) {
            self.slot_of[usize::from(moved.id.0)] = u16::try_from(at).unwrap_or(NO_SLOT);
            self.waiter.moved(at, &moved.device);
        }
        Some(slot)
    }

    /// The end: what is on its way leaves, what waits is dropped by name.
    fn drain(&mut self) {
        let now = Tick(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.take_handed(now);
        self.flush();
        let ids: Vec<_> = self.slots.iter().map(|slot| slot.id).collect();
        for id in ids {
            let mut waiting = Vec::new();
            self.neighbours.forget_port(id, &mut |packet| waiting.push(packet));
            for packet in waiting {
                self.refuse(id, DropReason::Shutdown, packet);
            }
        }
        self.flush();
    }
}
