//! Rows of the tables: ports, routes, services, policies and their rules, neighbours.

use std::io::{self, Write};
use std::net::SocketAddr;

use proto::control::Endpoints;
use proto::dataplane::{
    BackendState, DeviceCounter, DeviceStatus, Frontend, Limit, Limits, NeighbourStatus, Policy,
    PolicyStatus, PortKind, PortStatus, RouteStatus, Rule,
};

use crate::table::{Cell, Style, Table};

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
        ">INGRESS",
        ">EGRESS",
        "ROLE",
        "DEVICE",
    ]);
    let limited = |limit: Option<Limit>| limit.map_or_else(String::new, |limit| style.rate(limit.rate));
    for port in ports {
        let spec = &port.info.spec;
        let (kind, device) = match &spec.kind {
            PortKind::Tap => ("tap", String::new()),
            PortKind::Vhost { path, server: true, .. } => ("vhost-server", path.display().to_string()),
            PortKind::Vhost { path, server: false, .. } => ("vhost-client", path.display().to_string()),
            PortKind::Ethdev(ethdev) => ("ethdev", ethdev.device.clone()),
            PortKind::Vxlan { uplink, vni, .. } => ("vxlan", format!("{uplink} vni {vni}")),
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
            limited(spec.limits.ingress).into(),
            limited(spec.limits.egress).into(),
            port.role.as_str().into(),
            device.into(),
        ]);
    }
    table.print(style, out)?;
    // One alone is looked at more closely.
    let [port] = ports else { return Ok(()) };
    limits(&port.info.spec.limits, style, out)?;
    port.device.as_ref().map_or(Ok(()), |device| self::device(device, port.up, out))
}

/// Rates and bursts of the pod behind a port, where there are any.
fn limits(limits: &Limits, style: Style, out: &mut impl Write) -> io::Result<()> {
    if limits.is_none() {
        return Ok(());
    }
    writeln!(out)?;
    for (direction, limit) in [("ingress", limits.ingress), ("egress", limits.egress)] {
        match limit {
            None => writeln!(out, "{direction:11}  unlimited")?,
            Some(Limit { rate, burst }) => {
                writeln!(out, "{direction:11}  {}, in bursts of {}", style.rate(rate), style.bytes(burst))?;
            }
        }
    }
    Ok(())
}

/// What a DPDK device says of itself; of its counters those that have counted.
fn device(device: &DeviceStatus, up: bool, out: &mut impl Write) -> io::Result<()> {
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let link = match device.speed_mbps {
        Some(speed) if up => format!("up, {speed} Mbit/s"),
        _ if up => "up".to_owned(),
        _ => "down".to_owned(),
    };
    writeln!(out)?;
    writeln!(out, "driver       {}", device.driver)?;
    writeln!(out, "link         {link}")?;
    writeln!(out, "queues       {} to receive, {} to send", device.rx_queues, device.tx_queues)?;
    writeln!(out, "rx offloads  {}", list(&device.rx_offloads))?;
    writeln!(out, "tx offloads  {}", list(&device.tx_offloads))?;
    let counted: Vec<_> = device.counters.iter().filter(|counter| counter.count > 0).collect();
    let width = counted.iter().map(|counter| counter.name.len()).max().unwrap_or(0);
    for DeviceCounter { name, count } in counted {
        writeln!(out, "  {name:width$}  {count}")?;
    }
    Ok(())
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

/// A line each backend; a service that none serves has a line for that too, since it is why connections fail.
pub(crate) fn services(services: &[Frontend], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["SERVICE", ">NETWORK", "FRONTEND", "BACKEND", "STATE"]);
    for Frontend { key, name, backends, drops, sources, affinity_seconds } in services {
        let socket = SocketAddr::new(key.address, key.port);
        let mut line = |backend: Cell, state: Cell| {
            let frontend = format!("{socket}/{}", key.protocol);
            table.row([(**name).into(), key.network.to_string().into(), frontend.into(), backend, state]);
        };
        let serves = |state: &dyn Fn(BackendState) -> bool| backends.iter().any(|own| state(own.state));
        let all = serves(&|state| state == BackendState::Serving);
        let others = all || serves(&|state| state == BackendState::ServingOthers);
        if !others {
            let why = match (drops, serves(&|state| state == BackendState::ServingOwn)) {
                (true, true) => "none here: others are dropped",
                (true, false) => "none here: dropped",
                (false, _) => "none: refused",
            };
            line("".into(), Cell::from(why).alert_if(true));
        }
        if let Some(seconds) = affinity_seconds {
            line("".into(), format!("a client stays for {seconds} s").into());
        }
        if !sources.is_empty() {
            let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
            line("".into(), format!("only from {}", sources.join(", ")).into());
        }
        for backend in &**backends {
            let socket = SocketAddr::new(backend.address, backend.port).to_string();
            line(socket.into(), backend.state.name().into());
        }
    }
    table.print(style, out)
}

