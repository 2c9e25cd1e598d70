//! `podrouter` as people and scripts run it, against a data plane and a control of the test's own over real sockets.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by panicking, its helpers too")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use proto::dataplane::{
    Backend, BackendState, DropStatus, FlowQuery, FlowStatus, FlowUse, Frontend, FrontendKey, Hello, Ledger,
    Limits, NeighbourStatus, Peer, Policy, PolicyStatus, PortInfo, PortKind, PortRange, PortSpec, PortStatus,
    Protocol, Request, Response, RouteStatus, Rule, RuleVerdict, Status, Trace, TraceStep, TraceVerdict,
    WorkerFlows, WorkerStatus,
};
use proto::{Connection, control, exit};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tempfile::TempDir;

/// Sockets of one test.
struct Node {
    dir: TempDir,
}

impl Node {
    /// With nobody listening.
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// With both processes, all well.
    fn running() -> Self {
        let node = Self::new();
        node.serve_dataplane(dataplane);
        node.serve_control(control);
        node
    }

    fn dataplane(&self) -> PathBuf {
        self.dir.path().join("dataplane.sock")
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    fn serve_dataplane(&self, answer: impl Fn(Request) -> Option<Response> + Send + 'static) {
        serve(&self.dataplane(), answer);
    }

    fn serve_control(&self, answer: impl Fn(control::Request) -> Option<control::Response> + Send + 'static) {
        serve(&self.control(), answer);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podrouter"));
        command.arg("--dataplane").arg(self.dataplane()).arg("--control").arg(self.control()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::from(self.command(arguments).output().unwrap())
    }
}

/// What the program said.
#[derive(Debug, PartialEq)]
struct Said {
    code: Option<u8>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().and_then(|code| u8::try_from(code).ok()),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(exit::OK), ""), "{self:?}");
        self.stdout
    }

    #[track_caller]
    fn fails(&self, code: u8, named: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:?}");
        for name in named {
            assert!(self.stderr.contains(name), "lacks {name}: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"));
    }
}

/// Answers until the test ends; `None` hangs up.
fn serve<Q: DeserializeOwned, A: Serialize>(path: &Path, answer: impl Fn(Q) -> Option<A> + Send + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut connection = Connection::new(stream.unwrap());
            while let Ok((request, _)) = connection.receive() {
                let Some(response) = answer(request) else { break };
                // The program may have ended before it read all.
                let _ = connection.send(&response, &[]);
            }
        }
    });
}

fn dataplane(request: Request) -> Option<Response> {
    let drop = |reason: &str, packets| DropStatus {
        port: "p1".into(),
        direction: "rx".into(),
        reason: reason.into(),
        description: format!("why {reason}"),
        packets,
    };
    Some(match request {
        Request::Hello { .. } => {
            Response::Hello(Hello { version: proto::VERSION, instance: "4f2a".into(), generation: 42 })
        }
        Request::ShowStatus => Response::Status(dataplane_status()),
        Request::ShowPorts => Response::Ports { ports: vec![port(2, "uplink"), port(1, "p1")] },
        Request::ShowRoutes => Response::Routes {
            generation: 42,
            routes: ["0.0.0.0/0", "10.244.1.0/24", "::/0"].map(route).to_vec(),
        },
        Request::ShowServices => Response::Services { services: services() },
        Request::ShowPolicies => Response::Policies { policies: policies() },
        Request::ShowNeighbours => Response::Neighbours {
            neighbours: vec![NeighbourStatus {
                port: "uplink".into(),
                address: "192.168.77.1".parse().unwrap(),
                mac: Some("02:00:00:00:00:01".parse().unwrap()),
                state: "reachable".into(),
                age_ms: 61_500,
                held: 0,
                path_mtu: None,
            }],
        },
        Request::ShowWorkers => Response::Workers {
            workers: vec![WorkerStatus {
                kind: "poll".into(),
                core: Some(1),
                ledger: Ledger { rx: 12_345_678, tx: 12_345_670, drops: 7, ..Ledger::default() },
                flows: WorkerFlows { replayed: 9_000, made: 7, ..WorkerFlows::default() },
                ..WorkerStatus::default()
            }],
        },
        Request::ShowDrops => Response::Drops { drops: vec![drop("never", 0), drop("ttl-exceeded", 20_000)] },
        Request::ShowFlows(query) => return Some(page(&query)),
        Request::Trace(question) => Response::Trace(Trace {
            generation: 42,
            steps: vec![TraceStep {
                step: "port".into(),
                says: format!(
                    "{}:{} to {}:{} by {}",
                    question.source,
                    question.source_port,
                    question.destination,
                    question.destination_port,
                    question.protocol
                ),
            }],
            verdict: TraceVerdict::Forward { output: "p1".into(), next_hop: None },
        }),
        other => Response::Failed { reason: format!("not expected: {other:?}") },
    })
}

