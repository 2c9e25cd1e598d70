//! Services by their cluster addresses, with real clients: from pods and hosts of two nodes to pods of both.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::exchange::{By, inside, through};
use lab::netns::Netns;
use lab::node::{Node, Options, Uplink, Vxlan};
use lab::pktgen::reflector;
use lab::pod::{Family, Kind, Pod};
use lab::wait::{PATIENCE, wait_until};
use serde_json::{Value, json};

use crate::node_ports::router;
use crate::nodes::Bed;

pub(crate) const FILE: &str = "services.json";
/// Of each Service, by its number.
const ADDRESSES: [&str; 2] = ["10.96.0.", "fd00:96::"];

pub(crate) fn address(number: u8, family: Family) -> IpAddr {
    format!("{}{number}", family.of(ADDRESSES)).parse().unwrap()
}

/// Ports are told as name, protocol, number.
pub(crate) fn service(number: u8, ports: &[(&str, &str, u16)], labels: &Value) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
        .collect();
    let ips = Family::BOTH.map(|family| address(number, family).to_string());
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": format!("service-{number}"), "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips, "ports": ports},
    })
}

/// One a family; endpoints are told as pod and condition: `ready`, `unready`, or else `draining`.
pub(crate) fn slices(
    number: u8,
    name: &str,
    ports: &[(&str, &str, u16)],
    endpoints: &[(&Pod, &str)],
) -> Vec<Value> {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
        .collect();
    let slice = |family: Family| {
        let endpoint = |(pod, condition): &(&Pod, &str)| {
            let (ready, serving, terminating) = match *condition {
                "ready" => (true, true, false),
                "unready" => (false, false, false),
                _ => (false, true, true),
            };
            json!({"addresses": [pod.address(family)], "conditions":
                {"ready": ready, "serving": serving, "terminating": terminating}})
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "shop", "name": format!("service-{number}-{name}-{family:?}").to_lowercase(),
                "labels": {"kubernetes.io/service-name": format!("service-{number}")}},
            "addressType": family.of(["IPv4", "IPv6"]),
            "ports": ports,
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        })
    };
    Family::BOTH.map(slice).to_vec()
}

/// A word to a Service's address, which a pod is to hear at a port of its own; whom it was taken for.
fn says(
    from: &Netns,
    to: &Pod,
    target: u16,
    number: u8,
    port: u16,
    family: Family,
    by: By,
) -> Result<IpAddr> {
    let listen = SocketAddr::new(to.address(family).parse()?, target);
    through(from, &to.netns, listen, Some(SocketAddr::new(address(number, family), port)), by)
}

pub(crate) fn wait_for(bed: &Bed, what: &str, is_so: impl Fn(&str) -> bool) {
    for node in &bed.cluster.nodes {
        wait_until(what, PATIENCE, || {
            let shown = node.query().text(&["show", "services"])?;
            ensure!(is_so(&shown), "{shown}");
            Ok(())
        })
        .unwrap();
    }
}

/// Refused at once: a reset, or a port unreachable.
pub(crate) fn refuses(from: &Netns, at: SocketAddr, by: By) -> Result<()> {
    let error = inside(from, || match by {
        By::Tcp => TcpStream::connect_timeout(&at, PATIENCE).map(drop).unwrap_err(),
        By::Udp => {
            let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(at).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.send(b"word").unwrap();
            socket.recv(&mut [0; 8]).unwrap_err()
        }
    })?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{by:?} to {at}: {error}");
    Ok(())
}

pub(crate) fn own(node: &Node, family: Family) -> IpAddr {
    node.site.host()[usize::from(family == Family::V6)].parse().unwrap()
}

