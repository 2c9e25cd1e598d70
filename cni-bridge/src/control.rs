//! The way to control: one connection, a hello, one request.
//!
//! Owns no state. Control that is away is "try again later" to the runtime, never a reason to give up a pod.

use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::control::{Request, Response};
use proto::{Connection, FrameError};

use crate::env::shown;
use crate::error::{Failure, code};

/// ADD waits until every worker has the pod's generation, and DEL until none has; a runtime gives up after minutes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// STATUS is asked every five seconds by containerd and must not pile up.
pub(crate) const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// Whether anybody listens there: then it is control's to say what becomes of a request.
pub(crate) fn answers(socket: &Path) -> bool {
    Connection::connect(socket).is_ok()
}

/// A connection on which hello has been said.
pub(crate) struct Control {
    connection: Connection,
    socket: PathBuf,
}

impl Control {
    pub(crate) fn connect(socket: &Path, patience: Duration) -> Result<Self, Failure> {
        let connection = Connection::connect(socket).map_err(|error| {
            let code = match error.kind() {
                ErrorKind::PermissionDenied => code::IO,
                _ => code::TRY_AGAIN,
            };
            Failure::new(code, format!("cannot reach podrouter-control at {}: {error}", shown(socket)))
                .details("is podrouter-control running, and is `socket` of the network configuration its --socket?")
        })?;
        let mut control = Self { connection, socket: socket.to_owned() };
        control.connection.set_timeout(Some(patience)).map_err(|error| control.broken(&error.into()))?;
        let program = concat!("podrouter-cni ", env!("CARGO_PKG_VERSION"));
        match control.ask(&Request::Hello { version: proto::VERSION, program: program.into() }, &[])? {
            Response::Hello { version } if version.abs_diff(proto::VERSION) <= 1 => Ok(control),
            Response::Hello { version } => Err(Failure::new(
                code::PROTOCOL,
                format!("podrouter-control at {} speaks protocol {version}", shown(socket)),
            )
            .details(format!("this plug-in speaks {}: install both from one release", proto::VERSION))),
            other => Err(control.out_of_turn("Hello", &other)),
        }
    }

    /// Sends a request and reads its answer; control's own failure keeps its code and words.
    pub(crate) fn ask(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Response, Failure> {
        match self.connection.call::<_, Response>(request, fds) {
            Ok((Response::Failed { code, reason, details }, _)) => {
                // The specification keeps 0 for success.
                let code = if code == 0 { code::PROTOCOL } else { code };
                Err(Failure { code, msg: reason, details })
            }
            Ok((response, _)) => Ok(response),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// For an answer of the wrong kind.
    pub(crate) fn out_of_turn(&self, request: &str, answer: &Response) -> Failure {
        Failure::new(
            code::PROTOCOL,
            format!("podrouter-control at {} answered {request} out of turn", shown(&self.socket)),
        )
        .details(format!("{answer:?}"))
    }

    fn broken(&self, error: &FrameError) -> Failure {
        let socket = shown(&self.socket);
        match error {
            FrameError::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Failure::new(code::TRY_AGAIN, format!("podrouter-control at {socket} did not answer in time"))
                    .details("its log, and `podrouter status`, tell what it waits for")
            }
            FrameError::Closed | FrameError::Io(_) => {
                Failure::new(code::TRY_AGAIN, format!("podrouter-control at {socket} hung up: {error}"))
                    .details("its log tells why")
            }
            FrameError::TooLong(_) | FrameError::Malformed(_) => Failure::new(
                code::PROTOCOL,
                format!("podrouter-control at {socket} was not understood: {error}"),
            )
            .details("install both from one release"),
        }
    }
}
