//! The table against a naive one, and what it does when it is full.

use std::collections::{BTreeMap, HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::specimen::naive_sum;

const PODS: NetworkId = NetworkId(0);

/// A UDP packet's fragment, in units of 8 bytes.
#[derive(Clone, Copy, Debug)]
struct Piece {
    v6: bool,
    source: u8,
    ident: u8,
    begin: u16,
    len: u16,
    more: bool,
    /// What a later IPv6 fragment says that the packet begins with, which does not matter.
    next: u8,
}

impl Piece {
    fn key(&self) -> (bool, u8, u8) {
        (self.v6, self.source, self.ident)
    }

    fn transport(&self) -> Transport {
        let (src_port, dst_port) = (1000 + u16::from(self.source), 2000 + u16::from(self.ident));
        Transport { protocol: 17, src_port, dst_port }
    }

    fn frame(&self) -> Vec<u8> {
        let mut data = vec![0; usize::from(self.len) * 8];
        if self.begin == 0 {
            let Transport { src_port, dst_port, .. } = self.transport();
            data[..2].copy_from_slice(&src_port.to_be_bytes());
            data[2..4].copy_from_slice(&dst_port.to_be_bytes());
        }
        let mut b = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if self.v6 {
            b.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, u8::try_from(data.len() + 8).unwrap(), 44, 64]);
            b.extend([[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.source], [0xfc; 16]].concat());
            let [high, low] = (self.begin * 8 + u16::from(self.more)).to_be_bytes();
            b.extend([if self.begin == 0 { 17 } else { self.next }, 0, high, low, 0, 0, 0, self.ident]);
        } else {
            let [high, low] = (self.begin + if self.more { 0x2000 } else { 0 }).to_be_bytes();
            let total = u8::try_from(20 + data.len()).unwrap();
            let mut header = vec![0x45, 0, 0, total, 0, self.ident, high, low, 64, 17, 0, 0];
            header.extend([10, 0, 0, self.source, 10, 9, 9, 9]);
            let sum = !naive_sum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            b.extend([8, 0]);
            b.extend(header);
        }
        b.extend(data);
        b
    }
}

fn look_up<P>(fragments: &mut Fragments<P>, now: Tick, piece: &Piece) -> FragmentLookup {
    let frame = piece.frame();
    let parsed = wire::parse(&frame, frame.len()).unwrap();
    fragments.look_up(now, PODS, &parsed, &frame)
}

/// One packet as the naive table has it.
#[derive(Default)]
struct Datagram {
    number: usize,
    opened: Tick,
    seen: Vec<(u16, u16)>,
    total: Option<u16>,
    known: bool,
    refused: Option<DropReason>,
    told_to_wait: usize,
    queue: VecDeque<usize>,
}

impl Datagram {
    fn add(&mut self, piece: &Piece) -> Result<(), DropReason> {
        let (begin, end) = (piece.begin, piece.begin + piece.len);
        let furthest = self.seen.iter().map(|range| range.1).max().unwrap_or(0);
        let length_holds = match (self.total, piece.more) {
            (Some(total), true) => end < total,
            (Some(total), false) => end == total,
            (None, true) => true,
            (None, false) => furthest <= end,
        };
        if !length_holds {
            return Err(DropReason::FragmentInconsistent);
        }
        if self.seen.iter().any(|&(b, e)| begin < e && b < end) {
            return Err(DropReason::FragmentOverlap);
        }
        self.seen.push((begin, end));
        if !piece.more {
            self.total = Some(end);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let bytes: u16 = self.seen.iter().map(|(b, e)| e - b).sum();
        self.known && self.refused.is_none() && self.told_to_wait == 0 && self.total == Some(bytes)
    }
}

/// The naive table; room for entries it has always.
struct Model {
    config: FragmentConfig,
    datagrams: HashMap<(bool, u8, u8), Datagram>,
    opened: usize,
    ready: VecDeque<(usize, Piece, usize)>,
    doomed: BTreeMap<usize, VecDeque<usize>>,
}

/// What `look_up` is to say, without the ticket's numbers.
#[derive(Debug, PartialEq)]
enum Said {
    First,
    Follow(Transport),
    Hold,
    Refused(DropReason),
}

impl Model {
    fn held(&self) -> usize {
        let queues = self.datagrams.values().map(|d| d.queue.len()).sum::<usize>();
        queues + self.ready.len() + self.doomed.values().map(VecDeque::len).sum::<usize>()
    }

    fn doom(&mut self, reason: DropReason, queue: impl IntoIterator<Item = usize>) {
        let number = DOOMS.iter().position(|doom| *doom == reason).unwrap();
        self.doomed.entry(number).or_default().extend(queue);
    }

