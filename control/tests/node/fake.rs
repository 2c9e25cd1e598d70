//! A data plane that forwards nothing: it keeps real rows and ports, and refuses what a real one refuses.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use desired::{ROUTER_MAC, Rows, apply};
use proto::Connection;
use proto::dataplane::{
    Hello, Identity, IdentityKey, Membership, PortInfo, PortKind, PortSpec, Request, Response, RouteKey,
    RouteTarget, Snapshot, Transaction,
};

static INSTANCES: AtomicU32 = AtomicU32::new(0);

/// What it holds.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) instance: String,
    pub(crate) generation: u64,
    pub(crate) rows: Rows,
    pub(crate) ports: BTreeMap<String, PortInfo>,
    pub(crate) taps: BTreeMap<String, OwnedFd>,
    /// Requests that made or moved something, in their order.
    pub(crate) log: Vec<String>,
    /// Ports whose name begins so are refused.
    pub(crate) refuse_ports: Option<String>,
    /// Transactions are refused.
    pub(crate) refuse_rows: bool,
    /// It does what it is asked and does not answer.
    pub(crate) hang: bool,
    streams: Vec<UnixStream>,
    ended: bool,
}

/// A running one; dropped, it is gone as after a kill: descriptors, rows and connections.
pub(crate) struct Fake {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let instance = format!("fake-{}", INSTANCES.fetch_add(1, Ordering::Relaxed));
        let state = Arc::new(Mutex::new(State { instance, ..State::default() }));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let mut talks = vec![];
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut state = shared.lock().unwrap();
                if state.ended {
                    break;
                }
                state.streams.push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                talks.push(std::thread::spawn(move || talk(Connection::new(stream), &shared)));
            }
            for talk in talks {
                talk.join().unwrap();
            }
        });
        Self { path: path.to_owned(), state, thread: Some(thread) }
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Whether the port's descriptor is on a device that is there.
    pub(crate) fn has_device(&self, port: &str) -> bool {
        self.with(|state| {
            let fd = state.taps.get(port).map(|fd| fd.try_clone().unwrap());
            fd.is_some_and(|fd| tap::Tap::from_fd(fd).is_ok())
        })
    }

    /// Where a prefix goes.
    pub(crate) fn route(&self, prefix: &str) -> Option<RouteTarget> {
        let key = RouteKey { network: 0, prefix: prefix.parse().unwrap() };
        self.with(|state| state.rows.routes.get(&key).cloned())
    }

    /// Rows and ports, without what differs from start to start.
    pub(crate) fn contents(&self) -> (Rows, BTreeMap<String, PortSpec>) {
        self.with(|state| {
            let ports = state.ports.iter().map(|(name, info)| (name.clone(), info.spec.clone())).collect();
            (state.rows.clone(), ports)
        })
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        {
            let Ok(mut state) = self.state.lock() else { return };
            state.ended = true;
            for stream in &state.streams {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // Wakes the listener, which then sees that it has ended.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn talk(mut connection: Connection, state: &Mutex<State>) {
    while let Ok((request, fds)) = connection.receive::<Request>() {
        let (answer, fd) = answer(&mut state.lock().unwrap(), request, fds);
        let hangs = || {
            let state = state.lock().unwrap();
            state.hang && !state.ended
        };
        while hangs() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let beside: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        if connection.send(&answer, &beside).is_err() {
            return;
        }
    }
}

fn answer(state: &mut State, request: Request, mut fds: Vec<OwnedFd>) -> (Response, Option<OwnedFd>) {
    let failed = |reason: &str| Response::Failed { reason: reason.into() };
    let response = match request {
        Request::Hello { version, .. } => {
            Response::Hello(Hello { version, instance: state.instance.clone(), generation: state.generation })
        }
        Request::AddPort(spec) => {
            state.log.push(format!("add {}", spec.name));
            if state.refuse_ports.as_ref().is_some_and(|start| spec.name.starts_with(start)) {
                return (failed("it was told to refuse this port"), None);
            }
            if let Some(info) = state.ports.get_mut(&spec.name) {
                let there = PortSpec { limits: spec.limits, mtu: spec.mtu, ..info.spec.clone() };
                assert_eq!(there, spec, "asked to make a port that is there otherwise");
                info.spec = there;
                if fds.is_empty() {
                    return (Response::Port(info.clone()), None);
                }
            }
            if spec.kind == PortKind::Tap {
                let Ok(tap) = tap::Tap::from_fd(fds.pop().unwrap()) else {
                    return (failed("the device is gone"), None);
                };
                assert!(tap.vnet_hdr());
                state.taps.insert(spec.name.clone(), tap.into());
            }
            let id = u16::try_from(state.ports.len()).unwrap();
            let info = PortInfo { id, mac: spec.mac.unwrap_or(ROUTER_MAC), spec: spec.clone() };
            state.ports.insert(spec.name.clone(), info.clone());
            Response::Port(info)
        }
        Request::RemovePort { name } => {
            state.log.push(format!("remove {name}"));
            if state.rows.uses_port(&name) {
                failed("a row names the port")
            } else if state.ports.remove(&name).is_some() {
                state.taps.remove(&name);
                Response::Done
            } else {
                failed("there is no such port")
            }
        }
        Request::DuplicateTap { name } => {
            state.log.push(format!("duplicate {name}"));
            match state.taps.get(&name) {
                Some(fd) => return (Response::Tap { name }, Some(fd.try_clone().unwrap())),
                None => failed("there is no such TAP"),
            }
        }
        Request::Snapshot => Response::Snapshot(Snapshot {
            generation: state.generation,
            ports: state.ports.values().cloned().collect(),
            router: state.rows.router.clone(),
            interfaces: state.rows.interfaces.values().cloned().collect(),
            endpoints: state.rows.endpoints.values().cloned().collect(),
            routes: state
                .rows
                .routes
                .iter()
                .map(|(key, target)| proto::dataplane::Route { key: *key, target: target.clone() })
                .collect(),
            frontends: state.rows.frontends.values().cloned().collect(),
            identities: identities(&state.rows.identities),
            blocks: identities(&state.rows.blocks),
            memberships: {
                let row = |(&identity, groups): (&u32, &std::sync::Arc<[u32]>)| Membership {
                    identity,
                    groups: groups.to_vec(),
                };
                state.rows.memberships.iter().map(row).collect()
            },
            policies: state.rows.policies.values().cloned().collect(),
            masquerades: state.rows.masquerades.values().cloned().collect(),
            tunnel_peers: state.rows.tunnel_peers.values().cloned().collect(),
        }),
        Request::Transaction(transaction) => transact(state, &transaction),
        _ => failed("it has nothing to show"),
    };
    (response, None)
}

fn identities<'a>(rows: impl IntoIterator<Item = (&'a IdentityKey, &'a u32)>) -> Vec<Identity> {
    rows.into_iter().map(|(&key, &identity)| Identity { key, identity }).collect()
}

fn transact(state: &mut State, transaction: &Transaction) -> Response {
    state.log.push(format!("transaction {}", transaction.target));
    let current = state.generation;
    let rejected = |wrong_base, reason: String| Response::Rejected { current, wrong_base, reason };
    if state.refuse_rows {
        return rejected(false, "it was told to refuse rows".into());
    }
    if transaction.base != current || transaction.target <= current {
        return rejected(true, "another base".into());
    }
    assert!(!transaction.ops.is_empty(), "a transaction that changes nothing");
    let mut rows = state.rows.clone();
    if let Err(error) = apply(&mut rows, &transaction.ops) {
        return rejected(false, error.to_string());
    }
    let strange = rows
        .restricted(|port| !state.ports.contains_key(port))
        .endpoints
        .keys()
        .cloned()
        .chain(rows.interfaces.keys().filter(|port| !state.ports.contains_key(*port)).cloned())
        .next();
    if let Some(strange) = strange {
        return rejected(false, format!("{strange} names a port that is not there"));
    }
    state.rows = rows;
    state.generation = transaction.target;
    Response::Committed { generation: transaction.target }
}