/// Two pages of three flows each; of the second, one has another state.
fn page(query: &FlowQuery) -> Response {
    let page = |first: u16| {
        (first..first + 3)
            .map(flow)
            .filter(|flow| query.filter.state.as_ref().is_none_or(|state| *state == flow.state))
    };
    let most = query.limit.map_or(usize::MAX, |limit| limit as usize);
    match query.from {
        0 => Response::Flows { flows: page(1).take(most).collect(), next: Some(100) },
        100 => Response::Flows { flows: page(4).take(most).collect(), next: (most < 3).then_some(101) },
        other => Response::Failed { reason: format!("from {other}?") },
    }
}

fn flow(port: u16) -> FlowStatus {
    FlowStatus {
        network: 0,
        protocol: Protocol(6),
        client: format!("10.244.1.7:{port}").parse().unwrap(),
        service: None,
        destination: "10.244.1.8:80".parse().unwrap(),
        masqueraded: None,
        state: if port == 5 { "reset" } else { "established" }.into(),
        joined: false,
        age_seconds: 7_500,
        idle_seconds: 3,
        left_seconds: 60,
        owner: "p1".into(),
        forward: None,
        reply: None,
        egress_rule: None,
        ingress_rule: None,
        egress_rule_name: None,
        ingress_rule_name: None,
    }
}

fn services() -> Vec<Frontend> {
    let backend = |text: &str, state| Backend { address: text.parse().unwrap(), port: 8080, state };
    let frontend = |name: &str, address: &str, protocol, backends| Frontend {
        key: FrontendKey {
            network: 0,
            address: address.parse().unwrap(),
            port: 80,
            protocol: Protocol(protocol),
        },
        name: name.into(),
        backends,
        drops: false,
        sources: vec![],
        affinity_seconds: None,
    };
    let (serving, draining) = (BackendState::Serving, BackendState::Draining);
    vec![
        frontend("shop/idle:http", "fd00:96::2", 17, Arc::default()),
        frontend(
            "shop/front:http",
            "10.96.0.10",
            6,
            Arc::from([backend("10.244.1.2", serving), backend("10.244.2.3", draining)]),
        ),
    ]
}

fn policies() -> Vec<PolicyStatus> {
    let rule = |id, peer, ports, verdict| {
        let name = if id == 1 { "shop/web ingress[1]".to_owned() } else { String::new() };
        let says = String::new();
        Rule { id, name, says, peer, protocol: Some(Protocol(6)), ports, verdict }
    };
    let known = Peer::Groups { groups: vec![7, 9] };
    let ports = Some(PortRange { first: 80, last: 90 });
    let ingress =
        vec![rule(1, known, ports, RuleVerdict::Allow), rule(2, Peer::Any, None, RuleVerdict::Deny)];
    let status = |endpoint: &str, ingress, egress, present, denied_ingress| PolicyStatus {
        policy: Policy { endpoint: endpoint.into(), ingress, egress },
        present,
        denied_ingress,
        denied_egress: 0,
    };
    vec![
        status("shop/gone", None, Some(vec![]), false, 0),
        status("shop/front", Some(ingress), None, true, 4_096),
    ]
}

fn dataplane_status() -> Status {
    Status {
        version: "0.1.0".into(),
        instance: "4f2a".into(),
        pid: 812,
        uptime_seconds: 61,
        generation: 42,
        committed: 42,
        dpdk: "22.11.11".into(),
        hugepages: true,
        mbufs: 65_535,
        mbufs_in_use: 1_200,
        ports: 2,
        endpoints: 1,
        routes: 3,
        workers: 1,
        flows4: FlowUse { used: 6, capacity: 65_536 },
        flows6: FlowUse::default(),
        warnings: vec!["no core is isolated".into()],
    }
}

fn control(request: control::Request) -> Option<control::Response> {
    Some(match request {
        control::Request::Hello { .. } => control::Response::Hello { version: proto::VERSION },
        control::Request::Status => control::Response::Status(control::Status {
            version: "0.1.0".into(),
            pid: 900,
            node: "node-1".into(),
            source: "manifests /etc/podrouter/manifests".into(),
            synced: true,
            connected: true,
            unready: None,
            committed: 42,
            nodes: 2,
            pods: 3,
            namespaces: 4,
            services: 6,
            endpoint_slices: 7,
            policies: 1,
            attachments: 1,
            warnings: vec!["Node node-2 has no router address".into()],
        }),
        _ => return None,
    })
}

