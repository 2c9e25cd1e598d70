//! Up to 64 mbufs in a row, as DPDK's calls take and give them.
//!
//! What always holds: the first `len` places hold mbufs that the burst owns, the others nothing. What is dropped
//! or cleared is freed in one call.

use std::mem::MaybeUninit;
use std::slice;

use dpdk_sys as sys;

use crate::mbuf::{Mbuf, as_raw};

/// A burst of packets.
pub struct Burst {
    places: [MaybeUninit<Mbuf>; Self::CAPACITY],
    len: usize,
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

/// # Safety
/// Each place holds an mbuf, and none of them is read again.
unsafe fn free(mbufs: &mut [MaybeUninit<Mbuf>]) {
    if mbufs.is_empty() {
        return;
    }
    let count = u32::try_from(mbufs.len()).unwrap_or(0);
    // SAFETY: the caller's promise; each mbuf is its chain's only reference.
    unsafe { sys::rte_pktmbuf_free_bulk(as_raw(mbufs), count) };
}

impl Burst {
    /// The most a burst holds.
    pub const CAPACITY: usize = 64;

    /// An empty burst.
    #[must_use]
    pub const fn new() -> Self {
        Self { places: [const { MaybeUninit::uninit() }; Self::CAPACITY], len: 0 }
    }

    /// How many mbufs it holds.
    #[must_use]
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// None.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As many as it can hold.
    #[must_use]
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.len == Self::CAPACITY
    }

    /// Puts an mbuf at the end.
    ///
    /// # Errors
    /// The mbuf, if the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.places.get_mut(self.len) {
            Some(place) => {
                place.write(mbuf);
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// Puts mbufs at the end, as many as fit; those beyond are freed.
    #[inline]
    pub fn extend(&mut self, mbufs: impl Iterator<Item = Mbuf>) {
        // The length is kept in a register meanwhile: it is right again before anything else can look at it, and a panic of the
        // iterator would leak mbufs, not free them twice.
        let mut len = self.len;
        for mbuf in mbufs {
            if let Some(place) = self.places.get_mut(len) {
                place.write(mbuf);
                len += 1;
            }
        }
        self.len = len;
    }

    /// Takes the last mbuf.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: that place held an mbuf, and now lies past the length, so it is not read again.
        Some(unsafe { self.places[self.len].assume_init_read() })
    }

    /// The mbufs, in order.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first `len` places hold mbufs, and `MaybeUninit` is transparent.
        unsafe { slice::from_raw_parts(self.places.as_ptr().cast(), self.len) }
    }

    /// The mbufs, in order. They may be changed and swapped.
    #[must_use]
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: as in `as_slice`, and the burst is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.places.as_mut_ptr().cast(), self.len) }
    }

    /// The mbufs, in order.
    pub fn iter(&self) -> slice::Iter<'_, Mbuf> {
        self.as_slice().iter()
    }

    /// The mbufs, in order, to be changed.
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, Mbuf> {
        self.as_mut_slice().iter_mut()
    }

    /// Moves mbufs from the front of `other` to the end of this one, as many as fit; returns how many. Both keep
    /// their order.
    pub fn append(&mut self, other: &mut Self) -> usize {
        let room = self.room_mut();
        let n = room.len().min(other.len);
        for (to, from) in room.iter_mut().zip(&other.places[..n]) {
            // SAFETY: `from` lies within the other's length. It is read once: `shift` forgets it below.
            to.write(unsafe { from.assume_init_read() });
        }
        // SAFETY: the first `n` places of the room hold mbufs now.
        unsafe { self.grow(n) };
        // SAFETY: the other's first `n` mbufs have moved to this burst.
        unsafe { other.shift(n) };
        n
    }

    /// Takes all mbufs out, in order. What is left when the iterator is dropped is freed in one call.
    pub fn drain(&mut self) -> Drain<'_> {
        let end = std::mem::take(&mut self.len);
        Drain { burst: self, at: 0, end }
    }

    /// Frees all mbufs, in one call.
    pub fn clear(&mut self) {
        let len = std::mem::take(&mut self.len);
        // SAFETY: the first `len` places held mbufs, and now lie past the length, so they are not read again.
        unsafe { free(&mut self.places[..len]) };
    }

    /// The places that hold nothing.
    #[inline]
    pub(crate) fn room_mut(&mut self) -> &mut [MaybeUninit<Mbuf>] {
        &mut self.places[self.len..]
    }

    /// # Safety
    /// The first `n` places of [`Self::room_mut`] hold mbufs that are the burst's now.
    #[inline]
    pub(crate) unsafe fn grow(&mut self, n: usize) {
        debug_assert!(n <= Self::CAPACITY - self.len, "more than there was room for");
        self.len += n;
    }

    /// The mbufs as pointers, for a call that may take some of them away; [`Self::shift`] then forgets those.
    #[inline]
    pub(crate) fn as_raw_mut(&mut self) -> *mut *mut sys::rte_mbuf {
        as_raw(&mut self.places)
    }

    /// Forgets the first `n` mbufs and moves the rest to the front, in order.
    ///
    /// # Safety
    /// The first `n` mbufs, at most `len`, belong to somebody else now.
    #[inline]
    pub(crate) unsafe fn shift(&mut self, n: usize) {
        debug_assert!(n <= self.len, "more than there were");
        let rest = self.len - n;
        if n > 0 && rest > 0 {
            let start = self.places.as_mut_ptr();
            // SAFETY: `n` is within the array.
            let from = unsafe { start.add(n) };
            // SAFETY: both ranges lie in the array; `copy` allows them to overlap. The places past `rest` are
            // not read again, as they lie past the length.
            unsafe { std::ptr::copy(from, start, rest) };
        }
        self.len = rest;
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.clear();
    }
}

impl std::fmt::Debug for Burst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Burst {
    type Item = &'a Mbuf;
    type IntoIter = slice::Iter<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Burst {
    type Item = &'a mut Mbuf;
    type IntoIter = slice::IterMut<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl IntoIterator for Burst {
    type Item = Mbuf;
    type IntoIter = IntoIter;

    fn into_iter(mut self) -> IntoIter {
        let end = std::mem::take(&mut self.len);
        IntoIter { burst: self, at: 0, end }
    }
}

macro_rules! owning_iterator {
    ($name:ty) => {
        impl Iterator for $name {
            type Item = Mbuf;

            #[inline]
            fn next(&mut self) -> Option<Mbuf> {
                if self.at == self.end {
                    return None;
                }
                let place = &self.burst.places[self.at];
                self.at += 1;
                // SAFETY: the places from `at` to `end` hold mbufs, which are this iterator's since the burst's
                // length is zero; `at` has moved past this one.
                Some(unsafe { place.assume_init_read() })
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                (self.end - self.at, Some(self.end - self.at))
            }
        }

        impl ExactSizeIterator for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the places from `at` to `end` hold mbufs, which are this iterator's, and it ends here.
                unsafe { free(&mut self.burst.places[self.at..self.end]) };
            }
        }
    };
}

/// Takes the mbufs out of a burst it borrows. If it is forgotten, they leak; nothing is freed twice.
pub struct Drain<'a> {
    burst: &'a mut Burst,
    at: usize,
    end: usize,
}
owning_iterator!(Drain<'_>);

/// Takes the mbufs out of a burst it owns.
pub struct IntoIter {
    burst: Burst,
    at: usize,
    end: usize,
}
owning_iterator!(IntoIter);
