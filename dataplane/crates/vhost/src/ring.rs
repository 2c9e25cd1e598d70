//! One ring while it runs, of either kind, with what goes beyond its tables: signals to the guest, and the lock it is shared by.
//!
//! Written by whoever holds the lock: the worker for the length of a burst, the message thread to start, change or stop it.
//! What always holds: what is used in a burst is given back in the same one, so that between bursts nothing is in flight. What was
//! taken ahead may be given to another back end as if it had not been.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::event::epoll;

use crate::chains::{Chain, Chains, Direction, Format, Source};
use crate::eventfd;
use crate::features::Features;
use crate::inflight::InflightRing;
use crate::memory::Memory;
use crate::packed::{Packed, Place};
use crate::split::{Jumped, Split};

/// A ring as the worker and the message thread share it.
#[derive(Debug, Default)]
pub(crate) struct SharedRing {
    ring: Mutex<Option<Ring>>,
    /// Whether there is one. Written by the message thread; a hint to the worker, which need not take the lock to see that.
    running: AtomicBool,
    /// Written by the message thread, read by the worker. A worker that polls takes the lock again within nanoseconds of
    /// releasing it, and std's mutex is not fair: this makes it leave the lock alone until the message thread had it.
    wanted: AtomicBool,
}

impl SharedRing {
    /// The message thread's way in: waits for the end of the worker's burst.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Option<Ring>) -> T) -> T {
        // Relaxed: a hint; the mutex orders what it protects.
        self.wanted.store(true, Ordering::Relaxed);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut ring);
        self.running.store(ring.is_some(), Ordering::Relaxed);
        drop(ring);
        self.wanted.store(false, Ordering::Relaxed);
        result
    }

    /// Whether the guest has set the ring up, as far as is known without the lock.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// The worker's way in: never waits. `Err` when the message thread has the lock, or wants it.
    pub(crate) fn try_burst(&self) -> Result<MutexGuard<'_, Option<Ring>>, Contended> {
        if self.wanted.load(Ordering::Relaxed) {
            return Err(Contended);
        }
        match self.ring.try_lock() {
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

/// Where a ring's three parts are, in the front end's own address space: descriptors, available and used of a split ring; the ring,
/// the driver's and the device's event structures of a packed one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// How a ring is to run; all from the front end's messages.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) size: u16,
    pub(crate) addresses: Addresses,
    /// As `SET_VRING_BASE` has it.
    pub(crate) base: u32,
    pub(crate) direction: Direction,
    pub(crate) features: Features,
}

/// The peer's descriptors for a ring.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub(crate) kick: Option<Arc<Kick>>,
    pub(crate) call: Option<OwnedFd>,
    pub(crate) err: Option<OwnedFd>,
}

#[derive(Debug)]
enum Tables {
    Split(Split),
    Packed(Packed),
}

/// How many rings have run so far.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// A running ring.
#[derive(Debug)]
pub(crate) struct Ring {
    /// No other one has it, or had it before.
    number: u64,
    tables: Tables,
    source: Source,
    pub(crate) features: Features,
    broken: bool,
    kick: Option<Arc<Kick>>,
    pub(crate) call: Option<OwnedFd>,
    err: Option<OwnedFd>,
    inflight: Option<InflightRing>,
}

