//! Every interleaving of small scenes, by loom: `RUSTFLAGS="--cfg loom" cargo test -p flow --release --lib --test loom`.
//!
//! The words are loom's own atomics, and most of a record is written and read with relaxed operations: loom lets a load return
//! any value that the memory model allows, so a handshake that orders too little shows as a flow with another's key or action.
#![cfg(loom)]

use std::net::Ipv4Addr;

use flow::{
    Action, AtomicU64, Binding, Direction, Family, Flows, FlowsConfig, Found, Handle, Inserted, Key4, Local,
    NewFlow, Seat, Seconds, Signal, State, Timeouts, Tuple, V4,
};
use loom::sync::Arc;
use loom::thread;

const NOW: Seconds = Seconds(1000);

/// A table of so many records, two workers that are away.
fn flows(records: u32) -> Arc<Flows> {
    let config =
        FlowsConfig { v4: records, v6: 1, seats: 2, seeds: [1, 2, 3], timeouts: Timeouts::default() };
    let words: Vec<_> = (0..Flows::words(&config)).map(|_| AtomicU64::new(0)).collect();
    Arc::new(Flows::adopt(words.leak(), &config).unwrap().0)
}

fn key(number: u8) -> Key4 {
    let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    V4::key(&Tuple { src, dst, src_port: number.into(), dst_port: 1, network: 0, protocol: 17 })
}

/// What tells a flow of this key from all others.
fn actions(number: u8) -> [Action; 2] {
    [1, 2].map(|direction| Action::new(u32::from(number), direction, 0, false))
}

fn new_flow(number: u8) -> NewFlow<V4> {
    let binding = Binding { owner: u16::from(number) % 4, since: NOW, ..Binding::default() };
    NewFlow { key: key(number), state: State::New, binding, actions: actions(number), rules: [0; 2] }
}

fn insert(flows: &Flows, local: &mut Local, number: u8, replies: &[u8]) -> Inserted {
    let replies = replies.iter().map(|&reply| key(reply));
    flows.v4.insert(&mut local.v4, &flows.epochs, &new_flow(number), replies, NOW)
}

fn find(flows: &Flows, number: u8) -> Option<Found> {
    let key = key(number);
    flows.v4.find(flows.v4.hash(&key), &key)
}

fn find_live(flows: &Flows, number: u8) -> Option<Handle> {
    find(flows, number).filter(|found| found.life.is_live()).map(|found| found.handle)
}

/// What is found live by one key is all of one flow, and stays so within a burst.
fn assert_whole(flows: &Flows, handle: Handle, number: u8, reply: u8, found_by: Direction) {
    assert_eq!(handle.direction(), found_by);
    let by = if found_by == Direction::Forward { number } else { reply };
    let turned = if found_by == Direction::Forward { reply } else { number };
    assert_eq!(flows.v4.key(handle), key(by));
    assert_eq!(flows.v4.becomes(handle), V4::tuple(&key(turned)).reversed());
    assert_eq!(flows.v4.decided(handle), actions(number)[found_by as usize]);
    assert_eq!(flows.v4.binding(handle), new_flow(number).binding);
}

/// A worker: awake at first, and away in the end.
fn worker<T: 'static>(
    flows: &Arc<Flows>,
    seat: usize,
    work: impl FnOnce(&Flows, &mut Local) -> T + 'static,
) -> thread::JoinHandle<T> {
    let flows = Arc::clone(flows);
    thread::spawn(move || {
        let mut local = Local::new(Seat(seat));
        flows.epochs.wake(local.seat);
        let result = work(&flows, &mut local);
        flows.epochs.leave(local.seat);
        result
    })
}

fn model(preemptions: usize, scene: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(scene);
}

fn made(results: &[Inserted]) -> usize {
    results.iter().filter(|result| matches!(result, Inserted::New(_))).count()
}

