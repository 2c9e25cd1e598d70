//! From the worker that decides to the worker that owns the output port: one ring a worker, one atomic operation a burst.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use arrayvec::ArrayVec;
use crossbeam::channel::Sender;
use crossbeam::queue::{ArrayQueue, SegQueue};
use pipeline::{BURST, Learned, NeighbourRow, Output, Packet, Tick};
use tables::{MAX_PORTS, PortId};

use crate::counters::WorkerCounters;
use crate::doorbell::Doorbell;
use crate::frame::Frame;
use crate::io::Device;
use crate::limits::PortLimits;
use crate::worker::Slot;

/// A packet that has been decided.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) packet: Packet<Frame>,
    pub(crate) output: Output,
}

/// A burst for another worker.
pub(crate) type Batch = ArrayVec<Handed, BURST>;

/// Bursts that may wait for a worker.
const INBOX: usize = 128;

/// News of neighbours that may wait for a worker. What is lost is asked again, a second later.
const HEARD: usize = 256;

/// What a worker is told by the thread that has the sockets.
pub(crate) enum Command {
    /// Serve this port from now on.
    AddPort(Box<Slot>),
    /// Give it back; what waits for it is dropped by name.
    RemovePort(PortId, Sender<Box<Slot>>),
    /// Serve this port by this device from now on, and give the old one back.
    ReplaceDevice(PortId, Box<Device>, Sender<Device>),
    /// Keep to these limits, if they are others, and this MTU from now on.
    AdjustPort(PortId, Option<PortLimits>, u16),
    /// Tell of the neighbours.
    Neighbours(Sender<(Tick, Vec<NeighbourRow>)>),
}

/// Poll workers own DPDK and vhost queues; kernel workers own TAPs and sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Poll,
    Kernel,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Kernel => "kernel",
        }
    }
}

/// What others see of a worker.
pub(crate) struct WorkerShared {
    pub(crate) id: u16,
    pub(crate) kind: Kind,
    pub(crate) core: Option<usize>,
    /// Written by the worker.
    pub(crate) counters: WorkerCounters,
    /// Pushed by all other workers, popped by this one.
    pub(crate) inbox: ArrayQueue<Batch>,
    /// Of neighbours on ports that this worker owns. Pushed by workers with other queues of the port, popped by this one.
    pub(crate) heard: ArrayQueue<Learned>,
    /// Pushed by the socket's threads, popped by this one. Ports come and go rarely: this queue may allocate.
    pub(crate) commands: SegQueue<Command>,
    pub(crate) doorbell: Arc<Doorbell>,
    /// Written once, by the main thread.
    pub(crate) stop: AtomicBool,
}

impl WorkerShared {
    pub(crate) fn new(id: u16, kind: Kind, core: Option<usize>) -> std::io::Result<Self> {
        Ok(Self {
            id,
            kind,
            core,
            counters: WorkerCounters::new(),
            inbox: ArrayQueue::new(INBOX),
            heard: ArrayQueue::new(HEARD),
            commands: SegQueue::new(),
            doorbell: Arc::new(Doorbell::new()?),
            stop: AtomicBool::new(false),
        })
    }

    pub(crate) fn command(&self, command: Command) {
        self.commands.push(command);
        self.doorbell.ring();
    }

    /// Nothing waits for the worker.
    pub(crate) fn is_quiet(&self) -> bool {
        self.inbox.is_empty()
            && self.heard.is_empty()
            && self.commands.is_empty()
            && !self.stop.load(Ordering::Relaxed)
    }
}

/// Which worker owns a port, by port id. Written by the socket's threads before the tables name the port and after they
/// have ceased to; read by every worker.
#[derive(Debug)]
pub(crate) struct PortOwners(Box<[AtomicU16]>);

const NOBODY: u16 = u16::MAX;

impl PortOwners {
    pub(crate) fn new() -> Self {
        Self((0..MAX_PORTS).map(|_| AtomicU16::new(NOBODY)).collect())
    }

    pub(crate) fn get(&self, port: PortId) -> Option<u16> {
        // Relaxed is enough: the generation that first names a port is published after `set`, with Release.
        self.0.get(usize::from(port.0)).map(|owner| owner.load(Ordering::Relaxed)).filter(|&w| w != NOBODY)
    }

    pub(crate) fn set(&self, port: PortId, worker: Option<u16>) {
        if let Some(owner) = self.0.get(usize::from(port.0)) {
            owner.store(worker.unwrap_or(NOBODY), Ordering::Relaxed);
        }
    }
}
