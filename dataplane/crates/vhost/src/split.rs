//! A split ring (VIRTIO 1.2, 2.7) while it runs: what is available is taken in a burst, and given back used in another.
//!
//! What always holds: chains are given back in the order in which they were taken, all of a burst before the next, so that the
//! used index alone says where an interrupted back end was; and nothing is published but by `publish`.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::chains::{BURST, CHAIN_MAX, Chain, Chains, DESCRIPTOR, Descriptor, Source};
use crate::memory::{Memory, Part};
use crate::ring::{Addresses, crossed};

/// `flags` and `idx` begin both rings; then come the entries, and one more number for the event index.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
const AVAILABLE_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` and `VIRTQ_USED_F_NO_NOTIFY`.
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// The three tables, and where we are.
#[derive(Debug)]
pub(crate) struct Split {
    descriptors: Part,
    available: Part,
    used: Part,
    size: u16,
    event_index: bool,
    /// The next entry to take of what is available.
    next: u16,
    /// The used index as the guest knows it.
    published: u16,
    /// Entries written since.
    pending: u16,
    /// The used index when the guest was last asked whether it wants an interrupt.
    signalled: Option<u16>,
}

/// The index of what is available lies further ahead than the ring is long.
#[derive(Debug)]
pub(crate) struct Jumped;

impl Split {
    /// Checks that the tables lie in guest memory, each in one region, and are aligned.
    ///
    /// It goes on at the used index, whatever base the front end gives: we use in order and keep nothing back, so the two are the
    /// same, but where the front end does not know (a virtio-user device whose back end was killed says 0).
    pub(crate) fn new(
        memory: &Arc<Memory>,
        size: u16,
        addresses: &Addresses,
        event_index: bool,
    ) -> Result<Self, String> {
        let entries = usize::from(size);
        // The last number of either ring is there with VIRTIO_F_EVENT_IDX alone.
        let event = if event_index { 2 } else { 0 };
        let part = |what, user, len, align| Memory::part(memory, what, user, len, align);
        let descriptors = part("descriptor table", addresses.descriptors, DESCRIPTOR * entries, 16)?;
        let available =
            part("available ring", addresses.available, ENTRIES + AVAILABLE_ENTRY * entries + event, 2)?;
        let used = part("used ring", addresses.used, ENTRIES + USED_ENTRY * entries + event, 4)?;
        let next = used.load(INDEX, Ordering::Relaxed);
        let ring = Self {
            descriptors,
            available,
            used,
            size,
            event_index,
            next,
            published: next,
            pending: 0,
            signalled: None,
        };
        ring.disarm();
        Ok(ring)
    }

    /// What `GET_VRING_BASE` asks.
    pub(crate) const fn base(&self) -> u32 {
        self.published as u32
    }

    const fn slot(&self, index: u16) -> usize {
        (index & (self.size - 1)) as usize
    }

    /// Takes chains until `most` are in `chains`, there are no more, or the batch is full.
    #[inline]
    pub(crate) fn take(&mut self, most: usize, chains: &mut Chains, from: &Source) -> Result<(), Jumped> {
        // Acquire: pairs with the driver's release of the index; entries and descriptors were written before it.
        let waiting = self.available.load(INDEX, Ordering::Acquire).wrapping_sub(self.next);
        if waiting > self.size {
            return Err(Jumped);
        }
        let wanted = most.saturating_sub(chains.list().len()).min(usize::from(waiting));
        let mut next = self.next;
        let mut left = wanted;
        while left > 0 && chains.has_room() {
            // Those of one buffer, as most are, in one go.
            for _ in 0..left.min(chains.room_for_plain()) {
                let head = self.head(next);
                if !self.descriptor(head, from).is_some_and(|only| chains.push_plain(head, only, from)) {
                    break;
                }
                next = next.wrapping_add(1);
                left -= 1;
            }
            if left > 0 && chains.has_room() {
                self.follow(self.head(next), chains, from);
                next = next.wrapping_add(1);
                left -= 1;
            }
        }
        self.next = next;
        // The descriptors that come next are asked for now. Four are in a line, and drivers take them in order, more or less.
        let ahead = usize::from(waiting).saturating_sub(wanted).min(BURST);
        for _ in 0..ahead / 4 {
            self.descriptors.prefetch(DESCRIPTOR * usize::from(self.head(next)));
            next = next.wrapping_add(4);
        }
        Ok(())
    }

    /// An entry of what is available.
    #[inline]
    fn head(&self, index: u16) -> u16 {
        self.available.load(ENTRIES + AVAILABLE_ENTRY * self.slot(index), Ordering::Relaxed)
    }

    #[inline]
    fn descriptor(&self, index: u16, from: &Source) -> Option<Descriptor> {
        if index >= self.size {
            return None;
        }
        let (address, rest) = self.descriptors.load_pair(DESCRIPTOR * usize::from(index));
        Some(from.descriptor(address, rest))
    }

    fn follow(&self, head: u16, chains: &mut Chains, from: &Source) {
        let mut chain = chains.begin();
        let mut at = head;
        // One more than a chain may have, so that `add` is who refuses it.
        for _ in 0..=CHAIN_MAX {
            let Some(descriptor) = self.descriptor(at, from) else {
                chain.fail();
                break;
            };
            if !chain.add(descriptor, from) || !descriptor.has_next() {
                break;
            }
            at = descriptor.tail;
        }
        chain.end(head, 1);
    }

    /// Gives back the last chains taken, as if they had not been.
    pub(crate) fn untake(&mut self, chains: &[Chain]) {
        for chain in chains {
            self.next = self.next.wrapping_sub(chain.slots);
        }
    }

    /// Gives a chain back, with `written` bytes in it; the guest sees it with the next [`Split::publish`].
    #[inline]
    pub(crate) fn give_back(&mut self, chain: &Chain, written: u32) {
        let slot = self.slot(self.published.wrapping_add(self.pending));
        // struct virtq_used_elem: id, then len, each 32 bits.
        self.used.store_u32(ENTRIES + USED_ENTRY * slot, u32::from(chain.id));
        self.used.store_u32(ENTRIES + USED_ENTRY * slot + 4, written);
        self.pending += 1;
    }

    /// Shows the guest what was given back. Whether it wants an interrupt for it.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if self.pending == 0 {
            return false;
        }
        self.published = self.published.wrapping_add(std::mem::take(&mut self.pending));
        // Release: pairs with the driver's acquire of the used index; entries and buffers are written before it.
        self.used.store(INDEX, self.published, Ordering::Release);
        // VIRTIO 1.2, 2.7.7.2: the driver's wish is read after the index is written, or a driver that changes its mind and then
        // finds nothing used would wait for ever. Pairs with the driver's full barrier between those two.
        fence(Ordering::SeqCst);
        if !self.event_index {
            return self.available.load(FLAGS, Ordering::Relaxed) & NO_INTERRUPT == 0;
        }
        let event = ENTRIES + AVAILABLE_ENTRY * usize::from(self.size);
        let event = self.available.load(event, Ordering::Relaxed);
        let before = self.signalled.replace(self.published);
        before.is_none_or(|before| crossed(event, self.published, before))
    }

    /// Asks the guest to kick with the next chain. `false` if one is there already.
    pub(crate) fn arm(&self) -> bool {
        if self.event_index {
            self.used.store(ENTRIES + USED_ENTRY * usize::from(self.size), self.next, Ordering::Relaxed);
        } else {
            self.used.store(FLAGS, 0, Ordering::Relaxed);
        }
        // The wish is written before the index is read: pairs with the driver's full barrier between those two.
        fence(Ordering::SeqCst);
        self.available.load(INDEX, Ordering::Acquire) == self.next
    }

    /// Asks the guest not to kick. With an event index nothing is to be done: it kicks when that one is passed, and we leave it
    /// behind.
    pub(crate) fn disarm(&self) {
        if !self.event_index {
            self.used.store(FLAGS, NO_NOTIFY, Ordering::Relaxed);
        }
    }
}
