//! Benches of vhost-user ports: from guest to guest, and between a guest and a device that costs nothing.
//!
//! A contestant is a program with one core and a peer on the other: `pktgen` with DPDK's own virtio-user driver, which sends by one
//! port as fast as the ring takes it and receives by another. Both are stopped while it is another's turn.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::process::{Process, describe};
use lab::telemetry::Telemetry;
use lab::wait::{PATIENCE, wait_until};
use proto::dataplane::PortKind;
use rustix::process::Signal;
use wire::MacAddr;

use super::contestant::{Contestant, Play, Source, Stage};
use super::report::{Aim, Figure, Report};
use super::rounds;
use super::router::{IN, OUT, Router};
use super::testpmd::Mode;
use super::traffic::{CLIENT_MAC, Destination, FRAME, SERVER_MAC, Traffic};

/// Flows of the packets; few, since what is measured are the rings.
const FLOWS: u32 = 1_024;

/// What is at either end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    GuestToGuest,
    GuestToNull,
    NullToGuest,
}

impl Ends {
    const ALL: [Self; 3] = [Self::GuestToGuest, Self::GuestToNull, Self::NullToGuest];

    const fn name(self) -> &'static str {
        match self {
            Self::GuestToGuest => "guest to guest",
            Self::GuestToNull => "guest to net_null",
            Self::NullToGuest => "net_null to guest",
        }
    }

    const fn has_source(self) -> bool {
        !matches!(self, Self::NullToGuest)
    }

    const fn has_sink(self) -> bool {
        !matches!(self, Self::GuestToNull)
    }
}

/// The kind of ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ring {
    Split,
    Packed,
}

impl Ring {
    pub(super) const BOTH: [Self; 2] = [Self::Split, Self::Packed];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Packed => "packed",
        }
    }

    /// The guest's end of a socket: a device of DPDK's.
    pub(super) fn device(self, number: u32, socket: &Path, mac: MacAddr) -> String {
        let packed = if self == Self::Packed { ",packed_vq=1" } else { "" };
        let path = socket.display();
        format!("net_virtio_user{number},path={path},mac={mac},queue_size=1024{packed}")
    }
}

/// Sockets that the contestant makes.
pub(super) struct Sockets {
    pub(super) source: PathBuf,
    pub(super) sink: PathBuf,
    /// What the peer sends, or the contestant where there is no guest to send.
    frames: PathBuf,
}

impl Sockets {
    pub(super) fn new(stage: &Stage) -> Result<Self> {
        let number = stage.run.number();
        let path = |name: &str| stage.run.dir().join(format!("{name}{number}"));
        let frames = path("frames");
        Traffic { flows: FLOWS, to: Destination::Pod }.write(&frames)?;
        Ok(Self { source: path("from"), sink: path("to"), frames })
    }
}

/// A contestant and its peer.
struct WithPeer<C> {
    forwarder: C,
    peer: Process,
}

impl<C: Contestant> Contestant for WithPeer<C> {
    fn name(&self) -> &str {
        self.forwarder.name()
    }

    fn command(&self) -> &str {
        self.forwarder.command()
    }

    fn process(&mut self) -> &mut Process {
        self.forwarder.process()
    }

    fn sent(&mut self) -> Result<u64> {
        self.forwarder.sent()
    }

    fn resumed(&mut self) -> Result<()> {
        self.peer.check()?;
        self.peer.signal(Signal::CONT)
    }

    fn pausing(&mut self) -> Result<()> {
        self.peer.check()?;
        self.peer.signal(Signal::STOP)
    }
}

/// Starts the peer: it sends by the first guest and receives by the second, as far as there are such.
fn start_peer(stage: &Stage, sockets: &Sockets, ends: Ends, ring: Ring) -> Result<Process> {
    let prefix = stage.run.name(&format!("peer{}", stage.run.number()));
    let mut command = Command::new(stage.artefacts.path("pktgen"));
    if ends.has_source() {
        command.args(["--vdev", &ring.device(0, &sockets.source, CLIENT_MAC)]);
    }
    if ends.has_sink() {
        command.args(["--vdev", &ring.device(1, &sockets.sink, SERVER_MAC)]);
    }
    command.args(["--file-prefix", &prefix, "--core", &stage.other.to_string(), "--idle", "poll"]);
    command.args(["--huge", if stage.hugepages { "yes" } else { "no" }]);
    // Frames without a stamp: what the peer does with each must cost less than what the contestant does.
    command.arg("--pcap").arg(&sockets.frames).args(["--duration", "1000000"]);
    // Where it only receives, a packet a second harms nobody.
    command.args(["--rate", if ends.has_source() { "max" } else { "1" }]);
    Process::spawn(&stage.run, &prefix, &mut command)
}

/// A data plane of this name that waits for guests at these sockets.
pub(super) fn router(stage: &Stage, name: &str, sockets: &Sockets, ends: Ends, ring: Ring) -> Result<Router> {
    let mut router = Router::start(stage, &format!("{name} {}", ring.name()), Source::Templates, FLOWS)?;
    let guest = |path: &Path| PortKind::Vhost { path: path.to_owned(), server: true, queue_pairs: 1 };
    let from = match ends {
        Ends::NullToGuest => {
            PortKind::Memory { rx_pcap: Some(sockets.frames.clone()), tx_pcap: None, repeat: true }
        }
        _ => guest(&sockets.source),
    };
    let to = match ends {
        Ends::GuestToNull => super::router::ethdev(Play::SINK),
        _ => guest(&sockets.sink),
    };
    router.add_ports([(OUT, to), (IN, from)])?;
    Ok(router)
}

