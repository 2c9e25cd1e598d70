//! Why a change to the tables was refused. Each message names the item, the field and the value, and what to do.

use std::net::{IpAddr, SocketAddr};

use wire::{IpPrefix, MacAddr};

use crate::frontend::FrontendKey;
use crate::id::{
    EndpointId, MAX_ENDPOINT_ROUTES, MAX_ENDPOINTS, MAX_NEXT_HOPS, MAX_PORTS, NetworkId, PortId,
};
use crate::identities::IdentityId;

/// Why a change was refused. The tables are as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are what the message prints")]
#[non_exhaustive]
pub enum TableError {
    /// A port's number does not fit.
    #[error("port `{name}`: id {port} is out of range: use one below {MAX_PORTS}")]
    PortRange { name: String, port: PortId },
    /// Two ports of one name.
    #[error(
        "port {port}: name `{name}` is already that of port {holder}: choose another, or remove that port"
    )]
    PortName { port: PortId, name: String, holder: PortId },
    /// A name is what people and messages call it.
    #[error("{item}: name is empty: give it one")]
    EmptyName { item: String },
    /// Too small for IPv6.
    #[error("port `{name}`: mtu {mtu} is too small: IPv6 needs 1280 (RFC 8200, section 5)")]
    Mtu { name: String, mtu: u16 },
    /// What pods cannot be told of names.
    #[error("router: {value} cannot be used: {why}")]
    Resolver { value: String, why: &'static str },
    /// Zero, or a group's.
    #[error(
        "{item}: mac {mac} is not the address of one station: use a unicast one, such as 02:00:00:00:00:01"
    )]
    Mac { item: String, mac: MacAddr },
    /// Something names a port that is not there.
    #[error("{item}: port {port} does not exist: add it first")]
    UnknownPort { item: String, port: PortId },
    /// A port cannot go, or take another role, while it is in use.
    #[error("port {port} (`{name}`) is in use by {user}: remove that first")]
    PortInUse { port: PortId, name: String, user: String },
    /// No such endpoint.
    #[error("endpoint `{name}` does not exist")]
    UnknownEndpoint { name: String },
    /// A route names an endpoint that is not there.
    #[error("{item}: endpoint {id} does not exist: add it first")]
    UnknownEndpointId { item: String, id: EndpointId },
    /// An endpoint cannot go while a configured route leads to it.
    #[error("endpoint `{name}` is in use by {user}: remove that first")]
    EndpointInUse { name: String, user: String },
    /// More than one message has room for.
    #[error(
        "endpoint `{name}`: {count} routes are too many: a guest is told of {MAX_ENDPOINT_ROUTES} at most"
    )]
    EndpointRoutes { name: String, count: usize },
    /// Not the address of one node.
    #[error("{item}: address {address} cannot be used: {why}")]
    Address { item: String, address: IpAddr, why: &'static str },
    /// An address longer than its family.
    #[error("{item}: prefix length {length} of address {address} is out of range: use at most {most}")]
    PrefixLength { item: String, address: IpAddr, length: u8, most: u8 },
    /// One address, two holders.
    #[error(
        "{item}: address {address} in network {network} is already held by {holder}: remove it there first"
    )]
    AddressHeld { item: String, address: IpAddr, network: NetworkId, holder: String },
    /// The same address twice in one list.
    #[error("{item}: address {address} is there twice: name it once")]
    AddressTwice { item: String, address: IpAddr },
    /// One subnet, two interfaces.
    #[error(
        "{item}: subnet {prefix} in network {network} is already connected by {holder}: use another prefix"
    )]
    SubnetHeld { item: String, prefix: IpPrefix, network: NetworkId, holder: String },
    /// No such interface.
    #[error("port {port} has no interface")]
    UnknownInterface { port: PortId },
    /// No configured route to that prefix.
    #[error("route {prefix} in network {network} does not exist")]
    UnknownRoute { network: NetworkId, prefix: IpPrefix },
    /// A next hop of the other family.
    #[error("{item}: next hop {address} is of the other address family: use one of the prefix's own")]
    NextHopFamily { item: String, address: IpAddr },
    /// A tunnel over something that is no link.
    #[error("{item}: port {uplink} (`{name}`) cannot carry it: name a port that is an uplink")]
    TunnelUplink { item: String, uplink: PortId, name: String },
    /// RFC 7348, section 5.
    #[error("{item}: vni {vni} is out of range: it has 24 bits, so use at most 16777215")]
    Vni { item: String, vni: u32 },
    /// Port 0 is on no wire.
    #[error("{item}: udp port 0 cannot be used: use 4789 (RFC 7348), or another that all nodes agree on")]
    TunnelPort { item: String },
    /// A peer of something else.
    #[error("{item}: port {port} is no tunnel: add one first")]
    UnknownTunnel { item: String, port: PortId },
    /// No such peer.
    #[error("tunnel peer {address} on port {port} does not exist: add it first")]
    UnknownPeer { port: PortId, address: IpAddr },
    /// A peer cannot go while a configured route leads to it.
    #[error("{item} is in use by {user}: remove that first")]
    PeerInUse { item: String, user: String },
    /// All peers' numbers are taken.
    #[error("{item}: no room for another peer")]
    TunnelPeersFull { item: String },
    /// All endpoint ids are taken.
    #[error("endpoint `{name}`: no id is free: {MAX_ENDPOINTS} endpoints are the most")]
    EndpointsFull { name: String },
    /// All targets are taken.
    #[error("{item}: no room for another next hop: {MAX_NEXT_HOPS} distinct ones are the most")]
    NextHopsFull { item: String },
    /// No such frontend.
    #[error("frontend {key} does not exist")]
    UnknownFrontend { key: FrontendKey },
    /// A frontend is found by ports.
    #[error("{item}: protocol {protocol} has no ports: use TCP (6), UDP (17) or SCTP (132)")]
    Protocol { item: String, protocol: u8 },
    /// Port 0 is on no wire.
    #[error("{item}: port of address {address} is 0: use one from 1 to 65535")]
    PortZero { item: String, address: IpAddr },
    /// A backend of the other family: nothing translates between them.
    #[error("{item}: backend {address} is of the other address family: use one of the frontend's own")]
    BackendFamily { item: String, address: IpAddr },
    /// The same backend twice.
    #[error("{item}: backend {} is there twice: name it once", SocketAddr::new(*.address, *.port))]
    BackendTwice { item: String, address: IpAddr, port: u16 },
    /// No port to choose.
    #[error("{item}: ports {first} to {last} hold none that can be used: name the lowest, above 0, first")]
    PortRangeEmpty { item: String, first: u16, last: u16 },
    /// Identity 0 cannot be set.
    #[error("{item}: identity 0 is what no row speaks of: use one above it")]
    ZeroIdentity { item: String },
    /// Nor group 0.
    #[error("{item}: group 0 cannot be used: use one above it")]
    ZeroGroup { item: String },
    /// That prefix has no identity.
    #[error("{item} does not exist")]
    UnknownIdentity { item: String },
    /// Nothing was said of that identity.
    #[error("membership of identity {identity} does not exist")]
    UnknownMembership { identity: IdentityId },
    /// No policy of that endpoint.
    #[error("policy of endpoint `{endpoint}` does not exist")]
    UnknownPolicy { endpoint: String },
}
