//! The table of one family: look-up for every packet, insertion for the first of a flow.
//!
//! Look-up is in steps, so that a burst can be prefetched between them: [`Table::hash`], [`Table::prefetch`], [`Table::first`],
//! [`Handle`] prefetch, [`Table::verify`]. A handle is good until its worker's next [`Epochs::quiesce`](crate::Epochs::quiesce).
//!
//! Two workers may insert one key at a time: each links its record first and looks for the other's then, and whoever sees another
//! gives up. At least one sees it, so that a key never leads to two live records; and the reply's key, once linked, is taken: that is
//! how a port for source NAT is reserved.

use std::num::NonZeroU32;

use crate::action::Action;
use crate::bucket::{Bucket, Line};
use crate::epoch::Epochs;
use crate::family::{Family, Tuple};
use crate::layout::{COLD, LINE};
use crate::life::{Binding, Life, Phase, Seconds};
use crate::local::Shelf;
use crate::record::{action_at, key_at};
use crate::state::{Direction, Signal, State};
use crate::sync::{AtomicU32, AtomicU64, Ordering, Words, fence, in_one_order};

/// Owners that are told apart: port ids.
pub(crate) const OWNERS: usize = if cfg!(loom) { 4 } else { 1024 };

/// A record by one of its two keys: not zero, so that zero is a free lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub(crate) NonZeroU32);

impl Handle {
    #[inline]
    pub(crate) const fn new(record: u32, direction: Direction) -> Self {
        // Not zero, since records are below 2^30.
        Self(NonZeroU32::MIN.saturating_add((record << 1 | direction as u32) + 1))
    }

    /// Of a lane's number; 0 is a free one.
    #[inline]
    pub(crate) const fn of(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    #[inline]
    pub(crate) const fn record(self) -> u32 {
        (self.0.get() - 2) >> 1
    }

    /// Which of the two keys it was found by.
    #[inline]
    #[must_use]
    pub const fn direction(self) -> Direction {
        Direction::of_bit(self.0.get())
    }
}

/// A record that has the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The record, by this key.
    pub handle: Handle,
    /// As it was when it was looked at. A record that is not live is being made or has just ended.
    pub life: Life,
}

/// What [`Table::insert`] is given, beside the reply's key.
#[derive(Debug, Clone, Copy)]
pub struct NewFlow<F: Family> {
    /// Of the packet as it came.
    pub key: F::Key,
    /// By the packet's signal.
    pub state: State,
    /// Whose it is, and what was chosen for it.
    pub binding: Binding,
    /// By direction.
    pub actions: [Action; 2],
    /// Numbers of the policy rules that allowed it, out of the sender and into the receiver; 0 is none.
    pub rules: [u32; 2],
}

/// How an insertion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The flow is there now.
    New(Handle),
    /// It was there already, or another worker is just making it.
    Exists(Found),
    /// Another flow has each of the reply's keys.
    ReplyTaken,
    /// Another worker wanted the same key at the same time; neither has it.
    Contended,
    /// No record is free, or none of the key's lanes.
    Full,
}

/// A flow, as lists show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<A> {
    /// The first packet's tuple.
    pub forward: Tuple<A>,
    /// Its answer's, as it comes.
    pub reply: Tuple<A>,
    /// State and last use.
    pub life: Life,
    /// Owner and origin.
    pub binding: Binding,
    /// By direction.
    pub actions: [Action; 2],
    /// Policy rules out of the sender and into the receiver; 0 is none.
    pub rules: [u32; 2],
}

/// The flows of one family.
pub struct Table<F: Family> {
    pub(crate) buckets: &'static [Line],
    pub(crate) hot: &'static [F::Hot],
    pub(crate) cold: Words,
    /// Buckets less one: their number is a power of two.
    pub(crate) mask: u64,
    pub(crate) seeds: [u64; 3],
    pub(crate) records: u32,
    /// Number of pops (32 bits) and the first free record plus one: the first number keeps an old head from passing for a new one.
    pub(crate) free: AtomicU64,
    /// How many there are; never fewer than that.
    pub(crate) spare: AtomicU32,
    /// Live flows by owner.
    pub(crate) owners: Box<[AtomicU32]>,
    /// Where expiry goes on.
    pub(crate) cursor: AtomicU32,
    /// Where the next sample for an eviction begins.
    pub(crate) sample: AtomicU32,
    pub(crate) family: std::marker::PhantomData<F>,
}

