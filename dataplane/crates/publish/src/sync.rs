//! One source under std and under loom: the primitives which the protocol is made of.
//!
//! Values themselves travel in `std::sync::Arc` always; loom watches the protocol, and its tests watch the values.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};
