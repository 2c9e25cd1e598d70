//! What the router itself counted: each port's packets, each reason to drop, and the ledger.

use anyhow::Result;
use lab::table::{Table, count};
use serde_json::json;

use super::{Report, Scene};

/// Ports, drops and the ledger, at rest.
pub(crate) fn counters(scene: &Scene, report: &mut Report) -> Result<()> {
    report.progress("reading the router's counters, once it is at rest");
    let query = scene.node.query();
    let ledger = query.ledger()?;

    let ports = query.ports()?;
    let mut table = Table::new(["port", "of", "received", "dropped there", "sent", "dropped there"]);
    for port in &ports {
        let packets = [port.rx_packets, port.rx_drops, port.tx_packets, port.tx_drops].map(count);
        table.row([port.info.spec.name.clone(), port.role.clone()].into_iter().chain(packets));
    }
    report.section(
        "ports",
        "Packets by port (podrouter show ports)",
        &table,
        serde_json::to_value(&ports)?,
    )?;

    let drops: Vec<_> = query.drops()?.into_iter().filter(|row| row.packets > 0).collect();
    let mut table = Table::new(["port", "direction", "reason", "packets", "meaning"]);
    for row in &drops {
        let packets = count(row.packets);
        table.row([&row.port, &row.direction, &row.reason, &packets, &row.description]);
    }
    report.section("drops", "Drops (podrouter show drops)", &table, serde_json::to_value(&drops)?)?;

    let mut table = Table::new(["in", "packets", "out", "packets"]);
    let inward = [
        ("received", ledger.rx),
        ("from other workers", ledger.handed_in),
        ("made here", ledger.originated),
        ("more by segmentation", ledger.split_extra),
    ];
    let outward = [
        ("sent", ledger.tx),
        ("dropped", ledger.drops),
        ("to other workers", ledger.handed_out),
        ("answered or absorbed", ledger.consumed + ledger.punts),
        ("waiting for a neighbour", ledger.held),
    ];
    for (at, &(right, out)) in outward.iter().enumerate() {
        let (left, packets) = inward.get(at).map_or(("", String::new()), |&(name, n)| (name, count(n)));
        table.row([left, &packets, right, &count(out)]);
    }
    let sum = |side: &[(&str, u64)]| count(side.iter().map(|(_, packets)| packets).sum());
    table.row(["together", &sum(&inward), "together", &sum(&outward)]);
    report.section(
        "ledger",
        "The ledger, all workers: it adds up (podrouter show workers)",
        &table,
        json!({ "adds-up": ledger.imbalance() == 0, "sum": ledger }),
    )
}