    fn give_up(&mut self, key: (bool, u8, u8), reason: DropReason) -> DropReason {
        let datagram = self.datagrams.get_mut(&key).unwrap();
        (datagram.refused, datagram.told_to_wait) = (Some(reason), 0);
        let queue = std::mem::take(&mut datagram.queue);
        self.doom(reason, queue);
        reason
    }

    fn look_up(&mut self, now: Tick, piece: &Piece) -> (Said, usize) {
        let key = piece.key();
        let old = |d: &Datagram| d.opened.after_ms(self.config.timeout_ms) <= now;
        if self.datagrams.get(&key).is_some_and(old) {
            let gone = self.datagrams.remove(&key).unwrap();
            self.doom(DropReason::FragmentTimeout, gone.queue);
        }
        self.opened += usize::from(!self.datagrams.contains_key(&key));
        let number = self.opened;
        let new = || Datagram { number, opened: now, ..Datagram::default() };
        let datagram = self.datagrams.entry(key).or_insert_with(new);
        let number = datagram.number;
        if let Some(reason) = datagram.refused {
            return (Said::Refused(reason), number);
        }
        if let Err(reason) = datagram.add(piece) {
            return (Said::Refused(self.give_up(key, reason)), number);
        }
        let said = if piece.begin == 0 {
            datagram.known = true;
            let queue = std::mem::take(&mut datagram.queue);
            self.ready.extend(queue.into_iter().map(|id| (number, *piece, id)));
            Said::First
        } else if datagram.known {
            Said::Follow(piece.transport())
        } else if datagram.told_to_wait < self.config.held_per_packet as usize {
            datagram.told_to_wait += 1;
            Said::Hold
        } else {
            Said::Refused(self.give_up(key, DropReason::FragmentQueueFull))
        };
        self.forget_if_done(key);
        (said, number)
    }

    fn hold(&mut self, number: usize, piece: &Piece, id: usize) -> Result<(), DropReason> {
        let full = self.held() == self.config.held_total as usize;
        let Some(datagram) = self.datagrams.get_mut(&piece.key()).filter(|d| d.number == number) else {
            return Err(DropReason::FragmentTableFull);
        };
        match datagram {
            Datagram { refused: Some(reason), .. } => Err(*reason),
            _ if full => Err(self.give_up(piece.key(), DropReason::FragmentQueueFull)),
            Datagram { known: true, .. } => {
                self.ready.push_back((number, *piece, id));
                Ok(())
            }
            _ => {
                datagram.queue.push_back(id);
                Ok(())
            }
        }
    }

    fn release(&mut self) -> Option<(usize, Result<Transport, DropReason>)> {
        let (number, piece, id) = self.ready.pop_front()?;
        let Some(datagram) = self.datagrams.get_mut(&piece.key()).filter(|d| d.number == number) else {
            return Some((id, Err(DropReason::FragmentTableFull)));
        };
        if let Some(reason) = datagram.refused {
            return Some((id, Err(reason)));
        }
        datagram.told_to_wait -= 1;
        self.forget_if_done(piece.key());
        Some((id, Ok(piece.transport())))
    }

    fn forget_if_done(&mut self, key: (bool, u8, u8)) {
        if self.datagrams[&key].is_done() {
            self.datagrams.remove(&key);
        }
    }

