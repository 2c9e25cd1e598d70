//! The packets that are sent: one UDP frame, and what differs from it in each.
//!
//! The frame's checksum is summed once; a packet adds its ports and its stamp.

use std::net::IpAddr;

use wire::checksum::{fold, pseudo_header_v4, pseudo_header_v6, sum, udp_nonzero};
use wire::{ETHERNET_HEADER, IPV4_HEADER, IPV6_HEADER, Ipv4Packet, MacAddr, UDP_HEADER, protocol};

use crate::stamp::{STAMP, Stamp};

/// Both ends of what is sent. The addresses are of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) src_mac: MacAddr,
    pub(crate) dst_mac: MacAddr,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
}

/// Source and destination port of a flow.
pub(crate) type Ports = (u16, u16);

/// A UDP frame without ports, stamp and checksum.
pub(crate) struct Template {
    frame: Vec<u8>,
    l4: usize,
    sum: u32,
}

/// The shortest frame of a family, without FCS: headers and a stamp.
pub(crate) const fn least_size(ipv4: bool) -> u16 {
    let l3 = if ipv4 { IPV4_HEADER } else { IPV6_HEADER };
    #[expect(clippy::cast_possible_truncation, reason = "some 80 bytes")]
    let size = (ETHERNET_HEADER + l3 + UDP_HEADER + STAMP) as u16;
    size
}

impl Template {
    /// A frame of `size` bytes, at least [`least_size`]. None if the addresses are of two families.
    pub(crate) fn new(ends: Ends, size: u16) -> Option<Self> {
        let mut frame = vec![0; usize::from(size)];
        frame[..6].copy_from_slice(&ends.dst_mac.0);
        frame[6..12].copy_from_slice(&ends.src_mac.0);
        let ip_len = size.checked_sub(14)?;
        let (l4, udp_len, pseudo) = match (ends.src, ends.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame[12..14].copy_from_slice(&[0x08, 0x00]);
                frame[14] = 0x45;
                frame[16..18].copy_from_slice(&ip_len.to_be_bytes());
                // Do not fragment: a packet too big is a finding, not something to cut up.
                frame[20..24].copy_from_slice(&[0x40, 0, 64, protocol::UDP]);
                frame[26..30].copy_from_slice(&src.octets());
                frame[30..34].copy_from_slice(&dst.octets());
                Ipv4Packet::new_checked(&mut frame[ETHERNET_HEADER..]).ok()?.fill_checksum();
                let len = ip_len.checked_sub(20)?;
                (ETHERNET_HEADER + IPV4_HEADER, len, pseudo_header_v4(src, dst, protocol::UDP, len))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let len = ip_len.checked_sub(40)?;
                frame[12..14].copy_from_slice(&[0x86, 0xdd]);
                frame[14] = 0x60;
                frame[18..20].copy_from_slice(&len.to_be_bytes());
                frame[20..22].copy_from_slice(&[protocol::UDP, 64]);
                frame[22..38].copy_from_slice(&src.octets());
                frame[38..54].copy_from_slice(&dst.octets());
                (ETHERNET_HEADER + IPV6_HEADER, len, pseudo_header_v6(src, dst, protocol::UDP, len.into()))
            }
            _ => return None,
        };
        frame[l4 + 4..l4 + 6].copy_from_slice(&udp_len.to_be_bytes());
        // A pattern rather than zeros: a byte that moved or was lost shows in the checksum.
        for (byte, value) in frame.get_mut(l4 + UDP_HEADER + STAMP..)?.iter_mut().zip((0..=250_u8).cycle()) {
            *byte = value;
        }
        // Ports, stamp and checksum are zero: they add nothing yet.
        let sum = u32::from(fold(pseudo + sum(&frame[l4..])));
        Some(Self { frame, l4, sum })
    }

    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    /// Writes one packet to `out`, which is as long as the frame.
    pub(crate) fn write(&self, out: &mut [u8], (src, dst): Ports, stamp: Stamp) {
        out.copy_from_slice(&self.frame);
        let stamp = stamp.to_bytes();
        let total = self.sum + u32::from(src) + u32::from(dst) + sum(&stamp);
        let udp = &mut out[self.l4..];
        udp[..2].copy_from_slice(&src.to_be_bytes());
        udp[2..4].copy_from_slice(&dst.to_be_bytes());
        udp[6..8].copy_from_slice(&udp_nonzero(!fold(total)).to_be_bytes());
        udp[UDP_HEADER..UDP_HEADER + STAMP].copy_from_slice(&stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(src: &str, dst: &str) -> Ends {
        Ends {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        }
    }

    #[test]
    fn packets_are_valid_udp() {
        for (src, dst, size) in [
            ("10.0.0.1", "10.0.0.2", 60),
            ("fd00::1", "fd00::2", 80),
            ("10.0.0.1", "10.0.0.2", 1514),
            ("fd00::1", "fd00::2", 1001),
        ] {
            let template = Template::new(ends(src, dst), size).unwrap();
            for seq in 0..2000 {
                let mut frame = vec![0xff; template.len()];
                let stamp = Stamp { run: 3, flow: 9, seq, intended_ns: u64::from(seq) * 1_000_003 };
                template.write(&mut frame, (1000, 65535), stamp);
                let parsed = wire::parse(&frame, frame.len()).unwrap();
                assert_eq!((parsed.protocol, parsed.src_port, parsed.dst_port), (protocol::UDP, 1000, 65535));
                assert_eq!(usize::try_from(parsed.frame_len).unwrap(), frame.len());
                assert_eq!(crate::classify::udp_checksum(&frame, &parsed), Some(true));
                assert_eq!(Stamp::read(&frame[usize::from(parsed.l4_offset) + 8..]), Some(stamp));
                let last = frame.len() - 1;
                frame[last] ^= 0x10;
                assert_eq!(crate::classify::udp_checksum(&frame, &parsed), Some(false));
            }
        }
        assert!(Template::new(ends("10.0.0.1", "fd00::1"), 100).is_none());
    }

    #[test]
    fn shortest_frames() {
        assert_eq!((least_size(true), least_size(false)), (60, 80));
        assert!(Template::new(ends("10.0.0.1", "10.0.0.2"), least_size(true)).is_some());
        assert!(Template::new(ends("fd00::1", "fd00::2"), least_size(false)).is_some());
    }
}
