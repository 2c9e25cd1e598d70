//! Percentiles of short stretches of a run, so that what held the whole machine up for once does not stand for all of it.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::meter::HistogramError;

/// Latencies of one stretch above a second count as a second; two digits, so that it is emptied in a microsecond.
const MOST_NS: u64 = 1_000_000_000;
const DIGITS: u8 = 2;

/// The 99th percentile of each stretch, and of how many they are told.
#[derive(Clone)]
pub(crate) struct Windows {
    length_ns: u64,
    /// The number of the stretch that packets were last due in.
    number: u64,
    current: Histogram<u64>,
    p99: Histogram<u64>,
}

impl Windows {
    pub(crate) fn new(length: Duration) -> Result<Self, HistogramError> {
        let histogram = || Histogram::new_with_bounds(1, MOST_NS, DIGITS);
        let length_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX).max(1);
        Ok(Self { length_ns, number: 0, current: histogram()?, p99: histogram()? })
    }

    /// A packet that was due at this time came so much later. One of a stretch that is over counts with the next.
    pub(crate) fn record(&mut self, intended_ns: u64, latency_ns: u64) {
        let number = intended_ns / self.length_ns;
        if number > self.number {
            self.end();
            self.number = number;
        }
        self.current.saturating_record(latency_ns);
    }

    fn end(&mut self) {
        if !self.current.is_empty() {
            self.p99.saturating_record(self.current.value_at_quantile(0.99));
            self.current.clear();
        }
    }

    /// The 99th percentiles of all stretches, the last one's with them.
    pub(crate) fn finished(mut self) -> Histogram<u64> {
        self.end();
        self.p99
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_stretch_is_one_of_many() {
        let mut windows = Windows::new(Duration::from_millis(10)).unwrap();
        for number in 0..9 {
            for packet in 0..1_000 {
                // Of each stretch two in a hundred are late; of one of them, all.
                let late = if number == 4 {
                    900_000
                } else if packet % 50 == 0 {
                    5_000
                } else {
                    1_000
                };
                windows.record(number * 10_000_000 + packet * 10_000, late);
            }
        }
        // It was due in a stretch that is over, and changes nothing.
        windows.record(0, 1_000);
        let p99 = windows.finished();
        assert_eq!(p99.len(), 9);
        assert!(p99.equivalent(p99.value_at_quantile(0.5), 5_000));
        assert!(p99.equivalent(p99.max(), 900_000));
    }
}
