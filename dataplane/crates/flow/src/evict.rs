//! How flows end by themselves: by time, or because there are too many.
//!
//! When few records are free, each new flow ends one of a sample of 32 from all over the table: one that has been closed, if
//! there is any; else one of whoever has most flows, of those one that was never answered, and of those the one unused for
//! longest. So who opens a million flows ends its own, and the few flows of others stay. The same rule ends one of those in both buckets
//! of a key that has no lane free in either: few keys meet that, but for those few it would last.

use crate::epoch::Epochs;
use crate::family::Family;
use crate::life::{Life, Seconds};
use crate::local::Shelf;
use crate::state::{Direction, State};
use crate::sync::Ordering;
use crate::table::{Handle, OWNERS, Table};
use crate::timeouts::{AFFINITY, Timeouts};

/// Records that are looked at to find one to end.
const SAMPLE: u32 = 32;

impl<F: Family> Table<F> {
    /// Looks at `budget` records further on, and ends those whose time is over. Returns how many.
    pub fn expire(
        &self,
        shelf: &mut Shelf,
        epochs: &Epochs,
        timeouts: &Timeouts,
        now: Seconds,
        budget: u32,
    ) -> u32 {
        shelf.reclaim(self, epochs);
        if budget == 0 || self.capacity() == 0 {
            return 0;
        }
        let start = self.cursor.fetch_add(budget, Ordering::Relaxed);
        let mut ended = 0;
        for step in 0..budget.min(self.capacity()) {
            let record = start.wrapping_add(step) % self.capacity();
            // Acquire: the key, which says the protocol. Partner: the store of `Live` in `insert`.
            let life = Life(self.life(record).load(Ordering::Acquire));
            if life.is_live() && self.is_over(record, life, timeouts, now) {
                // Judged again as it is in the end: a packet may have come in between.
                let over = |life| self.is_over(record, life, timeouts, now);
                ended += u32::from(self.end_if(shelf, epochs, record, over));
            }
        }
        ended
    }

    /// Steps by the golden ratio: any few numbers in a row lead to records all over the table (Knuth, The Art of Computer Programming,
    /// volume 3, section 6.4). Neighbouring records are often of one owner, who opened many at a time.
    fn spread(&self, number: u32) -> u32 {
        let share = number.wrapping_mul(0x9e37_79b9);
        ((u64::from(share) * u64::from(self.capacity())) >> 32) as u32
    }

    fn is_over(&self, record: u32, life: Life, timeouts: &Timeouts, now: Seconds) -> bool {
        let key = self.key_of(record, Direction::Forward);
        let limit = match F::tuple(&key).protocol {
            AFFINITY => self.rules_of(record)[0],
            protocol => timeouts.of(protocol, life.state()).0,
        };
        now.0.saturating_sub(life.seen().0) > limit
    }

    /// Ends the one flow of a sample that can best be spared.
    pub(crate) fn evict(&self, shelf: &mut Shelf, epochs: &Epochs, now: Seconds) {
        let start = self.sample.fetch_add(SAMPLE, Ordering::Relaxed);
        let sample = (0..SAMPLE).map(|step| self.spread(start.wrapping_add(step)));
        sample.clone().for_each(|record| hint::prefetch_read(self.life(record)));
        self.end_one(shelf, epochs, now, sample);
    }

    /// Ends one of the flows that have the lanes of a key's buckets. True if one is free now, and there is room for another record to wait
    /// beside the one that has ended.
    #[cold]
    pub(crate) fn make_room(&self, hash: u64, shelf: &mut Shelf, epochs: &Epochs, now: Seconds) -> bool {
        let lanes = self.home(hash).numbers().chain(self.other(hash).numbers());
        let records = lanes.filter_map(Handle::of).map(Handle::record);
        shelf.has_room_for(2, self, epochs) && self.end_one(shelf, epochs, now, records)
    }

    /// Ends the one of these that can best be spared.
    fn end_one(
        &self,
        shelf: &mut Shelf,
        epochs: &Epochs,
        now: Seconds,
        records: impl Iterator<Item = u32>,
    ) -> bool {
        let mut worst = None;
        for record in records {
            // Acquire: whose it is. Partner: the store of `Live` in `insert`.
            let life = Life(self.life(record).load(Ordering::Acquire));
            if !life.is_live() {
                continue;
            }
            let owner = usize::from(self.binding_of(record).owner) % OWNERS;
            let many = self.owners[owner].load(Ordering::Relaxed);
            let unanswered = matches!(life.state(), State::New | State::Opening);
            let score = (life.state().is_over(), many, unanswered, now.0.saturating_sub(life.seen().0));
            if worst.is_none_or(|(worst, _)| worst < score) {
                worst = Some((score, record));
            }
        }
        worst.is_some_and(|(_, record)| self.end(shelf, epochs, Handle::new(record, Direction::Forward)))
    }
}
