//! `--nodes N`: the rules of Kubernetes' network model between nodes, pair by pair, in both families: who reaches whom, and whom
//! each takes the other for.

use std::net::IpAddr;

use anyhow::Result;
use lab::artefacts::Artefacts;
use lab::cluster::Cluster;
use lab::exchange::{By, seen};
use lab::lan::GATEWAY;
use lab::netns::Netns;
use lab::node::{OUTSIDE, Options, Uplink, Vxlan};
use lab::ping::Ping;
use lab::pktgen::reflector;
use lab::pod::{Family, Kind, Pod};
use lab::process::{Process, describe};
use lab::run::Run;
use lab::table::Table;
use serde_json::{Value, json};

use super::{Arguments, Report};

/// What is on one node.
struct Cast {
    // The application before its pod.
    _reflector: Process,
    dpdk: Pod,
    kernel: Pod,
}

struct Party<'a> {
    name: String,
    /// A DPDK pod has none with a kernel in it: it only answers pings.
    netns: Option<&'a Netns>,
    addresses: [String; 2],
    /// What it has beyond the cluster.
    leaves_as: [String; 2],
}

/// How nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Way {
    /// By devices of the data planes' own, packets as they are.
    Native,
    /// By those, in a tunnel.
    Vxlan,
    /// By the nodes' kernels and their NICs.
    Kernel,
    /// By those, in a tunnel of the kernels'.
    KernelVxlan,
}

impl Way {
    const ALL: [Self; 4] = [Self::Native, Self::Vxlan, Self::Kernel, Self::KernelVxlan];

    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Vxlan => "vxlan",
            Self::Kernel => "kernel",
            Self::KernelVxlan => "kernel-vxlan",
        }
    }

    const fn headline(self) -> &'static str {
        match self {
            Self::Native => "native routing",
            Self::Vxlan => "VXLAN",
            Self::Kernel => "the kernel's uplink",
            Self::KernelVxlan => "VXLAN by the kernel",
        }
    }

    fn options(self) -> Options {
        let (uplink, vxlan) = match self {
            Self::Native => (Uplink::Dedicated, Vxlan::Never),
            Self::Vxlan => (Uplink::Dedicated, Vxlan::Always),
            Self::Kernel => (Uplink::Kernel, Vxlan::Never),
            Self::KernelVxlan => (Uplink::Kernel, Vxlan::Always),
        };
        Options { uplink, vxlan, masquerade: true, ..Options::default() }
    }
}

pub(super) fn run(arguments: &Arguments, artefacts: &Artefacts, report: &mut Report) -> Result<()> {
    let mut ways = if arguments.by.is_empty() { Way::ALL.to_vec() } else { arguments.by.clone() };
    if arguments.keep {
        ways.truncate(1);
    }
    for way in ways {
        report.progress(&format!(
            "starting {} nodes that reach each other by {}",
            arguments.nodes,
            way.headline()
        ));
        let cluster = Cluster::start(&Run::start()?, artefacts, &way.options(), arguments.nodes)?;
        let played = play(&cluster, way, arguments, report);
        cluster.explain(played)?;
    }
    Ok(())
}

fn play(cluster: &Cluster, way: Way, arguments: &Arguments, report: &mut Report) -> Result<()> {
    report.progress("attaching a kernel pod and a DPDK pod on each");
    let mut casts = Vec::new();
    for node in &cluster.nodes {
        let name = node.site.name();
        let kernel = Pod::attach(node, &format!("pod-{name}"), Kind::Kernel)?;
        let dpdk = Pod::attach(node, &format!("dpdk-{name}"), Kind::VhostUser)?;
        casts.push(Cast { _reflector: reflector(node, &dpdk)?, dpdk, kernel });
    }
    for (at, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        report.progress(&format!("having each reach each by {family}: TCP and UDP, DPDK pods by ping"));
        matrix(&parties(cluster, &casts), at, way, family, report)?;
    }
    cluster.ledgers()?;
    if arguments.keep {
        let run = &cluster.nodes[0].run;
        run.keep()?;
        eprintln!(
            "{}\nLogs are in {}.\nTake it down with: cargo lab down",
            hints(cluster, &casts),
            run.dir().display()
        );
    } else {
        report.progress("taking everything down");
    }
    Ok(())
}

