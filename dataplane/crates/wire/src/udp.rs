//! UDP headers (RFC 768).

use crate::Malformed;
use crate::bytes::{put, u16_at};

/// Bytes of a UDP header.
pub const UDP_HEADER: usize = 8;

/// A view of a datagram whose header is whole. The payload may go on in other segments.
#[derive(Clone, Copy, Debug)]
pub struct UdpPacket<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> UdpPacket<T> {
    /// # Errors
    /// `TransportTruncated` below 8 bytes.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < UDP_HEADER {
            return Err(Malformed::TransportTruncated);
        }
        Ok(Self { bytes })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 2)
    }

    /// Bytes of header and payload, as the sender says: unchecked.
    #[inline]
    pub fn length(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 4)
    }

    /// The checksum. Zero says that there is none, which IPv6 allows in tunnels only (RFC 6935).
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 6)
    }

    /// All bytes behind the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[UDP_HEADER..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> UdpPacket<T> {
    /// Sets the source port; the checksum is the caller's.
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        put(self.bytes.as_mut(), 0, port.to_be_bytes());
    }

    /// Sets the destination port; the checksum is the caller's.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        put(self.bytes.as_mut(), 2, port.to_be_bytes());
    }

    /// Sets the bytes of header and payload.
    #[inline]
    pub fn set_length(&mut self, bytes: u16) {
        put(self.bytes.as_mut(), 4, bytes.to_be_bytes());
    }

    /// Sets the checksum field as it is: see [`udp_nonzero`](crate::checksum::udp_nonzero).
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put(self.bytes.as_mut(), 6, checksum.to_be_bytes());
    }

    /// All bytes behind the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.as_mut()[UDP_HEADER..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DNS: [u8; 10] = [0x30, 0x39, 0x00, 0x35, 0x00, 0x0a, 0xbe, 0xef, 7, 8];

    #[test]
    fn reads_and_writes() {
        let mut bytes = DNS;
        let mut p = UdpPacket::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((p.src_port(), p.dst_port(), p.length(), p.checksum()), (12345, 53, 10, 0xbeef));
        assert_eq!(p.payload(), [7, 8]);
        p.set_src_port(1);
        p.set_dst_port(2);
        p.set_length(3);
        p.set_checksum(4);
        p.payload_mut()[0] = 5;
        assert_eq!(bytes, [0, 1, 0, 2, 0, 3, 0, 4, 5, 8]);
    }

    #[test]
    fn refuses_short() {
        assert_eq!(UdpPacket::new_checked(&DNS[..7]).unwrap_err(), Malformed::TransportTruncated);
        assert!(UdpPacket::new_checked(&DNS[..8]).unwrap().payload().is_empty());
    }
}
