//! Several nodes on one network: everybody reaches everybody as himself, nodes come and go, and what breaks on one heals.

use std::net::IpAddr;
use std::time::Duration;

use lab::artefacts::Artefacts;
use lab::cluster::Cluster;
use lab::exchange::{By, seen};
use lab::netns::Netns;
use lab::node::{HOST, HOST_DEVICE, Node, OUTSIDE, Options, Uplink, Vxlan, WORLD};
use lab::ping::{Ping, Pinged};
use lab::pktgen::reflector;
use lab::pod::{Family, Kind, Pod};
use lab::run::Run;
use lab::site::Site;
use lab::wait::{PATIENCE, wait_until};

use crate::reach;

/// Nodes, with a kernel pod each.
pub(crate) struct Bed {
    pub(crate) pods: Vec<Pod>,
    pub(crate) cluster: Cluster,
}

impl Bed {
    pub(crate) fn new(count: u8) -> Self {
        Self::by(Uplink::Dedicated, count)
    }

    pub(crate) fn by(uplink: Uplink, count: u8) -> Self {
        Self::with(&Options { uplink, ..Options::default() }, count)
    }

    pub(crate) fn with(options: &Options, count: u8) -> Self {
        let artefacts = Artefacts::find().unwrap();
        let cluster = Cluster::start(&Run::start().unwrap(), &artefacts, options, count).unwrap();
        let pods = cluster.nodes.iter().map(pod).collect();
        Self { pods, cluster }
    }

    /// Whoever has a kernel of his own: pods, hosts, and the outside.
    fn parties(&self) -> Vec<(&Netns, [IpAddr; 2])> {
        let parse = |pair: [String; 2]| pair.map(|text| text.parse().unwrap());
        let pod = |pod: &Pod| Family::BOTH.map(|family| pod.address(family));
        let pods = self.pods.iter().map(|own| (&own.netns, parse(pod(own))));
        let hosts = self.cluster.nodes.iter().map(|node| (&node.host, parse(node.site.host())));
        let outside = (&self.cluster.lan.outside, parse(OUTSIDE.map(str::to_owned)));
        pods.chain(hosts).chain([outside]).collect()
    }
}

fn pod(node: &Node) -> Pod {
    Pod::attach(node, &format!("pod-{}", node.site.name()), Kind::Kernel).unwrap()
}

/// A ping every 5 ms from one node's pod to another's, while something happens.
pub(crate) fn pinged_while<T>(
    from: &Netns,
    to: &str,
    seconds: u32,
    happens: impl FnOnce() -> T,
) -> (Pinged, T) {
    let ping = Ping { count: seconds * 200, interval: Duration::from_millis(5), ..Ping::default() };
    std::thread::scope(|scope| {
        let pinging = scope.spawn(|| ping.run(from, to));
        let result = happens();
        (pinging.join().unwrap().unwrap(), result)
    })
}

#[test]
fn pods_and_hosts_of_all_nodes_reach_each_other_as_themselves() {
    reach_each_other(&Bed::new(2));
}

