//! Kernel pods: large segments pass whole between TAPs, and are finished for a port that cannot take them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use proto::dataplane::{Limits, Op, PortKind, PortSpec, Request, Response};
use tap::VirtioNetHeader;
use tap::vnet::{GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, SHORT_LEN};

use crate::dataplane::{Dataplane, PATIENCE, ROUTER};
use crate::frames::{assert_valid, endpoint, frames_of, pcap, udp};
use crate::pod::{Pod, gateway};
use crate::talk::stream;

#[test]
fn pods_talk_udp_and_tcp_and_large_segments_pass_whole() {
    let (one, two) = (Pod::new(1), Pod::new(2));
    let mut dataplane = Dataplane::start(&["--workers", "none", "--kernel-workers", "2"]);
    dataplane.tap("a", one.fd());
    dataplane.tap("b", two.fd());
    let owners: Vec<_> = dataplane.ports().iter().map(|port| port.worker).collect();
    assert_ne!(owners[0], owners[1], "the second goes to the worker with fewer ports: handed over both ways");
    dataplane
        .commit(0, vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }]);

    for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let socket = |pod: &Pod, address: &str| {
            let socket = pod.run(|| UdpSocket::bind((address, 0)).unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let (client, server) = (socket(&one, from), socket(&two, to));
        // The second is more than an MTU: the pod's kernel makes fragments of it.
        for length in [1, 1_400, 5_000] {
            let (sent, mut got) = (stream(length), vec![0; 9_000]);
            client.send_to(&sent, server.local_addr().unwrap()).unwrap();
            let (n, peer) = server.recv_from(&mut got).unwrap();
            assert_eq!((&got[..n], peer), (&sent[..], client.local_addr().unwrap()));
            server.send_to(&sent, peer).unwrap();
            assert_eq!(client.recv(&mut got).unwrap(), length);
        }

        let before = dataplane.port("b");
        let listener = two.run(|| TcpListener::bind((to, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            peer.write_all(&all).unwrap();
        });
        let mut client = one.run(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let sent = stream(4 << 20);
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        echo.join().unwrap();
        assert!(back == sent, "what came back differs");
        let after = dataplane.port("b");
        let mean = (after.tx_bytes - before.tx_bytes) / (after.tx_packets - before.tx_packets);
        assert!(mean > 1_514, "{mean} bytes a frame: segments were cut up");
    }
    for name in ["a", "b"] {
        let port = dataplane.port(name);
        assert_eq!((port.up, port.tx_drops), (true, 0), "{name}");
    }
    dataplane.assert_ledger();
    assert!(dataplane.ledgers().iter().all(|ledger| ledger.handed_in > 0 && ledger.handed_out > 0));
    assert!(dataplane.terminate().success());
}

#[test]
fn a_plain_port_gets_finished_frames_that_fit_and_a_tap_gets_what_a_plain_port_sends() {
    let pod = Pod::new(1);
    let mut dataplane = Dataplane::start(&[]);
    let (input, out) = (dataplane.dir.path().join("in"), dataplane.dir.path().join("out"));
    // Without a checksum, which UDP over IPv4 allows (RFC 768).
    let mut frames: Vec<_> = (0..100).map(|_| udp(2, 1, 64)).collect();
    for frame in &mut frames {
        frame[40..42].copy_from_slice(&[0, 0]);
    }
    pcap(&input, &frames);
    let server = pod.run(|| UdpSocket::bind(("10.0.0.1", 53)).unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    dataplane.tap("a", pod.fd());
    dataplane.add("m", PortKind::Memory { rx_pcap: Some(input), tx_pcap: Some(out.clone()), repeat: false });
    dataplane
        .commit(0, vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "m")] }]);

    for _ in 0..100 {
        let mut got = [0; 100];
        let (n, peer) = server.recv_from(&mut got).unwrap();
        assert_eq!((&got[..n], peer), (&[b'x'; 18][..], "10.0.0.2:4660".parse().unwrap()));
    }
    // Small ones, whose checksum the pod's kernel leaves to the device; and one to be cut into fragments by the kernel.
    // One at a time: a datagram that the kernel sends while it lets go of those that waited for ARP may overtake them.
    let mut sent = 0;
    for (socket, to) in [("10.0.0.1:7", "10.0.0.2:9"), ("[fd00::1]:7", "[fd00::2]:9")] {
        let socket = pod.run(|| UdpSocket::bind(socket).unwrap());
        for length in [0, 1, 700, 1_401] {
            socket.send_to(&stream(length), to).unwrap();
            sent += 1;
            dataplane.until("the datagram has left", |d| d.port("m").tx_packets >= sent);
        }
    }

    // Large segments come from TCP alone, which needs a peer: the pod's kernel forwards those of a TAP that is ours.
    let router = pod.second_tap("r0");
    pod.ip("link set r0 mtu 65000 addrgenmode none up");
    pod.run(|| {
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
    });
    pod.ip("route add 10.0.0.99/32 dev r0");
    pod.ip("-6 route add fd00::99/128 dev r0");
    // The pod's own addresses are what the data plane lets it send from.
    let mut more = endpoint(1, "a");
    more.addresses.extend(["10.0.0.99".parse::<std::net::IpAddr>().unwrap(), "fd00::99".parse().unwrap()]);
    dataplane.commit(1, vec![Op::SetEndpoints { endpoints: vec![more] }]);
    let payload = stream(40_000);
    let before = dataplane.port("m").tx_packets;
    for v6 in [false, true] {
        let (frame, header) = large_segment(&payload, v6, mac_of(&pod, "r0"));
        let header = &header.encode()[..SHORT_LEN];
        router.write_vectored(&[std::io::IoSlice::new(header), std::io::IoSlice::new(&frame)]).unwrap();
    }
    let each = 40_000_u64.div_ceil(1_000);
    dataplane.until("the segments have left", |d| d.port("m").tx_packets >= before + 2 * each);
    dataplane.assert_ledger();
    let extra: u64 = dataplane.ledgers().iter().map(|ledger| ledger.split_extra).sum();
    assert_eq!(extra, 2 * (each - 1));
    assert!(dataplane.ledgers().iter().all(|ledger| ledger.handed_in > 0 && ledger.handed_out > 0));
    assert_eq!(dataplane.port("m").tx_drops, 0);

    dataplane.commit(2, vec![Op::RemoveEndpoints { names: vec!["pod1".into(), "pod2".into()] }]);
    dataplane.remove("m");
    let mut streams = [Vec::new(), Vec::new()];
    let mut datagrams = Vec::new();
    for frame in frames_of(&out) {
        let payload = assert_valid(&frame);
        let v6 = frame[12] == 0x86;
        if frame[if v6 { 20 } else { 23 }] == 6 {
            streams[usize::from(v6)].extend(payload);
        } else {
            datagrams.push(payload.len());
        }
    }
    assert!(streams.iter().all(|got| *got == payload), "the segments put together differ from what was sent");
    // The kernel may add neighbour discovery or reports of its own, which never reach another pod.
    assert_eq!(datagrams, [0, 1, 700, 1_401, 0, 1, 700, 1_401]);
}

