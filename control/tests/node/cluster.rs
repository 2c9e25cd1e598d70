//! The control process on an API server.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use apiserver::Fault;
use proto::control::{AttachPort, AttachRequest};
use proto::dataplane::{PortKind, RouteTarget};
use serde_json::json;

use crate::harness::{Netns, Node, pod, until};

fn via(address: &str) -> Option<RouteTarget> {
    Some(RouteTarget::NextHop { port: "uplink".into(), address: address.parse().unwrap(), inside: true })
}

fn third() -> serde_json::Value {
    json!({"kind": "Node", "apiVersion": "v1",
        "metadata": {"name": "knode3", "annotations": {"podrouter.io/router-addresses": "172.16.0.3"}},
        "spec": {"podCIDRs": ["10.244.3.0/24"]}})
}

#[test]
fn an_api_server_gives_the_rows_that_its_manifests_give() {
    let (mut by_files, mut by_server) = (Node::new(), Node::new());
    let (first, second) = (by_files.fake(), by_server.fake());
    by_files.start_and_sync(&first);
    let server = by_server.api_server(0, 0);
    by_server.start_and_sync(&second);
    assert_eq!(first.contents(), second.contents());
    let status = by_server.status();
    assert_eq!(status.source, format!("API server {}", server.url()));
    assert_eq!((status.nodes, status.warnings), (2, vec![]));

    server.set(third());
    until("the route", || second.route("10.244.3.0/24") == via("172.16.0.3"));
    server.delete("Node", "", "knode3");
    until("no route", || second.route("10.244.3.0/24").is_none());
    assert_eq!(by_server.stop(), 0);
    assert_eq!(first.contents(), second.contents(), "what was made stays");
}

#[test]
fn while_the_api_server_is_away_all_stays_and_pods_are_attached() {
    let mut node = Node::new();
    let fake = node.fake();
    let server = node.api_server(0, 0);
    let port: u16 = server.url().rsplit(':').next().unwrap().parse().unwrap();
    server.set(third());
    node.start_and_sync(&fake);
    until("the route", || fake.route("10.244.3.0/24") == via("172.16.0.3"));
    let (first, second) = (Netns::new(), Netns::new());
    node.attach(pod("front", &first), &first);
    drop(server);
    until("its trouble is told", || {
        let warnings = node.status().warnings.concat();
        warnings.contains("nodes: Connection refused") && warnings.contains("pods: Connection refused")
    });
    assert!(node.log().contains("stays in force"));
    node.attach(pod("other", &second), &second);
    let before = fake.contents();
    assert_eq!(fake.route("10.244.3.0/24"), via("172.16.0.3"));

    // A control process that starts meanwhile knows nothing of the cluster, and leaves the tables as they are.
    node.kill();
    fake.with(|state| state.log.clear());
    node.start();
    until("the data plane is connected", || node.status().connected);
    until("the trouble is told", || node.status().warnings.concat().contains("Connection refused"));
    let third = Netns::new();
    let (code, reason) = node.attach_fails(pod("late", &third), &third);
    assert!(
        code == 11 && reason.contains("API server") && reason.contains("was not read yet"),
        "{code}: {reason}"
    );
    assert!(!node.status().synced);
    assert_eq!(fake.contents(), before);
    fake.with(|state| assert!(state.log.iter().all(|line| line.starts_with("duplicate")), "{:?}", state.log));

    // It comes back as another process, which remembers no event; and a node is gone.
    let _server = node.api_server(port, 1000);
    until("it goes on", || node.status().synced && fake.route("10.244.3.0/24").is_none());
    until("no trouble", || node.status().warnings.is_empty());
    let (rows, ports) = fake.contents();
    assert_eq!((rows.endpoints, ports), (before.0.endpoints, before.1));
    node.attach(pod("late", &third), &third);
}

