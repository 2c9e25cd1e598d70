//! One direction of traffic: what is sent on one port and comes back on any.

use std::time::Duration;

use dpdk::{Burst, Pool, TxQueue};
use wire::MacAddr;

use crate::meter::{HistogramError, Meter};
use crate::pacer::{Pacer, Rate};
use crate::stamp::Stamp;
use crate::template::{Ends, Ports, Template};

/// What is sent.
pub(crate) enum Source {
    /// Stamped UDP packets, a flow after another.
    Udp(Udp),
    /// The frames of a capture, over and over.
    Replay { frames: Vec<Vec<u8>>, next: usize },
}

pub(crate) struct Udp {
    ends: Ends,
    size: u16,
    template: Option<Template>,
    flows: Vec<Flow>,
    next: usize,
}

struct Flow {
    ports: Ports,
    seq: u32,
}

impl Udp {
    /// Without a destination MAC, the gateway's is filled in before anything is sent.
    pub(crate) fn new(ends: Ends, dst_known: bool, size: u16, ports: &[Ports]) -> Self {
        let template = if dst_known { Template::new(ends, size) } else { None };
        Self {
            ends,
            size,
            template,
            flows: ports.iter().map(|&ports| Flow { ports, seq: 0 }).collect(),
            next: 0,
        }
    }
}

pub(crate) struct Lane {
    /// The port it sends on, as an index.
    pub(crate) tx_io: usize,
    pub(crate) ipv4: bool,
    source: Source,
    rate: Rate,
    pacer: Pacer,
    pending: Burst,
    /// Numbers of this run and of its warm-up.
    runs: (u16, u16),
    warmup: bool,
    made: u64,
    /// When the port was last asked to take what is due.
    asked: u64,
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    /// Due before the run's end and still not sent then: the port took too few. They have no latency.
    pub(crate) unsent: u64,
    pub(crate) meter: Meter,
    replayed_back: u64,
}

impl Lane {
    /// `run` and the number after it must be this lane's alone.
    pub(crate) fn new(
        tx_io: usize,
        source: Source,
        rate: Rate,
        run: u16,
        window: Option<Duration>,
    ) -> Result<Self, HistogramError> {
        let (flows, ipv4) = match &source {
            Source::Udp(udp) => (udp.flows.len(), udp.ends.dst.is_ipv4()),
            Source::Replay { .. } => (0, true),
        };
        Ok(Self {
            tx_io,
            ipv4,
            source,
            rate,
            pacer: Pacer::new(rate, 0),
            pending: Burst::new(),
            runs: (run, run.wrapping_add(1)),
            warmup: false,
            made: 0,
            asked: 0,
            sent: 0,
            sent_bytes: 0,
            unsent: 0,
            meter: Meter::new(flows, window)?,
            replayed_back: 0,
        })
    }

    pub(crate) fn needs_gateway(&self) -> bool {
        matches!(&self.source, Source::Udp(Udp { template: None, .. }))
    }

    pub(crate) fn set_gateway(&mut self, mac: MacAddr) {
        if let Source::Udp(udp) = &mut self.source {
            udp.ends.dst_mac = mac;
            udp.template = Template::new(udp.ends, udp.size);
        }
    }

    /// Starts anew at `now`: what is not sent is dropped, numbers begin at zero.
    pub(crate) fn begin(&mut self, warmup: bool, now: u64) {
        self.pending.clear();
        self.warmup = warmup;
        self.pacer = Pacer::new(self.rate, now);
        self.asked = now;
        (self.made, self.sent, self.sent_bytes, self.replayed_back) = (0, 0, 0, 0);
        if let Source::Udp(udp) = &mut self.source {
            udp.next = 0;
            for flow in &mut udp.flows {
                flow.seq = 0;
            }
        }
    }

    fn run(&self) -> u16 {
        if self.warmup { self.runs.1 } else { self.runs.0 }
    }

    /// Whether a stamp of that run is to be counted here.
    pub(crate) fn owns(&self, run: u16) -> bool {
        run == self.runs.0 && !self.replays()
    }

    /// Whether it is a straggler of the warm-up.
    pub(crate) fn owned_before(&self, run: u16) -> bool {
        run == self.runs.1
    }

    pub(crate) fn arrive(&mut self, stamp: Stamp, now: u64) {
        self.meter.arrive(stamp, now);
    }

    pub(crate) fn replays(&self) -> bool {
        matches!(self.source, Source::Replay { .. })
    }

    /// A frame came while a capture is replayed: it carries no stamp, so that it is one.
    pub(crate) fn count_one(&mut self) {
        self.replayed_back += 1;
    }

    pub(crate) fn received(&self) -> u64 {
        self.meter.received + self.replayed_back
    }

    /// Ends the sending: what was due when [`Self::send`] was last called and did not go, will not.
    pub(crate) fn end(&mut self, count: Option<u64>) {
        let waiting = u64::try_from(self.pending.len()).unwrap_or(0);
        self.unsent = match self.rate {
            // No packet is late where each is due as soon as the port takes it.
            Rate::Max => 0,
            Rate::Milli(_) => waiting + self.due(self.asked, count),
        };
        self.pending.clear();
    }

    fn due(&self, now: u64, count: Option<u64>) -> u64 {
        self.pacer.due(now).min(count.map_or(u64::MAX, |count| count.saturating_sub(self.made)))
    }

    /// When the next packet is due; none if always.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.pacer.next_ns()
    }

    /// Sends what is due, at most a burst; returns how many the port took.
    pub(crate) fn send(&mut self, pool: &Pool, tx: &mut TxQueue, now: u64, count: Option<u64>) -> usize {
        self.asked = now;
        if self.pending.is_empty() {
            let due = usize::try_from(self.due(now, count)).unwrap_or(usize::MAX);
            if due == 0 {
                return 0;
            }
            pool.alloc_burst(&mut self.pending, due);
            self.fill(now);
        }
        let bytes = |burst: &Burst| -> usize { burst.iter().map(dpdk::Mbuf::total_len).sum() };
        let before = bytes(&self.pending);
        let went = tx.tx(&mut self.pending);
        // What was refused stays, with its time, and goes first the next time.
        let gone = before - bytes(&self.pending);
        self.sent += u64::try_from(went).unwrap_or(0);
        self.sent_bytes += u64::try_from(gone).unwrap_or(0);
        went
    }

    fn fill(&mut self, now: u64) {
        let run = self.run();
        for mbuf in &mut self.pending {
            let intended_ns = self.pacer.take(now);
            self.made += 1;
            match &mut self.source {
                Source::Udp(Udp { template: Some(template), flows, next, .. }) => {
                    let index = *next;
                    *next = if index + 1 == flows.len() { 0 } else { index + 1 };
                    // The pool's buffers were made large enough for the frame.
                    let (Some(flow), Some(out)) = (flows.get_mut(index), mbuf.append(template.len())) else {
                        continue;
                    };
                    let stamp = Stamp {
                        run,
                        flow: u16::try_from(index).unwrap_or(u16::MAX),
                        seq: flow.seq,
                        intended_ns,
                    };
                    flow.seq = flow.seq.wrapping_add(1);
                    template.write(out, flow.ports, stamp);
                }
                // Nothing is sent before the gateway is known.
                Source::Udp(_) => {}
                Source::Replay { frames, next } => {
                    let Some(frame) = frames.get(*next) else { continue };
                    *next = if *next + 1 == frames.len() { 0 } else { *next + 1 };
                    if let Some(out) = mbuf.append(frame.len()) {
                        out.copy_from_slice(frame);
                    }
                }
            }
        }
    }
}