fn port(id: u16, name: &str) -> PortStatus {
    PortStatus {
        info: PortInfo {
            id,
            spec: PortSpec {
                name: name.into(),
                kind: PortKind::Tap,
                mac: None,
                mtu: 1500,
                limits: Limits::default(),
            },
            mac: "02:00:00:00:00:09".parse().unwrap(),
        },
        worker: 0,
        up: true,
        role: String::new(),
        rx_packets: 12_345_678,
        rx_bytes: 0,
        rx_drops: 0,
        tx_packets: 0,
        tx_bytes: 0,
        tx_drops: 0,
        device: None,
    }
}

fn route(prefix: &str) -> RouteStatus {
    RouteStatus {
        network: 0,
        prefix: prefix.parse().unwrap(),
        origin: "configured".into(),
        target: "via 192.168.77.1 dev uplink".into(),
    }
}

/// The first field of each line under the header.
fn first_fields(text: &str) -> Vec<&str> {
    text.lines().skip(1).map(|line| line.split_whitespace().next().unwrap()).collect()
}

#[test]
fn status_joins_both_halves() {
    let node = Node::running();
    let text = node.run(&["status"]).ok();
    let warnings =
        "warning: data plane: no core is isolated\nwarning: control: Node node-2 has no router address\n\n";
    assert!(text.starts_with(warnings), "{text}");
    for words in [
        "pid 812, up 1m1s",
        "generation 42, every worker has it",
        "1200 of 65535",
        "IPv4 6 of 65536, IPv6 0 of 0 in use",
        "node node-1",
        "2 nodes, 3 pods",
    ] {
        assert!(text.contains(words), "lacks {words}: {text}");
    }
    let document: Value = serde_json::from_str(&node.run(&["--json", "status"]).ok()).unwrap();
    let status: Status = serde_json::from_value(document["dataplane"].clone()).unwrap();
    assert_eq!(status, dataplane_status());
    assert_eq!(
        (&document["control"]["node"], &document["errors"]),
        (&"node-1".into(), &Value::Array(vec![]))
    );
}

#[test]
fn status_with_a_half_away_prints_the_other_and_fails() {
    let no_control = Node::new();
    no_control.serve_dataplane(dataplane);
    let said = no_control.run(&["status"]);
    assert_eq!(said.code, Some(exit::FAILURE));
    assert!(said.stdout.starts_with("error: cannot reach podrouter-control at "), "{}", said.stdout);
    assert!(said.stdout.contains("Data plane   0.1.0, pid 812") && said.stdout.contains("Control      away"));

    let no_dataplane = Node::new();
    no_dataplane.serve_control(control);
    let said = no_dataplane.run(&["status"]);
    assert_eq!(said.code, Some(exit::FAILURE));
    assert!(
        said.stdout.contains("Data plane   away") && said.stdout.contains("node node-1"),
        "{}",
        said.stdout
    );
    let said = no_dataplane.run(&["status", "--json"]);
    assert_eq!(said.code, Some(exit::FAILURE));
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&document["dataplane"], &document["control"]["pid"]), (&Value::Null, &900.into()));
    assert!(document["errors"][0].as_str().unwrap().contains("podrouter-dataplane"));

    let said = Node::new().run(&["status"]);
    assert_eq!(said.code, Some(exit::FAILURE));
    assert!(said.stdout.contains("Data plane   away") && said.stdout.contains("Control      away"));
}

#[test]
fn a_failure_is_json_too_where_json_was_asked_for() {
    let said = Node::new().run(&["show", "routes", "--json"]);
    assert_eq!(said.code, Some(exit::FAILURE));
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(document["error"].as_str().unwrap().contains("podrouter-dataplane"), "{document}");
    assert!(said.stderr.contains("podrouter-dataplane"));
}

