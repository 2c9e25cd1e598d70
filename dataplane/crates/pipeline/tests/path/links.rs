//! ARP, neighbour discovery and MLD: what the router answers, and what it learns.

use pipeline::{ConsumeReason, DropReason, Fate, Heard, Learned, Solicit, Verdict, solicit_frame};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, NdiscNeighborFlags, NdiscRepr,
};
use tables::PortId;
use wire::{MacAddr, solicited_node};

use crate::body::{HOST, POD_A, POD_B, UPLINK, UPLINK2, mac, port_mac};
use crate::frames::*;

const ARP: Verdict = Verdict::Consume(ConsumeReason::Arp);
const ND: Verdict = Verdict::Consume(ConsumeReason::Nd);

fn arp(operation: ArpOperation, dst: MacAddr, sender: (MacAddr, &str), target: &str) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(sender.0.0),
        source_protocol_addr: v4(sender.1),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: v4(target),
    };
    let mut bytes = [0; 28];
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
    let mut frame = ethernet(dst, sender.0, 0x0806, &bytes);
    frame.resize(60, 0);
    frame
}

pub(crate) fn who_has(sender: MacAddr, sender_ip: &str, target: &str) -> Vec<u8> {
    arp(ArpOperation::Request, BROADCAST, (sender, sender_ip), target)
}

/// The frame answers `asker`: `target` is at the port's own MAC.
#[track_caller]
fn is_arp_reply(frame: &[u8], port: PortId, target: &str, asker: (MacAddr, &str)) {
    assert_eq!((&frame[..6], &frame[6..12], frame.len()), (&asker.0.0[..], &port_mac(port).0[..], 42));
    let expected = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(port_mac(port).0),
        source_protocol_addr: v4(target),
        target_hardware_addr: EthernetAddress(asker.0.0),
        target_protocol_addr: v4(asker.1),
    };
    assert_eq!(ArpRepr::parse(&ArpPacket::new_checked(&frame[14..]).unwrap()).unwrap(), expected);
}

#[test]
fn arp_of_endpoints_is_answered_for_the_router_alone() {
    let mut bench = Bench::new();
    for (port, own) in [(POD_A, "10.244.1.2"), (HOST, "10.0.0.10")] {
        let fate = Fate::Consumed(ConsumeReason::Arp);
        // The gateway, our address on an uplink, and a probe for the gateway's address, which is taken (RFC 5227).
        for (sender, target) in [(own, "169.254.1.1"), (own, "192.0.2.1"), ("0.0.0.0", "169.254.1.1")] {
            let (verdict, reply) = bench.put(port, &who_has(mac(port), sender, target));
            assert_eq!(verdict, Verdict::Answer { fate, output: by(port) });
            is_arp_reply(&reply, port, target, (mac(port), sender));
            assert_eq!(bench.learned, []);
        }
        // Is its own address taken? Not by us. And announcements.
        for sender in ["0.0.0.0", own] {
            assert_eq!(bench.put(port, &who_has(mac(port), sender, own)).0, ARP);
        }
        let to_us = arp(ArpOperation::Reply, port_mac(port), (mac(port), own), "169.254.1.1");
        assert_eq!(bench.put(port, &to_us).0, ARP);
        for other in ["10.244.1.3", "10.244.1.77", "192.0.2.7", "8.8.8.8"] {
            bench.drops(port, &who_has(mac(port), own, other), DropReason::ArpNotForUs);
        }
    }
}

#[test]
fn arp_of_endpoints_tells_the_truth() {
    let mut bench = Bench::new();
    let gateway = "169.254.1.1";
    bench.drops(POD_A, &who_has(mac(POD_A), "10.244.1.3", gateway), DropReason::SourceAddressSpoofed);
    bench.drops(POD_A, &who_has(mac(POD_B), "10.244.1.2", gateway), DropReason::SourceMacSpoofed);
    let mut frame = who_has(mac(POD_B), "10.244.1.2", gateway);
    frame[6..12].copy_from_slice(&mac(POD_A).0);
    bench.drops(POD_A, &frame, DropReason::SourceMacSpoofed);
    bench.drops(HOST, &who_has(mac(HOST), "127.0.0.1", gateway), DropReason::SourceInvalid);
    let mut frame = who_has(mac(POD_A), "10.244.1.2", gateway);
    frame[15] = 6;
    bench.drops(POD_A, &frame, DropReason::ArpInvalid);
    frame[..6].copy_from_slice(&mac(POD_B).0);
    bench.drops(POD_A, &frame, DropReason::ArpInvalid);
}

