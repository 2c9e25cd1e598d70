//! ADD: what control is asked, and the result in each version's shape.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use proto::control::{
    AttachAddresses, AttachPort, AttachRequest, Attached, Bandwidth, PodName, Request, Response, Secondary,
};
use serde_json::{Value, json};
use wire::MacAddr;

use crate::fake::{FakeControl, NETNS, bytes, run, willing};

fn add(control: &FakeControl, version: &str, more: Value, change: &[(&str, &str)]) -> Value {
    run("ADD", &bytes(&control.config(version, more)), change).result()
}

#[test]
fn a_kernel_pod_in_every_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let control = FakeControl::willing();
        let mut interface = json!({"name": "eth0", "mac": "02:00:00:00:00:05", "sandbox": NETNS});
        let mut v4 = json!({"interface": 0, "address": "10.244.1.5/32", "gateway": "169.254.1.1"});
        let mut v6 = json!({"interface": 0, "address": "fd00:10:244:1::5/128", "gateway": "fe80::1"});
        let mut link = json!({"dst": "169.254.1.1/32"});
        if version < "1.0.0" {
            v4["version"] = json!("4");
            v6["version"] = json!("6");
        }
        if version == "1.1.0" {
            interface["mtu"] = json!(1500);
            link["scope"] = json!(253);
        }
        let routes =
            [link, json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"}), json!({"dst": "::/0", "gw": "fe80::1"})];
        assert_eq!(
            add(&control, version, json!({}), &[]),
            json!({"cniVersion": version, "interfaces": [interface], "ips": [v4, v6], "routes": routes, "dns": {}}),
        );

        let [(Request::Attach(asked), fds)] = &control.asked()[..] else { panic!("{:?}", control.asked()) };
        let expected = AttachRequest {
            network: "pods".into(),
            container: "c0ffee".into(),
            interface: "eth0".into(),
            netns: NETNS.into(),
            port: AttachPort::Tap,
            port_chosen: false,
            device: None,
            queue_pairs: None,
            mtu: None,
            mac: None,
            addresses: AttachAddresses::Any,
            pod: Some(PodName { namespace: "default".into(), name: "web-1".into(), uid: Some("u".into()) }),
            bandwidth: None,
            secondary: None,
            port_mappings: vec![],
        };
        assert_eq!(asked, &expected);
        // The descriptor that came is the namespace itself.
        assert_eq!(fds, &[std::fs::metadata(NETNS).unwrap().ino()]);
    }
}

#[test]
fn addresses_that_the_runtime_wants() {
    let control = FakeControl::willing();
    add(&control, "1.0.0", json!({"runtimeConfig": {"ips": ["10.244.1.9/24", "fd00:10:244:1::9"]}}), &[]);
    let [(Request::Attach(asked), _)] = &control.asked()[..] else { panic!("{:?}", control.asked()) };
    let addresses = ["10.244.1.9", "fd00:10:244:1::9"].map(|text| text.parse().unwrap()).into();
    assert_eq!(asked.addresses, AttachAddresses::Wanted { addresses });
}

