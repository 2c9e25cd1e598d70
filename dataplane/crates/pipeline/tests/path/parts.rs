//! What belongs to a connection without showing its ports, or to another's: fragments, and ICMP errors about its packets.

use pipeline::{DropReason, Offload, Output, Transport, Verdict};
use tables::{Backend, BackendState, Frontend, FrontendKey, Masquerade, NetworkId, PortId};

use crate::body::{POD_A, POD_B, UPLINK, mac};
use crate::frames::*;

const NET: NetworkId = NetworkId(0);

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.change(|tables| {
        for (vip, backend) in [("10.96.0.10", "10.244.1.3"), ("fd00:96::10", "fd00:1::3")] {
            let key = FrontendKey { network: NET, addr: ip(vip), port: 53, protocol: UDP };
            let backends = vec![Backend { addr: ip(backend), port: 5353, state: BackendState::Serving }];
            tables
                .set_frontend(Frontend {
                    key,
                    name: "default/dns".into(),
                    backends: backends.into(),
                    drops: false,
                    sources: vec![],
                    affinity: 0,
                })
                .unwrap();
        }
        let masquerade = Masquerade {
            source4: Some(v4("192.0.2.1")),
            source6: Some(v6("2001:db8:2::1")),
            ports: (50_000, 50_000),
            ..Masquerade::default()
        };
        tables.set_masquerade(NET, Some(masquerade)).unwrap();
    });
    bench
}

/// A fragment of `datagram`'s bytes from `offset` on, with `ident` as its identification.
fn piece(
    port: PortId,
    ends: (&str, &str),
    datagram: &[u8],
    bytes: std::ops::Range<usize>,
    ident: u8,
) -> Vec<u8> {
    let more = bytes.end < datagram.len();
    let units = u16::try_from(bytes.start / 8).unwrap();
    let data = &datagram[bytes];
    let whole = from(port, ends.0, ends.1, UDP, data);
    if ip(ends.0).is_ipv4() {
        let mut frame = edited_v4(&whole, 64, units | if more { 0x2000 } else { 0 }, &[]);
        frame[19] = ident;
        fill_header_checksum(&mut frame);
        frame
    } else {
        let [high, low] = (units << 3 | u16::from(more)).to_be_bytes();
        extended_v6(&whole, 44, [0, 0, high, low, 0, 0, 0, ident])
    }
}

#[test]
fn fragments_follow_the_first_through_a_service_in_any_order() {
    for (client, vip, backend) in
        [("10.244.1.2", "10.96.0.10", "10.244.1.3"), ("fd00:1::2", "fd00:96::10", "fd00:1::3")]
    {
        let mut bench = bench();
        let datagram = udp(4000, 53, &[7; 40]);
        let header = if ip(client).is_ipv4() { 34 } else { 62 };
        let part = |bytes| piece(POD_A, (client, vip), &datagram, bytes, 1);
        // One before the first waits for it, one behind it follows at once.
        let early = part(32..48);
        let (verdict, unchanged) = bench.send(POD_A, &early);
        let Verdict::Hold(ticket) = verdict else { panic!("{verdict:?}") };
        assert_eq!(unchanged, early);
        let packet = pipeline::Packet {
            buffer: pipeline::VecBuffer::with_capacity(&early, 2048),
            in_port: POD_A,
            offload: Offload::Done,
        };
        bench.router.hold(ticket, packet).unwrap();
        assert_eq!(bench.router.held(), 1);
        let (verdict, first) = bench.send(POD_A, &part(0..16));
        assert_eq!(verdict, Verdict::Forward(by(POD_B)));
        assert_eq!(read(&first).dst, ip(backend));
        assert_eq!(first[header..header + 4], [0x0f, 0xa0, 0x14, 0xe9]);
        let mut released = Vec::new();
        assert_eq!(
            bench.router.release(8, |transport, packet| released.push((transport.unwrap(), packet))),
            1
        );
        let (transport, mut packet) = released.pop().unwrap();
        assert_eq!(transport, Transport { protocol: UDP, src_port: 4000, dst_port: 53 });
        let verdict = bench.router.follow(&bench.tables, bench.now, &mut packet, transport);
        assert_eq!(verdict, Verdict::Forward(by(POD_B)));
        let (verdict, last) = bench.send(POD_A, &part(16..32));
        assert_eq!(verdict, Verdict::Forward(by(POD_B)));
        for (frame, bytes) in [(pipeline::Buffer::head(&packet.buffer), 32..48), (&last, 16..32)] {
            assert_eq!((read(frame).dst, read(frame).dst_mac), (ip(backend), mac(POD_B)));
            assert_eq!(frame[header..], datagram[bytes]);
        }
        // A byte for the second time ends it.
        assert!(matches!(
            bench.send(POD_A, &piece(POD_A, (client, vip), &datagram, 16..32, 2)).0,
            Verdict::Hold(_)
        ));
        let again = piece(POD_A, (client, vip), &datagram, 24..40, 2);
        assert_eq!(bench.send(POD_A, &again).0, Verdict::Drop(DropReason::FragmentOverlap));
    }
}

