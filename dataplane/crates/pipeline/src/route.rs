//! Third step: onward, to the router itself, or nowhere.
//!
//! A packet that goes on has a hop left after this one, fits the next link, and leaves its own.

use std::net::IpAddr;

use tables::{EndpointKind, PortRole, Tables, Target};
use wire::{Addrs, PacketKind, Parsed, protocol};

use crate::address::{is_host_v4, is_host_v6, is_link_local, is_ours, is_subnet_broadcast, macs};
use crate::burst::{Halt, Hop, Ingress, Side, State, Station, Works, to_endpoint};
use crate::decide::Desk;
use crate::icmp_error::{Complaint, icmp_type};
use crate::{Buffer, DropReason, Offload, Packet, dhcp6, tunnel};

#[inline]
pub(crate) fn burst<'t, B: Buffer>(desk: &Desk<'_, 't>, packets: &[Packet<B>], works: &mut Works<'t>) {
    for work in works.iter_mut().filter(|work| matches!(work.state, State::Live)) {
        let packet = &packets[work.at];
        let head = packet.buffer.head();
        let hop = addressed_to(&work.parsed)
            .and_then(|dst| destination(desk.tables, &work.ingress, &work.parsed, head, dst))
            .and_then(|hop| onward(desk, &work.ingress, &work.parsed, packet.offload, hop, false));
        work.state = match hop {
            Ok(hop) => State::Onward(hop, None),
            Err(stop) => stop.into(),
        };
    }
}

/// The address in the packet; ARP has none, and is for the router.
#[inline]
fn addressed_to(parsed: &Parsed) -> Result<IpAddr, Halt> {
    match parsed.addrs {
        Addrs::V4 { dst, .. } => Ok(IpAddr::V4(dst)),
        Addrs::V6 { dst, .. } => Ok(IpAddr::V6(dst)),
        Addrs::None => Err(Halt::ForRouter),
    }
}

/// Where a packet goes whose destination is `dst`, its own or the one that it is given.
#[inline]
pub(crate) fn destination<'t>(
    tables: &'t Tables,
    ingress: &Ingress<'_>,
    parsed: &Parsed,
    head: &[u8],
    dst: IpAddr,
) -> Result<Hop<'t>, Halt> {
    let (group, host) = match dst {
        IpAddr::V4(dst) => (dst.is_multicast() || dst.is_broadcast(), is_host_v4(dst)),
        IpAddr::V6(dst) => (dst.is_multicast(), is_host_v6(dst)),
    };
    if group {
        return Err(if is_link_business(parsed, head) {
            Halt::ForRouter
        } else {
            DropReason::Multicast.into()
        });
    }
    // To one host, but by a frame to many: not to be answered, nor forwarded (RFC 1122, section 3.3.6; RFC 1812, section 5.3.4).
    if macs(head).0.is_multicast() {
        return Err(DropReason::NotForUs.into());
    }
    if !host {
        return Err(DropReason::DestinationInvalid.into());
    }
    if is_link_local(dst) {
        return Err(link_local_destination(tables, ingress, dst));
    }
    hop_to(tables, ingress, dst)
}