#[test]
fn what_a_kernel_worker_cannot_take_in_time_is_counted_by_the_worker_that_handed_it() {
    let pod = Pod::new(1);
    // More than the ring holds: 128 bursts.
    let mut dataplane = Dataplane::start(&["--mbufs", "16384"]);
    let source = dataplane.dir.path().join("source");
    pcap(&source, &[udp(2, 1, 64)]);
    dataplane.tap("a", pod.fd());
    dataplane.add("m", PortKind::Memory { rx_pcap: Some(source), tx_pcap: None, repeat: true });
    dataplane
        .commit(0, vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "m")] }]);
    // A TAP costs a system call a packet, the source a copy.
    dataplane.until("the ring is full", |d| d.drops("a", "handover-full") > 1_000);
    dataplane.commit(1, vec![Op::RemoveEndpoints { names: vec!["pod2".into()] }]);
    dataplane.assert_ledger();
    let dropped = dataplane.drops("a", "handover-full");
    let overflow: Vec<_> = dataplane.workers().iter().map(|w| (w.handover_full, w.handed_waiting)).collect();
    assert_eq!(overflow, [(dropped, 0), (0, 0)], "the poll worker's, and nothing waits at rest");
}

#[test]
fn a_pool_that_is_nearly_empty_is_told() {
    let pod = Pod::new(1);
    // As many as the ring to the kernel worker holds, which is full before long.
    let mut dataplane = Dataplane::start(&["--mbufs", "4096"]);
    let warned = |dataplane: &mut Dataplane| {
        let Response::Status(status) = dataplane.call(&Request::ShowStatus) else { panic!() };
        status.warnings.iter().any(|warning| warning.contains("--mbufs"))
    };
    assert!(!warned(&mut dataplane));
    let source = dataplane.dir.path().join("source");
    pcap(&source, &[udp(2, 1, 64)]);
    dataplane.tap("a", pod.fd());
    dataplane.add("m", PortKind::Memory { rx_pcap: Some(source), tx_pcap: None, repeat: true });
    dataplane
        .commit(0, vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "m")] }]);
    dataplane.until("the status warns", warned);
    dataplane.commit(1, vec![Op::RemoveEndpoints { names: vec!["pod2".into()] }]);
    dataplane.assert_ledger();
    dataplane.until("it warns no more", |d| !warned(d));
}

