//! One question to the data plane or to control, and why there was no answer.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::{Connection, FrameError, control, dataplane};
use serde::{Serialize, de::DeserializeOwned};

/// A data plane answers between two generations; a table of a million routes takes it a second or so.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    program: &'static str,
    option: &'static str,
    socket: PathBuf,
}

impl Peer {
    pub(crate) fn dataplane(socket: &Path) -> Self {
        Self { program: "podrouter-dataplane", option: "--dataplane", socket: socket.to_owned() }
    }

    pub(crate) fn control(socket: &Path) -> Self {
        Self { program: "podrouter-control", option: "--control", socket: socket.to_owned() }
    }
}

/// Why there is no answer. Each says which process, on which socket, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("cannot reach {} at {}: {error}\n{}", .peer.program, .peer.socket.display(), advice(.peer, .error))]
    Connect { peer: Peer, error: io::Error },
    #[error(
        "{} at {} did not answer within {} seconds: its log may tell what it waits for",
        .0.program, .0.socket.display(), PATIENCE.as_secs()
    )]
    Late(Peer),
    #[error("{} at {} hung up or was not understood: {error}; its log may tell why", .peer.program, .peer.socket.display())]
    Broken { peer: Peer, error: FrameError },
    #[error(
        "{} at {} speaks protocol {theirs}, this program {}: install both from one release",
        .peer.program, .peer.socket.display(), proto::VERSION
    )]
    Version { peer: Peer, theirs: u32 },
    #[error("{} at {} refused: {reason}", .peer.program, .peer.socket.display())]
    Refused { peer: Peer, reason: String },
    #[error("{} at {} answered with something else: install both from one release", .0.program, .0.socket.display())]
    OutOfTurn(Peer),
}

impl QueryError {
    /// The exit code that it comes to.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Connect { error, .. } if error.kind() == ErrorKind::PermissionDenied => proto::exit::DPDK,
            _ => proto::exit::FAILURE,
        }
    }
}

/// Asks the data plane.
pub(crate) fn ask_dataplane(
    socket: &Path,
    request: &dataplane::Request,
) -> Result<dataplane::Response, QueryError> {
    Line::to_dataplane(socket)?.ask_dataplane(request)
}

/// Flows that fit, page by page up to `limit`. If there may be more, also where they begin.
pub(crate) fn flows(
    socket: &Path,
    filter: &dataplane::FlowFilter,
    limit: u32,
) -> Result<(Vec<dataplane::FlowStatus>, Option<u64>), QueryError> {
    use dataplane::{FlowQuery, Request, Response};
    let mut line = Line::to_dataplane(socket)?;
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let left = limit.saturating_sub(u32::try_from(all.len()).unwrap_or(u32::MAX));
        if left == 0 {
            return Ok((all, Some(from)));
        }
        let query = FlowQuery { filter: filter.clone(), from, limit: Some(left) };
        match line.ask_dataplane(&Request::ShowFlows(query))? {
            Response::Flows { flows, next } => {
                all.extend(flows);
                match next {
                    // One that does not go on would never end.
                    Some(next) if next > from => from = next,
                    Some(_) => return Err(QueryError::OutOfTurn(line.peer)),
                    None => return Ok((all, None)),
                }
            }
            _ => return Err(QueryError::OutOfTurn(line.peer)),
        }
    }
}

/// The data plane's half of `status`.
pub(crate) fn dataplane_status(socket: &Path) -> Result<dataplane::Status, QueryError> {
    match ask_dataplane(socket, &dataplane::Request::ShowStatus)? {
        dataplane::Response::Status(status) => Ok(status),
        _ => Err(QueryError::OutOfTurn(Peer::dataplane(socket))),
    }
}

/// Control's half of `status`.
pub(crate) fn control_status(socket: &Path) -> Result<control::Status, QueryError> {
    match ask_control(socket, &control::Request::Status)? {
        control::Response::Status(status) => Ok(status),
        _ => Err(QueryError::OutOfTurn(Peer::control(socket))),
    }
}

/// A Service's endpoints.
pub(crate) fn endpoints(
    socket: &Path,
    namespace: &str,
    service: &str,
) -> Result<control::Endpoints, QueryError> {
    let (namespace, service) = (namespace.to_owned(), service.to_owned());
    match ask_control(socket, &control::Request::ShowEndpoints { namespace, service })? {
        control::Response::Endpoints(endpoints) => Ok(endpoints),
        _ => Err(QueryError::OutOfTurn(Peer::control(socket))),
    }
}

fn ask_control(socket: &Path, request: &control::Request) -> Result<control::Response, QueryError> {
    use control::{Request, Response};
    let mut line = Line::open(Peer::control(socket))?;
    match line.ask(&Request::Hello { version: proto::VERSION, program: program() })? {
        Response::Hello { version } => line.check_version(version)?,
        Response::Failed { reason, .. } => return Err(QueryError::Refused { peer: line.peer, reason }),
        _ => return Err(QueryError::OutOfTurn(line.peer)),
    }
    match line.ask(request)? {
        Response::Failed { reason, .. } => Err(QueryError::Refused { peer: line.peer, reason }),
        answer => Ok(answer),
    }
}

/// A connection, and whose it is.
struct Line {
    connection: Connection,
    peer: Peer,
}

impl Line {
    fn to_dataplane(socket: &Path) -> Result<Self, QueryError> {
        use dataplane::{Request, Response};
        let mut line = Self::open(Peer::dataplane(socket))?;
        match line.ask_dataplane(&Request::Hello { version: proto::VERSION, program: program() })? {
            Response::Hello(hello) => line.check_version(hello.version)?,
            _ => return Err(QueryError::OutOfTurn(line.peer)),
        }
        Ok(line)
    }

    fn ask_dataplane(&mut self, request: &dataplane::Request) -> Result<dataplane::Response, QueryError> {
        match self.ask(request)? {
            dataplane::Response::Failed { reason } => {
                Err(QueryError::Refused { peer: self.peer.clone(), reason })
            }
            response => Ok(response),
        }
    }

    fn open(peer: Peer) -> Result<Self, QueryError> {
        let opened = Connection::connect(&peer.socket).and_then(|connection| {
            connection.set_timeout(Some(PATIENCE))?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => Ok(Self { connection, peer }),
            Err(error) => Err(QueryError::Connect { peer, error }),
        }
    }

    fn ask<Q: Serialize, A: DeserializeOwned>(&mut self, request: &Q) -> Result<A, QueryError> {
        let peer = || self.peer.clone();
        match self.connection.call(request, &[]) {
            Ok((answer, _)) => Ok(answer),
            Err(FrameError::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                Err(QueryError::Late(peer()))
            }
            Err(error) => Err(QueryError::Broken { peer: peer(), error }),
        }
    }

    fn check_version(&self, theirs: u32) -> Result<(), QueryError> {
        if theirs.abs_diff(proto::VERSION) <= 1 {
            Ok(())
        } else {
            Err(QueryError::Version { peer: self.peer.clone(), theirs })
        }
    }
}

fn advice(peer: &Peer, error: &io::Error) -> String {
    let Peer { program, option, .. } = peer;
    match error.kind() {
        ErrorKind::PermissionDenied => "run this as root".to_owned(),
        ErrorKind::ConnectionRefused => {
            format!("is {program} running? The socket is there, but nobody listens: it ended or was killed")
        }
        _ => format!("is {program} running? Start it, or name the socket that it has with {option} PATH"),
    }
}

fn program() -> String {
    concat!("podrouter ", env!("CARGO_PKG_VERSION")).to_owned()
}
