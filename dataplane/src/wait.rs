//! How a worker waits when there is nothing to do.
//!
//! Poll workers spin, or back off by steps. Kernel workers sleep in epoll until a TAP is readable. Whoever sleeps is
//! parked: it counts as having the current tables, and takes them before it touches a packet.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use pipeline::Tick;
use publish::Reader;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use tables::Tables;

use crate::args::Idle;
use crate::counters::WorkerCounters;
use crate::handover::WorkerShared;
use crate::io::Device;
use crate::worker::Slots;

/// A poll worker spins this long, in microseconds, before it first sleeps.
const SPIN_US: u64 = 100;

/// Longest sleep of a poll worker that has ports to look at, in microseconds.
const NAP_US: u64 = 400;

/// Longest sleep of any worker: its statistics stay fresh.
const SLEEP_US: u64 = 500_000;

/// Busy share is measured over this long, in microseconds.
const WINDOW_US: u64 = 1_000_000;

/// The doorbell's place among epoll's user data; slots use their position.
const DOORBELL: u64 = u64::MAX;

/// The way one worker waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    how: How,
    /// By slot: something may have arrived.
    ready: Vec<bool>,
    /// A device could not be added to the epoll set.
    incomplete: bool,
    last: Tick,
    idle_since: Tick,
    window: Tick,
    busy_in_window: u64,
}

#[derive(Debug)]
enum How {
    Spin,
    Adaptive,
    Epoll(OwnedFd),
}

impl Waiter {
    pub(crate) fn poll(idle: Idle) -> Self {
        Self::new(match idle {
            Idle::Poll => How::Spin,
            Idle::Adaptive => How::Adaptive,
        })
    }

