//! The way out of a worker: to a port's queue, to a neighbour's MAC first, or to the worker that owns the port.
//!
//! What always holds: each packet that comes here is counted once, as sent, handed over, held, or dropped by name.

use dpdk::Burst;
use pipeline::{BURST, Buffer, DropReason, Offload, Output, Packet, Replayed, Resolution, Tick};
use tables::PortId;
use wire::{ETHERNET_HEADER, MacAddr};

use super::Worker;
use crate::frame::Frame;
use crate::handover::Handed;
use crate::io::{Device, finish};
use crate::limits::police_staged;

/// Bursts of other workers that are taken in one round, so that own ports are served too.
const BATCHES: usize = 8;

/// The way out for a run of packets to one port.
#[derive(Clone, Copy)]
pub(super) struct Lane {
    pub(super) port: PortId,
    at: u16,
    /// Bytes of the longest frame that its port takes.
    longest: usize,
}

/// Bytes of the longest frame that it makes on the wire.
pub(super) fn longest(packet: &Packet<Frame>) -> usize {
    let whole = packet.buffer.frame_len();
    match packet.offload {
        Offload::Gso { size, header_len, .. } => whole.min(usize::from(header_len) + usize::from(size)),
        Offload::Done | Offload::Partial { .. } => whole,
    }
}

