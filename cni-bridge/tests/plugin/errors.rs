//! Every error code with what it names, and any input at all.

use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;
use proto::control::{Request, Response};
use serde_json::{Value, json};

use crate::fake::{FakeControl, NETNS, bytes, run, willing};

#[track_caller]
fn fails(said: &crate::fake::Said, code: u64, named: &[&str]) {
    let (found, msg) = said.failure();
    assert_eq!(found, code, "{msg}");
    for name in named {
        assert!(msg.contains(name), "{msg} lacks {name}");
    }
}

#[test]
fn code_4_names_the_variable() {
    let control = FakeControl::willing();
    let config = bytes(&control.config("1.0.0", json!({})));
    for (command, variable) in [
        ("ADD", "CNI_CONTAINERID"),
        ("ADD", "CNI_NETNS"),
        ("ADD", "CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID"),
        ("DEL", "CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID"),
        ("CHECK", "CNI_NETNS"),
        ("CHECK", "CNI_IFNAME"),
        ("GC", "CNI_PATH"),
    ] {
        fails(&run(command, &config, &[(variable, "")]), 4, &[command, variable]);
    }
    fails(&run("ADD", &config, &[("CNI_NETNS", ""), ("CNI_IFNAME", "")]), 4, &["CNI_NETNS, CNI_IFNAME"]);
    for (variable, value) in [
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_IFNAME", "a-name-that-is-too-long"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_NETNS", "/nonexistent/netns"),
        ("CNI_NETNS", "/etc/passwd"),
        ("CNI_ARGS", "IgnoreUnknown=0;FOO=bar"),
        ("CNI_ARGS", "K8S_POD_NAME"),
    ] {
        fails(&run("ADD", &config, &[(variable, value)]), 4, &[variable, value.rsplit(';').next().unwrap()]);
    }
    // The node's own namespace is no pod's.
    fails(&run("ADD", &config, &[("CNI_NETNS_OVERRIDE", "")]), 4, &["CNI_NETNS", NETNS]);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_podrouter-cni"));
    command.env_clear().env("CNI_COMMAND", std::ffi::OsString::from_vec(vec![0xff]));
    fails(&crate::fake::finish(command, &config), 4, &["CNI_COMMAND"]);
    assert!(control.asked().is_empty(), "{:?}", control.asked());
}

#[test]
fn codes_of_the_configuration() {
    let control = FakeControl::willing();
    let add = |config: &Value| run("ADD", &bytes(config), &[]);
    for (code, change, named) in [
        (1, json!({"cniVersion": "0.2.0"}), ["`cniVersion`", "0.2.0"]),
        (1, json!({"cniVersion": null}), ["`cniVersion`", "missing"]),
        (7, json!({"ipam": {"type": "nowhere-to-be-found"}}), ["`ipam.type`", "nowhere-to-be-found"]),
        (7, json!({"ipam": {"type": "/bin/sh"}}), ["`ipam`", "/bin/sh"]),
        (
            2,
            json!({"ipam": {"type": "host-local"}, "runtimeConfig": {"ips": ["10.1.2.3/24"]}}),
            ["`runtimeConfig.ips`", "10.1.2.3"],
        ),
        (
            2,
            json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.1.0.0/16"}]]}}),
            ["`runtimeConfig.ipRanges`", "10.1.0.0/16"],
        ),
        (
            7,
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 80}]}}),
            ["`runtimeConfig.portMappings[0].containerPort`", "missing"],
        ),
        (6, json!({"cniVersion": 1}), ["`cniVersion`", "1"]),
        (7, json!({"name": null}), ["`name`", "null"]),
        (7, json!({"name": "a b"}), ["`name`", "a b"]),
        (7, json!({"socket": "control.sock"}), ["`socket`", "control.sock"]),
        (7, json!({"port": "veth"}), ["`port`", "veth"]),
        (7, json!({"mtu": 100}), ["`mtu`", "100"]),
        (7, json!({"runtimeConfig": {"mac": "x"}}), ["`runtimeConfig.mac`", "x"]),
        (7, json!({"prevResult": {"interfaces": 3}}), ["`prevResult.interfaces`", "3"]),
    ] {
        fails(&add(&control.config("1.0.0", change)), code, &named);
    }
    for input in ["", "{", "[]", "\"text\"", "null", "{\"cniVersion\":\"1.0.0\",}"] {
        fails(&run("ADD", input.as_bytes(), &[]), 6, &["standard input"]);
    }
    fails(&run("ADD", &vec![b' '; 5 << 20], &[]), 6, &["standard input"]);
    assert!(control.asked().is_empty(), "{:?}", control.asked());
}

