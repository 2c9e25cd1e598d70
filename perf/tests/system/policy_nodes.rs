//! NetworkPolicies where a pod is not all there is: nodes, hosts' own pods, Services, and a pod that asks itself.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::bridge::bridge;
use lab::exchange::{By, inside, seen, through};
use lab::manifests;
use lab::netns::Netns;
use lab::node::{Node, Options, Uplink};
use lab::pod::{Family, Kind, Pod};
use lab::wait::{PATIENCE, wait_until};
use serde_json::{Value, json};

use crate::nodes::Bed;
use crate::policies::{FILE, policy};
use crate::policy_probes::{begin, denied};
use crate::service_changes::placed;
use crate::services::{self, address, own, service, wait_for};

/// Of the pods of [`Bed`].
pub(crate) const NAMESPACE: &str = "default";

pub(crate) fn ip(pod: &Pod, family: Family) -> IpAddr {
    pod.address(family).parse().unwrap()
}

/// With these policies and no others, once each node has as many endpoints restricted as it has to.
pub(crate) fn restrict(bed: &Bed, policies: &[Value], restricted: [usize; 2]) {
    bed.cluster.set(FILE, policies).unwrap();
    in_force(bed, restricted);
}

/// So many of each node's endpoints are restricted, by what is read by now.
pub(crate) fn in_force(bed: &Bed, restricted: [usize; 2]) {
    for (node, restricted) in bed.cluster.nodes.iter().zip(restricted) {
        wait_until("the policies are in force", PATIENCE, || {
            let shown = node.query().json(&["show", "policies"])?;
            let rows = shown["policies"].as_array().or(shown.as_array()).map_or(0, Vec::len);
            ensure!(rows == restricted, "{restricted} are to be restricted: {shown}");
            node.query().in_sync()
        })
        .unwrap();
    }
}

/// A connection that a policy forbids: that is counted, and nothing comes.
fn forbidden(nodes: &[Node], from: &Netns, at: SocketAddr) {
    let before = denied(nodes).unwrap();
    let stream = inside(from, || begin(at)).unwrap().unwrap();
    wait_until(&format!("{} to {at} is denied", from.name()), PATIENCE, || {
        let counted = denied(nodes)?;
        ensure!(
            counted > before && stream.peer_addr().is_err(),
            "{before} and {counted}: {:?}",
            stream.peer_addr()
        );
        Ok(())
    })
    .unwrap();
}

fn shut(name: &str) -> Value {
    policy(NAMESPACE, name, &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))
}

/// Whatever policies say, and whatever kind of port the pod has; and the pods' answers pass.
#[test]
fn a_pods_own_node_reaches_it_and_no_other_node_does() {
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let bed = Bed::by(uplink, 2);
        let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
        let dpdk = Pod::attach(second, "dpdk", Kind::VhostUser).unwrap();
        let _bridge = bridge(second, &dpdk).unwrap();
        // Who has the node's network is no pod to a policy, as one that is selected and as a peer.
        let mut host = manifests::pod(NAMESPACE, "agent", &json!({"app": "agent"}), &[]);
        host["spec"]["hostNetwork"] = json!(true);
        let addresses = first.site.host().map(|own| own.parse::<IpAddr>().unwrap());
        first.manifests.write_pod(&host, &first.site.name(), &addresses).unwrap();
        let agents = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "agent"}}}]}]});
        restrict(&bed, &[shut("shut"), policy(NAMESPACE, "agents", &agents)], [1, 2]);
        for family in Family::BOTH {
            let at = |pod: &Pod| ip(pod, family);
            for (node, pod) in [(first, &bed.pods[0]), (second, &bed.pods[1]), (second, &dpdk)] {
                for by in By::BOTH {
                    let seen = seen(&node.host, &pod.netns, at(pod), by).unwrap();
                    assert_eq!(seen, own(node, family), "{by:?}");
                }
                let other = if std::ptr::eq(node, first) { second } else { first };
                forbidden(&bed.cluster.nodes, &other.host, SocketAddr::new(at(pod), 80));
                // Nor does the pod reach its own node, or the world.
                forbidden(&bed.cluster.nodes, &pod.netns, SocketAddr::new(own(node, family), 80));
                forbidden(
                    &bed.cluster.nodes,
                    &pod.netns,
                    SocketAddr::new(family.of(lab::node::WORLD).parse().unwrap(), 80),
                );
            }
            for by in By::BOTH {
                seen(&first.host, &second.host, own(second, family), by).unwrap();
            }
        }
        // By the other node's addresses it may be asked.
        let cidr = |own: &String| format!("{own}/{}", if own.contains(':') { 128 } else { 32 });
        let from: Vec<Value> =
            first.site.host().iter().map(|own| json!({"ipBlock": {"cidr": cidr(own)}})).collect();
        let by_first = json!({"podSelector": {"matchLabels": {"app": "dpdk"}}, "ingress": [{"from": from}]});
        restrict(&bed, &[shut("shut"), policy(NAMESPACE, "by-first", &by_first)], [1, 2]);
        for family in Family::BOTH {
            wait_until("it may be asked", PATIENCE, || {
                let tried = inside(&first.host, || {
                    let at = SocketAddr::new(ip(&dpdk, family), 9);
                    TcpStream::connect_timeout(&at, Duration::from_millis(500)).unwrap_err()
                })?;
                ensure!(tried.kind() == ErrorKind::ConnectionRefused, "{tried}");
                Ok(())
            })
            .unwrap();
            assert_eq!(
                seen(&first.host, &dpdk.netns, ip(&dpdk, family), By::Tcp).unwrap(),
                own(first, family)
            );
            forbidden(&bed.cluster.nodes, &bed.pods[0].netns, SocketAddr::new(ip(&dpdk, family), 80));
        }
        bed.cluster.ledgers().unwrap();
    }
}

