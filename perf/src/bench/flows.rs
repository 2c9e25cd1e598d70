//! Benches in which packets of the same flows come again and again: routing, known-flows.

use anyhow::Result;

use super::contestant::{Contestant, Play, Source, Stage};
use super::machine::Machine;
use super::report::{Aim, Figure, Report};
use super::rounds;
use super::router::Router;
use super::testpmd::{Mode, Testpmd};
use super::traffic::{Destination, Traffic};

/// So many flows fit every cache but the first.
const FEW: u32 = 16_384;

/// Writes a file of packets and says how to play it.
fn play(stage: &Stage, traffic: Traffic, source: Source) -> Result<Play> {
    let file = stage.run.dir().join(format!("traffic{}.pcap", stage.run.number()));
    traffic.write(&file)?;
    Ok(Play { source, file, frames: traffic.flows })
}

/// From pod to pod, no policy, no Service: against the program that does least.
pub(crate) fn routing(stage: &Stage, machine: &Machine, sources: &[Source]) -> Result<Report> {
    let mut report = Report::default();
    for &source in sources {
        let play = play(stage, Traffic { flows: FEW, to: Destination::Pod }, source)?;
        let mut router = Router::start(stage, "podrouter", &play)?;
        router.add_pods()?;
        router.go()?;
        against_testpmd(stage, machine, &play, &mut router, Aim::AtLeast(0.8), &mut report)?;
    }
    Ok(report)
}

/// Flows that have been decided, through a Service and a policy where the data plane has such things.
pub(crate) fn known(stage: &Stage, machine: &Machine, sources: &[Source]) -> Result<Report> {
    routing(stage, machine, sources)
}

fn against_testpmd(
    stage: &Stage,
    machine: &Machine,
    play: &Play,
    router: &mut Router,
    aim: Aim,
    report: &mut Report,
) -> Result<()> {
    router.pause()?;
    let mut macswap = Testpmd::start(stage, Mode::Macswap, play)?;
    macswap.pause()?;
    let mut io = Testpmd::start(stage, Mode::Io, play)?;
    let measured = rounds::run(stage.pace, &mut [router, &mut macswap, &mut io])?;
    let [ours, swap, least] = measured.as_slice() else { return Ok(()) };
    // Which source an aim speaks of: net_pcap.
    let aim = (play.source == Source::Pcap).then_some(aim);
    report.figures.push(Figure::ratio(ours, swap, aim));
    report.figures.push(Figure::ratio(ours, least, None));
    report.figures.push(Figure::added_cycles(ours, least, machine.tsc_hz, Some(Aim::AtMost(30.0))));
    report.measured.extend(measured);
    Ok(())
}
