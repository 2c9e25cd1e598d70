//! A hostile guest: descriptors, indices and messages that make no sense.

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use podrouter_vhost::{PeerState, RxRefused, Sent, TxRefused};
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vmm_sys_util::eventfd::EventFd;

use crate::guest::{
    Guest, Host, LIMIT, MRG_RXBUF, NEXT, RECEIVE, Ring, TRANSMIT, VERSION_1, WRITE, frame, send,
};

type Spoil = fn(&mut Ring, u16);

/// Ways to make chain 0 of 16 descriptors malformed; `way` is the right direction's flag.
fn malformed_chains() -> Vec<(&'static str, Spoil)> {
    vec![
        ("a loop", |ring, way| {
            ring.describe(0, ring.buffers, 100, NEXT | way, 1);
            ring.describe(1, ring.buffers, 100, NEXT | way, 0);
        }),
        ("a loop of nothing", |ring, way| ring.describe(0, ring.buffers, 0, NEXT | way, 0)),
        ("a successor outside the table", |ring, way| ring.describe(0, ring.buffers, 100, NEXT | way, 16)),
        ("memory that is not there", |ring, way| ring.describe(0, 0x10, 2000, way, 0)),
        ("memory that ends inside", |ring, way| ring.describe(0, 0x1f_ffc0, 2000, way, 0)),
        ("memory that wraps around", |ring, way| ring.describe(0, u64::MAX - 20, 2000, way, 0)),
        ("the wrong way", |ring, way| ring.describe(0, ring.buffers, 2000, way ^ WRITE, 0)),
        ("the wrong way in the middle", |ring, way| {
            ring.describe(0, ring.buffers, 100, NEXT | way, 1);
            ring.describe(1, ring.buffers, 100, way ^ WRITE, 0);
        }),
        ("an indirect table that is not there", |ring, way| ring.describe(0, 0x10, 160, 4 | way, 0)),
        ("an indirect table of odd length", |ring, way| ring.describe(0, ring.buffers, 17, 4 | way, 0)),
        ("a length beyond 32 bits in all", |ring, way| {
            ring.describe(0, ring.buffers, u32::MAX, NEXT | way, 1);
            ring.describe(1, ring.buffers, u32::MAX, way, 0);
        }),
    ]
}

#[test]
fn a_malformed_chain_from_the_guest_is_refused_and_given_back() {
    let mut host = Host::start();
    let mut guest = Guest::connect(&host.path);
    host.reaches(PeerState::Running);
    for (what, spoil) in malformed_chains() {
        let ring = guest.transmit();
        spoil(ring, 0);
        ring.offer(0);
        let good = frame(1, 200);
        ring.transmit(5, &good);
        assert_eq!(host.receive(), [Err(RxRefused::Malformed), Ok(good)], "{what}");
        assert_eq!(guest.transmit().used(), [(0, 0), (5, 0)], "{what}");
    }
    for length in [0, 1, 12, 25] {
        let ring = guest.transmit();
        ring.describe(0, ring.buffers, length, 0, 0);
        ring.offer(0);
        assert_eq!(host.receive(), [Err(RxRefused::TooShort)], "{length}");
        assert_eq!(guest.transmit().used(), [(0, 0)]);
    }
}

#[test]
fn a_malformed_chain_to_receive_into_is_refused_and_given_back() {
    for features in [VERSION_1, VERSION_1 | MRG_RXBUF] {
        let mut host = Host::start();
        let mut guest = Guest::connect_with(&host.path, features, 16, 0);
        host.reaches(PeerState::Running);
        let sent = frame(1, 1000);
        for (what, spoil) in malformed_chains() {
            spoil(guest.receive(), WRITE);
            guest.receive().offer(0);
            let good = guest.receive().provide(5, 0x600);
            let mut burst = host.tx.burst(2);
            assert_eq!(send(&mut burst, &[&sent]), Sent::Refused(TxRefused::Malformed), "{what}");
            assert_eq!(send(&mut burst, &[&sent]), Sent::Ok, "{what}");
            drop(burst);
            assert_eq!(guest.receive().used(), [(0, 0), (5, 1012)], "{what}");
            assert_eq!(guest.receive().read(good + 12, 1000), sent);
        }
    }
}

