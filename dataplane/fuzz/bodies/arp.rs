//! Any bytes are an ARP packet to `wire::ArpPacket`: it reads what smoltcp reads, and replies as smoltcp would.

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame};
use wire::MacAddr;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

pub(crate) fn body(bytes: &[u8]) {
    let theirs = ArpPacket::new_checked(bytes).and_then(|p| ArpRepr::parse(&p));
    let mut frame = [&[0xff; 12][..], &[0x08, 0x06], bytes].concat();
    let before = frame.clone();
    let replied = wire::write_arp_reply(&mut frame, MAC);
    match (wire::ArpPacket::new_checked(bytes), theirs) {
        (
            Ok(ours),
            Ok(ArpRepr::EthernetIpv4 {
                operation,
                source_hardware_addr,
                source_protocol_addr,
                target_hardware_addr,
                target_protocol_addr,
            }),
        ) => {
            let expected = match ours.operation() {
                wire::ArpOperation::Request => ArpOperation::Request,
                wire::ArpOperation::Reply => ArpOperation::Reply,
            };
            assert_eq!(operation, expected);
            assert_eq!(ours.sender_mac().0, source_hardware_addr.0);
            assert_eq!(ours.sender_ip(), source_protocol_addr);
            assert_eq!(ours.target_mac().0, target_hardware_addr.0);
            assert_eq!(ours.target_ip(), target_protocol_addr);

            assert_eq!(replied, Ok(()));
            let reply = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(MAC.0),
                source_protocol_addr: target_protocol_addr,
                target_hardware_addr: source_hardware_addr,
                target_protocol_addr: source_protocol_addr,
            };
            let mut expected = before;
            expected[..6].copy_from_slice(&source_hardware_addr.0);
            expected[6..12].copy_from_slice(&MAC.0);
            let mut ethernet = EthernetFrame::new_unchecked(&mut expected[..]);
            reply.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
            assert_eq!(frame, expected);
            let built = wire::build_arp_reply(MAC, ours.target_ip(), ours.sender_mac(), ours.sender_ip());
            assert_eq!(built, frame[..42]);
        }
        // smoltcp takes any operation.
        (Err(_), Ok(ArpRepr::EthernetIpv4 { operation: ArpOperation::Unknown(_), .. }) | Err(_)) => {
            assert_eq!(replied, Err(wire::Malformed::ArpInvalid));
            assert_eq!(frame, before);
        }
        (ours, theirs) => assert_eq!(ours.is_ok(), theirs.is_ok(), "{ours:?} {theirs:?}"),
    }
}
