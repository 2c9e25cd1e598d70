//! Groups of benches whose allocations are counted too.

use std::fmt::Display;
use std::time::Duration;

use benches::counting::Counting;
use benches::tally::Tally;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};

#[global_allocator]
static ALL: Counting = Counting;

/// A group of benches under one name.
pub(crate) struct Group<'c> {
    name: String,
    group: BenchmarkGroup<'c, WallTime>,
}

#[allow(dead_code, reason = "each program of benches needs some of it")]
impl<'c> Group<'c> {
    /// `elements` is what one iteration does: results are for one of them.
    pub(crate) fn new(c: &'c mut Criterion, name: impl Into<String>, elements: u64) -> Self {
        let name = name.into();
        let mut group = c.benchmark_group(&name);
        // There are some two hundred benches: three seconds each tell as much as ten.
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        group.sample_size(50).throughput(Throughput::Elements(elements));
        Self { name, group }
    }

    /// From here on an iteration does so many.
    pub(crate) fn elements(&mut self, elements: u64) {
        self.group.throughput(Throughput::Elements(elements));
    }

    /// For what takes a tenth of a second and more.
    pub(crate) fn slow(&mut self) {
        self.group.sample_size(10);
    }

    /// Times one thing.
    pub(crate) fn bench<T>(&mut self, what: &str, size: impl Display, mut routine: impl FnMut() -> T) {
        let mut tally = Tally::default();
        self.group.bench_function(BenchmarkId::new(what, &size), |b| {
            b.iter_custom(|iterations| tally.run(iterations, &mut routine));
        });
        tally.save(&format!("{}/{what}/{size}", self.name));
    }

    /// Times one thing that has a new input each time. Neither making that nor dropping what comes out is in the time.
    pub(crate) fn bench_with<I, T>(
        &mut self,
        what: &str,
        size: impl Display,
        mut input: impl FnMut() -> I,
        mut routine: impl FnMut(&mut I) -> T,
    ) {
        let mut tally = Tally::default();
        self.group.bench_function(BenchmarkId::new(what, &size), |b| {
            b.iter_custom(|iterations| tally.run_with(iterations, &mut input, &mut routine));
        });
        tally.save(&format!("{}/{what}/{size}", self.name));
    }
}
