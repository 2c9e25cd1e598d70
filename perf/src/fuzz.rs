//! `cargo lab fuzz`: each target of `dataplane/fuzz` for a while. cargo-fuzz wants unstable compiler flags, which the
//! stable compiler takes when told so.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::artefacts::{cargo, target_directory, workspace};
use lab::process::{finish, show, succeed};
use lab::wait::PATIENCE;

use crate::say;

/// Fuzzes the targets whose name contains `filter`.
pub(crate) fn run(seconds: u32, filter: Option<&str>) -> Result<()> {
    let program = program()?;
    let targets = succeed(fuzz(&program).arg("list"), PATIENCE)?;
    let wanted = |target: &&str| filter.is_none_or(|part| target.contains(part));
    let targets: Vec<&str> = targets.lines().filter(wanted).collect();
    if targets.is_empty() {
        bail!("dataplane/fuzz has no target of that name");
    }
    show(fuzz(&program).args(["build", "--sanitizer", "none"]))?;
    for target in targets {
        say(format_args!("    fuzzing {target} for {seconds} s"))?;
        // The targets call nothing but crates that forbid unsafe code: the address sanitizer would find nothing.
        // libFuzzer keeps what it finds in the first folder; the seeds of the tree stay as they are.
        let corpus = workspace().join("dataplane/fuzz/corpus").join(target);
        std::fs::create_dir_all(&corpus).with_context(|| format!("{} cannot be made", corpus.display()))?;
        let mut command = fuzz(&program);
        command.args(["run", "--sanitizer", "none", target]).arg(corpus);
        command.arg(workspace().join("dataplane/fuzz/seeds").join(target)).arg("--");
        command.args([format!("-max_total_time={seconds}"), "-print_final_stats=1".to_owned()]);
        let finished = finish(&mut command, Duration::from_secs(seconds.into()) + 10 * PATIENCE)?;
        if !finished.status.success() {
            bail!("fuzz target `{target}` found something:\n{}", finding(&finished.stderr));
        }
        let runs =
            finished.stderr.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        say(format_args!("    {target}: {} inputs", runs.map_or("?", str::trim)))?;
    }
    Ok(())
}

/// Of libFuzzer's long report what names the finding: from the panic on, or else the end; and the reproducer.
fn finding(report: &str) -> String {
    let lines: Vec<&str> = report.lines().collect();
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let from = panic.unwrap_or_else(|| lines.len().saturating_sub(30));
    let end = lines.len().min(from + 6);
    let reproduce = lines.iter().skip(end).filter(|line| line.contains("cargo fuzz run"));
    lines[from..end].iter().chain(reproduce).copied().collect::<Vec<_>>().join("\n")
}

/// `cargo fuzz` of our own installation, in the folder of the targets.
fn fuzz(program: &PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace().join("dataplane")).env("RUSTC_BOOTSTRAP", "1").arg("fuzz");
    command
}

/// cargo-fuzz, installed below the target directory if it is not there.
fn program() -> Result<PathBuf> {
    let root = target_directory()?.join("tools");
    let program = root.join("bin/cargo-fuzz");
    if !program.exists() {
        say(format_args!("    installing cargo-fuzz into {}", root.display()))?;
        show(cargo().args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"]).arg(&root))
            .context("cargo-fuzz cannot be installed from crates.io")?;
    }
    Ok(program)
}
