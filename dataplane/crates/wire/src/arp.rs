//! ARP for IPv4 over Ethernet (RFC 826): the packet behind an Ethernet header, and whole frames of our own.

use std::net::Ipv4Addr;

use crate::bytes::{mac_at, put, u16_at, v4_at};
use crate::ethernet::{ETHERNET_HEADER, EtherType};
use crate::{MacAddr, Malformed};

/// Bytes of an ARP packet, without the Ethernet header.
pub const ARP_PACKET: usize = 28;
/// Bytes of an Ethernet frame with an ARP packet, without padding.
pub const ARP_FRAME: usize = ETHERNET_HEADER + ARP_PACKET;

/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const FIXED: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// Request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArpOperation {
    /// "Who has the target address?"
    Request,
    /// "The sender has."
    Reply,
}

impl ArpOperation {
    const fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
        }
    }
}

/// A view of an ARP packet, request or reply, for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct ArpPacket<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> ArpPacket<T> {
    /// # Errors
    /// `ArpInvalid` if truncated, not for IPv4 over Ethernet, or neither request nor reply. Padding may follow.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < ARP_PACKET || b[..6] != FIXED || !matches!(u16_at(b, 6), 1 | 2) {
            return Err(Malformed::ArpInvalid);
        }
        Ok(Self { bytes })
    }

    /// Request or reply.
    #[inline]
    pub fn operation(&self) -> ArpOperation {
        if self.bytes.as_ref()[7] == 1 { ArpOperation::Request } else { ArpOperation::Reply }
    }

    /// The sender's MAC.
    #[inline]
    pub fn sender_mac(&self) -> MacAddr {
        mac_at(self.bytes.as_ref(), 8)
    }

    /// The sender's address. 0.0.0.0 in a probe (RFC 5227, section 2.1.1).
    #[inline]
    pub fn sender_ip(&self) -> Ipv4Addr {
        v4_at(self.bytes.as_ref(), 14)
    }

    /// The target's MAC: of no meaning in a request.
    #[inline]
    pub fn target_mac(&self) -> MacAddr {
        mac_at(self.bytes.as_ref(), 18)
    }

    /// The address asked for, or that of the one who asked.
    #[inline]
    pub fn target_ip(&self) -> Ipv4Addr {
        v4_at(self.bytes.as_ref(), 24)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> ArpPacket<T> {
    /// Sets request or reply.
    #[inline]
    pub fn set_operation(&mut self, operation: ArpOperation) {
        put(self.bytes.as_mut(), 6, operation.number().to_be_bytes());
    }

    /// Sets the sender's MAC and address.
    #[inline]
    pub fn set_sender(&mut self, mac: MacAddr, ip: Ipv4Addr) {
        put(self.bytes.as_mut(), 8, mac.0);
        put(self.bytes.as_mut(), 14, ip.octets());
    }

    /// Sets the target's MAC and address.
    #[inline]
    pub fn set_target(&mut self, mac: MacAddr, ip: Ipv4Addr) {
        put(self.bytes.as_mut(), 18, mac.0);
        put(self.bytes.as_mut(), 24, ip.octets());
    }
}

/// A frame that asks who has `target`. `dst` is broadcast, or a neighbour's MAC where an entry is probed again (RFC 1122,
/// section 2.3.2.1).
#[must_use]
pub fn build_arp_request(
    dst: MacAddr,
    sender_mac: MacAddr,
    sender_ip: Ipv4Addr,
    target: Ipv4Addr,
) -> [u8; ARP_FRAME] {
    build(dst, ArpOperation::Request, (sender_mac, sender_ip), (MacAddr::default(), target))
}

/// A frame that tells the one who asked, `target`, that `sender_mac` has `sender_ip`.
#[must_use]
pub fn build_arp_reply(
    sender_mac: MacAddr,
    sender_ip: Ipv4Addr,
    target_mac: MacAddr,
    target_ip: Ipv4Addr,
) -> [u8; ARP_FRAME] {
    build(target_mac, ArpOperation::Reply, (sender_mac, sender_ip), (target_mac, target_ip))
}

fn build(
    dst: MacAddr,
    operation: ArpOperation,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> [u8; ARP_FRAME] {
    let mut frame = [0; ARP_FRAME];
    put(&mut frame, 0, dst.0);
    put(&mut frame, 6, sender.0.0);
    put(&mut frame, 12, EtherType::ARP.0.to_be_bytes());
    put(&mut frame, 14, FIXED);
    let mut packet = ArpPacket { bytes: &mut frame[ETHERNET_HEADER..] };
    packet.set_operation(operation);
    packet.set_sender(sender.0, sender.1);
    packet.set_target(target.0, target.1);
    frame
}

/// Turns the frame of a request into the reply to it, in place: `mac` has the address that was asked for. Padding stays.
///
/// # Errors
/// `FrameTooShort` or `ArpInvalid` if the frame has no ARP packet; it is then as it was.
pub fn write_arp_reply(frame: &mut [u8], mac: MacAddr) -> Result<(), Malformed> {
    if frame.len() < ETHERNET_HEADER {
        return Err(Malformed::FrameTooShort);
    }
    let (ethernet, bytes) = frame.split_at_mut(ETHERNET_HEADER);
    let mut packet = ArpPacket::new_checked(bytes)?;
    let asker = (packet.sender_mac(), packet.sender_ip());
    let asked = packet.target_ip();
    packet.set_operation(ArpOperation::Reply);
    packet.set_sender(mac, asked);
    packet.set_target(asker.0, asker.1);
    put(ethernet, 0, asker.0.0);
    put(ethernet, 6, mac.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const ANSWERER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const REQUEST: [u8; 42] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06, // Ethernet
        0, 1, 8, 0, 6, 4, 0, 1, // request
        2, 0, 0, 0, 0, 1, 10, 0, 0, 1, // sender
        0, 0, 0, 0, 0, 0, 10, 0, 0, 2, // target
    ];
    const REPLY: [u8; 42] = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x06, // Ethernet
        0, 1, 8, 0, 6, 4, 0, 2, // reply
        2, 0, 0, 0, 0, 2, 10, 0, 0, 2, // sender
        2, 0, 0, 0, 0, 1, 10, 0, 0, 1, // target
    ];
    const IP1: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const IP2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn reads() {
        let p = ArpPacket::new_checked(&REPLY[14..]).unwrap();
        assert_eq!(p.operation(), ArpOperation::Reply);
        assert_eq!((p.sender_mac(), p.sender_ip()), (ANSWERER, IP2));
        assert_eq!((p.target_mac(), p.target_ip()), (ASKER, IP1));
    }

    #[test]
    fn builds() {
        assert_eq!(build_arp_request(MacAddr::BROADCAST, ASKER, IP1, IP2), REQUEST);
        assert_eq!(build_arp_reply(ANSWERER, IP2, ASKER, IP1), REPLY);
    }

    #[test]
    fn replies_in_place() {
        let mut frame = REQUEST;
        write_arp_reply(&mut frame, ANSWERER).unwrap();
        assert_eq!(frame, REPLY);
    }

    #[test]
    fn refuses() {
        for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 3), (20, 1)] {
            let mut frame = REQUEST;
            frame[at] = value;
            let before = frame;
            assert_eq!(ArpPacket::new_checked(&frame[14..]).unwrap_err(), Malformed::ArpInvalid, "{at}");
            assert_eq!(write_arp_reply(&mut frame, ANSWERER), Err(Malformed::ArpInvalid));
            assert_eq!(frame, before);
        }
        assert_eq!(ArpPacket::new_checked(&REQUEST[14..41]).unwrap_err(), Malformed::ArpInvalid);
        assert_eq!(write_arp_reply(&mut [0; 13], ANSWERER), Err(Malformed::FrameTooShort));
    }
}
