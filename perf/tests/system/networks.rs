//! Networks beside the pods' own, all of the same addresses: nothing passes from one to another, and each kind of port can be on them.

use lab::node::{Node, Options};
use lab::ping::Ping;
use lab::pod::{Family, Kind, Pod};
use lab::vm::{Image, Rings, Vm};
use lab::wait::{PATIENCE, wait_until};
use serde_json::{Value, json};

use crate::{Bed, node, reach};

/// The same on each, and a second one that pods have no address of: whoever has is reached there too.
const SUBNETS: [&str; 3] = ["10.5.0.0/24", "fd05::/64", "10.6.0.0/16"];
/// The first two that a network gives.
const FIRST: [&str; 2] = ["10.5.0.2", "fd05::2"];
const SECOND: [&str; 2] = ["10.5.0.3", "fd05::3"];

fn network(id: u16) -> Value {
    json!({"name": format!("net-{id}"), "networkId": id, "subnets": SUBNETS})
}

/// A pod with an interface on the pods' own network, and one on this.
fn pod_on(node: &Node, name: &str, id: u16) -> [Pod; 2] {
    let pod = Pod::attach(node, name, Kind::Kernel).unwrap();
    let further = pod.further(node, "net1", Kind::Kernel, &network(id)).unwrap();
    [pod, further]
}

fn is_silent(from: &Pod, to: &str) {
    let pinged = Ping::default().run(&from.netns, to).unwrap();
    assert_eq!(pinged.received, 0, "{to}: {}", pinged.text);
}

#[test]
fn networks_of_the_same_addresses_know_nothing_of_each_other() {
    let mut node = node(Options::default());
    let pods: Vec<[Pod; 2]> =
        [("a", 7), ("b", 7), ("c", 8), ("d", 8)].map(|(name, id)| pod_on(&node, name, id)).into();
    let alone = pod_on(&node, "e", 9);
    let plain = Pod::attach(&node, "f", Kind::Kernel).unwrap();
    for (pair, expected) in pods.iter().zip([FIRST, SECOND, FIRST, SECOND]) {
        assert_eq!(Family::BOTH.map(|family| pair[1].address(family)), expected);
        assert_ne!(pair[0].mac, pair[1].mac);
    }
    let talk = |node: &Node| {
        for family in Family::BOTH {
            for [from, to] in [[0, 1], [1, 0], [2, 3], [3, 2]] {
                reach(node, &pods[from][1].netns, &pods[to][1].address(family));
                // Everything else goes by the first interface as ever.
                reach(node, &pods[from][0].netns, &pods[to][0].address(family));
            }
            reach(node, &plain.netns, &pods[0][0].address(family));
        }
    };
    talk(&node);
    // Who is on no such network, or alone on it, reaches none of those addresses: neither pod nor the node itself.
    for family in Family::BOTH {
        is_silent(&alone[1], family.of(SECOND));
        is_silent(&plain, family.of(SECOND));
        let pinged = Ping::default().run(&node.host, family.of(SECOND));
        assert!(pinged.is_err() || pinged.unwrap().received == 0);
    }
    // That nobody has the address is told at once.
    let pinged = Ping::default().run(&alone[1].netns, SECOND[0]).unwrap();
    assert!(pinged.text.contains("Destination Net Unreachable"), "{}", pinged.text);

    // The one that has the same address on the other network does not answer in its place.
    pods[1][1].detach(&node).unwrap();
    for family in Family::BOTH {
        is_silent(&pods[0][1], family.of(SECOND));
        reach(&node, &pods[2][1].netns, family.of(SECOND));
        reach(&node, &pods[0][0].netns, &pods[1][0].address(family));
    }
    let again = pods[1][0].further(&node, "net1", Kind::Kernel, &network(7)).unwrap();
    assert_eq!(again.address(Family::V4), "10.5.0.4", "held back, on this network alone");

    node.restart_control().unwrap();
    node.restart_dataplane().unwrap();
    for family in Family::BOTH {
        reach(&node, &pods[0][1].netns, &again.address(family));
        reach(&node, &pods[3][1].netns, family.of(FIRST));
        is_silent(&pods[0][1], family.of(SECOND));
    }
    node.query().ledger().unwrap();
}

#[test]
fn what_a_pod_reaches_already_is_no_other_networks() {
    let node = node(Options::default());
    let [pod, net1] = pod_on(&node, "a", 7);
    let refused = pod.further(&node, "net2", Kind::Kernel, &network(8)).unwrap_err().to_string();
    assert!(refused.contains("10.5.0.0/24") && refused.contains("by another interface"), "{refused}");
    assert!(!pod.netns.ip(&["link"]).unwrap().contains("net2"));
    // Without a trace: the addresses are nobody's, and not held back either.
    let mut wanted = network(8);
    wanted["runtimeConfig"] = json!({"ips": FIRST});
    let other = Pod::attach(&node, "b", Kind::Kernel).unwrap();
    let other = other.further(&node, "net1", Kind::Kernel, &wanted).unwrap();
    assert_eq!(other.addresses, net1.addresses);
    let elsewhere = json!({"name": "more", "networkId": 8, "subnets": ["10.7.0.0/24"]});
    let net2 = pod.further(&node, "net2", Kind::Kernel, &elsewhere).unwrap();
    assert_eq!((net2.addresses.len(), net2.address(Family::V4).as_str()), (1, "10.7.0.2"));
    node.query().ledger().unwrap();
}

#[test]
fn a_virtual_machine_learns_what_its_network_leads_to() {
    let image = Image::prepare().unwrap();
    let bed = Bed::new(Options::default());
    let peer = bed.a.further(&bed.node, "net1", Kind::Kernel, &network(7)).unwrap();
    let guest = bed.b.further(&bed.node, "net1", Kind::VhostUser, &network(7)).unwrap();
    assert_eq!(Family::BOTH.map(|family| guest.address(family)), SECOND);
    let mut vm = Vm::boot(&bed.node, &guest, &image, Rings::Split).unwrap();
    // A host that has one router takes no routes from it unless told to (RFC 4191, type A).
    vm.run("echo 128 > /proc/sys/net/ipv6/conf/eth0/accept_ra_rt_info_max_plen").unwrap();
    vm.run("ip link set eth0 up").unwrap();
    let [gateway, gateway6] = lab::node::GATEWAY;
    wait_until("the guest hears of the way", PATIENCE, || {
        let routes = vm.run("ip -6 route")?;
        let there = routes.contains(&format!("fd05::/64 via {gateway6} dev eth0"));
        if there { Ok(()) } else { Err(anyhow::anyhow!("{routes}")) }
    })
    .unwrap();
    let bound = vm.configure().unwrap();
    let routes = format!("{gateway}/32 0.0.0.0 10.5.0.0/24 {gateway} 10.6.0.0/16 {gateway}");
    let expected = format!("bound ip=10.5.0.3/32 router= mtu=1500 lease=86400 routes={routes} dns= search=");
    assert_eq!(bound, expected);
    let routes = vm.run("ip route; ip -6 route").unwrap();
    assert!(!routes.contains("default"), "{routes}");
    assert!(!vm.run("cat /etc/resolv.conf 2>&1 || true").unwrap().contains("nameserver"));
    for family in Family::BOTH {
        reach(&bed.node, &peer.netns, &guest.address(family));
        vm.run(&format!("ping -c 3 -i 0.2 {}", peer.address(family))).unwrap();
    }
    bed.talk();
    bed.node.query().ledger().unwrap();
}
