//! DPDK devices: several queues and several workers, what the device finishes of a packet, VLANs, and a link that goes down.
//!
//! The peer of most is this test itself: the back end of a net_virtio_user, whose rings it reads and writes frame by frame, and so
//! sees what the device was asked for.

use proto::dataplane::{
    Ethdev, Interface, InterfaceAddress, Limits, Op, PortKind, PortSpec, Response, Route, RouteKey,
    RouteTarget,
};
use tap::vnet::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, SHORT_LEN};
use tap::{Tap, TapConfig, VirtioNetHeader};

use crate::dataplane::{Dataplane, ROUTER};
use crate::ends::Backend;
use crate::frames::{assert_valid, endpoint, frames_of, pcap, udp};
use crate::namespace::Namespace;
use crate::pod::{Pod, gateway};
use crate::talk::stream;
use crate::taps::{large_segment, mac_of};

/// The data plane's own address on the uplink, and a neighbour's.
const OWN: [u8; 4] = [192, 0, 2, 1];
const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];

/// The rows of an uplink, with a neighbour on it that each of these prefixes is behind.
fn uplink(routes: &[(&str, [u8; 4])]) -> Vec<Op> {
    let addresses = vec![InterfaceAddress { address: OWN.into(), prefix_len: 24 }];
    let interface = Interface { port: "uplink".into(), network: 0, addresses };
    let route = |&(prefix, via): &(&str, [u8; 4])| Route {
        key: RouteKey { network: 0, prefix: prefix.parse().unwrap() },
        target: RouteTarget::NextHop { port: "uplink".into(), address: via.into(), inside: false },
    };
    vec![
        Op::SetInterfaces { interfaces: vec![interface] },
        Op::SetRoutes { routes: routes.iter().map(route).collect() },
    ]
}

/// The address that an ARP request asks for.
fn asked_for(frame: &[u8]) -> Option<[u8; 4]> {
    (frame.len() >= 42 && frame[12..14] == [8, 6] && frame[20..22] == [0, 1])
        .then(|| frame[38..42].try_into().unwrap())
}

/// 192.0.2.9 asks who has `address`.
fn arp_request(address: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], NEIGHBOUR_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(NEIGHBOUR_MAC);
    frame.extend([192, 0, 2, 9, 0, 0, 0, 0, 0, 0]);
    frame.extend(address);
    frame.resize(60, 0);
    frame
}

