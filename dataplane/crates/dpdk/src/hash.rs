//! `rte_hash`: DPDK's cuckoo hash table, with keys of whole 64-bit words and a word as value.
//!
//! Benches compare with it; the data plane has tables of its own.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use dpdk_sys as sys;

use crate::eal::Eal;
use crate::table::{TableError, added, create};

/// Keys looked up at a time, at most.
pub const HASH_BURST: usize = sys::RTE_HASH_LOOKUP_BULK_MAX as usize;

/// Who may use a table at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashSharing {
    /// One thread.
    None,
    /// Readers beside a writer, without a lock: `RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF`. This wrapper still belongs to one thread; it
    /// is for what the readers' part costs.
    LockFree,
}

/// Keys of `WORDS` words in an `rte_hash`, by its default hash function (CRC32 where the processor has it).
pub struct Hash<const WORDS: usize> {
    raw: NonNull<sys::rte_hash>,
    eal: Eal,
}

/// What was found for a burst.
#[derive(Clone, Debug)]
pub struct HashAnswers {
    found: u64,
    values: [usize; HASH_BURST],
}

impl Default for HashAnswers {
    fn default() -> Self {
        Self { found: 0, values: [0; HASH_BURST] }
    }
}

impl HashAnswers {
    /// The value of the key at this place of the burst.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<usize> {
        let found = u32::try_from(at).ok().and_then(|at| self.found.checked_shr(at)).unwrap_or(0);
        if found & 1 == 1 { self.values.get(at).copied() } else { None }
    }
}

impl<const WORDS: usize> Hash<WORDS> {
    /// No keys yet.
    ///
    /// # Errors
    /// No memory, or more than DPDK has a table for.
    pub fn new(eal: &Eal, keys: u32, sharing: HashSharing) -> Result<Self, TableError> {
        // A few words.
        let key_len = u32::try_from(WORDS * size_of::<u64>()).unwrap_or(u32::MAX);
        let extra_flag = match sharing {
            HashSharing::None => 0,
            // An eight-bit field of flags, of which this is 0x20.
            HashSharing::LockFree => u8::try_from(sys::RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF).unwrap_or(0),
        };
        let raw = create(eal, "rte_hash_create", keys, |name| {
            let parameters = sys::rte_hash_parameters {
                name: name.as_ptr(),
                entries: keys,
                reserved: 0,
                key_len,
                hash_func: None,
                hash_func_init_val: 0,
                socket_id: sys::SOCKET_ID_ANY,
                extra_flag,
            };
            // SAFETY: EAL is initialised and the control lock held; name and parameters are copied.
            unsafe { sys::rte_hash_create(&raw const parameters) }
        })?;
        Ok(Self { raw, eal: eal.clone() })
    }

    /// Adds a key, or replaces its value.
    ///
    /// # Errors
    /// No room.
    pub fn add(&mut self, key: &[u64; WORDS], value: usize) -> Result<(), TableError> {
        // DPDK keeps the pointer and never follows it.
        let (key, value) = (ptr::from_ref(key).cast(), ptr::without_provenance_mut::<c_void>(value));
        // SAFETY: the table is ours alone and lives until the drop; the key has the length that it was made for, and is copied.
        let result = unsafe { sys::rte_hash_add_key_data(self.raw.as_ptr(), key, value) };
        added("rte_hash_add_key_data", result)
    }

    /// `rte_hash_lookup_bulk_data`, of the first [`HASH_BURST`] keys.
    #[inline]
    pub fn look_up(&self, keys: &[[u64; WORDS]], answers: &mut HashAnswers) {
        let mut places = [ptr::null::<c_void>(); HASH_BURST];
        for (place, key) in places.iter_mut().zip(keys) {
            *place = ptr::from_ref(key).cast();
        }
        let count = u32::try_from(keys.len().min(HASH_BURST)).unwrap_or(0);
        answers.found = 0;
        if count == 0 {
            return;
        }
        let HashAnswers { found, values } = answers;
        // SAFETY: `count` pointers to keys of the right length, and room for the most answers that there are; the table lives until
        // the drop. It fails for null pointers and counts out of bounds alone.
        let _never = unsafe {
            sys::rte_hash_lookup_bulk_data(
                self.raw.as_ptr(),
                places.as_mut_ptr(),
                count,
                found,
                values.as_mut_ptr().cast(),
            )
        };
    }
}

impl<const WORDS: usize> Drop for Hash<WORDS> {
    fn drop(&mut self) {
        let _control = self.eal.control();
        // SAFETY: made by `rte_hash_create`, used by nobody else, and not used again.
        unsafe { sys::rte_hash_free(self.raw.as_ptr()) }
    }
}
