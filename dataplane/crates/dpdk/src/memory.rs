//! Which memory EAL is given: hugepages where there are enough, else ordinary pages.
//!
//! Reads sysfs and decides; reserves nothing.

use std::fs;
use std::path::Path;

/// Whether to use hugepages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Huge {
    /// Where enough are free; else `--no-huge`.
    #[default]
    Auto,
    /// Always; a clear error where there are none.
    Yes,
    /// Never: 1.6 to 3 times the cost of receive and send, but runs anywhere.
    No,
}

/// Ordinary memory has to be sized in advance: enough for some 50,000 mbufs of 2 KB and the rings of a few ports.
pub(crate) const DEFAULT_NO_HUGE_MB: u32 = 256;

const SYSFS: &str = "/sys/kernel/mm/hugepages";

/// Free hugepages in MB, over all sizes.
pub(crate) fn free_hugepages_mb() -> u64 {
    free_mb_under(Path::new(SYSFS))
}

fn free_mb_under(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let kb: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let free: u64 =
                fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
            Some(free * kb / 1024)
        })
        .sum()
}

/// Whether to run on hugepages: the choice made, given what is wanted and what is there.
pub(crate) fn choose(huge: Huge, wanted_mb: Option<u32>, free_mb: u64) -> bool {
    match huge {
        Huge::Yes => true,
        Huge::No => false,
        Huge::Auto => free_mb >= u64::from(wanted_mb.unwrap_or(DEFAULT_NO_HUGE_MB)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_all_sizes() {
        let folder = std::env::temp_dir().join(format!("hugepages-test-{}", std::process::id()));
        for (size, free) in [("2048", "3\n"), ("1048576", "1\n"), ("64", "many\n")] {
            let one = folder.join(format!("hugepages-{size}kB"));
            fs::create_dir_all(&one).unwrap();
            fs::write(one.join("free_hugepages"), free).unwrap();
        }
        assert_eq!(free_mb_under(&folder), 6 + 1024);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(free_mb_under(&folder), 0);
    }

    #[test]
    fn auto_needs_enough() {
        assert!(choose(Huge::Auto, Some(64), 64));
        assert!(!choose(Huge::Auto, Some(65), 64));
        assert!(!choose(Huge::Auto, None, 64));
        assert!(choose(Huge::Yes, None, 0));
        assert!(!choose(Huge::No, None, 4096));
    }
}
