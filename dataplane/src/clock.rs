//! The time of all workers, and of the flows that outlast the process: CLOCK_MONOTONIC, the same for every process on the machine.

use pipeline::Tick;
use rustix::time::{ClockId, clock_gettime};

/// In microseconds. A read of the vDSO, no system call.
pub(crate) fn now() -> Tick {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Tick(part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1_000)
}
