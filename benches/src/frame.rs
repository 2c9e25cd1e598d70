//! Frames in memory that begin at a cache line, as packet buffers do, and headers for them with right checksums.

use std::net::IpAddr;

use pipeline::Buffer;
use wire::{ETHERNET_HEADER, IPV4_HEADER, IPV6_HEADER, MacAddr, TCP_HEADER, UDP_HEADER, checksum, protocol};

/// Bytes of a frame at most.
pub const ROOM: usize = 128;
/// Bytes behind the headers, so that an IPv4 datagram has 64 with its check sequence.
const PAYLOAD: usize = 18;

/// A frame, and room to grow.
#[repr(align(64))]
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    bytes: [u8; ROOM],
    len: usize,
}

impl Buffer for Frame {
    #[inline]
    fn head(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    #[inline]
    fn frame_len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn resize(&mut self, len: usize) -> bool {
        let fits = len <= ROOM;
        if fits {
            self.len = len;
        }
        fits
    }

    fn strip(&mut self, len: usize) -> bool {
        let fits = len < self.len;
        if fits {
            self.bytes.copy_within(len..self.len, 0);
            self.len -= len;
        }
        fits
    }

    fn prepend(&mut self, len: usize) -> bool {
        let fits = self.len + len <= ROOM;
        if fits {
            self.bytes.copy_within(..self.len, len);
            self.len += len;
        }
        fits
    }
}

/// Who sends to whom, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Of the sender, and of the port that it sends to.
    pub macs: [MacAddr; 2],
    /// Of one family.
    pub src: IpAddr,
    /// Of the same.
    pub dst: IpAddr,
    /// From and to.
    pub ports: [u16; 2],
    /// TCP with these flags; UDP otherwise.
    pub tcp: Option<u8>,
}

impl Headers {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Frame {
        let mut bytes = [0; ROOM];
        let [from, to] = self.macs;
        bytes[..6].copy_from_slice(&to.0);
        bytes[6..12].copy_from_slice(&from.0);
        let (number, transport) = match self.tcp {
            Some(_) => (protocol::TCP, TCP_HEADER),
            None => (protocol::UDP, UDP_HEADER),
        };
        // A few dozen bytes.
        let l4_len = u16::try_from(transport + PAYLOAD).unwrap_or(0);
        let ip = &mut bytes[ETHERNET_HEADER..];
        let (header, pseudo) = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let [high, low] = (l4_len + 20).to_be_bytes();
                ip[..12].copy_from_slice(&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, number, 0, 0]);
                ip[12..16].copy_from_slice(&src.octets());
                ip[16..20].copy_from_slice(&dst.octets());
                let sum = checksum::internet_checksum(&ip[..20]);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes[12..14].copy_from_slice(&[0x08, 0x00]);
                (IPV4_HEADER, checksum::pseudo_header_v4(src, dst, number, l4_len))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let [high, low] = l4_len.to_be_bytes();
                ip[..8].copy_from_slice(&[0x60, 0, 0, 0, high, low, number, 64]);
                ip[8..24].copy_from_slice(&src.octets());
                ip[24..40].copy_from_slice(&dst.octets());
                bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
                (IPV6_HEADER, checksum::pseudo_header_v6(src, dst, number, l4_len.into()))
            }
            // No frame at all: whoever counts on it finds out at once.
            _ => return Frame { bytes, len: 0 },
        };
        let start = ETHERNET_HEADER + header;
        let l4 = &mut bytes[start..start + transport + PAYLOAD];
        let [src_port, dst_port] = self.ports;
        l4[..2].copy_from_slice(&src_port.to_be_bytes());
        l4[2..4].copy_from_slice(&dst_port.to_be_bytes());
        let at = match self.tcp {
            Some(flags) => {
                [l4[12], l4[13], l4[14]] = [0x50, flags, 0x20];
                16
            }
            None => {
                l4[4..6].copy_from_slice(&l4_len.to_be_bytes());
                6
            }
        };
        let sum = !checksum::fold(pseudo + checksum::sum(l4));
        let sum = if self.tcp.is_some() { sum } else { checksum::udp_nonzero(sum) };
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        Frame { bytes, len: start + transport + PAYLOAD }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_parse_and_their_sums_are_right() {
        let macs = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
        for (src, dst, tcp, len) in [
            ("10.0.0.1", "10.0.0.2", None, 60),
            ("10.0.0.1", "10.0.0.2", Some(2), 72),
            ("fd00::1", "fd00::2", None, 80),
            ("fd00::1", "fd00::2", Some(0x10), 92),
        ] {
            let headers = Headers {
                macs,
                src: src.parse().unwrap(),
                dst: dst.parse().unwrap(),
                ports: [4000, 80],
                tcp,
            };
            let frame = headers.frame();
            assert_eq!(frame.frame_len(), len);
            let parsed = wire::parse(frame.head(), len).unwrap();
            let l4 = &frame.head()[usize::from(parsed.l4_offset)..];
            let l4_len = u16::try_from(l4.len()).unwrap();
            let pseudo = match (headers.src, headers.dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    checksum::pseudo_header_v4(src, dst, parsed.protocol, l4_len)
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    checksum::pseudo_header_v6(src, dst, parsed.protocol, l4_len.into())
                }
                _ => unreachable!(),
            };
            assert_eq!(checksum::fold(pseudo + checksum::sum(l4)), 0xffff);
        }
    }
}
