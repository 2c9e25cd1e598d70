//! A back end that is killed and started again under a guest that goes on: no frame twice, none lost in a ring.

use podrouter_vhost::{PeerState, Sent, VhostConfig};
use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserInflight;
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use crate::guest::{BOTH, Guest, Host, PACKED, RECEIVE, TRANSMIT, VERSION_1, frame};

/// So many descriptors, so that a few bursts leave the ring in its second round.
const SIZE: u16 = 7;

fn remembering(config: VhostConfig) -> VhostConfig {
    let state = config.path.with_file_name("rings");
    VhostConfig { state: Some(state), ..config }
}

/// Both ways, in bursts of one and of three; the rings end at place `frames` of their rounds.
fn work(host: &mut Host, guest: &mut Guest, frames: u16) {
    for number in 0..frames {
        let sent = frame(usize::from(number), 90);
        guest.transmit().transmit(number % 3, &sent);
        assert_eq!(host.receive(), [Ok(sent.clone())], "frame {number}");
        assert_eq!(guest.transmit().used().len(), 1);
        let at = guest.receive().provide(number % 3, 0x600);
        assert_eq!(host.send(&sent), Sent::Ok);
        assert_eq!(guest.receive().used(), [(u32::from(number % 3), 102)]);
        assert_eq!(guest.receive().read(at + 12, 90), sent);
    }
}

/// What a front end says of a ring whose back end has died without a word.
fn base_of_a_dead_back_end(guest: &Guest, index: usize) -> u16 {
    // QEMU takes a split ring's from its used index; of a packed one it knows nothing.
    if guest.features & PACKED != 0 { 1 << 15 } else { guest.rings[index].base() }
}

#[test]
fn rings_go_on_where_they_were_when_the_back_end_was_killed() {
    for features in BOTH {
        // A split ring's size is a power of two.
        let size = if features & PACKED != 0 { SIZE } else { 8 };
        for frames in 0..3 * SIZE {
            let mut host = Host::start_with(remembering);
            let mut guest = Guest::connect_with(&host.path, features, size, 0);
            host.reaches(PeerState::Running);
            work(&mut host, &mut guest, frames);
            // Under way when it dies: they are there for the next one.
            let waiting = frame(500, 60);
            guest.transmit().transmit(5, &waiting);
            guest.receive().provide(5, 0x600);

            let mut host = Host::start_in(host.end(), remembering);
            guest.reconnect(&host.path);
            for index in [RECEIVE, TRANSMIT] {
                let base = base_of_a_dead_back_end(&guest, index);
                guest.start_ring(index, base);
            }
            host.reaches(PeerState::Running);
            assert_eq!(host.receive(), [Ok(waiting)], "after {frames}, {features:#x}");
            assert_eq!(guest.transmit().used(), [(5, 0)]);
            assert_eq!(host.send(&frame(1, 60)), Sent::Ok);
            assert_eq!(guest.receive().used(), [(5, 72)]);
            work(&mut host, &mut guest, 2 * SIZE);
        }
    }
}

#[test]
fn a_front_end_that_keeps_the_places_of_packed_rings_brings_them_back() {
    for frames in [0, 3, SIZE, SIZE + 2, 2 * SIZE - 1, 2 * SIZE] {
        let mut host = Host::start();
        let mut guest = Guest::connect_with(&host.path, VERSION_1 | PACKED, SIZE, 0);
        host.reaches(PeerState::Running);
        // Asked for before the rings start.
        for index in [RECEIVE, TRANSMIT] {
            guest.frontend.get_vring_base(index).unwrap();
        }
        let wanted = VhostUserInflight { num_queues: 2, queue_size: SIZE, ..VhostUserInflight::default() };
        let (kept, file) = guest.frontend.get_inflight_fd(&wanted).unwrap();
        assert_eq!((kept.num_queues, kept.queue_size), (2, SIZE));
        for index in [RECEIVE, TRANSMIT] {
            guest.start_ring(index, 1 << 15);
        }
        host.reaches(PeerState::Running);
        work(&mut host, &mut guest, frames);
        guest.transmit().transmit(5, &frame(9, 60));

        let mut host = Host::start_in(host.end(), |config| config);
        guest.reconnect(&host.path);
        guest.frontend.set_inflight_fd(&kept, std::os::fd::AsRawFd::as_raw_fd(&file)).unwrap();
        for index in [RECEIVE, TRANSMIT] {
            guest.start_ring(index, 1 << 15);
        }
        host.reaches(PeerState::Running);
        assert_eq!(host.receive(), [Ok(frame(9, 60))], "after {frames}");
        assert_eq!(guest.transmit().used().len(), 1);
        work(&mut host, &mut guest, SIZE);
    }
}

#[test]
fn a_ring_that_a_driver_began_anew_is_not_taken_for_the_old_one() {
    for frames in [1, SIZE - 1, SIZE, SIZE + 3, 2 * SIZE] {
        let mut host = Host::start_with(remembering);
        let mut guest = Guest::connect_with(&host.path, VERSION_1 | PACKED, SIZE, 0);
        host.reaches(PeerState::Running);
        work(&mut host, &mut guest, frames);
        drop(guest);

        // The back end dies, and the guest starts again meanwhile.
        let mut host = Host::start_in(host.end(), remembering);
        let mut guest = Guest::over(Frontend::connect(&host.path, 2).unwrap(), VERSION_1 | PACKED, SIZE, 0);
        host.reaches(PeerState::Running);
        work(&mut host, &mut guest, 2 * SIZE + 1);
    }
}

#[test]
fn a_front_end_that_stops_a_ring_knows_better_from_then_on() {
    let mut host = Host::start_with(remembering);
    let mut guest = Guest::connect_with(&host.path, VERSION_1 | PACKED, SIZE, 0);
    host.reaches(PeerState::Running);
    work(&mut host, &mut guest, SIZE + 2);
    for index in [RECEIVE, TRANSMIT] {
        // Where the next is available in the low half, where it is used in the high one.
        let base = guest.frontend.get_vring_base(index).unwrap();
        let place = u32::from(guest.rings[index].base());
        assert_eq!(base, place | place << 16);
        guest.start_ring(index, guest.rings[index].base());
    }
    host.reaches(PeerState::Running);
    work(&mut host, &mut guest, SIZE);
}

#[test]
fn a_state_file_is_of_one_port_and_may_be_anything() {
    let mut host = Host::start_with(remembering);
    let path = host.path.with_file_name("rings");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 128, "a line for each ring");
    let mut guest = Guest::connect_with(&host.path, VERSION_1 | PACKED, SIZE, 0);
    host.reaches(PeerState::Running);
    work(&mut host, &mut guest, SIZE + 2);
    let folder = host.end();
    // A place outside the ring, as if of a larger one: nothing of that is believed.
    let mut bytes = std::fs::read(&path).unwrap();
    for ring in 0..2 {
        bytes[64 * ring + 16..64 * ring + 20].copy_from_slice(&[0xff, 0x7f, 0xff, 0x7f]);
    }
    std::fs::write(&path, &bytes).unwrap();
    let host = Host::start_in(folder, remembering);
    guest.reconnect(&host.path);
    for index in [RECEIVE, TRANSMIT] {
        guest.start_ring(index, guest.rings[index].base());
    }
    host.reaches(PeerState::Running);

    // And a file of another length is made anew.
    let folder = host.end();
    std::fs::write(&path, b"something else").unwrap();
    let _host = Host::start_in(folder, remembering);
    assert_eq!(std::fs::read(&path).unwrap(), [0; 128]);
}