fn parties<'a>(cluster: &'a Cluster, casts: &'a [Cast]) -> Vec<Party<'a>> {
    let pod = |pod: &Pod| Family::BOTH.map(|family| pod.address(family));
    let mut parties = Vec::new();
    for (node, cast) in cluster.nodes.iter().zip(casts) {
        let name = node.site.name();
        let mut party = |what: &str, netns, addresses: [String; 2]| {
            let leaves_as = match node.options.uplink {
                Uplink::Kernel => node.site.host(),
                Uplink::Dedicated if what == "host" => addresses.clone(),
                Uplink::Dedicated => node.site.router(),
            };
            parties.push(Party { name: format!("{what} {name}"), netns, addresses, leaves_as });
        };
        party("pod", Some(&cast.kernel.netns), pod(&cast.kernel));
        party("dpdk", None, pod(&cast.dpdk));
        party("host", Some(&node.host), node.site.host());
    }
    // Whose network is the nodes' own has an address among them.
    let by_kernel = cluster.nodes.iter().any(|node| node.options.uplink == Uplink::Kernel);
    let addresses = if by_kernel { GATEWAY } else { OUTSIDE }.map(str::to_owned);
    let (name, leaves_as) = (BEYOND.to_owned(), addresses.clone());
    parties.push(Party { name, netns: Some(&cluster.lan.outside), addresses, leaves_as });
    parties
}

/// Who is not of the cluster.
const BEYOND: &str = "outside";

/// Rows speak, columns listen; a cell tells whom the speaker was taken for.
fn matrix(parties: &[Party<'_>], at: usize, way: Way, family: &str, report: &mut Report) -> Result<()> {
    let head = ["from \\ to"].into_iter().chain(parties.iter().map(|party| party.name.as_str()));
    let mut table = Table::new(head);
    let mut results = Vec::new();
    for from in parties {
        let Some(netns) = from.netns else { continue };
        let mut row = vec![from.name.clone()];
        for to in parties {
            if std::ptr::eq(from, to) {
                row.push("-".to_owned());
                continue;
            }
            let (cell, reached) = reach(netns, from, to, at);
            if let Err(fault) = &reached {
                let (way, from, to) = (way.headline(), &from.name, &to.name);
                report.faults.push(format!("over {way}, {from} to {to} by {family}: {fault}"));
            }
            results.push(json!({"from": from.name, "to": to.name, "address": to.addresses[at], "seen": cell,
                "fault": reached.err()}));
            row.push(cell);
        }
        table.row(row);
    }
    let title = format!(
        "Over {}, whom each was taken for by {family} (own: its own address, nothing on the way translated; node: its node)",
        way.headline()
    );
    report.section(&format!("reach-{}-{family}", way.name()), &title, &table, Value::Array(results))
}

/// What to show, and what is wrong with it.
fn reach(from: &Netns, who: &Party<'_>, to: &Party<'_>, at: usize) -> (String, Result<(), String>) {
    let own = if to.name == BEYOND { &who.leaves_as[at] } else { &who.addresses[at] };
    let address = &to.addresses[at];
    let Some(netns) = to.netns else {
        return match Ping::default().run(from, address) {
            Ok(pinged) if pinged.complete() => ("answers".to_owned(), Ok(())),
            Ok(pinged) => ("LOST".to_owned(), Err(format!("{} of {} answers", pinged.received, pinged.sent))),
            Err(error) => ("LOST".to_owned(), Err(format!("{error:#}"))),
        };
    };
    let Ok(address) = address.parse::<IpAddr>() else { return ("-".to_owned(), Ok(())) };
    for by in By::BOTH {
        match seen(from, netns, address, by) {
            Ok(peer) if peer.to_string() == *own => {}
            Ok(peer) => return (peer.to_string(), Err(format!("{by:?} came from {peer}, not {own}"))),
            Err(error) => return ("LOST".to_owned(), Err(format!("{error:#}"))),
        }
    }
    (if *own == who.addresses[at] { "own" } else { "node" }.to_owned(), Ok(()))
}

fn hints(cluster: &Cluster, casts: &[Cast]) -> String {
    let mut lines = vec!["The nodes are up. Try:".to_owned()];
    for (node, cast) in cluster.nodes.iter().zip(casts) {
        let (name, pod) = (node.site.name(), &cast.kernel);
        lines.push(format!("  {} status    # {name}", describe(&node.query().command())));
        lines.push(format!(
            "  ip netns exec {} ping {}",
            pod.netns.name(),
            casts[0].kernel.address(Family::V4)
        ));
    }
    lines.join("\n")
}
