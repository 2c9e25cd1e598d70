//! DHCPv4 for pods (RFC 2131): a VM learns its address, gateway, MTU and routes from the link that it is on.
//!
//! There is nothing to choose, and nothing to remember: a pod's address is its attachment's, for as long as that lasts. So each
//! message is answered by what the tables say at that moment, as often as it is asked. The server is the gateway, which is also the
//! only other station; the address has no subnet (/32), and the gateway is reached by a route of its own (RFC 3442).

use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpMessageType as Kind, DhcpOpCode, DhcpOption, DhcpPacket, DhcpRepr,
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet,
    Ipv4Repr, UdpPacket, UdpRepr,
};
use tables::{Endpoint, EndpointKind, MAX_ENDPOINT_ROUTES, Resolver, Tables};
use wire::{ETHERNET_HEADER, IPV4_HEADER, IpPrefix, UDP_HEADER};

use crate::burst::{Side, State, Work};
use crate::echo::HOPS;
use crate::segment::finish_checksum;
use crate::{Buffer, ConsumeReason, DropReason, Fate, Offload, Output, Packet, Verdict};

/// Ports of server and client (RFC 2131, section 4.1).
pub(crate) const SERVER: u16 = 67;
const CLIENT: u16 = 68;

/// A lease in seconds: an address is a pod's for its life, and a client that asks now and then notices if that has ended. It asks
/// after half of it, and asks everybody after seven eighths (section 4.4.5).
pub(crate) const LEASE: u32 = 86_400;

/// Options (RFC 2132; routes: RFC 3442).
const DNS_SERVERS: u8 = 6;
const DOMAIN: u8 = 15;
const MTU: u8 = 26;
const REQUESTED: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const SERVER_ID: u8 = 54;
const RENEW: u8 = 58;
const REBIND: u8 = 59;
/// To be given back as it came (RFC 6842).
const CLIENT_ID: u8 = 61;
const ROUTES: u8 = 121;
/// A length, four bytes of a prefix and four of a gateway each.
const ROUTES_ROOM: usize = 9 * (1 + MAX_ENDPOINT_ROUTES);
/// RFC 3397.
const SEARCH: u8 = 119;

/// What options begin with (RFC 2131, section 3).
const COOKIE: u32 = 0x6382_5363;

/// Bytes of the UDP payload, with the longest client identifier and search list that there can be. Usual ones are far shorter than the
/// 548 bytes that every client takes (section 2).
const LONGEST: usize = 1_152;

const CONSUMED: State<'static> = State::Done(Verdict::Consume(ConsumeReason::Dhcp));

pub(crate) fn answer<B: Buffer>(tables: &Tables, packet: &mut Packet<B>, work: &Work<'_>) -> State<'static> {
    let ingress = &work.ingress;
    let Side::Endpoint(pod) = ingress.side else { return CONSUMED };
    if pod.kind != EndpointKind::Pod {
        return CONSUMED;
    }
    let reply = match reply(tables, packet, work, pod) {
        Ok(Some(reply)) => reply,
        Ok(None) => return CONSUMED,
        Err(reason) => return reason.into(),
    };
    if !packet.buffer.resize(reply.len()) {
        return DropReason::NoBuffer.into();
    }
    packet.buffer.head_mut().copy_from_slice(&reply);
    packet.offload = Offload::Done;
    let fate = Fate::Consumed(ConsumeReason::Dhcp);
    State::Done(Verdict::Answer { fate, output: Output::Port(ingress.port.id) })
}

/// A whole frame.
type Reply = ArrayVec<u8, { ETHERNET_HEADER + IPV4_HEADER + UDP_HEADER + LONGEST }>;

/// What is answered to the message, if anything.
fn reply<B: Buffer>(
    tables: &Tables,
    packet: &mut Packet<B>,
    work: &Work<'_>,
    pod: &Endpoint,
) -> Result<Option<Reply>, DropReason> {
    let message = message(packet, work)?;
    let message = DhcpPacket::new_checked(message).map_err(|_| DropReason::DhcpInvalid)?;
    let asked =
        Asked::read(&message).filter(|asked| asked.mac.0 == pod.mac.0).ok_or(DropReason::DhcpInvalid)?;
    let gateway = tables.router().gateway4;
    let own = pod.addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    // A pod without an address of this family gets none.
    let Some(own) = own else { return Ok(None) };
    if asked.server.is_some_and(|server| server != gateway) {
        // It has chosen another server. There is none, but that is its affair.
        return Ok(None);
    }
    let kind = match asked.kind {
        Kind::Discover => Kind::Offer,
        Kind::Inform => Kind::Ack,
        // Of all states of the client (section 4.3.2) this is the same: it has the address in mind that it asks for, or uses.
        Kind::Request if asked.requested.unwrap_or(asked.client_ip) == own => Kind::Ack,
        Kind::Request => Kind::Nak,
        // It has found the address in use, or needs it no longer. There is no other.
        _ => return Ok(None),
    };
    let names = tables.resolver_of(pod);
    Ok(Some(build(&Answer { kind, gateway, own, asked: &asked, pod, work, names })))
}

/// What of a client's message matters. A client's identifier may be anything (RFC 2132, section 9.14), which smoltcp's own reading
/// of a message does not allow.
struct Asked<'m> {
    kind: Kind,
    id: u32,
    mac: EthernetAddress,
    client_ip: Ipv4Addr,
    broadcast: bool,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    client_id: Option<DhcpOption<'m>>,
}

