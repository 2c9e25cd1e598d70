//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and CRC32c for SCTP (RFC 9260, appendix A).
//!
//! Words are big-endian, as on the wire: a value here is what `u16::from_be_bytes` reads from a checksum field.
//! Sums are `u32` of at most 0xffff each where a function returns them, so that some 65,000 may be added with `+` before
//! [`fold`]. A piece of odd length may only be the last: for pieces of any length use [`RunningSum`].

use std::net::{Ipv4Addr, Ipv6Addr};

/// Folds carries back in until 16 bits are left. Zero only for zero.
#[inline]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "two folds leave at most 0xffff of any u32")]
    let folded = sum as u16;
    folded
}

/// Folds a sum of native-endian words and turns it into the sum of big-endian ones: bytes may be swapped before or
/// after, the carries come round either way (RFC 1071, section 2 (B)).
#[inline]
fn fold_native(acc: u64) -> u16 {
    let acc = (acc & 0xffff_ffff) + (acc >> 32);
    let acc = (acc & 0xffff_ffff) + (acc >> 32);
    #[expect(clippy::cast_possible_truncation, reason = "two folds leave at most 32 bits of any u64")]
    let acc = acc as u32;
    u16::from_be(fold(acc))
}

/// Native-endian 32-bit words, 8 bytes a step in two lanes, which the compiler makes vectors of. Neither lane can
/// overflow below 2^35 bytes; what is left over counts as if zeros followed.
#[inline]
fn sum_native(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let (mut even, mut odd) = (0u64, 0u64);
    for word in words {
        let word = u64::from_ne_bytes(*word);
        even += word & 0xffff_ffff;
        odd += word >> 32;
    }
    let mut tail = [0; 8];
    tail[..rest.len()].copy_from_slice(rest);
    let tail = u64::from_ne_bytes(tail);
    even + odd + (tail & 0xffff_ffff) + (tail >> 32)
}

/// The ones-complement sum of `data`, not complemented, at most 0xffff. An odd last byte counts as if a zero followed.
#[inline]
#[must_use]
pub fn sum(data: &[u8]) -> u32 {
    u32::from(fold_native(sum_native(data)))
}

/// The checksum of `data`: the complement of its sum.
#[inline]
#[must_use]
pub fn internet_checksum(data: &[u8]) -> u16 {
    !fold(sum(data))
}

/// The sum of the IPv4 pseudo-header (RFC 9293, section 3.1): `len` is of transport header and payload, in bytes.
#[inline]
#[must_use]
pub fn pseudo_header_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> u32 {
    sum_u32(u32::from(src)) + sum_u32(u32::from(dst)) + u32::from(protocol) + u32::from(len)
}

/// The sum of the IPv6 pseudo-header (RFC 8200, section 8.1): `len` is of transport header and payload, in bytes,
/// without extension headers.
#[inline]
#[must_use]
pub fn pseudo_header_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u32) -> u32 {
    sum_u128(u128::from(src)) + sum_u128(u128::from(dst)) + u32::from(protocol) + sum_u32(len)
}

#[inline]
const fn sum_u32(value: u32) -> u32 {
    (value >> 16) + (value & 0xffff)
}

#[inline]
fn sum_u128(value: u128) -> u32 {
    sum(&value.to_be_bytes())
}

/// A UDP checksum is sent as 0xffff where it computes to zero, since zero says that there is none (RFC 768).
#[inline]
#[must_use]
pub const fn udp_nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// A sum over pieces of any lengths, odd ones too: the segments of one packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunningSum {
    sum: u32,
    odd: bool,
}

impl RunningSum {
    /// Begins with a sum already had: a pseudo-header's, or 0.
    #[must_use]
    pub const fn new(sum: u32) -> Self {
        Self { sum: fold(sum) as u32, odd: false }
    }

    /// Takes the next piece in.
    pub fn add(&mut self, piece: &[u8]) {
        let mut part = fold(sum(piece));
        // After an odd number of bytes, this piece's first byte is a word's second.
        if self.odd {
            part = part.swap_bytes();
        }
        self.sum = u32::from(fold(self.sum + u32::from(part)));
        self.odd ^= piece.len() % 2 == 1;
    }

    /// The sum so far, not complemented.
    #[must_use]
    pub const fn sum(self) -> u16 {
        fold(self.sum)
    }