#[test]
fn what_cannot_be_followed_is_named_at_the_start() {
    let mut node = Node::new();
    let _server = node.api_server(0, 0);
    let path = node.path("kubeconfig").display().to_string();
    std::fs::write(node.path("kubeconfig"), "clusters: 7").unwrap();
    let (code, message) = node.start_and_fail();
    assert!(code == 3 && message.contains(&format!("--kubeconfig {path}")), "{code}: {message}");
    std::fs::remove_file(node.path("kubeconfig")).unwrap();
    let (code, message) = node.start_and_fail();
    assert!(code == 3 && message.contains(&path) && message.contains("No such file"), "{code}: {message}");
    node.extra.extend(["--api-server".to_owned(), "10.96.0.1".to_owned()]);
    let (code, message) = node.start_and_fail();
    assert!(
        code == 2 && message.contains("--api-server") && message.contains("10.96.0.1"),
        "{code}: {message}"
    );
}

#[test]
fn a_cluster_ip_is_refused_by_name() {
    let start = |host: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_podrouter-control"));
        command.args(["--node", "n"]).env("KUBERNETES_SERVICE_HOST", host);
        command.env("KUBERNETES_SERVICE_PORT", "443").env("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = start("10.96.0.1");
    assert!(code == Some(3) && message.contains("10.96.0.1, a ClusterIP"), "{code:?}: {message}");
    assert!(message.contains("--api-server"), "{message}");
    // An address that somebody chose is not; there is only no account here.
    let (code, message) = start("192.168.77.1");
    assert!(
        code == Some(3) && !message.contains("ClusterIP") && message.contains("--kubeconfig"),
        "{message}"
    );
}

#[test]
fn nodes_learn_each_others_routers_from_the_annotations_that_each_writes() {
    let mut node = Node::new();
    let server = node.api_server(0, 0);
    // As a cluster is before any of us was there.
    for name in ["knode1", "knode2"] {
        let mut object = server.get("Node", "", name).unwrap();
        object["metadata"]["annotations"] = json!({"others": "stays"});
        server.set(object);
    }
    let annotations = |name: &str| server.get("Node", "", name).unwrap()["metadata"]["annotations"].clone();
    let fake = node.fake();
    node.start_and_sync(&fake);
    until("its own is told", || {
        annotations("knode1")["podrouter.io/router-way"] == "dedicated, mtu 1500, vxlan never"
            && annotations("knode1")["podrouter.io/router-addresses"] == "172.16.0.1,fd00:16::1"
    });
    assert_eq!(fake.route("10.244.2.0/24"), None);
    assert_eq!(
        (&annotations("knode1")["others"], &annotations("knode2")),
        (&json!("stays"), &json!({"others": "stays"}))
    );
    let mut other = server.get("Node", "", "knode2").unwrap();
    other["metadata"]["annotations"]["podrouter.io/router-addresses"] = json!("172.16.0.2");
    server.set(other);
    until("the other's is followed", || fake.route("10.244.2.0/24") == via("172.16.0.2"));

    // Started again without an uplink, its kernel is the way to its pods; and without a host interface there is none.
    assert_eq!(node.stop(), 0);
    node.extra.drain(..6);
    node.start_and_sync(&fake);
    until("its kernel is told of", || {
        annotations("knode1")["podrouter.io/router-way"] == "kernel, mtu 1500, vxlan never"
            && annotations("knode1")["podrouter.io/router-addresses"] == "192.168.77.11,fd00:77::11"
    });
    assert_eq!(node.stop(), 0);
    node.extra.extend(["--host-interface", "none"].map(str::to_owned));
    node.start();
    until("it is taken away", || annotations("knode1") == json!({"others": "stays"}));
}

#[test]
fn the_cluster_is_told_whether_pods_can_be_here_and_what_is_left_out() {
    let mut node = Node::new();
    let server = node.api_server(0, 0);
    let mut own = server.get("Node", "", "knode1").unwrap();
    own["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    server.set(own.clone());
    let condition = || {
        let conditions = server.get("Node", "", "knode1").unwrap()["status"]["conditions"].clone();
        assert!(
            conditions.as_array().unwrap().iter().any(|own| own["type"] == "Ready"),
            "others' stay: {conditions}"
        );
        conditions.as_array().unwrap().iter().find(|own| own["type"] == "NetworkUnavailable").cloned()
    };
    let fake = node.fake();
    node.start_and_sync(&fake);
    until("the condition", || condition().is_some_and(|own| own["status"] == "False"));
    assert_eq!(condition().unwrap()["reason"], "PodrouterIsReady");
    let router = || {
        let own = server.get("Node", "", "knode1").unwrap();
        own["metadata"]["annotations"].get("podrouter.io/router-addresses").cloned()
    };
    assert_eq!(router(), Some(json!("172.16.0.1,fd00:16::1")));
    drop(fake);
    until("it is away", || condition().is_some_and(|own| own["status"] == "True"));
    assert_eq!(condition().unwrap()["reason"], "PodrouterDataPlaneIsAway");
    let _fake = node.fake();
    until("it is back", || condition().is_some_and(|own| own["status"] == "False"));

    let events = || server.all("Event");
    assert_eq!(events(), Vec::<serde_json::Value>::new());
    own["spec"]["podCIDRs"] = json!(["10.244.1.0/24", "10.244.1.0/99"]);
    server.set(own.clone());
    until("an Event", || !events().is_empty());
    let event = &events()[0];
    assert_eq!(
        (&event["regarding"]["kind"], &event["regarding"]["name"]),
        (&json!("Node"), &json!("knode1"))
    );
    assert!(event["note"].as_str().unwrap().contains("10.244.1.0/99"), "{event}");
    assert_eq!((&event["type"], &event["metadata"]["namespace"]), (&json!("Warning"), &json!("default")));

    // What an object asks for that cannot be had is said of that object, by the one node of these two that its name chooses.
    for n in 0..16 {
        server.set(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("web{n}"), "namespace": "shop"},
            "spec": {"type": "ClusterIP", "clusterIPs": [format!("10.96.7.{n}")], "externalIPs": ["localhost"],
                "ports": [{"protocol": "TCP", "port": 80, "targetPort": 80}]},
        }));
    }
    let about =
        || events().into_iter().filter(|event| event["regarding"]["kind"] == "Service").collect::<Vec<_>>();
    until("Events of Services", || !about().is_empty());
    let event = &about()[0];
    let name = event["regarding"]["name"].as_str().unwrap();
    assert!(name.starts_with("web") && event["metadata"]["namespace"] == "shop", "{event}");
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with(&format!("Service shop/{name}: spec.externalIPs[0] `localhost`")), "{note}");
    // What is told now is told after all that.
    own["spec"]["podCIDRs"] = json!(["10.244.1.0/24", "10.244.1.0/98"]);
    server.set(own);
    until("an Event of the Node", || {
        events().iter().any(|event| event.to_string().contains("10.244.1.0/98"))
    });
    assert!(about().len() < 16, "{}", about().len());

    // Who may not write says so, and goes on.
    server.set_faults(|request| {
        let message = "nodes \"knode1\" is forbidden: cannot patch resource";
        (request.method == "PATCH").then_some(Fault::status(403, "Forbidden", message))
    });
    node.kill();
    node.start();
    until("why nobody is told", || {
        node.status()
            .warnings
            .iter()
            .any(|text| text.contains("telling the cluster") && text.contains("HTTP 403"))
    });
    server.behave();
    until("all is told", || node.status().warnings.iter().all(|text| !text.contains("telling")));
}

