//! Eventfds of ours and of the peer's: waking the message thread, the worker's doorbell, kick and call.
//!
//! What always holds: every write and read here is on a descriptor that was made or set non-blocking.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// A new eventfd, non-blocking and close-on-exec.
pub(crate) fn create() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Adds one. A counter that is full has been signalled already, and a peer that closed its end is found out elsewhere:
/// nothing is to be done about either here.
pub(crate) fn signal(fd: impl AsFd) {
    while let Err(Errno::INTR) = rustix::io::write(&fd, &1u64.to_ne_bytes()) {}
}

/// Sets the counter back to 0.
pub(crate) fn drain(fd: impl AsFd) {
    while let Err(Errno::INTR) = rustix::io::read(&fd, &mut [0u8; 8]) {}
}

/// Takes a descriptor that the peer passed as an eventfd. Anything else (a pipe that may be full, a file on a disk that
/// hangs) could hold us up on a write, so it is refused; and `O_NONBLOCK` is set on what is taken.
pub(crate) fn from_peer(file: File) -> io::Result<OwnedFd> {
    let fd = OwnedFd::from(file);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        let what = format!("the peer passed {} where an eventfd belongs", link.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    if !flags.contains(OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_eventfd_is_taken_from_a_peer_and_it_never_blocks() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let refused = from_peer(File::from(OwnedFd::from(reader))).unwrap_err();
        assert!(refused.to_string().contains("where an eventfd belongs"), "{refused}");

        let blocking = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let taken = from_peer(File::from(blocking)).unwrap();
        drain(&taken);
        rustix::io::write(&taken, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        signal(&taken);
        let mut count = [0; 8];
        rustix::io::read(&taken, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), u64::MAX - 1);
    }
}
