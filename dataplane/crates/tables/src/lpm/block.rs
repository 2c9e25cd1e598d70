//! The prefixes that end in one node, packed into one slice of words.
//!
//! A node stands at a byte of the address, its depth, and holds the prefixes that end in that byte: one to eight bits of
//! it, and at the root also none. For lookups the 256 values of the byte are cut into runs of equal answers, one word a run, found by
//! a bitmap and a count; for changes the prefixes themselves are kept beside. A lookup touches the head and one run.
//!
//! Words: head (depth; runs before each eighth of the byte, three words in all), key, bitmaps of run starts, of eight-bit and of
//! shorter prefixes (8 each), runs, values of the shorter ones. An eight-bit prefix's value is that of its run.

use std::sync::Arc;

use super::key::Key;

/// Prefixes of up to seven bits are numbered as in a heap: 1 is the whole byte, `2n` and `2n + 1` are the halves of `n`.
/// Eight-bit ones would be 256 to 511.
const SHORTER: usize = 256;
const HEAD: usize = 3;

/// Shared by all generations that have it. Immutable.
pub(super) type Block = Arc<[u32]>;

const fn starts_at<K: Key>() -> usize {
    HEAD + K::WORDS
}

const fn runs_at<K: Key>() -> usize {
    starts_at::<K>() + 24
}

/// The byte of the address at which the node stands.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "written from a u8")]
pub(super) fn depth(block: &[u32]) -> u8 {
    block[0] as u8
}

/// The address of the node: the bytes before `depth` count, the others are zero.
#[inline]
pub(super) fn key<K: Key>(block: &[u32]) -> K {
    K::from_words(&block[HEAD..])
}

/// The value of the longest prefix here that holds `byte`; 0 if none.
#[inline]
pub(super) fn find<K: Key>(block: &[u32], byte: u8) -> u32 {
    let eighth = usize::from(byte >> 5);
    let starts = block[starts_at::<K>() + eighth];
    let before = block[1 + eighth / 4] >> (8 * (eighth % 4)) & 0xff;
    // A run starts at 0 always, so the rank is at least one.
    let rank = before + (starts & u32::MAX >> (31 - (byte & 31))).count_ones();
    block[runs_at::<K>() - 1 + rank as usize]
}

/// Which prefix of a node: its number of bits (0 to 8), and the byte with the others zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Local {
    pub(super) start: u8,
    pub(super) bits: u8,
}

impl Local {
    /// 1 to 511.
    fn heap(self) -> usize {
        (1 << self.bits) + (usize::from(self.start) >> (8 - self.bits))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a heap number below 512 has a start below 256 and 8 bits at most"
    )]
    fn of_heap(heap: usize) -> Self {
        let bits = heap.ilog2() as u8;
        Self { start: ((heap << (8 - bits)) & 0xff) as u8, bits }
    }
}

/// A node's prefixes, spread out for a change.
pub(super) struct Open {
    /// By heap number; 0 is none.
    values: [u32; 512],
    count: usize,
}

impl Open {
    pub(super) fn empty() -> Self {
        Self { values: [0; 512], count: 0 }
    }

