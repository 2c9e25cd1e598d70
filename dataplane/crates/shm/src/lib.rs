//! placeholder
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
pub fn anonymous(words: usize) -> io::Result<&'static [AtomicU64]> {
    Ok(Vec::leak((0..words).map(|_| AtomicU64::new(0)).collect()))
}
pub fn file(_path: &Path, words: usize) -> io::Result<&'static [AtomicU64]> {
    anonymous(words)
}
