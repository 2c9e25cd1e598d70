//! `cargo lab bench peers`: our tables against DPDK's, which the package `peers` measures and shows by itself.
//!
//! It is built for this alone: no other command needs it.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result};
use lab::artefacts::cargo;
use lab::process::show;
use lab::run::Run;
use serde_json::Value;

use super::Pace;
use super::machine::Machine;
use super::report::keep;
use crate::say;

/// Turns of a round here, each a hundredth as long as a turn of programs: what is measured has no start-up, and there are some
/// sixty contestants.
const TURNS: u32 = 3;

/// How it is run.
pub(crate) struct Wanted {
    pub(crate) core: usize,
    pub(crate) hugepages: bool,
    pub(crate) pace: Pace,
    pub(crate) large: bool,
}

/// Builds and runs it, and keeps what it found.
pub(crate) fn run(run: &Run, wanted: Wanted, machine: &Machine, as_json: bool) -> Result<()> {
    let Wanted { core, hugepages, pace, large } = wanted;
    let file = run.dir().join("peers.json");
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "peers", "--"]);
    command.args(["--rounds", &(pace.rounds * TURNS).min(1_000).to_string()]);
    command.args(["--turn", &(pace.turn.as_millis() / 100).min(10_000).to_string()]);
    command.args(["--core", &core.to_string(), "--huge", if hugepages { "yes" } else { "no" }]);
    command.args(large.then_some("--large")).arg("--save").arg(&file);
    if as_json {
        command.stdout(Stdio::null());
    }
    show(&mut command)?;
    let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let found: Value = serde_json::from_str(&text).context("peers wrote something else than JSON")?;
    let (document, file) = keep("peers", &machine.facts(hugepages), found)?;
    if as_json {
        return say(format_args!("{document:#}"));
    }
    say(format_args!("{machine}\nRaw data: {}", file.display()))
}
