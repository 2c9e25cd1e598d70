//! `pktgen`: sends and receives over any DPDK port; counts, times, reports. `--reflect` makes it an echo peer.
//!
//! This file composes: arguments, EAL, ports, one worker thread, the report. The loop is `worker.rs`.

mod classify;
mod cli;
mod lane;
mod meter;
mod pacer;
mod pcap;
mod report;
mod stamp;
mod station;
mod template;
mod windows;
mod worker;

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Parser;
use dpdk::{Eal, EalConfig, Huge, Pool, PoolConfig, Port, PortConfig};
use wire::MacAddr;

use crate::cli::{Args, DstMac, HugeArg, PlanError, Traffic};
use crate::lane::{Lane, Source, Udp};
use crate::report::{LaneReport, PortReport, Report};
use crate::station::Station;
use crate::template::Ends;
use crate::windows::Windows;
use crate::worker::{Io, Limits, Progress, Worker, mac_of};

/// What went wrong, by exit code; 2 is clap's.
enum Failure {
    /// 1: it ran, and did not do what was asked.
    Ran(anyhow::Error),
    /// 3: options or files that do not fit together.
    Config(anyhow::Error),
    /// 4: DPDK or permission.
    Dpdk(anyhow::Error),
}

impl Failure {
    fn dpdk(error: impl Into<anyhow::Error>) -> Self {
        Self::Dpdk(error.into())
    }

    fn config(error: impl Into<anyhow::Error>) -> Self {
        Self::Config(error.into())
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (code, error) = match run(&args) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Ran(error)) => (1, error),
        Err(Failure::Config(error)) => (3, error),
        Err(Failure::Dpdk(error)) => (4, error),
    };
    say(&format!("pktgen: {error:#}"));
    ExitCode::from(code)
}

/// A line on stderr. Whoever read it may be gone, which is no reason to end without the results.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The most that one segment holds, with the headroom.
const ROOM: u16 = 2048;

fn run(args: &Args) -> Result<(), Failure> {
    args.check().map_err(Failure::config)?;
    let replay = args.pcap.as_deref().map(pcap::read).transpose().map_err(Failure::config)?;
    let traffic =
        if args.reflect || replay.is_some() { None } else { Some(args.traffic().map_err(Failure::config)?) };
    let longest = match (&replay, &traffic) {
        (Some(frames), _) => frames.iter().map(Vec::len).max().unwrap_or(0),
        (None, Some(traffic)) => traffic.size.into(),
        (None, None) => 0,
    };
    let data_room = u16::try_from(longest).unwrap_or(u16::MAX).max(ROOM).checked_add(PoolConfig::HEADROOM);
    let data_room =
        data_room.context("--pcap: a frame is longer than one segment holds").map_err(Failure::Config)?;

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first asks for the results; a second, while a device keeps DPDK waiting for its peer, ends at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("signals")
            .map_err(Failure::Ran)?;
    }

    let eal = Eal::init(EalConfig {
        program: "pktgen".into(),
        file_prefix: args.file_prefix.clone().unwrap_or_default(),
        memory_mb: args.memory,
        huge: match args.huge {
            HugeArg::Auto => Huge::Auto,
            HugeArg::Yes => Huge::Yes,
            HugeArg::No => Huge::No,
        },
        vdevs: args.vdev.clone(),
        allow: args.allow.clone(),
        log_level: args.log_level.clone(),
        extra: args.eal_arg.clone(),
        main_core: None,
    })
    .map_err(Failure::dpdk)?;
    let config = PoolConfig { mbufs: args.mbufs, cache: 256, data_room };
    let pool = Pool::new(&eal, "pktgen", config).map_err(Failure::dpdk)?;
    let ios = open(args, &eal, &pool, longest)?;
    let lanes = lanes(args, &ios, traffic, replay)?;
    let (report, silent) = work(args, &eal, &pool, (ios, lanes), &stop)?;

    let text = if args.json { format!("{}\n", report.json()) } else { report.table() };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(Failure::Ran(error.into())),
        _ => {}
    }
    silent.map_or(Ok(()), |error| Err(Failure::Ran(error)))
}

