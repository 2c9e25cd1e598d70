//! The connection to the data plane: what it has, what it ought to have, and the way there.
//!
//! One blocking thread owns it. On each connection it asks for a snapshot, whatever instance answers, and sends the
//! difference: ports first, then one transaction, then the removal of ports that no row names any more. Everything that
//! changed meanwhile becomes one transaction. A lost connection is tried again for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use desired::{Desired, HOST_PORT, Rows, diff};
use proto::dataplane::{Op, PortInfo, PortKind, PortSpec, Request, Response, Snapshot, Transaction};
use proto::{Connection, FrameError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tap::Tap;

use crate::store::{Plan, Store};
use crate::{host, pod};

/// First and longest pause between attempts to connect.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Longest wait for an answer: a commit waits for every worker, none of which sleeps longer than a burst.
const ANSWER: Duration = Duration::from_secs(30);

/// Pause after which what failed (a port whose device is not there yet) is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Times that a transaction is computed anew because somebody else changed the tables meanwhile.
const ATTEMPTS: u32 = 5;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("connecting to {0}: {1}")]
    Connect(String, io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("it speaks version {theirs} of the protocol and this is {ours}: bring both to one release")]
    Version { theirs: u32, ours: u32 },
    #[error("it answered {request} with {answer}")]
    Unexpected { request: &'static str, answer: String },
    #[error("waiting for changes: {0}")]
    Poll(io::Error),
}

/// Keeps the data plane at what the store asks for, for good.
pub(crate) fn follow(store: &Store, path: &Path) {
    let mut pause = BACK_OFF[0];
    let mut said = String::new();
    loop {
        let ended = match Session::open(path) {
            Ok(mut session) => {
                pause = BACK_OFF[0];
                said.clear();
                session.serve(store)
            }
            Err(error) => error,
        };
        let trouble = ended.to_string();
        // The same trouble again every second is no news.
        if trouble != said {
            tracing::warn!("data plane: {trouble}; trying again");
            said.clone_from(&trouble);
        }
        store.set_session(|session| {
            session.connected = false;
            session.trouble = trouble;
        });
        std::thread::sleep(pause);
        pause = (pause * 2).min(BACK_OFF[1]);
    }
}

struct Session {
    connection: Connection,
    /// Which data plane it is: another one after each of its starts.
    instance: String,
    generation: u64,
    rows: Rows,
    ports: BTreeMap<String, PortSpec>,
    /// The MTU of a port has changed, which the next generation makes known.
    adjusted: bool,
}

/// What a round came to, save a lost connection.
#[derive(Debug, Default)]
struct Outcome {
    refused: Option<String>,
    failed_ports: BTreeMap<String, String>,
}

impl Session {
    fn open(path: &Path) -> Result<Self, SessionError> {
        let named = |error| SessionError::Connect(path.display().to_string(), error);
        let connection = Connection::connect(path).map_err(named)?;
        connection.set_timeout(Some(ANSWER)).map_err(named)?;
        let mut session = Self {
            connection,
            instance: String::new(),
            generation: 0,
            rows: Rows::default(),
            ports: BTreeMap::new(),
            adjusted: false,
        };
        let hello = Request::Hello { version: proto::VERSION, program: "podrouter-control".to_owned() };
        match session.call(&hello)?.0 {
            Response::Hello(hello) if hello.version.abs_diff(proto::VERSION) <= 1 => {
                tracing::info!("data plane: instance {} at generation {}", hello.instance, hello.generation);
                session.instance = hello.instance;
            }
            Response::Hello(hello) => {
                return Err(SessionError::Version { theirs: hello.version, ours: proto::VERSION });
            }
            other => return Err(unexpected("hello", &other)),
        }
        session.resync()?;
        Ok(session)
    }

    fn resync(&mut self) -> Result<(), SessionError> {
        match self.call(&Request::Snapshot)?.0 {
            Response::Snapshot(snapshot) => {
                self.generation = snapshot.generation;
                self.ports =
                    snapshot.ports.iter().map(|port| (port.spec.name.clone(), port.spec.clone())).collect();
                self.rows = Rows::from(Snapshot { ports: Vec::new(), ..snapshot });
                Ok(())
            }
            other => Err(unexpected("snapshot", &other)),
        }
    }