/// Whether a step of an index from `before` to `now` passes `event` (VIRTIO 1.2, 2.7.7.1: `vring_need_event`).
#[inline]
pub(crate) const fn crossed(event: u16, now: u16, before: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

impl Ring {
    /// Checks that all parts lie in guest memory and are aligned, and asks the guest not to kick.
    pub(crate) fn start(
        layout: &Layout,
        signals: Signals,
        memory: &Arc<Memory>,
        inflight: Option<InflightRing>,
    ) -> Result<Self, String> {
        let Layout { size, ref addresses, base, direction, features } = *layout;
        let event_index = features.event_index();
        let (format, tables) = if features.packed() {
            #[expect(clippy::cast_possible_truncation, reason = "the low half, as the specification has it")]
            let said = Place::from_bits(base as u16);
            let mut ring = Packed::new(memory, size, addresses, event_index, said)?;
            if let Some(kept) = &inflight {
                // A front end whose back end was killed says that the ring begins; ours is no guess where it has been used.
                let ask = !kept.is_a_guess() || said == Place::START && ring.has_been_used();
                if ask && let Some(place) = kept.place(|place| ring.is_used(place)) {
                    // Of a guess that cannot be, nothing is believed; what the front end keeps must be so.
                    let gone = ring.go_on_at(place);
                    if !kept.is_a_guess() {
                        gone?;
                    }
                }
                kept.begin(ring.place());
            }
            (Format::Packed, Tables::Packed(ring))
        } else {
            (Format::Split, Tables::Split(Split::new(memory, size, addresses, event_index)?))
        };
        let Signals { kick, call, err } = signals;
        let source = Source { memory: Arc::clone(memory), direction, format };
        // Relaxed: only that it differs matters. It begins at 1, so that 0 is none.
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Self { number, tables, source, features, broken: false, kick, call, err, inflight })
    }

    #[inline]
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// What `GET_VRING_BASE` asks, and `SET_VRING_BASE` brings back.
    pub(crate) const fn base(&self) -> u32 {
        match &self.tables {
            Tables::Split(ring) => ring.base(),
            Tables::Packed(ring) => ring.base(),
        }
    }

    /// The front end takes the ring back: from now on it says where the ring is.
    pub(crate) fn forget(&self) {
        if let Some(inflight) = &self.inflight {
            inflight.forget();
        }
    }

    /// Takes chains until `most` are in `chains`, there are no more, or the batch is full.
    ///
    /// # Errors
    /// The ring itself makes no sense; said once, and from then on it is empty.
    #[inline]
    pub(crate) fn take(&mut self, most: usize, chains: &mut Chains) -> Result<(), Jumped> {
        if self.broken {
            return Ok(());
        }
        match &mut self.tables {
            Tables::Split(ring) => ring.take(most, chains, &self.source).map_err(|jumped| self.broke(jumped)),
            Tables::Packed(ring) => {
                ring.take(most, chains, &self.source);
                Ok(())
            }
        }
    }

    /// Gives back the last chains taken, as if they had not been.
    pub(crate) fn untake(&mut self, chains: &[Chain]) {
        match &mut self.tables {
            Tables::Split(ring) => ring.untake(chains),
            Tables::Packed(ring) => ring.untake(chains),
        }
    }

    /// Gives chains back, in the order in which they were taken, with so many bytes in each, and shows them to the guest; it is
    /// interrupted once, if it wants that.
    #[inline]
    pub(crate) fn give_back(&mut self, used: impl Iterator<Item = (Chain, u32)>) {
        let wanted = match &mut self.tables {
            Tables::Split(ring) => {
                used.for_each(|(chain, written)| ring.give_back(&chain, written));
                ring.publish()
            }
            Tables::Packed(ring) => {
                let from = ring.place();
                used.for_each(|(chain, written)| ring.give_back(&chain, written));
                if let Some(inflight) = &self.inflight {
                    inflight.leads(from, ring.place());
                }
                let wanted = ring.publish();
                if let Some(inflight) = &self.inflight {
                    inflight.is_at(ring.place());
                }
                wanted
            }
        };
        if wanted && let Some(call) = &self.call {
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
        let quiet = match &self.tables {
            Tables::Split(ring) => ring.arm(),
            Tables::Packed(ring) => ring.arm(),
        };
        if quiet && kick.arm() {
            return true;
        }
        self.disarm_kick();
        false
    }

    /// Asks the guest not to kick: the worker polls.
    pub(crate) fn disarm_kick(&mut self) {
        match &self.tables {
            Tables::Split(ring) => ring.disarm(),
            Tables::Packed(ring) => ring.disarm(),
        }
    }

    /// A ring that makes no sense is left alone until the front end sets it up anew, and the front end told.
    #[cold]
    fn broke(&mut self, jumped: Jumped) -> Jumped {
        self.broken = true;
        if let Some(err) = &self.err {
            eventfd::signal(err);
        }
        jumped
    }
}
