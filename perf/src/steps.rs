//! `cargo lab test`: all that is checked, a step at a time, stopping at the first that fails.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use lab::artefacts::{Artefacts, BINARIES, cargo, target_directory};
use lab::packages::{self, Set};
use lab::process::show;

use crate::{fuzz, gauge, say};

/// How long each fuzz target runs here; `cargo lab fuzz` runs them longer.
const FUZZ_SECONDS: u32 = 15;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this step; may be given several times.
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// Only tests whose name contains this (steps unit and system).
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
}

/// The steps, in the order in which they run: the quick ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Debian packages that are missing.
    Install,
    /// `cargo fmt --check`.
    Format,
    /// `cargo clippy` with every warning an error.
    Lint,
    /// Unit, property and documentation tests of all packages, and the dependency rules.
    Unit,
    /// The publisher, the flow table and the token bucket under loom.
    Loom,
    /// Instructions a packet on the path, against those that the tree owns up to.
    Gauge,
    /// Each fuzz target for a few seconds.
    Fuzz,
    /// System tests in network namespaces, with the release binaries.
    System,
}

impl Step {
    const fn headline(self) -> &'static str {
        match self {
            Self::Install => "packages",
            Self::Format => "format",
            Self::Lint => "lints",
            Self::Unit => "unit and property tests",
            Self::Loom => "loom: publication, flows, rates",
            Self::Gauge => "instructions a packet",
            Self::Fuzz => "fuzzing",
            Self::System => "system tests",
        }
    }

    fn run(self, filter: Option<&str>, yes: bool) -> Result<()> {
        match self {
            Self::Install => packages::install(&Set::ALL, yes),
            Self::Format => show(component("rustfmt")?.args(["fmt", "--all", "--check"])),
            Self::Lint => {
                let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
                show(component("clippy")?.args(arguments))
            }
            Self::Unit => unit(filter),
            Self::Loom => loom(),
            Self::Gauge => gauge::run(&gauge::Arguments::default()),
            Self::Fuzz => fuzz::run(FUZZ_SECONDS, None),
            Self::System => system(&Artefacts::find()?, filter),
        }
    }
}

/// Runs the steps that were asked for.
pub(crate) fn run(arguments: &Arguments, yes: bool) -> Result<()> {
    let wanted = |step: &Step| arguments.only.is_empty() || arguments.only.contains(step);
    let start = Instant::now();
    let mut times = Vec::new();
    for &step in Step::value_variants().iter().filter(|step| wanted(step)) {
        say(format_args!("==> {}", step.headline()))?;
        let began = Instant::now();
        step.run(arguments.filter.as_deref(), yes)
            .with_context(|| format!("cargo lab test: step `{}`", step.headline()))?;
        times.push((step.headline(), began.elapsed()));
        say(format_args!("    {}: {}", step.headline(), seconds(began.elapsed())))?;
    }
    say("==> all steps passed")?;
    for (headline, time) in times {
        say(format_args!("    {headline:<26}{:>9}", seconds(time)))?;
    }
    say(format_args!("    {:<26}{:>9}", "together", seconds(start.elapsed())))?;
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Cargo, once it is sure that the toolchain has this component.
fn component(name: &str) -> Result<Command> {
    let subcommand = if name == "rustfmt" { "fmt" } else { name };
    let found = cargo().args([subcommand, "--version"]).output().context("cargo cannot be started")?;
    if !found.status.success() {
        bail!("cargo has no `{subcommand}`: run `rustup component add {name}`");
    }
    Ok(cargo())
}

/// All tests but those that need root and namespaces.
fn unit(filter: Option<&str>) -> Result<()> {
    let filter: Vec<&str> = filter.into_iter().collect();
    show(cargo().args(["test", "--workspace", "--exclude", "lab"]).args(&filter))?;
    let lab = ["test", "--package", "lab", "--lib", "--bins", "--test", "dependencies"];
    show(cargo().args(lab).args(&filter))
}

/// Publisher, flow table and token bucket with loom's own atomics and threads, each interleaving tried. A build of its own, for the
/// flag reaches every crate.
fn loom() -> Result<()> {
    let target = target_directory()?.join("loom");
    let packages = ["publish", "flow", "meter"].iter().flat_map(|name| ["--package", name]);
    let arguments = ["test", "--release"].into_iter().chain(packages).chain(["--lib", "--test", "loom"]);
    show(cargo().args(arguments).env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", target))
}

/// The system tests, one at a time: each brings up a node with busy workers, and two cores hold one of those.
pub(crate) fn system(artefacts: &Artefacts, filter: Option<&str>) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--package", "lab", "--test", "system", "--"]).args(filter);
    show(command.arg("--test-threads=1").env(BINARIES, artefacts.dir()))
}
