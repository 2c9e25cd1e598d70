//! A port's beginning, its connections one after another, and its end.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use podrouter_vhost::{Mode, PeerState, Sent, VhostConfig, VhostError, VhostPort};
use vhost::VhostBackend;
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use crate::guest::{Guest, Host, RECEIVE, TRANSMIT, VERSION_1, eventually, frame, send};

fn config(path: impl Into<PathBuf>, mode: Mode) -> VhostConfig {
    VhostConfig { mode, ..VhostConfig::new(path, "test") }
}

fn both_ways(host: &mut Host, guest: &mut Guest) {
    let sent = frame(1, 90);
    guest.transmit().transmit(0, &sent);
    assert_eq!(host.receive(), [Ok(sent.clone())]);
    let at = guest.receive().provide(0, 0x600);
    assert_eq!(host.send(&sent), Sent::Ok);
    assert_eq!(guest.receive().used(), [(0, 102)]);
    assert_eq!(guest.receive().read(at + 12, 90), sent);
}

#[test]
fn a_server_serves_one_front_end_after_another() {
    let mut host = Host::start();
    assert_eq!(host.port.state(), PeerState::Disconnected);
    for _ in 0..3 {
        let mut guest = Guest::connect(&host.path);
        host.reaches(PeerState::Running);
        both_ways(&mut host, &mut guest);
        drop(guest);
        host.reaches(PeerState::Disconnected);
        assert!(host.rx.burst(32).is_empty());
        assert_eq!(host.send(&[0; 60]), Sent::NotConnected);
        assert!(host.rx.arm_doorbell(), "a worker may sleep while nobody is there");
    }
}

#[test]
fn a_client_connects_whenever_a_front_end_listens() {
    let mut host = Host::start_as(Mode::Client);
    for _ in 0..3 {
        let listener = UnixListener::bind(&host.path).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut guest = Guest::over(Frontend::from_stream(stream, 2), VERSION_1, 16, 0);
        host.reaches(PeerState::Running);
        both_ways(&mut host, &mut guest);
        drop(listener);
        std::fs::remove_file(&host.path).unwrap();
        drop(guest);
        host.reaches(PeerState::Disconnected);
    }
    let path = host.path.clone();
    let _theirs = UnixListener::bind(&path).unwrap();
    host.port.close();
    assert!(path.exists(), "a client does not remove the front end's socket");
}

#[test]
fn a_ring_is_stopped_and_goes_on_where_it_was() {
    let mut host = Host::start();
    let mut guest = Guest::connect(&host.path);
    host.reaches(PeerState::Running);
    both_ways(&mut host, &mut guest);
    guest.transmit().transmit(3, &frame(2, 60));

    assert_eq!(guest.frontend.get_vring_base(TRANSMIT).unwrap(), 1);
    assert_eq!(guest.frontend.get_vring_base(RECEIVE).unwrap(), 1);
    host.reaches(PeerState::Connected);
    assert!(host.rx.burst(32).is_empty());
    assert_eq!(host.send(&[0; 60]), Sent::NotConnected);
    guest.start_ring(TRANSMIT, 1);
    guest.start_ring(RECEIVE, 1);
    host.reaches(PeerState::Running);
    assert_eq!(host.receive(), [Ok(frame(2, 60))]);

    guest.frontend.set_vring_enable(RECEIVE, false).unwrap();
    host.reaches(PeerState::Connected);
    guest.frontend.set_vring_enable(RECEIVE, true).unwrap();
    host.reaches(PeerState::Running);
    both_ways(&mut host, &mut guest);
}

#[test]
fn guest_memory_is_replaced_under_running_rings() {
    let mut host = Host::start();
    let mut guest = Guest::connect(&host.path);
    host.reaches(PeerState::Running);
    both_ways(&mut host, &mut guest);
    guest.frontend.set_mem_table(&[guest.memory]).unwrap();
    both_ways(&mut host, &mut guest);

    guest.frontend.remove_mem_region(&guest.memory).unwrap();
    host.reaches(PeerState::Connected);
    guest.transmit().transmit(1, &frame(5, 60));
    assert!(host.rx.burst(32).is_empty());
    assert!(guest.frontend.get_max_mem_slots().unwrap() >= 32);
    guest.frontend.add_mem_region(&guest.memory).unwrap();
    host.reaches(PeerState::Running);
    assert_eq!(host.receive(), [Ok(frame(5, 60))]);
}

#[test]
fn a_worker_that_never_stops_polling_does_not_keep_the_messages_out() {
    let mut host = Host::start();
    let mut guest = Guest::connect(&host.path);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (rx, tx) = (&mut host.rx, &mut host.tx);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                drop(rx.burst(32));
                send(&mut tx.burst(32), &[&[0; 60]]);
            }
        });
        for _ in 0..200 {
            let base = guest.frontend.get_vring_base(TRANSMIT).unwrap();
            guest.start_ring(TRANSMIT, u16::try_from(base).unwrap());
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_path_that_cannot_be_had_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("x".repeat(107 - folder.path().as_os_str().len()));
    let message = VhostPort::start(config(&long, Mode::Server), Vec::new()).unwrap_err().to_string();
    assert!(message.contains("108 bytes") && message.contains("at most 107"), "{message}");
    let fits = folder.path().join("x".repeat(106 - folder.path().as_os_str().len()));
    drop(VhostPort::start(config(&fits, Mode::Server), Vec::new()).unwrap());

    let missing = folder.path().join("no/such");
    let message = VhostPort::start(config(&missing, Mode::Server), Vec::new()).unwrap_err().to_string();
    assert!(message.contains("no/such") && message.contains("make the folder first"), "{message}");

    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let refused = VhostPort::start(config(&file, Mode::Server), Vec::new()).unwrap_err();
    assert!(matches!(refused, VhostError::NotASocket { .. }), "{refused}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");

    let invalid = VhostPort::start(config("", Mode::Client), Vec::new()).unwrap_err();
    assert!(matches!(invalid, VhostError::PathInvalid { .. }), "{invalid}");
}

#[test]
fn a_socket_is_removed_at_the_end_and_one_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    // A listener that is dropped leaves its file behind, as a process that was killed does.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let (port, _pairs) = VhostPort::start(config(&path, Mode::Server), Vec::new()).unwrap();
    assert_eq!(port.path(), path);

    let second = VhostPort::start(config(&path, Mode::Server), Vec::new()).unwrap_err();
    assert!(matches!(second, VhostError::InUse { .. }), "{second}");
    let connection = UnixStream::connect(&path).unwrap();
    eventually("the connection", || port.state() == PeerState::Connected);
    drop(connection);
    port.close();
    assert!(!path.exists());

    let (port, _pairs) = VhostPort::start(config(&path, Mode::Server), Vec::new()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _others = UnixListener::bind(&path).unwrap();
    port.close();
    assert!(path.exists(), "what another put there is not ours to remove");
}
