//! A bucket: one cache line with eight lanes, each the signature of a key and the record that it leads to.
//!
//! ```text
//! word 0, 1   signatures, four of 16 bits each; 0 is none
//! word 2..6   where they lead, two of 32 bits each; 0 is a free lane
//! word 6      keys that belong here and are in their other bucket, for want of a lane
//! ```
//!
//! A lane is taken by a compare-and-swap of its number, which the signature follows; it is given up the other way round. So a
//! signature always has its number, or an older one whose record has another key: readers compare the whole key.

use crate::layout::BUCKET;
use crate::sync::{AtomicU64, Ordering};

/// Lanes of a bucket.
const LANES: usize = 8;
/// Tries at a word that others are changing too, before somebody else's turn is called contention.
const TRIES: usize = 16;

/// A cache line of words.
pub(crate) type Line = [AtomicU64; BUCKET];

/// A view of one bucket's words.
#[derive(Clone, Copy)]
pub(crate) struct Bucket<'t>(pub(crate) &'t Line);

/// The lanes whose signature is the one wanted, a bit each.
#[derive(Clone, Copy)]
pub(crate) struct Lanes(u32);

impl Lanes {
    /// The first of them.
    #[inline]
    pub(crate) const fn first(self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        Some(self.0.trailing_zeros() as usize)
    }

    #[inline]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it is just one.
    #[inline]
    pub(crate) const fn is_single(self) -> bool {
        self.0.is_power_of_two()
    }

    #[inline]
    pub(crate) const fn next(&mut self) -> Option<usize> {
        let lane = self.first();
        self.0 &= self.0.wrapping_sub(1);
        lane
    }
}

impl Bucket<'_> {
    #[inline]
    pub(crate) fn prefetch(self) {
        hint::prefetch_read(&self.0[0]);
    }

    /// The lanes that may have a key of this signature.
    #[inline]
    pub(crate) fn matching(self, signature: u16) -> Lanes {
        // Acquire: the number and the record's key were written before the signature. SeqCst, which costs a load nothing: for
        // `Table::rival`. Partner: `link`.
        Lanes(hint::equal_lanes([0, 1].map(|half| self.0[half].load(Ordering::SeqCst)), signature))
    }

    /// Where a lane leads.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "half a word is meant")]
    pub(crate) fn number(self, lane: usize) -> u32 {
        // Acquire: the signature seen may be an older one's; the key of the record that is here now was written before its number.
        // Partner: `link`.
        (self.0[2 + lane / 2 % 4].load(Ordering::Acquire) >> (32 * (lane % 2))) as u32
    }

    /// Where all lanes lead.
    pub(crate) fn numbers(self) -> impl Iterator<Item = u32> {
        (0..LANES).map(move |lane| self.number(lane))
    }

    /// Puts a number into a free lane. False if there is none.
    #[inline]
    pub(crate) fn link(self, signature: u16, number: u32) -> bool {
        for (pair, word) in self.0[2..6].iter().enumerate() {
            let mut old = word.load(Ordering::Relaxed);
            for _ in 0..TRIES {
                let half = match (old & 0xffff_ffff, old >> 32) {
                    (0, _) => 0,
                    (_, 0) => 1,
                    _ => break,
                };
                let new = old | u64::from(number) << (32 * half);
                // AcqRel: whoever had the lane has taken its signature away before.
                match word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => {
                        let lane = 2 * pair + half;
                        let signed = u64::from(signature) << (16 * (lane % 4));
                        // Release: for readers. SeqCst: in one order with what a rival for the same key does. Partner: `matching`.
                        self.0[lane / 4].fetch_or(signed, Ordering::SeqCst);
                        return true;
                    }
                    Err(now) => old = now,
                }
            }
        }
        false
    }

    /// Takes a number out. False if it is not here.
    pub(crate) fn unlink(self, number: u32) -> bool {
        for lane in 0..LANES {
            if self.number(lane) == number {
                // Release: hidden before the epoch in which it may be used again.
                self.0[lane / 4].fetch_and(!(0xffff << (16 * (lane % 4))), Ordering::AcqRel);
                self.0[2 + lane / 2].fetch_and(!(0xffff_ffff << (32 * (lane % 2))), Ordering::AcqRel);
                return true;
            }
        }
        false
    }

    /// Whether some keys that belong here are elsewhere.
    #[inline]
    pub(crate) fn has_strays(self) -> bool {
        // SeqCst: for `Table::rival`. Partner: `add_stray`.
        self.0[6].load(Ordering::SeqCst) != 0
    }

    pub(crate) fn add_stray(self) {
        self.0[6].fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn remove_stray(self) {
        self.0[6].fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn signed(bucket: Bucket<'_>, signature: u16) -> impl Iterator<Item = u32> {
        let mut lanes = bucket.matching(signature);
        std::iter::from_fn(move || lanes.next()).map(move |lane| bucket.number(lane)).filter(|&n| n != 0)
    }

    #[test]
    fn lanes_fill_are_found_and_empty() {
        let words = std::array::from_fn(|_| AtomicU64::new(0));
        let bucket = Bucket(&words);
        for number in 1..=8 {
            // Pairs share a signature.
            assert!(bucket.link(u16::try_from(1 + number / 2).unwrap(), number));
        }
        assert!(!bucket.link(9, 9));
        assert_eq!(signed(bucket, 2).filter(|n| matches!(n, 2 | 3)).count(), 2);
        assert!(bucket.unlink(3) && !bucket.unlink(3));
        assert_eq!(signed(bucket, 2).filter(|&n| n == 3).count(), 0);
        assert!(bucket.link(0xffff, 30));
        assert!(signed(bucket, 0xffff).any(|n| n == 30));
        for number in [1, 2, 4, 5, 6, 7, 8, 30] {
            assert!(bucket.unlink(number));
        }
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }
}
