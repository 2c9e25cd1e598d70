//! The process: its socket, its clients, its start and its end.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use proto::Connection;
use proto::dataplane::{Op, Request, Response};

use crate::dataplane::Dataplane;
use crate::frames::{endpoint, pcap, udp};

#[test]
fn a_second_one_on_the_same_socket_is_refused_and_exit_codes_are_as_documented() {
    let dataplane = Dataplane::start(&[]);
    let code = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_podrouter-dataplane")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, text) =
        code(&["--no-huge", "--workers", "0", "--socket", dataplane.socket.to_str().unwrap()]);
    assert_eq!(status, Some(1));
    assert!(text.contains("answers on"), "{text}");
    assert_eq!(code(&["--workers", "x"]).0, Some(2));
    let fresh = dataplane.dir.path().join("t");
    let fresh = fresh.to_str().unwrap();
    let (status, text) = code(&["--no-huge", "--workers", "0", "--socket", fresh, "--vdev", "net_nonsense0"]);
    assert_eq!(status, Some(4), "{text}");
    assert!(text.contains("net_nonsense0"), "{text}");
    let (status, text) = code(&["--no-huge", "--workers", "999", "--socket", fresh]);
    assert_eq!(status, Some(2));
    assert!(text.contains("999"), "{text}");
}

#[test]
fn the_socket_is_roots_alone_and_replaces_only_what_was_left_behind() {
    let mut dataplane = Dataplane::start(&[]);
    let mode = std::fs::metadata(&dataplane.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(dataplane.terminate().success());
    assert!(!dataplane.socket.exists(), "it is taken away at the end");

    // One left behind by a process that was killed.
    let socket = dataplane.socket.clone();
    let args = ["--no-huge", "--workers", "none", "--socket", socket.to_str().unwrap()];
    drop(std::os::unix::net::UnixListener::bind(&dataplane.socket).unwrap());
    let mut killed = Command::new(env!("CARGO_BIN_EXE_podrouter-dataplane")).args(args).spawn().unwrap();
    dataplane.until("the one left behind is replaced", |d| Connection::connect(&d.socket).is_ok());
    killed.kill().unwrap();
    killed.wait().unwrap();

    // A file that is no socket stays.
    std::fs::remove_file(&dataplane.socket).unwrap();
    std::fs::write(&dataplane.socket, "precious").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_podrouter-dataplane")).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no socket"), "{text}");
    assert_eq!(std::fs::read(&dataplane.socket).unwrap(), b"precious");
}

#[test]
fn clients_that_hang_or_are_too_many_hold_up_nobody() {
    let mut dataplane = Dataplane::start(&[]);
    dataplane.add("m", proto::dataplane::PortKind::Memory { rx_pcap: None, tx_pcap: None, repeat: false });
    // One asks and never reads, until neither side can write.
    let mut deaf = dataplane.client();
    deaf.set_timeout(Some(Duration::from_millis(200))).unwrap();
    while deaf.send(&Request::ShowDrops, &[]).is_ok() {}
    // One stops in the middle of a message, one sends what is none.
    let half = UnixStream::connect(&dataplane.socket).unwrap();
    (&half).write_all(&[0, 0, 0, 9, b'{']).unwrap();
    let mut odd = dataplane.client();
    assert!(
        matches!(odd.call(&"no request", &[]).unwrap().0, Response::Failed { reason } if reason.contains("read"))
    );
    assert!(matches!(odd.call(&Request::ShowStatus, &[]).unwrap().0, Response::Status(_)));

    let mut crowd = Vec::new();
    let turned_away = loop {
        let mut client = dataplane.client();
        match client.call(&Request::ShowStatus, &[]).map(|(answer, _)| answer) {
            Ok(Response::Status(_)) => crowd.push(client),
            Ok(Response::Failed { reason }) => break reason,
            // Turned away before it had asked.
            Err(_) => break "clients".into(),
            Ok(other) => panic!("{other:?}"),
        }
        assert!(crowd.len() < 1_000, "there is no end to clients");
    };
    assert!(turned_away.contains("clients"), "{turned_away}");
    assert!(matches!(dataplane.call(&Request::ShowStatus), Response::Status(_)));
    drop(crowd);
    dataplane.until("there is room again", |d| {
        matches!(d.client().call::<_, Response>(&Request::ShowStatus, &[]), Ok((Response::Status(_), _)))
    });
}

#[test]
fn it_ends_in_order_while_packets_flow_and_gives_every_buffer_back() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    pcap(&source, &(0..32).map(|_| udp(1, 2, 64)).collect::<Vec<_>>());
    let vdev = format!("net_pcap0,rx_pcap={},infinite_rx=1", source.display());
    let pod = crate::pod::Pod::new(2);
    let mut dataplane = Dataplane::start(&["--vdev", &vdev, "--log", "info"]);
    dataplane.ethdev("a", "net_pcap0");
    dataplane.tap("b", pod.fd());
    dataplane.commit(0, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }]);
    dataplane.until("packets flow from worker to worker", |d| d.port("b").tx_packets > 1_000);
    assert!(dataplane.terminate().success());
    let log = dataplane.log();
    assert!(
        log.contains("ended") && !log.contains("still in use") && !log.contains("does not add up"),
        "{log}"
    );
    assert!(!dataplane.socket.exists());
}
