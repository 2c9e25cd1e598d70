//! IPv4 headers (RFC 791).
//!
//! The view needs only the header to be contiguous, options included; the payload may go on in other segments. It
//! proves the header's own lengths; whether the total length is within the frame is for [`parse`](crate::parse()).

use std::net::Ipv4Addr;

use crate::Malformed;
use crate::bytes::{put, u16_at, v4_at};
use crate::checksum::{self, ChecksumDelta};

/// Bytes of a header without options.
pub const IPV4_HEADER: usize = 20;

/// A view of a packet whose header is whole.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Packet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv4Packet<T> {
    /// # Errors
    /// `Ipv4HeaderInvalid` unless version is 4, IHL at least 5 and the header within `bytes`;
    /// `Ipv4LengthInvalid` where the total length is below the header's.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < IPV4_HEADER || b[0] >> 4 != 4 {
            return Err(Malformed::Ipv4HeaderInvalid);
        }
        let header = usize::from(b[0] & 0xf) * 4;
        if header < IPV4_HEADER || header > b.len() {
            return Err(Malformed::Ipv4HeaderInvalid);
        }
        if usize::from(u16_at(b, 2)) < header {
            return Err(Malformed::Ipv4LengthInvalid);
        }
        Ok(Self { bytes })
    }

    /// Bytes of the header, 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        // At most what `new_checked` saw: no setter writes the first byte.
        usize::from(self.bytes.as_ref()[0] & 0xf) * 4
    }

    /// Bytes of options behind the fixed header, 0 to 40.
    #[inline]
    pub fn options_len(&self) -> usize {
        self.header_len() - IPV4_HEADER
    }

    /// The options, undecoded.
    #[inline]
    pub fn options(&self) -> &[u8] {
        &self.bytes.as_ref()[IPV4_HEADER..self.header_len()]
    }

    /// Differentiated services and ECN: the former type of service.
    #[inline]
    pub fn dscp_ecn(&self) -> u8 {
        self.bytes.as_ref()[1]
    }

    /// Bytes of header and payload.
    #[inline]
    pub fn total_len(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 2)
    }

    /// What the fragments of one packet have in common.
    #[inline]
    pub fn ident(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 4)
    }

    /// The DF bit.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.bytes.as_ref()[6] & 0x40 != 0
    }

    /// The MF bit.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.bytes.as_ref()[6] & 0x20 != 0
    }

    /// Where this fragment begins in the packet's payload, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        (u16_at(self.bytes.as_ref(), 6) & 0x1fff) << 3
    }

    /// Hops left.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes.as_ref()[8]
    }

    /// What the payload is: see [`protocol`](crate::protocol).
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.bytes.as_ref()[9]
    }

    /// The header checksum as it stands.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 10)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        v4_at(self.bytes.as_ref(), 12)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        v4_at(self.bytes.as_ref(), 16)
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        checksum::fold(checksum::sum(&self.bytes.as_ref()[..self.header_len()])) == 0xffff
    }

    /// As much of the payload as lies in the view's bytes; padding behind the total length is left out.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let b = self.bytes.as_ref();
        // `new_checked` proved total length ≥ header length, and `set_total_len` keeps it so.
        &b[self.header_len()..b.len().min(usize::from(self.total_len()))]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4Packet<T> {
    /// Sets DSCP and ECN. The checksum is not updated.
    #[inline]
    pub fn set_dscp_ecn(&mut self, value: u8) {
        self.bytes.as_mut()[1] = value;
    }

    /// Sets the total length, never below the header's own. The checksum is not updated.
    #[inline]
    pub fn set_total_len(&mut self, bytes: u16) {
        // The header is at most 60 bytes long.
        let least = u16::from(self.bytes.as_ref()[0] & 0xf) * 4;
        put(self.bytes.as_mut(), 2, bytes.max(least).to_be_bytes());
    }

    /// Sets the identification. The checksum is not updated.
    #[inline]
    pub fn set_ident(&mut self, ident: u16) {
        put(self.bytes.as_mut(), 4, ident.to_be_bytes());
    }

    /// Sets DF, MF and the offset, which is rounded down to a multiple of 8 bytes. The checksum is not updated.
    #[inline]
    pub fn set_fragment(&mut self, dont_fragment: bool, more_fragments: bool, offset: u16) {
        let field = u16::from(dont_fragment) << 14 | u16::from(more_fragments) << 13 | offset >> 3;
        put(self.bytes.as_mut(), 6, field.to_be_bytes());
    }

    /// Sets the time to live. The checksum is not updated; see [`decrement_ttl`](Self::decrement_ttl).
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        self.bytes.as_mut()[8] = ttl;
    }

    /// Sets the checksum field.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put(self.bytes.as_mut(), 10, checksum.to_be_bytes());
    }

    /// Computes the header checksum over the whole header.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let sum = checksum::internet_checksum(&self.bytes.as_ref()[..self.header_len()]);
        self.set_checksum(sum);
    }

    /// Takes one hop off, and brings the checksum up to date (RFC 1624, equation 3). Does nothing at zero.
    /// Answers with the hops left: a router that forwards sends time exceeded instead where that is zero
    /// (RFC 1812, section 5.3.1).
    #[inline]
    pub fn decrement_ttl(&mut self) -> u8 {
        let old = u16_at(self.bytes.as_ref(), 8);
        if old < 0x0100 {
            return 0;
        }
        let checksum = ChecksumDelta::replace_u16(old, old - 0x0100).apply(self.checksum());
        let ttl = self.ttl() - 1;
        self.set_ttl(ttl);
        self.set_checksum(checksum);
        ttl
    }

    /// Replaces the source address and updates the header checksum. The transport's is the caller's
    /// ([`ChecksumDelta::replace_ipv4`]).
    #[inline]
    pub fn replace_src(&mut self, addr: Ipv4Addr) {
        self.replace_addr(12, addr);
    }

    /// Replaces the destination address and updates the header checksum. The transport's is the caller's.
    #[inline]
    pub fn replace_dst(&mut self, addr: Ipv4Addr) {
        self.replace_addr(16, addr);
    }

    #[inline]
    fn replace_addr(&mut self, at: usize, addr: Ipv4Addr) {
        let old = v4_at(self.bytes.as_ref(), at);
        let checksum = ChecksumDelta::replace_ipv4(old, addr).apply(self.checksum());
        put(self.bytes.as_mut(), at, addr.octets());
        self.set_checksum(checksum);
    }

    /// As much of the payload as lies in the view's bytes.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let header = self.header_len();
        let total = usize::from(self.total_len());
        let b = self.bytes.as_mut();
        let end = b.len().min(total);
        &mut b[header..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From RFC 1071's usual worked example: 192.168.0.1 → 192.168.0.199, UDP, checksum 0xb861.
    const HEADER: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0,
        0xa8, 0x00, 0xc7,
    ];

    #[test]
    fn reads() {
        let p = Ipv4Packet::new_checked(HEADER).unwrap();
        assert_eq!((p.header_len(), p.options_len(), p.total_len(), p.ident()), (20, 0, 0x73, 0));
        assert_eq!((p.dont_fragment(), p.more_fragments(), p.fragment_offset()), (true, false, 0));
        assert_eq!((p.ttl(), p.protocol(), p.checksum()), (64, 17, 0xb861));
        assert_eq!(p.src(), Ipv4Addr::new(192, 168, 0, 1));
        assert_eq!(p.dst(), Ipv4Addr::new(192, 168, 0, 199));
        assert!(p.verify_checksum());
        assert!(p.payload().is_empty());
    }

    #[test]
    fn payload_ends_at_total_length_or_at_the_bytes() {
        let mut bytes = [0; 28];
        bytes[..20].copy_from_slice(&HEADER);
        bytes[0] = 0x46;
        bytes[2..4].copy_from_slice(&[0, 26]);
        bytes[20..].copy_from_slice(&[1, 1, 1, 0, 7, 8, 9, 9]);
        let mut p = Ipv4Packet::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((p.options(), p.payload()), (&[1, 1, 1, 0][..], &[7, 8][..]));
        assert_eq!(p.payload_mut(), [7, 8]);
        p.set_total_len(1500);
        assert_eq!(p.payload(), [7, 8, 9, 9]);
        p.set_total_len(3);
        assert_eq!((p.total_len(), p.payload().len()), (24, 0));
    }

    #[test]
    fn refuses() {
        let err = |edit: &dyn Fn(&mut [u8; 20])| {
            let mut b = HEADER;
            edit(&mut b);
            Ipv4Packet::new_checked(b).unwrap_err()
        };
        assert_eq!(err(&|b| b[0] = 0x65), Malformed::Ipv4HeaderInvalid);
        assert_eq!(err(&|b| b[0] = 0x44), Malformed::Ipv4HeaderInvalid);
        assert_eq!(err(&|b| b[0] = 0x46), Malformed::Ipv4HeaderInvalid);
        assert_eq!(err(&|b| b[3] = 19), Malformed::Ipv4LengthInvalid);
        assert_eq!(Ipv4Packet::new_checked(&HEADER[..19]).unwrap_err(), Malformed::Ipv4HeaderInvalid);
    }

    #[test]
    fn fragments() {
        let mut p = Ipv4Packet::new_checked(HEADER).unwrap();
        p.set_fragment(false, true, 1480);
        assert_eq!((p.dont_fragment(), p.more_fragments(), p.fragment_offset()), (false, true, 1480));
        p.set_fragment(false, false, 65_528);
        assert_eq!((p.dont_fragment(), p.more_fragments(), p.fragment_offset()), (false, false, 65_528));
    }

    proptest! {
        #[test]
        fn ttl_and_addresses_keep_the_checksum(
            ident: u16, tos: u8, ttl: u8, protocol: u8, src: u32, dst: u32, new: [u32; 2],
        ) {
            let mut b = HEADER;
            b[8] = ttl;
            b[9] = protocol;
            b[12..16].copy_from_slice(&src.to_be_bytes());
            b[16..20].copy_from_slice(&dst.to_be_bytes());
            let mut p = Ipv4Packet::new_checked(b).unwrap();
            p.set_ident(ident);
            p.set_dscp_ecn(tos);
            p.fill_checksum();
            prop_assert!(p.verify_checksum());
            prop_assert_eq!(p.decrement_ttl(), ttl.saturating_sub(1));
            prop_assert_eq!(p.ttl(), ttl.saturating_sub(1));
            p.replace_src(new[0].into());
            p.replace_dst(new[1].into());
            prop_assert_eq!((p.src(), p.dst()), (new[0].into(), new[1].into()));
            let incremental = p.checksum();
            p.fill_checksum();
            prop_assert_eq!(incremental, p.checksum());
        }
    }
}
