//! Words in a file: made or opened, locked, and long enough.

use std::io;
use std::os::fd::{AsFd, IntoRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use rustix::fs::{
    FallocateFlags, FileType, FlockOperation, Mode, OFlags, fallocate, fchmod, flock, fstat, ftruncate, open,
};
use rustix::io::Errno;

use crate::map;

/// Why a file's words cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be made, opened or asked about.
    #[error("{path} cannot be opened: {source}; name a file in a folder that this user can write")]
    Open {
        /// As given.
        path: PathBuf,
        /// From the kernel.
        source: io::Error,
    },
    /// A folder, a device, or somebody else's file.
    #[error(
        "{path} is not a plain file of this user's: others could make it shorter, which would end this process; \
         remove it or name another"
    )]
    NotOurs {
        /// As given.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("{path} is in use by another process: end that one first, or name another file")]
    InUse {
        /// As given.
        path: PathBuf,
    },
    /// It cannot be made long enough.
    #[error("{path} cannot grow to {bytes} bytes: {source}; make room there, or ask for a smaller table")]
    Grow {
        /// As given.
        path: PathBuf,
        /// As needed.
        bytes: u64,
        /// From the kernel.
        source: io::Error,
    },
    /// It cannot be mapped, or not locked.
    #[error("{path} cannot be mapped: {source}; name a file in a tmpfs, such as /dev/shm or /run")]
    Map {
        /// As given.
        path: PathBuf,
        /// From the kernel.
        source: io::Error,
    },
}

/// The first words of the file: zeros in a new one, otherwise what an earlier process left. The file is made if need be, for
/// this user alone; the lock on it is held until this process ends, however it ends.
///
/// Whoever makes the file shorter ends this process by SIGBUS. The lock keeps out other processes that ask, and the mode
/// those of other users; a program of this user that truncates it all the same is taken to mean it.
///
/// # Errors
/// Each says what to do.
pub fn file(path: &Path, words: usize) -> Result<&'static [AtomicU64], FileError> {
    let of = || path.to_path_buf();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let owner_only = Mode::RUSR | Mode::WUSR;
    let not_opened = |error: Errno| FileError::Open { path: of(), source: error.into() };
    let file = open(path, flags, owner_only).map_err(not_opened)?;
    let stat = fstat(&file).map_err(not_opened)?;
    let user = rustix::process::geteuid();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_uid != user.as_raw() {
        return Err(FileError::NotOurs { path: of() });
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(FileError::InUse { path: of() }),
        Err(error) => return Err(FileError::Map { path: of(), source: error.into() }),
    }
    // One that was there already may have been made with another mode.
    fchmod(&file, owner_only).map_err(not_opened)?;

    let bytes = words.checked_mul(size_of::<AtomicU64>()).and_then(|bytes| u64::try_from(bytes).ok());
    let bytes = bytes.unwrap_or(u64::MAX);
    // Asked for anew, for the size of before the lock may have been another process's doing.
    let stat = fstat(&file).map_err(not_opened)?;
    let not_grown = |error: Errno| FileError::Grow { path: of(), bytes, source: error.into() };
    if u64::try_from(stat.st_size).unwrap_or(0) < bytes {
        ftruncate(&file, bytes).map_err(not_grown)?;
    }
    // A hole without room behind it would be a SIGBUS in the middle of a burst; better an error now.
    match fallocate(&file, FallocateFlags::empty(), 0, bytes.max(1)) {
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(not_grown(error)),
    }
    // SAFETY: it is as long as `words`, and the lock and the mode keep others from making it shorter, as said above.
    let mapped = unsafe { map::shared(file.as_fd(), words) };
    let mapped = mapped.map_err(|source| FileError::Map { path: of(), source })?;
    // Never closed: the lock goes with the process.
    let _held = file.into_raw_fd();
    Ok(mapped)
}
