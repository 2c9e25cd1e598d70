//! What is addressed to the router: pings, and all else.

use pipeline::{ConsumeReason, DropReason, Fate, Offload, Output, Verdict};

use crate::body::{HOST, POD_A, UPLINK, UPLINK2, mac, port_mac};
use crate::frames::*;

const ECHO: Fate = Fate::Consumed(ConsumeReason::Echo);

/// A ping is answered from the address pinged, with its data.
#[track_caller]
fn answers(bench: &mut Bench, port: tables::PortId, src: &str, dst: &str, data: &[u8], output: Output) {
    let (verdict, reply) = bench.put(port, &ping(port, src, dst, data));
    assert_eq!(verdict, Verdict::Answer { fate: ECHO, output });
    is_reply(&reply, src, dst, data);
    assert_eq!(read(&reply).src_mac, port_mac(output.port()));
}

#[track_caller]
fn is_reply(reply: &[u8], src: &str, dst: &str, data: &[u8]) {
    let read = read(reply);
    assert_eq!((read.src, read.dst, read.hops), (ip(dst), ip(src), 64));
    let kind = if read.src.is_ipv4() { 0 } else { 129 };
    assert_eq!(read.icmp(), (kind, 0, &[&[1, 2, 0, 3], data].concat()[..]));
}

#[test]
fn pings_to_the_router_are_answered() {
    let mut bench = Bench::new();
    for data in [&b""[..], b"odd", &[7; 1400]] {
        for gateway in ["169.254.1.1", "192.0.2.1", "172.16.0.1"] {
            answers(&mut bench, POD_A, "10.244.1.2", gateway, data, by(POD_A));
            answers(&mut bench, HOST, "10.0.0.10", gateway, data, by(HOST));
        }
        for gateway in ["fe80::1", "2001:db8:2::1"] {
            answers(&mut bench, POD_A, "fd00:1::2", gateway, data, by(POD_A));
            answers(&mut bench, HOST, "fe80::abc", gateway, data, by(HOST));
        }
    }
    // On the uplink the answer goes by the route to the one who asked, but straight to a link-local address.
    let to = |hop: &str| Output::Neighbour { port: UPLINK, next_hop: ip(hop) };
    answers(&mut bench, UPLINK, "192.0.2.9", "192.0.2.1", b"x", to("192.0.2.9"));
    answers(&mut bench, UPLINK, "198.51.100.1", "192.0.2.1", b"x", to("192.0.2.254"));
    answers(&mut bench, UPLINK, "2001:db8:100::1", "2001:db8:2::1", b"x", to("2001:db8:2::fe"));
    answers(&mut bench, UPLINK, "fe80::9", "2001:db8:2::1", b"x", by(UPLINK));
    answers(&mut bench, UPLINK, "fe80::9", "fe80::ff:fe00:4", b"x", by(UPLINK));
    answers(&mut bench, UPLINK2, "fe80::9", "fe80::8", b"x", by(UPLINK2));
    let (_, reply) = bench.put(UPLINK, &ping(UPLINK, "fe80::9", "fe80::ff:fe00:4", b"x"));
    assert_eq!(read(&reply).dst_mac, NEIGHBOUR);
    let (_, reply) = bench.put(POD_A, &ping(POD_A, "10.244.1.2", "169.254.1.1", b"x"));
    assert_eq!(read(&reply).dst_mac, mac(POD_A));
    // A TTL of 1 reaches the router itself.
    let frame = with_hop_limit(ping(POD_A, "10.244.1.2", "169.254.1.1", b"x"), 1);
    assert!(matches!(bench.put(POD_A, &frame).0, Verdict::Answer { fate: ECHO, .. }));
}

