//! IPv6 neighbour discovery (RFC 4861): solicitations and advertisements read with all of the RFC's checks, and whole
//! frames of our own.
//!
//! A message that fails a check is discarded without a word, as the RFC wants; [`NdpError`] says which. Options other than
//! link-layer addresses are stepped over.

use std::net::Ipv6Addr;

use crate::bytes::{array, put, v6_at};
use crate::ethernet::{ETHERNET_HEADER, EtherType};
use crate::icmpv6::{Icmpv6Packet, Icmpv6Type};
use crate::ipv6::IPV6_HEADER;
use crate::{MacAddr, protocol};

/// Bytes of a frame with a solicitation or advertisement of ours: Ethernet, IPv6, message, one option.
pub const NDP_FRAME: usize = ETHERNET_HEADER + IPV6_HEADER + 24 + 8;

/// The hop limit that proves that a message comes from the link itself (RFC 4861, section 3.1).
pub const NDP_HOP_LIMIT: u8 = 255;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// A valid message of neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdpMessage {
    /// "Who has the target address?" (section 4.3). Duplicate address detection where the packet's source is `::`.
    NeighbourSolicitation {
        /// The address asked for, never multicast.
        target: Ipv6Addr,
        /// Who asks, if the message says so.
        source_mac: Option<MacAddr>,
    },
    /// "The target address is here" (section 4.4).
    NeighbourAdvertisement {
        /// The address told of, never multicast.
        target: Ipv6Addr,
        /// Where it is; may be absent from answers to a unicast solicitation.
        target_mac: Option<MacAddr>,
        /// R: the sender is a router.
        router: bool,
        /// S: answers a solicitation.
        solicited: bool,
        /// O: replaces what the receiver had cached.
        overrides: bool,
    },
    /// "Which routers are there?" (section 4.1)
    RouterSolicitation {
        /// Who asks, if the message says so.
        source_mac: Option<MacAddr>,
    },
}

/// Which of the RFC's checks (sections 6.1.1, 7.1.1, 7.1.2) a message fails.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdpError {
    /// Neither solicitation nor neighbour advertisement.
    #[error(
        "the ICMPv6 message is no neighbour solicitation, neighbour advertisement or router solicitation"
    )]
    OtherType,
    /// Below 255: the message may come from beyond the link.
    #[error("the hop limit is not 255")]
    HopLimit,
    /// The checksum does not verify.
    #[error("the ICMPv6 checksum is wrong")]
    Checksum,
    /// Not zero.
    #[error("the ICMPv6 code is not 0")]
    Code,
    /// Shorter than the message's fixed part.
    #[error("the message is truncated")]
    Truncated,
    /// Zero length, or past the message's end.
    #[error("an option has length zero or goes past the end of the message")]
    Option,
    /// The target is a multicast address.
    #[error("the target is a multicast address")]
    MulticastTarget,
    /// A solicitation from `::` that is not for a solicited-node address, or has a source link-layer address.
    #[error(
        "the message comes from the unspecified address, but is not as duplicate address detection sends it"
    )]
    UnspecifiedSource,
    /// An advertisement sent to a multicast address says that it was solicited.
    #[error("an advertisement to a multicast address has the solicited flag")]
    SolicitedMulticast,
}

/// The solicited-node address of `target` (RFC 4291, section 2.7.1): ff02::1:ff00:0/104 and its last 24 bits.
#[must_use]
pub const fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, u16::from_be_bytes([b, c]))
}

