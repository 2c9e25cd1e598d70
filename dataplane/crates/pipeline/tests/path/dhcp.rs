//! DHCP as smoltcp writes and reads it: what a pod's client is told in each of its states (RFC 2131, section 4.3.2).

use pipeline::{ConsumeReason, DropReason, Fate, Offload, Verdict};
use proptest::prelude::*;
use smoltcp::wire::{DhcpMessageType as Kind, DhcpPacket, DhcpRepr, EthernetAddress, IpAddress, UdpPacket};
use wire::MacAddr;

use crate::body::{POD_A, mac, port_mac};
use crate::frames::*;

const OWN: &str = "10.244.1.2";
const GATEWAY: &str = "169.254.1.1";
const ALL: &str = "255.255.255.255";
const NOBODY: &str = "0.0.0.0";
const XID: u32 = 0x1234_5678;

fn asks(kind: Kind) -> DhcpRepr<'static> {
    DhcpRepr {
        message_type: kind,
        transaction_id: XID,
        secs: 3,
        client_hardware_address: EthernetAddress(mac(POD_A).0),
        client_ip: v4(NOBODY),
        your_ip: v4(NOBODY),
        server_ip: v4(NOBODY),
        router: None,
        subnet_mask: None,
        relay_agent_ip: v4(NOBODY),
        broadcast: false,
        requested_ip: None,
        client_identifier: Some(EthernetAddress(mac(POD_A).0)),
        server_identifier: None,
        parameter_request_list: Some(&[1, 3, 6]),
        dns_servers: None,
        max_size: Some(576),
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    }
}

/// As a frame from the pod: to everybody, or to the gateway alone.
fn frame(message: &DhcpRepr<'_>, src: &str, dst: &str) -> Vec<u8> {
    let mut body = vec![0; message.buffer_len()];
    message.emit(&mut DhcpPacket::new_unchecked(&mut body[..])).unwrap();
    let mut datagram = udp(68, 67, &body);
    let (from, to) = (IpAddress::Ipv4(v4(src)), IpAddress::Ipv4(v4(dst)));
    UdpPacket::new_unchecked(&mut datagram[..]).fill_checksum(&from, &to);
    let station = if dst == ALL { BROADCAST } else { port_mac(POD_A) };
    packet(station, mac(POD_A), src, dst, UDP, &datagram)
}

/// The UDP payload of an answer, whose headers are right.
#[track_caller]
fn body(reply: &[u8], dst: &str, station: MacAddr) -> Vec<u8> {
    let read = read(reply);
    assert_eq!((read.src, read.dst), (ip(GATEWAY), ip(dst)));
    assert_eq!((read.src_mac, read.dst_mac), (port_mac(POD_A), station));
    let datagram = UdpPacket::new_checked(read.payload).unwrap();
    assert!(datagram.checksum() != 0);
    assert!(datagram.verify_checksum(&IpAddress::Ipv4(v4(GATEWAY)), &IpAddress::Ipv4(v4(dst))));
    assert_eq!((datagram.src_port(), datagram.dst_port()), (67, 68));
    datagram.payload().to_vec()
}

#[track_caller]
fn answered(bench: &mut Bench, frame: &[u8]) -> Vec<u8> {
    let (verdict, reply) = bench.put(POD_A, frame);
    assert_eq!(verdict, Verdict::Answer { fate: Fate::Consumed(ConsumeReason::Dhcp), output: by(POD_A) });
    reply
}

