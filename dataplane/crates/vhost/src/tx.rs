//! Frames to the guest: the worker's end of the guest's receive ring.
//!
//! What always holds: a frame is given whole or not at all; the buffers of one frame become visible together (drivers
//! count on it where a frame is spread over several), and the guest is told at the burst's end.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Arc, MutexGuard};

use vm_memory::{Bytes, GuestAddress};

use crate::ring::{CHAIN_MAX, Popped, Ring, SharedRing};

/// Most chains one frame may be spread over: 64 KB in buffers of 512 bytes. With smaller ones the guest only costs us time.
const MERGE_MAX: usize = 128;
/// Most descriptors read for one frame, give or take a chain: without this bound a guest could have 128 chains of 256
/// empty descriptors walked for every frame that is sent to it.
const DESCRIPTORS_MAX: usize = 2 * CHAIN_MAX;
/// The longest virtio-net header: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers.
const HEADER_MAX: usize = 12;

/// What we give the guest, as one worker writes it. May be moved to a thread, but not shared between two.
#[derive(Debug)]
pub struct VhostTx {
    ring: Arc<SharedRing>,
    chains: Vec<Chain>,
    not_sync: PhantomData<Cell<()>>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is in the guest's memory.
    Ok,
    /// The guest has not made enough buffers available; a later burst may find some.
    Full,
    /// It cannot be given to this guest.
    Refused(TxRefused),
    /// No guest is connected and ready, or it is being set up at this moment.
    NotConnected,
}

/// Why a frame for the guest was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TxRefused {
    /// Longer than the guest's buffer, and the guest did not negotiate `VIRTIO_NET_F_MRG_RXBUF`; or no bytes at all.
    Length,
    /// The guest's descriptors loop, are too many or too small, leave the table, are read-only, or name memory that the
    /// guest does not have. They are given back empty.
    Malformed,
    /// The available ring's index jumped: nothing is written to this ring until the guest's driver sets it up again. Said
    /// once; `Full` from then on.
    RingBroken,
}

/// The ring for the length of a burst. Dropping it (or [`TxBurst::flush`]) shows the guest its frames.
#[derive(Debug)]
pub struct TxBurst<'a> {
    ring: Option<MutexGuard<'a, Option<Ring>>>,
    chains: &'a mut Vec<Chain>,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    head: u16,
    length: usize,
}

impl VhostTx {
    pub(crate) fn new(ring: Arc<SharedRing>) -> VhostTx {
        VhostTx { ring, chains: Vec::with_capacity(MERGE_MAX), not_sync: PhantomData }
    }

    /// Begins a burst. Never waits: while the message thread changes the ring, every frame is `NotConnected`. Keep it for
    /// one burst only, since the message thread waits for its end.
    pub fn burst(&mut self) -> TxBurst<'_> {
        TxBurst { ring: self.ring.try_burst().ok(), chains: &mut self.chains }
    }
}

impl TxBurst<'_> {
    /// Copies a frame, gathered from its segments and without virtio-net header, into the guest's buffers.
    pub fn send(&mut self, segments: &[&[u8]]) -> Sent {
        let Some(ring) = self.ring.as_mut().and_then(|guard| guard.as_mut()) else {
            return Sent::NotConnected;
        };
        let frame: usize = segments.iter().map(|segment| segment.len()).sum();
        // The used ring counts bytes in 32 bits.
        let total = frame + ring.header_len;
        if frame == 0 || u32::try_from(total).is_err() {
            return Sent::Refused(TxRefused::Length);
        }
        if let Err(not_sent) = take_buffers(ring, self.chains, total) {
            return not_sent;
        }
        if copy_frame(ring, self.chains.len(), segments).is_none() {
            return give_back_empty(ring, self.chains);
        }
        let mut left = total;
        for chain in self.chains.iter() {
            let written = chain.length.min(left);
            left -= written;
            ring.give_back(chain.head, u32::try_from(written).unwrap_or(u32::MAX));
        }
        Sent::Ok
    }

    /// Ends the burst: shows the guest its frames, and interrupts it once if it wants that. Dropping does the same.
    pub fn flush(self) {}
}

impl Drop for TxBurst<'_> {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.as_mut().and_then(|guard| guard.as_mut()) {
            ring.publish();
        }
    }
}

/// Takes chains until `total` bytes fit: one chain, or several if the guest merges.
fn take_buffers(ring: &mut Ring, chains: &mut Vec<Chain>, total: usize) -> Result<(), Sent> {
    let start = ring.next_available();
    ring.buffers.clear();
    chains.clear();
    let (mut room, mut descriptors) = (0usize, 0usize);
    while room < total {
        match ring.pop() {
            Popped::Empty => {
                ring.put_back(start);
                return Err(Sent::Full);
            }
            Popped::Broken => return Err(Sent::Refused(TxRefused::RingBroken)),
            Popped::Malformed { head } => {
                chains.push(Chain { head, length: 0 });
                return Err(give_back_empty(ring, chains));
            }
            Popped::Chain { head, length, descriptors: read } => {
                chains.push(Chain { head, length });
                room = room.saturating_add(length);
                descriptors += read;
            }
        }
        if room < total && !ring.mergeable {
            // A shorter frame may still fit.
            ring.put_back(start);
            return Err(Sent::Refused(TxRefused::Length));
        }
        if room < total && (chains.len() == MERGE_MAX || descriptors >= DESCRIPTORS_MAX) {
            return Err(give_back_empty(ring, chains));
        }
    }
    Ok(())
}

fn give_back_empty(ring: &mut Ring, chains: &[Chain]) -> Sent {
    for chain in chains {
        ring.give_back(chain.head, 0);
    }
    Sent::Refused(TxRefused::Malformed)
}

/// Writes header and frame into the ring's buffers; `None` if one of them is not in guest memory.
fn copy_frame(ring: &Ring, chains: usize, segments: &[&[u8]]) -> Option<()> {
    let mut header = [0; HEADER_MAX];
    // VIRTIO 1.2, 5.1.6.4.1: num_buffers is the number of chains, or 1 where merging was not negotiated.
    let num_buffers = u16::try_from(chains).ok()?;
    header[HEADER_MAX - 2..].copy_from_slice(&num_buffers.to_le_bytes());

    let memory = ring.memory();
    let mut buffers = ring.buffers.iter();
    let (mut address, mut room) = (0u64, 0usize);
    for source in core::iter::once(&header[..ring.header_len]).chain(segments.iter().copied()) {
        let mut source = source;
        while !source.is_empty() {
            if room == 0 {
                let buffer = buffers.next()?;
                (address, room) = (buffer.address.0, buffer.length);
            }
            let (now, later) = source.split_at(source.len().min(room));
            memory.write_slice(now, GuestAddress(address)).ok()?;
            address = address.checked_add(u64::try_from(now.len()).ok()?)?;
            room -= now.len();
            source = later;
        }
    }
    Some(())
}