/// Reads the ICMPv6 message `icmp`, which ends where the packet does, of an IPv6 packet between these addresses.
///
/// # Errors
/// The check that the message fails. The first of hop limit, checksum, type, code, length, target, options, source.
pub fn parse_ndp(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, icmp: &[u8]) -> Result<NdpMessage, NdpError> {
    let view = Icmpv6Packet::new_checked(icmp).map_err(|_| NdpError::Truncated)?;
    let (least, option) = match view.message_type() {
        Icmpv6Type::NEIGHBOUR_SOLICITATION => (24, SOURCE_LINK_LAYER),
        Icmpv6Type::NEIGHBOUR_ADVERTISEMENT => (24, TARGET_LINK_LAYER),
        Icmpv6Type::ROUTER_SOLICITATION => (8, SOURCE_LINK_LAYER),
        _ => return Err(NdpError::OtherType),
    };
    if hop_limit != NDP_HOP_LIMIT {
        return Err(NdpError::HopLimit);
    }
    if !view.verify_checksum(src, dst) {
        return Err(NdpError::Checksum);
    }
    if view.code() != 0 {
        return Err(NdpError::Code);
    }
    let Some(options) = icmp.get(least..) else {
        return Err(NdpError::Truncated);
    };
    // A router solicitation has no target.
    let target = if least == 24 { v6_at(icmp, 8) } else { Ipv6Addr::UNSPECIFIED };
    if target.is_multicast() {
        return Err(NdpError::MulticastTarget);
    }
    let mac = link_layer_option(options, option)?;
    match view.message_type() {
        Icmpv6Type::NEIGHBOUR_ADVERTISEMENT => {
            let flags = icmp[4];
            let solicited = flags & 0x40 != 0;
            if solicited && dst.is_multicast() {
                return Err(NdpError::SolicitedMulticast);
            }
            Ok(NdpMessage::NeighbourAdvertisement {
                target,
                target_mac: mac,
                router: flags & 0x80 != 0,
                solicited,
                overrides: flags & 0x20 != 0,
            })
        }
        Icmpv6Type::NEIGHBOUR_SOLICITATION => {
            if src.is_unspecified() && (mac.is_some() || !is_solicited_node(dst)) {
                return Err(NdpError::UnspecifiedSource);
            }
            Ok(NdpMessage::NeighbourSolicitation { target, source_mac: mac })
        }
        _ => {
            if src.is_unspecified() && mac.is_some() {
                return Err(NdpError::UnspecifiedSource);
            }
            Ok(NdpMessage::RouterSolicitation { source_mac: mac })
        }
    }
}

fn is_solicited_node(addr: Ipv6Addr) -> bool {
    addr.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
}

/// Walks options, and takes the first link-layer address of the `wanted` kind that is as long as Ethernet's
/// (RFC 4861, section 4.6.1; RFC 2464, section 6).
fn link_layer_option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, NdpError> {
    let mut found = None;
    while !options.is_empty() {
        let &[kind, units, ..] = options else {
            return Err(NdpError::Option);
        };
        // A length of zero would make the walk endless; such a message is discarded (section 4.6).
        if units == 0 {
            return Err(NdpError::Option);
        }
        let Some((option, rest)) = options.split_at_checked(usize::from(units) * 8) else {
            return Err(NdpError::Option);
        };
        if kind == wanted && units == 1 && found.is_none() {
            found = Some(MacAddr(array(option, 2)));
        }
        options = rest;
    }
    Ok(found)
}

/// A frame that asks who has `target`. With `to` it goes to that neighbour alone, to see whether it is still there;
/// without, to all that may have the address (RFC 4861, section 7.2.2).
#[must_use]
pub fn build_neighbour_solicitation(
    sender_mac: MacAddr,
    sender_ip: Ipv6Addr,
    target: Ipv6Addr,
    to: Option<MacAddr>,
) -> [u8; NDP_FRAME] {
    let (dst_mac, dst) = match to {
        Some(mac) => (mac, target),
        None => {
            let group = solicited_node(target);
            (MacAddr::for_ipv6_multicast(group), group)
        }
    };
    build(
        Icmpv6Type::NEIGHBOUR_SOLICITATION,
        0,
        target,
        (SOURCE_LINK_LAYER, sender_mac),
        (dst_mac, dst),
        sender_ip,
    )
}

/// A frame that tells where `target` is: at `target_mac`, with the override flag. `solicited` when it answers the one at
/// `dst`; to the address ff02::1 it must not be. `router` when the target forwards packets.
#[must_use]
pub fn build_neighbour_advertisement(
    target_mac: MacAddr,
    target: Ipv6Addr,
    dst_mac: MacAddr,
    dst: Ipv6Addr,
    router: bool,
    solicited: bool,
) -> [u8; NDP_FRAME] {
    let flags = u8::from(router) << 7 | u8::from(solicited) << 6 | 0x20;
    let to = (dst_mac, dst);
    build(Icmpv6Type::NEIGHBOUR_ADVERTISEMENT, flags, target, (TARGET_LINK_LAYER, target_mac), to, target)
}

