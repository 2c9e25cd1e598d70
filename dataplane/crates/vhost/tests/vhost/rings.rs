//! Frames both ways through rings that are set up well: each case with split and packed ones, unless it speaks of one kind.

use std::time::Duration;

use podrouter_vhost::{HEADER_LEN, PeerState, RxRefused, Sent, TxRefused, VhostConfig};
use vhost::VhostBackend;
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use crate::guest::{
    BOTH, EVENT_IDX, Guest, Host, INDIRECT_DESC, LIMIT, MRG_RXBUF, NEXT, RECEIVE, TRANSMIT, VERSION_1, WRITE,
    count, eventually, frame, frames, readable, send,
};

fn connected(features: u64) -> (Host, Guest) {
    connected_with(features, 16)
}

fn connected_with(features: u64, size: u16) -> (Host, Guest) {
    let host = Host::start();
    let guest = Guest::connect_with(&host.path, features, size, 0);
    host.reaches(PeerState::Running);
    (host, guest)
}

#[test]
fn frames_go_from_the_guest_in_order_and_their_descriptors_back() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features);
        assert!(host.rx.burst(32).is_empty());
        let sent: Vec<_> = (0..5).map(|number| frame(number, 60 + number)).collect();
        for (index, frame) in (0..).zip(&sent) {
            guest.transmit().transmit(index, frame);
        }
        let burst = host.rx.burst(32);
        assert_eq!(frames(&burst), sent.iter().cloned().map(Ok).collect::<Vec<_>>());
        assert_eq!(guest.transmit().used(), [], "nothing is published before the burst's end");
        burst.flush();
        assert_eq!(guest.transmit().used(), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);

        for index in 0..5 {
            guest.transmit().transmit(index, &sent[0]);
        }
        assert_eq!(host.rx.burst(2).len(), 2, "no more than asked for");
        assert_eq!(guest.transmit().used().len(), 2);
        assert_eq!(host.rx.burst(32).len(), 3);
    }
}

#[test]
fn what_was_taken_ahead_is_there_again_when_a_ring_is_set_up_anew() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features);
        let sent: Vec<_> = (0..6).map(|number| frame(number, 60)).collect();
        for (index, sent) in (0..).zip(&sent) {
            guest.transmit().transmit(index, sent);
            guest.receive().provide(index, 0x600);
        }
        // Two of each are used, one before memory is mapped anew and one after, and the others only looked at.
        for sent in &sent[..2] {
            assert_eq!(frames(&host.rx.burst(1)), [Ok(sent.clone())]);
            assert_eq!(host.send(sent), Sent::Ok);
            guest.frontend.set_mem_table(&[guest.memory]).unwrap();
            host.reaches(PeerState::Running);
        }
        // The front end takes the rings back at what is used, and has them go on there.
        for index in [RECEIVE, TRANSMIT] {
            let place = if guest.rings[index].packed { 0x8002_u32 << 16 | 0x8002 } else { 2 };
            assert_eq!(guest.frontend.get_vring_base(index).unwrap(), place);
            guest.start_ring(index, u16::try_from(place & 0xffff).unwrap());
        }
        host.reaches(PeerState::Running);
        let rest: Vec<_> = sent[2..].iter().cloned().map(Ok).collect();
        assert_eq!(host.receive(), rest);
        for sent in &sent[2..] {
            assert_eq!(host.send(sent), Sent::Ok);
        }
        assert_eq!(host.send(&sent[0]), Sent::Full);
        let ids = |used: Vec<(u32, u32)>| used.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(guest.transmit().used()), [0, 1, 2, 3, 4, 5]);
        assert_eq!(ids(guest.receive().used()), [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn frames_go_to_the_guest_with_a_header_before_them() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features);
        let buffers = [guest.receive().provide(3, 0x600), guest.receive().provide(9, 0x600)];
        let (first, second) = (frame(1, 1514), frame(2, 60));
        let mut burst = host.tx.burst(32);
        assert_eq!(send(&mut burst, &[&first[..14], &first[14..15], &[], &first[15..]]), Sent::Ok);
        assert_eq!(send(&mut burst, &[&second]), Sent::Ok);
        assert_eq!(send(&mut burst, &[&second]), Sent::Full);
        assert_eq!(send(&mut burst, &[]), Sent::Refused(TxRefused::Length));
        assert_eq!(guest.receive().used(), []);
        drop(burst);
        assert_eq!(guest.receive().used(), [(3, 1526), (9, 72)]);
        let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(guest.receive().read(buffers[0], 1526), [&header[..], &first].concat());
        assert_eq!(guest.receive().read(buffers[1], 72), [&header[..], &second].concat());

        guest.receive().provide(4, 0x600);
        assert_eq!(host.send(&second), Sent::Ok);
        assert_eq!(guest.receive().used(), [(4, 72)]);
    }
}