    /// The checksum: the complement of the sum.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.sum()
    }
}

/// What replacing fields adds to the sum of the packet that holds them: ~m + m' (RFC 1624, equation 3).
///
/// Deltas compose in any order. An action has two, for addresses and for ports: a finished checksum takes both, a partial one
/// (the uncomplemented pseudo-header sum, which the output completes) takes that of the addresses alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChecksumDelta(u16);

impl ChecksumDelta {
    /// Changes nothing.
    pub const NONE: Self = Self(0);

    /// A 16-bit field: a port, an ICMP identifier, TTL and protocol.
    #[inline]
    #[must_use]
    pub const fn replace_u16(old: u16, new: u16) -> Self {
        Self(fold(!old as u32 + new as u32))
    }

    /// An aligned 32-bit field.
    #[inline]
    #[must_use]
    pub const fn replace_u32(old: u32, new: u32) -> Self {
        Self(fold(sum_u32(!old) + sum_u32(new)))
    }

    /// An aligned 128-bit field.
    #[inline]
    #[must_use]
    pub fn replace_u128(old: u128, new: u128) -> Self {
        Self(fold(sum_u128(!old) + sum_u128(new)))
    }

    /// An IPv4 address.
    #[inline]
    #[must_use]
    pub fn replace_ipv4(old: Ipv4Addr, new: Ipv4Addr) -> Self {
        Self::replace_u32(u32::from(old), u32::from(new))
    }

    /// An IPv6 address.
    #[inline]
    #[must_use]
    pub fn replace_ipv6(old: Ipv6Addr, new: Ipv6Addr) -> Self {
        Self::replace_u128(u128::from(old), u128::from(new))
    }

    /// Both changes as one.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(fold(self.0 as u32 + other.0 as u32))
    }

    /// The change back.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        // The complement is the negative, and zero's is its own.
        if self.0 == 0 { self } else { Self(!self.0) }
    }

    /// The new value of a finished checksum, as of TCP, ICMP or an IPv4 header.
    #[inline]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(!checksum as u32 + self.0 as u32)
    }

    /// The new value of a finished UDP checksum: an absent one (zero) stays absent, and none becomes zero (RFC 768).
    #[inline]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 { 0 } else { udp_nonzero(self.apply(checksum)) }
    }

    /// The new value of a partial checksum, which is an uncomplemented sum.
    #[inline]
    #[must_use]
    pub const fn apply_partial(self, sum: u16) -> u16 {
        fold(sum as u32 + self.0 as u32)
    }
}

/// Tables for eight bytes a step ("slicing-by-8"): `CRC[k][b]` is the CRC of `b` followed by `k` zero bytes.
static CRC: [[u32; 256]; 8] = crc_tables();

/// Castagnoli's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0u32;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte as usize] = crc;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// CRC32c of `data`.
#[must_use]
pub fn crc32c(data: &[u8]) -> u32 {
    crc32c_append(0, data)
}

/// CRC32c of the bytes that `crc` was computed of, followed by `data`.
#[must_use]
pub fn crc32c_append(crc: u32, data: &[u8]) -> u32 {
    let (words, rest) = data.as_chunks::<8>();
    let mut crc = !crc;
    for &[a, b, c, d, e, f, g, h] in words {
        let [i, j, k, l] = (crc ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
        crc = CRC[7][usize::from(i)]
            ^ CRC[6][usize::from(j)]
            ^ CRC[5][usize::from(k)]
            ^ CRC[4][usize::from(l)]
            ^ CRC[3][usize::from(e)]
            ^ CRC[2][usize::from(f)]
            ^ CRC[1][usize::from(g)]
            ^ CRC[0][usize::from(h)];
    }
    for &byte in rest {
        let [low, ..] = crc.to_le_bytes();
        crc = crc >> 8 ^ CRC[0][usize::from(low ^ byte)];
    }
    !crc
}

/// `SHIFT[k]` multiplies by x to the power of 8 · 2^k, modulo the polynomial: what 2^k zero bytes do to a CRC's register.
static SHIFT: [u32; 32] = shift_factors();

const fn shift_factors() -> [u32; 32] {
    // The highest bit is x^0: this is x^8.
    let mut factors = [0x0080_0000; 32];
    let mut k = 1;
    while k < 32 {
        factors[k] = multiply(factors[k - 1], factors[k - 1]);
        k += 1;
    }
    factors
}

/// The product of two reflected polynomials, modulo Castagnoli's.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        // Masks, not branches: the bits of a CRC are as good as random.
        product ^= b & 0u32.wrapping_sub((a & bit != 0) as u32);
        b = b >> 1 ^ POLYNOMIAL & 0u32.wrapping_sub(b & 1);
        bit >>= 1;
    }
    product
}