#[test]
fn one_key_is_never_two_flows() {
    model(2, || {
        let flows = flows(2);
        let workers = [0, 1].map(|seat| worker(&flows, seat, |flows, local| insert(flows, local, 1, &[2])));
        let results = workers.map(|worker| worker.join().unwrap());
        let made = made(&results);
        assert!(made <= 1, "{results:?}");
        if made == 0 {
            assert!(results.contains(&Inserted::Contended), "{results:?}");
        }
        for number in [1, 2] {
            assert_eq!(find(&flows, number).map(|found| found.life.is_live()), (made == 1).then_some(true));
        }
        assert_eq!(flows.v4.len() as usize, made);
    });
}

#[test]
fn a_reply_key_is_reserved_by_one() {
    model(2, || {
        let flows = flows(2);
        let workers = [(0, 1), (1, 2)].map(|(seat, number)| {
            worker(&flows, seat, move |flows, local| insert(flows, local, number, &[8, 9]))
        });
        let results = workers.map(|worker| worker.join().unwrap());
        let replies = [1, 2].map(|number| {
            find_live(&flows, number).map(|handle| V4::key(&flows.v4.becomes(handle).reversed()))
        });
        assert_eq!(replies.iter().flatten().count(), made(&results));
        assert!(made(&results) > 0, "two ports for two flows: {results:?}");
        assert_ne!(replies[0], replies[1]);
        let found = [8, 9].iter().filter(|&&number| find(&flows, number).is_some()).count();
        assert_eq!(found, made(&results));
    });
}

#[test]
fn both_ends_begin_at_once() {
    model(2, || {
        let flows = flows(2);
        let workers = [(0, 1, 2), (1, 2, 1)].map(|(seat, number, reply)| {
            worker(&flows, seat, move |flows, local| insert(flows, local, number, &[reply]))
        });
        let results = workers.map(|worker| worker.join().unwrap());
        assert!(made(&results) <= 1, "{results:?}");
        for number in [1, 2] {
            assert_eq!(find(&flows, number).is_some(), made(&results) == 1);
        }
    });
}

#[test]
fn a_reader_sees_nothing_or_a_whole_flow() {
    model(2, || {
        let flows = flows(2);
        let writer = worker(&flows, 0, |flows, local| insert(flows, local, 1, &[2]));
        let reader = worker(&flows, 1, |flows, _| {
            if let Some(handle) = find_live(flows, 2) {
                assert_whole(flows, handle, 1, 2, Direction::Reply);
            }
            if let Some(handle) = find_live(flows, 1) {
                assert_whole(flows, handle, 1, 2, Direction::Forward);
            }
        });
        assert!(matches!(writer.join().unwrap(), Inserted::New(_)));
        reader.join().unwrap();
    });
}

/// One record, so that the next flow can only have the same.
fn one_flow() -> Arc<Flows> {
    let flows = flows(1);
    let mut local = Local::new(Seat(0));
    assert!(matches!(insert(&flows, &mut local, 1, &[2]), Inserted::New(_)));
    flows
}

/// Ends the one flow and makes another as soon as it may.
fn replace(flows: &Flows, local: &mut Local) -> bool {
    let handle = find_live(flows, 1).unwrap();
    assert!(flows.v4.end(&mut local.v4, &flows.epochs, handle));
    flows.epochs.quiesce(local.seat);
    matches!(insert(flows, local, 3, &[4]), Inserted::New(_))
}

