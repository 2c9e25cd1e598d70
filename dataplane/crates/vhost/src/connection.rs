//! The message thread of a port: waits for a front end, answers its messages, and waits for the next one.
//!
//! Owns the connection. A front end that stops in mid-message holds up this thread alone, and [`Link::close`] ends it even
//! then. What always holds: a connection that ends, for whatever reason, leaves both rings stopped and nothing mapped.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recv, send};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};

use crate::device::Device;
use crate::eventfd;
use crate::port::PeerState;

/// How epoll names what became ready.
const SOCKET: u64 = 0;
const WAKE: u64 = 1;
/// And beyond, by queue pair.
pub(crate) const KICK: u64 = 2;

/// A client that finds nobody tries again after this long, and then twice as long each time, up to the second; but as soon as
/// something appears in the socket's folder it begins anew.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// Ends of one kind are not written down more often than this.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A message's header (the vhost-user specification, "Header"): request, flags, and the size of what follows, 32 bits each.
const HEADER: usize = 12;
const SET_VRING_ENABLE: u32 = 18;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// In the machine's own order, as messages are.
fn words(message: [u8; HEADER + 8]) -> [u32; 5] {
    let mut words = [0; 5];
    for (word, bytes) in words.iter_mut().zip(message.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

/// What the port and its message thread share.
#[derive(Debug)]
pub(crate) struct Link {
    /// Written by the message thread, read by anyone: a [`PeerState`].
    state: AtomicU8,
    /// Written by `close`, read by the message thread; `wake` is signalled after it.
    stop: AtomicBool,
    wake: OwnedFd,
    /// The connection, as long as there is one, for `close` to shut down.
    stream: Mutex<Option<UnixStream>>,
}

impl Link {
    /// Of no connection yet; `epoll` will show when the port is closed.
    pub(crate) fn new(epoll: &OwnedFd) -> std::io::Result<Link> {
        let wake = eventfd::create()?;
        epoll::add(epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Link {
            state: AtomicU8::new(PeerState::Disconnected.into()),
            stop: AtomicBool::new(false),
            wake,
            stream: Mutex::new(None),
        })
    }

    pub(crate) fn state(&self) -> PeerState {
        // Acquire: pairs with `set_state`, so that who sees Running finds the rings running.
        PeerState::from(self.state.load(Ordering::Acquire))
    }

    fn set_state(&self, state: PeerState) {
        self.state.store(state.into(), Ordering::Release);
    }

    /// Makes the message thread end, whatever it is waiting for.
    pub(crate) fn close(&self) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: `attach` looks at it under the same lock, and elsewhere the eventfd's write orders it.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(stream) = stream.as_ref() {
            // It may be in the middle of a message; this ends its read or write.
            let _closed_already = stream.shutdown(std::net::Shutdown::Both);
        }
        drop(stream);
        eventfd::signal(&self.wake);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// `false` if the port is closing.
    fn attach(&self, connection: Option<UnixStream>) -> bool {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        *stream = connection;
        !self.stopping()
    }
}

/// How connections come about.
#[derive(Debug)]
pub(crate) enum Endpoint {
    Listen(UnixListener),
    /// With an inotify descriptor that tells what appears in the socket's folder, where that is there.
    Connect(Option<OwnedFd>),
}

impl Endpoint {
    pub(crate) fn connect(path: &Path) -> Self {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|watch| {
            add_watch(&watch, folder, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
            Ok(watch)
        });
        // Without one it looks now and then.
        Self::Connect(watch.ok())
    }
}

/// All that the message thread owns.
#[derive(Debug)]
pub(crate) struct MessageThread {
    pub(crate) link: Arc<Link>,
    pub(crate) endpoint: Endpoint,
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) device: Arc<Mutex<Device>>,
    pub(crate) epoll: Arc<OwnedFd>,
}

impl MessageThread {
    /// Until the port is closed.
    pub(crate) fn run(self) {
        let mut retry = RETRY_FIRST;
        // One for each kind of end: a peer that comes and goes all the time must not fill the log.
        let (mut left, mut refused) = (None, None);
        while !self.link.stopping() {
            let Some(stream) = self.next_connection(&mut retry) else { continue };
            let (messages, end) = self.serve(stream);
            self.device().disconnect();
            self.link.attach(None);
            self.link.set_state(PeerState::Disconnected);
            let (port, path) = (&self.name, self.path.display());
            match end {
                End::Closed => return,
                End::PeerLeft if worth_a_line(&mut left) => {
                    tracing::info!(%port, %path, "vhost-user front end disconnected");
                }
                End::Refused(reason) if worth_a_line(&mut refused) => {
                    tracing::warn!(%port, %path, reason, "vhost-user connection closed; waiting for the next");
                }
                End::PeerLeft | End::Refused(_) => {}
            }
            if messages > 0 {
                retry = RETRY_FIRST;
            } else if matches!(self.endpoint, Endpoint::Connect(_)) {
                self.pause(&mut retry);
            }
        }
    }

    fn device(&self) -> std::sync::MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a connection; `None` if there is none yet, or the port is closing.
    fn next_connection(&self, retry: &mut Duration) -> Option<UnixStream> {
        match &self.endpoint {
            Endpoint::Listen(listener) => {
                self.wait_readable(listener);
                // A front end that hung up before we came, or descriptors that ran out: pause, or this would spin.
                match listener.accept() {
                    Ok((stream, _)) => Some(stream),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
                    Err(_) => {
                        self.pause(&mut RETRY_LAST.clone());
                        None
                    }
                }
            }
            Endpoint::Connect(_) => {
                let stream = connect(&self.path).ok();
                if stream.is_none() {
                    self.pause(retry);
                }
                stream
            }
        }
    }

