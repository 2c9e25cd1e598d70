//! The loop: send what is due, receive what is there, answer what is asked.
//!
//! One thread does it all, so that times of sending and of arrival are of one clock and one core suffices.

use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dpdk::{Burst, Eal, Mbuf, Pool, Port, RxQueue, TxQueue};
use wire::MacAddr;

use crate::classify::{Frame, classify};
use crate::lane::Lane;
use crate::station::{Answer, Station, turn_round};

/// A port and what waits to be sent back on it.
pub(crate) struct Io {
    pub(crate) port: Port,
    pub(crate) rx: RxQueue,
    pub(crate) tx: TxQueue,
    pub(crate) station: Station,
    answers: Burst,
    /// net_null gives packets whose bytes nobody wrote: in its buffers are packets sent before, stamps and all.
    deaf: bool,
    /// Answers that the port did not take.
    pub(crate) refused: u64,
}

impl Io {
    pub(crate) fn new(port: Port, rx: RxQueue, tx: TxQueue, station: Station) -> Self {
        let deaf = port.info().is_ok_and(|info| info.driver == "net_null");
        Self { port, rx, tx, station, answers: Burst::new(), deaf, refused: 0 }
    }
}

/// Written by the worker, read by whoever shows progress; relaxed, as each stands alone.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) reflected: AtomicU64,
}

/// When a run ends.
pub(crate) struct Limits {
    pub(crate) warmup: Duration,
    pub(crate) duration: Option<Duration>,
    pub(crate) count: Option<u64>,
    pub(crate) min_received: Option<u64>,
    pub(crate) drain: Duration,
    pub(crate) resolve: Duration,
}

/// Frames that were nobody's.
#[derive(Clone, Copy, Default)]
pub(crate) struct Strays {
    /// A stamp, but a wrong checksum; or headers that make no sense.
    pub(crate) corrupt: u64,
    /// Anything else that was received.
    pub(crate) other: u64,
}

pub(crate) struct Worker<'a> {
    pub(crate) eal: &'a Eal,
    pub(crate) pool: &'a Pool,
    pub(crate) ios: Vec<Io>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) strays: Strays,
    pub(crate) sleeps: bool,
    /// Set from outside: end now.
    pub(crate) stop: &'a AtomicBool,
    pub(crate) progress: &'a Progress,
    clock: Instant,
    spent: Burst,
    inbox: Burst,
    linear: Vec<u8>,
    last_arrival: u64,
    idle_rounds: u32,
}

/// Rounds without work before the worker rests.
const PATIENCE: u32 = 64;
const REST: Duration = Duration::from_micros(20);
const SOLICIT_EVERY: u64 = 200_000_000;
/// A straggler that keeps coming does not hold up the end for longer.
const LONGEST_DRAIN: Duration = Duration::from_secs(5);
/// Whoever asked for the end waits no longer than this for stragglers.
const HASTY_DRAIN: Duration = Duration::from_secs(1);

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The gateway that a lane needs was silent.
#[derive(Debug, thiserror::Error)]
#[error(
    "no gateway answered on {ports} within {waited:?}: is the port's other end up? --gateway says whom to ask, --dst-mac skips the question"
)]
pub(crate) struct Silent {
    ports: String,
    waited: Duration,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(
        eal: &'a Eal,
        pool: &'a Pool,
        (ios, lanes): (Vec<Io>, Vec<Lane>),
        sleeps: bool,
        stop: &'a AtomicBool,
        progress: &'a Progress,
    ) -> Self {
        Self {
            eal,
            pool,
            ios,
            lanes,
            strays: Strays::default(),
            sleeps,
            stop,
            progress,
            clock: Instant::now(),
            spent: Burst::new(),
            inbox: Burst::new(),
            linear: Vec::new(),
            last_arrival: 0,
            idle_rounds: 0,
        }
    }

