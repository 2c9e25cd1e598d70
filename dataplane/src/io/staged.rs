//! What waits to go out by one port, in order.
//!
//! Frames with nothing left to finish, which most are, lie as DPDK's calls take them. From the first one on that is otherwise, frames
//! wait behind it with what is left to finish.

use arrayvec::ArrayVec;
use dpdk::{Burst, Mbuf};
use pipeline::{Offload, Packet};
use tables::PortId;

use crate::frame::Frame;

/// A burst on its way out: as many frames as a [`Burst`] holds.
#[derive(Default)]
pub(crate) struct Staged {
    finished: Burst,
    /// Bytes of the finished ones.
    bytes: u64,
    others: ArrayVec<Packet<Frame>, { Burst::CAPACITY }>,
}

impl Staged {
    pub(crate) const fn is_empty(&self) -> bool {
        self.finished.is_empty() && self.others.is_empty()
    }

    pub(crate) const fn len(&self) -> usize {
        self.finished.len() + self.others.len()
    }

    /// Whether it is to be sent before another frame comes.
    #[inline]
    pub(crate) const fn is_full(&self) -> bool {
        self.len() >= Burst::CAPACITY
    }

    /// Puts a frame of `len` bytes at the end, for which there is room.
    #[inline]
    pub(crate) fn push(&mut self, packet: Packet<Frame>, len: usize) {
        if packet.offload == Offload::Done && self.others.is_empty() {
            self.bytes += len as u64;
            // There is room: a frame that is given back would be freed by its own drop.
            drop(self.finished.push(packet.buffer.0));
        } else {
            self.others.push(packet);
        }
    }

    /// Puts finished frames of `bytes` in all at the end, if there is room for all of them and none waits that is not finished.
    #[inline]
    pub(crate) fn append(&mut self, frames: &mut Burst, bytes: usize) -> bool {
        let fits = self.others.is_empty() && self.finished.len() + frames.len() <= Burst::CAPACITY;
        if fits {
            self.bytes += bytes as u64;
            self.finished.append(frames);
        }
        fits
    }

    /// Bytes of each, in order.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> + Clone {
        let others = self.others.iter().map(|packet| packet.buffer.0.total_len());
        self.finished.iter().map(Mbuf::total_len).chain(others)
    }

    /// Frees all but the first `most`, together; gives how many those were.
    pub(crate) fn truncate(&mut self, most: usize) -> u64 {
        let mut cut = Burst::new();
        while self.len() > most {
            // Those with something left to finish are the last.
            let mbuf = match self.others.pop() {
                Some(packet) => packet.buffer.0,
                None => {
                    let Some(mbuf) = self.finished.pop() else { break };
                    self.bytes -= mbuf.total_len() as u64;
                    mbuf
                }
            };
            // There is room: both together hold no more than one burst.
            drop(cut.push(mbuf));
        }
        cut.len() as u64
    }

    /// The finished ones in front, and their bytes, for ports that take them as they are. What is left in the burst stays.
    pub(crate) fn finished(&mut self) -> (&mut Burst, u64) {
        (&mut self.finished, std::mem::take(&mut self.bytes))
    }

    /// All of them. Where a frame came from matters no more.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Packet<Frame>> {
        self.bytes = 0;
        let packet = |mbuf: Mbuf| Packet { buffer: Frame(mbuf), in_port: PortId(0), offload: Offload::Done };
        self.finished.drain().map(packet).chain(self.others.drain(..))
    }
}
