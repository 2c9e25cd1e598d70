//! The server on control's own socket: the CNI plug-in and the command line ask, a thread a connection answers.
//!
//! Owns the socket and the conversation, not what is done for it (that is `attach.rs`). Only root may connect.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::control::{Endpoints, Request, Response};
use proto::{Connection, FrameError};
use rustix::fs::Mode;

use crate::attach::{Failure, attach, check_attached, code, collect, detach};
use crate::journal::Key;
use crate::store::Store;

/// Time after which a silent connection is closed.
const IDLE: Duration = Duration::from_secs(120);

/// Makes the socket, in place of one that nobody listens on.
///
/// # Errors
/// Another process listens, or the path cannot be used.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process listens there already: end it, or choose another",
            ));
        }
        // A socket that its process left behind. What is no socket stays, and makes `bind` fail.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            use std::os::unix::fs::FileTypeExt;
            if std::fs::symlink_metadata(path)?.file_type().is_socket() {
                std::fs::remove_file(path)?;
            }
        }
        Err(_) => {}
    }
    // Root alone, from the first moment.
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    listener
}

/// Answers for good, on the calling thread.
pub(crate) fn serve(listener: &UnixListener, store: &Arc<Store>) {
    for stream in listener.incoming() {
        let store = Arc::clone(store);
        let started = stream.and_then(|stream| {
            let talk = move || converse(Connection::new(stream), &store);
            std::thread::Builder::new().name("cni".to_owned()).spawn(talk)
        });
        if let Err(error) = started {
            // Out of descriptors or threads: those that are busy will give some back.
            tracing::warn!("control socket: {error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn converse(mut connection: Connection, store: &Store) {
    if let Err(error) = connection.set_timeout(Some(IDLE)) {
        tracing::warn!("control socket: {error}");
        return;
    }
    let mut greeted = false;
    loop {
        let (answer, last) = match connection.receive::<Request>() {
            Ok((Request::Hello { version, program }, _)) => {
                greeted = version.abs_diff(proto::VERSION) <= 1;
                (hello(version, &program), !greeted)
            }
            Ok(_) if !greeted => (failed(code::DECODE, "the first message must be a hello".to_owned()), true),
            Ok((request, fds)) => (answer(store, request, fds), false),
            Err(FrameError::Malformed(error)) => {
                (failed(code::DECODE, format!("a request could not be read: {error}")), true)
            }
            Err(FrameError::Closed) => return,
            Err(error) => {
                tracing::debug!("control socket: {error}");
                return;
            }
        };
        if let Err(error) = connection.send(&answer, &[]) {
            tracing::debug!("control socket: {error}");
            return;
        }
        if last {
            return;
        }
    }
}

fn hello(version: u32, program: &str) -> Response {
    if version.abs_diff(proto::VERSION) <= 1 {
        return Response::Hello { version: proto::VERSION };
    }
    let reason = format!(
        "{program} speaks version {version} of the protocol and podrouter-control {}: bring both to one release",
        proto::VERSION
    );
    failed(code::INCOMPATIBLE_VERSION, reason)
}

fn answer(store: &Store, request: Request, fds: Vec<OwnedFd>) -> Response {
    match request {
        Request::Hello { version, program } => hello(version, &program),
        Request::Attach(request) => match attach(store, request, fds.into_iter().next()) {
            Ok(attached) => {
                store.count(|counted| counted.attached += 1);
                Response::Attached(attached)
            }
            Err(failure) => {
                store.count(|counted| counted.failed += 1);
                failure.into()
            }
        },
        Request::Check { network, container, interface } => {
            match check_attached(store, &Key { network, container, interface }) {
                Ok(attached) => Response::Attached(attached),
                Err(failure) => failure.into(),
            }
        }
        Request::Detach { network, container, interface } => {
            match detach(store, &Key { network, container, interface }) {
                Ok(()) => Response::Detached,
                Err(failure) => failure.into(),
            }
        }
        Request::Collect { network, valid } => {
            let (removed, failures) = collect(store, &network, &valid);
            Response::Collected { removed, failures }
        }
        Request::Status => Response::Status(store.status()),
        Request::ShowEndpoints { namespace, service } => match store.explain(&namespace, &service) {
            Some((says, endpoints)) => Response::Endpoints(Endpoints { says, endpoints }),
            None => failed(code::INVALID_CONFIG, format!("there is no Service {namespace}/{service}")),
        },
    }
}

fn failed(code: u32, reason: String) -> Response {
    Response::Failed { code, reason, details: String::new() }
}

impl From<Failure> for Response {
    fn from(Failure { code, reason, details }: Failure) -> Self {
        Self::Failed { code, reason, details }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/control.sock");
        let first = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        listen(&path).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(listen(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }
}
