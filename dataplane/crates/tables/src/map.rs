//! A persistent map from names, prefixes and the like: 4,096 buckets in a [`Chunked`] vector, each a short list.
//!
//! A change copies one bucket (64 entries at the 262,144 that there may be) and the way to it. Only the writer looks here,
//! never the path of a packet.

use std::borrow::Borrow;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::chunked::Chunked;

const BUCKETS: u64 = 4096;

/// From `K` to `V`; both are small, or references.
pub(crate) struct Map<K, V> {
    buckets: Chunked<Vec<(K, V)>>,
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { buckets: self.buckets.clone() }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { buckets: Chunked::default() }
    }
}

fn bucket<Q: Hash + ?Sized>(key: &Q) -> u32 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    u32::try_from(hasher.finish() % BUCKETS).unwrap_or(0)
}

impl<K: Hash + Eq + Clone, V: Copy> Map<K, V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.buckets.len() == 0
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.buckets.get(bucket(key))?.iter().find(|(k, _)| k.borrow() == key).map(|&(_, value)| value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let number = bucket(&key);
        let Some(bucket) = self.buckets.get_mut(number) else {
            self.buckets.set(number, vec![(key, value)]);
            return;
        };
        match bucket.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = value,
            None => bucket.push((key, value)),
        }
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let number = bucket(key);
        let Some(bucket) = self.buckets.get_mut(number) else { return };
        bucket.retain(|(k, _)| k.borrow() != key);
        if bucket.is_empty() {
            self.buckets.remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_more_entries_than_buckets_and_lets_go_of_all() {
        let mut map = Map::default();
        for i in 0..10_000_u32 {
            map.insert(format!("pod-{i}"), i);
        }
        map.insert("pod-7".to_owned(), 70);
        let old = map.clone();
        for i in 0..10_000_u32 {
            assert_eq!(map.get(format!("pod-{i}").as_str()), Some(if i == 7 { 70 } else { i }));
            map.remove(format!("pod-{i}").as_str());
            assert_eq!(map.get(format!("pod-{i}").as_str()), None);
        }
        assert!(map.is_empty());
        assert_eq!(old.get("pod-9999"), Some(9999));
    }
}