#[test]
fn arp_on_uplinks() {
    let mut bench = Bench::new();
    let learned = |address, mac, heard| Learned { port: UPLINK, address: ip(address), mac: Some(mac), heard };
    let advertised = |solicited| Heard::Advertisement { solicited, overrides: true, is_router: false };
    // A neighbour asks for us: an answer, and its MAC.
    let (verdict, reply) = bench.put(UPLINK, &who_has(NEIGHBOUR, "192.0.2.9", "192.0.2.1"));
    assert_eq!(verdict, Verdict::Answer { fate: Fate::Consumed(ConsumeReason::Arp), output: by(UPLINK) });
    is_arp_reply(&reply, UPLINK, "192.0.2.1", (NEIGHBOUR, "192.0.2.9"));
    assert_eq!(bench.learned, [learned("192.0.2.9", NEIGHBOUR, Heard::Solicitation)]);
    // A probe for our address: an answer, and nobody learned. So with one who is not of our subnet.
    for sender in ["0.0.0.0", "198.18.0.1"] {
        let (verdict, reply) = bench.put(UPLINK, &who_has(NEIGHBOUR, sender, "192.0.2.1"));
        assert!(matches!(verdict, Verdict::Answer { .. }));
        is_arp_reply(&reply, UPLINK, "192.0.2.1", (NEIGHBOUR, sender));
        assert_eq!(bench.learned, []);
    }
    // Its answer to us.
    let reply = arp(ArpOperation::Reply, port_mac(UPLINK), (NEIGHBOUR, "192.0.2.9"), "192.0.2.1");
    assert_eq!(bench.put(UPLINK, &reply).0, ARP);
    assert_eq!(bench.learned, [learned("192.0.2.9", NEIGHBOUR, advertised(true))]);
    // It has moved, and tells all, by request or reply.
    for operation in [ArpOperation::Request, ArpOperation::Reply] {
        let frame = arp(operation, BROADCAST, (NEIGHBOUR, "192.0.2.9"), "192.0.2.9");
        assert_eq!(bench.put(UPLINK, &frame).0, ARP);
        assert_eq!(bench.learned, [learned("192.0.2.9", NEIGHBOUR, advertised(false))]);
    }
    // Others among themselves; the gateway and the other uplink's address are not on this link.
    for target in ["192.0.2.10", "169.254.1.1", "172.16.0.1", "10.244.1.2"] {
        bench.drops(UPLINK, &who_has(NEIGHBOUR, "192.0.2.9", target), DropReason::ArpNotForUs);
    }
    // One that claims our own address, and senders that cannot be.
    for sender in ["192.0.2.1", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        bench.drops(UPLINK, &who_has(NEIGHBOUR, sender, "192.0.2.1"), DropReason::SourceInvalid);
    }
    let mut frame = who_has(NEIGHBOUR, "192.0.2.9", "192.0.2.1");
    frame[22] |= 1;
    bench.drops(UPLINK, &frame, DropReason::SourceInvalid);
}

/// An ND message with hop limit 255, to the group or unicast address `dst`.
fn nd(src_mac: MacAddr, port: PortId, src: &str, dst: &str, kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let message = icmp6(src, dst, kind, 0, &[&[flags, 0, 0, 0], body].concat());
    let to = v6(dst);
    let dst_mac = if to.is_multicast() { MacAddr::for_ipv6_multicast(to) } else { port_mac(port) };
    with_hop_limit(packet(dst_mac, src_mac, src, dst, ICMPV6, &message), 255)
}

fn option(kind: u8, mac: MacAddr) -> Vec<u8> {
    [&[kind, 1][..], &mac.0].concat()
}

pub(crate) fn solicitation(port: PortId, src_mac: MacAddr, src: &str, target: &str) -> Vec<u8> {
    let group = solicited_node(v6(target)).to_string();
    let mut body = v6(target).octets().to_vec();
    if src != "::" {
        body.extend(option(1, src_mac));
    }
    nd(src_mac, port, src, &group, 135, 0, &body)
}

