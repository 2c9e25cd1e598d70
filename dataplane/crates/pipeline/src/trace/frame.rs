//! The packet in question as bytes.

use std::net::IpAddr;

use tables::{PortId, Tables};
use wire::{Icmpv4Packet, Icmpv6Packet, Ipv4Packet, MacAddr, protocol};

use super::Question;
use crate::burst::{Ingress, Side};

/// A neighbour whose MAC does not matter.
const SOMEBODY: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 1]);
const HOPS: u8 = 64;

/// With 64 hops to go, not to be fragmented, as whoever is behind the port would send it.
pub(super) fn build(tables: &Tables, port: PortId, question: &Question) -> Vec<u8> {
    let (to, from) = match Ingress::of(tables, port) {
        Some(Ingress { port, side: Side::Endpoint(endpoint), .. }) => (port.mac, endpoint.mac),
        Some(Ingress { port, side: Side::Uplink(_), .. }) => (port.mac, SOMEBODY),
        None => (MacAddr::default(), SOMEBODY),
    };
    let mut payload = transport(question);
    let header = if question.src.is_ipv4() { 20 } else { 40 };
    let length = usize::from(question.length).max(header + payload.len());
    payload.resize(length - header, 0);
    if question.protocol == protocol::UDP {
        payload[4..6].copy_from_slice(&sixteen(length - header));
    }
    let mut frame = [&to.0[..], &from.0].concat();
    match (question.src, question.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip =
                [0x45, 0, 0, 0, 0, 0, 0x40, 0, HOPS, question.protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            ip[2..4].copy_from_slice(&sixteen(length));
            ip[12..16].copy_from_slice(&src.octets());
            ip[16..20].copy_from_slice(&dst.octets());
            if let Ok(mut packet) = Ipv4Packet::new_checked(&mut ip[..]) {
                packet.fill_checksum();
            }
            if let (protocol::ICMP, Ok(mut icmp)) =
                (question.protocol, Icmpv4Packet::new_checked(&mut payload[..]))
            {
                icmp.fill_checksum();
            }
            frame.extend_from_slice(&[0x08, 0x00]);
            frame.extend_from_slice(&ip);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            if let (protocol::ICMPV6, Ok(mut icmp)) =
                (question.protocol, Icmpv6Packet::new_checked(&mut payload[..]))
            {
                icmp.fill_checksum(src, dst);
            }
            let [high, low] = sixteen(length - header);
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, high, low, question.protocol, HOPS]);
            frame.extend_from_slice(&src.octets());
            frame.extend_from_slice(&dst.octets());
        }
        // `trace` asks for none.
        _ => {}
    }
    frame.extend_from_slice(&payload);
    frame
}

/// A header that opens a connection, or a request. Nobody checks its sum: UDP has none, and the others' are only changed by differences.
fn transport(question: &Question) -> Vec<u8> {
    let ([a, b], [c, d]) = (question.src_port.to_be_bytes(), question.dst_port.to_be_bytes());
    match question.protocol {
        // SYN, with the largest window there is.
        protocol::TCP => vec![a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0],
        protocol::UDP => vec![a, b, c, d, 0, 8, 0, 0],
        // The common header, and the head of an INIT chunk.
        protocol::SCTP => vec![a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20],
        protocol::ICMP => vec![8, 0, 0, 0, a, b, 0, 1],
        protocol::ICMPV6 => vec![128, 0, 0, 0, a, b, 0, 1],
        _ => vec![0; 8],
    }
}

/// An IP packet has no longer length.
fn sixteen(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}
