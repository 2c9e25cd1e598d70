//! The binary itself, over its socket: real DPDK ports, no hugepages, no namespaces, no other process of ours.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by panicking")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use proto::Connection;
use proto::dataplane::{
    Endpoint, EndpointKind, Interface, InterfaceAddress, Ledger, Op, PortKind, PortSpec, PortStatus, Request,
    Response, Route, RouteKey, RouteTarget, Transaction,
};
use wire::MacAddr;

const PATIENCE: Duration = Duration::from_secs(60);
const ROUTER: MacAddr = MacAddr([0x02, 0x70, 0x6f, 0x64, 0, 1]);

/// A data plane of this test's own; it ends with the test.
struct Dataplane {
    child: Child,
    socket: PathBuf,
    connection: Connection,
    dir: tempfile::TempDir,
}

impl Dataplane {
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let mut child = Command::new(env!("CARGO_BIN_EXE_podrouter-dataplane"))
            .args(["--no-huge", "--workers", "0", "--mbufs", "4096", "--large-mbufs", "256", "--log", "warn", "--socket"])
            .arg(&socket)
            .args(args)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let mut connection = loop {
            match Connection::connect(&socket) {
                Ok(connection) => break connection,
                Err(error) => {
                    assert!(child.try_wait().unwrap().is_none(), "it ended before it was ready");
                    assert!(began.elapsed() < PATIENCE, "not ready: {error}");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        };
        connection.set_timeout(Some(PATIENCE)).unwrap();
        let hello = Request::Hello { version: proto::VERSION, program: "test".into() };
        let (answer, _) = connection.call::<_, Response>(&hello, &[]).unwrap();
        assert!(matches!(answer, Response::Hello(hello) if hello.generation == 0));
        Self { child, socket, connection, dir }
    }

    fn call(&mut self, request: &Request) -> Response {
        self.connection.call(request, &[]).unwrap().0
    }

    fn add(&mut self, name: &str, kind: PortKind) {
        let spec = PortSpec { name: name.into(), kind, mac: Some(ROUTER), mtu: 1500 };
        match self.call(&Request::AddPort(spec.clone())) {
            Response::Port(info) => assert_eq!((info.spec, info.mac), (spec, ROUTER)),
            other => panic!("{other:?}"),
        }
    }

    fn ethdev(&mut self, name: &str, device: &str) {
        self.add(name, PortKind::Ethdev { device: device.into(), devargs: None });
    }

    fn commit(&mut self, base: u64, ops: Vec<Op>) {
        let target = base + 1;
        match self.call(&Request::Transaction(Transaction { base, target, ops })) {
            Response::Committed { generation } => assert_eq!(generation, target),
            other => panic!("{other:?}"),
        }
    }

    fn rejected(&mut self, base: u64, ops: Vec<Op>) -> String {
        match self.call(&Request::Transaction(Transaction { base, target: base + 1, ops })) {
            Response::Rejected { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn ports(&mut self) -> Vec<PortStatus> {
        match self.call(&Request::ShowPorts) {
            Response::Ports { ports } => ports,
            other => panic!("{other:?}"),
        }
    }

    fn port(&mut self, name: &str) -> PortStatus {
        self.ports().into_iter().find(|port| port.info.spec.name == name).unwrap()
    }

    fn drops(&mut self, port: &str, reason: &str) -> u64 {
        let Response::Drops { drops } = self.call(&Request::ShowDrops) else { panic!() };
        drops.iter().filter(|drop| drop.port == port && drop.reason == reason).map(|drop| drop.packets).sum()
    }

    fn ledgers(&mut self) -> Vec<Ledger> {
        let Response::Workers { workers } = self.call(&Request::ShowWorkers) else { panic!() };
        workers.into_iter().map(|worker| worker.ledger).collect()
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Every worker at rest, and every packet accounted for.
    fn assert_ledger(&mut self) {
        let mut last = Vec::new();
        self.until("the ledger adds up at rest", |dataplane| {
            let now = dataplane.ledgers();
            let rest = now == last;
            let adds_up = now.iter().all(|ledger| ledger.imbalance() == 0);
            let handed = now.iter().map(|l| l.handed_in).sum::<u64>() == now.iter().map(|l| l.handed_out).sum::<u64>();
            last = now;
            rest && adds_up && handed
        });
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "SIGTERM did not end it");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        // EAL's own folder, where it was not ended in order.
        let runtime = format!("/var/run/dpdk/podrouter-{}", self.child.id());
        drop(std::fs::remove_dir_all(runtime));
    }
}

fn endpoint(number: u8, port: &str) -> Endpoint {
    Endpoint {
        name: format!("pod{number}"),
        port: port.into(),
        network: 0,
        mac: MacAddr([2, 0, 0, 0, 0, number]),
        addresses: vec![IpAddr::from([10, 0, 0, number]), format!("fd00::{number}").parse().unwrap()],
        kind: EndpointKind::Pod,
    }
}

/// A UDP datagram from pod `from` to 10.0.0.`to`, 60 bytes.
fn udp(from: u8, to: u8, ttl: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&ROUTER.0);
    frame.extend_from_slice(&[2, 0, 0, 0, 0, from, 8, 0]);
    frame.extend_from_slice(&[0x45, 0, 0, 46, 0, 1, 0x40, 0, ttl, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
    frame.extend_from_slice(&[0x12, 0x34, 0, 53, 0, 26, 0, 0]);
    frame.extend_from_slice(&[b'x'; 18]);
    let checksum = wire::checksum::internet_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        file.extend_from_slice(&[0; 8]);
        file.extend_from_slice(&length);
        file.extend_from_slice(&length);
        file.extend_from_slice(frame);
    }
    std::fs::write(path, file).unwrap();
}

fn frames_of(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut frames = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        frames.push(bytes[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    frames
}

#[test]
fn what_a_memory_port_plays_is_routed_answered_or_dropped_by_name() {
    let mut dataplane = Dataplane::start(&[]);
    let (input, back, out) =
        (dataplane.dir.path().join("in"), dataplane.dir.path().join("back"), dataplane.dir.path().join("out"));
    let spoofed = udp(9, 2, 64);
    pcap(&input, &[udp(1, 2, 64), udp(1, 2, 1), udp(1, 77, 64), spoofed, vec![0xff; 9], udp(1, 2, 2)]);
    dataplane.add("a", PortKind::Memory { rx_pcap: Some(input), tx_pcap: Some(back.clone()) });
    dataplane.add("b", PortKind::Memory { rx_pcap: None, tx_pcap: Some(out.clone()) });
    dataplane.commit(0, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }]);
    dataplane.until("all frames are played", |d| d.port("a").rx_packets == 6 && d.port("a").tx_packets == 2);

    assert_eq!(dataplane.port("b").tx_packets, 2);
    for (reason, count) in
        [("ttl-exceeded", 1), ("no-route", 1), ("source-mac-spoofed", 1), ("frame-too-short", 1)]
    {
        assert_eq!(dataplane.drops("a", reason), count, "{reason}");
    }
    assert_eq!(dataplane.port("a").rx_drops, 4);
    dataplane.assert_ledger();

    dataplane.commit(1, vec![Op::RemoveEndpoints { names: vec!["pod1".into(), "pod2".into()] }]);
    for name in ["a", "b"] {
        assert_eq!(dataplane.call(&Request::RemovePort { name: name.into() }), Response::Done);
    }
    let forwarded = frames_of(&out);
    let mut expected = udp(1, 2, 63);
    expected[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 0x02, 0x70, 0x6f, 0x64, 0, 1]);
    assert_eq!(forwarded.len(), 2);
    assert_eq!(forwarded[0], expected);
    let errors: Vec<_> = frames_of(&back).iter().map(|frame| (frame[23], frame[34], frame[35])).collect();
    assert_eq!(errors, [(1, 11, 0), (1, 3, 0)], "ICMP time exceeded, then net unreachable");
    assert!(dataplane.terminate().success());
}

#[test]
fn a_bad_transaction_names_what_is_wrong_and_changes_nothing() {
    let mut dataplane = Dataplane::start(&["--vdev", "net_null0"]);
    dataplane.ethdev("uplink", "net_null0");
    dataplane.add("a", PortKind::Memory { rx_pcap: None, tx_pcap: None });
    let good = vec![
        Op::SetEndpoints { endpoints: vec![endpoint(1, "a")] },
        Op::SetInterfaces {
            interfaces: vec![Interface {
                port: "uplink".into(),
                network: 0,
                addresses: vec![InterfaceAddress { address: "192.0.2.1".parse().unwrap(), prefix_len: 24 }],
            }],
        },
    ];
    dataplane.commit(0, good);
    let Response::Snapshot(before) = dataplane.call(&Request::Snapshot) else { panic!() };

    let route = |port: &str| Route {
        key: RouteKey { network: 0, prefix: "198.51.100.0/24".parse().unwrap() },
        target: RouteTarget::NextHop { port: port.into(), address: "192.0.2.9".parse().unwrap() },
    };
    let twin = Endpoint { name: "twin".into(), ..endpoint(1, "a") };
    let first = Op::SetRoutes { routes: vec![route("uplink")] };
    for (second, words) in [
        (Op::SetRoutes { routes: vec![route("nowhere")] }, vec!["op 1", "198.51.100.0/24", "nowhere", "uplink"]),
        (Op::SetEndpoints { endpoints: vec![twin] }, vec!["op 1", "twin", "pod1"]),
        (Op::RemoveEndpoints { names: vec!["ghost".into()] }, vec!["op 1", "ghost"]),
        (Op::RemoveInterfaces { ports: vec!["a".into()] }, vec!["op 1"]),
    ] {
        let reason = dataplane.rejected(1, vec![first.clone(), second]);
        for word in words {
            assert!(reason.contains(word), "`{word}` is missing in: {reason}");
        }
    }
    assert!(dataplane.rejected(0, vec![first]).contains("generation 0"));
    match dataplane.call(&Request::RemovePort { name: "a".into() }) {
        Response::Failed { reason } => assert!(reason.contains("pod1"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(dataplane.call(&Request::Snapshot), Response::Snapshot(before));
}

#[test]
fn ports_come_and_go_while_others_forward() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    pcap(&source, &(0..32).map(|_| udp(1, 2, 64)).collect::<Vec<_>>());
    let vdev = format!("net_pcap0,rx_pcap={},infinite_rx=1", source.display());
    let mut dataplane = Dataplane::start(&["--vdev", &vdev, "--vdev", "net_null0,no-rx=1", "--idle", "poll"]);
    dataplane.ethdev("a", "net_pcap0");
    dataplane.ethdev("b", "net_null0");
    let mut other = endpoint(2, "b");
    other.addresses.truncate(1);
    dataplane.commit(0, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), other] }]);
    dataplane.until("packets flow", |d| d.port("b").tx_packets > 1_000);

    let idle_before = dataplane.drops("a", "port-idle");
    let mut generation = 1;
    for round in 0..40 {
        let name = format!("m{round}");
        let before = dataplane.port("b").tx_packets;
        dataplane.add(&name, PortKind::Memory { rx_pcap: None, tx_pcap: None });
        let mut pod = endpoint(3, &name);
        pod.name = name.clone();
        dataplane.commit(generation, vec![Op::SetEndpoints { endpoints: vec![pod] }]);
        dataplane.commit(generation + 1, vec![Op::RemoveEndpoints { names: vec![name.clone()] }]);
        generation += 2;
        assert_eq!(dataplane.call(&Request::RemovePort { name }), Response::Done);
        dataplane.until("packets still flow", |d| d.port("b").tx_packets > before);
    }
    assert_eq!(dataplane.drops("a", "port-idle"), idle_before, "nothing was lost to the changes");
    assert_eq!((dataplane.port("b").tx_drops, dataplane.port("a").rx_drops), (0, idle_before));

    // At rest, everything that was received has gone somewhere.
    dataplane.commit(generation, vec![Op::RemoveEndpoints { names: vec!["pod1".into(), "pod2".into()] }]);
    assert_eq!(dataplane.call(&Request::RemovePort { name: "a".into() }), Response::Done);
    dataplane.assert_ledger();
}

#[test]
fn neighbours_are_asked_for_and_packets_wait_a_bounded_while() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    pcap(&source, &(0..20).map(|_| udp(1, 2, 64)).collect::<Vec<_>>());
    let mut dataplane = Dataplane::start(&["--vdev", "net_null0,no-rx=1"]);
    dataplane.ethdev("uplink", "net_null0");
    dataplane.add("a", PortKind::Memory { rx_pcap: Some(source), tx_pcap: None });
    let interface = Interface {
        port: "uplink".into(),
        network: 0,
        addresses: vec![InterfaceAddress { address: "192.0.2.1".parse().unwrap(), prefix_len: 24 }],
    };
    let route = Route {
        key: RouteKey { network: 0, prefix: "10.0.0.0/24".parse().unwrap() },
        target: RouteTarget::NextHop { port: "uplink".into(), address: "192.0.2.9".parse().unwrap() },
    };
    dataplane.commit(
        0,
        vec![
            Op::SetInterfaces { interfaces: vec![interface] },
            Op::SetRoutes { routes: vec![route] },
            Op::SetEndpoints { endpoints: vec![endpoint(1, "a")] },
        ],
    );
    // Nobody answers on net_null: three questions, then those that waited are given up, and their source is told.
    dataplane.until("the neighbour is given up", |d| {
        let Response::Neighbours { neighbours } = d.call(&Request::ShowNeighbours) else { panic!() };
        neighbours.iter().any(|n| n.port == "uplink" && n.state == "failed" && n.held == 0)
    });
    dataplane.assert_ledger();
    assert_eq!(dataplane.port("uplink").tx_packets, 3, "three ARP requests");
    let full = dataplane.drops("uplink", "neighbour-queue-full");
    let unreachable = dataplane.drops("a", "neighbour-unreachable");
    assert_eq!(full + unreachable, 20, "{full} did not fit, {unreachable} waited in vain");
    assert!(full > 0 && unreachable > 0);
    assert_eq!(dataplane.port("a").tx_packets, unreachable, "host unreachable for each that waited");
}

#[test]
fn a_second_one_on_the_same_socket_is_refused_and_exit_codes_are_as_documented() {
    let dataplane = Dataplane::start(&[]);
    let code = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_podrouter-dataplane")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, text) = code(&["--no-huge", "--workers", "0", "--socket", dataplane.socket.to_str().unwrap()]);
    assert_eq!(status, Some(1));
    assert!(text.contains("answers on"), "{text}");
    assert_eq!(code(&["--workers", "x"]).0, Some(2));
    let fresh = dataplane.dir.path().join("t");
    let fresh = fresh.to_str().unwrap();
    let (status, text) = code(&["--no-huge", "--workers", "0", "--socket", fresh, "--vdev", "net_nonsense0"]);
    assert_eq!(status, Some(4), "{text}");
    assert!(text.contains("net_nonsense0"), "{text}");
    let (status, text) = code(&["--no-huge", "--workers", "999", "--socket", fresh]);
    assert_eq!(status, Some(1));
    assert!(text.contains("999"), "{text}");
}
