//! update-storm: what changes of the rules cost the packets that they do not concern, and how soon they are in force.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use lab::client::Client;
use lab::process::Process;
use proto::dataplane::{
    Endpoint, EndpointKind, Limits, Op, PortKind, PortSpec, Request, Response, RouteTarget,
};
use wire::MacAddr;

use super::contestant::{Contestant, Source, Stage};
use super::flows::{FEW, SOME, forwarding};
use super::report::{Aim, Figure, Report};
use super::rounds;
use super::router::Router;
use super::rows::route;

/// Routes that are there while one of them changes.
const MILLION: u32 = 1_000_000;
/// Changes of that one; the median counts.
const SINGLE: u32 = 1_000;

/// Routes that change in turn, so many in a transaction, in so many a second.
const TURNING: u32 = 50_000;
const A_GENERATION: u32 = 100;
const GENERATIONS: u32 = 1_000;
/// Pods that come and go in a second.
const PODS: u32 = 100;

/// What changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pods,
    Routes,
}

/// A data plane whose rules change while it has its turn.
struct Stormy {
    router: Router,
    kind: Kind,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u32>>>,
    began: Instant,
    /// Changes a second, by turn.
    rates: Vec<f64>,
}

impl Stormy {
    fn new(router: Router, kind: Kind) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Self { router, kind, stop, thread: None, began: Instant::now(), rates: Vec::new() }
    }
}

impl Contestant for Stormy {
    fn name(&self) -> &str {
        self.router.name()
    }

    fn command(&self) -> &str {
        self.router.command()
    }

    fn process(&mut self) -> &mut Process {
        self.router.process()
    }

    fn sent(&mut self) -> Result<u64> {
        self.router.sent()
    }

    fn verify(&mut self) -> Result<()> {
        self.router.verify()
    }

    fn resumed(&mut self) -> Result<()> {
        // Relaxed: the thread is not there yet.
        self.stop.store(false, Ordering::Relaxed);
        let (stop, socket, kind) = (Arc::clone(&self.stop), self.router.socket.clone(), self.kind);
        self.began = Instant::now();
        self.thread = Some(thread::spawn(move || storm(kind, &socket, &stop)));
        Ok(())
    }

    fn pausing(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        // Relaxed: the flag alone is the message.
        self.stop.store(true, Ordering::Relaxed);
        let changes = thread.join().map_err(|_| anyhow!("the thread that changes rules panicked"))??;
        let took = self.began.elapsed();
        // It is let run for a moment at the end too, to be asked what it dropped.
        if took >= rounds::WARM_UP {
            self.rates.push(f64::from(changes) / took.as_secs_f64());
        }
        Ok(())
    }
}

/// Changes until it is told to stop, at its rate or as fast as it can; returns how many.
fn storm(kind: Kind, socket: &Path, stop: &AtomicBool) -> Result<u32> {
    let mut client = Client::connect(socket, || Ok(()))?;
    let a_second = if kind == Kind::Pods { PODS } else { GENERATIONS };
    let began = Instant::now();
    let mut done = 0;
    // Relaxed: as where it is set.
    while !stop.load(Ordering::Relaxed) {
        match kind {
            Kind::Pods => pod(&mut client)?,
            Kind::Routes => routes(&mut client, done)?,
        }
        done += 1;
        let due = Duration::from_secs(1) * done / a_second;
        if let Some(early) = due.checked_sub(began.elapsed()) {
            thread::sleep(early);
        }
    }
    Ok(if kind == Kind::Pods { done } else { done * A_GENERATION })
}

