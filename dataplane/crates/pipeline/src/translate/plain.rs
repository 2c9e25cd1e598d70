//! Translation of what most packets are: IP without options or extension headers, TCP or UDP, whole and finished.
//!
//! For the loop over a burst of known flows: no branch but by protocol, no bounds check but one, nothing read that is not
//! changed. Old and new tuples come from the flow's keys, as words in the order of their bytes.

use std::net::Ipv4Addr;

use flow::{Key4, Key6};
use wire::{ETHERNET_HEADER, IPV4_HEADER, IPV6_HEADER, TCP_HEADER, UDP_HEADER, protocol};

const L4_V4: usize = ETHERNET_HEADER + IPV4_HEADER;
const L4_V6: usize = ETHERNET_HEADER + IPV6_HEADER;

/// Addresses and ports as words, high bits first on the wire: source address, destination address; source port, destination port.
/// IPv4's addresses are one word, IPv6's four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<const WORDS: usize> {
    /// Source, destination.
    pub addrs: [u64; WORDS],
    /// Source, destination.
    pub ports: u32,
}

/// Of IPv4.
pub type PlainV4 = Plain<1>;
/// Of IPv6.
pub type PlainV6 = Plain<4>;

/// The ports of a key's last word.
#[inline]
const fn ports(tail: u64) -> u32 {
    (tail >> 32) as u32
}

impl From<&Key4> for PlainV4 {
    #[inline]
    fn from(&[addrs, tail]: &Key4) -> Self {
        Self { addrs: [addrs], ports: ports(tail) }
    }
}

impl From<&Key6> for PlainV6 {
    #[inline]
    fn from(&[a, b, c, d, tail]: &Key6) -> Self {
        Self { addrs: [a, b, c, d], ports: ports(tail) }
    }
}

impl PlainV4 {
    /// Of source and destination.
    #[inline]
    #[must_use]
    pub const fn new([src, dst]: [Ipv4Addr; 2], [src_port, dst_port]: [u16; 2]) -> Self {
        Self {
            addrs: [(src.to_bits() as u64) << 32 | dst.to_bits() as u64],
            ports: (src_port as u32) << 16 | dst_port as u32,
        }
    }

    /// Those of the packet that answers.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { addrs: [self.addrs[0].rotate_left(32)], ports: self.ports.rotate_left(16) }
    }
}

impl PlainV6 {
    /// Those of the packet that answers.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        let [a, b, c, d] = self.addrs;
        Self { addrs: [c, d, a, b], ports: self.ports.rotate_left(16) }
    }
}

/// Makes a packet that has the ends `from` one that has the ends `to`, with a TTL one less. `head` begins with its Ethernet header, is
/// IPv4 without options, and holds its TCP or UDP header; one that is shorter is left alone.
#[inline(always)]
pub fn translate_plain_v4(head: &mut [u8], protocol: u8, from: PlainV4, to: PlainV4) {
    if protocol == protocol::TCP {
        if let Some(head) = head.first_chunk_mut::<{ L4_V4 + TCP_HEADER }>() {
            edit_v4::<{ L4_V4 + TCP_HEADER }, 16>(head, from, to);
        }
    } else if let Some(head) = head.first_chunk_mut::<{ L4_V4 + UDP_HEADER }>() {
        edit_v4::<{ L4_V4 + UDP_HEADER }, 6>(head, from, to);
    }
}

/// The same of IPv6 without extension headers.
#[inline]
pub fn translate_plain_v6(head: &mut [u8], protocol: u8, from: PlainV6, to: PlainV6) {
    if protocol == protocol::TCP {
        if let Some(head) = head.first_chunk_mut::<{ L4_V6 + TCP_HEADER }>() {
            edit_v6::<{ L4_V6 + TCP_HEADER }, 16>(head, from, to);
        }
    } else if let Some(head) = head.first_chunk_mut::<{ L4_V6 + UDP_HEADER }>() {
        edit_v6::<{ L4_V6 + UDP_HEADER }, 6>(head, from, to);
    }
}

