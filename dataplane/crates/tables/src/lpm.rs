//! Longest-prefix match: a persistent trie that looks at a byte of the address a level.
//!
//! A clone is one reference. A change copies the nodes from the root to the prefix, and of each at most 4 KB of children and 100
//! bytes of head; the last one's prefixes are packed anew (at most 2.2 KB). Bytes that all prefixes below share are skipped, so
//! an IPv4 lookup passes at most four nodes, mostly two or three, and IPv6 as many as there are bytes in which prefixes differ.
//!
//! Nodes that hold no prefix have at least two children, and empty nodes are removed. Values are not zero: zero is
//! "none". Where nodes are shared with another generation they are never written to.

use std::sync::Arc;

use block::{Block, Local, Open};

mod block;
mod bulk;
mod iter;
mod key;

pub use iter::Iter;
pub use key::Key;

/// A set of prefixes with a value each, above zero. Cloning costs one reference count.
#[derive(Clone)]
pub struct Lpm<K> {
    root: Option<Node<K>>,
    len: usize,
}

/// Two words: a leaf's words are where the parent points, with no node in between.
#[derive(Clone)]
enum Node<K> {
    Leaf(Block),
    Branch(Arc<Branch<K>>),
}

#[derive(Clone)]
struct Branch<K> {
    key: K,
    depth: u8,
    /// Children before each eighth of the byte.
    before: [u8; 8],
    /// Which values of the byte have a child.
    present: [u32; 8],
    children: Arc<[Node<K>]>,
    /// No words if no prefix ends here.
    block: Block,
}

impl<K: Key> Lpm<K> {
    /// No prefixes.
    #[must_use]
    pub const fn new() -> Self {
        Self { root: None, len: 0 }
    }

    /// How many prefixes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of the longest prefix that holds `addr`; 0 if none does.
    #[inline]
    #[must_use]
    pub fn lookup(&self, addr: K) -> u32 {
        let mut best = 0;
        let mut next = self.root.as_ref();
        while let Some(node) = next {
            match node {
                Node::Leaf(block) => {
                    let depth = block::depth(block);
                    if block::key::<K>(block).common_bytes(addr) < depth {
                        break;
                    }
                    let found = block::find::<K>(block, addr.byte(depth));
                    return if found == 0 { best } else { found };
                }
                Node::Branch(branch) => {
                    if branch.key.common_bytes(addr) < branch.depth {
                        break;
                    }
                    let byte = addr.byte(branch.depth);
                    next = branch.child(byte);
                    if !branch.block.is_empty() {
                        let found = block::find::<K>(&branch.block, byte);
                        best = if found == 0 { best } else { found };
                    }
                }
            }
        }
        best
    }

    /// The value of exactly this prefix; 0 if it is not here. Bits of `key` past `len` do not matter.
    #[must_use]
    pub fn get(&self, key: K, len: u8) -> u32 {
        let (key, depth, local) = place(key, len);
        let mut next = self.root.as_ref();
        while let Some(node) = next {
            if node.depth() > depth || node.key().common_bytes(key) < node.depth() {
                break;
            }
            if node.depth() == depth {
                return block::get::<K>(node.block(), local);
            }
            next = match node {
                Node::Leaf(_) => None,
                Node::Branch(branch) => branch.child(key.byte(branch.depth)),
            };
        }
        0
    }

    /// Sets a prefix's value, which must not be 0, and returns the old one; 0 if it is new.
    pub fn insert(&mut self, key: K, len: u8, value: u32) -> u32 {
        debug_assert!(value != 0 && len <= K::BITS, "0 stands for no value");
        let (key, depth, local) = place(key, len);
        let mut old = 0;
        self.edit(&Place { key, depth }, &mut |open| old = open.set(local, value));
        self.len += usize::from(old == 0);
        old
    }

    /// Sets prefixes of one node, which is made if it is not there.
    fn edit(&mut self, place: &Place<K>, set: &mut impl FnMut(&mut Open)) {
        match &mut self.root {
            Some(node) => node.edit(place, set),
            None => self.root = Some(place.leaf(set)),
        }
    }