#[test]
fn the_error_is_in_the_version_that_was_asked() {
    for (config, version) in [
        (json!({"cniVersion": "0.4.0", "name": ""}), "0.4.0"),
        (json!({"cniVersion": "7.0.0", "name": "n"}), "7.0.0"),
        (json!({"name": "n"}), "1.1.0"),
    ] {
        let said = run("ADD", &bytes(&config), &[]);
        assert_eq!(serde_json::from_str::<Value>(&said.stdout).unwrap()["cniVersion"], version);
    }
    let said = run("ADD", &bytes(&json!({"cniVersion": "0.3.1"})), &[("CNI_IFNAME", "")]);
    assert_eq!(serde_json::from_str::<Value>(&said.stdout).unwrap()["cniVersion"], "0.3.1");
}

#[test]
fn control_away_is_code_11() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let config = bytes(&json!({"cniVersion": "1.0.0", "name": "pods", "socket": socket, "prevResult": {}}));
    let path = socket.to_str().unwrap();
    for command in ["ADD", "CHECK"] {
        fails(&run(command, &config, &[]), 11, &[path]);
    }
    // A socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    fails(&run("ADD", &config, &[]), 11, &[path]);

    let hangs_up =
        FakeControl::start(|request| matches!(request, Request::Hello { .. }).then(|| willing(request)));
    let path = hangs_up.socket.to_str().unwrap();
    for command in ["ADD", "DEL"] {
        fails(&run(command, &bytes(&hangs_up.config("1.0.0", json!({}))), &[]), 11, &[path]);
    }
}

#[test]
fn controls_own_failure_keeps_its_code_and_words() {
    let control = FakeControl::start(|request| {
        Some(match request {
            Request::Attach(_) => Response::Failed {
                code: 11,
                reason: "no address of 10.244.1.0/24 is free".into(),
                details: "254 are in use".into(),
            },
            Request::Detach { .. } => {
                Response::Failed { code: 0, reason: "disk full".into(), details: String::new() }
            }
            other => willing(other),
        })
    });
    let config = bytes(&control.config("1.0.0", json!({})));
    let said = run("ADD", &config, &[]);
    let object: Value = serde_json::from_str(&said.stdout).unwrap();
    let expected = json!({"cniVersion": "1.0.0", "code": 11, "msg": "no address of 10.244.1.0/24 is free",
                          "details": "254 are in use"});
    assert_eq!((said.status, object), (Some(1), expected));
    // 0 would read as success.
    fails(&run("DEL", &config, &[]), 110, &["disk full"]);
}

#[test]
fn another_protocol_is_code_100() {
    let newer = FakeControl::start(|_| Some(Response::Hello { version: proto::VERSION + 2 }));
    let named = [newer.socket.to_str().unwrap(), "protocol 3"];
    fails(&run("ADD", &bytes(&newer.config("1.0.0", json!({}))), &[]), 110, &named);
    let confused = FakeControl::start(|request| {
        Some(if matches!(request, Request::Hello { .. }) { willing(request) } else { Response::Detached })
    });
    fails(&run("ADD", &bytes(&confused.config("1.0.0", json!({}))), &[]), 110, &["Attach"]);
}

/// Bytes that are mostly near a configuration: one with a part cut out, doubled or replaced.
fn near_config() -> impl Strategy<Value = Vec<u8>> {
    let config = br#"{"cniVersion":"1.0.0","name":"n","socket":"/nonexistent/s","port":"tap","mtu":1500,"prevResult":{"ips":[]}}"#;
    let cut = (0..config.len(), 0..config.len(), prop::collection::vec(any::<u8>(), 0..8)).prop_map(
        move |(from, to, by)| {
            let (from, to) = (from.min(to), from.max(to));
            [&config[..from], &by, &config[to..]].concat()
        },
    );
    prop_oneof![cut, prop::collection::vec(any::<u8>(), 0..64)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing on standard input makes it panic, or print anything but one error object.
    #[test]
    fn any_input_is_answered(
        input in near_config(),
        // DEL would leave a file where a configuration names no other place.
        command in prop::sample::select(vec!["ADD", "CHECK", "STATUS", "GC"]),
    ) {
        let said = run(command, &input, &[]);
        let (code, _) = said.failure();
        prop_assert!([1, 2, 6, 7, 11, 50, 112].contains(&code), "{} {:?}", code, said);
        prop_assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
    }
}
