//! `cargo lab bench`: our speed, as ratios to others and to ourselves under other conditions.
//!
//! Each bench brings up its contestants, runs them in turn on one core, and says how they compare; `perf/README.md` says
//! what is fair in each, and what is not. Without a name: the pure crates' benches.

mod attach;
mod cluster;
mod contestant;
mod flows;
mod guests;
mod kernel_pods;
mod latency;
mod machine;
mod micro;
mod ovs;
mod peers;
mod report;
mod rounds;
mod router;
mod rows;
mod services;
mod storm;
mod testpmd;
mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use lab::artefacts::Artefacts;
use lab::packages::{self, Set};
use lab::run::Run;

use self::contestant::{Source, Stage};
use self::machine::{Hugepages, Machine, Priority};

/// What to measure, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which bench.
    #[arg(value_enum, default_value = "micro")]
    bench: Bench,
    /// Only micro benches whose name contains this; of `guests` and `latency`, only what a contestant's name contains.
    #[arg(long)]
    filter: Option<String>,
    /// How often each contestant has its turn. [default: 5, and 20 of `latency`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long a turn lasts.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
    seconds: f64,
    /// The core that contestants run on. [default: the last one]
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
    /// Only with this source of packets. [default: both, one after the other]
    #[arg(long, value_enum)]
    source: Option<Source>,
    /// Reserve so many MiB of hugepages for the run, and give them back. [default: those that are there]
    #[arg(long, default_value_t = 0, value_name = "MB")]
    hugepages: u64,
    /// Also tables of 10 million entries, in the micro benches and in peers: some 10 GB, and minutes.
    #[arg(long)]
    large: bool,
    /// Of `guests`, `latency` and `kernel-pods`: also another build, whose binaries are in this folder.
    #[arg(long, value_name = "FOLDER")]
    beside: Option<PathBuf>,
    /// One JSON document instead of tables.
    #[arg(long)]
    json: bool,
}

/// The benches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Steps and tables of the pure crates, by criterion.
    Micro,
    /// 16 k known flows through a Service, against testpmd and OVS.
    KnownFlows,
    /// New flows a second, through 10,000 Services, policies and routes.
    NewFlows,
    /// A million flows against 16 k.
    FlowsScale,
    /// Among 100,000 Services, 10,000 policies and a million routes, against one of each.
    RulesScale,
    /// While pods come and go, and routes change; and how soon changes are in force.
    UpdateStorm,
    /// Plain routing between pods, no policy and no Service, against testpmd.
    Routing,
    /// Between vhost-user ports, and between those and net_null, against testpmd.
    Guests,
    /// Latency through two vhost-user ports at half load, against testpmd.
    Latency,
    /// TCP and 64-byte UDP between two kernel pods, against a veth pair.
    KernelPods,
    /// Connects and TCP through one Service and among 20,000, against veth pairs with kube-proxy's nftables rules.
    Services,
    /// CNI's ADD and DEL, against Debian's bridge with host-local; and 200 at once.
    Attach,
    /// Control on an API server with 5,000 nodes: first transaction, memory, and how soon changes are in force.
    Cluster,
    /// Our tables against rte_lpm, rte_fib and rte_hash.
    Peers,
}

impl Bench {
    /// Turns of each contestant, unless told otherwise.
    const fn rounds(self) -> u32 {
        match self {
            // Tails differ more from turn to turn than rates do.
            Self::Latency => 20,
            _ => 5,
        }
    }
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: u32,
    pub(crate) turn: Duration,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if (0.1..=3600.0).contains(&number) { Ok(number) } else { Err("from 0.1 to 3600".to_owned()) }
}

/// Runs one.
pub(crate) fn run(arguments: &Arguments, yes: bool) -> Result<()> {
    let Arguments { bench, filter, rounds, seconds, core, source, hugepages, large, beside, json } =
        arguments;
    if *bench == Bench::Micro {
        return micro::run(filter.as_deref(), *large, *json);
    }
    if *large && *bench != Bench::Peers {
        bail!("--large is for the micro benches and for peers");
    }
    if filter.is_some() && !matches!(bench, Bench::Guests | Bench::Latency) {
        bail!("--filter is for the micro benches, guests and latency: {bench:?} has no parts");
    }
    if beside.is_some() && !matches!(bench, Bench::Guests | Bench::Latency | Bench::KernelPods) {
        bail!("--beside is for guests, latency and kernel-pods");
    }
    let beside = beside.as_deref().map(Artefacts::at).transpose()?;
    let pace = Pace { rounds: rounds.unwrap_or(bench.rounds()), turn: Duration::from_secs_f64(*seconds) };
    if *bench == Bench::Peers {
        packages::install(&[Set::Build], yes)?;
        let run = Run::start()?;
        let (core, _) = machine::cores(*core)?;
        let pages = Hugepages::prepare(&run, *hugepages)?;
        let _priority = Priority::raise();
        let wanted = peers::Wanted { core, hugepages: pages.used, pace, large: *large };
        return peers::run(&run, wanted, &Machine::read(), *json);
    }
    packages::install(&[Set::Build, Set::Run], yes)?;
    if *bench == Bench::KnownFlows {
        packages::install(&[Set::Peers], yes)?;
    }
    let artefacts = Artefacts::find()?;
    let run = Run::start()?;
    let (core, other) = machine::cores(*core)?;
    let pages = Hugepages::prepare(&run, *hugepages)?;
    let _priority = Priority::raise();
    let stage = Stage { run, artefacts, beside, core, other, hugepages: pages.used, pace };
    let machine = Machine::read();
    let sources = source.map_or_else(|| vec![Source::Pcap, Source::Templates], |one| vec![one]);
    let report = match bench {
        Bench::Micro | Bench::Peers => return Ok(()),
        Bench::KernelPods => kernel_pods::kernel_pods(&stage, machine.cores())?,
        Bench::Services => services::services(&stage)?,
        Bench::Attach => attach::attach(&stage)?,
        Bench::Cluster => cluster::cluster(&stage)?,
        Bench::Routing => flows::routing(&stage, &machine, &sources)?,
        Bench::KnownFlows => flows::known(&stage, &machine, &sources)?,
        Bench::NewFlows => flows::new_flows(&stage)?,
        Bench::Guests => guests::guests(&stage, filter.as_deref())?,
        Bench::Latency => latency::latency(&stage, filter.as_deref())?,
        Bench::FlowsScale => flows::flows_scale(&stage, &sources)?,
        Bench::RulesScale => flows::rules_scale(&stage, &sources)?,
        Bench::UpdateStorm => storm::run(&stage, sources[0])?,
    };
    let name = bench.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    report.finish(&name, &machine, stage.hugepages, *json)
}