impl<F: Family> Table<F> {
    /// Records, used or not.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.records
    }

    /// Live flows.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.owners.iter().map(|owner| owner.load(Ordering::Relaxed)).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of a key, to be given to the other functions with it.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &F::Key) -> u64 {
        F::hash(key, &self.seeds)
    }

    /// Asks for the bucket.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.home(hash).prefetch();
    }

    /// The record that most likely has the key; to be verified.
    #[inline]
    #[must_use]
    pub fn first(&self, hash: u64) -> Option<Handle> {
        let bucket = self.home(hash);
        Handle::of(bucket.number(bucket.matching(signature(hash)).first()?))
    }

    /// Asks for the record.
    #[inline]
    pub fn prefetch_record(&self, handle: Handle) {
        let Some(record) = self.hot.get(handle.record() as usize) else { return };
        for line in record.as_ref().chunks_exact(LINE) {
            hint::prefetch_read(&line[0]);
        }
    }

    /// Whether the record has this key, and how it is.
    #[inline]
    #[must_use]
    pub fn verify(&self, handle: Handle, key: &F::Key) -> Option<Life> {
        let record = self.record(handle)?;
        let life = record.life();
        record.is(key).then_some(life)
    }

    /// The record of a key, wherever it is.
    #[inline]
    #[must_use]
    pub fn find(&self, hash: u64, key: &F::Key) -> Option<Found> {
        let home = self.home(hash);
        if home.matching(signature(hash)).is_empty() && !home.has_strays() {
            return None;
        }
        self.scan(hash, |handle| {
            let life = self.verify(handle, key)?;
            (life.phase() != Phase::Dead).then_some(Found { handle, life })
        })
    }

    /// The action of the direction by which it was found.
    #[inline]
    #[must_use]
    pub fn decided(&self, handle: Handle) -> Action {
        self.record(handle).map_or(Action::NONE, |record| record.action())
    }

    /// Stores a decision, as [`Record::decide`](crate::Record::decide).
    #[inline]
    pub fn decide(&self, handle: Handle, old: Action, new: Action) {
        if let Some(record) = self.record(handle) {
            record.decide(old, new);
        }
    }

    /// Stores a decision that was found to hold, as [`Record::confirm`](crate::Record::confirm).
    #[inline]
    pub fn confirm(&self, handle: Handle, action: Action) {
        if let Some(record) = self.record(handle) {
            record.confirm(action);
        }
    }

    /// The key by which packets of this direction are found.
    #[inline]
    #[must_use]
    pub fn key(&self, handle: Handle) -> F::Key {
        self.key_of(handle.record(), handle.direction())
    }

    /// What a packet of this direction becomes: the other direction's tuple turned round.
    #[inline]
    #[must_use]
    pub fn becomes(&self, handle: Handle) -> Tuple<F::Addr> {
        F::tuple(&self.key_of(handle.record(), handle.direction().other())).reversed()
    }

    /// Whose flow it is, and what was chosen for it.
    #[inline]
    #[must_use]
    pub fn binding(&self, handle: Handle) -> Binding {
        self.binding_of(handle.record())
    }

    /// Policy rules that allowed it when it was last decided, out of the sender and into the receiver.
    pub fn set_rules(&self, handle: Handle, rules: [u32; 2]) {
        self.rules(handle.record()).store(rules_word(rules), Ordering::Relaxed);
    }

    /// A packet has been seen, as [`Record::touch`](crate::Record::touch).
    #[inline]
    pub fn touch(&self, handle: Handle, life: Life, signal: Signal, now: Seconds) {
        if let Some(record) = self.record(handle) {
            record.touch(life, signal, now);
        }
    }

    /// Makes a flow whose answers have the first of `replies` that no other flow has. They may differ in their last word alone, the
    /// ports: a reader that meets a record while it is being made sees one of them, not a mixture.
    pub fn insert(
        &self,
        shelf: &mut Shelf,
        epochs: &Epochs,
        new: &NewFlow<F>,
        replies: impl IntoIterator<Item = F::Key>,
        now: Seconds,
    ) -> Inserted {
        let hash = self.hash(&new.key);
        let mut replies = replies.into_iter().map(|key| (self.hash(&key), key)).peekable();
        if let Some((hash, _)) = replies.peek() {
            self.prefetch(*hash);
        }
        if let Some(found) = self.find(hash, &new.key) {
            return Inserted::Exists(found);
        }
        // What waits already counts: where another worker is late, ending more would free none sooner.
        if self.is_short(shelf.stock()) {
            self.evict(shelf, epochs, now);
        }
        if !shelf.has_room(self, epochs) {
            return Inserted::Full;
        }
        let Some(record) = shelf.take(self, epochs) else { return Inserted::Full };
        let forward = Handle::new(record, Direction::Forward);
        let claimed = Life::new(Phase::Claimed, new.state, now);
        self.fill(record, new, claimed);
        if !self.link_or_evict(hash, forward, shelf, epochs, now) {
            self.bury(record, shelf, epochs);
            return Inserted::Full;
        }
        if let Some(rival) = self.rival(hash, &new.key, record) {
            self.unlink(hash, forward);
            self.bury(record, shelf, epochs);
            return if rival.life.is_live() { Inserted::Exists(rival) } else { Inserted::Contended };
        }
        let mut result = Inserted::ReplyTaken;
        for (hash, key) in replies.filter(|(_, key)| *key != new.key) {
            if self.find(hash, &key).is_some() {
                continue;
            }
            let reply = Handle::new(record, Direction::Reply);
            self.set_key(record, Direction::Reply, &key);
            if !self.link_or_evict(hash, reply, shelf, epochs, now) {
                result = Inserted::Full;
                break;
            }
            if self.rival(hash, &key, record).is_some() {
                self.unlink(hash, reply);
                continue;
            }
            // Before it can be ended, so that the count never falls below zero.
            self.count(new.binding.owner, 1);
            self.life(record).store(claimed.with_phase(Phase::Live).0, Ordering::Release);
            return Inserted::New(forward);
        }
        self.unlink(hash, forward);
        self.bury(record, shelf, epochs);
        result
    }

    /// Writes all of a claimed record but the reply's key.
    #[inline]
    fn fill(&self, record: u32, new: &NewFlow<F>, claimed: Life) {
        let words = self.hot[record as usize].as_ref();
        let fill = |at: usize, word: u64| words[at].store(word, Ordering::Relaxed);
        fill(F::LIFE, claimed.0);
        fill(F::META, new.binding.word());
        for direction in [Direction::Forward, Direction::Reply] {
            fill(action_at::<F>(direction), new.actions[direction as usize].0);
        }
        for (at, &word) in (key_at::<F>(Direction::Forward)..).zip(new.key.as_ref()) {
            fill(at, word);
        }
        self.rules(record).store(rules_word(new.rules), Ordering::Relaxed);
    }

    /// Links a record by a key; if neither of the key's buckets has a lane free, another flow has to go.
    #[inline]
    fn link_or_evict(
        &self,
        hash: u64,
        handle: Handle,
        shelf: &mut Shelf,
        epochs: &Epochs,
        now: Seconds,
    ) -> bool {
        self.link(hash, handle) || self.make_room(hash, shelf, epochs, now) && self.link(hash, handle)
    }

    /// Ends a flow. False if it had ended already, or no room is left to wait in.
    pub fn end(&self, shelf: &mut Shelf, epochs: &Epochs, handle: Handle) -> bool {
        self.end_if(shelf, epochs, handle.record(), |_| true)
    }

    /// Ends a flow of which, as it is in the end, this holds.
    pub(crate) fn end_if(
        &self,
        shelf: &mut Shelf,
        epochs: &Epochs,
        record: u32,
        holds: impl Fn(Life) -> bool,
    ) -> bool {
        if !shelf.has_room(self, epochs) {
            return false;
        }
        let word = self.life(record);
        let mut life = Life(word.load(Ordering::Acquire));
        loop {
            if !life.is_live() || !holds(life) {
                return false;
            }
            let dead = life.with_phase(Phase::Dead).0;
            // AcqRel: one of us ends it.
            match word.compare_exchange(life.0, dead, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => life = Life(now),
            }
        }
        for direction in [Direction::Forward, Direction::Reply] {
            let key = self.key_of(record, direction);
            self.unlink(self.hash(&key), Handle::new(record, direction));
        }
        self.count(self.binding_of(record).owner, u32::MAX);
        shelf.bury(record, epochs);
        true
    }

    fn bury(&self, record: u32, shelf: &mut Shelf, epochs: &Epochs) {
        let dead = Life(self.life(record).load(Ordering::Relaxed)).with_phase(Phase::Dead);
        self.life(record).store(dead.0, Ordering::Relaxed);
        shelf.bury(record, epochs);
    }

    /// A flow as it is, if the record is live and stays so while it is read.
    #[must_use]
    pub fn row(&self, record: u32) -> Option<Row<F::Addr>> {
        if record >= self.records {
            return None;
        }
        let life = Life(self.life(record).load(Ordering::Acquire));
        if !life.is_live() {
            return None;
        }
        let binding = self.binding_of(record);
        let rules = self.rules_of(record);
        let [forward, reply] =
            [Direction::Forward, Direction::Reply].map(|d| F::tuple(&self.key_of(record, d)));
        let actions = [Direction::Forward, Direction::Reply].map(|d| self.decided(Handle::new(record, d)));
        fence(Ordering::Acquire);
        let same =
            Life(self.life(record).load(Ordering::Relaxed)).is_live() && self.binding_of(record) == binding;
        same.then_some(Row { forward, reply, life, binding, actions, rules })
    }

    /// Those that have the key, in its own bucket and where its strays are.
    #[inline(never)]
    fn scan<T>(&self, hash: u64, wanted: impl Fn(Handle) -> Option<T>) -> Option<T> {
        let (home, signature) = (self.home(hash), signature(hash));
        let inside = |bucket: Bucket<'_>| {
            let mut lanes = bucket.matching(signature);
            while let Some(lane) = lanes.next() {
                let found = Handle::of(bucket.number(lane)).and_then(&wanted);
                if found.is_some() {
                    return found;
                }
            }
            None
        };
        inside(home).or_else(|| if home.has_strays() { inside(self.other(hash)) } else { None })
    }

    /// Another record with this key, now that ours is linked.
    #[inline]
    fn rival(&self, hash: u64, key: &F::Key, record: u32) -> Option<Found> {
        // A Dekker handshake: both link first and look then, all by SeqCst accesses, which have one order (signatures, and the count
        // of strays, which rises before one is linked). Whoever comes later in it sees the other.
        in_one_order();
        let home = self.home(hash);
        if home.matching(signature(hash)).is_single() && !home.has_strays() {
            // Ours.
            return None;
        }
        self.scan(hash, |handle| {
            if handle.record() == record {
                return None;
            }
            let life = self.verify(handle, key)?;
            (life.phase() != Phase::Dead).then_some(Found { handle, life })
        })
    }

    #[inline]
    pub(crate) fn link(&self, hash: u64, handle: Handle) -> bool {
        self.home(hash).link(signature(hash), handle.0.get()) || self.link_stray(hash, handle)
    }

    #[cold]
    fn link_stray(&self, hash: u64, handle: Handle) -> bool {
        // Counted before it is there, so that nobody who may need it passes by.
        self.home(hash).add_stray();
        let linked = self.other(hash).link(signature(hash), handle.0.get());
        if !linked {
            self.home(hash).remove_stray();
        }
        linked
    }

    pub(crate) fn unlink(&self, hash: u64, handle: Handle) {
        let home = self.home(hash);
        if !home.unlink(handle.0.get()) && self.other(hash).unlink(handle.0.get()) {
            home.remove_stray();
        }
    }

    #[inline]
    pub(crate) fn home(&self, hash: u64) -> Bucket<'static> {
        #[expect(clippy::cast_possible_truncation, reason = "below the number of buckets")]
        Bucket(&self.buckets[(hash & self.mask) as usize])
    }

    pub(crate) fn other(&self, hash: u64) -> Bucket<'static> {
        let step = u64::from(signature(hash)).wrapping_mul(0x9e37_79b9) | 1;
        #[expect(clippy::cast_possible_truncation, reason = "below the number of buckets")]
        Bucket(&self.buckets[((hash ^ step) & self.mask) as usize])
    }

    #[inline]
    pub(crate) fn life(&self, record: u32) -> &'static AtomicU64 {
        &self.hot[record as usize].as_ref()[F::LIFE]
    }

    fn meta(&self, record: u32) -> &'static AtomicU64 {
        &self.hot[record as usize].as_ref()[F::META]
    }

    pub(crate) fn rules_of(&self, record: u32) -> [u32; 2] {
        rules_of_word(self.rules(record).load(Ordering::Relaxed))
    }

    fn rules(&self, record: u32) -> &'static AtomicU64 {
        &self.cold[record as usize * COLD + 1]
    }

    #[inline]
    pub(crate) fn action(&self, handle: Handle) -> &'static AtomicU64 {
        &self.hot[handle.record() as usize].as_ref()[action_at::<F>(handle.direction())]
    }

    #[inline]
    pub(crate) fn binding_of(&self, record: u32) -> Binding {
        Binding::of_word(self.meta(record).load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn key_of(&self, record: u32, direction: Direction) -> F::Key {
        F::read(self.hot[record as usize].as_ref(), key_at::<F>(direction))
    }

    fn set_key(&self, record: u32, direction: Direction, key: &F::Key) {
        let words = &self.hot[record as usize].as_ref()[key_at::<F>(direction)..];
        for (stored, word) in words.iter().zip(key.as_ref()) {
            stored.store(*word, Ordering::Relaxed);
        }
    }

    pub(crate) fn count(&self, owner: u16, by: u32) {
        self.owners[usize::from(owner) % OWNERS].fetch_add(by, Ordering::Relaxed);
    }
}

/// Two rules in a word.
fn rules_word([out, into]: [u32; 2]) -> u64 {
    u64::from(out) << 32 | u64::from(into)
}

#[expect(clippy::cast_possible_truncation, reason = "each number is half the word")]
const fn rules_of_word(word: u64) -> [u32; 2] {
    [(word >> 32) as u32, word as u32]
}

/// The high bits of the hash, which have no part in the bucket's number; never 0.
#[inline]
pub(crate) const fn signature(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

impl<F: Family> std::fmt::Debug for Table<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("records", &self.records)
            .field("live", &self.len())
            .finish_non_exhaustive()
    }
}
