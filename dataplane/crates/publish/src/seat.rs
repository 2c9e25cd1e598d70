//! What the writer and one reader share: the mailbox, the acknowledgement, and whether the reader sleeps.
//!
//! The announced generation is shared by all. Each field says who writes and who reads it. In a mailbox, `next` and
//! `returned` are never both filled: the writer fills one and empties the other under one lock, the reader the reverse.
//! So one slot for the old value is enough, and there is no full mailbox.

use std::sync::Arc as Value;

use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard};

/// Keeps what one thread writes off the cache lines of its neighbours: 128 bytes, since x86 fetches lines in pairs.
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

pub(crate) struct Seat<T> {
    /// The highest generation published. Written by the writer; read by every reader once a burst.
    pub(crate) announced: crate::sync::Arc<Padded<AtomicU64>>,
    /// Written by the reader; read by the writer.
    pub(crate) status: Padded<Status>,
    /// Both write, both read. The reader only tries the lock, except where it is not handling packets.
    mailbox: Padded<Mutex<Mailbox<T>>>,
}

pub(crate) struct Status {
    /// The generation in use. No older one is used after it is stored.
    pub(crate) acknowledged: AtomicU64,
    /// The reader uses no value, and takes the current one before it uses any again.
    pub(crate) parked: AtomicBool,
    /// The reader is dropped: the seat is the writer's to remove.
    pub(crate) gone: AtomicBool,
}

pub(crate) struct Mailbox<T> {
    /// From the writer: the newest generation, until the reader takes it.
    pub(crate) next: Option<(u64, Value<T>)>,
    /// From the reader: what `next` replaced, for the writer to free.
    pub(crate) returned: Option<Value<T>>,
    /// From a reader's Drop: the value it held. The writer's to take once `gone` is set.
    pub(crate) last: Option<Value<T>>,
}

impl<T> Seat<T> {
    pub(crate) fn new(announced: crate::sync::Arc<Padded<AtomicU64>>, generation: u64) -> Self {
        Self {
            announced,
            status: Padded(Status {
                acknowledged: AtomicU64::new(generation),
                parked: AtomicBool::new(false),
                gone: AtomicBool::new(false),
            }),
            mailbox: Padded(Mutex::new(Mailbox { next: None, returned: None, last: None })),
        }
    }

    /// Waits for the mailbox. Nothing that can panic, block or free runs under this lock, so a poisoned one (a
    /// thread killed by a panic in between) is still whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Mailbox<T>> {
        self.mailbox.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The mailbox if the writer is not at it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Mailbox<T>>> {
        match self.mailbox.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}
