//! From a pod's rates as CNI has them to its port's limits.
//!
//! What always holds: a rate that was asked for is a limit, however small, and has a burst that lets packets through.

use std::num::NonZeroU64;

use proto::control::Bandwidth;
use proto::dataplane::{Limit, Limits};

/// A burst of so many bits or more was chosen by nobody: Kubernetes' annotations name none, and runtimes then write the largest number
/// that they have (2^31 - 1, 2^32 - 1, 8 times that). Taken at its word, it would let a pod's first 256 MiB and more pass without limit.
const NOBODYS: u64 = (1 << 31) - 1;

/// Where nobody has chosen: what the rate makes in 100 ms, so that senders that are told of a loss after a round trip keep the rate;
const BURSTS_A_SECOND: u64 = 10;
/// and no less than two of the largest segments, in bytes.
const LEAST_BURST: u64 = 128 << 10;

/// The limits of a port, in whole bytes.
pub(crate) fn limits(asked: Option<Bandwidth>) -> Limits {
    let Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst } = asked.unwrap_or_default();
    Limits { ingress: limit(ingress_rate, ingress_burst), egress: limit(egress_rate, egress_burst) }
}

fn limit(bits_a_second: u64, burst_bits: u64) -> Option<Limit> {
    let rate = NonZeroU64::new(bits_a_second)?.get().div_ceil(8);
    let burst = match burst_bits {
        0 | NOBODYS.. => (rate / BURSTS_A_SECOND).max(LEAST_BURST),
        chosen => chosen.div_ceil(8),
    };
    Some(Limit { rate, burst })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(limits(None), Limits::default());
        let bursts = Bandwidth { ingress_burst: 8, egress_burst: 8, ..Bandwidth::default() };
        assert_eq!(limits(Some(bursts)), Limits::default());
    }

    #[test]
    fn each_direction_has_its_own() {
        let asked = Bandwidth {
            ingress_rate: 10_000_000,
            ingress_burst: 1_600_000,
            egress_rate: 1_000_000,
            egress_burst: 0,
        };
        assert_eq!(
            limits(Some(asked)),
            Limits {
                ingress: Some(Limit { rate: 1_250_000, burst: 200_000 }),
                egress: Some(Limit { rate: 125_000, burst: 131_072 }),
            }
        );
    }

    #[test]
    fn a_burst_that_nobody_chose_follows_the_rate() {
        let burst = |rate, burst| limit(rate, burst).unwrap().burst;
        let max = u64::from(u32::MAX);
        for nobodys in [0, (1 << 31) - 1, max, max * 8 - 1, max * 8, u64::MAX] {
            assert_eq!(burst(1_000_000_000, nobodys), 12_500_000);
            assert_eq!(burst(1_000, nobodys), 128 << 10);
        }
        assert_eq!(burst(1_000_000_000, (1 << 31) - 2), 1 << 28);
    }

    #[test]
    fn nothing_is_rounded_to_nothing_and_nothing_overflows() {
        assert_eq!(limit(1, 1), Some(Limit { rate: 1, burst: 1 }));
        assert_eq!(limit(u64::MAX, 0), Some(Limit { rate: 1 << 61, burst: (1 << 61) / 10 }));
    }
}
