//! Who serves a frontend, and the choice among them: rendezvous hashing.
//!
//! Each backend weighs something for each flow, by the hashes of both; the heaviest has the flow. So all nodes choose the same, whatever the
//! order they were told of backends in, and of those that come and go only the flows of these move. Where there are many, weighing all takes
//! long: then backends are in groups by their own hash, a group is chosen first by the same rule, with a chance as large as it has members
//! (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005), and one of its members after. With 1,000 backends that is 80
//! weights instead of 1,000, and there is nothing to be built that a change would wait for: sorting them is all.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use crate::hash::{bits, fold, with_address};

/// One of those that serve a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Of the frontend's family and network.
    pub addr: IpAddr,
    /// Not 0.
    pub port: u16,
    /// Whether it takes new flows.
    pub state: BackendState,
}

/// Whether a backend takes new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BackendState {
    /// It serves those that it has; one that serves nobody is no backend any more.
    Draining = 0,
    /// It takes those of this node's own pods, and of the node itself.
    ServingOwn = Asker::Own as u8,
    /// It takes those of everybody else.
    ServingOthers = Asker::Other as u8,
    /// It takes all.
    Serving = Asker::Own as u8 | Asker::Other as u8,
}

/// Who asks for a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Asker {
    /// A pod of this node, or the node itself.
    Own = 1,
    /// Anybody else.
    Other = 2,
}

impl BackendState {
    /// Whether it takes new flows of whoever asks.
    #[inline]
    #[must_use]
    pub const fn takes(self, asker: Asker) -> bool {
        self as u8 & asker as u8 != 0
    }
}

/// Those of one frontend, in the order in which they were told.
#[derive(Debug, Clone, Default)]
pub struct Backends {
    all: Vec<Backend>,
    /// Where they are many: those that take flows, by who asks.
    many: Option<[Arc<Takers>; 2]>,
    /// In the order of their addresses and ports.
    sorted: bool,
}

/// So many are weighed one by one.
const FEW: usize = 64;
const GROUPS: usize = 64;

/// Those that take the flows of somebody, group by group.
#[derive(Debug)]
struct Takers {
    /// Their own hashes, and where each is among all.
    own: Box<[u64]>,
    place: Box<[u32]>,
    /// Where each group begins, and where the last one ends; [`None`]: they are few.
    starts: Option<Box<[u32; GROUPS + 1]>>,
}

#[inline]
fn own_hash(backend: &Backend) -> u64 {
    with_address(u64::from(backend.port), bits(backend.addr))
}

/// What a backend of this hash weighs for a flow of that one; not 0.
#[inline]
fn weight(flow: u64, own: u64) -> u64 {
    fold(flow, own) | 1
}

/// What groups are called where flows are hashed with them: words that have nothing in common, since the products of neighbours are neighbours.
/// Those of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
static WORDS: [u64; GROUPS] = {
    let mut words = [0; GROUPS];
    let (mut at, mut state) = (0, 0_u64);
    while at < GROUPS {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        words[at] = mixed ^ mixed >> 31;
        at += 1;
    }
    words
};

/// The high bits, which are as good as any.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "six bits are left")]
const fn group_of(own: u64) -> usize {
    (own >> (u64::BITS - GROUPS.ilog2())) as usize
}

impl Backends {
    /// The backend for a flow of this hash, of those that take it; [`None`] if none does. Three multiplications each where they are few;
    /// else three for each of 64 groups, and one for each member of one.
    #[must_use]
    pub fn choose(&self, hash: u64, asker: Asker) -> Option<&Backend> {
        let place = match &self.many {
            Some([own, other]) => match asker {
                Asker::Own => own.choose(hash)?,
                Asker::Other => other.choose(hash)?,
            },
            None => {
                let mut heaviest = (0, usize::MAX);
                for (place, backend) in self.all.iter().enumerate() {
                    // No branch: which one wins is what no predictor knows. Above zero where it takes the flow.
                    let weight = weight(hash, own_hash(backend)) * u64::from(backend.state.takes(asker));
                    heaviest = if weight > heaviest.0 { (weight, place) } else { heaviest };
                }
                heaviest.1
            }
        };
        self.all.get(place)
    }