fn router_with_peer(stage: &Stage, name: &str, ends: Ends, ring: Ring) -> Result<WithPeer<Router>> {
    let sockets = Sockets::new(stage)?;
    let mut router = router(stage, name, &sockets, ends, ring)?;
    let peer = start_peer(stage, &sockets, ends, ring)?;
    router.forwards()?;
    Ok(WithPeer { forwarder: router, peer })
}

/// A testpmd between DPDK's own vhost-user back ends.
pub(super) struct Testpmd {
    name: String,
    command: String,
    process: Process,
    telemetry: Option<Telemetry>,
    path: PathBuf,
}

impl Contestant for Testpmd {
    fn name(&self) -> &str {
        &self.name
    }

    fn command(&self) -> &str {
        &self.command
    }

    fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn sent(&mut self) -> Result<u64> {
        if self.telemetry.is_none() {
            self.telemetry = Some(Telemetry::connect(&self.path)?);
        }
        self.telemetry.as_mut().context("it answers nobody")?.sent(1)
    }
}

/// A testpmd that waits for guests at these sockets.
pub(super) fn testpmd(
    stage: &Stage,
    sockets: &Sockets,
    ends: Ends,
    ring: Ring,
    mode: Mode,
) -> Result<Testpmd> {
    let prefix = stage.run.name(&format!("testpmd{}", stage.run.number()));
    let guest = |number: u32, path: &Path| format!("net_vhost{number},iface={},queues=1", path.display());
    // Ports are numbered as their devices come, by name within a kind; the sender must be the second.
    let from = match ends {
        Ends::NullToGuest => format!("net_null0,size={FRAME},copy=1"),
        _ => guest(0, &sockets.source),
    };
    let to = match ends {
        Ends::GuestToNull => Play::SINK.to_owned(),
        _ => guest(1, &sockets.sink),
    };
    let mut command = Command::new("dpdk-testpmd");
    command.args(["-l", &format!("{},{}", stage.core, stage.other)]);
    command.args(["--main-lcore", &stage.other.to_string(), "--no-pci"]);
    command.args(["-m", "512", "--file-prefix", &prefix]);
    command.args(if stage.hugepages { ["--huge-unlink"].as_slice() } else { &["--no-huge"] });
    command.args(["--vdev", &from, "--vdev", &to, "--", "--auto-start", "--no-mlockall"]);
    command.arg(format!("--forward-mode={}", mode.name()));
    command.args(["--total-num-mbufs=16384", "--nb-cores=1", "--burst=32", "--no-flush-rx"]);
    command.args(["--stats-period=3600", "--txd=1024", "--rxd=1024"]);
    let mut process = Process::spawn(&stage.run, &prefix, &mut command)?;
    for (is_guest, path) in [(ends.has_source(), &sockets.source), (ends.has_sink(), &sockets.sink)] {
        wait_until("testpmd listens", 4 * PATIENCE, || {
            process.check()?;
            ensure!(!is_guest || path.exists(), "no socket yet:\n{}", process.tail(10));
            Ok(())
        })?;
    }
    let name = format!("testpmd {} {}", mode.name(), ring.name());
    let path = Telemetry::path(&prefix);
    Ok(Testpmd { name, command: describe(&command), process, telemetry: None, path })
}

fn testpmd_with_peer(stage: &Stage, ends: Ends, ring: Ring, mode: Mode) -> Result<WithPeer<Testpmd>> {
    let sockets = Sockets::new(stage)?;
    let mut testpmd = testpmd(stage, &sockets, ends, ring, mode)?;
    let peer = start_peer(stage, &sockets, ends, ring)?;
    wait_until("testpmd forwards", 4 * PATIENCE, || {
        testpmd.process.check()?;
        ensure!(testpmd.sent()? > 0, "nothing sent yet:\n{}", testpmd.process.tail(10));
        Ok(())
    })?;
    Ok(WithPeer { forwarder: testpmd, peer })
}

/// All ends, with rings of both kinds, against testpmd; or those whose names hold `filter`.
pub(crate) fn guests(stage: &Stage, filter: Option<&str>) -> Result<Report> {
    let mut report = Report::default();
    for ends in Ends::ALL {
        for ring in Ring::BOTH {
            let name = format!("{}, {}", ring.name(), ends.name());
            if filter.is_some_and(|filter| !name.contains(filter)) {
                continue;
            }
            let mut ours = router_with_peer(stage, "podrouter", ends, ring)?;
            ours.pause()?;
            let mut io = testpmd_with_peer(stage, ends, ring, Mode::Io)?;
            io.pause()?;
            let mut macswap = testpmd_with_peer(stage, ends, ring, Mode::Macswap)?;
            macswap.pause()?;
            let other = stage.beside();
            let mut beside = other.map(|stage| router_with_peer(&stage, "beside", ends, ring)).transpose()?;
            let mut contestants: Vec<&mut dyn Contestant> = vec![&mut ours, &mut io, &mut macswap];
            contestants.extend(beside.as_mut().map(|beside| beside as &mut dyn Contestant));
            let mut measured = rounds::run(stage.pace, &mut contestants)?;
            for one in &mut measured {
                one.name = format!("{}, {}", one.name.replace(" (templates)", ""), ends.name());
            }
            if let [ours, io, others @ ..] = measured.as_slice() {
                // Split rings are what guests have unless told otherwise.
                let aim = (ring == Ring::Split).then_some(Aim::AtLeast(0.9));
                report.figures.push(Figure::ratio(ours, io, aim));
                report.figures.extend(others.iter().map(|other| Figure::ratio(ours, other, None)));
            }
            report.measured.extend(measured);
        }
    }
    Ok(report)
}
