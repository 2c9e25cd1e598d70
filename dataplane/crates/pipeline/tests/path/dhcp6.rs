//! DHCPv6, message by message: what a pod's client is told (RFC 8415, section 18.3), and router advertisements that send it there.

use pipeline::{ConsumeReason, DropReason, Fate, Offload, Verdict, advertisement_frame};
use proptest::prelude::*;
use smoltcp::wire::{Icmpv6Packet, IpAddress, Ipv6Packet, NdiscRepr, NdiscRouterFlags, UdpPacket};
use wire::MacAddr;

use crate::body::{HOST, NARROW, POD_A, UPLINK, mac, port_mac};
use crate::frames::*;

const OWN: &str = "fd00:1::2";
const CLIENT: &str = "fe80::77";
const GATEWAY: &str = "fe80::1";
const SERVERS: &str = "ff02::1:2";
/// DUID-LL of the router's MAC.
const SERVER: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0xaa, 0, 0, 0, 1];
const IAID: [u8; 4] = [1, 2, 3, 4];

fn option(code: u16, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap();
    [&code.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

fn address(text: &str, preferred: u32, valid: u32) -> Vec<u8> {
    option(5, &[&v6(text).octets()[..], &preferred.to_be_bytes(), &valid.to_be_bytes()].concat())
}

/// An IA_NA, with times of none.
fn ia(inner: &[Vec<u8>]) -> Vec<u8> {
    option(3, &[&IAID[..], &[0; 8], &inner.concat()].concat())
}

fn status(code: u8) -> Vec<u8> {
    option(13, &[0, code])
}

fn message(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    [&[kind, 7, 8, 9][..], &options.concat()].concat()
}

fn frame_to(dst: &str, body: &[u8]) -> Vec<u8> {
    let mut datagram = udp(546, 547, body);
    let (from, to) = (IpAddress::Ipv6(v6(CLIENT)), IpAddress::Ipv6(v6(dst)));
    UdpPacket::new_unchecked(&mut datagram[..]).fill_checksum(&from, &to);
    let station = if dst == SERVERS { MacAddr::for_ipv6_multicast(v6(dst)) } else { port_mac(POD_A) };
    packet(station, mac(POD_A), CLIENT, dst, UDP, &datagram)
}

/// What is answered to a message to the group, behind its headers, which are right; nothing if it is only heard.
#[track_caller]
fn answered_to(dst: &str, body: &[u8]) -> Option<Vec<u8>> {
    let (verdict, reply) = Bench::new().put(POD_A, &frame_to(dst, body));
    if verdict == Verdict::Consume(ConsumeReason::Dhcp) {
        return None;
    }
    assert_eq!(verdict, Verdict::Answer { fate: Fate::Consumed(ConsumeReason::Dhcp), output: by(POD_A) });
    let read = read(&reply);
    assert_eq!((read.src, read.dst), (ip(GATEWAY), ip(CLIENT)));
    assert_eq!((read.src_mac, read.dst_mac), (port_mac(POD_A), mac(POD_A)));
    assert!(read.transport_checksum_is_right(UDP));
    let datagram = UdpPacket::new_checked(read.payload).unwrap();
    assert_eq!((datagram.src_port(), datagram.dst_port()), (547, 546));
    Some(datagram.payload().to_vec())
}

#[track_caller]
fn answered(kind: u8, options: &[Vec<u8>]) -> Option<Vec<u8>> {
    answered_to(SERVERS, &message(kind, options))
}

fn client() -> Vec<u8> {
    option(1, &DUID)
}

fn server() -> Vec<u8> {
    option(2, &SERVER)
}

/// The IA as it is granted: half a day, seven eighths, a day.
fn granted(more: &[Vec<u8>]) -> Vec<u8> {
    let times = [&43_200_u32.to_be_bytes()[..], &75_600_u32.to_be_bytes()].concat();
    option(3, &[&IAID[..], &times, &address(OWN, 86_400, 86_400), &more.concat()].concat())
}

#[test]
fn a_client_is_offered_its_address_and_gets_it() {
    let offer = answered(1, &[client(), ia(&[])]).unwrap();
    assert_eq!(offer, message(2, &[client(), server(), granted(&[])]));
    let reply = message(7, &[client(), server(), granted(&[])]);
    assert_eq!(answered(3, &[client(), server(), ia(&[address(OWN, 0, 0)])]).unwrap(), reply);
    let rapid = answered(1, &[option(14, &[]), client(), ia(&[])]).unwrap();
    assert_eq!(rapid, message(7, &[client(), server(), option(14, &[]), granted(&[])]));
}

#[test]
fn it_keeps_it_and_loses_what_was_never_its() {
    let reply = message(7, &[client(), server(), granted(&[])]);
    assert_eq!(answered(5, &[client(), server(), ia(&[address(OWN, 9, 9)])]).unwrap(), reply);
    assert_eq!(answered(6, &[client(), ia(&[address(OWN, 9, 9)])]).unwrap(), reply);
    let other = answered(6, &[client(), ia(&[address("fd00:1::3", 9, 9)])]).unwrap();
    let over = address("fd00:1::3", 0, 0);
    assert_eq!(other, message(7, &[client(), server(), granted(&[over])]));
    for (asked, code) in [(OWN, 0), ("fd00:1::3", 4)] {
        let told = answered(4, &[client(), ia(&[address(asked, 0, 0)])]).unwrap();
        assert_eq!(told, message(7, &[client(), server(), status(code)]), "{asked}");
    }
    assert_eq!(answered(4, &[client(), ia(&[])]), None, "it has nothing in mind");
    for kind in [8, 9] {
        let told = answered(kind, &[client(), server(), ia(&[address(OWN, 0, 0)])]).unwrap();
        assert_eq!(told, message(7, &[client(), server(), status(0)]));
    }
}

#[test]
fn what_is_not_given_is_refused_by_its_status() {
    let second = option(3, &[9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
    let none = |code| option(3, &[&[9, 9, 9, 9][..], &[0; 8], &status(code)].concat());
    let offer = answered(1, &[client(), ia(&[]), second.clone()]).unwrap();
    assert_eq!(offer, message(2, &[client(), server(), granted(&[]), none(2)]));
    let reply = answered(5, &[client(), server(), ia(&[]), second]).unwrap();
    assert_eq!(reply, message(7, &[client(), server(), granted(&[]), none(3)]));
    // Temporary addresses and prefixes.
    let offer =
        answered(1, &[client(), option(4, &IAID), option(25, &[&IAID[..], &[0; 8]].concat())]).unwrap();
    let temporary = option(4, &[&IAID[..], &status(2)].concat());
    let prefix = option(25, &[&IAID[..], &[0; 8], &status(6)].concat());
    assert_eq!(offer, message(2, &[client(), server(), temporary, prefix]));
}

#[test]
fn who_only_wants_to_know_is_told() {
    assert_eq!(answered(11, &[client()]).unwrap(), message(7, &[client(), server()]));
    assert_eq!(answered(11, &[option(6, &[0, 23])]).unwrap(), message(7, &[server()]));
}

#[test]
fn who_speaks_to_the_server_alone_is_told_not_to() {
    for kind in [3, 5, 8, 9] {
        let told = answered_to(GATEWAY, &message(kind, &[client(), server(), ia(&[])])).unwrap();
        assert_eq!(told, message(7, &[client(), server(), status(5)]));
    }
    assert_eq!(answered_to(GATEWAY, &message(1, &[client(), ia(&[])])), None);
}

#[test]
fn a_pod_without_an_address_gets_none_and_hears_of_no_router() {
    let mut bench = Bench::new();
    let mut pod = bench.tables.endpoint_by_name("endpoint-1").unwrap().clone();
    pod.addresses.retain(std::net::IpAddr::is_ipv4);
    bench.change(|tables| {
        tables.set_endpoint(pod).unwrap();
    });
    let frame = frame_to(SERVERS, &message(1, &[client(), ia(&[])]));
    let reply = bench.put_now(POD_A, &frame, Offload::Done).packet.buffer;
    let ia = option(3, &[&IAID[..], &[0; 8], &status(2)].concat());
    assert_eq!(read(pipeline::Buffer::head(&reply)).payload[8..], message(2, &[client(), server(), ia]));
    let solicits = bench.put_now(POD_A, &solicitation(CLIENT), Offload::Done);
    assert_eq!(solicits.verdict, Verdict::Consume(ConsumeReason::Nd));
    assert_eq!(advertisement_frame(&bench.tables, POD_A), None);
}

#[test]
fn who_is_no_client_of_ours_is_not_answered() {
    let other = option(2, &[0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
    for kind in [3, 5, 8, 9, 11] {
        assert_eq!(answered(kind, &[client(), other.clone()]), None, "another server's");
    }
    let long = option(1, &[0; 131]);
    let cut = [&client()[..], &[0, 3, 0, 40, 1]].concat();
    let mut bench = Bench::new();
    for bad in [
        vec![],
        vec![1, 2, 3],
        message(1, &[]),
        message(1, &[client(), server()]),
        message(3, &[client()]),
        message(4, &[client(), server()]),
        message(6, &[client(), server()]),
        message(11, &[client(), ia(&[])]),
        message(2, &[client(), server()]),
        message(7, &[client(), server()]),
        message(12, &[client()]),
        message(1, &[long]),
        message(1, &[cut]),
        message(1, &[client(), option(3, &[0; 11])]),
        message(1, &[client(), ia(&[option(5, &[0; 23])])]),
    ] {
        bench.drops(POD_A, &frame_to(SERVERS, &bad), DropReason::DhcpInvalid);
    }
    let mut wrong = frame_to(SERVERS, &message(1, &[client()]));
    wrong[60] ^= 1;
    bench.drops(POD_A, &wrong, DropReason::DhcpInvalid);
    wrong[60..62].fill(0);
    bench.drops(POD_A, &wrong, DropReason::DhcpInvalid);
    // Beyond pods there are no clients.
    let station = MacAddr::for_ipv6_multicast(v6(SERVERS));
    for (port, sender) in [(HOST, mac(HOST)), (UPLINK, NEIGHBOUR)] {
        let frame = packet(station, sender, CLIENT, SERVERS, UDP, &udp(546, 547, &[1; 40]));
        assert_eq!(bench.put(port, &frame).0, Verdict::Consume(ConsumeReason::Dhcp));
    }
    let spoofed = packet(station, mac(POD_A), "fd00:1::3", SERVERS, UDP, &udp(546, 547, &[1; 40]));
    bench.drops(POD_A, &spoofed, DropReason::SourceAddressSpoofed);
}

fn solicitation(src: &str) -> Vec<u8> {
    let dst = "ff02::2";
    let message = icmp6(src, dst, 133, 0, &[0; 4]);
    let frame = packet(MacAddr::for_ipv6_multicast(v6(dst)), mac(POD_A), src, dst, ICMPV6, &message);
    with_hop_limit(frame, 255)
}

/// The advertisement of a port with this MTU, as smoltcp reads it.
#[track_caller]
fn advertises(frame: &[u8], port: tables::PortId, dst: &str, station: MacAddr, mtu: u32) {
    let read = read(frame);
    assert_eq!((read.src, read.dst, read.hops), (ip(GATEWAY), ip(dst), 255));
    assert_eq!((read.src_mac, read.dst_mac), (port_mac(port), station));
    assert_eq!(read.icmp().0, 134);
    let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    let NdiscRepr::RouterAdvert { flags, router_lifetime, lladdr, mtu: told, prefix_info, hop_limit, .. } =
        NdiscRepr::parse(&icmp).unwrap()
    else {
        panic!("no advertisement");
    };
    assert_eq!(flags, NdiscRouterFlags::MANAGED | NdiscRouterFlags::OTHER);
    assert_eq!((router_lifetime.secs(), hop_limit, told), (9_000, 64, Some(mtu)));
    assert_eq!(lladdr.unwrap().as_bytes(), port_mac(port).0);
    assert!(prefix_info.is_none(), "nothing else is on the link");
}

#[test]
fn pods_are_told_of_their_gateway() {
    let mut bench = Bench::new();
    let everyone = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    for (src, dst, station) in
        [(CLIENT, CLIENT, mac(POD_A)), (OWN, OWN, mac(POD_A)), ("::", "ff02::1", everyone)]
    {
        let (verdict, reply) = bench.put(POD_A, &solicitation(src));
        assert_eq!(verdict, Verdict::Answer { fate: Fate::Consumed(ConsumeReason::Nd), output: by(POD_A) });
        advertises(&reply, POD_A, dst, station, 1500);
    }
    advertises(&advertisement_frame(&bench.tables, NARROW).unwrap(), NARROW, "ff02::1", everyone, 1280);
    for port in [HOST, UPLINK, crate::body::IDLE] {
        assert_eq!(advertisement_frame(&bench.tables, port), None);
    }
}

#[test]
fn a_guest_may_leave_the_checksum_to_us() {
    let body = message(1, &[client(), ia(&[])]);
    let mut frame = frame_to(SERVERS, &body);
    let len = u32::try_from(8 + body.len()).unwrap();
    let pseudo = wire::checksum::pseudo_header_v6(v6(CLIENT), v6(SERVERS), 17, len);
    frame[60..62].copy_from_slice(&wire::checksum::fold(pseudo).to_be_bytes());
    let put = Bench::new().put_offloaded(POD_A, &frame, Offload::Partial { start: 54, offset: 6 });
    assert!(matches!(put.verdict, Verdict::Answer { .. }), "{:?}", put.verdict);
}

fn names() -> tables::Resolver {
    let servers = ["10.96.0.10", "fd00::10", "fd00::11"].map(ip).to_vec();
    tables::Resolver::new(servers, vec!["svc.a".to_owned(), "b".to_owned()]).unwrap()
}

#[test]
fn who_asks_is_told_of_names() {
    let mut bench = Bench::new();
    bench.change(|tables| tables.set_resolver(names()));
    let servers = option(23, &[v6("fd00::10").octets(), v6("fd00::11").octets()].concat());
    let told = [servers, option(24, b"\x03svc\x01a\0\x01b\0")].concat();
    for (kind, named) in [(1, false), (3, true), (5, true), (6, false), (11, false)] {
        let mut options = vec![client()];
        options.extend(named.then(server));
        let reply = bench.put_now(POD_A, &frame_to(SERVERS, &message(kind, &options)), Offload::Done);
        let frame = pipeline::Buffer::head(&reply.packet.buffer);
        let first = if kind == 1 { 2 } else { 7 };
        assert_eq!(read(frame).payload[8..], message(first, &[client(), server(), told.clone()]), "{kind}");
    }
    // One that confirms, releases or declines has no use for them.
    let release = frame_to(SERVERS, &message(8, &[client(), server()]));
    let reply = bench.put_now(POD_A, &release, Offload::Done).packet.buffer;
    let plain = message(7, &[client(), server(), status(0)]);
    assert_eq!(read(pipeline::Buffer::head(&reply)).payload[8..], plain);

    // RFC 8106: lengths in units of eight bytes, names padded.
    let frame = advertisement_frame(&bench.tables, POD_A).unwrap();
    advertises(&frame, POD_A, "ff02::1", MacAddr([0x33, 0x33, 0, 0, 0, 1]), 1500);
    let lifetime = 9_000_u32.to_be_bytes();
    let servers =
        [&[25, 5, 0, 0][..], &lifetime, &v6("fd00::10").octets(), &v6("fd00::11").octets()].concat();
    let search = [&[31, 3, 0, 0][..], &lifetime, b"\x03svc\x01a\0\x01b\0", &[0; 6]].concat();
    assert_eq!(frame[14 + 40 + 32..], [servers, search].concat());
}

#[test]
fn a_pod_of_some_routes_is_told_of_those_and_of_no_default() {
    let mut bench = Bench::new();
    bench.restrict(POD_A, &["10.5.0.0/16", "fd05::/64", "fd06::7:0/112", "::/0", "fd80::/9"]);
    let frame = advertisement_frame(&bench.tables, POD_A).unwrap();
    let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    let NdiscRepr::RouterAdvert { router_lifetime, .. } = NdiscRepr::parse(&icmp).unwrap() else { panic!() };
    assert_eq!(router_lifetime.secs(), 0);
    // RFC 4191, section 2.3, and nothing of names.
    let lifetime = 9_000_u32.to_be_bytes();
    let route = |prefix: &str, len: u8, units: u8| {
        let bytes = usize::from(units - 1) * 8;
        [&[24, units, len, 0][..], &lifetime, &v6(prefix).octets()[..bytes]].concat()
    };
    let routes = [("fd05::", 64, 2), ("fd06::7:0", 112, 3), ("::", 0, 2), ("fd80::", 9, 2)];
    let routes = routes.map(|(prefix, len, units)| route(prefix, len, units));
    assert_eq!(frame[14 + 40 + 32..], routes.concat());
    let many: Vec<String> = (0..16).map(|n| format!("fd00::{n}/128")).collect();
    bench.restrict(POD_A, &many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(advertisement_frame(&bench.tables, POD_A).unwrap().len(), 14 + 40 + 32 + 16 * 24);
    let asked = frame_to(SERVERS, &message(3, &[client(), server()]));
    let reply = bench.put_now(POD_A, &asked, Offload::Done).packet.buffer;
    assert_eq!(read(pipeline::Buffer::head(&reply)).payload[8..], message(7, &[client(), server()]));
}

fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(DUID.to_vec()),
        Just(SERVER.to_vec()),
        prop::collection::vec(prop_oneof![Just(OWN), Just("fd00:1::3")], 0..12).prop_map(|addresses| {
            let inner: Vec<_> = addresses.into_iter().map(|one| address(one, 1, 2)).collect();
            [&[5; 12][..], &inner.concat()].concat()
        }),
    ];
    (prop_oneof![1_u16..6, Just(14), Just(25), any::<u16>()], data)
        .prop_map(|(code, data)| option(code, &data))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    /// Whatever is asked, an answer is whole: its options lie end to end, it says whose it is, and gives nobody another's address.
    #[test]
    fn any_message(kind in 0_u8..14, options in prop::collection::vec(any_option(), 0..7), alone: bool) {
        let dst = if alone { GATEWAY } else { SERVERS };
        let (verdict, reply) = Bench::new().put(POD_A, &frame_to(dst, &message(kind, &options)));
        let Verdict::Answer { .. } = verdict else { return Ok(()) };
        let read = read(&reply);
        let body = &read.payload[8..];
        prop_assert!(body.len() <= 1_024);
        prop_assert!(matches!(body[0], 2 | 7) && body[1..4] == [7, 8, 9]);
        let mut rest = &body[4..];
        let mut servers = 0;
        while let Some((&[a, b, c, d], behind)) = rest.split_first_chunk() {
            let (data, after) = behind.split_at(usize::from(u16::from_be_bytes([c, d])));
            servers += u32::from([a, b] == [0, 2] && data == SERVER);
            if [a, b] == [0, 3] && data.len() > 12 && data[13] == 5 {
                prop_assert_eq!(&data[16..32], &v6(OWN).octets()[..], "the first is its own");
                for more in data[40..].as_chunks::<28>().0 {
                    prop_assert!(more[20..] == [0; 8], "others are over");
                }
            }
            rest = after;
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(servers, 1);
    }
}
