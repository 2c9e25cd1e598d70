//! Pings on every pair, in both families: who reaches whom, and how fast.

use anyhow::Result;
use lab::netns::Netns;
use lab::node::{HOST, OUTSIDE};
use lab::ping::Ping;
use lab::pod::{Family, Pod};
use lab::table::Table;
use serde_json::{Value, json};

use super::{Report, Scene};

struct Party<'a> {
    name: &'static str,
    /// Where its `ping` runs; a DPDK pod has no kernel to run one on, it only answers.
    netns: Option<&'a Netns>,
    addresses: [String; 2],
}

fn parties(scene: &Scene) -> Vec<Party<'_>> {
    let pod = |name, pod: &Pod| -> (&'static str, [String; 2]) {
        (name, Family::BOTH.map(|family| pod.address(family)))
    };
    let party = |(name, addresses), netns| Party { name, netns, addresses };
    vec![
        party(pod("pod a", &scene.a), Some(&scene.a.netns)),
        party(pod("pod b", &scene.b), Some(&scene.b.netns)),
        party(pod("dpdk pod", &scene.dpdk), None),
        party(("host", HOST.map(str::to_owned)), Some(&scene.node.host)),
        party(("outside", OUTSIDE.map(str::to_owned)), Some(&scene.node.outside)),
    ]
}

/// One table a family: rows ping, columns answer; cells are mean round trips.
pub(crate) fn show(scene: &Scene, report: &mut Report) -> Result<()> {
    let parties = parties(scene);
    for (at, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        report.progress(&format!("pinging every pair by {family}"));
        let head = ["from \\ to"].into_iter().chain(parties.iter().map(|party| party.name));
        let mut table = Table::new(head);
        let mut results = Vec::new();
        for from in &parties {
            let Some(netns) = from.netns else { continue };
            let mut row = vec![from.name.to_owned()];
            for to in &parties {
                if std::ptr::eq(from, to) {
                    row.push("-".to_owned());
                    continue;
                }
                let (cell, result) = ping(netns, from.name, to, at, report)?;
                row.push(cell);
                results.push(result);
            }
            table.row(row);
        }
        let title =
            format!("Pings by {family}: mean round trip in milliseconds, of 5 (the DPDK pod answers only)");
        report.section(&format!("ping-{family}"), &title, &table, Value::Array(results))?;
    }
    Ok(())
}

fn ping(
    netns: &Netns,
    from: &str,
    to: &Party<'_>,
    family: usize,
    report: &mut Report,
) -> Result<(String, Value)> {
    let address = &to.addresses[family];
    let pinged = Ping { count: 5, ..Ping::default() }.run(netns, address)?;
    if !pinged.complete() {
        report
            .faults
            .push(format!("{from} to {} ({address}): {} of {}", to.name, pinged.received, pinged.sent));
    }
    let cell = match pinged.average_ms.filter(|_| pinged.complete()) {
        Some(time) => format!("{time:.3}"),
        None => format!("LOST {} of {}", pinged.sent - pinged.received, pinged.sent),
    };
    let result = json!({
        "from": from, "to": to.name, "address": address, "sent": pinged.sent,
        "received": pinged.received, "average-ms": pinged.average_ms,
    });
    Ok((cell, result))
}
