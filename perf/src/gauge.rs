//! `cargo lab gauge`: instructions a packet on the path, in memory, counted by callgrind: the same on every run, where times are not.
//!
//! `benches/instructions.txt` holds the figures that the tree owns up to. Growth beyond [`TOLERANCE`] is an error until a change
//! writes the new ones there (`--accept`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use lab::artefacts::{cargo, target_directory, workspace};
use lab::process::{show, succeed};
use lab::table::Table;
use lab::wait::PATIENCE;

use crate::say;

/// Bursts of a run, of 32 packets each: as many as the 16 k flows of a case that must be new.
const BURSTS: u64 = 512;
const PACKETS: u64 = BURSTS * 32;
/// Growth that passes: 3 %, in thousandths.
const TOLERANCE: u64 = 30;
/// The function that is measured, as callgrind's patterns name it.
const MEASURED: &str = "*Bench*measured_burst*";
/// A memory move is an instruction on some processors and many on others; like this, it is many on all.
const TUNABLES: &str = "glibc.cpu.hwcaps=-ERMS,-FSRM";

/// What to count, and what to do with it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Only cases whose name contains this.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Write the figures to benches/instructions.txt, as those that this change owns up to.
    #[arg(long)]
    accept: bool,
}

/// What the tree owns up to.
struct Accepted {
    /// The compiler they were counted with: another one's are not to be compared.
    compiler: String,
    /// Tenths of an instruction a packet, by case.
    tenths: BTreeMap<String, u64>,
}

/// Counts each case, and compares.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    show(cargo().args(["build", "--quiet", "--release", "--package", "benches", "--bin", "hit-path"]))?;
    let target = target_directory()?;
    let program = target.join("release/hit-path");
    let folder = target.join("gauge");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;

    let names = succeed(&mut Command::new(&program), PATIENCE)?;
    let wanted = |name: &&str| arguments.filter.as_deref().is_none_or(|part| name.contains(part));
    let names: Vec<&str> = names.lines().filter(wanted).collect();
    if names.is_empty() {
        bail!("no case of that name; {} without arguments lists them", program.display());
    }
    let file = workspace().join("benches/instructions.txt");
    let compiler = compiler()?;
    let mut accepted = Accepted::read(&file)?;
    let mut table = Table::new(["case", "instructions a packet", "accepted", "change"]);
    let mut grown = Vec::new();
    let mut fallen = false;
    for name in names {
        let tenths = count(&program, name, &folder)?;
        let before = accepted.tenths.get(name).copied();
        let (was, change) = match before {
            Some(before) => (shown(before), changed(before, tenths)),
            None => ("-".to_owned(), "new".to_owned()),
        };
        table.row([name.to_owned(), shown(tenths), was, change]);
        match before {
            Some(before) if exceeds(before, tenths) => grown.push(name.to_owned()),
            Some(before) if exceeds(tenths, before) => fallen = true,
            Some(_) => {}
            None => grown.push(name.to_owned()),
        }
        if arguments.accept {
            accepted.tenths.insert(name.to_owned(), tenths);
        }
    }
    say(table.to_string().trim_end())?;
    say(format_args!("  by function: callgrind_annotate {}/CASE.out", folder.display()))?;
    if arguments.accept {
        accepted.compiler = compiler;
        return std::fs::write(&file, accepted.text())
            .with_context(|| format!("{} cannot be written", file.display()));
    }
    if !accepted.compiler.is_empty() && accepted.compiler != compiler {
        return say(format_args!(
            "  not compared: the figures in {} are of {}, this is {compiler}",
            file.display(),
            accepted.compiler
        ));
    }
    if !grown.is_empty() {
        bail!(
            "more than 3 % grown, or new: {}. Find where (the line above says how), or own up to it: cargo lab gauge --accept",
            grown.join(", ")
        );
    }
    if fallen {
        say("  More than 3 % fallen: keep it with `cargo lab gauge --accept`.")?;
    }
    Ok(())
}

/// Tenths of an instruction a packet.
fn count(program: &Path, name: &str, folder: &Path) -> Result<u64> {
    let out = folder.join(format!("{name}.out"));
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args([name, &BURSTS.to_string()])
        .env("GLIBC_TUNABLES", TUNABLES);
    succeed(&mut command, 10 * PATIENCE)?;
    let total = total(&out)?;
    if total == 0 {
        bail!("callgrind counted nothing in {MEASURED}: has the function another name?");
    }
    Ok(total * 10 / PACKETS)
}

/// Of callgrind's file (Valgrind manual, "Callgrind Format Specification": a line `totals:` or `summary:`).
fn total(out: &PathBuf) -> Result<u64> {
    let text = std::fs::read_to_string(out).with_context(|| format!("{} cannot be read", out.display()))?;
    let line = text.lines().find_map(|l| l.strip_prefix("totals:").or_else(|| l.strip_prefix("summary:")));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| anyhow!("{} has no totals", out.display()))
}

fn compiler() -> Result<String> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(succeed(Command::new(program).arg("--version"), PATIENCE)?.trim().to_owned())
}

/// Whether `now` is more than the tolerance above `before`.
const fn exceeds(before: u64, now: u64) -> bool {
    now * 1_000 > before * (1_000 + TOLERANCE)
}

fn shown(tenths: u64) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn changed(before: u64, now: u64) -> String {
    let sign = if now < before { '-' } else { '+' };
    let permille = before.abs_diff(now) * 1_000 / before.max(1);
    format!("{sign}{}.{} %", permille / 10, permille % 10)
}

impl Accepted {
    const HEAD: &str = "# Instructions a packet, by callgrind. Written by `cargo lab gauge --accept`; `cargo lab test` compares.\n";

    fn read(file: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
        };
        Self::parse(&text).with_context(|| format!("{} is not as it was written", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut accepted = Self { compiler: String::new(), tenths: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if let Some(compiler) = line.strip_prefix("compiler: ") {
                compiler.clone_into(&mut accepted.compiler);
                continue;
            }
            let figure = |line: &str| {
                let (name, figure) = line.split_once(char::is_whitespace)?;
                let (whole, tenth) = figure.trim().split_once('.')?;
                Some((name.to_owned(), whole.parse::<u64>().ok()? * 10 + tenth.parse::<u64>().ok()?))
            };
            let (name, tenths) = figure(line).ok_or_else(|| anyhow!("the line `{line}`"))?;
            accepted.tenths.insert(name, tenths);
        }
        Ok(accepted)
    }

    fn text(&self) -> String {
        let mut text = format!("{}compiler: {}\n", Self::HEAD, self.compiler);
        for (name, &tenths) in &self.tenths {
            // Into a string: it cannot fail.
            let _ = writeln!(text, "{name:<30}{:>8}", shown(tenths));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_growth_is_told_from_noise() {
        let tenths = BTreeMap::from([("known-a".to_owned(), 4_841), ("new-b".to_owned(), 45_920)]);
        let accepted = Accepted { compiler: "rustc 1.2.3 (abc)".to_owned(), tenths };
        let again = Accepted::parse(&accepted.text()).unwrap();
        assert_eq!((&again.compiler, &again.tenths), (&accepted.compiler, &accepted.tenths));
        assert!(Accepted::parse("known-a many").is_err());
        assert!(!exceeds(1_000, 1_030) && exceeds(1_000, 1_031) && !exceeds(1_000, 900));
        assert_eq!([changed(1_000, 1_031), changed(1_000, 500)], ["+3.1 %", "-50.0 %"]);
    }
}
