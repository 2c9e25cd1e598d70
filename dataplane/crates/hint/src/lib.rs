//! Hints to the processor: prefetches and the pause of a spin loop; and a comparison that it does at once where Rust has no word for it.
//!
//! Owns no memory and changes none: every function here is safe to call with any argument, and a machine without the
//! instruction does nothing (or the nearest thing). Whether a hint pays is for a benchmark to say, not for this crate.

use std::arch;

/// Asks for the cache line that holds the start of `value`, into all levels, for reading.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(value: &T) {
    prefetch(std::ptr::from_ref(value).cast());
}

/// Asks for the cache line at `address`, into all levels, for reading: for memory that another process writes too, to which
/// no reference may be made. Any address will do.
#[inline(always)]
pub fn prefetch_at(address: *const u8) {
    prefetch(address);
}

/// The same for writing: the line comes without another core's copy left of it, so that the write need not wait for that.
#[inline(always)]
pub fn prefetch_to_write(address: *const u8) {
    prefetch_exclusive(address);
}

/// Asks for the first cache line of `bytes`, into all levels, for reading. An empty slice is as good as any.
#[inline(always)]
pub fn prefetch_slice(bytes: &[u8]) {
    prefetch(bytes.as_ptr());
}

/// Which of eight 16-bit lanes are `value`, a bit each: lane 0 is the first word's low end.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[must_use]
pub fn equal_lanes(words: [u64; 2], value: u16) -> u32 {
    use arch::x86_64::{_mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x, _mm_set1_epi16};
    #[target_feature(enable = "sse2")]
    #[inline]
    fn at_once(words: [u64; 2], value: u16) -> u32 {
        let [low, high] = words.map(u64::cast_signed);
        let same = _mm_cmpeq_epi16(_mm_set_epi64x(high, low), _mm_set1_epi16(value.cast_signed()));
        // A byte of each lane, twice, of which one is kept.
        _mm_movemask_epi8(_mm_packs_epi16(same, same)).cast_unsigned() & 0xff
    }
    // SAFETY: every x86-64 has SSE2.
    unsafe { at_once(words, value) }
}

/// Which of eight 16-bit lanes are `value`, a bit each: lane 0 is the first word's low end.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
#[must_use]
pub fn equal_lanes(words: [u64; 2], value: u16) -> u32 {
    one_by_one(words, value)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn one_by_one(words: [u64; 2], value: u16) -> u32 {
    let lane = |at: usize| words[at / 4] >> (16 * (at % 4)) & 0xffff;
    (0..8).map(|at| u32::from(lane(at) == u64::from(value)) << at).sum()
}

/// Tells the core that this is a spin loop: `pause` on x86, `isb` on aarch64. Takes some 40 to 140 cycles on current
/// x86 servers, so it belongs into a loop with nothing to do, never beside a packet.
#[inline(always)]
pub fn spin() {
    std::hint::spin_loop();
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch(address: *const u8) {
    // SAFETY: PREFETCHT0 needs SSE, which every x86-64 has. It is a hint: it never faults, whatever the address, and
    // has no effect that a program can observe (Intel SDM, volume 2, PREFETCHh).
    unsafe { arch::x86_64::_mm_prefetch::<{ arch::x86_64::_MM_HINT_T0 }>(address.cast()) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_exclusive(address: *const u8) {
    // SAFETY: as `prefetch`. PREFETCHW is a hint too, and where a processor does not have it, it is a no-operation (Intel SDM,
    // volume 2, PREFETCHW; AMD APM, volume 3).
    unsafe { arch::asm!("prefetchw [{}]", in(reg) address, options(readonly, nostack, preserves_flags)) };
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn prefetch_exclusive(address: *const u8) {
    // SAFETY: as `prefetch`.
    unsafe {
        arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(readonly, nostack, preserves_flags));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn prefetch_exclusive(_address: *const u8) {}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn prefetch(address: *const u8) {
    // SAFETY: PRFM is a hint: it never faults, whatever the address, and changes neither memory nor registers nor flags
    // (Arm ARM, C6.2, PRFM), which is what the options say.
    unsafe {
        arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(readonly, nostack, preserves_flags));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn prefetch(_address: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_found_as_one_by_one() {
        let mut word = 0x0123_4567_89ab_cdef_u64;
        for round in 0..100_000_u64 {
            let mut next = || {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round | 1);
                // Few values, with the highest bit, so that they meet.
                word.rotate_left(17) & 0x8001_8001_8001_8001
            };
            let words = [next(), next()];
            for value in [0, 1, 0x8000, 0x8001] {
                assert_eq!(equal_lanes(words, value), one_by_one(words, value));
            }
        }
    }

    #[test]
    fn hints_leave_values_alone() {
        let words = vec![0x5a5a_5a5a_u32; 1024];
        for word in &words {
            prefetch_read(word);
        }
        prefetch_read(words.as_slice());
        prefetch_slice(b"some bytes");
        prefetch_slice(&[]);
        prefetch_at(std::ptr::null());
        prefetch_to_write(std::ptr::null());
        spin();
        assert!(words.iter().all(|&w| w == 0x5a5a_5a5a));
    }
}
