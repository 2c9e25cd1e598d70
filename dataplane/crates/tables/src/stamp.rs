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

use crate::frontend::{FrontendKey, word};
use crate::hash::{fold, with_address};
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

/// What one decision rests on. The addresses are of one family, which the type may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rests<A = IpAddr> {
    /// Where the addresses are.
    pub network: NetworkId,
    /// The packet's source, before any translation.
    pub src: A,
    /// The packet's destination, before any translation.
    pub dst: A,
    /// The destination after translation: a backend, or `dst` itself.
    pub to: A,
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

/// Classes of places, by their number in [`Stamps::changed`]. The levels of prefixes follow each other, behind all of a family together.
const EVERYTHING: usize = 0;
const HOSTS: usize = 1;
const FRONTENDS: usize = 2;
const PREFIXES4: usize = 3;
const LEVEL4: usize = PREFIXES4 + 1;
const PREFIXES6: usize = LEVEL4 + LEVELS4.len();
const LEVEL6: usize = PREFIXES6 + 1;
const CLASSES: usize = LEVEL6 + LEVELS6.len();

/// Stamps older than this are as good as one of this age: no record is as old.
const HORIZON: u32 = 1 << 30;
/// How many stamps [`Stamps::seal`] looks at, so that none becomes so old that it seems new: a cache line.
const REFRESHED: usize = 16;

#[derive(Clone)]
pub struct Stamps {
    /// By the hash of a place. The writer alone stores, with Release and before it publishes the generation. A worker's load is
    /// Relaxed: having acquired that generation from the publisher, it sees at least the stamps of that one. Newer ones, which it may see
    /// too, make it decide once more than it needed to.
    stamps: Arc<[AtomicU32; STAMPS]>,
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
        let stamps = Arc::new([const { AtomicU32::new(0) }; STAMPS]);
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

/// An address that places are found by: of one family, or of either.
pub trait Address: Copy + Eq {
    /// The hash of the address and of a word that says what of it; its low bits find a stamp.
    fn place(self, word: u64) -> u64;
    /// Whether routes or identities of a prefix that holds the one or the other address have changed.
    fn prefixes_changed(pair: [Self; 2], stamps: &Stamps, network: NetworkId, since: u32) -> bool;
}

impl Address for Ipv4Addr {
    #[inline]
    fn place(self, word: u64) -> u64 {
        fold(word, u64::from(self.to_bits()))
    }

    #[inline]
    fn prefixes_changed(pair: [Self; 2], stamps: &Stamps, network: NetworkId, since: u32) -> bool {
        let level = |(class, len)| {
            let slot = |addr| slot(class, network, masked4(addr, len));
            newer(stamps.changed[class], since)
                && pair.into_iter().any(|addr| stamps.newer(slot(addr), since))
        };
        newer(stamps.changed[PREFIXES4], since) && (LEVEL4..).zip(LEVELS4).any(level)
    }
}

impl Address for Ipv6Addr {
    #[inline]
    fn place(self, word: u64) -> u64 {
        with_address(word, self.to_bits())
    }

    #[inline]
    fn prefixes_changed(pair: [Self; 2], stamps: &Stamps, network: NetworkId, since: u32) -> bool {
        let level = |(class, len)| {
            let slot = |addr| slot(class, network, masked6(addr, len));
            newer(stamps.changed[class], since)
                && pair.into_iter().any(|addr| stamps.newer(slot(addr), since))
        };
        newer(stamps.changed[PREFIXES6], since) && (LEVEL6..).zip(LEVELS6).any(level)
    }
}

impl Address for IpAddr {
    fn place(self, word: u64) -> u64 {
        match self {
            Self::V4(addr) => addr.place(word),
            Self::V6(addr) => addr.place(word),
        }
    }

