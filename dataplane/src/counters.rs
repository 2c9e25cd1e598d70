//! What a worker counts: its ledger, and per port and direction. Worker-owned numbers, published with relaxed stores;
//! the socket's threads read them. Each worker has a block of its own, so no line is written by two.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;
use pipeline::{DropReason, FlowCounts};
use proto::dataplane::{Ledger, WorkerFlows, WorkerLoad};
use tables::{MAX_PORTS, PortId};

use crate::limits::Excess;

/// A number that one thread writes and any reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Writer only: with a single writer, a load and a store need no locked instruction.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Writer only.
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What became of packets at the flow table.
#[derive(Debug, Default)]
pub(crate) struct FlowCounters {
    pub(crate) replayed: Counter,
    pub(crate) revalidated: Counter,
    pub(crate) decided: Counter,
    pub(crate) made: Counter,
    pub(crate) untracked: Counter,
    pub(crate) expired: Counter,
}

impl FlowCounters {
    /// Writer only.
    pub(crate) fn set(&self, counts: FlowCounts) {
        let FlowCounts { replayed, revalidated, decided, made, untracked, expired } = counts;
        self.replayed.set(replayed);
        self.revalidated.set(revalidated);
        self.decided.set(decided);
        self.made.set(made);
        self.untracked.set(untracked);
        self.expired.set(expired);
    }

    pub(crate) fn row(&self) -> WorkerFlows {
        WorkerFlows {
            replayed: self.replayed.get(),
            revalidated: self.revalidated.get(),
            decided: self.decided.get(),
            made: self.made.get(),
            untracked: self.untracked.get(),
            expired: self.expired.get(),
        }
    }
}

/// One direction of one port, as one worker saw it.
#[derive(Debug)]
pub(crate) struct Direction {
    pub(crate) packets: Counter,
    pub(crate) bytes: Counter,
    pub(crate) drops: [Counter; DropReason::COUNT],
}

impl Default for Direction {
    fn default() -> Self {
        Self {
            packets: Counter::default(),
            bytes: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }
}

/// Both directions of one port.
#[derive(Debug, Default)]
pub(crate) struct PortCounters {
    pub(crate) rx: Direction,
    pub(crate) tx: Direction,
    /// What the policy of the endpoint behind it forbids, into and out of the endpoint. The ledger and `rx` have it where it came in.
    pub(crate) denied: [Counter; 2],
}

/// The ledger of DESIGN.md, in the making.
#[derive(Debug, Default)]
pub(crate) struct LedgerCounters {
    pub(crate) rx: Counter,
    pub(crate) handed_in: Counter,
    pub(crate) originated: Counter,
    pub(crate) split_extra: Counter,
    pub(crate) tx: Counter,
    pub(crate) drops: Counter,
    pub(crate) handed_out: Counter,
    pub(crate) held: Counter,
    pub(crate) consumed: Counter,
}

/// All that one worker counts. Written by that worker alone.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    pub(crate) ledger: CachePadded<LedgerCounters>,
    /// Microseconds spent on packets, in all, and per mille of the last second.
    pub(crate) busy_us: Counter,
    pub(crate) busy_permille: AtomicU32,
    pub(crate) icmp_suppressed: Counter,
    pub(crate) flows: FlowCounters,
    /// Bursts received, by size: of 1, of 2, to 4, to 8, to 16, to 32.
    pub(crate) bursts: [Counter; 6],
    /// Rounds in which no port had anything.
    pub(crate) empty_rounds: Counter,
    /// Of the tables it uses.
    pub(crate) generation: Counter,
    ports: Box<[PortCounters]>,
}

impl WorkerCounters {
    pub(crate) fn new() -> Self {
        Self {
            ledger: CachePadded::default(),
            busy_us: Counter::default(),
            busy_permille: AtomicU32::new(0),
            icmp_suppressed: Counter::default(),
            flows: FlowCounters::default(),
            bursts: std::array::from_fn(|_| Counter::default()),
            empty_rounds: Counter::default(),
            generation: Counter::default(),
            ports: (0..MAX_PORTS).map(|_| PortCounters::default()).collect(),
        }
    }

    /// Port ids are below [`MAX_PORTS`] by construction; one that is not is counted with port 0 rather than not at all.
    pub(crate) fn port(&self, id: PortId) -> &PortCounters {
        self.ports.get(usize::from(id.0)).unwrap_or(&self.ports[0])
    }

    /// A burst of `n` packets, 1 to 32.
    pub(crate) fn burst(&self, n: usize) {
        let class = n.next_power_of_two().trailing_zeros() as usize;
        self.bursts[class.min(self.bursts.len() - 1)].add(1);
    }

    /// The load as a reader sees it.
    pub(crate) fn load(&self, cycles_per_second: u64) -> WorkerLoad {
        WorkerLoad {
            busy_us: self.busy_us.get(),
            cycles_per_second,
            empty_rounds: self.empty_rounds.get(),
            bursts: std::array::from_fn(|class| self.bursts[class].get()),
        }
    }

    /// Frames that were received and go no further.
    pub(crate) fn refuse_rx(&self, port: PortId, reason: DropReason, excess: Excess) {
        let rx = &self.port(port).rx;
        rx.packets.add(excess.packets);
        rx.bytes.add(excess.bytes);
        rx.drops[reason as usize].add(excess.packets);
        self.ledger.rx.add(excess.packets);
        self.ledger.drops.add(excess.packets);
    }

    /// A packet refused on its way in.
    pub(crate) fn drop_rx(&self, port: PortId, reason: DropReason) {
        self.port(port).rx.drops[reason as usize].add(1);
        self.ledger.drops.add(1);
    }

    /// A packet that is dropped for the policy of the endpoint behind this port.
    pub(crate) fn deny(&self, port: PortId, reason: DropReason) {
        let direction = usize::from(reason == DropReason::PolicyEgress);
        self.port(port).denied[direction].add(1);
    }

    /// `n` packets refused on their way out.
    pub(crate) fn drop_tx(&self, port: PortId, reason: DropReason, n: u64) {
        self.port(port).tx.drops[reason as usize].add(n);
        self.ledger.drops.add(n);
    }

    /// Packets refused for a reason on their way out, by any port.
    pub(crate) fn drops_of(&self, reason: DropReason) -> u64 {
        self.ports.iter().map(|port| port.tx.drops[reason as usize].get()).sum()
    }

    /// The ledger as a reader sees it; at rest it adds up.
    pub(crate) fn ledger(&self) -> Ledger {
        let l = &self.ledger;
        Ledger {
            rx: l.rx.get(),
            handed_in: l.handed_in.get(),
            originated: l.originated.get(),
            split_extra: l.split_extra.get(),
            tx: l.tx.get(),
            drops: l.drops.get(),
            punts: 0,
            handed_out: l.handed_out.get(),
            held: l.held.get(),
            consumed: l.consumed.get(),
        }
    }
}