/// `address` is at `NEIGHBOUR_MAC`.
fn arp_reply(address: [u8; 4]) -> Vec<u8> {
    let mut frame = [ROUTER.0, NEIGHBOUR_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(NEIGHBOUR_MAC);
    frame.extend(address);
    frame.extend(ROUTER.0);
    frame.extend(OWN);
    frame.resize(60, 0);
    frame
}

#[test]
fn each_worker_has_queues_of_a_device_and_a_neighbour_is_heard_by_any_of_them() {
    let mut dataplane = Dataplane::start(&["--workers", "0,1"]);
    let socket = dataplane.dir.path().join("peer");
    let mut peer = Backend::start(&socket, 4);
    dataplane.add("uplink", PortKind::Ethdev(Backend::device("net_virtio_user0", &socket, 4)));
    let device = dataplane.port("uplink").device.unwrap();
    assert_eq!((device.rx_queues, device.tx_queues), (4, 4), "who spreads knows nothing of two workers");
    let source = dataplane.dir.path().join("source");
    pcap(&source, &[udp(2, 50, 64), udp(2, 60, 64), udp(2, 70, 64), udp(2, 80, 64)]);
    dataplane.add("m", PortKind::Memory { rx_pcap: Some(source), tx_pcap: None, repeat: true });
    let neighbours = [[192, 0, 2, 50], [192, 0, 2, 60], [192, 0, 2, 70], [192, 0, 2, 80]];
    let prefixes = ["10.0.0.50/32", "10.0.0.60/32", "10.0.0.70/32", "10.0.0.80/32"];
    let mut ops = uplink(&prefixes.into_iter().zip(neighbours).collect::<Vec<_>>());
    ops.push(Op::SetEndpoints { endpoints: vec![endpoint(2, "m")] });
    dataplane.commit(0, ops);

    // Each neighbour answers by a queue of its own, two of which another worker than the asker's reads.
    let mut reached = [false; 4];
    dataplane.until("all four neighbours are reached", |_| {
        for (_, frame) in peer.take() {
            if let Some(address) = asked_for(&frame) {
                let queue = neighbours.iter().position(|&one| one == address).unwrap();
                peer.give(queue, VirtioNetHeader::default(), &arp_reply(address));
            } else if frame[12..14] == [8, 0] {
                assert_eq!(frame[..6], NEIGHBOUR_MAC);
                let at = neighbours.iter().position(|one| one[3] == frame[33]).unwrap();
                reached[at] = true;
            }
        }
        reached.iter().all(|&reached| reached)
    });
    let Response::Neighbours { neighbours } = dataplane.call(&proto::dataplane::Request::ShowNeighbours)
    else {
        panic!()
    };
    assert_eq!(neighbours.len(), 4, "one worker keeps them all: {neighbours:?}");

    // And each queue is read.
    let before: u64 = dataplane.port("m").tx_packets;
    for queue in 0..4 {
        let mut frame = udp(50, 2, 64);
        frame[6..12].copy_from_slice(&NEIGHBOUR_MAC);
        peer.give(queue, VirtioNetHeader::default(), &frame);
    }
    dataplane.until("a frame of each queue has arrived", |d| d.port("m").tx_packets == before + 4);
    dataplane.commit(1, vec![Op::RemoveEndpoints { names: vec!["pod2".into()] }]);
    dataplane.assert_ledger();

    // It can be had with fewer, and not with more than there are.
    let routes =
        prefixes.iter().map(|prefix| RouteKey { network: 0, prefix: prefix.parse().unwrap() }).collect();
    let ports = vec!["uplink".into()];
    dataplane.commit(2, vec![Op::RemoveRoutes { routes }, Op::RemoveInterfaces { ports }]);
    dataplane.remove("uplink");
    let spec = |queues| {
        let kind = PortKind::Ethdev(Ethdev {
            queues: Some(queues),
            ..Backend::device("net_virtio_user0", &socket, 4)
        });
        PortSpec { name: "uplink".into(), kind, mac: Some(ROUTER), mtu: 1500, limits: Limits::default() }
    };
    for (queues, word) in [(0, "queues 0"), (9, "rx_queues = 9")] {
        let reason = dataplane.try_add(spec(queues), &[]).unwrap_err();
        assert!(reason.contains(word) && reason.contains("uplink"), "{reason}");
    }
    dataplane.try_add(spec(2), &[]).unwrap();
    assert_eq!(dataplane.port("uplink").device.unwrap().rx_queues, 2);
    assert!(dataplane.terminate().success());
}

#[test]
fn a_device_is_asked_to_finish_what_it_can_and_the_rest_is_finished_before() {
    for offloads in [true, false] {
        let pod = Pod::new(1);
        let mut dataplane = Dataplane::start(&[]);
        let socket = dataplane.dir.path().join("peer");
        let mut peer = Backend::start(&socket, 1);
        dataplane.tap("a", pod.fd());
        dataplane.add(
            "uplink",
            PortKind::Ethdev(Ethdev { offloads, ..Backend::device("net_virtio_user0", &socket, 1) }),
        );
        let device = dataplane.port("uplink").device.unwrap();
        assert_eq!(device.tx_offloads.contains(&"tso".to_owned()), offloads, "{device:?}");
        let mut ops = uplink(&[("10.0.0.2/32", [192, 0, 2, 9]), ("fd00::2/128", [192, 0, 2, 9])]);
        if let Op::SetRoutes { routes } = &mut ops[1] {
            routes[1].target = RouteTarget::NextHop {
                port: "uplink".into(),
                address: "fe80::9".parse().unwrap(),
                inside: false,
            };
        }
        let mut one = endpoint(1, "a");
        one.addresses.extend(["10.0.0.99".parse::<std::net::IpAddr>().unwrap(), "fd00::99".parse().unwrap()]);
        ops.extend([gateway(), Op::SetEndpoints { endpoints: vec![one] }]);
        dataplane.commit(0, ops);

        // As in the test of TAPs: the pod's kernel forwards large segments that come from a TAP of ours.
        let router = pod.second_tap("r0");
        pod.ip("link set r0 mtu 65000 addrgenmode none up");
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            pod.set(setting, "1");
        }
        pod.ip("route add 10.0.0.99/32 dev r0");
        pod.ip("-6 route add fd00::99/128 dev r0");
        let payload = stream(40_000);
        for v6 in [false, true] {
            let (frame, header) = large_segment(&payload, v6, mac_of(&pod, "r0"));
            let header = &header.encode()[..SHORT_LEN];
            router.write_vectored(&[std::io::IoSlice::new(header), std::io::IoSlice::new(&frame)]).unwrap();
        }
        // Small ones, whose checksum the pod's kernel leaves to the device.
        for (socket, to) in [("10.0.0.1:7", "10.0.0.2:9"), ("[fd00::1]:7", "[fd00::2]:9")] {
            let socket = pod.run(|| std::net::UdpSocket::bind(socket).unwrap());
            socket.send_to(&stream(701), to).unwrap();
        }

        let mut streams = [Vec::new(), Vec::new()];
        let mut datagrams = [Vec::new(), Vec::new()];
        dataplane.until("all of it has left", |_| {
            for (header, frame) in peer.take() {
                if asked_for(&frame).is_some() {
                    peer.give(0, VirtioNetHeader::default(), &arp_reply([192, 0, 2, 9]));
                    continue;
                }
                let v6 = match frame[12..14] {
                    [8, 0] => false,
                    [0x86, 0xdd] if frame[20] == 58 => {
                        peer.give(0, VirtioNetHeader::default(), &advertisement());
                        continue;
                    }
                    _ => true,
                };
                let tcp = frame[if v6 { 20 } else { 23 }] == 6;
                let start = if v6 { 54 } else { 34 };
                if offloads {
                    assert_eq!(header.flags, NEEDS_CSUM);
                    assert_eq!((header.csum_start, header.csum_offset), (start, if tcp { 16 } else { 6 }));
                    let gso = match (tcp, v6) {
                        (false, _) => (GSO_NONE, 0),
                        (true, false) => (GSO_TCPV4, 1_000),
                        (true, true) => (GSO_TCPV6, 1_000),
                    };
                    assert_eq!((header.gso_type, header.gso_size), gso);
                } else {
                    assert_eq!((header.flags, header.gso_type), (0, GSO_NONE));
                }
                let payload = if offloads { finish(frame, start.into()) } else { assert_valid(&frame) };
                if tcp {
                    streams[usize::from(v6)].extend(payload);
                } else {
                    datagrams[usize::from(v6)] = payload;
                }
            }
            streams.iter().all(|got| got.len() >= 40_000) && datagrams.iter().all(|got| !got.is_empty())
        });
        assert!(streams.iter().all(|got| *got == payload), "the segments differ from what was sent");
        assert!(datagrams.iter().all(|got| *got == stream(701)));
        dataplane.assert_ledger();
        let extra: u64 = dataplane.ledgers().iter().map(|ledger| ledger.split_extra).sum();
        assert_eq!(extra, if offloads { 0 } else { 2 * 39 });

        // A checksum that a peer has left to be finished is, for the pod.
        let server = pod.run(|| std::net::UdpSocket::bind("10.0.0.1:53").unwrap());
        server.set_read_timeout(Some(crate::dataplane::PATIENCE)).unwrap();
        let mut frame = udp(2, 1, 64);
        frame[6..12].copy_from_slice(&NEIGHBOUR_MAC);
        let sum = wire::checksum::pseudo_header_v4([10, 0, 0, 2].into(), [10, 0, 0, 1].into(), 17, 26);
        frame[40..42].copy_from_slice(&wire::checksum::fold(sum).to_be_bytes());
        let takes = peer.pairs[0].1.burst(1).takes();
        assert_eq!(takes.checksum, offloads, "a device that is not to be trusted with it is not told of it");
        if offloads {
            let header = VirtioNetHeader {
                flags: NEEDS_CSUM,
                gso_type: GSO_NONE,
                hdr_len: 42,
                gso_size: 0,
                csum_start: 34,
                csum_offset: 6,
                num_buffers: 0,
            };
            peer.give(0, header, &frame);
            let mut got = [0; 100];
            assert_eq!(server.recv(&mut got).unwrap(), 18);
        }
        assert!(dataplane.terminate().success());
    }
}