    /// Asks for what [`Self::choose`] reads first.
    #[inline]
    pub fn prefetch(&self) {
        match &self.many {
            None => {
                if let (Some(first), Some(last)) = (self.all.first(), self.all.last()) {
                    hint::prefetch_read(first);
                    hint::prefetch_read(last);
                }
            }
            Some(takers) => hint::prefetch_read(&*takers[0]),
        }
    }

    /// The backend of this address and port, serving or not.
    #[must_use]
    pub fn find(&self, addr: IpAddr, port: u16) -> Option<&Backend> {
        if !self.sorted {
            return self.all.iter().find(|own| (own.addr, own.port) == (addr, port));
        }
        let at = self.all.binary_search_by_key(&(addr, port), |own| (own.addr, own.port));
        at.ok().and_then(|at| self.all.get(at))
    }
}

impl Takers {
    fn of(all: &[Backend], asker: Asker) -> Self {
        let takes = all.iter().zip(0_u32..).filter(|(own, _)| own.state.takes(asker));
        let mut takers: Vec<(u64, u32)> = takes.map(|(own, place)| (own_hash(own), place)).collect();
        let mut starts = None;
        if takers.len() > FEW {
            // By their hashes: whatever order they were told in, each group is the same.
            takers.sort_unstable();
            let mut ends = Box::new([0; GROUPS + 1]);
            for (own, _) in &takers {
                ends[group_of(*own) + 1] += 1;
            }
            for group in 0..GROUPS {
                ends[group + 1] += ends[group];
            }
            starts = Some(ends);
        }
        let (own, place): (Vec<u64>, Vec<u32>) = takers.into_iter().unzip();
        Self { own: own.into(), place: place.into(), starts }
    }

    fn choose(&self, hash: u64) -> Option<usize> {
        let (first, end) = match &self.starts {
            None => (0, self.own.len()),
            Some(starts) => {
                let group = group_for(hash, starts);
                (starts[group] as usize, starts[group + 1] as usize)
            }
        };
        let mut heaviest = (0, usize::MAX);
        for (at, own) in self.own.get(first..end)?.iter().enumerate() {
            let weight = weight(hash, *own);
            heaviest = if weight > heaviest.0 { (weight, first + at) } else { heaviest };
        }
        self.place.get(heaviest.1).map(|place| *place as usize)
    }
}

/// Of groups of several sizes, each with a chance of its size: the one whose time comes first, where the times to wait are exponential, and
/// of a rate that is the size.
fn group_for(hash: u64, starts: &[u32; GROUPS + 1]) -> usize {
    let (mut least, mut found) = ((1, 0), 0);
    for group in 0..GROUPS {
        let size = u64::from(starts[group + 1] - starts[group]);
        let wait = exponential(fold(hash, WORDS[group]));
        // wait / size < least.0 / least.1, of 34 bits by as many as there can be; a group of none waits for ever.
        let sooner = wait * least.1 < least.0 * size;
        (least, found) = if sooner { ((wait, size), group) } else { (least, found) };
    }
    found
}

/// -ln(1 - u) of a number that is uniform in [0, 1), in units of 2^-32: its series to the fourth power. Whoever waits least has a small u,
/// where that is as good as the function itself, and as all nodes do the same it is in whole numbers.
#[inline]
const fn exponential(hash: u64) -> u64 {
    let u = hash >> 32;
    let u2 = (u * u) >> 32;
    let u3 = (u2 * u) >> 32;
    let u4 = (u3 * u) >> 32;
    u + u2 / 2 + u3 / 3 + u4 / 4
}

impl From<Vec<Backend>> for Backends {
    fn from(all: Vec<Backend>) -> Self {
        let many = (all.len() > FEW).then(|| {
            let own = Arc::new(Takers::of(&all, Asker::Own));
            let same = |own: &Backend| own.state.takes(Asker::Own) == own.state.takes(Asker::Other);
            let other =
                if all.iter().all(same) { Arc::clone(&own) } else { Takers::of(&all, Asker::Other).into() };
            [own, other]
        });
        let sorted = all.is_sorted_by_key(|own| (own.addr, own.port));
        Self { all, many, sorted }
    }
}

impl FromIterator<Backend> for Backends {
    fn from_iter<I: IntoIterator<Item = Backend>>(backends: I) -> Self {
        backends.into_iter().collect::<Vec<_>>().into()
    }
}

impl Deref for Backends {
    type Target = [Backend];

