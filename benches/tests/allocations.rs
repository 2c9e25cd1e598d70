//! No packet allocates memory: of a flow that is known, of one whose decision has to be checked or made again, or of a new one.

use arrayvec::ArrayVec;
use benches::counting::Counting;
use benches::path::{Bench, Burst, Kind};
use benches::world::Rules;

#[global_allocator]
static ALL: Counting = Counting;

const FLOWS: u32 = 2_048;
const BURSTS: u32 = 32;

/// Allocations, packets replayed, of those revalidated, and decided, in one burst.
fn send(bench: &mut Bench, mut packets: Burst) -> [u64; 4] {
    let mut verdicts = ArrayVec::new();
    let before = bench.counts();
    let (allocations, ()) = Counting::during(|| bench.measured_burst(&mut packets, &mut verdicts));
    let after = bench.counts();
    [
        allocations,
        after.replayed - before.replayed,
        after.revalidated - before.revalidated,
        after.decided - before.decided,
    ]
}

#[test]
fn counting_counts() {
    let (allocations, boxes) = Counting::during(|| [Box::new(1_u64), Box::new(2)]);
    assert_eq!((allocations, *boxes[0] + *boxes[1]), (2, 3));
}

#[test]
fn no_packet_of_a_known_flow_allocates() {
    for kind in Kind::ALL {
        let mut bench = Bench::new(Rules::FEW, FLOWS).unwrap();
        bench.open(kind).unwrap();
        for number in 0..BURSTS {
            let packets = bench.known(kind, number);
            assert_eq!(send(&mut bench, packets), [0, 32, 0, 0], "{}", kind.name());
        }
    }
}

#[test]
fn no_packet_allocates_whose_decision_is_older_than_the_tables() {
    for kind in Kind::ALL {
        let mut bench = Bench::new(Rules::FEW, FLOWS).unwrap();
        bench.open(kind).unwrap();
        for number in 0..BURSTS {
            bench.advance().unwrap();
            let packets = bench.known(kind, number);
            assert_eq!(send(&mut bench, packets), [0, 32, 32, 0], "{}", kind.name());
        }
        for number in 0..BURSTS {
            bench.disturb().unwrap();
            let packets = bench.known(kind, number);
            assert_eq!(send(&mut bench, packets), [0, 0, 0, 32], "{}", kind.name());
        }
    }
}

#[test]
fn no_packet_of_a_new_flow_allocates() {
    for kind in [Kind::Translated, Kind::Routed, Kind::Tcp6] {
        let mut bench = Bench::new(Rules::FEW, FLOWS).unwrap();
        for number in 0..BURSTS {
            let packets = bench.fresh(kind, number);
            assert_eq!(send(&mut bench, packets), [0, 0, 0, 32], "{}", kind.name());
        }
        assert_eq!(bench.counts().made, u64::from(BURSTS) * 32);
    }
}
