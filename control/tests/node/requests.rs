//! What else a runtime asks for: addresses of its choice, GC, and DELs that came while nobody was here.

use std::net::IpAddr;

use proto::control::{
    AttachAddresses, AttachRequest, AttachedRoute, AttachmentName, Bandwidth, PortMapping, Request, Response,
    Secondary,
};
use proto::dataplane::{Limit, Limits, Protocol};

use crate::harness::{Netns, Node, detach, pod, until};

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn limits_are_journalled_and_changed_without_making_the_port_anew() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let netns = Netns::new();
    let bandwidth = Some(Bandwidth {
        ingress_rate: 80_000_000,
        ingress_burst: u64::from(u32::MAX),
        egress_rate: 8_000_000,
        egress_burst: 4_000_000,
    });
    node.attach(AttachRequest { bandwidth, ..pod("front", &netns) }, &netns);
    let limits = Limits {
        ingress: Some(Limit { rate: 10_000_000, burst: 1_000_000 }),
        egress: Some(Limit { rate: 1_000_000, burst: 500_000 }),
    };
    let port = fake.contents().0.endpoints["shop/front"].port.clone();
    assert_eq!(fake.contents().1[&port].limits, limits);
    assert!(fake.contents().1["host"].limits.is_none());

    // As after a control that knew no limits, or others; and then one that finds them as they are to be.
    for known in [Limits::default(), Limits { ingress: None, ..limits }, limits] {
        node.kill();
        fake.with(|state| {
            state.ports.get_mut(&port).unwrap().spec.limits = known;
            state.log.clear();
        });
        node.start_and_sync(&fake);
        until("the limits are the attachment's", || fake.contents().1[&port].limits == limits);
        let asked: Vec<String> = if known == limits { vec![] } else { vec![format!("add {port}")] };
        until("both TAPs are taken a second descriptor of", || {
            fake.with(|state| state.log.iter().filter(|line| line.starts_with("duplicate")).count() == 2)
        });
        let log = fake.with(|state| state.log.clone());
        let others: Vec<String> = log.into_iter().filter(|line| !line.starts_with("duplicate")).collect();
        assert_eq!(others, asked);
    }
}

#[test]
fn addresses_of_the_runtimes_choice_and_of_a_delegated_plug_in() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let (first, second, third) = (Netns::new(), Netns::new(), Netns::new());
    let wanted = AttachAddresses::Wanted { addresses: addresses(&["10.244.1.77"]) };
    let request = AttachRequest { addresses: wanted.clone(), ..pod("front", &first) };
    let attached = node.attach(request.clone(), &first);
    assert_eq!(attached.addresses, addresses(&["10.244.1.77", "fd00:10:244:1::2"]));
    let again = AttachRequest { addresses: wanted, ..pod("other", &second) };
    let (code, reason) = node.attach_fails(again.clone(), &second);
    assert!(code == 11 && reason.contains("10.244.1.77 is in use"), "{code}: {reason}");
    node.detach(&request);
    let (code, reason) = node.attach_fails(again, &second);
    assert!(code == 11 && reason.contains("10.244.1.77 was released"), "{code}: {reason}");
    let elsewhere = AttachAddresses::Wanted { addresses: addresses(&["10.244.2.7"]) };
    let (code, reason) =
        node.attach_fails(AttachRequest { addresses: elsewhere, ..pod("other", &second) }, &second);
    assert!(
        code == 7 && reason.contains("10.244.2.7") && reason.contains("10.244.1.0/24"),
        "{code}: {reason}"
    );

    // Whoever keeps account of them chooses as it likes, and may give them again at once.
    let given = AttachAddresses::Given { addresses: addresses(&["10.99.0.2"]) };
    let request = AttachRequest { addresses: given.clone(), ..pod("given", &second) };
    assert_eq!(node.attach(request.clone(), &second).addresses, addresses(&["10.99.0.2"]));
    assert_eq!(fake.contents().0.endpoints["shop/given"].addresses, addresses(&["10.99.0.2"]));
    let twice = AttachRequest { addresses: given.clone(), ..pod("twice", &third) };
    let (code, reason) = node.attach_fails(twice.clone(), &third);
    assert!(code == 11 && reason.contains("10.99.0.2 is in use"), "{code}: {reason}");
    node.detach(&request);
    node.attach(twice, &third);
    // What it gave outlives control.
    node.kill();
    node.start_and_sync(&fake);
    let (code, _) = node.attach_fails(AttachRequest { addresses: given, ..pod("more", &first) }, &first);
    assert_eq!(code, 11);
}

