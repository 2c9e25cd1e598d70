//! The list of free records that all workers share: a stack, linked through the records' cold words.
//!
//! Its head has the number of pops beside the first record. A pop reads along the list before it takes the first few; if others have
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

    /// Takes records from the common list until `most` are in `into`, or none is left.
    pub(crate) fn pop_free(&self, into: &mut Vec<u32>, most: usize) {
        let kept = into.len();
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            into.truncate(kept);
            let mut next = head & 0xffff_ffff;
            while into.len() < most
                && let Some(record) = u32::try_from(next).ok().and_then(|next| next.checked_sub(1))
                && let Some(link) = self.cold.get(record as usize * COLD)
            {
                into.push(record);
                next = link.load(Ordering::Relaxed) & 0xffff_ffff;
            }
            let popped = into.len() - kept;
            if popped == 0 {
                return;
            }
            let new = (head >> 32).wrapping_add(1) << 32 | next;
            // AcqRel: the list behind the head is whole. Partner: `push_free`. If anybody has popped meanwhile, what was read of it may
            // not be, and the number of pops says so.
            match self.free.compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.spare.fetch_sub(u32::try_from(popped).unwrap_or(0), Ordering::Relaxed);
                    // They are written to before long, in front of locked instructions, which wait for that.
                    into[kept..].iter().for_each(|&record| hint::prefetch_read(self.life(record)));
                    return;
                }
                Err(now) => head = now,
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
    fn popped_by_one_at_a_time(popped: usize) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.max_branches = 10_000;
        builder.check(move || {
            let config =
                FlowsConfig { v4: 3, v6: 1, seats: 0, seeds: [1, 2, 3], timeouts: Timeouts::default() };
            let words: Vec<_> = (0..Flows::words(&config)).map(|_| AtomicU64::new(0)).collect();
            let flows = Arc::new(Flows::adopt(words.leak(), &config).unwrap().0);
            let other = Arc::clone(&flows);
            // Pops two and gives the first back: the head is as before, what follows it is not.
            let worker = thread::spawn(move || {
                let mut two = Vec::new();
                other.v4.pop_free(&mut two, 1);
                other.v4.pop_free(&mut two, 2);
                if two.len() == 2 {
                    other.v4.push_free(two.remove(0));
                }
                two
            });
            let mut all = Vec::new();
            flows.v4.pop_free(&mut all, popped);
            assert!(!all.is_empty());
            all.extend(worker.join().unwrap());
            flows.v4.pop_free(&mut all, 4);
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
        });
    }

    #[test]
    fn a_record_is_popped_by_one_at_a_time() {
        popped_by_one_at_a_time(1);
    }

    #[test]
    fn two_records_are_popped_at_once_or_none() {
        popped_by_one_at_a_time(2);
    }
}
