//! One split ring while it runs: taking chains, giving them back used, signalling, and the lock it is shared by.
//!
//! Owns the ring's state between start and stop. Written by whoever holds the lock: the worker for the length of a burst,
//! the message thread to start, change or stop it. What always holds: at most [`CHAIN_MAX`] descriptors are read a chain, so
//! a guest cannot buy much of the worker's time with one; a chain taken is given back or put back; and nothing is left
//! unpublished when the lock is released.

use std::num::Wrapping;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::event::epoll;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

use crate::eventfd;
use crate::memory::Mapped;

/// Most descriptors in one chain. Linux sends at most 48 (`MAX_SKB_FRAGS` 45, the header and the linear part), DPDK fewer.
pub(crate) const CHAIN_MAX: usize = 256;
/// Bytes before the entries of the used ring (flags, idx), and bytes an entry (VIRTIO 1.2, 2.7.8).
const USED_HEADER: u64 = 4;
const USED_ENTRY: u64 = 8;

/// A ring as the worker and the message thread share it.
#[derive(Debug, Default)]
pub(crate) struct SharedRing {
    running: Mutex<Option<Ring>>,
    /// Written by the message thread, read by the worker. A worker that polls takes the lock again within nanoseconds of
    /// releasing it, and std's mutex is not fair: this makes it leave the lock alone until the message thread had it.
    wanted: AtomicBool,
}

impl SharedRing {
    /// The message thread's way in: waits for the end of the worker's burst.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Option<Ring>) -> T) -> T {
        // Relaxed: a hint; the mutex orders what it protects.
        self.wanted.store(true, Ordering::Relaxed);
        let result = change(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner));
        self.wanted.store(false, Ordering::Relaxed);
        result
    }

    /// The worker's way in: never waits. `Err` when the message thread has the lock, or wants it.
    pub(crate) fn try_burst(&self) -> Result<MutexGuard<'_, Option<Ring>>, Contended> {
        if self.wanted.load(Ordering::Relaxed) {
            return Err(Contended);
        }
        match self.running.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Contended),
        }
    }
}

/// The message thread is changing the ring.
#[derive(Debug)]
pub(crate) struct Contended;

/// The guest's kick descriptor in the message thread's epoll set, where the worker may arm it for one event.
#[derive(Debug)]
pub(crate) struct Kick {
    fd: OwnedFd,
    epoll: Arc<OwnedFd>,
    token: u64,
}

impl Kick {
    pub(crate) fn new(fd: OwnedFd, epoll: Arc<OwnedFd>, token: u64) -> std::io::Result<Kick> {
        epoll::add(&epoll, &fd, epoll::EventData::new_u64(token), epoll::EventFlags::ONESHOT)?;
        Ok(Kick { fd, epoll, token })
    }

    /// One event for the next kick, or at once if one came since the last was drained.
    fn arm(&self) -> bool {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::modify(&self.epoll, &self.fd, epoll::EventData::new_u64(self.token), flags).is_ok()
    }

    pub(crate) fn drain(&self) {
        eventfd::drain(&self.fd);
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // Closing is not enough: the guest holds the same open file, so the kernel would keep it in the set.
        let _gone_already = epoll::delete(&self.epoll, &self.fd);
    }
}

/// Which way a ring's buffers go; a chain with a descriptor of the other way is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    FromGuest,
    ToGuest,
}

/// A piece of guest memory named by a descriptor; checked when it is read or written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) address: GuestAddress,
    pub(crate) length: usize,
}

/// What [`Ring::pop`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    /// The guest has made nothing available.
    Empty,
    /// A whole chain, its buffers appended to [`Ring::buffers`]; `length` is their sum, `descriptors` how many were read,
    /// empty ones included.
    Chain { head: u16, length: usize, descriptors: usize },
    /// A chain that loops, is longer than [`CHAIN_MAX`], leaves the table, or goes the wrong way.
    Malformed { head: u16 },
    /// The available ring itself makes no sense; said once, and `Empty` from then on.
    Broken,
}