/// Finishes a checksum as the receiver of a frame that asks for it would, checks that it is right then, and gives the payload.
fn finish(mut frame: Vec<u8>, start: usize) -> Vec<u8> {
    let tcp = frame[if start == 54 { 20 } else { 23 }] == 6;
    let field = start + if tcp { 16 } else { 6 };
    // A large segment holds the sum of a pseudo-header with its whole length (VIRTIO 1.2, section 5.1.6.2.1).
    let sum = wire::checksum::internet_checksum(&frame[start..]);
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    let len = frame.len();
    let pseudo = if start == 54 {
        let at = |at: usize| std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
        wire::checksum::pseudo_header_v6(at(22), at(38), frame[20], u32::try_from(len - 54).unwrap())
    } else {
        assert_eq!(wire::checksum::internet_checksum(&frame[14..34]), 0, "IPv4 header");
        let at = |at: usize| std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
        wire::checksum::pseudo_header_v4(at(26), at(30), frame[23], u16::try_from(len - 34).unwrap())
    };
    assert_eq!(wire::checksum::fold(pseudo + wire::checksum::sum(&frame[start..])), 0xffff);
    let header = if tcp { usize::from(frame[start + 12] >> 4) * 4 } else { 8 };
    frame[start + header..].to_vec()
}

