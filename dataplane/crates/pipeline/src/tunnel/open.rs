//! Out of a tunnel: which datagrams are taken, and what is left of them.

use std::net::{IpAddr, Ipv4Addr};

use tables::{NetworkId, PeerNumber, PortId, Rests, Tables, Target, Tunnel, TunnelPeer};
use wire::{
    ETHERNET_HEADER, EtherType, IPV4_HEADER, IPV6_HEADER, Icmpv6Type, Ipv4Packet, Ipv6Packet, PacketKind,
    UDP_HEADER, VXLAN_HEADER, VxlanPacket, checksum, protocol,
};

use super::ecn::{ecn, merged, set_ecn};
use super::mac_of;
use crate::DropReason;
use crate::packet::{Buffer, Offload};

/// What is in front of a datagram's frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outer {
    src: IpAddr,
    dst: IpAddr,
    ecn: u8,
    /// Where the VXLAN header begins, and where the packet ends.
    payload: usize,
    end: usize,
}

impl Outer {
    /// Of a frame that [`looks_tunnelled`](super::looks_tunnelled); `None` where its header is wrong, or it is a fragment: the other steps have a name for that.
    /// As `wire::parse`, of the two shapes that there are, which a test holds.
    #[inline]
    fn read(head: &[u8], frame_len: usize) -> Option<Self> {
        let packet = head.get(ETHERNET_HEADER..)?;
        let len = |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
        let (src, dst, kind, header, ip_len) = if packet.first() == Some(&0x45) {
            let header = packet.first_chunk::<IPV4_HEADER>()?;
            let whole = u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
            if !whole || checksum::fold(checksum::sum(header)) != 0xffff {
                return None;
            }
            let [.., a, b, c, d, e, f, g, h] = *header;
            let (src, dst) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            (IpAddr::V4(src), IpAddr::V4(dst), PacketKind::Ipv4, IPV4_HEADER, len(2)?)
        } else {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            let all = IPV6_HEADER + len(4)?;
            (IpAddr::V6(ip.src()), IpAddr::V6(ip.dst()), PacketKind::Ipv6, IPV6_HEADER, all)
        };
        let (l4, end) = (ETHERNET_HEADER + header, ETHERNET_HEADER + ip_len);
        let payload = l4 + UDP_HEADER;
        (payload <= end && end <= frame_len).then(|| Self { src, dst, ecn: ecn(kind, packet), payload, end })
    }
}

/// Where from and by whom packets have been taken that are kept by each worker.
const KNOWN: usize = 256;

/// A source inside, and the peer that it is routed to.
#[derive(Clone, Copy, Debug)]
struct Known {
    port: PortId,
    number: PeerNumber,
    /// Of the tables that it was found in, or that it was found to hold in.
    stamp: u32,
    /// Source inside and outside.
    rests: Rests,
}

/// A worker's opening of datagrams.
#[derive(Debug)]
pub struct Decapsulator {
    known: Box<[Option<Known>]>,
}

impl Default for Decapsulator {
    fn default() -> Self {
        Self { known: vec![None; KNOWN].into() }
    }
}

