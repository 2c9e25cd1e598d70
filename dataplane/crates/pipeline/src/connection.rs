//! The tuple by which a packet's connection is known, and what the packet says of it.

use std::net::IpAddr;

use flow::{Signal, Tuple};
use tables::NetworkId;
use wire::{Addrs, Fragment, PacketKind, Parsed, protocol};

use crate::icmp_error::icmp_type;
use crate::{Transport, translate};

/// A connection's addresses and ports, of either family.
pub(crate) type Ends = Tuple<IpAddr>;

/// Of a packet that can belong to a connection: not ARP, not a later fragment, not neighbour discovery or MLD, not an ICMP error
/// (that belongs to the connection of the packet which it quotes).
#[inline]
pub(crate) fn ends(parsed: &Parsed, head: &[u8], network: NetworkId) -> Option<Ends> {
    let &Parsed { src_port, dst_port, protocol, .. } = parsed;
    if matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
        && parsed.fragment != Fragment::Later
    {
        return following(parsed, &Transport { protocol, src_port, dst_port }, network);
    }
    other_ends(parsed, head, network)
}

fn other_ends(parsed: &Parsed, head: &[u8], network: NetworkId) -> Option<Ends> {
    let apart = match (parsed.kind, icmp_type(parsed, head)) {
        (PacketKind::Ipv4, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (PacketKind::Ipv6, Some(kind)) => matches!(kind, 0..=127 | 130..=137 | 143),
        _ => false,
    };
    if apart || parsed.fragment == Fragment::Later {
        return None;
    }
    Some(tracked(&translate::ends(head, parsed)?, parsed.protocol, network))
}

/// Of a packet whose ports are known; those of a later fragment the first one had.
#[inline]
pub(crate) fn following(parsed: &Parsed, transport: &Transport, network: NetworkId) -> Option<Ends> {
    let (src, dst) = match parsed.addrs {
        Addrs::V4 { src, dst } => (src.into(), dst.into()),
        Addrs::V6 { src, dst } => (src.into(), dst.into()),
        Addrs::None => return None,
    };
    let &Transport { protocol, src_port, dst_port } = transport;
    Some(Ends { src, dst, src_port, dst_port, network: network.0, protocol })
}

/// Ends as the flow table knows them.
pub(crate) fn tracked(ends: &translate::Ends, protocol: u8, network: NetworkId) -> Ends {
    let &translate::Ends { src, dst, src_port, dst_port } = ends;
    Ends { src, dst, src_port, dst_port, network: network.0, protocol }
}

/// What the packet says of its connection.
#[inline]
pub(crate) fn signal(parsed: &Parsed, head: &[u8]) -> Signal {
    match parsed.protocol {
        _ if parsed.fragment == Fragment::Later => Signal::Data,
        protocol::TCP => Signal::of_tcp(parsed.tcp_flags),
        protocol::SCTP => {
            let chunk = head.get(usize::from(parsed.l4_offset) + 12).copied();
            chunk.map_or(Signal::Data, Signal::of_sctp)
        }
        _ => Signal::Data,
    }
}

/// Whether connections of this protocol are opened and closed.
#[inline]
pub(crate) const fn has_states(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::SCTP)
}

/// Whether its packets have ports that may be changed.
#[inline]
pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMP | protocol::ICMPV6)
}
