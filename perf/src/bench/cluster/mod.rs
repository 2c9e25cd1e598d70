//! Bench of control on an API server with 5,000 nodes, 150,000 pods and 20,000 Services: how soon its first transaction is in force, what
//! it keeps in memory, and how soon a change is in force that the API server tells of, alone and while the cluster is busy.
//!
//! The API server is the tests' own, in this process, in the node's namespace; control, data plane and the way between them are real.
//! Time runs from the moment at which the API server has the change to the moment at which the data plane says that
//! every worker has the new generation, asked again and again on its socket.

mod objects;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use apiserver::ApiServer;
use lab::api;
use lab::client::Client;
use lab::manifests::NODE;
use lab::node::{HOST, Node, Options, POD_CIDRS};
use lab::signals;
use objects::NAMESPACES;
use proto::dataplane::{Request, Response};

use super::contestant::Stage;
use super::machine::megabytes_of;
use super::report::{Aim, Figure, Report};
use super::rounds::percentile;

/// Other nodes.
const NODES: u32 = 5_000;

/// Pods, in all.
const PODS: u32 = 150_000;

/// Services, with twenty endpoints each, ten a family.
const SERVICES: u32 = 20_000;

/// Policies, all of which select by labels.
const POLICIES: u32 = 2_000;

/// Pods and slices that change a second in a busy cluster.
const CHURN: u32 = 200;

/// Changes in a round.
const CHANGES: u32 = 500;

/// Longest that a change may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// The generation that every worker has.
pub(super) fn generation(client: &mut Client) -> Result<u64> {
    match client.call(&Request::ShowStatus)? {
        Response::Status(status) => Ok(status.committed),
        other => bail!("the data plane answered with {other:?}"),
    }
}

/// Waits for a later generation than `before`; says how long that took since `began`. Asks every so often: to ask takes processor time
/// of those who are measured.
pub(super) fn in_force(
    client: &mut Client,
    before: u64,
    began: Instant,
    pause: Duration,
) -> Result<Duration> {
    loop {
        if generation(client)? > before {
            return Ok(began.elapsed());
        }
        signals::check()?;
        ensure!(began.elapsed() < PATIENCE, "no change was in force within {PATIENCE:?}");
        thread::sleep(pause);
    }
}

fn fill(server: &ApiServer) -> Result<()> {
    eprintln!("  making the cluster");
    let slices = |n| (0..2).map(move |family| objects::slice(n, family, NODES, NODE, 0));
    let objects = std::iter::once(objects::node(NODE, POD_CIDRS, HOST, None))
        .chain((1..=NODES).map(|n| objects::other(n, false)))
        .chain((0..NAMESPACES).map(objects::namespace))
        .chain((0..POLICIES).map(objects::policy))
        .chain((0..SERVICES).map(objects::service))
        .chain((0..SERVICES).flat_map(slices))
        .chain((0..PODS).map(|n| objects::pod(n, NODES, NODE)));
    for object in objects {
        server.set(object);
        signals::check()?;
    }
    Ok(())
}