#[test]
fn what_a_burst_does_not_use_stays_with_the_guest() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features);
        for index in 0..8 {
            guest.receive().provide(index, 0x600);
        }
        for index in 0..8 {
            let mut burst = host.tx.burst(32);
            assert_eq!(send(&mut burst, &[&frame(index, 60)]), Sent::Ok);
            drop(burst);
            assert_eq!(guest.receive().used(), [(u32::try_from(index).unwrap(), 72)]);
        }
        assert_eq!(host.send(&frame(0, 60)), Sent::Full);
    }
}

#[test]
fn headers_pass_as_they_are_both_ways() {
    let (mut host, mut guest) = connected(VERSION_1 | 1 << 0 | 1 << 1 | 1 << 7 | 1 << 11);
    let header = [1, 1, 54, 0, 180, 5, 34, 0, 16, 0, 0, 0];
    let sent = frame(1, 4000);
    guest.transmit().transmit_with(header, 0, &sent);
    let burst = host.rx.burst(32);
    assert_eq!(burst.frames().next().unwrap().unwrap().header(), header);
    drop(burst);

    let takes = host.tx.burst(1).takes();
    assert!(takes.checksum && takes.tso4 && !takes.tso6 && !takes.uso);
    let at = guest.receive().provide(0, 0x1100);
    assert_eq!(host.tx.burst(1).send(header, sent.len(), [&sent[..]].into_iter()), Sent::Ok);
    assert_eq!(guest.receive().read(at, 12), [1, 1, 54, 0, 180, 5, 34, 0, 16, 0, 1, 0]);
    drop(guest);
    host.reaches(PeerState::Disconnected);
    assert_eq!(host.tx.burst(1).takes(), podrouter_vhost::Takes::default());
}

#[test]
fn offloads_are_offered_as_configured() {
    for (offloads, wanted) in [(true, 1 << 0 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12), (false, 0)] {
        let host = Host::start_with(|config| VhostConfig { offloads, ..config });
        let frontend = Frontend::connect(&host.path, 2).unwrap();
        let all = 1 << 0 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13;
        assert_eq!(frontend.get_features().unwrap() & all, wanted);
    }
}

