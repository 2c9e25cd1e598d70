//! A guest: memory in a memfd, a front end, and rings of either kind driven by hand.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use podrouter_vhost::{
    HEADER_LEN, Mode, PeerState, RxBurst, RxRefused, Sent, TxBurst, VhostConfig, VhostPort, VhostRx, VhostTx,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
pub(crate) const MRG_RXBUF: u64 = 1 << 15;
pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const PACKED: u64 = 1 << 34;
pub(crate) const IN_ORDER: u64 = 1 << 35;

/// A driver whose rings are split, and one whose are packed and used in order, which they are in any case.
pub(crate) const BOTH: [u64; 2] = [VERSION_1, VERSION_1 | PACKED | IN_ORDER];

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
/// In a packed ring's descriptors.
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Ring numbers, as the guest names them.
pub(crate) const RECEIVE: usize = 0;
pub(crate) const TRANSMIT: usize = 1;

/// Bytes of memory for each pair of rings.
pub(crate) const MEMORY: usize = 1 << 20;
/// The guest's memory starts here, physically and in the front end's address space.
pub(crate) const GUEST_BASE: u64 = 0x10_0000;
pub(crate) const USER_BASE: u64 = 0x7f12_3450_0000;

/// Waits until it holds, for longer than any machine should need.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "not in time: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn readable(fd: impl AsFd, limit: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(limit).unwrap())).unwrap() == 1
}

/// How often an eventfd was signalled since the last time.
pub(crate) fn count(fd: impl AsFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
}

/// A folder, and a port that listens in it.
pub(crate) struct Host {
    pub(crate) port: VhostPort,
    pub(crate) rx: VhostRx,
    pub(crate) tx: VhostTx,
    /// Of the queue pairs beyond the first.
    pub(crate) others: Vec<(VhostRx, VhostTx)>,
    /// By queue pair.
    pub(crate) doorbells: Vec<OwnedFd>,
    pub(crate) path: PathBuf,
    pub(crate) folder: TempDir,
}

impl Host {
    pub(crate) fn start() -> Host {
        Host::start_with(|config| config)
    }

    pub(crate) fn start_as(mode: Mode) -> Host {
        Host::start_with(|config| VhostConfig { mode, ..config })
    }

    pub(crate) fn start_with(change: impl FnOnce(VhostConfig) -> VhostConfig) -> Host {
        Host::start_in(tempfile::tempdir().unwrap(), change)
    }

    pub(crate) fn start_in(folder: TempDir, change: impl FnOnce(VhostConfig) -> VhostConfig) -> Host {
        let path = folder.path().join("port");
        let config = change(VhostConfig::new(&path, "test"));
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let doorbells: Vec<OwnedFd> =
            (0..config.queue_pairs).map(|_| rustix::event::eventfd(0, flags).unwrap()).collect();
        let copies = doorbells.iter().map(|doorbell| doorbell.try_clone().unwrap()).collect();
        let (port, mut pairs) = VhostPort::start(config, copies).unwrap();
        let (rx, tx) = pairs.remove(0);
        Host { port, rx, tx, others: pairs, doorbells, path, folder }
    }

    /// Ends the port as a process that is killed would, as far as the guest can see: between two bursts, without a word.
    pub(crate) fn end(self) -> TempDir {
        self.folder
    }

    pub(crate) fn reaches(&self, state: PeerState) {
        eventually(&format!("state {state}"), || self.port.state() == state);
    }

    /// All that is there, in one burst.
    pub(crate) fn receive(&mut self) -> Vec<Result<Vec<u8>, RxRefused>> {
        frames(&self.rx.burst(32))
    }

    /// One frame in a burst of its own.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Sent {
        send(&mut self.tx.burst(1), &[frame])
    }
}

/// What a burst holds.
pub(crate) fn frames(burst: &RxBurst<'_>) -> Vec<Result<Vec<u8>, RxRefused>> {
    let copy = |frame: podrouter_vhost::RxFrame<'_>| {
        let mut bytes = vec![0; frame.len()];
        assert!(frame.copy(0, &mut bytes));
        bytes
    };
    let frames: Vec<_> = burst.frames().map(|frame| frame.map(copy)).collect();
    assert_eq!(frames.len(), burst.len());
    frames
}

/// Sends a frame of these pieces, with nothing to say in the header.
pub(crate) fn send(burst: &mut TxBurst<'_>, pieces: &[&[u8]]) -> Sent {
    let len = pieces.iter().map(|piece| piece.len()).sum();
    // As the data plane does.
    if let [whole] = pieces
        && burst.send_whole([0; HEADER_LEN], whole)
    {
        return Sent::Ok;
    }
    burst.send([0; HEADER_LEN], len, pieces.iter().copied())
}

