//! Translation of what most packets are: IPv4 without options, TCP or UDP, whole and finished.
//!
//! For the loop over a burst of known flows: no branch but by protocol, no bounds check but one, nothing read that is not
//! changed. Old and new tuples come from the flow's keys, as words in the order of their bytes.

use std::net::Ipv4Addr;

use wire::{ETHERNET_HEADER, IPV4_HEADER, TCP_HEADER, UDP_HEADER, protocol};

const L4: usize = ETHERNET_HEADER + IPV4_HEADER;

/// The tuple of an IPv4 packet, as numbers of the bytes that lie side by side in its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainV4 {
    /// Source address in the upper half, destination in the lower.
    pub addrs: u64,
    /// Source port in the upper half, destination in the lower.
    pub ports: u32,
}

impl PlainV4 {
    /// Of source and destination.
    #[inline]
    #[must_use]
    pub const fn new([src, dst]: [Ipv4Addr; 2], [src_port, dst_port]: [u16; 2]) -> Self {
        Self {
            addrs: (src.to_bits() as u64) << 32 | dst.to_bits() as u64,
            ports: (src_port as u32) << 16 | dst_port as u32,
        }
    }

    /// That of the packet that answers this one.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { addrs: self.addrs.rotate_left(32), ports: self.ports.rotate_left(16) }
    }
}

/// Makes `from`, which the packet has, `to`, and takes one hop off; the same as [`translate`](super::translate()) and then a
/// decrement of the TTL.
///
/// `head` begins with Ethernet and 20 bytes of IPv4 with `protocol` TCP or UDP, no fragment, and nothing is left to offload; its
/// TTL is not 0. A head too short for such a packet is left alone.
#[inline]
pub fn translate_plain_v4(head: &mut [u8], protocol: u8, from: PlainV4, to: PlainV4) {
    if protocol == protocol::TCP {
        if let Some(head) = head.first_chunk_mut::<{ L4 + TCP_HEADER }>() {
            edit::<{ L4 + TCP_HEADER }, 16>(head, from, to);
        }
    } else if let Some(head) = head.first_chunk_mut::<{ L4 + UDP_HEADER }>() {
        edit::<{ L4 + UDP_HEADER }, 6>(head, from, to);
    }
}

/// `FIELD` is where the transport's checksum is, in bytes from its header.
#[inline]
fn edit<const LEN: usize, const FIELD: usize>(head: &mut [u8; LEN], from: PlainV4, to: PlainV4) {
    /// ~m + m' of a word from whose upper byte 1 is taken (RFC 1624, equation 3).
    const ONE_HOP: u32 = 0xfeff;
    let addrs = fold_64(end_around(to.addrs, !from.addrs));
    let header = u32::from(!u16_at(head, 24));
    put(head, 24, !fold_32(u32::from(fold_32(addrs)) + header + ONE_HOP));
    head[22] = head[22].wrapping_sub(1);
    head[26..34].copy_from_slice(&to.addrs.to_be_bytes());
    head[34..38].copy_from_slice(&to.ports.to_be_bytes());

    let old = u16_at(head, L4 + FIELD);
    let sum = u64::from(addrs) + u64::from(!old) + u64::from(to.ports) + u64::from(!from.ports);
    let mut new = !fold_32(fold_64(sum));
    if FIELD == 6 {
        // None stays none, and what computes to that is sent as all ones (RFC 768).
        new = if new == 0 { 0xffff } else { new };
        new = if old == 0 { 0 } else { new };
    }
    put(head, L4 + FIELD, new);
}

/// The ones-complement sum of two words.
#[inline]
const fn end_around(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    // With a carry the sum is at most 2^64 - 2.
    sum.wrapping_add(carry as u64)
}

/// Both halves added, carry and all: the word and itself turned round have that in their sum's upper half.
#[inline]
const fn fold_64(word: u64) -> u32 {
    (word.wrapping_add(word.rotate_left(32)) >> 32) as u32
}

/// The same of half a word.
#[inline]
const fn fold_32(word: u32) -> u16 {
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