    fn serve(&mut self, store: &Store) -> SessionError {
        store.set_session(|session| {
            session.connected = true;
            session.trouble.clear();
            session.committed = self.generation;
        });
        loop {
            store.rest();
            let mut retry = false;
            if let Some(plan) = store.plan() {
                match self.carry_out(store, &plan) {
                    Ok(outcome) => {
                        retry = outcome.refused.is_some() || !outcome.failed_ports.is_empty();
                        self.report(store, &plan, outcome);
                    }
                    Err(error) => return error,
                }
            }
            if let Err(error) = self.wait(store, retry) {
                return error;
            }
        }
    }

    fn report(&self, store: &Store, plan: &Plan, outcome: Outcome) {
        store.set_session(|session| {
            if let Some(reason) = &outcome.refused
                && session.refused != outcome.refused
            {
                tracing::error!("data plane: refused: {reason}");
            }
            for (port, reason) in &outcome.failed_ports {
                if session.failed_ports.get(port) != Some(reason) {
                    tracing::error!("port {port}: {reason}");
                }
            }
            session.committed = self.generation;
            session.applied = plan.revision;
            session.refused = outcome.refused;
            session.failed_ports = outcome.failed_ports;
        });
    }

    /// Until there may be a new revision, the time to try again has come, or the data plane is gone.
    fn wait(&self, store: &Store, retry: bool) -> Result<(), SessionError> {
        let socket = self.connection.stream();
        let mut fds = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN | PollFlags::RDHUP),
            PollFd::from_borrowed_fd(store.wake(), PollFlags::IN),
        ];
        let limit = Timespec { tv_sec: i64::try_from(RETRY.as_secs()).unwrap_or(1), tv_nsec: 0 };
        loop {
            match poll(&mut fds, retry.then_some(&limit)) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(SessionError::Poll(error.into())),
            }
        }
        // It answers and never speaks first: bytes that nobody asked for are as good as an end.
        if fds[0].revents().is_empty() { Ok(()) } else { Err(FrameError::Closed.into()) }
    }

    fn carry_out(&mut self, store: &Store, plan: &Plan) -> Result<Outcome, SessionError> {
        let (mut outcome, mut stale) = self.round(store, &plan.desired)?;
        if !stale.is_empty() && outcome.refused.is_none() {
            // A second round makes anew, with the rows that name them, ports that the first had to take away.
            (outcome, stale) = self.round(store, &plan.desired)?;
        }
        for name in stale {
            outcome.failed_ports.entry(name).or_insert_with(|| "is yet to be made anew".to_owned());
        }
        Ok(outcome)
    }

    /// Ports, rows, and the removal of ports that no row names any more. Gives those that were there otherwise than
    /// wanted as well.
    fn round(
        &mut self,
        store: &Store,
        desired: &Desired,
    ) -> Result<(Outcome, BTreeSet<String>), SessionError> {
        let mut outcome = Outcome::default();
        let (available, stale) = self.add_ports(store, &desired.ports, &mut outcome)?;
        let rows = match available.len() == desired.ports.len() {
            true => desired.rows.clone(),
            false => desired.rows.restricted(|port| available.contains(port)),
        };
        outcome.refused = self.commit(&rows)?;
        if outcome.refused.is_none() {
            let gone = |name: &str| !desired.ports.contains_key(name) || stale.contains(name);
            self.remove_ports(gone, &mut outcome)?;
        }
        Ok((outcome, stale))
    }

    /// Makes what is missing. Gives the ports that are there as wanted, and those that are there but otherwise.
    fn add_ports(
        &mut self,
        store: &Store,
        wanted: &BTreeMap<String, PortSpec>,
        outcome: &mut Outcome,
    ) -> Result<(BTreeSet<String>, BTreeSet<String>), SessionError> {
        let (mut available, mut stale) = (BTreeSet::<String>::new(), BTreeSet::<String>::new());
        for (name, spec) in wanted {
            let held = store.tap(name);
            let same_device = held.as_ref().is_none_or(|held| held.given.as_ref() == Some(&self.instance));
            let result = match self.ports.get(name) {
                // A tunnel goes with the port that it leaves by, which comes before it.
                Some(there) if serves(there, spec) && same_device && !rests_on(spec, &stale) => {
                    let other_mtu = there.mtu != spec.mtu;
                    let as_asked = !other_mtu && there.limits == spec.limits;
                    if spec.kind == PortKind::Tap && held.is_none() {
                        self.duplicate(store, name)?;
                    }
                    match if as_asked { Ok(()) } else { self.adjust_port(spec)? } {
                        // A data plane of the release before changes none in place: the port is made anew.
                        Err(_) if other_mtu => {
                            stale.insert(name.clone());
                            continue;
                        }
                        adjusted => {
                            self.adjusted |= other_mtu;
                            adjusted
                        }
                    }
                }
                Some(_) => {
                    stale.insert(name.clone());
                    continue;
                }
                None => self.add_port(store, spec)?,
            };
            match result {
                Ok(()) => {
                    available.insert(name.clone());
                }
                Err(reason) => {
                    outcome.failed_ports.insert(name.clone(), reason);
                }
            }
        }
        Ok((available, stale))
    }

    /// Takes a second descriptor of a TAP that only the data plane holds. Without it, traffic goes on all the same, but
    /// the carrier goes with the data plane.
    fn duplicate(&mut self, store: &Store, name: &str) -> Result<(), SessionError> {
        let (answer, fds) = self.call(&Request::DuplicateTap { name: name.to_owned() })?;
        let taken = match (answer, fds.into_iter().next()) {
            (Response::Tap { .. }, Some(fd)) => Tap::from_fd(fd).map_err(|error| error.to_string()),
            (Response::Tap { .. }, None) => Err("no descriptor came with the answer".to_owned()),
            (Response::Failed { reason }, _) => Err(reason),
            (other, _) => return Err(unexpected("duplicate-tap", &other)),
        };
        match taken {
            Ok(tap) => store.keep_tap(name, tap, Some(&self.instance)),
            Err(reason) => tracing::warn!("port {name}: no duplicate of its TAP: {reason}"),
        }
        Ok(())
    }

    fn add_port(&mut self, store: &Store, spec: &PortSpec) -> Result<Result<(), String>, SessionError> {
        let tap = if spec.kind == PortKind::Tap {
            match open_tap(store, &spec.name) {
                Ok(tap) => Some(tap),
                Err(reason) => return Ok(Err(reason)),
            }
        } else {
            None
        };
        let fds: Vec<_> = tap.iter().map(|tap| tap.as_fd()).collect();
        match self.connection.call(&Request::AddPort(spec.clone()), &fds)?.0 {
            Response::Port(info) => {
                tracing::info!("port {}: made (id {})", spec.name, info.id);
                if let Some(tap) = &tap {
                    store.mark_given(&spec.name, tap, &self.instance);
                }
                self.keep(spec.clone(), &info);
                Ok(Ok(()))
            }
            Response::Failed { reason } => Ok(Err(reason)),
            other => Err(unexpected("add-port", &other)),
        }
    }

    /// Has a port that is there keep to other limits or another MTU; its device stays as it is, so that no descriptor goes along.
    fn adjust_port(&mut self, spec: &PortSpec) -> Result<Result<(), String>, SessionError> {
        let there = self.ports.get(&spec.name).cloned().unwrap_or_else(|| spec.clone());
        // What was left to the data plane stays so.
        let asked = PortSpec { limits: spec.limits, mtu: spec.mtu, ..there };
        match self.call(&Request::AddPort(asked.clone()))?.0 {
            Response::Port(info) => {
                self.keep(asked, &info);
                Ok(Ok(()))
            }
            Response::Failed { reason } => Ok(Err(reason)),
            other => Err(unexpected("add-port", &other)),
        }
    }

    /// Knows of a port from now on. A data plane of the release before knows no limits, and forwards without.
    fn keep(&mut self, spec: PortSpec, info: &PortInfo) {
        if info.spec.limits != spec.limits {
            tracing::warn!(
                "port {}: the data plane does not keep to its limits: bring it to this release",
                spec.name
            );
        }
        self.ports.insert(spec.name.clone(), spec);
    }

    fn remove_ports(
        &mut self,
        gone: impl Fn(&str) -> bool,
        outcome: &mut Outcome,
    ) -> Result<(), SessionError> {
        // Those that need others come behind them, and go before.
        let names: Vec<String> = self.ports.keys().rev().filter(|name| gone(name)).cloned().collect();
        for name in names {
            match self.call(&Request::RemovePort { name: name.clone() })?.0 {
                Response::Done => {
                    tracing::info!("port {name}: taken away");
                    self.ports.remove(&name);
                }
                Response::Failed { reason } => {
                    outcome.failed_ports.insert(name, format!("could not be taken away: {reason}"));
                }
                other => return Err(unexpected("remove-port", &other)),
            }
        }
        Ok(())
    }

    /// Brings the tables to `rows`; gives the reason if the data plane refuses.
    fn commit(&mut self, rows: &Rows) -> Result<Option<String>, SessionError> {
        for _ in 0..ATTEMPTS {
            let mut ops = diff(&self.rows, rows);
            if ops.is_empty() && self.adjusted {
                // Says nothing new; but what packets fit is asked of a generation's tables.
                ops.extend(rows.router.clone().map(|router| Op::SetRouter { router }));
            }
            if ops.is_empty() {
                // Equal, and from now on kept once.
                self.rows = rows.clone();
                return Ok(None);
            }
            let (base, target) = (self.generation, self.generation + 1);
            let answer = match self.call(&Request::Transaction(Transaction { base, target, ops })) {
                // Nothing of it was sent, and the connection is as good as before.
                Err(SessionError::Frame(error @ FrameError::TooLong(_))) => {
                    return Ok(Some(error.to_string()));
                }
                answer => answer?.0,
            };
            match answer {
                Response::Committed { generation } => {
                    self.generation = generation;
                    self.rows = rows.clone();
                    self.adjusted = false;
                    return Ok(None);
                }
                Response::Rejected { wrong_base: true, current, .. } => {
                    tracing::info!("data plane: is at generation {current}, not {base}; comparing anew");
                    self.resync()?;
                }
                Response::Rejected { reason, .. } | Response::Failed { reason } => return Ok(Some(reason)),
                other => return Err(unexpected("transaction", &other)),
            }
        }
        Ok(Some(format!("somebody else changed the tables {ATTEMPTS} times meanwhile")))
    }

    fn call(&mut self, request: &Request) -> Result<(Response, Vec<std::os::fd::OwnedFd>), SessionError> {
        Ok(self.connection.call(request, &[])?)
    }
}

