//! Services' external addresses by the node's kernel, of which only the Services' own ports are theirs: whoever else has the address is
//! reached at all others, be he far away or the node itself.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lab::exchange::{By, through};
use lab::netns::{Netns, veth};
use lab::node::{Node, Options, Uplink};
use lab::pod::{Family, Pod};
use lab::wait::{PATIENCE, wait_until};
use serde_json::{Value, json};

use crate::nodes::Bed;
use crate::service_changes::{placed, says};
use crate::service_clients::stream_returns;
use crate::services::{FILE, own, service, wait_for};

/// One that the world has, and one that the node's kernel has, as kube-vip gives it to a node.
const FAR: [&str; 2] = ["203.0.113.8", "2001:db8:203::8"];
const HELD: [&str; 2] = ["203.0.113.77", "2001:db8:203::77"];
const CLIENT: [&str; 2] = ["198.51.100.9", "2001:db8:98::9"];
const NIC: [&str; 2] = ["198.51.100.1", "2001:db8:98::1"];
const LENGTHS: [u8; 2] = [24, 64];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Whoever comes by a NIC of the node's own.
fn client(node: &Node, outside: &Netns) -> Netns {
    let client = Netns::create(&node.run, "client").unwrap();
    veth(&node.host, "nic0", &client, "eth0").unwrap();
    for (family, length) in Family::BOTH.into_iter().zip(LENGTHS) {
        node.host.add_address("nic0", &format!("{}/{length}", family.of(NIC))).unwrap();
        client.add_address("eth0", &format!("{}/{length}", family.of(CLIENT))).unwrap();
        client.ip(&["route", "add", "default", "via", family.of(NIC), "dev", "eth0"]).unwrap();
        let way = own(node, family).to_string();
        outside.ip(&["route", "add", family.of(CLIENT), "via", &way, "dev", "eth0"]).unwrap();
    }
    client
}

