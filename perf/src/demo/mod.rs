//! `cargo lab demo`: a node at work, a section at a time. Each section shows a table and adds what it found to one
//! document, which `--json` prints.

mod nodes;
mod rates;
mod reach;
mod show;
mod throughput;

use std::time::Instant;

use anyhow::{Result, bail};
use lab::artefacts::Artefacts;
use lab::netns::Netns;
use lab::node::{Node, OUTSIDE, Options};
use lab::pktgen::reflector;
use lab::pod::{Family, Kind, Pod};
use lab::process::Process;
use lab::run::Run;
use lab::site::Site;
use lab::table::Table;
use serde_json::{Map, Value};

use crate::say;

/// How the demo runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave the node up, and say what to try.
    #[arg(long)]
    keep: bool,
    /// Print the results as one JSON document; progress goes to standard error.
    #[arg(long)]
    json: bool,
    /// So many nodes, on one network: who reaches whom between them, and as whom. One: a node's own pods, and what they forward.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(Site::MOST)))]
    nodes: u8,
    /// How several nodes reach each other; may be given several times. Without it, each way in turn; with --keep, the first.
    #[arg(long, value_enum, value_name = "WAY")]
    by: Vec<nodes::Way>,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// Tables to people or a document to programs, and progress to both.
struct Report {
    json: bool,
    started: Instant,
    document: Map<String, Value>,
    /// What did not go as it should; the demo fails with it, at the end.
    faults: Vec<String>,
}

impl Report {
    /// Says what begins: all of it takes more than a second.
    fn progress(&self, what: &str) {
        eprintln!("[{:5.1} s] {what}", self.started.elapsed().as_secs_f64());
    }

    fn section(&mut self, key: &str, title: &str, table: &Table, value: Value) -> Result<()> {
        self.document.insert(key.to_owned(), value);
        match (self.json, table.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => say(format_args!("\n{title}\n  none")),
            (false, false) => say(format_args!("\n{title}\n{}", table.to_string().trim_end())),
        }
    }
}

/// The node and everybody on it.
struct Scene {
    // The application before its pod, pods before the node.
    reflector: Process,
    /// Where pktgen sends from.
    sender: Pod,
    /// Where another pktgen sends it back.
    dpdk: Pod,
    b: Pod,
    a: Pod,
    node: Node,
}

impl Scene {
    fn build(report: &Report, artefacts: &Artefacts) -> Result<Self> {
        report.progress("starting the node: namespaces, podrouter-dataplane, podrouter-control");
        let node = Node::start(&Run::start()?, artefacts, Options::default())?;
        report.progress("attaching two kernel pods and two DPDK pods by podrouter-cni");
        let [a, b] = ["a", "b"].map(|name| Pod::attach(&node, name, Kind::Kernel));
        let (a, b) = (a?, b?);
        let [dpdk, sender] = ["dpdk", "sender"].map(|name| Pod::attach(&node, name, Kind::VhostUser));
        let (dpdk, sender) = (dpdk?, sender?);
        report.progress("starting pktgen as the first DPDK pod's application");
        let reflector = reflector(&node, &dpdk)?;
        Ok(Self { reflector, sender, dpdk, b, a, node })
    }

    fn play(&mut self, report: &mut Report, seconds: u32) -> Result<()> {
        reach::show(self, report)?;
        throughput::show(self, report, seconds)?;
        rates::show(self, report, seconds)?;
        show::counters(self, report)
    }
}

/// Builds, shows, and takes down again.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut report =
        Report { json: arguments.json, started: Instant::now(), document: Map::new(), faults: Vec::new() };
    report.progress("building the binaries (minutes, the first time)");
    let artefacts = Artefacts::find()?;
    if arguments.nodes == 1 {
        one(arguments, &artefacts, &mut report)?;
    } else {
        nodes::run(arguments, &artefacts, &mut report)?;
    }
    if arguments.json {
        say(serde_json::to_string_pretty(&report.document)?)?;
    }
    if !report.faults.is_empty() {
        bail!("not all went well:\n  {}", report.faults.join("\n  "));
    }
    Ok(())
}

fn one(arguments: &Arguments, artefacts: &Artefacts, report: &mut Report) -> Result<()> {
    let mut scene = Scene::build(report, artefacts)?;
    let played = scene.play(report, arguments.seconds);
    scene.node.explain(played)?;
    if arguments.keep {
        scene.node.run.keep()?;
        eprintln!("{}", hints(&scene));
    } else {
        report.progress("taking everything down");
    }
    Ok(())
}

fn hints(scene: &Scene) -> String {
    let node = &scene.node;
    let podrouter = lab::process::describe(&node.query().command());
    let [a, b, host, outside] = [&scene.a.netns, &scene.b.netns, &node.host, &node.outside].map(Netns::name);
    let [to_a, to_b, to_dpdk] = [&scene.a, &scene.b, &scene.dpdk].map(|pod| pod.address(Family::V4));
    let lines = [
        format!("alias podrouter='{podrouter}'"),
        "podrouter status".to_owned(),
        "podrouter show ports          # routes, neighbours, workers, drops".to_owned(),
        format!("ip netns exec {a} ping {to_b}"),
        format!("ip netns exec {a} ping {}       # outside, by IPv6", OUTSIDE[1]),
        format!("ip netns exec {host} ping {to_dpdk}      # the DPDK pod, from the node itself"),
        format!("ip netns exec {outside} ping {to_a}   # from outside"),
        format!("ip netns exec {b} tcpdump -n -i eth0"),
        format!("ip netns exec {b} iperf3 -s           # and: ip netns exec {a} iperf3 -c {to_b}"),
        format!(
            "$EDITOR {}    # and: podrouter show routes",
            node.manifests.dir().join("nodes.yaml").display()
        ),
        format!("kill -9 {}    # control: packets flow on", node.control.pid()),
    ];
    let logs = node.run.dir().display();
    format!(
        "\nThe node is up. Try:\n  {}\nLogs are in {logs}.\nTake it down with: cargo lab down",
        lines.join("\n  ")
    )
}
