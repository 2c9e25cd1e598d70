//! A port's life as a station: it answers ARP, neighbour solicitations and pings for its addresses, learns its
//! gateways' MACs, and sends UDP back in `--reflect` mode. It edits frames; it sends nothing itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::{
    Addrs, ArpOperation, ArpPacket, ChecksumDelta, ETHERNET_HEADER, EthernetFrame, Fragment, Icmpv4Packet,
    Icmpv4Type, Icmpv6Packet, Icmpv6Type, Ipv4Packet, Ipv6Packet, MacAddr, NdpMessage, PacketKind, Parsed,
    build_arp_reply, build_arp_request, build_neighbour_advertisement, build_neighbour_solicitation,
    parse_ndp, protocol,
};

/// Who the port is, and what it has learned and done.
pub(crate) struct Station {
    pub(crate) mac: MacAddr,
    addresses: Vec<IpAddr>,
    gateways: Vec<Gateway>,
    reflect: bool,
    pub(crate) done: Done,
}

struct Gateway {
    address: IpAddr,
    mac: Option<MacAddr>,
}

/// What it has answered.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) arp: u64,
    pub(crate) neighbour: u64,
    pub(crate) ping: u64,
    pub(crate) reflected: u64,
}

/// What to do with a received frame.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Nothing: drop it.
    None,
    /// Turn it round by [`turn_round`] and send it back.
    TurnRound,
    /// Send this instead.
    Replace(Vec<u8>),
}

/// fe80::/64 and the interface identifier made of the MAC (RFC 4291, appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

impl Station {
    /// A station with no addresses answers nobody, but in `reflect` mode sends back what is for any address.
    pub(crate) fn new(mac: MacAddr, mut addresses: Vec<IpAddr>, gateways: &[IpAddr], reflect: bool) -> Self {
        let gateways = gateways
            .iter()
            .filter(|gateway| addresses.iter().any(|own| own.is_ipv4() == gateway.is_ipv4()))
            .map(|&address| Gateway { address, mac: None })
            .collect();
        if addresses.iter().any(IpAddr::is_ipv6) {
            addresses.push(link_local(mac).into());
        }
        Self { mac, addresses, gateways, reflect, done: Done::default() }
    }

    /// The MAC of the gateway of that family, once it has answered.
    pub(crate) fn gateway_mac(&self, ipv4: bool) -> Option<MacAddr> {
        self.gateways.iter().find(|gateway| gateway.address.is_ipv4() == ipv4)?.mac
    }

    /// Frames that ask for the gateways not known yet. They also tell the gateway our own MAC.
    pub(crate) fn solicitations(&self) -> Vec<Vec<u8>> {
        let unknown = self.gateways.iter().filter(|gateway| gateway.mac.is_none());
        unknown
            .filter_map(|gateway| {
                let own = self.addresses.iter().find(|own| own.is_ipv4() == gateway.address.is_ipv4())?;
                match (*own, gateway.address) {
                    (IpAddr::V4(own), IpAddr::V4(target)) => {
                        Some(build_arp_request(MacAddr::BROADCAST, self.mac, own, target).to_vec())
                    }
                    (IpAddr::V6(own), IpAddr::V6(target)) => {
                        Some(build_neighbour_solicitation(self.mac, own, target, None).to_vec())
                    }
                    _ => None,
                }
            })
            .collect()
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    fn learn(&mut self, address: IpAddr, mac: MacAddr) {
        if let Some(gateway) = self.gateways.iter_mut().find(|gateway| gateway.address == address)
            && mac.is_unicast()
        {
            gateway.mac = Some(mac);
        }
    }

    /// Reads a whole frame, learns from it, and says what to do with it.
    pub(crate) fn answer(&mut self, frame: &[u8], parsed: &Parsed) -> Answer {
        let end = usize::try_from(parsed.frame_len).unwrap_or(frame.len()).min(frame.len());
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return Answer::None };
        if ethernet.dst() != self.mac && !ethernet.dst().is_multicast() {
            return Answer::None;
        }
        match (parsed.kind, parsed.addrs) {
            (PacketKind::Arp, _) => self.answer_arp(&frame[ETHERNET_HEADER..]),
            _ if parsed.fragment != Fragment::Whole => Answer::None,
            (_, Addrs::V4 { dst, .. }) => self.answer_ip(frame, parsed, dst.into()),
            (_, Addrs::V6 { src, dst }) => {
                let l4 = frame.get(usize::from(parsed.l4_offset)..end).unwrap_or_default();
                if parsed.protocol == protocol::ICMPV6
                    && let Ok(message) = parse_ndp(src, dst, parsed.ttl, l4)
                {
                    return self.answer_ndp(message, src, ethernet.src());
                }
                self.answer_ip(frame, parsed, dst.into())
            }
            (_, Addrs::None) => Answer::None,
        }
    }

