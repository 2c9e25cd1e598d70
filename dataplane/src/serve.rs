//! The Unix socket: a thread a connection, so that a client which hangs holds up no other.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use proto::dataplane::{Hello, Request, Response};
use proto::{Connection, FrameError};
use rustix::fs::Mode;

use crate::core::Core;
use crate::ports::Handle;

/// Clients served at once: control, and command lines that come and go. More would only use up descriptors.
const CLIENTS: usize = 64;

/// Longest that a client may leave an answer unread.
const UNREAD: Duration = Duration::from_secs(30);

/// What clients ask of; gone once the data plane ends.
pub(crate) type SharedCore = Arc<Mutex<Option<Core>>>;

/// The socket, listened to. Dropping it takes the file away.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Locked for as long as this lives: whoever has it owns the path. The kernel unlocks it however the process ends.
    _owner: File,
}

impl Socket {
    /// Listens at `path`. A socket left behind by a process that is gone is replaced; one in use, or a file of another
    /// kind, is not. To be called while the process has one thread: it sets the umask for a moment.
    pub(crate) fn listen(path: &Path) -> anyhow::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let opening = || format!("opening {}", lock.display());
        let owner = File::options().create(true).append(true).open(&lock).with_context(opening)?;
        match owner.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("a data plane answers on {} already: end it first, or use --socket", path.display());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", lock.display()));
            }
        }
        match std::fs::symlink_metadata(path) {
            Ok(file) if file.file_type().is_socket() => {
                std::fs::remove_file(path).with_context(|| format!("replacing {}", path.display()))?;
            }
            Ok(_) => bail!("{} is there and no socket: remove it, or use --socket", path.display()),
            Err(_) => {}
        }
        // Whoever can write here can redirect every pod's traffic: root alone, from the first moment.
        let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = listener.with_context(|| {
            format!("listening on {} (a socket's path has at most 107 bytes)", path.display())
        })?;
        Ok(Self { listener, path: path.to_owned(), _owner: owner })
    }

    /// Accepts on a thread of its own, for as long as the process lives.
    pub(crate) fn serve(&self, core: &SharedCore) -> io::Result<()> {
        let (listener, core) = (self.listener.try_clone()?, Arc::clone(core));
        std::thread::Builder::new().name("accept".into()).spawn(move || {
            // Each client's thread has one reference to it beside ours.
            let places = Arc::new(());
            for stream in listener.incoming() {
                let (stream, core, place) = match stream {
                    Ok(stream) => (stream, Arc::clone(&core), Arc::clone(&places)),
                    Err(error) => {
                        // Out of descriptors: those in use come back as clients leave.
                        tracing::warn!(%error, "a client could not be accepted");
                        std::thread::sleep(Duration::from_millis(100));
                        continue;
                    }
                };
                if Arc::strong_count(&places) > CLIENTS + 1 {
                    refuse(stream);
                    continue;
                }
                let client = std::thread::Builder::new().name("client".into());
                let spawned = client.spawn(move || {
                    attend(stream, &core);
                    drop(place);
                });
                if let Err(error) = spawned {
                    tracing::warn!(%error, "no thread for a client");
                }
            }
        })?;
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A thread that panicked left the tables as they were: they are replaced whole or not at all.
pub(crate) fn lock(core: &Mutex<Option<Core>>) -> MutexGuard<'_, Option<Core>> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refuse(stream: UnixStream) {
    let reason = format!("{CLIENTS} clients are connected already, and no more are served: end some");
    tracing::warn!(reason, "a client was turned away");
    let turned_away = stream.set_write_timeout(Some(Duration::from_millis(10))).is_ok();
    if turned_away {
        let _ = Connection::new(stream).send(&Response::Failed { reason }, &[]);
    }
}

fn attend(stream: UnixStream, core: &Mutex<Option<Core>>) {
    // One that never reads holds its thread no longer than this; the core is not locked meanwhile.
    if let Err(error) = stream.set_write_timeout(Some(UNREAD)) {
        tracing::warn!(%error, "a client could not be served");
        return;
    }
    let mut connection = Connection::new(stream);
    loop {
        let (request, fds) = match connection.receive::<Request>() {
            Ok(received) => received,
            Err(FrameError::Closed) => return,
            Err(FrameError::Malformed(error)) => {
                let reason = format!("the request could not be read: {error}");
                if connection.send(&Response::Failed { reason }, &[]).is_err() {
                    return;
                }
                continue;
            }
            Err(error) => {
                tracing::debug!(%error, "a client went away");
                return;
            }
        };
        let guard = lock(core);
        if guard.is_none() {
            // The data plane is ending.
            return;
        }
        let (response, tap) = answer(guard, &request, fds)
            .unwrap_or_else(|error| (Response::Failed { reason: format!("{error:#}") }, None));
        let fds: Vec<BorrowedFd<'_>> = tap.iter().map(AsFd::as_fd).collect();
        if let Err(error) = connection.send(&response, &fds) {
            tracing::debug!(%error, "a client went away before its answer");
            return;
        }
        // A request of a million rows is let go here, once its answer is out.
    }
}

type Answer = (Response, Option<std::os::fd::OwnedFd>);

/// What takes a while, and changes nothing, unlocks the core first.
fn answer(
    mut guard: MutexGuard<'_, Option<Core>>,
    request: &Request,
    fds: Vec<std::os::fd::OwnedFd>,
) -> anyhow::Result<Answer> {
    let core = guard.as_mut().context("the data plane is ending")?;
    let response = match request {
        Request::Hello { version, program } => {
            let version = *version;
            if version.abs_diff(proto::VERSION) > 1 {
                bail!(
                    "{program} speaks version {version} of the protocol and this data plane {}: they must be at most one apart",
                    proto::VERSION
                );
            }
            tracing::debug!(program, version, "hello");
            Response::Hello(Hello {
                version: proto::VERSION,
                instance: core.instance.clone(),
                generation: core.publisher.generation(),
            })
        }
        Request::AddPort(spec) => Response::Port(core.add_port(spec.clone(), fds)?),
        Request::RemovePort { name } => {
            core.remove_port(name)?;
            Response::Done
        }
        Request::DuplicateTap { name } => {
            core.ports.id(name)?;
            match core.ports.get(name).map(|record| &record.handle) {
                Some(Handle::Tap(fd)) => {
                    return Ok((Response::Tap { name: name.clone() }, Some(fd.try_clone()?)));
                }
                _ => bail!("port `{name}` is no TAP"),
            }
        }
        Request::Transaction(transaction) => core.transact(transaction),
        Request::Snapshot => Response::Snapshot(core.snapshot()),
        Request::ShowStatus => Response::Status(core.status()),
        Request::ShowPorts => Response::Ports { ports: core.show_ports() },
        Request::ShowRoutes => core.show_routes(),
        Request::ShowServices => Response::Services { services: core.show_services() },
        Request::ShowPolicies => Response::Policies { policies: core.show_policies() },
        Request::ShowNeighbours => Response::Neighbours { neighbours: core.show_neighbours()? },
        Request::ShowWorkers => Response::Workers { workers: core.show_workers() },
        Request::ShowDrops => Response::Drops { drops: core.show_drops() },
        Request::ShowFlows(query) => {
            let view = core.view();
            drop(guard);
            view.flows(query)?
        }
        Request::Trace(question) => {
            let view = core.view();
            drop(guard);
            view.trace(question)?
        }
    };
    Ok((response, None))
}
