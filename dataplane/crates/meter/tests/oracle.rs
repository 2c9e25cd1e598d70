//! Whatever is offered, and when: held against one that adds up all that has passed, again for each window.
#![cfg(not(loom))]

use std::thread;

use meter::{Bucket, Limit};
use proptest::prelude::*;

/// What passed, and when.
struct Passed {
    at_us: u64,
    bytes: u64,
}

const SECOND: u128 = 1_000_000;

/// The most that may have passed between two times, in millionths of a byte.
fn most(limit: Limit, window_us: u64, longest: u64) -> u128 {
    (u128::from(limit.burst) + u128::from(longest) + 1) * SECOND
        + u128::from(limit.rate) * u128::from(window_us)
}

fn limits() -> impl Strategy<Value = Limit> {
    let rate = prop_oneof![1_u64..10_000, 10_000_u64..2_000_000_000, Just(1 << 35)];
    let burst = prop_oneof![1_u64..200, 200_u64..1_000_000, Just(u64::from(u32::MAX) / 8)];
    (rate, burst).prop_map(|(rate, burst)| Limit { rate, burst })
}

/// Bursts, each some time after the one before.
fn offers() -> impl Strategy<Value = Vec<(u64, Vec<usize>)>> {
    let pause = prop_oneof![Just(0_u64), 1_u64..50, 50_u64..2_000_000];
    let packet = prop_oneof![14_usize..100, 1_000_usize..1_515, Just(65_550_usize)];
    prop::collection::vec((pause, prop::collection::vec(packet, 0..33)), 1..60)
}

proptest! {
    /// In any window no more than burst, rate and one packet; and all that may pass by the rule does: the first of what was
    /// refused came when the burst was used up.
    #[test]
    fn no_window_has_more_and_none_less(limit in limits(), offers in offers(), start in 0_u64..1 << 50) {
        let bucket = Bucket::new(limit, start);
        let mut now = start;
        let mut passed: Vec<Passed> = Vec::new();
        // As water: it runs out at the rate, in millionths of a byte.
        let (mut level, mut last) = (0_u128, start);
        for (pause, packets) in offers {
            now += pause;
            let n = bucket.take(now, packets.iter().copied());
            level = level.saturating_sub(u128::from(limit.rate) * u128::from(now - last));
            last = now;
            for (at, &packet) in packets.iter().enumerate() {
                let room = u128::from(limit.burst) * SECOND;
                // Rounding is of less than a byte.
                if at < n {
                    prop_assert!(level < room + SECOND, "passed at a level of {level} of {room}");
                    level += packet as u128 * SECOND;
                    passed.push(Passed { at_us: now, bytes: packet as u64 });
                } else {
                    prop_assert!(level + SECOND > room, "refused at a level of {level} of {room}");
                }
            }
        }
        let longest = passed.iter().map(|one| one.bytes).max().unwrap_or(0);
        for (at, first) in passed.iter().enumerate() {
            let mut bytes = 0;
            for one in &passed[at..] {
                bytes += u128::from(one.bytes);
                prop_assert!(bytes * SECOND <= most(limit, one.at_us - first.at_us, longest));
            }
        }
    }

    /// Each packet comes no sooner than the rate has made the one before.
    #[test]
    fn who_sends_less_than_the_rate_loses_nothing(
        rate in 1_000_u64..2_000_000_000,
        packets in prop::collection::vec((14_usize..65_551, 0_u64..1_000), 1..200),
        start in 0_u64..1 << 50,
    ) {
        let bucket = Bucket::new(Limit { rate, burst: 1 }, start);
        let mut now = start;
        for (packet, late) in packets {
            prop_assert_eq!(bucket.take(now, std::iter::once(packet)), 1);
            // A byte more makes up for what is rounded.
            now += ((packet as u64 + 1) * 1_000_000).div_ceil(rate) + late;
        }
    }
}

/// Several workers, each with a clock of its own making that only goes on.
#[test]
fn workers_at_once_pass_what_one_would() {
    const BURSTS: u64 = 20_000;
    let limit = Limit { rate: 1_000_000, burst: 10_000 };
    let bucket = Bucket::new(limit, 0);
    let worker = |_| (0..BURSTS).map(|us| 100 * bucket.take(us, std::iter::repeat_n(100, 8)) as u64).sum();
    let passed: u64 = thread::scope(|scope| {
        let workers = [0, 1, 2].map(|number| scope.spawn(move || worker(number)));
        workers.into_iter().map(|worker| worker.join().map_or(0, |bytes: u64| bytes)).sum()
    });
    let whole = limit.burst + BURSTS * limit.rate / 1_000_000;
    // Each clock shows every microsecond, and the last one to end leaves the bucket empty.
    assert!((whole - 100..=whole + 100).contains(&passed), "{passed} of {whole}");
}