#[test]
fn networks_beside_the_pods_own_keep_account_of_their_addresses_each() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let netns = [Netns::new(), Netns::new(), Netns::new()];
    // The very range of this node's pods, so that nothing but the network tells one address from the other.
    let subnets: Vec<wire::IpPrefix> = ["10.244.1.0/24"].map(|text| text.parse().unwrap()).into();
    let on = |id: u16, n: usize| {
        let network = format!("net-{id}");
        let pod = pod(&format!("pod{n}"), &netns[n]);
        let secondary = Some(Secondary { id, subnets: subnets.clone() });
        AttachRequest { network, interface: "net1".into(), secondary, ..pod }
    };
    let first = addresses(&["10.244.1.2"]);
    let own = node.attach(pod("pod0", &netns[0]), &netns[0]);
    assert_eq!((&own.addresses[..1], own.network_id), (&first[..], 0));
    let attached = node.attach(on(7, 0), &netns[0]);
    assert_eq!((&attached.addresses, attached.network_id), (&first, 7));
    assert_eq!(attached.gateways, addresses(&["169.254.1.1"]));
    let route = AttachedRoute { destination: subnets[0], gateway: Some(attached.gateways[0]) };
    assert_eq!(attached.routes, [route]);
    assert_ne!(attached.mac, own.mac);
    let routes = netns[0].ip(&["route"]);
    for there in ["default via 169.254.1.1 dev eth0", "10.244.1.0/24 via 169.254.1.1 dev net1"] {
        assert!(routes.contains(there), "{routes}");
    }
    assert_eq!(node.attach(on(8, 1), &netns[1]).addresses, first);
    assert_eq!(node.attach(on(7, 2), &netns[2]).addresses, addresses(&["10.244.1.3"]));
    let row = |name: &str| fake.contents().0.endpoints[name].clone();
    for (name, network) in [("shop/pod0@net1", 7), ("shop/pod1@net1", 8), ("shop/pod2@net1", 7)] {
        let row = row(name);
        assert_eq!((row.network, &row.routes), (network, &subnets));
    }
    assert_eq!((row("shop/pod0").network, row("shop/pod0").routes.len()), (0, 0));

    // What it gave, and held back, outlives control, for each network by itself.
    node.detach(&on(8, 1));
    node.kill();
    node.start_and_sync(&fake);
    assert_eq!(fake.contents().0.endpoints.len(), 4, "with the host");
    let wanted = |id, n| {
        let addresses = AttachAddresses::Wanted { addresses: first.clone() };
        AttachRequest { addresses, ..on(id, n) }
    };
    for (id, why) in [(7, "is in use"), (8, "was released")] {
        let (code, reason) = node.attach_fails(wanted(id, 1), &netns[1]);
        assert!(code == 11 && reason.contains(why), "{code}: {reason}");
    }
    assert_eq!(node.attach(wanted(9, 1), &netns[1]).addresses, first);
    assert_eq!(node.status().warnings, Vec::<String>::new());
}

