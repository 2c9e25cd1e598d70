//! Pools of mbufs.
//!
//! Owns their creation. What always holds: a pool's memory is freed with EAL and never before, so that an mbuf is a
//! plain pointer without a count; dropping the last handle leaves the pool dormant, and `new` with the same name
//! and sizes wakes it. EAL in turn stays if mbufs are out at its end (see `eal.rs`).

use std::ffi::{CString, NulError};
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::eal::Eal;
use crate::log::{self, LogTail};
use crate::mbuf::Mbuf;
use crate::{Errno, mbuf};

/// The sizes of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolConfig {
    /// How many mbufs. One less than a power of two uses memory best.
    pub mbufs: u32,
    /// How many of them a registered thread keeps to itself, at most 512 and `mbufs` / 1.5. The cache is last in,
    /// first out: what a worker recycles within it stays in the CPU's cache.
    pub cache: u32,
    /// Bytes of a buffer, its headroom of 128 included.
    pub data_room: u16,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { mbufs: 8191, cache: 256, data_room: 2048 + Self::HEADROOM }
    }
}

impl PoolConfig {
    /// Bytes before the data of a fresh mbuf.
    #[expect(clippy::cast_possible_truncation, reason = "the buffers it is part of are 16 bits long")]
    pub const HEADROOM: u16 = sys::RTE_PKTMBUF_HEADROOM as u16;
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// DPDK's limit on names.
    #[error("pool name `{0}`: 1 to {max} bytes without a zero byte are allowed", max = NAME_MAX)]
    Name(String),
    /// Sizes that DPDK refuses without saying why.
    #[error("pool `{name}`: {field} = {value}: {rule}")]
    Size {
        /// The pool.
        name: String,
        /// The field of `PoolConfig`.
        field: &'static str,
        /// Its value.
        value: u32,
        /// What holds for it.
        rule: String,
    },
    /// A pool of that name is in use, or is dormant with other sizes.
    #[error("pool `{0}` exists, in use or with other sizes: choose another name")]
    Exists(String),
    /// `rte_pktmbuf_pool_create`, or what it is made of, failed.
    #[error("rte_pktmbuf_pool_create(`{name}`, {mbufs} mbufs of {data_room} bytes): {errno}; {hint}{log}")]
    Create {
        /// The pool.
        name: String,
        /// How many mbufs it was to have.
        mbufs: u32,
        /// Of which size.
        data_room: u16,
        /// Why.
        errno: Errno,
        /// What to do.
        hint: &'static str,
        /// What DPDK logged.
        log: LogTail,
    },
}

const NAME_MAX: usize = sys::DPDK_SHIM_MEMPOOL_NAMESIZE as usize - 1;

/// A pool of mbufs. A handle: clones share the pool.
#[derive(Clone)]
pub struct Pool(Arc<PoolInner>);

struct PoolInner {
    raw: RawPool,
    size: u32,
    data_room: u16,
    eal: Eal,
}

#[derive(Clone, Copy)]
struct RawPool(NonNull<sys::rte_mempool>);

// SAFETY: DPDK's pools are made for concurrent use: their ring is multi-producer and multi-consumer, and a cache
// belongs to one registered thread.
unsafe impl Send for RawPool {}
// SAFETY: as above.
unsafe impl Sync for RawPool {}

/// A pool as EAL's registry keeps it.
pub(crate) struct PoolRecord {
    name: String,
    config: PoolConfig,
    raw: RawPool,
    handle: Weak<PoolInner>,
}

impl PoolRecord {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many mbufs are not in the pool.
    pub(crate) fn missing(&self) -> u32 {
        self.config.mbufs.saturating_sub(available(self.raw))
    }
}

fn available(raw: RawPool) -> u32 {
    // SAFETY: pools are never freed before EAL, which the caller's handle (or registry) stands for. The count is
    // only a snapshot while others allocate and free.
    unsafe { sys::rte_mempool_avail_count(raw.0.as_ptr()) }
}

