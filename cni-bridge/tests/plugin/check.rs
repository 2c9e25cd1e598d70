//! CHECK against a real namespace, with what ADD would have made in it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use proto::control::{Attached, Request, Response};
use serde_json::{Value, json};

use crate::fake::{FakeControl, bytes, run, willing};

/// A namespace of the test's own, held by a shell that obeys line by line; it goes when the shell does.
struct Namespace {
    shell: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Namespace {
    fn new() -> Self {
        let mut shell = Command::new("unshare")
            .args(["--net", "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(shell.stdout.take().unwrap());
        let mut namespace = Self { shell, answers };
        namespace.run("ip link set lo up");
        namespace
    }

    fn run(&mut self, line: &str) {
        writeln!(self.shell.stdin.as_mut().unwrap(), "{line} && echo done || echo failed").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "{line} (needs root and iproute2)");
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.shell.id())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A pod as ADD leaves it, and the result that told so.
fn pod() -> (Namespace, FakeControl, Value) {
    let mut namespace = Namespace::new();
    let control = FakeControl::willing();
    let config = control.config("1.0.0", json!({}));
    let result = run("ADD", &bytes(&config), &[("CNI_NETNS", &namespace.path())]).result();
    for line in [
        "ip tuntap add eth0 mode tap",
        "ip link set eth0 address 02:00:00:00:00:05 up",
        "ip addr add 10.244.1.5/32 dev eth0",
        "ip addr add fd00:10:244:1::5/128 dev eth0 nodad",
        "ip route add 169.254.1.1/32 dev eth0 scope link",
        "ip route add default via 169.254.1.1 dev eth0",
        "ip -6 route add default via fe80::1 dev eth0",
    ] {
        namespace.run(line);
    }
    (namespace, control, result)
}

#[test]
fn a_pod_as_add_left_it_and_as_it_should_not_be() {
    let (mut namespace, control, result) = pod();
    let config = control.config("1.0.0", json!({"prevResult": result}));
    let netns = namespace.path();
    let check = || run("CHECK", &bytes(&config), &[("CNI_NETNS", &netns)]);
    check().nothing();
    // What others add is theirs.
    namespace.run("ip addr add 192.0.2.1/24 dev eth0");
    check().nothing();
    for (undo, named, again) in [
        (
            "ip route del default",
            "0.0.0.0/0 via 169.254.1.1",
            "ip route add default via 169.254.1.1 dev eth0",
        ),
        (
            "ip -6 route replace default via fe80::2 dev eth0",
            "::/0 via fe80::1",
            "ip -6 route replace default via fe80::1 dev eth0",
        ),
        (
            "ip addr del fd00:10:244:1::5/128 dev eth0",
            "fd00:10:244:1::5/128",
            "ip addr add fd00:10:244:1::5/128 dev eth0 nodad",
        ),
        (
            "ip link set eth0 address 02:00:00:00:00:06",
            "02:00:00:00:00:05",
            "ip link set eth0 address 02:00:00:00:00:05",
        ),
        ("ip link del eth0", "`eth0`", "true"),
    ] {
        namespace.run(undo);
        let (code, msg) = check().failure();
        assert!(code == 111 && msg.contains(named), "{undo}: {code} {msg}");
        namespace.run(again);
    }
}

#[test]
fn control_and_data_plane_must_know_it() {
    for (code, reason) in [
        (3, "pods/c0ffee/eth0 is not attached"),
        (11, "the data plane is away"),
        (103, "port p0: the data plane refused it"),
    ] {
        let control = FakeControl::start(move |request| {
            Some(match request {
                Request::Check { .. } => {
                    Response::Failed { code, reason: reason.into(), details: String::new() }
                }
                other => willing(other),
            })
        });
        let config = bytes(&control.config("1.0.0", json!({"prevResult": {}})));
        let (found, msg) = run("CHECK", &config, &[]).failure();
        assert!(found == u64::from(code) && msg == reason, "{found} {msg}");
        let asked =
            Request::Check { network: "pods".into(), container: "c0ffee".into(), interface: "eth0".into() };
        assert_eq!(control.asked(), [(asked, vec![])]);
    }
}

#[test]
fn prev_result_is_needed_and_read() {
    let control = FakeControl::willing();
    let fails = |more: Value, named: &str| {
        let (code, msg) = run("CHECK", &bytes(&control.config("1.0.0", more)), &[]).failure();
        assert!(code == 7 && msg.contains("prevResult") && msg.contains(named), "{code} {msg}");
    };
    fails(json!({}), "missing");
    fails(json!({"prevResult": {"interfaces": [{"name": "eth0", "sandbox": "/other"}]}}), "`eth0`");
}

#[test]
fn a_vhost_user_pods_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("p1.sock");
    // What kind of port it got, control knows best: its annotation may have chosen.
    let own = socket.clone();
    let control = FakeControl::start(move |request| match willing(request) {
        Response::Attached(attached) => {
            Some(Response::Attached(Attached { socket: Some(own.clone()), ..attached }))
        }
        other => Some(other),
    });
    let interface = json!({"name": "eth0", "sandbox": "/vm/7", "socketPath": socket});
    let config = control.config("1.1.0", json!({"port": "tap", "prevResult": {"interfaces": [interface]}}));
    let check = || run("CHECK", &bytes(&config), &[("CNI_NETNS", "/vm/7")]);
    let (code, msg) = check().failure();
    assert!(code == 111 && msg.contains(socket.to_str().unwrap()), "{code} {msg}");
    let _listener = UnixListener::bind(&socket).unwrap();
    check().nothing();
}
