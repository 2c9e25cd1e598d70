//! Between nodes: packets in datagrams to the node that has their destination (VXLAN, RFC 7348).
//!
//! For the other steps a tunnel is a port like any other, and what is behind it an uplink. Its datagrams are opened before the first of them
//! and made after the last, and in between a frame on a tunnel bears for its far end's MAC address that peer's number, so that nothing has
//! to be carried along. Taken is only what a known node sends from addresses that are routed to it. Nothing is tunnelled in a tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tables::{NetworkId, PeerNumber, PortId, PortRole, Rests, Tables, Target, Tunnel, TunnelPeer};
use wire::{
    ETHERNET_HEADER, EtherType, IPV4_HEADER, IPV6_HEADER, Icmpv6Type, Ipv4Packet, Ipv6Packet, MacAddr,
    PacketKind, UDP_HEADER, VXLAN_HEADER, VxlanPacket, checksum, protocol, vxlan_header,
};

use crate::adjacency::Adjacencies;
use crate::burst::{Hop, Ingress};
use crate::connection::Ends;
use crate::packet::{Buffer, Offload};
use crate::{DropReason, Output};

/// What the MAC address of a peer begins with inside this node: locally administered, and of one station.
const PEER: [u8; 2] = [0x02, 0x76];

/// Bytes of the longest outer header.
const LONGEST: usize = ETHERNET_HEADER + IPV6_HEADER + UDP_HEADER + VXLAN_HEADER;
/// Of an outer packet's, without the frame's own.
const OVER_IPV4: usize = IPV4_HEADER + UDP_HEADER + VXLAN_HEADER;
const OVER_IPV6: usize = IPV6_HEADER + UDP_HEADER + VXLAN_HEADER;

/// Hops that datagrams have to go.
const HOPS: u8 = 64;

/// Explicit congestion notification (RFC 3168, section 5).
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

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
    /// Of a frame that [`looks_tunnelled`]; `None` where its header is wrong, or it is a fragment: the other steps have a name for that.
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

/// The ECN bits of an IP packet whose header is whole.
fn ecn(kind: PacketKind, packet: &[u8]) -> u8 {
    match kind {
        PacketKind::Ipv4 => packet.get(1).copied().unwrap_or(0) & ECN,
        PacketKind::Ipv6 => packet.get(1).copied().unwrap_or(0) >> 4 & ECN,
        PacketKind::Arp => NOT_ECT,
    }
}