impl Pool {
    /// Makes a pool, or wakes the one of that name and those sizes that nobody holds any more.
    ///
    /// # Errors
    /// Says which size is wrong, or why DPDK could not make it.
    pub fn new(eal: &Eal, name: &str, config: PoolConfig) -> Result<Self, PoolError> {
        check(name, config)?;
        let c_name = CString::new(name).map_err(|_: NulError| PoolError::Name(name.to_owned()))?;
        let mut control = eal.control();
        if let Some(record) = control.pools.iter_mut().find(|record| record.name == name) {
            if record.config != config || record.handle.strong_count() > 0 {
                return Err(PoolError::Exists(name.to_owned()));
            }
            let pool = Self::from_raw(eal, record.raw, config);
            record.handle = Arc::downgrade(&pool.0);
            return Ok(pool);
        }
        log::mark();
        let PoolConfig { mbufs, cache, data_room } = config;
        // SAFETY: EAL is initialised; the name outlives the call, which copies it.
        let raw = unsafe { sys::dpdk_shim_pool_create(c_name.as_ptr(), mbufs, cache, data_room) };
        let Some(raw) = NonNull::new(raw).map(RawPool) else {
            let errno = Errno::last();
            let hint = match errno {
                // The second where the pool itself fitted and its mbufs did not.
                Errno::NO_MEMORY | Errno::NO_BUFFERS => {
                    "DPDK's memory is used up: give EAL more MB, or make the pool smaller"
                }
                Errno::EXISTS => "choose another name",
                _ => "check its sizes",
            };
            return Err(PoolError::Create {
                name: name.to_owned(),
                mbufs,
                data_room,
                errno,
                hint,
                log: log::tail(),
            });
        };
        let pool = Self::from_raw(eal, raw, config);
        let handle = Arc::downgrade(&pool.0);
        control.pools.push(PoolRecord { name: name.to_owned(), config, raw, handle });
        Ok(pool)
    }

    fn from_raw(eal: &Eal, raw: RawPool, config: PoolConfig) -> Self {
        Self(Arc::new(PoolInner { raw, size: config.mbufs, data_room: config.data_room, eal: eal.clone() }))
    }

    /// How many mbufs it has in all.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.0.size
    }

    /// Bytes of a buffer, headroom included.
    #[must_use]
    pub fn data_room(&self) -> u16 {
        self.0.data_room
    }

    /// How many are free now, those in the threads' caches included. A snapshot, and slow: it asks every cache.
    #[must_use]
    pub fn available(&self) -> u32 {
        available(self.0.raw)
    }

    /// How many are out: in queues of ports, in bursts, held.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.size().saturating_sub(self.available())
    }

    /// An empty mbuf, or none if the pool is. One crossing into C: on a packet's path use [`Self::alloc_burst`].
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut one = std::ptr::null_mut();
        // SAFETY: the pool is alive, and there is room for the one pointer asked for.
        let got = unsafe { sys::dpdk_shim_alloc(self.raw(), &raw mut one, 1) };
        if got == 0 {
            return None;
        }
        // SAFETY: the pool gave this mbuf to us alone, reset, with one segment.
        NonNull::new(one).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// Appends up to `n` empty mbufs to `burst`, as room and pool allow; returns how many.
    pub fn alloc_burst(&self, burst: &mut Burst, n: usize) -> usize {
        let room = burst.room_mut();
        let wanted = u32::try_from(n.min(room.len())).unwrap_or(0);
        // SAFETY: `room` has space for `wanted` pointers.
        let got = unsafe { sys::dpdk_shim_alloc(self.raw(), mbuf::as_raw(room), wanted) };
        let got = usize::try_from(got).unwrap_or(0);
        // SAFETY: the first `got` places now hold mbufs that the pool gave to us alone.
        unsafe { burst.grow(got) };
        got
    }

    pub(crate) fn raw(&self) -> *mut sys::rte_mempool {
        self.0.raw.0.as_ptr()
    }

    pub(crate) fn eal(&self) -> &Eal {
        &self.0.eal
    }
}

fn check(name: &str, config: PoolConfig) -> Result<(), PoolError> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(PoolError::Name(name.to_owned()));
    }
    let size = |field, value, rule| Err(PoolError::Size { name: name.to_owned(), field, value, rule });
    if config.mbufs == 0 {
        return size("mbufs", config.mbufs, "at least 1".into());
    }
    let most = sys::RTE_MEMPOOL_CACHE_MAX_SIZE.min(config.mbufs / 3 * 2);
    if config.cache > most {
        return size(
            "cache",
            config.cache,
            format!("at most {most}, two thirds of `mbufs` and DPDK's own limit"),
        );
    }
    if config.data_room < PoolConfig::HEADROOM {
        let rule = format!("at least {}, the headroom, and room for a packet", PoolConfig::HEADROOM);
        return size("data_room", config.data_room.into(), rule);
    }
    Ok(())
}
