//! A token bucket that several workers take from, without a lock: the rate of one direction of one port.
//!
//! It is one number, the *mark*: how many bytes would have passed by now, had the rate been used all the time, plus what has been
//! passed ahead of it (the theoretical arrival time of GCRA, ITU-T I.371, told in bytes, so that nothing is lost by rounding). What lies
//! above the rate's own count is the level: 0 is a full bucket. A packet passes while the level is below the burst, however long the
//! packet: so the last one may go beyond, and one that is longer than the burst itself passes in its turn.
//!
//! What always holds: within any time, no more passes than the burst, the rate times that time, one packet, and one byte; and who keeps
//! to rate and burst loses nothing.

#![forbid(unsafe_code)]

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes a second that are told apart: 549 Gbit/s, beyond what one port carries. The mark takes more than 4 years of it.
const MOST_RATE: u64 = 1 << 36;

/// Most bytes of a burst that are told apart.
const MOST_BURST: u64 = 1 << 60;

/// How much may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes a second, at least 1.
    pub rate: u64,
    /// Bytes that may pass at once after a rest, at least 1.
    pub burst: u64,
}

/// Bytes that may pass, by one limit. It is alone on its cache lines: each burst of each worker that has a queue of the port may write
/// it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Bucket {
    rate: u64,
    burst: u64,
    mark: AtomicU64,
}

impl Bucket {
    /// A full one. A limit of nothing lets one byte a second pass.
    #[must_use]
    pub fn new(limit: Limit, now_us: u64) -> Self {
        let rate = limit.rate.clamp(1, MOST_RATE);
        let mark = AtomicU64::new(count(rate, now_us));
        Self { rate, burst: limit.burst.clamp(1, MOST_BURST), mark }
    }

    /// How many of the packets pass, from the first on; the others are to be dropped. `now_us` is in microseconds, of a clock that all
    /// takers have in common; one that is late finds the bucket as the others left it.
    ///
    /// One compare-exchange, or none where nothing passes; again where another worker was faster.
    #[must_use]
    pub fn take(&self, now_us: u64, packets: impl Iterator<Item = usize> + Clone) -> usize {
        let now = count(self.rate, now_us);
        // Nothing else is told by the mark, so that no other memory has to be in order with it.
        let mut mark = self.mark.load(Ordering::Relaxed);
        loop {
            let before = level(mark, now);
            let (mut after, mut passed) = (before, 0);
            for packet in packets.clone() {
                if after >= self.burst {
                    break;
                }
                after = after.saturating_add(packet as u64);
                passed += 1;
            }
            if passed == 0 {
                return 0;
            }
            let new = now.wrapping_add(after);
            match self.mark.compare_exchange_weak(mark, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return passed,
                Err(there) => mark = there,
            }
        }
    }
}

/// Bytes that the rate makes until then, rounded down. It may wrap, as the mark then does too.
fn count(rate: u64, now_us: u64) -> u64 {
    let (seconds, part) = (now_us / 1_000_000, now_us % 1_000_000);
    seconds.wrapping_mul(rate).wrapping_add(part * rate / 1_000_000)
}

/// How far the mark is ahead; what is behind is a rest that brings no more than a full bucket.
fn level(mark: u64, now: u64) -> u64 {
    let ahead = mark.wrapping_sub(now);
    if ahead >> 63 == 0 { ahead } else { 0 }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// 8 kbit/s: a byte a millisecond.
    const SLOW: Limit = Limit { rate: 1_000, burst: 3_000 };

    fn bucket(limit: Limit) -> Bucket {
        Bucket::new(limit, 0)
    }

    fn take(bucket: &Bucket, now_us: u64, packets: &[usize]) -> usize {
        bucket.take(now_us, packets.iter().copied())
    }

    #[test]
    fn a_burst_then_the_rate() {
        let bucket = bucket(SLOW);
        // The third leaves the level at the burst, and there it ends.
        assert_eq!(take(&bucket, 0, &[1_000; 5]), 3);
        assert_eq!(take(&bucket, 0, &[1]), 0);
        assert_eq!(take(&bucket, 999, &[1]), 0, "less than a byte has come back");
        assert_eq!(take(&bucket, 1_000, &[1, 1]), 1);
        // Of a second's bytes one is used; a packet may go beyond, and is paid for.
        assert_eq!(take(&bucket, 1_000_000, &[500, 500, 500]), 2);
        assert_eq!(take(&bucket, 1_001_000, &[500]), 0);
        assert_eq!(take(&bucket, 1_002_000, &[500]), 1);
    }

    #[test]
    fn a_rest_fills_it_and_no_further() {
        let bucket = bucket(SLOW);
        assert_eq!(take(&bucket, 0, &[1_000; 5]), 3);
        assert_eq!(take(&bucket, 3_600_000_000, &[1_000; 5]), 3);
    }

    #[test]
    fn a_packet_longer_than_the_burst_passes_in_its_turn_and_is_paid_for() {
        let bucket = bucket(Limit { rate: 1_000_000, burst: 1_500 });
        assert_eq!(take(&bucket, 0, &[65_536, 65_536]), 1);
        assert_eq!(take(&bucket, 64_036, &[64]), 0);
        assert_eq!(take(&bucket, 64_037, &[64]), 1);
    }

    #[test]
    fn a_clock_that_goes_back_brings_nothing() {
        let bucket = Bucket::new(SLOW, 5_000_000);
        assert_eq!(take(&bucket, 5_000_000, &[1_000; 5]), 3);
        assert_eq!(take(&bucket, 4_000_000, &[1_000]), 0);
        assert_eq!(take(&bucket, 5_500_000, &[400, 400]), 2);
        assert_eq!(take(&bucket, 5_000_000, &[1]), 0);
    }

    #[test]
    fn numbers_of_any_size() {
        // What runtimes write as a burst, and more; a clock of centuries.
        for limit in [u64::from(u32::MAX) / 8, u64::MAX].map(|burst| Limit { rate: u64::MAX, burst }) {
            for now in [0, 1 << 40, 1 << 53, u64::MAX] {
                let bucket = Bucket::new(limit, now);
                assert_eq!(take(&bucket, now, &[65_536; 32]), 32, "{limit:?} {now}");
            }
        }
        let nothing = bucket(Limit { rate: 0, burst: 0 });
        assert_eq!(take(&nothing, 0, &[9_000, 64]), 1);
        assert_eq!(take(&nothing, 8_999_999_999, &[64]), 0);
        assert_eq!(take(&nothing, 9_000_000_000, &[64]), 1);
    }

    #[test]
    fn nothing_is_taken_for_nothing() {
        assert_eq!(take(&bucket(SLOW), 0, &[]), 0);
    }
}
