//! Services and masquerade between real kernels: whom each end sees, and that all of it arrives.

use proto::dataplane::BackendState::Serving;
use proto::dataplane::Op;

use crate::dataplane::Dataplane;
use crate::frames::{endpoint, service};
use crate::outside::{FAR, NODE, Outside, PORTS, ROUTER};
use crate::pod::{Pod, gateway};
use crate::talk::{addr, connect, echo, exchange, listen, receive, udp};

/// A client's address, the service's, and its backend's.
const WAYS: [[&str; 3]; 2] =
    [["10.0.0.1:0", "10.96.0.10:80", "10.0.0.2:8080"], ["[fd00::1]:0", "[fd00:96::10]:80", "[fd00::2]:8080"]];

#[test]
fn a_service_takes_pods_to_its_backend_large_segments_whole_and_fragments_too() {
    let (one, two) = (Pod::new(1), Pod::new(2));
    let mut dataplane = Dataplane::start(&["--workers", "none", "--kernel-workers", "2"]);
    dataplane.tap("a", one.fd());
    dataplane.tap("b", two.fd());
    let mut rows = vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }];
    rows.extend(WAYS.map(|[_, at, backend]| service(addr(at), &[(addr(backend), Serving)])));
    dataplane.commit(0, rows);

    for [from, at, backend] in WAYS.map(|way| way.map(addr)) {
        let listener = listen(&two, backend);
        let before = ["a", "b"].map(|name| dataplane.port(name));
        let (client, server) = connect(&one, at, &listener);
        assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap(), "the client's own address");
        exchange(&client, &server, 2 << 20);
        for before in before {
            let after = dataplane.port(&before.info.spec.name);
            let mean = (after.tx_bytes - before.tx_bytes) / (after.tx_packets - before.tx_packets);
            assert!(mean > 1_514, "{mean} bytes a frame: segments were cut up");
        }

        let (client, server) = (udp(&one, from), udp(&two, backend));
        for length in [0, 1, 1_400, 4_000, 60_000] {
            assert_eq!(echo(&client, at, &server, length), client.local_addr().unwrap());
        }
    }
    for pod in [&one, &two] {
        assert_eq!(pod.counter("Tcp", "OutRsts"), 0);
        assert_eq!((pod.counter("Tcp", "InCsumErrors"), pod.counter("Udp", "InCsumErrors")), (0, 0));
    }
    for name in ["a", "b"] {
        assert_eq!(dataplane.dropped(name), [], "{name}");
    }
    dataplane.assert_ledger();
    assert!(dataplane.ledgers().iter().all(|ledger| ledger.handed_in > 0 && ledger.handed_out > 0));
    assert!(dataplane.terminate().success());
}

#[test]
fn a_pod_reaches_itself_by_the_service_that_it_is_behind() {
    let pod = Pod::new(1);
    let mut dataplane = Dataplane::start(&["--workers", "none"]);
    dataplane.tap("a", pod.fd());
    let own = ["10.0.0.1:8080", "[fd00::1]:8080"].map(addr);
    let mut rows = vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a")] }];
    rows.extend(WAYS.iter().zip(own).map(|(way, own)| service(addr(way[1]), &[(own, Serving)])));
    dataplane.commit(0, rows);
    for (([from, at, _], own), gateway) in WAYS.iter().zip(own).zip(["169.254.1.1", "fe80::1"]) {
        let listener = listen(&pod, own);
        let (client, server) = connect(&pod, addr(at), &listener);
        let peer = server.peer_addr().unwrap();
        assert_eq!(peer.ip().to_string(), gateway, "its own address would not come back to the router");
        exchange(&client, &server, 300_000);
        let (client, server) = (udp(&pod, addr(from)), udp(&pod, own));
        for length in [1, 4_000] {
            let peer = echo(&client, addr(at), &server, length);
            assert_eq!(peer.ip().to_string(), gateway);
        }
    }
    assert_eq!(pod.counter("Tcp", "OutRsts"), 0);
    assert_eq!(dataplane.dropped("a"), []);
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
}

