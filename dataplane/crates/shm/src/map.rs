//! Mapping: all that is unsafe here.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::AtomicU64;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};

/// Of most machines, in bytes. Where large pages are of another size, words lie as well as anywhere.
const LARGE_PAGE: usize = 2 << 20;

/// Zeros, this process's own. Memory is taken as words are first written.
///
/// # Errors
/// There is not so much address space.
pub fn anonymous(words: usize) -> io::Result<&'static [AtomicU64]> {
    let Some(bytes) = bytes(words)? else { return Ok(&[]) };
    // A large page more than is needed, so that the words can begin with one: what is hot may be less than one.
    let mapped = bytes.checked_add(LARGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: null lets the kernel choose a place that nothing else has, so no memory of Rust's is touched.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), mapped, readable(), MapFlags::PRIVATE) }?;
    let start = start.map_addr(|address| address.next_multiple_of(LARGE_PAGE));
    // SAFETY: `start` is less than a large page into a new mapping that is a large page longer than `bytes`; all of it is readable,
    // writable and zero, and nobody unmaps it.
    Ok(unsafe { lend(start, words) })
}

/// The first words of a file, shared with whoever maps it.
///
/// # Safety
/// The file has these words, and nobody makes it shorter while this process lives: a look at what is gone would end it (SIGBUS).
pub(crate) unsafe fn shared(file: BorrowedFd<'_>, words: usize) -> io::Result<&'static [AtomicU64]> {
    let Some(bytes) = bytes(words)? else { return Ok(&[]) };
    // SAFETY: null lets the kernel choose a place that nothing else has, so no memory of Rust's is touched.
    let start = unsafe { mmap(ptr::null_mut(), bytes, readable(), MapFlags::SHARED, file, 0) }?;
    // SAFETY: `start` begins `bytes` of a new mapping, readable and writable, which nobody unmaps; the caller vouches that all
    // of it is there. Others may write it too, which atomics are for.
    Ok(unsafe { lend(start, words) })
}

fn readable() -> ProtFlags {
    ProtFlags::READ | ProtFlags::WRITE
}

/// None for no words, which cannot be mapped.
fn bytes(words: usize) -> io::Result<Option<usize>> {
    let most = isize::MAX.unsigned_abs();
    match words.checked_mul(size_of::<AtomicU64>()) {
        Some(bytes) if bytes <= most => Ok((bytes > 0).then_some(bytes)),
        _ => Err(io::ErrorKind::OutOfMemory.into()),
    }
}

/// # Safety
/// A mapping of at least `words` words begins at `start`, readable, writable, and never unmapped.
unsafe fn lend(start: *mut std::ffi::c_void, words: usize) -> &'static [AtomicU64] {
    // Large pages: a look-up in a large table misses the TLB otherwise. Where the kernel has none to give, it goes on without.
    // SAFETY: the range is this mapping's, and the advice changes nothing of what is in it.
    let _without = unsafe { madvise(start, words * size_of::<AtomicU64>(), Advice::LinuxHugepage) };
    // SAFETY: the caller vouches for the range; mappings begin at a page, which is aligned for words; each pattern of bits is
    // an `AtomicU64`; and `bytes` has made sure that the length is not more than `isize::MAX`.
    unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), words) }
}
