//! `rte_fib` (DIR24_8) and `rte_fib6` (a trie), with four bytes a value.
//!
//! Benches compare with them; the data plane has tables of its own.

use std::ptr::NonNull;

use dpdk_sys as sys;

use crate::eal::Eal;
use crate::errno::Errno;
use crate::lpm::RouteRoom;
use crate::table::{TableError, added, create};

/// How a FIB looks a burst up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibLookup {
    /// An address at a time.
    Scalar,
    /// Sixteen at a time by AVX-512, where the processor has it and EAL was given `--force-max-simd-bitwidth=512`.
    Avx512,
}

fn selected(function: &'static str, result: i32) -> Result<(), TableError> {
    if result < 0 { Err(TableError::Select { function, errno: Errno::of(result) }) } else { Ok(()) }
}

/// IPv4 routes in an `rte_fib`.
pub struct Fib {
    raw: NonNull<sys::rte_fib>,
    eal: Eal,
}

impl Fib {
    /// No routes yet.
    ///
    /// # Errors
    /// No memory, or sizes that DPDK has no table for.
    pub fn new(eal: &Eal, room: RouteRoom) -> Result<Self, TableError> {
        let raw = create(eal, "rte_fib_create", room.routes, |name| {
            // SAFETY: EAL is initialised and the control lock held; the name is copied.
            unsafe { sys::dpdk_shim_fib_create(name.as_ptr(), room.routes, room.groups) }
        })?;
        Ok(Self { raw, eal: eal.clone() })
    }

    /// Chooses how it looks up.
    ///
    /// # Errors
    /// Not by this processor, or not by this DPDK.
    pub fn select(&mut self, lookup: FibLookup) -> Result<(), TableError> {
        let vector = lookup == FibLookup::Avx512;
        // SAFETY: the table is ours alone and lives until the drop.
        let result = unsafe { sys::dpdk_shim_fib_select(self.raw.as_ptr(), vector) };
        selected("rte_fib_select_lookup", result)
    }

    /// Adds a route, or replaces the one to this prefix. `value` is from 1, and below 2^31.
    ///
    /// # Errors
    /// No room, or a length above 32.
    pub fn add(&mut self, addr: u32, len: u8, value: u32) -> Result<(), TableError> {
        // SAFETY: the table is ours alone and lives until the drop; arguments are checked there.
        added("rte_fib_add", unsafe { sys::rte_fib_add(self.raw.as_ptr(), addr, len, value.into()) })
    }

    /// `rte_fib_lookup_bulk`: a value an address, 0 where no route is. As many as the shorter slice has.
    #[inline]
    pub fn look_up(&self, addrs: &[u32], answers: &mut [u64]) {
        let count = i32::try_from(addrs.len().min(answers.len())).unwrap_or(i32::MAX);
        let (addrs, answers) = (addrs.as_ptr().cast_mut(), answers.as_mut_ptr());
        // SAFETY: `count` addresses and as many answers. The addresses are only read, though the parameter is not const; so is
        // the table. It fails for null pointers alone.
        let _never = unsafe { sys::rte_fib_lookup_bulk(self.raw.as_ptr(), addrs, answers, count) };
    }
}

impl Drop for Fib {
    fn drop(&mut self) {
        let _control = self.eal.control();
        // SAFETY: made by `rte_fib_create`, used by nobody else, and not used again.
        unsafe { sys::rte_fib_free(self.raw.as_ptr()) }
    }
}

/// IPv6 routes in an `rte_fib6`.
pub struct Fib6 {
    raw: NonNull<sys::rte_fib6>,
    eal: Eal,
}

impl Fib6 {
    /// No routes yet.
    ///
    /// # Errors
    /// No memory, or sizes that DPDK has no table for.
    pub fn new(eal: &Eal, room: RouteRoom) -> Result<Self, TableError> {
        let raw = create(eal, "rte_fib6_create", room.routes, |name| {
            // SAFETY: EAL is initialised and the control lock held; the name is copied.
            unsafe { sys::dpdk_shim_fib6_create(name.as_ptr(), room.routes, room.groups) }
        })?;
        Ok(Self { raw, eal: eal.clone() })
    }

    /// Chooses how it looks up.
    ///
    /// # Errors
    /// Not by this processor, or not by this DPDK.
    pub fn select(&mut self, lookup: FibLookup) -> Result<(), TableError> {
        let vector = lookup == FibLookup::Avx512;
        // SAFETY: the table is ours alone and lives until the drop.
        let result = unsafe { sys::dpdk_shim_fib6_select(self.raw.as_ptr(), vector) };
        selected("rte_fib6_select_lookup", result)
    }

    /// Adds a route, or replaces the one to this prefix. `value` is from 1, and below 2^31.
    ///
    /// # Errors
    /// No room, or a length above 128.
    pub fn add(&mut self, addr: [u8; 16], len: u8, value: u32) -> Result<(), TableError> {
        // SAFETY: the table is ours alone and lives until the drop; the address has 16 bytes and is copied.
        let result = unsafe { sys::dpdk_shim_fib6_add(self.raw.as_ptr(), addr.as_ptr(), len, value.into()) };
        added("rte_fib6_add", result)
    }

    /// `rte_fib6_lookup_bulk`: a value an address, 0 where no route is. As many as the shorter slice has.
    #[inline]
    pub fn look_up(&self, addrs: &[[u8; 16]], answers: &mut [u64]) {
        let count = i32::try_from(addrs.len().min(answers.len())).unwrap_or(i32::MAX);
        let (first, answers) = (addrs.as_ptr().cast(), answers.as_mut_ptr());
        // SAFETY: `count` addresses of 16 bytes and as many answers; it fails for null pointers alone, and only reads the table.
        let _never = unsafe { sys::dpdk_shim_fib6_lookup(self.raw.as_ptr(), first, answers, count) };
    }
}

impl Drop for Fib6 {
    fn drop(&mut self) {
        let _control = self.eal.control();
        // SAFETY: made by `rte_fib6_create`, used by nobody else, and not used again.
        unsafe { sys::rte_fib6_free(self.raw.as_ptr()) }
    }
}
