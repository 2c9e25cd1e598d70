//! Into a tunnel: the header of a datagram, which a worker keeps by peer, and what of it each packet says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use tables::{PeerNumber, Rests, Tables, Target, Tunnel};
use wire::{
    ETHERNET_HEADER, EtherType, IPV4_HEADER, IPV6_HEADER, Ipv6Packet, MacAddr, PacketKind, UDP_HEADER,
    VXLAN_HEADER, checksum, protocol, vxlan_header,
};

use super::ecn::ecn;
use super::number_of;
use crate::adjacency::Adjacencies;
use crate::packet::Buffer;
use crate::{DropReason, Output};

/// Bytes of the longest outer header.
const LONGEST: usize = ETHERNET_HEADER + IPV6_HEADER + UDP_HEADER + VXLAN_HEADER;
/// Of an outer packet's, without the frame's own.
pub(super) const OVER_IPV4: usize = IPV4_HEADER + UDP_HEADER + VXLAN_HEADER;
pub(super) const OVER_IPV6: usize = IPV6_HEADER + UDP_HEADER + VXLAN_HEADER;

/// What source ports are of (RFC 7348, section 5).
pub(super) const SOURCE_PORTS: RangeInclusive<u16> = 0xc000..=0xffff;

/// Hops that datagrams have to go.
const HOPS: u8 = 64;

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
    (ip[0], ip[6], ip[8], ip[9]) = (0x45, 0x40, HOPS, protocol::UDP);
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

/// The source port tells flows apart for whoever spreads them by the outer header (RFC 7348, section 5), and is one of
/// [`SOURCE_PORTS`].
fn finish_udp(udp: &mut [u8], len: u16, entropy: u32) {
    udp[..2].copy_from_slice(&(SOURCE_PORTS.start() | (entropy >> 18) as u16).to_be_bytes());
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