#[track_caller]
fn says_all(body: &[u8], kind: Kind, leased: bool) {
    let message = DhcpPacket::new_checked(body).unwrap();
    let told = DhcpRepr::parse(&message).unwrap();
    assert_eq!((told.message_type, told.transaction_id), (kind, XID));
    assert_eq!(told.client_hardware_address.0, mac(POD_A).0);
    assert_eq!(told.your_ip, v4(if leased { OWN } else { NOBODY }));
    assert_eq!((told.router, told.server_identifier), (Some(v4(GATEWAY)), Some(v4(GATEWAY))));
    assert_eq!(told.subnet_mask, Some(v4(ALL)));
    let times = (told.lease_duration, told.renew_duration, told.rebind_duration);
    assert_eq!(times, if leased { (Some(86_400), Some(43_200), Some(75_600)) } else { (None, None, None) });
    assert_eq!(told.client_identifier, Some(EthernetAddress(mac(POD_A).0)), "RFC 6842");
    let option = |kind: u8| message.options().find(|option| option.kind == kind).unwrap().data.to_vec();
    assert_eq!(option(26), 1500_u16.to_be_bytes());
    // RFC 3442: the gateway is on the link, all else goes by it.
    assert_eq!(option(121), [32, 169, 254, 1, 1, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
}

#[test]
fn a_client_is_offered_its_address_and_gets_it() {
    let mut bench = Bench::new();
    let reply = answered(&mut bench, &frame(&asks(Kind::Discover), NOBODY, ALL));
    says_all(&body(&reply, OWN, mac(POD_A)), Kind::Offer, true);
    let all = DhcpRepr { broadcast: true, ..asks(Kind::Discover) };
    let reply = answered(&mut bench, &frame(&all, NOBODY, ALL));
    says_all(&body(&reply, ALL, BROADCAST), Kind::Offer, true);

    // Selecting, rebooting, renewing, rebinding.
    let chosen =
        DhcpRepr { requested_ip: Some(v4(OWN)), server_identifier: Some(v4(GATEWAY)), ..asks(Kind::Request) };
    let reboots = DhcpRepr { server_identifier: None, ..chosen.clone() };
    let keeps = DhcpRepr { client_ip: v4(OWN), ..asks(Kind::Request) };
    for (message, src, dst) in
        [(&chosen, NOBODY, ALL), (&reboots, NOBODY, ALL), (&keeps, OWN, GATEWAY), (&keeps, OWN, ALL)]
    {
        let reply = answered(&mut bench, &frame(message, src, dst));
        says_all(&body(&reply, OWN, mac(POD_A)), Kind::Ack, true);
    }
    let informs = DhcpRepr { client_ip: v4(OWN), ..asks(Kind::Inform) };
    let reply = answered(&mut bench, &frame(&informs, OWN, GATEWAY));
    says_all(&body(&reply, OWN, mac(POD_A)), Kind::Ack, false);
}

#[test]
fn another_address_is_refused_to_everybodys_hearing() {
    let mut bench = Bench::new();
    for (requested, client) in [(Some("10.244.1.3"), NOBODY), (None, NOBODY)] {
        let message =
            DhcpRepr { requested_ip: requested.map(v4), client_ip: v4(client), ..asks(Kind::Request) };
        let reply = answered(&mut bench, &frame(&message, NOBODY, ALL));
        let body = body(&reply, ALL, BROADCAST);
        let told = DhcpPacket::new_checked(&body[..]).unwrap();
        let told = DhcpRepr::parse(&told).unwrap();
        assert_eq!((told.message_type, told.your_ip), (Kind::Nak, v4(NOBODY)));
        assert_eq!((told.router, told.lease_duration), (None, None));
        assert_eq!(told.server_identifier, Some(v4(GATEWAY)));
    }
}

#[test]
fn what_is_for_another_server_or_needs_no_answer_gets_none() {
    let mut bench = Bench::new();
    let elsewhere = DhcpRepr {
        requested_ip: Some(v4("192.0.2.50")),
        server_identifier: Some(v4("192.0.2.9")),
        ..asks(Kind::Request)
    };
    for message in [elsewhere, asks(Kind::Decline), asks(Kind::Release)] {
        let (verdict, _) = bench.put(POD_A, &frame(&message, NOBODY, ALL));
        assert_eq!(verdict, Verdict::Consume(ConsumeReason::Dhcp));
    }
}

#[test]
fn a_checksum_that_the_guest_left_is_finished_and_a_wrong_one_is_found() {
    let mut bench = Bench::new();
    let mut bytes = frame(&asks(Kind::Discover), NOBODY, ALL);
    let length = u16::from_be_bytes([bytes[38], bytes[39]]);
    let sum = wire::checksum::pseudo_header_v4(v4(NOBODY), v4(ALL), UDP, length);
    bytes[40..42].copy_from_slice(&wire::checksum::fold(sum).to_be_bytes());
    let put = bench.put_offloaded(POD_A, &bytes, Offload::Partial { start: 34, offset: 6 });
    assert!(matches!(put.verdict, Verdict::Answer { .. }), "{:?}", put.verdict);
    assert_eq!(put.packet.offload, Offload::Done);

    let mut bytes = frame(&asks(Kind::Discover), NOBODY, ALL);
    bytes[60] ^= 1;
    bench.drops(POD_A, &bytes, DropReason::DhcpInvalid);
    let other = DhcpRepr {
        client_hardware_address: EthernetAddress([2, 0, 0, 0, 9, 9]),
        client_identifier: None,
        ..asks(Kind::Discover)
    };
    bench.drops(POD_A, &frame(&other, NOBODY, ALL), DropReason::DhcpInvalid);
}

#[test]
fn a_pod_of_some_routes_is_told_of_those_and_of_no_router() {
    let mut bench = Bench::new();
    bench.restrict(POD_A, &["10.5.0.0/16", "fd05::/64", "10.6.7.128/25", "10.128.0.0/9"]);
    let offer = bench.put_now(POD_A, &frame(&asks(Kind::Discover), NOBODY, ALL), Offload::Done).packet.buffer;
    let body = body(pipeline::Buffer::head(&offer), OWN, mac(POD_A));
    let message = DhcpPacket::new_checked(&body[..]).unwrap();
    let option = |kind: u8| message.options().find(|option| option.kind == kind).map(|option| option.data);
    // RFC 3442: as many bytes of a prefix as count.
    let by = [169, 254, 1, 1];
    let routes = [&[32][..], &by, &[0; 4], &[16, 10, 5], &by, &[25, 10, 6, 7, 128], &by, &[9, 10, 128], &by];
    assert_eq!(option(121).unwrap(), routes.concat());
    assert_eq!(option(1).unwrap(), [255; 4]);
    // Neither a way to everywhere, nor what is there.
    assert_eq!([3, 6, 15, 119].map(option), [None; 4]);
    // As many as there may be have room.
    let many: Vec<String> = (0..16).map(|n| format!("10.0.0.{}/32", 16 + n)).collect();
    bench.restrict(POD_A, &many.iter().map(String::as_str).collect::<Vec<_>>());
    let offer = bench.put_now(POD_A, &frame(&asks(Kind::Discover), NOBODY, ALL), Offload::Done).packet.buffer;
    let body = self::body(pipeline::Buffer::head(&offer), OWN, mac(POD_A));
    let message = DhcpPacket::new_checked(&body[..]).unwrap();
    let routes = message.options().find(|option| option.kind == 121).unwrap().data;
    assert_eq!(routes.len(), 9 * 17);
}

proptest! {
    #[test]
    fn no_message_is_too_strange(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..700),
        plausible in any::<bool>(),
        id in proptest::collection::vec(any::<u8>(), 0..255),
    ) {
        if plausible {
            let mut body = vec![0; 300];
            asks(Kind::Discover).emit(&mut DhcpPacket::new_unchecked(&mut body[..])).unwrap();
            // Whatever it calls itself, over whatever it was: an identifier in front of all other options.
            body.splice(240..240, [&[61, u8::try_from(id.len()).unwrap()][..], &id].concat());
            bytes = body;
        }
        let datagram = udp(68, 67, &bytes);
        let frame = packet(BROADCAST, mac(POD_A), NOBODY, ALL, UDP, &datagram);
        let mut bench = Bench::new();
        let (verdict, reply) = bench.put(POD_A, &frame);
        match verdict {
            Verdict::Answer { .. } => {
                let body = body(&reply, OWN, mac(POD_A));
                let told = DhcpPacket::new_checked(&body[..]).unwrap();
                let back = told.options().find(|option| option.kind == 61).map(|option| option.data.to_vec());
                prop_assert!(!plausible || back == Some(id));
            }
            Verdict::Drop(DropReason::DhcpInvalid | DropReason::TransportTruncated) => prop_assert!(!plausible),
            Verdict::Consume(ConsumeReason::Dhcp) => prop_assert!(!plausible),
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn who_asks_is_told_of_names() {
    let mut bench = Bench::new();
    bench.change(|tables| {
        let servers = ["10.96.0.10", "fd00::10", "10.96.0.11"].map(ip).to_vec();
        let search = vec!["svc.a".to_owned(), "b".to_owned()];
        tables.set_resolver(tables::Resolver::new(servers, search).unwrap());
    });
    let reply = bench.put_now(POD_A, &frame(&asks(Kind::Discover), NOBODY, ALL), Offload::Done).packet.buffer;
    let bytes = pipeline::Buffer::head(&reply);
    let message = DhcpPacket::new_checked(&read(bytes).payload[8..]).unwrap();
    let option = |kind: u8| message.options().find(|option| option.kind == kind).unwrap().data;
    assert_eq!(option(6), [10, 96, 0, 10, 10, 96, 0, 11]);
    assert_eq!(option(15), b"svc.a");
    assert_eq!(option(119), b"\x03svc\x01a\0\x01b\0");
    // The longest there can be, to a client of the longest name.
    bench.change(|tables| {
        let servers = vec![ip("10.96.0.10"); 6];
        let search = vec![["a"; 126].join(".")];
        tables.set_resolver(tables::Resolver::new(servers, search).unwrap());
    });
    let identifier = [7; 255];
    let named = [smoltcp::wire::DhcpOption { kind: 61, data: &identifier }];
    let long = DhcpRepr { client_identifier: None, additional_options: &named, ..asks(Kind::Discover) };
    let reply = bench.put_now(POD_A, &frame(&long, NOBODY, ALL), Offload::Done).packet.buffer;
    let bytes = pipeline::Buffer::head(&reply);
    let message = DhcpPacket::new_checked(&read(bytes).payload[8..]).unwrap();
    let lengths = [61, 119, 15, 6].map(|kind| message.options().find(|o| o.kind == kind).unwrap().data.len());
    assert_eq!(lengths, [255, 253, 251, 24]);
}