/// First transaction, memory, changes.
pub(crate) fn cluster(stage: &Stage) -> Result<Report> {
    let mut node = Node::start(&stage.run, &stage.artefacts, Options::default())?;
    let server = api::serve(&node)?;
    fill(&server)?;
    api::follow(&mut node, &server)?;

    let socket = node.query().dataplane;
    let mut client = Client::connect(&socket, || Ok(()))?;
    let before = generation(&mut client)?;
    let began = Instant::now();
    let watching = thread::spawn(move || {
        in_force(&mut client, before, began, Duration::from_millis(10)).map(|first| (first, Instant::now()))
    });
    node.restart_control()?;
    let (first, at) = watching.join().map_err(|_| anyhow!("a thread panicked"))??;
    let served = server.last_listed().context("no list was served")?;
    let since = at.saturating_duration_since(served);
    let listed = megabytes_of(node.control.pid(), "VmHWM")?;
    eprintln!("  first transaction after {:.2} s, {listed:.0} MB", first.as_secs_f64());

    let (mut alone, mut busy) = (Vec::new(), Vec::new());
    let changed = changes(&socket, &server, stage.pace.rounds, &mut alone, &mut busy);
    node.explain(changed)?;
    let peak = megabytes_of(node.control.pid(), "VmHWM")?;
    eprintln!("  started anew, beside tables that have it all");
    node.restart_control()?;
    let anew = megabytes_of(node.control.pid(), "VmHWM")?;

    let mut report = Report::of("control on an API server with 5,000 nodes");
    let mut add =
        |what: &str, unit, value, aim| report.figures.push(Figure::new(what, unit, vec![value], aim));
    add("start to first transaction in force", "s", first.as_secs_f64(), None);
    add("lists served to first transaction in force", "s", since.as_secs_f64(), Some(Aim::AtMost(10.0)));
    add("memory of control when all was listed", "MB", listed, None);
    add("memory of control at most", "MB", peak, Some(Aim::AtMost(300.0)));
    add("the same of one that is started anew", "MB", anew, Some(Aim::AtMost(300.0)));
    for (delays, when) in [(&alone, "alone"), (&busy, "in a busy cluster")] {
        for (share, aim) in [(50, None), (99, Some(Aim::AtMost(10.0))), (100, None)] {
            let what = match share {
                100 => format!("a Node's change to its generation, {when}, most"),
                _ => format!("a Node's change to its generation, {when}, p{share}"),
            };
            add(&what, "ms", percentile(delays, share), aim);
        }
    }
    report.note(&format!(
        "{NODES} Nodes, {PODS} Pods, {SERVICES} Services with two slices each, {POLICIES} NetworkPolicies, {NAMESPACES} Namespaces; {} \
         changes of one Node each, of four routes; both families.",
        alone.len() + busy.len()
    ));
    report.note(&format!("Busy: {CHURN} Pods and EndpointSlices change a second."));
    Ok(report)
}

/// Changes one pod or slice after the other, [`CHURN`] a second, until it is told to stop.
fn churn(server: &ApiServer, stop: &AtomicBool) {
    let began = Instant::now();
    for n in 0u32.. {
        while began.elapsed() < Duration::from_secs(1) * n / CHURN {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        if n.is_multiple_of(2) {
            server.set(objects::slice(n % SERVICES, 0, NODES, NODE, n / 2 % 2));
        } else {
            let mut pod = objects::pod(n % PODS, NODES, NODE);
            pod["status"]["phase"] = ["Running", "Succeeded"][(n / 2 % 2) as usize].into();
            server.set(pod);
        }
    }
}

/// Changes one node after the other, and back; with every other change the cluster is busy.
fn changes(
    socket: &Path,
    server: &ApiServer,
    rounds: u32,
    alone: &mut Vec<f64>,
    busy: &mut Vec<f64>,
) -> Result<()> {
    let mut client = Client::connect(socket, || Ok(()))?;
    for round in 0..2 * rounds {
        eprintln!("  round {} of {}", round + 1, 2 * rounds);
        let is_busy = round % 2 == 1;
        let stop = AtomicBool::new(!is_busy);
        let delays = if is_busy { &mut *busy } else { &mut *alone };
        thread::scope(|scope| {
            scope.spawn(|| churn(server, &stop));
            let changed = (0..CHANGES).try_for_each(|change| {
                let n = 1 + change * (NODES / CHANGES);
                let object = objects::other(n, !is_busy);
                let before = generation(&mut client)?;
                let began = Instant::now();
                server.set(object);
                delays.push(
                    in_force(&mut client, before, began, Duration::from_micros(100))?.as_secs_f64() * 1e3,
                );
                anyhow::Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            changed
        })?;
    }
    Ok(())
}
