//! DEL, VERSION, STATUS, GC, and a run by hand.

use std::path::Path;
use std::process::Command;

use proto::control::{Request, Response, Status};
use serde_json::json;

use crate::fake::{FakeControl, bytes, finish, run, status, willing};

#[test]
fn del_again_and_again() {
    let control = FakeControl::willing();
    let config = bytes(&control.config("1.0.0", json!({})));
    run("DEL", &config, &[]).nothing();
    run("DEL", &config, &[("CNI_NETNS", "")]).nothing();
    run("DEL", &config, &[("CNI_NETNS", "/gone"), ("CNI_ARGS", "no pairs"), ("CNI_PATH", "")]).nothing();
    let detach =
        Request::Detach { network: "pods".into(), container: "c0ffee".into(), interface: "eth0".into() };
    assert_eq!(control.asked(), vec![(detach, vec![]); 3]);
}

#[test]
fn del_ends_what_add_refused() {
    // The runtime calls DEL after an ADD that failed, with the same configuration.
    let control = FakeControl::willing();
    let more = json!({"port": "banana", "mtu": "x", "ipam": {"type": "host-local"}, "prevResult": 7});
    let config = bytes(&control.config("1.1.0", more));
    assert_eq!(run("ADD", &config, &[]).failure().0, 7);
    run("DEL", &config, &[]).nothing();
}

#[test]
fn del_of_what_control_never_knew() {
    let control = FakeControl::start(|request| {
        Some(match request {
            Request::Detach { .. } => {
                Response::Failed { code: 3, reason: "unknown container".into(), details: String::new() }
            }
            other => willing(other),
        })
    });
    run("DEL", &bytes(&control.config("0.4.0", json!({}))), &[]).nothing();
}

#[test]
fn version() {
    let ours = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    for asked in ["0.3.1", "1.0.0", "1.1.0", "2.0.0"] {
        let answer = run("VERSION", &bytes(&json!({"cniVersion": asked})), &[]).result();
        assert_eq!(answer, json!({"cniVersion": asked, "supportedVersions": ours}));
    }
    let bare = [("CNI_CONTAINERID", ""), ("CNI_IFNAME", ""), ("CNI_NETNS", ""), ("CNI_PATH", "")];
    for input in ["", "\n", "{}"] {
        assert_eq!(run("VERSION", input.as_bytes(), &bare).result()["cniVersion"], "1.1.0");
    }
}

#[test]
fn status_is_controls_own() {
    type Change = fn(&mut Status);
    let cases: [(Change, Option<&str>); 3] = [
        (|_| (), None),
        (|status| status.connected = false, Some("data plane")),
        (|status| status.synced = false, Some("manifests /etc/podrouter/manifests")),
    ];
    for (change, named) in cases {
        let control = FakeControl::start(move |request| {
            let mut status = status();
            change(&mut status);
            Some(if matches!(request, Request::Status) { Response::Status(status) } else { willing(request) })
        });
        let said = run("STATUS", &bytes(&control.config("1.1.0", json!({}))), &[("CNI_CONTAINERID", "")]);
        match named {
            None => said.nothing(),
            Some(named) => {
                let (code, msg) = said.failure();
                assert!(code == 50 && msg.contains(named), "{code} {msg}");
            }
        }
    }
    let config = json!({"cniVersion": "1.1.0", "name": "pods", "socket": "/nonexistent/control.sock"});
    let (code, msg) = run("STATUS", &bytes(&config), &[]).failure();
    assert!(code == 50 && msg.contains("/nonexistent/control.sock"), "{code} {msg}");
}

#[test]
fn gc_does_not_claim_what_it_does_not_do() {
    let control = FakeControl::willing();
    let config = bytes(&control.config("1.1.0", json!({"cni.dev/valid-attachments": []})));
    let (code, msg) = run("GC", &config, &[]).failure();
    assert!(code == 112 && msg.contains("`pods`"), "{code} {msg}");
    assert!(control.asked().is_empty());
}

#[test]
fn commands_have_the_version_they_came_with() {
    let control = FakeControl::willing();
    for (command, version, code) in [("CHECK", "0.3.1", 1), ("STATUS", "1.0.0", 1), ("GC", "0.4.0", 1)] {
        let (found, msg) = run(command, &bytes(&control.config(version, json!({}))), &[]).failure();
        assert!(found == code && msg.contains(version) && msg.contains(command), "{found} {msg}");
    }
}

#[test]
fn by_hand() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podrouter-cni"));
        command.env_clear().args(arguments);
        finish(command, b"")
    };
    let help = run(&["--help"]);
    assert_eq!(help.status, Some(0));
    for word in [env!("CARGO_PKG_VERSION"), "CNI", "vhost-user", "portMappings", "Exit codes"] {
        assert!(help.stdout.contains(word), "{word}: {}", help.stdout);
    }
    assert_eq!(run(&["-V"]).stdout, concat!("podrouter-cni ", env!("CARGO_PKG_VERSION"), "\n"));
    // Not on a terminal and nobody asked for help: a runtime that forgot something.
    let (code, msg) = run(&[]).failure();
    assert!(code == 4 && msg.contains("CNI_COMMAND"), "{code} {msg}");
}

#[test]
fn it_is_told_on_a_terminal_what_this_is() {
    // script(1) gives the program a terminal on all three descriptors.
    let binary = env!("CARGO_BIN_EXE_podrouter-cni");
    assert!(Path::new(binary).is_absolute());
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", binary, "/dev/null"]).env_remove("CNI_COMMAND");
    let said = finish(command, b"");
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.stdout.contains("Configuration keys") && said.stdout.contains(env!("CARGO_PKG_VERSION")));
}
