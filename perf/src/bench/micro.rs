//! `cargo lab bench`: the pure crates' benches, and a table of their estimates.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use lab::artefacts::{cargo, target_directory};
use lab::process::show;
use lab::table::Table;
use serde::Deserialize;
use serde_json::Value;

use crate::say;

/// Of criterion's `estimates.json` only what is shown, in nanoseconds.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
    std_dev: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// Runs the benches and shows what this run, not an older one, has measured.
pub(crate) fn run(filter: Option<&str>, _large: bool) -> Result<()> {
    let start = SystemTime::now();
    show(cargo().args(["bench", "--package", "benches"]).args(filter))?;
    let mut results = Vec::new();
    collect(&target_directory()?.join("criterion"), start, &mut results)?;
    if results.is_empty() {
        bail!("no bench of that name");
    }
    results.sort_by(|left, right| left.0.cmp(&right.0));
    let mut table = Table::new(["bench", "ns", "±"]);
    for (name, estimates) in results {
        let (median, deviation) = (estimates.median.point_estimate, estimates.std_dev.point_estimate);
        table.row([name, format!("{median:.1}"), format!("{deviation:.1}")]);
    }
    say(format_args!("\nMedian time of an iteration:\n{table}"))?;
    Ok(())
}

/// Criterion keeps each bench's last result in a folder `new`.
fn collect(dir: &Path, since: SystemTime, results: &mut Vec<(String, Estimates)>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        if entry.file_name() != "new" {
            collect(&entry.path(), since, results)?;
            continue;
        }
        let file = entry.path().join("estimates.json");
        let fresh = fs::metadata(&file).and_then(|metadata| metadata.modified()).is_ok_and(|at| at >= since);
        if fresh {
            let estimates: Estimates = read(&file)?;
            let bench: Value = read(&entry.path().join("benchmark.json"))?;
            results.push((bench["full_id"].as_str().unwrap_or("?").to_owned(), estimates));
        }
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(file: &PathBuf) -> Result<T> {
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not criterion's", file.display()))
}
