//! The segments of a chain, one after another.

use std::marker::PhantomData;
use std::ptr::NonNull;

use dpdk_sys as sys;

use crate::mbuf::{bytes, bytes_mut};

/// The bytes of each segment.
#[derive(Clone)]
pub struct Segments<'a> {
    next: Option<&'a sys::rte_mbuf>,
}

impl<'a> Segments<'a> {
    pub(crate) fn new(head: &'a sys::rte_mbuf) -> Self {
        Self { next: Some(head) }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let this = self.next?;
        // SAFETY: a segment's successor is null or of the same chain, which is borrowed for 'a.
        self.next = unsafe { this.next.as_ref() };
        Some(bytes(this))
    }
}

/// The bytes of each segment, to be written.
pub struct SegmentsMut<'a> {
    next: Option<NonNull<sys::rte_mbuf>>,
    chain: PhantomData<&'a mut sys::rte_mbuf>,
}

impl<'a> SegmentsMut<'a> {
    pub(crate) fn new(head: &'a mut sys::rte_mbuf) -> Self {
        Self { next: Some(head.into()), chain: PhantomData }
    }
}

impl<'a> Iterator for SegmentsMut<'a> {
    type Item = &'a mut [u8];

    fn next(&mut self) -> Option<&'a mut [u8]> {
        let mut this = self.next?;
        // SAFETY: the chain is borrowed exclusively for 'a, and each of its segments is visited once.
        let this = unsafe { this.as_mut() };
        self.next = NonNull::new(this.next);
        Some(bytes_mut(this))
    }
}
