//! Rings of both kinds against a model that knows only queues: whatever a driver offers in whatever shape, every frame arrives whole,
//! once and in order, and every chain comes back in order with the bytes that were written to it.

use std::collections::VecDeque;

use podrouter_vhost::{PeerState, Sent, TxRefused};
use proptest::prelude::*;

use crate::guest::{
    EVENT_IDX, Guest, Host, INDIRECT_DESC, MRG_RXBUF, NEXT, PACKED, RECEIVE, Ring, TRANSMIT, VERSION_1,
    WRITE, frame, frames, send,
};

/// Bytes of memory that belong to each descriptor.
const ROOM: usize = 0x800;

#[derive(Clone, Debug)]
enum Step {
    /// The guest sends a frame of so many bytes, cut into so many pieces, in a table of its own or not.
    Transmit { length: usize, pieces: usize, indirect: bool },
    /// The host takes at most so many.
    Receive { most: usize },
    /// The guest offers a buffer of so many bytes, in so many pieces.
    Provide { length: usize, pieces: usize, indirect: bool },
    /// The host sends frames of these lengths, in one burst.
    Send { lengths: Vec<usize> },
    /// The guest looks what was used.
    Reap,
}

fn step() -> impl Strategy<Value = Step> {
    let shape = (1usize..5, any::<bool>());
    prop_oneof![
        3 => (14usize..3_000, shape.clone())
            .prop_map(|(length, (pieces, indirect))| Step::Transmit { length, pieces, indirect }),
        2 => (0usize..40).prop_map(|most| Step::Receive { most }),
        4 => (1usize..2_000, shape).prop_map(|(length, (pieces, indirect))| Step::Provide { length, pieces, indirect }),
        2 => proptest::collection::vec(1usize..3_000, 1..6).prop_map(|lengths| Step::Send { lengths }),
        2 => Just(Step::Reap),
    ]
}

/// One ring of the driver's: which descriptors are free, and what is outstanding.
struct Side {
    ring: usize,
    free: Vec<u16>,
    /// Heads in the order of their offer, with the descriptors of each, its pieces, and whether they are in a table.
    offered: VecDeque<Offered>,
}

#[derive(Clone, Debug)]
struct Offered {
    head: u16,
    indices: Vec<u16>,
    pieces: Vec<(u64, usize)>,
    /// Bytes written to it, once it is known.
    written: Option<usize>,
}

impl Side {
    fn new(ring: usize, size: u16) -> Self {
        Self { ring, free: (0..size).rev().collect(), offered: VecDeque::new() }
    }

    /// Offers a chain of `length` bytes, if there are descriptors for it.
    fn offer(
        &mut self,
        guest: &mut Guest,
        length: usize,
        pieces: usize,
        indirect: bool,
        write: u16,
    ) -> Option<&Offered> {
        // Memory is by descriptor, so that a piece has as much as one of those has.
        let pieces = pieces.max(length.div_ceil(ROOM));
        if self.free.len() < pieces || length < pieces {
            return None;
        }
        let indices: Vec<u16> = (0..pieces).filter_map(|_| self.free.pop()).collect();
        let ring: &mut Ring = &mut guest.rings[self.ring];
        let each = length.div_ceil(pieces);
        let lengths = (0..pieces).map(|piece| each.min(length - (piece * each).min(length)));
        let places: Vec<(u64, usize)> =
            indices.iter().map(|&index| ring.buffer(index)).zip(lengths).collect();
        let entries = places.iter().map(|&(at, length)| (at, u32::try_from(length).unwrap(), write));
        let head = indices[0];
        if indirect {
            let table = ring.buffer(ring.size + head);
            ring.describe_table(head, table, &entries.collect::<Vec<_>>());
        } else {
            for (number, (at, length, flags)) in entries.enumerate() {
                let next = indices.get(number + 1).copied();
                let flags = if next.is_some() { flags | NEXT } else { flags };
                ring.describe(indices[number], at, length, flags, next.unwrap_or(0));
            }
        }
        self.offered.push_back(Offered { head, indices, pieces: places, written: None });
        self.offered.back()
    }

    /// What was used is what was offered first, with as many bytes as were written.
    fn reap(&mut self, guest: &mut Guest) {
        for (id, written) in guest.rings[self.ring].used() {
            let first = self.offered.pop_front().unwrap();
            assert_eq!((id, Some(written as usize)), (u32::from(first.head), first.written));
            self.free.extend(first.indices);
        }
        assert!(self.offered.front().is_none_or(|first| first.written.is_none()), "what was used is seen");
    }
}

/// The host, the guest, and what is on its way.
struct Model {
    host: Host,
    guest: Guest,
    from: Side,
    to: Side,
    mergeable: bool,
    sent: VecDeque<Vec<u8>>,
    number: usize,
}

