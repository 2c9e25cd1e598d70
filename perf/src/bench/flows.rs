//! Benches in which the rules stand still: routing, known-flows, flows-scale, rules-scale, new-flows.

use anyhow::Result;

use super::contestant::{Contestant, Play, Source, Stage};
use super::machine::Machine;
use super::ovs::Ovs;
use super::report::{Aim, Figure, Report};
use super::rounds::{self, Measured, percentile};
use super::router::Router;
use super::rows::{self, Rules, Taken};
use super::testpmd::{Mode, Testpmd};
use super::traffic::{Destination, Traffic};

/// So many flows fit every cache but the first.
pub(crate) const FEW: u32 = 16_384;
const MANY: u32 = 1 << 20;
/// More than a turn's packets, if each is a new flow.
const FRESH: u32 = 1 << 22;

/// Services, one policy for each pod, and nothing else.
pub(crate) const SOME: Rules = Rules { services: 64, policies: 2, routes: 1 };
const ONE_OF_EACH: Rules = Rules { services: 1, policies: 2, routes: 1 };
const VERY_MANY: Rules = Rules { services: 100_000, policies: 10_000, routes: 1_000_000 };
const TEN_THOUSAND: Rules = Rules { services: 10_000, policies: 10_000, routes: 10_000 };

/// Writes a file of packets and says how to play it.
pub(crate) fn write(stage: &Stage, traffic: Traffic, source: Source) -> Result<Play> {
    let file = stage.run.dir().join(format!("traffic{}.pcap", stage.run.number()));
    traffic.write(&file)?;
    Ok(Play { source, file, frames: traffic.flows })
}

/// A data plane with `rules` that forwards so many flows, through Services where it has them.
pub(crate) fn forwarding(
    stage: &Stage,
    name: &str,
    source: Source,
    flows: u32,
    rules: Rules,
) -> Result<(Router, Play, Taken)> {
    let mut router = Router::start(stage, name, source, flows)?;
    let taken = rows::set(&mut router.client, rules)?;
    let to = if taken.services { Destination::Services(rules.services) } else { Destination::Pod };
    let play = write(stage, Traffic { flows, to }, source)?;
    router.play(&play)?;
    router.pause()?;
    Ok((router, play, taken))
}

/// From pod to pod, no policy, no Service: against the program that does least.
pub(crate) fn routing(stage: &Stage, machine: &Machine, sources: &[Source]) -> Result<Report> {
    let mut report = Report::default();
    for &source in sources {
        let (mut router, play, _) = forwarding(stage, "podrouter", source, FEW, Rules::NONE)?;
        let measured = with_testpmd(stage, &play, &mut router, None)?;
        against_testpmd(machine, source, &measured, Aim::AtLeast(0.8), None, &mut report);
        report.measured.extend(measured);
    }
    Ok(report)
}

/// Flows that have been decided, through a Service and policies where the data plane has such things.
pub(crate) fn known(stage: &Stage, machine: &Machine, sources: &[Source]) -> Result<Report> {
    let mut report = Report::default();
    for &source in sources {
        let (mut router, play, taken) = forwarding(stage, "podrouter", source, FEW, SOME)?;
        // Its own buffers are many times as large as testpmd's, so it gets real headers only where they are cheap.
        let ovs = (source == Source::Pcap).then(|| Ovs::start(stage, &play)).transpose()?;
        let measured = with_testpmd(stage, &play, &mut router, ovs)?;
        against_testpmd(machine, source, &measured, Aim::AtLeast(0.7), Some(30.0), &mut report);
        if let [ours, _, _, ovs] = measured.as_slice() {
            report.figures.push(Figure::ratio(ours, ovs, Some(Aim::AtLeast(15.0))));
        }
        report.measured.extend(measured);
        report.without(taken.missing(SOME));
    }
    Ok(report)
}

