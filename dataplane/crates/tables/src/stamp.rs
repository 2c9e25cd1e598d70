//! What has changed since a decision was made.
//!
//! A *place* is something that a decision reads, there or not. Changing it notes it; [`Tables::seal`] stamps all that was noted with the
//! generation that the tables become. Stamps are one array for all generations, found by hash: two places that share a stamp cost a
//! decision that was not needed, never one that was missed. Beside it, each value of the tables holds for a *class* of places when
//! any of it changed last, so that most questions end after a few compares of words that all packets share.
//!
//! Stamps are the low 32 bits of generations and are compared as sequence numbers are (RFC 1982): records must be younger than
//! 2^31 generations, 24 days at a thousand a second.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use wire::IpPrefix;

use crate::frontend::FrontendKey;
use crate::hash::{bits, with_address};
use crate::id::{Generation, NetworkId};
use crate::tables::Tables;

/// Something that a decision reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Whatever is known of exactly this address: its endpoint and that endpoint's policy, a host route, the identity of a
    /// host prefix, whether it has frontends, whether it is a backend.
    Host(NetworkId, IpAddr),
    /// Routes and identities of a prefix shorter than a host's.
    Prefix(NetworkId, IpPrefix),
    /// A frontend or its backends.
    Frontend(FrontendKey),
    /// What all decisions rest on, and whatever is too rare to say what rests on it.
    Everything,
}

impl Place {
    /// Where a route or an identity is.
    pub(crate) fn of(network: NetworkId, prefix: IpPrefix) -> Self {
        if prefix.is_host() { Self::Host(network, prefix.addr()) } else { Self::Prefix(network, prefix) }
    }
}

/// What one decision rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rests {
    /// Where the addresses are.
    pub network: NetworkId,
    /// The packet's source, before any translation.
    pub src: IpAddr,
    /// The packet's destination, before any translation.
    pub dst: IpAddr,
    /// The destination after translation: a backend, or `dst` itself.
    pub to: IpAddr,
    /// The packet's destination port, before any translation; 0 where there is none.
    pub dst_port: u16,
    /// The IP protocol.
    pub protocol: u8,
}

/// A megabyte: it stays in a core's own cache.
const STAMPS: usize = 1 << 18;
/// A prefix is stamped at the longest of these lengths that it has; an address is looked up at each.
const LEVELS4: [u8; 4] = [0, 8, 16, 24];
const LEVELS6: [u8; 5] = [0, 16, 32, 48, 64];

/// Classes of places, by their number in [`Stamps::changed`]. The levels of prefixes follow each other.
const EVERYTHING: usize = 0;
const HOSTS: usize = 1;
const FRONTENDS: usize = 2;
const PREFIXES4: usize = 3;
const PREFIXES6: usize = PREFIXES4 + LEVELS4.len();
const CLASSES: usize = PREFIXES6 + LEVELS6.len();

/// Stamps older than this are as good as one of this age: no record is as old.
const HORIZON: u32 = 1 << 30;
/// How many stamps [`Stamps::seal`] looks at, so that none becomes so old that it seems new: a cache line.
const REFRESHED: usize = 16;

#[derive(Clone)]
pub(crate) struct Stamps {
    /// By the hash of a place. The writer alone stores, with Release and before it publishes the generation. A worker's load is
    /// Relaxed: having acquired that generation from the publisher, it sees at least the stamps of that one. Newer ones, which it may see
    /// too, make it decide once more than it needed to.
    stamps: Arc<[AtomicU32]>,
    /// The newest stamp of each class, in this generation.
    changed: [u32; CLASSES],
    /// The newest of all classes.
    newest: u32,
    /// What changed since the last seal: slots, and classes a bit each. A working copy that is thrown away takes them along.
    pending: Vec<u32>,
    classes: u32,
    /// Where the next seal refreshes.
    refreshed: usize,
}

impl Default for Stamps {
    fn default() -> Self {
        let stamps = (0..STAMPS).map(|_| AtomicU32::new(0)).collect();
        let (pending, classes) = (Vec::new(), 0);
        Self { stamps, changed: [0; CLASSES], newest: 0, pending, classes, refreshed: 0 }
    }
}

/// Generations wrap, so the sign of the difference tells.
#[inline]
fn newer(stamp: u32, since: u32) -> bool {
    stamp.wrapping_sub(since).cast_signed() > 0
}

/// Generations as stamps: the low 32 bits.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(generation: Generation) -> u32 {
    generation.0 as u32
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below STAMPS")]
fn slot(class: usize, word: u64, addr: u128) -> u32 {
    (with_address((class as u64) << 48 | word, addr) % STAMPS as u64) as u32
}

#[inline]
fn host_slot(network: NetworkId, addr: IpAddr) -> u32 {
    slot(HOSTS, u64::from(network.0), bits(addr))
}

#[inline]
fn prefix_slot(class: usize, network: NetworkId, masked: u128) -> u32 {
    slot(class, u64::from(network.0), masked)
}

#[inline]
fn frontend_slot(key: &FrontendKey) -> u32 {
    slot(FRONTENDS, key.word(), bits(key.addr))
}

