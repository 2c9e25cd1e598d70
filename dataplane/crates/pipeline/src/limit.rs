//! How many ICMP errors may be sent: a token bucket a worker and one an input port (RFC 1812, section 4.3.2.8;
//! RFC 4443, section 2.4 (f)).
//!
//! Owns no clock. The port's bucket is asked first, so that one pod that provokes errors cannot use up the worker's.

use tables::PortId;

use crate::Tick;

/// A token is this many parts: at `n` tokens a second, a microsecond brings `n` parts.
const PARTS: u64 = 1_000_000;

/// Fills at a steady rate up to a burst; each event takes one token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    parts: u64,
    filled: Tick,
}

impl TokenBucket {
    /// A full one.
    pub(crate) const fn new(burst: u32) -> Self {
        Self { parts: burst as u64 * PARTS, filled: Tick(0) }
    }

    /// Takes a token if there is one. `now` may stand still, or even go back: then nothing flows in.
    pub(crate) fn take(&mut self, now: Tick, per_second: u32, burst: u32) -> bool {
        let inflow = now.since(self.filled).saturating_mul(u64::from(per_second));
        self.parts = self.parts.saturating_add(inflow).min(u64::from(burst) * PARTS);
        self.filled = self.filled.max(now);
        match self.parts.checked_sub(PARTS) {
            Some(left) => {
                self.parts = left;
                true
            }
            None => false,
        }
    }
}

/// Rates and bursts of both levels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
    pub(crate) port_per_second: u32,
    pub(crate) port_burst: u32,
}

/// The worker's bucket, one for each input port, and what they refused.
#[derive(Debug)]
pub(crate) struct Limiter {
    rates: Rates,
    worker: TokenBucket,
    ports: Box<[TokenBucket]>,
    suppressed: u64,
}

impl Limiter {
    pub(crate) fn new(rates: Rates) -> Self {
        let ports = vec![TokenBucket::new(rates.port_burst); usize::from(tables::MAX_PORTS)];
        Self { rates, worker: TokenBucket::new(rates.burst), ports: ports.into(), suppressed: 0 }
    }

    /// Whether an error about a packet from `port` may go out now; counts it if not.
    pub(crate) fn allow(&mut self, now: Tick, port: PortId) -> bool {
        let rates = self.rates;
        // Port ids are below MAX_PORTS; one that is not has no bucket, and no errors.
        let allowed = self
            .ports
            .get_mut(usize::from(port.0))
            .is_some_and(|bucket| bucket.take(now, rates.port_per_second, rates.port_burst))
            && self.worker.take(now, rates.per_second, rates.burst);
        self.suppressed += u64::from(!allowed);
        allowed
    }

    pub(crate) const fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATES: Rates = Rates { per_second: 1000, burst: 50, port_per_second: 100, port_burst: 10 };

    #[test]
    fn burst_then_rate() {
        let mut bucket = TokenBucket::new(3);
        let mut take = |us| bucket.take(Tick(us), 10, 3);
        assert!(take(0) && take(0) && take(0) && !take(0));
        assert!(!take(99_999));
        assert!(take(100_000) && !take(100_001));
        // A clock that goes back brings nothing, and the time it repeats is not counted twice.
        assert!(!take(50_000) && !take(199_999) && take(200_000));
        // A long rest fills it to the burst and no further.
        assert!(take(u64::MAX) && take(u64::MAX) && take(u64::MAX) && !take(u64::MAX));
    }

    #[test]
    fn one_port_cannot_use_up_the_workers() {
        let mut limiter = Limiter::new(RATES);
        let sent = (0..1000).filter(|_| limiter.allow(Tick(0), PortId(1))).count();
        assert_eq!((sent, limiter.suppressed()), (10, 990));
        assert!(limiter.allow(Tick(0), PortId(2)));
        assert!(!limiter.allow(Tick(0), PortId(u16::MAX)));
    }

    #[test]
    fn all_ports_together_stay_below_the_workers() {
        let mut limiter = Limiter::new(RATES);
        let sent = (0..1000).filter(|n| limiter.allow(Tick(0), PortId(n % 500))).count();
        assert_eq!((sent, limiter.suppressed()), (50, 950));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            steps in prop::collection::vec(0u64..100_000, 1..200), per_second in 0u32..5_000, burst in 0u32..100,
        ) {
            let mut bucket = TokenBucket::new(burst);
            let (mut now, mut taken) = (0, 0u64);
            for step in steps {
                now += step;
                taken += u64::from(bucket.take(Tick(now), per_second, burst));
            }
            prop_assert!(taken <= u64::from(burst) + now * u64::from(per_second) / PARTS);
        }
    }
}
