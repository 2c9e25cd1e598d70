//! The bodies of the fuzz targets, on their seeds, on edited seeds and frames, and on random bytes: what a fuzzer does for
//! hours, done for a second wherever the tests run. The bodies compare with smoltcp.

#[path = "../../../fuzz/bodies/arp.rs"]
mod arp;
mod frames;
#[path = "../../../fuzz/bodies/ndp.rs"]
mod ndp;
#[path = "../../../fuzz/bodies/parse.rs"]
mod parse;

use frames::{Edit, edited, frame};
use proptest::prelude::*;
use proptest::sample::Index;

/// Name and bytes of the seeds of a target.
fn seeds(target: &str) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        seeds.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?));
    }
    seeds.sort();
    assert!(!seeds.is_empty());
    Ok(seeds)
}

#[test]
fn seeds_are_what_their_names_say() {
    for (name, bytes) in seeds("parse").unwrap() {
        parse::body(&bytes);
        let parsed = wire::parse(&bytes, bytes.len());
        assert_eq!(parsed.is_err(), name.starts_with("bad-"), "{name}: {parsed:?}");
    }
    for (name, bytes) in seeds("ndp").unwrap() {
        ndp::body(&bytes);
        assert!(bytes.len() > 8, "{name}");
    }
    for (name, bytes) in seeds("arp").unwrap() {
        arp::body(&bytes);
        let valid = matches!(name.as_str(), "request" | "reply" | "padded");
        assert_eq!(wire::ArpPacket::new_checked(&bytes[..]).is_ok(), valid, "{name}");
    }
}

fn seed_and_edits(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let seeds = seeds(target).unwrap_or_default();
    (any::<Index>(), prop::collection::vec(any::<Edit>(), 0..6)).prop_map(move |(seed, edits)| {
        let mut bytes = seeds[seed.index(seeds.len())].1.clone();
        edited(&mut bytes, &edits);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn parse_random(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        parse::body(&bytes);
    }

    /// An EtherType and an IP version in front of random bytes.
    #[test]
    fn parse_nearly_random(
        mut bytes in prop::collection::vec(any::<u8>(), 15..200),
        kind in prop::sample::select(&[[8, 0, 0x45], [8, 0, 0x47], [0x86, 0xdd, 0x60], [8, 6, 0]][..]),
    ) {
        bytes[12..15].copy_from_slice(&kind);
        parse::body(&bytes);
    }

    #[test]
    fn parse_edited_seeds(bytes in seed_and_edits("parse")) {
        parse::body(&bytes);
    }

    /// A frame that was built right is read right, and is one that the views agree on.
    #[test]
    fn parse_valid(frame in frame()) {
        parse::body(&frame.bytes);
        let parsed = wire::parse(&frame.bytes, frame.bytes.len());
        prop_assert_eq!(parsed.map(|p| (p.protocol, p.src_port, p.dst_port)), Ok(frame.transport));
        prop_assert_eq!(parsed.map(|p| usize::from(p.l4_offset)), Ok(frame.l4_offset));
        prop_assert_eq!(parsed.map(|p| p.frame_len as usize), Ok(frame.bytes.len() - frame.padding));
    }

    #[test]
    fn parse_edited(frame in frame(), edits in prop::collection::vec(any::<Edit>(), 1..4)) {
        let mut bytes = frame.bytes;
        edited(&mut bytes, &edits);
        parse::body(&bytes);
    }

    #[test]
    fn ndp_random(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 130u8..140) {
        ndp::body(&bytes);
        let mut bytes = bytes;
        if bytes.len() > 2 {
            bytes[1..3].copy_from_slice(&[kind, 0]);
            ndp::body(&bytes);
        }
    }

    #[test]
    fn ndp_edited_seeds(bytes in seed_and_edits("ndp")) {
        ndp::body(&bytes);
    }

    #[test]
    fn arp_edited_seeds(bytes in seed_and_edits("arp")) {
        arp::body(&bytes);
    }
}