#[test]
fn a_network_beside_the_pods_own() {
    let more = json!({"name": "storage", "networkId": 7, "subnets": ["10.244.0.0/16", "fd05::/64"]});
    let subnets = ["10.244.0.0/16", "fd05::/64"].map(|text| text.parse().unwrap()).to_vec();
    let control = FakeControl::willing();
    add(&control, "1.0.0", more.clone(), &[("CNI_IFNAME", "net1")]);
    let [(Request::Attach(asked), _)] = &control.asked()[..] else { panic!("{:?}", control.asked()) };
    assert_eq!((&asked.network[..], &asked.interface[..]), ("storage", "net1"));
    assert_eq!(asked.secondary, Some(Secondary { id: 7, subnets }));

    // A plug-in that gives the addresses tells what they are in; what the configuration says comes before it.
    let dir = tempfile::tempdir().unwrap();
    let leased = |subnets: Value| {
        let control = FakeControl::willing();
        let ipam =
            json!({"type": "host-local", "dataDir": dir.path(), "ranges": [[{"subnet": "10.5.0.0/24"}]]});
        let more = json!({"name": "storage", "networkId": 9, "ipam": ipam, "subnets": subnets});
        let change = [("CNI_PATH", "/usr/lib/cni"), ("CNI_IFNAME", "net1")];
        run("ADD", &bytes(&control.config("1.0.0", more.clone())), &change).result();
        run("DEL", &bytes(&control.config("1.0.0", more)), &change).nothing();
        let (Request::Attach(asked), _) = control.asked().swap_remove(0) else { panic!() };
        asked.secondary.unwrap().subnets.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(leased(Value::Null), ["10.5.0.0/24"]);
    assert_eq!(leased(json!(["10.5.0.0/16"])), ["10.5.0.0/16"]);

    // A control of the release before would have put it among the pods of the cluster.
    let old = FakeControl::start(|request| match willing(request) {
        Response::Attached(attached) => Some(Response::Attached(Attached { network_id: 0, ..attached })),
        other => Some(other),
    });
    let (code, msg) = run("ADD", &bytes(&old.config("1.0.0", more)), &[]).failure();
    assert!(code == 110 && msg.contains("`networkId`"), "{code} {msg}");
    assert!(
        matches!(old.asked()[..], [(Request::Attach(_), _), (Request::Detach { .. }, _)]),
        "{:?}",
        old.asked()
    );
}

#[test]
fn rates_of_the_network_and_of_the_runtime() {
    let asked = |more: Value| {
        let control = FakeControl::willing();
        add(&control, "1.0.0", more, &[]);
        let [(Request::Attach(asked), _)] = &control.asked()[..] else { panic!("{:?}", control.asked()) };
        asked.bandwidth
    };
    // As containerd asks for a pod with both annotations, and as the network does for all others.
    let burst = u64::from(u32::MAX);
    let runtimes = json!({"ingressRate": 10_000_000, "ingressBurst": burst, "egressRate": 1_000_000, "egressBurst": burst});
    let both = Bandwidth {
        ingress_rate: 10_000_000,
        ingress_burst: burst,
        egress_rate: 1_000_000,
        egress_burst: burst,
    };
    assert_eq!(asked(json!({"runtimeConfig": {"bandwidth": runtimes}})), Some(both));
    let networks = json!({"egressRate": 5_000_000, "egressBurst": 400_000});
    let own = Bandwidth { egress_rate: 5_000_000, egress_burst: 400_000, ..Bandwidth::default() };
    assert_eq!(asked(json!({"bandwidth": networks})), Some(own));
    assert_eq!(asked(json!({"bandwidth": networks, "runtimeConfig": {"bandwidth": runtimes}})), Some(both));
    assert_eq!(asked(json!({})), None);

    let control = FakeControl::willing();
    let bad = control.config("1.0.0", json!({"runtimeConfig": {"bandwidth": {"egressRate": "1M"}}}));
    let (code, msg) = run("ADD", &bytes(&bad), &[]).failure();
    assert!(code == 7 && msg.contains("`runtimeConfig.bandwidth.egressRate` is \"1M\""), "{code} {msg}");
    assert!(control.asked().is_empty(), "nothing is made before all is looked at");
    // A pod that was refused must be able to end.
    run("DEL", &bytes(&bad), &[]).nothing();
}

#[test]
fn a_vhost_user_pods_device_is_told_by_its_file() {
    let control = FakeControl::willing();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("devinfo/cni/pods-uid-net1");
    let ask = |port: &str, file: &std::path::Path| {
        let more = json!({"port": port, "runtimeConfig": {"CNIDeviceInfoFile": file}});
        run("ADD", &bytes(&control.config("1.0.0", more)), &[])
    };
    ask("tap", &file).result();
    assert!(!file.exists(), "a kernel pod has nothing to tell");
    ask("vhost-user", &file).result();
    let read = || serde_json::from_str::<Value>(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let socket = "/run/podrouter/vhost/p0123456789ab.sock";
    let told =
        json!({"type": "vhost-user", "version": "1.1.0", "vhost-user": {"mode": "client", "path": socket}});
    assert_eq!(read(), told);
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    // What a device plug-in has put there stays.
    std::fs::write(&file, "{}").unwrap();
    ask("vhost-user", &file).result();
    assert_eq!(read(), json!({}));
    // A pod that cannot be told of its device is not attached.
    let (code, msg) = ask("vhost-user", std::path::Path::new("/proc/nowhere/net1")).failure();
    assert!(code == 5 && msg.contains("/proc/nowhere/net1"), "{code} {msg}");
    let detach =
        Request::Detach { network: "pods".into(), container: "c0ffee".into(), interface: "eth0".into() };
    assert_eq!(control.asked().last().unwrap().0, detach);
}

#[test]
fn a_vhost_user_pod() {
    let control = FakeControl::willing();
    // A VM's runtime may name a namespace that is none of the kernel's.
    let change = [("CNI_NETNS", "/nonexistent/vm-7"), ("CNI_ARGS", "")];
    let result = add(&control, "1.1.0", json!({"port": "vhost-user", "queuePairs": 4, "mtu": 9000}), &change);
    assert_eq!(
        result["interfaces"],
        json!([{"name": "eth0", "mac": "02:00:00:00:00:05", "mtu": 9000, "sandbox": "/nonexistent/vm-7",
                "socketPath": "/run/podrouter/vhost/p0123456789ab.sock"}]),
    );
    let asked = control.asked();
    let [(Request::Attach(request), fds)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((request.port, request.mtu, &request.pod), (AttachPort::VhostUser, Some(9000), &None));
    assert_eq!(request.queue_pairs, Some(4));
    assert_eq!(request.netns, PathBuf::from("/nonexistent/vm-7"));
    assert!(fds.is_empty());

    // 1.0.0 has no word for the socket; people are told.
    let said = run("ADD", &bytes(&control.config("1.0.0", json!({"port": "vhost-user"}))), &change);
    assert_eq!(said.result()["interfaces"][0].get("socketPath"), None);
    assert!(said.stderr.contains("p0123456789ab.sock"), "{}", said.stderr);
}

#[test]
fn the_kind_of_port_that_is_chosen_for_this_pod_is_told_as_such() {
    let choices = [
        (json!({"port": "vhost-user"}), (AttachPort::VhostUser, false, None), 1),
        (
            json!({"args": {"cni": {"port": "vhost-user", "queuePairs": 2}}}),
            (AttachPort::VhostUser, true, Some(2)),
            0,
        ),
        (json!({"runtimeConfig": {"port": "vhost-user"}}), (AttachPort::VhostUser, true, None), 0),
        (json!({"port": "vhost-user", "runtimeConfig": {"port": "tap"}}), (AttachPort::Tap, true, None), 1),
    ];
    for (more, expected, fds) in choices {
        let control = FakeControl::willing();
        add(&control, "1.1.0", more, &[]);
        let asked = control.asked();
        let [(Request::Attach(request), sent)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((request.port, request.port_chosen, request.queue_pairs), expected);
        // Where the pod's annotation may still make it a kernel pod, its namespace comes along.
        assert_eq!(sent.len(), fds);
    }
    let control = FakeControl::willing();
    add(&control, "1.1.0", json!({"port": "vhost-user", "runtimeConfig": {"deviceID": "dev-7"}}), &[]);
    let asked = control.asked();
    let [(Request::Attach(request), _)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(request.device.as_deref(), Some("dev-7"));
}

#[test]
fn a_link_in_a_chain() {
    let control = FakeControl::willing();
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "br0", "mac": "02:00:00:00:00:99"}, {"name": "net1", "sandbox": NETNS}],
        "ips": [{"interface": 1, "address": "192.0.2.7/24"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let result = add(&control, "1.0.0", json!({"prevResult": previous}), &[]);
    assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(result["interfaces"][1], previous["interfaces"][1]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    let indexes: Vec<_> =
        result["ips"].as_array().unwrap().iter().map(|ip| ip["interface"].clone()).collect();
    assert_eq!(indexes, [1, 2, 2]);
    assert_eq!(result["dns"], previous["dns"]);
    assert_eq!(result["routes"].as_array().unwrap().len(), 3);
}

#[test]
fn variables_of_others_change_nothing() {
    let control = FakeControl::willing();
    let plain = add(&control, "1.1.0", json!({}), &[]);
    let trace = ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(add(&control, "1.1.0", json!({}), &[trace, ("CNI_SOMETHING", "else")]), plain);
    let asked = control.asked();
    assert_eq!(asked[0], asked[1]);
}

#[test]
fn a_mac_that_was_asked_for() {
    let control = FakeControl::willing();
    let capability = json!({"runtimeConfig": {"mac": "02:00:00:00:00:77", "dns": {"servers": []}, "new": 1}});
    let arguments = [("CNI_ARGS", "MAC=02:00:00:00:00:66")];
    let said = run("ADD", &bytes(&control.config("1.0.0", capability)), &arguments);
    assert_eq!(said.result()["interfaces"][0]["mac"], "02:00:00:00:00:77");
    assert!(said.stderr.contains("`runtimeConfig.new`"), "{}", said.stderr);
    add(&control, "1.0.0", json!({}), &arguments);
    let asked: Vec<_> = control
        .asked()
        .into_iter()
        .map(|(request, _)| match request {
            Request::Attach(request) => request.mac,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, [0x77, 0x66].map(|last| Some(MacAddr([2, 0, 0, 0, 0, last]))));
}
