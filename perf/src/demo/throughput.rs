//! TCP between the kernel pods and to the outside, by iperf3.

use anyhow::Result;
use lab::iperf::{Load, transfer};
use lab::netns::Netns;
use lab::node::OUTSIDE;
use lab::pod::Family;
use lab::table::Table;
use serde_json::{Value, json};

use super::{Report, Scene};

/// Each way in both families.
pub(crate) fn show(scene: &Scene, report: &mut Report, seconds: u32) -> Result<()> {
    let mut table = Table::new(["from", "to", "family", "Mbit/s"]);
    let mut results = Vec::new();
    let node = &scene.node;
    for (family, named) in Family::BOTH.into_iter().zip(["IPv4", "IPv6"]) {
        let ways: [(&str, &Netns, &str, &Netns, String); 3] = [
            ("pod a", &scene.a.netns, "pod b", &scene.b.netns, scene.b.address(family)),
            ("pod a", &scene.a.netns, "outside", &node.outside, family.of(OUTSIDE).to_owned()),
            ("outside", &node.outside, "pod a", &scene.a.netns, scene.a.address(family)),
        ];
        for (from, client, to, server, address) in ways {
            report.progress(&format!("TCP by {named} from {from} to {to} for {seconds} s"));
            let got = transfer(&node.run, server, client, &address, Load::Tcp, seconds)?;
            table.row([from, to, named, &format!("{:.0}", got.megabits_per_second)]);
            results.push(json!({
                "from": from, "to": to, "family": named, "bytes": got.bytes,
                "megabits-per-second": got.megabits_per_second,
            }));
        }
    }
    report.section("tcp", "TCP throughput, one connection (iperf3)", &table, Value::Array(results))
}
