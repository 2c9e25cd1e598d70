//! The body of the fuzz target `classifier`, on its seeds and on random bytes: what a fuzzer does for hours, done for a second wherever the
//! tests run.

#[path = "../../../fuzz/bodies/classifier.rs"]
mod classifier;

use proptest::prelude::*;

#[test]
fn classifier_seeds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/classifier");
    let seeds: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        classifier::body(&std::fs::read(seed).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn classifier_random(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        classifier::body(&bytes);
    }
}
