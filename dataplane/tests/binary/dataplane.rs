//! A data plane of a test's own, driven over its socket.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use proto::Connection;
use proto::dataplane::{
    Ethdev, Ledger, Limits, Op, PortKind, PortSpec, PortStatus, Request, Response, Transaction, WorkerStatus,
};
use wire::MacAddr;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const ROUTER: MacAddr = MacAddr([0x02, 0x70, 0x6f, 0x64, 0, 1]);

/// A data plane of this test's own; it ends with the test.
pub(crate) struct Dataplane {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
    pub(crate) connection: Connection,
    pub(crate) dir: tempfile::TempDir,
    args: Vec<String>,
}

impl Dataplane {
    pub(crate) fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let mut all = vec!["--no-huge"];
        for default in [["--workers", "0"], ["--log", "warn"], ["--mbufs", "4096"], ["--large-mbufs", "256"]]
        {
            if !args.contains(&default[0]) {
                all.extend(default);
            }
        }
        all.extend(["--socket", socket.to_str().unwrap()]);
        let args: Vec<String> = all.iter().chain(args).map(|&arg| arg.into()).collect();
        let mut child = spawn(&args, &dir);
        let connection = connect(&mut child, &socket, &dir);
        Self { child, socket, connection, dir, args }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        forget(&self.child);
    }

    /// Starts it again after [`Self::kill`], as it was started: it has neither ports nor rows.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.args, &self.dir);
        self.connection = connect(&mut self.child, &self.socket, &self.dir);
    }

    /// A second client.
    pub(crate) fn client(&self) -> Connection {
        let connection = Connection::connect(&self.socket).unwrap();
        connection.set_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub(crate) fn call(&mut self, request: &Request) -> Response {
        self.connection.call(request, &[]).unwrap().0
    }

    pub(crate) fn add(&mut self, name: &str, kind: PortKind) {
        let spec =
            PortSpec { name: name.into(), kind, mac: Some(ROUTER), mtu: 1500, limits: Limits::default() };
        match self.call(&Request::AddPort(spec.clone())) {
            Response::Port(info) => assert_eq!((info.spec, info.mac), (spec, ROUTER)),
            other => panic!("{other:?}"),
        }
    }

    /// What came of it: a port's id, or why not.
    pub(crate) fn try_add(&mut self, spec: PortSpec, fds: &[BorrowedFd<'_>]) -> Result<u16, String> {
        match self.connection.call(&Request::AddPort(spec), fds).unwrap().0 {
            Response::Port(info) => Ok(info.id),
            Response::Failed { reason } => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn tap(&mut self, name: &str, fd: BorrowedFd<'_>) -> u16 {
        let spec = PortSpec {
            name: name.into(),
            kind: PortKind::Tap,
            mac: Some(ROUTER),
            mtu: 1500,
            limits: Limits::default(),
        };
        self.try_add(spec, &[fd]).unwrap()
    }

    pub(crate) fn remove(&mut self, name: &str) {
        assert_eq!(self.call(&Request::RemovePort { name: name.into() }), Response::Done);
    }

    pub(crate) fn ethdev(&mut self, name: &str, device: &str) {
        self.add(name, PortKind::Ethdev(Ethdev::new(device)));
    }

    /// A device that is not there yet, by its arguments.
    pub(crate) fn attach(&mut self, name: &str, devargs: &str) {
        let device = devargs.split(',').next().unwrap();
        self.add(name, PortKind::Ethdev(Ethdev { devargs: Some(devargs.to_owned()), ..Ethdev::new(device) }));
    }

    pub(crate) fn commit(&mut self, base: u64, ops: Vec<Op>) {
        let target = base + 1;
        match self.call(&Request::Transaction(Transaction { base, target, ops })) {
            Response::Committed { generation } => assert_eq!(generation, target),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn rejected(&mut self, base: u64, ops: Vec<Op>) -> String {
        match self.call(&Request::Transaction(Transaction { base, target: base + 1, ops })) {
            Response::Rejected { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn ports(&mut self) -> Vec<PortStatus> {
        match self.call(&Request::ShowPorts) {
            Response::Ports { ports } => ports,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn port(&mut self, name: &str) -> PortStatus {
        self.ports().into_iter().find(|port| port.info.spec.name == name).unwrap()
    }

    pub(crate) fn drops(&mut self, port: &str, reason: &str) -> u64 {
        let Response::Drops { drops } = self.call(&Request::ShowDrops) else { panic!() };
        drops.iter().filter(|drop| drop.port == port && drop.reason == reason).map(|drop| drop.packets).sum()
    }

    /// What was dropped at a port since it has a role, and why.
    pub(crate) fn dropped(&mut self, port: &str) -> Vec<(String, u64)> {
        let Response::Drops { drops } = self.call(&Request::ShowDrops) else { panic!() };
        let here = drops
            .into_iter()
            .filter(|drop| drop.port == port && drop.packets > 0 && drop.reason != "port-idle");
        here.map(|drop| (drop.reason, drop.packets)).collect()
    }

    pub(crate) fn workers(&mut self) -> Vec<WorkerStatus> {
        let Response::Workers { workers } = self.call(&Request::ShowWorkers) else { panic!() };
        workers
    }

    pub(crate) fn ledgers(&mut self) -> Vec<Ledger> {
        self.workers().into_iter().map(|worker| worker.ledger).collect()
    }

    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Every worker at rest, and every packet accounted for.
    pub(crate) fn assert_ledger(&mut self) {
        let mut last = Vec::new();
        self.until("the ledger adds up at rest", |dataplane| {
            let now = dataplane.ledgers();
            let rest = now == last;
            let adds_up = now.iter().all(|ledger| ledger.imbalance() == 0);
            let handed =
                now.iter().map(|l| l.handed_in).sum::<u64>() == now.iter().map(|l| l.handed_out).sum::<u64>();
            last = now;
            rest && adds_up && handed
        });
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "SIGTERM did not end it");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the data plane's log:\n{}", self.log());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        forget(&self.child);
    }
}

/// In the namespace of this thread.
fn spawn(args: &[String], dir: &tempfile::TempDir) -> Child {
    let log = File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_podrouter-dataplane"));
    command.args(args).stdin(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Once it is ready.
fn connect(child: &mut Child, socket: &Path, dir: &tempfile::TempDir) -> Connection {
    let began = Instant::now();
    let mut connection = loop {
        match Connection::connect(socket) {
            Ok(connection) => break connection,
            Err(error) => {
                let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
                assert!(child.try_wait().unwrap().is_none(), "it ended before it was ready: {}", log());
                if began.elapsed() > PATIENCE {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    panic!("not ready: {error}: {}", log());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    };
    connection.set_timeout(Some(PATIENCE)).unwrap();
    let hello = Request::Hello { version: proto::VERSION, program: "test".into() };
    let (answer, _) = connection.call::<_, Response>(&hello, &[]).unwrap();
    assert!(matches!(answer, Response::Hello(hello) if hello.generation == 0));
    connection
}

/// EAL's own folder, where it was not ended in order.
fn forget(child: &Child) {
    drop(std::fs::remove_dir_all(format!("/var/run/dpdk/podrouter-{}", child.id())));
}