#[test]
fn a_datagram_above_the_outputs_mtu_is_fragmented_if_it_allows_that_and_refused_if_not() {
    let (one, three) = (Pod::new(1), Pod::new(3));
    let mut dataplane = Dataplane::start(&[]);
    let out = dataplane.dir.path().join("out");
    dataplane.tap("a", one.fd());
    dataplane.tap("c", three.fd());
    dataplane.add("m", PortKind::Memory { rx_pcap: None, tx_pcap: Some(out.clone()), repeat: false });
    let endpoints = vec![endpoint(1, "a"), endpoint(2, "m"), endpoint(3, "c")];
    dataplane.commit(0, vec![gateway(), Op::SetEndpoints { endpoints }]);
    one.ip("link set eth0 mtu 9000");
    let sent = stream(5_000);

    // Linux forbids fragments unless told otherwise, and then is told what would fit.
    let socket = one.run(|| UdpSocket::bind("10.0.0.1:0").unwrap());
    socket.connect("10.0.0.2:9").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(&sent).unwrap();
    let refused = socket.recv(&mut [0]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::MSGSIZE.raw_os_error()), "{refused}");
    assert_eq!(dataplane.drops("a", "packet-too-big"), 1);

    one.run(|| std::fs::write("/proc/sys/net/ipv4/ip_no_pmtu_disc", "1").unwrap());
    one.ip("route flush cache");
    let server = three.run(|| UdpSocket::bind("10.0.0.3:9").unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let socket = one.run(|| UdpSocket::bind("10.0.0.1:0").unwrap());
    socket.send_to(&sent, "10.0.0.3:9").unwrap();
    let mut got = vec![0; 9_000];
    let n = server.recv(&mut got).unwrap();
    assert!(got[..n] == sent, "put together again by the pod's kernel, it differs");
    one.run(|| std::fs::write("/proc/sys/net/ipv4/route/flush", "1").ok());
    socket.send_to(&sent, "10.0.0.2:9").unwrap();
    dataplane.until("four fragments have left", |d| d.port("m").tx_packets == 4);
    dataplane.assert_ledger();
    let extra: u64 = dataplane.ledgers().iter().map(|ledger| ledger.split_extra).sum();
    assert_eq!(extra, 2 * 3, "the data plane cut both of them up, not the pod's kernel");
    assert_eq!(dataplane.drops("a", "packet-too-big"), 1);

    dataplane.commit(1, vec![Op::RemoveEndpoints { names: vec!["pod2".into()] }]);
    dataplane.remove("m");
    let frames = frames_of(&out);
    assert!(frames.iter().all(|frame| frame.len() <= 1_514));
    let whole: Vec<u8> = frames.iter().flat_map(|frame| frame[34..].to_vec()).collect();
    assert!(whole[8..] == sent, "the fragments put together differ from what was sent");
    let sum = wire::checksum::pseudo_header_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 5_008);
    assert_eq!(wire::checksum::fold(sum + wire::checksum::sum(&whole)), 0xffff, "UDP checksum");
}

pub(crate) fn mac_of(pod: &Pod, device: &str) -> [u8; 6] {
    let output =
        pod.run(|| std::process::Command::new("ip").args(["-o", "link", "show", device]).output().unwrap());
    let text = String::from_utf8(output.stdout).unwrap();
    let mac: wire::MacAddr =
        text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    mac.0
}

