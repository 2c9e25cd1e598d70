//! Every interleaving of small scenes, by loom: `RUSTFLAGS="--cfg loom" cargo test -p meter --release --test loom`.
#![cfg(loom)]

use std::iter::repeat_n;

use loom::sync::Arc;
use loom::thread;
use meter::{Bucket, Limit};

/// A packet of each taker, so that a sum says who has passed.
const PACKETS: [usize; 3] = [100, 10, 1];

#[test]
fn what_workers_take_at_once_is_taken_once() {
    loom::model(|| {
        let bucket = Arc::new(Bucket::new(Limit { rate: 1, burst: 222 }, 0));
        let workers = [PACKETS[0], PACKETS[1]].map(|packet| {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || bucket.take(0, repeat_n(packet, 2)) * packet)
        });
        let ours = bucket.take(0, repeat_n(PACKETS[2], 2)) * PACKETS[2];
        let taken = workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>() + ours;
        assert_eq!(taken, 222, "there was enough for all");
        assert_eq!(bucket.take(0, repeat_n(1, 1)), 0, "and nothing is left");
    });
}

#[test]
fn only_one_goes_beyond() {
    loom::model(|| {
        let bucket = Arc::new(Bucket::new(Limit { rate: 1, burst: 15 }, 0));
        let workers = [0, 0].map(|_| {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || bucket.take(0, repeat_n(10, 2)))
        });
        let passed: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert_eq!(passed, 2);
    });
}

#[test]
fn a_late_clock_takes_nothing_twice() {
    loom::model(|| {
        let bucket = Arc::new(Bucket::new(Limit { rate: 10, burst: 20 }, 0));
        let workers = [0, 1_000_000].map(|now| {
            let bucket = Arc::clone(&bucket);
            thread::spawn(move || bucket.take(now, repeat_n(10, 4)))
        });
        let passed: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        // Two of the burst; and one of the second, unless the bucket was full all that time.
        assert!((2..=3).contains(&passed), "{passed}");
        assert_eq!(bucket.take(1_000_000, repeat_n(10, 4)), 0);
    });
}
