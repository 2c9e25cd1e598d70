//! Router advertisements (RFC 4861, section 4.2): how a pod learns that the gateway is its way to everywhere, or to what (RFC 4191),
//! and its link's MTU.
//!
//! There is no on-link prefix, and none to make addresses from: a pod's address is a /128 on a link that nobody else is on, and DHCPv6
//! gives it (M and O). A prefix said to be on the link would have guests ask by ND for neighbours that are not there. A pod without
//! an address of this family is told nothing.

use std::net::{IpAddr, Ipv6Addr};

use arrayvec::ArrayVec;
use smoltcp::time::Duration;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet, IpProtocol, Ipv6Packet,
    Ipv6Repr, NdiscRepr, NdiscRouterFlags,
};
use tables::{Endpoint, EndpointKind, MAX_ENDPOINT_ROUTES, PortEntry, PortId, Resolver, Tables};
use wire::{ETHERNET_HEADER, IPV6_HEADER, IpPrefix, MacAddr, NDP_HOP_LIMIT};

use crate::burst::{Ingress, Side};
use crate::echo::HOPS;

/// ff02::1
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// For how long the gateway is one, in seconds: as long as may be (section 6.2.1), so that guests keep their default route while a data
/// plane is away. It is said anew long before.
const LIFETIME: u64 = 9_000;

/// Bytes of the message: 16, and options for the link-layer address and the MTU.
const MESSAGE: usize = 16 + 8 + 8;

/// DNS servers and search list (RFC 8106), good for as long as the gateway.
const SERVERS: u8 = 25;
const SEARCH: u8 = 31;
/// A route (RFC 4191, section 2.3), for as long as the gateway.
const ROUTE: u8 = 24;
/// Bytes of the longest ones. A pod that is told of routes is told of no names.
const ROUTES: usize = 24 * MAX_ENDPOINT_ROUTES;
/// Bytes of both: six servers, and 255 bytes of names.
const NAMES: usize = 8 + 6 * 16 + 8 + 256;
/// Bytes of the options that smoltcp does not have.
const OPTIONS: usize = if ROUTES > NAMES { ROUTES } else { NAMES };

/// A whole frame.
pub type Advertisement = ArrayVec<u8, { ETHERNET_HEADER + IPV6_HEADER + MESSAGE + OPTIONS }>;

/// Whether there is something to tell this endpoint.
pub(crate) fn concerns(endpoint: &Endpoint) -> bool {
    endpoint.kind == EndpointKind::Pod && endpoint.addresses.iter().any(IpAddr::is_ipv6)
}

/// The frame that tells the pod behind `port`, unasked (section 6.2.4). `None` where no pod of this family is.
#[must_use]
pub fn advertisement_frame(tables: &Tables, port: PortId) -> Option<Advertisement> {
    let Ingress { port, side: Side::Endpoint(endpoint), .. } = Ingress::of(tables, port)? else {
        return None;
    };
    if !concerns(endpoint) {
        return None;
    }
    Some(build(tables, port, endpoint, MacAddr::for_ipv6_multicast(ALL_NODES), ALL_NODES))
}

/// An advertisement to `dst`, where the endpoint is.
pub(crate) fn build(
    tables: &Tables,
    port: &PortEntry,
    endpoint: &Endpoint,
    dst_mac: MacAddr,
    dst: Ipv6Addr,
) -> Advertisement {
    let src = tables.router().gateway6;
    let message = NdiscRepr::RouterAdvert {
        hop_limit: HOPS,
        flags: NdiscRouterFlags::MANAGED | NdiscRouterFlags::OTHER,
        // 0: this router is not the way to everywhere (section 4.2).
        router_lifetime: Duration::from_secs(if endpoint.routes.is_empty() { LIFETIME } else { 0 }),
        // Unspecified: a host's own defaults (section 4.2).
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: Some(EthernetAddress(port.mac.0).into()),
        mtu: Some(port.mtu.into()),
        prefix_info: None,
    };
    let options = options(tables.resolver_of(endpoint), &endpoint.routes);
    let ip = Ipv6Repr {
        src_addr: src,
        dst_addr: dst,
        next_header: IpProtocol::Icmpv6,
        payload_len: MESSAGE + options.len(),
        hop_limit: NDP_HOP_LIMIT,
    };
    let addresses = (EthernetAddress(port.mac.0), EthernetAddress(dst_mac.0));
    let mut frame = Advertisement::new();
    frame.extend(std::iter::repeat_n(0, ETHERNET_HEADER + IPV6_HEADER + MESSAGE));
    frame.extend(options);
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    let (src_addr, dst_addr) = addresses;
    EthernetRepr { src_addr, dst_addr, ethertype: EthernetProtocol::Ipv6 }.emit(&mut ethernet);
    let mut packet = Ipv6Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet);
    let mut icmp = Icmpv6Packet::new_unchecked(packet.payload_mut());
    // It knows nothing of the options behind its own.
    message.emit(&mut icmp);
    icmp.fill_checksum(&src, &dst);
    frame
}

/// The options that smoltcp does not have.
fn options(resolver: &Resolver, routes: &[IpPrefix]) -> ArrayVec<u8, OPTIONS> {
    let lifetime = u32::try_from(LIFETIME).unwrap_or(u32::MAX).to_be_bytes();
    let mut options = ArrayVec::new();
    let mut option = |kind: u8, third: u8, data: &mut dyn Iterator<Item = u8>| {
        let start = options.len();
        options.extend([kind, 0, third, 0]);
        options.extend(lifetime);
        options.extend(data);
        if options.len() == start + 8 {
            // Nothing to tell.
            return options.truncate(start);
        }
        while !options.len().is_multiple_of(8) {
            options.push(0);
        }
        // In units of eight bytes.
        options[start + 1] = u8::try_from((options.len() - start) / 8).unwrap_or(u8::MAX);
    };
    let of_family = |server: &IpAddr| match server {
        IpAddr::V6(server) => Some(server.octets()),
        IpAddr::V4(_) => None,
    };
    option(SERVERS, 0, &mut resolver.servers().iter().filter_map(of_family).flatten());
    option(SEARCH, 0, &mut resolver.names().iter().copied());
    for prefix in routes.iter().take(MAX_ENDPOINT_ROUTES) {
        if let IpAddr::V6(address) = prefix.addr() {
            // As much of it as counts, in units of eight bytes: its last ones may be left out.
            let bytes = usize::from(prefix.len().div_ceil(64).max(1)) * 8;
            option(ROUTE, prefix.len(), &mut address.octets().into_iter().take(bytes));
        }
    }
    options
}
