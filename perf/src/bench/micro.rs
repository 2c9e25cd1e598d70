//! `cargo lab bench`: the pure crates' benches, and a table of their estimates.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use lab::artefacts::{cargo, target_directory};
use lab::process::show;
use lab::table::Table;
use serde::Deserialize;
use serde_json::{Value, json};

use super::machine::Machine;
use super::report::keep;
use crate::say;

/// What the benches read: the file for their tallies, and whether there are tables of ten million entries (`benches::tally`).
const TALLIES: &str = "PODROUTER_BENCH_TALLIES";
const LARGE: &str = "PODROUTER_BENCH_LARGE";

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

/// One bench, by element: a packet, a look-up, whatever an iteration does several of.
struct Measured {
    name: String,
    ns: f64,
    deviation: f64,
    /// None where the bench does not count them.
    allocations: Option<f64>,
}

/// Runs the benches and shows what this run, not an older one, has measured.
pub(crate) fn run(filter: Option<&str>, large: bool, as_json: bool) -> Result<()> {
    let start = SystemTime::now();
    let criterion = target_directory()?.join("criterion");
    let tallies = criterion.join("tallies");
    fs::create_dir_all(&criterion)
        .and_then(|()| fs::write(&tallies, ""))
        .with_context(|| format!("{} cannot be written", tallies.display()))?;
    let mut command = cargo();
    command.args(["bench", "--package", "benches", "--benches", "--"]).args(filter).env(TALLIES, &tallies);
    if large {
        command.env(LARGE, "1");
    }
    if as_json {
        command.stdout(std::process::Stdio::null());
    }
    show(&mut command)?;
    let allocations = read_tallies(&tallies)?;
    let mut results = Vec::new();
    collect(&criterion, start, &allocations, &mut results)?;
    if results.is_empty() {
        bail!("no bench of that name");
    }
    results.sort_by(|left, right| left.name.cmp(&right.name));
    let machine = Machine::read();
    let row = |one: &Measured| {
        json!({
            "name": one.name, "ns": one.ns, "deviation_ns": one.deviation, "cycles": one.ns * machine.tsc_hz / 1e9,
            "allocations": one.allocations,
        })
    };
    let benches: Vec<Value> = results.iter().map(row).collect();
    let (document, file) = keep("micro", &machine.facts(false), json!({ "benches": benches }))?;
    if as_json {
        return say(format_args!("{document:#}"));
    }
    let mut table = Table::new(["bench", "ns", "±", "cycles", "allocations"]);
    for Measured { name, ns, deviation, allocations } in results {
        let cycles = ns * machine.tsc_hz / 1e9;
        let allocations = allocations.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.2}"));
        table.row([name, format!("{ns:.1}"), format!("{deviation:.1}"), format!("{cycles:.0}"), allocations]);
    }
    say(format_args!("\n{machine}\nMedians, for one element (a packet, a look-up, a change):\n{table}"))?;
    say(format_args!("Raw data: {}, {}", file.display(), criterion.display()))
}

/// Allocations an iteration, by bench. A line each: name, allocations, iterations.
fn read_tallies(file: &Path) -> Result<HashMap<String, f64>> {
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let name = fields.next()?.to_owned();
        let [allocations, iterations] = [fields.next()?.parse::<f64>().ok()?, fields.next()?.parse().ok()?];
        Some((name, allocations / iterations))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Criterion keeps each bench's last result in a folder `new`.
fn collect(
    dir: &Path,
    since: SystemTime,
    allocations: &HashMap<String, f64>,
    results: &mut Vec<Measured>,
) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        if entry.file_name() != "new" {
            collect(&entry.path(), since, allocations, results)?;
            continue;
        }
        let file = entry.path().join("estimates.json");
        let fresh = fs::metadata(&file).and_then(|metadata| metadata.modified()).is_ok_and(|at| at >= since);
        if fresh {
            let estimates: Estimates = read(&file)?;
            let bench: Value = read(&entry.path().join("benchmark.json"))?;
            results.push(measured(&bench, &estimates, allocations));
        }
    }
    Ok(())
}

/// `benchmark.json` says how many elements an iteration has.
fn measured(bench: &Value, estimates: &Estimates, allocations: &HashMap<String, f64>) -> Measured {
    let name = bench["full_id"].as_str().unwrap_or("?").to_owned();
    let elements = bench["throughput"]["Elements"].as_f64().unwrap_or(1.0);
    Measured {
        ns: estimates.median.point_estimate / elements,
        deviation: estimates.std_dev.point_estimate / elements,
        allocations: allocations.get(&name).map(|rate| rate / elements),
        name,
    }
}

fn read<T: serde::de::DeserializeOwned>(file: &PathBuf) -> Result<T> {
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not criterion's", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_for_one_element() {
        let file = std::env::temp_dir().join(format!("tallies-test-{}", std::process::id()));
        fs::write(&file, "lpm/ipv4/batch/1\t64\t4\nbroken\n").unwrap();
        let allocations = read_tallies(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let estimate = |point_estimate| Estimate { point_estimate };
        let estimates = Estimates { median: estimate(320.0), std_dev: estimate(32.0) };
        let bench = json!({ "full_id": "lpm/ipv4/batch/1", "throughput": { "Elements": 32 } });
        let one = measured(&bench, &estimates, &allocations);
        assert_eq!((one.ns, one.deviation, one.allocations), (10.0, 1.0, Some(0.5)));
        let other = measured(&json!({ "full_id": "x", "throughput": null }), &estimates, &allocations);
        assert_eq!((other.ns, other.allocations), (320.0, None));
    }
}
