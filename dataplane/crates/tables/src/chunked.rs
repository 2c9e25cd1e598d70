//! A persistent vector with holes: rows by a small number, two levels of at most 512 references (4 KB) each.
//!
//! A clone is one reference; a change copies one chunk, the top and the row. A lookup is three dependent loads.

use std::sync::Arc;

/// Rows a chunk, and chunks a top.
const WIDTH: usize = 512;
/// The numbers of rows are below this.
pub(crate) const CAPACITY: u32 = 262_144;

/// Rows of `T` by a number below [`CAPACITY`].
pub(crate) struct Chunked<T> {
    chunks: Arc<Vec<Option<Arc<Chunk<T>>>>>,
    len: usize,
}

struct Chunk<T> {
    used: usize,
    rows: [Option<Arc<T>>; WIDTH],
}

// By hand, since a derive would ask for `T: Clone`; rows are shared, not cloned.
impl<T> Clone for Chunked<T> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<T> Clone for Chunk<T> {
    fn clone(&self) -> Self {
        Self { used: self.used, rows: self.rows.clone() }
    }
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

/// Chunk and place in it.
#[inline]
fn split(row: u32) -> (usize, usize) {
    let row = row as usize;
    (row / WIDTH, row % WIDTH)
}

impl<T> Chunked<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn get(&self, row: u32) -> Option<&T> {
        let (chunk, place) = split(row);
        self.chunks.get(chunk)?.as_ref()?.rows[place].as_deref()
    }

    /// The row, for a change: its own copy if another generation has it too.
    pub(crate) fn get_mut(&mut self, row: u32) -> Option<&mut T>
    where
        T: Clone,
    {
        self.get(row)?;
        let (chunk, place) = split(row);
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(chunk)?.as_mut()?;
        Arc::make_mut(chunk).rows[place].as_mut().map(Arc::make_mut)
    }

    /// Sets a row. A number that is not below [`CAPACITY`] changes nothing and is false.
    pub(crate) fn set(&mut self, row: u32, value: T) -> bool {
        if row >= CAPACITY {
            return false;
        }
        let (chunk, place) = split(row);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.len() <= chunk {
            chunks.resize(chunk + 1, None);
        }
        let chunk = chunks[chunk]
            .get_or_insert_with(|| Arc::new(Chunk { used: 0, rows: std::array::from_fn(|_| None) }));
        let chunk = Arc::make_mut(chunk);
        if chunk.rows[place].replace(Arc::new(value)).is_none() {
            chunk.used += 1;
            self.len += 1;
        }
        true
    }

    /// Takes a row out; false if there was none. Empty chunks go.
    pub(crate) fn remove(&mut self, row: u32) -> bool {
        if self.get(row).is_none() {
            return false;
        }
        let (index, place) = split(row);
        let chunks = Arc::make_mut(&mut self.chunks);
        if let Some(slot) = &mut chunks[index] {
            let chunk = Arc::make_mut(slot);
            chunk.rows[place] = None;
            chunk.used -= 1;
            if chunk.used == 0 {
                chunks[index] = None;
            }
        }
        while let Some(None) = chunks.last() {
            chunks.pop();
        }
        self.len -= 1;
        true
    }

    /// The lowest number without a row; [`None`] if all have one. Looks at one count a chunk.
    pub(crate) fn vacant(&self) -> Option<u32> {
        let chunk = self
            .chunks
            .iter()
            .position(|chunk| chunk.as_ref().is_none_or(|chunk| chunk.used < WIDTH))
            .unwrap_or(self.chunks.len());
        let place = match self.chunks.get(chunk) {
            Some(Some(chunk)) => chunk.rows.iter().position(Option::is_none).unwrap_or(0),
            _ => 0,
        };
        u32::try_from(chunk * WIDTH + place).ok().filter(|&row| row < CAPACITY)
    }

    /// All rows with their numbers, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> + '_ {
        self.chunks.iter().enumerate().flat_map(|(i, chunk)| {
            let rows = chunk.iter().flat_map(|chunk| chunk.rows.iter().enumerate());
            rows.filter_map(move |(place, row)| {
                // Every number was a u32 when it was set.
                Some((u32::try_from(i * WIDTH + place).ok()?, row.as_deref()?))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn behaves_as_a_map_and_keeps_old_clones(
            ops in prop::collection::vec((any::<bool>(), prop_oneof![0_u32..8, 505_u32..520, 2040_u32..2060], any::<u16>()), 1..200)
        ) {
            let mut oracle = BTreeMap::new();
            let mut rows = Chunked::default();
            let mut kept = Vec::new();
            for (i, (insert, row, value)) in ops.into_iter().enumerate() {
                if i % 20 == 0 {
                    kept.push((rows.clone(), oracle.clone()));
                }
                if insert {
                    prop_assert!(rows.set(row, value));
                    oracle.insert(row, value);
                } else {
                    prop_assert_eq!(rows.remove(row), oracle.remove(&row).is_some());
                }
                let lowest = (0..).find(|row| !oracle.contains_key(row));
                prop_assert_eq!(rows.vacant(), lowest);
            }
            kept.push((rows, oracle));
            for (rows, oracle) in kept {
                prop_assert_eq!(rows.len(), oracle.len());
                prop_assert!(rows.iter().map(|(row, value)| (row, *value)).eq(oracle));
            }
        }
    }

    #[test]
    fn a_change_copies_one_chunk() {
        let mut rows = Chunked::default();
        for row in 0..100_000 {
            rows.set(row, row);
        }
        let old = rows.clone();
        *rows.get_mut(70_000).unwrap() = 1;
        assert_eq!((old.get(70_000), rows.get(70_000)), (Some(&70_000), Some(&1)));
        let same = |i: usize| match (&old.chunks[i], &rows.chunks[i]) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        assert_eq!((0..rows.chunks.len()).filter(|&i| !same(i)).count(), 1);
    }

    #[test]
    fn capacity_is_a_limit() {
        let mut rows = Chunked::default();
        assert!(!rows.set(CAPACITY, ()));
        assert!(rows.set(CAPACITY - 1, ()));
        for row in 0..CAPACITY - 1 {
            rows.set(row, ());
        }
        assert_eq!(rows.vacant(), None);
    }
}
