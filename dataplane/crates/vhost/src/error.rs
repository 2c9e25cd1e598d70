//! Why a port could not start. What goes wrong later, on its thread, is logged there and mended by a new connection.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// Longest socket path, in bytes: `sun_path` has 108, one of them for the terminating NUL.
pub(crate) const PATH_MAX: usize = 107;

/// Why a port could not start; each message names the port's socket.
#[derive(Debug, thiserror::Error)]
pub enum VhostError {
    /// Refused before the kernel was asked.
    #[error(
        "vhost-user socket path {} has {length} bytes and a Unix socket's path at most {PATH_MAX}: choose a shorter \
         folder", path.display()
    )]
    PathTooLong {
        /// The path as it was given.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// An empty path, or one with a NUL byte.
    #[error(
        "vhost-user socket path {path:?} is empty or holds a NUL byte: give one of 1 to {PATH_MAX} other bytes"
    )]
    PathInvalid {
        /// The path as it was given.
        path: PathBuf,
    },
    /// Something is at the path that is not ours to remove.
    #[error("vhost-user socket {}: a file that is no socket is there: remove it or choose another path", path.display())]
    NotASocket {
        /// The path as it was given.
        path: PathBuf,
    },
    /// Somebody listens there.
    #[error("vhost-user socket {}: another process listens there: end it or choose another path", path.display())]
    InUse {
        /// The path as it was given.
        path: PathBuf,
    },
    /// None, or more than messages can name.
    #[error("vhost-user socket {}: {queue_pairs} queue pairs: give 1 to 128", path.display())]
    QueuePairs {
        /// The path as it was given.
        path: PathBuf,
        /// How many were asked for.
        queue_pairs: u16,
    },
    /// The socket could not be made.
    #[error("vhost-user socket {}: {operation}: {error}{}", path.display(), socket_remedy(error))]
    Socket {
        /// The path as it was given.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The message thread, or what it waits with, could not be made.
    #[error("vhost-user socket {}: {operation}: {error}{}", path.display(), resource_remedy(error))]
    Resource {
        /// The path as it was given.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

fn resource_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            ": out of file descriptors; raise the limit (`ulimit -n`, LimitNOFILE=)"
        }
        Some(Errno::AGAIN | Errno::NOMEM) => {
            ": out of threads or memory; raise the limit (TasksMax=) or free some"
        }
        _ => "",
    }
}

fn socket_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": make the folder first",
        io::ErrorKind::PermissionDenied => ": run as root, or give this user the folder",
        _ => "",
    }
}
