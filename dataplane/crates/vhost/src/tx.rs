//! Frames to the guest: the worker's end of one of the guest's receive rings.
//!
//! What always holds: a frame is given whole or not at all; all frames of a burst become visible together, and with them all
//! buffers of each (drivers count on it where a frame is spread over several); the guest is told once.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Arc, MutexGuard};

use crate::chains::{BURST, Chain, Chains};
use crate::features::Takes;
use crate::ring::{Ring, SharedRing};
use crate::rx::HEADER_LEN;

/// Most chains one frame may be spread over: 64 KB in buffers of 512 bytes. With smaller ones the guest only costs us time.
const MERGE_MAX: usize = 128;
/// Where in the header the number of chains is.
const NUM_BUFFERS: usize = 10;

/// What we give the guest, as one worker writes it. May be moved to a thread, but not shared between two.
#[derive(Debug)]
pub struct VhostTx {
    ring: Arc<SharedRing>,
    chains: Chains,
    /// Bytes written to each of the first chains.
    written: Vec<u32>,
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
    chains: &'a mut Chains,
    written: &'a mut Vec<u32>,
    broken: bool,
    /// 0 while there is no ring.
    header_len: usize,
}

impl VhostTx {
    pub(crate) fn new(ring: Arc<SharedRing>) -> Self {
        let written = Vec::with_capacity(BURST + MERGE_MAX);
        Self { ring, chains: Chains::new(), written, not_sync: PhantomData }
    }

    /// Whether the guest has set the ring up. It may be that no frame can be sent all the same.
    #[must_use]
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.ring.is_running()
    }

    /// Begins a burst of about so many frames. Never waits: while the message thread changes the ring, every frame is
    /// `NotConnected`. Keep it for one burst only, since the message thread waits for its end.
    #[inline]
    pub fn burst(&mut self, frames: usize) -> TxBurst<'_> {
        let guard = self.ring.try_burst().ok();
        let frames = frames.min(BURST);
        let mut burst = TxBurst {
            ring: guard,
            chains: &mut self.chains,
            written: &mut self.written,
            broken: false,
            header_len: 0,
        };
        if let Some(ring) = burst.ring.as_mut().and_then(|guard| guard.as_mut()) {
            burst.header_len = ring.features.header_len();
            burst.chains.take(ring, frames);
            burst.broken = burst.chains.list().is_empty() && burst.chains.take_broken();
        }
        burst
    }
}

