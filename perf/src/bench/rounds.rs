//! Runs in turn: each contestant for a while, then the next, round after round, while all others are stopped.
//!
//! A shared machine's speed changes from second to second, so lone figures say nothing. What is compared are the rates
//! of one round, and of each the 90th percentile of its windows: the machine's bad moments are nobody's merit.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::signals;
use serde_json::{Value, json};

use super::Pace;
use super::contestant::Contestant;

/// One reading of a contestant's counter and the next lie so far apart.
const WINDOW: Duration = Duration::from_millis(100);

/// Before the first window: caches and branch predictors are another's still.
pub(crate) const WARM_UP: Duration = Duration::from_millis(300);

/// Which of a round's windows counts, in percent.
pub(crate) const PERCENTILE: usize = 90;

/// What one contestant did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) command: String,
    /// Packets a second in each window, by round.
    pub(crate) rounds: Vec<Vec<f64>>,
}

impl Measured {
    /// Packets a second, by round.
    pub(crate) fn rates(&self) -> Vec<f64> {
        self.rounds.iter().map(|windows| percentile(windows, PERCENTILE)).collect()
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "name": self.name, "command": self.command, "windows_pps": self.rounds, "pps": self.rates() })
    }
}

/// Measures them in turn. They have been started, and run.
pub(crate) fn run(pace: Pace, contestants: &mut [&mut dyn Contestant]) -> Result<Vec<Measured>> {
    let mut results: Vec<Measured> = Vec::new();
    for contestant in &mut *contestants {
        contestant.pause()?;
        let (name, command) = (contestant.name().to_owned(), contestant.command().to_owned());
        results.push(Measured { name, command, rounds: Vec::new() });
    }
    for round in 0..pace.rounds {
        for (contestant, result) in contestants.iter_mut().zip(&mut results) {
            let windows = turn(pace, *contestant).with_context(|| contestant.name().to_owned())?;
            let rate = percentile(&windows, PERCENTILE) / 1e6;
            eprintln!("  round {} of {}: {:<28} {rate:>7.2} Mpps", round + 1, pace.rounds, result.name);
            result.rounds.push(windows);
        }
    }
    for contestant in contestants {
        contestant.resume()?;
        contestant.verify()?;
        contestant.pause()?;
    }
    Ok(results)
}

/// One contestant's turn: packets a second of each window.
pub(crate) fn turn(pace: Pace, contestant: &mut dyn Contestant) -> Result<Vec<f64>> {
    contestant.resume()?;
    sleep(WARM_UP);
    let mut windows = Vec::new();
    let start = Instant::now();
    let mut before = read(contestant)?;
    while start.elapsed() < pace.turn || windows.is_empty() {
        signals::check()?;
        sleep(WINDOW);
        let now = read(contestant)?;
        #[expect(clippy::cast_precision_loss, reason = "packets of a tenth of a second")]
        let packets = (now.0 - before.0) as f64;
        windows.push(packets / (now.1 - before.1).as_secs_f64());
        before = now;
    }
    contestant.pause()?;
    ensure!(windows.iter().any(|&rate| rate > 0.0), "no packet was forwarded");
    Ok(windows)
}

/// The counter, and when it was read: half-way between question and answer.
fn read(contestant: &mut dyn Contestant) -> Result<(u64, Instant)> {
    let asked = Instant::now();
    let sent = contestant.sent()?;
    Ok((sent, asked + asked.elapsed() / 2))
}

/// The value that `percent` of all values do not exceed; 0 of none.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!([50, 90, 100].map(|p| percentile(&values, p)), [10.0, 18.0, 20.0]);
        assert_eq!(percentile(&[7.0], 90), 7.0);
        assert_eq!(percentile(&[], 90), 0.0);
    }
}
