//! `rte_lpm` and `rte_lpm6`: DPDK's longest-prefix match, 24 bits of an address at once and then 8 at a time.
//!
//! Benches compare with them; the data plane has tables of its own.

use std::ptr::NonNull;

use dpdk_sys as sys;

use crate::eal::Eal;
use crate::table::{TableError, added, create};

/// Room in an LPM table or a FIB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRoom {
    /// Prefixes.
    pub routes: u32,
    /// Groups of 256 entries, for what lies below the first 24 bits; DPDK's `tbl8`.
    pub groups: u32,
}

/// IPv4 routes in an `rte_lpm`.
pub struct Lpm {
    raw: NonNull<sys::rte_lpm>,
    eal: Eal,
}

impl Lpm {
    /// Values are below this.
    pub const VALUES: u32 = 1 << 24;

    /// No routes yet.
    ///
    /// # Errors
    /// No memory, or sizes that DPDK has no table for.
    pub fn new(eal: &Eal, room: RouteRoom) -> Result<Self, TableError> {
        let config = sys::rte_lpm_config { max_rules: room.routes, number_tbl8s: room.groups, flags: 0 };
        let raw = create(eal, "rte_lpm_create", room.routes, |name| {
            // SAFETY: EAL is initialised and the control lock held; name and configuration are copied.
            unsafe { sys::rte_lpm_create(name.as_ptr(), sys::SOCKET_ID_ANY, &raw const config) }
        })?;
        Ok(Self { raw, eal: eal.clone() })
    }

    /// Adds a route, or replaces the one to this prefix. `value` is from 1, and below [`Lpm::VALUES`].
    ///
    /// # Errors
    /// No room, or a length above 32.
    pub fn add(&mut self, addr: u32, len: u8, value: u32) -> Result<(), TableError> {
        // SAFETY: the table is ours alone and lives until the drop; arguments are checked there.
        added("rte_lpm_add", unsafe { sys::rte_lpm_add(self.raw.as_ptr(), addr, len, value) })
    }

    /// `rte_lpm_lookup_bulk`: an answer an address, to be read by [`Lpm::value`]. As many as the shorter slice has.
    #[inline]
    pub fn look_up(&self, addrs: &[u32], answers: &mut [u32]) {
        let count = count_of(addrs.len().min(answers.len()));
        // SAFETY: both slices have `count` words; the table lives until the drop, and only reads happen.
        unsafe {
            sys::dpdk_shim_lpm_lookup(self.raw.as_ptr(), addrs.as_ptr(), answers.as_mut_ptr(), count);
        }
    }

    /// What an answer of [`Lpm::look_up`] means: 0 where no route is.
    #[inline]
    #[must_use]
    pub const fn value(answer: u32) -> u32 {
        if answer & sys::DPDK_SHIM_LPM_FOUND == 0 { 0 } else { answer & (Self::VALUES - 1) }
    }

    /// `rte_lpm_lookupx4`, over as many whole fours as the shorter slice has. Answers are values, 0 where no route is.
    #[inline]
    pub fn look_up_fours(&self, addrs: &[u32], answers: &mut [u32]) {
        let count = count_of(addrs.len().min(answers.len())) & !3;
        // SAFETY: both slices have `count` words, whole fours; otherwise as `look_up`.
        unsafe {
            sys::dpdk_shim_lpm_lookup_x4(self.raw.as_ptr(), addrs.as_ptr(), answers.as_mut_ptr(), count);
        }
    }
}

/// Slices beyond four billion are cut.
fn count_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl Drop for Lpm {
    fn drop(&mut self) {
        let _control = self.eal.control();
        // SAFETY: made by `rte_lpm_create`, used by nobody else, and not used again.
        unsafe { sys::rte_lpm_free(self.raw.as_ptr()) }
    }
}

/// IPv6 routes in an `rte_lpm6`.
pub struct Lpm6 {
    raw: NonNull<sys::rte_lpm6>,
    eal: Eal,
}

impl Lpm6 {
    /// Values are below this.
    pub const VALUES: u32 = 1 << 21;

    /// No routes yet.
    ///
    /// # Errors
    /// No memory, or sizes that DPDK has no table for.
    pub fn new(eal: &Eal, room: RouteRoom) -> Result<Self, TableError> {
        let config = sys::rte_lpm6_config { max_rules: room.routes, number_tbl8s: room.groups, flags: 0 };
        let raw = create(eal, "rte_lpm6_create", room.routes, |name| {
            // SAFETY: EAL is initialised and the control lock held; name and configuration are copied.
            unsafe { sys::rte_lpm6_create(name.as_ptr(), sys::SOCKET_ID_ANY, &raw const config) }
        })?;
        Ok(Self { raw, eal: eal.clone() })
    }

    /// Adds a route, or replaces the one to this prefix. `value` is from 1, and below [`Lpm6::VALUES`].
    ///
    /// # Errors
    /// No room, or a length above 128.
    pub fn add(&mut self, addr: [u8; 16], len: u8, value: u32) -> Result<(), TableError> {
        // SAFETY: the table is ours alone and lives until the drop; the address has 16 bytes and is copied.
        let result = unsafe { sys::dpdk_shim_lpm6_add(self.raw.as_ptr(), addr.as_ptr(), len, value) };
        added("rte_lpm6_add", result)
    }

    /// `rte_lpm6_lookup_bulk_func`: an answer an address, negative where no route is. As many as the shorter slice has.
    #[inline]
    pub fn look_up(&self, addrs: &[[u8; 16]], answers: &mut [i32]) {
        let count = count_of(addrs.len().min(answers.len()));
        let first = addrs.as_ptr().cast();
        // SAFETY: `count` addresses of 16 bytes and as many answers; it fails for null pointers alone, and only reads the table.
        let _never =
            unsafe { sys::dpdk_shim_lpm6_lookup(self.raw.as_ptr(), first, answers.as_mut_ptr(), count) };
    }
}

impl Drop for Lpm6 {
    fn drop(&mut self) {
        let _control = self.eal.control();
        // SAFETY: made by `rte_lpm6_create`, used by nobody else, and not used again.
        unsafe { sys::rte_lpm6_free(self.raw.as_ptr()) }
    }
}
