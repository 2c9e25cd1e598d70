//! Header views, addresses and checksum deltas.
//!
//! Owns the bytes of a packet's headers and nothing else: no clock, no table, no I/O. A view is made by `new_checked`,
//! which proves that the getters cannot fail; setters edit in place. [`parse()`] is total: any bytes give a [`Parsed`]
//! or a [`Malformed`] with a name, never a panic.

#![forbid(unsafe_code)]

mod addr;
mod arp;
mod bytes;
pub mod checksum;
mod ethernet;
mod icmpv4;
mod icmpv6;
mod ipv4;
mod ipv6;
mod malformed;
mod ndp;
mod parse;
mod parsed;
pub mod protocol;
mod sctp;
mod tcp;
mod udp;
mod vxlan;

pub use addr::{AddrError, IpPrefix, MacAddr};
pub use arp::{
    ARP_FRAME, ARP_PACKET, ArpOperation, ArpPacket, build_arp_reply, build_arp_request, write_arp_reply,
};
pub use checksum::ChecksumDelta;
pub use ethernet::{ETHERNET_HEADER, EtherType, EthernetFrame};
pub use icmpv4::{ICMPV4_HEADER, Icmpv4Packet, Icmpv4Type};
pub use icmpv6::{ICMPV6_HEADER, Icmpv6Packet, Icmpv6Type};
pub use ipv4::{IPV4_HEADER, Ipv4Packet};
pub use ipv6::{ExtensionChain, IPV6_HEADER, Ipv6Fragment, Ipv6Packet, MAX_EXTENSIONS, walk_extensions};
pub use malformed::Malformed;
pub use ndp::{
    NDP_FRAME, NDP_HOP_LIMIT, NdpError, NdpMessage, build_neighbour_advertisement,
    build_neighbour_solicitation, parse_ndp, solicited_node,
};
pub use parse::parse;
pub use parsed::{Addrs, Fragment, FragmentFields, PacketKind, Parsed};
pub use sctp::{SCTP_HEADER, SctpPacket};
pub use tcp::{TCP_HEADER, TcpFlags, TcpPacket};
pub use udp::{UDP_HEADER, UdpPacket};
pub use vxlan::{VXLAN_HEADER, VXLAN_PORT, VxlanPacket, vxlan_header};