/// One comes and goes.
fn pod(client: &mut Client) -> Result<()> {
    let name = "passing".to_owned();
    let kind = PortKind::Memory { rx_pcap: None, tx_pcap: None, repeat: false };
    client.add_port(PortSpec {
        name: name.clone(),
        kind,
        mac: None,
        mtu: 1500,
        limits: Limits::default(),
    })?;
    client.commit(vec![Op::SetEndpoints {
        endpoints: vec![Endpoint {
            name: "bench/passing".to_owned(),
            port: name.clone(),
            network: 0,
            mac: MacAddr([0x02, 0x6c, 0x61, 0x62, 0, 9]),
            addresses: vec![[10, 244, 1, 99].into()],
            routes: vec![],
            kind: EndpointKind::Pod,
        }],
    }])?;
    client.commit(vec![Op::RemoveEndpoints { names: vec!["bench/passing".to_owned()] }])?;
    match client.call(&Request::RemovePort { name })? {
        Response::Done => Ok(()),
        other => Err(anyhow!("the port stays: {other:?}")),
    }
}

/// Some of them change their target.
fn routes(client: &mut Client, turn: u32) -> Result<()> {
    let generations = TURNING / A_GENERATION;
    let first = turn % generations * A_GENERATION;
    let odd = (turn / generations) % 2 == 1;
    let target = || if odd { RouteTarget::Unreachable } else { RouteTarget::Blackhole };
    let routes = (first..first + A_GENERATION).map(|number| route(number, target())).collect();
    client.commit(vec![Op::SetRoutes { routes }])
}

pub(crate) fn run(stage: &Stage, source: Source) -> Result<Report> {
    let mut report = Report::default();
    let (mut calm, _, taken) = forwarding(stage, "calm", source, FEW, SOME)?;
    let stormy = |name, kind| -> Result<Stormy> {
        Ok(Stormy::new(forwarding(stage, name, source, FEW, SOME)?.0, kind))
    };
    let mut pods = stormy("pods come and go", Kind::Pods)?;
    let mut routes = stormy("routes change", Kind::Routes)?;
    let measured = rounds::run(stage.pace, &mut [&mut calm, &mut pods, &mut routes])?;
    report.figures.push(Figure::ratio(&measured[1], &measured[0], Some(Aim::AtLeast(0.95))));
    report.figures.push(Figure::ratio(&measured[2], &measured[0], Some(Aim::AtLeast(0.97))));
    // A thread that sleeps between two changes is a little late at times.
    let changes = |name, stormy: &Stormy, aim: u32| {
        Figure::new(name, "/s", stormy.rates.clone(), Some(Aim::AtLeast(f64::from(aim) * 0.98)))
    };
    report.figures.push(changes("pods that came and went", &pods, PODS));
    report.figures.push(changes("routes changed", &routes, A_GENERATION * GENERATIONS));
    report.measured.extend(measured);
    report.without(taken.missing(SOME));
    calm.resume()?;
    let (all, single) = times(&mut calm.client)?;
    report.figures.push(Figure::new("1 M routes, first byte to commit", "s", all, Some(Aim::AtMost(1.0))));
    report.figures.push(Figure::new(
        "one route among 1 M, transaction to commit",
        "µs",
        single,
        Some(Aim::AtMost(50.0)),
    ));
    Ok(report)
}

/// How soon a million routes are in force, in seconds, and then one of them, in microseconds. Both as who asks sees it,
/// so with the way to the socket and back.
fn times(client: &mut Client) -> Result<(Vec<f64>, Vec<f64>)> {
    let routes = (0..MILLION).map(|number| route(number, RouteTarget::Blackhole)).collect();
    let all = client.commit_timed(vec![Op::SetRoutes { routes }])?;
    let mut single = Vec::new();
    for turn in 0..SINGLE {
        lab::signals::check()?;
        let target = if turn % 2 == 0 { RouteTarget::Unreachable } else { RouteTarget::Blackhole };
        let number = turn.wrapping_mul(7_919) % MILLION;
        let took = client.commit_timed(vec![Op::SetRoutes { routes: vec![route(number, target)] }])?;
        single.push(took.as_secs_f64() * 1e6);
    }
    Ok((vec![all.as_secs_f64()], single))
}
