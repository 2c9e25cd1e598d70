//! How much the way to a tunnel's end carries, where a router on it has said that that is less than this node's own link takes (RFC 1191;
//! RFC 8201). A datagram is never fragmented, so its source is told, which is this node; and the node tells pods, as of any link.
//!
//! Such a message is believed only if it quotes a datagram of ours to a peer; it makes packets inside no shorter than 1,280 bytes, and
//! never longer; and it is forgotten, so that a way that has become wider is used again. That costs a packet every ten minutes.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use flow::Seconds;
use tables::{PortEntry, Tables, Tunnel};
use wire::{
    Addrs, ETHERNET_HEADER, Icmpv4Packet, Icmpv4Type, Icmpv6Packet, Icmpv6Type, MacAddr, PacketKind, Parsed,
    VxlanPacket, protocol,
};

use super::seal::{OVER_IPV4, OVER_IPV6, SOURCE_PORTS};
use super::{mac_of, number_of};
use crate::adjacency::Adjacencies;
use crate::burst::Work;
use crate::icmp_quote::quoted;
use crate::translate::Ends;
use crate::{Buffer, Offload, Packet, Tick};

/// What goes inside whatever is said: the least that IPv6 may count on (RFC 8200, section 5). Who forges these messages gains no more by
/// them than that (RFC 5927, section 7); and a way that does not carry it, carries no tunnel.
const LEAST: u16 = 1280;
/// The least that a router may say of IPv6 (RFC 8201, section 4).
const LEAST_OUTSIDE: u32 = 1280;

/// Time after which it is tried again: ten minutes (RFC 1191, section 6.3; RFC 8201, section 4).
const LASTS: u32 = Tick(0).after_ms(600_000).seconds().0 + 1;

/// A peer, and the longest packet that gets there, as a router has told.
pub(crate) struct PathMtu<'t> {
    /// The tunnel.
    pub(crate) port: &'t PortEntry,
    pub(crate) addr: IpAddr,
    /// The one that stands for the peer.
    pub(crate) mac: MacAddr,
    /// Of packets inside.
    pub(crate) mtu: u16,
}

/// What a packet to the router, which is no fragment, says of the way to a tunnel's end. `None` for all that do not, and those that cannot
/// be believed.
pub(crate) fn told<'t, B: Buffer>(
    tables: &'t Tables,
    packet: &Packet<B>,
    work: &Work<'_>,
) -> Option<PathMtu<'t>> {
    let (parsed, head) = (&work.parsed, packet.buffer.head());
    let tunnel = tables.tunnel_over(work.ingress.port.id)?;
    let message = head.get(usize::from(parsed.l4_offset)..usize::try_from(parsed.frame_len).ok()?)?;
    let outside = next_link(parsed, message)?;
    let quote = quoted(head, parsed)?;
    let Ends { src, dst, src_port, dst_port } = quote.ends;
    // To whom it is said is who sent the datagram; and that is this end.
    let own = &tables.interface(tunnel.uplink)?.addresses;
    let ours = is_to(parsed, src) && own.iter().any(|&(own, _)| own == src);
    let datagram =
        quote.protocol == protocol::UDP && dst_port == tunnel.udp_port && SOURCE_PORTS.contains(&src_port);
    if !ours || !datagram {
        return None;
    }
    let number = tables.tunnel_peer_at(tunnel.port, dst)?;
    // RFC 792 promises no more than eight bytes behind the IP header; most send more (RFC 1812, section 4.3.2.3).
    if let Ok(vxlan) = VxlanPacket::new_checked(quote.payload(head))
        && vxlan.vni() != Some(tunnel.vni)
    {
        return None;
    }
    if !is_right(parsed, packet.offload, message) {
        return None;
    }
    let over = ETHERNET_HEADER + if dst.is_ipv4() { OVER_IPV4 } else { OVER_IPV6 };
    let inside = usize::try_from(outside).ok()?.saturating_sub(over);
    let mtu = u16::try_from(inside).unwrap_or(u16::MAX).max(LEAST);
    Some(PathMtu { port: tables.port(tunnel.port)?, addr: dst, mac: mac_of(number), mtu })
}

