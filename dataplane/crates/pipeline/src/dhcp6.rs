//! DHCPv6 for pods (RFC 8415): a VM that a router advertisement sends here learns its addresses.
//!
//! As with DHCPv4, there is nothing to choose and nothing to remember: the first IA_NA of a message has all addresses of the
//! attachment, for as long as that lasts, and any other IA has none. Releasing or declining them changes nothing. The server is the
//! gateway, by a DUID of its MAC (DUID-LL), so that it is the same one after a restart. Relays there are none.

use std::net::{IpAddr, Ipv6Addr};

use arrayvec::ArrayVec;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv6Packet,
    Ipv6Repr, UdpPacket, UdpRepr,
};
use tables::{Endpoint, EndpointKind, Resolver, Tables};
use wire::{Addrs, ETHERNET_HEADER, IPV6_HEADER, MacAddr, Parsed, UDP_HEADER, protocol};

use crate::burst::{Ingress, Side, State, Work};
use crate::dhcp::LEASE;
use crate::echo::HOPS;
use crate::segment::finish_checksum;
use crate::{Buffer, ConsumeReason, DropReason, Fate, Offload, Output, Packet, Verdict};

/// Ports of server and client (section 7.2).
pub(crate) const SERVER: u16 = 547;
const CLIENT: u16 = 546;
/// All_DHCP_Relay_Agents_and_Servers (section 7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Message types (section 7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION: u8 = 11;

/// Options (section 21).
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDRESS: u16 = 5;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
/// DNS servers and search list (RFC 3646).
const DNS_SERVERS: u16 = 23;
const SEARCH: u16 = 24;
const IA_PD: u16 = 25;

/// Status codes (section 21.13).
const SUCCESS: u16 = 0;
const NO_ADDRESSES: u16 = 2;
const NO_BINDING: u16 = 3;
const NOT_ON_LINK: u16 = 4;
const USE_MULTICAST: u16 = 5;
const NO_PREFIX: u16 = 6;

/// Bytes of the longest DUID (section 11.1).
const LONGEST_DUID: usize = 130;
/// Bytes of the UDP payload; an option that does not fit is left out whole. So an answer fits every link (RFC 8200, section 5).
const LONGEST: usize = 1_024;
/// Bytes of an IA.
const LONGEST_IA: usize = 400;

const CONSUMED: State<'static> = State::Done(Verdict::Consume(ConsumeReason::Dhcp));

/// A client's message, by where it goes.
#[inline]
pub(crate) fn is_asked(parsed: &Parsed) -> bool {
    parsed.protocol == protocol::UDP
        && parsed.dst_port == SERVER
        && matches!(parsed.addrs, Addrs::V6 { dst, .. } if dst == SERVERS)
}

/// The same of what has come to the router: a pod may also speak to the gateway alone, to be told that it should not.
pub(crate) fn is_for_server(parsed: &Parsed, ingress: &Ingress<'_>) -> bool {
    let pod = || matches!(ingress.side, Side::Endpoint(endpoint) if endpoint.kind == EndpointKind::Pod);
    let alone = || {
        parsed.protocol == protocol::UDP
            && parsed.dst_port == SERVER
            && matches!(parsed.addrs, Addrs::V6 { dst, .. } if dst.is_unicast_link_local())
    };
    is_asked(parsed) || alone() && pod()
}

