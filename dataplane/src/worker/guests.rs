//! Guests are told of their gateway unasked: once their queues are ready, and from then on so often that what they were told last never
//! runs out (RFC 4861, section 6.2.4).
//!
//! Only vhost-user ports: kernel pods have their routes from control, and do not listen. A port's owner tells, and no other worker.

use pipeline::{Offload, Packet, Tick};
use tables::{MAX_PORTS, PortId};

use super::Worker;
use crate::io::Device;

/// Time between two looks at all ports, in microseconds.
const LOOK_US: u64 = 500_000;
/// Time between two advertisements to one guest, in microseconds: within what is said of routers' clocks (section 6.2.1: 198 to 600
/// seconds). A point-to-point link has no other router, so that no chance is needed in it.
const AGAIN_US: u64 = 450_000_000;

/// When each guest was told last.
pub(super) struct Guests {
    looked: Tick,
    told: Box<[Option<Tick>]>,
}

impl Guests {
    pub(super) fn new() -> Self {
        Self { looked: Tick(0), told: vec![None; usize::from(MAX_PORTS)].into() }
    }

    /// Whoever is behind the port next has been told nothing.
    pub(super) fn forget(&mut self, port: PortId) {
        self.told[usize::from(port.0)] = None;
    }
}

impl Worker {
    /// Sends the advertisements that are due.
    pub(super) fn look_after_guests(&mut self, now: Tick) {
        if now.since(self.guests.looked) < LOOK_US {
            return;
        }
        self.guests.looked = now;
        for at in 0..self.slots.len() {
            let slot = &self.slots[at];
            let id = slot.id;
            if !matches!(slot.device, Device::Vhost(_)) || self.owners.get(id) != Some(self.shared.id) {
                continue;
            }
            let frame = if slot.device.can_send() {
                pipeline::advertisement_frame(self.tables.get(), id)
            } else {
                None
            };
            let Some(bytes) = frame else {
                self.guests.forget(id);
                continue;
            };
            let told = &mut self.guests.told[usize::from(id.0)];
            if told.is_some_and(|told| now.since(told) < AGAIN_US) {
                continue;
            }
            let Some(buffer) = self.tools.pools.frame(&bytes) else { continue };
            *told = Some(now);
            self.shared.counters.ledger.originated.add(1);
            self.stage(id, Packet { buffer, in_port: id, offload: Offload::Done });
        }
    }
}
