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
use crate::device::{Device, Pair};
use crate::error::{PATH_MAX, VhostError};
use crate::features;
use crate::inflight::Inflight;
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
    /// Most queue pairs that the guest may have, 1 to 128; each takes two rings and, if its worker sleeps, a doorbell.
    pub queue_pairs: u16,
    /// Whether the guest may leave checksums and segmentation to us, and we to it.
    pub offloads: bool,
    /// A file that keeps where packed rings are while this process is killed and started again; on a tmpfs. Without one, and
    /// without a front end that keeps it, such a guest's driver has to start its rings again.
    pub state: Option<PathBuf>,
}

impl VhostConfig {
    /// A port that listens at `path`, with one queue pair and all offloads.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        let (path, name) = (path.into(), name.into());
        Self { path, mode: Mode::Server, name, queue_pairs: 1, offloads: true, state: None }
    }
}

/// Most queue pairs of a port: `SET_VRING_KICK` and its like name rings by one byte.
const QUEUE_PAIRS_MAX: u16 = 128;

/// How the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// No front end is connected.
    Disconnected,
    /// A front end is connected, and its driver has not set up its first two rings.
    Connected,
    /// The rings of its first queue pair run.
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
/// # use podrouter_vhost::{Sent, VhostConfig, VhostPort};
/// let config = VhostConfig { offloads: false, ..VhostConfig::new("/run/podrouter/vm1", "vm1") };
/// let (port, mut pairs) = VhostPort::start(config, Vec::new())?;
/// let (rx, tx) = &mut pairs[0];
/// let (from, mut to) = (rx.burst(32), tx.burst(32));
/// for frame in from.frames().flatten() {
///     let mut bytes = vec![0; frame.len()];
///     assert!(frame.copy(0, &mut bytes));
///     let sent = to.send([0; 12], bytes.len(), [&bytes[..]].into_iter());
///     assert!(sent == Sent::Ok || sent == Sent::Full);
/// }
/// // Dropping the bursts shows the guest what was sent, and gives it back what it sent.
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
    /// Starts a port: the socket listens when this returns (server), or is being tried (client). `doorbells` are eventfds of
    /// the workers', one for each queue pair, or none; they are rung as [`VhostRx::arm_doorbell`] says, and whenever a ring
    /// of the pair starts.
    ///
    /// # Errors
    /// A bad path, one that is in use, or a lack of descriptors or threads.
    pub fn start(
        config: VhostConfig,
        doorbells: Vec<OwnedFd>,
    ) -> Result<(Self, Vec<(VhostRx, VhostTx)>), VhostError> {
        let VhostConfig { path, mode, name, queue_pairs, offloads, state } = config;
        check_path(&path)?;
        if !(1..=QUEUE_PAIRS_MAX).contains(&queue_pairs) {
            return Err(VhostError::QueuePairs { path, queue_pairs });
        }
        let resource = |operation: &'static str| {
            let path = path.clone();
            move |error: io::Error| VhostError::Resource { path, operation, error }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| resource("making an epoll set")(errno.into()))?;
        let epoll = Arc::new(epoll);
        let link = Arc::new(Link::new(&epoll).map_err(resource("making an eventfd"))?);
        let remembered = state
            .map(|state| Inflight::remembered(&state, 2 * queue_pairs))
            .transpose()
            .map_err(|reason| resource("the file for its rings' places")(io::Error::other(reason)))?;

        let (endpoint, made) = match mode {
            Mode::Server => {
                let (listener, made) = listen(&path)?;
                (Endpoint::Listen(listener), Some(made))
            }
            Mode::Client => (Endpoint::connect(&path), None),
        };
        // From here on, dropping the port removes the socket.
        let mut port = Self { link: Arc::clone(&link), path: path.clone(), made, thread: None };

        let pairs: Vec<Pair> = (0..queue_pairs).map(|_| Pair::default()).collect();
        let offered = features::offered(offloads, queue_pairs);
        let device = Device::new(offered, &pairs, doorbells, remembered, Arc::clone(&epoll), KICK);
        let device = Arc::new(Mutex::new(device));
        let thread = MessageThread { link, endpoint, path: path.clone(), name: name.clone(), device, epoll };
        // The kernel shows 15 bytes of a thread's name.
        let thread = std::thread::Builder::new()
            .name(format!("vhost-{name}").replace('\0', "?"))
            .spawn(move || thread.run())
            .map_err(resource("starting the message thread"))?;
        port.thread = Some(thread);
        let halves = |pair: Pair| (VhostRx::new(pair.from_guest), VhostTx::new(pair.to_guest));
        Ok((port, pairs.into_iter().map(halves).collect()))
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
