//! The worker's end: one load a burst, and a new value when the number has moved.
//!
//! Owns the worker's reference to its value. Does not wait for the writer but in [`Reader::unpark`] and in a
//! [`Reader::park`] that fails, where no packet is in hand; frees nothing.

use std::sync::Arc as Value;

use crate::seat::{Mailbox, Seat};
use crate::sync::{Arc, Ordering, fence};

/// One worker's view of the published values. Made by [`Publisher::reader`](crate::Publisher::reader); dropping it
/// takes the worker out of the count.
pub struct Reader<T> {
    value: Value<T>,
    generation: u64,
    // Last, since fields are dropped in order: once the seat is given up, nothing of the value is left on this thread.
    seat: Seated<T>,
}

/// Holds the seat; gives it up when dropped.
struct Seated<T>(Arc<Seat<T>>);

impl<T> Reader<T> {
    pub(crate) fn new(seat: Arc<Seat<T>>, value: Value<T>, generation: u64) -> Self {
        Self { value, generation, seat: Seated(seat) }
    }

    /// The value in use. It stays the same until the next `refresh`, `park` or `unpark`.
    #[inline]
    #[must_use]
    pub fn get(&self) -> &T {
        &self.value
    }

    /// The number of the value in use.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// To be called at a burst boundary: takes a newer generation if there is one, and acknowledges it. One load and one
    /// compare when nothing moved. Never blocks: while the writer is at the mailbox, the old value serves this
    /// burst too. True if the value changed.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        // Relaxed: this only says that a look into the mailbox pays. The mailbox's lock orders the value itself.
        if self.seat.0.announced.0.load(Ordering::Relaxed) == self.generation {
            return false;
        }
        self.refresh_slowly()
    }

    #[cold]
    fn refresh_slowly(&mut self) -> bool {
        match self.seat.0.try_lock() {
            Some(mut mailbox) => {
                let taken = exchange(&mut mailbox, &mut self.value, &mut self.generation);
                drop(mailbox);
                self.acknowledge();
                taken
            }
            None => false,
        }
    }

    /// Says that this worker is about to sleep and uses no value meanwhile: it counts as having acknowledged whatever is
    /// published. False if a newer generation has appeared: then the worker is not parked and has already taken it.
    /// Call [`Reader::unpark`] on waking.
    #[must_use = "after false the worker must go on working, not sleep"]
    pub fn park(&mut self) -> bool {
        // Release: all use of the value so far comes before the writer's Acquire load of `parked` in `committed`.
        self.seat.0.status.0.parked.store(true, Ordering::Release);
        // One half of a Dekker handshake; the other is the fence in `committed`, between the store of `announced` and the
        // load of `parked`. Either we see the new number here, or the writer sees us parked.
        fence(Ordering::SeqCst);
        if self.seat.0.announced.0.load(Ordering::Relaxed) == self.generation {
            return true;
        }
        // The writer may have counted us as parked in between, so the old value must not be used again.
        self.unpark();
        false
    }

    /// To be called on waking, before a packet is touched: takes the current value. May wait for the writer to
    /// finish with this reader's mailbox (a few stores), no longer. Harmless if not parked.
    pub fn unpark(&mut self) {
        // Release: pairs with the Acquire load in `committed`, for symmetry; what matters is the fence below.
        self.seat.0.status.0.parked.store(false, Ordering::Release);
        // Partner: the fence in `committed`. Either the writer sees that we are awake and looks at `acknowledged`, or we
        // see the number it announced, and take it here.
        fence(Ordering::SeqCst);
        if self.seat.0.announced.0.load(Ordering::Relaxed) == self.generation {
            return;
        }
        let mut mailbox = self.seat.0.lock();
        exchange(&mut mailbox, &mut self.value, &mut self.generation);
        drop(mailbox);
        self.acknowledge();
    }

    fn acknowledge(&self) {
        // Release: every use of older values comes before. Partner: the Acquire load in `Publisher::committed`.
        self.seat.0.status.0.acknowledged.store(self.generation, Ordering::Release);
    }
}

/// Takes the next value and leaves the old one. The mailbox may already be empty: then the number that was seen belongs
/// to a value which was taken before it was announced.
fn exchange<T>(mailbox: &mut Mailbox<T>, value: &mut Value<T>, generation: &mut u64) -> bool {
    let Some((number, next)) = mailbox.next.take() else { return false };
    // `returned` is empty here, since `next` was full (see `Mailbox`): nothing is dropped by this store.
    mailbox.returned = Some(std::mem::replace(value, next));
    *generation = number;
    true
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        // Only a second reference, so that this thread's own, dropped next, is not the one that frees the value.
        let value = Value::clone(&self.value);
        self.seat.0.lock().last = Some(value);
    }
}

impl<T> Drop for Seated<T> {
    fn drop(&mut self) {
        // Release: all use of the value, and our reference to it, are done. Partner: the Acquire loads of `gone` in
        // `Publisher::committed` and `Publisher::reclaim`.
        self.0.status.0.gone.store(true, Ordering::Release);
    }
}

impl<T> std::fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("generation", &self.generation).finish_non_exhaustive()
    }
}