/// Behind these addresses stands a pod of the second node, by TCP and UDP at port 80.
fn set(bed: &Bed, balanced: &[&str], external: &[IpAddr]) {
    let mut web = service(7, &[("http", "TCP", 80), ("dns", "UDP", 80)], &json!({}));
    web["spec"]["type"] = json!("LoadBalancer");
    web["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
    web["spec"]["externalIPs"] = json!(external);
    let ingress: Vec<Value> = balanced.iter().map(|own| json!({"ip": own})).collect();
    web["status"] = json!({"loadBalancer": {"ingress": ingress}});
    let mut objects = vec![web];
    let endpoint = (&bed.pods[1], &bed.cluster.nodes[1], "ready");
    objects.extend(placed(7, &[("http", "TCP", 8080), ("dns", "UDP", 5353)], &[endpoint]));
    bed.cluster.set(FILE, &objects).unwrap();
    wait_for(bed, "they are there", |shown| {
        let all = [FAR, HELD].concat();
        all.iter().all(|own| shown.contains(own) == balanced.contains(own))
    });
}

fn is_served(from: &Netns, to: &Pod, at: IpAddr) -> Result<()> {
    says(from, to, 8080, SocketAddr::new(at, 80), By::Tcp)?;
    says(from, to, 5353, SocketAddr::new(at, 80), By::Udp).map(drop)
}

/// Who has the address himself is reached at another port, and by whom.
fn is_left_alone(from: &Netns, owner: &Netns, at: IpAddr) -> Result<()> {
    for by in By::BOTH {
        through(from, owner, SocketAddr::new(at, 81), None, by)?;
    }
    Ok(())
}

fn rules(node: &Node, family: &str) -> Vec<String> {
    let shown = node.host.succeed("ip", &[family, "rule", "show"]).unwrap();
    shown.lines().map(|line| line.trim().replace('\t', " ")).collect()
}

#[test]
fn of_an_external_address_only_the_services_ports_are_taken() {
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let mut bed = Bed::with(&Options { uplink, masquerade: true, ..Options::default() }, 2);
        let b = &bed.pods[1];
        let first = &bed.cluster.nodes[0];
        let outside = &bed.cluster.lan.outside;
        let by_nic = (uplink == Uplink::Kernel).then(|| client(first, outside));
        for (far, held) in FAR.into_iter().zip(HELD) {
            outside.add_address("lo", far).unwrap();
            first.host.add_address("lo", held).unwrap();
        }
        let before = ["-4", "-6"].map(|family| rules(first, family));
        let nodes = Family::BOTH.map(|family| own(first, family));
        set(&bed, &[FAR, HELD].concat(), &nodes);
        let clients: Vec<&Netns> = [&first.host].into_iter().chain(&by_nic).collect();
        for (family, node) in Family::BOTH.into_iter().zip(nodes) {
            let [far, held] = [FAR, HELD].map(|pair| ip(family.of(pair)));
            for from in &clients {
                for (at, owner) in [(far, outside), (held, &first.host), (node, &first.host)] {
                    let what = format!("{uplink:?} {} at {at}", from.name());
                    wait_until(&what, PATIENCE, || is_served(from, b, at)).unwrap();
                    is_left_alone(from, owner, at).expect(&what);
                }
            }
            // Pods never ask the kernel.
            for from in [&bed.pods[0].netns, &b.netns] {
                is_served(from, b, far).unwrap();
            }
            assert!(first.query().warnings().unwrap().is_empty());
        }

        // Whoever takes any of it away, it is there again.
        for family in ["-4", "-6"] {
            let marked = ["pref", "0", "fwmark", "0x1000/0x1000", "lookup", "30113"];
            first.host.ip(&[&[family, "rule", "del"], &marked[..]].concat()).unwrap();
            first.host.ip(&[family, "route", "flush", "table", "30113"]).unwrap();
        }
        first.host.succeed("nft", &["flush", "ruleset", "inet"]).unwrap();
        for (family, node) in Family::BOTH.into_iter().zip(nodes) {
            for from in &clients {
                for at in [ip(family.of(FAR)), ip(family.of(HELD)), node] {
                    wait_until("it is mended", PATIENCE, || is_served(from, b, at)).unwrap();
                }
            }
        }
        for family in ["-4", "-6"] {
            let local = "0: from all lookup local";
            let ours = "0: from all fwmark 0x1000/0x1000 lookup 30113 proto 112";
            assert_eq!(rules(first, family)[..2], [ours, local], "asked in this order, and once");
        }

        // One goes: its port is its owner's again, and another's is not.
        set(&bed, &FAR, &[]);
        for family in Family::BOTH {
            let held = ip(family.of(HELD));
            let at = SocketAddr::new(held, 80);
            wait_until("it is the node's", PATIENCE, || {
                through(&first.host, &first.host, at, None, By::Tcp).map(drop)
            })
            .unwrap();
            for from in &clients {
                is_served(from, b, ip(family.of(FAR))).unwrap();
            }
        }
        set(&bed, &[], &[]);
        wait_until("nothing is left", PATIENCE, || {
            let now = ["-4", "-6"].map(|family| rules(first, family));
            ensure!(now == before, "{now:?} {before:?}");
            let table = first.host.succeed("nft", &["list", "ruleset", "inet"])?;
            ensure!(!table.contains("externals"), "{table}");
            Ok(())
        })
        .unwrap();
        bed.cluster.ledgers().unwrap();

        set(&bed, &FAR, &[]);
        wait_until("it is there again", PATIENCE, || {
            ensure!(rules(&bed.cluster.nodes[0], "-6").len() > before[1].len());
            Ok(())
        })
        .unwrap();
        bed.cluster.nodes[0].uninstall().unwrap();
        let first = &bed.cluster.nodes[0];
        // Those of tunnels' are no more either.
        assert_eq!(["-4", "-6"].map(|family| rules(first, family)), before);
    }
}

