//! Words of memory, lent as atomics for as long as the process lives: the process's own, or a file's.
//!
//! Owns how they are mapped, and the lock by which two processes never share a file. What the words mean is for whoever asked.
//! What always holds: a mapping is never taken away again, so that a slice of it may be kept anywhere; and all access is by
//! atomics, for another mapping of the same file may change them.

mod file;
mod map;

pub use file::{FileError, file};
pub use map::anonymous;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::{fs, io};

    use super::*;

    fn set(word: &AtomicU64, value: u64) {
        word.store(value, Ordering::Relaxed);
    }

    #[test]
    fn anonymous_words_are_zero_and_stay() {
        let words = anonymous(100_000).unwrap();
        assert_eq!(words.len(), 100_000);
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        set(&words[99_999], 7);
        assert_eq!(words[99_999].load(Ordering::Relaxed), 7);
        assert!(anonymous(0).unwrap().is_empty());
        assert_eq!(anonymous(usize::MAX).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert!(anonymous(1 << 58).is_err());
    }

    #[test]
    fn a_file_has_its_words_and_one_user_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("words");
        // An earlier, shorter one with too wide a mode.
        fs::write(&path, 5_u64.to_ne_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let words = file(&path, 1000).unwrap();
        assert_eq!((words.len(), words[0].load(Ordering::Relaxed)), (1000, 5));
        assert_eq!(words[999].load(Ordering::Relaxed), 0);
        set(&words[999], 9);
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[7992..]), (8000, 9_u64.to_ne_bytes().as_slice()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = file(&path, 1000).unwrap_err();
        assert!(matches!(again, FileError::InUse { .. }) && again.to_string().contains("words"), "{again}");
    }

    #[test]
    fn what_is_no_plain_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(file(dir.path(), 8), Err(FileError::Open { .. })));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(file(&link, 8), Err(FileError::Open { .. })));
        assert!(matches!(file(&dir.path().join("none/words"), 8), Err(FileError::Open { .. })));
        let large = file(&dir.path().join("large"), 1 << 58).unwrap_err();
        assert!(matches!(large, FileError::Grow { .. }), "{large}");
    }
}