/// What `zeros` zero bytes make of a CRC32c register: the plain remainder, without the complements of [`crc32c`] before
/// and after. One multiplication for each bit set in `zeros`.
#[must_use]
pub const fn crc32c_shift(register: u32, zeros: u32) -> u32 {
    let (mut register, mut zeros) = (register, zeros);
    while zeros != 0 {
        register = multiply(register, SHIFT[zeros.trailing_zeros() as usize]);
        zeros &= zeros - 1;
    }
    register
}

/// The CRC32c of bytes in which `old` became `new`, with `behind` bytes after it, from what it was before. Those need not be
/// at hand: a CRC is linear, so that the difference is the remainder of what differs, followed by as many zeros.
#[must_use]
pub fn crc32c_replace(crc: u32, old: [u8; 4], new: [u8; 4], behind: u32) -> u32 {
    let differs = u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new);
    // Complemented before and after, which makes it the plain remainder.
    let register = !crc32c_append(!0, &differs.to_ne_bytes());
    crc ^ crc32c_shift(register, behind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, section 3: these words sum to 2ddf0, folded ddf2.
    const RFC_1071: [u8; 8] = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];

    fn naive(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn known_sums() {
        assert_eq!(sum(&RFC_1071), 0xddf2);
        assert_eq!(internet_checksum(&RFC_1071), 0x220d);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0x12]), 0x1200);
        assert_eq!(sum(&[0xff; 9]), 0xff00);
        // Folding the upper half in carries once more, whichever way round the machine has its bytes.
        assert_eq!(sum(&[255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0]), 0x0100);
        assert_eq!(sum(&[255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 1]), 0x0001);
        assert_eq!((fold(0xffff_ffff), fold(0x1_0000), fold(0)), (0xffff, 1, 0));
    }

    #[test]
    fn pseudo_headers() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(fold(pseudo_header_v4(a, b, 17, 8)), 0x0a00 + 1 + 0x0a00 + 2 + 17 + 8);
        let (a, b) = (Ipv6Addr::from(1), Ipv6Addr::from(2 << 112));
        assert_eq!(fold(pseudo_header_v6(a, b, 58, 0x1_0003)), 1 + 2 + 58 + 1 + 3);
    }

    /// RFC 1624, section 4: a header with checksum dd2f, in which 5555 becomes 3285, and the sum of all else is cd7a.
    #[test]
    fn rfc_1624_example() {
        assert_eq!(ChecksumDelta::replace_u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn udp_zero() {
        assert_eq!((udp_nonzero(0), udp_nonzero(1), udp_nonzero(0xffff)), (0xffff, 1, 0xffff));
        let delta = ChecksumDelta::replace_u16(0x5555, 0x3285);
        assert_eq!(delta.apply_udp(0xdd2f), 0xffff);
        assert_eq!(delta.apply_udp(0), 0);
    }

    #[test]
    fn none_changes_nothing() {
        for checksum in 0..=0xffff {
            assert_eq!(ChecksumDelta::NONE.apply(checksum), checksum);
            assert_eq!(ChecksumDelta::NONE.apply_udp(checksum), checksum);
            assert_eq!(ChecksumDelta::NONE.apply_partial(checksum), checksum);
        }
        assert_eq!(ChecksumDelta::NONE.reversed(), ChecksumDelta::NONE);
    }

    #[test]
    fn crc32c_known() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&[]), 0);
    }

    proptest! {
        #[test]
        fn sum_is_the_naive_one(data in prop::collection::vec(any::<u8>(), 0..300), from in 0usize..9) {
            let data = data.get(from..).unwrap_or_default();
            prop_assert_eq!(sum(data), u32::from(naive(data)));
        }

        #[test]
        fn pieces_sum_to_the_whole(data in prop::collection::vec(any::<u8>(), 0..200), cuts: [u8; 4], start: u16) {
            let mut cuts: Vec<usize> = cuts.iter().map(|c| usize::from(*c) % (data.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(data.len());
            let mut running = RunningSum::new(u32::from(start));
            let mut from = 0;
            for cut in cuts {
                running.add(&data[from..cut]);
                from = cut;
            }
            prop_assert_eq!(running.sum(), fold(sum(&data) + u32::from(start)));
            prop_assert_eq!(running.checksum(), !running.sum());
        }

        #[test]
        fn crc_of_pieces(data in prop::collection::vec(any::<u8>(), 0..100), cut: u8) {
            let (a, b) = data.split_at(usize::from(cut) % (data.len() + 1));
            prop_assert_eq!(crc32c_append(crc32c(a), b), crc32c(&data));
        }

        #[test]
        fn shifting_is_appending_zeros(register: u32, zeros in 0u32..70_000) {
            let appended = !crc32c_append(!register, &vec![0; zeros as usize]);
            prop_assert_eq!(crc32c_shift(register, zeros), appended);
        }

        #[test]
        fn shifts_add_up(register: u32, a in 0u32..1 << 31, b in 0u32..1 << 31) {
            prop_assert_eq!(crc32c_shift(crc32c_shift(register, a), b), crc32c_shift(register, a + b));
        }

        #[test]
        fn replacing_is_recomputing(
            data in prop::collection::vec(any::<u8>(), 4..2000), at: prop::sample::Index, new: [u8; 4],
        ) {
            let at = at.index(data.len() - 3);
            let mut changed = data.clone();
            changed[at..at + 4].copy_from_slice(&new);
            let old = data[at..at + 4].try_into().unwrap();
            let behind = u32::try_from(data.len() - at - 4).unwrap();
            prop_assert_eq!(crc32c_replace(crc32c(&data), old, new, behind), crc32c(&changed));
        }

        /// A transport's checksum over pseudo-header addresses, ports and data, edited in all of them.
        #[test]
        fn incremental_is_the_full_one(
            mut data in prop::collection::vec(any::<u8>(), 16..64),
            v4: [[u32; 2]; 2], v6: [[u128; 2]; 2], ports: [u16; 2], is_v6: bool,
        ) {
            let len = u16::try_from(data.len()).unwrap();
            let pseudo = |side: usize| {
                if is_v6 {
                    pseudo_header_v6(v6[side][0].into(), v6[side][1].into(), 6, u32::from(len))
                } else {
                    pseudo_header_v4(v4[side][0].into(), v4[side][1].into(), 6, len)
                }
            };
            // The checksum field itself is not part of `data`, so that nothing needs to be blanked.
            let before = !fold(pseudo(0) + sum(&data));
            let partial = fold(pseudo(0));
            let addresses = if is_v6 {
                let [from, to] = v6;
                ChecksumDelta::replace_ipv6(from[0].into(), to[0].into())
                    .and(ChecksumDelta::replace_u128(from[1], to[1]))
            } else {
                let [from, to] = v4;
                ChecksumDelta::replace_ipv4(from[0].into(), to[0].into())
                    .and(ChecksumDelta::replace_u32(from[1], to[1]))
            };
            let mut port = ChecksumDelta::NONE;
            for (i, new) in ports.into_iter().enumerate() {
                let old = u16::from_be_bytes([data[2 * i], data[2 * i + 1]]);
                port = port.and(ChecksumDelta::replace_u16(old, new));
                data[2 * i..2 * i + 2].copy_from_slice(&new.to_be_bytes());
            }
            let after = !fold(pseudo(1) + sum(&data));
            let both = addresses.and(port);
            prop_assert_eq!(both.apply(before), after);
            prop_assert_eq!(port.apply(addresses.apply(before)), after);
            prop_assert_eq!(both.reversed().apply(after), before);
            if before != 0 {
                prop_assert_eq!(both.apply_udp(before), udp_nonzero(after));
            }
            // What an output makes of a partial checksum: the sum of the data on top of it.
            let partial = addresses.apply_partial(partial);
            prop_assert_eq!(!fold(u32::from(partial) + sum(&data)), after);
            prop_assert_eq!(partial, fold(pseudo(1)));
        }
    }
}