#[test]
fn a_chain_may_be_cut_anywhere() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features);
        let sent = frame(5, 100);
        let bytes = [&[0; 12], &sent[..]].concat();
        for cuts in [[12, 13, 60], [5, 12, 100], [1, 2, 111], [20, 20, 40]] {
            let ring = guest.transmit();
            let starts = [0, cuts[0], cuts[1], cuts[2], bytes.len()];
            let next = |index| match index {
                7 => 2,
                2 => 11,
                11 => 3,
                _ => 0,
            };
            for (piece, index) in starts.windows(2).zip([7u16, 2, 11, 3]) {
                let at = ring.buffer(index);
                ring.write(at, &bytes[piece[0]..piece[1]]);
                let flags = if index == 3 { 0 } else { NEXT };
                ring.describe(index, at, u32::try_from(piece[1] - piece[0]).unwrap(), flags, next(index));
            }
            ring.offer(7);
            assert_eq!(host.receive(), [Ok(sent.clone())], "{cuts:?}");
            assert_eq!(guest.transmit().used(), [(7, 0)]);
        }

        let ring = guest.receive();
        for (index, length, flags) in [(0u16, 12u32, WRITE | NEXT), (1, 50, WRITE | NEXT), (2, 100, WRITE)] {
            ring.describe(index, ring.buffer(index), length, flags, index + 1);
        }
        ring.offer(0);
        assert_eq!(host.send(&sent), Sent::Ok);
        let ring = guest.receive();
        assert_eq!(ring.used(), [(0, 112)]);
        assert_eq!(ring.read(ring.buffer(1), 50), sent[..50]);
        assert_eq!(ring.read(ring.buffer(2), 50), sent[50..]);
    }
}

#[test]
fn chains_in_indirect_tables_are_as_good_as_others() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features | INDIRECT_DESC);
        let sent = frame(8, 3000);
        for turn in 0..20 {
            let ring = guest.transmit();
            let table = ring.buffer(40);
            ring.write(ring.buffer(2), &[0; 12]);
            ring.write(ring.buffer(3), &sent[..1000]);
            ring.write(ring.buffer(7), &sent[1000..]);
            let parts = [(ring.buffer(2), 12, 0), (ring.buffer(3), 1000, 0), (ring.buffer(7), 2000, 0)];
            ring.describe_table(turn % 16, table, &parts);
            ring.offer(turn % 16);
            assert_eq!(host.receive(), [Ok(sent.clone())]);
            assert_eq!(guest.transmit().used(), [(u32::from(turn % 16), 0)]);

            let ring = guest.receive();
            let parts = [(ring.buffer(2), 100, WRITE), (ring.buffer(3), 4000, WRITE)];
            ring.describe_table(turn % 16, ring.buffer(40), &parts);
            ring.offer(turn % 16);
            assert_eq!(host.send(&sent), Sent::Ok);
            let ring = guest.receive();
            assert_eq!(ring.used(), [(u32::from(turn % 16), 3012)]);
            let got = [ring.read(ring.buffer(2) + 12, 88), ring.read(ring.buffer(3), 2912)].concat();
            assert_eq!(got, sent);
        }
    }
}

#[test]
fn indices_wrap_around_the_ring_and_around_16_bits() {
    // A packed ring's size need not be a power of two.
    for (features, size, base) in [(BOTH[0], 8, 0), (BOTH[0], 8, 65_500), (BOTH[1], 8, 0), (BOTH[1], 7, 0)] {
        let mut host = Host::start();
        let mut guest = Guest::connect_with(&host.path, features, size, base);
        host.reaches(PeerState::Running);
        for round in 0..100u16 {
            let index = round * 3 % size;
            let sent = frame(usize::from(round), 64);
            guest.transmit().transmit(index, &sent);
            assert_eq!(host.receive(), [Ok(sent.clone())], "round {round} from {base}");
            assert_eq!(guest.transmit().used(), [(u32::from(index), 0)]);

            let at = guest.receive().provide(index, 0x600);
            assert_eq!(host.send(&sent), Sent::Ok);
            assert_eq!(guest.receive().used(), [(u32::from(index), 76)]);
            assert_eq!(guest.receive().read(at + 12, 64), sent);
        }
    }
}

#[test]
fn a_frame_that_does_not_fit_is_refused_and_the_next_one_comes() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features);
        guest.transmit().transmit(1, &frame(1, 13));
        guest.transmit().transmit(2, &frame(2, 14));
        assert_eq!(host.receive(), [Err(RxRefused::TooShort), Ok(frame(2, 14))]);
        assert_eq!(guest.transmit().used(), [(1, 0), (2, 0)]);

        guest.receive().provide(0, 100);
        assert_eq!(host.send(&frame(0, 89)), Sent::Refused(TxRefused::Length));
        assert_eq!(guest.receive().used(), [], "the buffer is kept for a shorter frame");
        assert_eq!(host.send(&frame(0, 88)), Sent::Ok);
        assert_eq!(guest.receive().used(), [(0, 100)]);
    }
}