    fn wait_readable(&self, listener: &UnixListener) {
        let mut fds = [
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.link.wake.as_fd(), PollFlags::IN),
        ];
        let _interrupted = poll(&mut fds, None);
    }

    /// Waits for `retry`, or the port's closing, and doubles it; or until there may be somebody to connect to.
    fn pause(&self, retry: &mut Duration) {
        let watch = match &self.endpoint {
            Endpoint::Connect(Some(watch)) => watch,
            _ => &self.link.wake,
        };
        let mut fds = [
            PollFd::from_borrowed_fd(self.link.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN),
        ];
        let timeout = Timespec::try_from(*retry).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let _interrupted = poll(&mut fds, Some(&timeout));
        *retry = (*retry * 2).min(RETRY_LAST);
        if fds[1].revents().contains(PollFlags::IN) && !self.link.stopping() {
            // What it was does not matter, and a socket listens only a moment after it appears.
            while rustix::io::read(watch, &mut [0; 1024]).is_ok_and(|read| read > 0) {}
            *retry = RETRY_FIRST;
        }
    }

    /// Answers messages until the connection ends; gives how many, and why it ended.
    fn serve(&self, stream: UnixStream) -> (u64, End) {
        let mut messages = 0;
        // Two more of the same socket: one for `close` to shut down, one for epoll to watch while the handler owns it.
        let prepared = stream
            .set_nonblocking(false)
            .and_then(|()| Ok((stream.try_clone()?, stream.try_clone()?)))
            .and_then(|(shutdown, watched)| {
                let (data, flags) = (epoll::EventData::new_u64(SOCKET), epoll::EventFlags::IN);
                epoll::add(&self.epoll, &watched, data, flags)?;
                Ok((shutdown, watched))
            });
        let (shutdown, watched) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return (0, End::Refused(error.to_string())),
        };
        let end = if self.link.attach(Some(shutdown)) {
            self.link.set_state(PeerState::Connected);
            let mut handler = BackendReqHandler::from_stream(stream, Arc::clone(&self.device));
            let handle = || match self.enables_early(&watched)? {
                true => Ok(()),
                false => handler.handle_request(),
            };
            self.answer(handle, &mut messages)
        } else {
            End::Closed
        };
        let _gone_already = epoll::delete(&self.epoll, &watched);
        (messages, end)
    }

    /// Takes a message that enables or disables a ring before features are known on this connection, which the message library
    /// would refuse, since it is a feature that allows it. QEMU begins by enabling what its guest is yet to negotiate; DPDK's
    /// virtio-user, whose back end has come back, by ending what ran with the last one.
    fn enables_early(&self, stream: &UnixStream) -> Result<bool, Error> {
        if self.device().negotiated {
            return Ok(false);
        }
        let failed = |errno: Errno| match errno {
            Errno::AGAIN | Errno::INTR => Error::SocketRetry(errno.into()),
            errno => Error::SocketBroken(errno.into()),
        };
        let mut message = [0; HEADER + 8];
        let (seen, _) = recv(stream, &mut message, RecvFlags::PEEK | RecvFlags::DONTWAIT).map_err(failed)?;
        let [request, flags, size, ring, enable] = words(message);
        if seen < message.len() || (request, size) != (SET_VRING_ENABLE, 8) {
            return Ok(false);
        }
        recv(stream, &mut message, RecvFlags::empty()).map_err(failed)?;
        self.device().set_vring_enable(ring, enable != 0)?;
        if flags & NEED_REPLY != 0 {
            let answer = [request, flags & !NEED_REPLY | REPLY, 8, 0, 0];
            let answer: Vec<u8> = answer.into_iter().flat_map(u32::to_ne_bytes).collect();
            send(stream, &answer, SendFlags::NOSIGNAL).map_err(failed)?;
        }
        Ok(true)
    }

    fn answer(&self, mut handle: impl FnMut() -> vhost::vhost_user::Result<()>, messages: &mut u64) -> End {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(4);
        loop {
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return End::Refused(errno.to_string()),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    WAKE => return End::Closed,
                    kick @ KICK.. => self.device().kicked(usize::try_from(kick - KICK).unwrap_or(0)),
                    SOCKET => match handle() {
                        Ok(()) => {
                            *messages += 1;
                            let running = self.device().running();
                            self.link.set_state(if running {
                                PeerState::Running
                            } else {
                                PeerState::Connected
                            });
                        }
                        Err(Error::SocketRetry(_)) => {}
                        Err(_) if self.link.stopping() => return End::Closed,
                        Err(Error::Disconnected | Error::SocketBroken(_)) => return End::PeerLeft,
                        Err(error) => return End::Refused(error.to_string()),
                    },
                }
            }
        }
    }
}

fn worth_a_line(last: &mut Option<Instant>) -> bool {
    let worth = last.is_none_or(|at: Instant| at.elapsed() >= LINE_EVERY);
    if worth {
        *last = Some(Instant::now());
    }
    worth
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// By us: the port is closing.
    Closed,
    PeerLeft,
    /// By us: a message was malformed, or not to be obeyed.
    Refused(String),
}

/// Connects without waiting, which connecting to a Unix socket otherwise does when the listener's backlog is full.
pub(crate) fn connect(path: &Path) -> rustix::io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}
