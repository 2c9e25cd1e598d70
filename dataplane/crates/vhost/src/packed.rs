//! A packed ring (VIRTIO 1.2, 2.8) while it runs: one table, in which what is used is written over what was available.
//!
//! What always holds: as in a split ring, chains are given back in the order in which they were taken, so that each is written
//! used where its own head was; the first of a burst becomes visible last, and all others with it.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::chains::{CHAIN_MAX, Chain, Chains, DESCRIPTOR, Descriptor, Source};
use crate::memory::{Memory, Part};
use crate::ring::{Addresses, crossed};

/// Where in a descriptor id and flags are.
const LEN: usize = 8;
const ID: usize = 12;
const FLAGS: usize = 14;

const WRITE: u16 = 2;
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Cache lines of the next burst's descriptors.
const AHEAD: usize = 8;

/// The event suppression structures: a place in the ring with its wrap counter, then flags (2.8.14).
const EVENT: usize = 4;
const EVENT_FLAGS: usize = 2;
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_PLACE: u16 = 2;

/// A place in the ring, and the counter that flips each time round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u16,
    pub(crate) wrap: bool,
}

impl Place {
    /// Where a ring begins.
    pub(crate) const START: Self = Self { index: 0, wrap: true };

    /// As messages have it: 15 bits, and the counter.
    pub(crate) const fn from_bits(bits: u16) -> Self {
        Self { index: bits & 0x7fff, wrap: bits & 0x8000 != 0 }
    }

    pub(crate) const fn bits(self) -> u16 {
        self.index | if self.wrap { 0x8000 } else { 0 }
    }

    #[inline]
    const fn advance(&mut self, slots: u16, size: u16) {
        // Neither is more than 32,768.
        self.index += slots;
        if self.index >= size {
            self.index -= size;
            self.wrap = !self.wrap;
        }
    }

    const fn back(&mut self, slots: u16, size: u16) {
        if self.index < slots {
            self.index += size;
            self.wrap = !self.wrap;
        }
        self.index -= slots;
    }
}

/// The table, the two event structures, and where we are.
#[derive(Debug)]
pub(crate) struct Packed {
    descriptors: Part,
    driver_event: Part,
    device_event: Part,
    size: u16,
    event_index: bool,
    /// Where the next chain to take is.
    next: Place,
    /// Where the next one used goes.
    used: Place,
    /// Where the first one not yet visible is, and the flags that make it so.
    first: Option<(u16, u16)>,
    /// `used` when the guest was last asked whether it wants an interrupt.
    signalled: Option<Place>,
}

impl Packed {
    /// Checks that the table lies in guest memory, in one region, and is aligned. It goes on at `base`.
    pub(crate) fn new(
        memory: &Arc<Memory>,
        size: u16,
        addresses: &Addresses,
        event_index: bool,
        base: Place,
    ) -> Result<Self, String> {
        let part = |what, user, len, align| Memory::part(memory, what, user, len, align);
        let mut ring = Self {
            descriptors: part("descriptor ring", addresses.descriptors, DESCRIPTOR * usize::from(size), 16)?,
            driver_event: part("driver's event structure", addresses.available, EVENT, 4)?,
            device_event: part("device's event structure", addresses.used, EVENT, 4)?,
            size,
            event_index,
            next: Place::START,
            used: Place::START,
            first: None,
            signalled: None,
        };
        ring.go_on_at(base)?;
        ring.disarm();
        Ok(ring)
    }

    /// Moves to another place, before the first chain is taken.
    pub(crate) fn go_on_at(&mut self, place: Place) -> Result<(), String> {
        if place.index >= self.size {
            return Err(format!("base {} is outside a ring of {} descriptors", place.index, self.size));
        }
        (self.next, self.used) = (place, place);
        Ok(())
    }

    fn flags(&self, index: u16) -> u16 {
        // Acquire: pairs with the driver's release of the flags; the rest of the chain was written before them.
        self.descriptors.load(DESCRIPTOR * usize::from(index) + FLAGS, Ordering::Acquire)
    }

    /// Whether a device has ever given anything back. Drivers clear a ring before they begin; in its first round no descriptor
    /// of theirs has the flag that those that were used have, and from the second round on some always have it, but where the
    /// ring is as it began.
    pub(crate) fn has_been_used(&self) -> bool {
        (0..self.size).any(|index| self.flags(index) & USED != 0)
    }

    /// Whether the descriptor at a place was used in that round.
    pub(crate) fn is_used(&self, place: Place) -> bool {
        let wrap = if place.wrap { AVAILABLE | USED } else { 0 };
        place.index < self.size && self.flags(place.index) & (AVAILABLE | USED) == wrap
    }

    /// What `GET_VRING_BASE` asks: what is available in the low half, what is used in the high one. All that was taken and is
    /// not used is available again.
    pub(crate) const fn base(&self) -> u32 {
        self.used.bits() as u32 | (self.used.bits() as u32) << 16
    }

    pub(crate) const fn place(&self) -> Place {
        self.used
    }

    /// Whether the descriptor there is available, to one who comes by with this wrap counter.
    #[inline]
    fn available(&self, place: Place) -> bool {
        let flags = self.flags(place.index);
        (flags & AVAILABLE != 0) == place.wrap && (flags & USED != 0) != place.wrap
    }

