//! The control half of a port: starts the message thread, says how the peer is, and takes everything down again.
//!
//! Owns the socket's path: what it made it removes, unless someone has put another file there since.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::epoll;
use rustix::io::Errno;

use crate::connection::{Endpoint, KICK, Link, MessageThread, connect};
use crate::device::Device;
use crate::error::{PATH_MAX, VhostError};
use crate::ring::SharedRing;
use crate::rx::VhostRx;
use crate::tx::VhostTx;

/// Who makes the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// We listen, and the front end (the VM) connects.
    Server,
    /// The front end listens, and we connect, again and again until it is there.
    Client,
}

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostConfig {
    /// The socket's path, 1 to 107 bytes.
    pub path: PathBuf,
    /// Who makes the socket.
    pub mode: Mode,
    /// The port's name in log lines.
    pub name: String,
}

/// How the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// No front end is connected.
    Disconnected,
    /// A front end is connected, and its driver has not set up both rings.
    Connected,
    /// Both rings run.
    Running,
}

impl From<PeerState> for u8 {
    fn from(state: PeerState) -> u8 {
        match state {
            PeerState::Disconnected => 0,
            PeerState::Connected => 1,
            PeerState::Running => 2,
        }
    }
}

impl From<u8> for PeerState {
    fn from(number: u8) -> PeerState {
        match number {
            0 => PeerState::Disconnected,
            1 => PeerState::Connected,
            _ => PeerState::Running,
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PeerState::Disconnected => "disconnected",
            PeerState::Connected => "connected",
            PeerState::Running => "running",
        })
    }
}

/// A port's control half. Dropping it closes the connection, joins the thread, and removes the socket it made; the worker's
/// halves then find nothing more, and may be dropped before or after.
///
/// ```no_run
/// # use podrouter_vhost::{Mode, Received, Sent, VhostConfig, VhostPort};
/// let config = VhostConfig { path: "/run/podrouter/vm1".into(), mode: Mode::Server, name: "vm1".into() };
/// let (port, mut rx, mut tx) = VhostPort::start(config, None)?;
/// let mut frame = [0; 2048];
/// let mut burst = rx.burst(); // takes the ring's lock; dropping it gives the descriptors back and signals
/// while let Received::Frame(length) = burst.receive(&mut frame) {
///     let sent = tx.burst().send(&[&frame[..length]]);
///     assert!(sent == Sent::Ok || sent == Sent::Full);
/// }
/// # Ok::<(), podrouter_vhost::VhostError>(())
/// ```
#[derive(Debug)]
pub struct VhostPort {
    link: Arc<Link>,
    path: PathBuf,
    /// Device and inode of the socket that we made.
    made: Option<(u64, u64)>,
    thread: Option<JoinHandle<()>>,
}

impl VhostPort {
    /// Starts a port: the socket listens when this returns (server), or is being tried (client). `doorbell` is an eventfd of
    /// the worker's; it is rung as [`VhostRx::arm_doorbell`] says, and whenever a ring starts.
    ///
    /// # Errors
    /// A bad path, one that is in use, or a lack of descriptors or threads.
    pub fn start(
        config: VhostConfig,
        doorbell: Option<OwnedFd>,
    ) -> Result<(VhostPort, VhostRx, VhostTx), VhostError> {
        let VhostConfig { path, mode, name } = config;
        check_path(&path)?;
        let resource = |operation: &'static str| {
            let path = path.clone();
            move |error: io::Error| VhostError::Resource { path, operation, error }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| resource("making an epoll set")(errno.into()))?;
        let epoll = Arc::new(epoll);
        let link = Arc::new(Link::new(&epoll).map_err(resource("making an eventfd"))?);

        let (endpoint, made) = match mode {
            Mode::Server => {
                let (listener, made) = listen(&path)?;
                (Endpoint::Listen(listener), Some(made))
            }
            Mode::Client => (Endpoint::Connect, None),
        };
        // From here on, dropping the port removes the socket.
        let mut port = VhostPort { link: Arc::clone(&link), path: path.clone(), made, thread: None };

        let (to_guest, from_guest) = (Arc::new(SharedRing::default()), Arc::new(SharedRing::default()));
        let rings = (Arc::clone(&to_guest), Arc::clone(&from_guest));
        let device = Device::new(rings.0, rings.1, Arc::clone(&epoll), KICK, doorbell);
        let device = Arc::new(Mutex::new(device));
        let thread = MessageThread { link, endpoint, path: path.clone(), name: name.clone(), device, epoll };
        // The kernel shows 15 bytes of a thread's name.
        let thread = std::thread::Builder::new()
            .name(format!("vhost-{name}").replace('\0', "?"))
            .spawn(move || thread.run())
            .map_err(resource("starting the message thread"))?;
        port.thread = Some(thread);
        Ok((port, VhostRx::new(from_guest), VhostTx::new(to_guest)))
    }

    /// How the peer is at this moment.
    pub fn state(&self) -> PeerState {
        self.link.state()
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What dropping does, by name.
    pub fn close(self) {}
}

impl Drop for VhostPort {
    fn drop(&mut self) {
        self.link.close();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
        if self.made.is_some() && self.made == identity(&self.path).ok() {
            let _gone_already = std::fs::remove_file(&self.path);
        }
    }
}

fn check_path(path: &Path) -> Result<(), VhostError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(VhostError::PathInvalid { path: path.to_owned() });
    }
    if bytes.len() > PATH_MAX {
        return Err(VhostError::PathTooLong { path: path.to_owned(), length: bytes.len() });
    }
    Ok(())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens at the path, removing a socket that an earlier process left behind: one that nobody answers.
fn listen(path: &Path) -> Result<(UnixListener, (u64, u64)), VhostError> {
    let failed = |operation: &'static str| {
        move |error: io::Error| VhostError::Socket { path: path.to_owned(), operation, error }
    };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(VhostError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => match connect(path) {
            Err(Errno::CONNREFUSED) => {
                std::fs::remove_file(path).map_err(failed("removing the socket left behind there"))?;
            }
            // AGAIN: its queue of waiting connections is full.
            Ok(_) | Err(Errno::AGAIN) => return Err(VhostError::InUse { path: path.to_owned() }),
            Err(errno) => return Err(failed("looking whether the socket there is in use")(errno.into())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("looking at it")(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed("making it"))?;
    let made =
        listener.set_nonblocking(true).and_then(|()| identity(path)).map_err(failed("preparing it"))?;
    Ok((listener, made))
}