#[test]
fn with_merging_a_frame_is_spread_over_buffers_that_appear_together() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features | MRG_RXBUF);
        let sent = frame(9, 2000);
        let first = guest.receive().provide(4, 0x400);
        assert_eq!(host.send(&sent), Sent::Full, "1024 bytes are not enough");
        let second = guest.receive().provide(5, 0x400);
        let mut burst = host.tx.burst(1);
        assert_eq!(send(&mut burst, &[&sent]), Sent::Ok);
        assert_eq!(guest.receive().used(), []);
        burst.flush();
        let ring = guest.receive();
        assert_eq!(ring.used(), [(4, 1024), (5, 988)]);
        assert_eq!(ring.read(first, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        assert_eq!([ring.read(first + 12, 1012), ring.read(second, 988)].concat(), sent);
    }
}

#[test]
fn a_64_kib_segment_is_spread_over_more_buffers_than_a_burst_takes() {
    for features in BOTH {
        let (mut host, mut guest) = connected_with(features | MRG_RXBUF, 256);
        let sent = frame(2, 65_550);
        for turn in 0..4u16 {
            let before = (0..20).map(|index| guest.receive().provide(index, 0x800)).count();
            // A short frame first, so that the long one begins in the middle.
            for index in 20..60 {
                guest.receive().provide(index, 0x800);
            }
            let mut burst = host.tx.burst(2);
            assert_eq!(send(&mut burst, &[&frame(1, 60)]), Sent::Ok);
            assert_eq!(send(&mut burst, &[&sent[..30_000], &sent[30_000..]]), Sent::Ok, "turn {turn}");
            drop(burst);
            let used = guest.receive().used();
            let total: u32 = used.iter().map(|(_, length)| length).sum();
            assert_eq!((used.len(), total), (1 + 33, 72 + 12 + 65_550), "{before} buffers and more");
            let bytes: Vec<u8> = used[1..]
                .iter()
                .flat_map(|&(id, length)| {
                    let ring = guest.receive();
                    let at = ring.buffer(u16::try_from(id).unwrap());
                    ring.read(at, usize::try_from(length).unwrap())
                })
                .collect();
            assert_eq!(bytes[10..12], [33, 0]);
            assert_eq!(bytes[12..], sent);
            // The rest is used up, so that each turn begins alike.
            while host.send(&frame(0, 60)) == Sent::Ok {}
            guest.receive().used();
        }
    }
}

#[test]
fn what_was_read_for_frames_that_have_gone_is_not_held_against_the_next() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features | INDIRECT_DESC | MRG_RXBUF);
        let ring = guest.receive();
        let (table, buffer) = (ring.buffer(40), ring.buffer(2));
        // Six of them have more descriptors than are read for one burst.
        let parts: Vec<_> = (0..200).map(|part| (buffer + 4 * part, 4, WRITE)).collect();
        for index in 0..10 {
            ring.describe_table(index, table, &parts);
            ring.offer(index);
        }
        for number in 0..6 {
            assert_eq!(host.send(&frame(number, 60)), Sent::Ok);
        }
        // Of those six that were taken ahead of the second frame one is left, and this takes two.
        assert_eq!(host.send(&frame(6, 1500)), Sent::Ok);
        let mut used = vec![72; 6];
        used.extend([800, 712]);
        let written: Vec<_> = guest.receive().used().into_iter().map(|(_, written)| written).collect();
        assert_eq!(written, used);
    }
}

