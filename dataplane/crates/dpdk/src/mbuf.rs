//! A packet buffer, owned.
//!
//! What always holds: an [`Mbuf`] is the only reference to its chain, whose segments each have a reference count of
//! one, and dropping it gives every segment back. Every byte of a segment's buffer is initialised memory: DPDK
//! maps it, the kernel hands out zeroed pages, and devices write it from outside the program. A buffer may hold an
//! earlier packet's bytes, never undefined ones; so a length may grow over bytes nobody wrote for this packet.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::slice;

use dpdk_sys as sys;

use crate::segments::{Segments, SegmentsMut};

/// A packet buffer or a chain of them. The size of a pointer; dropping it frees the whole chain, by a call into C:
/// on a packet's path leave that to [`crate::Burst`], which frees all at once.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: it is the chain's only reference, and pools take mbufs back from any thread.
unsafe impl Send for Mbuf {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for Mbuf {}

/// The pointers of an array of mbufs, as DPDK's calls take them.
pub(crate) fn as_raw(mbufs: &mut [MaybeUninit<Mbuf>]) -> *mut *mut sys::rte_mbuf {
    // `Mbuf` and `MaybeUninit` are transparent: the array is one of pointers.
    mbufs.as_mut_ptr().cast()
}

/// A segment's bytes.
pub(crate) fn bytes(segment: &sys::rte_mbuf) -> &[u8] {
    let start = segment.buf_addr.cast::<u8>().cast_const().wrapping_add(usize::from(segment.data_off));
    // SAFETY: `data_off + data_len` lies within the segment's buffer, which only this chain's owner uses, and whose
    // bytes are all initialised (see the head of this file).
    unsafe { slice::from_raw_parts(start, usize::from(segment.data_len)) }
}

/// A segment's bytes, to be written.
pub(crate) fn bytes_mut(segment: &mut sys::rte_mbuf) -> &mut [u8] {
    let start = segment.buf_addr.cast::<u8>().wrapping_add(usize::from(segment.data_off));
    // SAFETY: as in `bytes`, and the segment is borrowed exclusively.
    unsafe { slice::from_raw_parts_mut(start, usize::from(segment.data_len)) }
}

fn tailroom_of(segment: &sys::rte_mbuf) -> usize {
    usize::from(segment.buf_len)
        .saturating_sub(usize::from(segment.data_off))
        .saturating_sub(usize::from(segment.data_len))
}

/// DPDK's lengths are 16 and 32 bits; ours were compared with them before.
fn narrow(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl Mbuf {
    /// # Safety
    /// `raw` is the head of a chain that nothing else refers to.
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    pub(crate) fn head(&self) -> &sys::rte_mbuf {
        // SAFETY: the mbuf is ours, and its pool's memory stays mapped.
        unsafe { self.0.as_ref() }
    }

    pub(crate) fn head_mut(&mut self) -> &mut sys::rte_mbuf {
        // SAFETY: the mbuf is ours alone, and its pool's memory stays mapped.
        unsafe { self.0.as_mut() }
    }

    /// The first segment's bytes.
    #[must_use]
    #[inline]
    pub fn data(&self) -> &[u8] {
        bytes(self.head())
    }

    /// The first segment's bytes, to be written.
    #[must_use]
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        bytes_mut(self.head_mut())
    }

    /// Bytes in the whole chain.
    #[must_use]
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::try_from(self.head().pkt_len).unwrap_or(usize::MAX)
    }

    /// How many segments the chain has, at least one.
    #[must_use]
    #[inline]
    pub fn segment_count(&self) -> usize {
        usize::from(self.head().nb_segs)
    }