/// One ring, seen by the driver. Of a packed one chains are described as if it were split, in a table of the driver's own.
pub(crate) struct Ring {
    memory: GuestMemoryMmap,
    pub(crate) packed: bool,
    event_index: bool,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// Free memory for the ring's buffers.
    pub(crate) buffers: u64,
    next_available: u16,
    next_used: u16,
    /// A packed ring's counters, and how many places each id takes up.
    available_wrap: bool,
    used_wrap: bool,
    shadow: Vec<(u64, u32, u16, u16)>,
    slots: Vec<u16>,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
}

impl Ring {
    fn new(memory: &GuestMemoryMmap, at: u64, size: u16, base: u16, features: u64) -> Ring {
        let packed = features & PACKED != 0;
        let ring = Ring {
            memory: memory.clone(),
            packed,
            event_index: features & EVENT_IDX != 0,
            size,
            descriptors: at,
            available: at + 0x8000,
            used: at + 0xa000,
            buffers: at + 0x1_0000,
            next_available: base,
            next_used: base,
            available_wrap: true,
            used_wrap: true,
            shadow: vec![(0, 0, 0, 0); usize::from(size)],
            slots: vec![0; usize::from(size)],
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
        };
        if !packed {
            ring.memory.write_obj(base, GuestAddress(ring.available + 2)).unwrap();
            ring.memory.write_obj(base, GuestAddress(ring.used + 2)).unwrap();
        }
        ring
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Memory that belongs to the descriptor of this number.
    pub(crate) fn buffer(&self, index: u16) -> u64 {
        self.buffers + 0x800 * u64::from(index)
    }

    pub(crate) fn describe(&mut self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        if self.packed {
            self.shadow[usize::from(index)] = (address, length, flags, next);
            return;
        }
        self.write_descriptor(self.descriptors + 16 * u64::from(index), address, length, flags, next);
    }

    /// Eight bytes of address, four of length, and two numbers, as both kinds have them.
    fn write_descriptor(&self, at: u64, address: u64, length: u32, third: u16, fourth: u16) {
        let bytes =
            [&address.to_le_bytes()[..], &length.to_le_bytes(), &third.to_le_bytes(), &fourth.to_le_bytes()]
                .concat();
        self.write(at, &bytes);
    }

    /// Describes a chain by an indirect table, which lies at `table`: buffers with their flags but NEXT.
    pub(crate) fn describe_table(&mut self, index: u16, table: u64, entries: &[(u64, u32, u16)]) {
        for (number, &(address, length, flags)) in entries.iter().enumerate() {
            let at = table + 16 * u64::try_from(number).unwrap();
            if self.packed {
                self.write_descriptor(at, address, length, 0, flags);
            } else {
                let last = number + 1 == entries.len();
                let next = if last { 0 } else { u16::try_from(number + 1).unwrap() };
                self.write_descriptor(at, address, length, if last { flags } else { flags | NEXT }, next);
            }
        }
        self.describe(index, table, u32::try_from(16 * entries.len()).unwrap(), INDIRECT, 0);
    }

    /// Makes a chain available.
    pub(crate) fn offer(&mut self, head: u16) {
        if self.packed {
            return self.offer_packed(head);
        }
        let slot = u64::from(self.next_available % self.size);
        self.memory.write_obj(head, GuestAddress(self.available + 4 + 2 * slot)).unwrap();
        self.next_available = self.next_available.wrapping_add(1);
        self.publish(self.next_available);
    }

    /// The descriptors of the chain one after the other, the head's flags last.
    fn offer_packed(&mut self, head: u16) {
        let (first, mut at, mut slots, mut head_flags) = (self.next_available, head, 0, 0);
        loop {
            let (address, length, flags, next) = self.shadow[usize::from(at)];
            let bits = if self.available_wrap { AVAILABLE } else { USED };
            let flags = flags | bits;
            let place = self.descriptors + 16 * u64::from(self.next_available);
            if slots == 0 {
                // Not available yet, as it was before.
                let old = self.memory.read_obj::<u16>(GuestAddress(place + 14)).unwrap();
                self.write_descriptor(place, address, length, head, old);
                head_flags = flags;
            } else {
                self.write_descriptor(place, address, length, head, flags);
            }
            slots += 1;
            self.next_available += 1;
            if self.next_available == self.size {
                (self.next_available, self.available_wrap) = (0, !self.available_wrap);
            }
            if flags & NEXT == 0 || slots == self.size || next >= self.size {
                break;
            }
            at = next;
        }
        self.slots[usize::from(head)] = slots;
        let place = GuestAddress(self.descriptors + 16 * u64::from(first) + 14);
        self.memory.store(head_flags, place, Ordering::Release).unwrap();
        fence(Ordering::SeqCst);
    }

    /// Writes the available ring's index.
    pub(crate) fn publish(&self, index: u16) {
        self.memory.store(index, GuestAddress(self.available + 2), Ordering::Release).unwrap();
        fence(Ordering::SeqCst);
    }

    pub(crate) fn set_no_interrupt(&self, quiet: bool) {
        let at = if self.packed { self.available + 2 } else { self.available };
        self.memory.write_obj(u16::from(quiet), GuestAddress(at)).unwrap();
    }

    /// Wants an interrupt when the chain so many chains on, of one place each, has been used.
    pub(crate) fn set_used_event(&self, ahead: u16) {
        assert!(self.event_index);
        if self.packed {
            let place = self.next_used + ahead;
            let (index, wrap) = if place >= self.size {
                (place - self.size, !self.used_wrap)
            } else {
                (place, self.used_wrap)
            };
            let bits = index | u16::from(wrap) << 15;
            self.memory.write_obj(bits, GuestAddress(self.available)).unwrap();
            self.memory.write_obj(2u16, GuestAddress(self.available + 2)).unwrap();
        } else {
            let at = self.available + 4 + 2 * u64::from(self.size);
            self.memory.write_obj(self.next_used.wrapping_add(ahead), GuestAddress(at)).unwrap();
        }
    }

    /// Whether the device asks for no kicks: not with the next chain, that is.
    pub(crate) fn no_kicks_wanted(&self) -> bool {
        let number = |at: u64| self.memory.read_obj::<u16>(GuestAddress(at)).unwrap();
        match (self.packed, self.event_index) {
            (false, false) => number(self.used) & 1 != 0,
            (false, true) => number(self.used + 4 + 8 * u64::from(self.size)) != self.next_available,
            (true, _) => match number(self.used + 2) {
                0 => false,
                1 => true,
                _ => number(self.used) != self.next_available | u16::from(self.available_wrap) << 15,
            },
        }
    }

    /// Heads and lengths that were used since the last time.
    pub(crate) fn used(&mut self) -> Vec<(u32, u32)> {
        if self.packed {
            return self.used_packed();
        }
        let index: u16 = self.memory.load(GuestAddress(self.used + 2), Ordering::Acquire).unwrap();
        let mut used = Vec::new();
        while self.next_used != index {
            let at = self.used + 4 + 8 * u64::from(self.next_used % self.size);
            used.push((
                self.memory.read_obj(GuestAddress(at)).unwrap(),
                self.memory.read_obj(GuestAddress(at + 4)).unwrap(),
            ));
            self.next_used = self.next_used.wrapping_add(1);
        }
        used
    }

    fn used_packed(&mut self) -> Vec<(u32, u32)> {
        let mut used = Vec::new();
        loop {
            let at = self.descriptors + 16 * u64::from(self.next_used);
            let flags: u16 = self.memory.load(GuestAddress(at + 14), Ordering::Acquire).unwrap();
            let wrap = if self.used_wrap { AVAILABLE | USED } else { 0 };
            let id: u16 = self.memory.read_obj(GuestAddress(at + 12)).unwrap();
            let slots = self.slots[usize::from(id % self.size)];
            // One that was never used looks as if it had been, in a round without flags: its id has nothing outstanding.
            if flags & (AVAILABLE | USED) != wrap || slots == 0 {
                return used;
            }
            self.slots[usize::from(id)] = 0;
            used.push((u32::from(id), self.memory.read_obj(GuestAddress(at + 8)).unwrap()));
            self.next_used += slots;
            if self.next_used >= self.size {
                (self.next_used, self.used_wrap) = (self.next_used - self.size, !self.used_wrap);
            }
        }
    }

    /// Where a back end that has used all goes on, as `SET_VRING_BASE` has it.
    pub(crate) fn base(&self) -> u16 {
        if self.packed { self.next_used | u16::from(self.used_wrap) << 15 } else { self.next_used }
    }

    /// Transmits a frame: header and data in one descriptor of this number.
    pub(crate) fn transmit(&mut self, index: u16, frame: &[u8]) {
        self.transmit_with([0; 12], index, frame);
    }

    pub(crate) fn transmit_with(&mut self, header: [u8; 12], index: u16, frame: &[u8]) {
        let buffer = self.buffer(index);
        self.write(buffer, &[&header[..], frame].concat());
        self.describe(index, buffer, u32::try_from(12 + frame.len()).unwrap(), 0, 0);
        self.offer(index);
    }

    /// Offers a buffer of this length to receive into, with the descriptor of this number.
    pub(crate) fn provide(&mut self, index: u16, length: u32) -> u64 {
        let buffer = self.buffer(index);
        self.describe(index, buffer, length, WRITE, 0);
        self.offer(index);
        buffer
    }
}

/// A guest that is connected.
pub(crate) struct Guest {
    pub(crate) frontend: Frontend,
    /// Two for each queue pair.
    pub(crate) rings: Vec<Ring>,
    pub(crate) memory: VhostUserMemoryRegionInfo,
    pub(crate) features: u64,
    _file: File,
}

impl Guest {
    /// Connects, and sets up both rings: 16 descriptors, from index 0.
    pub(crate) fn connect(path: &Path) -> Guest {
        Guest::connect_with(path, VERSION_1, 16, 0)
    }

