//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

const AFTER: &str = "\
Each case has the same entries in every table and looks up the same keys, in the same random order, 32 at a time. One in sixteen \
is a key at random, which most tables do not have. Before anything is timed, and again after entries were added, all tables must \
answer alike for each key; a key for which they do not is named, and ends the program.

Contestants then have their turns, one after the other, for --rounds. A figure is the median of the rounds; a ratio is of turns of \
one round, ours to theirs, so that below 1 ours takes less. Cycles are those of the time-stamp counter.

`bytes` are an entry's share of all that a table takes; one of a few entries has its fixed parts to bear. `add` is the time to add \
one entry to so many. Ours leaves the generation before it as it was, for readers that still have it; DPDK's tables change in place.

Exit codes: 0 done; 1 tables that answer differently, or an output that could not be written; 2 command line; 4 DPDK, permission or \
memory.

Examples:
  peers
  peers --only flows-v4 --sizes 65536 --rounds 31
  peers --large --huge yes --json";

/// Our tables against DPDK's: rte_lpm, rte_fib, rte_hash.
#[derive(Parser, Debug)]
#[command(name = "peers", version, after_help = AFTER)]
pub(crate) struct Args {
    /// Only these tables. May be repeated. [default: all]
    #[arg(long, value_enum, value_name = "TABLE")]
    pub(crate) only: Vec<Kind>,
    /// How many entries: routes, or flows, which have two keys each.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,65536,1000000", value_name = "N,…",
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) sizes: Vec<u32>,
    /// Also 10 million entries, but for IPv6 routes: some 10 GB, and minutes.
    #[arg(long)]
    pub(crate) large: bool,
    /// How often each contestant has its turn.
    #[arg(long, default_value_t = 15, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// How long a turn lasts, at least.
    #[arg(long, default_value_t = 10, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub(crate) turn: u64,
    /// The core to run on. [default: any]
    #[arg(long, value_name = "CORE")]
    pub(crate) core: Option<usize>,
    /// Hugepages for DPDK's tables: where there are enough, always, or never. Ours ask the kernel for large pages where they are
    /// one piece, which those of flows are.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) huge: HugeArg,
    /// Megabytes of memory for DPDK. [default: by the sizes]
    #[arg(long, value_name = "MB")]
    pub(crate) memory: Option<u32>,
    /// One JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write that document to a file as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Our routes with rte_lpm and rte_fib (DIR24_8).
    RoutesV4,
    /// Our routes with rte_lpm6 and rte_fib6.
    RoutesV6,
    /// Our flow table with rte_hash, keys of 16 bytes.
    FlowsV4,
    /// The same with keys of 40 bytes.
    FlowsV6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HugeArg {
    Auto,
    Yes,
    No,
}

/// What `--large` adds.
const LARGE: u32 = 10_000_000;

impl Args {
    /// The sizes of one kind's cases.
    pub(crate) fn sizes(&self, kind: Kind) -> Vec<u32> {
        let large = (self.large && kind != Kind::RoutesV6).then_some(LARGE);
        self.sizes.iter().copied().chain(large).collect()
    }

    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let all = Kind::value_variants();
        all.iter().copied().filter(|kind| self.only.is_empty() || self.only.contains(kind)).collect()
    }

    pub(crate) fn turn(&self) -> Duration {
        Duration::from_millis(self.turn)
    }

    /// Megabytes for the largest case: the tables of one case are there at a time.
    pub(crate) fn memory_mb(&self) -> u32 {
        let needed = |kind: Kind, entries: u32| {
            // A FIB keeps each route twice more, in a tree of its own; a group has 1 KiB, and IPv6 routes have several each.
            let bytes = match kind {
                Kind::RoutesV4 => 700,
                Kind::RoutesV6 => 6_500,
                Kind::FlowsV4 | Kind::FlowsV6 => 700,
            };
            // The first 24 bits take 64 MiB, once in each table.
            320 + u32::try_from((u64::from(entries) * bytes) >> 20).unwrap_or(u32::MAX)
        };
        let all =
            self.kinds().into_iter().flat_map(|kind| self.sizes(kind).into_iter().map(move |n| (kind, n)));
        self.memory.or_else(|| all.map(|(kind, n)| needed(kind, n)).max()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn memory_grows_with_the_largest_case() {
        let args = |line: &str| Args::parse_from(line.split_whitespace());
        assert!(args("peers --sizes 1").memory_mb() < 400);
        assert!(args("peers --only routes-v4").memory_mb() < args("peers").memory_mb());
        assert_eq!(args("peers --memory 77").memory_mb(), 77);
        let large = args("peers --large");
        assert_eq!(large.sizes(Kind::FlowsV4).last(), Some(&LARGE));
        assert_eq!(large.sizes(Kind::RoutesV6).last(), Some(&1_000_000));
    }
}