    fn answer_arp(&mut self, packet: &[u8]) -> Answer {
        let Ok(arp) = ArpPacket::new_checked(packet) else { return Answer::None };
        self.learn(arp.sender_ip().into(), arp.sender_mac());
        let target: Ipv4Addr = arp.target_ip();
        if arp.operation() != ArpOperation::Request || !self.is_own(target.into()) {
            return Answer::None;
        }
        self.done.arp += 1;
        Answer::Replace(build_arp_reply(self.mac, target, arp.sender_mac(), arp.sender_ip()).to_vec())
    }

    fn answer_ndp(&mut self, message: NdpMessage, src: Ipv6Addr, from: MacAddr) -> Answer {
        match message {
            NdpMessage::NeighbourSolicitation { target, source_mac } if self.is_own(target.into()) => {
                self.done.neighbour += 1;
                let frame = if src.is_unspecified() {
                    // Somebody checks whether our address is free: all are told that it is not (RFC 4861, 7.2.4).
                    let to = MacAddr::for_ipv6_multicast(ALL_NODES);
                    build_neighbour_advertisement(self.mac, target, to, ALL_NODES, false, false)
                } else {
                    let to = source_mac.unwrap_or(from);
                    build_neighbour_advertisement(self.mac, target, to, src, false, true)
                };
                Answer::Replace(frame.to_vec())
            }
            NdpMessage::NeighbourSolicitation { source_mac: Some(mac), .. } => {
                self.learn(src.into(), mac);
                Answer::None
            }
            NdpMessage::NeighbourAdvertisement { target, target_mac: Some(mac), .. } => {
                self.learn(target.into(), mac);
                Answer::None
            }
            _ => Answer::None,
        }
    }

    fn answer_ip(&mut self, frame: &[u8], parsed: &Parsed, dst: IpAddr) -> Answer {
        let l4 = frame.get(usize::from(parsed.l4_offset)..).unwrap_or_default();
        let echo = match (dst, l4) {
            (IpAddr::V4(_), [kind, 0, ..]) if parsed.protocol == protocol::ICMP => {
                *kind == Icmpv4Type::ECHO_REQUEST
            }
            (IpAddr::V6(_), [kind, 0, ..]) if parsed.protocol == protocol::ICMPV6 => {
                *kind == Icmpv6Type::ECHO_REQUEST
            }
            _ => false,
        };
        if echo && self.is_own(dst) {
            self.done.ping += 1;
            return Answer::TurnRound;
        }
        let for_us = self.is_own(dst) || self.addresses.is_empty();
        if self.reflect && parsed.protocol == protocol::UDP && for_us && !dst.is_multicast() {
            self.done.reflected += 1;
            return Answer::TurnRound;
        }
        Answer::None
    }
}