    pub(crate) fn epoll(shared: &WorkerShared) -> std::io::Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&fd, shared.doorbell.fd(), epoll::EventData::new_u64(DOORBELL), epoll::EventFlags::IN)?;
        Ok(Self::new(How::Epoll(fd)))
    }

    fn new(how: How) -> Self {
        Self {
            how,
            ready: Vec::new(),
            incomplete: false,
            last: Tick::default(),
            idle_since: Tick::default(),
            window: Tick::default(),
            busy_in_window: 0,
        }
    }

    /// Whether the port in this place may have something.
    pub(crate) fn is_ready(&self, at: usize) -> bool {
        self.ready.get(at).copied().unwrap_or(true)
    }

    pub(crate) fn add(&mut self, at: usize, device: &Device) {
        if let (How::Epoll(epoll), Some(fd)) = (&self.how, device.wake_fd()) {
            // It fails only for want of kernel memory; every port is looked at in each round then.
            let added = epoll::add(epoll, fd, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN);
            self.incomplete |= added.is_err();
            self.ready.resize(self.ready.len().max(at + 1), true);
            self.ready[at] = true;
        }
    }

    pub(crate) fn remove(&mut self, at: usize, device: &Device) {
        self.forget(device);
        if at < self.ready.len() {
            self.ready.swap_remove(at);
        }
    }

    /// Another device takes the place of this one.
    pub(crate) fn forget(&mut self, device: &Device) {
        if let (How::Epoll(epoll), Some(fd)) = (&self.how, device.wake_fd()) {
            // Its descriptor is open still. It is not there if it could not be added, or was taken out as dead.
            let _ = epoll::delete(epoll, fd);
        }
    }

    /// The device that was last is now at `at`.
    pub(crate) fn moved(&mut self, at: usize, device: &Device) {
        if let (How::Epoll(epoll), Some(fd)) = (&self.how, device.wake_fd()) {
            let _ = epoll::modify(epoll, fd, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN);
        }
    }

    /// Books the time since the last call as busy or idle.
    pub(crate) fn account(&mut self, now: Tick, worked: bool, counters: &WorkerCounters) {
        if worked {
            let busy = now.since(self.last);
            self.busy_in_window += busy;
            counters.busy_us.add(busy);
            self.idle_since = now;
        }
        self.last = now;
        let window = now.since(self.window);
        if window >= WINDOW_US {
            let permille = u32::try_from(self.busy_in_window * 1_000 / window).unwrap_or(1_000);
            counters.busy_permille.store(permille.min(1_000), Relaxed);
            self.window = now;
            self.busy_in_window = 0;
        }
    }

    /// Waits for work, if there was none; not beyond `next`. Without a slot, only the doorbell can bring any.
    pub(crate) fn wait(
        &mut self,
        worked: bool,
        slots: &Slots,
        now: Tick,
        next: Option<Tick>,
        shared: &WorkerShared,
        tables: &mut Reader<Tables>,
    ) {
        let until = |most: u64| next.map_or(most, |next| next.since(now).min(most));
        match &self.how {
            How::Spin => {
                if !worked {
                    std::hint::spin_loop();
                }
            }
            How::Adaptive => {
                if worked {
                    return;
                }
                let idle = now.since(self.idle_since);
                if idle < SPIN_US {
                    std::hint::spin_loop();
                    return;
                }
                // As long asleep as idle before, halved: a burst after a pause finds it soon.
                let nap = until(if slots.is_empty() { SLEEP_US } else { (idle / 2).min(NAP_US) }).max(1);
                let Some(asleep) = Asleep::begin(shared, tables) else { return };
                let mut fds = [PollFd::from_borrowed_fd(shared.doorbell.fd(), PollFlags::IN)];
                let rung = poll(&mut fds, Some(&timespec(nap))).is_ok_and(|n| n > 0);
                asleep.end(rung);
            }
            How::Epoll(fd) => {
                let mut events =
                    [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
                        64];
                let (asleep, most) = if worked {
                    (None, 0)
                } else {
                    match Asleep::begin(shared, tables) {
                        Some(asleep) => {
                            (Some(asleep), until(if self.incomplete { NAP_US } else { SLEEP_US }))
                        }
                        None => return,
                    }
                };
                // EINTR counts as nothing ready.
                let n = epoll::wait(fd, &mut events, Some(&timespec(most))).unwrap_or(0);
                let mut rung = false;
                self.ready.fill(self.incomplete);
                for event in events.iter().take(n) {
                    match usize::try_from(event.data.u64()) {
                        Ok(at) if at < self.ready.len() => {
                            self.ready[at] = true;
                            // Copied: the kernel's structure is packed.
                            let flags = event.flags;
                            if flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP) {
                                retire(fd, at, slots);
                            }
                        }
                        _ => rung = true,
                    }
                }
                match asleep {
                    Some(asleep) => asleep.end(rung),
                    None if rung => shared.doorbell.unpark(true),
                    None => {}
                }
            }
        }
    }
}

/// A TAP whose device was deleted says so for ever (`tun_chr_poll`): out of the set, or the worker would never sleep
/// again. It comes back when control sends another descriptor for it.
#[cold]
fn retire(epoll: &OwnedFd, at: usize, slots: &Slots) {
    let Some(slot) = slots.get(at) else { return };
    if let Some(fd) = slot.device.wake_fd() {
        let _ = epoll::delete(epoll, fd);
        tracing::warn!(
            id = slot.id.0,
            "the TAP's device was deleted; the port is down until it is added anew"
        );
    }
}

fn timespec(us: u64) -> Timespec {
    let us = us.min(SLEEP_US);
    Timespec {
        tv_sec: 0,
        #[expect(clippy::cast_possible_wrap, reason = "at most SLEEP_US, half a second")]
        tv_nsec: (us * 1_000) as i64,
    }
}

/// While it lives, the worker is parked.
struct Asleep<'a> {
    shared: &'a WorkerShared,
    tables: &'a mut Reader<Tables>,
}

impl<'a> Asleep<'a> {
    /// `None` if something has come up meanwhile.
    fn begin(shared: &'a WorkerShared, tables: &'a mut Reader<Tables>) -> Option<Self> {
        shared.doorbell.park();
        if shared.is_quiet() && tables.park() {
            Some(Self { shared, tables })
        } else {
            shared.doorbell.unpark(false);
            None
        }
    }

    fn end(self, rung: bool) {
        self.shared.doorbell.unpark(rung);
        self.tables.unpark();
    }
}
