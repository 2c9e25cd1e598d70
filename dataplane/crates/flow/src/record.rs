//! One record, by the key that it was found by: what each packet of a known flow reads, behind one bounds check.

use crate::action::Action;
use crate::family::Family;
use crate::life::{Life, Phase, Seconds};
use crate::state::{Direction, Signal};
use crate::sync::Ordering;
use crate::table::{Handle, Table};

/// Tries at a record's life that others are changing too.
const TRIES: usize = 4;

/// Where in a record a direction's key begins.
#[inline]
pub(crate) const fn key_at<F: Family>(direction: Direction) -> usize {
    direction as usize * F::KEY_STEP
}

/// Where in a record a direction's action is.
#[inline]
pub(crate) const fn action_at<F: Family>(direction: Direction) -> usize {
    F::ACTION + direction as usize * F::ACTION_STEP
}

/// A view of the part of a record that is read for every packet. Good as long as the [`Handle`] is that it was found by.
#[derive(Debug)]
pub struct Record<'t, F: Family> {
    words: &'t F::Hot,
    direction: Direction,
}

impl<F: Family> Clone for Record<'_, F> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Family> Copy for Record<'_, F> {}

impl<F: Family> Table<F> {
    /// The record that a handle leads to. `None` for a handle of another table.
    #[inline]
    #[must_use]
    pub fn record(&self, handle: Handle) -> Option<Record<'_, F>> {
        let words = self.hot.get(handle.record() as usize)?;
        Some(Record { words, direction: handle.direction() })
    }
}

impl<F: Family> Record<'_, F> {
    /// Which of the two keys it was found by.
    #[inline]
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// How it is. To be asked for before anything else: what a live record says was written before.
    #[inline]
    #[must_use]
    pub fn life(&self) -> Life {
        // Acquire: partner, the store of `Live` in `insert`.
        Life(self.words.as_ref()[F::LIFE].load(Ordering::Acquire))
    }

    /// Whether packets of the direction by which it was found have this key.
    #[inline]
    #[must_use]
    pub fn is(&self, key: &F::Key) -> bool {
        F::is(self.words.as_ref(), key_at::<F>(self.direction), key)
    }

    /// The key by which packets of its own direction are found.
    #[inline]
    #[must_use]
    pub fn key(&self) -> F::Key {
        F::read(self.words.as_ref(), key_at::<F>(self.direction))
    }

    /// The key by which packets of the other direction are found.
    #[inline]
    #[must_use]
    pub fn other_key(&self) -> F::Key {
        F::read(self.words.as_ref(), key_at::<F>(self.direction.other()))
    }

    /// What is decided for packets of this direction.
    #[inline]
    #[must_use]
    pub fn action(&self) -> Action {
        // Acquire: the adjacency that it names was filled in before. Partner: `decide`.
        Action(self.words.as_ref()[action_at::<F>(self.direction)].load(Ordering::Acquire))
    }

    /// Stores a decision, if `old` is still what is there: whoever loses has decided for one packet.
    #[inline]
    pub fn decide(&self, old: Action, new: Action) {
        let word = &self.words.as_ref()[action_at::<F>(self.direction)];
        // Release: partner `action`. A lost race is no error.
        let _lost = word.compare_exchange(old.0, new.0, Ordering::Release, Ordering::Relaxed);
    }

    /// Stores a decision that was found to hold, with its newer generation. Without comparing: what another worker has stored meanwhile
    /// was made by the same tables and says the same, or by newer ones, and then this one is older and will not hold.
    #[inline]
    pub fn confirm(&self, action: Action) {
        // Release: partner `action`.
        self.words.as_ref()[action_at::<F>(self.direction)].store(action.0, Ordering::Release);
    }

    /// A packet has been seen. Writes only when that changes the state, or the second.
    #[inline]
    pub fn touch(self, life: Life, signal: Signal, now: Seconds) {
        if life.seen() != now || life.changes(self.direction, signal) {
            self.note(signal, now);
        }
    }

    #[cold]
    fn note(self, signal: Signal, now: Seconds) {
        let word = &self.words.as_ref()[F::LIFE];
        for _ in 0..TRIES {
            let life = Life(word.load(Ordering::Relaxed));
            if !life.is_live() {
                return;
            }
            let next = Life::new(Phase::Live, life.state().next(self.direction, signal), now);
            if word.compare_exchange(life.0, next.0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }
}