/// fe80::9 is at `NEIGHBOUR_MAC`: solicited, to whoever asks.
fn advertisement() -> Vec<u8> {
    let own: std::net::Ipv6Addr = "fe80::9".parse().unwrap();
    // All nodes: the address that the data plane asks from need not be known here.
    let to: std::net::Ipv6Addr = "ff02::1".parse().unwrap();
    let mut frame = [[0x33, 0x33, 0, 0, 0, 1], NEIGHBOUR_MAC].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend(own.octets());
    frame.extend(to.octets());
    frame.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
    frame.extend(own.octets());
    frame.extend([2, 1]);
    frame.extend(NEIGHBOUR_MAC);
    let sum = wire::checksum::pseudo_header_v6(own, to, 58, 32) + wire::checksum::sum(&frame[54..]);
    let sum = !wire::checksum::fold(sum);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A frame with an 802.1Q tag.
fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &tci.to_be_bytes(), &frame[12..]].concat()
}

#[test]
fn a_device_on_a_vlan_takes_and_sends_its_tag_alone() {
    let mut dataplane = Dataplane::start(&[]);
    let [input, out] = ["in", "out"].map(|name| dataplane.dir.path().join(name));
    let mine = udp(2, 1, 64);
    // With a priority, of another VLAN, with a priority alone, without a tag; and cut short amid the tag.
    let cut = tagged(&mine, 100)[..15].to_vec();
    let frames =
        [tagged(&mine, 100), tagged(&mine, 0xe064), tagged(&mine, 200), tagged(&mine, 0xe000), mine, cut];
    pcap(&input, &frames);
    // Played over and over: the first time round is before the port has a role.
    let devargs = format!(
        "net_pcap0,rx_pcap={},tx_pcap={},infinite_rx=1",
        input.display(),
        dataplane.dir.path().join("unused").display()
    );
    let device = Ethdev { devargs: Some(devargs), vlan: Some(100), ..Ethdev::new("net_pcap0") };
    dataplane.add("in", PortKind::Ethdev(device));
    let devargs = format!("net_pcap1,tx_pcap={}", out.display());
    let device = Ethdev { devargs: Some(devargs), vlan: Some(4_094), ..Ethdev::new("net_pcap1") };
    dataplane.add("out", PortKind::Ethdev(device));
    let endpoints = vec![endpoint(1, "out"), endpoint(2, "in")];
    dataplane.commit(0, vec![Op::SetEndpoints { endpoints }]);
    dataplane.until("a hundred have left", |d| d.port("out").tx_packets >= 100);
    assert!(dataplane.drops("in", "vlan-other") >= 4);
    let names: Vec<_> = ["pod1", "pod2"].map(String::from).into();
    dataplane.commit(1, vec![Op::RemoveEndpoints { names }]);
    let (_, left) = (dataplane.remove("in"), dataplane.port("out"));
    dataplane.assert_ledger();
    dataplane.remove("out");
    let frames = frames_of(&out);
    assert_eq!(frames.len() as u64, left.tx_packets);
    // Two of six are taken, and counted without their tag.
    assert_eq!(left.tx_bytes, 60 * left.tx_packets);
    for frame in frames {
        assert_eq!(frame[12..16], [0x81, 0, 0x0f, 0xfe]);
        let untagged = [&frame[..12], &frame[16..]].concat();
        assert_eq!((untagged.len(), &untagged[14..18], untagged[22]), (60, &[0x45, 0, 0, 46][..], 63));
    }
    let spec = |vlan| {
        let kind = PortKind::Ethdev(Ethdev { vlan: Some(vlan), ..Ethdev::new("net_pcap0") });
        PortSpec { name: "in".into(), kind, mac: Some(ROUTER), mtu: 1500, limits: Limits::default() }
    };
    for vlan in [0, 4_095] {
        let reason = dataplane.try_add(spec(vlan), &[]).unwrap_err();
        assert!(reason.contains(&format!("vlan {vlan}")), "{reason}");
    }
}