#[test]
fn a_record_is_not_used_again_within_a_burst() {
    model(2, || {
        let flows = one_flow();
        let writer = worker(&flows, 0, replace);
        let reader = worker(&flows, 1, |flows, _| {
            if let Some(handle) = find_live(flows, 1) {
                assert_whole(flows, handle, 1, 2, Direction::Forward);
                assert_whole(flows, handle, 1, 2, Direction::Forward);
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_burst_after_another() {
    model(2, || {
        let flows = one_flow();
        let writer = worker(&flows, 0, replace);
        let reader = worker(&flows, 1, |flows, local| {
            for _ in 0..2 {
                if let Some(handle) = find_live(flows, 1) {
                    assert_whole(flows, handle, 1, 2, Direction::Forward);
                }
                if let Some(handle) = find_live(flows, 3) {
                    assert_whole(flows, handle, 3, 4, Direction::Forward);
                }
                flows.epochs.quiesce(local.seat);
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn asleep_and_awake_again() {
    model(2, || {
        let flows = one_flow();
        let writer = worker(&flows, 0, replace);
        let reader = worker(&flows, 1, |flows, local| {
            if let Some(handle) = find_live(flows, 1) {
                assert_whole(flows, handle, 1, 2, Direction::Forward);
            }
            flows.epochs.leave(local.seat);
            flows.epochs.wake(local.seat);
            if let Some(handle) = find_live(flows, 1) {
                assert_whole(flows, handle, 1, 2, Direction::Forward);
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn touched_and_decided_while_it_ends() {
    model(3, || {
        let flows = one_flow();
        let ender = worker(&flows, 0, |flows, local| {
            find_live(flows, 1).is_some_and(|handle| flows.v4.end(&mut local.v4, &flows.epochs, handle))
        });
        let reader = worker(&flows, 1, |flows, _| {
            if let Some(Found { handle, life }) = find(flows, 2) {
                flows.v4.touch(handle, life, Signal::Data, Seconds(NOW.0 + 1));
                flows.v4.decide(handle, actions(1)[1], Action::new(9, 9, 9, true));
            }
        });
        assert!(ender.join().unwrap());
        reader.join().unwrap();
        assert!(find(&flows, 1).is_none() && find(&flows, 2).is_none() && flows.v4.is_empty());
        // What was noted late is not the next flow's.
        let mut local = Local::new(Seat(0));
        assert_eq!(
            insert(&flows, &mut local, 3, &[4]),
            Inserted::Full,
            "its record waits on another's shelf"
        );
    });
}

#[test]
fn two_end_one_flow() {
    model(3, || {
        let flows = one_flow();
        let workers = [0, 1].map(|seat| {
            worker(&flows, seat, |flows, local| {
                find_live(flows, 1).is_some_and(|handle| flows.v4.end(&mut local.v4, &flows.epochs, handle))
            })
        });
        let ended = workers.map(|worker| worker.join().unwrap());
        assert_eq!(ended.iter().filter(|&&ended| ended).count(), 1);
        assert!(flows.v4.is_empty() && find(&flows, 1).is_none() && find(&flows, 2).is_none());
    });
}

#[test]
fn a_packet_at_the_last_moment() {
    model(3, || {
        let flows = one_flow();
        let late = Seconds(NOW.0 + 31);
        let expiry = worker(&flows, 0, move |flows, local| {
            flows.v4.expire(&mut local.v4, &flows.epochs, flows.timeouts(), late, 1)
        });
        let reader = worker(&flows, 1, move |flows, _| {
            let Some(Found { handle, life }) = find(flows, 1) else { return };
            flows.v4.touch(handle, life, Signal::Data, late);
        });
        let ended = expiry.join().unwrap();
        reader.join().unwrap();
        match find(&flows, 1) {
            // Either it ended before the packet was noted, or the packet kept it.
            None => assert_eq!((ended, flows.v4.len()), (1, 0)),
            Some(found) => assert_eq!((ended, found.life.seen()), (0, late)),
        }
    });
}

#[test]
fn records_go_round_between_workers() {
    model(2, || {
        let flows = flows(2);
        let workers = [(0, 1), (1, 5)].map(|(seat, number)| {
            worker(&flows, seat, move |flows, local| {
                if let Inserted::New(handle) = insert(flows, local, number, &[number + 1]) {
                    assert!(flows.v4.end(&mut local.v4, &flows.epochs, handle));
                    flows.epochs.quiesce(local.seat);
                }
                matches!(insert(flows, local, number + 2, &[number + 3]), Inserted::New(_))
            })
        });
        let made = workers.map(|worker| worker.join().unwrap());
        for (number, made) in [(1, made[0]), (5, made[1])] {
            assert!(find(&flows, number).is_none() && find(&flows, number + 1).is_none());
            let handle = find_live(&flows, number + 2);
            assert_eq!(handle.is_some(), made);
            if let Some(handle) = handle {
                assert_whole(&flows, handle, number + 2, number + 3, Direction::Forward);
            }
        }
    });
}
