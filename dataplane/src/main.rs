//! The data plane's binary: arguments → EAL → pools → publisher → workers → socket → until told to end.
//!
//! It composes and decides nothing: what happens to a packet is `pipeline`'s, what is true is control's.

#![forbid(unsafe_code)]

mod args;
mod clock;
mod convert;
mod core;
mod counters;
mod doorbell;
mod flows;
mod frame;
mod handover;
mod io;
mod limits;
mod links;
mod ports;
mod serve;
mod show;
mod table_writer;
mod wait;
mod worker;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Parser;
use crossbeam::channel;
use dpdk::{Eal, EalConfig, Huge, Pool, PoolConfig};
use flow::{Flows, Local, Seat};
use pipeline::{Adjacencies, NeighbourConfig, Tracking};
use publish::Publisher;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tables::Tables;

use crate::args::{Args, Cores};
use crate::core::Core;
use crate::frame::{LARGE_ROOM, Pools, SMALL_ROOM};
use crate::handover::{Kind, PortOwners, WorkerShared};
use crate::io::Tools;
use crate::serve::Socket;
use crate::wait::Waiter;
use crate::worker::{Worker, WorkerConfig};

/// Large buffers that one segment of 64 KiB takes.
const MBUFS_A_SEGMENT: u32 = 65_536 / LARGE_ROOM as u32 + 1;

/// The environment's failures have an exit code of their own.
#[derive(Debug, thiserror::Error)]
#[error("DPDK could not be started")]
struct DpdkFailed;

/// An argument that is well formed and cannot be had here.
#[derive(Debug, thiserror::Error)]
#[error("--workers: core {core} is not in this process's cpuset, which is {cpuset:?}")]
struct NoSuchCore {
    core: usize,
    cpuset: Vec<usize>,
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let denied = error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied)
    });
    if denied || error.is::<DpdkFailed>() {
        proto::exit::DPDK
    } else if error.is::<NoSuchCore>() || error.is::<args::BadTimeout>() {
        proto::exit::USAGE
    } else {
        proto::exit::FAILURE
    }
}

/// What this build needs of the processor and this one lacks: said, rather than ended by SIGILL. The detection macros of
/// std are no use here, for they are constants in code that is built for those features.
fn missing_cpu_features() -> Vec<&'static str> {
    let needed: &[&str] =
        if cfg!(target_feature = "avx2") { &["avx2", "bmi1", "bmi2", "fma", "movbe"] } else { &[] };
    let Ok(info) = std::fs::read_to_string("/proc/cpuinfo") else { return Vec::new() };
    let Some(flags) = info.lines().find(|line| line.starts_with("flags")) else { return Vec::new() };
    needed.iter().copied().filter(|need| !flags.split_whitespace().any(|flag| flag == *need)).collect()
}

