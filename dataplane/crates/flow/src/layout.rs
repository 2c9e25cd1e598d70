//! How the storage is divided: a head, then for each family buckets, records and what is rarely looked at of them.
//!
//! ```text
//! head │ v4: buckets │ records │ cold │ v6: buckets │ records │ cold
//! ```
//!
//! The head says for which sizes and with which seeds it was laid out. A process that finds another one begins afresh.

use crate::family::{Family, V4, V6};
use crate::flows::{FlowsConfig, StorageError};
use crate::sync::{Ordering, Words, fence};

/// Words of a cache line: what everything is aligned to.
pub(crate) const LINE: usize = 8;
/// Words of a bucket, one line.
pub(crate) const BUCKET: usize = LINE;
/// Words of the rarely used part of a record: next free record; rules that allowed it.
pub(crate) const COLD: usize = 2;
/// Words of the head.
const HEAD: usize = 2 * LINE;

/// "podrflow", and the number of this layout: to be raised with each change of a word's meaning.
const MAGIC: u64 = 0x776f_6c66_7264_6f70;
const VERSION: u64 = 1;

/// What of the storage is one family's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) buckets: Words,
    pub(crate) hot: Words,
    pub(crate) cold: Words,
}

/// Records, and buckets with four lanes for each of them: half of the lanes are in use when all records are, so that few keys do
/// not find one where they belong.
const fn sizes(records: u32) -> (usize, usize) {
    let records = records as usize;
    (records, records.div_ceil(2).next_power_of_two())
}

const fn words_of<F: Family>(records: u32) -> usize {
    let (records, buckets) = sizes(records);
    buckets * BUCKET + records * F::HOT + (records * COLD).next_multiple_of(LINE)
}

/// Words for such tables, with one line to spare for aligning them.
pub(crate) const fn words(v4: u32, v6: u32) -> usize {
    HEAD + words_of::<V4>(v4) + words_of::<V6>(v6) + LINE
}

fn parts<F: Family>(words: Words, records: u32) -> (Parts, Words) {
    let (records, buckets) = sizes(records);
    let (bucket_words, rest) = words.split_at(buckets * BUCKET);
    let (hot, rest) = rest.split_at(records * F::HOT);
    let (cold, rest) = rest.split_at((records * COLD).next_multiple_of(LINE));
    (Parts { buckets: bucket_words, hot, cold }, rest)
}

/// Divides the storage. The flag says whether it was laid out so before; if not, all of it is zero now.
pub(crate) fn divide(
    words: Words,
    config: &FlowsConfig,
) -> Result<(Parts, Parts, [u64; 3], bool), StorageError> {
    let needed = self::words(config.v4, config.v6);
    if words.len() < needed {
        return Err(StorageError::TooSmall { needed, given: words.len() });
    }
    let skip = words.as_ptr().align_offset(LINE * size_of::<u64>());
    let words = &words[if skip < LINE { skip } else { 0 }..];
    let (head, rest) = words.split_at(HEAD);
    let (v4, rest) = parts::<V4>(rest, config.v4);
    let (v6, _) = parts::<V6>(rest, config.v6);

    let field = |at: usize| head[at].load(Ordering::Relaxed);
    let sizes = u64::from(config.v4) << 32 | u64::from(config.v6);
    let known = field(0) == MAGIC && field(1) == VERSION && field(2) == sizes;
    if !known {
        // The mark goes first and comes last: whoever is killed in between leaves nothing that looks whole.
        head[0].store(0, Ordering::Relaxed);
        // AcqRel: what follows stays behind. The partner is no thread, but the process that comes after a kill.
        fence(Ordering::AcqRel);
        for part in [v4, v6] {
            for words in [part.buckets, part.hot, part.cold] {
                words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            }
        }
        for (at, seed) in config.seeds.into_iter().enumerate() {
            head[4 + at].store(seed, Ordering::Relaxed);
        }
        head[1].store(VERSION, Ordering::Relaxed);
        head[2].store(sizes, Ordering::Relaxed);
        head[0].store(MAGIC, Ordering::Release);
    }
    Ok((v4, v6, [field(4), field(5), field(6)], known))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_flow_takes_128_bytes_or_256() {
        // With its share of the buckets and both directions: where records are a power of two, no bucket is there for rounding's sake.
        for records in [64, 1 << 14, 1 << 20] {
            let bytes = |words: usize| (words * size_of::<u64>()).div_ceil(records as usize);
            assert!(bytes(words_of::<V4>(records)) <= 128);
            assert!(bytes(words_of::<V6>(records)) <= 256);
        }
    }
}
