//! Time and allocations of one thing done many times: what criterion is given, and what `cargo lab bench` reads beside it.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::counting::Counting;

/// Names the file that tallies are added to, a line each: the bench's full name, allocations, iterations, by tabulators.
pub const TALLIES: &str = "PODROUTER_BENCH_TALLIES";
/// Inputs made before a stretch of time begins: few enough for the second cache.
const BATCH: u64 = 32;

/// How often memory was asked for, in how many iterations. Counts where the program's allocator is [`Counting`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    allocations: u64,
    iterations: u64,
}

impl Tally {
    /// Does it so often, and says how long that took.
    pub fn run<T>(&mut self, iterations: u64, mut routine: impl FnMut() -> T) -> Duration {
        let (allocations, time) = Counting::during(|| {
            let start = Instant::now();
            for _ in 0..iterations {
                black_box(routine());
            }
            start.elapsed()
        });
        self.add(allocations, iterations);
        time
    }

    /// The same with an input each, which is made outside of the time, and an outcome that is dropped outside of it.
    pub fn run_with<I, T>(
        &mut self,
        iterations: u64,
        mut input: impl FnMut() -> I,
        mut routine: impl FnMut(&mut I) -> T,
    ) -> Duration {
        let mut time = Duration::ZERO;
        let mut left = iterations;
        while left > 0 {
            let count = left.min(BATCH);
            let mut inputs: Vec<I> = (0..count).map(|_| input()).collect();
            let mut outcomes = Vec::with_capacity(inputs.len());
            let (allocations, elapsed) = Counting::during(|| {
                let start = Instant::now();
                outcomes.extend(inputs.iter_mut().map(|input| black_box(routine(input))));
                start.elapsed()
            });
            time += elapsed;
            self.add(allocations, count);
            left -= count;
        }
        time
    }

    fn add(&mut self, allocations: u64, iterations: u64) {
        self.allocations += allocations;
        self.iterations += iterations;
    }

    /// Allocations an iteration.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds are below 2^53")]
    pub fn rate(&self) -> f64 {
        self.allocations as f64 / self.iterations.max(1) as f64
    }

    /// Adds it to the file that the environment names, or says it on standard error. Nothing where nothing was done.
    pub fn save(&self, bench: &str) {
        let Self { allocations, iterations } = self;
        if *iterations == 0 {
            return;
        }
        let Some(file) = std::env::var_os(TALLIES) else {
            eprintln!("{bench}: {} allocations an iteration", self.rate());
            return;
        };
        let opened = OpenOptions::new().create(true).append(true).open(&file);
        let written = opened.and_then(|mut file| writeln!(file, "{bench}\t{allocations}\t{iterations}"));
        if let Err(error) = written {
            eprintln!("{}: {error}", file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_iteration_has_an_input_of_its_own() {
        let (mut next, mut seen) = (0, Vec::new());
        let mut tally = Tally::default();
        tally.run_with(
            100,
            || {
                next += 1;
                next
            },
            |input| seen.push(*input),
        );
        tally.run(7, || ());
        assert_eq!(seen, (1..=100).collect::<Vec<_>>());
        assert_eq!(tally.iterations, 107);
    }
}
