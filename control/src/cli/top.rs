//! `podrouter top`: rates of workers and ports, again and again.
//!
//! Owns the difference between two looks. On a terminal each picture takes the place of the last; elsewhere they follow each
//! other, and with `--json` each is one line.

use std::io::{self, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use proto::dataplane::{PortStatus, Request, Response, WorkerLoad, WorkerStatus};
use serde::Serialize;

use crate::args::{Args, Top};
use crate::client::{Peer, QueryError, ask_dataplane};
use crate::table::{Cell, Style, Table};

/// Clears the terminal from its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The counters at one time.
struct Look {
    at: Instant,
    workers: Vec<WorkerStatus>,
    ports: Vec<PortStatus>,
}

impl Look {
    fn take(args: &Args) -> Result<Self, QueryError> {
        let at = Instant::now();
        let out_of_turn = || QueryError::OutOfTurn(Peer::dataplane(&args.dataplane));
        let Response::Workers { workers } = ask_dataplane(&args.dataplane, &Request::ShowWorkers)? else {
            return Err(out_of_turn());
        };
        let Response::Ports { ports } = ask_dataplane(&args.dataplane, &Request::ShowPorts)? else {
            return Err(out_of_turn());
        };
        Ok(Self { at, workers, ports })
    }
}

/// What `--json` prints, a line an interval. Rates are of one second.
#[derive(Debug, PartialEq, Serialize)]
struct Picture {
    /// How long the interval was.
    seconds: f64,
    workers: Vec<WorkerRates>,
    ports: Vec<PortRates>,
}

#[derive(Debug, PartialEq, Serialize)]
struct WorkerRates {
    id: u32,
    kind: String,
    busy_percent: f64,
    rx: u64,
    tx: u64,
    drops: u64,
    cycles_per_packet: Option<u64>,
    /// Packets of a received burst, on average.
    burst: Option<f64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct PortRates {
    name: String,
    role: String,
    up: bool,
    rx_packets: u64,
    rx_bits: u64,
    tx_packets: u64,
    tx_bits: u64,
    drops: u64,
}

#[expect(clippy::cast_precision_loss, reason = "rates, to be looked at")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is far from both ends")]
fn rate(now: u64, before: u64, seconds: f64) -> u64 {
    (now.saturating_sub(before) as f64 / seconds).round() as u64
}

/// Those that were there at both looks, the busiest ports first. Another data plane has begun to count anew: nothing is
/// below zero.
fn picture(before: &Look, now: &Look) -> Picture {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let workers = now.workers.iter().filter_map(|worker| {
        let earlier = before.workers.iter().find(|earlier| earlier.id == worker.id)?;
        Some(worker_rates(worker, earlier, seconds))
    });
    let ports = now.ports.iter().filter_map(|port| {
        let earlier = before.ports.iter().find(|earlier| earlier.info == port.info)?;
        let per_second = |count: fn(&PortStatus) -> u64| rate(count(port), count(earlier), seconds);
        Some(PortRates {
            name: port.info.spec.name.clone(),
            role: port.role.clone(),
            up: port.up,
            rx_packets: per_second(|port| port.rx_packets),
            rx_bits: per_second(|port| port.rx_bytes).saturating_mul(8),
            tx_packets: per_second(|port| port.tx_packets),
            tx_bits: per_second(|port| port.tx_bytes).saturating_mul(8),
            drops: per_second(|port| port.rx_drops.saturating_add(port.tx_drops)),
        })
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort_by_key(|port| std::cmp::Reverse(port.rx_packets.saturating_add(port.tx_packets)));
    Picture { seconds, workers: workers.collect(), ports }
}

fn worker_rates(worker: &WorkerStatus, earlier: &WorkerStatus, seconds: f64) -> WorkerRates {
    let load: WorkerLoad = worker.load.since(&earlier.load);
    let (now, then) = (&worker.ledger, &earlier.ledger);
    let received = now.rx.saturating_sub(then.rx);
    let handed = now.handed_in.saturating_sub(then.handed_in);
    let bursts: u64 = load.bursts.iter().fold(0, |sum, &n| sum.saturating_add(n));
    #[expect(clippy::cast_precision_loss, reason = "averages, to be looked at")]
    let (busy, burst) =
        (load.busy_us as f64 / seconds / 1e4, (bursts > 0).then(|| received as f64 / bursts as f64));
    WorkerRates {
        id: worker.id,
        kind: worker.kind.clone(),
        busy_percent: busy.min(100.0),
        rx: rate(now.rx, then.rx, seconds),
        tx: rate(now.tx, then.tx, seconds),
        drops: rate(now.drops, then.drops, seconds),
        cycles_per_packet: load.cycles_per_packet(received.saturating_add(handed)),
        burst,
    }
}

fn print(picture: &Picture, style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table =
        Table::new(&[">WORKER", "KIND", ">BUSY", ">RX/S", ">TX/S", ">DROPS/S", ">CYCLES/PACKET", ">BURST"]);
    for worker in &picture.workers {
        table.row([
            worker.id.to_string().into(),
            worker.kind.as_str().into(),
            format!("{:.1}%", worker.busy_percent).into(),
            style.count(worker.rx).into(),
            style.count(worker.tx).into(),
            Cell::from(style.count(worker.drops)).alert_if(worker.drops > 0),
            worker.cycles_per_packet.map_or_else(String::new, |cycles| cycles.to_string()).into(),
            worker.burst.map_or_else(String::new, |burst| format!("{burst:.1}")).into(),
        ]);
    }
    table.print(style, out)?;
    writeln!(out)?;
    let mut table =
        Table::new(&["PORT", "ROLE", "STATE", ">RX/S", ">RX-BIT/S", ">TX/S", ">TX-BIT/S", ">DROPS/S"]);
    for port in &picture.ports {
        table.row([
            port.name.as_str().into(),
            port.role.as_str().into(),
            Cell::from(if port.up { "up" } else { "down" }).alert_if(!port.up),
            style.count(port.rx_packets).into(),
            style.count(port.rx_bits).into(),
            style.count(port.tx_packets).into(),
            style.count(port.tx_bits).into(),
            Cell::from(style.count(port.drops)).alert_if(port.drops > 0),
        ]);
    }
    table.print(style, out)
}

/// Until so many pictures have been shown, or for ever. A data plane that goes away ends it, with a reason.
pub(crate) fn top(args: &Args, top: &Top, style: Style, out: &mut impl Write) -> anyhow::Result<()> {
    let mut before = Look::take(args)?;
    let mut shown = 0;
    while top.count.is_none_or(|count| shown < count) {
        sleep(Duration::from_secs_f64(top.interval));
        let now = Look::take(args)?;
        let picture = picture(&before, &now);
        if args.json {
            serde_json::to_writer(&mut *out, &picture)?;
            writeln!(out)?;
        } else {
            if style.people {
                write!(out, "{CLEAR}")?;
            } else if shown > 0 {
                writeln!(out)?;
            }
            print(&picture, style, out)?;
        }
        out.flush()?;
        before = now;
        shown += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::dataplane::{Ledger, Limits, PortInfo, PortKind, PortSpec};

    use super::*;
    use crate::render::text;

    fn look(at: Instant, factor: u64) -> Look {
        let port = |name: &str, packets: u64| PortStatus {
            info: PortInfo {
                id: 1,
                spec: PortSpec {
                    name: name.into(),
                    kind: PortKind::Tap,
                    mac: None,
                    mtu: 1500,
                    limits: Limits::default(),
                },
                mac: wire::MacAddr([2, 0, 0, 0, 0, 1]),
            },
            worker: 0,
            up: name != "quiet",
            role: "uplink".into(),
            rx_packets: packets * factor,
            rx_bytes: 100 * packets * factor,
            rx_drops: factor,
            tx_packets: 0,
            tx_bytes: 0,
            tx_drops: factor,
            device: None,
        };
        let load = WorkerLoad {
            busy_us: 500_000 * factor,
            cycles_per_second: 1_000_000,
            empty_rounds: 0,
            bursts: [0, 0, 0, 0, 0, 50 * factor],
        };
        let worker = WorkerStatus {
            kind: "poll".into(),
            ledger: Ledger { rx: 1_000 * factor, tx: 900 * factor, ..Ledger::default() },
            load,
            ..WorkerStatus::default()
        };
        Look { at, workers: vec![worker], ports: vec![port("quiet", 0), port("busy", 20_000)] }
    }

    #[test]
    fn rates_are_differences_over_time() {
        let began = Instant::now();
        let seen = picture(&look(began, 1), &look(began + Duration::from_secs(2), 3));
        let style = Style { people: true, colour: false };
        assert_eq!(
            text(|out| print(&seen, style, out)),
            "\
WORKER  KIND   BUSY  RX/S  TX/S  DROPS/S  CYCLES/PACKET  BURST
     0  poll  50.0%  1000   900        0            500   20.0

PORT   ROLE    STATE   RX/S  RX-BIT/S  TX/S  TX-BIT/S  DROPS/S
busy   uplink  up     20.0k     16.0M     0         0        2
quiet  uplink  down       0         0     0         0        2
"
        );
        // A data plane that was started again.
        let anew = picture(&look(began, 3), &look(began + Duration::from_secs(2), 1));
        assert_eq!((anew.workers[0].rx, anew.ports[0].rx_packets), (0, 0));
        assert_eq!(anew.workers[0].burst, None);
    }
}