/// The data plane has no NIC, and leaves the node's alone.
#[test]
fn by_the_nodes_kernel_they_do_too_and_the_outside_sees_the_node() {
    let mut bed = Bed::by(Uplink::Kernel, 2);
    reach_each_other(&bed);
    let [a, b] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    // What leaves the cluster has the node's address; what comes in from outside finds the pod, as itself.
    for (family, node) in Family::BOTH.into_iter().zip(HOST) {
        let outside = &bed.cluster.lan.outside;
        for there in [OUTSIDE, WORLD] {
            for by in By::BOTH {
                let at = family.of(there).parse().unwrap();
                assert_eq!(seen(&bed.pods[0].netns, outside, at, by).unwrap().to_string(), node, "{at}");
            }
        }
    }
    // The kernel's routes and translation are mended, and go with the last of what needs them.
    let routes = |node: &Node| node.host.ip(&["route"]).unwrap() + &node.host.ip(&["-6", "route"]).unwrap();
    let whole = routes(a);
    a.host.ip(&["route", "del", "10.244.2.0/24"]).unwrap();
    a.host.succeed("nft", &["flush", "ruleset", "inet"]).unwrap();
    let to_b = bed.pods[1].address(Family::V4);
    wait_until("it is mended", PATIENCE, || lab::ping::reaches(&bed.pods[0].netns, &to_b).map(drop)).unwrap();
    wait_until("all of it", PATIENCE, || {
        let world = WORLD[0].parse().unwrap();
        let seen = seen(&bed.pods[0].netns, &bed.cluster.lan.outside, world, By::Udp)?.to_string();
        if (seen.as_str(), routes(a)) == (HOST[0], whole.clone()) {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{seen}"))
        }
    })
    .unwrap();
    let sites: Vec<Site> = Site::first(1).collect();
    bed.cluster.tell(&sites).unwrap();
    wait_until("the way to the other is gone", PATIENCE, || match routes(a).contains("10.244.2.0/24") {
        false => Ok(()),
        true => Err(anyhow::anyhow!("{}", routes(a))),
    })
    .unwrap();
    bed.cluster.ledgers().unwrap();

    // Taken off, the other one keeps nothing of it in its kernel.
    assert!(routes(b).contains("proto 112"), "{}", routes(b));
    bed.cluster.nodes[1].uninstall().unwrap();
    let b = &bed.cluster.nodes[1];
    assert!(!routes(b).contains("proto 112"), "{}", routes(b));
    assert!(!b.host.succeed("nft", &["list", "ruleset"]).unwrap().contains("podrouter"));
    assert!(b.host.ip(&["link", "show", "dev", HOST_DEVICE]).is_err());
}

/// With a NIC of the data plane's own, and in a tunnel, where only what stays in the cluster goes.
#[test]
fn beyond_the_cluster_pods_are_seen_as_the_uplink_and_within_as_themselves() {
    for vxlan in [Vxlan::Never, Vxlan::Always] {
        let bed = Bed::with(&Options { masquerade: true, vxlan, ..Options::default() }, 2);
        let [a, b] = [&bed.pods[0], &bed.pods[1]];
        let node = &bed.cluster.nodes[0];
        let outside = &bed.cluster.lan.outside;
        for (family, at) in Family::BOTH.into_iter().zip(0..) {
            let parse = |text: &str| text.parse::<IpAddr>().unwrap();
            let (own, router) = (parse(&a.address(family)), parse(&node.site.router()[at]));
            for by in By::BOTH {
                for there in [OUTSIDE, WORLD] {
                    assert_eq!(seen(&a.netns, outside, parse(family.of(there)), by).unwrap(), router);
                }
                // Another node's pod, that node itself, and this one.
                let other = &bed.cluster.nodes[1];
                for (netns, there) in [
                    (&b.netns, b.address(family)),
                    (&other.host, other.site.host()[at].clone()),
                    (&node.host, node.site.host()[at].clone()),
                ] {
                    assert_eq!(seen(&a.netns, netns, parse(&there), by).unwrap(), own, "{there}");
                }
                // The node's own are its own, and who comes from outside is seen.
                let host = parse(&node.site.host()[at]);
                assert_eq!(seen(&node.host, outside, parse(family.of(WORLD)), by).unwrap(), host);
                assert_eq!(seen(outside, &a.netns, own, by).unwrap(), parse(family.of(OUTSIDE)));
            }
            reach(node, &a.netns, family.of(WORLD));
        }
        bed.cluster.ledgers().unwrap();
    }
}

pub(crate) fn reach_each_other(bed: &Bed) {
    let dpdk: Vec<Pod> = bed
        .cluster
        .nodes
        .iter()
        .map(|node| Pod::attach(node, &format!("dpdk-{}", node.site.name()), Kind::VhostUser).unwrap())
        .collect();
    let pairs = bed.cluster.nodes.iter().zip(&dpdk);
    let _reflectors: Vec<_> = pairs.map(|(node, pod)| reflector(node, pod).unwrap()).collect();
    let Options { uplink, routed, .. } = bed.cluster.nodes[0].options;
    // By a kernel, what leaves the cluster does not leave as itself; and a router between nodes knows no pods.
    let mut parties = bed.parties();
    parties.truncate(parties.len() - usize::from(uplink == Uplink::Kernel || routed));
    for (from, own) in &parties {
        for (to, theirs) in parties.iter().filter(|(to, _)| !std::ptr::eq(*to, *from)) {
            for (own, theirs) in own.iter().zip(theirs) {
                for by in By::BOTH {
                    assert_eq!(seen(from, to, *theirs, by).unwrap(), *own, "{by:?} to {theirs}");
                }
            }
        }
        for to in &dpdk {
            for family in Family::BOTH {
                reach(&bed.cluster.nodes[0], from, &to.address(family));
            }
        }
    }
    bed.cluster.ledgers().unwrap();
}

