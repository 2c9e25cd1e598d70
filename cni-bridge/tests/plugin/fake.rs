//! A control that answers as told and remembers what it was asked, and a runtime that runs the binary.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use proto::Connection;
use proto::control::{Attached, AttachedRoute, Request, Response, Status};
use serde_json::{Value, json};
use tempfile::TempDir;
use wire::MacAddr;

/// A request, and the inodes of the descriptors beside it.
type Asked = (Request, Vec<u64>);

pub(crate) struct FakeControl {
    _dir: TempDir,
    pub(crate) socket: PathBuf,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeControl {
    /// Serves connections with `answer` until the test ends; `None` hangs up.
    pub(crate) fn start(answer: impl Fn(&Request) -> Option<Response> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut connection = Connection::new(stream.unwrap());
                while let Ok((request, fds)) = connection.receive::<Request>() {
                    log.lock().unwrap().push((request.clone(), fds.into_iter().map(inode).collect()));
                    match answer(&request) {
                        Some(response) => connection.send(&response, &[]).unwrap(),
                        None => break,
                    }
                }
            }
        });
        Self { _dir: dir, socket, asked }
    }

    /// One that does all that is asked.
    pub(crate) fn willing() -> Self {
        Self::start(|request| Some(willing(request)))
    }

    /// What it was asked after the hello.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(request, _)| !matches!(request, Request::Hello { .. })).cloned().collect()
    }

    /// A configuration for it, with more keys.
    pub(crate) fn config(&self, version: &str, more: Value) -> Value {
        let mut config =
            json!({"cniVersion": version, "name": "pods", "type": "podrouter-cni", "socket": self.socket});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }
}

pub(crate) fn willing(request: &Request) -> Response {
    match request {
        Request::Hello { .. } => Response::Hello { version: proto::VERSION },
        Request::Check { .. } => Response::Attached(Attached {
            mac: MacAddr([2, 0, 0, 0, 0, 5]),
            mtu: 1500,
            addresses: vec![],
            gateways: vec![],
            routes: vec![],
            network_id: 0,
            socket: None,
        }),
        Request::Attach(asked) => {
            let socket = (asked.port == proto::control::AttachPort::VhostUser)
                .then(|| PathBuf::from("/run/podrouter/vhost/p0123456789ab.sock"));
            Response::Attached(Attached {
                mac: asked.mac.unwrap_or(MacAddr([2, 0, 0, 0, 0, 5])),
                mtu: asked.mtu.unwrap_or(1500),
                addresses: vec!["10.244.1.5".parse().unwrap(), "fd00:10:244:1::5".parse().unwrap()],
                gateways: vec!["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
                routes: vec![
                    route("169.254.1.1/32", None),
                    route("0.0.0.0/0", Some("169.254.1.1")),
                    route("::/0", Some("fe80::1")),
                ],
                network_id: asked.network_id(),
                socket,
            })
        }
        Request::Detach { .. } => Response::Detached,
        Request::Collect { .. } => Response::Collected { removed: 0, failures: Vec::new() },
        Request::Status | Request::ShowEndpoints { .. } => Response::Status(status()),
    }
}

pub(crate) fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 1,
        node: "node-1".into(),
        source: "manifests /etc/podrouter/manifests".into(),
        synced: true,
        connected: true,
        unready: None,
        committed: 7,
        nodes: 1,
        pods: 2,
        namespaces: 4,
        services: 6,
        endpoint_slices: 7,
        policies: 1,
        attachments: 2,
        warnings: Vec::new(),
    }
}

/// What the binary said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// The result of a success.
    pub(crate) fn result(&self) -> Value {
        assert_eq!(self.status, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Success without a word, as DEL, CHECK and STATUS end.
    pub(crate) fn nothing(&self) {
        assert_eq!((self.status, self.stdout.as_str()), (Some(0), ""), "{self:?}");
    }

    /// The error object: exit code 1, on standard output, with the keys of the specification.
    pub(crate) fn failure(&self) -> (u64, String) {
        assert_eq!(self.status, Some(1), "{self:?}");
        let object: Value = serde_json::from_str(&self.stdout).unwrap();
        assert!(object["cniVersion"].is_string() && object["msg"].is_string(), "{object}");
        (object["code"].as_u64().unwrap(), object["msg"].as_str().unwrap().to_owned())
    }
}

/// This process's own namespace: one that surely is there. Only with the override is it taken for a pod's.
pub(crate) const NETNS: &str = "/proc/self/ns/net";

/// A run of the binary as a runtime makes one for a container; an empty value takes a variable away.
pub(crate) fn run(command: &str, config: &[u8], change: &[(&str, &str)]) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_podrouter-cni"));
    child.env_clear();
    for (key, value) in [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", NETNS),
        ("CNI_NETNS_OVERRIDE", "1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u"),
        ("CNI_PATH", "/opt/cni/bin"),
    ] {
        child.env(key, value);
    }
    for (key, value) in change {
        if value.is_empty() {
            child.env_remove(key)
        } else {
            child.env(key, value)
        };
    }
    finish(child, config)
}

pub(crate) fn finish(mut command: Command, input: &[u8]) -> Said {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end without reading, as `--help` does.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Said {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn bytes(config: &Value) -> Vec<u8> {
    config.to_string().into_bytes()
}

fn route(destination: &str, gateway: Option<&str>) -> AttachedRoute {
    AttachedRoute {
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
    }
}

fn inode(fd: OwnedFd) -> u64 {
    std::fs::File::from(fd).metadata().unwrap().ino()
}
