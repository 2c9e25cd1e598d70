//! The whole path of a packet, 32 at a time, in memory: of flows that are known, whose decision has to be checked, or made again, and of
//! new ones; and its first step, parsing, alone.
//!
//! Known plain IPv4 packets go by the step `hit`, others by `lookup` and `rewrite`; new ones by all steps. Packets are made anew for
//! each burst, outside of the time, as a port would: in no order, and not in the first cache.

use std::cell::RefCell;
use std::hint::black_box;

use arrayvec::ArrayVec;
use benches::path::{Bench, Burst, Kind};
use benches::world::{Failure, Rules};
use criterion::{Criterion, criterion_group, criterion_main};
use measured::Group;
use pipeline::{Buffer, FlowCounts};

mod measured;

/// The second and the third do not fit the caches before them. More would need more ports than clients have.
const FLOWS: [u32; 4] = [1, 1_000, 16_384, 1_000_000];
/// Where the size makes no difference to what is done.
const SOME: u32 = 16_384;
/// Bursts of new flows before all are forgotten.
const FRESH: u32 = 2_048;

/// The way that packets are to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Known,
    Revalidated,
    DecidedAgain,
    New,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Revalidated => "revalidated",
            Self::DecidedAgain => "decided again",
            Self::New => "new",
        }
    }

    /// Whether these are counts of packets that all went this way.
    const fn is_of(self, counts: FlowCounts) -> bool {
        let FlowCounts { replayed, revalidated, decided, made, .. } = counts;
        match self {
            Self::Known => decided == 0 && revalidated == 0,
            Self::Revalidated => decided == 0 && revalidated == replayed,
            Self::DecidedAgain => replayed == 0 && made == 0,
            Self::New => replayed == 0 && made == decided,
        }
    }
}

/// Times what becomes of bursts, and makes sure that it is what their name says.
fn bursts(
    group: &mut Group<'_>,
    (way, kind): (Way, Kind),
    size: u32,
    bench: Bench,
    mut next: impl FnMut(&mut Bench, u32) -> Result<Burst, Failure>,
) -> Result<Bench, Failure> {
    let before = bench.counts();
    let bench = RefCell::new(bench);
    let mut number = 0_u32;
    let mut verdicts = ArrayVec::new();
    let input = || {
        number = number.wrapping_add(1);
        next(&mut bench.borrow_mut(), number).unwrap_or_default()
    };
    let what = format!("{} {}", way.name(), kind.name());
    group.bench_with(&what, size, input, |packets| {
        bench.borrow_mut().measured_burst(packets, &mut verdicts);
        black_box(&verdicts);
    });
    let bench = bench.into_inner();
    let after = bench.counts();
    // New ones are forgotten now and then, with their counts.
    let counts = FlowCounts {
        replayed: after.replayed.saturating_sub(before.replayed),
        revalidated: after.revalidated.saturating_sub(before.revalidated),
        decided: after.decided.saturating_sub(before.decided),
        made: after.made.saturating_sub(before.made),
        ..after
    };
    if way.is_of(counts) {
        Ok(bench)
    } else {
        Err(format!("{what}: packets went another way: {counts:?}").into())
    }
}

fn run(c: &mut Criterion) -> Result<(), Failure> {
    let mut group = Group::new(c, "path", 32);
    for size in FLOWS {
        let mut bench = Bench::new(Rules::FEW, size)?;
        for kind in Kind::ALL {
            bench.forget()?;
            bench.open(kind)?;
            let known = |bench: &mut Bench, number| Ok(bench.known(kind, number));
            bench = bursts(&mut group, (Way::Known, kind), size, bench, known)?;
        }
    }
    let mut bench = Bench::new(Rules::FEW, SOME)?;
    for kind in Kind::ALL {
        bench.forget()?;
        bench.open(kind)?;
        let later = |bench: &mut Bench, number| {
            bench.advance()?;
            Ok(bench.known(kind, number))
        };
        bench = bursts(&mut group, (Way::Revalidated, kind), SOME, bench, later)?;
        let changed = |bench: &mut Bench, number| {
            bench.disturb()?;
            Ok(bench.known(kind, number))
        };
        bench = bursts(&mut group, (Way::DecidedAgain, kind), SOME, bench, changed)?;
    }
    // Two halves in turn: what of one has been made and not yet sent when all is forgotten is forgotten with the other.
    let mut bench = Bench::new(Rules::MANY, FRESH * 2 * 32)?;
    for kind in [Kind::Translated, Kind::Routed, Kind::Tcp6] {
        bench.forget()?;
        let fresh = |bench: &mut Bench, number: u32| {
            if number.is_multiple_of(FRESH) {
                bench.forget()?;
            }
            Ok(bench.fresh(kind, number % (FRESH * 2)))
        };
        bench = bursts(&mut group, (Way::New, kind), FRESH * 32, bench, fresh)?;
    }
    for kind in Kind::ALL {
        let packets = bench.fresh(kind, 0);
        group.bench("parse step", kind.name(), || {
            let parsed =
                packets.iter().map(|p| wire::parse(black_box(p.buffer.head()), p.buffer.frame_len()));
            parsed.filter(Result::is_ok).count()
        });
    }
    Ok(())
}

fn path(c: &mut Criterion) {
    if let Err(error) = run(c) {
        eprintln!("path: {error}");
        std::process::exit(1);
    }
}

criterion_group!(benches, path);
criterion_main!(benches);