/// What is to be said of all, and a line each.
pub(crate) fn endpoints(all: &Endpoints, style: Style, out: &mut impl Write) -> io::Result<()> {
    for line in &all.says {
        writeln!(out, "{}", style.alert(line))?;
    }
    let mut table = Table::new(&["PORT", "PROTOCOL", "ENDPOINT", "NODE", "CONDITIONS", "CLUSTER", "WORLD"]);
    for row in &all.endpoints {
        table.row([
            row.port.as_str().into(),
            row.protocol.to_string().into(),
            row.endpoint.to_string().into(),
            row.node.as_str().into(),
            row.conditions.as_str().into(),
            row.cluster.as_str().into(),
            row.world.as_str().into(),
        ]);
    }
    table.print(style, out)
}

/// A line each endpoint and direction.
pub(crate) fn policies(policies: &[PolicyStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["ENDPOINT", "STATE", "DIRECTION", ">RULES", ">DENIED"]);
    for row in policies {
        for (direction, rules, denied) in directions(row) {
            table.row([
                row.policy.endpoint.as_str().into(),
                (if row.present { "present" } else { "awaited" }).into(),
                direction.into(),
                rules.map_or_else(|| "open".to_owned(), |rules| style.count(rules.len() as u64)).into(),
                rules.map_or_else(String::new, |_| style.count(denied)).into(),
            ]);
        }
    }
    table.print(style, out)
}

/// A line each rule, in the order in which they are asked, and one for what none of them matches.
pub(crate) fn rules(policies: &[PolicyStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["ENDPOINT", "DIRECTION", ">RULE", "NAME", "SAYS"]);
    for row in policies {
        for (direction, rules, denied) in directions(row) {
            let mut line = |rule: Cell, name: Cell, says: Cell| {
                table.row([row.policy.endpoint.as_str().into(), direction.into(), rule, name, says]);
            };
            for rule in rules.into_iter().flatten() {
                line(rule.id.to_string().into(), rule.name.as_str().into(), rule.to_string().into());
            }
            let rest = match (rules, denied) {
                (None, _) => "allow anything".to_owned(),
                (Some(_), 0) => "deny what no rule matches".to_owned(),
                (Some(_), 1) => "deny what no rule matches; 1 packet is denied so far".to_owned(),
                (Some(_), n) => {
                    format!("deny what no rule matches; {} packets are denied so far", style.count(n))
                }
            };
            line("".into(), "".into(), rest.into());
        }
    }
    table.print(style, out)
}

