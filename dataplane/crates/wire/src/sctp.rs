//! SCTP common headers (RFC 9260, section 3.1).

use crate::Malformed;
use crate::bytes::{array, put, u16_at, u32_at};

/// Bytes of the common header.
pub const SCTP_HEADER: usize = 12;

/// A view of a packet whose common header is whole.
#[derive(Clone, Copy, Debug)]
pub struct SctpPacket<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> SctpPacket<T> {
    /// # Errors
    /// `TransportTruncated` below 12 bytes.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < SCTP_HEADER {
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

    /// The verification tag. Zero in an INIT.
    #[inline]
    pub fn verification_tag(&self) -> u32 {
        u32_at(self.bytes.as_ref(), 4)
    }

    /// The CRC32c, which alone of all fields goes least significant byte first (RFC 9260, appendix A).
    #[inline]
    pub fn checksum(&self) -> u32 {
        u32::from_le_bytes(array(self.bytes.as_ref(), 8))
    }

    /// The type of the first chunk, if it is in the view's bytes: 1 for INIT, 2 for INIT ACK, 6 for ABORT,
    /// 8 and 14 for the end of a shutdown.
    #[inline]
    pub fn first_chunk_type(&self) -> Option<u8> {
        self.bytes.as_ref().get(SCTP_HEADER).copied()
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> SctpPacket<T> {
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

    /// Sets the CRC32c, computed over header and chunks with this field zero.
    #[inline]
    pub fn set_checksum(&mut self, crc: u32) {
        put(self.bytes.as_mut(), 8, crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc32c;

    /// Ports 32836 → 80, tag 0, one INIT chunk, its checksum not yet computed.
    const INIT: [u8; 32] = [
        0x80, 0x44, 0x00, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0x3b, 0xb9, 0x9c, 0x46, 0, 1, 0xa0, 0,
        0, 10, 0xff, 0xff, 0x2b, 0x2d, 0x7e, 0xb2,
    ];

    #[test]
    fn reads_and_writes() {
        let mut bytes = INIT;
        let crc = crc32c(&bytes);
        let mut p = SctpPacket::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((p.src_port(), p.dst_port(), p.verification_tag()), (32_836, 80, 0));
        assert_eq!((p.checksum(), p.first_chunk_type()), (0, Some(1)));
        p.set_src_port(1);
        p.set_dst_port(2);
        p.set_checksum(crc);
        assert_eq!(p.checksum(), crc);
        assert_eq!(bytes[..8], [0, 1, 0, 2, 0, 0, 0, 0]);
        assert_eq!(bytes[8..12], crc.to_le_bytes());
    }

    #[test]
    fn refuses_short() {
        assert_eq!(SctpPacket::new_checked(&INIT[..11]).unwrap_err(), Malformed::TransportTruncated);
        assert_eq!(SctpPacket::new_checked(&INIT[..12]).unwrap().first_chunk_type(), None);
    }
}