#[test]
fn probes_and_prometheus_are_answered() {
    let mut node = Node::new();
    let host = std::fs::File::open(node.host.path()).unwrap();
    let ask = |path: &'static str| {
        tap::netns::in_netns(host.as_fd(), move || {
            let mut stream = TcpStream::connect("127.0.0.1:9640").unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .unwrap()
    };
    // Somebody else has the port at first.
    let taken = tap::netns::in_netns(host.as_fd(), || TcpListener::bind("127.0.0.1:9640").unwrap()).unwrap();
    node.start();
    until("it is said", || {
        node.status().warnings.iter().any(|text| text.contains("--health-address 127.0.0.1:9640"))
    });
    drop(taken);
    until("it listens", || node.status().warnings.iter().all(|text| !text.contains("--health-address")));
    assert!(ask("/healthz").starts_with("HTTP/1.1 200 "));
    let answer = ask("/readyz");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("the data plane is away"), "{answer}");
    let _fake = node.fake();
    until("it is ready", || ask("/readyz").starts_with("HTTP/1.1 200 "));
    let netns = Netns::new();
    node.attach(pod("front", &netns), &netns);
    let metrics = ask("/metrics");
    for line in
        ["podrouter_control_attachments 1", "podrouter_control_attached_total 1", "podrouter_control_nodes 2"]
    {
        assert!(metrics.lines().any(|own| own == line), "{line}: {metrics}");
    }
    // Each has its help and its type, once.
    let names = |start: &str| {
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(start));
        lines.map(|rest| rest.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("# HELP "), names("# TYPE "));
    assert_eq!(
        names("# HELP "),
        names("podrouter_").iter().map(|name| format!("podrouter_{name}")).collect::<Vec<_>>()
    );
    assert!(ask("/").starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_pods_annotations_choose_its_ports() {
    let mut node = Node::new();
    let fake = node.fake();
    let server = node.api_server(0, 0);
    let object = |name: &str, uid: &str, port: &str| {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "shop", "name": name, "uid": uid,
                "annotations": {"podrouter.io/port": port, "podrouter.io/queue-pairs": "eth0=2"}},
            "spec": {"nodeName": "knode1", "containers": []}})
    };
    server.set(object("vm", "a1", "vhost-user"));
    node.start_and_sync(&fake);
    let of = |name: &str, uid: &str, netns: &Netns| {
        let mut request = pod(name, netns);
        request.pod.as_mut().unwrap().uid = Some(uid.into());
        request
    };
    let netns = Netns::new();
    let attached = node.attach(of("vm", "a1", &netns), &netns);
    assert!(attached.socket.is_some() && netns.link("eth0").is_none());
    let has_pairs = |pairs: u16| {
        let ports = fake.contents().1;
        ports
            .values()
            .any(|spec| matches!(spec.kind, PortKind::Vhost { queue_pairs, .. } if queue_pairs == pairs))
    };
    assert!(has_pairs(2));

    // One that the watch does not have yet is asked for; one of its name from before is not it.
    let is_watched = |request: &apiserver::Request| request.is_watch() && request.resource() == "pods";
    server.set_faults(move |request| {
        is_watched(request).then_some(Fault::status(503, "ServiceUnavailable", "not yet"))
    });
    server.hang_up();
    until("the watch is refused", || node.status().warnings.concat().contains("not yet"));
    server.set(object("vm", "a2", "net1=vhost-user"));
    server.set(object("late", "b1", "net1=vhost-user,tap"));
    let (second, third) = (Netns::new(), Netns::new());
    let second_vm = AttachRequest { container: "another".into(), ..of("vm", "a2", &second) };
    assert!(node.attach(second_vm, &second).socket.is_none() && second.link("eth0").is_some());
    let own = AttachRequest { port: AttachPort::VhostUser, ..of("late", "b1", &third) };
    assert!(node.attach(own.clone(), &third).socket.is_none() && third.link("eth0").is_some());
    let net1 = AttachRequest { interface: "net1".into(), port: AttachPort::Tap, ..own.clone() };
    assert!(node.attach(net1.clone(), &third).socket.is_some() && third.link("net1").is_none());
    // What the runtime chose stands, and so does what nobody can be asked about.
    let chosen =
        AttachRequest { interface: "net2".into(), port: AttachPort::VhostUser, port_chosen: true, ..own };
    assert!(node.attach(chosen, &third).socket.is_some());
    let stranger = AttachRequest { container: "more".into(), ..of("late", "b2", &second) };
    let stranger = AttachRequest { interface: "net9".into(), port: AttachPort::Tap, ..stranger };
    assert!(node.attach(stranger, &second).socket.is_none());

    server.set(object("bad", "c1", "memif"));
    let fourth = Netns::new();
    let (code, reason) = node.attach_fails(of("bad", "c1", &fourth), &fourth);
    assert!(
        code == 7
            && ["shop/bad", "podrouter.io/port", "`memif`", "vhost-user"]
                .iter()
                .all(|part| reason.contains(part)),
        "{code}: {reason}"
    );
}

