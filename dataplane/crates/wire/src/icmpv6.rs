//! ICMP for IPv6 (RFC 4443). Neighbour discovery, which these messages carry, is in `ndp.rs`.

use std::net::Ipv6Addr;

use crate::bytes::{put, u16_at, u32_at};
use crate::{Malformed, checksum, protocol};

/// Bytes of an ICMPv6 header: type, code, checksum, and four whose meaning is the type's. All messages have them.
pub const ICMPV6_HEADER: usize = 8;

/// Message types (IANA, "ICMPv6 Type Numbers").
#[derive(Debug)]
pub enum Icmpv6Type {}

impl Icmpv6Type {
    /// Unreachable: the code says why.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big: the four bytes are the MTU.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded: code 0 in transit.
    pub const TIME_EXCEEDED: u8 = 3;
    /// A header field is wrong: the four bytes point to it.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// A ping.
    pub const ECHO_REQUEST: u8 = 128;
    /// Answer to a ping.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation (RFC 4861, section 4.1).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
}

/// A view of a message whose header is whole.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv6Packet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Icmpv6Packet<T> {
    /// # Errors
    /// `TransportTruncated` below 8 bytes.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < ICMPV6_HEADER {
            return Err(Malformed::TransportTruncated);
        }
        Ok(Self { bytes })
    }

    /// What the message is ([`Icmpv6Type`]).
    #[inline]
    pub fn message_type(&self) -> u8 {
        self.bytes.as_ref()[0]
    }

    /// The type's variant.
    #[inline]
    pub fn code(&self) -> u8 {
        self.bytes.as_ref()[1]
    }

    /// The checksum as it stands, over pseudo-header, header and payload.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 2)
    }

    /// A ping or its answer: then there are identifier and sequence number.
    #[inline]
    pub fn is_echo(&self) -> bool {
        matches!(self.message_type(), Icmpv6Type::ECHO_REQUEST | Icmpv6Type::ECHO_REPLY)
    }

    /// An error, which quotes the packet that it is about: types below 128 (RFC 4443, section 2.1). No error may be sent
    /// about it, nor about a redirect (section 2.4 (e)).
    #[inline]
    pub fn is_error(&self) -> bool {
        self.message_type() < 128
    }

    /// Of neighbour discovery, redirects included: types 133 to 137.
    #[inline]
    pub fn is_neighbour_discovery(&self) -> bool {
        matches!(self.message_type(), Icmpv6Type::ROUTER_SOLICITATION..=Icmpv6Type::REDIRECT)
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
        &self.bytes.as_ref()[ICMPV6_HEADER..]
    }

    /// Whether the checksum is right for a packet between these. The view must end where the IP packet does.
    #[inline]
    pub fn verify_checksum(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        self.sum(src, dst) == 0xffff
    }

    fn sum(&self, src: Ipv6Addr, dst: Ipv6Addr) -> u16 {
        let b = self.bytes.as_ref();
        // Longer than 4 GB is no packet; its sum is then wrong, as it should be.
        let len = u32::try_from(b.len()).unwrap_or(0);
        checksum::fold(checksum::pseudo_header_v6(src, dst, protocol::ICMPV6, len) + checksum::sum(b))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv6Packet<T> {
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

    /// Computes the checksum for a packet between these, over all of the view's bytes, which must end where the IP packet
    /// does.
    #[inline]
    pub fn fill_checksum(&mut self, src: Ipv6Addr, dst: Ipv6Addr) {
        self.set_checksum(0);
        let checksum = !self.sum(src, dst);
        self.set_checksum(checksum);
    }

    /// All bytes behind the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.as_mut()[ICMPV6_HEADER..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRC: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const DST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    /// Sum: 2 × fe80 + 1 + 2 + 10 + 58 (pseudo) + 8000 + 1234 + 7 + abcd = 33b4f, folded 3b52.
    const PING: [u8; 10] = [128, 0, 0xc4, 0xad, 0x12, 0x34, 0x00, 0x07, 0xab, 0xcd];

    #[test]
    fn reads_and_writes() {
        let mut bytes = PING;
        let mut p = Icmpv6Packet::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((p.message_type(), p.code()), (Icmpv6Type::ECHO_REQUEST, 0));
        assert_eq!((p.echo_ident(), p.echo_seq(), p.rest()), (0x1234, 7, 0x1234_0007));
        assert_eq!(p.payload(), [0xab, 0xcd]);
        assert!(p.is_echo() && !p.is_error() && !p.is_neighbour_discovery());
        p.fill_checksum(SRC, DST);
        assert_eq!(p.checksum(), u16::from_be_bytes([PING[2], PING[3]]));
        assert!(p.verify_checksum(SRC, DST) && !p.verify_checksum(SRC, SRC));
        p.set_type_code(Icmpv6Type::PACKET_TOO_BIG, 0);
        p.set_rest(1280);
        assert!(p.is_error() && p.rest() == 1280);
        p.set_echo_ident(2);
        p.set_echo_seq(3);
        p.payload_mut()[0] = 4;
        assert_eq!(bytes[4..], [0, 2, 0, 3, 4, 0xcd]);
    }

    #[test]
    fn refuses_short() {
        assert_eq!(Icmpv6Packet::new_checked(&PING[..7]).unwrap_err(), Malformed::TransportTruncated);
    }
}