impl<'m> Asked<'m> {
    /// `None` for what is no client's message, or came by a relay, of which there is none.
    fn read(message: &'m DhcpPacket<&[u8]>) -> Option<Self> {
        let plain = message.opcode() == DhcpOpCode::Request
            && message.magic_number() == COOKIE
            && message.hardware_type() == ArpHardware::Ethernet
            && message.hardware_len() == 6
            && message.relay_agent_ip().is_unspecified();
        let option = |kind: u8| message.options().find(|option| option.kind == kind);
        let address =
            |kind: u8| option(kind).and_then(|option| option.data.try_into().ok()).map(Ipv4Addr::from_octets);
        let &[kind] = option(MESSAGE_TYPE)?.data else { return None };
        plain.then(|| Self {
            kind: Kind::from(kind),
            id: message.transaction_id(),
            mac: message.client_hardware_address(),
            client_ip: message.client_ip(),
            broadcast: message.flags().contains(DhcpFlags::BROADCAST),
            requested: address(REQUESTED),
            server: address(SERVER_ID),
            client_id: option(CLIENT_ID),
        })
    }
}

/// The UDP payload; what is left of the checksum is finished first, since a guest may leave it to us.
fn message<'p, B: Buffer>(packet: &'p mut Packet<B>, work: &Work<'_>) -> Result<&'p [u8], DropReason> {
    let len = usize::try_from(work.parsed.frame_len).unwrap_or(usize::MAX);
    let offload = packet.offload;
    let frame = packet.buffer.head_mut().get_mut(..len).ok_or(DropReason::DhcpInvalid)?;
    match offload {
        Offload::Done => {}
        Offload::Partial { start, offset } => finish_checksum(frame, start, offset)?,
        Offload::Gso { .. } => return Err(DropReason::DhcpInvalid),
    }
    let ip = Ipv4Packet::new_checked(&frame[ETHERNET_HEADER..]).map_err(|_| DropReason::DhcpInvalid)?;
    let udp = UdpPacket::new_checked(ip.payload()).map_err(|_| DropReason::DhcpInvalid)?;
    let (src, dst) = (IpAddress::Ipv4(ip.src_addr()), IpAddress::Ipv4(ip.dst_addr()));
    if !udp.verify_checksum(&src, &dst) {
        return Err(DropReason::DhcpInvalid);
    }
    let start = usize::from(work.parsed.l4_offset) + UDP_HEADER;
    let end = start + udp.payload().len();
    frame.get(start..end).ok_or(DropReason::DhcpInvalid)
}

struct Answer<'a> {
    kind: Kind,
    gateway: Ipv4Addr,
    own: Ipv4Addr,
    asked: &'a Asked<'a>,
    pod: &'a Endpoint,
    work: &'a Work<'a>,
    names: &'a Resolver,
}

