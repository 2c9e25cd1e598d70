//! The data plane dies and starts again, while whoever holds the TAPs keeps them: with its flows in a file connections go
//! on as they were translated; without one they wait until the client speaks.

use std::io::Write;

use proto::dataplane::BackendState::{Draining, Serving};
use proto::dataplane::Op;

use crate::dataplane::Dataplane;
use crate::frames::{endpoint, service};
use crate::outside::{FAR, NODE, Outside};
use crate::pod::{Pod, gateway};
use crate::talk::{addr, connect, echo, exchange, hear, listen, receive, say, udp};

/// The service's address, its backend in pod 2, and one in pod 3 that nobody listens at.
const WAYS: [[&str; 3]; 2] = [
    ["10.96.0.10:80", "10.0.0.2:8080", "10.0.0.3:8080"],
    ["[fd00:96::10]:80", "[fd00::2]:8080", "[fd00::3]:8080"],
];

/// Pods 1 to 3 on ports a to c, and the service before the second of them.
fn rows() -> Vec<Op> {
    let endpoints = (1..).zip(["a", "b", "c"]).map(|(number, port)| endpoint(number, port)).collect();
    let mut rows = vec![gateway(), Op::SetEndpoints { endpoints }];
    rows.extend(WAYS.map(|[at, backend, _]| service(addr(at), &[(addr(backend), Serving)])));
    rows
}

fn taps(dataplane: &mut Dataplane, pods: &[Pod]) {
    for (name, pod) in ["a", "b", "c"].into_iter().zip(pods) {
        dataplane.tap(name, pod.fd());
    }
}

#[test]
fn connections_outlive_the_process_by_the_flow_file_with_the_translation_they_had() {
    let outside = Outside::new();
    let pods = [1, 2, 3].map(Pod::new);
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = memory.path().join("flows");
    let mut dataplane = outside.start(&["--flow-file", file.to_str().unwrap()]);
    let set_up = |dataplane: &mut Dataplane| {
        dataplane.ethdev("uplink", "net_af_packet0");
        taps(dataplane, &pods);
        dataplane.commit(0, [rows(), Outside::rows("198.51.100.0/24")].concat());
    };
    set_up(&mut dataplane);

    let mut services = Vec::new();
    for [at, backend, _] in WAYS.map(|way| way.map(addr)) {
        services.push(connect(&pods[0], at, &listen(&pods[1], backend)));
    }
    // Three pods from one port to one port outside: whose translation is whose depends on who came first.
    let mut leaving = Vec::new();
    for (node, far) in NODE.iter().zip(FAR) {
        let far = std::net::SocketAddr::new(far.parse().unwrap(), 80);
        let listener = listen(&outside.far, far);
        let server = udp(&outside.far, far);
        for (number, pod) in (1..).zip(&pods) {
            let own = if far.is_ipv4() {
                format!("10.0.0.{number}:7777")
            } else {
                format!("[fd00::{number}]:7777")
            };
            let tcp = connect(pod, far, &listener);
            assert_eq!(tcp.1.peer_addr().unwrap().ip().to_string(), *node);
            let client = udp(pod, addr(&own));
            let seen = echo(&client, far, &server, 100);
            leaving.push((tcp, client, server.try_clone().unwrap(), far, seen));
        }
    }
    for (client, server) in &services {
        exchange(client, server, 100_000);
    }

    for round in 0..3 {
        dataplane.kill();
        // What is said while nobody is there to carry it arrives later.
        for (client, server) in &services {
            (&mut &*server).write_all(b"more").unwrap();
            if round == 1 {
                (&mut &*client).write_all(b"more").unwrap();
            }
        }
        outside.start_again(&mut dataplane);
        set_up(&mut dataplane);
        for (client, server) in &services {
            hear(&mut &*client);
            if round == 1 {
                hear(&mut &*server);
            }
        }
        // The last one first, and whoever was asked first: only who remembers knows whom that is for.
        for ((client, server), asks, answers, far, seen) in leaving.iter().rev() {
            say(server, client);
            answers.send_to(b"late", seen).unwrap();
            let mut got = [0; 5];
            assert_eq!(receive(asks, &mut got), (4, *far));
            assert_eq!(&got[..4], b"late");
            assert_eq!(echo(asks, *far, answers, 100), *seen, "the translation it had");
        }
        for (client, server) in services.iter().chain(leaving.iter().map(|one| &one.0)) {
            exchange(client, server, 100_000);
        }
        for (port, reason) in [("b", "reply-unbound"), ("uplink", "no-service")] {
            assert_eq!(dataplane.drops(port, reason), 0, "{reason}");
        }
        dataplane.assert_ledger();
    }

    // Nor is it chosen anew when its backend takes no more: a new one goes to the other, where nobody listens.
    let drain = WAYS
        .map(|way| way.map(addr))
        .map(|[at, backend, other]| service(at, &[(backend, Draining), (other, Serving)]));
    dataplane.kill();
    outside.start_again(&mut dataplane);
    dataplane.ethdev("uplink", "net_af_packet0");
    taps(&mut dataplane, &pods);
    dataplane.commit(0, [rows(), drain.into(), Outside::rows("198.51.100.0/24")].concat());
    for ((client, server), way) in services.iter().zip(WAYS) {
        exchange(client, server, 100_000);
        let refused = pods[0].run(|| std::net::TcpStream::connect(way[0])).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(pods[2].counter("Tcp", "OutRsts"), 2);
    for host in [&*pods[0], &*pods[1], &outside.far] {
        assert_eq!(host.counter("Tcp", "OutRsts"), 0);
    }
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
}

#[test]
fn without_a_flow_file_answers_are_dropped_by_name_until_the_client_speaks() {
    let pods = [1, 2, 3].map(Pod::new);
    let mut dataplane = Dataplane::start(&["--workers", "none"]);
    taps(&mut dataplane, &pods);
    dataplane.commit(0, rows());
    let mut services = Vec::new();
    for [at, backend, _] in WAYS.map(|way| way.map(addr)) {
        let (client, server) = connect(&pods[0], at, &listen(&pods[1], backend));
        exchange(&client, &server, 100_000);
        services.push((client, server));
    }
    // An acknowledgement that comes late would be a word of the client's.
    dataplane.until("all is acknowledged", |_| pods.iter().all(|pod| pod.is_acknowledged()));
    dataplane.kill();
    dataplane.start_again();
    taps(&mut dataplane, &pods);
    dataplane.commit(0, rows());
    for (client, server) in &services {
        let before = dataplane.drops("b", "reply-unbound");
        (&mut &*server).write_all(b"more").unwrap();
        dataplane.until("the answer is dropped", |d| d.drops("b", "reply-unbound") > before);
        client.set_nonblocking(true).unwrap();
        let heard = std::io::Read::read(&mut &*client, &mut [0]).unwrap_err();
        assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock);
        client.set_nonblocking(false).unwrap();
        // The same backend is chosen for the same client.
        say(client, server);
        hear(&mut &*client);
        exchange(client, server, 100_000);
    }
    for pod in &pods {
        assert_eq!(pod.counter("Tcp", "OutRsts"), 0);
    }
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
}
