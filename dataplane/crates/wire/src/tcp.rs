//! TCP headers (RFC 9293).

use crate::Malformed;
use crate::bytes::{put, u16_at, u32_at};

/// Bytes of a TCP header without options.
pub const TCP_HEADER: usize = 20;

/// The bits of byte 13 (RFC 9293, section 3.1; RFC 3168 for the last two).
#[derive(Debug)]
pub enum TcpFlags {}

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// A view of a segment whose header is whole, options included. The payload may go on elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct TcpPacket<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> TcpPacket<T> {
    /// # Errors
    /// `TransportTruncated` below 20 bytes, or unless the data offset is at least 5 and within `bytes`.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < TCP_HEADER {
            return Err(Malformed::TransportTruncated);
        }
        let header = usize::from(b[12] >> 4) * 4;
        if header < TCP_HEADER || header > b.len() {
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

    /// Sequence number of the first byte, or of SYN.
    #[inline]
    pub fn seq(&self) -> u32 {
        u32_at(self.bytes.as_ref(), 4)
    }

    /// The next sequence number expected, where ACK is set.
    #[inline]
    pub fn ack(&self) -> u32 {
        u32_at(self.bytes.as_ref(), 8)
    }

    /// Bytes of the header with its options (the data offset), 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes.as_ref()[12] >> 4) * 4
    }

    /// The flags ([`TcpFlags`]).
    #[inline]
    pub fn flags(&self) -> u8 {
        self.bytes.as_ref()[13]
    }

    /// The window, unscaled.
    #[inline]
    pub fn window(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 14)
    }

    /// The checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 16)
    }

    /// The options, undecoded.
    #[inline]
    pub fn options(&self) -> &[u8] {
        &self.bytes.as_ref()[TCP_HEADER..self.header_len()]
    }

    /// All bytes behind the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[self.header_len()..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> TcpPacket<T> {
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

    /// Sets the sequence number; the checksum is the caller's.
    #[inline]
    pub fn set_seq(&mut self, seq: u32) {
        put(self.bytes.as_mut(), 4, seq.to_be_bytes());
    }

    /// Sets the acknowledgement number; the checksum is the caller's.
    #[inline]
    pub fn set_ack(&mut self, ack: u32) {
        put(self.bytes.as_mut(), 8, ack.to_be_bytes());
    }

    /// Sets the flags; the checksum is the caller's.
    #[inline]
    pub fn set_flags(&mut self, flags: u8) {
        self.bytes.as_mut()[13] = flags;
    }

    /// Sets the checksum field.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put(self.bytes.as_mut(), 16, checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: [u8; 26] = [
        0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 9, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0x12, 0x34, 0,
        0, // header
        2, 4, 5, 0xb4, // MSS 1460
        0xaa, 0xbb,
    ];

    #[test]
    fn reads_and_writes() {
        let mut bytes = SYN;
        let mut p = TcpPacket::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((p.src_port(), p.dst_port(), p.seq(), p.ack()), (40_000, 443, 9, 0));
        assert_eq!(
            (p.header_len(), p.flags(), p.window(), p.checksum()),
            (24, TcpFlags::SYN, 0xffff, 0x1234)
        );
        assert_eq!((p.options(), p.payload()), (&[2, 4, 5, 0xb4][..], &[0xaa, 0xbb][..]));
        p.set_src_port(1);
        p.set_dst_port(2);
        p.set_seq(3);
        p.set_ack(4);
        p.set_flags(TcpFlags::RST | TcpFlags::ACK);
        p.set_checksum(5);
        assert_eq!(bytes[..14], [0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0x60, 0x14]);
        assert_eq!(bytes[14..18], [0xff, 0xff, 0, 5]);
    }

    #[test]
    fn refuses() {
        let mut short = SYN;
        short[12] = 0x40;
        assert_eq!(TcpPacket::new_checked(short).unwrap_err(), Malformed::TransportTruncated);
        assert_eq!(TcpPacket::new_checked(&SYN[..19]).unwrap_err(), Malformed::TransportTruncated);
        assert_eq!(TcpPacket::new_checked(&SYN[..23]).unwrap_err(), Malformed::TransportTruncated);
    }
}