/// The router, then testpmd in both modes, then OVS if it takes part.
fn with_testpmd(
    stage: &Stage,
    play: &Play,
    router: &mut Router,
    mut ovs: Option<Ovs>,
) -> Result<Vec<Measured>> {
    if let Some(ovs) = &mut ovs {
        ovs.pause()?;
    }
    let mut macswap = Testpmd::start(stage, Mode::Macswap, play)?;
    macswap.pause()?;
    let mut io = Testpmd::start(stage, Mode::Io, play)?;
    let mut all: Vec<&mut dyn Contestant> = vec![router, &mut macswap, &mut io];
    if let Some(ovs) = &mut ovs {
        all.push(ovs);
    }
    rounds::run(stage.pace, &mut all)
}

fn against_testpmd(
    machine: &Machine,
    source: Source,
    measured: &[Measured],
    aim: Aim,
    cycles: Option<f64>,
    report: &mut Report,
) {
    let [ours, macswap, io, ..] = measured else { return };
    // The aims speak of net_pcap; what is beyond receive and send is the same whatever they cost.
    let aim = (source == Source::Pcap).then_some(aim);
    report.figures.push(Figure::ratio(ours, macswap, aim));
    report.figures.push(Figure::ratio(ours, io, None));
    report.figures.push(Figure::added_cycles(ours, io, machine.tsc_hz, cycles.map(Aim::AtMost)));
}

/// A million flows against a few, both ours.
pub(crate) fn flows_scale(stage: &Stage, sources: &[Source]) -> Result<Report> {
    let mut report = Report::default();
    for &source in sources {
        let (mut few, _, taken) = forwarding(stage, "few flows", source, FEW, SOME)?;
        let (mut many, ..) = forwarding(stage, "a million flows", source, MANY, SOME)?;
        let measured = rounds::run(stage.pace, &mut [&mut few, &mut many])?;
        report.figures.push(Figure::ratio(&measured[1], &measured[0], Some(Aim::AtLeast(0.5))));
        report.measured.extend(measured);
        report.without(taken.missing(SOME));
    }
    Ok(report)
}

/// The same flows among very many rules and among one of each.
pub(crate) fn rules_scale(stage: &Stage, sources: &[Source]) -> Result<Report> {
    let mut report = Report::default();
    for &source in sources {
        let (mut one, play, taken) = forwarding(stage, "one of each", source, FEW, ONE_OF_EACH)?;
        let mut many = Router::start(stage, "very many rules", source, FEW)?;
        rows::set(&mut many.client, VERY_MANY)?;
        many.play(&play)?;
        let measured = rounds::run(stage.pace, &mut [&mut one, &mut many])?;
        report.figures.push(Figure::ratio(&measured[1], &measured[0], Some(Aim::AtLeast(0.95))));
        report.measured.extend(measured);
        report.without(taken.missing(VERY_MANY));
    }
    Ok(report)
}

/// Each packet the first of its flow: a fresh data plane each round, which sees no packet of the file twice.
pub(crate) fn new_flows(stage: &Stage) -> Result<Report> {
    let mut report = Report::default();
    let mut measured = Measured { name: "new flows (templates)".to_owned(), ..Measured::default() };
    for round in 0..stage.pace.rounds {
        let (mut router, _, taken) = forwarding(stage, "new flows", Source::Templates, FRESH, TEN_THOUSAND)?;
        let windows = rounds::turn(stage.pace, &mut router)?;
        router.resume()?;
        router.verify()?;
        if router.sent()? > u64::from(FRESH) && taken.services {
            report.note(
                "The file was played more than once: some flows were known. Use shorter turns (--seconds).",
            );
        }
        let rate = percentile(&windows, rounds::PERCENTILE) / 1e6;
        eprintln!("  round {} of {}: {rate:.2} M new flows a second", round + 1, stage.pace.rounds);
        measured.command = router.command().to_owned();
        measured.rounds.push(windows);
        report.without(taken.missing(TEN_THOUSAND));
    }
    let rates = measured.rates().iter().map(|rate| rate / 1e6).collect();
    report.figures.push(Figure::new("new flows", "M/s", rates, Some(Aim::AtLeast(1.5))));
    report.measured.push(measured);
    Ok(report)
}