pub(crate) fn answer<B: Buffer>(tables: &Tables, packet: &mut Packet<B>, work: &Work<'_>) -> State<'static> {
    let ingress = &work.ingress;
    let Side::Endpoint(pod) = ingress.side else { return CONSUMED };
    let Addrs::V6 { src, dst } = work.parsed.addrs else { return DropReason::DhcpInvalid.into() };
    if pod.kind != EndpointKind::Pod {
        return CONSUMED;
    }
    let mac = tables.router().mac;
    let told = message(packet, work, src, dst)
        .and_then(|bytes| tell(bytes, pod, dst.is_multicast(), mac, tables.resolver_of(pod)));
    let body = match told {
        Ok(Some(body)) => body,
        Ok(None) => return CONSUMED,
        Err(reason) => return reason.into(),
    };
    let frame = emit(&body, ingress.port.mac, tables.router().gateway6, src, pod.mac);
    if !packet.buffer.resize(frame.len()) {
        return DropReason::NoBuffer.into();
    }
    packet.buffer.head_mut().copy_from_slice(&frame);
    packet.offload = Offload::Done;
    let fate = Fate::Consumed(ConsumeReason::Dhcp);
    State::Done(Verdict::Answer { fate, output: Output::Port(ingress.port.id) })
}

/// The UDP payload; what is left of the checksum is finished first, since a guest may leave it to us.
fn message<'p, B: Buffer>(
    packet: &'p mut Packet<B>,
    work: &Work<'_>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
) -> Result<&'p [u8], DropReason> {
    let len = usize::try_from(work.parsed.frame_len).unwrap_or(usize::MAX);
    let offload = packet.offload;
    let frame = packet.buffer.head_mut().get_mut(..len).ok_or(DropReason::DhcpInvalid)?;
    match offload {
        Offload::Done => {}
        Offload::Partial { start, offset } => finish_checksum(frame, start, offset)?,
        Offload::Gso { .. } => return Err(DropReason::DhcpInvalid),
    }
    let datagram = frame.get(usize::from(work.parsed.l4_offset)..).ok_or(DropReason::DhcpInvalid)?;
    let udp = UdpPacket::new_checked(datagram).map_err(|_| DropReason::DhcpInvalid)?;
    // In this family a checksum there must be (RFC 8200, section 8.1).
    if udp.checksum() == 0 || !udp.verify_checksum(&IpAddress::Ipv6(src), &IpAddress::Ipv6(dst)) {
        return Err(DropReason::DhcpInvalid);
    }
    datagram.get(UDP_HEADER..usize::from(udp.len())).ok_or(DropReason::DhcpInvalid)
}

/// Options, one after another: code and data. An error where one is cut short.
struct Options<'m>(&'m [u8]);

impl<'m> Iterator for Options<'m> {
    type Item = Result<(u16, &'m [u8]), DropReason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let cut = || Some(Err(DropReason::DhcpInvalid));
        let Some((&[a, b, c, d], rest)) = std::mem::take(&mut self.0).split_first_chunk() else {
            return cut();
        };
        let len = usize::from(u16::from_be_bytes([c, d]));
        let Some((data, rest)) = rest.split_at_checked(len) else { return cut() };
        self.0 = rest;
        Some(Ok((u16::from_be_bytes([a, b]), data)))
    }
}

/// An identity association: its kind, its number, and the options in it.
#[derive(Clone, Copy)]
struct Association<'m> {
    kind: u16,
    id: [u8; 4],
    options: &'m [u8],
}

impl<'m> Association<'m> {
    fn read(kind: u16, data: &'m [u8]) -> Result<Self, DropReason> {
        let (&id, rest) = data.split_first_chunk().ok_or(DropReason::DhcpInvalid)?;
        // T1 and T2, which are the server's to say.
        let times = if kind == IA_TA { 0 } else { 8 };
        let options = rest.get(times..).ok_or(DropReason::DhcpInvalid)?;
        Ok(Self { kind, id, options })
    }

    fn addresses(&self) -> impl Iterator<Item = Result<Ipv6Addr, DropReason>> + use<'m> {
        Options(self.options).filter_map(|option| match option {
            Ok((IA_ADDRESS, data)) => {
                let address = data.first_chunk::<16>().filter(|_| data.len() >= 24);
                Some(address.map(|&octets| Ipv6Addr::from(octets)).ok_or(DropReason::DhcpInvalid))
            }
            Ok(_) => None,
            Err(reason) => Some(Err(reason)),
        })
    }
}

/// What of a client's message matters.
struct Asked<'m> {
    kind: u8,
    transaction: [u8; 3],
    client: Option<&'m [u8]>,
    server: Option<&'m [u8]>,
    rapid: bool,
    /// The first few: more than any client has, and bounded.
    associations: ArrayVec<Association<'m>, 4>,
}