#[test]
fn a_device_that_knows_vlans_and_one_that_is_not_asked_are_the_same() {
    for offloads in [true, false] {
        let node = Namespace::new();
        let config = TapConfig { name: "uplink".into(), persistent: false, vnet_hdr: false };
        let tap = Tap::create_in(node.as_fd(), &config).unwrap();
        node.ip("link set uplink addrgenmode none up");
        let mut dataplane = node.run(|| Dataplane::start(&["--vdev", "net_af_packet0,iface=uplink"]));
        let device = Ethdev { vlan: Some(7), offloads, ..Ethdev::new("net_af_packet0") };
        dataplane.add("uplink", PortKind::Ethdev(device));
        dataplane.commit(0, uplink(&[]));
        let device = dataplane.port("uplink").device.unwrap();
        assert_eq!(device.tx_offloads.contains(&"vlan-insert".to_owned()), offloads, "{device:?}");
        for frame in [tagged(&arp_request(OWN), 8), arp_request(OWN), tagged(&arp_request(OWN), 7)] {
            tap.write_vectored(&[std::io::IoSlice::new(&frame)]).unwrap();
        }
        let mut answers = Vec::new();
        dataplane.until("the question with the tag is answered", |_| {
            let mut frame = vec![0; 2_048];
            while let Ok(n) = tap.read_vectored(&mut [std::io::IoSliceMut::new(&mut frame)]) {
                // The kernel may say something of its own.
                if frame[6..12] == ROUTER.0 {
                    answers.push(frame[..n].to_vec());
                }
            }
            !answers.is_empty()
        });
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0][12..22], [0x81, 0, 0, 7, 8, 6, 0, 1, 8, 0], "offloads {offloads}");
        assert!(dataplane.drops("uplink", "vlan-other") >= 2);
        dataplane.assert_ledger();
    }
}

