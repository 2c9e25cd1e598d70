//! Ports of a node that lead to a pod (`hostPort`): from everywhere, and as the pod's alone whom they are for.

use std::net::{IpAddr, SocketAddr};

use lab::exchange::{By, through};
use lab::lan::GATEWAY;
use lab::netns::{Netns, veth};
use lab::node::{HOST, HOST_DEVICE, OUTSIDE, Uplink};
use lab::pod::{Family, Kind, Pod};
use lab::wait::{PATIENCE, wait_until};
use serde_json::{Value, json};

use crate::nodes::Bed;

const HOST_PORT: u16 = 8080;

fn mapped(bed: &Bed, name: &str, mappings: &Value) -> anyhow::Result<Pod> {
    let capabilities = json!({"portMappings": mappings});
    Pod::attach_with(&bed.cluster.nodes[0], name, Kind::Kernel, &capabilities)
}

fn mapping(protocol: &str, host: &str, container_port: u16) -> Value {
    json!({"hostPort": HOST_PORT, "containerPort": container_port, "protocol": protocol, "hostIP": host})
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A word to the node's port, which the pod is to hear on its own; whom it was taken for.
fn says(from: &Netns, pod: &Pod, node: &str, port: u16, by: By) -> anyhow::Result<IpAddr> {
    let node = ip(node);
    let family = if node.is_ipv4() { Family::V4 } else { Family::V6 };
    let listen = SocketAddr::new(ip(&pod.address(family)), port);
    through(from, &pod.netns, listen, Some(SocketAddr::new(node, HOST_PORT)), by)
}

#[test]
fn a_hosts_port_leads_to_its_pod_from_everywhere() {
    from_everywhere(Uplink::Dedicated);
}

#[test]
fn by_the_nodes_kernel_it_does_too_and_the_client_stays_itself() {
    from_everywhere(Uplink::Kernel);
}

fn from_everywhere(uplink: Uplink) {
    let bed = Bed::by(uplink, 2);
    // Answers to whoever comes by a NIC of the node's leave by the uplink, unless they look like the node's own.
    let (outside_is, client_is) = match uplink {
        Uplink::Dedicated => (OUTSIDE, HOST[0]),
        Uplink::Kernel => (GATEWAY, "198.51.100.9"),
    };
    let web = mapped(&bed, "web", &json!([mapping("tcp", "", 80), mapping("udp", "", 53)])).unwrap();
    let [a, b] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    let outside = &bed.cluster.lan.outside;
    // By a NIC of the node's own, which the data plane knows nothing of.
    let client = Netns::create(&a.run, "client").unwrap();
    veth(&a.host, "nic0", &client, "eth0").unwrap();
    for (netns, device, address) in
        [(&a.host, "nic0", "198.51.100.1/24"), (&client, "eth0", "198.51.100.9/24")]
    {
        netns.add_address(device, address).unwrap();
    }
    a.host.sysctl("net.ipv4.ip_forward", "1").unwrap();
    wait_until("the node's kernel knows", PATIENCE, || {
        let rules = a.host.succeed("nft", &["list", "table", "inet", "podrouter"])?;
        if rules.contains("default/web") { Ok(()) } else { Err(anyhow::anyhow!("{rules}")) }
    })
    .unwrap();
    for (by, port) in [(By::Tcp, 80), (By::Udp, 53)] {
        for (family, node) in Family::BOTH.into_iter().zip(HOST) {
            let pod = |pod: &Pod| ip(&pod.address(family));
            for (from, own) in [
                (&bed.pods[0].netns, pod(&bed.pods[0])),
                (&bed.pods[1].netns, pod(&bed.pods[1])),
                (&a.host, ip(node)),
                (&b.host, ip(&b.site.host()[usize::from(family == Family::V6)])),
                (outside, ip(family.of(outside_is))),
            ] {
                assert_eq!(says(from, &web, node, port, by).unwrap(), own, "{by:?} to {node}");
            }
            // From the pod to its own port: it cannot be answered by itself.
            says(&web.netns, &web, node, port, by).unwrap();
        }
        for (from, node, own) in [(&a.host, "127.0.0.1", HOST[0]), (&client, "198.51.100.1", client_is)] {
            assert_eq!(says(from, &web, node, port, by).unwrap(), ip(own), "{by:?} to {node}");
        }
    }
    // Somebody flushes it, and it is there again; the pod ends, and it is gone.
    a.host.succeed("nft", &["flush", "ruleset", "inet"]).unwrap();
    wait_until("it is mended", PATIENCE, || says(&a.host, &web, "127.0.0.1", 80, By::Tcp)).unwrap();
    web.detach(a).unwrap();
    wait_until("it is gone", PATIENCE, || {
        match a.host.succeed("nft", &["list", "ruleset", "inet"])?.as_str() {
            rules if rules.contains("default/web") => Err(anyhow::anyhow!("{rules}")),
            _ => Ok(()),
        }
    })
    .unwrap();
    let localnet = format!("/proc/sys/net/ipv4/conf/{HOST_DEVICE}/route_localnet");
    assert_eq!(a.host.succeed("cat", &[&localnet]).unwrap().trim(), "0");
    bed.cluster.ledgers().unwrap();
}

#[test]
fn pods_with_one_port_but_another_address_or_protocol_do_not_conflict() {
    let bed = Bed::new(1);
    let [v4, v6] = HOST;
    let pods: Vec<Pod> =
        [("one", "tcp", v4), ("two", "tcp", "127.0.0.1"), ("three", "udp", v4), ("four", "tcp", v6)]
            .map(|(name, protocol, host)| mapped(&bed, name, &json!([mapping(protocol, host, 80)])).unwrap())
            .into();
    let node = &bed.cluster.nodes[0];
    for (pod, host, by) in [(0, v4, By::Tcp), (1, "127.0.0.1", By::Tcp), (2, v4, By::Udp), (3, v6, By::Tcp)] {
        wait_until("the node's kernel knows", PATIENCE, || says(&node.host, &pods[pod], host, 80, by))
            .unwrap();
        if host != "127.0.0.1" {
            says(&bed.pods[0].netns, &pods[pod], host, 80, by).unwrap();
        }
    }
    for (host, of) in [(v4, "default/one"), ("", "default/"), ("0.0.0.0", "default/")] {
        let refused = mapped(&bed, "more", &json!([mapping("tcp", host, 80)])).unwrap_err().to_string();
        assert!(refused.contains("hostPort") && refused.contains(of), "{refused}");
    }
    pods[0].detach(node).unwrap();
    let again = mapped(&bed, "again", &json!([mapping("tcp", v4, 80)])).unwrap();
    says(&bed.pods[0].netns, &again, v4, 80, By::Tcp).unwrap();
    bed.cluster.ledgers().unwrap();
}
