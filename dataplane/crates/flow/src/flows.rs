//! Both tables, and what their users share.

use crate::epoch::Epochs;
use crate::family::{V4, V6};
use crate::layout;
use crate::life::Seconds;
use crate::local::Local;
use crate::sync::Words;
use crate::table::Table;
use crate::timeouts::Timeouts;

/// How large the tables are, and who uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowsConfig {
    /// Records for IPv4, from 64 to 2^30.
    pub v4: u32,
    /// Records for IPv6, in the same bounds.
    pub v6: u32,
    /// Workers; each has a seat below this.
    pub seats: usize,
    /// Random: where a key lands must not be foreseen by who chooses keys. Storage that is laid out keeps its own.
    pub seeds: [u64; 3],
    /// How long flows are kept.
    pub timeouts: Timeouts,
}

/// What was found in the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// It was laid out as it is now.
    pub known: bool,
    /// Flows that go on.
    pub v4: u32,
    /// Flows that go on.
    pub v6: u32,
}

/// Why storage cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// Too few words.
    #[error("the storage has {given} words, but tables of this size take {needed}")]
    TooSmall {
        /// Words of 8 bytes.
        needed: usize,
        /// Words of 8 bytes.
        given: usize,
    },
    /// Sizes that no table can have.
    #[error("a table of {records} flows: use {LEAST} to {MOST}")]
    Size {
        /// As asked for.
        records: u32,
    },
}

/// Records of a table at least: fewer than workers keep in stock serve nobody. Models are smaller.
const LEAST: u32 = if cfg!(loom) { 1 } else { 64 };
/// Records of a table at most: a handle has 31 bits for them.
const MOST: u32 = 1 << 30;
/// Each record is looked at about once in this many seconds, to see whether its time is over.
const ROUND: u64 = 8;

/// The flows of all workers.
#[derive(Debug)]
pub struct Flows {
    /// Those of IPv4.
    pub v4: Table<V4>,
    /// Those of IPv6.
    pub v6: Table<V6>,
    /// When a dead record may be used again.
    pub epochs: Epochs,
    timeouts: Timeouts,
}

impl Flows {
    /// Words of 8 bytes that the storage needs.
    #[must_use]
    pub const fn words(config: &FlowsConfig) -> usize {
        layout::words(config.v4, config.v6)
    }

    /// Uses the storage: with the flows that are in it, if it was laid out for the same sizes.
    ///
    /// # Errors
    /// Too few words, or sizes that no table can have; nothing is touched then.
    pub fn adopt(words: Words, config: &FlowsConfig) -> Result<(Self, Adopted), StorageError> {
        if let Some(records) = [config.v4, config.v6].into_iter().find(|n| !(LEAST..=MOST).contains(n)) {
            return Err(StorageError::Size { records });
        }
        let (v4, v6, seeds, known) = layout::divide(words, config)?;
        let flows = Self {
            v4: Table::adopt(v4, config.v4, seeds),
            v6: Table::adopt(v6, config.v6, seeds),
            epochs: Epochs::new(config.seats),
            timeouts: config.timeouts,
        };
        let adopted = Adopted { known, v4: flows.v4.len(), v6: flows.v6.len() };
        Ok((flows, adopted))
    }

    /// How long flows are kept.
    #[must_use]
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Looks for flows whose time is over: as many records as `elapsed_us` microseconds of a round through all of them, shared by
    /// `workers`, and at most `most` a family. Returns how many ended.
    pub fn expire(&self, local: &mut Local, now: Seconds, elapsed_us: u64, workers: u32, most: u32) -> u32 {
        let due = |capacity: u32| {
            let records = u64::from(capacity) * elapsed_us / (ROUND * 1_000_000 * u64::from(workers.max(1)));
            u32::try_from(records).unwrap_or(u32::MAX).min(most)
        };
        let Self { v4, v6, epochs, timeouts } = self;
        v4.expire(&mut local.v4, epochs, timeouts, now, due(v4.capacity()))
            + v6.expire(&mut local.v6, epochs, timeouts, now, due(v6.capacity()))
    }
}
