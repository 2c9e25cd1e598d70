//! Between nodes: packets in datagrams to the node that has their destination (VXLAN, RFC 7348).
//!
//! For the other steps a tunnel is a port like any other, and what is behind it an uplink. Its datagrams are opened before the first of them
//! and made after the last, and in between a frame on a tunnel bears for its far end's MAC address that peer's number, so that nothing has
//! to be carried along. Taken is only what a known node sends from addresses that are routed to it. Nothing is tunnelled in a tunnel.

use tables::{PeerNumber, PortRole, Tables, Tunnel};
use wire::{ETHERNET_HEADER, IPV4_HEADER, IPV6_HEADER, MacAddr, UDP_HEADER, protocol};

use crate::burst::{Hop, Ingress};
use crate::connection::Ends;

mod ecn;
mod open;
pub(crate) mod path_mtu;
mod seal;

pub use open::Decapsulator;
pub use path_mtu::narrowed;
pub use seal::Encapsulator;

/// What the MAC address of a peer begins with inside this node: locally administered, and of one station.
const PEER: [u8; 2] = [0x02, 0x76];

/// The address that stands for a peer in frames that are on their way to it, or from it, through this node.
#[must_use]
pub(crate) const fn mac_of(PeerNumber(number): PeerNumber) -> MacAddr {
    let ([a, b], [c, d, e, f]) = (PEER, number.to_be_bytes());
    MacAddr([a, b, c, d, e, f])
}

const fn number_of(MacAddr([a, b, c, d, e, f]): MacAddr) -> Option<PeerNumber> {
    if a == PEER[0] && b == PEER[1] { Some(PeerNumber(u32::from_be_bytes([c, d, e, f]))) } else { None }
}

/// Whether a datagram to an end of a tunnel is refused, since it would seem to come from this node itself.
pub(crate) fn forbids(tables: &Tables, ingress: &Ingress<'_>, went: &Ends, hop: &Hop<'_>) -> bool {
    went.protocol == protocol::UDP
        && hop.port.role == PortRole::Uplink
        && !ingress.is_uplink()
        && tables.tunnel_over(hop.port.id).is_some_and(|tunnel| {
            went.dst_port == tunnel.udp_port && tables.tunnel_peer_at(tunnel.port, went.dst).is_some()
        })
}

/// Whether a frame that came by a tunnel's uplink looks like one of its datagrams. One that has IP options or extension headers does not:
/// nobody sends them, and the router itself has no use for them.
#[inline]
#[must_use]
pub fn looks_tunnelled(tunnel: &Tunnel, head: &[u8]) -> bool {
    const V4: usize = ETHERNET_HEADER + IPV4_HEADER;
    const V6: usize = ETHERNET_HEADER + IPV6_HEADER;
    let Some(b) = head.first_chunk::<{ V4 + UDP_HEADER }>() else { return false };
    let port = tunnel.udp_port.to_be_bytes();
    let v4 = b[12..15] == [0x08, 0x00, 0x45] && b[23] == protocol::UDP && b[V4 + 2..V4 + 4] == port;
    let v6 = b[12..14] == [0x86, 0xdd] && b[20] == protocol::UDP;
    v4 || v6 && head.get(V6 + 2..V6 + 4) == Some(&port)
}
