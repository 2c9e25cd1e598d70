//! Exact match: our flow table, looked up in the steps of a packet's path, and `rte_hash` with the same keys.
//!
//! A flow is two keys, one a direction, in all tables. Ours leads to one record with both, and with state, binding and decisions;
//! `rte_hash` to a word. What is compared is the number of the flow, which ours has in the word that says what was decided.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use benches::Random;
use dpdk::{Eal, Hash, HashAnswers, HashSharing};
use flow::{
    Action, Binding, Direction, Family, Flows, FlowsConfig, Handle, Inserted, Local, NewFlow, Seat, Seconds,
    Shelf, State, Table as FlowTable, Timeouts, Tuple, V4, V6,
};

use crate::contest::{ADDED, BURST, Contest, Failure, Table};

const NOW: Seconds = Seconds(1_000);
/// Records of the family that is not looked at.
const LEAST: u32 = 64;

/// What differs between the families, and how many words a key of it has.
pub(crate) trait Side<const WORDS: usize>: Family<Key = [u64; WORDS]> {
    const TITLE: &'static str;
    fn sizes(records: u32) -> (u32, u32);
    fn table(flows: &Flows) -> &FlowTable<Self>;
    fn shelf(local: &mut Local) -> &mut Shelf;
    fn addr(bits: u32) -> Self::Addr;
}

impl Side<2> for V4 {
    const TITLE: &'static str = "flows-v4";
    fn sizes(records: u32) -> (u32, u32) {
        (records, LEAST)
    }
    #[inline]
    fn table(flows: &Flows) -> &FlowTable<Self> {
        &flows.v4
    }
    fn shelf(local: &mut Local) -> &mut Shelf {
        &mut local.v4
    }
    fn addr(bits: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(bits)
    }
}

impl Side<5> for V6 {
    const TITLE: &'static str = "flows-v6";
    fn sizes(records: u32) -> (u32, u32) {
        (LEAST, records)
    }
    #[inline]
    fn table(flows: &Flows) -> &FlowTable<Self> {
        &flows.v6
    }
    fn shelf(local: &mut Local) -> &mut Shelf {
        &mut local.v6
    }
    fn addr(bits: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(bits))
    }
}

/// Clients of a /8 with four ports each, at one Service.
fn tuple<F: Side<WORDS>, const WORDS: usize>(number: u32) -> Tuple<F::Addr> {
    let (src, dst) = (F::addr(0x0a00_0000 + number / 4), F::addr(0x0b60_0001));
    let src_port = 30_000 + u16::try_from(number % 4).unwrap_or(0);
    Tuple { src, dst, src_port, dst_port: 80, network: 0, protocol: 6 }
}

fn keys<F: Side<WORDS>, const WORDS: usize>(number: u32) -> [[u64; WORDS]; 2] {
    let tuple = tuple::<F, WORDS>(number);
    [F::key(&tuple), F::key(&tuple.reversed())]
}

/// What a key of a flow is answered by: not 0.
const fn answer(number: u32, direction: u32) -> u32 {
    number * 2 + direction + 1
}

/// Room for so many, and for a fifth more.
const fn roomy(count: u32) -> u32 {
    count + count / 5 + 1_024
}

/// Records of ours for so many. A key has a lane in one of two buckets or none, and at a third of all lanes in use some keys in ten
/// million find both full: where there are so many, half of the next power of two is left free.
const fn records(count: u32) -> u32 {
    if count > 4_000_000 { count + count / 10 * 7 } else { roomy(count) }
}

/// The case of so many flows. The memory of ours is never given back.
pub(crate) fn contest<F: Side<WORDS>, const WORDS: usize>(
    eal: &Eal,
    entries: u32,
    rounds: u32,
    count: usize,
) -> Result<Contest<[u64; WORDS], u32>, Failure> {
    let more = rounds * u32::try_from(ADDED)?;
    let mut tables: Vec<Box<dyn Table<[u64; WORDS], u32>>> =
        vec![Box::new(Ours::<F>::new(records(entries + more))?)];
    for (sharing, ways) in
        [(HashSharing::None, &["rte_hash"]), (HashSharing::LockFree, &["rte_hash lock-free"])]
    {
        tables.push(Box::new(Theirs::<F, WORDS>::new(eal, roomy(entries + more) * 2, sharing, ways)?));
    }
    for table in &mut tables {
        (0..entries).try_for_each(|number| table.add(&number))?;
    }
    let mut random = Random::new(3);
    let mut draw = |from: u32, end: u32, at: usize| {
        // Far above all flows there are.
        let from = if at % 16 == 15 { 0x0100_0000 } else { from };
        let number = from + u32::try_from(random.below(u64::from(end))).unwrap_or(0);
        keys::<F, WORDS>(number)[at & 1]
    };
    let keys = (0..count).map(|at| draw(0, entries, at)).collect();
    let more_keys = (0..more as usize * 8).map(|at| draw(entries, more, at)).collect();
    Ok(Contest {
        title: F::TITLE,
        entries,
        tables,
        keys,
        more: (entries..entries + more).collect(),
        more_keys,
        show: |key| show::<F, WORDS>(key),
    })
}

