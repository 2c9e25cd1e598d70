//! Frames both ways through rings that are set up well.

use std::time::Duration;

use podrouter_vhost::{PeerState, Received, RxRefused, Sent, TxRefused};

use crate::guest::{Guest, Host, LIMIT, MRG_RXBUF, NEXT, VERSION_1, WRITE, count, frame, readable};

fn connected() -> (Host, Guest) {
    let host = Host::start();
    let guest = Guest::connect(&host.path);
    host.reaches(PeerState::Running);
    (host, guest)
}

/// Receives one frame in a burst of its own.
fn receive(host: &mut Host) -> Result<Vec<u8>, Received> {
    let mut out = vec![0; 2048];
    match host.rx.burst().receive(&mut out) {
        Received::Frame(length) => {
            out.truncate(length);
            Ok(out)
        }
        other => Err(other),
    }
}

#[test]
fn frames_go_from_the_guest_in_order_and_their_descriptors_back() {
    let (mut host, mut guest) = connected();
    assert_eq!(receive(&mut host), Err(Received::Empty));
    for index in 0..5u16 {
        guest.transmit().transmit(index, &frame(usize::from(index), 60 + usize::from(index)));
    }
    let mut burst = host.rx.burst();
    let mut out = [0; 2048];
    for index in 0..5 {
        assert_eq!(burst.receive(&mut out), Received::Frame(60 + index));
        assert_eq!(out[..60 + index], frame(index, 60 + index));
    }
    assert_eq!(burst.receive(&mut out), Received::Empty);
    assert_eq!(guest.transmit().used(), [], "nothing is published before the burst's end");
    burst.flush();
    assert_eq!(guest.transmit().used(), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
}

#[test]
fn frames_go_to_the_guest_with_a_header_before_them() {
    let (mut host, mut guest) = connected();
    let buffers = [guest.receive().provide(3, 0x600), guest.receive().provide(9, 0x600)];
    let (first, second) = (frame(1, 1514), frame(2, 60));
    let mut burst = host.tx.burst();
    assert_eq!(burst.send(&[&first[..14], &first[14..15], &[], &first[15..]]), Sent::Ok);
    assert_eq!(burst.send(&[&second]), Sent::Ok);
    assert_eq!(burst.send(&[&second]), Sent::Full);
    assert_eq!(burst.send(&[]), Sent::Refused(TxRefused::Length));
    drop(burst);
    assert_eq!(guest.receive().used(), [(3, 1526), (9, 72)]);
    let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(guest.receive().read(buffers[0], 1526), [&header[..], &first].concat());
    assert_eq!(guest.receive().read(buffers[1], 72), [&header[..], &second].concat());

    guest.receive().provide(4, 0x600);
    assert_eq!(host.tx.burst().send(&[&second]), Sent::Ok);
    assert_eq!(guest.receive().used(), [(4, 72)]);
}

#[test]
fn a_chain_may_be_cut_anywhere() {
    let (mut host, mut guest) = connected();
    let sent = frame(5, 100);
    let bytes = [&[0; 12], &sent[..]].concat();
    for cuts in [[12, 13, 60], [5, 12, 100], [1, 2, 111], [20, 20, 40]] {
        let ring = guest.transmit();
        let starts = [0, cuts[0], cuts[1], cuts[2], bytes.len()];
        for (piece, index) in starts.windows(2).zip([7u16, 2, 11, 3]) {
            let next = [(7, 2), (2, 11), (11, 3), (3, 0)].iter().find(|(from, _)| *from == index).unwrap().1;
            let at = ring.buffers + 0x800 * u64::from(index);
            ring.write(at, &bytes[piece[0]..piece[1]]);
            let flags = if index == 3 { 0 } else { NEXT };
            ring.describe(index, at, u32::try_from(piece[1] - piece[0]).unwrap(), flags, next);
        }
        ring.offer(7);
        assert_eq!(receive(&mut host).unwrap(), sent, "{cuts:?}");
        assert_eq!(guest.transmit().used(), [(7, 0)]);
    }

    let ring = guest.receive();
    for (index, length, flags) in [(0u16, 12u32, WRITE | NEXT), (1, 50, WRITE | NEXT), (2, 100, WRITE)] {
        ring.describe(index, ring.buffers + 0x800 * u64::from(index), length, flags, index + 1);
    }
    ring.offer(0);
    assert_eq!(host.tx.burst().send(&[&sent]), Sent::Ok);
    let ring = guest.receive();
    assert_eq!(ring.used(), [(0, 112)]);
    assert_eq!(ring.read(ring.buffers + 0x800, 50), sent[..50]);
    assert_eq!(ring.read(ring.buffers + 0x1000, 50), sent[50..]);
}

#[test]
fn indices_wrap_around_the_ring_and_around_16_bits() {
    for base in [0, 65_500] {
        let mut host = Host::start();
        let mut guest = Guest::connect_with(&host.path, VERSION_1, 8, base);
        host.reaches(PeerState::Running);
        for round in 0..100u16 {
            let index = round * 3 % 8;
            let sent = frame(usize::from(round), 64);
            guest.transmit().transmit(index, &sent);
            assert_eq!(receive(&mut host).unwrap(), sent, "round {round} from {base}");
            assert_eq!(guest.transmit().used(), [(u32::from(index), 0)]);

            let at = guest.receive().provide(index, 0x600);
            assert_eq!(host.tx.burst().send(&[&sent]), Sent::Ok);
            assert_eq!(guest.receive().used(), [(u32::from(index), 76)]);
            assert_eq!(guest.receive().read(at + 12, 64), sent);
        }
    }
}

#[test]
fn a_frame_that_does_not_fit_is_refused_and_the_next_one_comes() {
    let (mut host, mut guest) = connected();
    guest.transmit().transmit(0, &frame(0, 1600));
    guest.transmit().transmit(1, &frame(1, 13));
    guest.transmit().transmit(2, &frame(2, 14));
    let mut out = [0; 1518];
    let mut burst = host.rx.burst();
    assert_eq!(burst.receive(&mut out), Received::Refused(RxRefused::TooLong));
    assert_eq!(burst.receive(&mut out), Received::Refused(RxRefused::TooShort));
    assert_eq!(burst.receive(&mut out), Received::Frame(14));
    drop(burst);
    assert_eq!(guest.transmit().used(), [(0, 0), (1, 0), (2, 0)]);

    guest.receive().provide(0, 100);
    assert_eq!(host.tx.burst().send(&[&frame(0, 89)]), Sent::Refused(TxRefused::Length));
    assert_eq!(guest.receive().used(), [], "the buffer is kept for a shorter frame");
    assert_eq!(host.tx.burst().send(&[&frame(0, 88)]), Sent::Ok);
    assert_eq!(guest.receive().used(), [(0, 100)]);
}

#[test]
fn with_merging_a_frame_is_spread_over_buffers_that_appear_together() {
    let mut host = Host::start();
    let mut guest = Guest::connect_with(&host.path, VERSION_1 | MRG_RXBUF, 16, 0);
    host.reaches(PeerState::Running);
    let sent = frame(9, 2000);
    let first = guest.receive().provide(4, 0x400);
    assert_eq!(host.tx.burst().send(&[&sent]), Sent::Full, "1024 bytes are not enough");
    let second = guest.receive().provide(5, 0x400);
    let mut burst = host.tx.burst();
    assert_eq!(burst.send(&[&sent]), Sent::Ok);
    assert_eq!(guest.receive().used(), []);
    burst.flush();
    let ring = guest.receive();
    assert_eq!(ring.used(), [(4, 1024), (5, 988)]);
    assert_eq!(ring.read(first, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!([ring.read(first + 12, 1012), ring.read(second, 988)].concat(), sent);
}

#[test]
fn a_guest_older_than_virtio_1_has_a_header_of_10_bytes() {
    let mut host = Host::start();
    let mut guest = Guest::connect_with(&host.path, 0, 16, 0);
    host.reaches(PeerState::Running);
    let sent = frame(3, 80);
    let ring = guest.transmit();
    ring.write(ring.buffers, &[&[0; 10], &sent[..]].concat());
    ring.describe(0, ring.buffers, 90, 0, 0);
    ring.offer(0);
    assert_eq!(receive(&mut host).unwrap(), sent);
    let at = guest.receive().provide(0, 0x600);
    assert_eq!(host.tx.burst().send(&[&sent]), Sent::Ok);
    assert_eq!(guest.receive().used(), [(0, 90)]);
    assert_eq!(guest.receive().read(at + 10, 80), sent);
}

#[test]
fn the_guest_is_interrupted_once_a_burst_and_only_if_it_wants_that() {
    let (mut host, mut guest) = connected();
    for index in 0..3 {
        guest.transmit().transmit(index, &frame(0, 60));
    }
    let mut burst = host.rx.burst();
    let mut out = [0; 2048];
    while let Received::Frame(_) = burst.receive(&mut out) {}
    drop(burst);
    assert_eq!(guest.transmit().call.read().unwrap(), 1);

    drop(host.rx.burst());
    assert!(guest.transmit().call.read().is_err(), "a burst without frames interrupts nobody");

    guest.transmit().set_no_interrupt(true);
    guest.transmit().transmit(0, &frame(0, 60));
    receive(&mut host).unwrap();
    assert!(guest.transmit().call.read().is_err());

    guest.receive().provide(0, 0x600);
    assert_eq!(host.tx.burst().send(&[&frame(0, 60)]), Sent::Ok);
    assert_eq!(guest.receive().call.read().unwrap(), 1);
}

#[test]
fn a_parked_worker_is_woken_by_a_kick_and_a_polling_one_is_not() {
    let (mut host, mut guest) = connected();
    // It rang when the ring started.
    assert!(readable(&host.doorbell, LIMIT));
    assert!(count(&host.doorbell) > 0);
    assert!(guest.transmit().no_kicks_wanted());
    assert!(guest.receive().no_kicks_wanted());

    guest.transmit().transmit(0, &frame(0, 60));
    assert!(!host.rx.arm_doorbell(), "a frame waits already");
    assert!(guest.transmit().no_kicks_wanted());
    receive(&mut host).unwrap();

    assert!(host.rx.arm_doorbell());
    assert!(!guest.transmit().no_kicks_wanted());
    assert!(!readable(&host.doorbell, Duration::ZERO));
    guest.transmit().transmit(1, &frame(1, 60));
    guest.transmit().kick.write(1).unwrap();
    assert!(readable(&host.doorbell, LIMIT));
    assert_eq!(count(&host.doorbell), 1);
    host.rx.disarm_doorbell();
    assert!(guest.transmit().no_kicks_wanted());
    assert_eq!(receive(&mut host).unwrap(), frame(1, 60));

    // One that came while nobody listened is not lost to the next sleep.
    guest.transmit().kick.write(1).unwrap();
    assert!(host.rx.arm_doorbell());
    assert!(readable(&host.doorbell, LIMIT));
}