/// Where `dst`, the address of one host, is reached.
#[inline]
pub(crate) fn hop_to<'t>(tables: &'t Tables, ingress: &Ingress<'_>, dst: IpAddr) -> Result<Hop<'t>, Halt> {
    let neighbour = |id, next_hop, inside| {
        let port = tables.port(id)?;
        let to = if let PortRole::Tunnel { .. } = port.role {
            Station::Peer(next_hop, tunnel::mac_of(tables.tunnel_peer_at(id, next_hop)?))
        } else {
            Station::NextHop(next_hop)
        };
        Some(Hop { port, to, inside })
    };
    let hop = match tables.lookup(ingress.network, dst) {
        Some(Target::Endpoint(id)) => to_endpoint(tables, id),
        Some(Target::NextHop { port, addr, inside }) => neighbour(port, addr, inside),
        Some(Target::Connected(port)) => {
            if let (IpAddr::V4(dst), Some(interface)) = (dst, tables.interface(port))
                && is_subnet_broadcast(interface, dst)
            {
                // Directed broadcasts are not forwarded (RFC 2644).
                return Err(DropReason::Multicast.into());
            }
            neighbour(port, dst, false)
        }
        Some(Target::Local) => return Err(Halt::ForRouter),
        Some(Target::Blackhole) => return Err(DropReason::Blackhole.into()),
        Some(Target::Unreachable) => {
            return Err(Halt::Refused(DropReason::Unreachable, Complaint::HostUnreachable));
        }
        None => return Err(Halt::Refused(DropReason::NoRoute, Complaint::NoRoute)),
    };
    hop.ok_or(DropReason::PortGone.into())
}

/// Whether it may leave by that hop: it has another hop to live, fits the link, and does not come back to where it came from, unless
/// it is `translated`, as a pod's packet to a Service behind which it is itself.
#[inline]
pub(crate) fn onward<'t>(
    desk: &Desk<'_, '_>,
    ingress: &Ingress<'_>,
    parsed: &Parsed,
    offload: Offload,
    hop: Hop<'t>,
    translated: bool,
) -> Result<Hop<'t>, Halt> {
    // Each node of a tunnel reaches all others itself: what came out of it for one of them would go round.
    if hop.port.id == ingress.port.id && ingress.port.role != PortRole::Uplink && !translated {
        return Err(DropReason::SamePort.into());
    }
    if let Addrs::V6 { src, .. } = parsed.addrs
        && (!is_host_v6(src) || src.is_unicast_link_local())
    {
        // Good for its link alone (RFC 4291, sections 2.5.2 and 2.5.6).
        let pod = matches!(ingress.side, Side::Endpoint(e) if e.kind == EndpointKind::Pod);
        return Err(if pod { DropReason::SourceAddressSpoofed } else { DropReason::SourceInvalid }.into());
    }
    if parsed.ttl <= 1 {
        return Err(Halt::Refused(DropReason::TtlExceeded, Complaint::TimeExceeded));
    }
    let mtu = desk.mtu(&hop);
    if largest(parsed, offload) > u32::from(mtu) {
        if parsed.dont_fragment {
            return Err(Halt::Refused(DropReason::PacketTooBig, Complaint::TooBig(mtu)));
        }
        if !desk.fragment {
            return Err(DropReason::PacketTooBig.into());
        }
    }
    Ok(hop)
}

/// The largest IP packet that it makes on the wire.
#[inline]
pub(crate) fn largest(parsed: &Parsed, offload: Offload) -> u32 {
    match offload {
        Offload::Gso { size, header_len, .. } => {
            parsed.ip_len().min(u32::from(header_len) + u32::from(size) - u32::from(parsed.l3_offset))
        }
        Offload::Done | Offload::Partial { .. } => parsed.ip_len(),
    }
}

/// ND, MLD and DHCPv6 to a group: what a router on the link listens to.
fn is_link_business(parsed: &Parsed, head: &[u8]) -> bool {
    let icmp = || {
        parsed.kind == PacketKind::Ipv6
            && parsed.protocol == protocol::ICMPV6
            && matches!(icmp_type(parsed, head), Some(130..=137 | 143))
    };
    icmp() || dhcp6::is_asked(parsed)
}

/// Link-local addresses belong to the link that the packet came by.
fn link_local_destination(tables: &Tables, ingress: &Ingress<'_>, dst: IpAddr) -> Halt {
    let ours = match ingress.side {
        Side::Endpoint(_) => dst == IpAddr::V6(tables.router().gateway6),
        Side::Uplink(interface) => is_ours(interface, ingress.port.mac, dst),
    };
    if ours { Halt::ForRouter } else { DropReason::DestinationInvalid.into() }
}
