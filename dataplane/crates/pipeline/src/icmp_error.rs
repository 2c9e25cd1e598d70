//! Last step, of packets that were refused: tell the source, if it may be told (RFC 1812, section 4.3.2; RFC 1122,
//! section 3.2.2; RFC 4443, section 2.4).
//!
//! The error is built in the packet's own buffer, and quotes as much of it as fits 576 bytes in IPv4, 1280 in IPv6. Never
//! about ICMP errors, later fragments, what went to a group, or sources that name no single host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tables::{Endpoint, EndpointKind, Tables};
use wire::{
    Addrs, ETHERNET_HEADER, EtherType, Fragment, ICMPV4_HEADER, ICMPV6_HEADER, IPV4_HEADER, IPV6_HEADER,
    Icmpv4Packet, Icmpv4Type, Icmpv6Packet, Icmpv6Type, Ipv4Packet, PacketKind, Parsed, protocol,
};

use crate::address::{is_host, macs};
use crate::answer::way_back;
use crate::burst::{Ingress, Side, State, Work, Works};
use crate::echo::HOPS;
use crate::limit::Limiter;
use crate::{Buffer, DropReason, Fate, Offload, Packet, Tick, Verdict};

/// What the source is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// No route leads there.
    NoRoute,
    /// One does, but nobody has the address, or it does not answer.
    HostUnreachable,
    /// Nobody listens on that port of ours.
    PortUnreachable,
    /// It has passed through too many routers.
    TimeExceeded,
    /// Larger than the next link's MTU.
    TooBig(u16),
}

impl Complaint {
    /// Type, code and the four bytes behind the checksum (RFC 792; RFC 1191, section 4).
    const fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (Icmpv4Type::UNREACHABLE, 0, 0),
            Self::HostUnreachable => (Icmpv4Type::UNREACHABLE, 1, 0),
            Self::PortUnreachable => (Icmpv4Type::UNREACHABLE, 3, 0),
            Self::TimeExceeded => (Icmpv4Type::TIME_EXCEEDED, 0, 0),
            Self::TooBig(mtu) => (Icmpv4Type::UNREACHABLE, 4, mtu as u32),
        }
    }

    /// The same (RFC 4443, section 3).
    const fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::NoRoute => (Icmpv6Type::UNREACHABLE, 0, 0),
            Self::HostUnreachable => (Icmpv6Type::UNREACHABLE, 3, 0),
            Self::PortUnreachable => (Icmpv6Type::UNREACHABLE, 4, 0),
            Self::TimeExceeded => (Icmpv6Type::TIME_EXCEEDED, 0, 0),
            Self::TooBig(mtu) => (Icmpv6Type::PACKET_TOO_BIG, 0, mtu as u32),
        }
    }
}

pub(crate) fn burst<B: Buffer>(
    tables: &Tables,
    now: Tick,
    limiter: &mut Limiter,
    packets: &mut [Packet<B>],
    works: &mut Works<'_>,
) {
    for work in works {
        if let State::Refused(reason, complaint) = work.state {
            let packet = &mut packets[work.at];
            work.state = State::Done(complain(tables, now, limiter, packet, work, reason, complaint));
        }
    }
}

/// Drops the packet for `reason`; its buffer then holds the error, if one may be sent.
pub(crate) fn complain<B: Buffer>(
    tables: &Tables,
    now: Tick,
    limiter: &mut Limiter,
    packet: &mut Packet<B>,
    work: &Work<'_>,
    reason: DropReason,
    complaint: Complaint,
) -> Verdict {
    let silent = Verdict::Drop(reason);
    let (parsed, ingress) = (&work.parsed, &work.ingress);
    let head = packet.buffer.head();
    let (to, about) = match parsed.addrs {
        Addrs::V4 { src, dst } => (IpAddr::V4(src), IpAddr::V4(dst)),
        Addrs::V6 { src, dst } => (IpAddr::V6(src), IpAddr::V6(dst)),
        Addrs::None => return silent,
    };
    let (frame_dst, sender) = macs(head);
    if !is_host(to) || !is_host(about) || frame_dst.is_multicast() || is_untouchable(parsed, head) {
        return silent;
    }
    let Ok(hop) = way_back(tables, ingress, to, sender) else {
        return silent;
    };
    if !limiter.allow(now, ingress.port.id) {
        return silent;
    }
    // About what was sent to us it is that address which answers (RFC 4443, section 2.2 (a)).
    let own = if complaint == Complaint::PortUnreachable { about } else { speaker(tables, ingress, to) };
    let written = match (own, to) {
        (IpAddr::V4(own), IpAddr::V4(to)) => write_v4(&mut packet.buffer, parsed, own, to, complaint),
        (IpAddr::V6(own), IpAddr::V6(to)) => write_v6(&mut packet.buffer, parsed, own, to, complaint),
        _ => None,
    };
    if written.is_none() {
        return silent;
    }
    hop.set_macs(packet.buffer.head_mut());
    packet.offload = Offload::Done;
    Verdict::Answer { fate: Fate::Dropped(reason), output: hop.output() }
}

/// The type of an ICMP message of the packet's own family; `None` for all else, and where a fragment hides it.
#[inline]
pub(crate) fn icmp_type(parsed: &Parsed, head: &[u8]) -> Option<u8> {
    let icmp = match parsed.kind {
        PacketKind::Ipv4 => protocol::ICMP,
        PacketKind::Ipv6 => protocol::ICMPV6,
        PacketKind::Arp => return None,
    };
    if parsed.protocol != icmp || parsed.fragment == Fragment::Later {
        return None;
    }
    head.get(usize::from(parsed.l4_offset)).copied()
}