/// Whether a port that is there will do. A MAC that was left to the data plane is its own affair; limits can be changed, and the MTU of
/// all but DPDK's devices.
fn serves(there: &PortSpec, wanted: &PortSpec) -> bool {
    let fixed = matches!(there.kind, PortKind::Ethdev(_));
    there.kind == wanted.kind
        && !(fixed && there.mtu != wanted.mtu)
        && (wanted.mac.is_none() || there.mac == wanted.mac)
}

/// Whether a port is a tunnel over one of those.
fn rests_on(port: &PortSpec, others: &BTreeSet<String>) -> bool {
    matches!(&port.kind, PortKind::Vxlan { uplink, .. } if others.contains(uplink))
}

/// The TAP's descriptor: the one that is kept, or the device opened again by the path in the journal.
fn open_tap(store: &Store, name: &str) -> Result<std::sync::Arc<Tap>, String> {
    if let Some(held) = store.tap(name) {
        return Ok(held.tap);
    }
    if name == HOST_PORT {
        let host = store.config.host.as_deref().unwrap_or_default();
        if let Some(tap) = host::prepare(host, store.config.mtu).map_err(|error| error.to_string())? {
            store.keep_tap(name, tap, None);
        }
    } else if let Some(attachment) = store.attachment_of(name) {
        let request = &attachment.request;
        let netns = tap::netns::open_netns(&request.netns).map_err(|error| error.to_string())?;
        let tap = pod::restore(netns.as_fd(), &request.interface, &attachment.attached);
        store.keep_tap(name, tap.map_err(|error| error.to_string())?, None);
    }
    let held = store
        .tap(name)
        .ok_or("another process holds its TAP: end that process, or have it close the device")?;
    Ok(held.tap)
}

fn unexpected(request: &'static str, answer: &Response) -> SessionError {
    let answer = match answer {
        Response::Failed { reason } => format!("a failure: {reason}"),
        other => {
            let mut text = format!("{other:?}");
            text.truncate(text.char_indices().nth(120).map_or(text.len(), |(end, _)| end));
            text
        }
    };
    SessionError::Unexpected { request, answer }
}
