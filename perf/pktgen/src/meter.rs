//! What came back: received, reordered, twice, and how late.
//!
//! Reordered is RFC 4737's: a packet whose number is below one that came before it, in its flow. A packet that comes
//! more than 1,024 numbers late counts as reordered; whether it is a duplicate is no longer known.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::stamp::Stamp;
use crate::windows::Windows;

const WINDOW: u64 = 1024;
const WORDS: usize = 16;

/// The arrivals of one flow.
#[derive(Clone)]
struct Flow {
    /// One above the highest number seen.
    next: u64,
    /// The last 1,024 numbers below `next`: one bit each, at number modulo 1,024.
    seen: [u64; WORDS],
}

#[derive(PartialEq, Eq, Debug)]
enum Arrival {
    InOrder,
    Reordered,
    Duplicate,
}

fn place(number: u64) -> (usize, u64) {
    let bit = number % WINDOW;
    (usize::try_from(bit / 64).unwrap_or(0) % WORDS, 1 << (bit % 64))
}

impl Flow {
    const NEW: Self = Self { next: 0, seen: [0; WORDS] };

    fn arrive(&mut self, seq: u32) -> Arrival {
        // The 64-bit number nearest to what is expected.
        #[expect(clippy::cast_possible_truncation, reason = "the low half is what is compared")]
        let ahead = seq.wrapping_sub(self.next as u32).cast_signed();
        let Some(number) = self.next.checked_add_signed(ahead.into()) else { return Arrival::Reordered };
        if number >= self.next {
            if number - self.next >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.next..number {
                    let (word, bit) = place(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.next = number + 1;
            let (word, bit) = place(number);
            self.seen[word] |= bit;
            return Arrival::InOrder;
        }
        if self.next - number > WINDOW {
            return Arrival::Reordered;
        }
        let (word, bit) = place(number);
        if self.seen[word] & bit != 0 {
            return Arrival::Duplicate;
        }
        self.seen[word] |= bit;
        Arrival::Reordered
    }
}

/// Why there is no histogram: its bounds are constants, so never.
pub(crate) type HistogramError = hdrhistogram::CreationError;

/// The arrivals of all flows of a direction.
pub(crate) struct Meter {
    flows: Vec<Flow>,
    /// Different packets.
    pub(crate) received: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicates: u64,
    /// Nanoseconds from a packet's intended time to its arrival.
    pub(crate) latency: Histogram<u64>,
    /// The same by stretches of time, if that is asked for.
    pub(crate) windows: Option<Windows>,
}

/// Latencies above a minute count as a minute.
const MOST_NS: u64 = 60_000_000_000;

impl Meter {
    pub(crate) fn new(flows: usize, window: Option<Duration>) -> Result<Self, HistogramError> {
        let latency = Histogram::new_with_bounds(1, MOST_NS, 3)?;
        let windows = window.map(Windows::new).transpose()?;
        let flows = vec![Flow::NEW; flows];
        Ok(Self { flows, received: 0, reordered: 0, duplicates: 0, latency, windows })
    }

    /// Counts a packet of this run.
    pub(crate) fn arrive(&mut self, stamp: Stamp, now_ns: u64) {
        // Of our run but not of our flows: nobody made that; count it as a packet that was not lost.
        let Some(flow) = self.flows.get_mut(usize::from(stamp.flow)) else { return };
        match flow.arrive(stamp.seq) {
            Arrival::Duplicate => {
                self.duplicates += 1;
                return;
            }
            Arrival::Reordered => self.reordered += 1,
            Arrival::InOrder => {}
        }
        self.received += 1;
        let latency_ns = now_ns.saturating_sub(stamp.intended_ns).max(1);
        self.latency.saturating_record(latency_ns);
        if let Some(windows) = &mut self.windows {
            windows.record(stamp.intended_ns, latency_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(flow: &mut Flow, seqs: &[u32]) -> Vec<Arrival> {
        seqs.iter().map(|&seq| flow.arrive(seq)).collect()
    }

    #[test]
    fn order_and_duplicates() {
        use Arrival::{Duplicate, InOrder, Reordered};
        let mut flow = Flow::NEW;
        assert_eq!(
            arrivals(&mut flow, &[0, 1, 1, 4, 2, 3, 2, 5, 0]),
            [InOrder, InOrder, Duplicate, InOrder, Reordered, Reordered, Duplicate, InOrder, Duplicate]
        );
        // Far ahead: the window is empty but for the last; what is older than it is only late.
        assert_eq!(
            arrivals(&mut flow, &[5000, 5000, 3977, 3977, 3976, 3976]),
            [InOrder, Duplicate, Reordered, Duplicate, Reordered, Reordered]
        );
    }

    #[test]
    fn numbers_wrap() {
        let mut flow = Flow::NEW;
        flow.next = u64::from(u32::MAX) - 1;
        assert_eq!(
            arrivals(&mut flow, &[u32::MAX - 1, 0, u32::MAX, 0]),
            [Arrival::InOrder, Arrival::InOrder, Arrival::Reordered, Arrival::Duplicate]
        );
        assert_eq!(flow.next, 1 << 32 | 1);
    }

    #[test]
    fn agrees_with_a_set() {
        // A pseudo-random walk within the window against the obvious.
        let mut flow = Flow::NEW;
        let (mut seen, mut highest, mut state) = (std::collections::HashSet::new(), None, 1_u64);
        for step in 0..50_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let seq = u32::try_from(step.saturating_sub((state >> 33) % 900)).unwrap();
            let expected = match highest {
                Some(top) if seq <= top => {
                    if seen.contains(&seq) {
                        Arrival::Duplicate
                    } else {
                        Arrival::Reordered
                    }
                }
                _ => Arrival::InOrder,
            };
            assert_eq!(flow.arrive(seq), expected, "step {step}, number {seq}");
            seen.insert(seq);
            highest = highest.max(Some(seq));
        }
    }

    #[test]
    fn latency_is_from_the_intended_time() {
        let mut meter = Meter::new(1, None).unwrap();
        meter.arrive(Stamp { run: 0, flow: 0, seq: 0, intended_ns: 1_000 }, 6_000);
        meter.arrive(Stamp { run: 0, flow: 0, seq: 0, intended_ns: 1_000 }, 9_000);
        meter.arrive(Stamp { run: 0, flow: 1, seq: 0, intended_ns: 0 }, 9_000);
        assert_eq!((meter.received, meter.duplicates, meter.latency.len()), (1, 1, 1));
        assert!(meter.latency.equivalent(meter.latency.max(), 5_000));
    }
}
