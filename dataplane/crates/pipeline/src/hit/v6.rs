//! Plain packets of IPv6.

use flow::{Flows, Key6, Signal, Table, V6};
use wire::{ETHERNET_HEADER, IPV6_HEADER, PacketKind, TCP_HEADER, UDP_HEADER};

use super::{Pattern, Plain, protocol_of, signal, word};
use crate::translate::{PlainV6, hop_less_v6, translate_plain_v6};

const L4: usize = ETHERNET_HEADER + IPV6_HEADER;
/// With a UDP header.
const LEAST: usize = L4 + UDP_HEADER;

impl Plain for V6 {
    const KIND: PacketKind = PacketKind::Ipv6;
    const L4: usize = L4;

    /// EtherType and version.
    const PATTERN: [[u64; 2]; 2] = [
        [
            u64::from_le_bytes([0, 0, 0, 0, 0x86, 0xdd, 0x60, 0]),
            u64::from_le_bytes([0, 0, 0, 0, 0xff, 0xff, 0xf0, 0]),
        ],
        [0, 0],
    ];

    #[inline]
    fn table(flows: &Flows) -> &Table<Self> {
        &flows.v6
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "fields are cut out of words")]
    fn plain(pattern: &Pattern, tail: u64, head: &[u8], len: usize) -> Option<(Key6, Signal)> {
        let b = head.first_chunk::<LEAST>()?;
        // The rest of the flow label, payload length, next header, hop limit.
        let third = word(b, 16);
        let payload = usize::from(((third >> 16) as u16).swap_bytes());
        let (protocol, hops) = ((third >> 32) as u8, (third >> 40) as u8);
        let fits = pattern.fits([word(b, 0), word(b, 8), third]) && hops > 1 && L4 + payload == len;
        if !fits {
            return None;
        }
        let signal = signal::<{ L4 + TCP_HEADER }>(protocol, head, L4, payload)?;
        let address = |at| word(b, at).swap_bytes();
        let ports = u64::from((word(b, L4) as u32).swap_bytes());
        let tail = ports << 32 | tail | u64::from(protocol) << 8;
        Some(([address(22), address(30), address(38), address(46), tail], signal))
    }

    #[inline]
    fn forward(head: &mut [u8]) {
        hop_less_v6(head);
    }

    #[inline]
    fn translate(head: &mut [u8], from: &Key6, reply: &Key6) {
        translate_plain_v6(head, protocol_of(from[4]), PlainV6::from(from), PlainV6::from(reply).reversed());
    }
}