#[test]
fn a_service_is_reached_from_pods_and_hosts_who_stay_themselves() {
    for (uplink, vxlan) in [
        (Uplink::Dedicated, Vxlan::Never),
        (Uplink::Dedicated, Vxlan::Always),
        (Uplink::Kernel, Vxlan::Never),
        (Uplink::Kernel, Vxlan::Always),
    ] {
        let bed = Bed::with(&Options { uplink, vxlan, masquerade: true, ..Options::default() }, 2);
        let [a, b] = [&bed.pods[0], &bed.pods[1]];
        // Two ports of one number; a target port of another, and two that differ from slice to slice.
        let ports = [("http", "TCP", 80), ("dns", "UDP", 80), ("more", "TCP", 81)];
        let targets = [("http", "TCP", 8080), ("dns", "UDP", 5353), ("more", "TCP", 9090)];
        let mut objects = vec![service(7, &ports, &json!({})), service(8, &ports[..1], &json!({}))];
        objects.extend(slices(7, "b", &targets, &[(b, "ready")]));
        objects.extend(slices(8, "a", &targets[..1], &[(a, "ready")]));
        bed.cluster.set(FILE, &objects).unwrap();
        wait_for(&bed, "the Services are there", |shown| {
            shown.contains("service-8") && shown.contains("9090")
        });
        let mut clients = vec![(&a.netns, None), (&b.netns, None)];
        clients.extend(bed.cluster.nodes.iter().map(|node| (&node.host, Some(node))));
        for family in Family::BOTH {
            for (from, node) in &clients {
                for (target, port, by) in [(8080, 80, By::Tcp), (5353, 80, By::Udp), (9090, 81, By::Tcp)] {
                    let seen = says(from, b, target, 7, port, family, by).unwrap();
                    let expected = match node {
                        // Another node's pod would perhaps not answer it by us.
                        Some(node) if std::ptr::eq(*node, &bed.cluster.nodes[0]) => router(node, family),
                        Some(node) => own(node, family),
                        None if std::ptr::eq(*from, &a.netns) => a.address(family).parse().unwrap(),
                        // To itself, by an address that it does not have.
                        None => {
                            assert_ne!(seen.to_string(), b.address(family));
                            continue;
                        }
                    };
                    assert_eq!(seen, expected, "{by:?} {family:?}");
                }
                says(from, a, 8080, 8, 80, family, By::Tcp).unwrap();
            }
        }
        bed.cluster.ledgers().unwrap();
    }
}

#[test]
fn a_service_follows_its_endpoints_and_its_labels() {
    let bed = Bed::new(2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    let (ports, targets) = ([("", "TCP", 80), ("dns", "UDP", 53)], [("", "TCP", 8080), ("dns", "UDP", 5353)]);
    let tell = |labels: &Value, endpoints: &[(&Pod, &str)]| {
        let mut objects = vec![service(7, &ports, labels)];
        // Ports in slices of their own, and one slice an endpoint.
        for (i, endpoint) in endpoints.iter().enumerate() {
            for target in &targets {
                let name = format!("{i}{}", target.0);
                objects.extend(slices(
                    7,
                    &name,
                    std::slice::from_ref(target),
                    std::slice::from_ref(endpoint),
                ));
            }
        }
        bed.cluster.set(FILE, &objects).unwrap();
    };
    let both = [(By::Tcp, 80, 8080), (By::Udp, 53, 5353)];
    let reaches = |from: &Netns, to: &Pod| {
        for family in Family::BOTH {
            for (by, port, target) in both {
                says(from, to, target, 7, port, family, by).unwrap();
            }
        }
    };
    let refused = |from: &Netns| {
        for family in Family::BOTH {
            for (by, port, _) in both {
                let at = SocketAddr::new(address(7, family), port);
                wait_until("it is refused", PATIENCE, || refuses(from, at, by)).unwrap();
            }
        }
    };
    let count = |shown: &str, what: &str| shown.matches(what).count();
    // Nobody, and then somebody, and then somebody else.
    tell(&json!({}), &[]);
    wait_for(&bed, "the Service is there", |shown| shown.contains("service-7"));
    let host = &bed.cluster.nodes[1].host;
    for from in [&a.netns, &b.netns, host] {
        refused(from);
    }
    tell(&json!({}), &[(b, "unready")]);
    refused(&a.netns);
    tell(&json!({}), &[(b, "ready")]);
    wait_for(&bed, "b is behind it", |shown| shown.contains(&b.address(Family::V6)));
    reaches(&a.netns, b);
    tell(&json!({}), &[(a, "ready"), (b, "draining")]);
    wait_for(&bed, "b drains", |shown| count(shown, "draining") == 4);
    for from in [&b.netns, host] {
        reaches(from, a);
    }
    // With nobody ready, who still serves does.
    tell(&json!({}), &[(a, "unready"), (b, "draining")]);
    wait_for(&bed, "b serves again", |shown| {
        count(shown, "draining") == 0 && shown.contains(&b.address(Family::V4))
    });
    reaches(&a.netns, b);
    // It is another proxy's, and is this one's again.
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        tell(&json!({label: "other"}), &[(b, "ready")]);
        wait_for(&bed, "it is left alone", |shown| !shown.contains("service-7"));
        tell(&json!({}), &[(b, "ready")]);
        wait_for(&bed, "it is served", |shown| shown.contains("service-7"));
        reaches(&a.netns, b);
    }
    bed.cluster.ledgers().unwrap();
}

