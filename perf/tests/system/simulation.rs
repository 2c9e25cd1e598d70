//! A cluster of five thousand nodes, of which two are real: the others come, go and change, and those two see nothing of it.

use std::time::{Duration, Instant};

use lab::api;
use lab::client::Client;
use lab::node::{Node, Options, Vxlan};
use lab::pod::Family;
use lab::wait::{PATIENCE, wait_until};
use proto::dataplane::{Request, Response, Status};
use serde_json::{Value, json};

use crate::nodes::{Bed, pinged_while};

/// Those that are not real.
const OTHERS: u32 = 5_000;
/// Changes, one after the other.
const CHANGES: u32 = 1_000;

/// Nobody is there: their ends are behind the gateway. In another `look` it has other ranges, addresses and ends.
fn other(n: u32, look: u32) -> Value {
    let [_, _, high, low] = n.to_be_bytes();
    object(
        &format!("simulated-{n:05}"),
        [format!("10.{}.{low}.0/24", 100 + 40 * look + u32::from(high)), format!("fd01:{look}:0:{n:x}::/64")],
        [format!("172.{}.{high}.{low}", 20 + look), format!("fd02:{look}::{n:x}")],
        &format!("172.{}.{high}.{low},fd03:{look}::{n:x}", 22 + look),
    )
}

/// Each change is another node's.
const fn nth(change: u32) -> u32 {
    1 + change.wrapping_mul(7_919) % OTHERS
}

fn object(name: &str, pod_cidrs: [String; 2], addresses: [String; 2], routers: &str) -> Value {
    let address = |address: &String| json!({"type": "InternalIP", "address": address});
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name, "annotations": {"podrouter.io/router-addresses": routers}},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs},
        "status": {"addresses": addresses.iter().map(address).collect::<Vec<_>>()},
    })
}

fn real(node: &Node) -> Value {
    let site = node.site;
    object(&site.name(), site.pod_cidrs(), site.host(), &site.router().join(","))
}

fn status(client: &mut Client) -> anyhow::Result<Status> {
    match client.call(&Request::ShowStatus)? {
        Response::Status(status) => Ok(status),
        other => Err(anyhow::anyhow!("{other:?}")),
    }
}

fn milliseconds(delays: &[Duration], share: usize) -> f64 {
    delays[(delays.len() * share / 100).min(delays.len() - 1)].as_secs_f64() * 1e3
}

#[test]
fn five_thousand_nodes_come_go_and_change_while_two_speak() {
    let mut bed = Bed::with(&Options { vxlan: Vxlan::Always, ..Options::default() }, 2);
    let node = &mut bed.cluster.nodes[0];
    let server = api::serve(node).unwrap();
    api::follow(node, &server).unwrap();
    let few = status(&mut Client::connect(&node.query().dataplane, || Ok(())).unwrap()).unwrap().routes;
    for node in &bed.cluster.nodes {
        server.set(real(node));
    }
    for n in 1..=OTHERS {
        server.set(other(n, 0));
    }
    let node = &mut bed.cluster.nodes[0];
    node.restart_control().unwrap();
    let mut client = Client::connect(&node.query().dataplane, || Ok(())).unwrap();
    // Two ranges and two addresses each.
    let all = few + 4 * u64::from(OTHERS);
    wait_until("all routes are there", PATIENCE, || match status(&mut client)?.routes {
        there if there == all => Ok(()),
        there => Err(anyhow::anyhow!("{there} of {all}")),
    })
    .unwrap();

    let (from, to) = (bed.pods[0].netns.clone(), bed.pods[1].address(Family::V4));
    let (pinged, mut delays) = pinged_while(&from, &to, 10, || {
        let mut delays = Vec::new();
        for change in 0..CHANGES {
            let n = nth(change);
            let before = status(&mut client).unwrap().committed;
            let began = Instant::now();
            match change % 4 {
                0 => server.delete("Node", "", &format!("simulated-{n:05}")),
                _ => drop(server.set(other(n, 1))),
            }
            while status(&mut client).unwrap().committed == before {
                assert!(began.elapsed() < PATIENCE, "change {change} is not in force");
                std::thread::sleep(Duration::from_micros(100));
            }
            delays.push(began.elapsed());
        }
        delays
    });
    delays.sort();
    println!(
        "a Node's change to its generation among {OTHERS}: median {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        milliseconds(&delays, 50),
        milliseconds(&delays, 99),
        milliseconds(&delays, 100)
    );
    assert!(pinged.complete(), "{} of {}", pinged.received, pinged.sent);
    let gone = u64::from(CHANGES / 4);
    assert_eq!(status(&mut client).unwrap().routes, all - 4 * gone);
    // One that has changed, one that is gone, and one that is as it was.
    let routes = bed.cluster.nodes[0].query().text(&["show", "routes"]).unwrap();
    let same = (1..=OTHERS).find(|n| (0..CHANGES).all(|change| nth(change) != *n)).unwrap();
    let [changed, deleted, same] = [nth(1), nth(0), same].map(|n| {
        let ranges = |look| other(n, look)["spec"]["podCIDRs"].as_array().unwrap().clone();
        [0, 1].map(|look| ranges(look).iter().all(|prefix| routes.contains(prefix.as_str().unwrap())))
    });
    assert_eq!((changed, deleted, same), ([false, true], [false, false], [true, false]));
    bed.cluster.ledgers().unwrap();
}
