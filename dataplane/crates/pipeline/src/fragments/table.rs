//! Entries in fixed memory: found by key, kept by age, counted by source.
//!
//! Nothing is allocated after [`Table::new`]. All chains are of indexes: of a bucket, of age, of what is free.

use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::DefaultHashBuilder;
use tables::NetworkId;

use super::Transport;
use super::pieces::Pieces;
use crate::held::Queue;
use crate::{DropReason, Tick};

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// The oldest entries that are looked at to make room for one.
const EVICTION_LOOKS: usize = 16;

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) network: NetworkId,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) ident: u32,
    /// 0 in IPv6, where fragments may differ in it and only the first one's counts (RFC 8200, section 4.5).
    pub(super) protocol: u8,
}

/// How far a packet has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The first fragment has not come.
    Open,
    /// It has, and had these.
    Known(Transport),
    /// What comes of it is dropped.
    Refused(DropReason),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) pieces: Pieces,
    pub(super) opened: Tick,
    /// Those that hold, and are still there.
    pub(super) queue: Queue,
    /// Fragments that were told to wait and have not come out again.
    pub(super) waiting: u32,
    /// Another for each packet that the entry was taken for.
    pub(super) generation: u32,
    source: u32,
    next: u32,
    older: u32,
    newer: u32,
}

/// What one source has, or the few that share a counter.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    entries: u32,
    waiting: u32,
}

#[derive(Debug)]
pub(super) struct Table {
    entries: Box<[Entry]>,
    buckets: Box<[u32]>,
    shares: Box<[Share]>,
    hasher: DefaultHashBuilder,
    free: u32,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl Table {
    pub(super) fn new(capacity: u32) -> Self {
        let nobody = Key {
            network: NetworkId(0),
            src: IpAddr::from([0; 4]),
            dst: IpAddr::from([0; 4]),
            ident: 0,
            protocol: 0,
        };
        let entry = |at: u32| Entry {
            key: nobody,
            state: State::Open,
            pieces: Pieces::NONE,
            opened: Tick(0),
            queue: Queue::EMPTY,
            waiting: 0,
            generation: 0,
            source: 0,
            next: if at + 1 < capacity { at + 1 } else { NONE },
            older: NONE,
            newer: NONE,
        };
        let buckets = index(capacity).next_power_of_two();
        Self {
            entries: (0..capacity).map(entry).collect(),
            buckets: vec![NONE; buckets].into(),
            shares: vec![Share::default(); buckets].into(),
            hasher: DefaultHashBuilder::default(),
            free: if capacity == 0 { NONE } else { 0 },
            oldest: NONE,
            newest: NONE,
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Entries never move: the index is good until the entry is removed.
    pub(super) fn get(&mut self, at: u32) -> Option<&mut Entry> {
        self.entries.get_mut(index(at))
    }

    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        let mut at = self.buckets[self.bucket(key)];
        while let Some(entry) = self.entries.get(index(at)) {
            if entry.key == *key {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    /// The oldest, and since when it is there.
    pub(super) fn oldest(&self) -> Option<(u32, Tick)> {
        self.entries.get(index(self.oldest)).map(|entry| (self.oldest, entry.opened))
    }

    /// Takes an entry for a key that has none; `None` if all are taken.
    pub(super) fn insert(&mut self, now: Tick, key: Key) -> Option<u32> {
        let (at, bucket, source) = (self.free, self.bucket(&key), self.source(&key));
        let entry = self.entries.get_mut(index(at))?;
        self.free = entry.next;
        *entry = Entry {
            key,
            state: State::Open,
            pieces: Pieces::NONE,
            opened: now,
            queue: Queue::EMPTY,
            waiting: 0,
            generation: entry.generation.wrapping_add(1),
            source,
            next: self.buckets[bucket],
            older: self.newest,
            newer: NONE,
        };
        self.buckets[bucket] = at;
        match self.entries.get_mut(index(self.newest)) {
            Some(newest) => newest.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
        self.shares[index(source)].entries += 1;
        self.len += 1;
        Some(at)
    }

    /// Gives an entry up. Its queue is the caller's.
    pub(super) fn remove(&mut self, at: u32) {
        self.forgive(at, u32::MAX);
        let Some(entry) = self.entries.get_mut(index(at)) else { return };
        let (key, next, older, newer, source) =
            (entry.key, entry.next, entry.older, entry.newer, entry.source);
        // Whoever still knows the entry finds that it is another's.
        entry.generation = entry.generation.wrapping_add(1);
        entry.queue = Queue::EMPTY;
        entry.next = self.free;
        self.free = at;
        let bucket = self.bucket(&key);
        let mut link = self.buckets[bucket];
        if link == at {
            self.buckets[bucket] = next;
        } else {
            while let Some(entry) = self.entries.get_mut(index(link)) {
                if entry.next == at {
                    entry.next = next;
                    break;
                }
                link = entry.next;
            }
        }
        match self.entries.get_mut(index(older)) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(index(newer)) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        self.shares[index(source)].entries -= 1;
        self.len -= 1;
    }

    /// The entry to take for one more packet of this source. Of the oldest few it is the one whose source has the most, if that
    /// has more than the newcomer; otherwise the newcomer's own oldest, so that nobody loses by another's greed. `None`:
    /// the newcomer is refused.
    pub(super) fn victim(&self, key: &Key) -> Option<u32> {
        let source = self.source(key);
        let (mut greediest, mut own): (Option<(u32, u32)>, Option<u32>) = (None, None);
        let mut at = self.oldest;
        for _ in 0..EVICTION_LOOKS {
            let Some(entry) = self.entries.get(index(at)) else { break };
            let has = self.shares[index(entry.source)].entries;
            if greediest.is_none_or(|(_, most)| has > most) {
                greediest = Some((at, has));
            }
            if entry.source == source {
                own = own.or(Some(at));
            }
            at = entry.newer;
        }
        let has = self.shares[index(source)].entries;
        greediest.filter(|&(_, most)| most > has).map(|(at, _)| at).or(own)
    }

    /// One more waits. `false`, and nothing done, if that is more than `each` packet or `source` may have.
    pub(super) fn wait(&mut self, at: u32, each: u32, source: u32) -> bool {
        let Some(entry) = self.entries.get_mut(index(at)) else { return false };
        let share = &mut self.shares[index(entry.source)];
        let allowed = entry.waiting < each && share.waiting < source;
        if allowed {
            entry.waiting += 1;
            share.waiting += 1;
        }
        allowed
    }

    /// So many wait no longer; at most those that do.
    pub(super) fn forgive(&mut self, at: u32, waiting: u32) {
        if let Some(entry) = self.entries.get_mut(index(at)) {
            let waiting = waiting.min(entry.waiting);
            entry.waiting -= waiting;
            self.shares[index(entry.source)].waiting -= waiting;
        }
    }

    fn bucket(&self, key: &Key) -> usize {
        self.place(self.hasher.hash_one(key))
    }

    fn source(&self, key: &Key) -> u32 {
        let place = self.place(self.hasher.hash_one((key.network, key.src)));
        u32::try_from(place).unwrap_or_default()
    }

    fn place(&self, hash: u64) -> usize {
        // As many as a power of two; the upper half of the hash is as good as the lower.
        usize::try_from(hash >> 32).unwrap_or_default() & (self.buckets.len() - 1)
    }
}

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