fn main() -> ExitCode {
    let missing = missing_cpu_features();
    if !missing.is_empty() {
        eprintln!(
            "podrouter-dataplane: this processor has no {}, which this build (x86-64-v3) needs: build it with \
             RUSTFLAGS=\"-C target-cpu=native\" on this machine",
            missing.join(", ")
        );
        return ExitCode::from(proto::exit::FAILURE);
    }
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log);
    let filter = match filter {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("podrouter-dataplane: --log `{}`: {error}", args.log);
            return ExitCode::from(proto::exit::USAGE);
        }
    };
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    match run(&args) {
        Ok(()) => ExitCode::from(proto::exit::OK),
        Err(error) => {
            // Not by the log, which may be off: whoever started it must learn why it ended.
            eprintln!("podrouter-dataplane: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    // Signals first: one that comes while EAL starts is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("listening for signals")?;
    let cores = poll_cores(args)?;
    let socket = Socket::listen(&args.socket)?;

    let eal = Eal::init(eal_config(args)).context(DpdkFailed)?;
    let pools = pools(&eal, args).context(DpdkFailed)?;
    let mut warnings = Vec::new();
    if !eal.hugepages() {
        warnings.push(
            "running without hugepages, at 1.6 to 3 times the cost of each packet's I/O: reserve some with \
             `echo 512 > /proc/sys/vm/nr_hugepages` and start again"
                .to_owned(),
        );
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }

    let tables = Tables::empty();
    let mut publisher = Publisher::new(Arc::new(tables.clone()), tables.generation().0);
    let workers = worker_list(args, &cores)?;
    let owners = Arc::new(PortOwners::new());
    let flows = flows::open(args, workers.len())?;
    let adjacencies = Arc::<Adjacencies>::default();
    let common = Common {
        workers: Arc::clone(&workers),
        owners: Arc::clone(&owners),
        flows: Arc::clone(&flows),
        adjacencies: Arc::clone(&adjacencies),
    };
    let threads = start_workers(args, &eal, &pools, &mut publisher, &common)?;

    let core = Arc::new(Mutex::new(Some(Core {
        eal,
        pools,
        publisher,
        tables,
        ports: ports::Ports::default(),
        workers: Arc::clone(&workers),
        owners,
        flows,
        adjacencies,
        devices: args
            .vdev
            .iter()
            .chain(&args.allow)
            .map(|a| (ports::device_name(a).to_owned(), a.clone()))
            .collect(),
        state: args.flow_file.clone(),
        instance: instance(),
        started,
        warnings,
    })));
    socket.serve(&core)?;
    let links = links::Watch::start(&core).context("starting the thread that watches links")?;
    tracing::info!(socket = %args.socket.display(), workers = workers.len(), "ready");

    if let Some(signal) = signals.forever().next() {
        tracing::info!(signal, "ending");
    }
    drop(links);
    // Taken out: clients that are still there find nothing, and nothing of DPDK outlives this function.
    let core = serve::lock(&core).take();
    drop(socket);
    if let Some(core) = core {
        end(core, &workers, threads);
    }
    Ok(())
}

/// Ports go first, each given back by its worker; TAPs and guests keep theirs, for the next start. Then workers settle
/// what is on its way, and EAL ends with the last of all this.
fn end(mut core: Core, workers: &[Arc<WorkerShared>], threads: Vec<JoinHandle<()>>) {
    let names: Vec<_> = core.ports.iter().map(|record| record.info.spec.name.clone()).collect();
    for name in names {
        if let Err(error) = core.close_port(&name) {
            tracing::warn!("{error:#}");
        }
    }
    for worker in workers {
        worker.stop.store(true, Ordering::Relaxed);
        worker.doorbell.ring();
    }
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a worker has panicked");
        }
    }
    let ledger: Vec<_> = workers.iter().map(|worker| worker.counters.ledger()).collect();
    let between = ledger.iter().map(|l| i128::from(l.handed_out) - i128::from(l.handed_in)).sum::<i128>();
    if between != 0 || ledger.iter().any(|l| l.imbalance() != 0) {
        tracing::warn!(?ledger, between, "the ledger does not add up: packets were lost without a name");
    }
    tracing::info!(?ledger, "ended");
}

fn poll_cores(args: &Args) -> anyhow::Result<Vec<usize>> {
    let mine: Vec<usize> = core_affinity::get_core_ids()
        .context("reading this process's cpuset")?
        .iter()
        .map(|core| core.id)
        .collect();
    match &args.workers {
        Cores::Auto => Ok(mine),
        Cores::List(list) => match list.iter().find(|core| !mine.contains(core)) {
            Some(&core) => Err(NoSuchCore { core, cpuset: mine }.into()),
            None => Ok(list.clone()),
        },
    }
}

fn eal_config(args: &Args) -> EalConfig {
    EalConfig {
        program: "podrouter-dataplane".to_owned(),
        file_prefix: args.file_prefix.clone().unwrap_or_else(|| format!("podrouter-{}", std::process::id())),
        memory_mb: Some(args.memory.unwrap_or_else(|| memory_mb(args))),
        huge: if args.no_huge { Huge::No } else { Huge::Auto },
        vdevs: args.vdev.clone(),
        allow: args.allow.clone(),
        ..EalConfig::default()
    }
}

/// What the pools need, in MiB, a quarter more for their rings and the devices' own, and at least 128.
fn memory_mb(args: &Args) -> u32 {
    /// An mbuf's own header and the mempool's beside it, in bytes.
    const OVERHEAD: u64 = 320;
    let of =
        |n: u32, room: u16| u64::from(n) * (u64::from(room) + u64::from(PoolConfig::HEADROOM) + OVERHEAD);
    let bytes = of(args.mbufs, SMALL_ROOM) + of(args.large_mbufs, LARGE_ROOM);
    u32::try_from((bytes + bytes / 4) >> 20).unwrap_or(u32::MAX).max(64) + 64
}