#[test]
fn buffers_too_small_to_be_meant_cost_one_frame() {
    let mut host = Host::start();
    let mut guest = Guest::connect_with(&host.path, VERSION_1 | MRG_RXBUF, 256, 0);
    host.reaches(PeerState::Running);
    let ring = guest.receive();
    for index in 0..200 {
        ring.describe(index, ring.buffers, 1, WRITE, 0);
        ring.offer(index);
    }
    assert_eq!(host.send(&frame(0, 1000)), Sent::Refused(TxRefused::Malformed));
    assert_eq!(guest.receive().used().len(), 128);
}

#[test]
fn chains_of_empty_descriptors_cost_a_bounded_number_of_reads() {
    let mut host = Host::start();
    let mut guest = Guest::connect_with(&host.path, VERSION_1 | MRG_RXBUF, 256, 0);
    host.reaches(PeerState::Running);
    let ring = guest.receive();
    // One chain of 200 descriptors, all empty but the last with its one byte; offered again and again.
    for index in 0..199 {
        ring.describe(index, ring.buffers, 0, NEXT | WRITE, index + 1);
    }
    ring.describe(199, ring.buffers, 1, WRITE, 0);
    for _ in 0..128 {
        ring.offer(0);
    }
    assert_eq!(host.send(&frame(0, 1000)), Sent::Refused(TxRefused::Malformed));
    assert_eq!(guest.receive().used().len(), 6, "a thousand descriptors and a chain are enough");
}

#[test]
fn a_head_outside_the_table_is_refused_alone() {
    let mut host = Host::start();
    let mut guest = Guest::connect(&host.path);
    host.reaches(PeerState::Running);
    guest.transmit().offer(16);
    guest.transmit().offer(65_535);
    guest.transmit().transmit(1, &frame(0, 60));
    assert_eq!(host.receive(), [Err(RxRefused::Malformed), Err(RxRefused::Malformed), Ok(frame(0, 60))]);
    // What was offered comes back, so that both indexes go on together.
    assert_eq!(guest.transmit().used(), [(16, 0), (65_535, 0), (1, 0)]);
}

#[test]
fn an_index_that_jumps_ends_the_ring_until_it_is_set_up_again() {
    let mut host = Host::start();
    let mut guest = Guest::connect(&host.path);
    host.reaches(PeerState::Running);
    guest.transmit().publish(17);
    guest.receive().publish(40_000);
    let broken = host.rx.burst(32);
    assert!(broken.is_broken() && broken.is_empty());
    drop(broken);
    let burst = host.rx.burst(32);
    assert!(!burst.is_broken() && burst.is_empty(), "said once");
    drop(burst);
    let mut burst = host.tx.burst(2);
    assert_eq!(send(&mut burst, &[&frame(0, 60)]), Sent::Refused(TxRefused::RingBroken));
    assert_eq!(send(&mut burst, &[&frame(0, 60)]), Sent::Full);
    drop(burst);

    assert_eq!(guest.frontend.get_vring_base(TRANSMIT).unwrap(), 0);
    guest.transmit().publish(0);
    guest.start_ring(TRANSMIT, 0);
    guest.transmit().transmit(2, &frame(3, 60));
    assert_eq!(host.receive(), [Ok(frame(3, 60))]);
}

/// The connection is closed by the other side.
fn is_closed(mut stream: &UnixStream) -> bool {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_)) && !timed_out(stream)
}

fn timed_out(stream: &UnixStream) -> bool {
    // A socket that the peer has closed is readable at once.
    !crate::guest::readable(stream, LIMIT)
}