fn show<F: Side<WORDS>, const WORDS: usize>(key: &[u64; WORDS]) -> String {
    let Tuple { src, dst, src_port, dst_port, .. } = F::tuple(key);
    let (src, dst): (IpAddr, IpAddr) = (src.into(), dst.into());
    format!("{src} port {src_port} to {dst} port {dst_port}")
}

struct Ours<F: Family> {
    flows: Flows,
    local: Local,
    bytes: usize,
    found: [Option<(Handle, Action)>; BURST],
    family: std::marker::PhantomData<F>,
}

impl<F: Family> Ours<F> {
    fn new<const WORDS: usize>(records: u32) -> Result<Self, Failure>
    where
        F: Side<WORDS>,
    {
        let (v4, v6) = F::sizes(records);
        let seeds = [0x1357_9bdf_0246_8ace, 0xfdb9_7531_eca8_6420, 0x0f1e_2d3c_4b5a_6978];
        let config = FlowsConfig { v4, v6, seats: 1, seeds, timeouts: Timeouts::default() };
        let words = Flows::words(&config);
        let (flows, _) = Flows::adopt(shm::anonymous(words)?, &config)?;
        Ok(Self {
            flows,
            local: Local::new(Seat(0)),
            bytes: words * size_of::<u64>(),
            found: [None; BURST],
            family: std::marker::PhantomData,
        })
    }
}

impl<F: Side<WORDS>, const WORDS: usize> Table<[u64; WORDS], u32> for Ours<F> {
    fn ways(&self) -> &[&'static str] {
        &["podrouter"]
    }

    /// As the pipeline does it: each step for the whole burst before the next.
    #[inline]
    fn look_up(&mut self, keys: &[[u64; WORDS]]) {
        let table = F::table(&self.flows);
        let mut hashes = [0; BURST];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = table.hash(key);
            table.prefetch(*hash);
        }
        let mut firsts = [None; BURST];
        for ((first, &hash), _) in firsts.iter_mut().zip(&hashes).zip(keys) {
            *first = table.first(hash);
            if let Some(handle) = *first {
                table.prefetch_record(handle);
            }
        }
        for (((found, first), key), &hash) in self.found.iter_mut().zip(firsts).zip(keys).zip(&hashes) {
            let live = |handle| table.verify(handle, key).map(|life| (handle, life));
            let known = first
                .and_then(live)
                .or_else(|| table.find(hash, key).map(|found| (found.handle, found.life)));
            *found =
                known.filter(|(_, life)| life.is_live()).map(|(handle, _)| (handle, table.decided(handle)));
        }
    }

    fn answer(&self, at: usize) -> u32 {
        self.found[at].map_or(0, |(handle, action)| {
            answer(action.generation(), u32::from(handle.direction() == Direction::Reply))
        })
    }

    fn add(&mut self, &number: &u32) -> Result<(), Failure> {
        let [key, reply] = keys::<F, WORDS>(number);
        let new = NewFlow {
            key,
            state: State::Established,
            binding: Binding { since: NOW, ..Binding::default() },
            actions: [Action::new(number, 0, 0, false); 2],
            rules: [0; 2],
        };
        let Self { flows, local, .. } = self;
        flows.epochs.quiesce(local.seat);
        match F::table(flows).insert(F::shelf(local), &flows.epochs, &new, [reply], NOW) {
            Inserted::New(_) => Ok(()),
            other => Err(format!("flow {number} was not inserted: {other:?}").into()),
        }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

struct Theirs<F, const WORDS: usize> {
    hash: Hash<WORDS>,
    ways: &'static [&'static str],
    answers: HashAnswers,
    bytes: usize,
    family: std::marker::PhantomData<F>,
}

impl<F, const WORDS: usize> Theirs<F, WORDS> {
    fn new(
        eal: &Eal,
        keys: u32,
        sharing: HashSharing,
        ways: &'static [&'static str],
    ) -> Result<Self, Failure> {
        let before = eal.used_bytes();
        let hash = Hash::new(eal, keys, sharing)?;
        // All of it is taken at the start.
        let bytes = eal.used_bytes().saturating_sub(before);
        Ok(Self { hash, ways, answers: HashAnswers::default(), bytes, family: std::marker::PhantomData })
    }
}

impl<F: Side<WORDS>, const WORDS: usize> Table<[u64; WORDS], u32> for Theirs<F, WORDS> {
    fn ways(&self) -> &[&'static str] {
        self.ways
    }

    #[inline]
    fn look_up(&mut self, keys: &[[u64; WORDS]]) {
        self.hash.look_up(keys, &mut self.answers);
    }

    fn answer(&self, at: usize) -> u32 {
        self.answers.get(at).map_or(0, |value| u32::try_from(value).unwrap_or(u32::MAX))
    }

    fn add(&mut self, &number: &u32) -> Result<(), Failure> {
        for (key, direction) in keys::<F, WORDS>(number).iter().zip(0..) {
            self.hash.add(key, answer(number, direction) as usize)?;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}
