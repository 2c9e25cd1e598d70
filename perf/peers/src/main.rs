//! `peers`: our tables against DPDK's own, in one process and in turns.
//!
//! This file composes: arguments, EAL, one case after the other, the report. What is done in a case is in `contest.rs`.

#![forbid(unsafe_code)]

mod cli;
mod contest;
mod flows;
mod report;
mod routes;

use std::fs;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Parser, ValueEnum};
use dpdk::{Eal, EalConfig, Huge};
use flow::{V4, V6};

use crate::cli::{Args, HugeArg, Kind};
use crate::contest::{BURST, Failure, Pace};
use crate::report::{Case, Report};

/// Keys of a case: enough to see all of a small table, and for a large one more than the caches hold; not more, since they are read
/// from memory themselves.
const FEWEST_KEYS: u32 = 1 << 14;
const MOST_KEYS: u32 = 1 << 18;

fn main() -> ExitCode {
    let args = Args::parse();
    let (code, error) = match start(&args).map_err(|error| (4, error)).and_then(|eal| run(&args, &eal)) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failed) => failed,
    };
    say(&format!("peers: {error:#}"));
    ExitCode::from(code)
}

/// A line on stderr. Whoever read it may be gone, which is no reason to end without the results.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn start(args: &Args) -> anyhow::Result<Eal> {
    let eal = Eal::init(EalConfig {
        program: "peers".into(),
        memory_mb: Some(args.memory_mb()),
        huge: match args.huge {
            HugeArg::Auto => Huge::Auto,
            HugeArg::Yes => Huge::Yes,
            HugeArg::No => Huge::No,
        },
        // DPDK uses AVX-512 only where it is told to.
        extra: vec!["--force-max-simd-bitwidth=512".into()],
        ..EalConfig::default()
    })?;
    if let Some(id) = args.core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(anyhow!("--core {id}: this process may not run there"));
    }
    Ok(eal)
}

fn run(args: &Args, eal: &Eal) -> Result<(), (u8, anyhow::Error)> {
    #[expect(clippy::cast_precision_loss, reason = "some 10^9")]
    let hz = dpdk::cycles_hz(eal) as f64;
    let pace = Pace { rounds: args.rounds, turn: args.turn(), hz };
    let mut cases = Vec::new();
    for kind in args.kinds() {
        for entries in args.sizes(kind) {
            let name = kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            say(&format!("{name}: {entries}"));
            cases.push(case(eal, kind, entries, pace).map_err(classified)?);
        }
    }
    let report = Report { dpdk: Eal::version(), hugepages: eal.hugepages(), hz, cases };
    finish(args, &report).map_err(|error| (1, error))
}

fn case(eal: &Eal, kind: Kind, entries: u32, pace: Pace) -> Result<Case, Failure> {
    let keys = entries.saturating_mul(4).clamp(FEWEST_KEYS, MOST_KEYS) as usize / BURST * BURST;
    match kind {
        Kind::RoutesV4 => routes::v4(eal, entries, pace.rounds, keys)?.run(pace),
        Kind::RoutesV6 => routes::v6(eal, entries, pace.rounds, keys)?.run(pace),
        Kind::FlowsV4 => flows::contest::<V4, 2>(eal, entries, pace.rounds, keys)?.run(pace),
        Kind::FlowsV6 => flows::contest::<V6, 5>(eal, entries, pace.rounds, keys)?.run(pace),
    }
}

/// What DPDK refuses is for want of memory; all else is what this program is there to find.
fn classified(failure: Failure) -> (u8, anyhow::Error) {
    let code = if failure.is::<dpdk::TableError>() { 4 } else { 1 };
    (code, anyhow!(failure))
}

fn finish(args: &Args, report: &Report) -> anyhow::Result<()> {
    let document = format!("{:#}\n", report.json());
    if let Some(path) = &args.save {
        fs::write(path, &document).with_context(|| format!("--save {}", path.display()))?;
    }
    let text = if args.json { document } else { report.table() };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
