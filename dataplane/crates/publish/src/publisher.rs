//! The writer's end: publishes, asks what every reader has taken, frees what they gave back.
//!
//! Owns the list of seats and the current value. All values are freed here: by [`Publisher::publish`],
//! [`Publisher::reclaim`] or the publisher's own end, whichever comes first.

use std::sync::Arc as Value;

use crate::reader::Reader;
use crate::seat::{Padded, Seat};
use crate::sync::{Arc, AtomicU64, Ordering, fence};

/// A generation that does not follow the current one. Nothing was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotNewer {
    /// The generation that was offered.
    pub offered: u64,
    /// The generation that goes on being current.
    pub current: u64,
}

impl std::fmt::Display for NotNewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { offered, current } = self;
        write!(f, "generation {offered} was not published: it must be above the current one, {current}")
    }
}

impl std::error::Error for NotNewer {}

/// The one writer's handle. Where it is dropped first, readers keep what they have.
pub struct Publisher<T> {
    announced: Arc<Padded<AtomicU64>>,
    seats: Vec<Arc<Seat<T>>>,
    current: Value<T>,
    generation: u64,
}

impl<T> Publisher<T> {
    /// Starts with `initial` as the current value, numbered `generation`.
    #[must_use]
    pub fn new(initial: Value<T>, generation: u64) -> Self {
        let announced = Arc::new(Padded(AtomicU64::new(generation)));
        Self { announced, seats: Vec::new(), current: initial, generation }
    }

    /// A reader for one more worker, which starts with the current value.
    #[must_use = "a reader dropped at once reads nothing"]
    pub fn reader(&mut self) -> Reader<T> {
        let seat = Arc::new(Seat::new(Arc::clone(&self.announced), self.generation));
        self.seats.push(Arc::clone(&seat));
        Reader::new(seat, Value::clone(&self.current), self.generation)
    }

    /// Makes `value` the current one. Readers take it at their next burst boundary; one that was never taken
    /// because a newer one came is freed here. Does not wait: see [`Publisher::committed`].
    ///
    /// # Errors
    /// [`NotNewer`] if `generation` is not above the current one.
    pub fn publish(&mut self, value: Value<T>, generation: u64) -> Result<(), NotNewer> {
        if generation <= self.generation {
            return Err(NotNewer { offered: generation, current: self.generation });
        }
        self.sweep(Some((generation, &value)));
        self.current = value;
        self.generation = generation;
        // Release is not needed for the value, which goes by the mailbox's lock: a reader that sees the number looks
        // there. The order against `parked` is made by the fence in `committed`.
        self.announced.0.store(generation, Ordering::Relaxed);
        Ok(())
    }

    /// The value published last.
    #[must_use]
    pub fn current(&self) -> &Value<T> {
        &self.current
    }

    /// The number of the value published last.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The lowest generation acknowledged by all live readers: none of them uses an older one, nor ever will. A parked
    /// reader counts as current; without readers it is the current generation.
    #[must_use]
    pub fn committed(&self) -> u64 {
        // One half of a Dekker handshake; the other is the fence in `Reader::park` and in `Reader::unpark`. Our store of
        // `announced` came before, our loads of `parked` come after. So a reader that we see parked will see the number
        // when it wakes, and take that generation before it uses any.
        fence(Ordering::SeqCst);
        let acknowledged = self.seats.iter().filter_map(|seat| {
            let status = &seat.status.0;
            // Acquire, thrice: the reader's last use of an older value comes before our return. Partners: the Release
            // stores in `Seated::drop`, in `park` and in `acknowledge`.
            if status.gone.load(Ordering::Acquire) || status.parked.load(Ordering::Acquire) {
                return None;
            }
            Some(status.acknowledged.load(Ordering::Acquire))
        });
        acknowledged.min().unwrap_or(self.generation).min(self.generation)
    }

    /// Frees what readers gave back since, and forgets dropped readers. Returns how many references came back. To
    /// be called now and then (as when a generation is committed), on the thread that may take the time.
    pub fn reclaim(&mut self) -> usize {
        self.sweep(None)
    }

    /// Goes through the mailboxes: leaves `next` in each if given, takes back what lies there, removes empty seats.
    fn sweep(&mut self, next: Option<(u64, &Value<T>)>) -> usize {
        let mut count = 0;
        self.seats.retain(|seat| {
            // Acquire: what the reader put into `last` is there, and its own reference is not. Partner: the Release
            // store in `Seated::drop`.
            let gone = seat.status.0.gone.load(Ordering::Acquire);
            let mut mailbox = seat.lock();
            let mut garbage = (mailbox.returned.take(), if gone { mailbox.last.take() } else { None }, None);
            if let Some((generation, value)) = next
                && !gone
            {
                garbage.2 = mailbox.next.replace((generation, Value::clone(value)));
            }
            drop(mailbox);
            count += usize::from(garbage.0.is_some()) + usize::from(garbage.1.is_some());
            // The garbage is freed here, with the lock released: a reader's `unpark` never waits for that.
            drop(garbage);
            !gone
        });
        count
    }
}

impl<T> std::fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("generation", &self.generation)
            .field("readers", &self.seats.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_a_leaving_reader_held_is_taken_only_once_it_has_left() {
        let mut publisher = Publisher::new(Value::new(1), 1);
        let reader = publisher.reader();
        let seat = Arc::clone(&publisher.seats[0]);
        // As in the middle of the reader's Drop: its own reference is still there, and must not become the last one.
        seat.lock().last = Some(Value::clone(publisher.current()));
        assert_eq!(publisher.reclaim(), 0);
        drop(reader);
        assert_eq!((publisher.reclaim(), publisher.seats.len()), (1, 0));
    }
}