#[test]
fn pods_leave_by_the_nodes_address_and_hear_what_is_said_of_their_packets() {
    let outside = Outside::new();
    let (one, two) = (Pod::new(1), Pod::new(2));
    let mut dataplane = outside.start(&[]);
    dataplane.ethdev("uplink", "net_af_packet0");
    dataplane.tap("a", one.fd());
    dataplane.tap("b", two.fd());
    let mut rows = vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }];
    rows.extend(Outside::rows("198.51.100.0/24"));
    dataplane.commit(0, rows);

    // Narrower than what pods know of: they learn it by an error about a packet that left with other ends.
    outside.router.ip("route add 203.0.113.7/32 dev eth1 mtu 1400");
    outside.router.ip("-6 route add 2001:db8::7/128 dev eth1 mtu 1400");
    for (from, far, node) in [("10.0.0.", FAR[0], NODE[0]), ("fd00::", FAR[1], NODE[1])] {
        let at = |ip: &str, port: u16| std::net::SocketAddr::new(ip.parse().unwrap(), port);
        let listener = listen(&outside.far, at(far, 80));
        let server = udp(&outside.far, at(far, 80));
        let mut seen = Vec::new();
        for (pod, number) in [(&one, 1), (&two, 2)] {
            let (client, there) = connect(pod, at(far, 80), &listener);
            seen.push(there.peer_addr().unwrap());
            exchange(&client, &there, 300_000);
            let (route, _) = pod.output("ip", &format!("route get {far}"));
            assert!(route.contains("mtu 1400"), "{route}");

            // Both from the same port, to the same port.
            let client = udp(pod, at(&format!("{from}{number}"), 7_777));
            // DPDK's packet socket has the kernel put IPv4 fragments together (PACKET_FANOUT_FLAG_DEFRAG), and cannot
            // take what comes of it: see the next test.
            for length in [1, 1_300, if far.contains(':') { 4_000 } else { 1_400 }] {
                seen.push(echo(&client, at(far, 80), &server, length));
            }
        }
        assert!(seen.iter().all(|peer| peer.ip().to_string() == node), "{seen:?}");
        assert!(seen.iter().all(|peer| (PORTS.first..=PORTS.last).contains(&peer.port())), "{seen:?}");
        assert_eq!(seen[1], seen[3], "one flow, one port");
        assert_ne!(seen[1], seen[5], "two pods, two ports");

        let (said, well) = one.output("ping", &format!("-c 1 -W 30 {far}"));
        assert!(well, "{said}");
    }
    // As traceroute does: the data plane is the first hop, the router the second.
    for (far, router) in FAR.iter().zip(ROUTER) {
        let (said, well) = one.output("ping", &format!("-n -c 1 -W 30 -t 2 {far}"));
        assert!(!well && said.contains(&format!("From {router} icmp_seq=1 Time")), "{said}");
    }
    for host in [&*one, &*two, &outside.far] {
        assert_eq!(host.counter("Tcp", "OutRsts"), 0);
        assert_eq!((host.counter("Tcp", "InCsumErrors"), host.counter("Udp", "InCsumErrors")), (0, 0));
        assert_eq!(host.counter("Icmp", "InCsumErrors"), 0);
    }
    dataplane.assert_ledger();

    // Its own address is what an excluded destination sees.
    outside.router.ip("addr add 198.51.100.1/32 dev eth0");
    outside.router.ip("route add 10.0.0.0/24 via 192.0.2.1");
    let (client, server) = (udp(&one, addr("10.0.0.1:0")), udp(&outside.router, addr("198.51.100.1:53")));
    assert_eq!(echo(&client, addr("198.51.100.1:53"), &server, 100), client.local_addr().unwrap());
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
}

#[test]
fn fragments_leave_by_the_nodes_address_and_those_of_answers_find_the_pod() {
    let (one, router) = (Pod::new(1), Pod::bare(9));
    for (address, length) in ROUTER.iter().zip([24, 64]) {
        let flags = if length == 64 { "nodad" } else { "" };
        router.ip(&format!("addr add {address}/{length} dev eth0 {flags}"));
    }
    let mut dataplane = Dataplane::start(&["--workers", "none"]);
    dataplane.tap("a", one.fd());
    dataplane.tap("uplink", router.fd());
    let mut rows = vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a")] }];
    rows.extend(Outside::rows("198.51.100.0/24"));
    dataplane.commit(0, rows);
    for (way, (router_at, node)) in WAYS.iter().zip(ROUTER.iter().zip(NODE)) {
        let at = std::net::SocketAddr::new(router_at.parse().unwrap(), 53);
        let (client, server) = (udp(&one, addr(way[0])), udp(&router, at));
        let seen = [1, 4_000, 60_000].map(|length| echo(&client, at, &server, length));
        assert!(seen.iter().all(|peer| *peer == seen[0]), "{seen:?}");
        assert_eq!(seen[0].ip().to_string(), node);
        // Large segments go whole by an uplink that takes them.
        let before = dataplane.port("uplink");
        let listener = listen(&router, at);
        let (client, server) = connect(&one, at, &listener);
        exchange(&client, &server, 2 << 20);
        let after = dataplane.port("uplink");
        assert!((after.tx_bytes - before.tx_bytes) / (after.tx_packets - before.tx_packets) > 1_514);
    }
    assert_eq!(dataplane.dropped("a"), []);
    // The router's kernel may ask whether somebody has its own address already (RFC 4862, section 5.4.2).
    let mut refused = dataplane.dropped("uplink");
    refused.retain(|(reason, _)| reason != "nd-not-for-us");
    assert_eq!(refused, []);
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
}

#[test]
fn a_flow_ends_by_the_time_that_was_asked_for() {
    let outside = Outside::new();
    let pod = Pod::new(1);
    let mut dataplane = outside.start(&["--timeout", "udp=1"]);
    dataplane.ethdev("uplink", "net_af_packet0");
    dataplane.tap("a", pod.fd());
    let mut rows = vec![gateway(), Op::SetEndpoints { endpoints: vec![endpoint(1, "a")] }];
    rows.extend(Outside::rows("198.51.100.0/24"));
    dataplane.commit(0, rows);

    // An answer prolongs its flow, so that each question is one flow's, and there are many.
    let far = addr("203.0.113.7:53");
    let server = udp(&outside.far, far);
    let mut flows: Vec<_> = (0..400)
        .map(|_| {
            let client = udp(&pod, addr("10.0.0.1:0"));
            client.send_to(b"q", far).unwrap();
            (client, receive(&server, &mut [0]).1)
        })
        .collect();
    let (client, peer) = flows.pop().unwrap();
    server.send_to(b"a", peer).unwrap();
    assert_eq!(receive(&client, &mut [0]), (1, far), "it lives yet");
    assert_eq!(dataplane.drops("uplink", "no-service"), 0);
    dataplane.until("a flow has ended", |d| {
        // As many as there are flows must last for as long as is waited.
        std::thread::sleep(std::time::Duration::from_millis(150));
        let (_, peer) = flows.pop().unwrap();
        server.send_to(b"a", peer).unwrap();
        d.drops("uplink", "no-service") > 0
    });
    // What was answered is kept as long as the default has it, and who asks anew is answered anew.
    server.send_to(b"a", peer).unwrap();
    assert_eq!(receive(&client, &mut [0]), (1, far));
    let client = udp(&pod, addr("10.0.0.1:0"));
    echo(&client, far, &server, 10);
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
}
