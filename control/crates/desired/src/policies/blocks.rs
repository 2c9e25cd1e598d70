//! Ranges of addresses that policies speak of (`ipBlock`).
//!
//! The ranges and what is excepted from them are *boundaries*: an address is in the same blocks as the longest of these that holds it, and
//! those are its *class*.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use proto::dataplane::IdentityKey;
use wire::IpPrefix;

use super::numbers::{Numbers, Used, use_less};
use crate::rows::Rows;

/// The addresses in a range, less those in others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Block {
    pub(crate) cidr: IpPrefix,
    /// In their order, each once.
    pub(crate) except: Vec<IpPrefix>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Blocks {
    blocks: OrdMap<Block, Used>,
    boundaries: OrdMap<IpPrefix, Boundary>,
    /// By their blocks' numbers.
    classes: OrdMap<Arc<[u32]>, Used>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Boundary {
    /// How many blocks have it.
    users: u32,
    /// `None` until it is worked out.
    class: Option<Arc<[u32]>>,
}

impl Block {
    fn boundaries(&self) -> impl Iterator<Item = IpPrefix> {
        [self.cidr].into_iter().chain(self.except.iter().copied())
    }

    /// Whether all of a range is in it.
    fn has(&self, range: IpPrefix) -> bool {
        // They may be thousands, each of which is asked of all the others.
        let is_excepted = |len| {
            let around = IpPrefix::containing(range.addr(), len);
            around.is_some_and(|own| self.except.binary_search(&own).is_ok())
        };
        holds(self.cidr, range) && !(0..=range.len()).any(is_excepted)
    }
}

impl fmt::Display for Block {
    /// As `10.0.0.0/8 except 10.1.0.0/16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let except: Vec<String> = self.except.iter().map(ToString::to_string).collect();
        let word = if except.is_empty() { "" } else { " except " };
        write!(f, "{}{word}{}", self.cidr, except.join(", "))
    }
}

fn holds(outer: IpPrefix, inner: IpPrefix) -> bool {
    outer.len() <= inner.len() && outer.contains(inner.addr())
}

impl Blocks {
    /// The number of a block that is used.
    pub(crate) fn number(&self, block: &Block) -> Option<u32> {
        self.blocks.get(block).map(|own| own.number)
    }

    /// Uses a block once more; `changed` has the ranges where [`Self::settle`] is to look.
    pub(crate) fn join(&mut self, block: &Block, groups: &mut Numbers, changed: &mut BTreeSet<IpPrefix>) {
        if let Some(used) = self.blocks.get_mut(block) {
            used.users += 1;
            return;
        }
        self.blocks.insert(block.clone(), Used { number: groups.give(block), users: 1 });
        for prefix in block.boundaries() {
            self.boundaries.entry(prefix).or_default().users += 1;
            // One that is excepted need not be in the range.
            changed.insert(prefix);
        }
    }

    /// Uses a block once less.
    pub(crate) fn leave(&mut self, block: &Block, groups: &mut Numbers, changed: &mut BTreeSet<IpPrefix>) {
        let Some(number) = use_less(&mut self.blocks, block) else { return };
        groups.take_back(number);
        for prefix in block.boundaries() {
            if let Some(boundary) = self.boundaries.get_mut(&prefix) {
                boundary.users -= 1;
            }
            changed.insert(prefix);
        }
    }

    /// Works out the classes in ranges where blocks came or went.
    pub(crate) fn settle(&mut self, changed: &BTreeSet<IpPrefix>, identities: &mut Numbers, rows: &mut Rows) {
        let mut within = BTreeSet::new();
        for range in changed {
            let behind = self.boundaries.range(*range..).map(|(own, _)| *own);
            within.extend(behind.take_while(|own| range.contains(own.addr())));
        }
        for prefix in within {
            let Some(boundary) = self.boundaries.get(&prefix) else { continue };
            let class = (boundary.users > 0).then(|| self.class_of(prefix));
            let before = boundary.class.clone();
            if class == before && class.is_some() {
                continue;
            }
            let key = IdentityKey { network: 0, prefix };
            match &class {
                Some(class) => {
                    let identity = self.enter(class, identities, rows);
                    rows.blocks.insert(key, identity);
                }
                None => drop(rows.blocks.remove(&key)),
            }
            if let Some(before) = before {
                self.depart(&before, identities, rows);
            }
            match class {
                Some(_) => self.boundaries.entry(prefix).or_default().class = class,
                None => drop(self.boundaries.remove(&prefix)),
            }
        }
    }

    /// The blocks that have all of a range, by their numbers.
    fn class_of(&self, range: IpPrefix) -> Arc<[u32]> {
        let mut found = Vec::new();
        for cidr in (0..=range.len()).filter_map(|len| IpPrefix::containing(range.addr(), len)) {
            let from = self.blocks.range(Block { cidr, except: Vec::new() }..);
            let own = from.take_while(|(block, _)| block.cidr == cidr);
            found.extend(own.filter(|(block, _)| block.has(range)).map(|(_, used)| used.number));
        }
        found.sort_unstable();
        found.into()
    }

    fn enter(&mut self, class: &Arc<[u32]>, identities: &mut Numbers, rows: &mut Rows) -> u32 {
        if let Some(used) = self.classes.get_mut(class) {
            used.users += 1;
            return used.number;
        }
        let number = identities.give(class);
        self.classes.insert(Arc::clone(class), Used { number, users: 1 });
        if !class.is_empty() {
            rows.memberships.insert(number, Arc::clone(class));
        }
        number
    }

    fn depart(&mut self, class: &Arc<[u32]>, identities: &mut Numbers, rows: &mut Rows) {
        if let Some(number) = use_less(&mut self.classes, class) {
            identities.take_back(number);
            rows.memberships.remove(&number);
        }
    }
}

/// How often a range or exception of blocks is in the range of one of them; no further than `most`.
pub(super) fn overlaps<'a>(blocks: impl Iterator<Item = &'a Block>, most: usize) -> usize {
    let (mut times, mut boundaries) = (BTreeMap::<IpPrefix, usize>::new(), BTreeSet::new());
    for block in blocks {
        *times.entry(block.cidr).or_default() += 1;
        boundaries.extend(block.boundaries());
    }
    let mut overlaps = 0;
    for own in boundaries {
        let around = (0..=own.len()).filter_map(|len| IpPrefix::containing(own.addr(), len));
        overlaps += around.filter_map(|range| times.get(&range)).sum::<usize>();
        if overlaps > most {
            break;
        }
    }
    overlaps
}

/// `text` as a range, its host's bits cut off, which the API allows (with a warning). One of IPv4 addresses as IPv6 maps them (RFC 4291, section
/// 2.5.5.2) is that of these IPv4 addresses: so the API compares it.
pub(crate) fn range(text: &str) -> Result<IpPrefix, String> {
    let prefix = match text.trim().parse() {
        Ok(prefix) | Err(wire::AddrError::HostBits(_, prefix)) => prefix,
        Err(why) => return Err(why.to_string()),
    };
    let mapped = match prefix.addr() {
        IpAddr::V6(first) => first.to_ipv4_mapped().zip(prefix.len().checked_sub(96)),
        IpAddr::V4(_) => None,
    };
    Ok(mapped.and_then(|(first, len)| IpPrefix::containing(first.into(), len)).unwrap_or(prefix))
}

/// Whether two ranges are of one family.
pub(crate) fn same_family(a: IpPrefix, b: IpPrefix) -> bool {
    matches!((a.addr(), b.addr()), (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)))
}