    pub(crate) fn connect_with(path: &Path, features: u64, size: u16, base: u16) -> Guest {
        Guest::over(Frontend::connect(path, 2).unwrap(), features, size, base)
    }

    pub(crate) fn over(frontend: Frontend, features: u64, size: u16, base: u16) -> Guest {
        Guest::with_pairs(frontend, features, size, base, 1)
    }

    pub(crate) fn with_pairs(frontend: Frontend, features: u64, size: u16, base: u16, pairs: usize) -> Guest {
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let bytes = MEMORY * pairs;
        file.set_len(u64::try_from(bytes).unwrap()).unwrap();
        let mapped = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(GUEST_BASE), bytes, Some(mapped))])
                .unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: u64::try_from(bytes).unwrap(),
            userspace_addr: USER_BASE,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        let half = u64::try_from(MEMORY / 2).unwrap();
        let ring = |number: usize| {
            let at = GUEST_BASE + half * u64::try_from(number).unwrap();
            Ring::new(&memory, at, size, base, features)
        };
        let rings = (0..2 * pairs).map(ring).collect();
        let mut guest = Guest { frontend, rings, memory: region, features, _file: file };
        guest.set_up();
        guest
    }

    /// Connects to another back end, with the same memory and rings as they are.
    pub(crate) fn reconnect(&mut self, path: &Path) {
        let queues = u64::try_from(self.rings.len()).unwrap();
        self.frontend = Frontend::connect(path, queues).unwrap();
        self.negotiate();
        self.frontend.set_mem_table(&[self.memory]).unwrap();
    }

    fn set_up(&mut self) {
        self.negotiate();
        self.frontend.set_mem_table(&[self.memory]).unwrap();
        for index in 0..self.rings.len() {
            self.start_ring(index, self.rings[index].base());
        }
    }

    pub(crate) fn negotiate(&mut self) {
        let frontend = &mut self.frontend;
        let offered = frontend.get_features().unwrap();
        assert_eq!(offered & self.features, self.features);
        assert_ne!(offered & PROTOCOL_FEATURES, 0);
        frontend.set_features(self.features | PROTOCOL_FEATURES).unwrap();
        let wanted = VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::MQ;
        let offered = frontend.get_protocol_features().unwrap();
        assert_eq!(offered, wanted);
        frontend.set_protocol_features(wanted).unwrap();
        // Every message is answered from here on, so that each refusal shows where it happened.
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_owner().unwrap();
    }

    pub(crate) fn addresses(&self, index: usize) -> VringConfigData {
        let ring = &self.rings[index];
        let user = |address: u64| address - GUEST_BASE + USER_BASE;
        VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: user(ring.descriptors),
            used_ring_addr: user(ring.used),
            avail_ring_addr: user(ring.available),
            log_addr: None,
        }
    }

    pub(crate) fn start_ring(&mut self, index: usize, base: u16) {
        let (frontend, ring) = (&self.frontend, &self.rings[index]);
        frontend.set_vring_num(index, ring.size).unwrap();
        frontend.set_vring_base(index, base).unwrap();
        frontend.set_vring_addr(index, &self.addresses(index)).unwrap();
        frontend.set_vring_call(index, &ring.call).unwrap();
        frontend.set_vring_kick(index, &ring.kick).unwrap();
        self.frontend.set_vring_enable(index, true).unwrap();
    }

    pub(crate) fn transmit(&mut self) -> &mut Ring {
        &mut self.rings[TRANSMIT]
    }

    pub(crate) fn receive(&mut self) -> &mut Ring {
        &mut self.rings[RECEIVE]
    }
}

/// A frame that no other call with another number gives.
pub(crate) fn frame(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 7 + number * 13 + number / 251) % 251).unwrap()).collect()
}
