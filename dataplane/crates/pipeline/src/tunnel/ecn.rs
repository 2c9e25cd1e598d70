//! Explicit congestion notification through a tunnel (RFC 6040, normal mode): said outside on the way in, and merged on the way out.

use wire::{Ipv4Packet, Ipv6Packet, PacketKind, checksum};

/// The two bits of a traffic class (RFC 3168, section 5).
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The ECN bits of an IP packet whose header is whole.
pub(super) fn ecn(kind: PacketKind, packet: &[u8]) -> u8 {
    match kind {
        PacketKind::Ipv4 => packet.get(1).copied().unwrap_or(0) & ECN,
        PacketKind::Ipv6 => packet.get(1).copied().unwrap_or(0) >> 4 & ECN,
        PacketKind::Arp => NOT_ECT,
    }
}

/// What the packet inside gets (RFC 6040, section 4.2); `None`: it is dropped, since its sender could not be told.
pub(super) const fn merged(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

/// Sets them, and brings a header's checksum up to date.
pub(super) fn set_ecn(kind: PacketKind, packet: &mut [u8], ecn: u8) {
    match kind {
        PacketKind::Ipv4 => {
            let Ok(mut ip) = Ipv4Packet::new_checked(packet) else { return };
            let old = ip.dscp_ecn();
            if old & ECN != ecn {
                // The word with the version: only its lower half changes (RFC 1624).
                let word = |tos: u8| u16::from_be_bytes([0, tos]);
                let new = old & !ECN | ecn;
                let delta = checksum::ChecksumDelta::replace_u16(word(old), word(new));
                let sum = delta.apply(ip.checksum());
                ip.set_dscp_ecn(new);
                ip.set_checksum(sum);
            }
        }
        PacketKind::Ipv6 => {
            let Ok(mut ip) = Ipv6Packet::new_checked(packet) else { return };
            let class = ip.traffic_class() & !ECN | ecn;
            ip.set_traffic_class(class);
        }
        PacketKind::Arp => {}
    }
}