impl<'m> Asked<'m> {
    fn read(bytes: &'m [u8]) -> Result<Self, DropReason> {
        let (&[kind, a, b, c], options) = bytes.split_first_chunk().ok_or(DropReason::DhcpInvalid)?;
        let mut asked = Self {
            kind,
            transaction: [a, b, c],
            client: None,
            server: None,
            rapid: false,
            associations: ArrayVec::new(),
        };
        for option in Options(options) {
            match option? {
                (CLIENT_ID, id) if !(3..=LONGEST_DUID).contains(&id.len()) => {
                    return Err(DropReason::DhcpInvalid);
                }
                (CLIENT_ID, id) => asked.client = Some(id),
                (SERVER_ID, id) => asked.server = Some(id),
                (RAPID_COMMIT, _) => asked.rapid = true,
                (ia @ (IA_NA | IA_TA | IA_PD), data) => {
                    let association = Association::read(ia, data)?;
                    association.addresses().try_for_each(|address| address.map(drop))?;
                    // Those beyond are not answered, as if they were left out.
                    let _ = asked.associations.try_push(association);
                }
                _ => {}
            }
        }
        Ok(asked)
    }

    /// Whether it is as the RFC has it (section 16), or at least for another server: `Ok(false)`.
    fn is_for(&self, server: &[u8]) -> Result<bool, DropReason> {
        let named = match self.kind {
            SOLICIT | CONFIRM | REBIND => false,
            REQUEST | RENEW | RELEASE | DECLINE => true,
            INFORMATION if self.associations.is_empty() => self.server.is_some(),
            _ => return Err(DropReason::DhcpInvalid),
        };
        if self.server.is_some() != named || (self.client.is_none() && self.kind != INFORMATION) {
            return Err(DropReason::DhcpInvalid);
        }
        Ok(self.server.is_none_or(|id| id == server))
    }
}

/// The UDP payload of what is answered to the message, if anything.
fn tell(
    bytes: &[u8],
    pod: &Endpoint,
    to_group: bool,
    mac: MacAddr,
    names: &Resolver,
) -> Result<Option<ArrayVec<u8, LONGEST>>, DropReason> {
    let asked = Asked::read(bytes)?;
    let [a, b, c, d, e, f] = mac.0;
    // DUID-LL of Ethernet (section 11.4).
    let server = [0, 3, 0, 1, a, b, c, d, e, f];
    if !asked.is_for(&server)? {
        return Ok(None);
    }
    let own = || {
        pod.addresses.iter().filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
    };
    let rapid = asked.kind == SOLICIT && asked.rapid;
    let kind = if asked.kind == SOLICIT && !rapid { ADVERTISE } else { REPLY };
    let mut body = ArrayVec::new();
    body.extend([kind]);
    body.extend(asked.transaction);
    if let Some(client) = asked.client {
        put(&mut body, CLIENT_ID, &[client]);
    }
    put(&mut body, SERVER_ID, &[&server]);
    if !to_group {
        // Nobody is told that it may speak to the server alone (section 18.4).
        let may = matches!(asked.kind, REQUEST | RENEW | RELEASE | DECLINE);
        put_status(&mut body, USE_MULTICAST);
        return Ok(may.then_some(body));
    }
    match asked.kind {
        SOLICIT | REQUEST | RENEW | REBIND => {
            if rapid {
                put(&mut body, RAPID_COMMIT, &[]);
            }
            let first = asked.associations.iter().position(|ia| ia.kind == IA_NA);
            let known = matches!(asked.kind, RENEW | REBIND);
            for (at, association) in asked.associations.iter().enumerate() {
                let own = own().filter(|_| Some(at) == first);
                put_association(&mut body, association, own, known);
            }
            put_names(&mut body, names);
        }
        CONFIRM => {
            let mut addresses = asked.associations.iter().flat_map(Association::addresses).flatten();
            // One that has none in mind is not answered (section 18.3.3).
            let Some(one) = addresses.next() else { return Ok(None) };
            let here = std::iter::once(one).chain(addresses).all(|asked| own().any(|own| own == asked));
            put_status(&mut body, if here { SUCCESS } else { NOT_ON_LINK });
        }
        RELEASE | DECLINE => put_status(&mut body, SUCCESS),
        _ => put_names(&mut body, names),
    }
    Ok(Some(body))
}