#[test]
fn a_device_plug_ins_folder_has_the_socket() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let netns = Netns::new();
    let request =
        AttachRequest { port: AttachPort::VhostUser, device: Some("dev-7".into()), ..pod("vm", &netns) };
    let (code, reason) = node.attach_fails(request.clone(), &netns);
    assert!(
        code == 7 && reason.contains("`dev-7`") && reason.contains("is no directory"),
        "{code}: {reason}"
    );
    for name in ["..", "a/b", "."] {
        let bad = AttachRequest { device: Some(name.into()), ..request.clone() };
        assert_eq!(node.attach_fails(bad, &netns).0, 7, "{name}");
    }
    let kernel = AttachRequest { port: AttachPort::Tap, ..request.clone() };
    let (code, reason) = node.attach_fails(kernel, &netns);
    assert!(code == 7 && reason.contains("`dev-7`") && reason.contains("kernel pod"), "{code}: {reason}");
    let folder = node.path("vhost").join("dev-7");
    std::fs::create_dir_all(&folder).unwrap();
    let attached = node.attach(request.clone(), &netns);
    assert_eq!(attached.socket.unwrap().parent(), Some(folder.as_path()));
    node.detach(&request);
    assert!(folder.is_dir(), "it is not ours");
}

/// What a request asks of the role: group, resource (and what of it) and verb, as an API server works it out.
fn asked(request: &apiserver::Request) -> (String, String, &'static str) {
    let mut parts = request.path.trim_start_matches('/').split('/');
    let group = match parts.next() {
        Some("apis") => parts.next().unwrap().to_owned(),
        _ => String::new(),
    };
    let mut rest: Vec<&str> = parts.skip(1).collect();
    if rest.first() == Some(&"namespaces") && rest.len() > 2 {
        rest.drain(..2);
    }
    let resource = match rest[..] {
        [resource, _, part] => format!("{resource}/{part}"),
        _ => rest[0].to_owned(),
    };
    let verb = match request.method.as_str() {
        "GET" if request.is_watch() => "watch",
        "GET" if rest.len() > 1 => "get",
        "GET" => "list",
        "PATCH" => "patch",
        "POST" => "create",
        other => panic!("{other}"),
    };
    (group, resource, verb)
}

