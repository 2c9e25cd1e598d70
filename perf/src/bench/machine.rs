//! The machine that a bench runs on: what it is, which core is measured, and what is set for the time of a run.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::artefacts::workspace;
use lab::process::{finish, succeed};
use lab::run::{HUGE, Run};
use serde_json::{Value, json};

/// The kernel's weight for the processes of this session; every session has one group (sched(7), "The autogroup feature").
const AUTOGROUP: &str = "/proc/self/autogroup";
const HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";
/// Longest that `mount` and `git` may take.
const SOON: Duration = Duration::from_secs(30);

/// Who and where; kept with every result.
pub(crate) struct Machine {
    pub(crate) tsc_hz: f64,
    cpu: String,
    kernel: String,
    cores: usize,
    commit: String,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, v)| v.trim().to_owned())
        };
        // Where the TSC does not change its rate, the kernel's delay loop is the TSC, at two "instructions" a tick
        // (arch/x86/kernel/tsc.c, arch/x86/kernel/cpu/proc.c).
        let bogomips: f64 = field("bogomips").parse().unwrap_or(0.0);
        let git = |arguments: &[&str]| {
            let done = finish(Command::new("git").args(arguments).current_dir(workspace()), SOON);
            done.map_or_else(|_| String::new(), |finished| finished.stdout.trim().to_owned())
        };
        let changed = if git(&["status", "--porcelain"]).is_empty() { "" } else { " and changes" };
        Self {
            tsc_hz: bogomips / 2.0 * 1e6,
            cpu: field("model name"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            cores: allowed_cores().len(),
            commit: format!("{}{changed}", git(&["rev-parse", "--short=12", "HEAD"])),
        }
    }

    /// Cores that this process may use.
    pub(crate) const fn cores(&self) -> usize {
        self.cores
    }

    pub(crate) fn facts(&self, hugepages: bool) -> Value {
        let Self { tsc_hz, cpu, kernel, cores, commit } = self;
        json!({
            "cpu": cpu, "tsc_hz": tsc_hz, "kernel": kernel, "cores": cores, "commit": commit, "hugepages": hugepages,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tsc_hz, cpu, kernel, cores, commit } = self;
        write!(f, "{cpu}, {cores} cores, TSC {:.3} GHz, kernel {kernel}, commit {commit}", tsc_hz / 1e9)
    }
}

/// The cores that this process may use, in ascending order.
fn allowed_cores() -> Vec<usize> {
    // proc(5): `Cpus_allowed_list: 0-3,8`.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let ranges = list.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    });
    ranges.flatten().collect()
}

/// The measured core, and another one for whatever else the contestants' processes do.
pub(crate) fn cores(wanted: Option<usize>) -> Result<(usize, usize)> {
    let allowed = allowed_cores();
    ensure!(allowed.len() > 1, "a bench needs two cores: one is measured, the other does everything else");
    let core = wanted.or_else(|| allowed.last().copied()).context("no core may be used")?;
    ensure!(allowed.contains(&core), "--core {core}: this process may use {allowed:?}");
    let other = allowed.iter().copied().find(|&other| other != core).context("no other core may be used")?;
    Ok((core, other))
}

/// While it lives, this session's processes go before those of others on the machine.
pub(crate) struct Priority {
    before: Option<String>,
}

impl Priority {
    /// Where the kernel has no autogroups there is nothing to set, and nothing is lost but calm.
    pub(crate) fn raise() -> Self {
        // `/autogroup-123 nice 0`
        let before = fs::read_to_string(AUTOGROUP).ok();
        let before = before.and_then(|text| text.trim().rsplit_once(' ').map(|(_, nice)| nice.to_owned()));
        let raised = before.is_some() && fs::write(AUTOGROUP, "-20").is_ok();
        Self { before: before.filter(|_| raised) }
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(AUTOGROUP, before);
        }
    }
}

/// Hugepages of 2 MiB: those that there are, or reserved for a run and then given back.
pub(crate) struct Hugepages {
    /// What every contestant uses: all of them hugepages, or none.
    pub(crate) used: bool,
    before: Option<String>,
    /// Keeps the run's folder until the mount in it is gone.
    mount: Option<Arc<Run>>,
}

impl Hugepages {
    /// `reserve` MiB for this run; 0 takes what is there.
    pub(crate) fn prepare(run: &Arc<Run>, reserve: u64) -> Result<Self> {
        let mut this = Self { used: free() > 0 && mounted(), before: None, mount: None };
        if reserve == 0 {
            return Ok(this);
        }
        let before = fs::read_to_string(HUGEPAGES).context("this kernel has no hugepages")?;
        let there: u64 = before.trim().parse().unwrap_or(0);
        this.before = Some(before);
        let wanted = there + reserve / 2;
        fs::write(HUGEPAGES, wanted.to_string()).context("hugepages cannot be reserved")?;
        let got: u64 = fs::read_to_string(HUGEPAGES)?.trim().parse().unwrap_or(0);
        if got < wanted {
            bail!("--hugepages {reserve}: the kernel found memory for {} MiB only", (got - there) * 2);
        }
        if !mounted() {
            let folder = run.dir().join(HUGE);
            fs::create_dir_all(&folder)?;
            succeed(Command::new("mount").args(["-t", "hugetlbfs", "nodev"]).arg(&folder), SOON)?;
            this.mount = Some(Arc::clone(run));
        }
        this.used = true;
        Ok(this)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if let Some(run) = &self.mount {
            // Not by `finish`, which ends what it runs once a signal has come.
            let _ = Command::new("umount").arg(run.dir().join(HUGE)).output();
        }
        if let Some(before) = &self.before {
            let _ = fs::write(HUGEPAGES, before);
        }
    }
}

fn mounted() -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(2) == Some("hugetlbfs"))
}

/// Free hugepages of 2 MiB.
fn free() -> u64 {
    let path = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
/// Megabytes of a process, by one of the fields of its status (proc(5)): `VmRSS`, those in memory; `VmHWM`, the most that there were.
pub(crate) fn megabytes_of(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    megabytes(&text, field).with_context(|| format!("{path} has no {field}"))
}

/// Megabytes that a line such as `VmRSS:   1000 kB` tells, whose kilobytes have 1,024 bytes.
pub(crate) fn megabytes(text: &str, field: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes: f64 = line?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
