//! When a dead record may be used again: once every worker has begun another burst since nobody can find it.
//!
//! Quiescent-state reclamation: a worker's seat holds the epoch that it saw when its burst began, or says that it sleeps. What died at
//! epoch *e* is free when all seats are beyond *e*.

use crate::sync::{AtomicU64, Ordering, fence};

/// The worker reads no record: it is asleep, or there is none on this seat.
const AWAY: u64 = u64::MAX;

/// One word, alone on its pair of cache lines.
#[repr(align(128))]
struct Padded(AtomicU64);

/// What all workers share.
pub struct Epochs {
    /// Written by whoever has taken records out of sight; read by all.
    current: Padded,
    /// Each written by its worker, read by all.
    seats: Box<[Padded]>,
}

/// One worker's place, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat(pub usize);

impl Epochs {
    /// For workers numbered below `seats`; all are away at first.
    #[must_use]
    pub fn new(seats: usize) -> Self {
        Self {
            current: Padded(AtomicU64::new(1)),
            seats: (0..seats).map(|_| Padded(AtomicU64::new(AWAY))).collect(),
        }
    }

    /// Between two bursts: this worker holds no handle from before. Two moves when nothing has died.
    #[inline]
    pub fn quiesce(&self, seat: Seat) {
        // Acquire: what was hidden before the epoch we read is hidden from us. Partner: `retire`.
        let current = self.current.0.load(Ordering::Acquire);
        // Release: all reads of the last burst come before. Partner: the loads in `passed`.
        if let Some(seat) = self.seats.get(seat.0) {
            seat.0.store(current, Ordering::Release);
        }
    }

    /// Before sleeping: this worker holds no handle and takes none before it calls [`Epochs::wake`].
    pub fn leave(&self, seat: Seat) {
        if let Some(seat) = self.seats.get(seat.0) {
            // Release: as in `quiesce`.
            seat.0.store(AWAY, Ordering::Release);
        }
    }

    /// On waking, before the table is read.
    pub fn wake(&self, seat: Seat) {
        if let Some(seat) = self.seats.get(seat.0) {
            // Acquire and Release: as in `quiesce`.
            seat.0.store(self.current.0.load(Ordering::Acquire), Ordering::Release);
        }
        // One half of a Dekker handshake, the other is the fence in `passed`: either the reclaimer sees that we are back, or we
        // see that the record is hidden.
        fence(Ordering::SeqCst);
    }

    /// Something has been hidden. Returns the epoch that all must pass before it is used again.
    pub(crate) fn retire(&self) -> u64 {
        // AcqRel: hiding comes before, for whoever reads the new epoch. Partner: `quiesce`.
        self.current.0.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The lowest epoch that any worker may still be in.
    pub(crate) fn passed(&self) -> u64 {
        fence(Ordering::SeqCst);
        // Acquire: what the worker read in earlier bursts it read before our writes. Partner: `quiesce` and `leave`.
        self.seats.iter().map(|seat| seat.0.load(Ordering::Acquire)).min().unwrap_or(AWAY)
    }
}

impl std::fmt::Debug for Epochs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epochs").field("seats", &self.seats.len()).finish_non_exhaustive()
    }
}