#[test]
fn the_role_allows_what_is_asked_and_nothing_else() {
    let mut node = Node::new();
    let fake = node.fake();
    let server = node.api_server(0, 0);
    // Every kind of request: pods of other nodes by a policy, an Event by an annotation that cannot be, lists by a watch that is refused.
    server.set(json!({"kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "p"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}}));
    let mut own = server.get("Node", "", "knode1").unwrap();
    own["spec"]["podCIDRs"] = json!(["10.244.1.0/24", "10.244.1.9/24"]);
    server.set(own);
    node.start_and_sync(&fake);
    let netns = Netns::new();
    // One that a policy may be for, and that nobody knows: it is asked for, and refused.
    assert_eq!(node.attach_fails(pod("unknown", &netns), &netns).0, 11);
    let mut seen = BTreeSet::new();
    let mut look = || seen.extend(server.take_log().iter().map(asked));
    until("it has told of the node", || {
        look();
        !server.all("Event").is_empty()
    });
    server.set_faults(|request| {
        request.parameter("sendInitialEvents").map(|_| Fault::status(422, "Invalid", "sendInitialEvents"))
    });
    server.forget();
    server.hang_up();
    let mut more = BTreeSet::new();
    until("lists in the place of watches", || {
        more.extend(server.take_log().iter().map(asked));
        more.iter().filter(|(_, _, verb)| *verb == "list").count() == 6
    });
    seen.extend(more);
    let rbac = serde_norway::Deserializer::from_str(include_str!("../../deploy/rbac.yaml"));
    let documents: Vec<serde_json::Value> =
        rbac.map(|document| serde::Deserialize::deserialize(document).unwrap()).collect();
    let role = documents.iter().find(|document| document["kind"] == "ClusterRole").unwrap();
    let texts = |list: &serde_json::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut allowed = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    allowed.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    let seen: BTreeSet<_> =
        seen.into_iter().map(|(group, resource, verb)| (group, resource, verb.to_owned())).collect();
    assert_eq!(seen, allowed);
}
