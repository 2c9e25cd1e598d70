//! One file a kind of port, one enum over them: a match a burst costs nothing beside the burst.
//!
//! A port gives whole frames with what is left to finish ([`Offload`]), and takes the same. What its output cannot take
//! as it is, [`finish`] finishes or cuts up. A port never blocks and never keeps what it refused.

mod ethdev;
pub(crate) mod finish;
mod memory;
mod staged;
mod tap;
mod vhost;
mod vnet;

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use dpdk::{Burst, Mbuf};
use pipeline::{BURST, DropReason, Offload, Packet};
use tables::PortId;

pub(crate) use self::{
    ethdev::Ethdev, ethdev::LinkUp, memory::Memory, staged::Staged, tap::TapPort, vhost::Vhost,
};
use crate::frame::{Frame, LARGE_ROOM, Pools};
use crate::limits::Excess;

/// Buffers for one read of a TAP: 64 KiB of IP packet and the Ethernet header take five.
const CHAIN: usize = 5;

/// Packets of a burst.
pub(crate) type Packets = ArrayVec<Packet<Frame>, BURST>;

/// A burst on its way in, of at most [`BURST`]: frames with nothing left to finish, as DPDK gives them, or packets. One of the two
/// is empty.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) frames: Burst,
    pub(crate) packets: Packets,
}

impl Received {
    /// Frames that there is room for.
    pub(crate) const fn room(&self) -> usize {
        BURST.saturating_sub(self.frames.len())
    }

    /// How many.
    pub(crate) const fn len(&self) -> usize {
        self.frames.len() + self.packets.len()
    }

    /// Bytes of each, in order.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> + Clone {
        // One of the two is empty.
        let packets = self.packets.iter().map(|packet| packet.buffer.0.total_len());
        self.frames.iter().map(Mbuf::total_len).chain(packets)
    }

    /// Frees all but the first `most`, together; gives what they were.
    pub(crate) fn truncate(&mut self, most: usize) -> Excess {
        let (mut excess, mut cut) = (Excess::default(), Burst::new());
        while self.len() > most {
            let last = self.frames.pop().or_else(|| self.packets.pop().map(|packet| packet.buffer.0));
            let Some(mbuf) = last else { break };
            excess.packets += 1;
            excess.bytes += mbuf.total_len() as u64;
            // There is room for all that are received at once.
            drop(cut.push(mbuf));
        }
        excess
    }

    /// Makes packets of the frames, which came by this port.
    pub(crate) fn unfold(&mut self, in_port: PortId) -> &mut Packets {
        for mbuf in self.frames.drain() {
            self.packets.push(Packet { buffer: Frame(mbuf), in_port, offload: Offload::Done });
        }
        &mut self.packets
    }
}

/// What a worker lends to its ports.
pub(crate) struct Tools {
    pub(crate) pools: Pools,
    /// Room for one large segment in one piece.
    scratch: Vec<u8>,
    /// Empty buffers for the next read of any TAP, each as long as it can be.
    chain: ArrayVec<Mbuf, CHAIN>,
}

impl Tools {
    pub(crate) fn new(pools: Pools) -> Self {
        Self { pools, scratch: Vec::with_capacity(CHAIN * usize::from(LARGE_ROOM)), chain: ArrayVec::new() }
    }

    /// Fills the chain for the next read; `false` while no buffer is free, and then frames wait in the kernel.
    fn refill(&mut self) -> bool {
        while !self.chain.is_full() {
            let Some(mut mbuf) = self.pools.large.alloc() else { return false };
            let room = mbuf.tailroom().min(usize::from(LARGE_ROOM));
            if mbuf.append(room).is_none() {
                return false;
            }
            // The front is read into first, so the buffer that was freed last, and is warm, belongs there.
            self.chain.insert(0, mbuf);
        }
        true
    }

    /// Makes a frame of the first `length` bytes read.
    fn take(&mut self, length: usize) -> Option<Frame> {
        if length == 0 {
            return None;
        }
        let mut head = self.chain.pop_at(0)?;
        let mut left = length.saturating_sub(head.data().len());
        head.truncate(length);
        while left > 0 {
            let Some(mut tail) = self.chain.pop_at(0) else { break };
            let here = tail.data().len().min(left);
            tail.truncate(here);
            left -= here;
            head.chain(tail).ok()?;
        }
        Some(Frame(head))
    }
}

/// What became of a staged burst.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Frames that left.
    pub(crate) packets: u64,
    /// Their bytes, without FCS.
    pub(crate) bytes: u64,
    /// Frames made beyond those staged, by cutting up large segments.
    pub(crate) split_extra: u64,
    /// Frames refused, by reason; at most a few reasons a burst.
    pub(crate) refused: ArrayVec<(DropReason, u64), 8>,
}

impl Sent {
    pub(crate) fn refuse(&mut self, reason: DropReason, n: u64) {
        if n == 0 {
            return;
        }
        if let Some(entry) = self.refused.iter_mut().find(|(have, _)| *have == reason) {
            entry.1 += n;
        } else if self.refused.try_push((reason, n)).is_err() {
            // Eight reasons in one burst: the ledger matters more than the name of the ninth.
            self.refused[0].1 += n;
        }
    }
}

/// The device behind a port, owned by one worker.
pub(crate) enum Device {
    Ethdev(Ethdev),
    Vhost(Vhost),
    Tap(TapPort),
    Memory(Memory),
    /// A tunnel has none: what is sent by it leaves by its uplink, which also receives for it.
    Tunnel,
}

impl Device {
    /// Takes what has arrived, up to a burst; `into` is empty before. `refused` is told of each frame that was received but is
    /// no packet.
    pub(crate) fn receive(
        &mut self,
        id: PortId,
        tools: &mut Tools,
        into: &mut Received,
        refused: &mut dyn FnMut(DropReason),
    ) {
        match self {
            Self::Ethdev(port) => port.receive(id, tools, into, refused),
            Self::Vhost(port) => port.receive(id, tools, into, refused),
            Self::Tap(port) => port.receive(id, tools, &mut into.packets, refused),
            Self::Memory(port) => port.receive(tools, into),
            Self::Tunnel => {}
        }
    }

    /// Whether nothing is received before the tables say what the port is for. True of a memory port: what it plays is
    /// there only once, so that it begins when somebody listens.
    pub(crate) fn waits_for_role(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// Whether frames may be sent by it now; if not, they are for another worker's queue of the same port, or for nobody.
    #[inline]
    pub(crate) fn can_send(&self) -> bool {
        match self {
            Self::Vhost(port) => port.can_send(),
            Self::Ethdev(_) | Self::Tap(_) | Self::Memory(_) | Self::Tunnel => true,
        }
    }

    /// Sends all that is staged, or says why not; `staged` is empty afterwards.
    pub(crate) fn send(&mut self, tools: &mut Tools, staged: &mut Staged) -> Sent {
        let mut sent = Sent::default();
        match self {
            Self::Ethdev(port) => port.send(tools, staged, &mut sent),
            Self::Vhost(port) => port.send(tools, staged, &mut sent),
            Self::Tap(port) => port.send(tools, staged, &mut sent),
            Self::Memory(port) => port.send(tools, staged, &mut sent),
            // The worker's own business.
            Self::Tunnel => sent.refuse(DropReason::PortIdle, staged.drain().count() as u64),
        }
        sent
    }

    /// What a sleeping worker waits on, for devices that have such a thing.
    pub(crate) fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tap(port) => Some(port.fd()),
            Self::Ethdev(_) | Self::Vhost(_) | Self::Memory(_) | Self::Tunnel => None,
        }
    }
}