/// The MTU of the link that the quoted packet was too long for. 0 is from a router that knows no path MTU discovery (RFC 1191, section 5).
fn next_link(parsed: &Parsed, message: &[u8]) -> Option<u32> {
    match (parsed.kind, parsed.protocol) {
        (PacketKind::Ipv4, protocol::ICMP) => {
            let icmp = Icmpv4Packet::new_checked(message).ok()?;
            let too_big = (icmp.message_type(), icmp.code()) == (Icmpv4Type::UNREACHABLE, 4);
            too_big.then(|| icmp.rest() & 0xffff)
        }
        (PacketKind::Ipv6, protocol::ICMPV6) => {
            let icmp = Icmpv6Packet::new_checked(message).ok()?;
            // Whatever its code (RFC 4443, section 3.2).
            let too_big = icmp.message_type() == Icmpv6Type::PACKET_TOO_BIG && icmp.rest() >= LEAST_OUTSIDE;
            too_big.then(|| icmp.rest())
        }
        _ => None,
    }
}

fn is_to(parsed: &Parsed, addr: IpAddr) -> bool {
    match parsed.addrs {
        Addrs::V4 { dst, .. } => addr == dst,
        Addrs::V6 { dst, .. } => addr == dst,
        Addrs::None => false,
    }
}

/// Whether its checksum is right, or was never computed, since it comes from this machine.
fn is_right(parsed: &Parsed, offload: Offload, message: &[u8]) -> bool {
    match (offload, parsed.addrs) {
        (Offload::Done, Addrs::V4 { .. }) => {
            Icmpv4Packet::new_checked(message).is_ok_and(|icmp| icmp.verify_checksum())
        }
        (Offload::Done, Addrs::V6 { src, dst }) => {
            Icmpv6Packet::new_checked(message).is_ok_and(|icmp| icmp.verify_checksum(src, dst))
        }
        (Offload::Partial { start, offset }, _) => start == parsed.l4_offset && offset == 2,
        (Offload::Gso { .. } | Offload::Done, _) => false,
    }
}

/// The longest packet that gets to the end which a frame on a tunnel's port is for, where that is less than the port's MTU. What is longer has
/// not been refused, since it may be fragmented.
#[must_use]
pub fn narrowed(
    tables: &Tables,
    adjacencies: &Adjacencies,
    tunnel: &Tunnel,
    head: &[u8],
    now: Tick,
) -> Option<u16> {
    let peer = tables.tunnel_peer(number_of(MacAddr(*head.first_chunk()?))?)?;
    adjacencies.path_mtu(tables.port(tunnel.port)?, peer.addr, now)
}

/// What has been told, by place of the peer's adjacency: shared by all workers, since a message may come by any queue.
///
/// A word is an MTU (high half), and until when it holds. Written by whoever is told, read by whoever decides. A packet that goes
/// the short way meets only the adjacency, which follows.
#[derive(Debug)]
pub(crate) struct Paths {
    words: Box<[AtomicU64]>,
    /// When the last of them ends: where that is past, which is nearly always, nothing else is looked at.
    latest: AtomicU32,
}

impl Paths {
    pub(crate) fn new(places: usize) -> Self {
        Self { words: (0..places).map(|_| AtomicU64::new(0)).collect(), latest: AtomicU32::new(0) }
    }

    /// Whether anything holds that has been told.
    #[inline]
    pub(crate) fn any(&self, Seconds(now): Seconds) -> bool {
        // Relaxed: whoever has to see it has seen the adjacency's word, which was written behind it.
        now < self.latest.load(Ordering::Relaxed)
    }

    /// The longest packet to the peer of that place, by a port of that MTU.
    #[inline]
    pub(crate) fn mtu(&self, place: usize, own: u16, now: Seconds) -> u16 {
        if !self.any(now) {
            return own;
        }
        // Relaxed, as above.
        self.words.get(place).map_or(own, |word| in_force(word.load(Ordering::Relaxed), own, now))
    }

