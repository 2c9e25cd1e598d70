//! What a packet is, inside: a buffer with contiguous headers, the port it came from, and what its sender left for
//! hardware to finish.

use flow::Seconds;
use tables::PortId;

/// Time in microseconds of a monotonic clock that all processes on the machine share: an argument wherever it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// A tick that lies `milliseconds` later.
    #[must_use]
    pub const fn after_ms(self, milliseconds: u64) -> Self {
        Self(self.0 + milliseconds * 1_000)
    }

    /// The same in whole seconds (of 2^20 microseconds, 5 % long), as flows count them.
    #[must_use]
    pub const fn seconds(self) -> Seconds {
        #[expect(clippy::cast_possible_truncation, reason = "142 years")]
        let seconds = (self.0 >> 20) as u32;
        Seconds(seconds)
    }

    /// Microseconds from `earlier` to this; 0 if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A frame in memory. The first bytes, up to the end of the headers, are contiguous ([`Buffer::head`] is at least 256
/// bytes, or the whole frame); the rest may lie in further segments.
pub trait Buffer {
    /// The contiguous first bytes.
    fn head(&self) -> &[u8];
    /// The same, to be edited in place.
    fn head_mut(&mut self) -> &mut [u8];
    /// Bytes in the whole frame, over all segments.
    fn frame_len(&self) -> usize;
    /// Cuts the frame to its first `len` bytes; no effect when it is shorter.
    fn truncate(&mut self, len: usize);
    /// Makes the frame one contiguous piece of `len` bytes, keeping what was there of the head; bytes beyond are
    /// anything. `false`, and nothing done, if the buffer has no room for `len`.
    fn resize(&mut self, len: usize) -> bool;
    /// Takes `len` bytes off the front; `false`, and nothing done, if the head has not more than that.
    fn strip(&mut self, len: usize) -> bool;
    /// Lengthens the frame by `len` bytes at its front, whatever they hold; `false`, and nothing done, if the buffer has no room.
    fn prepend(&mut self, len: usize) -> bool;
}

/// What the sender left for hardware to finish (virtio 1.2, section 5.1.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Offload {
    /// Nothing: checksums are finished, and the frame is as it goes on the wire.
    #[default]
    Done,
    /// The transport checksum covers from `start` to the end and belongs at `start + offset`, where the uncomplemented
    /// sum of the pseudo-header stands. Offsets are from the frame's first byte.
    Partial { start: u16, offset: u16 },
    /// A large segment, to be cut into pieces of `size` payload bytes behind headers of `header_len`; its checksum is
    /// partial as well.
    Gso { kind: GsoKind, size: u16, header_len: u16, start: u16, offset: u16 },
}

/// How a large segment is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4 (sequence numbers, flags, IPv4 identification).
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams, each of `size` bytes (USO).
    Udp,
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub struct Packet<B> {
    /// The bytes.
    pub buffer: B,
    /// Where it came from.
    pub in_port: PortId,
    /// What is left to finish.
    pub offload: Offload,
}

/// A buffer on the heap: what memory ports and tests use.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VecBuffer {
    bytes: Vec<u8>,
    capacity: usize,
}

impl VecBuffer {
    /// A frame with room to grow up to `capacity` bytes.
    #[must_use]
    pub fn with_capacity(frame: &[u8], capacity: usize) -> Self {
        let capacity = capacity.max(frame.len());
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(frame);
        Self { bytes, capacity }
    }
}

impl Buffer for VecBuffer {
    fn head(&self) -> &[u8] {
        &self.bytes
    }

    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    fn resize(&mut self, len: usize) -> bool {
        if len > self.capacity {
            return false;
        }
        self.bytes.resize(len, 0);
        true
    }

    fn strip(&mut self, len: usize) -> bool {
        let fits = len < self.bytes.len();
        if fits {
            self.bytes.drain(..len);
        }
        fits
    }

    fn prepend(&mut self, len: usize) -> bool {
        let fits = self.bytes.len() + len <= self.capacity;
        if fits {
            self.bytes.splice(..0, std::iter::repeat_n(0, len));
        }
        fits
    }
}
