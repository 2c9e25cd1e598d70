//! podrouter-control: turns what the cluster says into a node's tables, and attaches its pods.
//!
//! Composes and owns the threads; decides nothing itself. At an end by signal, ports, devices, routes and tables stay as
//! they are: the data plane goes on forwarding, and the next start compares.

mod args;
mod attach;
mod bandwidth;
mod checks;
mod cni;
mod health;
mod host;
mod ipam;
mod journal;
mod nat;
mod netlink;
mod peers;
mod pod;
mod report;
mod routes;
mod sandbox;
mod session;
mod store;
mod wanted;
mod watch;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, ToSocketAddrs};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use clap::Parser;
use rustix::fs::FlockOperation;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Config};
use crate::journal::Journal;
use crate::report::Report;
use crate::store::Store;
use crate::watch::{Ask, Source};

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = match EnvFilter::try_new(&args.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("podrouter-control: --log `{}`: {error}", args.log);
            return proto::exit::USAGE.into();
        }
    };
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
    let (mut config, (source, server)) = match args.config().and_then(|config| Ok((config, args.source()?))) {
        Ok(checked) => checked,
        Err(error) => {
            eprintln!("podrouter-control: {error}");
            return proto::exit::CONFIG.into();
        }
    };
    config.kept = server.as_ref().map(addresses).unwrap_or_default();
    match run(&args, config, source, server) {
        Ok(()) => proto::exit::OK.into(),
        Err(error) => {
            eprintln!("podrouter-control: {error:#}");
            if lacks_permission(&error) { proto::exit::DPDK.into() } else { proto::exit::FAILURE.into() }
        }
    }
}

/// Of the API server, as its name is resolved now: what a load balancer gives it later is not known.
fn addresses(server: &kube::Config) -> Vec<IpAddr> {
    let host = server.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = server.cluster_url.port_u16().unwrap_or(443);
    (host, port).to_socket_addrs().map(|found| found.map(|own| own.ip()).collect()).unwrap_or_default()
}

/// `server`: the API server, if one is followed.
fn run(
    args: &Args,
    config: Config,
    source: Box<dyn Source>,
    server: Option<kube::Config>,
) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).context("asking for signals")?;
    for directory in [&args.state_dir, &args.vhost_dir] {
        std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let _lock = lock(&args.state_dir)?;
    // Before anything is touched: another process may have the socket, with another state directory.
    let listener = cni::listen(&args.socket)
        .with_context(|| format!("listening on --socket {}", args.socket.display()))?;
    let (journal, history) = Journal::open(&args.state_dir)?;
    let ask = server.clone().map(Ask::new);
    let store = Store::new(config, source.describe(), ask, journal, history).context("making an event")?;
    let store = Arc::new(store);

    if let Some(name) = store.config.host.as_deref()
        && let Some(tap) = host::prepare(name, store.config.mtu)?
    {
        store.keep_tap(desired::HOST_PORT, tap, None);
    }
    if let Some(name) = store.config.host.as_deref().filter(|_| store.config.wants_subnets()) {
        store.know_subnets(host::subnets(name)?);
    }
    attach::restore(&store);
    // Before anybody asks for anything: a DEL that was left comes before the next ADD.
    let spool = args.state_dir.join("detached");
    std::fs::create_dir_all(&spool).with_context(|| format!("making {}", spool.display()))?;
    let left = attach::take_left(&store, &spool);
    if left > 0 {
        tracing::info!("{left} DEL(s) had been left while nobody was here");
    }

    let shared = Arc::clone(&store);
    start("source", move || {
        source.follow(&mut |update| {
            shared.take(update);
            ControlFlow::Continue(())
        });
    })?;
    let (shared, dataplane) = (Arc::clone(&store), args.dataplane.clone());
    start("session", move || session::follow(&shared, &dataplane))?;
    if let Some(host) = store.config.host.clone() {
        let (shared, name) = (Arc::clone(&store), host.clone());
        start("host", move || host::follow(&shared, &name, &shared.config.router))?;
        let shared = Arc::clone(&store);
        start("nat", move || nat::follow(&shared, &host, &shared.config.router))?;
    }
    let shared = Arc::clone(&store);
    start("checks", move || checks::serve(&shared))?;
    if let Some(address) = args.health_address {
        let shared = Arc::clone(&store);
        start("health", move || health::serve(&shared, address))?;
    }
    if let Some(server) = server {
        let report = Report::new(server, args.node.clone(), &store.config);
        let shared = Arc::clone(&store);
        start("report", move || report.follow(&shared))?;
    }
    let shared = Arc::clone(&store);
    start("sandbox", move || sandbox::follow(&shared))?;
    let shared = Arc::clone(&store);
    start("left", move || attach::follow_left(&shared, &spool))?;
    let shared = Arc::clone(&store);
    start("control", move || cni::serve(&listener, &shared))?;
    tracing::info!("node {}: listening on {}", store.config.node, args.socket.display());

    if let Some(signal) = signals.forever().next() {
        tracing::info!("signal {signal}: ending; ports, devices and routes stay");
    }
    // A failure leaves a stale socket, which the next start replaces.
    let _ = std::fs::remove_file(&args.socket);
    Ok(())
}

/// A thread that ends only with the process; should it panic, so does the process end, for a supervisor to start anew.
fn start(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let guarded = move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        if result.is_err() {
            std::process::exit(proto::exit::FAILURE.into());
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(guarded).context("starting a thread")?;
    Ok(())
}

/// One process a state directory: two would give the same address twice.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!("locking {}: another podrouter-control runs with this --state-dir", path.display())
    })?;
    Ok(file)
}

fn lacks_permission(error: &anyhow::Error) -> bool {
    use rustix::io::Errno;
    let denied = |errno: Errno| matches!(errno, Errno::PERM | Errno::ACCESS);
    error.chain().any(|cause| {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return cause.kind() == io::ErrorKind::PermissionDenied;
        }
        match cause.downcast_ref::<host::HostError>() {
            Some(host::HostError::Tap(
                tap::TapError::Open { errno, .. } | tap::TapError::Attach { errno, .. },
            )) => denied(*errno),
            Some(host::HostError::Netlink { source, .. }) => source.errno().is_some_and(denied),
            _ => false,
        }
    })
}
