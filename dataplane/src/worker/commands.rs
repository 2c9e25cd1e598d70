//! What the socket's threads tell a worker, between two bursts: ports come, go and get another device.

use pipeline::{DropReason, Tick};
use tables::PortId;

use super::{NO_SLOT, Slot, Worker};
use crate::handover::Command;
use crate::io::Device;

impl Worker {
    /// Does all that has been asked. True if anything was.
    pub(super) fn commands(&mut self, now: Tick) -> bool {
        let mut any = false;
        // A look at an empty queue costs two loads; to pop of it, a fence that waits for all stores of the last burst.
        while !self.shared.commands.is_empty()
            && let Some(command) = self.shared.commands.pop()
        {
            any = true;
            // Whoever asked may have given up waiting; then what is given back is closed here.
            match command {
                Command::AddPort(slot) => self.add_port(slot),
                Command::RemovePort(id, reply) => {
                    if let Some(slot) = self.remove_port(id) {
                        drop(reply.send(slot));
                    }
                }
                Command::ReplaceDevice(id, device, reply) => {
                    if let Some(old) = self.replace_device(id, device) {
                        drop(reply.send(old));
                    }
                }
                Command::AdjustPort(id, limits, mtu) => {
                    if let Some(at) = self.place(id) {
                        let slot = &mut self.slots[at];
                        slot.mtu = mtu;
                        if let Some(limits) = limits {
                            slot.limits = limits;
                        }
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
        let at = self.place(id)?;
        self.flush();
        self.forget_neighbours(id, DropReason::PortGone);
        self.guests.forget(id);
        self.waiter.remove(at, &self.slots[at].device);
        let slot = self.slots.swap_remove(at);
        self.slot_of[usize::from(id.0)] = NO_SLOT;
        if let Some(moved) = self.slots.get(at) {
            self.slot_of[usize::from(moved.id.0)] = u16::try_from(at).unwrap_or(NO_SLOT);
            self.waiter.moved(at, &moved.device);
        }
        Some(slot)
    }

    /// The port stays, with its counters, its rows and its neighbours.
    fn replace_device(&mut self, id: PortId, device: Box<Device>) -> Option<Device> {
        let at = self.place(id)?;
        self.flush();
        let slot = &mut *self.slots[at];
        self.waiter.forget(&slot.device);
        let old = std::mem::replace(&mut slot.device, *device);
        self.waiter.add(at, &slot.device);
        Some(old)
    }

    fn place(&self, id: PortId) -> Option<usize> {
        let at = usize::from(*self.slot_of.get(usize::from(id.0))?);
        (at < self.slots.len()).then_some(at)
    }
}
