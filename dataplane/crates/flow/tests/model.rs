//! The table against a naive one: whatever is done, each live flow is found by both of its keys, and nothing else is.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail by panicking")]

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use flow::{
    Action, Binding, Direction, Family, Flows, FlowsConfig, Handle, Inserted, Local, NewFlow, Seat, Seconds,
    Shelf, Signal, State, Table, Timeouts, Tuple, V4, V6, Words,
};
use proptest::prelude::*;

/// Keys that flows are made of: some three times as many as the table holds.
const KEYS: u16 = 200;
const RECORDS: u32 = 64;
/// Below this many, each key has a lane; above, both of its buckets may be full, and another flow goes for it.
const ROOMY: usize = 24;
/// Who floods.
const FLOOD: u16 = 999;

/// What differs between the families.
trait Side: Family {
    fn table(flows: &Flows) -> &Table<Self>;
    fn shelf(local: &mut Local) -> &mut Shelf;
    fn addr(host: u8) -> Self::Addr;

    fn key_of(number: u16) -> Self::Key {
        let protocol = if number.is_multiple_of(2) { 6 } else { 17 };
        Self::key(&Tuple {
            src: Self::addr(1),
            dst: Self::addr(2),
            src_port: number,
            dst_port: 80,
            network: 0,
            protocol,
        })
    }
}

impl Side for V4 {
    fn table(flows: &Flows) -> &Table<Self> {
        &flows.v4
    }
    fn shelf(local: &mut Local) -> &mut Shelf {
        &mut local.v4
    }
    fn addr(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, host)
    }
}

impl Side for V6 {
    fn table(flows: &Flows) -> &Table<Self> {
        &flows.v6
    }
    fn shelf(local: &mut Local) -> &mut Shelf {
        &mut local.v6
    }
    fn addr(host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into())
    }
}

#[derive(Debug, Clone)]
enum Op {
    Insert {
        key: u16,
        replies: Vec<u16>,
        owner: u16,
        signal: u8,
    },
    Touch {
        key: u16,
        signal: u8,
    },
    Decide {
        key: u16,
        generation: u32,
        from_current: bool,
    },
    End {
        key: u16,
    },
    Pass {
        seconds: u32,
    },
    Expire,
    /// Both workers begin another burst.
    Quiesce,
    /// Only this one does: the other holds up what has ended.
    QuiesceOne,
    Leave,
    /// Another process takes the storage over.
    Adopt,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS;
    let insert = (key.clone(), prop::collection::vec(key.clone(), 1..4), 0..3_u16, 0..5_u8);
    prop_oneof![
        12 => insert.prop_map(|(key, replies, owner, signal)| Op::Insert { key, replies, owner, signal }),
        4 => (key.clone(), 0..5_u8).prop_map(|(key, signal)| Op::Touch { key, signal }),
        2 => (key.clone(), 1..9_u32, any::<bool>())
            .prop_map(|(key, generation, from_current)| Op::Decide { key, generation, from_current }),
        3 => key.prop_map(|key| Op::End { key }),
        1 => (0..40_u32).prop_map(|seconds| Op::Pass { seconds }),
        1 => Just(Op::Expire),
        3 => Just(Op::Quiesce),
        1 => Just(Op::QuiesceOne),
        1 => Just(Op::Leave),
        1 => Just(Op::Adopt),
    ]
}

fn signal(number: u8) -> Signal {
    [Signal::Data, Signal::Open, Signal::Accept, Signal::Finish, Signal::Reset][usize::from(number) % 5]
}

#[derive(Debug, Clone)]
struct Naive {
    reply: u16,
    owner: u16,
    state: State,
    seen: Seconds,
    since: Seconds,
    actions: [Action; 2],
}

struct Scene<F: Side> {
    words: Words,
    config: FlowsConfig,
    flows: Flows,
    local: Local,
    now: Seconds,
    /// By the first packet's key.
    naive: BTreeMap<u16, Naive>,
    /// Records at most that have ended and wait for the other worker.
    waiting: usize,
    keys: Vec<F::Key>,
}

