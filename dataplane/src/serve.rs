//! The Unix socket: a thread a connection, so that a client which hangs holds up no other.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use proto::dataplane::{Hello, Request, Response};
use proto::{Connection, FrameError};

use crate::core::Core;
use crate::ports::Handle;

/// The socket, listened to. Dropping it takes the file away.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`. A file left behind by a process that is gone is replaced; one that answers is not.
    pub(crate) fn listen(path: &Path) -> anyhow::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        if UnixStream::connect(path).is_ok() {
            bail!("a data plane answers on {} already: end it first, or use --socket", path.display());
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("replacing {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).with_context(|| {
            format!("listening on {} (a socket's path has at most 107 bytes)", path.display())
        })?;
        // Whoever can write here can redirect every pod's traffic.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Accepts on a thread of its own, for as long as the process lives.
    pub(crate) fn serve(&self, core: &Arc<Mutex<Core>>) -> io::Result<()> {
        let (listener, core) = (self.listener.try_clone()?, Arc::clone(core));
        std::thread::Builder::new().name("accept".into()).spawn(move || {
            for stream in listener.incoming() {
                let (stream, core) = match stream {
                    Ok(stream) => (stream, Arc::clone(&core)),
                    Err(error) => {
                        // Out of descriptors: those in use come back as clients leave.
                        tracing::warn!(%error, "a client could not be accepted");
                        std::thread::sleep(std::time::Duration::from_millis(100));
                        continue;
                    }
                };
                let client = std::thread::Builder::new().name("client".into());
                if let Err(error) = client.spawn(move || attend(stream, &core)) {
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
pub(crate) fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

fn attend(stream: UnixStream, core: &Mutex<Core>) {
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
        let mut core = lock(core);
        let (response, tap) = match answer(&mut core, request, fds) {
            Ok(answer) => answer,
            Err(error) => (Response::Failed { reason: format!("{error:#}") }, None),
        };
        drop(core);
        let fds: Vec<BorrowedFd<'_>> = tap.iter().map(AsFd::as_fd).collect();
        if let Err(error) = connection.send(&response, &fds) {
            tracing::debug!(%error, "a client went away before its answer");
            return;
        }
    }
}

type Answer = (Response, Option<std::os::fd::OwnedFd>);

fn answer(core: &mut Core, request: Request, fds: Vec<std::os::fd::OwnedFd>) -> anyhow::Result<Answer> {
    let response = match request {
        Request::Hello { version, program } => {
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
        Request::AddPort(spec) => Response::Port(core.add_port(spec, fds)?),
        Request::RemovePort { name } => {
            core.remove_port(&name)?;
            Response::Done
        }
        Request::DuplicateTap { name } => {
            core.ports.id(&name)?;
            match core.ports.get(&name).map(|record| &record.handle) {
                Some(Handle::Tap(fd)) => return Ok((Response::Tap { name }, Some(fd.try_clone()?))),
                _ => bail!("port `{name}` is no TAP"),
            }
        }
        Request::Transaction(transaction) => core.transact(&transaction),
        Request::Snapshot => Response::Snapshot(core.snapshot()),
        Request::ShowStatus => Response::Status(core.status()),
        Request::ShowPorts => Response::Ports { ports: core.show_ports() },
        Request::ShowRoutes => core.show_routes(),
        Request::ShowNeighbours => Response::Neighbours { neighbours: core.show_neighbours() },
        Request::ShowWorkers => Response::Workers { workers: core.show_workers() },
        Request::ShowDrops => Response::Drops { drops: core.show_drops() },
    };
    Ok((response, None))
}
