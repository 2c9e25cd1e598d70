//! Any bytes are a message of neighbour discovery to `wire::parse_ndp`: it reads what smoltcp reads.
//!
//! The first byte chooses addresses and hop limit, the rest is the ICMPv6 message. smoltcp checks neither hop limit nor
//! addresses nor code, takes the last of several link-layer addresses, and refuses messages for short options that have no
//! place in them; those differences are spelt out here. Its checksum verification always succeeds in a fuzzing build and is
//! not used.

use std::net::Ipv6Addr;

use smoltcp::wire::{
    Icmpv6Message, Icmpv6Packet, IpProtocol, NdiscNeighborFlags, NdiscOption, NdiscOptionType, NdiscRepr,
    checksum,
};
use wire::{MacAddr, NdpError, NdpMessage};

pub(crate) fn body(data: &[u8]) {
    let Some((&choice, icmp)) = data.split_first() else { return };
    // A checksum is over 16-bit lengths in smoltcp; no packet is longer.
    if icmp.len() > 0xffff {
        return;
    }
    let src = match choice & 3 {
        0 => Ipv6Addr::UNSPECIFIED,
        1 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        _ => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    };
    let dst = match choice >> 2 & 3 {
        0 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        1 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2),
        _ => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
    };
    let hop_limit = if choice & 0x10 == 0 { 255 } else { 64 };
    compare(src, dst, hop_limit, icmp);
    let mut fixed = icmp.to_vec();
    if let Ok(mut view) = wire::Icmpv6Packet::new_checked(&mut fixed[..]) {
        view.fill_checksum(src, dst);
        compare(src, dst, hop_limit, &fixed);
    }
}

fn compare(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, icmp: &[u8]) {
    let ours = wire::parse_ndp(src, dst, hop_limit, icmp);
    assert_eq!(ours, reference(src, dst, hop_limit, icmp));
    let theirs = Icmpv6Packet::new_checked(icmp).and_then(|p| NdiscRepr::parse(&p));
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => same_repr(ours, theirs, icmp),
        (Ok(_), Err(_)) => {
            let picky = options(icmp).iter().any(|(kind, _)| matches!(kind, 3 | 4));
            assert!(picky, "smoltcp refuses a message without prefix or redirect options");
        }
        (Err(NdpError::Option | NdpError::Truncated | NdpError::OtherType), Ok(theirs)) => {
            let other = matches!(theirs, NdiscRepr::RouterAdvert { .. } | NdiscRepr::Redirect { .. });
            assert!(other, "smoltcp reads {theirs:?}");
        }
        (Err(_), _) => {}
    }
}

fn same_repr(ours: NdpMessage, theirs: NdiscRepr<'_>, icmp: &[u8]) {
    let (mac, lladdr, kind) = match (ours, theirs) {
        (NdpMessage::RouterSolicitation { source_mac }, NdiscRepr::RouterSolicit { lladdr }) => {
            (source_mac, lladdr, 1)
        }
        (
            NdpMessage::NeighbourSolicitation { target, source_mac },
            NdiscRepr::NeighborSolicit { target_addr, lladdr },
        ) => {
            assert_eq!(target, target_addr);
            (source_mac, lladdr, 1)
        }
        (
            NdpMessage::NeighbourAdvertisement { target, target_mac, router, solicited, overrides },
            NdiscRepr::NeighborAdvert { flags, target_addr, lladdr },
        ) => {
            assert_eq!(target, target_addr);
            assert_eq!(router, flags.contains(NdiscNeighborFlags::ROUTER));
            assert_eq!(solicited, flags.contains(NdiscNeighborFlags::SOLICITED));
            assert_eq!(overrides, flags.contains(NdiscNeighborFlags::OVERRIDE));
            (target_mac, lladdr, 2)
        }
        (ours, theirs) => {
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "another message");
            return;
        }
    };
    let of_kind: Vec<_> = options(icmp).into_iter().filter(|(k, _)| *k == kind).collect();
    if let [(_, 1)] = of_kind[..] {
        assert_eq!(mac.map(|m| m.0.to_vec()), lladdr.map(|l| l.as_bytes()[..6].to_vec()));
    }
    assert!(mac.is_none() || lladdr.is_some());
}

