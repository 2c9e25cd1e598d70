//! `cargo lab`: install, build, test, demonstrate and measure podrouter from one place.
//!
//! Exit codes: 0 all is well, 1 something failed, 2 the command line is wrong.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod fuzz;
mod soak;
mod steps;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::artefacts::Artefacts;
use lab::packages::{self, Set};
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
    /// Measure the pure crates.
    Bench {
        /// Only benches whose name contains this.
        #[arg(long)]
        filter: Option<String>,
    },
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
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(proto::exit::FAILURE)
        }
    }
}

fn run(Arguments { yes, command }: Arguments) -> Result<()> {
    match command {
        Command::Install => {
            packages::install(&Set::ALL, yes)?;
            println!("All packages are installed.");
            Ok(())
        }
        Command::Build => {
            packages::install(&[Set::Build], yes)?;
            println!("{}", Artefacts::build()?.dir().display());
            Ok(())
        }
        Command::Test(arguments) => steps::run(&arguments, yes),
        Command::Demo(arguments) => {
            packages::install(&[Set::Build, Set::Run], yes)?;
            demo::run(&arguments)
        }
        Command::Down => {
            println!("{} run(s) taken down.", sweep(Sweep::Kept)?);
            Ok(())
        }
        Command::Fuzz { seconds, filter } => {
            packages::install(&[Set::Fuzz], yes)?;
            fuzz::run(seconds, filter.as_deref())
        }
        Command::Bench { filter } => bench::run(filter.as_deref()),
        Command::Soak { minutes, filter } => {
            packages::install(&[Set::Build, Set::Run], yes)?;
            soak::run(Duration::from_secs(60 * u64::from(minutes)), filter.as_deref())
        }
    }
}