impl Decapsulator {
    /// Opens a datagram that came by the tunnel's uplink: what is left is the frame in it, on the tunnel's port. `None`, and nothing
    /// done, if it is none for this end. The outer checksum is not looked at (RFC 7348, section 5): devices do, and what is inside has its own.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn decapsulate<B: Buffer>(
        &mut self,
        tables: &Tables,
        tunnel: &Tunnel,
        buffer: &mut B,
        offload: Offload,
    ) -> Option<Result<Offload, DropReason>> {
        let head = buffer.head();
        let (uplink, interface) = (tables.port(tunnel.uplink)?, tables.interface(tunnel.uplink)?);
        let outer = Outer::read(head, buffer.frame_len())?;
        let ours =
            head.starts_with(&uplink.mac.0) && interface.addresses.iter().any(|&(own, _)| own == outer.dst);
        if !ours {
            return None;
        }
        let inner = outer.payload + VXLAN_HEADER;
        Some(self.open(tables, tunnel, interface.network, buffer, &outer).and_then(|()| match offload {
            Offload::Done => Ok(Offload::Done),
            Offload::Partial { start, offset } => match usize::from(start).checked_sub(inner) {
                // What is left is inside, as a kernel leaves it; or it is the datagram's, and gone with it.
                Some(start) => {
                    let start = u16::try_from(start).map_err(|_| DropReason::OffloadInvalid)?;
                    Ok(Offload::Partial { start, offset })
                }
                None => Ok(Offload::Done),
            },
            Offload::Gso { .. } => Err(DropReason::OffloadInvalid),
        }))
    }

    fn open<B: Buffer>(
        &mut self,
        tables: &Tables,
        tunnel: &Tunnel,
        network: NetworkId,
        buffer: &mut B,
        outer: &Outer,
    ) -> Result<(), DropReason> {
        let vxlan = buffer.head().get(outer.payload..outer.end.min(buffer.head().len()));
        let vxlan = vxlan.ok_or(DropReason::TunnelInvalid)?;
        let vni = VxlanPacket::new_checked(vxlan).map_err(|_| DropReason::TunnelInvalid)?.vni();
        if vni.ok_or(DropReason::TunnelInvalid)? != tunnel.vni {
            return Err(DropReason::TunnelVniOther);
        }
        let (kind, src) = routed_source(&vxlan[VXLAN_HEADER..]).ok_or(DropReason::TunnelInvalid)?;
        let number = self.peer(tables, tunnel, network, outer.src, src)?;
        buffer.truncate(outer.end);
        if !buffer.strip(outer.payload + VXLAN_HEADER) {
            return Err(DropReason::TunnelInvalid);
        }
        let frame = buffer.head_mut();
        frame[6..12].copy_from_slice(&mac_of(number).0);
        match merged(ecn(kind, &frame[ETHERNET_HEADER..]), outer.ecn) {
            Some(ecn) => set_ecn(kind, &mut frame[ETHERNET_HEADER..], ecn),
            None => return Err(DropReason::TunnelCongestion),
        }
        Ok(())
    }

    /// The peer at an address, if it may send from `src`.
    #[inline]
    fn peer(
        &mut self,
        tables: &Tables,
        tunnel: &Tunnel,
        network: NetworkId,
        from: IpAddr,
        src: IpAddr,
    ) -> Result<PeerNumber, DropReason> {
        let place =
            &mut self.known[(low(src) ^ low(from).rotate_left(16)).wrapping_mul(0x9e37_79b1) as usize >> 24];
        let stamp = tables.stamp();
        if let Some(known) = place
            && (known.rests.src, known.rests.dst) == (src, from)
            && (known.port, known.rests.network) == (tunnel.port, network)
            && (known.stamp == stamp || tables.unchanged(known.stamp, &known.rests))
        {
            known.stamp = stamp;
            return Ok(known.number);
        }
        let number = tables.tunnel_peer_at(tunnel.port, from).ok_or(DropReason::TunnelPeerUnknown)?;
        let peer = tables.tunnel_peer(number).ok_or(DropReason::TunnelPeerUnknown)?;
        match tables.lookup(network, src) {
            // What is known then rests on that peer and that route alone.
            Some(Target::NextHop { port, addr, .. }) if port == tunnel.port && addr == from => {
                let rests = Rests { network, src, dst: from, to: from, dst_port: 0, protocol: protocol::UDP };
                *place = Some(Known { port, number, stamp, rests });
            }
            Some(Target::NextHop { port, addr, .. }) if port == tunnel.port => {
                is_same(tables, peer, addr).then_some(()).ok_or(DropReason::TunnelSourceSpoofed)?;
            }
            _ => is_same(tables, peer, src).then_some(()).ok_or(DropReason::TunnelSourceSpoofed)?,
        }
        Ok(number)
    }
}

/// Whether an address is a node's that has this end: one node may have an end a family, and what tells nodes is the MAC address inside.
fn is_same(tables: &Tables, peer: &TunnelPeer, addr: IpAddr) -> bool {
    let other = || tables.tunnel_peer(tables.tunnel_peer_at(peer.port, addr)?);
    addr == peer.addr || other().is_some_and(|other| other.mac == peer.mac)
}

/// Some of an address's bits, those that differ most.
fn low(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits(),
        IpAddr::V6(addr) => {
            let [.., a, b, c, d] = addr.octets();
            let [_, _, _, _, e, f, g, h, ..] = addr.octets();
            u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes([e, f, g, h]).rotate_left(7)
        }
    }
}

/// The source of a packet that may cross a tunnel: neither ARP nor neighbour discovery, which are their link's own business.
fn routed_source(frame: &[u8]) -> Option<(PacketKind, IpAddr)> {
    let (header, packet) = frame.split_at_checked(ETHERNET_HEADER)?;
    match EtherType(u16::from_be_bytes([header[12], header[13]])) {
        EtherType::IPV4 => {
            let packet = Ipv4Packet::new_checked(packet).ok()?;
            Some((PacketKind::Ipv4, IpAddr::V4(packet.src())))
        }
        EtherType::IPV6 => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            let of_link = ip.next_header() == protocol::ICMPV6
                && packet.get(IPV6_HEADER).is_some_and(|kind| {
                    (Icmpv6Type::ROUTER_SOLICITATION..=Icmpv6Type::REDIRECT).contains(kind)
                });
            (!of_link).then(|| (PacketKind::Ipv6, IpAddr::V6(ip.src())))
        }
        _ => None,
    }
}
