//! The tuple by which a packet's connection is known, and what the packet says of it.

use std::net::IpAddr;

use flow::{Signal, Tuple};
use tables::NetworkId;
use wire::{Addrs, Fragment, PacketKind, Parsed, protocol};

/// A connection's addresses and ports, of either family.
pub(crate) type Ends = Tuple<IpAddr>;

/// Of a packet that can belong to a connection: not ARP, not a later fragment, not neighbour discovery or MLD, not an ICMP error
/// (that belongs to the connection of the packet which it quotes).
#[inline]
pub(crate) fn ends(parsed: &Parsed, head: &[u8], network: NetworkId) -> Option<Ends> {
    let (src, dst) = match parsed.addrs {
        Addrs::V4 { src, dst } => (IpAddr::V4(src), IpAddr::V4(dst)),
        Addrs::V6 { src, dst } => (IpAddr::V6(src), IpAddr::V6(dst)),
        Addrs::None => return None,
    };
    if parsed.fragment == Fragment::Later {
        return None;
    }
    let (src_port, dst_port) = match (parsed.kind, parsed.protocol) {
        (PacketKind::Ipv4, protocol::ICMP) => {
            icmp_ports(head, parsed.l4_offset, [8, 0], |kind| !matches!(kind, 3 | 4 | 5 | 11 | 12))?
        }
        (PacketKind::Ipv6, protocol::ICMPV6) => {
            icmp_ports(head, parsed.l4_offset, [128, 129], |kind| !matches!(kind, 0..=127 | 130..=137 | 143))?
        }
        _ => (parsed.src_port, parsed.dst_port),
    };
    Some(Ends { src, dst, src_port, dst_port, network: network.0, protocol: parsed.protocol })
}

/// The identifier stands for the port of whoever asked (RFC 5508, section 3).
fn icmp_ports(
    head: &[u8],
    l4: u16,
    [request, reply]: [u8; 2],
    plain: impl Fn(u8) -> bool,
) -> Option<(u16, u16)> {
    let icmp = head.get(usize::from(l4)..)?.first_chunk::<8>()?;
    let ident = u16::from_be_bytes([icmp[4], icmp[5]]);
    match icmp[0] {
        kind if kind == request => Some((ident, 0)),
        kind if kind == reply => Some((0, ident)),
        kind => plain(kind).then_some((0, 0)),
    }
}

/// What the packet says of its connection.
#[inline]
pub(crate) fn signal(parsed: &Parsed, head: &[u8]) -> Signal {
    match parsed.protocol {
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
