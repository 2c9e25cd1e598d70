//! Why bytes are no packet that may be forwarded. Each reason becomes the name of a drop.

/// The first thing found wrong with a frame, outermost header first.
///
/// `FrameTooShort` and `ExtensionsTooLong` speak of the frame's bytes, the others of what its headers claim.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Malformed {
    /// Fewer bytes than an Ethernet header.
    #[error("the frame is shorter than an Ethernet header (14 bytes)")]
    FrameTooShort,
    /// Neither IPv4, IPv6 nor ARP: VLAN tags, LLDP, 802.3 lengths and all else.
    #[error("the EtherType is none of IPv4 (0x0800), IPv6 (0x86dd) and ARP (0x0806)")]
    UnsupportedEtherType,
    /// Truncated, not Ethernet/IPv4, or neither request nor reply (RFC 826).
    #[error("the ARP packet is truncated, not for IPv4 over Ethernet, or neither request nor reply")]
    ArpInvalid,
    /// Version not 4, IHL below 5, or the header goes past the frame (RFC 791, section 3.1).
    #[error("the IPv4 header is truncated, or its version or IHL is wrong")]
    Ipv4HeaderInvalid,
    /// Total length below the header's own or above the frame's (RFC 1812, section 5.2.2).
    #[error("the IPv4 total length is shorter than the header or longer than the frame")]
    Ipv4LengthInvalid,
    /// The header checksum does not verify (RFC 1812, section 5.2.2).
    #[error("the IPv4 header checksum is wrong")]
    Ipv4ChecksumWrong,
    /// Version not 6, or the header goes past the frame (RFC 8200, section 3).
    #[error("the IPv6 header is truncated, or its version is wrong")]
    Ipv6HeaderInvalid,
    /// Payload length beyond the frame, or zero before hop-by-hop options: a jumbogram (RFC 2675), which no
    /// Ethernet link carries.
    #[error("the IPv6 payload length is longer than the frame, or zero as in a jumbogram")]
    Ipv6LengthInvalid,
    /// An extension header goes past the packet, there are more than
    /// [`MAX_EXTENSIONS`](crate::MAX_EXTENSIONS), a second fragment header, or hop-by-hop options that are not
    /// first.
    #[error("the IPv6 extension headers are truncated, too many, or in an order that RFC 8200 forbids")]
    Ipv6ExtensionInvalid,
    /// The headers are within the packet but go past its contiguous first bytes.
    #[error("the packet's headers are longer than the contiguous first bytes of the frame")]
    ExtensionsTooLong,
    /// A whole packet or first fragment without the whole TCP, UDP, SCTP or ICMP header (RFC 7112, section 5), or
    /// a TCP data offset below 5.
    #[error("the packet ends before its TCP, UDP, SCTP or ICMP header does")]
    TransportTruncated,
    /// A fragment that cannot be part of a packet: empty, ends past 65,535 bytes, not a multiple of 8 bytes
    /// though more follow, or a later one that overlaps the transport header (RFC 8200, section 4.5; RFC 3128).
    #[error(
        "the fragment is empty, out of bounds, not a multiple of 8 bytes, or overlaps the transport header"
    )]
    FragmentInvalid,
}

impl Malformed {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::FrameTooShort,
        Self::UnsupportedEtherType,
        Self::ArpInvalid,
        Self::Ipv4HeaderInvalid,
        Self::Ipv4LengthInvalid,
        Self::Ipv4ChecksumWrong,
        Self::Ipv6HeaderInvalid,
        Self::Ipv6LengthInvalid,
        Self::Ipv6ExtensionInvalid,
        Self::ExtensionsTooLong,
        Self::TransportTruncated,
        Self::FragmentInvalid,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_order_and_messages_differ() {
        let mut messages = std::collections::HashSet::new();
        for (i, reason) in Malformed::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert!(messages.insert(reason.to_string()));
        }
    }
}
