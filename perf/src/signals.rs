//! Ctrl-C, SIGTERM and SIGHUP become a flag that every wait looks at, so that leaving is an error like any other and
//! all guards take down what they made.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Starts to watch; once for a process, later calls change nothing.
///
/// # Errors
/// As `sigaction(2)`.
pub fn watch() -> Result<()> {
    let flag = Arc::new(AtomicBool::new(false));
    if INTERRUPTED.set(Arc::clone(&flag)).is_err() {
        return Ok(());
    }
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&flag))
            .with_context(|| format!("signal {signal} cannot be watched"))?;
    }
    Ok(())
}

/// Whether one of the signals has come.
#[must_use]
pub fn interrupted() -> bool {
    // Relaxed: the flag alone is the message, nothing else is read because of it.
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error once a signal has come, so that `?` unwinds through every guard.
///
/// # Errors
/// When [`interrupted`].
pub fn check() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}
