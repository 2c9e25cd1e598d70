//! One source under std and under loom: the primitives which the protocol is made of.

#[cfg(loom)]
pub use loom::sync::atomic::AtomicU64;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::AtomicU64;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Between a SeqCst access and the next ones: loom takes them for AcqRel, and knows an order of all for fences alone.
#[inline]
pub(crate) fn in_one_order() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// Storage as it is lent: for as long as the process lives, zeros or what an earlier process left.
pub type Words = &'static [AtomicU64];
