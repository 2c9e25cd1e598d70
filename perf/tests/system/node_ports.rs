//! Services by addresses that the world may know: ports of the nodes, load balancers' addresses and external ones, from inside and outside.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::exchange::{By, inside, through};
use lab::lan::GATEWAY;
use lab::netns::Netns;
use lab::node::{Node, OUTSIDE, Options, Uplink, Vxlan};
use lab::pod::{Family, Pod};
use lab::wait::{PATIENCE, wait_until};
use serde_json::{Value, json};

use crate::nodes::Bed;
use crate::services::{FILE, address, own, service, slices, wait_for};

const NODE_PORTS: [(&str, &str, u16, u16); 2] = [("http", "TCP", 30_080, 8080), ("dns", "UDP", 30_053, 5353)];

/// Behind which a pod stands, whatever else it says.
fn set(bed: &Bed, to: &Pod, node: &Node, spec: &Value) {
    let ports = NODE_PORTS.map(|(name, protocol, _, _)| (name, protocol, 80));
    let mut web = service(7, &ports, &json!({}));
    web["spec"]["type"] = json!("LoadBalancer");
    for (at, (_, _, port, _)) in NODE_PORTS.iter().enumerate() {
        web["spec"]["ports"][at]["nodePort"] = json!(port);
    }
    for part in ["spec", "status"] {
        for (field, value) in spec[part].as_object().into_iter().flatten() {
            web[part][field] = value.clone();
        }
    }
    let targets = NODE_PORTS.map(|(name, protocol, _, target)| (name, protocol, target));
    let mut objects = vec![web];
    objects.extend(slices(7, "b", &targets, &[(to, "ready")]));
    for slice in &mut objects[1..] {
        slice["endpoints"][0]["nodeName"] = json!(node.site.name());
    }
    bed.cluster.set(FILE, &objects).unwrap();
    wait_for(bed, "the Service is there", |shown| shown.contains("30080") && shown.contains("5353"));
    for node in &bed.cluster.nodes {
        wait_until("the node's kernel knows", PATIENCE, || {
            let rules = node.host.succeed("nft", &["list", "table", "inet", "podrouter"])?;
            anyhow::ensure!(rules.contains("tcp . 30080"), "{rules}");
            Ok(())
        })
        .unwrap();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The router's own address among a node's pods.
pub(crate) fn router(node: &Node, family: Family) -> IpAddr {
    let cidr = &node.site.pod_cidrs()[usize::from(family == Family::V6)];
    match ip(cidr.split_once('/').unwrap().0) {
        IpAddr::V4(network) => IpAddr::V4((network.to_bits() + 1).into()),
        IpAddr::V6(network) => IpAddr::V6((network.to_bits() + 1).into()),
    }
}

fn says(from: &Netns, to: &Pod, target: u16, at: IpAddr, port: u16, by: By) -> Result<IpAddr> {
    let family = if at.is_ipv4() { Family::V4 } else { Family::V6 };
    let listen = SocketAddr::new(ip(&to.address(family)), target);
    through(from, &to.netns, listen, Some(SocketAddr::new(at, port)), by)
}

const WAYS: [(Uplink, Vxlan); 4] = [
    (Uplink::Dedicated, Vxlan::Never),
    (Uplink::Dedicated, Vxlan::Always),
    (Uplink::Kernel, Vxlan::Never),
    (Uplink::Kernel, Vxlan::Always),
];

/// What the world outside looks like to the nodes.
fn outside_is(uplink: Uplink) -> [&'static str; 2] {
    match uplink {
        Uplink::Dedicated => OUTSIDE,
        Uplink::Kernel => GATEWAY,
    }
}

/// At the node that has the endpoint everybody stays himself; at the other who would be answered by another way looks like its router.
#[test]
fn a_node_port_is_reached_from_everywhere_on_each_node() {
    for (uplink, vxlan) in WAYS {
        let bed = Bed::with(&Options { uplink, vxlan, masquerade: true, ..Options::default() }, 2);
        let [a, b] = [&bed.pods[0], &bed.pods[1]];
        let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
        set(&bed, b, second, &json!({}));
        let outside = &bed.cluster.lan.outside;
        for family in Family::BOTH {
            let pod = |pod: &Pod| ip(&pod.address(family));
            let world = ip(family.of(outside_is(uplink)));
            let by_router = router(first, family);
            for (by, (_, _, port, target)) in By::BOTH.into_iter().zip(NODE_PORTS) {
                for (from, at, seen) in [
                    (&a.netns, second, pod(a)),
                    (&first.host, second, own(first, family)),
                    (&second.host, second, own(second, family)),
                    (outside, second, world),
                    (&a.netns, first, pod(a)),
                    (&b.netns, first, by_router),
                    (&first.host, first, by_router),
                    (&second.host, first, by_router),
                    (outside, first, by_router),
                ] {
                    let heard = says(from, b, target, own(at, family), port, by);
                    let what = format!("{uplink:?} {vxlan:?} {by:?} {} at {}", from.name(), at.site.name());
                    assert_eq!(bed.cluster.explain(heard).expect(&what), seen, "{what}");
                }
                // To itself by its own node, as somebody else.
                assert_ne!(says(&b.netns, b, target, own(second, family), port, by).unwrap(), pod(b));
            }
        }
        for node in [first, second] {
            says(&node.host, b, 8080, ip("127.0.0.1"), 30_080, By::Tcp).unwrap();
        }
        bed.cluster.ledgers().unwrap();
    }
}

pub(crate) fn is_silent(node: &Node, from: &Netns, at: SocketAddr, reason: &str) {
    let before = node.query().dropped(reason).unwrap();
    let tried = inside(from, || TcpStream::connect_timeout(&at, Duration::from_millis(300))).unwrap();
    assert_eq!(tried.unwrap_err().kind(), ErrorKind::TimedOut, "{} at {at}", from.name());
    assert!(node.query().dropped(reason).unwrap() > before, "{at}: {reason}");
}

#[test]
fn with_a_local_policy_the_world_is_served_where_an_endpoint_is_and_stays_itself() {
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let bed = Bed::with(&Options { uplink, masquerade: true, ..Options::default() }, 2);
        let [a, b] = [&bed.pods[0], &bed.pods[1]];
        let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
        set(&bed, b, second, &json!({"spec": {"externalTrafficPolicy": "Local"}}));
        let outside = &bed.cluster.lan.outside;
        for family in Family::BOTH {
            let heard = says(outside, b, 8080, own(second, family), 30_080, By::Tcp).unwrap();
            assert_eq!(heard, ip(family.of(outside_is(uplink))));
            is_silent(first, outside, SocketAddr::new(own(first, family), 30_080), "no-local-backend");
            let why = |node: &Node| node.query().text(&["show", "endpoints", "shop/service-7"]).unwrap();
            assert!(why(first).contains("it is on another node, and the policy is Local"), "{}", why(first));
            assert!(why(second).contains("new flows (it is on this node)"), "{}", why(second));
            // A node's own pods, and the node, are served as from within.
            says(&a.netns, b, 8080, own(first, family), 30_080, By::Tcp).unwrap();
            says(&first.host, b, 8080, own(first, family), 30_080, By::Tcp).unwrap();
        }
        bed.cluster.ledgers().unwrap();
    }
}

/// What a load balancer asks of a node: how many endpoints there are, and the answer's code.
fn asks(from: &Netns, at: SocketAddr) -> Result<(u16, u64)> {
    let mut stream = inside(from, || TcpStream::connect_timeout(&at, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let code = head.split(' ').nth(1).context("no code")?.parse()?;
    let said: Value = serde_json::from_str(body)?;
    let endpoints = said["localEndpoints"].as_u64().context("no number")?;
    anyhow::ensure!(said["service"]["name"] == "service-7" && said["serviceProxyHealthy"] == true, "{said}");
    let weight = format!("x-load-balancing-endpoint-weight: {endpoints}");
    anyhow::ensure!(head.to_lowercase().contains(&weight), "{head}");
    Ok((code, endpoints))
}

#[test]
fn a_load_balancer_is_told_which_node_has_endpoints() {
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let bed = Bed::with(&Options { uplink, masquerade: true, ..Options::default() }, 2);
        let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
        let spec = json!({"spec": {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32_000}});
        set(&bed, &bed.pods[1], second, &spec);
        let outside = &bed.cluster.lan.outside;
        for (node, answer) in [(first, (503, 0)), (second, (200, 1))] {
            let mut at: Vec<String> = node.site.host().to_vec();
            if uplink == Uplink::Dedicated {
                at.extend(node.site.router());
            }
            for at in at {
                let at = SocketAddr::new(ip(&at), 32_000);
                let mut said = None;
                wait_until("it answers", PATIENCE, || {
                    said = Some(asks(outside, at)?);
                    Ok(())
                })
                .unwrap();
                assert_eq!(said, Some(answer), "{at}");
            }
        }
        // Of another policy it has no such port.
        set(&bed, &bed.pods[1], second, &json!({"spec": {"externalTrafficPolicy": "Cluster"}}));
        let at = SocketAddr::new(own(second, Family::V4), 32_000);
        wait_until("it is closed", PATIENCE, || match asks(outside, at) {
            Ok(said) => Err(anyhow::anyhow!("{said:?}")),
            Err(_) => Ok(()),
        })
        .unwrap();
        bed.cluster.ledgers().unwrap();
    }
}

/// A pod that answers each connection with its name, until it is dropped.
struct Server {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(pod: &Pod, family: Family, name: u8) -> Result<Self> {
        let at = SocketAddr::new(ip(&pod.address(family)), 8080);
        let listener = Arc::new(inside(&pod.netns, || TcpListener::bind(at))??);
        let shared = Arc::clone(&listener);
        let thread = std::thread::spawn(move || {
            while let Ok((mut client, _)) = shared.accept() {
                // Who has gone meanwhile does not want to know.
                let _ = client.write_all(&[name]);
            }
        });
        Ok(Self { listener, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the one that accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.thread.take().map(JoinHandle::join);
    }
}

fn who_answers(from: &Netns, at: SocketAddr) -> u8 {
    let mut stream = inside(from, || TcpStream::connect_timeout(&at, PATIENCE)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut name = [0];
    stream.read_exact(&mut name).unwrap();
    name[0]
}

/// By every kind of address, and after the policy of its Service changes there and back.
#[test]
fn a_client_stays_with_its_endpoint_while_affinity_is_asked_for() {
    let bed = Bed::by(Uplink::Kernel, 2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    for family in Family::BOTH {
        let _servers = [Server::start(a, family, 1).unwrap(), Server::start(b, family, 2).unwrap()];
        let tell = |affinity: &str| {
            let mut web = service(7, &[("", "TCP", 80)], &json!({}));
            web["spec"]["type"] = json!("NodePort");
            web["spec"]["sessionAffinity"] = json!(affinity);
            web["spec"]["ports"][0]["nodePort"] = json!(30_080);
            let mut objects = vec![web];
            objects.extend(slices(7, "all", &[("", "TCP", 8080)], &[(a, "ready"), (b, "ready")]));
            bed.cluster.set(FILE, &objects).unwrap();
            let stays = affinity == "ClientIP";
            wait_for(&bed, affinity, |shown| {
                shown.contains(":30080") && shown.contains("a client stays for 10800 s") == stays
            });
        };
        let at = [
            SocketAddr::new(address(7, family), 80),
            SocketAddr::new(own(first, family), 30_080),
            SocketAddr::new(own(second, family), 30_080),
        ];
        for from in [&a.netns, &b.netns, &first.host, &bed.cluster.lan.outside] {
            // The world knows nodes alone.
            for at in at.iter().skip(usize::from(std::ptr::eq(from, &bed.cluster.lan.outside))) {
                tell("ClientIP");
                let one = who_answers(from, *at);
                for _ in 0..12 {
                    assert_eq!(who_answers(from, *at), one, "{} at {at}", from.name());
                }
                tell("None");
                wait_until("another answers", PATIENCE, || {
                    anyhow::ensure!(who_answers(from, *at) != one);
                    Ok(())
                })
                .unwrap();
            }
        }
    }
    // Who stays is among the flows, as what it is.
    let shown = second.query().text(&["show", "flows", "--state", "affinity"]).unwrap();
    assert!(shown.contains("30080"), "{shown}");
    bed.cluster.ledgers().unwrap();
}

/// An address that is no node's, and leads to one: from outside by its network, from a node by its kernel's marks.
#[test]
fn external_and_load_balancers_addresses_are_served_and_guarded() {
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let bed = Bed::with(&Options { uplink, masquerade: true, ..Options::default() }, 2);
        let [a, b] = [&bed.pods[0], &bed.pods[1]];
        let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
        let (external, balanced) = (["203.0.113.7", "2001:db8:203::7"], ["203.0.113.8", "2001:db8:203::8"]);
        let outside = &bed.cluster.lan.outside;
        let next_hops = if uplink == Uplink::Dedicated { first.site.router() } else { first.site.host() };
        let world = outside_is(uplink);
        for (at, next_hop) in next_hops.iter().enumerate() {
            for own in [external[at], balanced[at]] {
                outside.ip(&["route", "add", own, "via", next_hop, "dev", "eth0"]).unwrap();
            }
        }
        let ranges: Vec<String> = Family::BOTH
            .into_iter()
            .flat_map(|family| {
                let length = family.of(["32", "128"]);
                [family.of(world).to_owned(), a.address(family)].map(|own| format!("{own}/{length}"))
            })
            .collect();
        let spec = json!({
            "spec": {"externalIPs": external, "loadBalancerSourceRanges": ranges},
            "status": {"loadBalancer": {"ingress": balanced.map(|own| json!({"ip": own}))}},
        });
        set(&bed, b, second, &spec);
        wait_for(&bed, "its addresses are there", |shown| {
            shown.contains(external[1]) && shown.contains(balanced[1]) && shown.contains("only from")
        });
        for node in [first, second] {
            wait_until("the kernel knows", PATIENCE, || {
                let table = node.host.succeed("nft", &["list", "table", "inet", "podrouter"])?;
                anyhow::ensure!(table.contains(balanced[1]), "{table}");
                Ok(())
            })
            .unwrap();
        }
        for family in Family::BOTH {
            let (external, balanced) = (ip(family.of(external)), ip(family.of(balanced)));
            for from in [outside, &a.netns, &b.netns, &first.host, &second.host] {
                says(from, b, 8080, external, 80, By::Tcp).unwrap();
                says(from, b, 5353, external, 80, By::Udp).unwrap();
            }
            assert_eq!(says(&a.netns, b, 8080, balanced, 80, By::Tcp).unwrap(), ip(&a.address(family)));
            assert_eq!(says(outside, b, 8080, balanced, 80, By::Tcp).unwrap(), router(first, family));
            let at = SocketAddr::new(balanced, 80);
            is_silent(second, &b.netns, at, "service-source-denied");
            is_silent(first, &first.host, at, "service-source-denied");
        }
        bed.cluster.ledgers().unwrap();
    }
}
