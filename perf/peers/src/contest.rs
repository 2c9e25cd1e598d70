//! A case: tables with the same entries, asked the same. First that they answer alike, then how long they take, in turns.

use std::fmt::Debug;
use std::time::Duration;

use crate::report::{Case, Contestant};

/// Keys looked up at a time, as many as packets in a burst.
pub(crate) const BURST: usize = 32;
/// Entries added in each round.
pub(crate) const ADDED: usize = 16;

/// What fails here ends the program.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A table with entries of one kind.
pub(crate) trait Table<K, E> {
    /// The ways in which it can look up here, by name; at least one.
    fn ways(&self) -> &[&'static str];

    /// Looks up in this way from now on.
    fn choose(&mut self, _way: usize) -> Result<(), Failure> {
        Ok(())
    }

    /// Looks up [`BURST`] keys, or fewer where not timed, and keeps the answers. This is what is timed.
    fn look_up(&mut self, keys: &[K]);

    /// What the last burst's key at this place has; 0 is nothing.
    fn answer(&self, at: usize) -> u32;

    /// Adds an entry. This is timed too.
    fn add(&mut self, entry: &E) -> Result<(), Failure>;

    /// All that it takes, in bytes.
    fn bytes(&self) -> usize;
}

/// Tables do not agree, so that at least one of them is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{case}: key {key}: {left} says {left_says}, {right} says {right_says} (0 is none)")]
pub(crate) struct Disagreement {
    case: String,
    key: String,
    left: &'static str,
    left_says: u32,
    right: &'static str,
    right_says: u32,
}

/// How it is timed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: u32,
    pub(crate) turn: Duration,
    /// Cycles of the clock a second.
    pub(crate) hz: f64,
}

/// All of a case. The first table is ours.
pub(crate) struct Contest<K, E> {
    pub(crate) title: &'static str,
    pub(crate) entries: u32,
    pub(crate) tables: Vec<Box<dyn Table<K, E>>>,
    /// In the order in which they are looked up. A whole number of bursts.
    pub(crate) keys: Vec<K>,
    /// [`ADDED`] for each round; not in the tables yet.
    pub(crate) more: Vec<E>,
    /// Keys that tell whether those are there.
    pub(crate) more_keys: Vec<K>,
    /// How a key is shown.
    pub(crate) show: fn(&K) -> String,
}

impl<K, E> Contest<K, E> {
    /// Checks, measures, adds, and checks again.
    pub(crate) fn run(mut self, pace: Pace) -> Result<Case, Failure> {
        self.check()?;
        // By table and way.
        let mut places = Vec::new();
        let mut contestants = Vec::new();
        for (number, table) in self.tables.iter().enumerate() {
            for (way, &name) in table.ways().iter().enumerate() {
                places.push((number, way));
                contestants.push(Contestant { name, bytes: table.bytes(), ..Contestant::default() });
            }
        }
        for round in 0..pace.rounds as usize {
            // Who comes first has the caches as the last round left them: each in turn.
            for step in 0..places.len() {
                let at = (round + step) % places.len();
                let (number, way) = places[at];
                let table = &mut self.tables[number];
                table.choose(way)?;
                contestants[at].cycles.push(turn(table.as_mut(), &self.keys, pace));
            }
        }
        for batch in self.more.chunks(ADDED) {
            for (number, table) in self.tables.iter_mut().enumerate() {
                let start = dpdk::cycles();
                for entry in batch {
                    table.add(entry)?;
                }
                let cycles = per(dpdk::cycles() - start, batch.len());
                for (contestant, _) in contestants.iter_mut().zip(&places).filter(|(_, at)| at.0 == number) {
                    contestant.add_ns.push(cycles / pace.hz * 1e9);
                }
            }
        }
        self.check()?;
        std::mem::swap(&mut self.keys, &mut self.more_keys);
        self.check()?;
        let keys = self.more_keys.len();
        Ok(Case { title: self.title, entries: self.entries, keys, contestants })
    }

    /// Whether all answer as the first does.
    fn check(&mut self) -> Result<(), Failure> {
        let Some((first, others)) = self.tables.split_first_mut() else { return Ok(()) };
        let left = first.ways().first().copied().unwrap_or_default();
        for table in others {
            for (way, right) in table.ways().to_vec().into_iter().enumerate() {
                table.choose(way)?;
                for burst in self.keys.chunks(BURST) {
                    first.look_up(burst);
                    table.look_up(burst);
                    for (at, key) in burst.iter().enumerate() {
                        let (left_says, right_says) = (first.answer(at), table.answer(at));
                        if left_says != right_says {
                            let case = format!("{}, {} entries", self.title, self.entries);
                            let key = (self.show)(key);
                            return Err(Disagreement { case, key, left, left_says, right, right_says }.into());
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Cycles a look-up, over whole passes through the keys for a turn's time. One pass before that is for the caches.
fn turn<K, E>(table: &mut dyn Table<K, E>, keys: &[K], pace: Pace) -> f64 {
    let least = pace.turn.as_secs_f64() * pace.hz;
    keys.chunks_exact(BURST).for_each(|burst| table.look_up(burst));
    let start = dpdk::cycles();
    let mut passes = 0;
    loop {
        keys.chunks_exact(BURST).for_each(|burst| table.look_up(burst));
        passes += 1;
        let cycles = dpdk::cycles() - start;
        if per(cycles, 1) >= least {
            return per(cycles, passes * (keys.len() / BURST * BURST));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "cycles of seconds, and look-ups in them, are below 2^53")]
fn per(cycles: u64, count: usize) -> f64 {
    cycles as f64 / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows numbers below a bound.
    struct Below(u32, Vec<u32>);

    impl Table<u32, u32> for Below {
        fn ways(&self) -> &[&'static str] {
            if self.0 == 100 { &["a hundred"] } else { &["another"] }
        }
        fn look_up(&mut self, keys: &[u32]) {
            self.1 = keys.iter().map(|&key| if key < self.0 { key + 1 } else { 0 }).collect();
        }
        fn answer(&self, at: usize) -> u32 {
            self.1[at]
        }
        fn add(&mut self, _: &u32) -> Result<(), Failure> {
            self.0 += 1;
            Ok(())
        }
        fn bytes(&self) -> usize {
            4
        }
    }

    fn contest(other: u32) -> Contest<u32, u32> {
        Contest {
            title: "numbers",
            entries: 100,
            tables: vec![Box::new(Below(100, vec![])), Box::new(Below(other, vec![]))],
            keys: (0..128).collect(),
            more: vec![0; 2 * ADDED],
            more_keys: (100..140).collect(),
            show: u32::to_string,
        }
    }

    #[test]
    fn a_disagreement_names_the_key() {
        let pace = Pace { rounds: 2, turn: Duration::ZERO, hz: 1e9 };
        let error = contest(99).run(pace).unwrap_err().to_string();
        assert_eq!(error, "numbers, 100 entries: key 99: a hundred says 100, another says 0 (0 is none)");
        let case = contest(100).run(pace).unwrap();
        assert_eq!((case.entries, case.keys), (100, 128));
        for contestant in &case.contestants {
            assert_eq!((contestant.cycles.len(), contestant.add_ns.len(), contestant.bytes), (2, 2, 4));
        }
    }
}