    #[inline]
    fn deref(&self) -> &[Backend] {
        &self.all
    }
}

/// All else follows from them.
impl PartialEq for Backends {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Backends {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn backends(count: u32, state: impl Fn(u32) -> BackendState) -> Vec<Backend> {
        let backend =
            |n: u32| Backend { addr: IpAddr::V4((0x0af4_0000 + n).into()), port: 8080, state: state(n) };
        (0..count).map(backend).collect()
    }

    fn hashes(count: u64) -> impl Iterator<Item = u64> {
        (0..count).map(|n| fold(n, 0x2545_f491_4f6c_dd1d))
    }

    /// Pearson's statistic of the shares, less its mean, in its standard deviations.
    fn unevenness(backends: &Backends, flows: u64, takers: usize) -> f64 {
        let mut shares: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for hash in hashes(flows) {
            *shares.entry(backends.choose(hash, Asker::Own).unwrap().addr).or_default() += 1;
        }
        assert!(shares.len() <= takers);
        let takers = f64::from(u32::try_from(takers).unwrap());
        let expected = f64::from(u32::try_from(flows).unwrap()) / takers;
        let part = |share: u64| (f64::from(u32::try_from(share).unwrap()) - expected).powi(2) / expected;
        let nobody = (takers - f64::from(u32::try_from(shares.len()).unwrap())) * expected;
        let chi = shares.values().map(|share| part(*share)).sum::<f64>() + nobody;
        (chi - (takers - 1.0)) / (2.0 * (takers - 1.0)).sqrt()
    }

    /// As even as by chance, few or many, also where most of many take nothing.
    #[test]
    fn each_has_its_share() {
        for (count, takers) in
            [(10, 10), (64, 64), (65, 65), (200, 200), (1_000, 1_000), (5_000, 5_000), (1_000, 100), (500, 3)]
        {
            let state = |n| if n < takers { BackendState::Serving } else { BackendState::Draining };
            let all: Backends = backends(count, state).into();
            let takers = usize::try_from(takers).unwrap();
            let off = unevenness(&all, 400 * takers as u64, takers);
            assert!(off.abs() < 5.0, "{takers} of {count}: {off}");
        }
    }

    #[test]
    fn of_many_only_the_flows_of_whom_comes_or_goes_move() {
        let all = backends(700, |_| BackendState::Serving);
        let every: Backends = all.clone().into();
        let reversed: Backends = all.iter().rev().copied().collect();
        let mut fewer = all.clone();
        fewer[3].state = BackendState::Draining;
        let gone = fewer.remove(500);
        let fewer: Backends = fewer.into();
        let mut moved = 0;
        for hash in hashes(200_000) {
            let chosen = every.choose(hash, Asker::Other).unwrap();
            assert_eq!(reversed.choose(hash, Asker::Own), Some(chosen));
            let now = fewer.choose(hash, Asker::Own).unwrap();
            assert!(now.addr != gone.addr && now.addr != all[3].addr);
            // Of a group that shrinks a share goes to the other groups, and no other flow.
            if now != chosen {
                let theirs = [&all[3], &gone].map(|own| group_of(own_hash(own)));
                assert!(theirs.contains(&group_of(own_hash(chosen))));
                moved += 1;
            }
        }
        // Two of 700 have 571 of so many; those of their groups that move with them are about as many.
        assert!((571..3 * 571).contains(&moved), "{moved}");
    }

    #[test]
    fn who_asks_finds_those_that_take_his_flows() {
        let state = |n: u32| match n % 4 {
            0 => BackendState::ServingOwn,
            1 => BackendState::ServingOthers,
            2 => BackendState::Draining,
            _ => BackendState::Serving,
        };
        for count in [40, 400] {
            let all: Backends = backends(count, state).into();
            for (asker, hash) in hashes(20_000).flat_map(|hash| [(Asker::Own, hash), (Asker::Other, hash)]) {
                assert!(all.choose(hash, asker).unwrap().state.takes(asker));
            }
            let drained: Backends = backends(count, |_| BackendState::Draining).into();
            assert_eq!(drained.choose(7, Asker::Own), None);
            for own in all.iter() {
                assert_eq!(all.find(own.addr, own.port), Some(own));
                assert_eq!(all.find(own.addr, 1), None);
            }
        }
    }
}
