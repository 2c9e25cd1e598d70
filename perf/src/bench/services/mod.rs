//! Bench of Services: our node beside a node of veth pairs and kube-proxy's nftables rules, with one Service and with 20,000.
//!
//! On each node a pod talks to two others, straight and through a Service that both stand behind. The nodes take turns in each round,
//! and while one has its turn the other's data plane is stopped. Rounds with one Service come first; then either node is told of all
//! the others, once, which takes kube-proxy's rules minutes.

mod connects;
mod kube_proxy;
mod nftables;
mod objects;
mod podrouter;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::iperf::{Load, transfer};
use lab::netns::Netns;
use lab::run::Run;
use lab::signals;

use self::connects::{Server, connects};
use self::nftables::{A_TRANSACTION, Nftables};
use self::objects::{MEASURED, Service, WEB};
use self::podrouter::Podrouter;
use super::Pace;
use super::contestant::Stage;
use super::report::{Figure, Report};
use super::rounds::percentile;

/// Of every device, so that segments on one node are as long as on the other.
const MTU: u16 = 1500;

/// Services, the measured one among them.
const SERVICES: u32 = 20_000;

/// Where pods listen for who asks them straight. Not where the Service leads to: for as long as a connection to that is remembered, a
/// straight one of the same ends would be taken for it.
const STRAIGHT: u16 = 8081;

/// Connects of a turn, to pods and to the Service each.
const CONNECTS: usize = 2_000;

/// Those before, which are not counted: caches are another node's, and neighbours are not known.
const WARM_UP: usize = 100;

/// Changes of a round.
const CHANGES: u32 = 5;

/// What is told of connects, in percent.
const PERCENTILES: [u8; 2] = [50, 99];

/// Whatever joins three pods, and serves Services to them.
trait Node {
    fn name(&self) -> &'static str;

    /// The client and its address, or one of the two servers.
    fn pod(&self, n: usize) -> (&Netns, Ipv4Addr);

    /// Adds Services to those that are there; the time until all are in force.
    fn add(&mut self, services: &[Service]) -> Result<Duration>;

    /// Changes the endpoints of one that is there; the time until that is in force.
    fn change(&mut self, before: &Service, after: &Service) -> Result<Duration>;

    /// Its turn begins.
    fn resume(&self) -> Result<()> {
        Ok(())
    }

    /// Its turn ends.
    fn pause(&self) -> Result<()> {
        Ok(())
    }

    /// What the node has to say of something that failed.
    fn trouble(&self) -> String {
        String::new()
    }

    /// Whether every packet is accounted for.
    fn verify(&self) -> Result<()> {
        Ok(())
    }

    /// Megabytes, by what has them.
    fn memory(&self) -> Result<Vec<(&'static str, f64)>>;
}

/// What came of one turn.
struct Turn {
    /// Microseconds, by [`PERCENTILES`].
    straight: [f64; 2],
    service: [f64; 2],
    gigabits_per_second: f64,
}

/// One of a turn's, by [`PERCENTILES`].
type OfTurn = fn(&Turn) -> [f64; 2];

/// What came of all turns with so many Services.
struct Stretch {
    turns: Vec<Turn>,
    memory: Vec<(&'static str, f64)>,
}

struct Contestant {
    node: Box<dyn Node>,
    /// With one Service, and with all.
    stretches: Vec<Stretch>,
    /// Seconds until all Services were in force.
    filled: f64,
    /// Milliseconds until a change was.
    changes: Vec<f64>,
}

impl Contestant {
    /// With the measured Service.
    fn new(mut node: Box<dyn Node>) -> Result<Self> {
        let servers = [1, 2].map(|n| node.pod(n).1);
        node.add(&[Service::measured(servers)]).with_context(|| node.name())?;
        node.pause()?;
        Ok(Self { node, stretches: Vec::new(), filled: 0.0, changes: Vec::new() })
    }

    /// Does something in its turn.
    fn turn<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        signals::check()?;
        self.node.resume()?;
        let done = act(self).with_context(|| format!("{}{}", self.node.name(), self.node.trouble()))?;
        self.node.pause()?;
        Ok(done)
    }

