//! Neighbours: what was learned is taken in, who does not answer is asked again, and what waited leaves or is given up.

use arrayvec::ArrayVec;
use pipeline::{BURST, DropReason, Learned, NeighbourEvent, Offload, Packet, Tick};
use tables::PortId;
use wire::MacAddr;

use super::Worker;
use crate::frame::Frame;

/// Neighbours that one round may look at.
const BUDGET: usize = 64;

impl Worker {
    /// What the last burst taught about neighbours. Those of a port are its owner's affair, by whichever queue it was heard.
    pub(super) fn learn(&mut self, now: Tick) {
        let mut ours = ArrayVec::<Learned, BURST>::new();
        for learned in self.router.learned() {
            match self.owners.get(learned.port) {
                Some(owner) if owner == self.shared.id => ours.push(learned),
                Some(owner) => {
                    let owner = &self.workers[usize::from(owner)];
                    // Where it has no room, the neighbour is asked again.
                    if owner.heard.push(learned).is_ok() {
                        owner.doorbell.ring();
                    }
                }
                None => {}
            }
        }
        self.take_in(now, &ours);
    }

    /// What other workers have heard of neighbours on our ports. True if there was anything.
    pub(super) fn take_heard(&mut self, now: Tick) -> bool {
        // As with what is handed over: to find it empty must cost no fence.
        if self.shared.heard.is_empty() {
            return false;
        }
        let heard: ArrayVec<Learned, BURST> =
            std::iter::from_fn(|| self.shared.heard.pop()).take(BURST).collect();
        self.take_in(now, &heard);
        true
    }

    /// Packets that waited for it leave.
    fn take_in(&mut self, now: Tick, all: &[Learned]) {
        if all.is_empty() {
            return;
        }
        // Allocates only where packets waited: once a neighbour, not once a packet.
        let mut released: Vec<(PortId, MacAddr, Packet<Frame>)> = Vec::new();
        for learned in all {
            let port = learned.port;
            self.neighbours.learn(now, learned, &mut |mac, packet| released.push((port, mac, packet)));
        }
        self.tell_adjacencies();
        for (port, mac, packet) in released {
            self.stage_to(port, mac, packet);
        }
        self.count_held();
    }

    /// Retransmissions, probes and ageing, a few a round.
    pub(super) fn look_after_neighbours(&mut self, now: Tick) {
        if self.neighbours.next_tick().is_none_or(|due| due > now) {
            return;
        }
        // A question a second and neighbour, so that an allocation costs nothing that could be measured.
        let mut events = Vec::new();
        self.neighbours.tick(now, BUDGET, &mut |event| events.push(event));
        self.tell_adjacencies();
        for event in events {
            match event {
                NeighbourEvent::Solicit(solicit) => {
                    let frame = pipeline::solicit_frame(self.tables.get(), &solicit);
                    let Some(buffer) = frame.and_then(|bytes| self.tools.pools.frame(&bytes)) else {
                        continue;
                    };
                    self.shared.counters.ledger.originated.add(1);
                    self.stage(
                        solicit.port,
                        Packet { buffer, in_port: solicit.port, offload: Offload::Done },
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

    /// What flows use instead of asking.
    pub(super) fn tell_adjacencies(&mut self) {
        for (port, address, mac) in self.neighbours.changed() {
            self.adjacencies.resolve(port, address, mac);
        }
    }

    pub(super) fn count_held(&self) {
        let held = self.neighbours.held() + self.router.held();
        self.shared.counters.ledger.held.set(held as u64);
    }

    /// What waits for the neighbours of a port goes, by this name.
    pub(super) fn forget_neighbours(&mut self, port: PortId, reason: DropReason) {
        let mut waiting = Vec::new();
        self.neighbours.forget_port(port, &mut |packet| waiting.push(packet));
        for packet in waiting {
            self.refuse(port, reason, packet);
        }
        self.tell_adjacencies();
        self.count_held();
    }
}