impl Model {
    fn new(features: u64, size: u16) -> Self {
        let host = Host::start();
        let guest = Guest::connect_with(&host.path, features, size, 0);
        host.reaches(PeerState::Running);
        Self {
            host,
            guest,
            from: Side::new(TRANSMIT, size),
            to: Side::new(RECEIVE, size),
            mergeable: features & MRG_RXBUF != 0,
            sent: VecDeque::new(),
            number: 0,
        }
    }

    fn next(&mut self, length: usize) -> Vec<u8> {
        self.number += 1;
        frame(self.number, length)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Transmit { length, pieces, indirect } => {
                let bytes = self.next(length);
                let whole = [&[0; 12], &bytes[..]].concat();
                let Some(offered) = self.from.offer(&mut self.guest, whole.len(), pieces, indirect, 0) else {
                    return;
                };
                let (head, pieces) = (offered.head, offered.pieces.clone());
                let ring = &mut self.guest.rings[TRANSMIT];
                let mut rest = &whole[..];
                for (at, length) in pieces {
                    let (now, later) = rest.split_at(length);
                    ring.write(at, now);
                    rest = later;
                }
                ring.offer(head);
                self.sent.push_back(bytes);
            }
            Step::Receive { most } => {
                let burst = self.host.rx.burst(most);
                let got = frames(&burst);
                // As many as there are, but a burst may end early where chains are long.
                assert!(
                    got.len() == most.min(self.sent.len()) || got.len() >= 8,
                    "{} of {}",
                    got.len(),
                    self.sent.len()
                );
                drop(burst);
                for frame in got {
                    assert_eq!(frame, Ok(self.sent.pop_front().unwrap()));
                    let taken = self.from.offered.iter_mut().find(|offered| offered.written.is_none());
                    taken.unwrap().written = Some(0);
                }
            }
            Step::Provide { length, pieces, indirect } => {
                if let Some(offered) = self.to.offer(&mut self.guest, length, pieces, indirect, WRITE) {
                    let head = offered.head;
                    self.guest.rings[RECEIVE].offer(head);
                }
            }
            Step::Send { ref lengths } => self.send(lengths),
            Step::Reap => {
                self.from.reap(&mut self.guest);
                self.to.reap(&mut self.guest);
            }
        }
    }

    fn send(&mut self, lengths: &[usize]) {
        let all: Vec<Vec<u8>> = lengths.iter().map(|&length| self.next(length)).collect();
        let mut burst = self.host.tx.burst(all.len());
        let mut arrived = Vec::new();
        for bytes in &all {
            let (first, last) = bytes.split_at(bytes.len() / 2);
            let outcome = send(&mut burst, &[first, last]);
            let total = bytes.len() + 12;
            let mut free: Vec<&mut Offered> =
                self.to.offered.iter_mut().filter(|offered| offered.written.is_none()).collect();
            let room = |offered: &Offered| offered.pieces.iter().map(|(_, length)| length).sum::<usize>();
            // The model's own word: the first buffers that hold it, all of which it takes.
            let wanted = free.iter().scan(0, |sum, offered| {
                let before = *sum;
                *sum += room(offered);
                (before < total).then_some(*sum)
            });
            let wanted: Vec<usize> = wanted.collect();
            let fits = wanted.last().is_some_and(|&sum| sum >= total);
            let expected = match (free.first(), self.mergeable) {
                (None, _) => Sent::Full,
                (Some(first), false) if room(first) < total => Sent::Refused(TxRefused::Length),
                (Some(_), true) if !fits => Sent::Full,
                _ => Sent::Ok,
            };
            assert_eq!(outcome, expected, "{} bytes into {wanted:?}", bytes.len());
            if outcome != Sent::Ok {
                continue;
            }
            let mut left = total;
            let mut places = Vec::new();
            for offered in &mut free[..wanted.len()] {
                let here = room(offered).min(left);
                left -= here;
                offered.written = Some(here);
                places.push((offered.pieces.clone(), here));
            }
            arrived.push((bytes.clone(), places));
        }
        drop(burst);
        for (bytes, places) in arrived {
            let count = places.len();
            let mut got = Vec::new();
            for (pieces, mut length) in places {
                for (at, room) in pieces {
                    let here = room.min(length);
                    got.extend(self.guest.rings[RECEIVE].read(at, here));
                    length -= here;
                }
            }
            let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, u8::try_from(count).unwrap(), 0];
            assert_eq!(got, [&header[..], &bytes].concat());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn rings_do_what_queues_do(
        packed in any::<bool>(),
        more in prop_oneof![Just(0), Just(MRG_RXBUF), Just(EVENT_IDX), Just(MRG_RXBUF | EVENT_IDX)],
        size in prop_oneof![Just(4u16), Just(8), Just(16), Just(64)],
        odd in 0u16..3,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        // A packed ring's size need not be a power of two.
        let size = if packed { size - odd } else { size };
        let kind = if packed { PACKED } else { 0 };
        let mut model = Model::new(VERSION_1 | INDIRECT_DESC | more | kind, size);
        for step in &steps {
            model.step(step);
        }
        model.step(&Step::Reap);
    }
}