/// The frame tells `dst` that `target` is at the port's own MAC.
#[track_caller]
fn is_advertisement(frame: &[u8], port: PortId, target: &str, dst_mac: MacAddr, dst: &str, solicited: bool) {
    let read = read(frame);
    assert_eq!((read.dst_mac, read.src_mac, read.hops), (dst_mac, port_mac(port), 255));
    assert_eq!((read.src, read.dst), (ip(target), ip(dst)));
    read.icmp();
    let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::SOLICITED, solicited);
    let expected = NdiscRepr::NeighborAdvert {
        flags,
        target_addr: v6(target),
        lladdr: Some(EthernetAddress(port_mac(port).0).into()),
    };
    assert_eq!(NdiscRepr::parse(&Icmpv6Packet::new_checked(read.payload).unwrap()).unwrap(), expected);
}

#[test]
fn solicitations_of_endpoints_are_answered_for_the_router_alone() {
    let mut bench = Bench::new();
    for (port, own) in [(POD_A, "fd00:1::2"), (HOST, "fd00:a::10")] {
        let fate = Fate::Consumed(ConsumeReason::Nd);
        let answer = Verdict::Answer { fate, output: by(port) };
        for (src, target) in [(own, "fe80::1"), ("fe80::77", "fe80::1"), (own, "2001:db8:2::1")] {
            let (verdict, reply) = bench.put(port, &solicitation(port, mac(port), src, target));
            assert_eq!(verdict, answer);
            is_advertisement(&reply, port, target, mac(port), src, true);
            assert_eq!(bench.learned, []);
        }
        // Is it still there? Asked of us alone, without an option.
        let frame = nd(mac(port), port, own, "fe80::1", 135, 0, &v6("fe80::1").octets());
        let (verdict, reply) = bench.put(port, &frame);
        assert_eq!(verdict, answer);
        is_advertisement(&reply, port, "fe80::1", mac(port), own, true);
        // Duplicate address detection: for the gateway's address all are told, for its own nobody objects.
        let (verdict, reply) = bench.put(port, &solicitation(port, mac(port), "::", "fe80::1"));
        assert_eq!(verdict, answer);
        is_advertisement(&reply, port, "fe80::1", MacAddr([0x33, 0x33, 0, 0, 0, 1]), "ff02::1", false);
        for target in [own, "fe80::a8ff:fe00:1"] {
            assert_eq!(bench.put(port, &solicitation(port, mac(port), "::", target)).0, ND);
        }
        for other in ["fd00:1::3", "fd00:1::99", "2001:db8:2::9"] {
            bench.drops(port, &solicitation(port, mac(port), own, other), DropReason::NdNotForUs);
        }
    }
}

#[test]
fn endpoints_may_ask_for_routers_and_report_groups() {
    let mut bench = Bench::new();
    for src in ["::", "fe80::77", "fd00:1::2"] {
        let asked = bench.put(POD_A, &nd(mac(POD_A), POD_A, src, "ff02::2", 133, 0, &[])).0;
        assert_eq!(asked, Verdict::Answer { fate: Fate::Consumed(ConsumeReason::Nd), output: by(POD_A) });
        let report = nd(mac(POD_A), POD_A, src, "ff02::16", 143, 0, &[4, 0, 0, 0]);
        // With a router alert, as hosts send it.
        let report = extended_v6(&with_hop_limit(report, 1), 0, [0, 0, 5, 2, 0, 0, 1, 0]);
        assert_eq!(bench.put(POD_A, &report).0, Verdict::Consume(ConsumeReason::Mld));
    }
    let tells = nd(
        mac(POD_A),
        POD_A,
        "fd00:1::2",
        "ff02::1",
        136,
        0x20,
        &[&v6("fd00:1::2").octets()[..], &option(2, mac(POD_A))].concat(),
    );
    assert_eq!(bench.put(POD_A, &tells).0, ND);
    assert_eq!(bench.learned, []);
    // A pod is no router, and redirects nobody.
    bench.drops(
        POD_A,
        &nd(mac(POD_A), POD_A, "fe80::77", "ff02::1", 134, 0, &[0; 8]),
        DropReason::NdNotForUs,
    );
    bench.drops(
        POD_A,
        &nd(mac(POD_A), POD_A, "fe80::77", "fe80::1", 137, 0, &[0; 32]),
        DropReason::NdNotForUs,
    );
    // Not what one says before one has an address.
    bench.drops(
        POD_A,
        &nd(mac(POD_A), POD_A, "::", "ff02::1", 136, 0x20, &[0; 16]),
        DropReason::SourceAddressSpoofed,
    );
    bench.drops(
        POD_A,
        &nd(mac(POD_A), POD_A, "fd00:1::3", "ff02::2", 133, 0, &[]),
        DropReason::SourceAddressSpoofed,
    );
}

