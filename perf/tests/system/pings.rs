//! Everybody reaches everybody, in both families, by the way meant for them.

use anyhow::anyhow;
use lab::iperf::serve;
use lab::netns::Netns;
use lab::node::{GATEWAY, HOST, Node, OTHER_POD, OUTSIDE, Options, ROUTER, WORLD};
use lab::pod::{Family, INTERFACE};
use lab::process::Process;
use lab::wait::{PATIENCE, wait_until};

use crate::{Bed, reach};

#[test]
fn pods_host_and_outside_reach_each_other() {
    let bed = Bed::new(Options::default());
    for family in Family::BOTH {
        let (a, b) = (bed.a.address(family), bed.b.address(family));
        let host = family.of(HOST).to_owned();
        let there = [OUTSIDE, WORLD, OTHER_POD].map(|pair| family.of(pair).to_owned());
        let here = [a, b, host];
        for from in [&bed.a.netns, &bed.b.netns, &bed.node.host] {
            for to in here.iter().chain(&there) {
                reach(&bed.node, from, to);
            }
        }
        for to in &here {
            reach(&bed.node, &bed.node.outside, to);
        }
    }
    let query = bed.node.query();
    // The answers alone do not tell the way: had the kernel forwarded anything, these ports would not know of it.
    let ports = query.ports().unwrap();
    let port = |name: &str| ports.iter().find(|port| port.info.spec.name == name).unwrap();
    // Three destinations, three requests, two families: by pods a and b, and by the host.
    assert!(port("uplink").tx_packets >= 3 * 3 * 2 * 3, "{ports:?}");
    assert!(port("uplink").rx_packets >= 3 * 3 * 2 * 3, "{ports:?}");
    assert!(port("host").rx_packets >= 6 * 3 * 2, "{ports:?}");
    query.ledger().unwrap();
}

#[test]
fn the_gateway_and_the_routers_own_addresses_answer() {
    let bed = Bed::new(Options::default());
    for pod in [&bed.a, &bed.b] {
        reach(&bed.node, &pod.netns, GATEWAY[0]);
        reach(&bed.node, &pod.netns, &format!("{}%{INTERFACE}", GATEWAY[1]));
    }
    for router in ROUTER {
        reach(&bed.node, &bed.node.outside, router);
        reach(&bed.node, &bed.a.netns, router);
    }
    bed.node.query().ledger().unwrap();
}

/// The outside host sees the pod's own address: nothing on the way translates.
#[test]
fn the_clients_address_is_kept() {
    let bed = Bed::new(Options::default());
    for family in Family::BOTH {
        let (pod, outside) = (bed.a.address(family), family.of(OUTSIDE));
        let seen = peer_seen_by_a_server(&bed.node, &bed.node.outside, &bed.a.netns, outside);
        assert_eq!(seen, pod);
        let seen = peer_seen_by_a_server(&bed.node, &bed.b.netns, &bed.node.host, &bed.b.address(family));
        assert_eq!(seen, family.of(HOST));
    }
    bed.node.query().ledger().unwrap();
}

/// Connects from `client` to `address` in `server`, and gives the client's address as the server's kernel has it.
fn peer_seen_by_a_server(node: &Node, server: &Netns, client: &Netns, address: &str) -> String {
    let _server = serve(&node.run, server).unwrap();
    let mut command = client.command("iperf3");
    command.args(["-c", address, "-t", "60", "-b", "1M"]);
    let mut client = Process::spawn(&node.run, "client", &mut command).unwrap();
    wait_until("a connection", PATIENCE, || {
        client.check()?;
        established(server)
    })
    .unwrap()
}

/// The peer of a connection to iperf3's port.
fn established(server: &Netns) -> anyhow::Result<String> {
    let sockets = server.succeed("ss", &["-Hnt", "state", "established", "sport", "=", ":5201"])?;
    let peer = sockets.lines().next().and_then(|line| line.split_ascii_whitespace().nth(3));
    let (address, _) = peer.and_then(|peer| peer.rsplit_once(':')).ok_or_else(|| anyhow!("no connection"))?;
    Ok(address.trim_matches(['[', ']']).trim_start_matches("::ffff:").to_owned())
}
