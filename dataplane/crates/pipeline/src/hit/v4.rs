//! Plain packets of IPv4.

use flow::{Flows, Key4, Signal, Table, V4};
use wire::{ETHERNET_HEADER, IPV4_HEADER, PacketKind, TCP_HEADER, UDP_HEADER};

use super::{Pattern, Plain, protocol_of, signal, word};
use crate::translate::{PlainV4, end_around, fold_32, fold_64, hop_less_v4, translate_plain_v4};

const L4: usize = ETHERNET_HEADER + IPV4_HEADER;
/// With a UDP header.
const LEAST: usize = L4 + UDP_HEADER;

impl Plain for V4 {
    const KIND: PacketKind = PacketKind::Ipv4;
    const L4: usize = L4;

    /// EtherType, version and header length; neither more fragments nor any before it.
    const PATTERN: [[u64; 2]; 2] = [
        [
            u64::from_le_bytes([0, 0, 0, 0, 0x08, 0x00, 0x45, 0]),
            u64::from_le_bytes([0, 0, 0, 0, 0xff, 0xff, 0xff, 0]),
        ],
        [0, u64::from_le_bytes([0, 0, 0, 0, 0x3f, 0xff, 0, 0])],
    ];

    #[inline]
    fn table(flows: &Flows) -> &Table<Self> {
        &flows.v4
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "fields are cut out of words")]
    fn plain(pattern: &Pattern, tail: u64, head: &[u8], len: usize) -> Option<(Key4, Signal)> {
        let b = head.first_chunk::<LEAST>()?;
        let third = word(b, 16);
        let ip_len = usize::from((third as u16).swap_bytes());
        let (ttl, protocol) = ((third >> 48) as u8, (third >> 56) as u8);
        let fits = pattern.fits([word(b, 0), word(b, 8), third])
            && ttl > 1
            && ETHERNET_HEADER + ip_len == len
            && header_is_right(b);
        if !fits {
            return None;
        }
        let signal = signal::<{ L4 + TCP_HEADER }>(protocol, head, L4, ip_len.saturating_sub(IPV4_HEADER))?;
        let ports = u64::from((word(b, L4) as u32).swap_bytes());
        Some(([word(b, 26).swap_bytes(), ports << 32 | tail | u64::from(protocol) << 8], signal))
    }

    #[inline]
    fn forward(head: &mut [u8]) {
        hop_less_v4(head);
    }

    #[inline]
    fn translate(head: &mut [u8], from: &Key4, reply: &Key4) {
        translate_plain_v4(head, protocol_of(from[1]), PlainV4::from(from), PlainV4::from(reply).reversed());
    }
}

/// Whether the header's 20 bytes sum up to all ones (RFC 1071); the order of bytes makes no difference to that.
#[inline(always)]
fn header_is_right(b: &[u8; LEAST]) -> bool {
    // Of the last word but its second half, for the first is in the one before it.
    let last = word(b, 26) >> 32;
    let sum = end_around(end_around(word(b, 14), word(b, 22)), last);
    fold_32(fold_64(sum)) == 0xffff
}
