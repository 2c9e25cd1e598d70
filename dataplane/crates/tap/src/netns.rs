//! Network namespaces: opened and checked, compared, and entered by a thread made for it.
//!
//! Owns no namespace and makes none. What always holds: the calling thread's namespace never changes, and a descriptor
//! given out by [`open_netns`] is a network namespace and nothing else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::ioctl;

/// `CLONE_NEWNET`, as `NS_GET_NSTYPE` answers for a network namespace (`linux/sched.h`).
const CLONE_NEWNET: core::ffi::c_int = 0x4000_0000;

/// Why a network namespace could not be opened or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path could not be opened.
    #[error("opening network namespace {}: {errno}{}", path.display(), open_remedy(*errno))]
    Open {
        /// The path as it was given.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The path opens, but is no network namespace.
    #[error(
        "{} is not a network namespace but {found}: give a path such as /proc/PID/ns/net or /run/netns/NAME",
        path.display()
    )]
    NotNetns {
        /// The path as it was given.
        path: PathBuf,
        /// What it is, in words.
        found: &'static str,
    },
    /// `setns` was refused.
    #[error("entering the network namespace: {errno}{}", enter_remedy(*errno))]
    Enter {
        /// The kernel's answer.
        errno: Errno,
    },
    /// The thread that was to enter it could not be started.
    #[error("starting a thread to enter the network namespace: {0}")]
    Thread(std::io::Error),
    /// The descriptor's identity could not be read.
    #[error("reading a namespace's device and inode: {errno}")]
    Stat {
        /// The kernel's answer.
        errno: Errno,
    },
}

/// Opens a namespace by path and checks that it is a network namespace.
///
/// The check matters where the path is a caller's: a mount that is gone leaves an ordinary empty file at the same path.
///
/// # Errors
/// The path does not open, or is something else.
pub fn open_netns(path: impl AsRef<Path>) -> Result<OwnedFd, NetnsError> {
    let path = path.as_ref();
    // O_NONBLOCK, since a path that is a FIFO would otherwise hold the caller until someone writes to it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| NetnsError::Open { path: path.to_owned(), errno })?;
    let found = match ioctl::namespace_type(fd.as_fd()) {
        Ok(CLONE_NEWNET) => return Ok(fd),
        Ok(_) => "a namespace of another kind",
        Err(_) => "an ordinary file (its namespace may be gone)",
    };
    Err(NetnsError::NotNetns { path: path.to_owned(), found })
}

/// The calling thread's network namespace.
///
/// # Errors
/// `/proc` is not mounted, or file descriptors have run out.
pub fn current_netns() -> Result<OwnedFd, NetnsError> {
    open_netns("/proc/thread-self/ns/net")
}

/// What tells one namespace from another as long as one of them is held open: device and inode.
///
/// # Errors
/// None that an open descriptor gives in practice.
pub fn netns_id(netns: BorrowedFd<'_>) -> Result<(u64, u64), NetnsError> {
    let stat = rustix::fs::fstat(netns).map_err(|errno| NetnsError::Stat { errno })?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Runs `run` inside the namespace on a fresh thread, which ends with it, and gives back what it returned. Sockets and
/// devices it opens belong to that namespace; processes it starts run there. A panic in `run` goes on in the caller.
///
/// # Errors
/// The thread could not be started, or `setns` was refused; `run` was not called then.
pub fn in_netns<T: Send>(netns: BorrowedFd<'_>, run: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        let entered = || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
                .map_err(|errno| NetnsError::Enter { errno })?;
            Ok(run())
        };
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, entered)
            .map_err(NetnsError::Thread)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn open_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => ": it is gone, or was never made",
        Errno::ACCESS | Errno::PERM => ": run as root",
        Errno::MFILE | Errno::NFILE => {
            ": out of file descriptors; raise the limit (`ulimit -n`, LimitNOFILE=)"
        }
        _ => "",
    }
}

fn enter_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM => ": needs CAP_SYS_ADMIN in the namespace's user namespace and in the process's own",
        Errno::INVAL => ": the descriptor is no network namespace",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_network_namespace_is_refused_by_name() {
        let gone = open_netns("/proc/self/ns/no-such").unwrap_err().to_string();
        assert!(gone.contains("/proc/self/ns/no-such") && gone.contains("gone"), "{gone}");
        let other = open_netns("/proc/self/ns/mnt").unwrap_err().to_string();
        assert!(other.contains("of another kind"), "{other}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let plain = open_netns(file.path()).unwrap_err().to_string();
        assert!(plain.contains("ordinary file"), "{plain}");
    }

    #[test]
    fn the_current_namespace_has_one_identity() {
        let first = netns_id(current_netns().unwrap().as_fd()).unwrap();
        let second = netns_id(current_netns().unwrap().as_fd()).unwrap();
        assert_eq!(first, second);
    }
}
