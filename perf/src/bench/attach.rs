//! Bench of attachment: how long the plug-in's ADD and DEL take, beside Debian's `bridge` with `host-local`; and two hundred ADDs at once.
//!
//! Both are run by one thread that is in the node's namespace, as a container runtime runs them: a process each, timed from its
//! start to its end. Pods' namespaces are there before. Ours answers once its generation is committed, with an address of each
//! family; `bridge` has IPv4 alone, since with IPv6 it waits for duplicate address detection.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lab::manifests::{NODE, NodeObject};
use lab::netns::Netns;
use lab::node::{HOST, Node, Options};
use lab::pod::{Kind, configuration};
use lab::signals;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

use super::contestant::Stage;
use super::report::{Aim, Figure, Report};
use super::rounds::percentile;

/// Pods of a turn.
const PODS: usize = 50;

/// Pods that come at once.
const AT_ONCE: usize = 200;

/// Where pods get their addresses: each is used once in a minute.
const RANGES: [&str; 2] = ["10.100.0.0/16", "fd00:100::/64"];

/// Where Debian's plug-ins are.
const PLUGINS: &str = "/usr/lib/cni";

/// A plug-in and its configuration.
struct Contestant {
    name: &'static str,
    program: PathBuf,
    path: PathBuf,
    configuration: String,
    added: Vec<f64>,
    deleted: Vec<f64>,
    at_once: Vec<f64>,
}

impl Contestant {
    fn new(name: &'static str, program: PathBuf, path: &Path, configuration: String) -> Self {
        let path = path.to_owned();
        let (added, deleted, at_once) = (Vec::new(), Vec::new(), Vec::new());
        Self { name, program, path, configuration, added, deleted, at_once }
    }

    /// Runs the plug-in; gives milliseconds.
    fn run(&self, command: &str, container: &str, netns: &Netns) -> Result<f64> {
        let mut child = Command::new(&self.program);
        child.env_clear().env("PATH", "/usr/sbin:/usr/bin").env("CNI_PATH", &self.path);
        child.env("CNI_COMMAND", command).env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
        child.env("CNI_NETNS", netns.path());
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        let mut child =
            child.spawn().with_context(|| format!("{} cannot be started", self.program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.configuration.as_bytes()).context("a plug-in read no configuration")?;
        }
        let output = child.wait_with_output().context("a plug-in did not end")?;
        let took = began.elapsed();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            bail!("{}: {command} of {container} failed: {said}", self.name);
        }
        Ok(milliseconds(took))
    }

    fn turn(&mut self, round: u32, pods: &[Netns]) -> Result<()> {
        for (at, netns) in pods.iter().take(PODS).enumerate() {
            signals::check()?;
            let container = format!("c{round}-{at}");
            self.added.push(self.run("ADD", &container, netns)?);
            self.deleted.push(self.run("DEL", &container, netns)?);
        }
        Ok(())
    }

    /// All at once; the time until the last is there.
    fn flood(&mut self, round: u32, pods: &[Netns]) -> Result<()> {
        let container = |at: usize| format!("f{round}-{at}");
        let began = Instant::now();
        let this = &*self;
        let results: Vec<Result<f64>> = std::thread::scope(|scope| {
            let adds: Vec<_> = pods
                .iter()
                .enumerate()
                .map(|(at, netns)| scope.spawn(move || this.run("ADD", &container(at), netns)))
                .collect();
            let joined = |add: std::thread::ScopedJoinHandle<'_, Result<f64>>| {
                add.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
            };
            adds.into_iter().map(joined).collect()
        });
        let took = milliseconds(began.elapsed());
        for (at, netns) in pods.iter().enumerate() {
            self.run("DEL", &container(at), netns)?;
        }
        results.into_iter().collect::<Result<Vec<f64>>>()?;
        self.at_once.push(took);
        Ok(())
    }

    fn figures(&self, figures: &mut Vec<Figure>, aim: Option<Aim>) {
        let mut add = |what: &str, values: Vec<f64>, aim| {
            figures.push(Figure::new(format!("{what}, {}", self.name), "ms", values, aim));
        };
        add("ADD, p50", vec![percentile(&self.added, 50)], None);
        add("ADD, p99", vec![percentile(&self.added, 99)], aim);
        add("DEL, p50", vec![percentile(&self.deleted, 50)], None);
        add("DEL, p99", vec![percentile(&self.deleted, 99)], None);
        add("200 ADDs at once, until the last", self.at_once.clone(), None);
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Attaches and detaches.
pub(crate) fn attach(stage: &Stage) -> Result<Report> {
    let node = Node::start(&stage.run, &stage.artefacts, Options::default())?;
    node.manifests.write_nodes(&[NodeObject {
        name: NODE,
        pod_cidrs: RANGES,
        addresses: HOST,
        router_addresses: None,
    }])?;
    let pods: Vec<Netns> =
        (0..AT_ONCE).map(|n| Netns::create(&stage.run, &format!("a{n}"))).collect::<Result<_>>()?;
    let peer = json!({
        "cniVersion": "1.0.0", "name": "peer", "type": "bridge", "bridge": "lab0", "isGateway": true,
        "ipam": {
            "type": "host-local", "dataDir": stage.run.dir().join("leases"),
            "ranges": [[{"subnet": "10.200.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let ours = stage.artefacts.path("podrouter-cni");
    let mut contestants = [
        Contestant::new("podrouter", ours, stage.artefacts.dir(), configuration(&node, Kind::Kernel)),
        Contestant::new("bridge", Path::new(PLUGINS).join("bridge"), Path::new(PLUGINS), peer.to_string()),
    ];
    let host = std::fs::File::open(node.host.path()).context("the node's namespace")?;
    let rounds = stage.pace.rounds;
    let contestants = std::thread::scope(|scope| {
        // Whatever this thread starts is in the node's namespace, without a helper's start in the times.
        let inside = scope.spawn(|| -> Result<_> {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&host), Some(LinkNameSpaceType::Network))
                .context("entering the node's namespace")?;
            for round in 0..rounds {
                eprintln!("  round {} of {rounds}", round + 1);
                // Nobody is always the first of a round.
                let first = usize::try_from(round)? % 2;
                for at in [first, 1 - first] {
                    contestants[at].turn(round, &pods)?;
                    contestants[at].flood(round, &pods)?;
                }
            }
            Ok(contestants)
        });
        inside.join().unwrap_or_else(|_| Err(anyhow!("the thread in the node's namespace panicked")))
    });
    let contestants = node.explain(contestants)?;
    node.query().ledger().context("after all")?;

    let mut report = Report::of("CNI ADD and DEL of a kernel pod");
    let [ours, peer] = &contestants;
    ours.figures(&mut report.figures, Some(Aim::AtMost(10.0)));
    peer.figures(&mut report.figures, None);
    for percent in [50, 99] {
        let ratio = percentile(&ours.added, percent) / percentile(&peer.added, percent);
        let what = format!("ADD, p{percent}, podrouter / bridge");
        report.figures.push(Figure::new(what, "×", vec![ratio], Some(Aim::AtMost(1.0))));
    }
    report.note("podrouter: an address of each family, and an answer only once the generation is committed by every worker.");
    report.note("bridge: IPv4 alone, with host-local; Debian's containernetworking-plugins.");
    report.note(&format!(
        "{} ADDs each, one after the other, then {AT_ONCE} at once, {rounds} rounds.",
        ours.added.len()
    ));
    Ok(report)
}