    /// Takes a prefix out and returns its value; 0 if it was not here, and then nothing is copied.
    pub fn remove(&mut self, key: K, len: u8) -> u32 {
        if self.get(key, len) == 0 {
            return 0;
        }
        let (key, depth, local) = place(key, len);
        let Some(node) = &mut self.root else { return 0 };
        let mut old = 0;
        let empty = node.remove(&Place { key, depth }, &mut |open| old = open.set(local, 0));
        if empty {
            self.root = None;
        }
        self.len -= 1;
        old
    }

    /// All prefixes as (address, length, value), by address and then by length.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K> {
        Iter::new(self.root.as_ref())
    }

    /// What the trie takes, in bytes: contents and reference counts of all nodes, shared or not.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let mut sum = 0;
        self.walk(&mut |_, bytes| {
            sum += bytes;
            true
        });
        sum
    }

    /// Visits each allocation (address and bytes); goes below a node only where `visit` says so.
    fn walk(&self, visit: &mut impl FnMut(usize, usize) -> bool) {
        if let Some(node) = &self.root {
            node.walk(visit);
        }
    }
}

impl<K: Key> Default for Lpm<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a prefix belongs: the node's depth and address, and which of its prefixes.
fn place<K: Key>(key: K, len: u8) -> (K, u8, Local) {
    let key = key.masked(len);
    let depth = len.saturating_sub(1) / 8;
    let local = Local { start: key.byte(depth), bits: len - depth * 8 };
    (key, depth, local)
}

/// A node, there or not. Bytes of the key past the depth do not matter.
struct Place<K> {
    key: K,
    depth: u8,
}

impl<K: Key> Place<K> {
    /// The node with what is set as its only prefixes.
    fn leaf(&self, set: &mut impl FnMut(&mut Open)) -> Node<K> {
        Node::Leaf(self.block(&[], set))
    }

    /// A block with a change made.
    fn block(&self, old: &[u32], change: &mut impl FnMut(&mut Open)) -> Block {
        let mut open = Open::new::<K>(old);
        change(&mut open);
        if open.is_empty() {
            Block::default()
        } else {
            open.pack(self.key.masked(self.depth * 8), self.depth)
        }
    }
}

impl<K: Key> Branch<K> {
    fn new(key: K, depth: u8, block: Block) -> Self {
        let (before, present) = ([0; 8], [0; 8]);
        Self { key: key.masked(depth * 8), depth, before, present, children: Arc::default(), block }
    }

    #[inline]
    fn has(&self, byte: u8) -> bool {
        self.present[usize::from(byte >> 5)] >> (byte & 31) & 1 == 1
    }

    /// Children below `byte`.
    #[inline]
    fn rank(&self, byte: u8) -> usize {
        let eighth = usize::from(byte >> 5);
        let below = self.present[eighth] & ((1 << (byte & 31)) - 1);
        usize::from(self.before[eighth]) + below.count_ones() as usize
    }

    #[inline]
    fn child(&self, byte: u8) -> Option<&Node<K>> {
        if self.has(byte) { self.children.get(self.rank(byte)) } else { None }
    }

    fn child_mut(&mut self, byte: u8) -> Option<&mut Node<K>> {
        let rank = self.rank(byte);
        if self.has(byte) { Arc::make_mut(&mut self.children).get_mut(rank) } else { None }
    }

    fn add_child(&mut self, byte: u8, node: Node<K>) {
        let (low, high) = self.children.split_at(self.rank(byte));
        self.children = low.iter().cloned().chain([node]).chain(high.iter().cloned()).collect();
        self.present[usize::from(byte >> 5)] |= 1 << (byte & 31);
        self.count();
    }

    fn remove_child(&mut self, byte: u8) {
        let rank = self.rank(byte);
        let (low, high) = self.children.split_at(rank);
        self.children = low.iter().chain(high.iter().skip(1)).cloned().collect();
        self.present[usize::from(byte >> 5)] &= !(1 << (byte & 31));
        self.count();
    }

