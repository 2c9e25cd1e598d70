//! `cargo lab`: install, build, test, demonstrate and measure podrouter from one place.
//!
//! Exit codes: 0 all is well, 1 something failed, 2 the command line is wrong.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod fuzz;
mod gauge;
mod soak;
mod steps;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::artefacts::Artefacts;
use lab::packages::{self, Set};
use lab::process::is_broken_pipe;
use lab::run::{Sweep, sweep};
use lab::signals;

/// Install, build, test, demonstrate and measure podrouter.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version)]
#[command(after_help = "Exit codes: 0 all is well, 1 something failed, 2 the command line is wrong.")]
struct Arguments {
    /// Install missing packages without asking.
    #[arg(long, global = true)]
    yes: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the Debian packages that building and running need.
    Install,
    /// Build the binaries, as the other commands do before they run them.
    Build,
    /// Check everything: format, lints, unit and property tests, loom, fuzzing, system tests.
    Test(steps::Arguments),
    /// Show a node at work: pods, host and an outside host talk through podrouter.
    Demo(demo::Arguments),
    /// Take down what `demo --keep` left up.
    Down,
    /// Fuzz each parser for a while.
    Fuzz {
        /// How long, for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Only targets whose name contains this.
        #[arg(long)]
        filter: Option<String>,
    },
    /// Measure: the pure crates, or the data plane against its peers.
    Bench(bench::Arguments),
    /// Count instructions a packet, and compare with those that the tree owns up to.
    Gauge(gauge::Arguments),
    /// Repeat the system tests for a long time.
    Soak {
        /// How long; the round that has begun is finished.
        #[arg(long, default_value_t = 30)]
        minutes: u32,
        /// Only tests whose name contains this.
        #[arg(long)]
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match signals::watch().and_then(|()| run(arguments)) {
        Ok(()) => ExitCode::from(proto::exit::OK),
        // Who reads has seen enough: `cargo lab demo | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(proto::exit::OK),
        Err(error) => {
            // With standard error closed too there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(proto::exit::FAILURE)
        }
    }
}

/// Prints a line. An error, not a panic, where the reader has gone: guards unwind, and everything is taken down.
fn say(line: impl std::fmt::Display) -> Result<()> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn run(Arguments { yes, command }: Arguments) -> Result<()> {
    match command {
        Command::Install => {
            packages::install(&Set::ALL, yes)?;
            say("All packages are installed.")
        }
        Command::Build => {
            packages::install(&[Set::Build], yes)?;
            say(Artefacts::build()?.dir().display())
        }
        Command::Test(arguments) => steps::run(&arguments, yes),
        Command::Demo(arguments) => {
            packages::install(&[Set::Build, Set::Run], yes)?;
            demo::run(&arguments)
        }
        Command::Down => say(format_args!("{} run(s) taken down.", sweep(Sweep::Kept)?)),
        Command::Fuzz { seconds, filter } => {
            packages::install(&[Set::Fuzz], yes)?;
            fuzz::run(seconds, filter.as_deref())
        }
        Command::Bench(arguments) => bench::run(&arguments, yes),
        Command::Gauge(arguments) => {
            packages::install(&[Set::Gauge], yes)?;
            gauge::run(&arguments)
        }
        Command::Soak { minutes, filter } => {
            packages::install(&[Set::Build, Set::Run], yes)?;
            soak::run(Duration::from_secs(60 * u64::from(minutes)), filter.as_deref())
        }
    }
}