/// Swaps MACs, addresses and UDP ports, makes an echo request a reply, and sets the hops left to 64. `head` is the
/// frame's beginning with all its headers; false, and the frame is not to be sent, if it is not.
#[must_use]
pub(crate) fn turn_round(head: &mut [u8], parsed: &Parsed) -> bool {
    let (l3, l4) = (usize::from(parsed.l3_offset), usize::from(parsed.l4_offset));
    if head.len() < l4 + 8 {
        return false;
    }
    let (dst_mac, src_mac) = head[..12].split_at_mut(6);
    dst_mac.swap_with_slice(src_mac);
    // The views want the whole packet. Of a chain only the first segment is here: the hops left stay as they came.
    match parsed.kind {
        PacketKind::Ipv4 => {
            if let Ok(mut ip) = Ipv4Packet::new_checked(&mut head[l3..]) {
                ip.set_ttl(64);
                ip.fill_checksum();
            }
        }
        PacketKind::Ipv6 => {
            if let Ok(mut ip) = Ipv6Packet::new_checked(&mut head[l3..]) {
                ip.set_hop_limit(64);
            }
        }
        PacketKind::Arp => return false,
    }
    // Addresses and ports add the same to a checksum whichever way round they are.
    let (from, len) = if parsed.kind == PacketKind::Ipv4 { (l3 + 12, 4) } else { (l3 + 8, 16) };
    let (src, dst) = head[from..from + 2 * len].split_at_mut(len);
    src.swap_with_slice(dst);
    match parsed.protocol {
        protocol::UDP => {
            let (src, dst) = head[l4..l4 + 4].split_at_mut(2);
            src.swap_with_slice(dst);
            true
        }
        protocol::ICMP => Icmpv4Packet::new_checked(&mut head[l4..]).is_ok_and(|mut icmp| {
            let sum = reply_checksum(icmp.checksum(), Icmpv4Type::ECHO_REQUEST, Icmpv4Type::ECHO_REPLY);
            icmp.set_type_code(Icmpv4Type::ECHO_REPLY, 0);
            icmp.set_checksum(sum);
            true
        }),
        protocol::ICMPV6 => Icmpv6Packet::new_checked(&mut head[l4..]).is_ok_and(|mut icmp| {
            let sum = reply_checksum(icmp.checksum(), Icmpv6Type::ECHO_REQUEST, Icmpv6Type::ECHO_REPLY);
            icmp.set_type_code(Icmpv6Type::ECHO_REPLY, 0);
            icmp.set_checksum(sum);
            true
        }),
        _ => false,
    }
}