    fn now(&self) -> u64 {
        nanoseconds(self.clock.elapsed())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs to the end; `ready` is called once everything is up. Returns for how long was sent and counted.
    pub(crate) fn run(&mut self, limits: &Limits, ready: impl FnOnce()) -> Result<Duration, Silent> {
        // The kernel rounds short sleeps up by this much, by default by 50 µs.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000));
        self.resolve(limits.resolve)?;
        ready();
        if !limits.warmup.is_zero() && !self.lanes.is_empty() {
            let start = self.begin(true);
            self.send_until(start.saturating_add(nanoseconds(limits.warmup)), None, None);
        }
        let start = self.begin(false);
        let end = limits.duration.map_or(u64::MAX, |duration| start.saturating_add(nanoseconds(duration)));
        self.send_until(end, limits.count, limits.min_received);
        let stopped = self.now();
        for lane in &mut self.lanes {
            lane.end(limits.count);
        }
        if !self.lanes.is_empty() {
            self.drain(limits);
        }
        Ok(Duration::from_nanos(stopped - start))
    }

    fn begin(&mut self, warmup: bool) -> u64 {
        let now = self.now();
        for lane in &mut self.lanes {
            lane.begin(warmup, now);
        }
        now
    }

    /// Asks for the gateways until those that the lanes need have answered.
    fn resolve(&mut self, limit: Duration) -> Result<(), Silent> {
        let mut asked = None;
        loop {
            for lane in self.lanes.iter_mut().filter(|lane| lane.needs_gateway()) {
                if let Some(mac) = self.ios.get(lane.tx_io).and_then(|io| io.station.gateway_mac(lane.ipv4)) {
                    lane.set_gateway(mac);
                }
            }
            let now = self.now();
            if asked.is_none_or(|then| now - then >= SOLICIT_EVERY) {
                asked = Some(now);
                self.solicit();
            }
            let waiting: Vec<usize> =
                self.lanes.iter().filter(|lane| lane.needs_gateway()).map(|l| l.tx_io).collect();
            if waiting.is_empty() || self.stopped() {
                return Ok(());
            }
            if now > nanoseconds(limit) {
                let mut ports = String::new();
                for io in waiting.iter().filter_map(|&index| self.ios.get(index)) {
                    // Writing to a string does not fail.
                    let _ = write!(ports, "{}`{}`", if ports.is_empty() { "" } else { ", " }, io.port.name());
                }
                return Err(Silent { ports, waited: limit });
            }
            let worked = self.receive();
            self.rest(worked, None);
        }
    }

    fn solicit(&mut self) {
        for io in &mut self.ios {
            for frame in io.station.solicitations() {
                if let Some(mbuf) = self.pool.alloc().and_then(|mbuf| filled(mbuf, &frame)) {
                    queue(io, mbuf);
                }
            }
        }
    }

    fn send_until(&mut self, end: u64, count: Option<u64>, min_received: Option<u64>) {
        let mut solicit_at = 0;
        loop {
            let now = self.now();
            let ended = now >= end;
            let mut worked = false;
            for lane in &mut self.lanes {
                let Some(io) = self.ios.get_mut(lane.tx_io) else { continue };
                // What was due before the end is sent even if this comes after it.
                worked |= lane.send(self.pool, &mut io.tx, now.min(end.saturating_sub(1)), count) > 0;
            }
            if ended || self.stopped() {
                return;
            }
            worked |= self.receive();
            // An echo peer is known to its gateway by its asking, until it has an answer.
            if self.lanes.is_empty() && now >= solicit_at {
                solicit_at = now + 5 * SOLICIT_EVERY;
                self.solicit();
            }
            self.publish();
            let done =
                |limit: u64| !self.lanes.is_empty() && self.lanes.iter().all(|lane| lane.sent >= limit);
            if count.is_some_and(done) || min_received.is_some_and(|least| self.arrived() >= least) {
                return;
            }
            self.rest(
                worked,
                self.lanes.iter().map(Lane::next_ns).min().flatten().filter(|_| count.is_none()),
            );
        }
    }

    /// Different packets received, or reflected.
    pub(crate) fn arrived(&self) -> u64 {
        let received: u64 = self.lanes.iter().map(Lane::received).sum();
        received + self.reflected()
    }

    pub(crate) fn reflected(&self) -> u64 {
        self.ios.iter().map(|io| io.station.done.reflected).sum()
    }

    fn publish(&self) {
        self.progress.sent.store(self.lanes.iter().map(|lane| lane.sent).sum(), Ordering::Relaxed);
        self.progress.received.store(self.lanes.iter().map(Lane::received).sum(), Ordering::Relaxed);
        self.progress.reflected.store(self.reflected(), Ordering::Relaxed);
    }

    fn drain(&mut self, limits: &Limits) {
        let start = self.now();
        self.last_arrival = start;
        let (quiet, longest) = (nanoseconds(limits.drain), nanoseconds(LONGEST_DRAIN.max(limits.drain)));
        let mut interrupted = None;
        loop {
            let now = self.now();
            if self.stopped() && now - *interrupted.get_or_insert(now) >= nanoseconds(HASTY_DRAIN) {
                break;
            }
            let all = self.lanes.iter().all(|lane| lane.received() >= lane.sent);
            if all || now - self.last_arrival >= quiet || now - start >= longest {
                break;
            }
            let worked = self.receive();
            self.rest(worked, None);
        }
        self.publish();
    }

    fn rest(&mut self, worked: bool, next: Option<u64>) {
        if worked {
            self.idle_rounds = 0;
            return;
        }
        self.idle_rounds = self.idle_rounds.saturating_add(1);
        if !self.sleeps || self.idle_rounds < PATIENCE {
            std::hint::spin_loop();
            return;
        }
        let until = next.map_or(REST, |next| Duration::from_nanos(next.saturating_sub(self.now())));
        if !until.is_zero() {
            std::thread::sleep(until.min(REST));
        }
    }

    /// One burst of each port; returns whether there was anything.
    fn receive(&mut self) -> bool {
        let mut worked = false;
        for index in 0..self.ios.len() {
            let Some(io) = self.ios.get_mut(index) else { break };
            if !io.deaf && io.rx.rx(&mut self.inbox) > 0 {
                worked = true;
                // Read now: what the ports before this one brought has taken its time.
                let now = nanoseconds(self.clock.elapsed());
                self.last_arrival = now;
                for mbuf in self.inbox.drain() {
                    let at = (index, now);
                    let kept = take(io, &mut self.lanes, &mut self.strays, &mut self.linear, mbuf, at);
                    if let Some(mbuf) = kept
                        && let Err(mbuf) = self.spent.push(mbuf)
                    {
                        self.spent.clear();
                        // An empty burst has room.
                        let _ = self.spent.push(mbuf);
                    }
                }
                self.spent.clear();
            }
            let before = io.answers.len();
            io.tx.tx(&mut io.answers);
            worked |= io.answers.len() < before;
            if io.answers.is_full() {
                io.refused += u64::try_from(io.answers.len()).unwrap_or(0);
                io.answers.clear();
            }
        }
        worked
    }
}

/// An mbuf with that frame in it; none if it does not fit.
fn filled(mut mbuf: Mbuf, frame: &[u8]) -> Option<Mbuf> {
    mbuf.reset();
    mbuf.append(frame.len())?.copy_from_slice(frame);
    Some(mbuf)
}

fn queue(io: &mut Io, mbuf: Mbuf) {
    if io.answers.push(mbuf).is_err() {
        io.refused += 1;
    }
}

/// Deals with one packet received on that port at that time; gives it back if it is done with.
fn take(
    io: &mut Io,
    lanes: &mut [Lane],
    strays: &mut Strays,
    linear: &mut Vec<u8>,
    mut mbuf: Mbuf,
    (index, now): (usize, u64),
) -> Option<Mbuf> {
    let whole = if mbuf.segment_count() == 1 {
        mbuf.data()
    } else {
        linear.clear();
        mbuf.copy_into(linear);
        linear
    };
    // Of two directions it is the one that was sent on the other port.
    let only = lanes.len() == 1;
    let replay = lanes.iter_mut().find(|lane| lane.replays() && (only || lane.tx_io != index));
    let replays = replay.is_some();
    if let Some(lane) = replay {
        // Its frames carry no stamp: whatever comes is one of them.
        lane.count_one();
    }
    let frame = classify(whole);
    if let Frame::Stamped(stamp) = frame {
        if let Some(lane) = lanes.iter_mut().find(|lane| lane.owns(stamp.run)) {
            lane.arrive(stamp, now);
            return Some(mbuf);
        }
        if lanes.iter().any(|lane| lane.owned_before(stamp.run)) {
            return Some(mbuf);
        }
        // Another's: an echo peer sends it back.
    }
    let parsed = match frame {
        Frame::Other(parsed) => parsed,
        Frame::Stamped(_) => match wire::parse(whole, whole.len()) {
            Ok(parsed) => parsed,
            Err(_) => return Some(mbuf),
        },
        Frame::Corrupt | Frame::Malformed => {
            // A capture may hold anything.
            strays.corrupt += u64::from(!replays);
            return Some(mbuf);
        }
    };
    match io.station.answer(whole, &parsed) {
        Answer::TurnRound => {
            if turn_round(mbuf.data_mut(), &parsed) {
                queue(io, mbuf);
                return None;
            }
        }
        Answer::Replace(frame) => {
            if let Some(reply) = filled(mbuf, &frame) {
                queue(io, reply);
            }
            return None;
        }
        Answer::None => {
            strays.other += u64::from(!replays);
        }
    }
    Some(mbuf)
}

/// The MAC of a port.
pub(crate) fn mac_of(port: &Port) -> Result<MacAddr, dpdk::PortError> {
    port.mac().map(MacAddr)
}
