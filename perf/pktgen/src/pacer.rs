//! When each packet is to be sent.
//!
//! What always holds: packet k's time is start + k / rate, whatever happened to the packets before it. A sender that
//! was held up sends late packets with their old times, so the delay is in their latency (no coordinated omission).

use std::str::FromStr;

/// Packets a second, or as many as go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rate {
    /// As fast as the port takes them; a packet's time is when it was built.
    Max,
    /// In thousandths of a packet a second.
    Milli(u64),
}

const MOST_MILLI: u64 = 1_000_000_000_000;

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let bad =
            || format!("`{text}` is no rate: write packets a second, as in 2500, 100k or 1.5M, or `max`");
        let (digits, scale) = match text.strip_suffix(['k', 'K']) {
            Some(rest) => (rest, 1_000_000),
            None => match text.strip_suffix(['m', 'M']) {
                Some(rest) => (rest, 1_000_000_000),
                None => (text, 1_000),
            },
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let fits =
            |text: &str| !text.is_empty() && text.len() <= 9 && text.bytes().all(|c| c.is_ascii_digit());
        if !fits(whole) || !fits(part) {
            return Err(bad());
        }
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        let tenths = 10_u64.pow(u32::try_from(part.len()).map_err(|_| bad())?);
        let part: u64 = part.parse().map_err(|_| bad())?;
        match whole.checked_mul(scale).map(|milli| milli + part * scale / tenths) {
            Some(milli @ 1..=MOST_MILLI) => Ok(Self::Milli(milli)),
            _ => Err(format!("`{text}` is out of range: a rate is from 0.001 to 1000M packets a second")),
        }
    }
}

/// Counts what is due.
pub(crate) struct Pacer {
    rate: Rate,
    start_ns: u64,
    made: u64,
}

/// Nanoseconds a second, times a thousand.
const NANO_MILLI: u128 = 1_000_000_000_000;

impl Pacer {
    pub(crate) fn new(rate: Rate, start_ns: u64) -> Self {
        Self { rate, start_ns, made: 0 }
    }

    /// How many packets are due at `now_ns` and not yet made.
    pub(crate) fn due(&self, now_ns: u64) -> u64 {
        match self.rate {
            Rate::Max => u64::MAX,
            Rate::Milli(milli) => {
                let Some(elapsed) = now_ns.checked_sub(self.start_ns) else { return 0 };
                let due = u128::from(elapsed) * u128::from(milli) / NANO_MILLI + 1;
                u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.made)
            }
        }
    }

    /// The time of the next packet, which is made with this.
    pub(crate) fn take(&mut self, now_ns: u64) -> u64 {
        let time = self.next_ns().unwrap_or(now_ns);
        self.made += 1;
        time
    }

    /// When the next packet is due; none if always.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        match self.rate {
            Rate::Max => None,
            Rate::Milli(milli) => {
                // Rounded up, so that a packet is due when its time has come.
                let after = (u128::from(self.made) * NANO_MILLI).div_ceil(u128::from(milli));
                Some(self.start_ns.saturating_add(u64::try_from(after).unwrap_or(u64::MAX)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, milli) in [
            ("2500", 2_500_000),
            ("100k", 100_000_000),
            ("1.5M", 1_500_000_000),
            ("0.5", 500),
            ("1000M", MOST_MILLI),
        ] {
            assert_eq!(text.parse(), Ok(Rate::Milli(milli)), "{text}");
        }
        assert_eq!("max".parse(), Ok(Rate::Max));
        for bad in ["", "k", "-1", "1e6", "1.", ".5", "0", "0.0001", "1001M", "1,5", "99999999999M"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_do_not_drift() {
        let mut pacer = Pacer::new(Rate::Milli(3_000_000), 1_000);
        assert_eq!(pacer.due(999), 0);
        assert_eq!(pacer.due(1_000), 1);
        let mut times = Vec::new();
        // One late call makes up for all that was missed, each packet with its own time.
        for _ in 0..pacer.due(1_001_000) {
            times.push(pacer.take(1_001_000));
        }
        assert_eq!(times, [1_000, 334_334, 667_667, 1_001_000]);
        assert_eq!(pacer.due(1_001_000), 0);
        for _ in 0..3_000_000 - 4 {
            pacer.take(0);
        }
        assert_eq!(pacer.next_ns(), Some(1_000_000_001_000));
    }

    #[test]
    fn max_is_always_due() {
        let mut pacer = Pacer::new(Rate::Max, 0);
        assert_eq!((pacer.due(0), pacer.take(77), pacer.next_ns()), (u64::MAX, 77, None));
    }
}
