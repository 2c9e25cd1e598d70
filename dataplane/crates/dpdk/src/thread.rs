//! Threads that DPDK knows.
//!
//! A registered thread has a cache of mbufs of its own in each pool; others go to the pool's shared ring for each call.

use std::cell::Cell;
use std::marker::PhantomData;

use dpdk_sys as sys;

use crate::eal::{Eal, EalError};
use crate::{Errno, log};

thread_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Stands for the calling thread's registration with DPDK; ends it when dropped. It cannot leave its thread:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<dpdk::ThreadToken>();
/// ```
pub struct ThreadToken {
    /// Keeps EAL: a registered thread may be amid a free, which touches its cache in the pool.
    _eal: Eal,
    _not_send: PhantomData<*const ()>,
}

impl Eal {
    /// Registers the calling thread, so that it gets mbuf caches of its own. Pin the thread first.
    ///
    /// # Errors
    /// When it is registered already, or DPDK knows as many threads as it can.
    pub fn register_thread(&self) -> Result<ThreadToken, EalError> {
        if REGISTERED.get() {
            return Err(EalError::AlreadyRegistered);
        }
        log::mark();
        // SAFETY: EAL is initialised, which `self` stands for, and this thread is not registered yet: a second
        // call would lose the first call's identity.
        if unsafe { sys::rte_thread_register() } != 0 {
            return Err(EalError::Register { errno: Errno::last(), log: log::tail() });
        }
        REGISTERED.set(true);
        Ok(ThreadToken { _eal: self.clone(), _not_send: PhantomData })
    }
}

impl Drop for ThreadToken {
    fn drop(&mut self) {
        // SAFETY: this thread registered itself, since a token cannot change threads, and has not unregistered.
        unsafe { sys::rte_thread_unregister() };
        REGISTERED.set(false);
    }
}
