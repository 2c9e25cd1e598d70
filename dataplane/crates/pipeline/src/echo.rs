//! Pings to the router's own addresses (RFC 1122, section 3.2.2.6; RFC 4443, section 4.2), answered in place.
//!
//! The reply has no options and no extension headers, comes from the address that was pinged, and leaves by the route to
//! the one who asked.

use std::net::IpAddr;

use wire::{
    Addrs, ETHERNET_HEADER, IPV4_HEADER, IPV6_HEADER, Icmpv4Packet, Icmpv4Type, Icmpv6Packet, Icmpv6Type,
    Ipv4Packet, protocol,
};

use crate::address::macs;
use crate::answer::way_back;
use crate::burst::{State, Work};
use crate::decide::Desk;
use crate::segment::finish_checksum;
use crate::{Buffer, ConsumeReason, DropReason, Fate, Offload, Packet, Verdict};

/// TTL and hop limit of what the router itself sends (RFC 1700).
pub(crate) const HOPS: u8 = 64;

pub(crate) fn answer<B: Buffer>(
    desk: &Desk<'_, '_>,
    packet: &mut Packet<B>,
    work: &Work<'_>,
) -> State<'static> {
    match reply(desk, packet, work) {
        Ok(verdict) => State::Done(verdict),
        Err(reason) => reason.into(),
    }
}

fn reply<B: Buffer>(
    desk: &Desk<'_, '_>,
    packet: &mut Packet<B>,
    work: &Work<'_>,
) -> Result<Verdict, DropReason> {
    let parsed = &work.parsed;
    let l4 = usize::from(parsed.l4_offset);
    let len = usize::try_from(parsed.frame_len).unwrap_or(usize::MAX);
    let sender = macs(packet.buffer.head()).1;
    // A ping that lies in several pieces is larger than any that a person sends.
    let frame = packet.buffer.head_mut().get_mut(..len).ok_or(DropReason::NoService)?;
    if let Offload::Partial { start, offset } = packet.offload {
        finish_checksum(frame, start, offset)?;
    }
    let message = frame.get_mut(l4..).ok_or(DropReason::NoService)?;
    let (to, behind) = match parsed.addrs {
        Addrs::V4 { src, .. } => {
            let mut icmp = Icmpv4Packet::new_checked(message).map_err(|_| DropReason::TransportTruncated)?;
            if !icmp.verify_checksum() {
                return Err(DropReason::IcmpChecksumWrong);
            }
            if icmp.message_type() != Icmpv4Type::ECHO_REQUEST {
                return Err(DropReason::NoService);
            }
            icmp.set_type_code(Icmpv4Type::ECHO_REPLY, icmp.code());
            // Computed anew: where all that is left is zeros, the difference would give zero instead of all ones (RFC 1624,
            // section 3), and there is no pseudo-header to prevent that.
            icmp.fill_checksum();
            (IpAddr::V4(src), ETHERNET_HEADER + IPV4_HEADER)
        }
        Addrs::V6 { src, dst } => {
            let mut icmp = Icmpv6Packet::new_checked(message).map_err(|_| DropReason::TransportTruncated)?;
            if !icmp.verify_checksum(src, dst) {
                return Err(DropReason::IcmpChecksumWrong);
            }
            if icmp.message_type() != Icmpv6Type::ECHO_REQUEST {
                return Err(DropReason::NoService);
            }
            icmp.set_type_code(Icmpv6Type::ECHO_REPLY, icmp.code());
            // Source and destination change places, which leaves the pseudo-header's sum as it is.
            icmp.fill_checksum(src, dst);
            (IpAddr::V6(src), ETHERNET_HEADER + IPV6_HEADER)
        }
        Addrs::None => return Err(DropReason::NoService),
    };
    let hop = way_back(desk.tables, &work.ingress, to, sender)?;
    // Options and extension headers are left out.
    frame.copy_within(l4.., behind);
    let len = len - (l4 - behind);
    if len - ETHERNET_HEADER > usize::from(desk.mtu(&hop)) {
        return Err(DropReason::PacketTooBig);
    }
    let frame = frame.get_mut(..len).ok_or(DropReason::NoService)?;
    write_ip_header(frame, parsed.addrs);
    hop.set_macs(frame);
    packet.buffer.truncate(len);
    packet.offload = Offload::Done;
    Ok(Verdict::Answer { fate: Fate::Consumed(ConsumeReason::Echo), output: hop.output() })
}

/// The request's own header turned round, without what followed it: identification, DF and traffic class stay the asker's.
fn write_ip_header(frame: &mut [u8], addrs: Addrs) {
    let total = u16::try_from(frame.len() - ETHERNET_HEADER).unwrap_or(u16::MAX);
    let header = &mut frame[ETHERNET_HEADER..];
    match addrs {
        Addrs::V4 { src, dst } => {
            header[0] = 0x45;
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header[8..10].copy_from_slice(&[HOPS, protocol::ICMP]);
            header[12..16].copy_from_slice(&dst.octets());
            header[16..20].copy_from_slice(&src.octets());
            if let Ok(mut packet) = Ipv4Packet::new_checked(header) {
                packet.fill_checksum();
            }
        }
        Addrs::V6 { src, dst } => {
            // The flow label is the asker's for its own direction (RFC 6437, section 3).
            header[1] &= 0xf0;
            header[2..4].fill(0);
            let payload = total - 40;
            header[4..6].copy_from_slice(&payload.to_be_bytes());
            header[6..8].copy_from_slice(&[protocol::ICMPV6, HOPS]);
            header[8..24].copy_from_slice(&dst.octets());
            header[24..40].copy_from_slice(&src.octets());
        }
        Addrs::None => {}
    }
}
