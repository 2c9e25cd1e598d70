//! Chains that were taken from a ring: what descriptors name, checked and resolved, before a byte of a frame is touched.
//!
//! Some are taken ahead of the burst that uses them, so that what the guest wrote, and where we are to write, is in our cache by
//! then: lines that another core has written take longer to come than a burst's turn. For the guest they are not taken yet.
//!
//! Owns the walk through descriptors that are linked (split rings) or in an indirect table (both), and the copies from and to what
//! they name. What always holds: a descriptor is read once; at most [`CHAIN_MAX`] are read a chain and [`BURST_MAX`] a burst, give or
//! take a chain, so that a guest cannot buy much of the worker's time; and whatever is wrong makes the chain `Malformed`, never
//! the burst.

use std::sync::Arc;

use crate::memory::{Memory, Piece};
use crate::ring::Ring;

/// Most descriptors in one chain. Linux sends at most 48 (`MAX_SKB_FRAGS` 45, the header and the linear part), DPDK fewer.
pub(crate) const CHAIN_MAX: usize = 256;
/// Most descriptors of a burst; beyond, the burst ends early. A burst of 64 KiB segments has some 18 each.
const BURST_MAX: usize = 1_024;
/// Chains that are taken at once.
pub(crate) const BURST: usize = 32;
/// Chains of a burst, with those of one frame that is spread over many, and what was taken ahead.
const LIST: usize = BURST + 128 + BURST;

/// Bytes of a descriptor, in rings of both kinds and in indirect tables.
pub(crate) const DESCRIPTOR: usize = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Which way a ring's buffers go; a chain with a descriptor of the other way is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    FromGuest,
    ToGuest,
}

impl Direction {
    /// The WRITE flag of such a buffer.
    const fn write(self) -> u16 {
        match self {
            Self::FromGuest => 0,
            Self::ToGuest => WRITE,
        }
    }
}

/// The kind of ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Split,
    Packed,
}

/// What a ring's chains have in common.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) memory: Arc<Memory>,
    pub(crate) direction: Direction,
    pub(crate) format: Format,
}

impl Source {
    #[inline]
    pub(crate) const fn descriptor(&self, address: u64, rest: u64) -> Descriptor {
        Descriptor::of(self.format, address, rest)
    }
}

/// A descriptor as it was read. `tail` is `next` in a split ring, the buffer's id in a packed one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) tail: u16,
}

impl Descriptor {
    /// Of its two words: the address, and the rest (VIRTIO 1.2, 2.7.5 and 2.8.13).
    #[inline]
    pub(crate) const fn of(format: Format, address: u64, rest: u64) -> Self {
        let [l0, l1, l2, l3, a0, a1, b0, b1] = rest.to_le_bytes();
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let (a, b) = (u16::from_le_bytes([a0, a1]), u16::from_le_bytes([b0, b1]));
        match format {
            Format::Split => Self { address, len, flags: a, tail: b },
            Format::Packed => Self { address, len, tail: a, flags: b },
        }
    }

    #[inline]
    pub(crate) const fn has_next(self) -> bool {
        self.flags & NEXT != 0
    }

    #[inline]
    pub(crate) const fn is_indirect(self) -> bool {
        self.flags & INDIRECT != 0
    }
}

/// One chain: some of the batch's pieces, and how to give it back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// The head's index (split), or the buffer's id (packed).
    pub(crate) id: u16,
    /// Places it takes up in the ring of what is available: 1 in a split ring.
    pub(crate) slots: u16,
    /// Bytes of all its pieces.
    pub(crate) len: u32,
    /// Its first piece, and where in the batch the others are.
    pub(crate) front: Piece,
    first: u16,
    end: u16,
    /// It loops, is too long, leaves the table, goes the wrong way, or names memory that the guest does not have.
    pub(crate) malformed: bool,
}

impl Chain {
    /// The one piece that it has, if there are no more.
    #[inline]
    pub(crate) fn plain(&self) -> Option<&Piece> {
        (self.first == self.end && !self.malformed).then_some(&self.front)
    }
}

/// What a ring finds out of one chain after the other, and both halves of a port copy from or to.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    list: Vec<Chain>,
    /// Those before it were given back.
    begin: usize,
    pieces: Vec<Piece>,
    /// Descriptors read since it was cleared, beyond one a chain.
    walked: usize,
    /// The region that the last buffer was in.
    near: usize,
    /// The ring that they are from.
    ring: u64,
    /// That ring makes no sense; to be said once.
    broken: bool,
}

// SAFETY: its pieces point into memory that any thread may write; they are used only while the ring that gave them is locked.
unsafe impl Send for Chains {}