/// The link-layer address in the option is the sender's in both messages.
fn build(
    message_type: u8,
    flags: u8,
    target: Ipv6Addr,
    option: (u8, MacAddr),
    to: (MacAddr, Ipv6Addr),
    src: Ipv6Addr,
) -> [u8; NDP_FRAME] {
    const L4: usize = ETHERNET_HEADER + IPV6_HEADER;
    let mut frame = [0; NDP_FRAME];
    put(&mut frame, 0, to.0.0);
    put(&mut frame, 6, option.1.0);
    put(&mut frame, 12, EtherType::IPV6.0.to_be_bytes());
    put(&mut frame, 14, [0x60, 0, 0, 0, 0, 32, protocol::ICMPV6, NDP_HOP_LIMIT]);
    put(&mut frame, 22, src.octets());
    put(&mut frame, 38, to.1.octets());
    put(&mut frame, L4, [message_type, 0, 0, 0, flags, 0, 0, 0]);
    put(&mut frame, L4 + 8, target.octets());
    put(&mut frame, L4 + 24, [option.0, 1]);
    put(&mut frame, L4 + 26, option.1.0);
    // The array is longer than a header, so that this is always taken.
    if let Ok(mut icmp) = Icmpv6Packet::new_checked(&mut frame[L4..]) {
        icmp.fill_checksum(src, to.1);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const ANSWERER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const IP1: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const IP2: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

    /// fe80::1 asks who has fe80::2. Sum: fe80 + 1 + ff02 + 1 + ff00 + 2 + 20 + 3a (pseudo-header) + 8700 + fe80 + 2 +
    /// 0101 + 0200 + 1 = 48564, folded 8568.
    const SOLICITATION: [u8; NDP_FRAME] = [
        0x33, 0x33, 0xff, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, // Ethernet
        0x60, 0, 0, 0, 0, 32, 58, 255, // IPv6
        0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // source
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2, // destination
        135, 0, 0x7a, 0x97, 0, 0, 0, 0, // ICMPv6
        0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // target
        1, 1, 2, 0, 0, 0, 0, 1, // source link-layer address
    ];

    /// A message with its checksum made right.
    fn message(src: Ipv6Addr, dst: Ipv6Addr, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        Icmpv6Packet::new_checked(&mut bytes).unwrap().fill_checksum(src, dst);
        bytes
    }

    /// What becomes of the solicitation above when its message is edited.
    fn edited(src: Ipv6Addr, dst: Ipv6Addr, edit: impl Fn(&mut Vec<u8>)) -> Result<NdpMessage, NdpError> {
        let mut bytes = SOLICITATION[54..].to_vec();
        edit(&mut bytes);
        parse_ndp(src, dst, 255, &message(src, dst, &bytes))
    }

    #[test]
    fn builds_and_reads_a_solicitation() {
        assert_eq!(build_neighbour_solicitation(ASKER, IP1, IP2, None), SOLICITATION);
        let read = parse_ndp(IP1, solicited_node(IP2), 255, &SOLICITATION[54..]);
        assert_eq!(read, Ok(NdpMessage::NeighbourSolicitation { target: IP2, source_mac: Some(ASKER) }));
        let probe = build_neighbour_solicitation(ASKER, IP1, IP2, Some(ANSWERER));
        assert_eq!((probe[..6] == ANSWERER.0, &probe[38..54] == IP2.octets().as_slice()), (true, true));
        assert_eq!(parse_ndp(IP1, IP2, 255, &probe[54..]), read);
    }

    #[test]
    fn builds_and_reads_an_advertisement() {
        let frame = build_neighbour_advertisement(ANSWERER, IP2, ASKER, IP1, true, true);
        assert_eq!(frame[54..56], [136, 0]);
        assert_eq!(frame[58..62], [0xe0, 0, 0, 0]);
        assert_eq!(frame[78..], [2, 1, 2, 0, 0, 0, 0, 2]);
        let read = NdpMessage::NeighbourAdvertisement {
            target: IP2,
            target_mac: Some(ANSWERER),
            router: true,
            solicited: true,
            overrides: true,
        };
        assert_eq!(parse_ndp(IP2, IP1, 255, &frame[54..]), Ok(read));
        let group = MacAddr::for_ipv6_multicast(ALL_NODES);
        let lies = build_neighbour_advertisement(ANSWERER, IP2, group, ALL_NODES, false, true);
        assert_eq!(parse_ndp(IP2, ALL_NODES, 255, &lies[54..]), Err(NdpError::SolicitedMulticast));
        let unasked = build_neighbour_advertisement(ANSWERER, IP2, group, ALL_NODES, false, false);
        assert!(parse_ndp(IP2, ALL_NODES, 255, &unasked[54..]).is_ok());
    }

    #[test]
    fn reads_a_router_solicitation() {
        let bytes = message(IP1, ALL_NODES, &[133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1]);
        let read = parse_ndp(IP1, ALL_NODES, 255, &bytes);
        assert_eq!(read, Ok(NdpMessage::RouterSolicitation { source_mac: Some(ASKER) }));
        let bytes = message(Ipv6Addr::UNSPECIFIED, ALL_NODES, &bytes);
        let read = parse_ndp(Ipv6Addr::UNSPECIFIED, ALL_NODES, 255, &bytes);
        assert_eq!(read, Err(NdpError::UnspecifiedSource));
        let bytes = message(Ipv6Addr::UNSPECIFIED, ALL_NODES, &bytes[..8]);
        let read = parse_ndp(Ipv6Addr::UNSPECIFIED, ALL_NODES, 255, &bytes);
        assert_eq!(read, Ok(NdpMessage::RouterSolicitation { source_mac: None }));
    }

    #[test]
    fn refuses_what_the_rfc_refuses() {
        let group = solicited_node(IP2);
        let bytes = &SOLICITATION[54..];
        assert_eq!(parse_ndp(IP1, group, 254, bytes), Err(NdpError::HopLimit));
        assert_eq!(parse_ndp(IP2, group, 255, bytes), Err(NdpError::Checksum));
        assert_eq!(parse_ndp(IP1, group, 255, &bytes[..7]), Err(NdpError::Truncated));
        assert_eq!(edited(IP1, group, |b| b[0] = 137), Err(NdpError::OtherType));
        assert_eq!(edited(IP1, group, |b| b[1] = 1), Err(NdpError::Code));
        assert_eq!(edited(IP1, group, |b| b.truncate(23)), Err(NdpError::Truncated));
        assert_eq!(edited(IP1, group, |b| b[8] = 0xff), Err(NdpError::MulticastTarget));
        assert_eq!(edited(IP1, group, |b| b[25] = 0), Err(NdpError::Option));
        assert_eq!(edited(IP1, group, |b| b[25] = 2), Err(NdpError::Option));
        assert_eq!(edited(IP1, group, |b| b.push(1)), Err(NdpError::Option));
    }

    #[test]
    fn duplicate_address_detection() {
        let (none, group) = (Ipv6Addr::UNSPECIFIED, solicited_node(IP2));
        let read = NdpMessage::NeighbourSolicitation { target: IP2, source_mac: None };
        assert_eq!(edited(none, group, |b| b.truncate(24)), Ok(read));
        assert_eq!(edited(none, group, |_| {}), Err(NdpError::UnspecifiedSource));
        assert_eq!(edited(none, IP2, |b| b.truncate(24)), Err(NdpError::UnspecifiedSource));
    }

    #[test]
    fn steps_over_other_options() {
        let (asker, group) = (Some(ASKER), solicited_node(IP2));
        // A nonce (RFC 3971) of 16 bytes, the address, and a second one, which is left out.
        let read = edited(IP1, group, |b| {
            let own = b.split_off(24);
            b.extend([14, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            b.extend(own);
            b.extend([1, 1, 9, 9, 9, 9, 9, 9]);
        });
        assert_eq!(read, Ok(NdpMessage::NeighbourSolicitation { target: IP2, source_mac: asker }));
        // The target's address has no place in a solicitation.
        let read = edited(IP1, group, |b| b[24] = 2);
        assert_eq!(read, Ok(NdpMessage::NeighbourSolicitation { target: IP2, source_mac: None }));
    }
}
