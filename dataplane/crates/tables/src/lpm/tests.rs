//! Against a `BTreeMap` and a scan; old clones; and what a change copies.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

type Oracle<K> = BTreeMap<(K, u8), u32>;

fn oracle_lookup<K: Key>(oracle: &Oracle<K>, addr: K) -> u32 {
    (0..=K::BITS).rev().find_map(|len| oracle.get(&(addr.masked(len), len)).copied()).unwrap_or(0)
}

/// All that must hold of a trie, whatever was done to it before.
fn check<K: Key>(trie: &Lpm<K>, oracle: &Oracle<K>, probes: &[K]) {
    assert_eq!(trie.len(), oracle.len());
    assert_eq!(trie.is_empty(), oracle.is_empty());
    assert!(
        trie.iter().map(|(key, len, value)| ((key, len), value)).eq(oracle.iter().map(|(&k, &v)| (k, v)))
    );
    for &addr in probes {
        assert_eq!(trie.lookup(addr), oracle_lookup(oracle, addr), "{addr:x?}");
    }
    if let Some(root) = &trie.root {
        check_node(root);
    }
}

/// No empty leaf, no branch without need, children further down and of the node's own address.
fn check_node<K: Key>(node: &Node<K>) {
    match node {
        Node::Leaf(block) => assert!(block::prefixes::<K>(block).next().is_some()),
        Node::Branch(branch) => {
            let least = if branch.block.is_empty() { 2 } else { 1 };
            assert!(branch.children.len() >= least);
            let bytes: Vec<u8> = (0..=255).filter(|&byte| branch.has(byte)).collect();
            assert_eq!(bytes.len(), branch.children.len());
            for (byte, child) in bytes.into_iter().zip(branch.children.iter()) {
                assert!(child.depth() > branch.depth);
                assert_eq!(child.key().byte(branch.depth), byte);
                assert!(child.key().common_bytes(branch.key) >= branch.depth);
                check_node(child);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Op<K> {
    Insert(K, u8, u32),
    InsertAll(Vec<(K, u8, u32)>),
    Remove(K, u8),
    /// Keep a clone of what is there now.
    Keep,
}

/// Addresses that share bytes with each other, so that prefixes nest, meet and part at every depth.
fn addresses<K: Key>() -> impl Strategy<Value = K> {
    let byte =
        prop_oneof![4 => prop_oneof![Just(0_u8), Just(1), Just(127), Just(128), Just(255)], 1 => any::<u8>()];
    prop::collection::vec(byte, 16).prop_map(|bytes| {
        let mut key = K::from_words(&[0; 4]);
        for depth in 0..K::BITS / 8 {
            // Deep bytes are mostly alike, as in real tables.
            let byte = bytes[usize::from(depth)];
            key = key.with_byte(depth, if depth > 2 && depth < 7 { byte & 1 } else { byte });
        }
        key
    })
}

fn lengths<K: Key>() -> impl Strategy<Value = u8> {
    let edges: &[u8] = if K::BITS == 32 {
        &[0, 1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32]
    } else {
        &[0, 1, 8, 32, 47, 48, 49, 63, 64, 65, 120, 127, 128]
    };
    prop_oneof![3 => prop::sample::select(edges), 1 => 0..=K::BITS]
}

fn ops<K: Key>() -> impl Strategy<Value = Vec<Op<K>>> {
    let op = prop_oneof![
        6 => (addresses(), lengths::<K>(), 1_u32..9).prop_map(|(key, len, value)| Op::Insert(key, len, value)),
        1 => prop::collection::vec((addresses(), lengths::<K>(), 1_u32..9), 0..60).prop_map(Op::InsertAll),
        4 => (addresses(), lengths::<K>()).prop_map(|(key, len)| Op::Remove(key, len)),
        1 => Just(Op::Keep),
    ];
    prop::collection::vec(op, 1..150)
}

fn run<K: Key>(ops: Vec<Op<K>>, mut probes: Vec<K>) {
    let mut trie = Lpm::new();
    let mut oracle = Oracle::new();
    let mut kept = vec![];
    for op in ops {
        match op {
            Op::Insert(key, len, value) => {
                probes.push(key);
                let old = oracle.insert((key.masked(len), len), value).unwrap_or(0);
                assert_eq!(trie.insert(key, len, value), old);
                assert_eq!(trie.get(key, len), value);
            }
            Op::InsertAll(rows) => {
                probes.extend(rows.iter().map(|&(key, ..)| key));
                // One by one comes to the same trie.
                let mut single = trie.clone();
                for &(key, len, value) in &rows {
                    single.insert(key, len, value);
                }
                let mut seen = 0;
                trie.insert_all(&mut rows.clone(), |key, len, value, old| {
                    let before = oracle.insert((key.masked(len), len), value).unwrap_or(0);
                    assert_eq!(before, old);
                    seen += 1;
                    value
                });
                assert_eq!(seen, rows.len());
                assert!(trie.iter().eq(single.iter()));
                assert_eq!(trie.heap_bytes(), single.heap_bytes());
                assert_eq!(trie.len(), single.len());
            }
            Op::Remove(key, len) => {
                // Half of the removals aim at something that is there.
                let near = oracle.range((key, len)..).next().map(|(&at, _)| at);
                let (key, len) = near.filter(|_| len % 2 == 0).unwrap_or((key, len));
                let old = oracle.remove(&(key.masked(len), len)).unwrap_or(0);
                assert_eq!(trie.remove(key, len), old);
                assert_eq!(trie.get(key, len), 0);
            }
            Op::Keep => kept.push((trie.clone(), oracle.clone())),
        }
    }
    kept.push((trie.clone(), oracle.clone()));
    for (trie, oracle) in &kept {
        check(trie, oracle, &probes);
    }
    for &(key, len) in oracle.keys() {
        assert_ne!(trie.remove(key, len), 0);
    }
    check(&trie, &Oracle::new(), &probes);
    assert_eq!(trie.heap_bytes(), 0, "nodes are left behind");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn ipv4_equals_the_oracle(ops in ops::<u32>(), probes in prop::collection::vec(addresses(), 50)) {
        run(ops, probes);
    }

    #[test]
    fn ipv6_equals_the_oracle(ops in ops::<u128>(), probes in prop::collection::vec(addresses(), 50)) {
        run(ops, probes);
    }

    #[test]
    fn ipv4_equals_the_oracle_on_addresses_far_apart(
        rows in prop::collection::vec((any::<u32>(), 0_u8..=32, 1_u32..), 0..300),
        probes in prop::collection::vec(any::<u32>(), 50),
    ) {
        run(rows.into_iter().map(|(key, len, value)| Op::Insert(key, len, value)).collect(), probes);
    }
}

/// Every prefix that one node can have, and all 256 children below it.
#[test]
fn a_full_node_in_the_middle() {
    let (mut trie, mut oracle) = (Lpm::new(), Oracle::new());
    for len in 9..=16 {
        for bits in 0..1_u32 << (len - 8) {
            let key = 0x0a00_0000 | bits << (32 - len);
            trie.insert(key, u8::try_from(len).unwrap(), key | len);
            oracle.insert((key, u8::try_from(len).unwrap()), key | len);
        }
    }
    for byte in 0..256 {
        let key = 0x0a00_0100 | byte << 16;
        trie.insert(key, 24, 7);
        oracle.insert((key, 24), 7);
    }
    let probes: Vec<u32> = (0..1 << 17).map(|i| 0x0a00_0000 + i * 129).collect();
    check(&trie, &oracle, &probes);
}

#[test]
fn the_default_route_and_the_ends_of_the_space() {
    let mut trie = Lpm::<u128>::new();
    assert_eq!(trie.insert(u128::MAX, 0, 1), 0);
    trie.insert(u128::MAX, 128, 2);
    trie.insert(0, 128, 3);
    assert_eq!([0, 1, u128::MAX - 1, u128::MAX].map(|addr| trie.lookup(addr)), [3, 1, 1, 2]);
    assert_eq!(trie.iter().collect::<Vec<_>>(), [(0, 0, 1), (0, 128, 3), (u128::MAX, 128, 2)]);
    assert_eq!(trie.remove(0, 0), 1);
    assert_eq!([0, 1, u128::MAX].map(|addr| trie.lookup(addr)), [3, 0, 2]);
}

#[test]
fn a_child_is_two_words() {
    assert_eq!(size_of::<Node<u32>>(), 16);
    assert_eq!(size_of::<Node<u128>>(), 16);
}

/// Allocations of `new` that `old` has not, and their bytes.
fn not_shared<K: Key>(old: &Lpm<K>, new: &Lpm<K>) -> Vec<usize> {
    let mut had = HashSet::new();
    old.walk(&mut |at, _| had.insert(at));
    let mut copied = vec![];
    new.walk(&mut |at, bytes| {
        let fresh = !had.contains(&at);
        if fresh {
            copied.push(bytes);
        }
        fresh
    });
    copied
}

/// 200,000 prefixes with all 256 children in the upper nodes: the most that a change can copy.
fn dense<K: Key>(spread: impl Fn(u32) -> K, len: u8) -> Lpm<K> {
    let mut trie = Lpm::new();
    for i in 0..200_000_u32 {
        trie.insert(spread(i), len, i + 1);
    }
    assert_eq!(trie.len(), 200_000);
    trie
}

fn assert_bounded<K: Key>(old: &Lpm<K>, levels: usize, changes: &[(K, u8)]) {
    for &(key, len) in changes {
        let mut new = old.clone();
        if new.remove(key, len) == 0 {
            new.insert(key, len, 9);
        }
        let copied = not_shared(old, &new);
        // A node is at most a head, its children and its prefixes.
        assert!(copied.len() <= 3 * levels, "{} allocations", copied.len());
        assert!(copied.iter().all(|&bytes| bytes <= 4096 + 16), "{copied:?}");
        // A level's copy is its children and head; only the last node's prefixes are new.
        let bytes: usize = copied.iter().sum();
        assert!(bytes <= levels * (4096 + 192) + 2400, "{bytes} bytes");
        assert_ne!(bytes, 0);
    }
}

#[test]
fn one_change_among_many_copies_a_path() {
    // Bits reversed, so that every node is as full as can be.
    let v4 = dense(|i| i.reverse_bits() & 0xffff_c000 | i >> 10, 32);
    assert_bounded(
        &v4,
        4,
        &[(0xa5a5_a5a5, 32), (v4.iter().nth(77_777).unwrap().0, 32), (0, 0), (0x0a0b_0000, 16)],
    );

    let v6 = dense(|i| 0x2001_0db8 << 96 | u128::from(i.reverse_bits()) << 64 | 1, 128);
    let there = v6.iter().nth(123_456).unwrap().0;
    assert_bounded(
        &v6,
        5,
        &[(there, 128), (there + 1, 128), (0, 0), (0x2001_0db8 << 96, 32), (0xfd << 120, 8)],
    );
}
