//! Pods come and go, manifests are right and wrong, and what runs goes on.

use std::time::Duration;

use anyhow::anyhow;
use lab::node::Options;
use lab::ping::Ping;
use lab::pod::{Family, INTERFACE, Kind, Pod, configuration};
use lab::wait::{PATIENCE, wait_until};

use crate::{Bed, node, reach};

#[test]
fn a_pod_is_reached_as_soon_as_add_has_answered() {
    let node = node(Options::default());
    let first = Pod::attach(&node, "first", Kind::Kernel).unwrap();
    for number in 0..5 {
        let pod = Pod::attach(&node, &format!("p{number}"), Kind::Kernel).unwrap();
        for family in Family::BOTH {
            let ping = Ping { count: 1, ..Ping::default() };
            let pinged = ping.run(&pod.netns, &first.address(family)).unwrap();
            assert!(pinged.complete(), "{}", pinged.text);
        }
    }
    node.query().ledger().unwrap();
}

#[test]
fn del_removes_device_port_and_routes_and_may_be_repeated() {
    let bed = Bed::new(Options::default());
    bed.talk();
    let query = bed.node.query();
    let ports = query.ports().unwrap().len();
    bed.b.detach(&bed.node).unwrap();
    assert_eq!(query.ports().unwrap().len(), ports - 1);
    let routes = query.json(&["show", "routes"]).unwrap().to_string();
    for family in Family::BOTH {
        assert!(!routes.contains(&format!("\"{}/", bed.b.address(family))), "{routes}");
        let pinged = Ping { count: 1, ..Ping::default() }.run(&bed.a.netns, &bed.b.address(family)).unwrap();
        assert!(
            pinged.received == 0 && pinged.text.to_lowercase().contains("unreachable"),
            "{}",
            pinged.text
        );
    }
    assert!(bed.b.netns.ip(&["link", "show", "dev", INTERFACE]).is_err(), "the device is gone");
    bed.b.detach(&bed.node).unwrap();
    query.ledger().unwrap();
}

/// Its object says that it is going, or says nothing any more; until the runtime takes it down it is there.
#[test]
fn a_terminating_pod_is_reached_and_reaches_until_it_is_gone() {
    let bed = Bed::new(Options::default());
    let addresses = Family::BOTH.map(|family| bed.b.address(family).parse().unwrap());
    let object = |going: &str| {
        let ips: String =
            addresses.iter().map(|address: &std::net::IpAddr| format!("  - ip: {address}\n")).collect();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: b\n  namespace: default\n{going}spec:\n  nodeName: {}\n\
             status:\n  phase: Running\n  podIP: {}\n  podIPs:\n{ips}",
            bed.node.site.name(),
            addresses[0]
        )
    };
    let going = "  deletionTimestamp: 2026-11-23T09:18:12Z\n  deletionGracePeriodSeconds: 30\n";
    bed.node.manifests.write("b.yaml", &object("")).unwrap();
    bed.talk();
    bed.node.manifests.write("b.yaml", &object(going)).unwrap();
    for _ in 0..10 {
        bed.talk();
    }
    bed.node.manifests.remove("b.yaml").unwrap();
    for _ in 0..10 {
        bed.talk();
    }
    bed.node.query().ledger().unwrap();
}

#[test]
fn a_second_add_of_the_same_interface_is_refused() {
    let bed = Bed::new(Options::default());
    let path = bed.a.netns.path();
    let environment = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "another-container"),
        ("CNI_NETNS", path.to_str().unwrap()),
        ("CNI_IFNAME", INTERFACE),
    ];
    let finished = bed.node.cni(&environment, &configuration(&bed.node, Kind::Kernel)).unwrap();
    assert!(!finished.status.success());
    let error: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert!(error["msg"].as_str().unwrap().contains(INTERFACE), "{error}");
    bed.talk();
    bed.node.query().ledger().unwrap();
}

#[test]
fn ports_come_and_go_while_others_are_busy() {
    let bed = Bed::new(Options::default());
    let ping = Ping { count: 1_000, interval: Duration::from_millis(4), ..Ping::default() };
    let pinged = std::thread::scope(|scope| {
        let pinging = [(&bed.a, &bed.b, Family::V4), (&bed.b, &bed.a, Family::V6)]
            .map(|(from, to, family)| (from, to.address(family)))
            .map(|(from, to)| {
                let ping = &ping;
                scope.spawn(move || ping.run(&from.netns, &to))
            });
        for number in 0..6 {
            let kind = if number % 3 == 2 { Kind::VhostUser } else { Kind::Kernel };
            let pod = Pod::attach(&bed.node, &format!("c{number}"), kind).unwrap();
            if kind == Kind::Kernel {
                reach(&bed.node, &pod.netns, &bed.a.address(Family::V4));
            }
            pod.detach(&bed.node).unwrap();
        }
        pinging.map(|handle| handle.join().unwrap().unwrap())
    });
    for pinged in pinged {
        assert!(pinged.complete(), "{} of {}", pinged.received, pinged.sent);
    }
    bed.node.query().ledger().unwrap();
}

#[test]
fn a_malformed_manifest_is_named_and_changes_nothing() {
    let bed = Bed::new(Options::default());
    let query = bed.node.query();
    let routes = query.json(&["show", "routes"]).unwrap();
    let (manifests, file) = (&bed.node.manifests, "nodes.yaml");
    let good = std::fs::read_to_string(manifests.dir().join(file)).unwrap();
    for (right, wrong) in
        [("10.244.2.0/24", "10.244.2.0/99"), ("podCIDRs:\n    - 10", "podCIDRs: [\n    - 10")]
    {
        assert!(good.contains(right));
        manifests.write(file, &good.replace(right, wrong)).unwrap();
        let warnings = wait_until("a warning", PATIENCE, || {
            let warnings = query.warnings()?;
            if warnings.is_empty() { Err(anyhow!("none yet")) } else { Ok(warnings.join("\n")) }
        })
        .unwrap();
        assert!(warnings.contains(file), "{warnings}");
        if wrong.ends_with("/99") {
            assert!(warnings.contains("podCIDRs") && warnings.contains(wrong), "{warnings}");
        }
        assert_eq!(query.json(&["show", "routes"]).unwrap(), routes);
        bed.talk();

        manifests.write(file, &good).unwrap();
        wait_until("the warning is gone", PATIENCE, || match query.warnings()?.as_slice() {
            [] => Ok(()),
            warnings => Err(anyhow!("{warnings:?}")),
        })
        .unwrap();
    }
    query.ledger().unwrap();
}

#[test]
fn another_node_is_routed_while_its_object_is_there() {
    let bed = Bed::new(Options::default());
    let query = bed.node.query();
    let good = std::fs::read_to_string(bed.node.manifests.dir().join("nodes.yaml")).unwrap();
    let alone = good.split("- apiVersion").take(2).collect::<Vec<_>>().join("- apiVersion");
    let routed = || -> anyhow::Result<bool> {
        Ok(query.json(&["show", "routes"])?.to_string().contains("10.244.2.0/24"))
    };
    assert!(routed().unwrap());
    bed.node.manifests.write("nodes.yaml", &alone).unwrap();
    wait_until("the route is gone", PATIENCE, || if routed()? { Err(anyhow!("there")) } else { Ok(()) })
        .unwrap();
    bed.node.manifests.write("nodes.yaml", &good).unwrap();
    wait_until("the route is back", PATIENCE, || if routed()? { Ok(()) } else { Err(anyhow!("gone")) })
        .unwrap();
    reach(&bed.node, &bed.a.netns, lab::node::OTHER_POD[0]);
    query.ledger().unwrap();
}