    /// Spreads a block out. No words are no prefixes.
    pub(super) fn new<K: Key>(block: &[u32]) -> Self {
        let mut open = Self::empty();
        for (local, value) in prefixes::<K>(block) {
            open.values[local.heap()] = value;
            open.count += 1;
        }
        open
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A prefix's value; 0 is none.
    pub(super) fn get(&self, local: Local) -> u32 {
        self.values[local.heap()]
    }

    /// Sets a prefix, or takes it out with 0. Returns what it was.
    pub(super) fn set(&mut self, local: Local, value: u32) -> u32 {
        let old = std::mem::replace(&mut self.values[local.heap()], value);
        self.count = self.count + usize::from(value != 0) - usize::from(old != 0);
        old
    }

    /// Packs it for the node at `depth` of `key`.
    pub(super) fn pack<K: Key>(&self, key: K, depth: u8) -> Block {
        // The answer for each value of the byte, from the shortest prefix to the longest.
        let mut answers = [0; 256];
        let mut full = [0_u32; 8];
        let mut shorter = [0_u32; 8];
        let mut tail = Vec::new();
        for (heap, &value) in self.values.iter().enumerate().filter(|&(_, &value)| value != 0) {
            let Local { start, bits } = Local::of_heap(heap);
            let start = usize::from(start);
            answers[start..start + (256 >> bits)].fill(value);
            if heap < SHORTER {
                shorter[heap / 32] |= 1 << (heap % 32);
                tail.push(value);
            } else {
                full[start / 32] |= 1 << (start % 32);
            }
        }
        let mut starts = [0_u32; 8];
        let mut before = [0_u32; 2];
        let mut runs: Vec<u32> = Vec::with_capacity(64);
        for (byte, &answer) in answers.iter().enumerate() {
            if byte % 32 == 0 {
                let so_far = u32::try_from(runs.len()).unwrap_or(0);
                before[byte / 128] |= so_far << (8 * (byte / 32 % 4));
            }
            if runs.last() != Some(&answer) {
                starts[byte / 32] |= 1 << (byte % 32);
                runs.push(answer);
            }
        }
        let words = (0..K::WORDS).map(|i| key.word(i));
        let mut block = Vec::with_capacity(runs_at::<K>() + runs.len() + tail.len());
        block.push(u32::from(depth));
        block.extend(before);
        block.extend(words);
        block.extend(starts.into_iter().chain(full).chain(shorter));
        block.extend(runs);
        block.extend(tail);
        Arc::from(block)
    }
}

/// The exact prefix's value; 0 if it is not here.
pub(super) fn get<K: Key>(block: &[u32], local: Local) -> u32 {
    if block.is_empty() {
        return 0;
    }
    let bits = &block[starts_at::<K>() + 8..];
    let start = usize::from(local.start);
    if local.bits == 8 {
        return if bits[start / 32] >> (start % 32) & 1 == 1 { find::<K>(block, local.start) } else { 0 };
    }
    let heap = local.heap();
    let shorter = &bits[8..16];
    let here = shorter[heap / 32];
    if here >> (heap % 32) & 1 == 0 {
        return 0;
    }
    let total: u32 = shorter.iter().map(|word| word.count_ones()).sum();
    let before: u32 = shorter[..heap / 32].iter().map(|word| word.count_ones()).sum();
    let rank = before + (here & ((1 << (heap % 32)) - 1)).count_ones();
    block[block.len() - total as usize + rank as usize]
}

/// All prefixes here with their values, in no useful order.
pub(super) fn prefixes<K: Key>(block: &[u32]) -> impl Iterator<Item = (Local, u32)> + '_ {
    let bits = if block.is_empty() { &[][..] } else { &block[starts_at::<K>() + 8..starts_at::<K>() + 24] };
    let (full, shorter) = bits.split_at(bits.len() / 2);
    let total: usize = shorter.iter().map(|word| word.count_ones() as usize).sum();
    let tail = &block[block.len() - total..];
    let full = ones(full).map(|start| {
        let start = u8::try_from(start).unwrap_or(u8::MAX);
        (Local { start, bits: 8 }, find::<K>(block, start))
    });
    full.chain(ones(shorter).map(Local::of_heap).zip(tail.iter().copied()))
}

/// The numbers of the bits that are set, ascending.
fn ones(words: &[u32]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(i, &word)| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let bit = rest.trailing_zeros() as usize;
            rest &= rest.wrapping_sub(1);
            (bit < 32).then_some(i * 32 + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_numbers_are_one_to_one() {
        for heap in 1..512 {
            assert_eq!(Local::of_heap(heap).heap(), heap);
        }
        assert_eq!(Local { start: 0, bits: 0 }.heap(), 1);
        assert_eq!(Local { start: 0xff, bits: 8 }.heap(), 511);
    }

    #[test]
    fn a_full_block_answers_and_unpacks() {
        let mut open = Open::empty();
        for heap in 1..512_u32 {
            open.set(Local::of_heap(heap as usize), heap);
        }
        let block = open.pack(0x0a00_0000_u32, 1);
        assert!(block.len() * 4 < 4096, "{} bytes", block.len() * 4);
        assert_eq!((depth(&block), key::<u32>(&block)), (1, 0x0a00_0000));
        for byte in 0..=255 {
            assert_eq!(find::<u32>(&block, byte), 256 + u32::from(byte));
        }
        for heap in 1..512_u32 {
            assert_eq!(get::<u32>(&block, Local::of_heap(heap as usize)), heap);
        }
        assert_eq!(Open::new::<u32>(&block).values, open.values);
        assert_eq!(get::<u32>(&[], Local { start: 0, bits: 0 }), 0);
    }
}
