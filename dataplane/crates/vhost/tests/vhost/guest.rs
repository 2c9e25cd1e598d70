//! A guest: memory in a memfd, a front end, and two split rings driven by hand.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use podrouter_vhost::{Mode, PeerState, VhostConfig, VhostPort, VhostRx, VhostTx};
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

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

/// Ring numbers, as the guest names them.
pub(crate) const RECEIVE: usize = 0;
pub(crate) const TRANSMIT: usize = 1;

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
    pub(crate) doorbell: OwnedFd,
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl Host {
    pub(crate) fn start() -> Host {
        Host::start_as(Mode::Server)
    }

    pub(crate) fn start_as(mode: Mode) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        let doorbell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let config = VhostConfig { path: path.clone(), mode, name: "test".to_owned() };
        let (port, rx, tx) = VhostPort::start(config, Some(doorbell.try_clone().unwrap())).unwrap();
        Host { port, rx, tx, doorbell, path, _folder: folder }
    }

    pub(crate) fn reaches(&self, state: PeerState) {
        eventually(&format!("state {state}"), || self.port.state() == state);
    }
}

/// One split ring, seen by the driver.
pub(crate) struct Ring {
    memory: GuestMemoryMmap,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// Free memory for the ring's buffers.
    pub(crate) buffers: u64,
    next_available: u16,
    next_used: u16,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
}

impl Ring {
    fn new(memory: &GuestMemoryMmap, at: u64, size: u16, base: u16) -> Ring {
        let ring = Ring {
            memory: memory.clone(),
            size,
            descriptors: at,
            available: at + 0x8000,
            used: at + 0xa000,
            buffers: at + 0x1_0000,
            next_available: base,
            next_used: base,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
        };
        ring.memory.write_obj(base, GuestAddress(ring.available + 2)).unwrap();
        ring.memory.write_obj(base, GuestAddress(ring.used + 2)).unwrap();
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

    pub(crate) fn describe(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = self.descriptors + 16 * u64::from(index);
        let bytes =
            [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
                .concat();
        self.write(at, &bytes);
    }

    /// Makes a chain available.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.size);
        self.memory.write_obj(head, GuestAddress(self.available + 4 + 2 * slot)).unwrap();
        self.next_available = self.next_available.wrapping_add(1);
        self.publish(self.next_available);
    }

    /// Writes the available ring's index.
    pub(crate) fn publish(&self, index: u16) {
        self.memory.store(index, GuestAddress(self.available + 2), Ordering::Release).unwrap();
        fence(Ordering::SeqCst);
    }

    pub(crate) fn set_no_interrupt(&self, quiet: bool) {
        self.memory.write_obj(u16::from(quiet), GuestAddress(self.available)).unwrap();
    }

    /// Whether the device asks for no kicks.
    pub(crate) fn no_kicks_wanted(&self) -> bool {
        self.memory.read_obj::<u16>(GuestAddress(self.used)).unwrap() & 1 != 0
    }

    /// Heads and lengths that were used since the last time.
    pub(crate) fn used(&mut self) -> Vec<(u32, u32)> {
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

    /// Transmits a frame: header and data in one descriptor of this number.
    pub(crate) fn transmit(&mut self, index: u16, frame: &[u8]) {
        let buffer = self.buffers + 0x800 * u64::from(index);
        self.write(buffer, &[&[0; 12], frame].concat());
        self.describe(index, buffer, u32::try_from(12 + frame.len()).unwrap(), 0, 0);
        self.offer(index);
    }

    /// Offers a buffer of this length to receive into, with the descriptor of this number.
    pub(crate) fn provide(&mut self, index: u16, length: u32) -> u64 {
        let buffer = self.buffers + 0x800 * u64::from(index);
        self.describe(index, buffer, length, WRITE, 0);
        self.offer(index);
        buffer
    }
}

/// A guest that is connected.
pub(crate) struct Guest {
    pub(crate) frontend: Frontend,
    pub(crate) rings: [Ring; 2],
    pub(crate) memory: VhostUserMemoryRegionInfo,
    pub(crate) features: u64,
    _file: File,
}

impl Guest {
    /// Connects, and sets up both rings: 16 descriptors, from index 0.
    pub(crate) fn connect(path: &Path) -> Guest {
        Guest::over(Frontend::connect(path, 2).unwrap(), VERSION_1, 16, 0)
    }

    pub(crate) fn connect_with(path: &Path, features: u64, size: u16, base: u16) -> Guest {
        Guest::over(Frontend::connect(path, 2).unwrap(), features, size, base)
    }

    pub(crate) fn over(frontend: Frontend, features: u64, size: u16, base: u16) -> Guest {
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(u64::try_from(MEMORY).unwrap()).unwrap();
        let mapped = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(GUEST_BASE), MEMORY, Some(mapped))])
                .unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: u64::try_from(MEMORY).unwrap(),
            userspace_addr: USER_BASE,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        let half = u64::try_from(MEMORY / 2).unwrap();
        let rings =
            [Ring::new(&memory, GUEST_BASE, size, base), Ring::new(&memory, GUEST_BASE + half, size, base)];
        let mut guest = Guest { frontend, rings, memory: region, features, _file: file };
        guest.negotiate();
        guest.frontend.set_mem_table(&[guest.memory]).unwrap();
        for index in [RECEIVE, TRANSMIT] {
            guest.start_ring(index, base);
        }
        guest
    }

    fn negotiate(&mut self) {
        let frontend = &mut self.frontend;
        let offered = frontend.get_features().unwrap();
        assert_eq!(offered & self.features, self.features);
        assert_ne!(offered & PROTOCOL_FEATURES, 0);
        frontend.set_features(self.features | PROTOCOL_FEATURES).unwrap();
        let wanted = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
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
