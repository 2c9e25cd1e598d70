//! Bench of latency: how long a packet takes from one guest to another, through two vhost-user ports.
//!
//! A contestant forwards on the measured core. In its turn a `pktgen` of its own on the other core is both guests: it sends at half
//! the rate that the slower contestant can carry, and times each packet from when it was due. What is compared are turns
//! of one round, which follow each other at once.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::process::finish;
use lab::wait::PATIENCE;
use serde_json::Value;

use super::contestant::{Contestant, Stage};
use super::guests::{Ends, Ring, Sockets, router, testpmd};
use super::report::{Aim, Figure, Report};
use super::rounds::{Measured, percentile};
use super::testpmd::Mode;
use super::traffic::{CLIENT, CLIENT_MAC, ROUTER_MAC, SERVER, SERVER_MAC};

/// As in the bench of guests.
const FLOWS: u32 = 1_024;

/// Before a turn counts: rings are set up, caches are another's, and the first packets wait for both.
const WARM_UP: &str = "0.5";

/// How often each is asked how much it carries.
const CAPACITY_TURNS: u32 = 3;

/// Seconds of a stretch whose p99 is told as well, in the median of a turn's: a machine that stands still for a
/// millisecond now and then, as virtual ones do, does so in few of them, whereas it makes up all of a whole turn's p99.
const WINDOW: &str = "0.01";

/// Percentiles that are told: our name, and where `pktgen` has it.
const PERCENTILES: [(&str, [&str; 2]); 4] = [
    ("p50", ["latency_ns", "p50"]),
    ("p99", P99),
    ("p99 of 10 ms", ["window_p99_ns", "p50"]),
    ("p99.9", ["latency_ns", "p99_9"]),
];
const P99: [&str; 2] = ["latency_ns", "p99"];

/// Ours, of testpmd's, which looks at no packet.
const AIM: Aim = Aim::AtMost(1.15);

/// A contestant, its sockets, and what came of its turns.
struct Forwarder<'a> {
    contestant: &'a mut dyn Contestant,
    name: String,
    sockets: &'a Sockets,
    /// Packets a second when it is sent as many as its guest can.
    capacity: Vec<f64>,
    turns: Vec<Turn>,
}

/// What `pktgen` said of one turn.
struct Turn {
    /// Nanoseconds, by [`PERCENTILES`].
    latency: [f64; PERCENTILES.len()],
    /// Percent of what was sent.
    lost: f64,
}

impl Turn {
    fn read(found: &Value) -> Result<Self> {
        let number = |value: &Value, name: &str| {
            value.as_f64().with_context(|| format!("pktgen told no {name}: {found}"))
        };
        let mut latency = [0.0; PERCENTILES.len()];
        for (into, (name, [of, percentile])) in latency.iter_mut().zip(PERCENTILES) {
            *into = number(&found[of][percentile], name)?;
        }
        let (sent, lost) = (number(&found["sent"], "sent")?, number(&found["lost"], "lost")?);
        let unsent = number(&found["unsent"], "unsent")?;
        ensure!(sent > 0.0, "nothing was sent: {found}");
        for fault in ["corrupt", "duplicates"] {
            ensure!(number(&found[fault], fault)? == 0.0, "packets are not what was sent: {found}");
        }
        Ok(Self { latency, lost: (lost + unsent) / (sent + unsent) * 100.0 })
    }
}

impl<'a> Forwarder<'a> {
    fn new(contestant: &'a mut dyn Contestant, sockets: &'a Sockets) -> Result<Self> {
        contestant.pause()?;
        // The data plane has no source of its own here.
        let name = contestant.name().replace(" (templates)", "");
        Ok(Self { contestant, name, sockets, capacity: Vec::new(), turns: Vec::new() })
    }

    /// Has its guests talk through it; gives what `pktgen` reports.
    fn talk(&mut self, stage: &Stage, ring: Ring, rate: &str) -> Result<Value> {
        let mut command = Command::new(stage.artefacts.path("pktgen"));
        for (number, socket, mac) in
            [(0, &self.sockets.source, CLIENT_MAC), (1, &self.sockets.sink, SERVER_MAC)]
        {
            command.args(["--vdev", &ring.device(number, socket, mac)]);
        }
        let prefix = stage.run.name(&format!("pktgen{}", stage.run.number()));
        command.args(["--file-prefix", &prefix, "--core", &stage.other.to_string(), "--idle", "poll"]);
        command.args(["--huge", if stage.hugepages { "yes" } else { "no" }]);
        command.args(["--src", &CLIENT.to_string(), "--dst", &SERVER.to_string()]);
        command.args(["--src-mac", &CLIENT_MAC.to_string(), "--dst-mac", &ROUTER_MAC.to_string()]);
        command.args(["--flows", &FLOWS.to_string(), "--rate", rate, "--warmup", WARM_UP, "--json"]);
        command.args(["--window", WINDOW]);
        command.args(["--duration", &stage.pace.turn.as_secs_f64().to_string()]);
        self.contestant.resume()?;
        let finished = finish(&mut command, stage.pace.turn + Duration::from_secs(10) + PATIENCE)?;
        self.contestant.pause()?;
        let name = &self.name;
        ensure!(finished.status.success(), "{name}: pktgen failed: {}", finished.stderr.trim());
        serde_json::from_str(&finished.stdout)
            .with_context(|| format!("{name}: pktgen printed {}", finished.stdout))
    }

    fn measure_capacity(&mut self, stage: &Stage, ring: Ring) -> Result<()> {
        let found = self.talk(stage, ring, "max")?;
        let rate = found["received_pps"].as_f64().filter(|rate| *rate > 0.0);
        let name = &self.name;
        let rate = rate.with_context(|| format!("{name} carried nothing: {found}"))?;
        eprintln!("  {name:<28} carries {:>7.2} Mpps", rate / 1e6);
        self.capacity.push(rate);
        Ok(())
    }

