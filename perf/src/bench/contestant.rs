//! Who takes part: a program that forwards the same packets from one port to another, on one core.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use lab::artefacts::Artefacts;
use lab::process::Process;
use lab::run::Run;
use rustix::process::Signal;

use super::Pace;

/// What contestants have in common.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) run: Arc<Run>,
    pub(crate) artefacts: Artefacts,
    /// Those of another build, which has its turn as well.
    pub(crate) beside: Option<Artefacts>,
    /// The measured core, and where everything else of a contestant runs.
    pub(crate) core: usize,
    pub(crate) other: usize,
    pub(crate) hugepages: bool,
    pub(crate) pace: Pace,
}

impl Stage {
    /// The same with the binaries of the other build, if there is one.
    pub(crate) fn beside(&self) -> Option<Self> {
        let artefacts = self.beside.clone()?;
        Some(Self { artefacts, beside: None, ..self.clone() })
    }
}

/// Where packets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Source {
    /// net_pcap with `infinite_rx`: the same driver for all, which touches two buffers a packet.
    Pcap,
    /// Headers copied from warm templates into warm buffers.
    Templates,
}

impl Source {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Templates => "templates",
        }
    }

    /// Buffers that a contestant needs: net_pcap keeps one for each frame of the file.
    pub(crate) const fn mbufs(self, frames: u32) -> u32 {
        match self {
            Self::Pcap => frames + frames / 8 + 16_384,
            Self::Templates => 16_384,
        }
    }

    /// Their memory in MiB, with room for queues and the rest. Without hugepages a buffer takes a page of 4 KiB, since
    /// none may lie across two.
    pub(crate) const fn memory_mb(self, frames: u32) -> u32 {
        self.mbufs(frames) / 1024 * 9 / 2 + 128
    }
}

/// Packets in a file, and how they are played.
#[derive(Debug, Clone)]
pub(crate) struct Play {
    pub(crate) source: Source,
    pub(crate) file: PathBuf,
    pub(crate) frames: u32,
}

impl Play {
    /// The device that is the sink of every contestant: it receives nothing and frees what it is given.
    pub(crate) const SINK: &'static str = "net_null1,size=64,no-rx=1";
}

/// A program under measurement.
pub(crate) trait Contestant {
    fn name(&self) -> &str;

    /// Its command line, for the record.
    fn command(&self) -> &str;

    fn process(&mut self) -> &mut Process;

    /// Packets that have left by the second port, since it began.
    fn sent(&mut self) -> Result<u64>;

    /// Whether what was sent is what should have been; asked once, at the end, while it runs.
    fn verify(&mut self) -> Result<()> {
        Ok(())
    }

    /// Its turn begins: whatever goes on beside the packets starts.
    fn resumed(&mut self) -> Result<()> {
        Ok(())
    }

    /// Its turn ends: whatever went on beside them ends before it is stopped.
    fn pausing(&mut self) -> Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        self.process().check()?;
        self.process().signal(Signal::CONT)?;
        self.resumed()
    }

    fn pause(&mut self) -> Result<()> {
        self.pausing()?;
        self.process().check()?;
        self.process().signal(Signal::STOP)
    }
}
