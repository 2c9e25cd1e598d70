//! What a run came to: a table for people, one JSON object for programs, a line a second while it lasts.

use std::fmt::Write as _;
use std::time::Duration;

use dpdk::Stats;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::station::Done;
use crate::worker::Strays;

/// One direction.
pub(crate) struct LaneReport {
    pub(crate) tx_port: String,
    pub(crate) rx_port: String,
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) unsent: u64,
    pub(crate) received: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicates: u64,
    /// None of a replay: its packets carry no time.
    pub(crate) latency: Option<Histogram<u64>>,
    /// The 99th percentile of each stretch of `--window`.
    pub(crate) windows: Option<Histogram<u64>>,
}

impl LaneReport {
    fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

pub(crate) struct PortReport {
    pub(crate) name: String,
    pub(crate) driver: String,
    pub(crate) mac: String,
    pub(crate) stats: Option<Stats>,
    pub(crate) done: Done,
    pub(crate) refused: u64,
}

pub(crate) struct Report {
    pub(crate) mode: &'static str,
    pub(crate) hugepages: bool,
    pub(crate) elapsed: Duration,
    pub(crate) lanes: Vec<LaneReport>,
    pub(crate) ports: Vec<PortReport>,
    pub(crate) strays: Strays,
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)];

#[expect(clippy::cast_precision_loss, reason = "a rate for people: 53 bits of it are plenty")]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// 1234567.0 as `1.235 M`.
fn human(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.3} G", v / 1e9),
        v if v >= 1e6 => format!("{:.3} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.1} "),
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a latency, below 2^36")]
fn micros(ns: u64) -> String {
    format!("{:.1} µs", ns as f64 / 1e3)
}

impl Report {
    fn total(&self, of: impl Fn(&LaneReport) -> u64) -> u64 {
        self.lanes.iter().map(of).sum()
    }

    fn latency(&self) -> Option<Histogram<u64>> {
        Self::sum(self.lanes.iter().filter_map(|lane| lane.latency.as_ref()))
    }

    fn windows(&self) -> Option<Histogram<u64>> {
        Self::sum(self.lanes.iter().filter_map(|lane| lane.windows.as_ref()))
    }