    fn turn(&mut self, stage: &Stage, ring: Ring, rate: u64) -> Result<()> {
        let found = self.talk(stage, ring, &rate.to_string())?;
        let turn = Turn::read(&found).with_context(|| self.name.clone())?;
        let [p50, p99, of_window, p99_9] = turn.latency.map(|ns| ns / 1e3);
        let name = &self.name;
        eprintln!(
            "  {name:<28} p50 {p50:>6.1} µs  p99 {p99:>7.1} µs, of 10 ms {of_window:>6.1} µs  p99.9 {p99_9:>8.1} µs"
        );
        self.turns.push(turn);
        Ok(())
    }

    fn measured(&self) -> Measured {
        Measured {
            name: format!("{}, as much as it carries", self.name),
            command: self.contestant.command().to_owned(),
            rounds: self.capacity.iter().map(|&rate| vec![rate]).collect(),
        }
    }

    fn figures(&self, figures: &mut Vec<Figure>) {
        let name = &self.name;
        for (at, (percentile, _)) in PERCENTILES.iter().enumerate() {
            let values = self.turns.iter().map(|turn| turn.latency[at] / 1e3).collect();
            figures.push(Figure::new(format!("{percentile}, {name}"), "µs", values, None));
        }
        let lost = self.turns.iter().map(|turn| turn.lost).collect();
        figures.push(Figure::new(format!("lost, {name}"), "%", lost, None));
    }

    /// How it compares with `peer`, round by round.
    fn ratios(&self, peer: &Self, aim: Option<Aim>, figures: &mut Vec<Figure>) {
        for (at, (percentile, place)) in PERCENTILES.iter().enumerate() {
            let pairs = self.turns.iter().zip(&peer.turns);
            let values = pairs.map(|(ours, theirs)| ours.latency[at] / theirs.latency[at]).collect();
            let what = format!("{percentile}, {} / {}", self.name, peer.name);
            figures.push(Figure::new(what, "×", values, aim.filter(|_| *place == P99)));
        }
    }
}

/// Against testpmd in io mode, with rings of both kinds, or those whose names hold `filter`.
pub(crate) fn latency(stage: &Stage, filter: Option<&str>) -> Result<Report> {
    let mut report = Report::of("64-byte packets from guest to guest at half load");
    for ring in Ring::BOTH {
        if filter.is_none_or(|filter| ring.name().contains(filter)) {
            compare(stage, ring, &mut report)?;
        }
    }
    report.note("Lost: also what was due, and the guest's ring had no room for.");
    Ok(report)
}

fn compare(stage: &Stage, ring: Ring, report: &mut Report) -> Result<()> {
    let ends = Ends::GuestToGuest;
    let sockets = [Sockets::new(stage)?, Sockets::new(stage)?, Sockets::new(stage)?];
    let mut ours = router(stage, "podrouter", &sockets[0], ends, ring)?;
    ours.pause()?;
    let mut theirs = testpmd(stage, &sockets[1], ends, ring, Mode::Io)?;
    theirs.pause()?;
    let other = stage.beside();
    let mut beside = other.map(|stage| router(&stage, "beside", &sockets[2], ends, ring)).transpose()?;
    let mut all = vec![Forwarder::new(&mut ours, &sockets[0])?, Forwarder::new(&mut theirs, &sockets[1])?];
    if let Some(beside) = &mut beside {
        all.push(Forwarder::new(beside, &sockets[2])?);
    }
    for _ in 0..CAPACITY_TURNS {
        for one in &mut all {
            one.measure_capacity(stage, ring)?;
        }
    }
    let capacities = all.iter().map(|one| percentile(&one.capacity, 50));
    let carried = capacities.min_by(f64::total_cmp).context("nobody takes part")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some million packets")]
    let rate = (carried / 2.0) as u64;
    for round in 0..stage.pace.rounds {
        eprintln!("  round {} of {}, {} packets a second", round + 1, stage.pace.rounds, rate);
        // None is always the first of a round.
        let first = usize::try_from(round)? % all.len();
        let (later, sooner) = all.split_at_mut(first);
        for one in sooner.iter_mut().chain(later) {
            one.turn(stage, ring, rate)?;
        }
    }
    if let [ours, others @ ..] = all.as_slice() {
        for (at, other) in others.iter().enumerate() {
            // Of testpmd, and of split rings, which are what guests have unless told otherwise.
            let aim = (at == 0 && ring == Ring::Split).then_some(AIM);
            ours.ratios(other, aim, &mut report.figures);
        }
    }
    for one in &all {
        one.figures(&mut report.figures);
        report.measured.push(one.measured());
    }
    report.note(&format!("{}: {rate} packets a second, half of what the slowest carries.", ring.name()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_turn_is_read_and_faults_are_told() {
        let mut found = json!({
            "sent": 900, "unsent": 100, "lost": 50, "corrupt": 0, "duplicates": 0,
            "latency_ns": { "p50": 1_000, "p99": 2_000, "p99_9": 3_000 },
            "window_p99_ns": { "p50": 1_500 },
        });
        let turn = Turn::read(&found).unwrap();
        assert_eq!(turn.latency, [1e3, 2e3, 1.5e3, 3e3]);
        assert_eq!(turn.lost, 15.0);
        found["corrupt"] = json!(1);
        assert!(Turn::read(&found).is_err());
        assert!(Turn::read(&json!({ "sent": 1 })).is_err());
    }
}