impl<F: Side> Scene<F> {
    fn new() -> Self {
        let timeouts = Timeouts { tcp_established: 300, ..Timeouts::default() };
        let config =
            FlowsConfig { v4: RECORDS, v6: RECORDS, seats: 2, seeds: [0x1357_9bdf, 2, 0xf00d], timeouts };
        let words: Vec<_> = (0..Flows::words(&config)).map(|_| flow::AtomicU64::new(0)).collect();
        let words: Words = words.leak();
        let (flows, adopted) = Flows::adopt(words, &config).unwrap();
        assert!(!adopted.known);
        flows.epochs.wake(Seat(0));
        flows.epochs.wake(Seat(1));
        let keys = (0..KEYS).map(F::key_of).collect();
        let local = Local::new(Seat(0));
        Self { words, config, flows, local, now: Seconds(10), naive: BTreeMap::new(), waiting: 0, keys }
    }

    fn table(&self) -> &Table<F> {
        F::table(&self.flows)
    }

    fn find(&self, key: u16) -> Option<(Handle, flow::Life)> {
        let key = &self.keys[usize::from(key)];
        let found = self.table().find(self.table().hash(key), key)?;
        assert!(found.life.is_live());
        Some((found.handle, found.life))
    }

    /// The flow that has this key, by which direction.
    fn known(&self, key: u16) -> Option<(u16, Direction)> {
        if self.naive.contains_key(&key) {
            return Some((key, Direction::Forward));
        }
        self.naive.iter().find(|(_, flow)| flow.reply == key).map(|(&key, _)| (key, Direction::Reply))
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Insert { key, ref replies, owner, signal: number } => {
                self.insert(key, replies, owner, signal(number));
            }
            Op::Touch { key, signal: number } => {
                let Some((handle, life)) = self.find(key) else { return };
                self.table().touch(handle, life, signal(number), self.now);
                let (flow, direction) = self.known(key).unwrap();
                let now = self.now;
                let flow = self.naive.get_mut(&flow).unwrap();
                flow.state = flow.state.next(direction, signal(number));
                flow.seen = now;
            }
            Op::Decide { key, generation, from_current } => {
                let Some((handle, _)) = self.find(key) else { return };
                let (flow, direction) = self.known(key).unwrap();
                let new = Action::new(generation, u32::from(key), 1, false);
                let current = self.table().decided(handle);
                let old = if from_current { current } else { Action::new(99, 0, 0, true) };
                self.table().decide(handle, old, new);
                if from_current {
                    self.naive.get_mut(&flow).unwrap().actions[direction as usize] = new;
                }
            }
            Op::End { key } => {
                let Some((handle, _)) = self.find(key) else { return };
                let Self { flows, local, .. } = self;
                assert!(F::table(flows).end(F::shelf(local), &flows.epochs, handle));
                assert!(!F::table(flows).end(F::shelf(local), &flows.epochs, handle), "ended twice");
                self.waiting += 1;
                let (flow, _) = self.known(key).unwrap();
                self.naive.remove(&flow);
            }
            Op::Pass { seconds } => self.now.0 += seconds,
            Op::Expire => self.expire(),
            Op::Quiesce => {
                for seat in [0, 1] {
                    self.flows.epochs.quiesce(Seat(seat));
                }
                self.waiting = 0;
            }
            Op::QuiesceOne => self.flows.epochs.quiesce(Seat(0)),
            Op::Leave => {
                self.flows.epochs.leave(Seat(1));
                self.flows.epochs.wake(Seat(1));
            }
            Op::Adopt => self.adopt(),
        }
    }

    fn insert(&mut self, key: u16, replies: &[u16], owner: u16, signal: Signal) {
        let state = State::first(key.is_multiple_of(2), signal);
        let actions = [1, 2].map(|adjacency| Action::new(7, adjacency, owner, false));
        let binding = Binding { owner, since: self.now, ..Binding::default() };
        let new =
            NewFlow { key: self.keys[usize::from(key)], state, binding, actions, rules: [key.into(), 2] };
        let known = self.known(key);
        let live = self.naive.len();
        let candidates: Vec<_> = replies.iter().map(|&reply| self.keys[usize::from(reply)]).collect();
        let Self { flows, local, now, .. } = self;
        let inserted = F::table(flows).insert(F::shelf(local), &flows.epochs, &new, candidates, *now);
        if known.is_some() {
            let found = self.find(key).unwrap();
            assert!(matches!(inserted, Inserted::Exists(there) if there.handle == found.0), "{inserted:?}");
            return;
        }
        self.forget_evicted(live);
        // What was evicted only just has left its keys to others.
        let free = |scene: &Self, reply: u16| reply != key && scene.known(reply).is_none();
        match inserted {
            Inserted::New(handle) => {
                let reply = F::key(&self.table().becomes(handle).reversed());
                let at = candidates_at(replies, &self.keys, &reply);
                assert!(at.is_some_and(|at| free(self, replies[at])), "{inserted:?}");
                let passed = replies[..at.unwrap()].iter().filter(|&&reply| free(self, reply)).count();
                assert!(passed == 0 || live > ROOMY, "a free reply was passed by");
                let flow = Naive {
                    reply: replies[at.unwrap()],
                    owner,
                    state,
                    seen: self.now,
                    since: self.now,
                    actions,
                };
                self.naive.insert(key, flow);
            }
            Inserted::ReplyTaken => {
                self.waiting += 1;
                assert!(!replies.iter().any(|&reply| free(self, reply)));
            }
            Inserted::Full => {
                assert!(live + self.waiting > ROOMY, "full with {live} flows, {} waiting", self.waiting);
                self.waiting += 1;
            }
            Inserted::Exists(_) | Inserted::Contended => panic!("{inserted:?}: there is no other"),
        }
    }

    /// One at most went for the record of the one that came, and only when records were short; and one for each of its keys, only
    /// when their buckets may have been full.
    fn forget_evicted(&mut self, live: usize) {
        let gone: Vec<u16> = self.naive.keys().copied().filter(|&key| self.find(key).is_none()).collect();
        assert!(gone.len() <= 3, "{gone:?}");
        for key in gone {
            assert!(live + self.waiting > ROOMY, "evicted with {live} flows");
            self.naive.remove(&key);
            self.waiting += 1;
        }
    }

    fn expire(&mut self) {
        let timeouts = *self.flows.timeouts();
        let now = self.now;
        let before = self.naive.len();
        self.naive.retain(|&key, flow| {
            let protocol = if key.is_multiple_of(2) { 6 } else { 17 };
            now.0 - flow.seen.0 <= timeouts.of(protocol, flow.state).0
        });
        let over = before - self.naive.len();
        self.waiting += over;
        let Self { flows, local, .. } = self;
        let ended = F::table(flows).expire(F::shelf(local), &flows.epochs, &timeouts, now, RECORDS);
        assert_eq!(ended as usize, over);
    }

    fn adopt(&mut self) {
        let config = FlowsConfig { seeds: [9, 9, 9], ..self.config };
        let (flows, adopted) = Flows::adopt(self.words, &config).unwrap();
        self.flows = flows;
        self.local = Local::new(Seat(0));
        self.flows.epochs.wake(Seat(0));
        self.flows.epochs.wake(Seat(1));
        self.waiting = 0;
        assert!(adopted.known);
        let lost: Vec<u16> = self.naive.keys().copied().filter(|&key| self.find(key).is_none()).collect();
        // In another order, a key may find both of its buckets full.
        assert!(lost.is_empty() || self.naive.len() > ROOMY && lost.len() <= 2, "{lost:?}");
        self.naive.retain(|key, _| !lost.contains(key));
        self.naive.values_mut().for_each(|flow| flow.actions = [Action::NONE; 2]);
    }

    fn check(&self) {
        let table = self.table();
        assert_eq!(table.len() as usize, self.naive.len());
        let mut found = BTreeMap::new();
        for key in 0..KEYS {
            if let Some((handle, life)) = self.find(key) {
                assert_eq!(table.key(handle), self.keys[usize::from(key)]);
                found.insert(key, (handle, life));
            }
        }
        assert_eq!(found.len(), 2 * self.naive.len(), "each flow has two keys");
        let mut records = HashSet::new();
        for (key, flow) in &self.naive {
            let (forward, life) = found[key];
            let (reply, _) = found[&flow.reply];
            assert_eq!((forward.direction(), reply.direction()), (Direction::Forward, Direction::Reply));
            assert_eq!((life.state(), life.seen()), (flow.state, flow.seen));
            assert_eq!([table.decided(forward), table.decided(reply)], flow.actions);
            let turned = |key: u16| F::tuple(&self.keys[usize::from(key)]).reversed();
            assert_eq!((table.becomes(forward), table.becomes(reply)), (turned(flow.reply), turned(*key)));
            assert_eq!(table.binding(forward), table.binding(reply));
            assert_eq!(
                (table.binding(forward).owner, table.binding(forward).since),
                (flow.owner, flow.since)
            );
            records.insert(forward);
        }
        assert_eq!(records.len(), self.naive.len());
        let rows: Vec<_> = (0..table.capacity()).filter_map(|record| table.row(record)).collect();
        assert_eq!(rows.len(), self.naive.len());
        for row in rows {
            let flow = &self.naive[&row.forward.src_port];
            assert_eq!(
                (row.reply.src_port, row.life.state(), row.actions),
                (flow.reply, flow.state, flow.actions)
            );
            assert_eq!(row.rules, [row.forward.src_port.into(), 2]);
        }
    }
}

