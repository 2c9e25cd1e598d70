//! Those of DPDK's virtual drivers that lead to nobody: a ring that gives back what it is sent, a source and sink of nothing,
//! and files.

use std::net::SocketAddr;

use proto::dataplane::{BackendState, Endpoint, EndpointKind, Op};

use crate::dataplane::{Dataplane, ROUTER};
use crate::frames::{assert_valid, endpoint, frames_of, pcap, service, udp};
use crate::pod::{Pod, gateway};
use crate::talk;

/// A data plane with a kernel pod, and a device with pod 1 behind it.
fn attach(devargs: &str, pod: &Pod, change: impl FnOnce(&mut Endpoint)) -> Dataplane {
    let mut dataplane = Dataplane::start(&[]);
    dataplane.tap("pod", pod.fd());
    dataplane.attach("device", devargs);
    let mut behind = endpoint(1, "device");
    change(&mut behind);
    let endpoints = vec![behind, endpoint(2, "pod")];
    dataplane.commit(0, vec![gateway(), Op::SetEndpoints { endpoints }]);
    dataplane
}

/// Takes the device away. Whatever it had is accounted for, and no buffer is missing.
fn detach(mut dataplane: Dataplane, generation: u64, endpoints: &[&str]) {
    let names = endpoints.iter().map(|&name| name.to_owned()).collect();
    dataplane.commit(generation, vec![Op::RemoveEndpoints { names }]);
    dataplane.remove("device");
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
    let log = dataplane.log();
    assert!(!log.contains("still in use") && !log.contains("does not add up"), "{log}");
}

/// A Service sends what a pod sends it to the host behind the ring. From there it comes back, to an address that is another
/// Service: that of a second pod, which answers.
#[test]
fn a_ring_gives_back_every_packet_as_it_was() {
    let [pod, other] = [2, 3].map(Pod::new);
    let mut dataplane = attach("net_ring0", &pod, |host| {
        host.kind = EndpointKind::Host;
        // It sends what it was sent, so the router's address is its own.
        host.mac = ROUTER;
    });
    dataplane.tap("other", other.fd());
    let mut ops = vec![Op::SetEndpoints { endpoints: vec![endpoint(3, "other")] }];
    let families =
        [["10.96.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3"], ["fd00:96::1", "fd00::1", "fd00::2", "fd00::3"]];
    let at = |host: &str, port| SocketAddr::new(host.parse().unwrap(), port);
    for [first, ring, _, last] in families {
        ops.push(service(at(first, 80), &[(at(ring, 80), BackendState::Serving)]));
        ops.push(service(at(ring, 80), &[(at(last, 80), BackendState::Serving)]));
    }
    dataplane.commit(1, ops);
    for [first, ring, here, last] in families {
        let (client, server) = (talk::udp(&pod, at(here, 4000)), talk::udp(&other, at(last, 80)));
        for length in [0, 1, 333, 1452] {
            let (sent, mut got) = (talk::stream(length), [0; 2_000]);
            client.send_to(&sent, at(first, 80)).unwrap();
            let (n, from) = talk::receive(&server, &mut got);
            assert!(got[..n] == sent && from == at(here, 4000), "{n} bytes from {from}");
            server.send_to(&sent, from).unwrap();
            let (n, from) = talk::receive(&client, &mut got);
            assert!(got[..n] == sent && from == at(ring, 80), "{n} bytes from {from}");
        }
    }
    let port = dataplane.port("device");
    assert_eq!((port.tx_packets, port.rx_packets), (8, 8));
    detach(dataplane, 2, &["pod1", "pod2", "pod3"]);
}

#[test]
fn null_takes_every_packet_and_its_own_are_dropped_by_name() {
    let pod = Pod::new(2);
    let mut dataplane = attach("net_null0,size=64,copy=1", &pod, |_| {});
    let client = talk::udp(&pod, talk::addr("10.0.0.2:4000"));
    for _ in 0..100 {
        client.send_to(b"nobody", "10.0.0.1:9").unwrap();
    }
    dataplane.until("all are sent", |d| d.port("device").tx_packets == 100);
    dataplane.until("nothing comes, and much of it", |d| d.port("device").rx_packets > 10_000);
    // Frames of zeros.
    let dropped = dataplane.dropped("device");
    assert!(dropped.len() == 1, "{dropped:?}");
    detach(dataplane, 1, &["pod1", "pod2"]);
}

#[test]
fn files_are_played_and_answers_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let [played, recorded] = ["played", "recorded"].map(|name| folder.path().join(name));
    pcap(&played, &[udp(1, 2, 64)]);
    let devargs =
        format!("net_pcap0,rx_pcap={},infinite_rx=1,tx_pcap={}", played.display(), recorded.display());
    let pod = Pod::new(2);
    // Before anything is played, lest the pod answer that nobody listens.
    let server = talk::udp(&pod, talk::addr("10.0.0.2:53"));
    let mut dataplane = attach(&devargs, &pod, |_| {});
    let mut got = [0; 100];
    for _ in 0..100 {
        let (n, from) = talk::receive(&server, &mut got);
        server.send_to(&got[..n], from).unwrap();
    }
    dataplane.until("all are sent", |d| d.port("device").tx_packets == 100);
    detach(dataplane, 1, &["pod1", "pod2"]);
    let frames = frames_of(&recorded);
    assert_eq!(frames.len(), 100);
    for frame in frames {
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 1]);
        assert_eq!(assert_valid(&frame), [b'x'; 18]);
    }
}
