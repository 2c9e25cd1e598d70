//! A table that is full takes each new flow all the same, and another one goes for it.
#![cfg(not(loom))]

use std::net::Ipv4Addr;

use flow::{
    Action, Binding, Family, Flows, FlowsConfig, Inserted, Local, NewFlow, Seat, Seconds, Signal, State,
    Timeouts, Tuple, V4,
};

const RECORDS: u32 = 1 << 14;

fn key(number: u32, reply: bool) -> flow::Key4 {
    let [_, a, b, c] = number.to_be_bytes();
    let ask = Tuple {
        src: Ipv4Addr::new(10, a, b, c),
        dst: Ipv4Addr::new(192, 0, 2, 1),
        src_port: 40_000,
        dst_port: 80,
        network: 0,
        protocol: 17,
    };
    V4::key(&if reply { ask.reversed() } else { ask })
}

#[test]
fn no_flow_is_refused_or_lost_for_want_of_a_lane() {
    let config = FlowsConfig {
        v4: RECORDS,
        v6: 64,
        seats: 1,
        seeds: [0x1234_5677, 0x9abc_def1, 3],
        timeouts: Timeouts::default(),
    };
    let words = (0..Flows::words(&config)).map(|_| flow::AtomicU64::new(0)).collect();
    let words: flow::Words = Vec::leak(words);
    let (flows, _) = Flows::adopt(words, &config).unwrap();
    let mut local = Local::new(Seat(0));
    flows.epochs.wake(local.seat);
    for number in 0..8 * RECORDS {
        flows.epochs.quiesce(local.seat);
        let new = NewFlow {
            key: key(number, false),
            state: State::first(false, Signal::Data),
            binding: Binding::default(),
            actions: [Action::NONE; 2],
            rules: [0; 2],
        };
        let made = flows.v4.insert(&mut local.v4, &flows.epochs, &new, [key(number, true)], Seconds(1));
        assert!(matches!(made, Inserted::New(_)), "flow {number}: {made:?}");
        for key in [key(number, false), key(number, true)] {
            assert!(flows.v4.find(flows.v4.hash(&key), &key).is_some());
        }
    }
    // As many as there are records, but for those in stock and the spare ones that eviction keeps.
    assert!(flows.v4.len() > RECORDS / 10 * 9, "{}", flows.v4.len());

    // The next process has all of them, though it finds them in another order.
    let live: Vec<_> = (0..RECORDS).filter_map(|record| flows.v4.row(record)).collect();
    let (again, adopted) = Flows::adopt(words, &config).unwrap();
    assert_eq!((adopted.known, adopted.v4 as usize), (true, live.len()));
    for row in live {
        for key in [V4::key(&row.forward), V4::key(&row.reply)] {
            assert!(again.v4.find(again.v4.hash(&key), &key).is_some(), "{row:?}");
        }
    }
}