#[test]
fn nodes_come_and_go_and_the_others_see_nothing_of_it() {
    let mut bed = Bed::new(2);
    let sites: Vec<Site> = Site::first(3).collect();
    let a = bed.pods[0].netns.clone();
    let to_b = bed.pods[1].address(Family::V6);
    let prefix = sites[2].pod_cidrs();
    let knows = |node: &Node| {
        let routes = node.query().text(&["show", "routes"]).unwrap();
        prefix.iter().all(|prefix| routes.contains(prefix))
    };
    let Bed { pods, cluster } = &mut bed;
    let (pinged, ()) = pinged_while(&a, &to_b, 30, || {
        let (run, artefacts) = (cluster.nodes[0].run.clone(), cluster.nodes[0].artefacts.clone());
        cluster.tell(&sites).unwrap();
        cluster.join(&run, &artefacts, Options::default(), sites[2]).unwrap();
        let third = pod(&cluster.nodes[2]);
        for family in Family::BOTH {
            for other in &*pods {
                wait_until("the third node is reached", PATIENCE, || {
                    lab::ping::reaches(&other.netns, &third.address(family)).map(drop)
                })
                .unwrap();
            }
            reach(&cluster.nodes[2], &third.netns, &cluster.nodes[0].site.host()[0]);
        }
        assert!(cluster.nodes[..2].iter().all(knows));
        cluster.tell(&sites[..2]).unwrap();
        wait_until("the third node is forgotten", PATIENCE, || match cluster.nodes[..2].iter().any(knows) {
            false => Ok(()),
            true => Err(anyhow::anyhow!("{prefix:?}")),
        })
        .unwrap();
    });
    assert!(pinged.complete(), "{} of {}", pinged.received, pinged.sent);
    bed.cluster.ledgers().unwrap();
}

#[test]
fn what_breaks_on_a_node_heals_and_what_that_cost_is_told() {
    // In a tunnel there is most to put together again.
    let mut bed = Bed::with(&Options { vxlan: Vxlan::Always, ..Options::default() }, 2);
    let [a, b] = [0, 1].map(|n| bed.pods[n].netns.clone());
    let [to_a, to_b] = [0, 1].map(|n| bed.pods[n].address(Family::V4));
    let told = |what: &str, pinged: &Pinged| {
        println!("{what}: {} of {} pings lost, one every 5 ms", pinged.sent - pinged.received, pinged.sent);
    };
    let again = |from: &Netns, to: &str| {
        wait_until("it goes on", PATIENCE, || lab::ping::reaches(from, to).map(drop)).unwrap();
    };
    for n in 0..2 {
        let name = bed.cluster.nodes[n].site.name();
        let node = &mut bed.cluster.nodes[n];
        let (pinged, ()) = pinged_while(&a, &to_b, 5, || node.restart_control().unwrap());
        told(&format!("control of {name} killed"), &pinged);
        assert!(pinged.complete(), "{}", pinged.text);

        let node = &mut bed.cluster.nodes[n];
        let (pinged, ()) = pinged_while(&b, &to_a, 10, || node.restart_dataplane().unwrap());
        told(&format!("data plane of {name} killed"), &pinged);
        assert!(pinged.received > 0, "{}", pinged.text);
        again(&b, &to_a);

        let (lan, site) = (&bed.cluster.lan, bed.cluster.nodes[n].site);
        let (pinged, ()) = pinged_while(&a, &to_b, 10, || {
            lan.set_plugged(site, false).unwrap();
            std::thread::sleep(Duration::from_secs(2));
            lan.set_plugged(site, true).unwrap();
        });
        told(&format!("cable of {name} pulled for 2 s"), &pinged);
        assert!(pinged.received < pinged.sent, "{}", pinged.text);
        again(&a, &to_b);
        again(&b, &to_a);
    }
    bed.cluster.ledgers().unwrap();
}
