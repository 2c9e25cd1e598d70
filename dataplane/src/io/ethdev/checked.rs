//! Received packets whose checksum the device found wrong, or that have none yet.
//!
//! Devices err (UDP without a checksum, extension headers), so that what one calls wrong is summed again before it is dropped: the
//! counter tells the truth, and an error costs time alone. A peer on this machine may leave a checksum to be finished by whoever
//! sends the packet on; then it is as from a TAP.

use dpdk::{Mbuf, RxChecksum};
use pipeline::{DropReason, Offload, Packet};
use tables::PortId;
use wire::{Addrs, Fragment, PacketKind, checksum, protocol};

use crate::frame::Frame;
use crate::io::Received;

/// Bytes up to the transport header of IPv6 without extension headers.
const V6_PLAIN: u16 = 54;
/// Where TCP, UDP and SCTP keep their checksum.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;
const SCTP_CHECKSUM: usize = 8;

/// Makes packets of the frames, of which one at least has a checksum that is wrong or not finished.
#[cold]
pub(super) fn look_again(
    id: PortId,
    scratch: &mut Vec<u8>,
    into: &mut Received,
    refused: &mut dyn FnMut(DropReason),
) {
    for mbuf in std::mem::take(&mut into.frames) {
        let offload = match mbuf.rx_l4_checksum() {
            RxChecksum::Good | RxChecksum::Unknown => Ok(Offload::Done),
            RxChecksum::Bad if is_wrong(whole(&mbuf, scratch)) => Err(DropReason::TransportChecksumWrong),
            RxChecksum::Bad => Ok(Offload::Done),
            RxChecksum::Unfinished => unfinished(&mbuf).ok_or(DropReason::OffloadInvalid),
        };
        match offload {
            Ok(offload) => into.packets.push(Packet { buffer: Frame(mbuf), in_port: id, offload }),
            Err(reason) => refused(reason),
        }
    }
}

/// A frame in one piece.
fn whole<'s>(mbuf: &Mbuf, scratch: &'s mut Vec<u8>) -> &'s mut [u8] {
    scratch.clear();
    mbuf.copy_into(scratch);
    scratch
}

fn unfinished(mbuf: &Mbuf) -> Option<Offload> {
    let parsed = wire::parse(mbuf.data(), mbuf.total_len()).ok()?;
    let offset = match parsed.protocol {
        protocol::TCP => TCP_CHECKSUM,
        protocol::UDP => UDP_CHECKSUM,
        _ => return None,
    };
    (parsed.fragment == Fragment::Whole).then_some(Offload::Partial { start: parsed.l4_offset, offset })
}

/// Whether the transport's checksum of a whole frame does not add up. What cannot be judged here is not wrong: who receives it will.
/// Leaves SCTP's zero.
fn is_wrong(frame: &mut [u8]) -> bool {
    let Ok(parsed) = wire::parse(frame, frame.len()) else { return false };
    let len = parsed.transport_len();
    let pseudo = match parsed.addrs {
        Addrs::V4 { src, dst } => {
            let Ok(len) = u16::try_from(len) else { return false };
            checksum::pseudo_header_v4(src, dst, parsed.protocol, len)
        }
        // With a routing header another address would be the one that counts.
        Addrs::V6 { src, dst } if parsed.l4_offset == V6_PLAIN => {
            checksum::pseudo_header_v6(src, dst, parsed.protocol, len)
        }
        Addrs::V6 { .. } | Addrs::None => return false,
    };
    // What the frame has beyond is padding.
    let end = usize::try_from(parsed.frame_len).unwrap_or(usize::MAX);
    let Some(transport) = frame.get_mut(usize::from(parsed.l4_offset)..end) else { return false };
    if parsed.fragment != Fragment::Whole {
        return false;
    }
    match parsed.protocol {
        // It has none, which IPv6 does not allow (RFC 768; RFC 8200, section 8.1).
        protocol::UDP if matches!(transport.get(6..8), Some([0, 0])) => parsed.kind == PacketKind::Ipv6,
        protocol::TCP | protocol::UDP => checksum::fold(checksum::sum(transport) + pseudo) != 0xffff,
        protocol::SCTP => {
            let field = transport.get_mut(SCTP_CHECKSUM..).and_then(<[u8]>::first_chunk_mut::<4>);
            let Some(field) = field.map(std::mem::take) else { return false };
            // Least significant byte first (RFC 9260, appendix A).
            checksum::crc32c(transport) != u32::from_le_bytes(field)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of a kind with a payload, its checksum right.
    fn frame(v6: bool, number: u8, payload: &[u8]) -> Vec<u8> {
        let header: &[u8] = match number {
            protocol::TCP => &[0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0x50, 0x10, 0, 9, 0, 0, 0, 0],
            protocol::UDP => &[0, 1, 0, 2, 0, 0, 0, 0],
            _ => &[0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0],
        };
        let mut transport = [header, payload].concat();
        let len = u16::try_from(transport.len()).unwrap();
        if number == protocol::UDP {
            transport[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let mut frame = vec![2; 12];
        let pseudo = if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([number, 64]);
            frame.extend([0xfd; 32]);
            let address = std::net::Ipv6Addr::from([0xfd; 16]);
            checksum::pseudo_header_v6(address, address, number, len.into())
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((len + 20).to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, number, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = checksum::internet_checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            checksum::pseudo_header_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), number, len)
        };
        match number {
            protocol::SCTP => {
                let sum = checksum::crc32c(&transport);
                transport[8..12].copy_from_slice(&sum.to_le_bytes());
            }
            _ => {
                let at = if number == protocol::TCP { 16 } else { 6 };
                let sum = !checksum::fold(pseudo + checksum::sum(&transport));
                transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
        }
        frame.extend(transport);
        frame
    }

    #[test]
    fn one_that_is_right_is_not_wrong_and_any_changed_byte_is() {
        for v6 in [false, true] {
            for number in [protocol::TCP, protocol::UDP, protocol::SCTP] {
                let good = frame(v6, number, b"an odd length");
                assert!(!is_wrong(&mut good.clone()), "{v6} {number}");
                let padded = [&good[..], &[7; 9]].concat();
                assert!(!is_wrong(&mut padded.clone()), "padding does not count");
                // Ports, checksum and payload; lengths and offsets would make it another packet.
                let first = if v6 { 54 } else { 34 };
                for at in (first..first + 4).chain(good.len() - 13..good.len()) {
                    let mut bad = good.clone();
                    bad[at] ^= 0x10;
                    assert!(is_wrong(&mut bad), "{v6} {number} {at}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_judged_is_not_wrong() {
        let mut none = frame(false, protocol::UDP, b"x");
        none[40..42].fill(0);
        assert!(!is_wrong(&mut none), "UDP over IPv4 need not have one");
        let mut none = frame(true, protocol::UDP, b"x");
        none[60..62].fill(0);
        assert!(is_wrong(&mut none), "over IPv6 it must");
        let mut fragment = frame(false, protocol::UDP, b"x");
        fragment[20] = 0x20;
        assert!(!is_wrong(&mut fragment));
        assert!(!is_wrong(&mut [0; 20]));
        let mut gre = frame(false, 47, b"x");
        assert!(!is_wrong(&mut gre));
    }
}
