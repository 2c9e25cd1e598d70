#![no_main]

#[path = "../bodies/ndp.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::body(data));