#[test]
fn a_malformed_message_closes_that_connection_and_the_next_one_is_served() {
    let mut host = Host::start();
    let header = |request: u32, flags: u32, size: u32| -> Vec<u8> {
        [request, flags, size].iter().flat_map(|field| field.to_ne_bytes()).collect()
    };
    let messages = [
        vec![0xff; 64],
        header(999, 1, 0),
        header(1, 2, 0),
        header(8, 1, u32::MAX),
        [header(2, 1, 8), u64::MAX.to_ne_bytes().to_vec()].concat(),
        // SET_VRING_NUM of ring 9, and of ring 0 with none and with too many descriptors.
        [header(8, 1, 8), [9u32, 16].iter().flat_map(|field| field.to_ne_bytes()).collect()].concat(),
        [header(8, 1, 8), [0u32, 0].iter().flat_map(|field| field.to_ne_bytes()).collect()].concat(),
        [header(8, 1, 8), [0u32, 32_769].iter().flat_map(|field| field.to_ne_bytes()).collect()].concat(),
        // SET_MEM_TABLE of three regions without their descriptors.
        [header(5, 1, 8), [3u32, 0].iter().flat_map(|field| field.to_ne_bytes()).collect()].concat(),
    ];
    for message in messages {
        let mut stream = UnixStream::connect(&host.path).unwrap();
        stream.write_all(&message).unwrap();
        assert!(is_closed(&stream), "{message:?}");
    }
    let mut guest = Guest::connect(&host.path);
    host.reaches(PeerState::Running);
    guest.transmit().transmit(0, &frame(0, 60));
    assert_eq!(host.receive(), [Ok(frame(0, 60))]);
}

#[test]
fn half_a_message_holds_up_neither_the_worker_nor_the_close() {
    let mut host = Host::start();
    let mut stream = UnixStream::connect(&host.path).unwrap();
    stream.write_all(&[8, 0, 0, 0, 1]).unwrap();
    host.reaches(PeerState::Connected);
    assert!(host.rx.burst(32).is_empty());
    assert_eq!(host.send(&[0; 60]), Sent::NotConnected);
    host.port.close();
    assert!(is_closed(&stream));
}

#[test]
fn a_front_end_stuck_half_way_does_not_hold_up_the_close() {
    for stuck in [
        // SET_FEATURES without its body; GET_FEATURES for ever, its answers never read.
        [2u32, 1, 8].to_vec(),
        [1u32, 1, 0].repeat(100_000),
    ] {
        let host = Host::start();
        let mut stream = UnixStream::connect(&host.path).unwrap();
        stream.set_nonblocking(true).unwrap();
        let bytes: Vec<u8> = stuck.iter().flat_map(|field| field.to_ne_bytes()).collect();
        // As much as goes.
        let _full = stream.write_all(&bytes);
        host.reaches(PeerState::Connected);
        host.port.close();
    }
}

#[test]
fn more_regions_than_one_guest_may_have_are_refused() {
    let host = Host::start();
    let mut guest = Guest::connect(&host.path);
    let refused = (1..1000).find(|number| {
        let more = VhostUserMemoryRegionInfo {
            guest_phys_addr: number << 32,
            userspace_addr: number << 32,
            ..guest.memory
        };
        guest.frontend.add_mem_region(&more).is_err()
    });
    assert_eq!(refused, Some(32));
    host.reaches(PeerState::Disconnected);
}

#[test]
fn addresses_outside_guest_memory_and_descriptors_that_are_no_eventfds_are_refused() {
    let host = Host::start();
    let guest = Guest::connect(&host.path);
    let mut outside = guest.addresses(RECEIVE);
    outside.used_ring_addr = 0x5000;
    assert!(guest.frontend.set_vring_addr(RECEIVE, &outside).is_err());
    host.reaches(PeerState::Disconnected);

    let guest = Guest::connect(&host.path);
    // The ring's first byte is in guest memory, its end is not.
    let mut past_the_end = guest.addresses(RECEIVE);
    past_the_end.desc_table_addr += (1 << 20) - 16;
    assert!(guest.frontend.set_vring_addr(RECEIVE, &past_the_end).is_err());
    host.reaches(PeerState::Disconnected);

    let guest = Guest::connect(&host.path);
    let (_reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the descriptor is an open one that nothing else owns; that it is a pipe and no eventfd is the point.
    let pipe = unsafe { EventFd::from_raw_fd(OwnedFd::from(writer).into_raw_fd()) };
    assert!(guest.frontend.set_vring_call(TRANSMIT, &pipe).is_err());
    host.reaches(PeerState::Disconnected);
}
