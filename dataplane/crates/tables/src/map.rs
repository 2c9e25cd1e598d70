//! A persistent map: a trie over the bits of a hash that splits where two keys meet.
//!
//! A clone is one reference; a change copies the way to its key, at most 64 children (2 KB) a level. A branch holds only the children
//! there are, beside a bitmap that says which, so a lookup is one load a level and one of the entry: three levels at 100,000 keys.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::hash::Mix;

/// Bits of the hash a level looks at: 64 children.
const STRIDE: u32 = 6;

/// From `K` to `V`.
pub(crate) struct Map<K, V> {
    root: Option<Node<K, V>>,
    len: usize,
}

/// The bits are the whole hash of a leaf's entries, or say which children a branch has.
struct Node<K, V> {
    bits: u64,
    kind: Kind<K, V>,
}

enum Kind<K, V> {
    /// More than one entry only where two keys have the same hash.
    Leaf(Arc<[(K, V)]>),
    /// At least two children, or one branch.
    Branch(Arc<[Node<K, V>]>),
}

// By hand, since a derive would ask for `K: Clone` and `V: Clone`; nodes are shared, not cloned.
impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len }
    }
}

impl<K, V> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        let kind = match &self.kind {
            Kind::Leaf(entries) => Kind::Leaf(Arc::clone(entries)),
            Kind::Branch(children) => Kind::Branch(Arc::clone(children)),
        };
        Self { bits: self.bits, kind }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

#[inline]
fn hash<Q: Hash + ?Sized>(key: &Q) -> u64 {
    let mut hasher = Mix::default();
    key.hash(&mut hasher);
    hasher.finish()
}

/// The bit of a branch's child, and how many children come before it.
#[inline]
fn child(present: u64, hash: u64, depth: u32) -> (u64, usize) {
    let bit = 1 << (hash >> depth & 63);
    (bit, (present & (bit - 1)).count_ones() as usize)
}

