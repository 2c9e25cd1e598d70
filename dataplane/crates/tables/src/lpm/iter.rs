//! Iteration in prefix order: by address, and a shorter prefix before the longer ones of the same address.

use std::iter::FusedIterator;

use super::block::{self, Local};
use super::key::Key;
use super::{Branch, Node};

/// See [`Lpm::iter`](super::Lpm::iter).
pub struct Iter<'a, K> {
    stack: Vec<std::vec::IntoIter<Item<'a, K>>>,
}

enum Item<'a, K> {
    Prefix(K, u8, u32),
    Below(&'a Node<K>),
}

impl<'a, K: Key> Iter<'a, K> {
    pub(super) fn new(root: Option<&'a Node<K>>) -> Self {
        Self { stack: root.map(items).into_iter().collect() }
    }
}

/// What is in a node, in order: a child comes after the prefixes that hold it.
fn items<K: Key>(node: &Node<K>) -> std::vec::IntoIter<Item<'_, K>> {
    const BELOW: u8 = 9;
    let (key, depth) = (node.key(), node.depth());
    let mut items: Vec<((u8, u8), Item<'_, K>)> = block::prefixes::<K>(node.block())
        .map(|(Local { start, bits }, value)| {
            ((start, bits), Item::Prefix(key.with_byte(depth, start), depth * 8 + bits, value))
        })
        .collect();
    if let Node::Branch(branch) = node {
        items.extend(
            bytes(branch)
                .zip(branch.children.iter())
                .map(|(byte, child)| ((byte, BELOW), Item::Below(child))),
        );
    }
    items.sort_unstable_by_key(|&(order, _)| order);
    items.into_iter().map(|(_, item)| item).collect::<Vec<_>>().into_iter()
}

fn bytes<K: Key>(branch: &Branch<K>) -> impl Iterator<Item = u8> + '_ {
    (0..=u8::MAX).filter(|&byte| branch.has(byte))
}

impl<K: Key> Iterator for Iter<'_, K> {
    type Item = (K, u8, u32);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(top) = self.stack.last_mut() {
            match top.next() {
                Some(Item::Prefix(key, len, value)) => return Some((key, len, value)),
                Some(Item::Below(node)) => self.stack.push(items(node)),
                None => {
                    self.stack.pop();
                }
            }
        }
        None
    }
}

impl<K: Key> FusedIterator for Iter<'_, K> {}
