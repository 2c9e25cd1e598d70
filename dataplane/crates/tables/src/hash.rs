//! One hash for all that is found by hash here: quick on a few words, good in every bit.
//!
//! Not keyed: whoever could choose what is hashed could make lookups slow, not wrong. What is hashed here comes from the cluster's
//! own state, and no packet adds to it.

use std::hash::Hasher;
use std::net::IpAddr;

/// Odd, with no pattern in its bits: those of the golden ratio and of the square root of two.
const RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
const ROOT: u64 = 0x6a09_e667_f3bc_c909;

/// Both halves of the product: every bit of the operands reaches every bit of the result.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ ROOT) * u128::from(b ^ RATIO);
    product as u64 ^ (product >> 64) as u64
}

/// An address of either family in 128 bits. IPv4 is written as it is mapped into IPv6, since those never meet on
/// a wire (RFC 4291, section 2.5.5.2).
#[inline]
pub(crate) fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => 0xffff << 32 | u128::from(addr.to_bits()),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

/// The hash of an address and of a word that says what of it.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub(crate) fn with_address(word: u64, addr: u128) -> u64 {
    fold(fold(word, addr as u64), (addr >> 64) as u64)
}

/// [`fold`], a word at a time.
#[derive(Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    #[inline]
    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0, word);
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}
