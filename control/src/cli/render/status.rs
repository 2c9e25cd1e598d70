//! Both halves of `podrouter status`.

use std::io::{self, Write};

use proto::control;
use proto::dataplane::{FlowUse, Status};

use crate::table::{Style, duration};

/// Both halves of `podrouter status`: what is wrong first, then what answered. `errors` tells of a half that is away.
pub(crate) fn status(
    dataplane: Option<&Status>,
    control: Option<&control::Status>,
    errors: &[String],
    style: Style,
    out: &mut impl Write,
) -> io::Result<()> {
    let warnings = dataplane.iter().flat_map(|s| s.warnings.iter().map(|w| format!("data plane: {w}")));
    let warnings =
        warnings.chain(control.iter().flat_map(|s| s.warnings.iter().map(|w| format!("control: {w}"))));
    let mut any = false;
    for (word, text) in errors.iter().map(|e| ("error", e.clone())).chain(warnings.map(|w| ("warning", w))) {
        writeln!(out, "{} {}", style.alert(&format!("{word}:")), text.replace('\n', "\n  "))?;
        any = true;
    }
    if any {
        writeln!(out)?;
    }
    match dataplane {
        Some(status) => dataplane_half(status, style, out)?,
        None => writeln!(out, "Data plane   {}", style.alert("away"))?,
    }
    writeln!(out)?;
    match control {
        Some(status) => control_half(status, style, out),
        None => writeln!(out, "Control      {}", style.alert("away")),
    }
}

fn dataplane_half(s: &Status, style: Style, out: &mut impl Write) -> io::Result<()> {
    let up = duration(s.uptime_seconds);
    writeln!(out, "Data plane   {}, pid {}, up {up}, instance {}", s.version, s.pid, s.instance)?;
    let behind = if s.committed < s.generation {
        style.alert(&format!("some workers still have {}", s.committed))
    } else {
        "every worker has it".to_owned()
    };
    writeln!(out, "  generation {}, {behind}", s.generation)?;
    let hugepages = if s.hugepages { "with hugepages" } else { "without hugepages" };
    writeln!(out, "  DPDK       {}, {hugepages}", s.dpdk.trim_start_matches("DPDK "))?;
    let (used, mbufs) = (style.count(s.mbufs_in_use.into()), style.count(s.mbufs.into()));
    writeln!(out, "  mbufs      {used} of {mbufs} in use")?;
    writeln!(
        out,
        "  tables     {}, {}, {}",
        things(s.ports.into(), "port", style),
        things(s.endpoints.into(), "endpoint", style),
        things(s.routes, "route", style)
    )?;
    let used = |table: FlowUse| {
        let text = format!("{} of {}", style.count(table.used.into()), style.count(table.capacity.into()));
        // Eviction has begun, or is near.
        if table.used > table.capacity / 16 * 15 { style.alert(&text) } else { text }
    };
    writeln!(out, "  flows      IPv4 {}, IPv6 {} in use", used(s.flows4), used(s.flows6))?;
    writeln!(out, "  workers    {}", s.workers)
}

fn control_half(s: &control::Status, style: Style, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "Control      {}, pid {}, node {}", s.version, s.pid, s.node)?;
    let synced = if s.synced { "read whole".to_owned() } else { style.alert("not yet read whole") };
    writeln!(out, "  source     {}, {synced}", s.source)?;
    let connected = if s.connected { "connected".to_owned() } else { style.alert("not connected") };
    writeln!(out, "  data plane {connected}, generation {} committed", s.committed)?;
    writeln!(
        out,
        "  cluster    {}, {}, {}, {}; here {}",
        things(s.nodes.into(), "node", style),
        things(s.pods.into(), "pod", style),
        things(s.services.into(), "Service", style),
        match s.policies {
            1 => "1 NetworkPolicy".to_owned(),
            n => format!("{} NetworkPolicies", style.count(n.into())),
        },
        things(s.attachments.into(), "attachment", style)
    )?;
    match &s.unready {
        Some(why) => writeln!(out, "  pods       {}: {why}", style.alert("none can be attached")),
        None => Ok(()),
    }
}

/// `1 port`, `2 ports`.
fn things(n: u64, thing: &str, style: Style) -> String {
    format!("{} {thing}{}", style.count(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    const PEOPLE: Style = Style { people: true, colour: false };
    const PROGRAMS: Style = Style { people: false, colour: false };

    fn dataplane_status() -> Status {
        Status {
            version: "0.1.0".into(),
            instance: "4f2a".into(),
            pid: 812,
            uptime_seconds: 7_500,
            generation: 42,
            committed: 42,
            dpdk: "DPDK 22.11.11".into(),
            hugepages: false,
            mbufs: 65_535,
            mbufs_in_use: 1_200,
            ports: 5,
            endpoints: 1,
            routes: 1_000_000,
            workers: 3,
            flows4: FlowUse { used: 16_000, capacity: 1_048_576 },
            flows6: FlowUse { used: 3, capacity: 65_536 },
            warnings: vec!["the CPU is older than x86-64-v3".into()],
        }
    }

    fn control_status() -> control::Status {
        control::Status {
            version: "0.1.0".into(),
            pid: 900,
            node: "node-1".into(),
            source: "manifests /etc/podrouter/manifests".into(),
            synced: true,
            connected: false,
            unready: Some("the data plane is away: not connected yet".into()),
            committed: 41,
            nodes: 3,
            pods: 12,
            namespaces: 4,
            services: 6,
            endpoint_slices: 7,
            policies: 1,
            attachments: 4,
            warnings: vec!["Node node-2 lacks the annotation podrouter.io/router-addresses".into()],
        }
    }

    #[test]
    fn status_of_both() {
        let (dataplane, control) = (dataplane_status(), control_status());
        assert_eq!(
            text(|out| status(Some(&dataplane), Some(&control), &[], PEOPLE, out)),
            "\
warning: data plane: the CPU is older than x86-64-v3
warning: control: Node node-2 lacks the annotation podrouter.io/router-addresses

Data plane   0.1.0, pid 812, up 2h5m, instance 4f2a
  generation 42, every worker has it
  DPDK       22.11.11, without hugepages
  mbufs      1200 of 65.5k in use
  tables     5 ports, 1 endpoint, 1.00M routes
  flows      IPv4 16.0k of 1.04M, IPv6 3 of 65.5k in use
  workers    3

Control      0.1.0, pid 900, node node-1
  source     manifests /etc/podrouter/manifests, read whole
  data plane not connected, generation 41 committed
  cluster    3 nodes, 12 pods, 6 Services, 1 NetworkPolicy; here 4 attachments
  pods       none can be attached: the data plane is away: not connected yet
"
        );
    }

    #[test]
    fn status_of_one_half() {
        let mut behind = dataplane_status();
        behind.warnings.clear();
        behind.committed = 40;
        let errors = ["cannot reach podrouter-control\nis it running?".to_owned()];
        let found = text(|out| status(Some(&behind), None, &errors, PROGRAMS, out));
        let (head, tail) = (
            "error: cannot reach podrouter-control\n  is it running?\n\nData plane",
            "\n\nControl      away\n",
        );
        assert!(found.starts_with(head) && found.ends_with(tail), "{found}");
        assert!(found.contains("generation 42, some workers still have 40\n"), "{found}");
        let mut well = control_status();
        well.warnings.clear();
        let colour = Style { people: true, colour: true };
        let found = text(|out| status(None, Some(&well), &[], colour, out));
        let head = "Data plane   \x1b[31maway\x1b[0m\n\nControl ";
        assert!(found.starts_with(head), "{found:?}");
    }
}