/// An IA with addresses, or the status that says why there are none. Those that the client has in mind and may not have are over
/// at once (section 18.3.4).
fn put_association(
    body: &mut ArrayVec<u8, LONGEST>,
    association: &Association<'_>,
    own: impl Iterator<Item = Ipv6Addr> + Clone,
    known: bool,
) {
    let (lease, renew, rebind) =
        (LEASE.to_be_bytes(), (LEASE / 2).to_be_bytes(), (LEASE / 8 * 7).to_be_bytes());
    let mut inner = ArrayVec::<u8, LONGEST_IA>::new();
    for address in own.clone() {
        put(&mut inner, IA_ADDRESS, &[&address.octets(), &lease, &lease]);
    }
    let granted = !inner.is_empty();
    if known && granted {
        for over in association.addresses().flatten().filter(|asked| own.clone().all(|own| own != *asked)) {
            put(&mut inner, IA_ADDRESS, &[&over.octets(), &[0; 8]]);
        }
    }
    if !granted {
        let status = match association.kind {
            _ if known => NO_BINDING,
            IA_PD => NO_PREFIX,
            _ => NO_ADDRESSES,
        };
        put_status(&mut inner, status);
    }
    let (t1, t2) = if granted { (renew, rebind) } else { ([0; 4], [0; 4]) };
    if association.kind == IA_TA {
        put(body, IA_TA, &[&association.id, &inner]);
    } else {
        put(body, association.kind, &[&association.id, &t1, &t2, &inner]);
    }
}

/// Servers of this family, and where to seek names.
fn put_names(body: &mut ArrayVec<u8, LONGEST>, names: &Resolver) {
    let mut servers = ArrayVec::<u8, 128>::new();
    for server in names.servers() {
        if let IpAddr::V6(server) = server {
            // A few at most: there is room.
            let _ = servers.try_extend_from_slice(&server.octets());
        }
    }
    if !servers.is_empty() {
        put(body, DNS_SERVERS, &[&servers]);
    }
    if !names.names().is_empty() {
        put(body, SEARCH, &[names.names()]);
    }
}

fn put_status<const N: usize>(body: &mut ArrayVec<u8, N>, status: u16) {
    put(body, STATUS, &[&status.to_be_bytes()]);
}

/// Appends an option, if it fits.
fn put<const N: usize>(body: &mut ArrayVec<u8, N>, code: u16, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    if let Ok(short) = u16::try_from(len)
        && body.remaining_capacity() >= 4 + len
    {
        body.extend(code.to_be_bytes());
        body.extend(short.to_be_bytes());
        parts.iter().for_each(|part| body.extend(part.iter().copied()));
    }
}

fn emit(
    body: &[u8],
    from_mac: MacAddr,
    from: Ipv6Addr,
    to: Ipv6Addr,
    mac: MacAddr,
) -> ArrayVec<u8, { ETHERNET_HEADER + IPV6_HEADER + UDP_HEADER + LONGEST }> {
    let mut frame = ArrayVec::new();
    frame.extend(std::iter::repeat_n(0, ETHERNET_HEADER + IPV6_HEADER + UDP_HEADER + body.len()));
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    let (src_addr, dst_addr) = (EthernetAddress(from_mac.0), EthernetAddress(mac.0));
    EthernetRepr { src_addr, dst_addr, ethertype: EthernetProtocol::Ipv6 }.emit(&mut ethernet);
    let ip = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: UDP_HEADER + body.len(),
        hop_limit: HOPS,
    };
    let mut packet = Ipv6Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet);
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    UdpRepr { src_port: SERVER, dst_port: CLIENT }.emit(
        &mut datagram,
        &IpAddress::Ipv6(from),
        &IpAddress::Ipv6(to),
        body.len(),
        |payload| payload.copy_from_slice(body),
        &ChecksumCapabilities::default(),
    );
    frame
}