#[test]
fn a_port_of_the_node_is_one_pods_and_the_kernel_is_told() {
    let mut node = Node::new();
    let fake = node.fake();
    let table = |node: &Node| node.host.nft(&["list", "ruleset"]);
    // Whatever an earlier process left.
    node.host.nft(&["add", "table", "inet", "podrouter"]);
    node.host.nft(&["add", "table", "inet", "others"]);
    node.start_and_sync(&fake);
    until("what was left is gone", || !table(&node).contains("podrouter"));
    let (first, second) = (Netns::new(), Netns::new());
    let mapping = |host: Option<&str>| PortMapping {
        host: host.map(|text| text.parse().unwrap()),
        host_port: 8080,
        container_port: 80,
        protocol: Protocol(6),
    };
    let with = |mappings: &[PortMapping], pod: AttachRequest| AttachRequest {
        port_mappings: mappings.to_vec(),
        ..pod
    };
    // As long as names can be (63 and 253 bytes), longer than a comment of nftables'.
    let web = with(&[mapping(None)], pod(&format!("web{}", ".x".repeat(125)), &first));
    node.attach(web.clone(), &first);
    // Beside those of Services.
    let frontends = || {
        let rows = fake.contents().0.frontends;
        let own = rows.keys().filter(|key| key.port == 8080);
        own.map(ToString::to_string).collect::<Vec<_>>()
    };
    let all =
        ["172.16.0.1:8080/tcp", "192.168.77.11:8080/tcp", "[fd00:16::1]:8080/tcp", "[fd00:77::11]:8080/tcp"];
    assert_eq!(frontends(), all);
    until("the kernel is told", || table(&node).contains("tcp dport 8080 dnat ip to 10.244.1.2:80"));
    let whole = table(&node);
    for host in [None, Some("192.168.77.11"), Some("::")] {
        let (code, reason) = node.attach_fails(with(&[mapping(host)], pod("other", &second)), &second);
        assert!(code == 11 && reason.starts_with("hostPort 8080/tcp is shop/web.x"), "{code}: {reason}");
    }
    assert!(second.link("eth0").is_none());

    // It outlives control; what somebody changes is mended; nobody else's is touched.
    node.kill();
    node.host.nft(&["flush", "chain", "inet", "podrouter", "host_ports"]);
    node.start_and_sync(&fake);
    until("it is mended at the start", || table(&node) == whole);
    node.host.nft(&["delete", "table", "inet", "podrouter"]);
    until("it is mended", || table(&node) == whole);
    assert_eq!(frontends(), all);
    node.detach(&web);
    until("it is gone", || !table(&node).contains("podrouter"));
    assert!(table(&node).contains("others"));
    assert_eq!(frontends(), [""; 0]);
    node.attach(with(&[mapping(Some("::"))], pod("other", &second)), &second);
    assert_eq!(frontends(), &all[2..]);
}

#[test]
fn what_the_runtime_does_not_name_is_collected_from_its_network_alone() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let all: Vec<(AttachRequest, Netns)> = (0..4)
        .map(|n| {
            let netns = Netns::new();
            let network = if n == 3 { "others" } else { "pods" };
            let request = AttachRequest { network: network.into(), ..pod(&format!("pod{n}"), &netns) };
            node.attach(request.clone(), &netns);
            (request, netns)
        })
        .collect();
    let valid = AttachmentName { container: "container-pod1".into(), interface: "eth0".into() };
    let collect = Request::Collect { network: "pods".into(), valid: vec![valid] };
    for removed in [2, 0] {
        assert_eq!(node.call(&collect, None), Response::Collected { removed, failures: vec![] });
        let there: Vec<bool> = all.iter().map(|(_, netns)| netns.link("eth0").is_some()).collect();
        assert_eq!(there, [false, true, false, true]);
        let endpoints: Vec<String> = fake.contents().0.endpoints.keys().cloned().collect();
        assert_eq!(endpoints, ["host", "shop/pod1", "shop/pod3"]);
    }
    node.detach(&all[0].0);
}

