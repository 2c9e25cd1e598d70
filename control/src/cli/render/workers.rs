//! Workers with their ledgers, and drops.

use std::io::{self, Write};

use proto::dataplane::{DropStatus, Ledger, WorkerFlows, WorkerStatus};

use crate::table::{Cell, Style, Table};

/// Four tables: the workers themselves, what they do with their time, their ledgers, and what they did by the flow table.
pub(crate) fn workers(workers: &[WorkerStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    // What other workers have handed to it and waits; what it could not hand to others.
    let mut table = Table::new(&[
        ">WORKER",
        "KIND",
        ">CORE",
        "STATE",
        ">BUSY",
        ">GENERATION",
        ">WAITING",
        ">OVERFLOW",
        "PORTS",
    ]);
    for worker in workers {
        table.row([
            worker.id.to_string().into(),
            worker.kind.as_str().into(),
            worker.core.map_or_else(String::new, |core| core.to_string()).into(),
            (if worker.parked { "parked" } else { "running" }).into(),
            format!("{}.{}%", worker.busy_permille / 10, worker.busy_permille % 10).into(),
            worker.generation.to_string().into(),
            worker.handed_waiting.to_string().into(),
            Cell::from(style.count(worker.handover_full)).alert_if(worker.handover_full > 0),
            worker.ports.join(",").into(),
        ]);
    }
    table.print(style, out)?;
    writeln!(out)?;

    load(workers, style, out)?;
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

/// Cycles a packet, and how large the bursts are: those of a worker that has time are small.
fn load(workers: &[WorkerStatus], style: Style, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&[
        ">WORKER",
        ">BUSY-TIME",
        ">CYCLES/PACKET",
        ">EMPTY-ROUNDS",
        ">BURSTS:1",
        ">2",
        ">3-4",
        ">5-8",
        ">9-16",
        ">17-32",
    ]);
    for worker in workers {
        let load = &worker.load;
        let each = load.cycles_per_packet(worker.ledger.rx.saturating_add(worker.ledger.handed_in));
        let mut row: Vec<Cell> = vec![
            worker.id.to_string().into(),
            style.milliseconds(load.busy_us / 1_000).into(),
            each.map_or_else(String::new, |cycles| cycles.to_string()).into(),
            style.count(load.empty_rounds).into(),
        ];
        row.extend(load.bursts.map(|n| Cell::from(style.count(n))));
        table.row(row);
    }
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
    use proto::dataplane::WorkerLoad;

    use super::super::text;
    use super::*;

    const PEOPLE: Style = Style { people: true, colour: false };

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
                handed_waiting: 3,
                handover_full: 20_000,
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
                load: WorkerLoad {
                    busy_us: 12_345_678,
                    cycles_per_second: 1_000,
                    empty_rounds: 20_000,
                    bursts: [7, 6, 5, 4, 3, 2],
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
WORKER  KIND    CORE  STATE     BUSY  GENERATION  WAITING  OVERFLOW  PORTS
     0  poll       2  running  12.3%          42        3     20.0k  uplink,p1
     1  kernel     -  parked    0.0%          42        0         0  -

WORKER  BUSY-TIME  CYCLES/PACKET  EMPTY-ROUNDS  BURSTS:1  2  3-4  5-8  9-16  17-32
     0      12.3s            123         20.0k         7  6    5    4     3      2
     1        0ms              -             0         0  0    0    0     0      0

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
