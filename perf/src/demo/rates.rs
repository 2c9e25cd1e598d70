//! Packets a second and latency, by pktgen: through the router between two DPDK pods, and on DPDK's null and ring
//! drivers alone, which shows what is the generator's own.

use anyhow::Result;
use lab::pktgen::{measure, virtio_user};
use lab::pod::Family;
use lab::table::Table;
use serde_json::{Value, json};

use super::{Report, Scene};

/// A rate that the path can carry on two shared cores: latency beyond it would be the time in full queues.
const LATENCY_RATE: &str = "10k";

/// The rates as people read them.
const FLAT_OUT: &str = "all it can";
const STEADY: &str = "10 000/s";

/// Flat out for the rate, at a steady rate for the latency.
pub(crate) fn show(scene: &mut Scene, report: &mut Report, seconds: u32) -> Result<()> {
    let node = &scene.node;
    let mut rows = Rows { table: Table::new(HEAD), results: Vec::new() };
    // Nothing comes back from the null driver, so that it has no latency.
    for (device, rate, said) in
        [("net_null0", "max", FLAT_OUT), ("net_ring0", "max", FLAT_OUT), ("net_ring0", LATENCY_RATE, STEADY)]
    {
        let driver = device.trim_end_matches('0');
        report.progress(&format!("pktgen on {driver} alone, {said}, for {seconds} s"));
        let found = measure(node, &node.host, &["--vdev", device, "--rate", rate], seconds)?;
        rows.add(&format!("{driver} alone"), said, &found);
    }
    let sender = &scene.sender;
    let device = virtio_user(sender)?;
    for (family, named) in Family::BOTH.into_iter().zip(["IPv4", "IPv6"]) {
        let (own, to) = (sender.address(family), scene.dpdk.address(family));
        for (rate, said) in [("max", FLAT_OUT), (LATENCY_RATE, STEADY)] {
            report.progress(&format!(
                "pktgen from one DPDK pod to the other and back by {named}, {said}, for {seconds} s"
            ));
            let options =
                ["--vdev", &device, "--address", &own, "--dst", &to, "--flows", "64", "--rate", rate];
            let found = measure(node, &sender.netns, &options, seconds)?;
            if found["received"] == 0 {
                report.faults.push(format!("nothing came back through the DPDK pod by {named}: {found}"));
            }
            rows.add(&format!("pod to pod and back, {named}"), said, &found);
        }
    }
    scene.reflector.check()?;
    report.section(
        "rates",
        "Packets by pktgen, shortest frames (flat out, what is lost is beyond what the cores here can do)",
        &rows.table,
        Value::Array(rows.results),
    )
}

const HEAD: [&str; 8] = ["path", "offered", "sent/s", "back/s", "lost %", "p50 µs", "p99 µs", "max µs"];

struct Rows {
    table: Table,
    results: Vec<Value>,
}

impl Rows {
    fn add(&mut self, path: &str, offered: &str, found: &Value) {
        let rate = |field: &str| found[field].as_f64().map_or("-".to_owned(), |rate| format!("{rate:.0}"));
        let sent = found["sent"].as_f64().unwrap_or(0.0);
        let received = found["received"].as_f64().unwrap_or(0.0);
        // The null driver swallows everything, and what it seems to give back are its own empty packets.
        let back = received > 0.0 && !path.starts_with("net_null");
        let lost = if back && sent > 0.0 {
            format!("{:.3}", 100.0 * (1.0 - received / sent))
        } else {
            "-".to_owned()
        };
        let latency = |field: &str| match found["latency_ns"][field].as_f64() {
            // Flat out it would be the time in full queues.
            Some(time) if offered != FLAT_OUT => format!("{:.1}", time / 1e3),
            _ => "-".to_owned(),
        };
        self.table.row([
            path.to_owned(),
            offered.to_owned(),
            rate("sent_pps"),
            if back { rate("received_pps") } else { "-".to_owned() },
            lost,
            latency("p50"),
            latency("p99"),
            latency("max"),
        ]);
        self.results.push(json!({ "path": path, "offered": offered, "pktgen": found }));
    }
}