/// TTL one less, and the header's checksum by that difference. As [`translate_plain_v4`] of what head may be.
#[inline]
pub(crate) fn hop_less_v4(head: &mut [u8]) {
    if let Some(b) = head.first_chunk_mut::<L4_V4>() {
        b[22] = b[22].wrapping_sub(1);
        let header = u32::from(!u16_at(b, 24));
        put(b, 24, !fold_32(header + ONE_HOP));
    }
}

/// Hop limit one less.
#[inline]
pub(crate) fn hop_less_v6(head: &mut [u8]) {
    if let Some(b) = head.first_chunk_mut::<L4_V6>() {
        b[21] = b[21].wrapping_sub(1);
    }
}

/// A TTL one less is a word of the header 0x100 less: that, added to its complemented sum (RFC 1624, equation 3).
const ONE_HOP: u32 = 0xfeff;

#[inline]
fn edit_v4<const LEN: usize, const FIELD: usize>(head: &mut [u8; LEN], from: PlainV4, to: PlainV4) {
    let addrs = fold_64(end_around(to.addrs[0], !from.addrs[0]));
    let header = u32::from(!u16_at(head, 24));
    put(head, 24, !fold_32(u32::from(fold_32(addrs)) + header + ONE_HOP));
    head[22] = head[22].wrapping_sub(1);
    head[26..34].copy_from_slice(&to.addrs[0].to_be_bytes());
    edit_l4::<LEN, L4_V4, FIELD>(head, addrs, from.ports, to.ports);
}

#[inline]
fn edit_v6<const LEN: usize, const FIELD: usize>(head: &mut [u8; LEN], from: PlainV6, to: PlainV6) {
    let mut sum = 0;
    for (at, (from, to)) in from.addrs.into_iter().zip(to.addrs).enumerate() {
        sum = end_around(sum, end_around(to, !from));
        head[22 + 8 * at..][..8].copy_from_slice(&to.to_be_bytes());
    }
    head[21] = head[21].wrapping_sub(1);
    edit_l4::<LEN, L4_V6, FIELD>(head, fold_64(sum), from.ports, to.ports);
}

/// Ports, and the checksum by all that has changed: `addrs` is the sum of the new addresses and the complemented old ones.
#[inline]
fn edit_l4<const LEN: usize, const L4: usize, const FIELD: usize>(
    head: &mut [u8; LEN],
    addrs: u32,
    from: u32,
    to: u32,
) {
    head[L4..L4 + 4].copy_from_slice(&to.to_be_bytes());
    let old = u16_at(head, L4 + FIELD);
    let sum = u64::from(addrs) + u64::from(!old) + u64::from(to) + u64::from(!from);
    let mut new = !fold_32(fold_64(sum));
    if FIELD == 6 {
        // None stays none, and what computes to that is sent as all ones (RFC 768).
        new = if new == 0 { 0xffff } else { new };
        new = if old == 0 { 0 } else { new };
    }
    put(head, L4 + FIELD, new);
}

/// Ones' complement addition.
#[inline]
pub(crate) const fn end_around(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    // With a carry the sum is at most 2^64 - 2.
    sum.wrapping_add(carry as u64)
}

/// Both halves added, in ones' complement.
#[inline]
pub(crate) const fn fold_64(word: u64) -> u32 {
    (word.wrapping_add(word.rotate_left(32)) >> 32) as u32
}

/// Both halves added, in ones' complement.
#[inline]
pub(crate) const fn fold_32(word: u32) -> u16 {
    (word.wrapping_add(word.rotate_left(16)) >> 16) as u16
}

#[inline]
fn u16_at<const LEN: usize>(head: &[u8; LEN], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

#[inline]
fn put<const LEN: usize>(head: &mut [u8; LEN], at: usize, word: u16) {
    head[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
