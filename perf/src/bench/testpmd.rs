//! DPDK's own testpmd: the least that a program can do with a packet.

use std::process::Command;

use anyhow::Result;
use lab::process::{Process, describe};
use lab::telemetry::Telemetry;
use lab::wait::{PATIENCE, wait_until};

use super::contestant::{Contestant, Play, Source, Stage};

/// What it does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing: receive and send.
    Io,
    /// Exchanges the MAC addresses: it touches the first line of each packet, as whoever forwards must.
    Macswap,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Macswap => "macswap",
        }
    }
}

/// A testpmd that forwards from its first port to its second.
pub(crate) struct Testpmd {
    name: String,
    command: String,
    process: Process,
    telemetry: Telemetry,
}

impl Testpmd {
    /// Starts one; packets flow when this returns.
    pub(crate) fn start(stage: &Stage, mode: Mode, play: &Play) -> Result<Self> {
        let name = format!("testpmd {} ({})", mode.name(), play.source.name());
        let prefix = stage.run.name(&format!("testpmd{}", stage.run.number()));
        let source = match play.source {
            Source::Pcap => format!("net_pcap0,rx_pcap={},infinite_rx=1", play.file.display()),
            // A copy of 64 bytes from a warm template, as our own memory port makes it.
            Source::Templates => "net_null0,size=64,copy=1".to_owned(),
        };
        let mut command = Command::new("dpdk-testpmd");
        command.args(["-l", &format!("{},{}", stage.core, stage.other)]);
        command.args(["--main-lcore", &stage.other.to_string(), "--no-pci"]);
        command.args(["-m", &play.source.memory_mb(play.frames).to_string(), "--file-prefix", &prefix]);
        command.args(if stage.hugepages { ["--huge-unlink"].as_slice() } else { &["--no-huge"] });
        command.args(["--vdev", &source, "--vdev", Play::SINK, "--", "--auto-start", "--no-mlockall"]);
        command.arg(format!("--forward-mode={}", mode.name()));
        command.arg(format!("--total-num-mbufs={}", play.source.mbufs(play.frames)));
        // Its main thread sleeps between two reports and needs no standard input. The burst is the router's.
        command.args(["--nb-cores=1", "--burst=32", "--no-flush-rx", "--stats-period=3600"]);
        let mut process = Process::spawn(&stage.run, &prefix, &mut command)?;
        let telemetry = wait_until("testpmd forwards", 4 * PATIENCE, || {
            process.check()?;
            let telemetry = Telemetry::connect(&Telemetry::path(&prefix))?;
            anyhow::ensure!(telemetry.sent(1)? > 0, "nothing sent yet:\n{}", process.tail(10));
            Ok(telemetry)
        })?;
        Ok(Self { name, command: describe(&command), process, telemetry })
    }
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
        self.telemetry.sent(1)
    }
}
