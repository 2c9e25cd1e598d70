//! Who may say what: MACs and source addresses.

use pipeline::{ConsumeReason, DropReason, Fate, Verdict};
use wire::MacAddr;

use crate::body::{HOST, OTHER, POD_A, POD_B, UPLINK, mac, port_mac};
use crate::frames::*;

fn to_b(dst_mac: MacAddr, src_mac: MacAddr, src: &str) -> Vec<u8> {
    let dst = if src.contains(':') { "fd00:1::3" } else { "10.244.1.3" };
    packet(dst_mac, src_mac, src, dst, UDP, &udp(1, 2, &[]))
}

#[test]
fn frames_are_for_this_station() {
    let mut bench = Bench::new();
    for src in ["10.244.1.2", "fd00:1::2"] {
        bench.drops(POD_A, &to_b(port_mac(POD_B), mac(POD_A), src), DropReason::NotForUs);
        bench.drops(POD_A, &to_b(mac(POD_A), mac(POD_A), src), DropReason::NotForUs);
        // To one host, but by a frame to many.
        bench.drops(POD_A, &to_b(BROADCAST, mac(POD_A), src), DropReason::NotForUs);
        bench.drops(POD_A, &to_b(MacAddr([1, 0, 0x5e, 0, 0, 1]), mac(POD_A), src), DropReason::NotForUs);
        for bad in [MacAddr::default(), BROADCAST, MacAddr([3, 0, 0, 0, 0, 1])] {
            bench.drops(POD_A, &to_b(port_mac(POD_A), bad, src), DropReason::SourceInvalid);
            bench.drops(UPLINK, &to_b(port_mac(UPLINK), bad, src), DropReason::SourceInvalid);
        }
    }
}

#[test]
fn the_gateways_mac_is_as_good_on_an_endpoints_link() {
    let mut bench = Bench::new();
    let mut router = *bench.tables.router();
    router.mac = MacAddr([2, 0xcc, 0, 0, 0, 1]);
    bench.tables.set_router(router).unwrap();
    let frame = to_b(router.mac, mac(POD_A), "10.244.1.2");
    assert_eq!(bench.put_now(POD_A, &frame, pipeline::Offload::Done).verdict, Verdict::Forward(by(POD_B)));
    let frame = to_b(router.mac, NEIGHBOUR, "198.51.100.1");
    let verdict = bench.put_now(UPLINK, &frame, pipeline::Offload::Done).verdict;
    assert_eq!(verdict, Verdict::Drop(DropReason::NotForUs));
}

#[test]
fn pods_speak_for_themselves_alone() {
    let mut bench = Bench::new();
    for src in ["10.244.1.2", "fd00:1::2"] {
        assert_eq!(bench.put(POD_A, &to_b(port_mac(POD_A), mac(POD_A), src)).0, Verdict::Forward(by(POD_B)));
        bench.drops(POD_A, &to_b(port_mac(POD_A), mac(POD_B), src), DropReason::SourceMacSpoofed);
    }
    for src in [
        "10.244.1.3",
        "10.244.1.20",
        "8.8.8.8",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.1.1",
        "fd00:1::3",
        "2001:db8::1",
        "::",
        "::1",
        "ff02::1",
        "fe80::1234",
    ] {
        let frame = to_b(port_mac(POD_A), mac(POD_A), src);
        bench.drops(POD_A, &frame, DropReason::SourceAddressSpoofed);
    }
    // Pod B's address from the pod in the other network.
    let frame = packet(port_mac(OTHER), mac(OTHER), "10.244.1.3", "10.244.1.2", UDP, &udp(1, 2, &[]));
    bench.drops(OTHER, &frame, DropReason::SourceAddressSpoofed);
}

#[test]
fn the_host_speaks_for_many_and_by_its_own_mac() {
    let mut bench = Bench::new();
    for src in ["10.0.0.10", "192.168.5.5", "fd00:a::10", "2001:db8:77::1"] {
        let frame = to_b(port_mac(HOST), mac(HOST), src);
        assert_eq!(bench.put(HOST, &frame).0, Verdict::Forward(by(POD_B)), "{src}");
        bench.drops(HOST, &to_b(port_mac(HOST), mac(POD_A), src), DropReason::SourceMacSpoofed);
    }
}

#[test]
fn nobody_speaks_for_none_or_many() {
    let mut bench = Bench::new();
    for (port, station) in [(HOST, mac(HOST)), (UPLINK, NEIGHBOUR)] {
        for src in [
            "0.0.0.0",
            "0.0.0.1",
            "127.0.0.1",
            "224.0.0.5",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "fe80::1234",
        ] {
            bench.drops(port, &to_b(port_mac(port), station, src), DropReason::SourceInvalid);
        }
    }
}

#[test]
fn dhcp_clients_beyond_pods_are_heard_and_not_served() {
    let mut bench = Bench::new();
    let frame = packet(BROADCAST, mac(HOST), "0.0.0.0", "255.255.255.255", UDP, &udp(68, 67, &[1; 240]));
    assert_eq!(bench.put(HOST, &frame).0, Verdict::Consume(ConsumeReason::Dhcp));
    let frame = packet(BROADCAST, mac(POD_A), "0.0.0.0", "255.255.255.255", UDP, &udp(68, 67, &[1; 240]));
    bench.drops(POD_A, &frame, DropReason::DhcpInvalid);
    let frame = packet(BROADCAST, mac(POD_A), "0.0.0.0", "255.255.255.255", UDP, &udp(68, 68, &[1; 240]));
    bench.drops(POD_A, &frame, DropReason::SourceAddressSpoofed);
    let frame = packet(BROADCAST, mac(POD_A), "0.0.0.0", "10.244.1.3", UDP, &udp(68, 67, &[1; 240]));
    bench.drops(POD_A, &frame, DropReason::SourceAddressSpoofed);
}

#[test]
fn link_local_sources_stay_on_their_link() {
    let mut bench = Bench::new();
    // mDNS of a pod, and DHCPv6 between relays: to a group, and not forwarded.
    for (group, port) in [("ff02::fb", 5353), ("ff05::1:3", 547)] {
        let dst = MacAddr::for_ipv6_multicast(v6(group));
        let frame = packet(dst, mac(POD_A), "fe80::abcd", group, UDP, &udp(546, port, &[]));
        bench.drops(POD_A, &frame, DropReason::Multicast);
    }
    // The gateway is on the link.
    let frame = ping(POD_A, "fe80::abcd", "fe80::1", b"x");
    let (verdict, reply) = bench.put(POD_A, &frame);
    assert_eq!(verdict, Verdict::Answer { fate: Fate::Consumed(ConsumeReason::Echo), output: by(POD_A) });
    assert_eq!((read(&reply).dst, read(&reply).dst_mac), (ip("fe80::abcd"), mac(POD_A)));
}
