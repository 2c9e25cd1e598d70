//! DEL, VERSION, STATUS, GC, and a run by hand.

use std::path::Path;
use std::process::Command;

use proto::control::{AttachAddresses, AttachmentName, Request, Response, Status};
use serde_json::{Value, json};

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
    let cases: [(Change, Option<&str>); 2] = [
        (|_| (), None),
        (
            |status| status.unready = Some("every address of 10.0.0.0/29 is in use".into()),
            Some("10.0.0.0/29"),
        ),
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
                // A network of its own subnets can be served all the same, unless nothing can.
                let storage = json!({"name": "storage", "networkId": 7, "subnets": ["10.5.0.0/16"]});
                run("STATUS", &bytes(&control.config("1.1.0", storage.clone())), &[]).nothing();
                let away = FakeControl::start(move |request| {
                    let unready = Some("the data plane is away".into());
                    let status = Status { connected: false, unready, ..status() };
                    let is_asked = matches!(request, Request::Status);
                    Some(if is_asked { Response::Status(status) } else { willing(request) })
                });
                let (code, msg) = run("STATUS", &bytes(&away.config("1.1.0", storage)), &[]).failure();
                assert!(code == 50 && msg.contains("data plane is away"), "{code} {msg}");
            }
        }
    }
    let config = json!({"cniVersion": "1.1.0", "name": "pods", "socket": "/nonexistent/control.sock"});
    let (code, msg) = run("STATUS", &bytes(&config), &[]).failure();
    assert!(code == 50 && msg.contains("/nonexistent/control.sock"), "{code} {msg}");
}

#[test]
fn gc_names_what_is_to_stay_and_tells_what_could_not_go() {
    let control = FakeControl::willing();
    let gc = |valid: Value| {
        let config = control.config("1.1.0", json!({"cni.dev/valid-attachments": valid}));
        run("GC", &bytes(&config), &[("CNI_CONTAINERID", ""), ("CNI_IFNAME", ""), ("CNI_NETNS", "")])
    };
    gc(json!([{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}])).nothing();
    gc(json!([])).nothing();
    let name = |container: &str, interface: &str| AttachmentName {
        container: container.into(),
        interface: interface.into(),
    };
    let collect = |valid| (Request::Collect { network: "pods".into(), valid }, vec![]);
    assert_eq!(control.asked(), [collect(vec![name("a", "eth0"), name("b", "net1")]), collect(vec![])]);
    // A list that is missing or malformed is not an empty one.
    for bad in [json!(null), json!("a"), json!([{"containerID": "a"}]), json!(["a"])] {
        let (code, msg) = gc(bad).failure();
        assert!(code == 7 && msg.contains("cni.dev/valid-attachments"), "{code} {msg}");
    }
    assert_eq!(control.asked().len(), 2);

    let failing = FakeControl::start(|request| {
        Some(match request {
            Request::Collect { .. } => {
                Response::Collected { removed: 1, failures: vec!["pods/a/eth0: the disk is full".into()] }
            }
            other => willing(other),
        })
    });
    let config = failing.config("1.1.0", json!({"cni.dev/valid-attachments": []}));
    let (code, msg) = run("GC", &bytes(&config), &[]).failure();
    assert!(code == 112 && msg.contains("pods/a/eth0: the disk is full"), "{code} {msg}");
}

#[test]
fn del_while_control_is_away_is_left_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, spool) = (dir.path().join("control.sock"), dir.path().join("state/detached"));
    let config =
        |spool: &Path| json!({"cniVersion": "1.0.0", "name": "pods", "socket": socket, "spool": spool});
    for _ in 0..2 {
        let said = run("DEL", &bytes(&config(&spool)), &[]);
        said.nothing();
        assert!(said.stderr.contains(spool.to_str().unwrap()), "{}", said.stderr);
    }
    let detach =
        Request::Detach { network: "pods".into(), container: "c0ffee".into(), interface: "eth0".into() };
    let left = proto::spool::left(&spool).unwrap();
    assert_eq!(left.into_iter().map(|(_, read)| read).collect::<Vec<_>>(), [Ok(detach)]);
    // Where nothing can be left, the runtime is to try again.
    let (code, msg) = run("DEL", &bytes(&config(Path::new("/proc/nowhere"))), &[]).failure();
    assert!(code == 11 && msg.contains(socket.to_str().unwrap()), "{code} {msg}");
}

/// Debian's own, which keeps its leases in a folder of the test's.
#[test]
fn a_delegated_plug_in_gives_the_addresses_and_gets_them_back() {
    let control = FakeControl::start(|request| match request {
        Request::Attach(asked) if asked.container == "refused" => {
            Some(Response::Failed { code: 103, reason: "no".into(), details: String::new() })
        }
        other => Some(willing(other)),
    });
    let dir = tempfile::tempdir().unwrap();
    let leases = |dir: &Path| {
        let names = std::fs::read_dir(dir.join("pods")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut ips: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        ips.retain(|name| name.starts_with("10."));
        ips.sort();
        ips
    };
    let ranges = json!([[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]);
    let config = |name: &str| {
        let ipam = json!({"type": "host-local", "dataDir": dir.path(), "ranges": ranges,
            "resolvConf": dir.path().join("resolv.conf")});
        bytes(&control.config("1.0.0", json!({"name": name, "ipam": ipam})))
    };
    std::fs::write(dir.path().join("resolv.conf"), "nameserver 10.9.0.53\n").unwrap();
    let path = ("CNI_PATH", "/nowhere:/usr/lib/cni");
    let result = run("ADD", &config("pods"), &[path]).result();
    assert_eq!(result["dns"]["nameservers"], json!(["10.9.0.53"]));
    let addresses = |asked: &Request| match asked {
        Request::Attach(asked) => asked.addresses.clone(),
        other => panic!("{other:?}"),
    };
    let given = |texts: [&str; 2]| AttachAddresses::Given {
        addresses: texts.map(|text| text.parse().unwrap()).into(),
    };
    assert_eq!(addresses(&control.asked()[0].0), given(["10.9.0.2", "fd00:9::2"]));
    assert_eq!(leases(dir.path()), ["10.9.0.2"]);
    // Of an ADD that control refuses nothing stays leased.
    let (code, _) = run("ADD", &config("pods"), &[path, ("CNI_CONTAINERID", "refused")]).failure();
    assert_eq!((code, leases(dir.path()).len()), (103, 1));
    // CHECK asks it too: it knows nothing of this container.
    let check = control.config(
        "1.0.0",
        json!({"ipam": {"type": "host-local", "dataDir": dir.path(), "ranges": ranges}, "prevResult": result}),
    );
    let (code, msg) = run("CHECK", &bytes(&check), &[path, ("CNI_CONTAINERID", "other")]).failure();
    assert!(msg.contains("host-local's CHECK"), "{code} {msg}");
    for _ in 0..2 {
        run("DEL", &config("pods"), &[path]).nothing();
        assert_eq!(leases(dir.path()), Vec::<String>::new());
    }
    // Its own error comes through with its code.
    let full = json!({"ipam": {"type": "host-local", "dataDir": dir.path(), "ranges": [[{"subnet": "10.9.0.0/99"}]]}});
    let (_, msg) = run("ADD", &bytes(&control.config("1.0.0", full.clone())), &[path]).failure();
    assert!(msg.contains("host-local's ADD") && msg.contains("10.9.0.0/99"), "{msg}");
    // A pod can end although the plug-in is not there any more.
    run("DEL", &config("pods"), &[("CNI_PATH", "/nowhere")]).nothing();
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
