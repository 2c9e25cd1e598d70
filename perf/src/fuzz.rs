//! `cargo lab fuzz`: each target of `dataplane/fuzz` for a while. cargo-fuzz wants unstable compiler flags, which the
//! stable compiler takes when told so.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::artefacts::{cargo, target_directory, workspace};
use lab::process::{finish, show, succeed};
use lab::wait::PATIENCE;

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
        println!("    fuzzing {target} for {seconds} s");
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
            bail!("fuzz target `{target}` found something:\n{}", finished.stderr);
        }
        let runs =
            finished.stderr.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        println!("    {target}: {} inputs", runs.map_or("?", str::trim));
    }
    Ok(())
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
        println!("    installing cargo-fuzz into {}", root.display());
        show(cargo().args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"]).arg(&root))
            .context("cargo-fuzz cannot be installed from crates.io")?;
    }
    Ok(program)
}
