//! The views and checksums against smoltcp's, on packets that are valid: what one builds, the other reads and finds right.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire as theirs;
use wire::{ChecksumDelta, checksum};

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn sums(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(checksum::fold(checksum::sum(&bytes)), theirs::checksum::data(&bytes));
    }

    #[test]
    fn pseudo_headers(v4: [u32; 2], v6: [u128; 2], protocol: u8, len: u16) {
        let [a, b] = v4.map(Ipv4Addr::from);
        let sum = theirs::checksum::pseudo_header_v4(&a, &b, protocol.into(), len.into());
        prop_assert_eq!(checksum::fold(checksum::pseudo_header_v4(a, b, protocol, len)), sum);
        let [a, b] = v6.map(Ipv6Addr::from);
        let sum = theirs::checksum::pseudo_header_v6(&a, &b, protocol.into(), len.into());
        prop_assert_eq!(checksum::fold(checksum::pseudo_header_v6(a, b, protocol, len.into())), sum);
    }

    #[test]
    fn ipv4_headers(src: u32, dst: u32, hop_limit: u8, new: u32, payload in data()) {
        let repr = theirs::Ipv4Repr {
            src_addr: src.into(),
            dst_addr: dst.into(),
            next_header: theirs::IpProtocol::Udp,
            payload_len: payload.len(),
            hop_limit,
        };
        let mut bytes = vec![0; 20];
        repr.emit(&mut theirs::Ipv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
        bytes.extend(&payload);
        let mut ours = wire::Ipv4Packet::new_checked(&mut bytes[..]).unwrap();
        prop_assert!(ours.verify_checksum());
        prop_assert_eq!((ours.src(), ours.dst(), ours.ttl()), (src.into(), dst.into(), hop_limit));
        prop_assert_eq!(ours.payload(), payload);
        ours.decrement_ttl();
        ours.replace_dst(new.into());
        let packet = theirs::Ipv4Packet::new_checked(&bytes[..]).unwrap();
        prop_assert!(packet.verify_checksum());
        prop_assert_eq!((packet.dst_addr(), packet.hop_limit()), (new.into(), hop_limit.saturating_sub(1)));
    }

    /// A whole translation, as an action makes it: addresses and ports by deltas.
    #[test]
    fn translated_udp(v6: [u128; 4], ports: [u16; 4], payload in data()) {
        prop_assume!(ports.iter().all(|p| *p != 0));
        let [src, dst, new_src, new_dst] = v6.map(Ipv6Addr::from);
        let [src_port, dst_port, new_src_port, new_dst_port] = ports;
        let mut bytes = vec![0; 8 + payload.len()];
        theirs::UdpRepr { src_port, dst_port }.emit(
            &mut theirs::UdpPacket::new_unchecked(&mut bytes),
            &src.into(),
            &dst.into(),
            payload.len(),
            |to| to.copy_from_slice(&payload),
            &ChecksumCapabilities::default(),
        );
        let mut ours = wire::UdpPacket::new_checked(&mut bytes[..]).unwrap();
        prop_assert_eq!((ours.src_port(), ours.dst_port()), (src_port, dst_port));
        let delta = ChecksumDelta::replace_ipv6(src, new_src)
            .and(ChecksumDelta::replace_ipv6(dst, new_dst))
            .and(ChecksumDelta::replace_u16(src_port, new_src_port))
            .and(ChecksumDelta::replace_u16(dst_port, new_dst_port));
        let checksum = delta.apply_udp(ours.checksum());
        ours.set_src_port(new_src_port);
        ours.set_dst_port(new_dst_port);
        ours.set_checksum(checksum);
        let packet = theirs::UdpPacket::new_checked(&bytes[..]).unwrap();
        prop_assert!(packet.verify_checksum(&new_src.into(), &new_dst.into()));
        prop_assert_ne!(checksum, 0);
        prop_assert_eq!((packet.src_port(), packet.dst_port()), (new_src_port, new_dst_port));
    }

    /// The same in TCP, where the checksum was partial: the output completes what the address delta has changed.
    #[test]
    fn translated_partial_tcp(v4: [u32; 4], ports: [u16; 2], header: [u8; 20], payload in data()) {
        let [src, dst, new_src, new_dst] = v4.map(Ipv4Addr::from);
        let mut bytes = [&header[..], &payload].concat();
        bytes[12] = 0x50;
        let len = u16::try_from(bytes.len()).unwrap();
        let partial = checksum::fold(checksum::pseudo_header_v4(src, dst, 6, len));
        let addresses = ChecksumDelta::replace_ipv4(src, new_src).and(ChecksumDelta::replace_ipv4(dst, new_dst));
        let mut ours = wire::TcpPacket::new_checked(&mut bytes[..]).unwrap();
        ours.set_src_port(ports[0]);
        ours.set_dst_port(ports[1]);
        ours.set_checksum(addresses.apply_partial(partial));
        let finished = checksum::internet_checksum(&bytes);
        wire::TcpPacket::new_checked(&mut bytes[..]).unwrap().set_checksum(finished);
        let packet = theirs::TcpPacket::new_checked(&bytes[..]).unwrap();
        prop_assert!(packet.verify_checksum(&new_src.into(), &new_dst.into()));
        let ours = wire::TcpPacket::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!((ours.src_port(), ours.dst_port()), (packet.src_port(), packet.dst_port()));
        prop_assert_eq!(ours.seq(), packet.seq_number().0.cast_unsigned());
        prop_assert_eq!(ours.ack(), packet.ack_number().0.cast_unsigned());
        prop_assert_eq!(ours.window(), packet.window_len());
    }

    #[test]
    fn pings(ident: u16, seq_no: u16, payload in data(), v6: [u128; 2], new_ident: u16) {
        let checksums = ChecksumCapabilities::default();
        let repr = theirs::Icmpv4Repr::EchoRequest { ident, seq_no, data: &payload };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut theirs::Icmpv4Packet::new_unchecked(&mut bytes), &checksums);
        let mut ours = wire::Icmpv4Packet::new_checked(&mut bytes[..]).unwrap();
        prop_assert!(ours.verify_checksum() && ours.is_echo());
        prop_assert_eq!((ours.echo_ident(), ours.echo_seq(), ours.payload()), (ident, seq_no, &payload[..]));
        let delta = ChecksumDelta::replace_u16(ident, new_ident);
        ours.set_echo_ident(new_ident);
        ours.set_checksum(delta.apply(ours.checksum()));
        prop_assert!(ours.verify_checksum());

        let [src, dst] = v6.map(Ipv6Addr::from);
        let repr = theirs::Icmpv6Repr::EchoReply { ident, seq_no, data: &payload };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&src, &dst, &mut theirs::Icmpv6Packet::new_unchecked(&mut bytes), &checksums);
        let ours = wire::Icmpv6Packet::new_checked(&bytes[..]).unwrap();
        prop_assert!(ours.verify_checksum(src, dst) && ours.is_echo());
        prop_assert_eq!((ours.echo_ident(), ours.echo_seq(), ours.payload()), (ident, seq_no, &payload[..]));
    }

    /// smoltcp reads the neighbour discovery frames that are built here.
    #[test]
    fn neighbour_discovery(ips: [u128; 2], mac: [u8; 6], flags: [bool; 2]) {
        let [src, target] = ips.map(Ipv6Addr::from);
        prop_assume!(!target.is_multicast() && !src.is_unspecified());
        let mac = wire::MacAddr(mac);
        let asks = wire::build_neighbour_solicitation(mac, src, target, None);
        let tells = wire::build_neighbour_advertisement(mac, target, mac, src, flags[0], flags[1]);
        for frame in [&asks, &tells] {
            let ethernet = theirs::EthernetFrame::new_checked(&frame[..]).unwrap();
            let ip = theirs::Ipv6Packet::new_checked(ethernet.payload()).unwrap();
            let icmp = theirs::Icmpv6Packet::new_checked(ip.payload()).unwrap();
            prop_assert!(icmp.verify_checksum(&ip.src_addr(), &ip.dst_addr()));
            prop_assert_eq!(ip.hop_limit(), 255);
            match theirs::NdiscRepr::parse(&icmp).unwrap() {
                theirs::NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
                    prop_assert_eq!(target_addr, target);
                    prop_assert_eq!(lladdr.unwrap().as_bytes().to_vec(), mac.0.to_vec());
                    prop_assert_eq!(ip.dst_addr(), wire::solicited_node(target));
                }
                theirs::NdiscRepr::NeighborAdvert { flags: read, target_addr, lladdr } => {
                    prop_assert_eq!(target_addr, target);
                    prop_assert_eq!(lladdr.unwrap().as_bytes().to_vec(), mac.0.to_vec());
                    prop_assert_eq!(read.contains(theirs::NdiscNeighborFlags::ROUTER), flags[0]);
                    prop_assert_eq!(read.contains(theirs::NdiscNeighborFlags::SOLICITED), flags[1]);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
