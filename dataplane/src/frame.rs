//! A DPDK packet buffer as the pipeline sees it.

use dpdk::{Mbuf, Pool};
use pipeline::Buffer;

/// Room in a buffer of NICs and vhost-user ports, in bytes, without the 128 of headroom.
pub(crate) const SMALL_ROOM: u16 = 2_048;

/// Room in a buffer of TAPs: a segment of 64 KiB takes five, a small packet one.
pub(crate) const LARGE_ROOM: u16 = 16_384;

/// An mbuf: one segment, or a chain whose first segment holds the headers.
#[derive(Debug)]
pub(crate) struct Frame(pub(crate) Mbuf);

impl Buffer for Frame {
    fn head(&self) -> &[u8] {
        self.0.data()
    }

    fn head_mut(&mut self) -> &mut [u8] {
        self.0.data_mut()
    }

    fn frame_len(&self) -> usize {
        self.0.total_len()
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    fn resize(&mut self, len: usize) -> bool {
        let head = self.0.data().len();
        if len <= head {
            self.0.truncate(len);
            return true;
        }
        if len - head > self.0.tailroom() {
            return false;
        }
        // What hangs behind the head goes; then the head itself grows.
        self.0.truncate(head);
        self.0.append(len - head).is_some()
    }

    fn strip(&mut self, len: usize) -> bool {
        len < self.0.data().len() && self.0.adj(len)
    }

    fn prepend(&mut self, len: usize) -> bool {
        self.0.prepend(len).is_some()
    }
}

/// Where buffers come from.
#[derive(Clone)]
pub(crate) struct Pools {
    /// For NICs, vhost-user ports and what the router itself sends.
    pub(crate) small: Pool,
    /// For TAPs.
    pub(crate) large: Pool,
}

impl Pools {
    /// A frame of these bytes; `None` when no buffer is free or they do not fit.
    pub(crate) fn frame(&self, bytes: &[u8]) -> Option<Frame> {
        let pool = if bytes.len() > usize::from(SMALL_ROOM) { &self.large } else { &self.small };
        let mut mbuf = pool.alloc()?;
        mbuf.append(bytes.len())?.copy_from_slice(bytes);
        Some(Frame(mbuf))
    }
}