fn build(answer: &Answer<'_>) -> Reply {
    let Answer { kind, gateway, own, asked, pod, work, names } = answer;
    let port = work.ingress.port;
    let granted = *kind != Kind::Nak;
    // One that tells what it has needs no lease, and its address is not given to it (section 4.3.5).
    let leased = granted && asked.kind != Kind::Inform;
    let mtu = port.mtu.to_be_bytes();
    let routes = routes(*gateway, &pod.routes);
    let (renew, rebind) = ((LEASE / 2).to_be_bytes(), (LEASE / 8 * 7).to_be_bytes());
    let mut servers = ArrayVec::<u8, 32>::new();
    for server in names.servers() {
        if let IpAddr::V4(server) = server {
            // A few at most: there is room.
            let _ = servers.try_extend_from_slice(&server.octets());
        }
    }
    let mut options: ArrayVec<DhcpOption<'_>, 8> = ArrayVec::new();
    if leased {
        options.push(DhcpOption { kind: RENEW, data: &renew });
        options.push(DhcpOption { kind: REBIND, data: &rebind });
    }
    if granted {
        options.push(DhcpOption { kind: MTU, data: &mtu });
        options.push(DhcpOption { kind: ROUTES, data: &routes });
        if !servers.is_empty() {
            options.push(DhcpOption { kind: DNS_SERVERS, data: &servers });
        }
        if let Some(first) = names.search().first() {
            // For clients that know of one domain alone.
            options.push(DhcpOption { kind: DOMAIN, data: first.as_bytes() });
            options.push(DhcpOption { kind: SEARCH, data: names.names() });
        }
    }
    options.extend(asked.client_id);
    let body = DhcpRepr {
        message_type: *kind,
        transaction_id: asked.id,
        secs: 0,
        client_hardware_address: asked.mac,
        client_ip: if granted { asked.client_ip } else { Ipv4Addr::UNSPECIFIED },
        your_ip: if leased { *own } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        // Who does not know of routes takes this for the way to everywhere.
        router: (granted && pod.routes.is_empty()).then_some(*gateway),
        subnet_mask: granted.then_some(Ipv4Addr::BROADCAST),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: asked.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(*gateway),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: leased.then_some(LEASE),
        // Read, but not written, by smoltcp.
        renew_duration: None,
        rebind_duration: None,
        additional_options: &options,
    };
    // Section 4.1: to its address where it has one; to all where it says so, or is refused; else to what it is about to have.
    let (to, mac) = if granted && !asked.client_ip.is_unspecified() {
        (asked.client_ip, EthernetAddress(pod.mac.0))
    } else if asked.broadcast || !granted {
        (Ipv4Addr::BROADCAST, EthernetAddress::BROADCAST)
    } else {
        (*own, EthernetAddress(pod.mac.0))
    };
    emit(&body, EthernetAddress(port.mac.0), *gateway, to, mac)
}

/// The gateway itself, on the link (gateway/32); and by it all else, or what the pod is told of alone.
fn routes(gateway: Ipv4Addr, told: &[IpPrefix]) -> ArrayVec<u8, ROUTES_ROOM> {
    let by = gateway.octets();
    let mut routes = ArrayVec::new();
    let mut route = |prefix: &[u8], len: u8, by: [u8; 4]| {
        routes.push(len);
        // As much of it as counts.
        routes.extend(prefix.iter().copied().take(usize::from(len.div_ceil(8))));
        routes.extend(by);
    };
    route(&by, 32, [0; 4]);
    if told.is_empty() {
        route(&[], 0, by);
    }
    for prefix in told.iter().take(MAX_ENDPOINT_ROUTES) {
        if let IpAddr::V4(address) = prefix.addr() {
            route(&address.octets(), prefix.len(), by);
        }
    }
    routes
}

fn emit(
    body: &DhcpRepr<'_>,
    from_mac: EthernetAddress,
    from: Ipv4Addr,
    to: Ipv4Addr,
    mac: EthernetAddress,
) -> Reply {
    let udp = UdpRepr { src_port: SERVER, dst_port: CLIENT };
    let len = body.buffer_len().min(LONGEST);
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: UDP_HEADER + len,
        hop_limit: HOPS,
    };
    let checksums = ChecksumCapabilities::default();
    let mut frame = Reply::new();
    let total = ETHERNET_HEADER + IPV4_HEADER + UDP_HEADER + len;
    frame.extend(std::iter::repeat_n(0, total));
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    EthernetRepr { src_addr: from_mac, dst_addr: mac, ethertype: EthernetProtocol::Ipv4 }.emit(&mut ethernet);
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet, &checksums);
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    let written = |payload: &mut [u8]| {
        // It has as many bytes as it asked for.
        let _fits = body.emit(&mut DhcpPacket::new_unchecked(payload));
    };
    udp.emit(&mut datagram, &IpAddress::Ipv4(from), &IpAddress::Ipv4(to), len, written, &checksums);
    frame
}