impl Worker {
    /// To the port's owner, and there to its queue.
    pub(super) fn output(&mut self, packet: Packet<Frame>, output: Output, now: Tick) {
        let port = output.port();
        match self.owners.get(port) {
            // Neighbours are its owner's affair; what is complete leaves by any queue of ours.
            Some(_) if matches!(output, Output::Port(_)) && self.can_send(port) => self.stage(port, packet),
            Some(owner) if owner == self.shared.id => match output {
                Output::Port(port) => self.stage(port, packet),
                Output::Neighbour { port, next_hop } => {
                    match self.neighbours.resolve(now, port, next_hop, packet) {
                        Resolution::Known(mac, packet) => {
                            // From now on flows need not ask.
                            self.adjacencies.resolve(port, next_hop, Some(mac));
                            self.stage_to(port, mac, packet);
                        }
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

    /// Whether this worker has a queue of the port that takes frames now. Ports without an owner are on their way out.
    #[inline]
    fn can_send(&self, port: PortId) -> bool {
        let at = self.slot_of[usize::from(port.0)];
        self.owners.get(port).is_some()
            && self.slots.get(usize::from(at)).is_some_and(|slot| slot.device.can_send())
    }

    /// The neighbour's address first.
    pub(super) fn stage_to(&mut self, port: PortId, mac: MacAddr, mut packet: Packet<Frame>) {
        packet.buffer.head_mut()[..6].copy_from_slice(&mac.0);
        self.stage(port, packet);
    }

    /// Into the burst that leaves by this port next.
    pub(super) fn stage(&mut self, port: PortId, packet: Packet<Frame>) {
        let at = self.slot_of[usize::from(port.0)];
        let Some(slot) = self.slots.get_mut(usize::from(at)) else {
            return self.refuse(port, DropReason::PortGone, packet);
        };
        let (mtu, longest) = (slot.mtu, longest(&packet));
        if longest > usize::from(mtu) + ETHERNET_HEADER {
            return self.fragment(port, mtu, packet);
        }
        self.note_staged(at);
        let len = packet.buffer.frame_len();
        let slot = &mut self.slots[usize::from(at)];
        slot.staged.push(packet, len);
        if slot.staged.is_full() {
            self.flush_slots();
        }
    }

    /// Has a slot that is about to get something sent with the next flush.
    fn note_staged(&mut self, at: u16) {
        if self.slots[usize::from(at)].staged.is_empty() {
            if self.dirty.is_full() {
                // More ports than slots in the list: send what is staged so far.
                self.flush_slots();
            }
            self.dirty.push(at);
        }
    }

    /// Where frames to `port` that are finished may be staged without a further look, if this worker owns it.
    fn lane(&self, port: PortId) -> Option<Lane> {
        if !self.can_send(port) {
            return None;
        }
        let at = self.slot_of[usize::from(port.0)];
        let longest = usize::from(self.slots.get(usize::from(at))?.mtu) + ETHERNET_HEADER;
        Some(Lane { port, at, longest })
    }

    /// Stages a burst of finished frames whose headers are complete: all at once where they go one way, which most bursts do.
    #[inline]
    pub(super) fn stage_frames(&mut self, frames: &mut Burst, replayed: &Replayed, now: Tick) {
        let outputs = &replayed.outputs[..frames.len().min(BURST)];
        let Some(&port) = outputs.first() else { return };
        let differ = outputs.iter().fold(0, |differ, output| differ | output.0 ^ port.0);
        if differ == 0
            && let Some(lane) = self.lane(port)
            && replayed.longest <= lane.longest
        {
            self.note_staged(lane.at);
            let staged = &mut self.slots[usize::from(lane.at)].staged;
            let all = staged.append(frames, replayed.bytes);
            if staged.is_full() {
                self.flush_slots();
            }
            if all {
                return;
            }
        }
        let mut lane = None;
        for (mbuf, &port) in frames.drain().zip(outputs) {
            let packet = Packet { buffer: Frame(mbuf), in_port: port, offload: Offload::Done };
            self.stage_by(&mut lane, port, packet, now);
        }
    }

    /// Stages a packet whose header is complete. What a run of them to one port has in common is looked up once.
    #[inline]
    pub(super) fn stage_by(
        &mut self,
        lane: &mut Option<Lane>,
        port: PortId,
        packet: Packet<Frame>,
        now: Tick,
    ) {
        if lane.is_none_or(|lane| lane.port != port) {
            *lane = self.lane(port);
        }
        let back = match lane {
            Some(lane) => self.stage_plain(lane, packet),
            None => Some(packet),
        };
        if let Some(packet) = back {
            self.output(packet, Output::Port(port), now);
        }
    }

    /// Stages a packet, or gives it back where it needs a further look.
    #[inline]
    fn stage_plain(&mut self, lane: &Lane, packet: Packet<Frame>) -> Option<Packet<Frame>> {
        let len = packet.buffer.frame_len();
        if packet.offload != Offload::Done || len > lane.longest {
            return Some(packet);
        }
        if self.slots[usize::from(lane.at)].staged.is_empty() {
            self.note_staged(lane.at);
        }
        let slot = &mut self.slots[usize::from(lane.at)];
        slot.staged.push(packet, len);
        if slot.staged.is_full() {
            self.flush_slots();
        }
        None
    }

    /// Only what allows it comes here: `route` has refused the rest, and told its source. Each piece fits.
    #[cold]
    fn fragment(&mut self, port: PortId, mtu: u16, packet: Packet<Frame>) {
        match finish::fragments(&packet, mtu, &mut self.tools) {
            Ok(frames) => {
                self.shared.counters.ledger.split_extra.add((frames.len() as u64).saturating_sub(1));
                for buffer in frames {
                    self.stage(port, Packet { buffer, in_port: packet.in_port, offload: Offload::Done });
                }
                // The whole is in its pieces: freed, and not counted again.
                self.discard(packet);
            }
            Err(reason) => self.refuse(port, reason, packet),
        }
    }

    /// All that is staged leaves: by its port, or to the other workers.
    pub(super) fn flush(&mut self) {
        self.flush_slots();
        for worker in 0..self.leaving.len() {
            if !self.leaving[worker].is_empty() {
                self.hand_over(worker);
            }
        }
        self.trash.clear();
    }

    fn flush_slots(&mut self) {
        while let Some(at) = self.dirty.pop() {
            let slot = &mut *self.slots[usize::from(at)];
            if matches!(slot.device, Device::Tunnel) {
                self.send_datagrams(at);
                continue;
            }
            let counters = &self.shared.counters;
            if let Some(bucket) = &slot.limits.ingress {
                let excess = police_staged(bucket, &mut slot.staged);
                counters.drop_tx(slot.id, DropReason::IngressRateExceeded, excess);
            }
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

    /// What other workers have decided for ports of this one. True if there was anything.
    pub(super) fn take_handed(&mut self, now: Tick) -> bool {
        let mut any = false;
        for _ in 0..BATCHES {
            // As with commands: to find it empty must cost no fence.
            if self.shared.inbox.is_empty() {
                break;
            }
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

    /// A packet refused on its way out by `port`.
    pub(super) fn refuse(&mut self, port: PortId, reason: DropReason, packet: Packet<Frame>) {
        self.shared.counters.drop_tx(port, reason, 1);
        self.discard(packet);
    }

    /// Buffers are freed together, at the end of the burst.
    pub(super) fn discard(&mut self, packet: Packet<Frame>) {
        if self.trash.is_full() {
            self.trash.clear();
        }
        // A full burst was emptied just now; a buffer that is given back is freed by its own drop.
        drop(self.trash.push(packet.buffer.0));
    }
}
