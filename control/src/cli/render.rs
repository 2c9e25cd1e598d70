//! What each answer looks like as text. Filters and order are `select`'s.

use std::io::{self, Write};
use std::net::SocketAddr;

use proto::control;
use proto::dataplane::{
    DropStatus, FlowStatus, FlowUse, FlowWay, Frontend, Ledger, NeighbourStatus, Policy, PolicyStatus,
    PortKind, PortStatus, RouteStatus, Rule, Status, Trace, TraceVerdict, WorkerFlows, WorkerStatus,
};

use crate::table::{Cell, Style, Table, duration};

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
        "  cluster    {}, {}; here {}",
        things(s.nodes.into(), "node", style),
        things(s.pods.into(), "pod", style),
        things(s.attachments.into(), "attachment", style)
    )
}

/// `1 port`, `2 ports`.
fn things(n: u64, thing: &str, style: Style) -> String {
    format!("{} {thing}{}", style.count(n), if n == 1 { "" } else { "s" })
}

pub(crate) fn ports(ports: &[PortStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&[
        "PORT",
        "KIND",
        "STATE",
        ">WORKER",
        ">MTU",
        "MAC",
        ">RX-PACKETS",
        ">RX-BYTES",
        ">RX-DROPS",
        ">TX-PACKETS",
        ">TX-BYTES",
        ">TX-DROPS",
        "ROLE",
        "DEVICE",
    ]);
    for port in ports {
        let spec = &port.info.spec;
        let (kind, device) = match &spec.kind {
            PortKind::Tap => ("tap", String::new()),
            PortKind::Vhost { path, server: true } => ("vhost-server", path.display().to_string()),
            PortKind::Vhost { path, server: false } => ("vhost-client", path.display().to_string()),
            PortKind::Ethdev { device, .. } => ("ethdev", device.clone()),
            PortKind::Memory { rx_pcap, .. } => {
                ("memory", rx_pcap.as_ref().map_or_else(String::new, |path| path.display().to_string()))
            }
        };
        table.row([
            spec.name.as_str().into(),
            kind.into(),
            Cell::from(if port.up { "up" } else { "down" }).alert_if(!port.up),
            port.worker.to_string().into(),
            spec.mtu.to_string().into(),
            port.info.mac.to_string().into(),
            style.count(port.rx_packets).into(),
            style.bytes(port.rx_bytes).into(),
            style.count(port.rx_drops).into(),
            style.count(port.tx_packets).into(),
            style.bytes(port.tx_bytes).into(),
            style.count(port.tx_drops).into(),
            port.role.as_str().into(),
            device.into(),
        ]);
    }
    table.print(style, out)
}

pub(crate) fn routes(routes: &[RouteStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["PREFIX", ">NETWORK", "ORIGIN", "TARGET"]);
    for route in routes {
        table.row([
            route.prefix.to_string().into(),
            route.network.to_string().into(),
            route.origin.as_str().into(),
            route.target.as_str().into(),
        ]);
    }
    table.print(style, out)
}

/// A line each backend; a service without any has a line too, since it is why connections fail.
pub(crate) fn services(services: &[Frontend], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["SERVICE", ">NETWORK", "FRONTEND", "BACKEND", "STATE"]);
    for Frontend { key, name, backends } in services {
        let socket = SocketAddr::new(key.address, key.port);
        let mut line = |backend: Cell, state: Cell| {
            let frontend = format!("{socket}/{}", key.protocol);
            table.row([
                name.as_str().into(),
                key.network.to_string().into(),
                frontend.into(),
                backend,
                state,
            ]);
        };
        if backends.is_empty() {
            line("".into(), Cell::from("no backend").alert_if(true));
        }
        for backend in backends {
            let socket = SocketAddr::new(backend.address, backend.port).to_string();
            line(socket.into(), backend.state.name().into());
        }
    }
    table.print(style, out)
}

/// A line each endpoint and direction.
pub(crate) fn policies(policies: &[PolicyStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["ENDPOINT", "STATE", "DIRECTION", ">RULES"]);
    for row in policies {
        for (direction, rules) in directions(&row.policy) {
            table.row([
                row.policy.endpoint.as_str().into(),
                (if row.present { "present" } else { "awaited" }).into(),
                direction.into(),
                rules.map_or_else(|| "open".to_owned(), |rules| style.count(rules.len() as u64)).into(),
            ]);
        }
    }
    table.print(style, out)
}