fn open(args: &Args, eal: &Eal, pool: &Pool, longest: usize) -> Result<Vec<Io>, Failure> {
    let mut names = args.ports.clone();
    if names.is_empty() {
        names = eal.devices();
        names.truncate(2);
    }
    if names.is_empty() {
        return Err(Failure::config(PlanError::NoDevice));
    }
    if args.both && names.len() == 1 {
        return Err(Failure::config(PlanError::Both));
    }
    // Without the Ethernet header; ports begin with 1500.
    let mtu = u16::try_from(longest.saturating_sub(14)).ok().filter(|&mtu| mtu > 1500);
    names
        .iter()
        .map(|name| {
            let (port, rx, tx) =
                Port::open(eal, name, PortConfig { mtu, ..PortConfig::new(pool) }).map_err(Failure::dpdk)?;
            let (Some(rx), Some(tx)) = (rx.into_iter().next(), tx.into_iter().next()) else {
                return Err(Failure::Dpdk(anyhow!("port `{name}` has no queues")));
            };
            let mac = args.src_mac.map_or_else(|| mac_of(&port), Ok).map_err(Failure::dpdk)?;
            let mut addresses = args.addresses.clone();
            addresses.extend(args.src.filter(|src| !args.addresses.contains(src)));
            let station = Station::new(mac, addresses, &args.gateways, args.reflect);
            Ok(Io::new(port, rx, tx, station))
        })
        .collect()
}

/// Runs of different processes and directions must not be taken for one another.
fn run_number(direction: u16) -> u16 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mix = u64::from(std::process::id()).wrapping_mul(0x9e37_79b9) ^ u64::from(now.subsec_nanos());
    let [a, b, ..] = mix.to_le_bytes();
    (u16::from_le_bytes([a, b]) & !3) | direction << 1
}

fn lanes(
    args: &Args,
    ios: &[Io],
    traffic: Option<Traffic>,
    replay: Option<Vec<Vec<u8>>>,
) -> Result<Vec<Lane>, Failure> {
    let directions = if args.reflect { 0 } else { 1 + usize::from(args.both) };
    let run = run_number(0);
    let mut lanes = Vec::new();
    for (direction, tx_io) in (0..directions).zip(0_u16..) {
        let io = ios.get(direction).context("no port to send on").map_err(Failure::Config)?;
        let source = match (&traffic, &replay) {
            (Some(traffic), _) => {
                // The second direction is the first one's mirror image.
                let back = direction == 1;
                let (src, dst) = if back { (traffic.dst, traffic.src) } else { (traffic.src, traffic.dst) };
                let (dst_mac, known) = match args.dst_mac() {
                    DstMac::Mac(mac) => (mac, true),
                    DstMac::Gateway => (MacAddr::default(), false),
                };
                if !known && !args.gateways.iter().any(|gateway| gateway.is_ipv4() == dst.is_ipv4()) {
                    let error = anyhow!("--dst-mac gateway: no --gateway of {dst}'s family");
                    return Err(Failure::Config(error));
                }
                let ends = Ends { src_mac: io.station.mac, dst_mac, src, dst };
                Source::Udp(Udp::new(ends, known, traffic.size, &traffic.ports))
            }
            (None, Some(frames)) => Source::Replay { frames: frames.clone(), next: 0 },
            (None, None) => continue,
        };
        let run = run | tx_io << 1;
        let lane = Lane::new(direction, source, args.rate, run, args.window).context("histogram");
        lanes.push(lane.map_err(Failure::Ran)?);
    }
    Ok(lanes)
}