#[test]
fn fragments_of_what_a_pod_says_to_itself_by_a_service_come_back_to_it() {
    let mut bench = bench();
    for (pod, vip, gateway) in
        [("10.244.1.2", "10.96.0.10", "169.254.1.1"), ("fd00:1::2", "fd00:96::10", "fe80::1")]
    {
        bench.change(|tables| {
            let key = FrontendKey { network: NET, addr: ip(vip), port: 53, protocol: UDP };
            let backends = vec![Backend { addr: ip(pod), port: 5353, state: BackendState::Serving }];
            tables
                .set_frontend(Frontend {
                    key,
                    name: "default/dns".into(),
                    backends: backends.into(),
                    drops: false,
                    sources: vec![],
                    affinity: 0,
                })
                .unwrap();
        });
        let (asked, answered) = (udp(4000, 53, &[7; 40]), udp(5353, 4000, &[8; 40]));
        for (to, datagram, src) in [(vip, asked, gateway), (gateway, answered, vip)] {
            for bytes in [0..16, 16..48] {
                let (verdict, part) = bench.send(POD_A, &piece(POD_A, (pod, to), &datagram, bytes, 1));
                assert_eq!(verdict, Verdict::Forward(by(POD_A)));
                assert_eq!((read(&part).src, read(&part).dst), (ip(src), ip(pod)));
            }
        }
    }
}

#[test]
fn a_spoofed_fragment_takes_no_part() {
    let mut bench = bench();
    let datagram = udp(4000, 53, &[7; 40]);
    let spoofed = piece(POD_B, ("10.244.1.2", "10.244.1.5"), &datagram, 16..32, 1);
    assert_eq!(bench.send(POD_B, &spoofed).0, Verdict::Drop(DropReason::SourceAddressSpoofed));
    let own = piece(POD_A, ("10.244.1.2", "10.244.1.5"), &datagram, 0..16, 1);
    assert_eq!(bench.send(POD_A, &own).0, Verdict::Forward(by(PortId(5))));
    let rest = piece(POD_A, ("10.244.1.2", "10.244.1.5"), &datagram, 16..32, 1);
    assert_eq!(bench.send(POD_A, &rest).0, Verdict::Forward(by(PortId(5))));
}

/// The error that `router` sends to `to` about the packet in `frame`.
fn error(port: PortId, router: &str, to: &str, frame: &[u8]) -> Vec<u8> {
    let quote = &frame[14..frame.len().min(14 + 64)];
    if ip(to).is_ipv4() {
        from(port, router, to, ICMP, &icmp4(3, 4, &[&[0, 0, 5, 0][..], quote].concat()))
    } else {
        from(port, router, to, ICMPV6, &icmp6(router, to, 2, 0, &[&[0, 0, 5, 0][..], quote].concat()))
    }
}

#[test]
fn errors_about_translated_packets_reach_their_sender_in_its_own_terms() {
    for (pod, far, own, router) in [
        ("10.244.1.2", "198.51.100.7", "192.0.2.1", "198.51.100.254"),
        ("fd00:1::2", "2001:db8:100::7", "2001:db8:2::1", "2001:db8:100::fe"),
    ] {
        let mut bench = bench();
        let sent = from(POD_A, pod, far, UDP, &udp(999, 443, b"data"));
        let (verdict, out) = bench.send(POD_A, &sent);
        assert!(matches!(verdict, Verdict::Forward(Output::Neighbour { port: UPLINK, .. })));
        assert_eq!(read(&out).src, ip(own));
        // From a router on the way, and from the far end itself.
        for speaker in [router, far] {
            let (verdict, back) = bench.send(UPLINK, &error(UPLINK, speaker, own, &out));
            assert_eq!(verdict, Verdict::Forward(by(POD_A)));
            let read = read(&back);
            assert_eq!((read.src, read.dst, read.dst_mac), (ip(speaker), ip(pod), mac(POD_A)));
            let (_, _, rest) = read.icmp();
            // The quote is what the pod sent, but for the hop that it took.
            let l3 = &rest[4..];
            let mut want = sent[14..].to_vec();
            if ip(pod).is_ipv4() {
                want[8] -= 1;
                smoltcp::wire::Ipv4Packet::new_unchecked(&mut want[..]).fill_checksum();
            } else {
                want[7] -= 1;
            }
            assert_eq!(l3[..want.len()], want);
        }
        // About a connection that nobody knows: to the router's own address, and nothing more.
        let mut strange = out.clone();
        let at = if ip(pod).is_ipv4() { 34 } else { 54 };
        strange[at] ^= 1;
        let verdict = bench.send(UPLINK, &error(UPLINK, router, own, &strange)).0;
        assert_eq!(verdict, Verdict::Drop(DropReason::NoService));
    }
}

#[test]
fn errors_from_behind_a_service_speak_with_its_address() {
    let mut bench = bench();
    let (verdict, asked) =
        bench.send(POD_A, &from(POD_A, "10.244.1.2", "10.96.0.10", UDP, &udp(999, 53, b"?")));
    assert_eq!(verdict, Verdict::Forward(by(POD_B)));
    let (verdict, back) = bench.send(POD_B, &error(POD_B, "10.244.1.3", "10.244.1.2", &asked));
    assert_eq!(verdict, Verdict::Forward(by(POD_A)));
    let read = read(&back);
    assert_eq!((read.src, read.dst), (ip("10.96.0.10"), ip("10.244.1.2")));
    let (_, _, rest) = read.icmp();
    assert_eq!(rest[4 + 12..4 + 20], [10, 244, 1, 2, 10, 96, 0, 10]);
    assert_eq!(rest[4 + 20..4 + 24], [0x03, 0xe7, 0, 53]);
}