/// Who is not to be let in is not, whichever of the node's devices he comes by; and who is stays himself.
#[test]
fn source_ranges_hold_for_who_comes_by_the_kernel() {
    let bed = Bed::with(&Options { uplink: Uplink::Kernel, masquerade: true, ..Options::default() }, 1);
    let first = &bed.cluster.nodes[0];
    let outside = &bed.cluster.lan.outside;
    let client = client(first, outside);
    let pod = &bed.pods[0];
    let ranges: Vec<String> =
        CLIENT.iter().zip([32, 128]).map(|(own, length)| format!("{own}/{length}")).collect();
    let mut web = service(7, &[("", "TCP", 80)], &json!({}));
    web["spec"]["type"] = json!("LoadBalancer");
    web["spec"]["loadBalancerSourceRanges"] = json!(ranges);
    web["status"] = json!({"loadBalancer": {"ingress": HELD.map(|own| json!({"ip": own}))}});
    let mut objects = vec![web];
    objects.extend(placed(7, &[("", "TCP", 8080)], &[(pod, first, "ready")]));
    for (held, next_hop) in HELD.into_iter().zip(first.site.host()) {
        first.host.add_address("lo", held).unwrap();
        outside.ip(&["route", "add", held, "via", &next_hop, "dev", "eth0"]).unwrap();
    }
    bed.cluster.set(FILE, &objects).unwrap();
    wait_for(&bed, "it is there", |shown| shown.contains("only from"));
    for family in Family::BOTH {
        let at = SocketAddr::new(ip(family.of(HELD)), 80);
        let mut heard = None;
        wait_until("he is let in", PATIENCE, || {
            heard = Some(says(&client, pod, 8080, at, By::Tcp)?);
            Ok(())
        })
        .unwrap();
        assert_eq!(heard, Some(ip(family.of(CLIENT))));
        crate::node_ports::is_silent(first, outside, at, "service-source-denied");
        crate::node_ports::is_silent(first, &first.host, at, "service-source-denied");
    }
    bed.cluster.ledgers().unwrap();
}

/// A router between him and the node has a narrow way to him, and tells whoever sends more: the address that the Service is asked at.
#[test]
fn who_answers_by_an_external_address_is_told_of_a_narrow_way() {
    let bed = Bed::with(&Options { uplink: Uplink::Kernel, masquerade: true, ..Options::default() }, 2);
    let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    let outside = &bed.cluster.lan.outside;
    let far = Netns::create(&first.run, "far").unwrap();
    veth(outside, "far0", &far, "eth0").unwrap();
    outside.sysctl("net.ipv4.ip_forward", "1").unwrap();
    outside.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
    let addresses = HELD.into_iter().zip(first.site.host());
    for ((family, length), (held, next_hop)) in Family::BOTH.into_iter().zip(LENGTHS).zip(addresses) {
        outside.add_address("far0", &format!("{}/{length}", family.of(NIC))).unwrap();
        far.add_address("eth0", &format!("{}/{length}", family.of(CLIENT))).unwrap();
        far.ip(&["route", "add", "default", "via", family.of(NIC), "dev", "eth0"]).unwrap();
        outside.ip(&["route", "add", family.of(CLIENT), "dev", "far0", "mtu", "lock", "1300"]).unwrap();
        outside.ip(&["route", "add", held, "via", &next_hop, "dev", "eth0"]).unwrap();
    }
    // The kernel has one of them itself, and knows a way on to the other.
    first.host.add_address("lo", HELD[0]).unwrap();
    set(&bed, &HELD, &[]);
    for held in HELD {
        for (pod, node) in bed.pods.iter().zip([first, second]) {
            let mut objects = vec![service(7, &[("http", "TCP", 80)], &json!({}))];
            objects[0]["spec"]["type"] = json!("LoadBalancer");
            objects[0]["status"] = json!({"loadBalancer": {"ingress": HELD.map(|own| json!({"ip": own}))}});
            objects.extend(placed(7, &[("http", "TCP", 8080)], &[(pod, node, "ready")]));
            bed.cluster.set(FILE, &objects).unwrap();
            let at = SocketAddr::new(ip(held), 80);
            wait_until("all of it comes back", PATIENCE, || stream_returns(&far, pod, at, 1 << 20)).unwrap();
        }
    }
    bed.cluster.ledgers().unwrap();
}
