//! ICMP for IPv4 (RFC 792).

use crate::bytes::{put, u16_at, u32_at};
use crate::{Malformed, checksum};

/// Bytes of an ICMP header: type, code, checksum, and four whose meaning is the type's.
pub const ICMPV4_HEADER: usize = 8;

/// Message types (IANA, "ICMP Type Numbers").
#[derive(Debug)]
pub enum Icmpv4Type {}

impl Icmpv4Type {
    /// Answer to a ping.
    pub const ECHO_REPLY: u8 = 0;
    /// Unreachable: the code says why; 4 is "fragmentation needed" (RFC 1191).
    pub const UNREACHABLE: u8 = 3;
    /// A ping.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded: code 0 in transit.
    pub const TIME_EXCEEDED: u8 = 11;
    /// A header field is wrong.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// A view of a message whose header is whole.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv4Packet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Icmpv4Packet<T> {
    /// # Errors
    /// `TransportTruncated` below 8 bytes.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < ICMPV4_HEADER {
            return Err(Malformed::TransportTruncated);
        }
        Ok(Self { bytes })
    }

    /// What the message is ([`Icmpv4Type`]).
    #[inline]
    pub fn message_type(&self) -> u8 {
        self.bytes.as_ref()[0]
    }

    /// The type's variant.
    #[inline]
    pub fn code(&self) -> u8 {
        self.bytes.as_ref()[1]
    }

    /// The checksum as it stands, over header and payload.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 2)
    }

    /// A ping or its answer: then there are identifier and sequence number.
    #[inline]
    pub fn is_echo(&self) -> bool {
        matches!(self.message_type(), Icmpv4Type::ECHO_REQUEST | Icmpv4Type::ECHO_REPLY)
    }

    /// An error, which quotes the packet that it is about (RFC 1122, section 3.2.2): no error may be sent about it.
    /// Source quench and redirect are errors too.
    #[inline]
    pub fn is_error(&self) -> bool {
        matches!(self.message_type(), 3 | 4 | 5 | 11 | 12)
    }

    /// The identifier of an echo; of no meaning elsewhere.
    #[inline]
    pub fn echo_ident(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 4)
    }

    /// The sequence number of an echo; of no meaning elsewhere.
    #[inline]
    pub fn echo_seq(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 6)
    }

    /// The four bytes whose meaning is the type's.
    #[inline]
    pub fn rest(&self) -> u32 {
        u32_at(self.bytes.as_ref(), 4)
    }

    /// All bytes behind the header: echo data, or the packet that an error is about.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[ICMPV4_HEADER..]
    }

    /// Whether the checksum is right. The view must end where the IP packet does.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        checksum::sum(self.bytes.as_ref()) == 0xffff
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv4Packet<T> {
    /// Sets type and code; the checksum is the caller's.
    #[inline]
    pub fn set_type_code(&mut self, message_type: u8, code: u8) {
        put(self.bytes.as_mut(), 0, [message_type, code]);
    }

    /// Sets the checksum field.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put(self.bytes.as_mut(), 2, checksum.to_be_bytes());
    }

    /// Sets the identifier of an echo; the checksum is the caller's.
    #[inline]
    pub fn set_echo_ident(&mut self, ident: u16) {
        put(self.bytes.as_mut(), 4, ident.to_be_bytes());
    }

    /// Sets the sequence number of an echo; the checksum is the caller's.
    #[inline]
    pub fn set_echo_seq(&mut self, seq: u16) {
        put(self.bytes.as_mut(), 6, seq.to_be_bytes());
    }

    /// Sets the four bytes whose meaning is the type's; the checksum is the caller's.
    #[inline]
    pub fn set_rest(&mut self, rest: u32) {
        put(self.bytes.as_mut(), 4, rest.to_be_bytes());
    }

    /// Computes the checksum over all of the view's bytes, which must end where the IP packet does.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let checksum = checksum::internet_checksum(self.bytes.as_ref());
        self.set_checksum(checksum);
    }

    /// All bytes behind the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.as_mut()[ICMPV4_HEADER..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: [u8; 10] = [8, 0, 0x4c, 0x3d, 0x12, 0x34, 0x00, 0x07, 0x99, 0x87];

    #[test]
    fn reads_and_writes() {
        let mut bytes = PING;
        let mut p = Icmpv4Packet::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((p.message_type(), p.code(), p.checksum()), (Icmpv4Type::ECHO_REQUEST, 0, 0x4c3d));
        assert_eq!((p.echo_ident(), p.echo_seq(), p.rest()), (0x1234, 7, 0x1234_0007));
        assert_eq!(p.payload(), [0x99, 0x87]);
        assert!(p.is_echo() && !p.is_error() && p.verify_checksum());
        p.set_type_code(Icmpv4Type::TIME_EXCEEDED, 1);
        assert!(p.is_error() && !p.is_echo() && !p.verify_checksum());
        p.set_rest(0);
        p.set_echo_ident(2);
        p.set_echo_seq(3);
        p.payload_mut()[0] = 4;
        p.fill_checksum();
        assert!(p.verify_checksum());
        assert_eq!(bytes[..2], [11, 1]);
        assert_eq!(bytes[4..], [0, 2, 0, 3, 4, 0x87]);
    }

    #[test]
    fn refuses_short() {
        assert_eq!(Icmpv4Packet::new_checked(&PING[..7]).unwrap_err(), Malformed::TransportTruncated);
    }
}