/// A line each rule, in the order in which they are asked, and one for what none of them matches.
pub(crate) fn rules(policies: &[PolicyStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["ENDPOINT", "DIRECTION", ">RULE", "SAYS"]);
    for row in policies {
        for (direction, rules) in directions(&row.policy) {
            let mut line = |rule: Cell, says: Cell| {
                table.row([row.policy.endpoint.as_str().into(), direction.into(), rule, says]);
            };
            for rule in rules.into_iter().flatten() {
                line(rule.id.to_string().into(), rule.to_string().into());
            }
            let rest = if rules.is_some() { "deny what no rule matches" } else { "allow anything" };
            line("".into(), rest.into());
        }
    }
    table.print(style, out)
}

fn directions(policy: &Policy) -> [(&'static str, Option<&Vec<Rule>>); 2] {
    [("ingress", policy.ingress.as_ref()), ("egress", policy.egress.as_ref())]
}

pub(crate) fn neighbours(list: &[NeighbourStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let age = if style.people { ">AGE" } else { ">AGE-MS" };
    let mut table = Table::new(&["PORT", "ADDRESS", "MAC", "STATE", age, ">HELD"]);
    for neighbour in list {
        table.row([
            neighbour.port.as_str().into(),
            neighbour.address.to_string().into(),
            neighbour.mac.map_or_else(String::new, |mac| mac.to_string()).into(),
            Cell::from(neighbour.state.as_str()).alert_if(neighbour.state == "failed"),
            style.milliseconds(neighbour.age_ms).into(),
            neighbour.held.to_string().into(),
        ]);
    }
    table.print(style, out)
}

/// Three tables: the workers themselves, their ledgers, and what they did by the flow table, both with a total.
pub(crate) fn workers(workers: &[WorkerStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&[">WORKER", "KIND", ">CORE", "STATE", ">BUSY", ">GENERATION", "PORTS"]);
    for worker in workers {
        table.row([
            worker.id.to_string().into(),
            worker.kind.as_str().into(),
            worker.core.map_or_else(String::new, |core| core.to_string()).into(),
            (if worker.parked { "parked" } else { "running" }).into(),
            format!("{}.{}%", worker.busy_permille / 10, worker.busy_permille % 10).into(),
            worker.generation.to_string().into(),
            worker.ports.join(",").into(),
        ]);
    }
    table.print(style, out)?;
    writeln!(out)?;

    let mut table = Table::new(&[
        ">WORKER",
        ">RX",
        ">HANDED-IN",
        ">ORIGINATED",
        ">SPLIT-EXTRA",
        ">TX",
        ">DROPS",
        ">PUNTS",
        ">HANDED-OUT",
        ">HELD",
        ">CONSUMED",
        ">IMBALANCE",
    ]);
    for worker in workers {
        table.row(ledger_row(&worker.id.to_string(), &worker.ledger, style));
    }
    table.row(ledger_row("all", &total(workers), style));
    table.print(style, out)?;
    writeln!(out)?;

    let mut table =
        Table::new(&[">WORKER", ">REPLAYED", ">REVALIDATED", ">DECIDED", ">MADE", ">UNTRACKED", ">EXPIRED"]);
    let counts = |flows: &WorkerFlows| {
        let WorkerFlows { replayed, revalidated, decided, made, untracked, expired } = *flows;
        [replayed, revalidated, decided, made, untracked, expired]
    };
    let mut line = |name: String, counts: [u64; 6]| {
        let mut row = vec![name.into()];
        row.extend(counts.map(|n| Cell::from(style.count(n))));
        table.row(row);
    };
    let mut all = [0_u64; 6];
    for worker in workers {
        let counts = counts(&worker.flows);
        all = std::array::from_fn(|at| all[at].saturating_add(counts[at]));
        line(worker.id.to_string(), counts);
    }
    line("all".to_owned(), all);
    table.print(style, out)
}

fn ledger_row(name: &str, ledger: &Ledger, style: Style) -> Vec<Cell> {
    let Ledger { rx, handed_in, originated, split_extra, tx, drops, punts, handed_out, held, consumed } =
        *ledger;
    let counts = [rx, handed_in, originated, split_extra, tx, drops, punts, handed_out, held, consumed];
    let imbalance = ledger.imbalance();
    let mut row = vec![name.into()];
    row.extend(counts.map(|n| Cell::from(style.count(n))));
    row.push(Cell::from(imbalance.to_string()).alert_if(imbalance != 0));
    row
}

/// Counters of a process that runs for centuries do not overflow; a forged answer must not stop the program all the same.
fn total(workers: &[WorkerStatus]) -> Ledger {
    workers.iter().fold(Ledger::default(), |sum, worker| {
        let l = &worker.ledger;
        Ledger {
            rx: sum.rx.saturating_add(l.rx),
            handed_in: sum.handed_in.saturating_add(l.handed_in),
            originated: sum.originated.saturating_add(l.originated),
            split_extra: sum.split_extra.saturating_add(l.split_extra),
            tx: sum.tx.saturating_add(l.tx),
            drops: sum.drops.saturating_add(l.drops),
            punts: sum.punts.saturating_add(l.punts),
            handed_out: sum.handed_out.saturating_add(l.handed_out),
            held: sum.held.saturating_add(l.held),
            consumed: sum.consumed.saturating_add(l.consumed),
        }
    })
}

/// A line each connection. OUT and BACK are where its packets leave, as they go and as they come back; `-`: not decided.
pub(crate) fn flows(flows: &[FlowStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let [age, idle, left] = if style.people {
        [">AGE", ">IDLE", ">LEFT"]
    } else {
        [">AGE-SECONDS", ">IDLE-SECONDS", ">LEFT-SECONDS"]
    };
    let mut table = Table::new(&[
        "PROTOCOL",
        "CLIENT",
        "SERVICE",
        "DESTINATION",
        "SOURCE",
        "STATE",
        age,
        idle,
        left,
        "PORT",
        "OUT",
        "BACK",
        "RULES",
    ]);
    let seconds = |n: u64| if style.people { duration(n) } else { n.to_string() };
    let way = |way: &Option<FlowWay>| match way {
        Some(FlowWay { output, next_hop: Some(next_hop), .. }) => format!("{output}:{next_hop}"),
        Some(FlowWay { output, next_hop: None, .. }) => output.clone(),
        None => String::new(),
    };
    let socket = |socket: Option<SocketAddr>| socket.map_or_else(String::new, |socket| socket.to_string());
    let rule = |rule: Option<u32>| rule.map_or_else(|| "-".to_owned(), |rule| rule.to_string());
    for flow in flows {
        let rules = match (flow.egress_rule, flow.ingress_rule) {
            (None, None) => String::new(),
            (egress, ingress) => format!("{},{}", rule(egress), rule(ingress)),
        };
        table.row([
            flow.protocol.to_string().into(),
            flow.client.to_string().into(),
            socket(flow.service).into(),
            flow.destination.to_string().into(),
            socket(flow.masqueraded).into(),
            flow.state.as_str().into(),
            seconds(flow.age_seconds).into(),
            seconds(flow.idle_seconds).into(),
            seconds(flow.left_seconds).into(),
            flow.owner.as_str().into(),
            way(&flow.forward).into(),
            way(&flow.reply).into(),
            rules.into(),
        ]);
    }
    table.print(style, out)
}

/// A line each step; the last one is the verdict.
pub(crate) fn trace(trace: &Trace, style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["STEP", "SAYS"]);
    let last = trace.steps.len().saturating_sub(1);
    let dropped = matches!(trace.verdict, TraceVerdict::Drop { .. });
    for (at, step) in trace.steps.iter().enumerate() {
        table
            .row([step.step.as_str().into(), Cell::from(step.says.as_str()).alert_if(dropped && at == last)]);
    }
    table.print(style, out)
}

pub(crate) fn drops(drops: &[DropStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["PORT", "DIRECTION", "REASON", ">PACKETS", "DESCRIPTION"]);
    for drop in drops {
        table.row([
            drop.port.as_str().into(),
            drop.direction.as_str().into(),
            drop.reason.as_str().into(),
            style.count(drop.packets).into(),
            drop.description.as_str().into(),
        ]);
    }
    table.print(style, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::dataplane::{PortInfo, PortSpec};
    use wire::MacAddr;

    const PEOPLE: Style = Style { people: true, colour: false };
    const PROGRAMS: Style = Style { people: false, colour: false };

    fn text(print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

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
            committed: 41,
            nodes: 3,
            pods: 12,
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
  cluster    3 nodes, 12 pods; here 4 attachments
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

    #[test]
    fn a_port() {
        let port = PortStatus {
            info: PortInfo {
                id: 1,
                spec: PortSpec {
                    name: "p0123456789ab".into(),
                    kind: PortKind::Vhost { path: "/run/podrouter/vhost/p1.sock".into(), server: true },
                    mac: None,
                    mtu: 1500,
                },
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
            },
            worker: 0,
            up: false,
            role: "default/web-1".into(),
            rx_packets: 12_345_678,
            rx_bytes: 1_500,
            rx_drops: 0,
            tx_packets: 9,
            tx_bytes: 999,
            tx_drops: 1,
        };
        assert_eq!(
            text(|out| ports(std::slice::from_ref(&port), PEOPLE, out)),
            "\
PORT           KIND          STATE  WORKER   MTU  MAC                RX-PACKETS  RX-BYTES  RX-DROPS  TX-PACKETS  TX-BYTES  TX-DROPS  ROLE           DEVICE
p0123456789ab  vhost-server  down        0  1500  02:00:00:00:00:01       12.3M    1.50kB         0           9      999B         1  default/web-1  /run/podrouter/vhost/p1.sock
"
        );
        let whole = text(|out| ports(&[port], PROGRAMS, out));
        assert!(whole.contains(" 12345678 ") && whole.contains(" 1500 "), "{whole}");
    }

    #[test]
    fn routes_and_neighbours() {
        let route = |prefix: &str, origin: &str, target: &str| RouteStatus {
            network: 0,
            prefix: prefix.parse().unwrap(),
            origin: origin.into(),
            target: target.into(),
        };
        let rows = [
            route("0.0.0.0/0", "configured", "via 192.168.77.1 dev uplink"),
            route("10.244.1.5/32", "endpoint", "default/web-1 dev p1"),
        ];
        assert_eq!(
            text(|out| routes(&rows, PEOPLE, out)),
            "\
PREFIX         NETWORK  ORIGIN      TARGET
0.0.0.0/0            0  configured  via 192.168.77.1 dev uplink
10.244.1.5/32        0  endpoint    default/web-1 dev p1
"
        );
        let list = [NeighbourStatus {
            port: "uplink".into(),
            address: "fe80::9".parse().unwrap(),
            mac: None,
            state: "incomplete".into(),
            age_ms: 3_450,
            held: 2,
        }];
        assert_eq!(
            text(|out| neighbours(&list, PEOPLE, out)),
            "\
PORT    ADDRESS  MAC  STATE        AGE  HELD
uplink  fe80::9  -    incomplete  3.4s     2
"
        );
        assert_eq!(
            text(|out| neighbours(&list, PROGRAMS, out)),
            "\
PORT    ADDRESS  MAC  STATE       AGE-MS  HELD
uplink  fe80::9  -    incomplete    3450     2
"
        );
    }

    #[test]
    fn workers_with_their_ledger() {
        let list = [
            WorkerStatus {
                id: 0,
                kind: "poll".into(),
                core: Some(2),
                ports: vec!["uplink".into(), "p1".into()],
                generation: 42,
                parked: false,
                icmp_errors_suppressed: 0,
                busy_permille: 123,
                ledger: Ledger { rx: 100, tx: 60, drops: 10, handed_out: 30, ..Ledger::default() },
                flows: WorkerFlows {
                    replayed: 70,
                    revalidated: 6,
                    decided: 20,
                    made: 15,
                    untracked: 1,
                    expired: 2,
                },
            },
            WorkerStatus {
                id: 1,
                kind: "kernel".into(),
                parked: true,
                generation: 42,
                ledger: Ledger { handed_in: 30, tx: 28, ..Ledger::default() },
                ..WorkerStatus::default()
            },
        ];
        assert_eq!(
            text(|out| workers(&list, PEOPLE, out)),
            "\
WORKER  KIND    CORE  STATE     BUSY  GENERATION  PORTS
     0  poll       2  running  12.3%          42  uplink,p1
     1  kernel     -  parked    0.0%          42  -

WORKER   RX  HANDED-IN  ORIGINATED  SPLIT-EXTRA  TX  DROPS  PUNTS  HANDED-OUT  HELD  CONSUMED  IMBALANCE
     0  100          0           0            0  60     10      0          30     0         0          0
     1    0         30           0            0  28      0      0           0     0         0          2
   all  100         30           0            0  88     10      0          30     0         0          2

WORKER  REPLAYED  REVALIDATED  DECIDED  MADE  UNTRACKED  EXPIRED
     0        70            6       20    15          1        2
     1         0            0        0     0          0        0
   all        70            6       20    15          1        2
"
        );
    }

    #[test]
    fn a_flow_and_a_trace() {
        let way = |output: &str, next_hop| FlowWay {
            input: "p1".into(),
            output: output.into(),
            next_hop,
            generation: 42,
        };
        let plain = FlowStatus {
            network: 0,
            protocol: proto::dataplane::Protocol(58),
            client: "[fd00::2]:9".parse().unwrap(),
            service: None,
            destination: "[fd00::3]:0".parse().unwrap(),
            masqueraded: None,
            state: "new".into(),
            joined: false,
            age_seconds: 61,
            idle_seconds: 1,
            left_seconds: 30,
            owner: "p1".into(),
            forward: Some(way("p2", None)),
            reply: None,
            egress_rule: None,
            ingress_rule: None,
        };
        let translated = FlowStatus {
            protocol: proto::dataplane::Protocol(6),
            client: "10.0.0.1:4000".parse().unwrap(),
            service: Some("10.96.0.1:80".parse().unwrap()),
            destination: "10.0.0.2:8080".parse().unwrap(),
            masqueraded: Some("192.0.2.1:4000".parse().unwrap()),
            state: "established".into(),
            forward: Some(way("uplink", Some("192.0.2.9".parse().unwrap()))),
            reply: Some(way("p1", None)),
            ingress_rule: Some(7),
            ..plain.clone()
        };
        assert_eq!(
            text(|out| flows(&[translated, plain], PEOPLE, out)),
            "\
PROTOCOL  CLIENT         SERVICE       DESTINATION    SOURCE          STATE         AGE  IDLE  LEFT  PORT  OUT               BACK  RULES
tcp       10.0.0.1:4000  10.96.0.1:80  10.0.0.2:8080  192.0.2.1:4000  established  1m1s    1s   30s  p1    uplink:192.0.2.9  p1    -,7
icmpv6    [fd00::2]:9    -             [fd00::3]:0    -               new          1m1s    1s   30s  p1    p2                -     -
"
        );
        let step =
            |step: &str, says: &str| proto::dataplane::TraceStep { step: step.into(), says: says.into() };
        let trace_of = Trace {
            generation: 1,
            steps: vec![step("flow", "not known: it is decided"), step("verdict", "dropped as no-route")],
            verdict: TraceVerdict::Drop { reason: "no-route".into(), description: String::new(), told: true },
        };
        assert_eq!(
            text(|out| trace(&trace_of, PEOPLE, out)),
            "STEP     SAYS\nflow     not known: it is decided\nverdict  dropped as no-route\n"
        );
    }

    #[test]
    fn a_drop() {
        let list = [DropStatus {
            port: "p1".into(),
            direction: "rx".into(),
            reason: "source-address".into(),
            description: "the source address is not the pod's".into(),
            packets: 20_000,
        }];
        assert_eq!(
            text(|out| drops(&list, PEOPLE, out)),
            "\
PORT  DIRECTION  REASON          PACKETS  DESCRIPTION
p1    rx         source-address    20.0k  the source address is not the pod's
"
        );
    }
}