/// Runs the worker on a thread of its own, and shows progress meanwhile. The second value is why it failed after all.
fn work(
    args: &Args,
    eal: &Eal,
    pool: &Pool,
    parts: (Vec<Io>, Vec<Lane>),
    stop: &AtomicBool,
) -> Result<(Report, Option<anyhow::Error>), Failure> {
    let limits = Limits {
        warmup: args.warmup,
        duration: args.time_limit(),
        count: args.count,
        min_received: args.min_received,
        drain: args.drain,
        resolve: args.resolve_timeout,
    };
    let progress = Progress::default();
    let shows = args.progress || std::io::stderr().is_terminal();
    std::thread::scope(|scope| {
        let (done, finished) = mpsc::channel();
        let progress = &progress;
        scope.spawn(move || {
            let outcome = on_core(args, eal, || {
                let mut worker = Worker::new(eal, pool, parts, args.sleeps(), stop, progress);
                let outcome = worker.run(&limits, || ready(args));
                finish(args, worker, outcome)
            });
            // The receiver waits for exactly this.
            let _ = done.send(outcome);
        });
        let (start, mut before, mut last) = (Instant::now(), [0; 3], Instant::now());
        loop {
            match finished.recv_timeout(Duration::from_secs(1)) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Ran(anyhow!("the worker thread ended")));
                }
                Err(RecvTimeoutError::Timeout) if shows => {
                    let now = [&progress.sent, &progress.received, &progress.reflected]
                        .map(|counter| counter.load(Ordering::Relaxed));
                    let line = report::progress_line(start.elapsed().as_secs(), now, before, last.elapsed());
                    say(&line);
                    (before, last) = (now, Instant::now());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    })
}

fn on_core<T>(args: &Args, eal: &Eal, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    if let Some(id) = args.core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(Failure::Config(anyhow!("--core {id}: this process may not run there")));
    }
    let token = eal.register_thread().map_err(Failure::dpdk)?;
    let outcome = work();
    drop(token);
    outcome
}

fn ready(args: &Args) {
    say("ready");
    if let Some(path) = &args.ready_file
        && let Err(error) = std::fs::write(path, "ready\n")
    {
        say(&format!("pktgen: --ready-file {}: {error}", path.display()));
    }
}

fn finish(
    args: &Args,
    worker: Worker<'_>,
    outcome: Result<Duration, worker::Silent>,
) -> Result<(Report, Option<anyhow::Error>), Failure> {
    let elapsed = outcome.map_err(|error| Failure::Ran(error.into()))?;
    let arrived = worker.arrived();
    let name = |index: usize| worker.ios.get(index).map_or_else(String::new, |io| io.port.name().to_owned());
    let lanes = worker.lanes.iter().map(|lane| LaneReport {
        tx_port: name(lane.tx_io),
        // With one port it is both ends; with two, the other one.
        rx_port: name(if worker.ios.len() == 1 { 0 } else { 1 - lane.tx_io }),
        sent: lane.sent,
        sent_bytes: lane.sent_bytes,
        unsent: lane.unsent,
        received: lane.received(),
        reordered: lane.meter.reordered,
        duplicates: lane.meter.duplicates,
        latency: (!lane.replays()).then(|| lane.meter.latency.clone()),
        windows: lane.meter.windows.clone().map(Windows::finished),
    });
    let ports = worker.ios.iter().map(|io| PortReport {
        name: io.port.name().to_owned(),
        driver: io.port.info().map(|info| info.driver).unwrap_or_default(),
        mac: io.station.mac.to_string(),
        stats: io.port.stats().ok(),
        done: io.station.done,
        refused: io.refused,
    });
    let mode = if args.reflect { "reflect" } else { args.pcap.as_ref().map_or("generate", |_| "replay") };
    let report = Report {
        mode,
        hugepages: worker.eal.hugepages(),
        elapsed,
        lanes: lanes.collect(),
        ports: ports.collect(),
        strays: worker.strays,
    };
    let short = args.min_received.filter(|&least| arrived < least);
    Ok((report, short.map(|least| anyhow!("--min-received {least}: only {arrived} came"))))
}
