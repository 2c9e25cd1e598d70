#![no_main]

#[path = "../bodies/arp.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::body(data));