#[test]
fn a_buffer_may_lie_across_two_regions() {
    let mut host = Host::start();
    let mut guest = Guest::connect(&host.path);
    host.reaches(PeerState::Running);
    // The same memory as two regions, the second of which begins in the middle of a buffer.
    let (mut low, mut high) = (guest.memory, guest.memory);
    let cut = (guest.transmit().buffer(2) + 0x1000 - guest.memory.guest_phys_addr) & !0xfff;
    low.memory_size = cut;
    high.guest_phys_addr += cut;
    high.userspace_addr += cut;
    high.mmap_offset += cut;
    high.memory_size -= cut;
    guest.frontend.set_mem_table(&[low, high]).unwrap();
    let sent = frame(3, 3000);
    let at = guest.memory.guest_phys_addr + cut - 1500;
    let ring = guest.transmit();
    ring.write(at, &[&[0; 12], &sent[..]].concat());
    ring.describe(0, at, 3012, 0, 0);
    ring.offer(0);
    assert_eq!(host.receive(), [Ok(sent.clone())]);
    let ring = guest.receive();
    ring.describe(0, at, 3012, WRITE, 0);
    ring.offer(0);
    let other = frame(4, 3000);
    assert_eq!(host.send(&other), Sent::Ok);
    assert_eq!(guest.receive().read(at + 12, 3000), other);
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
    let burst = host.rx.burst(1);
    assert_eq!(burst.frames().next().unwrap().unwrap().header(), [0; HEADER_LEN]);
    assert_eq!(frames(&burst), [Ok(sent.clone())]);
    drop(burst);
    let at = guest.receive().provide(0, 0x600);
    assert_eq!(host.send(&sent), Sent::Ok);
    assert_eq!(guest.receive().used(), [(0, 90)]);
    assert_eq!(guest.receive().read(at + 10, 80), sent);
}

#[test]
fn the_guest_is_interrupted_once_a_burst_and_only_if_it_wants_that() {
    for features in BOTH {
        let (mut host, mut guest) = connected(features);
        for index in 0..3 {
            guest.transmit().transmit(index, &frame(0, 60));
        }
        assert_eq!(host.receive().len(), 3);
        assert_eq!(guest.transmit().call.read().unwrap(), 1);

        drop(host.rx.burst(32));
        drop(host.tx.burst(32));
        assert!(guest.transmit().call.read().is_err(), "a burst without frames interrupts nobody");
        assert!(guest.receive().call.read().is_err());

        guest.transmit().set_no_interrupt(true);
        guest.transmit().transmit(0, &frame(0, 60));
        assert_eq!(host.receive().len(), 1);
        assert!(guest.transmit().call.read().is_err());

        guest.receive().provide(0, 0x600);
        assert_eq!(host.send(&frame(0, 60)), Sent::Ok);
        assert_eq!(guest.receive().call.read().unwrap(), 1);
    }
}

#[test]
fn with_an_event_index_the_guest_is_interrupted_when_that_is_passed() {
    for features in BOTH {
        // Bursts of three chains; the event lies so many on. All round the ring, so that it wraps everywhere.
        for size in [8u16, 16] {
            let (mut host, mut guest) = connected_with(features | EVENT_IDX, size);
            let mut next = 0;
            let mut burst = |guest: &mut Guest, host: &mut Host| {
                for _ in 0..3 {
                    guest.transmit().transmit(next % size, &frame(0, 60));
                    next += 1;
                }
                assert_eq!(host.receive().len(), 3);
                let interrupted = guest.transmit().call.read().is_ok();
                assert_eq!(guest.transmit().used().len(), 3);
                interrupted
            };
            guest.transmit().set_used_event(0);
            burst(&mut guest, &mut host);
            for turn in 0..40u16 {
                let ahead = turn % 6;
                guest.transmit().set_used_event(ahead);
                // The chain so many on is of this burst, or of the next.
                let (now, then) = (burst(&mut guest, &mut host), burst(&mut guest, &mut host));
                assert_eq!((now, then), (ahead < 3, ahead >= 3), "turn {turn}, {features:#x}, {size}");
            }
        }
    }
}

