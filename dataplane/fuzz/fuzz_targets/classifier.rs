#![no_main]

#[path = "../bodies/classifier.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::body(data));
