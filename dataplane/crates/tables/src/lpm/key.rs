//! The addresses a trie can be keyed by.

use std::fmt::Debug;
use std::hash::Hash;

/// An address as a number, most significant bit first. Implemented for `u32` (IPv4) and `u128` (IPv6).
pub trait Key: Copy + Eq + Ord + Hash + Debug + 'static {
    /// The length of a host prefix, in bits.
    const BITS: u8;
    /// 32-bit words in an address.
    const WORDS: usize;

    /// The byte at `depth`, counted from the most significant one. `depth` is below `BITS / 8`.
    fn byte(self, depth: u8) -> u8;
    /// Bytes that both have in common at the start.
    fn common_bytes(self, other: Self) -> u8;
    /// The first `len` bits; the others zero.
    #[must_use]
    fn masked(self, len: u8) -> Self;
    /// The same address with the byte at `depth` set; for the iteration over a node's prefixes.
    #[must_use]
    fn with_byte(self, depth: u8, byte: u8) -> Self;
    /// The `i`th word, most significant first.
    fn word(self, i: usize) -> u32;
    /// The address of these words; `words` has at least `WORDS`.
    fn from_words(words: &[u32]) -> Self;
}

impl Key for u32 {
    const BITS: u8 = 32;
    const WORDS: usize = 1;

    #[inline]
    fn byte(self, depth: u8) -> u8 {
        self.to_be_bytes()[usize::from(depth & 3)]
    }

    #[inline]
    fn common_bytes(self, other: Self) -> u8 {
        leading_bytes((self ^ other).leading_zeros())
    }

    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }

    fn with_byte(self, depth: u8, byte: u8) -> Self {
        let mut bytes = self.to_be_bytes();
        bytes[usize::from(depth & 3)] = byte;
        Self::from_be_bytes(bytes)
    }

    fn word(self, _: usize) -> u32 {
        self
    }

    #[inline]
    fn from_words(words: &[u32]) -> Self {
        words.first().copied().unwrap_or(0)
    }
}

impl Key for u128 {
    const BITS: u8 = 128;
    const WORDS: usize = 4;

    #[inline]
    fn byte(self, depth: u8) -> u8 {
        self.to_be_bytes()[usize::from(depth & 15)]
    }

    #[inline]
    fn common_bytes(self, other: Self) -> u8 {
        leading_bytes((self ^ other).leading_zeros())
    }

    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }

    fn with_byte(self, depth: u8, byte: u8) -> Self {
        let mut bytes = self.to_be_bytes();
        bytes[usize::from(depth & 15)] = byte;
        Self::from_be_bytes(bytes)
    }

    fn word(self, i: usize) -> u32 {
        let bytes = self.to_be_bytes();
        let start = (i & 3) * 4;
        u32::from_be_bytes([bytes[start], bytes[start + 1], bytes[start + 2], bytes[start + 3]])
    }

    #[inline]
    fn from_words(words: &[u32]) -> Self {
        words.iter().take(4).fold(0, |sum, &word| sum << 32 | Self::from(word))
    }
}

#[inline]
fn leading_bytes(zeros: u32) -> u8 {
    u8::try_from(zeros / 8).unwrap_or(u8::MAX)
}