fn pools(eal: &Eal, args: &Args) -> anyhow::Result<Pools> {
    let pool = |name: &str, mbufs: u32, room: u16, cache: u32| {
        let config = PoolConfig { mbufs, cache, data_room: room + PoolConfig::HEADROOM };
        Pool::new(eal, name, config)
    };
    Ok(Pools {
        small: pool("small", args.mbufs, SMALL_ROOM, 256)?,
        large: pool("large", args.large_mbufs, LARGE_ROOM, 64)?,
    })
}

fn worker_list(args: &Args, cores: &[usize]) -> anyhow::Result<Arc<[Arc<WorkerShared>]>> {
    let poll = cores.iter().map(|&core| (Kind::Poll, Some(core)));
    let kernel = (0..args.kernel_workers).map(|_| (Kind::Kernel, None));
    let mut workers = Vec::new();
    for (id, (kind, core)) in (0_u16..).zip(poll.chain(kernel)) {
        workers.push(Arc::new(WorkerShared::new(id, kind, core).context("making a worker's eventfd")?));
    }
    Ok(workers.into())
}

/// What waits for neighbours keeps its buffers for seconds, five of the large ones for a segment from a TAP: all workers
/// together hold a quarter of these at most, or one pod could stop the TAPs of all others.
fn neighbours(args: &Args, workers: usize) -> NeighbourConfig {
    let default = NeighbourConfig::default();
    let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
    let share = args.large_mbufs / 4 / MBUFS_A_SEGMENT / workers;
    NeighbourConfig { held_total: share.clamp(1, default.held_total), ..default }
}

/// What all workers share.
struct Common {
    workers: Arc<[Arc<WorkerShared>]>,
    owners: Arc<PortOwners>,
    flows: Arc<Flows>,
    adjacencies: Arc<Adjacencies>,
}

fn start_workers(
    args: &Args,
    eal: &Eal,
    pools: &Pools,
    publisher: &mut Publisher<Tables>,
    common: &Common,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let Common { workers, owners, flows, adjacencies } = common;
    let mut threads = Vec::new();
    let (ready, started) = channel::unbounded::<anyhow::Result<()>>();
    for shared in workers.iter() {
        let waiter = match shared.kind {
            Kind::Poll => Waiter::poll(args.idle),
            Kind::Kernel => Waiter::epoll(shared).context("making an epoll set")?,
        };
        let config = WorkerConfig {
            shared: Arc::clone(shared),
            workers: Arc::clone(workers),
            owners: Arc::clone(owners),
            tables: publisher.reader(),
            tools: Tools::new(pools.clone()),
            waiter,
            neighbours: neighbours(args, workers.len()),
            tracking: Tracking {
                flows: Arc::clone(flows),
                adjacencies: Arc::clone(adjacencies),
                local: Local::new(Seat(usize::from(shared.id))),
            },
        };
        let (eal, ready) = (eal.clone(), ready.clone());
        let name = format!("{}-{}", shared.kind.name(), shared.id);
        threads.push(std::thread::Builder::new().name(name).spawn(move || {
            // Registered with DPDK after it is pinned: DPDK notes where it runs.
            let pinned = config
                .shared
                .core
                .is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id }));
            let token =
                match (pinned, eal.register_thread()) {
                    (true, Ok(token)) => token,
                    (false, _) => {
                        drop(ready.send(Err(anyhow::anyhow!(
                            "core {:?} refused to be pinned to",
                            config.shared.core
                        ))));
                        return;
                    }
                    (_, Err(error)) => {
                        drop(ready.send(Err(anyhow::Error::from(error).context(DpdkFailed))));
                        return;
                    }
                };
            drop(ready.send(Ok(())));
            Worker::new(config).run();
            drop(token);
        })?);
    }
    for _ in workers.iter() {
        started.recv().context("a worker ended before it began")?.context("starting a worker")?;
    }
    Ok(threads)
}

/// Unique for this start: wall clock and process id.
fn instance() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", now.as_nanos(), std::process::id())
}
