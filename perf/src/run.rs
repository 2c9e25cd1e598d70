//! A run: a short directory under `/run`, unique names, and a journal of the processes and namespaces it made.
//!
//! The journal is for what no guard can do: a run that was killed cannot clean up, so the next one reads its journal
//! and does. A process is known by its id *and* the time it started, so an id that was given out again is left alone.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, getuid, kill_process};

use crate::signals;

/// Socket paths below it must fit into 107 bytes (unix(7)), so it is short.
const ROOT: &str = "/run/podrouter-lab";

/// Prefix of every namespace; `cargo lab down` needs no guessing, but people who look at `ip netns` do.
const PREFIX: &str = "plab";

/// Where DPDK keeps a folder for each file prefix of root's processes (DPDK's guide for Linux, "EAL parameters").
const DPDK_RUNTIME: &str = "/var/run/dpdk";

/// Where, below a run's directory, it may have mounted a hugetlbfs of its own.
pub const HUGE: &str = "huge";

/// A run and all that belongs to it. Guards hold it, so its directory goes last.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    id: String,
    kept: AtomicBool,
    names: AtomicU32,
}

impl Run {
    /// Begins a run, after clearing away what killed ones left.
    ///
    /// # Errors
    /// Without root, and when `/run` cannot be written.
    pub fn start() -> Result<Arc<Self>> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        if !getuid().is_root() {
            bail!("network namespaces need root: run this as root (for example with sudo)");
        }
        signals::watch()?;
        sweep(Sweep::Abandoned)?;
        // Relaxed: only uniqueness matters.
        let id = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(ROOT).join(&id);
        // Made under another name first: a sweep must never meet a directory without its owner.
        let fresh = Path::new(ROOT).join(format!(".{id}"));
        let made = fs::create_dir_all(&fresh)
            .and_then(|()| fs::write(fresh.join("owner"), identity(std::process::id()).unwrap_or_default()))
            .and_then(|()| fs::rename(&fresh, &dir));
        made.with_context(|| format!("the run directory {} cannot be made", dir.display()))?;
        Ok(Arc::new(Self { dir, id, kept: AtomicBool::new(false), names: AtomicU32::new(0) }))
    }

    /// Where its files and sockets are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A name that no other run on this machine uses.
    #[must_use]
    pub fn name(&self, what: &str) -> String {
        format!("{PREFIX}-{}-{what}", self.id)
    }

    /// A number that grows, for names within the run.
    pub fn number(&self) -> u32 {
        // Relaxed: only uniqueness matters.
        self.names.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on guards leave everything where it is; `cargo lab down` takes it away.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn keep(&self) -> Result<()> {
        fs::write(self.dir.join("kept"), b"").context("the run cannot be marked as kept")?;
        // Relaxed: set and read by the thread that owns the guards.
        self.kept.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    pub(crate) fn record_process(&self, pid: u32) -> Result<()> {
        match identity(pid) {
            Some(identity) => self.append("processes", &identity),
            None => Ok(()), // It has ended already.
        }
    }

    pub(crate) fn record_namespace(&self, name: &str) -> Result<()> {
        self.append("namespaces", name)
    }

    fn append(&self, file: &str, line: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{line}"))
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.is_kept() {
            remove_dpdk_files(&self.id);
            // An error leaves files that the next sweep removes.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Which runs a sweep takes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Those whose owner was killed.
    Abandoned,
    /// Those that were kept on purpose as well.
    Kept,
}

/// Takes down what earlier runs left: processes, namespaces, directories. Returns how many runs went.
///
/// # Errors
/// When [`ROOT`] cannot be read, or a directory in it not removed.
pub fn sweep(which: Sweep) -> Result<usize> {
    let entries = match fs::read_dir(ROOT) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).context(format!("{ROOT} cannot be read")),
    };
    let mut swept = 0;
    for entry in entries.flatten() {
        let dir = entry.path();
        let Ok(owner) = fs::read_to_string(dir.join("owner")) else { continue };
        let kept = dir.join("kept").exists();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || lives(&owner) || (kept && which == Sweep::Abandoned) {
            continue;
        }
        take_down(&dir);
        fs::remove_dir_all(&dir).with_context(|| format!("{} cannot be removed", dir.display()))?;
        swept += 1;
    }
    Ok(swept)
}

/// Kills a journal's processes and removes its namespaces; what is gone already is passed over.
fn take_down(dir: &Path) {
    for identity in fs::read_to_string(dir.join("processes")).unwrap_or_default().lines() {
        if lives(identity) {
            kill(identity.split(' ').next().unwrap_or_default());
        }
    }
    for name in fs::read_to_string(dir.join("namespaces")).unwrap_or_default().lines() {
        // A process that was started in the instant before its id could be written down.
        let inside = std::process::Command::new("ip").args(["netns", "pids", name]).output();
        for pid in
            inside.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default().lines()
        {
            kill(pid);
        }
        let _ = std::process::Command::new("ip").args(["netns", "del", name]).output();
    }
    if dir.join(HUGE).exists() {
        let _ = std::process::Command::new("umount").arg(dir.join(HUGE)).output();
    }
    if let Some(id) = dir.file_name().and_then(|name| name.to_str()) {
        remove_dpdk_files(id);
    }
}

/// DPDK keeps a folder for each file prefix, and testpmd, or whatever was killed, leaves it behind.
fn remove_dpdk_files(id: &str) {
    let ours = format!("{PREFIX}-{id}-");
    for entry in fs::read_dir(DPDK_RUNTIME).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(ours.as_bytes()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn kill(pid: &str) {
    if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Process id and start time, as `1234 567890`; `None` when there is no such process.
fn identity(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the name is in parentheses and may hold anything; starttime is field 22, the 20th after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let start = fields.split_ascii_whitespace().nth(19)?;
    Some(format!("{pid} {start}"))
}

fn lives(recorded: &str) -> bool {
    let recorded = recorded.trim();
    let pid = recorded.split(' ').next().and_then(|pid| pid.parse().ok());
    pid.and_then(identity).is_some_and(|now| now == recorded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_id_and_start() {
        let me = identity(std::process::id()).unwrap();
        assert!(lives(&me));
        assert!(!lives(&format!("{me}0")), "another start time is another process");
        assert!(!lives(""));
    }
}