    fn talk(&self, run: &Arc<Run>, seconds: u32) -> Result<Turn> {
        let (client, _) = self.node.pod(0);
        let servers = |port| {
            [1, 2].map(|n| {
                let (netns, address) = self.node.pod(n);
                Server { netns, address: SocketAddr::new(address.into(), port) }
            })
        };
        let measured = |to: &[SocketAddr], servers: &[Server<'_>]| -> Result<[f64; 2]> {
            connects(client, to, servers, WARM_UP)?;
            let found = connects(client, to, servers, CONNECTS)?;
            let accepted = &found.accepted;
            ensure!(
                accepted.iter().all(|&one| one > 0),
                "of connects to {to:?} servers accepted {accepted:?}"
            );
            Ok(PERCENTILES.map(|percent| found.microseconds(percent.into())))
        };
        let (straight, web) = (servers(STRAIGHT), servers(WEB.1));
        let straight = measured(&straight.each_ref().map(|server| server.address), &straight)?;
        let service = measured(&[SocketAddr::new(MEASURED.into(), WEB.0)], &web)?;
        let (server, _) = self.node.pod(1);
        let got = transfer(run, server, client, &MEASURED.to_string(), Load::Tcp, seconds)?;
        let turn = Turn { straight, service, gigabits_per_second: got.megabits_per_second / 1e3 };
        eprintln!(
            "    {:<18} connect: pod {:>6.1} µs, p99 {:>6.1}; ClusterIP {:>6.1} µs, p99 {:>6.1}; {:>5.2} Gbit/s",
            self.node.name(),
            turn.straight[0],
            turn.straight[1],
            turn.service[0],
            turn.service[1],
            turn.gigabits_per_second,
        );
        Ok(turn)
    }

    fn fill(&mut self) -> Result<()> {
        let others: Vec<Service> = (1..SERVICES).map(|n| Service::other(n, 0)).collect();
        self.filled = self.node.add(&others)?.as_secs_f64();
        eprintln!("    {:<18} {SERVICES} Services after {:.2} s", self.node.name(), self.filled);
        Ok(())
    }