    fn sum<'a>(mut all: impl Iterator<Item = &'a Histogram<u64>>) -> Option<Histogram<u64>> {
        let mut sum = all.next()?.clone();
        for one in all {
            // Both have the same bounds, so that this does not fail.
            let _ = sum.add(one);
        }
        (!sum.is_empty()).then_some(sum)
    }

    fn lane_json(&self, lane: &LaneReport) -> Value {
        json!({
            "tx_port": lane.tx_port,
            "rx_port": lane.rx_port,
            "sent": lane.sent,
            "unsent": lane.unsent,
            "received": lane.received,
            "lost": lane.lost(),
            "reordered": lane.reordered,
            "duplicates": lane.duplicates,
            "sent_pps": per_second(lane.sent, self.elapsed),
            "received_pps": per_second(lane.received, self.elapsed),
            "latency_ns": lane.latency.as_ref().filter(|all| !all.is_empty()).map(latency_json),
            "window_p99_ns": lane.windows.as_ref().filter(|all| !all.is_empty()).map(latency_json),
        })
    }

    pub(crate) fn json(&self) -> Value {
        let done = |of: fn(&Done) -> u64| -> u64 { self.ports.iter().map(|port| of(&port.done)).sum() };
        json!({
            "mode": self.mode,
            "dpdk": dpdk::Eal::version(),
            "hugepages": self.hugepages,
            "seconds": self.elapsed.as_secs_f64(),
            "sent": self.total(|lane| lane.sent),
            "sent_bytes": self.total(|lane| lane.sent_bytes),
            "unsent": self.total(|lane| lane.unsent),
            "received": self.total(|lane| lane.received),
            "lost": self.total(LaneReport::lost),
            "reordered": self.total(|lane| lane.reordered),
            "duplicates": self.total(|lane| lane.duplicates),
            "corrupt": self.strays.corrupt,
            "other": self.strays.other,
            "reflected": done(|done| done.reflected),
            "sent_pps": per_second(self.total(|lane| lane.sent), self.elapsed),
            "sent_bps": per_second(self.total(|lane| lane.sent_bytes) * 8, self.elapsed),
            "received_pps": per_second(self.total(|lane| lane.received), self.elapsed),
            "latency_ns": self.latency().as_ref().map(latency_json),
            "window_p99_ns": self.windows().as_ref().map(latency_json),
            "answered": {
                "arp": done(|done| done.arp),
                "neighbour": done(|done| done.neighbour),
                "ping": done(|done| done.ping),
            },
            "lanes": self.lanes.iter().map(|lane| self.lane_json(lane)).collect::<Vec<_>>(),
            "ports": self.ports.iter().map(port_json).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String, note: String| {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{}", format!("{name:<12}{value:>16}  {note}").trim_end());
        };
        row("seconds", format!("{:.3}", self.elapsed.as_secs_f64()), String::new());
        if !self.lanes.is_empty() {
            let sent = self.total(|lane| lane.sent);
            let rate = |count| format!("{}pps", human(per_second(count, self.elapsed)));
            let bits = human(per_second(self.total(|lane| lane.sent_bytes) * 8, self.elapsed));
            row("sent", sent.to_string(), format!("{}  {bits}bit/s", rate(sent)));
            let unsent = self.total(|lane| lane.unsent);
            if unsent > 0 {
                row("not sent", unsent.to_string(), "due, but the port took too few".into());
            }
            let received = self.total(|lane| lane.received);
            row("received", received.to_string(), rate(received));
            let lost = self.total(LaneReport::lost);
            row("lost", lost.to_string(), percent(lost, sent));
            row(
                "reordered",
                self.total(|lane| lane.reordered).to_string(),
                percent(self.total(|l| l.reordered), sent),
            );
            row("duplicates", self.total(|lane| lane.duplicates).to_string(), String::new());
        }
        row("corrupt", self.strays.corrupt.to_string(), String::new());
        let Done { arp, neighbour, ping, reflected } =
            self.ports.iter().fold(Done::default(), |sum, port| Done {
                arp: sum.arp + port.done.arp,
                neighbour: sum.neighbour + port.done.neighbour,
                ping: sum.ping + port.done.ping,
                reflected: sum.reflected + port.done.reflected,
            });
        if self.lanes.is_empty() || reflected > 0 {
            let rate = format!("{}pps", human(per_second(reflected, self.elapsed)));
            row("reflected", reflected.to_string(), rate);
        }
        if arp + neighbour + ping > 0 {
            let note = format!("{arp} ARP, {neighbour} neighbour discovery, {ping} ping");
            row("answered", (arp + neighbour + ping).to_string(), note);
        }
        if let Some(latency) = self.latency() {
            for (name, quantile) in PERCENTILES {
                let name = format!("latency {}", name.replace('_', "."));
                row(&name, micros(latency.value_at_quantile(quantile)), String::new());
            }
            row("latency max", micros(latency.max()), String::new());
        }
        if let Some(windows) = self.windows() {
            let note = format!("the median of {} windows", windows.len());
            row("window's p99", micros(windows.value_at_quantile(0.5)), note);
        }
        for port in &self.ports {
            let note = port.stats.map_or_else(String::new, |stats| {
                let Stats { tx_packets, rx_packets, rx_missed, tx_errors, rx_no_mbuf, .. } = stats;
                format!("tx {tx_packets} rx {rx_packets} missed {rx_missed} no-mbuf {rx_no_mbuf} tx-errors {tx_errors}")
            });
            row("port", port.name.clone(), note);
        }
        out
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!("{:.4} %", part as f64 * 100.0 / whole as f64) }
}

fn latency_json(latency: &Histogram<u64>) -> Value {
    let mut value = json!({
        "count": latency.len(),
        "min": latency.min(),
        "mean": latency.mean(),
        "max": latency.max(),
    });
    for (name, quantile) in PERCENTILES {
        value[name] = latency.value_at_quantile(quantile).into();
    }
    value
}

fn port_json(port: &PortReport) -> Value {
    let stats = port.stats.map(|stats| {
        json!({
            "rx_packets": stats.rx_packets,
            "tx_packets": stats.tx_packets,
            "rx_bytes": stats.rx_bytes,
            "tx_bytes": stats.tx_bytes,
            "rx_missed": stats.rx_missed,
            "rx_errors": stats.rx_errors,
            "tx_errors": stats.tx_errors,
            "rx_no_mbuf": stats.rx_no_mbuf,
        })
    });
    json!({
        "name": port.name,
        "driver": port.driver,
        "mac": port.mac,
        "answers_refused": port.refused,
        "stats": stats,
    })
}

/// A line of progress.
pub(crate) fn progress_line(second: u64, now: [u64; 3], before: [u64; 3], elapsed: Duration) -> String {
    let rate = |index: usize| human(per_second(now[index].saturating_sub(before[index]), elapsed));
    let [sent, received, reflected] = now;
    let mut line = format!("{second:>4} s  sent {}pps  received {}pps", rate(0), rate(1));
    if reflected > 0 {
        let _ = write!(line, "  reflected {}pps", rate(2));
    }
    let _ = write!(line, "  ({sent} sent, {} not back)", sent.saturating_sub(received));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        for ns in 1..=1000 {
            latency.record(ns * 1000).unwrap();
        }
        let lane = |sent| LaneReport {
            tx_port: "a".into(),
            rx_port: "b".into(),
            sent,
            sent_bytes: sent * 60,
            unsent: 7,
            received: 1000,
            reordered: 3,
            duplicates: 2,
            latency: Some(latency.clone()),
            windows: Some(latency.clone()),
        };
        Report {
            mode: "generate",
            hugepages: false,
            elapsed: Duration::from_secs(2),
            lanes: vec![lane(1010), lane(1000)],
            ports: vec![],
            strays: Strays { corrupt: 1, other: 0 },
        }
    }

    #[test]
    fn json_adds_up() {
        let json = report().json();
        assert_eq!(json["sent"], 2010);
        assert_eq!(json["received"], 2000);
        assert_eq!(json["lost"], 10);
        assert_eq!(json["unsent"], 14);
        assert_eq!(json["sent_pps"], 1005.0);
        assert_eq!(json["latency_ns"]["count"], 2000);
        assert_eq!(json["window_p99_ns"]["p50"], json["latency_ns"]["p50"]);
        let p50 = json["latency_ns"]["p50"].as_u64().unwrap();
        assert!((499_000..=501_000).contains(&p50), "{p50}");
        assert_eq!(json["lanes"][0]["lost"], 10);
        assert_eq!(json["lanes"][1]["lost"], 0);
    }

    #[test]
    fn table_for_people() {
        let table = report().table();
        for part in [
            "sent                    2010  1005.0 pps",
            "lost                      10  0.4975 %",
            "not sent                  14  due, but the port took too few",
            "latency p99.9",
            "window's p99        500.2 µs  the median of 2000 windows",
        ] {
            assert!(table.contains(part), "`{part}` is missing:\n{table}");
        }
        let line = progress_line(3, [100, 90, 0], [50, 50, 0], Duration::from_secs(1));
        assert_eq!(line, "   3 s  sent 50.0 pps  received 40.0 pps  (100 sent, 10 not back)");
    }
}
