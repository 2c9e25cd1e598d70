//! Ethernet II frames (IEEE 802.3, section 3.2), without a tag and without the frame check sequence.

use crate::bytes::{mac_at, put, u16_at};
use crate::{MacAddr, Malformed};

/// Bytes of an untagged Ethernet header.
pub const ETHERNET_HEADER: usize = 14;

/// What an Ethernet frame carries (IANA, "IEEE 802 Numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// An 802.1Q tag.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(0x86dd);
}

/// A view of a frame that has at least its header.
#[derive(Clone, Copy, Debug)]
pub struct EthernetFrame<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> EthernetFrame<T> {
    /// # Errors
    /// `FrameTooShort` below 14 bytes.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < ETHERNET_HEADER {
            return Err(Malformed::FrameTooShort);
        }
        Ok(Self { bytes })
    }

    /// The station the frame is for.
    #[inline]
    pub fn dst(&self) -> MacAddr {
        mac_at(self.bytes.as_ref(), 0)
    }

    /// The station that sent it.
    #[inline]
    pub fn src(&self) -> MacAddr {
        mac_at(self.bytes.as_ref(), 6)
    }

    /// What follows the header. Below 0x0600 it is an 802.3 length.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(u16_at(self.bytes.as_ref(), 12))
    }

    /// All bytes after the header, padding included.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[ETHERNET_HEADER..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> EthernetFrame<T> {
    /// Sets the destination.
    #[inline]
    pub fn set_dst(&mut self, mac: MacAddr) {
        put(self.bytes.as_mut(), 0, mac.0);
    }

    /// Sets the source.
    #[inline]
    pub fn set_src(&mut self, mac: MacAddr) {
        put(self.bytes.as_mut(), 6, mac.0);
    }

    /// Sets what follows the header.
    #[inline]
    pub fn set_ethertype(&mut self, ethertype: EtherType) {
        put(self.bytes.as_mut(), 12, ethertype.0.to_be_bytes());
    }

    /// All bytes after the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.as_mut()[ETHERNET_HEADER..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 16] = [0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, 0xab, 0xcd];

    #[test]
    fn reads_and_writes() {
        let mut bytes = FRAME;
        let mut frame = EthernetFrame::new_checked(&mut bytes[..]).unwrap();
        assert_eq!(frame.dst(), MacAddr([2, 0, 0, 0, 0, 2]));
        assert_eq!(frame.src(), MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(frame.ethertype(), EtherType::IPV4);
        assert_eq!(frame.payload(), [0xab, 0xcd]);
        frame.set_dst(MacAddr([2, 0, 0, 0, 0, 4]));
        frame.set_src(MacAddr([2, 0, 0, 0, 0, 3]));
        frame.set_ethertype(EtherType::IPV6);
        frame.payload_mut()[0] = 1;
        assert_eq!(bytes, [2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 3, 0x86, 0xdd, 1, 0xcd]);
    }

    #[test]
    fn refuses_short() {
        assert_eq!(EthernetFrame::new_checked(&FRAME[..13]).unwrap_err(), Malformed::FrameTooShort);
        assert!(EthernetFrame::new_checked(&FRAME[..14]).unwrap().payload().is_empty());
    }
}