    /// All that is due.
    fn expire(&mut self, now: Tick) -> Vec<(DropReason, usize)> {
        let mut old: Vec<_> = self
            .datagrams
            .iter()
            .filter(|(_, d)| d.opened.after_ms(self.config.timeout_ms) <= now)
            .map(|(key, d)| (d.number, *key))
            .collect();
        old.sort_unstable();
        for (_, key) in old {
            let queue = self.datagrams.remove(&key).unwrap().queue;
            self.doom(DropReason::FragmentTimeout, queue);
        }
        let doomed = std::mem::take(&mut self.doomed);
        let mut out: Vec<_> =
            doomed.into_iter().flat_map(|(n, ids)| ids.into_iter().map(move |id| (DOOMS[n], id))).collect();
        out.sort_unstable();
        out
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Looked up one after the other, then held, as a worker does with a burst.
    Burst(Vec<Piece>),
    Release(usize),
    Wait(u64),
    Expire,
}

fn pieces() -> impl Strategy<Value = Piece> {
    let begin = prop_oneof![1 => Just(0u16), 3 => 1u16..8];
    (any::<bool>(), 0u8..2, 0u8..3, begin, 1u16..3, prop::bool::weighted(0.85), any::<bool>()).prop_map(
        |(v6, source, ident, begin, len, more, odd)| {
            let next = if odd { 60 } else { 17 };
            Piece { v6, source, ident, begin, len, more: more || begin == 0, next }
        },
    )
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(pieces(), 1..6).prop_map(Step::Burst),
        3 => (0usize..8).prop_map(Step::Release),
        1 => (0u64..20_000).prop_map(Step::Wait),
        1 => Just(Step::Expire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn as_the_naive_table(
        steps in prop::collection::vec(steps(), 0..40), held_per_packet in 0u32..6, held_total in 0u32..12,
    ) {
        let config =
            FragmentConfig { capacity: 12, held_per_packet, held_per_source: 1000, held_total, timeout_ms: 30_000 };
        let mut fragments = Fragments::new(config);
        let mut model = Model {
            config, datagrams: HashMap::new(), opened: 0, ready: VecDeque::new(), doomed: BTreeMap::new(),
        };
        let (mut now, mut id) = (Tick(0), 0);
        for step in steps {
            match step {
                Step::Burst(burst) => {
                    let mut holds = Vec::new();
                    for piece in burst {
                        id += 1;
                        let (expected, number) = model.look_up(now, &piece);
                        let said = match look_up(&mut fragments, now, &piece) {
                            FragmentLookup::First => Said::First,
                            FragmentLookup::Follow(transport) => Said::Follow(transport),
                            FragmentLookup::Refused(reason) => Said::Refused(reason),
                            FragmentLookup::Hold(ticket) => {
                                holds.push((ticket, number, piece, id));
                                Said::Hold
                            }
                            FragmentLookup::Whole => panic!("a fragment is not whole"),
                        };
                        prop_assert_eq!(said, expected, "{:?}", piece);
                    }
                    for (ticket, number, piece, id) in holds {
                        let expected = model.hold(number, &piece, id).map_err(|reason| (reason, id));
                        prop_assert_eq!(fragments.hold(ticket, id), expected);
                    }
                }
                Step::Release(limit) => {
                    let mut released = Vec::new();
                    fragments.release(limit, |transport, id| released.push((id, transport)));
                    let expected: Vec<_> = (0..limit).map_while(|_| model.release()).collect();
                    prop_assert_eq!(released, expected);
                }
                Step::Wait(ms) => now = now.after_ms(ms),
                Step::Expire => {
                    let mut expired = Vec::new();
                    fragments.expire(now, usize::MAX, |reason, id| expired.push((reason, id)));
                    expired.sort_unstable();
                    prop_assert_eq!(expired, model.expire(now));
                    prop_assert!(fragments.next_expiry().is_none_or(|due| due > now));
                }
            }
            prop_assert_eq!(fragments.len(), model.datagrams.len());
            prop_assert_eq!(fragments.held(), model.held());
            prop_assert_eq!(fragments.ready(), model.ready.len());
        }
        let (held, mut out) = (model.held(), 0);
        fragments.clear(|_| out += 1);
        prop_assert_eq!(out, held);
        prop_assert_eq!((fragments.len(), fragments.held(), fragments.next_expiry()), (0, 0, None));
    }

    /// With far too little room: everything that is held comes out once, nothing is beyond its bounds, and no byte passes twice
    /// while an entry lasts.
    #[test]
    fn what_goes_in_comes_out_once(
        steps in prop::collection::vec(steps(), 0..60), capacity in 0u32..4, held_per_source in 0u32..5, held_total in 0u32..8,
    ) {
        let config =
            FragmentConfig { capacity, held_per_packet: 4, held_per_source, held_total, timeout_ms: 5_000 };
        let mut fragments = Fragments::new(config);
        let (mut now, mut id, mut inside) = (Tick(0), 0, std::collections::BTreeSet::new());
        for step in steps {
            match step {
                Step::Burst(burst) => {
                    let mut holds = Vec::new();
                    for piece in burst {
                        id += 1;
                        if let FragmentLookup::Hold(ticket) = look_up(&mut fragments, now, &piece) {
                            holds.push((ticket, id));
                        }
                    }
                    for (ticket, id) in holds {
                        if fragments.hold(ticket, id).is_ok() {
                            prop_assert!(inside.insert(id));
                        }
                    }
                }
                Step::Release(limit) => {
                    let mut out = Vec::new();
                    fragments.release(limit, |_, id| out.push(id));
                    for id in out {
                        prop_assert!(inside.remove(&id));
                    }
                }
                Step::Wait(ms) => now = now.after_ms(ms),
                Step::Expire => {
                    let mut out = Vec::new();
                    fragments.expire(now, 3, |_, id| out.push(id));
                    prop_assert!(out.len() <= 3);
                    for id in out {
                        prop_assert!(inside.remove(&id));
                    }
                }
            }
            prop_assert_eq!(fragments.held(), inside.len());
            prop_assert!(fragments.held() <= held_total as usize && fragments.len() <= capacity as usize);
        }
        let held = inside.len();
        let mut out = Vec::new();
        fragments.clear(|id| out.push(id));
        for id in &out {
            prop_assert!(inside.remove(id));
        }
        prop_assert_eq!((out.len(), fragments.len(), fragments.held()), (held, 0, 0));
    }
}

const FIRST: Piece = Piece { v6: false, source: 1, ident: 1, begin: 0, len: 2, more: true, next: 17 };
const LAST: Piece = Piece { begin: 2, len: 1, more: false, ..FIRST };

#[test]
fn later_ones_follow_the_first_and_early_ones_wait_for_it() {
    let mut fragments = Fragments::new(FragmentConfig::default());
    let now = Tick(0);
    let follow = FragmentLookup::Follow(FIRST.transport());
    assert_eq!(look_up(&mut fragments, now, &FIRST), FragmentLookup::First);
    assert_eq!(fragments.len(), 1);
    assert_eq!(look_up(&mut fragments, now, &LAST), follow);
    assert!(fragments.is_empty(), "complete");

    let FragmentLookup::Hold(ticket) = look_up(&mut fragments, now, &LAST) else { panic!("no first yet") };
    assert_eq!(fragments.hold(ticket, 'a'), Ok(()));
    assert_eq!((fragments.held(), fragments.ready()), (1, 0));
    // Another network's is another packet.
    let frame = FIRST.frame();
    let parsed = wire::parse(&frame, frame.len()).unwrap();
    assert_eq!(fragments.look_up(now, NetworkId(7), &parsed, &frame), FragmentLookup::First);
    assert_eq!(fragments.ready(), 0);
    assert_eq!(look_up(&mut fragments, now, &FIRST), FragmentLookup::First);
    let mut out = Vec::new();
    fragments.release(8, |transport, packet| out.push((transport, packet)));
    assert_eq!(out, [(Ok(FIRST.transport()), 'a')]);
    assert_eq!((fragments.held(), fragments.len()), (0, 1));
}

#[test]
fn a_flood_evicts_its_own() {
    let config = FragmentConfig { capacity: 256, ..FragmentConfig::default() };
    let mut fragments: Fragments<()> = Fragments::new(config);
    let of = |source| Piece { source, ..FIRST };
    for source in 0..8 {
        assert_eq!(look_up(&mut fragments, Tick(0), &of(source)), FragmentLookup::First);
    }
    for round in 0..16 {
        for ident in 0..=255 {
            let flood = Piece { v6: round % 2 == 1, source: 200 + round / 8, ident, ..FIRST };
            // Refused, or in the place of one of its kind.
            let _ = look_up(&mut fragments, Tick(1), &flood);
        }
    }
    assert_eq!(fragments.len(), 256);
    // But for sources that share a counter by chance.
    let last = |source| Piece { source, ..LAST };
    let kept = (0..8)
        .filter(|&source| {
            matches!(look_up(&mut fragments, Tick(1), &last(source)), FragmentLookup::Follow(_))
        })
        .count();
    assert!(kept >= 4, "{kept} of 8");
    // There is room for others still.
    for source in 100..108 {
        assert_eq!(look_up(&mut fragments, Tick(1), &of(source)), FragmentLookup::First);
    }
}

#[test]
fn one_source_cannot_have_all_that_waits() {
    let config = FragmentConfig { held_per_source: 5, held_total: 8, ..FragmentConfig::default() };
    let mut fragments = Fragments::new(config);
    let mut held = 0;
    for ident in 0..20 {
        if let FragmentLookup::Hold(ticket) = look_up(&mut fragments, Tick(0), &Piece { ident, ..LAST }) {
            assert_eq!(fragments.hold(ticket, ident), Ok(()));
            held += 1;
        }
    }
    assert_eq!((held, fragments.held()), (5, 5));
    // What is given up counts no longer.
    let mut out = Vec::new();
    fragments.expire(Tick(0).after_ms(30_000), usize::MAX, |reason, ident| out.push((reason, ident)));
    assert_eq!(out.len(), 5);
    assert!(out.iter().all(|(reason, _)| *reason == DropReason::FragmentTimeout));
    let again = look_up(&mut fragments, Tick(0).after_ms(30_000), &LAST);
    assert!(matches!(again, FragmentLookup::Hold(_)));
}