/// Each direction's rules, and the packets that it has denied.
fn directions(row: &PolicyStatus) -> [(&'static str, Option<&Vec<Rule>>, u64); 2] {
    let Policy { ingress, egress, .. } = &row.policy;
    [("ingress", ingress.as_ref(), row.denied_ingress), ("egress", egress.as_ref(), row.denied_egress)]
}

pub(crate) fn neighbours(list: &[NeighbourStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let age = if style.people { ">AGE" } else { ">AGE-MS" };
    let mut table = Table::new(&["PORT", "ADDRESS", "MAC", "STATE", age, ">HELD", ">PATH-MTU"]);
    for neighbour in list {
        table.row([
            neighbour.port.as_str().into(),
            neighbour.address.to_string().into(),
            neighbour.mac.map_or_else(String::new, |mac| mac.to_string()).into(),
            Cell::from(neighbour.state.as_str()).alert_if(neighbour.state == "failed"),
            style.milliseconds(neighbour.age_ms).into(),
            neighbour.held.to_string().into(),
            neighbour.path_mtu.map_or_else(String::new, |mtu| mtu.to_string()).into(),
        ]);
    }
    table.print(style, out)
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;
    use proto::dataplane::{PortInfo, PortSpec};
    use wire::MacAddr;

    const PEOPLE: Style = Style { people: true, colour: false };
    const PROGRAMS: Style = Style { people: false, colour: false };

    #[test]
    fn a_port() {
        let port = PortStatus {
            info: PortInfo {
                id: 1,
                spec: PortSpec {
                    name: "p0123456789ab".into(),
                    kind: PortKind::Vhost {
                        path: "/run/podrouter/vhost/p1.sock".into(),
                        server: true,
                        queue_pairs: 1,
                    },
                    mac: None,
                    mtu: 1500,
                    limits: Limits { ingress: None, egress: Some(Limit { rate: 1_250_000, burst: 131_072 }) },
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
            device: None,
        };
        assert_eq!(
            text(|out| ports(std::slice::from_ref(&port), PEOPLE, out)),
            "\
PORT           KIND          STATE  WORKER   MTU  MAC                RX-PACKETS  RX-BYTES  RX-DROPS  TX-PACKETS  TX-BYTES  TX-DROPS  INGRESS      EGRESS  ROLE           DEVICE
p0123456789ab  vhost-server  down        0  1500  02:00:00:00:00:01       12.3M    1.50kB         0           9      999B         1        -  10.0Mbit/s  default/web-1  /run/podrouter/vhost/p1.sock

ingress      unlimited
egress       10.0Mbit/s, in bursts of 131kB
"
        );
        let whole = text(|out| ports(&[port], PROGRAMS, out));
        assert!(whole.contains(" 12345678 ") && whole.contains(" 1500 "), "{whole}");
        assert!(whole.contains(" 10000000 "), "{whole}");
    }

    #[test]
    fn a_device_alone_is_shown_in_full() {
        let device = DeviceStatus {
            driver: "net_ixgbe".into(),
            speed_mbps: Some(10_000),
            rx_queues: 4,
            tx_queues: 2,
            rx_offloads: vec![],
            tx_offloads: vec!["tcp-checksum".into(), "tso".into()],
            counters: [("rx_missed_errors", 7), ("rx_q0_packets", 12), ("tx_errors", 0)]
                .map(|(name, count)| DeviceCounter { name: name.to_owned(), count })
                .into(),
        };
        assert_eq!(
            text(|out| super::device(&device, true, out)),
            "
driver       net_ixgbe
link         up, 10000 Mbit/s
queues       4 to receive, 2 to send
rx offloads  none
tx offloads  tcp-checksum, tso
  rx_missed_errors  7
  rx_q0_packets     12
"
        );
        assert!(text(|out| super::device(&device, false, out)).contains("link         down\n"));
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
        let unknown = NeighbourStatus {
            port: "uplink".into(),
            address: "fe80::9".parse().unwrap(),
            mac: None,
            state: "incomplete".into(),
            age_ms: 3_450,
            held: 2,
            path_mtu: None,
        };
        let narrow = NeighbourStatus { path_mtu: Some(1_350), ..unknown.clone() };
        let list = [unknown, narrow];
        assert_eq!(
            text(|out| neighbours(&list, PEOPLE, out)),
            "\
PORT    ADDRESS  MAC  STATE        AGE  HELD  PATH-MTU
uplink  fe80::9  -    incomplete  3.4s     2         -
uplink  fe80::9  -    incomplete  3.4s     2      1350
"
        );
        assert_eq!(
            text(|out| neighbours(&list, PROGRAMS, out)),
            "\
PORT    ADDRESS  MAC  STATE       AGE-MS  HELD  PATH-MTU
uplink  fe80::9  -    incomplete    3450     2         -
uplink  fe80::9  -    incomplete    3450     2      1350
"
        );
    }
}
