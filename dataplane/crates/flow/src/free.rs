//! The list of free records that all workers share: a stack, linked through the records' cold words.
//!
//! Its head has the number of pops beside the first record. A pop reads the second record before it takes the first; if others have
//! popped in between, the number says so, though the first may be the same again.

use crate::family::Family;
use crate::layout::COLD;
use crate::sync::Ordering;
use crate::table::Table;

impl<F: Family> Table<F> {
    /// Whether so few records are free, in common or for this worker, that one should go for each that comes.
    pub(crate) fn is_short(&self, stock: u32) -> bool {
        self.spare.load(Ordering::Relaxed).saturating_add(stock) < (self.capacity() / 16).min(256)
    }

    /// From the common list.
    pub(crate) fn pop_free(&self) -> Option<u32> {
        loop {
            let head = self.free.load(Ordering::Acquire);
            #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
            let record = (head as u32).checked_sub(1)?;
            let next = self.cold[record as usize * COLD].load(Ordering::Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | next & 0xffff_ffff;
            // AcqRel: the list behind the head is whole. Partner: `push_free`.
            if self.free.compare_exchange(head, new, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.spare.fetch_sub(1, Ordering::Relaxed);
                return Some(record);
            }
        }
    }

    /// To the common list.
    pub(crate) fn push_free(&self, record: u32) {
        // Before it can be popped, so that the count never falls below zero.
        self.spare.fetch_add(1, Ordering::Relaxed);
        loop {
            let head = self.free.load(Ordering::Relaxed);
            self.cold[record as usize * COLD].store(head & 0xffff_ffff, Ordering::Relaxed);
            let new = head & !0xffff_ffff | u64::from(record + 1);
            // Release: what the record was is behind us, and the link is written. Partner: `pop_free`.
            if self.free.compare_exchange(head, new, Ordering::Release, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use crate::{AtomicU64, Flows, FlowsConfig, Timeouts};

    /// Two pop and push while a third's pop is under way: nobody gets a record that another has, and none is lost.
    #[test]
    fn a_record_is_popped_by_one_at_a_time() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.max_branches = 10_000;
        builder.check(|| {
            let config =
                FlowsConfig { v4: 3, v6: 1, seats: 0, seeds: [1, 2, 3], timeouts: Timeouts::default() };
            let words: Vec<_> = (0..Flows::words(&config)).map(|_| AtomicU64::new(0)).collect();
            let flows = Arc::new(Flows::adopt(words.leak(), &config).unwrap().0);
            let other = Arc::clone(&flows);
            // Pops two and gives the first back: the head is as before, what follows it is not.
            let worker = thread::spawn(move || {
                let (first, second) = (other.v4.pop_free(), other.v4.pop_free());
                if let Some(first) = first {
                    other.v4.push_free(first);
                }
                second
            });
            let mine = flows.v4.pop_free().unwrap();
            let mut all = vec![mine];
            all.extend(worker.join().unwrap());
            while let Some(record) = flows.v4.pop_free() {
                all.push(record);
            }
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
        });
    }
}