#[test]
fn a_missing_permission_is_code_4() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let open =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    // Where another user may run it, too.
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), 0o755);
    let (binary, socket) = (dir.path().join("podrouter"), dir.path().join("closed.sock"));
    // By a process of its own: a child that another test starts meanwhile would keep a file that is open here for writing, and such
    // a file cannot be run.
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_podrouter")).arg(&binary).status();
    assert!(copied.unwrap().success());
    let _listener = UnixListener::bind(&socket).unwrap();
    open(&socket, 0o000);
    for what in [["show", "ports"].as_slice(), &["status"]] {
        let mut command = std::process::Command::new(&binary);
        command.arg("--dataplane").arg(&socket).arg("--control").arg(&socket).args(what);
        if rustix::process::geteuid().is_root() {
            command.uid(65_534);
        }
        let said = Said::from(command.output().unwrap());
        assert_eq!(said.code, Some(exit::DPDK), "{said:?}");
        assert!((said.stdout + &said.stderr).contains("run this as root"));
    }
}

#[test]
fn tables_with_whole_numbers_off_a_terminal() {
    let node = Node::running();
    let ports = node.run(&["show", "ports"]).ok();
    assert_eq!(first_fields(&ports), ["p1", "uplink"]);
    assert!(ports.contains(" 12345678 ") && !ports.contains('\x1b'), "{ports}");
    assert_eq!(first_fields(&node.run(&["show", "ports", "uplink"]).ok()), ["uplink"]);

    assert_eq!(first_fields(&node.run(&["show", "routes"]).ok()), ["0.0.0.0/0", "10.244.1.0/24", "::/0"]);
    let matching = node.run(&["show", "routes", "10.244.1.7"]).ok();
    assert_eq!(first_fields(&matching), ["10.244.1.0/24", "0.0.0.0/0"]);
    assert_eq!(first_fields(&node.run(&["show", "routes", "::/0"]).ok()), ["::/0"]);

    let neighbours = node.run(&["show", "neighbours"]).ok();
    assert!(neighbours.contains("AGE-MS") && neighbours.contains(" 61500 "), "{neighbours}");

    let workers = node.run(&["show", "workers"]).ok();
    let totals = workers.lines().filter(|line| line.trim_start().starts_with("all "));
    let totals: Vec<Vec<_>> = totals.map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((totals[0][1], totals[0].last()), ("12345678", Some(&"1")));
    assert_eq!(totals[1], ["all", "9000", "0", "0", "7", "0", "0"]);

    assert_eq!(node.run(&["show", "drops"]).ok().lines().count(), 2);
    let all = node.run(&["show", "drops", "--all"]).ok();
    assert!(all.lines().count() == 3 && all.contains("20000") && all.contains("why never"), "{all}");
}

