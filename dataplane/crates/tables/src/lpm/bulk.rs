//! Many prefixes at once: each node that they are in is unpacked and packed once, not once a prefix.

use super::{Key, Lpm, Place, place};

impl<K: Key> Lpm<K> {
    /// Sets many prefixes, the later of two that are equal last. `value` makes the new value, above 0, of each from the row and the
    /// old value; 0 if it is new.
    ///
    /// Puts `rows` in order by node first. In that order already, or nearly so, a million cost little more than to look at them.
    pub fn insert_all<T: Copy>(
        &mut self,
        rows: &mut [(K, u8, T)],
        mut value: impl FnMut(K, u8, T, u32) -> u32,
    ) {
        // Stable, so that of two equal prefixes the later one remains the later.
        rows.sort_by_key(node);
        for of_one in rows.chunk_by(|a, b| node(a) == node(b)) {
            let Some(first) = of_one.first() else { continue };
            let (key, depth) = node(first);
            let mut new = 0;
            self.edit(&Place { key, depth }, &mut |open| {
                for &(key, len, row) in of_one {
                    let (_, _, local) = place(key, len);
                    let old = open.get(local);
                    new += usize::from(old == 0);
                    open.set(local, value(key, len, row, old));
                }
            });
            self.len += new;
        }
    }
}

/// The address and depth of the node that holds a prefix.
fn node<K: Key, T>(&(key, len, _): &(K, u8, T)) -> (K, u8) {
    let (key, depth, _) = place(key, len);
    (key.masked(depth * 8), depth)
}