#[test]
fn a_parked_worker_is_woken_by_a_kick_and_a_polling_one_is_not() {
    for features in BOTH.into_iter().chain(BOTH.map(|features| features | EVENT_IDX)) {
        let (mut host, mut guest) = connected(features);
        // It rang when the ring started.
        assert!(readable(&host.doorbells[0], LIMIT));
        eventually("both rings' starts", || {
            count(&host.doorbells[0]);
            host.port.state() == PeerState::Running
        });
        count(&host.doorbells[0]);
        if features & EVENT_IDX == 0 {
            assert!(guest.transmit().no_kicks_wanted());
            assert!(guest.receive().no_kicks_wanted());
        }

        guest.transmit().transmit(0, &frame(0, 60));
        assert!(!host.rx.arm_doorbell(), "a frame waits already");
        assert_eq!(host.receive().len(), 1);

        assert!(host.rx.arm_doorbell());
        assert!(!guest.transmit().no_kicks_wanted());
        assert!(!readable(&host.doorbells[0], Duration::ZERO));
        guest.transmit().transmit(1, &frame(1, 60));
        guest.transmit().kick.write(1).unwrap();
        assert!(readable(&host.doorbells[0], LIMIT));
        assert_eq!(count(&host.doorbells[0]), 1);
        host.rx.disarm_doorbell();
        if features & EVENT_IDX == 0 {
            assert!(guest.transmit().no_kicks_wanted());
        }
        assert_eq!(host.receive(), [Ok(frame(1, 60))]);

        // One that came while nobody listened is not lost to the next sleep.
        guest.transmit().kick.write(1).unwrap();
        assert!(host.rx.arm_doorbell());
        assert!(readable(&host.doorbells[0], LIMIT));
    }
}

#[test]
fn each_queue_pair_has_its_own_rings_and_its_own_doorbell() {
    let mut host = Host::start_with(|config| VhostConfig { queue_pairs: 4, ..config });
    let frontend = Frontend::connect(&host.path, 8).unwrap();
    let mut guest = Guest::with_pairs(frontend, VERSION_1, 16, 0, 4);
    host.reaches(PeerState::Running);
    for pair in 1..4 {
        eventually("the pair's rings", || host.others[pair - 1].1.is_ready());
        let (to_guest, from_guest) = (2 * pair + RECEIVE, 2 * pair + TRANSMIT);
        let sent = frame(pair, 100);
        guest.rings[from_guest].transmit(0, &sent);
        assert!(host.rx.burst(32).is_empty());
        let (rx, tx) = &mut host.others[pair - 1];
        assert_eq!(frames(&rx.burst(32)), [Ok(sent.clone())]);
        let at = guest.rings[to_guest].provide(0, 0x600);
        assert_eq!(send(&mut tx.burst(1), &[&sent]), Sent::Ok);
        assert_eq!(guest.rings[to_guest].read(at + 12, 100), sent);

        count(&host.doorbells[pair]);
        assert!(rx.arm_doorbell());
        guest.rings[from_guest].transmit(1, &sent);
        guest.rings[from_guest].kick.write(1).unwrap();
        assert!(readable(&host.doorbells[pair], LIMIT));
        assert_eq!(rx.burst(32).len(), 1);
    }
    // A guest that uses fewer says so, and the others go on.
    guest.frontend.set_vring_enable(2 * 3 + RECEIVE, false).unwrap();
    eventually("the pair's end", || !host.others[2].1.is_ready());
    assert_eq!(send(&mut host.others[2].1.burst(1), &[&frame(0, 60)]), Sent::NotConnected);
    assert!(host.tx.is_ready() && host.others[1].1.is_ready());
    guest.frontend.set_vring_enable(2 * 3 + RECEIVE, true).unwrap();
    eventually("its return", || host.others[2].1.is_ready());
    // Asked for last: this front end takes the number of pairs for one of rings.
    assert_eq!(guest.frontend.get_queue_num().unwrap(), 4);
}
