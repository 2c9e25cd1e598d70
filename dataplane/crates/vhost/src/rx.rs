//! Frames from the guest: the worker's end of one of the guest's transmit rings.
//!
//! What always holds: all that a burst took is given back at its end, whatever came of it, and the guest is told once.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Arc, MutexGuard};

use crate::chains::{BURST, Chain, Chains};
use crate::ring::{Ring, SharedRing};

/// Bytes of an Ethernet header: what is shorter is no frame.
const FRAME_MIN: usize = 14;

/// Bytes of a virtio-net header; a shorter one reads as if zeros followed.
pub const HEADER_LEN: usize = 12;

/// What the guest transmits, as one worker reads it. May be moved to a thread, but not shared between two.
#[derive(Debug)]
pub struct VhostRx {
    ring: Arc<SharedRing>,
    chains: Chains,
    not_sync: PhantomData<Cell<()>>,
}

/// Why a frame from the guest was refused. Its descriptors are given back, and others may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RxRefused {
    /// Shorter than the virtio-net header and an Ethernet header.
    TooShort,
    /// Its descriptors loop, are too many, leave the table, are writable, or name memory that the guest does not have.
    Malformed,
}

/// What the guest sent, for the length of a burst. Dropping it gives the guest its descriptors back.
#[derive(Debug)]
pub struct RxBurst<'a> {
    ring: Option<MutexGuard<'a, Option<Ring>>>,
    chains: &'a mut Chains,
    /// How many of the chains are the burst's; others were taken ahead.
    frames: usize,
    header_len: usize,
    broken: bool,
}

/// One frame, in the guest's memory still. The guest may change it until it is copied, so it is to be judged after that.
#[derive(Debug)]
pub struct RxFrame<'b> {
    chains: &'b Chains,
    chain: &'b Chain,
    header_len: usize,
}

impl VhostRx {
    pub(crate) fn new(ring: Arc<SharedRing>) -> Self {
        Self { ring, chains: Chains::new(), not_sync: PhantomData }
    }

    /// Takes what is there, at most so many frames. Never waits: while the message thread changes the ring, the burst is empty.
    /// Keep it for one burst only, since the message thread waits for its end.
    #[inline]
    pub fn burst(&mut self, most: usize) -> RxBurst<'_> {
        let chains = &mut self.chains;
        let guard = if self.ring.is_running() { self.ring.try_burst().ok() } else { None };
        let mut burst = RxBurst { ring: guard, chains, frames: 0, header_len: 0, broken: false };
        if let Some(ring) = burst.ring.as_mut().and_then(|guard| guard.as_mut()) {
            burst.header_len = ring.features.header_len();
            burst.chains.take(ring, most);
            burst.frames = burst.chains.list().len().min(most);
            burst.broken = burst.frames == 0 && burst.chains.take_broken();
        }
        burst
    }

    /// To be called before the worker sleeps: from then on a kick by the guest rings the doorbell given to
    /// [`VhostPort::start`](crate::VhostPort::start), once; and so does a ring that starts. `false` if the worker must not
    /// sleep: frames wait, the message thread is at work, or this guest does not kick. After `true`, look at the doorbell
    /// before sleeping; call again before each sleep.
    pub fn arm_doorbell(&mut self) -> bool {
        match self.ring.try_burst() {
            Ok(mut ring) => ring.as_mut().is_none_or(|ring| !self.chains.are_ahead(ring) && ring.arm_kick()),
            Err(_) => false,
        }
    }

    /// To be called when the worker polls again: the guest need not kick, which spares it a system call a burst.
    pub fn disarm_doorbell(&mut self) {
        if let Ok(mut ring) = self.ring.try_burst()
            && let Some(ring) = ring.as_mut()
        {
            ring.disarm_kick();
        }
    }
}

impl RxBurst<'_> {
    /// How many frames there are, those among them that will be refused.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.frames
    }

    /// There is none: the guest has sent nothing, is not connected, or is being set up.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// The available ring's index has jumped: nothing is read from this ring until the guest's driver sets it up again.
    /// Said once, of a burst without frames.
    #[must_use]
    #[inline]
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// The frames, in the order in which the guest sent them.
    #[inline]
    pub fn frames(&self) -> impl Iterator<Item = Result<RxFrame<'_>, RxRefused>> {
        self.chains().iter().map(|chain| {
            if chain.malformed {
                return Err(RxRefused::Malformed);
            }
            if (chain.len as usize) < self.header_len + FRAME_MIN {
                return Err(RxRefused::TooShort);
            }
            Ok(RxFrame { chains: self.chains, chain, header_len: self.header_len })
        })
    }

    #[inline]
    fn chains(&self) -> &[Chain] {
        &self.chains.list()[..self.frames]
    }

    /// Ends the burst: gives all back, and interrupts the guest once if it wants that. Dropping does the same.
    pub fn flush(self) {}
}

impl RxFrame<'_> {
    /// Bytes of the frame, without the virtio-net header; at least those of an Ethernet header.
    #[must_use]
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "no frame is empty")]
    pub const fn len(&self) -> usize {
        self.chain.len as usize - self.header_len
    }

    /// The virtio-net header before it (VIRTIO 1.2, 5.1.6).
    #[must_use]
    #[inline]
    pub fn header(&self) -> [u8; HEADER_LEN] {
        if self.header_len == HEADER_LEN {
            // SAFETY: as in `read`.
            if let Some(header) = unsafe { self.chain.front.read_header() } {
                return header;
            }
        }
        let mut header = [0; HEADER_LEN];
        self.read(0, &mut header[..self.header_len]);
        header
    }

    /// Copies what is `at` bytes behind the frame's first, as much as `out` holds; `false` if the frame ends before that. A
    /// frame may be spread over any number of buffers in any way (2.7.4.1: framing means nothing).
    #[inline]
    pub fn copy(&self, at: usize, out: &mut [u8]) -> bool {
        self.read(self.header_len + at, out)
    }

    #[inline]
    fn read(&self, at: usize, out: &mut [u8]) -> bool {
        // SAFETY: the burst that this is borrowed from has had the ring locked since its chains were taken, and the ring keeps
        // its memory mapped.
        unsafe { self.chains.read(self.chain, at, out) }
    }
}

impl Drop for RxBurst<'_> {
    #[inline]
    fn drop(&mut self) {
        let frames = self.frames;
        if let Some(ring) = self.ring.as_mut().and_then(|guard| guard.as_mut())
            && frames > 0
        {
            ring.give_back(self.chains.list()[..frames].iter().map(|chain| (*chain, 0)));
            self.chains.drop_front(frames);
            self.chains.take(ring, BURST);
        }
    }
}