    /// Changes Services from all over the table, others than in the rounds before.
    fn change(&mut self, round: u32) -> Result<()> {
        let others = SERVICES - 1;
        for nth in round * CHANGES..(round + 1) * CHANGES {
            signals::check()?;
            // A prime that does not divide their number leads to each of them before it leads to one again.
            let (number, times) = (1 + nth * 7919 % others, nth / others);
            let [before, after] = [times, times + 1].map(|times| Service::other(number, times));
            let took = self.node.change(&before, &after)?;
            self.changes.push(took.as_secs_f64() * 1e3);
        }
        Ok(())
    }
}

/// Rounds of turns, with as many Services as there are now.
fn stretch(run: &Arc<Run>, pace: Pace, contestants: &mut [Contestant]) -> Result<()> {
    for contestant in &mut *contestants {
        let memory = contestant.node.memory()?;
        contestant.stretches.push(Stretch { turns: Vec::new(), memory });
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0.1 s and an hour")]
    let seconds = pace.turn.as_secs_f64().ceil() as u32;
    for round in 0..pace.rounds {
        eprintln!("  round {} of {}", round + 1, pace.rounds);
        // Neither is always the first of a round.
        let first = usize::try_from(round)? % contestants.len();
        let (later, sooner) = contestants.split_at_mut(first);
        for one in sooner.iter_mut().chain(later) {
            let turn = one.turn(|one| one.talk(run, seconds))?;
            one.stretches.iter_mut().last().context("a stretch has begun")?.turns.push(turn);
        }
    }
    Ok(())
}

/// Ours against the kernel's.
pub(crate) fn services(stage: &Stage) -> Result<Report> {
    let (run, pace) = (&stage.run, stage.pace);
    let (ours, theirs) = (Podrouter::start(run, &stage.artefacts)?, Nftables::start(run)?);
    let nft = theirs.version()?;
    let mut contestants = [Contestant::new(Box::new(ours))?, Contestant::new(Box::new(theirs))?];
    stretch(run, pace, &mut contestants)?;
    for one in &mut contestants {
        eprintln!("  {SERVICES} Services: {}", one.node.name());
        one.turn(Contestant::fill)?;
    }
    stretch(run, pace, &mut contestants)?;
    for round in 0..pace.rounds {
        eprintln!("  changes, round {} of {}", round + 1, pace.rounds);
        for one in &mut contestants {
            one.turn(|one| one.change(round))?;
        }
    }
    for one in &contestants {
        one.node.resume()?;
        one.node.verify().with_context(|| one.node.name())?;
    }
    let mut report = Report::of("Services of a node, and kube-proxy's of a node of veth pairs");
    figures(&contestants, &mut report.figures);
    notes(&mut report, pace, &nft);
    Ok(report)
}

fn figures(contestants: &[Contestant; 2], figures: &mut Vec<Figure>) {
    let scales = ["1 Service".to_owned(), format!("{SERVICES} Services")];
    let connects: [(_, OfTurn); 2] =
        [("connect to a pod", |turn| turn.straight), ("connect to the ClusterIP", |turn| turn.service)];
    for (at, scale) in scales.iter().enumerate() {
        let mut add = |what: &str, unit, value: &dyn Fn(&Turn) -> f64| {
            let values = |one: &Contestant| -> Vec<f64> {
                one.stretches
                    .get(at)
                    .into_iter()
                    .flat_map(|stretch| stretch.turns.iter().map(value))
                    .collect()
            };
            for one in contestants {
                let what = format!("{what}, {scale}, {}", one.node.name());
                figures.push(Figure::new(what, unit, values(one), None));
            }
            let [ours, theirs] = contestants;
            let ratios = values(ours).iter().zip(values(theirs)).map(|(a, b)| a / b).collect();
            let names = format!("{} / {}", ours.node.name(), theirs.node.name());
            figures.push(Figure::new(format!("{what}, {scale}, {names}"), "×", ratios, None));
        };
        for (which, percent) in PERCENTILES.iter().enumerate() {
            for (what, value) in connects {
                add(&format!("{what}, p{percent}"), "µs", &|turn| value(turn)[which]);
            }
        }
        add("TCP through the ClusterIP", "Gbit/s", &|turn| turn.gigabits_per_second);
    }
    let mut each = |what: &str, unit, values: &dyn Fn(&Contestant) -> Vec<f64>| {
        for one in contestants {
            figures.push(Figure::new(format!("{what}, {}", one.node.name()), unit, values(one), None));
        }
    };
    each(&format!("{SERVICES} Services in force"), "s", &|one| vec![one.filled]);
    for (share, percent) in [("p50", 50), ("most", 100)] {
        let what = format!("a slice's change in force, of {SERVICES} Services, {share}");
        each(&what, "ms", &|one| vec![percentile(&one.changes, percent)]);
    }
    for one in contestants {
        for (stretch, scale) in one.stretches.iter().zip(&scales) {
            for (what, megabytes) in &stretch.memory {
                let what = format!("memory of {what}, {scale}, {}", one.node.name());
                figures.push(Figure::new(what, "MB", vec![*megabytes], None));
            }
        }
    }
}

fn notes(report: &mut Report, pace: Pace, nft: &str) {
    report.note(&format!(
        "{CONNECTS} connects a turn, {} rounds; a connect is SYN to SYN/ACK. Ten endpoints a Service; the measured one has two pods. IPv4.",
        pace.rounds
    ));
    report.note(&format!(
        "{SERVICES} Services in force, podrouter: control's start, all Services and slices from the API server, the data plane's commit; \
         nftables: {nft} alone, nothing of kube-proxy's, in transactions of {A_TRANSACTION} Services."
    ));
    report.note(
        "A change in force, podrouter: from the API server to every worker; nftables: one transaction, nft from start to end.",
    );
    report.note("Slabs are the whole machine's (SUnreclaim): what grew is the rules' if nothing else runs.");
}