    /// Takes in what has been told, unless it is no less than what holds. The adjacency's word is to be written after it.
    pub(crate) fn lower(&self, place: usize, own: u16, mtu: u16, now: Seconds) -> bool {
        let Some(word) = self.words.get(place) else { return false };
        let until = now.0.saturating_add(LASTS);
        let new = u64::from(mtu) << 32 | u64::from(until);
        let mut old = word.load(Ordering::Relaxed);
        while mtu < in_force(old, own, now) {
            // Relaxed: what publishes it is the adjacency's word.
            match word.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    self.latest.fetch_max(until, Ordering::Relaxed);
                    return true;
                }
                Err(other) => old = other,
            }
        }
        false
    }
}

#[expect(clippy::cast_possible_truncation, reason = "two fields of a word")]
fn in_force(word: u64, own: u16, Seconds(now): Seconds) -> u16 {
    let (mtu, until) = ((word >> 32) as u16, word as u32);
    if now < until { own.min(mtu) } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = Seconds(1_000);
    const fn later(seconds: u32) -> Seconds {
        Seconds(NOW.0 + seconds)
    }

    #[test]
    fn what_is_told_only_lowers_and_is_forgotten_after_ten_minutes() {
        let paths = Paths::new(4);
        assert!(!paths.any(NOW));
        assert_eq!(paths.mtu(1, 1_430, NOW), 1_430);
        assert!(!paths.lower(1, 1_430, 1_430, NOW) && !paths.lower(1, 1_430, 9_000, NOW));
        assert!(!paths.any(NOW));
        assert!(paths.lower(1, 1_430, 1_350, NOW));
        assert_eq!([0, 1, 2].map(|place| paths.mtu(place, 1_430, NOW)), [1_430, 1_350, 1_430]);
        // No more, and not the same for longer; but less.
        assert!(!paths.lower(1, 1_430, 1_400, later(1)) && !paths.lower(1, 1_430, 1_350, later(400)));
        assert!(paths.lower(1, 1_430, 1_300, later(100)));
        assert_eq!(paths.mtu(1, 1_430, later(100 + LASTS - 1)), 1_300);
        assert!(paths.any(later(100 + LASTS - 1)) && !paths.any(later(100 + LASTS)));
        assert_eq!(paths.mtu(1, 1_430, later(100 + LASTS)), 1_430);
        // One that ends leaves the others.
        assert!(paths.lower(1, 1_430, 1_400, later(2_000)) && paths.lower(2, 1_430, 1_300, later(2_300)));
        assert_eq!([1, 2].map(|place| paths.mtu(place, 1_430, later(2_000 + LASTS))), [1_430, 1_300]);
        // It is told anew once it has ended.
        assert!(paths.lower(1, 1_430, 1_400, later(2_000 + LASTS)));
        // Minutes, at least ten.
        assert!((600_000_000..602_000_000).contains(&(u64::from(LASTS) << 20)));
    }

    #[test]
    fn a_port_that_takes_less_itself_has_its_way() {
        let paths = Paths::new(1);
        assert!(paths.lower(0, 1_430, 1_350, NOW));
        assert_eq!([1_300, 1_350, 8_930].map(|own| paths.mtu(0, own, NOW)), [1_300, 1_350, 1_350]);
        assert!(!paths.lower(0, 1_300, 1_320, NOW));
        assert!(!paths.lower(7, 1_430, 1_350, NOW));
        assert_eq!(paths.mtu(7, 1_430, NOW), 1_430);
    }

    #[test]
    fn the_least_that_is_told_wins_whoever_tells_it_first() {
        let paths = Paths::new(1);
        std::thread::scope(|scope| {
            for first in 0..4 {
                let paths = &paths;
                scope.spawn(move || {
                    for mtu in (1_300 + first..1_430).rev().step_by(4) {
                        paths.lower(0, 1_430, mtu, NOW);
                        assert!(paths.mtu(0, 1_430, NOW) <= mtu);
                    }
                });
            }
        });
        assert!((1_300..1_304).contains(&paths.mtu(0, 1_430, NOW)));
    }
}