/// Each line as its fields, the header left out.
fn fields(text: &str) -> Vec<String> {
    text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn services_with_their_backends() {
    let node = Node::running();
    let ask = |arguments: &[&str]| fields(&node.run(&[&["show", "services"], arguments].concat()).ok());
    let front = [
        "shop/front:http 0 10.96.0.10:80/tcp 10.244.1.2:8080 serving",
        "shop/front:http 0 10.96.0.10:80/tcp 10.244.2.3:8080 draining",
    ];
    assert_eq!(ask(&[]), [&front[..], &["shop/idle:http 0 [fd00:96::2]:80/udp - none: refused"]].concat());
    for filter in ["shop/front", "shop/front:http", "10.96.0.10", "10.244.2.3"] {
        assert_eq!(ask(&[filter]), front, "{filter}");
    }
    node.run(&["show", "service", "shop/fro"]).fails(exit::FAILURE, &["`shop/fro`"]);
    let json = node.run(&["show", "services", "shop/idle", "--json"]).ok();
    let services = services().into_iter().filter(|row| row.backends.is_empty()).collect();
    assert_eq!(serde_json::from_str::<Response>(&json).unwrap(), Response::Services { services });
}

#[test]
fn policies_and_their_rules_in_words() {
    let node = Node::running();
    let ask = |arguments: &[&str]| fields(&node.run(&[&["show", "policies"], arguments].concat()).ok());
    assert_eq!(
        ask(&[]),
        [
            "shop/front present ingress 2 4096",
            "shop/front present egress open -",
            "shop/gone awaited ingress open -",
            "shop/gone awaited egress 0 0",
        ]
    );
    assert_eq!(
        ask(&["shop/front"]),
        [
            "shop/front ingress 1 shop/web ingress[1] allow tcp 80-90 for groups 7, 9",
            "shop/front ingress 2 - deny tcp for anyone",
            "shop/front ingress - - deny what no rule matches; 4096 packets are denied so far",
            "shop/front egress - - allow anything",
        ]
    );
    node.run(&["show", "policy", "shop/back"]).fails(exit::FAILURE, &["`shop/back`", "nothing restricts it"]);
    let json = node.run(&["show", "policies", "shop/gone", "--json"]).ok();
    let policies = policies().into_iter().filter(|row| !row.present).collect();
    assert_eq!(serde_json::from_str::<Response>(&json).unwrap(), Response::Policies { policies });
}

#[test]
fn flows_are_read_page_by_page() {
    let node = Node::running();
    let clients = |text: &str| -> Vec<String> {
        fields(text).iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
    };
    let all = node.run(&["show", "flows"]).ok();
    assert_eq!(clients(&all), [1, 2, 3, 4, 5, 6].map(|port| format!("10.244.1.7:{port}")));
    assert!(all.contains("AGE-SECONDS") && all.contains(" 7500 "), "{all}");
    let reset = node.run(&["show", "flow", "--state", "reset", "--address", "10.244.1.0/24", "--port", "80"]);
    assert_eq!(clients(&reset.ok()), ["10.244.1.7:5"]);
    // What is left out is said, beside the rows.
    for (limit, rows) in [("2", 2), ("4", 4)] {
        let said = node.run(&["show", "flows", "--limit", limit]);
        assert_eq!((said.code, clients(&said.stdout).len()), (Some(exit::OK), rows));
        assert!(said.stderr.contains(&format!("first {limit}")), "{}", said.stderr);
    }
    let json = node.run(&["show", "flows", "--protocol", "tcp", "--json"]).ok();
    let flows = (1..=6).map(flow).collect();
    assert_eq!(serde_json::from_str::<Response>(&json).unwrap(), Response::Flows { flows, next: None });
    node.run(&["show", "flows", "--address", "10.0.0.1/8"]).fails(exit::USAGE, &["10.0.0.0/8"]);
    node.run(&["show", "flows", "--protocol", "tcpp"]).fails(exit::USAGE, &["`tcpp`"]);
}

#[test]
fn a_trace_is_a_line_a_step() {
    let node = Node::running();
    let ask = |arguments: &[&str]| node.run(&[&["trace"], arguments].concat()).ok();
    let says = |arguments: &[&str]| fields(&ask(arguments)).join("\n");
    assert_eq!(
        says(&["10.244.1.7", "10.96.0.10", "tcp", "80", "--source-port", "5"]),
        "port 10.244.1.7:5 to 10.96.0.10:80 by tcp"
    );
    assert_eq!(says(&["fd00::1", "fd00::2", "icmp", "9"]), "port fd00::1:9 to fd00::2:9 by icmpv6");
    let json = ask(&["10.244.1.7", "10.96.0.10", "udp", "53", "--json"]);
    let Response::Trace(trace) = serde_json::from_str(&json).unwrap() else { panic!("{json}") };
    assert_eq!(trace.verdict, TraceVerdict::Forward { output: "p1".into(), next_hop: None });
    node.run(&["trace", "10.244.1.7", "10.96.0", "udp", "53"]).fails(exit::USAGE, &["10.96.0"]);
}

#[test]
fn json_is_the_protocols_own() {
    let node = Node::running();
    let ask = |arguments: &[&str]| -> Response {
        serde_json::from_str(&node.run(&[arguments, &["--json"]].concat()).ok()).unwrap()
    };
    assert_eq!(ask(&["show", "ports"]), Response::Ports { ports: vec![port(1, "p1"), port(2, "uplink")] });
    assert_eq!(
        ask(&["show", "routes", "10.0.0.1"]),
        Response::Routes { generation: 42, routes: vec![route("0.0.0.0/0")] }
    );
    for (what, request) in [("neighbours", Request::ShowNeighbours), ("workers", Request::ShowWorkers)] {
        assert_eq!(ask(&["show", what]), dataplane(request).unwrap());
    }
    let Response::Drops { drops } = ask(&["show", "drops"]) else { panic!() };
    assert_eq!(drops.len(), 1);
}

#[test]
fn who_is_away_is_named_with_what_to_do() {
    let node = Node::new();
    let socket = node.dataplane();
    let named =
        [socket.to_str().unwrap(), "No such file", "is podrouter-dataplane running?", "--dataplane PATH"];
    node.run(&["show", "ports"]).fails(exit::FAILURE, &named);
    drop(UnixListener::bind(&socket).unwrap());
    node.run(&["show", "ports"]).fails(exit::FAILURE, &[named[0], "nobody listens"]);

    let hangs_up = Node::new();
    hangs_up
        .serve_dataplane(|request| dataplane(request).filter(|answer| matches!(answer, Response::Hello(_))));
    hangs_up.run(&["show", "drops"]).fails(exit::FAILURE, &["podrouter-dataplane", "closed the connection"]);

    let refuses = Node::new();
    refuses.serve_dataplane(|request| match request {
        Request::Hello { .. } => dataplane(request),
        _ => Some(Response::Failed { reason: "draining".into() }),
    });
    refuses.run(&["show", "workers"]).fails(exit::FAILURE, &["podrouter-dataplane", "refused: draining"]);

    let newer = Node::new();
    newer.serve_dataplane(|_| {
        Some(Response::Hello(Hello { version: proto::VERSION + 2, instance: String::new(), generation: 0 }))
    });
    newer.run(&["show", "ports"]).fails(exit::FAILURE, &["speaks protocol 3", "one release"]);

    let confused = Node::new();
    confused.serve_dataplane(|request| match request {
        Request::Hello { .. } => dataplane(request),
        _ => Some(Response::Done),
    });
    confused.run(&["show", "ports"]).fails(exit::FAILURE, &["something else"]);
    assert!(confused.run(&["status"]).stdout.contains("something else"));
}

#[test]
fn what_is_not_there_is_a_failure() {
    let node = Node::running();
    node.run(&["show", "ports", "eth7"]).fails(exit::FAILURE, &["`eth7`", "p1, uplink"]);
    node.run(&["show", "neighbours", "192.0.2.1"]).fails(exit::FAILURE, &["192.0.2.1"]);
    // No route to an address is an answer like any other.
    assert_eq!(node.run(&["show", "routes", "fe80::/10"]).ok().lines().count(), 1);
}

#[test]
fn a_wrong_command_line_is_code_2() {
    let node = Node::new();
    node.run(&["show", "routes", "10.0.0.1/8"]).fails(exit::USAGE, &["10.0.0.1/8", "10.0.0.0/8"]);
    node.run(&["show", "everything"]).fails(exit::USAGE, &["everything"]);
    node.run(&["--colour", "status"]).fails(exit::USAGE, &["--colour"]);
    assert_eq!(node.run(&[]).code, Some(exit::USAGE));
    assert_eq!(node.run(&["show"]).code, Some(exit::USAGE));
    for arguments in [["--help"].as_slice(), &["show", "routes", "--help"], &["status", "--help"]] {
        assert!(node.run(arguments).ok().contains("Usage: podrouter"));
    }
    assert!(node.run(&["--help"]).ok().contains("Exit codes:\n  0  done"));
    assert_eq!(node.run(&["--version"]).ok(), concat!("podrouter ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn top_shows_rates_as_often_as_asked() {
    let node = Node::running();
    let lines = node.run(&["top", "--interval", "0.1", "--count", "2", "--json"]).ok();
    for line in lines.lines() {
        let picture: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(picture["seconds"].as_f64().unwrap() >= 0.1, "{picture}");
        // Nothing moves in between.
        assert_eq!((&picture["workers"][0]["rx"], &picture["ports"][0]["drops"]), (&0.into(), &0.into()));
        assert_eq!(picture["ports"].as_array().unwrap().len(), 2);
    }
    assert_eq!(lines.lines().count(), 2);
    let tables = node.run(&["top", "--interval", "0.1", "--count", "1"]).ok();
    assert!(tables.starts_with("WORKER") && !tables.contains('\x1b'), "{tables}");
    node.run(&["top", "--interval", "0"]).fails(exit::USAGE, &["0.1"]);
    node.run(&["top", "--count", "0"]).fails(exit::USAGE, &["--count"]);

    // It goes on until nobody reads any more.
    let mut child = node.command(&["top", "--interval", "0.1", "--json"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with('{'));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_broken_pipe_is_success() {
    let node = Node::new();
    // Far more than a pipe holds, so that the program writes after its reader went away.
    let many: Vec<_> = (0..20_000_u16).map(|i| route(&format!("10.{}.{}.0/24", i >> 8, i & 255))).collect();
    node.serve_dataplane(move |request| match request {
        Request::ShowRoutes => Some(Response::Routes { generation: 42, routes: many.clone() }),
        other => dataplane(other),
    });
    for arguments in [["show", "routes"].as_slice(), &["show", "routes", "--json"]] {
        let mut child = node.command(arguments).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        drop(stdout);
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let node = Node::running();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let said = Said::from(node.command(&["show", "ports"]).stdout(full).output().unwrap());
    said.fails(exit::FAILURE, &["No space left"]);
}

#[test]
fn people_on_a_terminal_get_short_numbers_and_colour() {
    let node = Node::running();
    // script(1) runs the program on a terminal of its own.
    let run = |what: &str, no_colour: &str| {
        let line = format!(
            "{} --dataplane {} --control {} {what}",
            env!("CARGO_BIN_EXE_podrouter"),
            node.dataplane().display(),
            node.control().display()
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.env("TERM", "xterm").env("NO_COLOR", no_colour).stdin(Stdio::null());
        Said::from(command.output().unwrap()).ok()
    };
    let workers = run("show workers", "");
    assert!(workers.contains("12.3M") && workers.contains("\x1b[31m1\x1b[0m"), "{workers}");
    let workers = run("show workers", "1");
    assert!(workers.contains("12.3M") && !workers.contains('\x1b'), "{workers}");
    let document: Value = serde_json::from_str(&run("show workers --json", "")).unwrap();
    assert_eq!(document["workers"][0]["ledger"]["rx"], 12_345_678);
}

#[test]
fn the_plug_in_is_installed_at_once_and_its_configuration_when_all_is_ready() {
    let node = Node::new();
    let path = |name: &str| node.dir.path().join(name).display().to_string();
    let plugin = path("podrouter-cni");
    std::fs::write(&plugin, "first").unwrap();
    let arguments = [
        "install",
        "--bin-dir",
        &path("bin"),
        "--conf-dir",
        &path("net.d"),
        "--plugin",
        &plugin,
        "--timeout",
        "0",
    ]
    .map(str::to_owned);
    let install = || node.run(&arguments.each_ref().map(String::as_str));
    let said = install();
    assert_eq!(said.code, Some(exit::FAILURE));
    assert!(
        said.stderr.contains("no network configuration") && said.stderr.contains("control.sock"),
        "{said:?}"
    );
    assert_eq!(std::fs::read_to_string(path("bin/podrouter-cni")).unwrap(), "first");
    assert!(!Path::new(&path("net.d")).exists());

    // It waits, and says what for, once.
    let ready = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = ready.clone();
    node.serve_control(move |request| {
        let mut answer = control(request)?;
        if let control::Response::Status(status) = &mut answer
            && !seen.load(std::sync::atomic::Ordering::Relaxed)
        {
            status.unready = Some("the data plane is away: not connected yet".into());
        }
        Some(answer)
    });
    let mut waiting = arguments.clone();
    waiting[8] = "60".to_owned();
    let mut child = node.command(&waiting.each_ref().map(String::as_str)).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "podrouter: waiting: the data plane is away: not connected yet\n");
    assert!(!Path::new(&path("net.d")).exists());
    ready.store(true, std::sync::atomic::Ordering::Relaxed);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let conf = path("net.d/10-podrouter.conflist");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("installed {}\ninstalled {conf}\n", path("bin/podrouter-cni")));
    let list: Value = serde_json::from_str(&std::fs::read_to_string(&conf).unwrap()).unwrap();
    assert_eq!((&list["name"], &list["plugins"][0]["type"]), (&"podrouter".into(), &"podrouter-cni".into()));
    assert_eq!(list["plugins"][0]["socket"], node.control().display().to_string());

    // Again, with another plug-in; and a configuration of somebody else's that comes first is named.
    std::fs::write(&plugin, "second").unwrap();
    std::fs::write(path("net.d/05-other.conflist"), "{}").unwrap();
    let said = install();
    assert_eq!(said.code, Some(exit::OK));
    assert!(said.stdout.contains(&path("net.d/05-other.conflist")), "{said:?}");
    assert_eq!(std::fs::read_to_string(path("bin/podrouter-cni")).unwrap(), "second");
    use std::os::unix::fs::PermissionsExt;
    let mode = |file: &str| std::fs::metadata(path(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("bin/podrouter-cni"), mode("net.d/10-podrouter.conflist")), (0o755, 0o644));
    let names = std::fs::read_dir(path("net.d")).unwrap().chain(std::fs::read_dir(path("bin")).unwrap());
    assert_eq!(names.count(), 3, "and nothing else");

    // One that stays puts back what somebody takes away.
    let mut staying = arguments.to_vec();
    staying.push("--stay".to_owned());
    let mut child = node.command(&staying.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut installed = || {
        lines.find(|line| {
            line.as_ref().is_ok_and(|line| line.starts_with("installed") && line.ends_with(".conflist"))
        })
    };
    installed().unwrap().unwrap();
    std::fs::remove_file(&conf).unwrap();
    installed().unwrap().unwrap();
    assert!(Path::new(&conf).exists());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn uninstall_leaves_nothing_once_nobody_runs() {
    let node = Node::new();
    let path = |name: &str| node.dir.path().join(name).display().to_string();
    let arguments = |control: &'static str, force: &[&'static str]| {
        let own = [
            "--control",
            &path(control),
            "uninstall",
            "--bin-dir",
            &path("bin"),
            "--conf-dir",
            &path("net.d"),
            "--state-dir",
            &path("state"),
            "--run-dir",
            &path("run"),
            "--host-interface",
            "prnone",
            "--flow-file",
            &path("flows"),
        ]
        .map(str::to_owned);
        own.into_iter().chain(force.iter().map(|text| (*text).to_owned())).collect::<Vec<_>>()
    };
    let uninstall = |control: &'static str, force: &[&'static str]| {
        let arguments = arguments(control, force);
        // Routes and tables of a network that is nobody's: this machine's may be in use.
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", env!("CARGO_BIN_EXE_podrouter")]);
        command.arg("--dataplane").arg(node.dataplane()).args(arguments);
        Said::from(command.output().unwrap())
    };
    for folder in ["bin", "net.d", "state/detached", "run"] {
        std::fs::create_dir_all(path(folder)).unwrap();
    }
    std::fs::write(path("bin/podrouter-cni"), "x").unwrap();
    std::fs::write(path("net.d/10-podrouter.conflist"), "x").unwrap();
    std::fs::write(path("net.d/99-loopback.conf"), "x").unwrap();
    std::fs::write(path("flows"), "x").unwrap();
    node.serve_control(control);
    let said = uninstall("control.sock", &[]);
    assert!(
        said.code == Some(exit::FAILURE) && said.stderr.contains("1 interface(s) are attached"),
        "{said:?}"
    );
    assert!(Path::new(&path("net.d/10-podrouter.conflist")).exists());
    let said = uninstall("control.sock", &["--force"]);
    assert!(said.code == Some(exit::OK) && said.stdout.contains("end both, and run this again"), "{said:?}");
    assert!(!Path::new(&path("net.d/10-podrouter.conflist")).exists() && Path::new(&path("state")).exists());
    assert!(Path::new(&path("flows")).exists(), "the data plane runs");
    for _ in 0..2 {
        assert_eq!(uninstall("nobody.sock", &[]).code, Some(exit::OK));
        for folder in ["state", "run", "bin/podrouter-cni", "flows"] {
            assert!(!Path::new(&path(folder)).exists(), "{folder}");
        }
    }
    assert!(Path::new(&path("net.d/99-loopback.conf")).exists());
}

#[test]
fn doctor_says_what_is_missing_and_what_to_do() {
    let node = Node::running();
    let path = |name: &str| node.dir.path().join(name).display().to_string();
    let said = node.run(&[
        "doctor",
        "--bin-dir",
        &path("bin"),
        "--conf-dir",
        &path("net.d"),
        "--state-dir",
        &path("state"),
    ]);
    assert_eq!(said.code, Some(exit::FAILURE));
    let lines: Vec<&str> = said.stdout.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("failure CNI plug-in: ")).unwrap();
    assert_eq!(lines[at + 1], "        `podrouter install`");
    assert!(
        lines.iter().any(|line| line.starts_with("ok      control: 0.1.0 follows manifests")),
        "{}",
        said.stdout
    );
    assert!(lines.contains(&"warning control: Node node-2 has no router address"), "{}", said.stdout);

    std::fs::create_dir_all(path("bin")).unwrap();
    std::fs::create_dir_all(path("net.d")).unwrap();
    std::fs::write(path("bin/podrouter-cni"), "x").unwrap();
    std::fs::write(path("net.d/10-podrouter.conflist"), "podrouter-cni").unwrap();
    let said = node.run(&[
        "--json",
        "doctor",
        "--bin-dir",
        &path("bin"),
        "--conf-dir",
        &path("net.d"),
        "--state-dir",
        &path("state"),
    ]);
    let checks: Value = serde_json::from_str(&said.stdout).unwrap();
    let about =
        |name: &str| checks.as_array().unwrap().iter().find(|check| check["about"] == name).unwrap().clone();
    assert_eq!(about("CNI plug-in")["verdict"], "ok");
    assert_eq!(about("network configuration")["verdict"], "ok");
    assert_eq!(about("state")["remedy"], Value::Null);
    let failed = checks.as_array().unwrap().iter().any(|check| check["verdict"] == "failure");
    assert_eq!(said.code, Some(if failed { exit::FAILURE } else { exit::OK }), "{checks:#}");
}