#[test]
fn nd_that_fails_a_check_is_dropped() {
    let mut bench = Bench::new();
    let good = solicitation(POD_A, mac(POD_A), "fd00:1::2", "fe80::1");
    assert!(matches!(bench.put(POD_A, &good).0, Verdict::Answer { .. }));
    bench.drops(POD_A, &with_hop_limit(good.clone(), 254), DropReason::NdInvalid);
    let mut bad = good.clone();
    bad[56] ^= 1;
    bench.drops(POD_A, &bad, DropReason::NdInvalid);
    let group = solicited_node(v6("fe80::1")).to_string();
    let target = v6("fe80::1").octets();
    let source = option(1, mac(POD_A));
    let message = icmp6("fd00:1::2", &group, 135, 1, &[&[0; 4][..], &target, &source].concat());
    let mut bad = good.clone();
    bad[54..].copy_from_slice(&message);
    bench.drops(POD_A, &bad, DropReason::NdInvalid);
    let bad = |src: &str, dst: &str, body: &[u8]| nd(mac(POD_A), POD_A, src, dst, 135, 0, body);
    for frame in [
        // Cut short, an option of no length, one past the end.
        bad("fd00:1::2", &group, &target[..8]),
        bad("fd00:1::2", &group, &[&target[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat()),
        bad("fd00:1::2", &group, &[&target[..], &[1, 2, 0, 0, 0, 0, 0, 0]].concat()),
        bad("fd00:1::2", &group, &v6("ff02::1").octets()),
        // Duplicate address detection tells no MAC, and asks the group alone.
        bad("::", &group, &[&target[..], &source].concat()),
        bad("::", "fe80::1", &target),
        // In a fragment header, even of one fragment (RFC 6980).
        extended_v6(&good, 44, [0, 0, 0, 0, 0, 0, 0, 7]),
        extended_v6(&good, 44, [0, 0, 0, 1, 0, 0, 0, 7]),
    ] {
        bench.drops(POD_A, &frame, DropReason::NdInvalid);
    }
}

#[test]
fn nd_on_uplinks() {
    let mut bench = Bench::new();
    let learned = |address, mac, heard| Learned { port: UPLINK, address: ip(address), mac, heard };
    // For the interface's address, and for the link-local one that goes with its MAC.
    for target in ["2001:db8:2::1", "fe80::ff:fe00:4"] {
        for src in ["2001:db8:2::9", "fe80::9"] {
            let (verdict, reply) = bench.put(UPLINK, &solicitation(UPLINK, NEIGHBOUR, src, target));
            assert_eq!(
                verdict,
                Verdict::Answer { fate: Fate::Consumed(ConsumeReason::Nd), output: by(UPLINK) }
            );
            is_advertisement(&reply, UPLINK, target, NEIGHBOUR, src, true);
            assert_eq!(bench.learned, [learned(src, Some(NEIGHBOUR), Heard::Solicitation)]);
        }
    }
    let (_, reply) = bench.put(UPLINK, &solicitation(UPLINK, NEIGHBOUR, "::", "2001:db8:2::1"));
    is_advertisement(&reply, UPLINK, "2001:db8:2::1", MacAddr([0x33, 0x33, 0, 0, 0, 1]), "ff02::1", false);
    assert_eq!(bench.learned, []);
    for target in ["2001:db8:2::9", "fe80::1", "fe80::8", "fd00:1::2"] {
        bench.drops(
            UPLINK,
            &solicitation(UPLINK, NEIGHBOUR, "2001:db8:2::7", target),
            DropReason::NdNotForUs,
        );
    }
    bench.drops(
        UPLINK,
        &solicitation(UPLINK, NEIGHBOUR, "2001:db8:2::1", "2001:db8:2::1"),
        DropReason::SourceInvalid,
    );
    // A configured link-local address.
    let (verdict, _) = bench.put(UPLINK2, &solicitation(UPLINK2, NEIGHBOUR, "fe80::9", "fe80::8"));
    assert!(matches!(verdict, Verdict::Answer { .. }));

    // Advertisements, with the flags as they are.
    let tells = |dst: &str, flags, target: &str, mac: Option<MacAddr>| {
        let mut body = v6(target).octets().to_vec();
        body.extend(mac.map(|mac| option(2, mac)).unwrap_or_default());
        nd(NEIGHBOUR, UPLINK, "2001:db8:2::9", dst, 136, flags, &body)
    };
    let heard = |is_router, solicited, overrides| Heard::Advertisement { solicited, overrides, is_router };
    for (frame, target, mac, heard) in [
        (
            tells("2001:db8:2::1", 0x60, "2001:db8:2::9", Some(NEIGHBOUR)),
            "2001:db8:2::9",
            Some(NEIGHBOUR),
            heard(false, true, true),
        ),
        (tells("2001:db8:2::1", 0xc0, "fe80::9", None), "fe80::9", None, heard(true, true, false)),
        (
            tells("ff02::1", 0xa0, "fe80::9", Some(NEIGHBOUR)),
            "fe80::9",
            Some(NEIGHBOUR),
            heard(true, false, true),
        ),
    ] {
        assert_eq!(bench.put(UPLINK, &frame).0, ND);
        assert_eq!(bench.learned, [learned(target, mac, heard)]);
    }
    bench.drops(UPLINK, &tells("ff02::1", 0x60, "2001:db8:2::9", Some(NEIGHBOUR)), DropReason::NdInvalid);
    // Of our own address, beyond the link, or with a MAC that is none: understood, and nothing learned.
    for (target, mac) in
        [("2001:db8:2::1", NEIGHBOUR), ("2001:db8:9::9", NEIGHBOUR), ("2001:db8:2::9", BROADCAST)]
    {
        assert_eq!(bench.put(UPLINK, &tells("2001:db8:2::1", 0x60, target, Some(mac))).0, ND);
        assert_eq!(bench.learned, []);
    }
    assert_eq!(bench.put(UPLINK, &nd(NEIGHBOUR, UPLINK, "fe80::9", "ff02::1", 134, 0, &[0; 8])).0, ND);
}

#[test]
fn questions_of_our_own() {
    let bench = Bench::new();
    let ask = |port, address, unicast_to| {
        solicit_frame(&bench.tables, &Solicit { port, address: ip(address), unicast_to })
    };
    let frame = ask(UPLINK, "192.0.2.9", None).unwrap();
    assert_eq!(frame[..6], [0xff; 6]);
    let expected = |sender: &str, target: &str, port| ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(port_mac(port).0),
        source_protocol_addr: v4(sender),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: v4(target),
    };
    let arp = |frame: &[u8]| ArpRepr::parse(&ArpPacket::new_checked(&frame[14..]).unwrap()).unwrap();
    assert_eq!(arp(&frame), expected("192.0.2.1", "192.0.2.9", UPLINK));
    // To one station; and a next hop beyond our subnet.
    let frame = ask(UPLINK, "203.0.113.7", Some(NEIGHBOUR)).unwrap();
    assert_eq!(frame[..6], NEIGHBOUR.0);
    assert_eq!(arp(&frame), expected("192.0.2.1", "203.0.113.7", UPLINK));

    for (port, target, to, own) in [
        (UPLINK, "2001:db8:2::9", None, "2001:db8:2::1"),
        (UPLINK, "2001:db8:9::9", None, "2001:db8:2::1"),
        (UPLINK, "fe80::9", Some(NEIGHBOUR), "fe80::ff:fe00:4"),
        (UPLINK2, "fe80::9", None, "fe80::8"),
        // No address but for the link.
        (UPLINK2, "2001:db8:9::9", None, "fe80::ff:fe00:8"),
    ] {
        let frame = ask(port, target, to).unwrap();
        let read = read(&frame);
        let group = solicited_node(v6(target));
        let dst = if to.is_some() { ip(target) } else { group.into() };
        let dst_mac = to.unwrap_or(MacAddr::for_ipv6_multicast(group));
        assert_eq!((read.dst_mac, read.src_mac, read.hops), (dst_mac, port_mac(port), 255));
        assert_eq!((read.src, read.dst), (ip(own), dst));
        read.icmp();
        let expected = NdiscRepr::NeighborSolicit {
            target_addr: v6(target),
            lladdr: Some(EthernetAddress(port_mac(port).0).into()),
        };
        assert_eq!(NdiscRepr::parse(&Icmpv6Packet::new_checked(read.payload).unwrap()).unwrap(), expected);
    }
    assert!(ask(POD_A, "192.0.2.9", None).is_none());
    assert!(ask(PortId(99), "192.0.2.9", None).is_none());
}
