//! Sends bursts of known packets through the path, for whoever counts its instructions: `hit-path CASE BURSTS`.
//!
//! What counts is inside [`Bench::measured_burst`]; `cargo lab gauge` has callgrind collect there alone, and divides by the
//! packets. No argument: the names of all cases.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use arrayvec::ArrayVec;
use benches::path::{Bench, Kind};
use benches::world::{Failure, Rules};

const FLOWS: u32 = 16_384;

/// What is done with the bursts.
#[derive(Clone, Copy)]
enum Case {
    /// All flows are known.
    Known(Kind),
    /// The same, and before each burst there are new tables.
    Revalidated(Kind),
    /// None is.
    New(Kind),
}

const CASES: [Case; 8] = [
    Case::Known(Kind::Translated),
    Case::Known(Kind::Answered),
    Case::Known(Kind::Routed),
    Case::Known(Kind::Tcp6),
    Case::Revalidated(Kind::Translated),
    Case::Revalidated(Kind::Tcp6),
    Case::New(Kind::Translated),
    Case::New(Kind::Tcp6),
];

impl Case {
    fn name(self) -> String {
        match self {
            Self::Known(kind) => format!("known-{}", kind.name()),
            Self::Revalidated(kind) => format!("revalidated-{}", kind.name()),
            Self::New(kind) => format!("new-{}", kind.name()),
        }
    }

    fn run(self, bursts: u32) -> Result<(), Failure> {
        let (Self::Known(kind) | Self::Revalidated(kind) | Self::New(kind)) = self;
        let rules = if matches!(self, Self::New(_)) { Rules::MANY } else { Rules::FEW };
        let mut bench = Bench::new(rules, FLOWS)?;
        if !matches!(self, Self::New(_)) {
            bench.open(kind)?;
        }
        let mut verdicts = ArrayVec::new();
        let before = bench.counts();
        for number in 0..bursts {
            if matches!(self, Self::Revalidated(_)) {
                bench.advance()?;
            }
            let mut packets = match self {
                Self::New(_) => bench.fresh(kind, number),
                _ => bench.known(kind, number),
            };
            bench.measured_burst(&mut packets, &mut verdicts);
        }
        // What went another way was not what the case says.
        let (after, all) = (bench.counts(), u64::from(bursts) * 32);
        let went = [after.replayed - before.replayed, after.revalidated, after.made - before.made];
        let wanted = match self {
            Self::Known(_) => [all, 0, 0],
            Self::Revalidated(_) => [all, all, 0],
            Self::New(_) => [0, 0, all],
        };
        if went != wanted {
            return Err(format!("replayed, revalidated, made: {went:?} and not {wanted:?}").into());
        }
        Ok(())
    }
}

fn run() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        CASES.iter().for_each(|case| println!("{}", case.name()));
        return Ok(());
    };
    let bursts = arguments.next().ok_or("hit-path CASE BURSTS")?.parse()?;
    let case = CASES.into_iter().find(|case| case.name() == name);
    case.ok_or_else(|| format!("no case `{name}`; without arguments the cases are listed"))?.run(bursts)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hit-path: {error}");
            ExitCode::FAILURE
        }
    }
}