fn candidates_at<K: PartialEq>(replies: &[u16], keys: &[K], wanted: &K) -> Option<usize> {
    replies.iter().position(|&reply| keys[usize::from(reply)] == *wanted)
}

fn run<F: Side>(ops: &[Op]) {
    let mut scene = Scene::<F>::new();
    for op in ops {
        scene.apply(op);
        scene.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn as_a_naive_table_of_ipv4(ops in prop::collection::vec(op(), 1..400)) {
        run::<V4>(&ops);
    }

    #[test]
    fn as_a_naive_table_of_ipv6(ops in prop::collection::vec(op(), 1..400)) {
        run::<V6>(&ops);
    }

    /// Whoever opens ever more flows ends its own: others, with at most a quarter of the table, keep each of theirs.
    #[test]
    fn a_flood_takes_nobody_elses(
        records in 128..1500_u32,
        others in prop::collection::vec(1..100_u32, 1..8),
        flood_first in any::<bool>(),
    ) {
        let config = FlowsConfig {
            v4: records, v6: 64, seats: 1, seeds: [5, 6, 7], timeouts: Timeouts::default(),
        };
        let words: Vec<_> = (0..Flows::words(&config)).map(|_| flow::AtomicU64::new(0)).collect();
        let (flows, _) = Flows::adopt(words.leak(), &config).unwrap();
        let mut local = Local::new(Seat(0));
        let mut next = 0;
        let mut open = |owner: u16| {
            next += 1;
            let src = Ipv4Addr::from_bits(0x0a00_0000 + next);
            let dst = Ipv4Addr::new(192, 0, 2, 1);
            let tuple = Tuple { src, dst, src_port: owner, dst_port: 80, network: 0, protocol: 17 };
            let new = NewFlow {
                key: V4::key(&tuple),
                state: State::New,
                binding: Binding { owner, ..Binding::default() },
                actions: [Action::NONE; 2],
                rules: [0; 2],
            };
            flows.epochs.quiesce(local.seat);
            let replies = [V4::key(&tuple.reversed())];
            flows.v4.insert(&mut local.v4, &flows.epochs, &new, replies, Seconds(1))
        };
        if flood_first {
            (0..records * 2).for_each(|_| { open(FLOOD); });
        }
        let mut left = records / 4;
        let mut wanted = Vec::new();
        for (owner, &count) in (0..).zip(&others) {
            let count = count.min(left);
            left -= count;
            // One that finds no lane is not to be had.
            let made = (0..count).filter(|_| matches!(open(owner), Inserted::New(_))).count();
            wanted.push(made);
        }
        (0..records * 4).for_each(|_| { open(FLOOD); });
        let mut got = vec![0; wanted.len()];
        for row in (0..records).filter_map(|record| flows.v4.row(record)) {
            if let Some(count) = got.get_mut(usize::from(row.binding.owner)) {
                *count += 1;
            }
        }
        prop_assert_eq!(got, wanted);
    }
}
