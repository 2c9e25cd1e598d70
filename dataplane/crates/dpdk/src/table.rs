//! What DPDK's lookup tables have in common: a name, how they fail, and their memory.
//!
//! The tables themselves are in `lpm.rs`, `fib.rs` and `hash.rs`. A table belongs to one thread, is freed when dropped, and holds an
//! [`Eal`], so that its memory stays mapped until then.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use dpdk_sys as sys;

use crate::eal::Eal;
use crate::errno::Errno;
use crate::log::{self, LogTail};

/// Why there is no table, or not another entry in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The function that makes one failed.
    #[error("{function} with room for {entries} entries: {errno}; give EAL more MB, or make it smaller{log}")]
    Create {
        /// DPDK's.
        function: &'static str,
        /// As asked for.
        entries: u32,
        /// Why.
        errno: Errno,
        /// What DPDK logged.
        log: LogTail,
    },
    /// The function that adds an entry failed.
    #[error("{function}: {errno}; make the table larger, and use lengths and values within its bounds")]
    Add {
        /// DPDK's.
        function: &'static str,
        /// Why.
        errno: Errno,
    },
    /// This processor or this DPDK cannot look up so.
    #[error("{function}: {errno}; look up in the other way")]
    Select {
        /// DPDK's.
        function: &'static str,
        /// Why.
        errno: Errno,
    },
}

/// Calls what makes a table, under a name that no other has and with EAL's control lock held.
pub(crate) fn create<T>(
    eal: &Eal,
    function: &'static str,
    entries: u32,
    make: impl FnOnce(&CString) -> *mut T,
) -> Result<NonNull<T>, TableError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Relaxed: the numbers have to differ and nothing else. They hold no zero byte.
    let name = CString::new(format!("table{}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap_or_default();
    let _control = eal.control();
    log::mark();
    NonNull::new(make(&name)).ok_or_else(|| TableError::Create {
        function,
        entries,
        errno: Errno::last(),
        log: log::tail(),
    })
}

/// What a function that adds an entry has answered.
pub(crate) fn added(function: &'static str, result: i32) -> Result<(), TableError> {
    if result < 0 { Err(TableError::Add { function, errno: Errno::of(result) }) } else { Ok(()) }
}

impl Eal {
    /// Bytes of DPDK's memory that are in use: all pools, rings and tables, with what the allocator keeps of each.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        let _control = self.control();
        // SAFETY: EAL is initialised.
        let sockets = unsafe { sys::rte_socket_count() };
        (0..sockets).map(used_on).sum()
    }
}

fn used_on(index: u32) -> usize {
    // SAFETY: any index may be asked for; one that does not exist is answered by -1.
    let socket = unsafe { sys::rte_socket_id_by_idx(index) };
    let mut stats = sys::rte_malloc_socket_stats {
        heap_totalsz_bytes: 0,
        heap_freesz_bytes: 0,
        greatest_free_size: 0,
        free_count: 0,
        alloc_count: 0,
        heap_allocsz_bytes: 0,
    };
    // SAFETY: `stats` is what it fills in, for any socket that there is, and leaves alone for others.
    unsafe { sys::rte_malloc_get_socket_stats(socket, &raw mut stats) };
    stats.heap_allocsz_bytes
}

/// The time-stamp counter, in cycles of [`cycles_hz`]. What was asked for before has been loaded and stored by then.
#[must_use]
pub fn cycles() -> u64 {
    // SAFETY: reads a counter.
    unsafe { sys::dpdk_shim_cycles() }
}

/// Cycles of the time-stamp counter a second, as EAL has measured it.
#[must_use]
pub fn cycles_hz(_eal: &Eal) -> u64 {
    // SAFETY: EAL is initialised, which is when it is measured; reads a variable.
    unsafe { sys::rte_get_tsc_hz() }
}