/// A TCP segment from pod 1's second address to pod 2, to be cut at 1,000 bytes, its checksum the pseudo-header's.
pub(crate) fn large_segment(payload: &[u8], v6: bool, to: [u8; 6]) -> (Vec<u8>, VirtioNetHeader) {
    use wire::checksum::{fold, internet_checksum, pseudo_header_v4, pseudo_header_v6};
    let tcp = u16::try_from(20 + payload.len()).unwrap();
    let mut frame = [to, [2, 0, 0, 0, 0, 0x99]].concat();
    let sum = if v6 {
        let (src, dst): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
            ("fd00::99".parse().unwrap(), "fd00::2".parse().unwrap());
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(tcp.to_be_bytes());
        frame.extend([6, 64]);
        frame.extend(src.octets());
        frame.extend(dst.octets());
        fold(pseudo_header_v6(src, dst, 6, tcp.into()))
    } else {
        let (src, dst) = ([10, 0, 0, 99].into(), [10, 0, 0, 2].into());
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((tcp + 20).to_be_bytes());
        frame.extend([0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 99, 10, 0, 0, 2]);
        let header = internet_checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        fold(pseudo_header_v4(src, dst, 6, tcp))
    };
    let start = frame.len();
    frame.extend([0x30, 0x39, 0, 80, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff]);
    frame.extend(sum.to_be_bytes());
    frame.extend([0, 0]);
    let header = VirtioNetHeader {
        flags: NEEDS_CSUM,
        gso_type: if v6 { GSO_TCPV6 } else { GSO_TCPV4 },
        hdr_len: u16::try_from(frame.len()).unwrap(),
        gso_size: 1_000,
        csum_start: u16::try_from(start).unwrap(),
        csum_offset: 16,
        num_buffers: 0,
    };
    frame.extend(payload);
    (frame, header)
}

#[test]
fn a_tap_whose_device_is_deleted_is_down_costs_nothing_and_can_be_replaced() {
    let (one, two) = (Pod::new(1), Pod::new(2));
    let mut dataplane = Dataplane::start(&["--workers", "none"]);
    let id = dataplane.tap("a", one.fd());
    dataplane.tap("b", two.fd());
    dataplane
        .commit(0, vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }]);
    let ping = |pod: &Pod| {
        let args = ["-c", "1", "-W", "30", "10.0.0.2"];
        pod.run(|| std::process::Command::new("ping").args(args).output().unwrap().status.success())
    };
    assert!(ping(&one));
    assert!(dataplane.port("a").up);

    one.ip("link del eth0");
    dataplane.until("the port is down", |d| !d.port("a").up);
    // A worker that is woken again and again by the dead descriptor is never asleep.
    let pid = dataplane.child.id();
    dataplane.until("the kernel worker sleeps", |_| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
        stats.into_iter().any(|stat| stat.contains("(kernel-0) S"))
    });
    assert!(dataplane.log().contains("device was deleted"), "{}", dataplane.log());

    // What is no TAP takes nothing away; the same TAP again is no change; another one takes its place.
    let spec = PortSpec {
        name: "b".into(),
        kind: PortKind::Tap,
        mac: Some(ROUTER),
        mtu: 1500,
        limits: Limits::default(),
    };
    let null = std::fs::File::open("/dev/null").unwrap();
    let reason = dataplane.try_add(spec, &[null.as_fd()]).unwrap_err();
    assert!(reason.contains('b') && reason.contains("keeps"), "{reason}");
    dataplane.tap("b", two.fd());
    let again = Pod::new(1);
    assert_eq!(dataplane.tap("a", again.fd()), id);
    assert!(dataplane.port("a").up);
    assert!(ping(&again));
    dataplane.assert_ledger();

    // Control's duplicate is of the device in use.
    let (answer, fds) =
        dataplane.connection.call::<_, Response>(&Request::DuplicateTap { name: "a".into() }, &[]).unwrap();
    assert_eq!(answer, Response::Tap { name: "a".into() });
    assert!(tap::Tap::from_fd(fds.into_iter().next().unwrap()).is_ok());
    assert!(dataplane.terminate().success());
}
