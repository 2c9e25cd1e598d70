//! What the pipeline needs to know of a frame: the answer of [`parse`](crate::parse()), by which it is made alone.
//!
//! Plain data: it borrows nothing, so that a burst's answers are an array.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::bytes::u16_at;
use crate::ipv4::IPV4_HEADER;
use crate::ipv6::{IPV6_HEADER, Ipv6Packet};

/// What the Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketKind {
    /// EtherType 0x0800.
    Ipv4,
    /// EtherType 0x86dd.
    Ipv6,
    /// EtherType 0x0806: a request or a reply for IPv4 over Ethernet.
    Arp,
}

/// The addresses of the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addrs {
    /// Of an IPv4 header.
    V4 {
        /// Source.
        src: Ipv4Addr,
        /// Destination.
        dst: Ipv4Addr,
    },
    /// Of an IPv6 header. A routing header may name further destinations.
    V6 {
        /// Source.
        src: Ipv6Addr,
        /// Destination.
        dst: Ipv6Addr,
    },
    /// ARP has no IP header: see [`ArpPacket`](crate::ArpPacket).
    None,
}

/// Which part of an IP packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// All of it. IPv6 atomic fragments (RFC 6946) count as whole, though they bear the fragment header.
    Whole,
    /// The first of several: it has the transport header.
    First,
    /// Another one: it has no transport header.
    Later,
}

/// What the fragments of a packet are put together by; see [`Parsed::fragment_fields`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentFields {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub ident: u32,
    /// Where the fragment's data begins in the packet's, in bytes, a multiple of 8.
    pub offset: u16,
    /// Bytes of data in this fragment, never zero.
    pub len: u16,
    /// Whether others follow behind it.
    pub more: bool,
}

/// A frame whose headers hold what they promise. Offsets are from the frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What the frame carries.
    pub kind: PacketKind,
    /// Where the IP or ARP header begins: 14.
    pub l3_offset: u16,
    /// Where the transport header begins: behind IP options, extension headers and the fragment header. In a later
    /// fragment, where its data does; in ARP, the end of the packet.
    pub l4_offset: u16,
    /// The last next-header: the transport's number. In a later IPv6 fragment it is what the fragmented part begins
    /// with, which may be an extension header. 0 in ARP.
    pub protocol: u8,
    /// Which part of a packet this is.
    pub fragment: Fragment,
    /// Source port of TCP, UDP and SCTP; else, and in later fragments, 0. An ICMP identifier is no port: see
    /// [`Icmpv4Packet`](crate::Icmpv4Packet).
    pub src_port: u16,
    /// Destination port, as `src_port`.
    pub dst_port: u16,
    /// The flags of a TCP header ([`TcpFlags`](crate::TcpFlags)), else 0.
    pub tcp_flags: u8,
    /// Bytes up to the end of the IP or ARP packet. What the frame has beyond is padding, to be cut.
    pub frame_len: u32,
    /// The addresses of the IP header.
    pub addrs: Addrs,
    /// Hops left: TTL or hop limit. 0 in ARP.
    pub ttl: u8,
    /// No router may fragment it: the DF bit of IPv4, always true for IPv6 (RFC 8200, section 5).
    pub dont_fragment: bool,
    /// An IPv4 header longer than 20 bytes.
    pub ipv4_options: bool,
}

impl Parsed {
    /// Bytes from the transport header to the packet's end: the length in a pseudo-header.
    #[inline]
    #[must_use]
    pub const fn transport_len(&self) -> u32 {
        self.frame_len.saturating_sub(self.l4_offset as u32)
    }

    /// Bytes of the IP packet, headers included: what an MTU limits.
    #[inline]
    #[must_use]
    pub const fn ip_len(&self) -> u32 {
        self.frame_len.saturating_sub(self.l3_offset as u32)
    }

    /// The fragment's place in its packet, read from the `head` this was parsed from. `None` for whole packets and ARP,
    /// or if `head` is another.
    #[must_use]
    pub fn fragment_fields(&self, head: &[u8]) -> Option<FragmentFields> {
        if self.fragment == Fragment::Whole {
            return None;
        }
        let l3 = head.get(usize::from(self.l3_offset)..)?;
        let len = u16::try_from(self.transport_len()).ok()?;
        match self.kind {
            PacketKind::Arp => None,
            PacketKind::Ipv4 => {
                let l3 = l3.first_chunk::<IPV4_HEADER>()?;
                let field = u16_at(l3, 6);
                let ident = u32::from(u16_at(l3, 4));
                Some(FragmentFields { ident, offset: (field & 0x1fff) << 3, len, more: field & 0x2000 != 0 })
            }
            PacketKind::Ipv6 => {
                let chain = Ipv6Packet::new_checked(l3).ok()?.extensions().ok()?;
                let fragment = chain.fragment?;
                // The first fragment's length counts from the fragment header, not from the transport's.
                let behind =
                    usize::try_from(self.ip_len()).ok()?.checked_sub(IPV6_HEADER + fragment.header + 8)?;
                let len = u16::try_from(behind).ok()?;
                Some(FragmentFields {
                    ident: fragment.ident,
                    offset: fragment.offset,
                    len,
                    more: fragment.more,
                })
            }
        }
    }
}