impl<K: Hash + Eq + Clone, V: Clone> Map<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = hash(key);
        let mut node = self.root.as_ref()?;
        let mut depth = 0;
        loop {
            match &node.kind {
                Kind::Leaf(_) if node.bits != hash => return None,
                Kind::Leaf(entries) => {
                    return entries.iter().find(|(k, _)| k.borrow() == key).map(|(_, value)| value);
                }
                Kind::Branch(children) => {
                    let (bit, rank) = child(node.bits, hash, depth);
                    if node.bits & bit == 0 {
                        return None;
                    }
                    node = children.get(rank)?;
                    depth += STRIDE;
                }
            }
        }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let hash = hash(&key);
        let new = match &mut self.root {
            Some(node) => node.insert(hash, 0, key, value),
            None => {
                self.root = Some(Node::leaf(hash, key, value));
                true
            }
        };
        self.len += usize::from(new);
    }

    /// Takes a key out; false if it is not here, and then nothing is copied.
    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        if self.get(key).is_none() {
            return false;
        }
        if let Some(root) = &mut self.root
            && root.remove(hash(key), 0, key)
        {
            self.root = None;
        }
        self.len -= 1;
        true
    }

    /// All entries, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> + '_ {
        let mut stack: Vec<&Node<K, V>> = self.root.iter().collect();
        std::iter::from_fn(move || {
            loop {
                match &stack.pop()?.kind {
                    Kind::Leaf(entries) => return Some(entries.iter()),
                    Kind::Branch(children) => stack.extend(children.iter()),
                }
            }
        })
        .flatten()
        .map(|(key, value)| (key, value))
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Node<K, V> {
    fn leaf(hash: u64, key: K, value: V) -> Self {
        Self { bits: hash, kind: Kind::Leaf(Arc::new([(key, value)])) }
    }

    /// True if the key is new.
    fn insert(&mut self, hash: u64, depth: u32, key: K, value: V) -> bool {
        match &mut self.kind {
            Kind::Leaf(entries) if self.bits == hash => {
                let others = entries.iter().filter(|(k, _)| *k != key).cloned();
                let updated: Arc<[_]> = others.chain([(key.clone(), value)]).collect();
                let new = updated.len() > entries.len();
                *entries = updated;
                new
            }
            Kind::Leaf(_) => {
                let (bit, _) = child(0, self.bits, depth);
                let below = self.clone();
                *self = Self { bits: bit, kind: Kind::Branch(Arc::new([below])) };
                self.insert(hash, depth, key, value)
            }
            Kind::Branch(children) => {
                let (bit, rank) = child(self.bits, hash, depth);
                if self.bits & bit != 0 {
                    return Arc::make_mut(children)[rank].insert(hash, depth + STRIDE, key, value);
                }
                let (low, high) = children.split_at(rank);
                let leaf = Self::leaf(hash, key, value);
                *children = low.iter().cloned().chain([leaf]).chain(high.iter().cloned()).collect();
                self.bits |= bit;
                true
            }
        }
    }

    /// True if nothing is left. The key is here.
    fn remove<Q: Eq + ?Sized>(&mut self, hash: u64, depth: u32, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        match &mut self.kind {
            Kind::Leaf(entries) => {
                let left: Arc<[_]> = entries.iter().filter(|(k, _)| k.borrow() != key).cloned().collect();
                *entries = left;
                entries.is_empty()
            }
            Kind::Branch(children) => {
                let (bit, rank) = child(self.bits, hash, depth);
                if Arc::make_mut(children)[rank].remove(hash, depth + STRIDE, key) {
                    let (low, high) = children.split_at(rank);
                    *children = low.iter().chain(&high[1..]).cloned().collect();
                    self.bits &= !bit;
                }
                // A leaf that is alone moves up: the trie is as if what was removed had never been, and no branch is empty.
                if let [Node { kind: Kind::Leaf(_), .. }] = &**children {
                    *self = children[0].clone();
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys that meet: few hashes, some of which share all but their last bits.
    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    struct Key(u16);

    impl Hash for Key {
        fn hash<H: Hasher>(&self, state: &mut H) {
            state.write_u16(self.0 / 3);
        }
    }

    fn shape<K, V>(node: &Node<K, V>) -> String {
        match &node.kind {
            Kind::Leaf(entries) => format!("{:x}*{}", node.bits, entries.len()),
            Kind::Branch(children) => {
                format!("{:x}[{}]", node.bits, children.iter().map(shape).collect::<Vec<_>>().join(","))
            }
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_and_keeps_old_clones(
            ops in prop::collection::vec((any::<bool>(), 0_u16..400, any::<u16>()), 1..600)
        ) {
            let mut oracle = BTreeMap::new();
            let mut map = Map::default();
            let mut kept = Vec::new();
            for (i, (insert, key, value)) in ops.into_iter().enumerate() {
                if i % 50 == 0 {
                    kept.push((map.clone(), oracle.clone()));
                }
                let key = Key(key);
                if insert {
                    map.insert(key.clone(), value);
                    oracle.insert(key, value);
                } else {
                    prop_assert_eq!(map.remove(&key), oracle.remove(&key).is_some());
                }
            }
            let mut fresh = Map::default();
            oracle.iter().for_each(|(key, value)| fresh.insert(key.clone(), *value));
            prop_assert_eq!(map.root.as_ref().map(shape), fresh.root.as_ref().map(shape));
            kept.push((map, oracle));
            for (map, oracle) in kept {
                prop_assert_eq!(map.len(), oracle.len());
                prop_assert!((0..400).map(Key).all(|key| map.get(&key) == oracle.get(&key)));
                let mut all: Vec<_> = map.iter().map(|(key, &value)| (key.clone(), value)).collect();
                all.sort();
                prop_assert!(all.into_iter().eq(oracle));
            }
        }
    }

    #[test]
    fn holds_many_names_and_lets_go_of_all() {
        let mut map = Map::default();
        for i in 0..10_000_u32 {
            map.insert(format!("pod-{i}"), i);
        }
        map.insert("pod-7".to_owned(), 70);
        let old = map.clone();
        for i in 0..10_000_u32 {
            assert_eq!(map.get(format!("pod-{i}").as_str()), Some(&if i == 7 { 70 } else { i }));
            assert!(map.remove(format!("pod-{i}").as_str()));
            assert_eq!(map.get(format!("pod-{i}").as_str()), None);
        }
        assert!(map.is_empty());
        assert_eq!((old.get("pod-9999"), old.len()), (Some(&9999), 10_000));
    }

    #[test]
    fn a_change_copies_the_way_to_its_key() {
        let mut map = Map::default();
        (0..100_000_u32).for_each(|i| map.insert(i, i));
        let old = map.clone();
        map.insert(70_000, 1);
        let mut copied = Vec::new();
        let mut ways = vec![(old.root.as_ref().unwrap(), map.root.as_ref().unwrap())];
        while let Some((old, new)) = ways.pop() {
            match (&old.kind, &new.kind) {
                (Kind::Branch(old), Kind::Branch(new)) if !Arc::ptr_eq(old, new) => {
                    copied.push(new.len() * size_of::<Node<u32, u32>>());
                    ways.extend(old.iter().zip(new.iter()));
                }
                _ => {}
            }
        }
        assert!(copied.len() <= 4 && copied.iter().all(|&bytes| bytes <= 4096), "{copied:?}");
    }
}