#[test]
fn dels_that_were_left_come_before_anything_else() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let (first, second) = (Netns::new(), Netns::new());
    let requests = [pod("front", &first), pod("other", &second)];
    node.attach(requests[0].clone(), &first);
    node.attach(requests[1].clone(), &second);
    node.kill();
    let spool = node.path("state/detached");
    proto::spool::leave(&spool, &detach(&requests[0])).unwrap();
    std::fs::write(spool.join("broken.json"), "{").unwrap();
    node.start();
    // It listens only when what was left is done: no waiting here.
    assert_eq!(node.status().attachments, 1);
    assert!(first.link("eth0").is_none() && second.link("eth0").is_some());
    until("the data plane lets go of it", || !fake.contents().0.endpoints.contains_key("shop/front"));
    assert!(spool.join("broken.damaged").exists() && node.log().contains("broken.json"));
    // One that is left while it listens is found soon.
    proto::spool::leave(&spool, &detach(&requests[1])).unwrap();
    until("the other goes", || node.status().attachments == 0);
    until("no file is left", || proto::spool::left(&spool).unwrap().is_empty());
    assert!(second.link("eth0").is_none());
}

#[test]
fn check_tells_what_is_attached_and_in_force_and_status_what_is_left() {
    let mut node = Node::new();
    let fake = node.fake();
    node.manifest(
        "cluster.yaml",
        "kind: Node\nmetadata: {name: knode1}\nspec: {podCIDRs: [10.244.1.0/29]}\n\
         status: {addresses: [{type: InternalIP, address: 192.168.77.11}]}\n",
    );
    node.start_and_sync(&fake);
    let pods: Vec<(AttachRequest, Netns)> = (0..5)
        .map(|n| {
            let netns = Netns::new();
            (pod(&format!("pod{n}"), &netns), netns)
        })
        .collect();
    let check = |request: &AttachRequest| {
        let AttachRequest { network, container, interface, .. } = request.clone();
        Request::Check { network, container, interface }
    };
    let failed = |node: &Node| match node.call(&check(&pods[0].0), None) {
        Response::Failed { code, reason, .. } => (code, reason),
        other => panic!("{other:?}"),
    };
    let (code, reason) = failed(&node);
    assert!(code == 3 && reason.contains("container-pod0"), "{code}: {reason}");
    let attached = node.attach(pods[0].0.clone(), &pods[0].1);
    assert_eq!(node.call(&check(&pods[0].0), None), Response::Attached(attached));
    assert_eq!(node.status().unready, None);
    for (request, netns) in &pods[1..] {
        node.attach(request.clone(), netns);
    }
    let unready = node.status().unready.unwrap();
    assert!(unready.contains("10.244.1.0/29"), "{unready}");
    drop(fake);
    until("control has seen it go", || !node.status().connected);
    assert_eq!(failed(&node).0, 11);
    assert!(node.status().unready.unwrap().contains("data plane is away"));
}

#[test]
fn uninstall_takes_the_hosts_interface_once_nobody_runs() {
    let mut node = Node::new();
    let fake = node.fake();
    node.start_and_sync(&fake);
    let uninstall = |node: &Node| {
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net={}", node.host.path().display())).arg(env!("CARGO_BIN_EXE_podrouter"));
        command.arg("--control").arg(node.path("control.sock"));
        command.arg("--dataplane").arg(node.path("dataplane.sock")).arg("uninstall");
        for (flag, name) in
            [("--bin-dir", "bin"), ("--conf-dir", "net.d"), ("--state-dir", "state"), ("--run-dir", "vhost")]
        {
            command.arg(flag).arg(node.path(name));
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        said
    };
    let said = uninstall(&node);
    assert!(said.contains("podrouter0") && said.contains("end both"), "{said}");
    assert!(node.host.link("podrouter0").is_some());
    assert!(node.path("state").exists());
    node.stop();
    drop(fake);
    let said = uninstall(&node);
    assert!(said.contains("podrouter0") && node.host.link("podrouter0").is_none(), "{said}");
    assert!(!node.path("state").exists() && !node.path("vhost").exists());
    assert_eq!(node.host.ip(&["route", "show", "proto", "112"]), "");
    assert_eq!(uninstall(&node), "");
}