fn reply_checksum(checksum: u16, request: u8, reply: u8) -> u16 {
    ChecksumDelta::replace_u16(u16::from_be_bytes([request, 0]), u16::from_be_bytes([reply, 0]))
        .apply(checksum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::udp_checksum;
    use crate::stamp::Stamp;
    use crate::template::{Ends, Template};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const PEER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
    const GW4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
    const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
    const GW6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    fn station(reflect: bool) -> Station {
        Station::new(MAC, vec![OWN4.into(), OWN6.into()], &[GW4.into(), GW6.into()], reflect)
    }

    fn ask(station: &mut Station, frame: &[u8]) -> Answer {
        let parsed = wire::parse(frame, frame.len()).unwrap();
        station.answer(frame, &parsed)
    }

    #[test]
    fn arp_both_ways() {
        let mut station = station(false);
        let request = build_arp_request(MacAddr::BROADCAST, PEER, GW4, OWN4);
        let reply = build_arp_reply(MAC, OWN4, PEER, GW4).to_vec();
        assert_eq!(ask(&mut station, &request), Answer::Replace(reply));
        assert_eq!(station.gateway_mac(true), Some(PEER));
        let other = build_arp_request(MacAddr::BROADCAST, PEER, GW4, Ipv4Addr::new(10, 0, 0, 6));
        assert_eq!(ask(&mut station, &other), Answer::None);
        assert_eq!(station.done, Done { arp: 1, ..Done::default() });
    }

    #[test]
    fn neighbour_discovery_both_ways() {
        let mut station = station(false);
        assert_eq!(station.solicitations().len(), 2);
        let request = build_neighbour_solicitation(PEER, GW6, OWN6, None);
        let reply = build_neighbour_advertisement(MAC, OWN6, PEER, GW6, false, true).to_vec();
        assert_eq!(ask(&mut station, &request), Answer::Replace(reply));
        let request = build_neighbour_solicitation(PEER, GW6, link_local(MAC), None);
        assert!(matches!(ask(&mut station, &request), Answer::Replace(_)));
        let told = build_neighbour_advertisement(PEER, GW6, MAC, OWN6, true, true);
        assert_eq!(ask(&mut station, &told), Answer::None);
        assert_eq!(station.gateway_mac(false), Some(PEER));
        // Only the other family's is still unknown.
        assert_eq!(station.solicitations(), [build_arp_request(MacAddr::BROADCAST, MAC, OWN4, GW4).to_vec()]);
    }

    #[test]
    fn pings_in_both_families() {
        let mut four = vec![0; 14 + 20 + 8 + 5];
        four[..6].copy_from_slice(&MAC.0);
        four[6..12].copy_from_slice(&PEER.0);
        four[12..14].copy_from_slice(&[8, 0]);
        four[14..34].copy_from_slice(&[0x45, 0, 0, 33, 0, 1, 0, 0, 3, 1, 0, 0, 10, 0, 0, 9, 10, 0, 0, 5]);
        four[34] = 8;
        four[42..].copy_from_slice(b"hello");
        Ipv4Packet::new_checked(&mut four[14..]).unwrap().fill_checksum();
        Icmpv4Packet::new_checked(&mut four[34..]).unwrap().fill_checksum();
        let mut six = vec![0; 14 + 40 + 8 + 5];
        six[..14].copy_from_slice(&four[..14]);
        six[12..14].copy_from_slice(&[0x86, 0xdd]);
        six[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 13, 58, 9]);
        six[22..38].copy_from_slice(&GW6.octets());
        six[38..54].copy_from_slice(&OWN6.octets());
        six[54] = 128;
        six[62..].copy_from_slice(b"hello");
        Icmpv6Packet::new_checked(&mut six[54..]).unwrap().fill_checksum(GW6, OWN6);

        let mut station = station(false);
        for frame in [&mut four, &mut six] {
            let parsed = wire::parse(frame, frame.len()).unwrap();
            assert_eq!(station.answer(frame, &parsed), Answer::TurnRound);
            assert!(turn_round(frame, &parsed));
            assert_eq!((&frame[..6], &frame[6..12]), (&PEER.0[..], &MAC.0[..]));
            let turned = wire::parse(frame, frame.len()).unwrap();
            assert_eq!(turned.ttl, 64);
            match (parsed.addrs, turned.addrs) {
                (Addrs::V4 { src, dst }, Addrs::V4 { src: now, dst: to }) => {
                    assert_eq!((src, dst), (to, now))
                }
                (Addrs::V6 { src, dst }, Addrs::V6 { src: now, dst: to }) => {
                    assert_eq!((src, dst), (to, now))
                }
                other => unreachable!("{other:?}"),
            }
        }
        let reply = Icmpv4Packet::new_checked(&four[34..]).unwrap();
        assert!(reply.verify_checksum() && reply.message_type() == 0);
        assert!(Ipv4Packet::new_checked(&four[14..]).unwrap().verify_checksum());
        let reply = Icmpv6Packet::new_checked(&six[54..]).unwrap();
        assert!(reply.verify_checksum(OWN6, GW6) && reply.message_type() == 129);
        assert_eq!(station.done.ping, 2);
    }

    #[test]
    fn reflects_udp_for_its_own_addresses() {
        for (src, dst) in [("10.0.0.9", "10.0.0.5"), ("fd00::9", "fd00::5")] {
            let ends =
                Ends { src_mac: PEER, dst_mac: MAC, src: src.parse().unwrap(), dst: dst.parse().unwrap() };
            let template = Template::new(ends, 100).unwrap();
            let mut frame = vec![0; 100];
            let stamp = Stamp { run: 1, flow: 0, seq: 1, intended_ns: 5 };
            template.write(&mut frame, (1000, 2000), stamp);
            let parsed = wire::parse(&frame, 100).unwrap();
            assert_eq!(station(false).answer(&frame, &parsed), Answer::None);
            assert_eq!(station(true).answer(&frame, &parsed), Answer::TurnRound);
            assert_eq!(Station::new(MAC, vec![], &[], true).answer(&frame, &parsed), Answer::TurnRound);
            assert_eq!(Station::new(PEER, vec![], &[], true).answer(&frame, &parsed), Answer::None);
            let other = Station::new(MAC, vec![[1, 1, 1, 1].into()], &[], true).answer(&frame, &parsed);
            assert_eq!(other, Answer::None);
            assert!(turn_round(&mut frame, &parsed));
            let turned = wire::parse(&frame, 100).unwrap();
            assert_eq!((turned.src_port, turned.dst_port), (2000, 1000));
            assert_eq!(udp_checksum(&frame, &turned), Some(true));
            assert_eq!(crate::classify::classify(&frame), crate::classify::Frame::Stamped(stamp));
        }
    }
}
