//! What a device is asked to finish of a packet: its checksum, or to cut it into segments.
//!
//! A packet is asked for whole or not at all: one that is not stays as it was, to be finished in software.

use dpdk::{Mbuf, TxOffload, ol_flags, tx_offload};
use pipeline::{GsoKind, Offload, Packet};
use wire::{ETHERNET_HEADER, checksum, protocol};

use crate::frame::Frame;

/// Where IPv4 keeps the protocol, its checksum and its source address; IPv6 its next header and its source address.
const V4_PROTOCOL: usize = ETHERNET_HEADER + 9;
const V4_CHECKSUM: usize = ETHERNET_HEADER + 10;
const V4_ADDRESSES: usize = ETHERNET_HEADER + 12;
const V6_NEXT_HEADER: usize = ETHERNET_HEADER + 6;
const V6_ADDRESSES: usize = ETHERNET_HEADER + 8;
/// Bytes of an IPv6 header alone.
const V6_HEADER: usize = 40;
/// Where TCP and UDP keep their checksum.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// What a device can be asked for.
#[derive(Debug, Default)]
pub(super) struct Asks {
    /// Of [`tx_offload`].
    can: u64,
    /// Segments of the longest chain that it sends.
    max_segments: usize,
}

/// What the headers of a packet say, as far as a device must be told.
struct Headers {
    v4: bool,
    tcp: bool,
    l3_len: u16,
}

impl Asks {
    pub(super) const fn new(can: u64, max_segments: u16) -> Self {
        let max_segments = if can & tx_offload::MULTI_SEGS == 0 { 1 } else { max_segments as usize };
        Self { can, max_segments }
    }

    /// Asks the device to finish a packet, if it can; says whether it is asked, or had nothing to be asked for.
    pub(super) fn ask(&self, packet: &mut Packet<Frame>) -> bool {
        match packet.offload {
            Offload::Done => true,
            Offload::Partial { start, offset } => self.checksum(packet, start, offset),
            Offload::Gso { kind, size, header_len, start, offset } => {
                self.segments(packet, kind, size, header_len, (start, offset))
            }
        }
    }

    const fn can(&self, all_of: u64) -> bool {
        self.can & all_of == all_of
    }

    fn checksum(&self, packet: &mut Packet<Frame>, start: u16, offset: u16) -> bool {
        let mbuf = &mut packet.buffer.0;
        let Some(headers) = headers(mbuf.data(), start, offset) else { return false };
        let (needs, flag, l4_len) = if headers.tcp {
            (tx_offload::TCP_CKSUM, ol_flags::TX_TCP_CKSUM, tcp_len(mbuf.data(), start))
        } else {
            (tx_offload::UDP_CKSUM, ol_flags::TX_UDP_CKSUM, 8)
        };
        self.can(needs) && self.set(mbuf, &headers, flag, l4_len, 0)
    }

    /// Writes to the mbuf what is asked for, if the device sends such a chain at all.
    fn set(&self, mbuf: &mut Mbuf, headers: &Headers, flags: u64, l4_len: u8, tso_segsz: u16) -> bool {
        let family = if headers.v4 { ol_flags::TX_IPV4 } else { ol_flags::TX_IPV6 };
        let (flags, l3_len) = (flags | family, headers.l3_len);
        mbuf.segment_count() <= self.max_segments
            && mbuf.set_tx_offload(TxOffload { flags, l2_len: L2_LEN, l3_len, l4_len, tso_segsz })
    }

    fn segments(
        &self,
        packet: &mut Packet<Frame>,
        kind: GsoKind,
        size: u16,
        header_len: u16,
        (start, offset): (u16, u16),
    ) -> bool {
        let mbuf = &mut packet.buffer.0;
        let Some(headers) = headers(mbuf.data(), start, offset) else { return false };
        let (needs, flag) = match kind {
            GsoKind::TcpV4 | GsoKind::TcpV6 => {
                (tx_offload::TCP_TSO, ol_flags::TX_TCP_SEG | ol_flags::TX_TCP_CKSUM)
            }
            GsoKind::Udp => (tx_offload::UDP_TSO, ol_flags::TX_UDP_SEG | ol_flags::TX_UDP_CKSUM),
        };
        // The device writes each segment's IPv4 length, and with it the header's checksum: a driver that cuts takes this with it.
        let flag = if headers.v4 { flag | ol_flags::TX_IP_CKSUM } else { flag };
        let l4_len = header_len.checked_sub(start).and_then(|len| u8::try_from(len).ok());
        let (true, Some(l4_len)) = (self.can(needs), l4_len) else { return false };
        let asked =
            headers.tcp == !matches!(kind, GsoKind::Udp) && self.set(mbuf, &headers, flag, l4_len, size);
        if asked {
            without_length(mbuf.data_mut(), &headers, usize::from(start) + usize::from(offset));
        }
        asked
    }
}

#[expect(clippy::cast_possible_truncation, reason = "14")]
const L2_LEN: u8 = ETHERNET_HEADER as u8;

/// None if it is neither TCP nor UDP where a device looks for it.
fn headers(data: &[u8], start: u16, offset: u16) -> Option<Headers> {
    let v4 = match data.get(12..14)? {
        [0x08, 0x00] => true,
        [0x86, 0xdd] => false,
        _ => return None,
    };
    let l3_len = start.checked_sub(u16::from(L2_LEN))?;
    let number = if v4 {
        *data.get(V4_PROTOCOL)?
    } else if usize::from(l3_len) == V6_HEADER {
        *data.get(V6_NEXT_HEADER)?
    } else {
        // Extension headers: few devices look behind them.
        return None;
    };
    let tcp = match (number, offset) {
        (protocol::TCP, TCP_CHECKSUM) => true,
        (protocol::UDP, UDP_CHECKSUM) => false,
        _ => return None,
    };
    Some(Headers { v4, tcp, l3_len })
}

/// Bytes of the TCP header at `start`; 0, which no device takes, if it is not there.
fn tcp_len(data: &[u8], start: u16) -> u8 {
    data.get(usize::from(start) + 12).map_or(0, |byte| (byte >> 4) * 4)
}

/// A device that cuts a packet up adds each segment's own length: the sum of the pseudo-header is to be without, and the checksum of
/// IPv4's header zero (DPDK guide, "Mbuf library", section "Meta information").
fn without_length(data: &mut [u8], headers: &Headers, field: usize) {
    let addresses = if headers.v4 { V4_ADDRESSES..V4_ADDRESSES + 8 } else { V6_ADDRESSES..V6_ADDRESSES + 32 };
    let number = if headers.tcp { protocol::TCP } else { protocol::UDP };
    let Some(addresses) = data.get(addresses) else { return };
    let sum = checksum::fold(checksum::sum(addresses) + u32::from(number));
    if let Some(place) = data.get_mut(field..).and_then(<[u8]>::first_chunk_mut::<2>) {
        *place = sum.to_be_bytes();
    }
    if headers.v4
        && let Some(place) = data.get_mut(V4_CHECKSUM..).and_then(<[u8]>::first_chunk_mut::<2>)
    {
        *place = [0; 2];
    }
}