#[inline]
fn masked4(addr: Ipv4Addr, level: u8) -> u128 {
    u128::from(addr.to_bits() & u32::MAX.checked_shl(32 - u32::from(level)).unwrap_or(0))
}

#[inline]
fn masked6(addr: Ipv6Addr, level: u8) -> u128 {
    addr.to_bits() & u128::MAX.checked_shl(128 - u32::from(level)).unwrap_or(0)
}

impl Stamps {
    pub(crate) fn touch(&mut self, place: Place) {
        let (class, slot) = match place {
            Place::Everything => (EVERYTHING, None),
            Place::Host(network, addr) => (HOSTS, Some(host_slot(network, addr))),
            Place::Frontend(key) => (FRONTENDS, Some(frontend_slot(&key))),
            Place::Prefix(network, prefix) => {
                let of = |levels: &[u8]| levels.iter().rposition(|&level| level <= prefix.len()).unwrap_or(0);
                let (class, masked) = match prefix.addr() {
                    IpAddr::V4(addr) => (PREFIXES4 + of(&LEVELS4), masked4(addr, LEVELS4[of(&LEVELS4)])),
                    IpAddr::V6(addr) => (PREFIXES6 + of(&LEVELS6), masked6(addr, LEVELS6[of(&LEVELS6)])),
                };
                (class, Some(prefix_slot(class, network, masked)))
            }
        };
        self.classes |= 1 << class;
        // More places than there are stamps: hardly any would be left unstamped, and this bounds the list.
        if self.pending.len() == STAMPS {
            self.classes |= 1 << EVERYTHING;
        } else {
            self.pending.extend(slot);
        }
    }

    fn seal(&mut self, now: u32) {
        for slot in std::mem::take(&mut self.pending) {
            self.stamps[slot as usize].store(now, Ordering::Release);
        }
        let classes = std::mem::take(&mut self.classes);
        for (class, changed) in self.changed.iter_mut().enumerate() {
            *changed = if classes >> class & 1 == 1 { now } else { aged(*changed, now) };
        }
        self.newest = if classes == 0 { aged(self.newest, now) } else { now };
        for stamp in self.stamps.iter().skip(self.refreshed).take(REFRESHED) {
            let old = stamp.load(Ordering::Relaxed);
            let aged = aged(old, now);
            if aged != old {
                stamp.store(aged, Ordering::Release);
            }
        }
        self.refreshed = (self.refreshed + REFRESHED) % STAMPS;
    }

    /// Whether a class has changed, and then also the slot.
    #[inline]
    fn changed(&self, class: usize, since: u32, slot: impl FnOnce() -> u32) -> bool {
        newer(self.changed[class], since)
            && newer(self.stamps[slot() as usize].load(Ordering::Relaxed), since)
    }

    #[inline]
    fn host_changed(&self, network: NetworkId, addr: IpAddr, since: u32) -> bool {
        self.changed(HOSTS, since, || host_slot(network, addr))
    }

    #[inline]
    fn prefixes_changed(&self, network: NetworkId, addr: IpAddr, since: u32) -> bool {
        match addr {
            IpAddr::V4(addr) => (PREFIXES4..).zip(LEVELS4).any(|(class, len)| {
                self.changed(class, since, || prefix_slot(class, network, masked4(addr, len)))
            }),
            IpAddr::V6(addr) => (PREFIXES6..).zip(LEVELS6).any(|(class, len)| {
                self.changed(class, since, || prefix_slot(class, network, masked6(addr, len)))
            }),
        }
    }
}

/// A stamp, or one at the horizon where it is older.
fn aged(stamp: u32, now: u32) -> u32 {
    if now.wrapping_sub(stamp) > HORIZON { now.wrapping_sub(HORIZON) } else { stamp }
}

impl Tables {
    /// Numbers these tables and stamps what changed since the last seal. The writer seals before it publishes, and sees to it
    /// that numbers rise.
    pub fn seal(&mut self, generation: Generation) {
        self.generation = generation;
        self.stamps.seal(low(generation));
    }

    /// What a decision made with these tables is marked with: the low 32 bits of the generation.
    #[inline]
    #[must_use]
    pub fn stamp(&self) -> u32 {
        low(self.generation)
    }

    /// Whether a decision made at `since` would still be made: nothing that it rests on has changed. May say no without need.
    #[inline]
    #[must_use]
    pub fn unchanged(&self, since: u32, rests: &Rests) -> bool {
        let stamps = &self.stamps;
        if !newer(stamps.newest, since) {
            return true;
        }
        let &Rests { network, src, dst, to, dst_port: port, protocol } = rests;
        let key = FrontendKey { network, addr: dst, port, protocol };
        !(newer(stamps.changed[EVERYTHING], since)
            || stamps.host_changed(network, src, since)
            || stamps.host_changed(network, to, since)
            || to != dst && stamps.host_changed(network, dst, since)
            || stamps.changed(FRONTENDS, since, || frontend_slot(&key))
            || stamps.prefixes_changed(network, src, since)
            || stamps.prefixes_changed(network, to, since))
    }

    /// Notes that a place is no longer what it was.
    pub(crate) fn touch(&mut self, place: Place) {
        self.stamps.touch(place);
    }
}
