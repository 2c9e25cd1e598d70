//! The pod's network namespace, as the runtime's path names it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FsWord, Mode, OFlags, fstat, fstatfs, open as open_file, stat};
use rustix::io::Errno;

use crate::env::{netns_override, shown};
use crate::error::{Failure, code};

/// The file system of namespaces (statfs(2), linux/magic.h).
const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// Opens `CNI_NETNS`, and refuses what is no namespace and the namespace that the runtime itself is in: attaching the
/// node's own as a pod would take its network away.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, Failure> {
    let named = format!("CNI_NETNS {}", shown(path));
    let failed = |error: Errno| {
        let code = if error == Errno::NOENT { code::ENVIRONMENT } else { code::IO };
        Failure::new(code, format!("{named}: {}", io::Error::from(error)))
    };
    // Not blocking, lest the path be a FIFO that nobody writes to.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let netns = open_file(path, flags, Mode::empty()).map_err(failed)?;
    if fstatfs(&netns).map_err(failed)?.f_type != NSFS_MAGIC {
        return Err(Failure::new(code::ENVIRONMENT, format!("{named} is no network namespace"))
            .details("it is a path as /var/run/netns/NAME or /proc/PID/ns/net"));
    }
    let own = stat("/proc/self/ns/net").map_err(failed)?;
    let theirs = fstat(&netns).map_err(failed)?;
    if (own.st_dev, own.st_ino) == (theirs.st_dev, theirs.st_ino) && !netns_override() {
        return Err(Failure::new(
            code::ENVIRONMENT,
            format!("{named} is the namespace that the plug-in itself runs in"),
        )
        .details("pods have one of their own; CNI_NETNS_OVERRIDE=1 permits it for tests"));
    }
    Ok(netns)
}
