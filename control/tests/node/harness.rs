//! A node to throw away: namespaces for host and pods, a directory of manifests, and the control process itself.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use apiserver::ApiServer;
use proto::control::{AttachAddresses, AttachPort, AttachRequest, Attached, Request, Response, Status};
use proto::{Connection, FrameError};
use rustix::process::{Pid, Signal};

use crate::fake::Fake;

/// Generous: machines that build beside a test are slow.
const LIMIT: Duration = Duration::from_secs(60);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Waits until `look` is true; fails with `what` it waited for.
pub(crate) fn until(what: &str, mut look: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !look() {
        assert!(Instant::now() < limit, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A network namespace; dropped, it is gone.
pub(crate) struct Netns(pub(crate) String);

impl Netns {
    pub(crate) fn new() -> Self {
        let name = format!("prc-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let netns = Self(name);
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    /// `ip` in the namespace.
    pub(crate) fn ip(&self, args: &[&str]) -> String {
        run("ip", &[&["-n", &self.0], args].concat())
    }

    /// `nft` in the namespace.
    pub(crate) fn nft(&self, args: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.0, "nft"], args].concat())
    }

    /// The interface as `ip -j` shows it, if it is there.
    pub(crate) fn link(&self, name: &str) -> Option<serde_json::Value> {
        let all: serde_json::Value = serde_json::from_str(&self.ip(&["-j", "addr", "show"])).unwrap();
        all.as_array().unwrap().iter().find(|link| link["ifname"] == name).cloned()
    }

    pub(crate) fn has_carrier(&self, name: &str) -> bool {
        let link = self.link(name).unwrap();
        link["flags"].as_array().unwrap().iter().any(|flag| flag == "LOWER_UP")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).stderr(Stdio::null()).status();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// As recorded, with the annotation that other nodes' control publishes.
fn recorded() -> String {
    let annotation =
        |n: u8| format!("    annotations:\n      podrouter.io/router-addresses: 172.16.0.{n},fd00:16::{n}\n");
    let parts: Vec<String> = (0..)
        .zip(
            include_str!("../data/cluster.yaml")
                .split("    annotations:\n      node.alpha.kubernetes.io/ttl: \"0\"\n"),
        )
        .map(|(n, part)| if n == 0 { part.to_owned() } else { annotation(n) + part })
        .collect();
    assert_eq!(parts.len(), 3);
    parts.concat()
}

/// The node `knode1`.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) host: Netns,
    pub(crate) extra: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// Directories and manifests; nothing runs yet. The host has the recorded node's addresses.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let host = Netns::new();
        host.ip(&["addr", "add", "192.168.77.11/32", "dev", "lo"]);
        host.ip(&["addr", "add", "fd00:77::11/128", "dev", "lo"]);
        let uplink = [
            "--uplink",
            "net_null0",
            "--uplink-address",
            "172.16.0.1/24",
            "--uplink-address",
            "fd00:16::1/64",
        ];
        let node = Self { dir, host, extra: uplink.map(str::to_owned).into(), child: None };
        node.manifest("cluster.yaml", &recorded());
        node
    }

    /// The same on an API server at `port` of the host's loopback (0: any) that has the recorded cluster, and knows no event
    /// up to `version`.
    pub(crate) fn api_server(&mut self, port: u16, version: u64) -> ApiServer {
        let host = std::fs::File::open(self.host.path()).unwrap();
        let listener = tap::netns::in_netns(host.as_fd(), || TcpListener::bind(("127.0.0.1", port)).unwrap());
        let server = ApiServer::start(listener.unwrap(), version).unwrap();
        let cluster: serde_json::Value = serde_norway::from_str(&recorded()).unwrap();
        for object in cluster["items"].as_array().unwrap() {
            server.set(object.clone());
        }
        let kubeconfig = format!(
            "{{kind: Config, apiVersion: v1, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
             users: [{{name: u, user: {{token: t}}}}], clusters: [{{name: c, cluster: {{server: \"{}\"}}}}]}}",
            server.url()
        );
        std::fs::write(self.path("kubeconfig"), kubeconfig).unwrap();
        if !self.extra.iter().any(|extra| extra == "--kubeconfig") {
            self.extra.extend(["--kubeconfig".to_owned(), self.path("kubeconfig").display().to_string()]);
        }
        server
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a manifest as a whole, by renaming.
    pub(crate) fn manifest(&self, name: &str, text: &str) {
        let path = self.path("manifests").join(name);
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, path).unwrap();
    }

    pub(crate) fn fake(&self) -> Fake {
        Fake::start(&self.path("dataplane.sock"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.host.path().display()));
        command.arg(env!("CARGO_BIN_EXE_podrouter-control"));
        command.args(["--node", "knode1", "--log", "debug"]);
        for (flag, name) in [
            ("--manifests", "manifests"),
            ("--socket", "control.sock"),
            ("--dataplane", "dataplane.sock"),
            ("--state-dir", "state"),
            ("--vhost-dir", "vhost"),
        ] {
            let instead = if flag == "--manifests" { "--kubeconfig" } else { flag };
            if !self.extra.iter().any(|extra| extra == flag || extra == instead) {
                command.arg(flag).arg(self.path(name));
            }
        }
        command.args(&self.extra);
        command
    }

    /// Starts control and waits until it answers.
    pub(crate) fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let _ = std::fs::remove_file(self.path("control.sock"));
        self.child = Some(self.command().stderr(log).spawn().unwrap());
        until("control answers", || Connection::connect(&self.path("control.sock")).is_ok());
    }

    /// Starts control, and waits until data plane and manifests are there and carried out.
    pub(crate) fn start_and_sync(&mut self, fake: &Fake) {
        self.start();
        until("the first transaction", || {
            let status = self.status();
            status.synced && status.connected && fake.with(|state| state.rows.endpoints.contains_key("host"))
        });
    }

    /// A start that ends by itself: exit code and what it said.
    pub(crate) fn start_and_fail(&self) -> (i32, String) {
        let output = self.command().output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends it as a supervisor does; gives the exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        child.wait().unwrap().code().unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    pub(crate) fn call(&self, request: &Request, netns: Option<&Netns>) -> Response {
        self.try_call(request, netns).unwrap()
    }

    /// An error where control is not there, or goes before it answers.
    pub(crate) fn try_call(&self, request: &Request, netns: Option<&Netns>) -> Result<Response, FrameError> {
        let mut connection = Connection::connect(&self.path("control.sock"))?;
        connection.set_timeout(Some(LIMIT))?;
        let hello = Request::Hello { version: proto::VERSION, program: "test".into() };
        let (answer, _) = connection.call::<_, Response>(&hello, &[])?;
        assert_eq!(answer, Response::Hello { version: proto::VERSION });
        let netns = netns.map(|netns| std::fs::File::open(netns.path()).unwrap());
        let fds: Vec<_> = netns.iter().map(AsFd::as_fd).collect();
        Ok(connection.call::<_, Response>(request, &fds)?.0)
    }

    pub(crate) fn attach(&self, request: AttachRequest, netns: &Netns) -> Attached {
        match self.call(&Request::Attach(request), Some(netns)) {
            Response::Attached(attached) => attached,
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    /// The failure's code and reason.
    pub(crate) fn attach_fails(&self, request: AttachRequest, netns: &Netns) -> (u32, String) {
        match self.call(&Request::Attach(request), Some(netns)) {
            Response::Failed { code, reason, .. } => (code, reason),
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    pub(crate) fn detach(&self, request: &AttachRequest) {
        let answer = self.call(&detach(request), None);
        assert_eq!(answer, Response::Detached, "{}", self.log());
    }

    pub(crate) fn status(&self) -> Status {
        match self.call(&Request::Status, None) {
            Response::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn journal(&self) -> String {
        std::fs::read_to_string(self.path("state/attachments.journal")).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// The DEL of an ADD.
pub(crate) fn detach(request: &AttachRequest) -> Request {
    let AttachRequest { network, container, interface, .. } = request.clone();
    Request::Detach { network, container, interface }
}

/// What the CNI plug-in would ask for a kernel pod.
pub(crate) fn pod(name: &str, netns: &Netns) -> AttachRequest {
    AttachRequest {
        network: "pods".into(),
        container: format!("container-{name}"),
        interface: "eth0".into(),
        netns: netns.path(),
        port: AttachPort::Tap,
        port_chosen: false,
        device: None,
        queue_pairs: None,
        mtu: None,
        mac: None,
        addresses: AttachAddresses::Any,
        pod: Some(proto::control::PodName { namespace: "shop".into(), name: name.into(), uid: None }),
        bandwidth: None,
        secondary: None,
        port_mappings: vec![],
    }
}
