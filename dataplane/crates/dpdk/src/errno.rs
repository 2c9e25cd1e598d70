//! Error numbers as DPDK reports them, with their text.

use std::ffi::CStr;
use std::fmt;

use dpdk_sys as sys;

/// An errno (positive), shown as DPDK's text for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub(crate) const NOT_PERMITTED: Self = Self(1);
    pub(crate) const NO_ENTRY: Self = Self(2);
    pub(crate) const NO_MEMORY: Self = Self(12);
    pub(crate) const ACCESS: Self = Self(13);
    pub(crate) const BUSY: Self = Self(16);
    pub(crate) const EXISTS: Self = Self(17);
    pub(crate) const NO_DEVICE: Self = Self(19);
    pub(crate) const NOT_SUPPORTED: Self = Self(95);
    pub(crate) const NO_BUFFERS: Self = Self(105);

    /// `rte_errno`: set by the last DPDK call that failed on this thread.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local variable.
        Self(unsafe { sys::dpdk_shim_errno() })
    }

    /// From a call that returns a negative errno; plain -1 means that `rte_errno` has it.
    pub(crate) fn of(result: i32) -> Self {
        let last = Self::last();
        if result == -1 && last.0 != 0 { last } else { Self(result.saturating_neg()) }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: takes any number; the text it returns is the calling thread's own until its next call.
        let text = unsafe { sys::rte_strerror(self.0) };
        if text.is_null() {
            return write!(f, "errno {}", self.0);
        }
        // SAFETY: not null, zero-terminated, and this thread makes no other call meanwhile.
        let text = unsafe { CStr::from_ptr(text) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}