/// A message of nothing but zeros sums to zero, and its checksum is all ones: the difference from the request's is not.
#[test]
fn a_ping_of_zeros_gets_a_right_checksum() {
    let mut bench = Bench::new();
    let frame = from(POD_A, "10.244.1.2", "169.254.1.1", ICMP, &icmp4(8, 0, &[0; 40]));
    let (verdict, reply) = bench.put(POD_A, &frame);
    assert_eq!(verdict, Verdict::Answer { fate: ECHO, output: by(POD_A) });
    assert_eq!(read(&reply).payload[..8], [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
}

#[test]
fn replies_are_plain() {
    let mut bench = Bench::new();
    let request = ping(POD_A, "10.244.1.2", "169.254.1.1", b"data");
    let request = edited_v4(&request, 9, 0, &[7, 7, 4, 0, 0, 0, 0, 0]);
    let (verdict, reply) = bench.put(POD_A, &request);
    assert_eq!(verdict, Verdict::Answer { fate: ECHO, output: by(POD_A) });
    is_reply(&reply, "10.244.1.2", "169.254.1.1", b"data");
    // Identification and DF are the asker's.
    assert_eq!((reply[14], &reply[18..22]), (0x45, &[0x12, 0x34, 0, 0][..]));
    let request = extended_v6(&ping(POD_A, "fd00:1::2", "fe80::1", b"data"), 60, [0, 0, 1, 4, 0, 0, 0, 0]);
    let (verdict, reply) = bench.put(POD_A, &request);
    assert_eq!(verdict, Verdict::Answer { fate: ECHO, output: by(POD_A) });
    is_reply(&reply, "fd00:1::2", "fe80::1", b"data");
}

#[test]
fn an_unfinished_checksum_is_finished_first() {
    let mut bench = Bench::new();
    let mut request = ping(POD_A, "10.244.1.2", "169.254.1.1", b"data");
    request[36..38].fill(0);
    let put = bench.put_offloaded(POD_A, &request, Offload::Partial { start: 34, offset: 2 });
    assert_eq!(put.packet.offload, Offload::Done);
    let (verdict, reply) = put.into();
    assert_eq!(verdict, Verdict::Answer { fate: ECHO, output: by(POD_A) });
    is_reply(&reply, "10.244.1.2", "169.254.1.1", b"data");
    bench.drops(POD_A, &request, DropReason::IcmpChecksumWrong);
}

#[test]
fn replies_fit_the_way_back() {
    // In by a port of 1,500, back by one of 1,280: the asker is the narrow pod's address, said by the host.
    let mut bench = Bench::new();
    let frame = ping(HOST, "10.244.1.5", "169.254.1.1", &[0; 1300]);
    bench.drops(HOST, &frame, DropReason::PacketTooBig);
}

#[test]
fn what_the_router_does_not_answer() {
    let mut bench = Bench::new();
    let gateway = "169.254.1.1";
    let icmp = |kind, code, data: &[u8]| from(POD_A, "10.244.1.2", gateway, ICMP, &icmp4(kind, code, data));
    // Answers and errors to us, and what nobody asks any more.
    for kind in [0, 3, 4, 5, 11, 12, 13, 17] {
        bench.drops(POD_A, &icmp(kind, 0, &[0; 36]), DropReason::NoService);
    }
    let mut wrong = icmp(8, 0, &[0; 8]);
    wrong[36] ^= 1;
    bench.drops(POD_A, &wrong, DropReason::IcmpChecksumWrong);
    for kind in [1, 2, 3, 4, 129, 139] {
        let message = icmp6("fd00:1::2", "fe80::1", kind, 0, &[0; 52]);
        bench.drops(POD_A, &from(POD_A, "fd00:1::2", "fe80::1", ICMPV6, &message), DropReason::NoService);
    }
    let mut wrong = ping(POD_A, "fd00:1::2", "fe80::1", b"data");
    wrong[56] ^= 1;
    bench.drops(POD_A, &wrong, DropReason::IcmpChecksumWrong);
    for protocol in [TCP, 132, 47] {
        bench.drops(
            POD_A,
            &from(POD_A, "10.244.1.2", gateway, protocol, &tcp(2, &[])),
            DropReason::NoService,
        );
        bench.drops(
            POD_A,
            &from(POD_A, "fd00:1::2", "fe80::1", protocol, &tcp(2, &[])),
            DropReason::NoService,
        );
    }
    for (offset, len) in [(0x2000, 16), (2, 9)] {
        let part = from(POD_A, "10.244.1.2", gateway, UDP, &[1; 24][..len]);
        bench.drops(POD_A, &edited_v4(&part, 64, offset, &[]), DropReason::FragmentToRouter);
    }
    let part = extended_v6(&from(POD_A, "fd00:1::2", "fe80::1", UDP, &[1; 16]), 44, [0, 0, 0, 1, 0, 0, 0, 7]);
    bench.drops(POD_A, &part, DropReason::FragmentToRouter);
    // To all: never.
    for (dst_mac, dst) in
        [(BROADCAST, "255.255.255.255"), (port_mac(POD_A), "192.0.2.255"), (BROADCAST, "224.0.0.1")]
    {
        let frame = packet(dst_mac, mac(POD_A), "10.244.1.2", dst, ICMP, &icmp4(8, 0, &[0; 8]));
        bench.drops(POD_A, &frame, DropReason::Multicast);
    }
    let frame = packet(BROADCAST, mac(POD_A), "10.244.1.2", gateway, ICMP, &icmp4(8, 0, &[0; 8]));
    bench.drops(POD_A, &frame, DropReason::NotForUs);
    let message = icmp6("fd00:1::2", "ff02::1", 128, 0, &[0; 8]);
    let all = wire::MacAddr::for_ipv6_multicast(v6("ff02::1"));
    let frame = packet(all, mac(POD_A), "fd00:1::2", "ff02::1", ICMPV6, &message);
    bench.drops(POD_A, &frame, DropReason::Multicast);
    // A spoofed source gets no answer.
    bench.drops(POD_A, &ping(POD_A, "10.244.1.3", gateway, b"x"), DropReason::SourceAddressSpoofed);
}