impl Chains {
    pub(crate) fn new() -> Self {
        Self {
            list: Vec::with_capacity(LIST),
            begin: 0,
            // A buffer may lie across regions, which takes more than one piece; only then this may grow.
            pieces: Vec::with_capacity(BURST_MAX + CHAIN_MAX),
            walked: 0,
            near: 0,
            ring: 0,
            broken: false,
        }
    }

    /// Has `most` chains of a ring here, those that were taken ahead first, as far as there are so many.
    #[inline]
    pub(crate) fn take(&mut self, ring: &mut Ring, most: usize) {
        if self.ring != ring.number() {
            // Whatever is here is another ring's, which is no more.
            self.clear();
            (self.ring, self.broken) = (ring.number(), false);
        }
        if self.list().len() < most {
            if self.list.len() + most > LIST {
                self.untake(ring);
            }
            self.broken |= ring.take(most, self).is_err();
        }
    }

    /// Whether chains of this ring were taken ahead.
    pub(crate) fn are_ahead(&self, ring: &Ring) -> bool {
        self.ring == ring.number() && !self.list().is_empty()
    }

    /// Whether the ring makes no sense; said once.
    #[inline]
    pub(crate) fn take_broken(&mut self) -> bool {
        std::mem::take(&mut self.broken)
    }

    /// The first so many have been given back.
    #[inline]
    pub(crate) fn drop_front(&mut self, chains: usize) {
        self.begin += chains;
        if self.begin >= self.list.len() {
            self.clear();
        }
    }

    /// Leaves all that are here to be taken again, and makes room.
    #[cold]
    pub(crate) fn untake(&mut self, ring: &mut Ring) {
        ring.untake(self.list());
        self.clear();
    }

    fn clear(&mut self) {
        self.list.clear();
        self.begin = 0;
        self.pieces.clear();
        self.walked = 0;
    }

    #[inline]
    pub(crate) fn list(&self) -> &[Chain] {
        self.list.get(self.begin..).unwrap_or_default()
    }

    /// Whether none was given back since it was last empty: all that was read was read for what is here.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.begin == 0
    }

    /// Whether another chain may be taken.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.walked + self.list.len() < BURST_MAX && self.pieces.len() < BURST_MAX
    }

    /// How many chains of one buffer may be taken without a look at `has_room`.
    #[inline]
    pub(crate) fn room_for_plain(&self) -> usize {
        if self.has_room() { BURST_MAX - self.walked - self.list.len() } else { 0 }
    }

    /// Takes a chain of one buffer, as most are; `false`, and nothing done, for what needs a closer look.
    #[inline]
    pub(crate) fn push_plain(&mut self, id: u16, descriptor: Descriptor, from: &Source) -> bool {
        if descriptor.flags & (NEXT | WRITE | INDIRECT) != from.direction.write() || descriptor.len == 0 {
            return false;
        }
        let Some(piece) = from.memory.piece(descriptor.address, descriptor.len, &mut self.near) else {
            return false;
        };
        // Asked for now, and touched when all chains of the burst are known.
        piece.prefetch(from.direction == Direction::ToGuest);
        let len = descriptor.len;
        self.list.push(Chain { id, slots: 1, len, front: piece, first: 0, end: 0, malformed: false });
        true
    }

    /// Begins a chain.
    #[inline]
    pub(crate) fn begin(&mut self) -> Building<'_> {
        let first = self.pieces.len();
        Building { chains: self, front: Piece::NONE, first, descriptors: 0, len: 0, malformed: false }
    }

    #[inline]
    fn pieces<'c>(&'c self, chain: &'c Chain) -> impl Iterator<Item = &'c Piece> {
        std::iter::once(&chain.front).chain(&self.pieces[usize::from(chain.first)..usize::from(chain.end)])
    }

    /// Copies from `at` bytes behind the chain's start to all of `out`; `false` if it is shorter.
    ///
    /// # Safety
    /// The memory that gave the pieces is still there: the ring has been locked since.
    #[inline]
    pub(crate) unsafe fn read(&self, chain: &Chain, mut at: usize, mut out: &mut [u8]) -> bool {
        if at + out.len() <= chain.front.len() {
            // SAFETY: the caller's promise.
            unsafe { chain.front.read(at, out) };
            return true;
        }
        for piece in self.pieces(chain) {
            if at >= piece.len() {
                at -= piece.len();
                continue;
            }
            // SAFETY: the caller's promise.
            let done = unsafe { piece.read(at, out) };
            at = 0;
            out = &mut out[done..];
            if out.is_empty() {
                return true;
            }
        }
        out.is_empty()
    }

    /// Copies all of `bytes` to `at` bytes behind the chain's start; gives what did not fit.
    ///
    /// # Safety
    /// As for `read`.
    #[inline]
    pub(crate) unsafe fn write<'b>(&self, chain: &Chain, mut at: usize, mut bytes: &'b [u8]) -> &'b [u8] {
        for piece in self.pieces(chain) {
            if at >= piece.len() {
                at -= piece.len();
                continue;
            }
            // SAFETY: the caller's promise.
            let done = unsafe { piece.write(at, bytes) };
            at = 0;
            bytes = &bytes[done..];
            if bytes.is_empty() {
                break;
            }
        }
        bytes
    }
}

