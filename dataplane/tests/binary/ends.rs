//! The other ends of ports, played frame by frame: what is given to a port comes with what is left to finish of it, and so does what
//! it is taken from. Each speaks virtio-net headers, whatever carries them.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use podrouter_vhost::{VhostConfig, VhostPort, VhostRx, VhostTx};
use proto::dataplane::Ethdev;
use tap::VirtioNetHeader;
use vhost::vhost_user::Frontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::dataplane::{PATIENCE, ROUTER};
use crate::packet_socket::Packets;

/// A frame with what is left to finish of it.
pub(crate) type Taken = (VirtioNetHeader, Vec<u8>);

pub(crate) fn patiently(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The back end of a net_virtio_user device.
pub(crate) struct Backend {
    pub(crate) pairs: Vec<(VhostRx, VhostTx)>,
    _port: VhostPort,
}

impl Backend {
    pub(crate) fn start(socket: &Path, queue_pairs: u16) -> Self {
        let config = VhostConfig { queue_pairs, ..VhostConfig::new(socket, "peer") };
        let (port, pairs) = VhostPort::start(config, Vec::new()).unwrap();
        Self { pairs, _port: port }
    }

    /// The device of this name that talks to it.
    pub(crate) fn device(name: &str, socket: &Path, queues: u16) -> Ethdev {
        let devargs = format!("{name},path={},queues={queues}", socket.display());
        Ethdev { devargs: Some(devargs), ..Ethdev::new(name) }
    }

    pub(crate) fn take(&mut self) -> Vec<Taken> {
        let mut all = Vec::new();
        for (rx, _) in &mut self.pairs {
            let burst = rx.burst(64);
            for frame in burst.frames() {
                let frame = frame.unwrap();
                let mut bytes = vec![0; frame.len()];
                assert!(frame.copy(0, &mut bytes));
                all.push((VirtioNetHeader::decode(&frame.header()).unwrap(), bytes));
            }
        }
        all
    }

    /// Gives the device a frame by one of its queues.
    pub(crate) fn give(&mut self, queue: usize, header: VirtioNetHeader, frame: &[u8]) {
        patiently("the device takes a frame", || {
            let mut burst = self.pairs[queue].1.burst(1);
            burst.send(header.encode(), frame.len(), std::iter::once(frame)) == podrouter_vhost::Sent::Ok
        });
    }
}

/// A guest's driver, with a split ring each way and a buffer for each frame that holds the longest.
pub(crate) struct Driver {
    memory: GuestMemoryMmap,
    rings: [Ring; 2],
    _frontend: Frontend,
    _file: File,
}

struct Ring {
    /// Descriptor table, available and used ring, and buffers, in the guest's memory.
    at: u64,
    next: u16,
    used: u16,
    kick: EventFd,
    call: EventFd,
}

/// More than the pieces of one large segment.
const SIZE: u16 = 128;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x3000;
const BUFFER: u64 = 0x1_1000;
const BASE: u64 = 0x10_0000;
const USER: u64 = 0x7f12_3450_0000;
const RING: u64 = BUFFERS + BUFFER * SIZE as u64;
const HEADER: usize = 12;

impl Driver {
    /// VIRTIO 1.2, section 5.1.3: VERSION_1, and with it all of CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6,
    /// GUEST_USO4, GUEST_USO6 and HOST_USO, or none of them.
    pub(crate) fn connect(socket: &Path, offloads: bool) -> Self {
        let wanted: u64 = 1 << 32
            | if offloads {
                [0, 1, 7, 8, 11, 12, 54, 55, 56].iter().fold(0, |all, bit| all | 1 << bit)
            } else {
                0
            };
        let bytes = usize::try_from(2 * RING).unwrap();
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(2 * RING).unwrap();
        let mapped = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(BASE), bytes, Some(mapped))]).unwrap();
        let frontend = Frontend::connect(socket, 2).unwrap();
        let offered = frontend.get_features().unwrap();
        assert_eq!(offered & wanted, wanted, "{offered:x}");
        frontend.set_features(wanted).unwrap();
        frontend.set_owner().unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: BASE,
            memory_size: 2 * RING,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        let ring = |number: u64| Ring {
            at: BASE + RING * number,
            next: 0,
            used: 0,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
        };
        let rings = [ring(0), ring(1)];
        let mut driver = Self { memory, rings, _frontend: frontend, _file: file };
        for id in 0..SIZE {
            driver.describe(0, id, u32::try_from(BUFFER).unwrap(), 2);
            driver.offer(0, id);
        }
        for (number, ring) in driver.rings.iter().enumerate() {
            let user = |offset: u64| ring.at - BASE + USER + offset;
            let addresses = VringConfigData {
                queue_max_size: SIZE,
                queue_size: SIZE,
                flags: 0,
                desc_table_addr: user(0),
                used_ring_addr: user(USED),
                avail_ring_addr: user(AVAILABLE),
                log_addr: None,
            };
            let frontend = &driver._frontend;
            frontend.set_vring_num(number, SIZE).unwrap();
            frontend.set_vring_base(number, 0).unwrap();
            frontend.set_vring_addr(number, &addresses).unwrap();
            frontend.set_vring_call(number, &ring.call).unwrap();
            frontend.set_vring_kick(number, &ring.kick).unwrap();
        }
        driver
    }

    fn buffer(&self, ring: usize, id: u16) -> u64 {
        self.rings[ring].at + BUFFERS + BUFFER * u64::from(id)
    }

    fn describe(&self, ring: usize, id: u16, length: u32, flags: u16) {
        let bytes =
            [&self.buffer(ring, id).to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &[0, 0]]
                .concat();
        self.memory.write_slice(&bytes, GuestAddress(self.rings[ring].at + 16 * u64::from(id))).unwrap();
    }

    fn offer(&mut self, ring: usize, id: u16) {
        let ring = &mut self.rings[ring];
        let slot = GuestAddress(ring.at + AVAILABLE + 4 + 2 * u64::from(ring.next % SIZE));
        self.memory.write_obj(id, slot).unwrap();
        ring.next = ring.next.wrapping_add(1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.memory.write_obj(ring.next, GuestAddress(ring.at + AVAILABLE + 2)).unwrap();
        ring.kick.write(1).unwrap();
    }

    /// The next used descriptor, and how many bytes were written to it.
    fn used(&mut self, ring: usize) -> Option<(u16, u32)> {
        let ring = &mut self.rings[ring];
        let index: u16 = self.memory.read_obj(GuestAddress(ring.at + USED + 2)).unwrap();
        if index == ring.used {
            return None;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let at = ring.at + USED + 4 + 8 * u64::from(ring.used % SIZE);
        ring.used = ring.used.wrapping_add(1);
        let id: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let length = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        Some((u16::try_from(id).unwrap(), length))
    }

    fn take(&mut self) -> Vec<Taken> {
        let mut all = Vec::new();
        while let Some((id, length)) = self.used(0) {
            let mut bytes = vec![0; length as usize];
            self.memory.read_slice(&mut bytes, GuestAddress(self.buffer(0, id))).unwrap();
            let frame = bytes.split_off(HEADER);
            all.push((VirtioNetHeader::decode(&bytes).unwrap(), frame));
            self.offer(0, id);
        }
        all
    }

    fn give(&mut self, header: VirtioNetHeader, frame: &[u8]) {
        let bytes = [&header.encode()[..], frame].concat();
        self.memory.write_slice(&bytes, GuestAddress(self.buffer(1, 0))).unwrap();
        self.describe(1, 0, u32::try_from(bytes.len()).unwrap(), 0);
        self.offer(1, 0);
        patiently("the back end takes a frame", || self.used(1).is_some());
    }
}

/// Another node, at the far end of a tunnel over a device.
pub(crate) struct FarEnd {
    pub(crate) backend: Backend,
    /// The data plane's end, and this one.
    pub(crate) ends: [Ipv4Addr; 2],
    pub(crate) vni: u32,
}

impl FarEnd {
    /// This node's station on the uplink.
    const STATION: [u8; 6] = [2, 0, 0, 0, 1, 2];
    /// Outer Ethernet, IPv4, UDP and VXLAN headers.
    const OUTER: usize = 50;

    /// What came in datagrams. Who asks for this node's station is told.
    fn take(&mut self) -> Vec<Taken> {
        let mut inside = Vec::new();
        for (header, frame) in self.backend.take() {
            match frame.get(12..14) {
                Some([0x08, 0x06]) => {
                    let [own, theirs] = self.ends;
                    let answer = wire::build_arp_reply(wire::MacAddr(Self::STATION), theirs, ROUTER, own);
                    self.backend.give(0, VirtioNetHeader::default(), &answer);
                }
                Some([0x08, 0x00]) if frame[36..38] == wire::VXLAN_PORT.to_be_bytes() => {
                    assert_eq!(header.flags & tap::vnet::NEEDS_CSUM, 0, "a datagram is finished");
                    assert_eq!(frame[26..34], [self.ends[0].octets(), self.ends[1].octets()].concat());
                    assert_eq!(frame[42..50], wire::vxlan_header(self.vni));
                    inside.push((header, frame[Self::OUTER..].to_vec()));
                }
                _ => {}
            }
        }
        inside
    }

    fn give(&mut self, header: VirtioNetHeader, frame: &[u8]) {
        let mut outer = [&ROUTER.0[..], &Self::STATION, &[0x08, 0x00]].concat();
        let len = u16::try_from(frame.len() + 36).unwrap();
        outer.extend([0x45, 0]);
        outer.extend(len.to_be_bytes());
        outer.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        outer.extend(self.ends[1].octets());
        outer.extend(self.ends[0].octets());
        let sum = wire::checksum::internet_checksum(&outer[14..34]);
        outer[24..26].copy_from_slice(&sum.to_be_bytes());
        outer.extend(50_000_u16.to_be_bytes());
        outer.extend(wire::VXLAN_PORT.to_be_bytes());
        outer.extend((len - 20).to_be_bytes());
        outer.extend([0, 0]);
        outer.extend(wire::vxlan_header(self.vni));
        outer.extend(frame);
        // As a kernel leaves it that has the packet inside finished by its device.
        let mut header = header;
        if header.flags & tap::vnet::NEEDS_CSUM != 0 {
            header.csum_start += u16::try_from(Self::OUTER).unwrap();
        }
        self.backend.give(0, header, &outer);
    }
}

/// Any of them.
pub(crate) enum End {
    Tap(Packets),
    Guest(Driver),
    Device(Backend),
    Tunnel(FarEnd),
}

impl End {
    pub(crate) fn take(&mut self) -> Vec<Taken> {
        match self {
            Self::Tap(packets) => packets.take(),
            Self::Guest(driver) => driver.take(),
            Self::Device(backend) => backend.take(),
            Self::Tunnel(end) => end.take(),
        }
    }

    pub(crate) fn give(&mut self, header: VirtioNetHeader, frame: &[u8]) {
        match self {
            Self::Tap(packets) => packets.give(header, frame),
            Self::Guest(driver) => driver.give(header, frame),
            Self::Device(backend) => backend.give(0, header, frame),
            Self::Tunnel(end) => end.give(header, frame),
        }
    }
}