/// Type and length of the options, up to the first that is not whole.
fn options(icmp: &[u8]) -> Vec<(u8, u8)> {
    let mut found = Vec::new();
    let mut rest = match icmp.first() {
        Some(133) => icmp.get(8..),
        _ => icmp.get(24..),
    }
    .unwrap_or_default();
    while let [kind, units, ..] = *rest {
        if units == 0 {
            break;
        }
        found.push((kind, units));
        rest = rest.get(usize::from(units) * 8..).unwrap_or_default();
    }
    found
}

fn reference(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, icmp: &[u8]) -> Result<NdpMessage, NdpError> {
    if icmp.len() < 8 {
        return Err(NdpError::Truncated);
    }
    let packet = Icmpv6Packet::new_unchecked(icmp);
    let wanted = match packet.msg_type() {
        Icmpv6Message::NeighborAdvert => NdiscOptionType::TargetLinkLayerAddr,
        Icmpv6Message::NeighborSolicit | Icmpv6Message::RouterSolicit => NdiscOptionType::SourceLinkLayerAddr,
        _ => return Err(NdpError::OtherType),
    };
    if hop_limit != 255 {
        return Err(NdpError::HopLimit);
    }
    let len = u32::try_from(icmp.len()).unwrap_or(0);
    let pseudo = checksum::pseudo_header_v6(&src, &dst, IpProtocol::Icmpv6, len);
    if checksum::combine(&[pseudo, checksum::data(icmp)]) != 0xffff {
        return Err(NdpError::Checksum);
    }
    if packet.msg_code() != 0 {
        return Err(NdpError::Code);
    }
    packet.check_len().map_err(|_| NdpError::Truncated)?;
    let has_target = packet.msg_type() != Icmpv6Message::RouterSolicit;
    if has_target && packet.target_addr().is_multicast() {
        return Err(NdpError::MulticastTarget);
    }
    let mut mac = None;
    let mut rest = packet.payload();
    while !rest.is_empty() {
        let option = NdiscOption::new_unchecked(rest);
        if rest.len() < 8 || option.data_len() == 0 || usize::from(option.data_len()) * 8 > rest.len() {
            return Err(NdpError::Option);
        }
        if option.option_type() == wanted && option.data_len() == 1 && mac.is_none() {
            let mut found = MacAddr::default();
            found.0.copy_from_slice(&option.link_layer_addr().as_bytes()[..6]);
            mac = Some(found);
        }
        rest = &rest[usize::from(option.data_len()) * 8..];
    }
    let unspecified = Err(NdpError::UnspecifiedSource);
    match packet.msg_type() {
        Icmpv6Message::NeighborAdvert => {
            let flags = packet.neighbor_flags();
            let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
            if solicited && dst.is_multicast() {
                return Err(NdpError::SolicitedMulticast);
            }
            Ok(NdpMessage::NeighbourAdvertisement {
                target: packet.target_addr(),
                target_mac: mac,
                router: flags.contains(NdiscNeighborFlags::ROUTER),
                solicited,
                overrides: flags.contains(NdiscNeighborFlags::OVERRIDE),
            })
        }
        Icmpv6Message::NeighborSolicit => {
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0);
            let solicited_node = u128::from(dst) >> 24 == u128::from(group) >> 24;
            if src.is_unspecified() && (mac.is_some() || !solicited_node) {
                return unspecified;
            }
            Ok(NdpMessage::NeighbourSolicitation { target: packet.target_addr(), source_mac: mac })
        }
        _ if src.is_unspecified() && mac.is_some() => unspecified,
        _ => Ok(NdpMessage::RouterSolicitation { source_mac: mac }),
    }
}