/// What the packet inside gets (RFC 6040, section 4.2); `None`: it is dropped, since its sender could not be told.
const fn merged(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

fn set_ecn(kind: PacketKind, packet: &mut [u8], ecn: u8) {
    match kind {
        PacketKind::Ipv4 => {
            let Ok(mut ip) = Ipv4Packet::new_checked(packet) else { return };
            let old = ip.dscp_ecn();
            if old & ECN != ecn {
                // The word with the version: only its lower half changes (RFC 1624).
                let word = |tos: u8| u16::from_be_bytes([0, tos]);
                let new = old & !ECN | ecn;
                let delta = checksum::ChecksumDelta::replace_u16(word(old), word(new));
                let sum = delta.apply(ip.checksum());
                ip.set_dscp_ecn(new);
                ip.set_checksum(sum);
            }
        }
        PacketKind::Ipv6 => {
            let Ok(mut ip) = Ipv6Packet::new_checked(packet) else { return };
            let class = ip.traffic_class() & !ECN | ecn;
            ip.set_traffic_class(class);
        }
        PacketKind::Arp => {}
    }
}

/// The ways to this many peers are kept by each worker.
const WAYS: usize = 256;

/// What datagrams to one peer have in common.
#[derive(Clone, Copy, Debug)]
struct Way {
    number: PeerNumber,
    tunnel: Tunnel,
    /// Of the tables that it was made with, or that it was found to hold in.
    stamp: u32,
    rests: Rests,
    /// The peer's MAC address inside.
    mac: MacAddr,
    /// Longest packet that the uplink takes.
    mtu: u16,
    next_hop: IpAddr,
    /// Of the next hop, if there is room for one.
    adjacency: Option<u32>,
    len: u8,
    header: [u8; LONGEST],
}

/// A worker's making of datagrams.
#[derive(Debug)]
pub struct Encapsulator {
    ways: Box<[Option<Way>]>,
}

impl Default for Encapsulator {
    fn default() -> Self {
        Self { ways: vec![None; WAYS].into() }
    }
}

impl Encapsulator {
    /// Puts a frame on a tunnel's port, which is one piece and finished, into a datagram to its peer, and says where that leaves.
    ///
    /// # Errors
    /// Why it cannot: there is no way to the peer, or it is too long.
    pub fn encapsulate<B: Buffer>(
        &mut self,
        tables: &Tables,
        adjacencies: &Adjacencies,
        tunnel: &Tunnel,
        buffer: &mut B,
    ) -> Result<Output, DropReason> {
        let frame = buffer.head_mut();
        let Some((mac, _)) = frame.split_first_chunk_mut::<6>() else {
            return Err(DropReason::FrameTooShort);
        };
        let number = number_of(MacAddr(*mac)).ok_or(DropReason::TunnelPeerUnknown)?;
        let way = self.way(tables, adjacencies, tunnel, number)?;
        *mac = way.mac.0;
        let (entropy, inner_ecn) = (entropy(frame), inner_ecn(frame));
        let len = usize::from(way.len);
        let total = buffer.frame_len() + len - ETHERNET_HEADER;
        if total > usize::from(way.mtu) {
            return Err(DropReason::PacketTooBig);
        }
        if !buffer.prepend(len) {
            return Err(DropReason::NoBuffer);
        }
        let whole = buffer.frame_len();
        let frame = buffer.head_mut();
        frame[..len].copy_from_slice(&way.header[..len]);
        if len == ETHERNET_HEADER + OVER_IPV4 {
            finish_v4(&mut frame[ETHERNET_HEADER..], total, entropy, inner_ecn)?;
        } else if frame.len() == whole {
            finish_v6(&mut frame[ETHERNET_HEADER..], total, entropy, inner_ecn)?;
        } else {
            // Its checksum needs all of it.
            return Err(DropReason::NoBuffer);
        }
        let port = tunnel.uplink;
        let resolved = way.adjacency.and_then(|index| adjacencies.get(index)).filter(|a| a.is_resolved());
        Ok(match resolved {
            Some(adjacency) => {
                adjacency.set_macs(frame);
                Output::Port(port)
            }
            None => Output::Neighbour { port, next_hop: way.next_hop },
        })
    }

    fn way(
        &mut self,
        tables: &Tables,
        adjacencies: &Adjacencies,
        tunnel: &Tunnel,
        number: PeerNumber,
    ) -> Result<&Way, DropReason> {
        let place = &mut self.ways[number.0 as usize % WAYS];
        let stamp = tables.stamp();
        let holds = |way: &Way| {
            way.number == number
                && way.tunnel == *tunnel
                && (way.stamp == stamp || tables.unchanged(way.stamp, &way.rests))
        };
        match place {
            Some(way) if holds(way) => way.stamp = stamp,
            _ => *place = Some(Way::new(tables, adjacencies, tunnel, number)?),
        }
        place.as_ref().ok_or(DropReason::TunnelPeerUnknown)
    }
}

impl Way {
    fn new(
        tables: &Tables,
        adjacencies: &Adjacencies,
        tunnel: &Tunnel,
        number: PeerNumber,
    ) -> Result<Self, DropReason> {
        let peer = tables.tunnel_peer(number).filter(|peer| peer.port == tunnel.port);
        let peer = peer.ok_or(DropReason::TunnelPeerUnknown)?;
        let port = tables.port(tunnel.uplink).ok_or(DropReason::PortGone)?;
        let interface = tables.interface(tunnel.uplink).ok_or(DropReason::PortIdle)?;
        let dst = peer.addr;
        let own = || interface.addresses.iter().filter(|(own, _)| own.is_ipv4() == dst.is_ipv4());
        let on_link = |&&(own, length): &&(IpAddr, u8)| {
            wire::IpPrefix::containing(own, length).is_some_and(|subnet| subnet.contains(dst))
        };
        let &(src, _) = own().find(on_link).or_else(|| own().next()).ok_or(DropReason::NoRoute)?;
        let next_hop = match tables.lookup(interface.network, dst) {
            Some(Target::NextHop { port, addr, .. }) if port == tunnel.uplink => addr,
            Some(Target::Connected(port)) if port == tunnel.uplink => dst,
            _ => return Err(DropReason::NoRoute),
        };
        let mut header = [0; LONGEST];
        let ip = &mut header[ETHERNET_HEADER..];
        let len = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => write_v4(ip, src, dst, tunnel),
            (IpAddr::V6(src), IpAddr::V6(dst)) => write_v6(ip, src, dst, tunnel),
            _ => return Err(DropReason::NoRoute),
        };
        let ethertype = if dst.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        header[6..12].copy_from_slice(&port.mac.0);
        header[12..14].copy_from_slice(&ethertype.0.to_be_bytes());
        let network = interface.network;
        Ok(Self {
            number,
            tunnel: *tunnel,
            stamp: tables.stamp(),
            rests: Rests { network, src, dst, to: dst, dst_port: tunnel.udp_port, protocol: protocol::UDP },
            mac: peer.mac,
            mtu: port.mtu,
            next_hop,
            adjacency: adjacencies.neighbour(port.id, port.mac, port.mtu, next_hop),
            len: u8::try_from(ETHERNET_HEADER + len).unwrap_or(0),
            header,
        })
    }
}

