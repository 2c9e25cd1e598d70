//! How a sleeping worker is woken: an eventfd, rung only when the sleeper says that it sleeps.
//!
//! The sleeper publishes `parked` and then looks at its rings once more; the ringer pushes and then looks at `parked`.
//! A sequentially consistent fence on either side makes sure that at least one of them sees the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// Shared by the worker, who sleeps, and all others, who ring.
#[derive(Debug)]
pub(crate) struct Doorbell {
    fd: OwnedFd,
    /// Written by the worker (`true` before it sleeps, `false` after) and by whoever rings (`false`).
    parked: AtomicBool,
}

impl Doorbell {
    pub(crate) fn new() -> std::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { fd, parked: AtomicBool::new(false) })
    }

    /// Called after something was put where the worker will find it.
    pub(crate) fn ring(&self) {
        // Partner of the fence in `park`.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::Relaxed) {
            // The only possible failure is a counter at its maximum, and then the bell has rung.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// The worker is about to sleep; it looks at its rings after this and before it does.
    pub(crate) fn park(&self) {
        self.parked.store(true, Ordering::Relaxed);
        // Partner of the fence in `ring`.
        fence(Ordering::SeqCst);
    }

    /// The worker is awake again; `rung` if the descriptor was readable.
    pub(crate) fn unpark(&self, rung: bool) {
        self.parked.store(false, Ordering::Relaxed);
        if rung {
            // Empties the counter, so that the next sleep is one.
            let _ = rustix::io::read(&self.fd, &mut [0_u8; 8]);
        }
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
