//! What a worker keeps of the table for itself: records to use next, and those that nobody may use yet.

use std::collections::VecDeque;

use crate::epoch::Seat;
use crate::sync::Ordering;
use crate::table::Table;
use crate::{Epochs, Family};

/// Free records that a worker keeps at most, beyond those that just came back.
const STOCK: usize = if cfg!(loom) { 0 } else { 64 };
/// Records that it takes from the common list at a time.
const REFILL: usize = if cfg!(loom) { 1 } else { 16 };
/// Dead records of one worker that wait for the others to begin another burst.
const LIMBO: usize = 1024;

/// Of one family. Nothing in it is lost for ever: a process that starts finds what it held.
#[derive(Debug)]
pub struct Shelf {
    free: Vec<u32>,
    /// With the epoch that all must pass, in that order.
    limbo: VecDeque<(u64, u32)>,
}

/// Of both families, and the worker's seat.
#[derive(Debug)]
pub struct Local {
    /// Its place among the workers.
    pub seat: Seat,
    /// For IPv4.
    pub v4: Shelf,
    /// For IPv6.
    pub v6: Shelf,
}

impl Local {
    /// Nothing in stock.
    #[must_use]
    pub fn new(seat: Seat) -> Self {
        Self { seat, v4: Shelf::new(), v6: Shelf::new() }
    }
}

impl Shelf {
    fn new() -> Self {
        Self { free: Vec::with_capacity(STOCK + LIMBO), limbo: VecDeque::with_capacity(LIMBO) }
    }

    /// Records that only this worker takes, now or when all have begun another burst.
    pub(crate) fn stock(&self) -> u32 {
        u32::try_from(self.free.len() + self.limbo.len()).unwrap_or(u32::MAX)
    }

    /// A record to use.
    pub(crate) fn take<F: Family>(&mut self, table: &Table<F>, epochs: &Epochs) -> Option<u32> {
        if let Some(record) = self.free.pop() {
            return Some(record);
        }
        self.reclaim(table, epochs);
        if self.free.is_empty() {
            table.pop_free(&mut self.free, REFILL);
        }
        self.free.pop()
    }

    /// Whether another one may die: there is room to wait in.
    pub(crate) fn has_room<F: Family>(&mut self, table: &Table<F>, epochs: &Epochs) -> bool {
        self.has_room_for(1, table, epochs)
    }

    /// Whether as many may.
    pub(crate) fn has_room_for<F: Family>(&mut self, dead: usize, table: &Table<F>, epochs: &Epochs) -> bool {
        if self.limbo.len() + dead > LIMBO {
            self.reclaim(table, epochs);
        }
        self.limbo.len() + dead <= LIMBO
    }

    /// A record that has just been hidden.
    pub(crate) fn bury(&mut self, record: u32, epochs: &Epochs) {
        self.limbo.push_back((epochs.retire(), record));
    }

    /// What all workers have left behind is free again.
    pub(crate) fn reclaim<F: Family>(&mut self, table: &Table<F>, epochs: &Epochs) {
        if self.limbo.is_empty() {
            return;
        }
        let passed = epochs.passed();
        while let Some(&(epoch, record)) = self.limbo.front() {
            if epoch > passed {
                break;
            }
            self.limbo.pop_front();
            table.life(record).store(crate::life::Life::FREE.0, Ordering::Relaxed);
            if self.free.len() < STOCK {
                self.free.push(record);
            } else {
                table.push_free(record);
            }
        }
    }
}