/// An ICMP error or redirect, or a part of a packet that does not show what it is.
fn is_untouchable(parsed: &Parsed, head: &[u8]) -> bool {
    if parsed.fragment == Fragment::Later {
        return true;
    }
    match (parsed.kind, icmp_type(parsed, head)) {
        (PacketKind::Ipv4, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (PacketKind::Ipv6, Some(kind)) => kind < 128 || kind == Icmpv6Type::REDIRECT,
        _ => false,
    }
}

/// The address that the router speaks with: the interface's that the packet came by, or another one's of its network
/// (RFC 1812, section 4.3.2.4), the node's to whom its kernel forwards for, or the gateway's.
fn speaker(tables: &Tables, ingress: &Ingress<'_>, to: IpAddr) -> IpAddr {
    let gateway = match to {
        IpAddr::V4(_) => IpAddr::V4(tables.router().gateway4),
        IpAddr::V6(_) => IpAddr::V6(tables.router().gateway6),
    };
    // An address for its link alone says nothing beyond it, and only the gateway's is on every endpoint's link.
    let local = |addr: &IpAddr| matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
    if local(&to) && !ingress.is_uplink() {
        return gateway;
    }
    let fits = |addr: &IpAddr| addr.is_ipv4() == to.is_ipv4() && local(addr) == local(&to);
    let of = |interface: &tables::Interface| interface.addresses.iter().map(|&(addr, _)| addr).find(fits);
    let here = match ingress.side {
        Side::Uplink(interface) => of(interface),
        Side::Endpoint(_) => None,
    };
    let others = || tables.interfaces().filter(|i| i.network == ingress.network).find_map(of);
    // The gateway's is for the node's own links: other nodes take nothing from it, and no kernel forwards fe80::1.
    let node = || match ingress.side {
        Side::Endpoint(Endpoint { kind: EndpointKind::Host, addresses, .. }) if !addresses.contains(&to) => {
            addresses.iter().copied().find(fits)
        }
        _ => None,
    };
    here.or_else(others).or_else(node).unwrap_or(gateway)
}

/// Moves the packet, as much as is quoted, behind `header` bytes of what an error begins with; the frame then ends there.
fn quote<B: Buffer>(buffer: &mut B, parsed: &Parsed, header: usize, longest: usize) -> Option<()> {
    let l3 = usize::from(parsed.l3_offset);
    let packet = usize::try_from(parsed.ip_len()).ok()?;
    let quoted = packet.min(buffer.head().len().checked_sub(l3)?).min(longest - (header - ETHERNET_HEADER));
    if !buffer.resize(header + quoted) {
        return None;
    }
    let frame = buffer.head_mut().get_mut(..header + quoted)?;
    frame.copy_within(l3..l3 + quoted, header);
    Some(())
}

fn write_v4<B: Buffer>(
    buffer: &mut B,
    parsed: &Parsed,
    own: Ipv4Addr,
    to: Ipv4Addr,
    complaint: Complaint,
) -> Option<()> {
    const L4: usize = ETHERNET_HEADER + IPV4_HEADER;
    quote(buffer, parsed, L4 + ICMPV4_HEADER, 576)?;
    let frame = buffer.head_mut();
    let total = u16::try_from(frame.len() - ETHERNET_HEADER).ok()?;
    frame.get_mut(12..14)?.copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
    let (ip, message) = frame.get_mut(ETHERNET_HEADER..)?.split_at_mut_checked(IPV4_HEADER)?;
    // Precedence: internetwork control (RFC 1812, section 4.3.2.5). Small enough not to be fragmented on the way.
    ip.copy_from_slice(&[0x45, 0xc0, 0, 0, 0, 0, 0, 0, HOPS, protocol::ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[12..16].copy_from_slice(&own.octets());
    ip[16..20].copy_from_slice(&to.octets());
    Ipv4Packet::new_checked(ip).ok()?.fill_checksum();
    let (kind, code, rest) = complaint.v4();
    let mut icmp = Icmpv4Packet::new_checked(message).ok()?;
    icmp.set_type_code(kind, code);
    icmp.set_rest(rest);
    icmp.fill_checksum();
    Some(())
}

fn write_v6<B: Buffer>(
    buffer: &mut B,
    parsed: &Parsed,
    own: Ipv6Addr,
    to: Ipv6Addr,
    complaint: Complaint,
) -> Option<()> {
    const L4: usize = ETHERNET_HEADER + IPV6_HEADER;
    quote(buffer, parsed, L4 + ICMPV6_HEADER, 1280)?;
    let frame = buffer.head_mut();
    let payload = u16::try_from(frame.len() - L4).ok()?;
    frame.get_mut(12..14)?.copy_from_slice(&EtherType::IPV6.0.to_be_bytes());
    let (ip, message) = frame.get_mut(ETHERNET_HEADER..)?.split_at_mut_checked(IPV6_HEADER)?;
    ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, protocol::ICMPV6, HOPS]);
    ip[4..6].copy_from_slice(&payload.to_be_bytes());
    ip[8..24].copy_from_slice(&own.octets());
    ip[24..40].copy_from_slice(&to.octets());
    let (kind, code, rest) = complaint.v6();
    let mut icmp = Icmpv6Packet::new_checked(message).ok()?;
    icmp.set_type_code(kind, code);
    icmp.set_rest(rest);
    icmp.fill_checksum(own, to);
    Some(())
}
