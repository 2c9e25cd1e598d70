//! Bench of control on an API server with 5,000 nodes: how soon its first transaction is in force, what it keeps in memory, and how soon
//! a change is in force that the API server tells of.
//!
//! The API server is the tests' own, in this process, in the node's namespace; control, data plane and the way between them are real.
//! Time runs from the moment at which the API server has the change to the moment at which the data plane says that
//! every worker has the new generation, asked again and again on its socket.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use apiserver::ApiServer;
use lab::client::Client;
use lab::manifests::NODE;
use lab::node::{HOST, Node, Options, POD_CIDRS};
use lab::signals;
use proto::dataplane::{Request, Response};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::contestant::Stage;
use super::report::{Aim, Figure, Report};
use super::rounds::percentile;

/// Other nodes.
const NODES: u32 = 5_000;

/// Changes in a round.
const CHANGES: u32 = 500;

/// Longest that a change may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Node object, of the size that real ones have: kubelet lists images, and every writer its fields.
fn object(name: &str, ranges: [&str; 2], addresses: [&str; 2], routers: Option<&str>) -> Value {
    let image = |n: u32| {
        json!({"names": [format!("registry.example/team/image-{n}@sha256:{:064x}", n), format!("registry.example/team/image-{n}:v1")],
            "sizeBytes": 10_000_000 + n})
    };
    let managed = json!({"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {"f:lastHeartbeatTime": {}}}, "f:images": {}}}});
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": name, "creationTimestamp": "2026-11-23T09:18:12Z", "managedFields": [managed, managed],
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
            "annotations": routers.map(|routers| json!({"podrouter.io/router-addresses": routers})),
        },
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": addresses[0]}, {"type": "InternalIP", "address": addresses[1]},
                {"type": "Hostname", "address": name},
            ],
            "images": (0..20).map(image).collect::<Vec<_>>(),
        },
    })
}

/// Another node, by one of two next hops.
fn other(n: u32, second: bool) -> Value {
    let [_, _, high, low] = n.to_be_bytes();
    let hop = 20 + n % 100 + if second { 100 } else { 0 };
    object(
        &format!("node-{n:05}"),
        [&format!("10.{}.{low}.0/24", 128 + high), &format!("fd01:0:0:{n:x}::/64")],
        [&format!("172.20.{high}.{low}"), &format!("fd02::{n:x}")],
        Some(&format!("192.168.78.{hop},fe80::{hop:x}")),
    )
}

/// Serves in the node's namespace, where control is.
fn serve(node: &Node) -> Result<ApiServer> {
    let host = fs::File::open(node.host.path()).context("the node's namespace")?;
    let bind = move || -> Result<TcpListener> {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&host), Some(LinkNameSpaceType::Network))
            .context("entering the node's namespace")?;
        TcpListener::bind("127.0.0.1:0").context("a port for the API server")
    };
    let listener = thread::spawn(bind).join().map_err(|_| anyhow!("a thread panicked"))??;
    ApiServer::start(listener, 0).context("starting the API server")
}

fn kubeconfig(server: &ApiServer) -> String {
    format!(
        "{{kind: Config, apiVersion: v1, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
         users: [{{name: u, user: {{}}}}], clusters: [{{name: c, cluster: {{server: \"{}\"}}}}]}}",
        server.url()
    )
}

/// The generation that every worker has.
fn generation(client: &mut Client) -> Result<u64> {
    match client.call(&Request::ShowStatus)? {
        Response::Status(status) => Ok(status.committed),
        other => bail!("the data plane answered with {other:?}"),
    }
}

/// Waits for a later generation than `before`; says how long that took since `began`.
fn in_force(client: &mut Client, before: u64, began: Instant) -> Result<Duration> {
    loop {
        if generation(client)? > before {
            return Ok(began.elapsed());
        }
        signals::check()?;
        ensure!(began.elapsed() < PATIENCE, "no change was in force within {PATIENCE:?}");
    }
}

/// Megabytes that a process had in memory at most (proc(5), `VmHWM`).
fn peak_megabytes(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kilobytes.with_context(|| format!("{path} has no VmHWM"))? / 1e3)
}

/// First transaction, memory, changes.
pub(crate) fn cluster(stage: &Stage) -> Result<Report> {
    let mut node = Node::start(&stage.run, &stage.artefacts, Options::default())?;
    let server = serve(&node)?;
    server.set(object(NODE, POD_CIDRS, HOST, None));
    for n in 1..=NODES {
        server.set(other(n, false));
    }
    let path = stage.run.dir().join("kubeconfig");
    fs::write(&path, kubeconfig(&server)).with_context(|| path.display().to_string())?;
    node.options.kubeconfig = Some(path);

    let socket = node.query().dataplane;
    let mut client = Client::connect(&socket, || Ok(()))?;
    let before = generation(&mut client)?;
    let began = Instant::now();
    let watching = thread::spawn(move || in_force(&mut client, before, began));
    node.restart_control()?;
    let first = watching.join().map_err(|_| anyhow!("a thread panicked"))??;
    let listed = peak_megabytes(node.control.pid())?;
    eprintln!("  first transaction after {:.2} s, {listed:.0} MB", first.as_secs_f64());

    let mut delays = Vec::new();
    let changed = changes(&socket, &server, stage.pace.rounds, &mut delays);
    node.explain(changed)?;
    let peak = peak_megabytes(node.control.pid())?;

    let mut report = Report::of("control on an API server with 5,000 nodes");
    let mut add =
        |what: &str, unit, value, aim| report.figures.push(Figure::new(what, unit, vec![value], aim));
    add("start to first transaction in force", "s", first.as_secs_f64(), Some(Aim::AtMost(10.0)));
    add("memory of control at most", "MB", peak, Some(Aim::AtMost(300.0)));
    add("a Node's change to its generation, p50", "ms", percentile(&delays, 50), None);
    add("a Node's change to its generation, p99", "ms", percentile(&delays, 99), Some(Aim::AtMost(10.0)));
    add("a Node's change to its generation, most", "ms", percentile(&delays, 100), None);
    report.note(&format!("{} changes of one Node each, of four routes; both families.", delays.len()));
    report.note("Pods of other nodes, Services and policies are not watched yet, and not in these figures.");
    Ok(report)
}

/// Changes one node after the other, and back.
fn changes(socket: &Path, server: &ApiServer, rounds: u32, delays: &mut Vec<f64>) -> Result<()> {
    let mut client = Client::connect(socket, || Ok(()))?;
    for round in 0..rounds {
        eprintln!("  round {} of {rounds}", round + 1);
        for change in 0..CHANGES {
            let n = 1 + change * (NODES / CHANGES);
            let object = other(n, round % 2 == 0);
            let before = generation(&mut client)?;
            let began = Instant::now();
            server.set(object);
            delays.push(in_force(&mut client, before, began)?.as_secs_f64() * 1e3);
        }
    }
    Ok(())
}
