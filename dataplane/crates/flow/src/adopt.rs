//! How a process takes over the flows that an earlier one left: before any worker has the table.

use crate::action::Action;
use crate::bucket::Bucket;
use crate::family::Family;
use crate::layout::Parts;
use crate::life::Life;
use crate::state::Direction;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::table::{Handle, OWNERS, Table, signature};

impl<F: Family> Table<F> {
    /// Takes the storage as it is: records that are live stay, others are free, and the buckets are made anew.
    pub(crate) fn adopt(parts: Parts, records: u32, seeds: [u64; 3]) -> Self {
        let Parts { buckets, hot, cold } = parts;
        buckets.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let (buckets, _) = buckets.as_chunks();
        let table = Self {
            buckets,
            hot: F::records(hot),
            cold,
            mask: (buckets.len() - 1) as u64,
            seeds,
            records,
            free: AtomicU64::new(0),
            spare: AtomicU32::new(0),
            owners: (0..OWNERS).map(|_| AtomicU32::new(0)).collect(),
            cursor: AtomicU32::new(0),
            sample: AtomicU32::new(0),
            family: std::marker::PhantomData,
        };
        for record in (0..records).rev() {
            if !table.readopt(record) {
                table.life(record).store(Life::FREE.0, Ordering::Relaxed);
                table.push_free(record);
            }
        }
        table
    }

    /// Links a record that an earlier process left. What it decided was by tables that are gone.
    fn readopt(&self, record: u32) -> bool {
        let life = Life(self.life(record).load(Ordering::Relaxed));
        if !life.is_live() {
            return false;
        }
        let keys = [Direction::Forward, Direction::Reply].map(|d| self.key_of(record, d));
        for (direction, key) in [Direction::Forward, Direction::Reply].into_iter().zip(&keys) {
            let (hash, handle) = (self.hash(key), Handle::new(record, direction));
            if self.find(hash, key).is_some()
                || !(self.link(hash, handle) || self.displace(hash) && self.link(hash, handle))
            {
                self.unlink(self.hash(&keys[0]), Handle::new(record, Direction::Forward));
                return false;
            }
            self.action(handle).store(Action::NONE.0, Ordering::Relaxed);
        }
        self.count(self.binding_of(record).owner, 1);
        true
    }

    /// Makes a lane free in one of the buckets of a hash, by moving what has one to its own other bucket. Keys come in another order than
    /// they once came in, so that those of a full table would not all find a lane. Readers might miss what moves: there are none yet.
    fn displace(&self, hash: u64) -> bool {
        [self.home(hash), self.other(hash)]
            .into_iter()
            .any(|bucket| bucket.numbers().filter_map(Handle::of).any(|handle| self.relink(bucket, handle)))
    }

    /// Moves a key's lane from this bucket to the other one that it may have.
    fn relink(&self, from: Bucket<'_>, handle: Handle) -> bool {
        let hash = self.hash(&self.key_of(handle.record(), handle.direction()));
        let home = self.home(hash);
        let is_home = std::ptr::eq(home.0, from.0);
        let to = if is_home { self.other(hash) } else { home };
        if !to.link(signature(hash), handle.0.get()) {
            return false;
        }
        if is_home {
            home.add_stray();
        } else {
            home.remove_stray();
        }
        from.unlink(handle.0.get())
    }
}