/// There are never more pieces than that: `CHAIN_MAX` descriptors beyond `BURST_MAX`, with a piece for each of 32 regions.
#[inline]
fn place(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// A chain in the making.
#[derive(Debug)]
pub(crate) struct Building<'c> {
    chains: &'c mut Chains,
    front: Piece,
    first: usize,
    descriptors: usize,
    len: u32,
    malformed: bool,
}

impl Building<'_> {
    /// Adds a buffer, or the buffers of an indirect table, which can only be the last. `false` where nothing more may follow.
    #[inline]
    pub(crate) fn add(&mut self, descriptor: Descriptor, from: &Source) -> bool {
        if descriptor.is_indirect() {
            return self.add_table(descriptor, from);
        }
        self.descriptors += 1;
        let sum = self.len.checked_add(descriptor.len);
        let (true, true, Some(sum)) =
            (descriptor.flags & WRITE == from.direction.write(), self.descriptors <= CHAIN_MAX, sum)
        else {
            return self.fail();
        };
        self.len = sum;
        if descriptor.len == 0 {
            return true;
        }
        if let Some(piece) = from.memory.piece(descriptor.address, descriptor.len, &mut self.chains.near) {
            self.push(piece, from.direction);
            return true;
        }
        let (address, len) = (descriptor.address, descriptor.len);
        let found = from.memory.pieces(address, len, |piece| self.push(piece, from.direction));
        found.is_some() || self.fail()
    }

    #[inline]
    fn push(&mut self, piece: Piece, direction: Direction) {
        if self.front.len() > 0 {
            if self.first == self.chains.pieces.len() {
                // The header may have had a piece of its own.
                piece.prefetch(direction == Direction::ToGuest);
            }
            self.chains.pieces.push(piece);
        } else {
            piece.prefetch(direction == Direction::ToGuest);
            self.front = piece;
        }
    }

    /// Makes the chain malformed.
    #[cold]
    pub(crate) fn fail(&mut self) -> bool {
        self.malformed = true;
        false
    }

    /// The buffers of an indirect table (VIRTIO 1.2, 2.7.5.3 and 2.8.7). In a split ring's table they are linked, from the first
    /// one on; in a packed ring's they follow each other, as many as it holds.
    #[inline]
    fn add_table(&mut self, table: Descriptor, from: &Source) -> bool {
        let len = table.len as usize;
        if table.has_next() || len == 0 || !len.is_multiple_of(DESCRIPTOR) {
            return self.fail();
        }
        // In one region: no driver makes one that is not, and it may lie anywhere in it.
        let Some(bytes) = from.memory.piece(table.address, table.len, &mut self.chains.near) else {
            return self.fail();
        };
        let entries = len / DESCRIPTOR;
        let mut at = 0;
        // A loop ends at the chain's limit.
        while at < entries {
            let mut words = [[0; 8]; 2];
            // SAFETY: the memory gave it just now, and is borrowed.
            unsafe { bytes.read(at * DESCRIPTOR, words.as_flattened_mut()) };
            let [address, rest] = words.map(u64::from_le_bytes);
            let entry = from.descriptor(address, rest);
            if entry.is_indirect() || !self.add(entry, from) {
                return self.fail();
            }
            at = match from.format {
                Format::Split if entry.has_next() => usize::from(entry.tail),
                Format::Split => return true,
                Format::Packed => at + 1,
            };
        }
        from.format == Format::Packed || self.fail()
    }

    /// The chain is whole; it takes up so many places, and is given back by this id.
    #[inline]
    pub(crate) fn end(self, id: u16, slots: u16) {
        let (first, end) = (place(self.first), place(self.chains.pieces.len()));
        self.chains.walked += self.descriptors.saturating_sub(1);
        let Self { front, len, malformed, .. } = self;
        self.chains.list.push(Chain { id, slots, len, front, first, end, malformed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read_as_the_specification_lays_them_out() {
        // le64 addr, le32 len, then flags and next (2.7.5), or id and flags (2.8.13).
        let rest = u64::from_le_bytes([0x40, 1, 0, 0, 3, 0, 9, 0]);
        let split = Descriptor::of(Format::Split, 0x1000, rest);
        assert_eq!((split.address, split.len, split.flags, split.tail), (0x1000, 0x140, 3, 9));
        assert!(split.has_next() && !split.is_indirect());
        let packed = Descriptor::of(Format::Packed, 0x1000, rest);
        assert_eq!((packed.len, packed.flags, packed.tail), (0x140, 9, 3));
    }
}
