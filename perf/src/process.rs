//! Processes: those that run to an end, with a limit, and those that stay, with a guard.
//!
//! Each is in a process group of its own, so that Ctrl-C reaches this program alone and everything ends in order.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::run::Run;
use crate::signals;
use crate::wait::PATIENCE;

/// How often a child is looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// What a process left when it ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command` to its end and keeps what it printed.
///
/// # Errors
/// When it cannot be started, outlives `limit` (it is killed then), or a signal comes.
pub fn finish(command: &mut Command, limit: Duration) -> Result<Finished> {
    finish_with_input(command, "", limit)
}

/// The same, with text on its standard input.
///
/// # Errors
/// As [`finish`].
pub fn finish_with_input(command: &mut Command, input: &str, limit: Duration) -> Result<Finished> {
    let shown = describe(command);
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("`{shown}` cannot be started"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A child that reads nothing closes its end; its exit status tells more than the broken pipe.
        let _ = std::io::Write::write_all(&mut pipe, input.as_bytes());
    }
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, &shown, limit)?;
    Ok(Finished {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

/// Runs `command` to its end; anything but success is an error that quotes it.
///
/// # Errors
/// As [`finish`], and when the exit status is not 0.
pub fn succeed(command: &mut Command, limit: Duration) -> Result<String> {
    let shown = describe(command);
    let finished = finish(command, limit)?;
    if !finished.status.success() {
        let said = format!("{}{}", finished.stderr, finished.stdout);
        bail!("`{shown}` failed ({}): {}", finished.status, said.trim());
    }
    Ok(finished.stdout)
}

/// Runs `command` with the terminal as its output, for builds and test runs.
///
/// # Errors
/// When it cannot be started, fails, or a signal comes.
pub fn show(command: &mut Command) -> Result<()> {
    let shown = describe(command);
    command.stdin(Stdio::null()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("`{shown}` cannot be started"))?;
    let status = wait(&mut child, &shown, Duration::MAX)?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

fn wait(child: &mut Child, shown: &str, limit: Duration) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("`{shown}` cannot be waited for"))? {
            return Ok(status);
        }
        let late = start.elapsed() >= limit;
        if late || signals::interrupted() {
            end_group(child);
            signals::check()?;
            bail!("`{shown}` did not end within {} s", limit.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

/// Asks the whole group to end (a test run cleans up then), and insists after a while.
fn end_group(child: &mut Child) {
    let Some(group) = pid_of(child) else { return };
    let _ = kill_process_group(group, Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(PAUSE);
    }
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// The command as one would type it.
#[must_use]
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether the reader of our output has gone: it has seen enough, and that is no failure.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// A process that stays until it is stopped or dropped. What it prints goes to files of the run.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    run: Arc<Run>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; `name` names its files: `NAME.log` (standard error) and `NAME.out` (standard output).
    ///
    /// # Errors
    /// When it cannot be started or journalled.
    pub fn spawn(run: &Arc<Run>, name: &str, command: &mut Command) -> Result<Self> {
        let shown = describe(command);
        let open = |suffix: &str| -> Result<File> {
            let path = run.dir().join(format!("{name}.{suffix}"));
            let file = OpenOptions::new().create(true).append(true).open(&path);
            file.with_context(|| format!("{} cannot be written", path.display()))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(open("out")?)
            .stderr(open("log")?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("`{shown}` cannot be started"))?;
        let process = Self { child, name: name.to_owned(), run: Arc::clone(run), status: None };
        run.record_process(process.child.id())?;
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed on standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.file("out")).unwrap_or_default()
    }

    /// Sends a signal to the process itself.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = pid_of(&self.child).ok_or_else(|| anyhow!("{} has no process id", self.name))?;
        kill_process(pid, signal).with_context(|| format!("{} cannot be signalled", self.name))
    }

    /// An error that quotes its log, if it has ended.
    ///
    /// # Errors
    /// When the process is no longer there.
    pub fn check(&mut self) -> Result<()> {
        match self.poll()? {
            Some(status) => bail!("{} has ended ({status}):\n{}", self.name, self.tail(30)),
            None => Ok(()),
        }
    }

    /// Waits for its own end.
    ///
    /// # Errors
    /// After `limit`, or when a signal comes.
    pub fn join(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            signals::check()?;
            if start.elapsed() >= limit {
                bail!("{} did not end within {} s:\n{}", self.name, limit.as_secs(), self.tail(30));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Ends it by SIGTERM, or by SIGKILL if it does not listen, and returns how it ended.
    ///
    /// # Errors
    /// As `waitpid(2)`.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if self.poll()?.is_none() {
            let _ = self.signal(Signal::TERM);
            // One that was stopped for a while learns of it only when it runs again.
            let _ = self.signal(Signal::CONT);
            let start = Instant::now();
            while self.poll()?.is_none() && start.elapsed() < PATIENCE {
                thread::sleep(PAUSE);
            }
        }
        self.kill()
    }

    /// Ends it by SIGKILL, as a crash would.
    ///
    /// # Errors
    /// As `waitpid(2)`.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if self.poll()?.is_none() {
            let _ = self.signal(Signal::KILL);
        }
        let status = self.child.wait().with_context(|| format!("{} cannot be waited for", self.name))?;
        self.status = Some(status);
        Ok(status)
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.file("log"), lines)
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.run.dir().join(format!("{}.{suffix}", self.name))
    }

    fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status =
                self.child.try_wait().with_context(|| format!("{} cannot be waited for", self.name))?;
        }
        Ok(self.status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.run.is_kept() {
            let _ = self.stop();
        }
    }
}

/// The last `lines` lines of a file, each indented; a note when there is none.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text =
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    if all.is_empty() {
        return format!("    ({} is empty)", path.display());
    }
    let last = &all[all.len().saturating_sub(lines)..];
    last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_quotes_command_and_reason() {
        let error = succeed(Command::new("sh").args(["-c", "echo no >&2; exit 3"]), PATIENCE).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("sh -c") && text.contains("no"), "{text}");
    }

    #[test]
    fn input_arrives_and_output_returns() {
        let finished = finish_with_input(&mut Command::new("cat"), "hello", PATIENCE).unwrap();
        assert_eq!(finished.stdout, "hello");
    }

    #[test]
    fn a_process_that_does_not_end_is_ended() {
        let error = finish(Command::new("sleep").arg("1000"), Duration::from_millis(20)).unwrap_err();
        assert!(format!("{error:#}").contains("did not end"));
    }
}