#[test]
fn a_checksum_that_a_device_found_wrong_is_summed_again_and_dropped_by_name() {
    let node = Namespace::new();
    let mut dataplane = node.run(|| Dataplane::start(&["--vdev", "net_tap0,iface=uplink0"]));
    dataplane.ethdev("uplink", "net_tap0");
    let out = dataplane.dir.path().join("out");
    dataplane.add("m", PortKind::Memory { rx_pcap: None, tx_pcap: Some(out.clone()), repeat: false });
    let mut ops = uplink(&[]);
    ops.push(Op::SetEndpoints { endpoints: vec![endpoint(2, "m")] });
    dataplane.commit(0, ops);
    // The kernel forwards what comes by a TAP of ours, and does not look at its checksum.
    let config = TapConfig { name: "r0".into(), persistent: false, vnet_hdr: false };
    let tap = Tap::create_in(node.as_fd(), &config).unwrap();
    node.ip("link set r0 address 02:00:00:00:00:99 addrgenmode none up");
    node.ip("link set uplink0 addrgenmode none up");
    node.ip("addr add 192.0.2.9/24 dev uplink0");
    node.ip("route add 10.0.0.2/32 via 192.0.2.1");
    node.ip(&format!("neigh replace 192.0.2.1 lladdr {ROUTER} dev uplink0"));
    node.set("ipv4/ip_forward", "1");
    let mut good = udp(50, 2, 64);
    good[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    let sum = wire::checksum::pseudo_header_v4([10, 0, 0, 50].into(), [10, 0, 0, 2].into(), 17, 26);
    let sum = !wire::checksum::fold(sum + wire::checksum::sum(&good[34..]));
    good[40..42].copy_from_slice(&sum.to_be_bytes());
    let mut none = good.clone();
    none[40..42].fill(0);
    let mut bad = good.clone();
    bad[59] = 0;
    for frame in [&good, &bad, &none, &good] {
        tap.write_vectored(&[std::io::IoSlice::new(frame)]).unwrap();
    }
    dataplane.until("the last has left", |d| d.port("m").tx_packets == 3);
    assert_eq!(dataplane.drops("uplink", "transport-checksum-wrong"), 1);
    dataplane.assert_ledger();
}

#[test]
fn a_link_that_goes_down_is_told_and_costs_what_is_sent_by_it_alone() {
    let node = Namespace::new();
    let mut dataplane = node.run(|| Dataplane::start(&["--vdev", "net_tap0,iface=uplink0", "--log", "info"]));
    dataplane.ethdev("uplink", "net_tap0");
    let source = dataplane.dir.path().join("source");
    pcap(&source, &[udp(2, 50, 64)]);
    dataplane.add("m", PortKind::Memory { rx_pcap: Some(source), tx_pcap: None, repeat: true });
    let mut ops = uplink(&[]);
    ops.push(Op::SetEndpoints { endpoints: vec![endpoint(2, "m")] });
    ops.push(Op::SetRoutes {
        routes: vec![Route {
            key: RouteKey { network: 0, prefix: "10.0.0.50/32".parse().unwrap() },
            target: RouteTarget::NextHop {
                port: "uplink".into(),
                address: [192, 0, 2, 9].into(),
                inside: false,
            },
        }],
    });
    dataplane.commit(0, ops);
    for round in 0..2 {
        node.ip("link set uplink0 up");
        dataplane.until("the link is up", |d| d.port("uplink").up);
        let sent = dataplane.port("uplink").tx_packets;
        dataplane.until("it sends", |d| d.port("uplink").tx_packets > sent);
        node.ip("link set uplink0 down");
        dataplane.until("the link is down", |d| !d.port("uplink").up);
        let dropped = dataplane.drops("uplink", "tx-down");
        dataplane.until("what is sent is dropped by name", |d| d.drops("uplink", "tx-down") > dropped);
        assert!(dataplane.log().contains("the link is down"), "round {round}");
    }
    assert!(dataplane.log().contains("the link is up"));
    dataplane.commit(1, vec![Op::RemoveEndpoints { names: vec!["pod2".into()] }]);
    dataplane.assert_ledger();
    let device = dataplane.port("uplink").device.unwrap();
    assert_eq!(device.driver, "net_tap");
    let sent = device.counters.iter().find(|counter| counter.name == "tx_good_packets").unwrap();
    assert!(sent.count > 0, "{device:?}");
}
