//! What a row of each table says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::{IpPrefix, MacAddr};

use crate::id::{EndpointId, NetworkId, PortId};

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortEntry {
    /// Its number, below [`MAX_PORTS`](crate::MAX_PORTS).
    pub id: PortId,
    /// Its name, unique among ports.
    pub name: String,
    /// Our own MAC address on it.
    pub mac: MacAddr,
    /// The longest L3 packet it takes, in bytes; at least 1280 (RFC 8200, section 5).
    pub mtu: u16,
    /// What it is there for. [`Tables`](crate::Tables) derives it; what `set_port` is given is not looked at.
    pub role: PortRole,
}

/// What a port is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortRole {
    /// Nothing yet: what it receives is dropped.
    #[default]
    Idle,
    /// One endpoint is behind it.
    Endpoint(EndpointId),
    /// An [`Interface`] is on it.
    Uplink,
    /// It is a [`Tunnel`](crate::Tunnel), and has no device.
    Tunnel {
        /// The port that its datagrams leave and come by.
        uplink: PortId,
    },
}

/// A pod, or the host: what holds addresses behind a port of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Assigned by [`Tables`](crate::Tables); what `set_endpoint` is given is not looked at.
    pub id: EndpointId,
    /// Unique among endpoints.
    pub name: String,
    /// Where its addresses are reachable.
    pub network: NetworkId,
    /// The port it is behind; no other endpoint is.
    pub port: PortId,
    /// The endpoint's own MAC address.
    pub mac: MacAddr,
    /// Each becomes a host route, /32 or /128.
    pub addresses: Vec<IpAddr>,
    /// What a guest is told that its gateway leads to, at most [`MAX_ENDPOINT_ROUTES`](crate::MAX_ENDPOINT_ROUTES); empty: everything.
    /// Nothing is forwarded by it.
    pub routes: Vec<IpPrefix>,
    /// What it is.
    pub kind: EndpointKind,
}

/// What an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointKind {
    /// A pod, whose source addresses are checked.
    Pod,
    /// The node's own kernel.
    Host,
}

/// Our own addresses on an uplink. We answer ARP, ND and ping for them; their subnets become connected routes. IPv6
/// link-local addresses belong to the link (RFC 4291, section 2.5.6): they are kept here, but make no routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The port they are on; no endpoint is behind it.
    pub port: PortId,
    /// Where they are reachable.
    pub network: NetworkId,
    /// Address and prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// What is the same for all endpoints of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router {
    /// The gateway of every endpoint, and the source of ICMP errors where an interface has no better one.
    pub gateway4: Ipv4Addr,
    /// The same for IPv6: a link-local address.
    pub gateway6: Ipv6Addr,
    /// The MAC address of both, on every endpoint's link.
    pub mac: MacAddr,
}

impl Default for Router {
    /// Link-local gateways (RFC 3927, RFC 4291 section 2.5.6) and a locally administered MAC address.
    fn default() -> Self {
        Self {
            gateway4: Ipv4Addr::new(169, 254, 1, 1),
            gateway6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            mac: MacAddr([0x02, 0, 0, 0, 0, 0x01]),
        }
    }
}

/// fe80::/10, which is never routed (RFC 4291, section 2.5.6).
pub(crate) fn is_link_local6(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// Usable as the address of one node. IPv4-mapped IPv6 addresses never appear on a wire (RFC 4291, section 2.5.5.2).
pub(crate) fn is_unicast(addr: IpAddr) -> bool {
    let special = match addr {
        IpAddr::V4(a) => a.is_broadcast(),
        IpAddr::V6(a) => a.to_ipv4_mapped().is_some(),
    };
    !(special || addr.is_unspecified() || addr.is_multicast() || addr.is_loopback())
}