impl TxBurst<'_> {
    /// What the guest takes unfinished; nothing while it is not there.
    #[must_use]
    pub fn takes(&self) -> Takes {
        self.ring
            .as_ref()
            .and_then(|guard| guard.as_ref())
            .map_or(Takes::default(), |ring| ring.features.takes())
    }

    /// Copies a frame that lies in one piece into one buffer, header and frame in one go, as it is with most; `false`, and nothing
    /// done, where it takes a closer look, by [`TxBurst::send`].
    #[inline]
    pub fn send_whole(&mut self, header: [u8; HEADER_LEN], frame: &[u8]) -> bool {
        let Some(place) = self.chains.list().get(self.written.len()).and_then(Chain::plain) else {
            return false;
        };
        // VIRTIO 1.2, 5.1.6.4.1: `num_buffers` is 1 for one chain, merging or not.
        let [h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, ..] = header;
        let words =
            (u64::from_le_bytes([h0, h1, h2, h3, h4, h5, h6, h7]), u32::from_le_bytes([h8, h9, 1, 0]));
        let simple = self.header_len == HEADER_LEN && !frame.is_empty();
        // SAFETY: the ring has been locked since this chain was taken, and keeps its memory mapped.
        let fits = simple && unsafe { place.write_frame(words, frame) };
        if fits {
            // It fits a buffer, whose length has 32 bits.
            self.written.push(u32::try_from(HEADER_LEN + frame.len()).unwrap_or(u32::MAX));
        }
        fits
    }

    /// Copies a frame of `len` bytes, gathered from its pieces, into one buffer or more, behind a virtio-net header, in which `num_buffers` is filled in
    /// here.
    pub fn send<'p>(
        &mut self,
        header: [u8; HEADER_LEN],
        len: usize,
        pieces: impl Iterator<Item = &'p [u8]>,
    ) -> Sent {
        if self.header_len == 0 {
            return Sent::NotConnected;
        }
        if std::mem::take(&mut self.broken) {
            return Sent::Refused(TxRefused::RingBroken);
        }
        // What is used is counted in 32 bits.
        let Some(total) = u32::try_from(len + self.header_len).ok().filter(|_| len > 0) else {
            return Sent::Refused(TxRefused::Length);
        };
        let (mut room, mut count) = (0u32, 0);
        loop {
            let first = self.written.len();
            let Some(chain) = self.chains.list().get(first + count) else {
                match self.take_more() {
                    Taken::More => continue,
                    Taken::Again => {
                        (room, count) = (0, 0);
                        continue;
                    }
                    Taken::Nothing => return Sent::Full,
                    Taken::TooMuch => return self.give_back_empty(count),
                    Taken::Broken => return Sent::Refused(TxRefused::RingBroken),
                }
            };
            count += 1;
            if chain.malformed {
                return self.give_back_empty(count);
            }
            room = room.saturating_add(chain.len);
            if room >= total {
                break;
            }
            if !self
                .ring
                .as_ref()
                .and_then(|guard| guard.as_ref())
                .is_some_and(|ring| ring.features.mergeable())
            {
                // A shorter frame may still fit.
                return Sent::Refused(TxRefused::Length);
            }
            if count == MERGE_MAX {
                return self.give_back_empty(count);
            }
        }
        self.copy(header, count, total, pieces)
    }

    /// Asks the ring for more chains behind those that are there.
    fn take_more(&mut self) -> Taken {
        let Some(ring) = self.ring.as_mut().and_then(|guard| guard.as_mut()) else { return Taken::Nothing };
        if !self.chains.has_room() {
            if self.written.is_empty() && self.chains.is_fresh() {
                return Taken::TooMuch;
            }
            // What is full so far goes first; then those that are not are taken again.
            give_back(ring, self.chains, self.written);
            self.chains.untake(ring);
            return Taken::Again;
        }
        let before = self.chains.list().len();
        match ring.take(before + BURST, self.chains) {
            Ok(()) if self.chains.list().len() > before => Taken::More,
            Ok(()) => Taken::Nothing,
            Err(_) => Taken::Broken,
        }
    }

    fn give_back_empty(&mut self, chains: usize) -> Sent {
        self.written.extend(std::iter::repeat_n(0, chains));
        Sent::Refused(TxRefused::Malformed)
    }

    /// Writes header and frame into the next chains, which hold them.
    #[inline]
    fn copy<'p>(
        &mut self,
        mut header: [u8; HEADER_LEN],
        count: usize,
        total: u32,
        pieces: impl Iterator<Item = &'p [u8]>,
    ) -> Sent {
        // VIRTIO 1.2, 5.1.6.4.1: the number of chains, or 1 where merging was not negotiated.
        header[NUM_BUFFERS] = u8::try_from(count).unwrap_or(u8::MAX);
        let first = self.written.len();
        let chains = &self.chains.list()[first..first + count];
        let mut to = Cursor { batch: self.chains, chains, at: 0 };
        // SAFETY: the ring has been locked since these chains were taken, and keeps its memory mapped.
        unsafe { to.write(&header[..self.header_len]) };
        for piece in pieces {
            // SAFETY: as above.
            unsafe { to.write(piece) };
        }
        let mut left = total;
        for chain in chains {
            let here = chain.len.min(left);
            left -= here;
            self.written.push(here);
        }
        Sent::Ok
    }

    /// Ends the burst: shows the guest its frames, and interrupts it once if it wants that. Dropping does the same.
    pub fn flush(self) {}
}

/// Where in some chains the next byte goes.
struct Cursor<'c> {
    batch: &'c Chains,
    chains: &'c [Chain],
    at: usize,
}

impl Cursor<'_> {
    /// Writes all of `bytes`, for which there is room, from one chain on into the next.
    ///
    /// # Safety
    /// As for [`Chains::write`].
    #[inline]
    unsafe fn write(&mut self, mut bytes: &[u8]) {
        while let [chain, later @ ..] = self.chains {
            // SAFETY: the caller's promise.
            let rest = unsafe { self.batch.write(chain, self.at, bytes) };
            self.at += bytes.len() - rest.len();
            if rest.is_empty() {
                return;
            }
            bytes = rest;
            (self.chains, self.at) = (later, 0);
        }
    }
}

enum Taken {
    More,
    /// What there was is to be looked at anew.
    Again,
    Nothing,
    /// As many descriptors as one frame may cost have been read.
    TooMuch,
    Broken,
}

/// Gives back what has been written.
fn give_back(ring: &mut Ring, chains: &mut Chains, written: &mut Vec<u32>) {
    let used = &chains.list()[..written.len().min(chains.list().len())];
    if !used.is_empty() {
        ring.give_back(used.iter().copied().zip(written.iter().copied()));
    }
    chains.drop_front(written.len());
    written.clear();
}

impl Drop for TxBurst<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(ring) = self.ring.as_mut().and_then(|guard| guard.as_mut()) {
            give_back(ring, self.chains, self.written);
            self.chains.take(ring, BURST);
        }
    }
}
