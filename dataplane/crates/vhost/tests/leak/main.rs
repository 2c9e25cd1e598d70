//! What connections leave behind: nothing. Alone in its process, since it counts that process's descriptors and mappings.
#![expect(clippy::unwrap_used, reason = "helpers of tests say what they expect by panicking")]

#[expect(dead_code, reason = "this test needs a part of it")]
#[path = "../vhost/guest.rs"]
mod guest;

use std::io::Write;
use std::os::unix::net::UnixStream;

use guest::{Guest, Host, frame};
use podrouter_vhost::PeerState;
use vhost::VhostBackend;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mappings_of_guests() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:guest").count()
}

/// A front end that comes, works, and ends in one of four ways.
fn one_connection(host: &mut Host, way: usize) {
    let stream = UnixStream::connect(&host.path).unwrap();
    let raw = stream.try_clone().unwrap();
    let frontend = vhost::vhost_user::Frontend::from_stream(stream, 2);
    let mut guest = Guest::over(frontend, guest::VERSION_1, 16, 0);
    host.reaches(PeerState::Running);
    guest.transmit().transmit(0, &frame(1, 90));
    assert_eq!(host.receive(), [Ok(frame(1, 90))]);
    match way % 4 {
        0 => {}
        1 => (&raw).write_all(&[8, 0, 0, 0, 1]).unwrap(),
        2 => (&raw).write_all(&[0xff; 64]).unwrap(),
        _ => assert!(guest.frontend.set_vring_num(0, 16).is_ok()),
    }
    drop((raw, guest));
    host.reaches(PeerState::Disconnected);
}

#[test]
fn two_hundred_connections_leave_no_descriptor_and_no_mapping() {
    let mut host = Host::start();
    one_connection(&mut host, 0);
    let before = descriptors();
    for way in 0..200 {
        one_connection(&mut host, way);
    }
    assert_eq!((descriptors(), mappings_of_guests()), (before, 0));
}