/// A running ring.
#[derive(Debug)]
pub(crate) struct Ring {
    queue: Queue,
    memory: Arc<Mapped>,
    direction: Direction,
    /// Buffers of the chains popped since it was cleared; kept for its capacity.
    pub(crate) buffers: Vec<Buffer>,
    /// Bytes of virtio-net header before each frame: 12, or 10 for a guest older than VIRTIO 1 without merging.
    pub(crate) header_len: usize,
    /// A frame to the guest may be spread over several chains (`VIRTIO_NET_F_MRG_RXBUF`).
    pub(crate) mergeable: bool,
    next_used: Wrapping<u16>,
    /// Entries written to the used ring, and not yet published by its index.
    pending: u16,
    broken: bool,
    kick: Option<Arc<Kick>>,
    pub(crate) call: Option<OwnedFd>,
    err: Option<OwnedFd>,
}

/// Where and how a ring is to run; all from the front end's messages.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) size: u16,
    pub(crate) descriptors: GuestAddress,
    pub(crate) available: GuestAddress,
    pub(crate) used: GuestAddress,
    pub(crate) next_available: u16,
    pub(crate) direction: Direction,
    pub(crate) header_len: usize,
    pub(crate) mergeable: bool,
}

/// The peer's descriptors for a ring.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub(crate) kick: Option<Arc<Kick>>,
    pub(crate) call: Option<OwnedFd>,
    pub(crate) err: Option<OwnedFd>,
}

impl Ring {
    /// Checks that the three parts lie whole in guest memory and are aligned, and asks the guest not to kick.
    pub(crate) fn start(layout: &Layout, signals: Signals, memory: Arc<Mapped>) -> Result<Ring, String> {
        let invalid = |error: virtio_queue::Error| format!("ring of {} descriptors: {error}", layout.size);
        let mut queue = Queue::new(crate::QUEUE_SIZE_MAX).map_err(invalid)?;
        queue.try_set_size(layout.size).map_err(invalid)?;
        queue.try_set_desc_table_address(layout.descriptors).map_err(invalid)?;
        queue.try_set_avail_ring_address(layout.available).map_err(invalid)?;
        queue.try_set_used_ring_address(layout.used).map_err(invalid)?;
        queue.set_next_avail(layout.next_available);
        queue.set_ready(true);
        if !queue.is_valid(&*memory) {
            return Err(format!("ring of {} descriptors does not lie in guest memory", layout.size));
        }
        queue.avail_idx(&*memory, Ordering::Relaxed).map_err(invalid)?;
        // The used index goes on from where an earlier back end left it.
        let next_used = queue.used_idx(&*memory, Ordering::Relaxed).map_err(invalid)?;
        queue.disable_notification(&*memory).map_err(invalid)?;
        Ok(Ring {
            queue,
            memory,
            direction: layout.direction,
            buffers: Vec::new(),
            header_len: layout.header_len,
            mergeable: layout.mergeable,
            next_used,
            pending: 0,
            broken: false,
            kick: signals.kick,
            call: signals.call,
            err: signals.err,
        })
    }