    fn count(&mut self) {
        let mut sum = 0;
        for (before, present) in self.before.iter_mut().zip(self.present) {
            // At most 224 before the last eighth.
            *before = u8::try_from(sum).unwrap_or(u8::MAX);
            sum += present.count_ones();
        }
    }
}

impl<K: Key> Node<K> {
    fn depth(&self) -> u8 {
        match self {
            Self::Leaf(block) => block::depth(block),
            Self::Branch(branch) => branch.depth,
        }
    }

    fn key(&self) -> K {
        match self {
            Self::Leaf(block) => block::key(block),
            Self::Branch(branch) => branch.key,
        }
    }

    fn block(&self) -> &Block {
        match self {
            Self::Leaf(block) => block,
            Self::Branch(branch) => &branch.block,
        }
    }

    fn set_block(&mut self, new: Block)
    where
        K: Clone,
    {
        match self {
            Self::Leaf(block) => *block = new,
            Self::Branch(branch) => Arc::make_mut(branch).block = new,
        }
    }

    fn edit(&mut self, place: &Place<K>, set: &mut impl FnMut(&mut Open)) {
        let depth = self.depth();
        let common = self.key().common_bytes(place.key).min(depth).min(place.depth);
        if common < depth {
            // The prefix ends above this node, or goes another way before it: a branch comes between.
            let ends_here = common == place.depth;
            let block = if ends_here { place.block(&[], set) } else { Block::default() };
            let mut branch = Branch::new(place.key, common, block);
            branch.add_child(self.key().byte(common), self.clone());
            if !ends_here {
                branch.add_child(place.key.byte(common), place.leaf(set));
            }
            *self = Self::Branch(Arc::new(branch));
            return;
        }
        if place.depth == depth {
            let block = place.block(self.block(), set);
            self.set_block(block);
            return;
        }
        let byte = place.key.byte(depth);
        if let Self::Leaf(block) = self {
            let branch = Branch::new(place.key, depth, Arc::clone(block));
            *self = Self::Branch(Arc::new(branch));
        }
        let Self::Branch(branch) = self else { return };
        let branch = Arc::make_mut(branch);
        if let Some(child) = branch.child_mut(byte) {
            return child.edit(place, set);
        }
        branch.add_child(byte, place.leaf(set));
    }

    /// Takes out a prefix that is here. Returns whether the node is empty now.
    fn remove(&mut self, place: &Place<K>, take: &mut impl FnMut(&mut Open)) -> bool {
        if place.depth == self.depth() {
            let block = place.block(self.block(), take);
            self.set_block(block);
        } else {
            let Self::Branch(branch) = self else { return false };
            let branch = Arc::make_mut(branch);
            let byte = place.key.byte(branch.depth);
            let Some(child) = branch.child_mut(byte) else { return false };
            if child.remove(place, take) {
                branch.remove_child(byte);
            }
        }
        // A branch without children is a leaf; one without prefixes and with one child is that child.
        if let Self::Branch(branch) = self {
            match branch.children.as_ref() {
                [] => *self = Self::Leaf(Arc::clone(&branch.block)),
                [only] if branch.block.is_empty() => *self = only.clone(),
                _ => {}
            }
        }
        matches!(self, Self::Leaf(block) if block.is_empty())
    }

    fn walk(&self, visit: &mut impl FnMut(usize, usize) -> bool) {
        // The two reference counts of an allocation.
        const COUNTS: usize = 16;
        let mut words = |block: &Block| {
            block.is_empty() || visit(Arc::as_ptr(block).addr(), COUNTS + size_of_val::<[u32]>(block))
        };
        match self {
            Self::Leaf(block) => {
                words(block);
            }
            Self::Branch(branch) => {
                words(&branch.block);
                let (head, children) = (Arc::as_ptr(branch).addr(), &branch.children);
                if visit(head, COUNTS + size_of::<Branch<K>>())
                    && visit(Arc::as_ptr(children).addr(), COUNTS + size_of_val::<[Node<K>]>(children))
                {
                    for child in children.iter() {
                        child.walk(visit);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