    /// Takes chains until `most` are in `chains`, there are no more, or the batch is full.
    #[inline]
    pub(crate) fn take(&mut self, most: usize, chains: &mut Chains, from: &Source) {
        let mut next = self.next;
        while chains.list().len() < most && chains.has_room() && self.available(next) {
            let descriptor = self.descriptor(next, from);
            if chains.push_plain(descriptor.tail, descriptor, from) {
                next.advance(1, self.size);
            } else {
                next = self.follow(next, chains, from);
            }
        }
        self.next = next;
        // Where there was enough, what comes next is likely to be there, too: a line that the guest wrote takes longer than a
        // burst's turn.
        if chains.list().len() == most {
            let at = DESCRIPTOR * usize::from(next.index);
            (0..AHEAD).for_each(|line| self.descriptors.prefetch(at + 64 * line));
        }
    }

    #[inline]
    fn descriptor(&self, place: Place, from: &Source) -> Descriptor {
        let (address, rest) = self.descriptors.load_pair(DESCRIPTOR * usize::from(place.index));
        from.descriptor(address, rest)
    }

    /// Takes a chain that is not plain; gives the place behind it.
    fn follow(&self, head: Place, chains: &mut Chains, from: &Source) -> Place {
        let mut chain = chains.begin();
        let (mut at, mut slots) = (head, 0);
        // The driver makes the head's flags visible last, so those of the others need not be looked at. The last one has the id;
        // a chain that is too long, or as long as the ring, ends where we stop, and is given back as far as that.
        let id = loop {
            let descriptor = self.descriptor(at, from);
            slots += 1;
            at.advance(1, self.size);
            if !descriptor.has_next() {
                chain.add(descriptor, from);
                break descriptor.tail;
            }
            if !chain.add(descriptor, from) || slots == self.size || usize::from(slots) == CHAIN_MAX {
                chain.fail();
                break descriptor.tail;
            }
        };
        chain.end(id, slots);
        at
    }

    /// Gives back the last chains taken, as if they had not been.
    pub(crate) fn untake(&mut self, chains: &[Chain]) {
        for chain in chains.iter().rev() {
            self.next.back(chain.slots, self.size);
        }
    }

    /// Gives a chain back, with `written` bytes in it; the guest sees it with the next [`Packed::publish`].
    #[inline]
    pub(crate) fn give_back(&mut self, chain: &Chain, written: u32) {
        let at = DESCRIPTOR * usize::from(self.used.index);
        self.descriptors.store_u32(at + LEN, written);
        self.descriptors.store(at + ID, chain.id, Ordering::Relaxed);
        let wrap = if self.used.wrap { AVAILABLE | USED } else { 0 };
        let flags = wrap | if written > 0 { WRITE } else { 0 };
        if self.first.is_none() {
            self.first = Some((self.used.index, flags));
        } else {
            // Release: pairs with the driver's acquire of these flags; what is used, and in the buffer, is written before them.
            self.descriptors.store(at + FLAGS, flags, Ordering::Release);
        }
        self.used.advance(chain.slots, self.size);
    }

    /// Shows the guest what was given back. Whether it wants an interrupt for it.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let Some((index, flags)) = self.first.take() else { return false };
        // Release: as above. A driver looks at one place after the other, so that this one shows it all.
        self.descriptors.store(DESCRIPTOR * usize::from(index) + FLAGS, flags, Ordering::Release);
        // VIRTIO 1.2, 2.8.21.3.1: the driver's wish is read after that. Pairs with the driver's full barrier between its own.
        fence(Ordering::SeqCst);
        let wish = self.driver_event.load(EVENT_FLAGS, Ordering::Relaxed) & 3;
        let before = self.signalled.replace(self.used);
        if wish != EVENT_PLACE || !self.event_index {
            return wish != EVENT_DISABLE;
        }
        let Some(before) = before else { return true };
        let event = Place::from_bits(self.driver_event.load(0, Ordering::Relaxed));
        // All three as distances from the start of the round in which `used` is.
        let distance = |place: Place| {
            let round = if place.wrap == self.used.wrap { 0 } else { self.size };
            place.index.wrapping_sub(round)
        };
        crossed(distance(event), self.used.index, distance(before))
    }

    /// Asks the guest to kick with the next chain. `false` if one is there already.
    pub(crate) fn arm(&self) -> bool {
        if self.event_index {
            self.device_event.store(0, self.next.bits(), Ordering::Relaxed);
            // Release: pairs with the driver's acquire of the flags, which say that the place counts.
            self.device_event.store(EVENT_FLAGS, EVENT_PLACE, Ordering::Release);
        } else {
            self.device_event.store(EVENT_FLAGS, EVENT_ENABLE, Ordering::Relaxed);
        }
        // The wish is written before the flags are read: pairs with the driver's full barrier between its own.
        fence(Ordering::SeqCst);
        !self.available(self.next)
    }

    /// Asks the guest not to kick.
    pub(crate) fn disarm(&self) {
        self.device_event.store(EVENT_FLAGS, EVENT_DISABLE, Ordering::Relaxed);
    }
}