    /// The bytes of each segment, in order.
    #[must_use]
    pub fn segments(&self) -> Segments<'_> {
        Segments::new(self.head())
    }

    /// The bytes of each segment, to be written.
    #[must_use]
    pub fn segments_mut(&mut self) -> SegmentsMut<'_> {
        SegmentsMut::new(self.head_mut())
    }

    /// Unused bytes before the first segment's data.
    #[must_use]
    #[inline]
    pub fn headroom(&self) -> usize {
        self.head().data_off.into()
    }

    /// Unused bytes after the first segment's data.
    #[must_use]
    #[inline]
    pub fn tailroom(&self) -> usize {
        tailroom_of(self.head())
    }

    /// Lengthens the packet by `n` bytes at its end, in its last segment, and returns them: whatever an earlier
    /// packet left there. None if they do not fit.
    #[must_use]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let total = self.total_len();
        let mut last = self.0;
        // SAFETY: the segments of our chain are ours alone.
        while let Some(next) = NonNull::new(unsafe { last.as_ref() }.next) {
            last = next;
        }
        {
            // SAFETY: as above; the reference ends before the next is made.
            let segment = unsafe { last.as_mut() };
            if n > tailroom_of(segment) {
                return None;
            }
            segment.data_len += narrow(n);
        }
        self.head_mut().pkt_len = len32(total + n);
        // SAFETY: as above, for as long as `self` is borrowed.
        let data = bytes_mut(unsafe { last.as_mut() });
        let old = data.len() - n;
        Some(&mut data[old..])
    }

    /// Lengthens the packet by `n` bytes at its front, out of the headroom, and returns them: whatever was left
    /// there. None if they do not fit.
    #[must_use]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let head = self.head_mut();
        if n > usize::from(head.data_off) {
            return None;
        }
        // Both lie within one buffer, whose length has 16 bits.
        let len = usize::from(head.data_len) + n;
        head.data_off -= narrow(n);
        head.data_len = narrow(len);
        head.pkt_len += len32(n);
        Some(&mut bytes_mut(head)[..n])
    }

    /// Takes `n` bytes off the packet's front; false, and nothing changed, if the first segment has fewer.
    #[must_use]
    pub fn adj(&mut self, n: usize) -> bool {
        let head = self.head_mut();
        if n > usize::from(head.data_len) {
            return false;
        }
        head.data_off += narrow(n);
        head.data_len -= narrow(n);
        head.pkt_len -= len32(n);
        true
    }

    /// Shortens the packet to `total_len` bytes, and frees segments no longer needed. A packet that is no longer
    /// than that stays as it is.
    pub fn truncate(&mut self, total_len: usize) {
        if total_len >= self.total_len() {
            return;
        }
        let mut left = total_len;
        let mut kept = 1;
        let mut segment = self.0;
        let tail = loop {
            // SAFETY: the segments of our chain are ours alone; the reference ends with this turn.
            let this = unsafe { segment.as_mut() };
            if left <= usize::from(this.data_len) {
                this.data_len = narrow(left);
                break std::mem::replace(&mut this.next, std::ptr::null_mut());
            }
            left -= usize::from(this.data_len);
            match NonNull::new(this.next) {
                Some(next) => segment = next,
                // The segments hold less than the chain's length said: all of them are kept.
                None => return,
            }
            kept += 1;
        };
        let head = self.head_mut();
        head.nb_segs = kept;
        head.pkt_len = len32(total_len);
        if let Some(tail) = NonNull::new(tail) {
            // SAFETY: just cut off our chain, so nothing else refers to it.
            drop(unsafe { Self::from_raw(tail) });
        }
    }

    /// Makes the first segment's data `n` bytes long, shorter or longer; false, and nothing changed, if its buffer
    /// ends before. Bytes it grows over hold whatever was there: initialised memory, and the caller's to fill.
    #[must_use]
    pub fn set_data_len(&mut self, n: usize) -> bool {
        let head = self.head_mut();
        if n > usize::from(head.buf_len).saturating_sub(usize::from(head.data_off)) {
            return false;
        }
        head.pkt_len = head.pkt_len - u32::from(head.data_len) + len32(n);
        head.data_len = narrow(n);
        true
    }

    /// Puts `tail` behind this packet's last segment; gives it back if the chain would grow too long.
    ///
    /// # Errors
    /// `tail`, unchanged.
    pub fn chain(&mut self, tail: Self) -> Result<(), Self> {
        let segments = self.head().nb_segs.checked_add(tail.head().nb_segs);
        let len = self.head().pkt_len.checked_add(tail.head().pkt_len);
        let (Some(segments), Some(len)) = (segments, len) else { return Err(tail) };
        let mut last = self.0;
        // SAFETY: the segments of our chain are ours alone.
        while let Some(next) = NonNull::new(unsafe { last.as_ref() }.next) {
            last = next;
        }
        // SAFETY: as above.
        unsafe { last.as_mut() }.next = tail.into_raw().as_ptr();
        let head = self.head_mut();
        head.nb_segs = segments;
        head.pkt_len = len;
        Ok(())
    }

    /// Makes it as `alloc` gives it: one segment, no data, full headroom, no flags. The rest of a chain is freed.
    pub fn reset(&mut self) {
        let head = self.head_mut();
        let tail = std::mem::replace(&mut head.next, std::ptr::null_mut());
        head.nb_segs = 1;
        head.pkt_len = 0;
        head.data_len = 0;
        head.data_off = crate::PoolConfig::HEADROOM.min(head.buf_len);
        head.port = u16::MAX;
        head.packet_type = 0;
        head.vlan_tci = 0;
        head.vlan_tci_outer = 0;
        head.tx_offload = 0;
        // What says whose buffer it is stays.
        head.ol_flags &= sys::DPDK_SHIM_MBUF_INDIRECT | sys::DPDK_SHIM_MBUF_EXTERNAL;
        if let Some(tail) = NonNull::new(tail) {
            // SAFETY: just cut off our chain, so nothing else refers to it.
            drop(unsafe { Self::from_raw(tail) });
        }
    }

    /// The port it came from; `u16::MAX` if it was allocated here.
    #[must_use]
    #[inline]
    pub fn port(&self) -> u16 {
        self.head().port
    }

    /// Appends the whole packet to `out`.
    pub fn copy_into(&self, out: &mut Vec<u8>) {
        out.reserve(self.total_len());
        for segment in self.segments() {
            out.extend_from_slice(segment);
        }
    }

    /// Copies as much of the packet as `out` has room for, from its start; returns how many bytes.
    pub fn copy_to_slice(&self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for segment in self.segments() {
            let rest = &mut out[done..];
            let n = segment.len().min(rest.len());
            rest[..n].copy_from_slice(&segment[..n]);
            done += n;
        }
        done
    }

    fn into_raw(self) -> NonNull<sys::rte_mbuf> {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        let mut raw = self.0.as_ptr();
        // SAFETY: the chain is ours alone, and not used after this.
        unsafe { sys::rte_pktmbuf_free_bulk(&raw mut raw, 1) };
    }
}

impl std::fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mbuf")
            .field("total_len", &self.total_len())
            .field("segments", &self.segment_count())
            .finish()
    }
}