fn says(from: &Netns, to: &Pod, at: SocketAddr, by: By) -> Result<IpAddr> {
    let family = if at.is_ipv4() { Family::V4 } else { Family::V6 };
    through(from, &to.netns, SocketAddr::new(ip(to, family), 8080), Some(at), by)
}

/// The Service is nobody: what counts are the client and the backend that was chosen, with its own port.
#[test]
fn by_a_service_a_policy_is_for_the_backend_and_the_client() {
    let bed = Bed::with(&Options { masquerade: true, ..Options::default() }, 2);
    let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    let c = Pod::attach(second, "c", Kind::Kernel).unwrap();
    let mut objects = Vec::new();
    for (number, pod) in [(7, b), (8, &c)] {
        let mut web = service(number, &[("http", "TCP", 80), ("dns", "UDP", 80)], &json!({}));
        web["spec"]["type"] = json!("NodePort");
        web["spec"]["externalTrafficPolicy"] = json!("Local");
        for port in web["spec"]["ports"].as_array_mut().unwrap() {
            port["nodePort"] = json!(30_000 + u32::from(number));
        }
        objects.push(web);
        let targets = [("http", "TCP", 8080), ("dns", "UDP", 8080)];
        objects.extend(placed(number, &targets, &[(pod, second, "ready")]));
    }
    bed.cluster.set(services::FILE, &objects).unwrap();
    wait_for(&bed, "the Services are there", |shown| {
        shown.contains("service-7") && shown.contains(&c.address(Family::V6))
    });
    let nodes = &bed.cluster.nodes;
    let outside = &bed.cluster.lan.outside;
    let named = |name: &str| json!({"podSelector": {"matchLabels": {"app": name}}});
    let cluster = |number: u8, family: Family| SocketAddr::new(address(number, family), 80);
    let node_port = |node: &Node, number: u8, family: Family| {
        SocketAddr::new(own(node, family), 30_000 + u16::from(number))
    };
    let world: Vec<Value> = Family::BOTH
        .iter()
        .map(|family| {
            let length = family.of(["32", "128"]);
            json!({"ipBlock": {"cidr": format!("{}/{length}", family.of(lab::node::OUTSIDE))}})
        })
        .collect();
    let ports = json!([{"port": 8080}, {"port": 8080, "protocol": "UDP"}]);

    // Into b come a and the world, by its own port alone.
    let mut peers = vec![named(&a.name)];
    peers.extend(world);
    let into = |ports: &Value| {
        let spec = json!({"podSelector": {"matchLabels": {"app": b.name}}, "ingress": [{"from": peers, "ports": ports}]});
        policy(NAMESPACE, "into", &spec)
    };
    restrict(&bed, &[into(&ports)], [0, 1]);
    for family in Family::BOTH {
        for by in By::BOTH {
            assert_eq!(says(&a.netns, b, cluster(7, family), by).unwrap(), ip(a, family));
            assert_eq!(says(&a.netns, b, node_port(second, 7, family), by).unwrap(), ip(a, family));
            says(outside, b, node_port(second, 7, family), by).unwrap();
            // Its own, and itself.
            says(&second.host, b, cluster(7, family), by).unwrap();
            says(&b.netns, b, cluster(7, family), by).unwrap();
        }
        for (from, at) in [
            (&c.netns, cluster(7, family)),
            (&c.netns, node_port(second, 7, family)),
            (&first.host, cluster(7, family)),
            (&first.host, node_port(second, 7, family)),
        ] {
            forbidden(nodes, from, at);
        }
    }
    restrict(&bed, &[into(&json!([{"port": 80}, {"port": 30_007}]))], [0, 1]);
    for family in Family::BOTH {
        wait_until("the Service's ports are none of the pod's", PATIENCE, || {
            let tried = inside(&a.netns, || {
                TcpStream::connect_timeout(&cluster(7, family), Duration::from_millis(300)).unwrap_err()
            })?;
            ensure!(tried.kind() == ErrorKind::TimedOut, "{tried}");
            Ok(())
        })
        .unwrap();
        for at in [cluster(7, family), node_port(second, 7, family)] {
            forbidden(nodes, &a.netns, at);
        }
        forbidden(nodes, outside, node_port(second, 7, family));
    }
    // Out of a it goes to b, and to no Service of c's.
    let out = json!({
        "podSelector": {"matchLabels": {"app": a.name}}, "policyTypes": ["Egress"],
        "egress": [{"to": [named(&b.name)], "ports": ports}],
    });
    restrict(&bed, &[policy(NAMESPACE, "out", &out)], [1, 0]);
    for family in Family::BOTH {
        for by in By::BOTH {
            says(&a.netns, b, cluster(7, family), by).unwrap();
        }
        for at in [cluster(8, family), node_port(first, 8, family)] {
            forbidden(nodes, &a.netns, at);
        }
        says(&b.netns, &c, cluster(8, family), By::Tcp).unwrap();
    }
    // Whoever may neither ask nor be asked reaches himself all the same.
    restrict(&bed, &[shut("shut")], [1, 2]);
    for family in Family::BOTH {
        for (pod, number) in [(b, 7), (&c, 8)] {
            for by in By::BOTH {
                says(&pod.netns, pod, cluster(number, family), by).unwrap();
            }
        }
        forbidden(nodes, &b.netns, cluster(8, family));
    }
    bed.cluster.ledgers().unwrap();
}