    fn prefixes_changed(pair: [Self; 2], stamps: &Stamps, network: NetworkId, since: u32) -> bool {
        pair.into_iter().any(|addr| match addr {
            Self::V4(addr) => Address::prefixes_changed([addr; 2], stamps, network, since),
            Self::V6(addr) => Address::prefixes_changed([addr; 2], stamps, network, since),
        })
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below STAMPS")]
const fn cut(hash: u64) -> u32 {
    (hash % STAMPS as u64) as u32
}

/// The stamp of an address or a masked one.
#[inline]
fn slot(class: usize, network: NetworkId, addr: impl Address) -> u32 {
    cut(addr.place((class as u64) << 48 | u64::from(network.0)))
}

#[inline]
fn frontend_slot(network: NetworkId, addr: impl Address, port: u16, protocol: u8) -> u32 {
    cut(addr.place((FRONTENDS as u64) << 48 | word(network, port, protocol)))
}

#[inline]
fn masked4(addr: Ipv4Addr, level: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(addr.to_bits() & u32::MAX.checked_shl(32 - u32::from(level)).unwrap_or(0))
}

#[inline]
fn masked6(addr: Ipv6Addr, level: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(addr.to_bits() & u128::MAX.checked_shl(128 - u32::from(level)).unwrap_or(0))
}

impl Stamps {
    pub(crate) fn touch(&mut self, place: Place) {
        let (classes, slot) = match place {
            Place::Everything => (1 << EVERYTHING, None),
            Place::Host(network, addr) => (1 << HOSTS, Some(slot(HOSTS, network, addr))),
            Place::Frontend(FrontendKey { network, addr, port, protocol }) => {
                (1 << FRONTENDS, Some(frontend_slot(network, addr, port, protocol)))
            }
            Place::Prefix(network, prefix) => {
                let of = |levels: &[u8]| levels.iter().rposition(|&level| level <= prefix.len()).unwrap_or(0);
                let (all, class, slot) = match prefix.addr() {
                    IpAddr::V4(addr) => {
                        let (level, class) = (of(&LEVELS4), LEVEL4 + of(&LEVELS4));
                        (PREFIXES4, class, slot(class, network, masked4(addr, LEVELS4[level])))
                    }
                    IpAddr::V6(addr) => {
                        let (level, class) = (of(&LEVELS6), LEVEL6 + of(&LEVELS6));
                        (PREFIXES6, class, slot(class, network, masked6(addr, LEVELS6[level])))
                    }
                };
                (1 << all | 1 << class, Some(slot))
            }
        };
        self.classes |= classes;
        if self.pending.len() == STAMPS {
            // Many changes may touch few places: an endpoint's, with each identity that its rules speak of.
            self.pending.sort_unstable();
            self.pending.dedup();
            // So many that nearly every decision rests on one of them.
            if self.pending.len() > STAMPS / 2 {
                self.classes |= 1 << EVERYTHING;
                self.pending.clear();
            }
        }
        self.pending.extend(slot);
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

    /// Whether a stamp is newer than that.
    #[inline]
    fn newer(&self, slot: u32, since: u32) -> bool {
        newer(self.stamps[slot as usize % STAMPS].load(Ordering::Relaxed), since)
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
    pub fn unchanged<A: Address>(&self, since: u32, rests: &Rests<A>) -> bool {
        let stamps = &self.stamps;
        if !newer(stamps.newest, since) {
            return true;
        }
        let &Rests { network, src, dst, to, dst_port, protocol } = rests;
        let class = |class: usize| newer(stamps.changed[class], since);
        let host = |addr| stamps.newer(slot(HOSTS, network, addr), since);
        !(class(EVERYTHING)
            || class(HOSTS) && (host(src) || host(to) || to != dst && host(dst))
            || class(FRONTENDS) && stamps.newer(frontend_slot(network, dst, dst_port, protocol), since)
            || A::prefixes_changed([src, to], stamps, network, since))
    }

    /// Notes that a place is no longer what it was.
    pub(crate) fn touch(&mut self, place: Place) {
        self.stamps.touch(place);
    }
}