/// Not to be fragmented: nobody would put it together (RFC 7348, section 4.3). So its identification says nothing (RFC 6864).
fn write_v4(ip: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, tunnel: &Tunnel) -> usize {
    ip[..IPV4_HEADER].copy_from_slice(&[
        0x45,
        0,
        0,
        0,
        0,
        0,
        0x40,
        0,
        HOPS,
        protocol::UDP,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    ip[12..16].copy_from_slice(&src.octets());
    ip[16..20].copy_from_slice(&dst.octets());
    write_udp(&mut ip[IPV4_HEADER..], tunnel);
    OVER_IPV4
}

fn write_v6(ip: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr, tunnel: &Tunnel) -> usize {
    ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, protocol::UDP, HOPS]);
    ip[8..24].copy_from_slice(&src.octets());
    ip[24..40].copy_from_slice(&dst.octets());
    write_udp(&mut ip[IPV6_HEADER..], tunnel);
    OVER_IPV6
}

fn write_udp(udp: &mut [u8], tunnel: &Tunnel) {
    udp[2..4].copy_from_slice(&tunnel.udp_port.to_be_bytes());
    udp[UDP_HEADER..UDP_HEADER + VXLAN_HEADER].copy_from_slice(&vxlan_header(tunnel.vni));
}

/// Lengths, the ports, and the header's checksum; over IPv4 the datagram has none (RFC 7348, section 5).
fn finish_v4(packet: &mut [u8], total: usize, entropy: u32, ecn: u8) -> Result<(), DropReason> {
    let fits = |len: usize| u16::try_from(len).map_err(|_| DropReason::PacketTooBig);
    let (total, len) = (fits(total)?, fits(total - IPV4_HEADER)?);
    let (header, udp) = packet.split_at_mut_checked(IPV4_HEADER).ok_or(DropReason::FrameTooShort)?;
    header[1] = ecn;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    let sum = checksum::internet_checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    finish_udp(udp, len, entropy);
    Ok(())
}

/// The same; and the datagram's checksum, which IPv6 demands of whoever does not know its receiver.
fn finish_v6(packet: &mut [u8], total: usize, entropy: u32, ecn: u8) -> Result<(), DropReason> {
    let len = u16::try_from(total - IPV6_HEADER).map_err(|_| DropReason::PacketTooBig)?;
    let (header, udp) = packet.split_at_mut_checked(IPV6_HEADER).ok_or(DropReason::FrameTooShort)?;
    let mut ip = Ipv6Packet::new_checked(header).map_err(DropReason::from)?;
    ip.set_traffic_class(ecn);
    ip.set_flow_label(entropy & 0xf_ffff);
    ip.set_payload_len(len);
    let pseudo = checksum::pseudo_header_v6(ip.src(), ip.dst(), protocol::UDP, u32::from(len));
    finish_udp(udp, len, entropy);
    let mut sum = checksum::RunningSum::new(pseudo);
    sum.add(udp);
    let sum = checksum::udp_nonzero(sum.checksum());
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// The source port tells flows apart for whoever spreads them by the outer header (RFC 7348, section 5): one of 49152 to 65535.
fn finish_udp(udp: &mut [u8], len: u16, entropy: u32) {
    udp[..2].copy_from_slice(&(0xc000 | (entropy >> 18) as u16).to_be_bytes());
    udp[4..6].copy_from_slice(&len.to_be_bytes());
    udp[6..8].copy_from_slice(&[0, 0]);
}

fn inner_ecn(frame: &[u8]) -> u8 {
    let kind = match frame.get(12..14) {
        Some([0x08, 0x00]) => PacketKind::Ipv4,
        Some([0x86, 0xdd]) => PacketKind::Ipv6,
        _ => PacketKind::Arp,
    };
    ecn(kind, frame.get(ETHERNET_HEADER..).unwrap_or_default())
}

/// A number that is the same for all packets of one direction of a flow, of which no fragment is.
fn entropy(frame: &[u8]) -> u32 {
    let word = |at: usize| {
        let bytes = frame.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    };
    let has_ports = |number: u32| {
        [protocol::TCP, protocol::UDP, protocol::SCTP].iter().any(|&with| u32::from(with) == number)
    };
    let ip = ETHERNET_HEADER;
    let mixed = |words: [u64; 3]| {
        words.iter().fold(0_u64, |sum, word| (sum.rotate_left(25) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    };
    let hash = match frame.get(12..15) {
        Some([0x08, 0x00, first]) => {
            let number = word(ip + 8) >> 16 & 0xff;
            let whole = *first == 0x45 && word(ip + 4) & 0x3fff == 0;
            let ports = if whole && has_ports(number) { word(ip + IPV4_HEADER) } else { 0 };
            mixed([
                u64::from(word(ip + 12)),
                u64::from(word(ip + 16)),
                u64::from(number) << 32 | u64::from(ports),
            ])
        }
        Some([0x86, 0xdd, _]) => {
            let number = word(ip + 4) >> 8 & 0xff;
            let ports = if has_ports(number) { word(ip + IPV6_HEADER) } else { 0 };
            let folded = |at: usize| {
                u64::from(word(at) ^ word(at + 8)) << 32 | u64::from(word(at + 4) ^ word(at + 12))
            };
            mixed([folded(ip + 8), folded(ip + 24), u64::from(number) << 32 | u64::from(ports)])
        }
        _ => 0,
    };
    (hash >> 32) as u32
}