/// Where only a node's own endpoints are meant, another node's pods and the node itself hear nothing.
#[test]
fn an_internal_local_service_stays_on_its_node() {
    let bed = Bed::new(2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    let mut own = service(7, &[("", "TCP", 80)], &json!({}));
    own["spec"]["internalTrafficPolicy"] = json!("Local");
    let mut objects = vec![own];
    objects.extend(slices(7, "b", &[("", "TCP", 8080)], &[(b, "ready")]));
    for slice in &mut objects[1..] {
        slice["endpoints"][0]["nodeName"] = json!(bed.cluster.nodes[1].site.name());
    }
    bed.cluster.set(FILE, &objects).unwrap();
    wait_for(&bed, "it is there", |shown| shown.contains("service-7"));
    let query = bed.cluster.nodes[0].query();
    assert!(query.text(&["show", "services"]).unwrap().contains("none here: dropped"));
    for family in Family::BOTH {
        says(&bed.cluster.nodes[1].host, b, 8080, 7, 80, family, By::Tcp).unwrap();
        let at = SocketAddr::new(address(7, family), 80);
        for from in [&a.netns, &bed.cluster.nodes[0].host] {
            let before = query.dropped("no-local-backend").unwrap();
            let tried = inside(from, || TcpStream::connect_timeout(&at, Duration::from_millis(300))).unwrap();
            assert_eq!(tried.unwrap_err().kind(), ErrorKind::TimedOut);
            assert!(query.dropped("no-local-backend").unwrap() > before);
        }
    }
    bed.cluster.ledgers().unwrap();
}

/// What a DPDK application answers comes from the Service's address.
#[test]
fn a_dpdk_pod_stands_behind_a_service() {
    let bed = Bed::new(2);
    let node = &bed.cluster.nodes[1];
    let dpdk = Pod::attach(node, "dpdk", Kind::VhostUser).unwrap();
    let _reflector = reflector(node, &dpdk).unwrap();
    let mut objects = vec![service(7, &[("", "UDP", 53)], &json!({}))];
    objects.extend(slices(7, "d", &[("", "UDP", 5353)], &[(&dpdk, "ready")]));
    bed.cluster.set(FILE, &objects).unwrap();
    wait_for(&bed, "it is there", |shown| shown.contains("service-7"));
    for family in Family::BOTH {
        for from in [&bed.pods[0].netns, &bed.pods[1].netns, &bed.cluster.nodes[0].host] {
            let at = SocketAddr::new(address(7, family), 53);
            wait_until("it answers", PATIENCE, || {
                let (got, peer) = inside(from, || {
                    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any)?;
                    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                    socket.send_to(b"word", at)?;
                    let mut word = [0; 8];
                    let (n, peer) = socket.recv_from(&mut word)?;
                    std::io::Result::Ok((word[..n].to_vec(), peer))
                })??;
                ensure!((got.as_slice(), peer) == (b"word".as_slice(), at), "{got:?} from {peer}");
                Ok(())
            })
            .unwrap();
        }
    }
    bed.cluster.ledgers().unwrap();
}