    /// The next entry of the available ring that will be taken: what `GET_VRING_BASE` asks.
    pub(crate) fn next_available(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Puts back the chains taken since `next_available` gave this.
    pub(crate) fn put_back(&mut self, next_available: u16) {
        self.queue.set_next_avail(next_available);
    }

    pub(crate) fn memory(&self) -> &Mapped {
        &self.memory
    }

    /// Takes the next chain, and appends its buffers to `buffers`.
    pub(crate) fn pop(&mut self) -> Popped {
        if self.broken {
            return Popped::Empty;
        }
        let memory: &Mapped = &self.memory;
        let Ok(mut available) = self.queue.iter(memory) else { return self.broke() };
        let Some(chain) = available.next() else { return Popped::Empty };
        let head = chain.head_index();
        let (mut length, mut descriptors) = (0usize, 0usize);
        let mut ended = false;
        for descriptor in chain.take(CHAIN_MAX) {
            if descriptor.is_write_only() != (self.direction == Direction::ToGuest) {
                return Popped::Malformed { head };
            }
            let Ok(bytes) = usize::try_from(descriptor.len()) else { return Popped::Malformed { head } };
            if bytes > 0 {
                self.buffers.push(Buffer { address: descriptor.addr(), length: bytes });
                length = length.saturating_add(bytes);
            }
            descriptors += 1;
            ended = !descriptor.has_next();
        }
        // The iterator stops alike at a chain's end, at an index outside the table, and when it has seen as many
        // descriptors as there are (a loop); only in the first case has the last one no successor.
        if ended { Popped::Chain { head, length, descriptors } } else { Popped::Malformed { head } }
    }

    /// Gives a chain back, with `written` bytes in it; the guest sees it with the next [`Ring::publish`]. A head outside
    /// the table, which only a malformed chain has, has nothing to give back.
    pub(crate) fn give_back(&mut self, head: u16, written: u32) {
        if head >= self.queue.size() {
            return;
        }
        let slot = u64::from(self.next_used.0 % self.queue.size());
        // struct virtq_used_elem: id, then len, each 32 bits and little-endian.
        let entry = (u64::from(written) << 32 | u64::from(head)).to_le();
        let address = GuestAddress(self.queue.used_ring()).checked_add(USED_HEADER + slot * USED_ENTRY);
        if address.is_some_and(|address| self.memory.write_obj(entry, address).is_ok()) {
            self.next_used += 1;
            self.pending = self.pending.saturating_add(1);
        } else {
            self.broke();
        }
    }

    /// Shows the guest what was given back since the last time, and interrupts it once if it wants that.
    pub(crate) fn publish(&mut self) {
        if self.pending == 0 {
            return;
        }
        self.pending = 0;
        let index = GuestAddress(self.queue.used_ring()).checked_add(2);
        // Release: pairs with the driver's acquire of the used index; entries and buffers are written before it.
        let stored = index.map(|at| self.memory.store(self.next_used.0.to_le(), at, Ordering::Release));
        if !matches!(stored, Some(Ok(()))) {
            self.broke();
            return;
        }
        // VIRTIO 1.2, 2.7.7.2: the flag is read after the index is written, or a driver that clears the flag and then finds
        // nothing used would wait for ever. Pairs with the driver's full barrier between those two.
        fence(Ordering::SeqCst);
        let flags = self.memory.load::<u16>(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed);
        let quiet = flags.is_ok_and(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0);
        if let (false, Some(call)) = (quiet, &self.call) {
            eventfd::signal(call);
        }
    }

    /// Asks the guest to kick, and the message thread to listen for it. `false` if the worker must go on polling: chains
    /// are there already, or this guest cannot kick.
    pub(crate) fn arm_kick(&mut self) -> bool {
        let Some(kick) = &self.kick else { return false };
        if self.broken {
            return true;
        }
        let waiting = match self.queue.enable_notification(&*self.memory) {
            Ok(waiting) => waiting,
            Err(_) => {
                self.broke();
                return true;
            }
        };
        if !waiting && kick.arm() {
            return true;
        }
        self.disarm_kick();
        false
    }

    /// Asks the guest not to kick: the worker polls.
    pub(crate) fn disarm_kick(&mut self) {
        if self.queue.disable_notification(&*self.memory).is_err() {
            self.broke();
        }
    }

    /// A ring that makes no sense is left alone until the front end sets it up anew, and the front end told.
    fn broke(&mut self) -> Popped {
        self.broken = true;
        if let Some(err) = &self.err {
            eventfd::signal(err);
        }
        Popped::Broken
    }
}
