//! Frames from the guest: the worker's end of the guest's transmit ring.
//!
//! What always holds: a chain that was taken is given back whatever came of it, and the guest is told at the burst's end.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Arc, MutexGuard};

use vm_memory::Bytes;

use crate::ring::{Popped, Ring, SharedRing};

/// Bytes of an Ethernet header: what is shorter is no frame.
const FRAME_MIN: usize = 14;

/// What the guest transmits, as one worker reads it. May be moved to a thread, but not shared between two.
#[derive(Debug)]
pub struct VhostRx {
    ring: Arc<SharedRing>,
    not_sync: PhantomData<Cell<()>>,
}

/// What [`RxBurst::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A frame of so many bytes is in the caller's buffer, from its start; the virtio-net header is taken off.
    Frame(usize),
    /// Nothing more for now: the guest has sent nothing, is not connected, or is being set up.
    Empty,
    /// A frame that cannot be had; it is gone, its descriptors are given back, and the next may follow.
    Refused(RxRefused),
}

/// Why a frame from the guest was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RxRefused {
    /// More bytes than the caller's buffer holds.
    TooLong,
    /// Shorter than the virtio-net header and an Ethernet header.
    TooShort,
    /// Its descriptors loop, are too many, leave the table, are writable, or name memory that the guest does not have.
    Malformed,
    /// The available ring's index jumped: nothing is read from this ring until the guest's driver sets it up again. Said
    /// once.
    RingBroken,
}

/// The ring for the length of a burst. Dropping it (or [`RxBurst::flush`]) gives the guest its descriptors back.
#[derive(Debug)]
pub struct RxBurst<'a> {
    ring: Option<MutexGuard<'a, Option<Ring>>>,
}

impl VhostRx {
    pub(crate) fn new(ring: Arc<SharedRing>) -> VhostRx {
        VhostRx { ring, not_sync: PhantomData }
    }

    /// Begins a burst. Never waits: while the message thread changes the ring, the burst is empty. Keep it for one burst
    /// only, since the message thread waits for its end.
    pub fn burst(&mut self) -> RxBurst<'_> {
        RxBurst { ring: self.ring.try_burst().ok() }
    }

    /// To be called before the worker sleeps: from then on a kick by the guest rings the doorbell given to
    /// [`VhostPort::start`](crate::VhostPort::start), once; and so does a ring that starts. `false` if the worker must not
    /// sleep: frames wait, the message thread is at work, or this guest does not kick. After `true`, look at the doorbell
    /// before sleeping; call again before each sleep.
    pub fn arm_doorbell(&mut self) -> bool {
        match self.ring.try_burst() {
            Ok(mut ring) => ring.as_mut().is_none_or(Ring::arm_kick),
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
    /// Copies the next frame to the start of `out`.
    pub fn receive(&mut self, out: &mut [u8]) -> Received {
        let Some(ring) = self.ring.as_mut().and_then(|guard| guard.as_mut()) else { return Received::Empty };
        ring.buffers.clear();
        match ring.pop() {
            Popped::Empty => Received::Empty,
            Popped::Broken => Received::Refused(RxRefused::RingBroken),
            Popped::Malformed { head } => {
                ring.give_back(head, 0);
                Received::Refused(RxRefused::Malformed)
            }
            Popped::Chain { head, length, .. } => {
                let copied = copy_frame(ring, length, out);
                ring.give_back(head, 0);
                match copied {
                    Ok(length) => Received::Frame(length),
                    Err(refused) => Received::Refused(refused),
                }
            }
        }
    }

    /// Ends the burst: publishes what was read, and interrupts the guest once if it wants that. Dropping does the same.
    pub fn flush(self) {}
}

impl Drop for RxBurst<'_> {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.as_mut().and_then(|guard| guard.as_mut()) {
            ring.publish();
        }
    }
}

/// Copies what follows the header, which may end anywhere in any buffer (VIRTIO 1.2, 2.7.4.1: framing means nothing). The
/// header's content is not read: without offloads negotiated it says nothing.
fn copy_frame(ring: &Ring, length: usize, out: &mut [u8]) -> Result<usize, RxRefused> {
    let frame = match length.checked_sub(ring.header_len) {
        Some(frame) if frame >= FRAME_MIN => frame,
        _ => return Err(RxRefused::TooShort),
    };
    let mut rest = out.get_mut(..frame).ok_or(RxRefused::TooLong)?;
    let mut skip = ring.header_len;
    for buffer in &ring.buffers {
        let skipped = skip.min(buffer.length);
        skip -= skipped;
        let Some((now, later)) = rest.split_at_mut_checked(buffer.length - skipped) else {
            return Err(RxRefused::Malformed);
        };
        rest = later;
        if now.is_empty() {
            continue;
        }
        let offset = u64::try_from(skipped).map_err(|_| RxRefused::Malformed)?;
        let address = buffer.address.0.checked_add(offset).ok_or(RxRefused::Malformed)?;
        ring.memory().read_slice(now, vm_memory::GuestAddress(address)).map_err(|_| RxRefused::Malformed)?;
    }
    Ok(frame)
}
