//! DPDK's log: on stderr, and its last lines in the error messages of the call that logged them.
//!
//! DPDK's calls answer -1 and log the reason, so an error without the log says nothing.

use std::fmt;

use dpdk_sys as sys;

use crate::Errno;

/// Lines shown in an error: the reason is nearly always among the last two.
const LINES: usize = 3;

/// The log's last lines since [`mark`]. Shown as nothing when there were none.
#[derive(Clone, Default)]
pub struct LogTail(String);

/// Routes the log to stderr. Once a process, before `rte_eal_init`.
pub(crate) fn open() -> Result<(), Errno> {
    // SAFETY: called by `Eal::init` alone, which runs once a process.
    match unsafe { sys::dpdk_shim_log_open() } {
        0 => Ok(()),
        error => Err(Errno::of(error)),
    }
}

/// Forgets what this thread logged so far.
pub(crate) fn mark() {
    // SAFETY: touches only what is the calling thread's own.
    unsafe { sys::dpdk_shim_log_mark() }
}

/// What this thread logged since the mark.
pub(crate) fn tail() -> LogTail {
    let mut buffer = [0_u8; 1024];
    // SAFETY: writes at most `buffer.len()` bytes to `buffer`.
    let used = unsafe { sys::dpdk_shim_log_tail(buffer.as_mut_ptr().cast(), buffer.len()) };
    let text = String::from_utf8_lossy(buffer.get(..used).unwrap_or_default());
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    LogTail(lines[lines.len().saturating_sub(LINES)..].join("; "))
}

impl fmt::Display for LogTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " [DPDK: {}]", self.0) }
    }
}

impl fmt::Debug for LogTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
