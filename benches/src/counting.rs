//! An allocator that counts, for whoever makes it the program's: `#[global_allocator] static ALL: Counting = Counting;`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Constant and without a destructor: using it allocates nothing, at any time in a thread's life.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, and a number a thread of how often it was asked for memory.
#[derive(Debug, Clone, Copy)]
pub struct Counting;

impl Counting {
    /// How often this thread allocated memory, or enlarged what it had, while `work` ran.
    pub fn during<T>(work: impl FnOnce() -> T) -> (u64, T) {
        let before = ALLOCATIONS.get();
        let value = work();
        (ALLOCATIONS.get() - before, value)
    }
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: each call is handed on to the system's allocator as it is, and its answer back; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; all memory is the system's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises; all memory is the system's.
        unsafe { System.realloc(memory, layout, size) }
    }
}
