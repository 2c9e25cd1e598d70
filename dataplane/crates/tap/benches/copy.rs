//! Bench of a TAP's calls: one thread carries frames from one TAP to another, by readv and writev, or by io_uring.
//!
//! Frames wait in the first TAP when the clock starts, so that nobody else runs meanwhile, and the clock is the thread's own
//! processor time. Both wait by poll(2) first, as a kernel worker does, and end when nothing is left. Root is needed, for a
//! network namespace of its own: `cargo bench -p tap --bench copy`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::{IoUring, opcode, types};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use tap::vnet::{GSO_TCPV4, NEEDS_CSUM, SHORT_LEN};
use tap::{Offloads, Tap, TapConfig, VirtioNetHeader};

/// Frames that are taken before any is given, as many as a worker's burst has.
const BURST: usize = 32;
/// A segment of 64 KiB, and its headers.
const ROOM: usize = 66 << 10;
const ROUNDS: usize = 300;

/// Ethernet, IPv4 and TCP headers of a frame for nobody here.
const HEADERS: usize = 14 + 20 + 20;

fn main() {
    if !rustix::process::geteuid().is_root() {
        println!("this bench makes TAPs, which takes root: nothing is measured");
        return;
    }
    // SAFETY: only the network namespace is unshared, not the table of file descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
    let (from, to) = (make("from"), make("to"));
    let source = packet_socket("from");
    let mut plain = Plain { buffers: vec![[0; ROOM]; BURST], lengths: [0; BURST] };
    let mut uring = Uring::new(&from, &to);
    println!(
        "thread's processor time a frame in ns, median of {ROUNDS} rounds (the tenth part is faster than the second)"
    );
    println!(
        "{:<8} {:>14} {:>20} {:>20} {:>7}",
        "frames", "in the queue", "readv, writev", "io_uring", "ratio"
    );
    for (name, frame) in [("60 B", frame(6)), ("64 KiB", frame(65_000))] {
        for waiting in [1, 4, 32, 128] {
            let mut times = [const { Vec::new() }; 2];
            for _ in 0..ROUNDS {
                for (at, times) in times.iter_mut().enumerate() {
                    for _ in 0..waiting {
                        assert_eq!(rustix::io::write(&source, &frame), Ok(frame.len()));
                    }
                    let began = processor_time();
                    wait(&from);
                    let carried = if at == 0 { plain.carry(&from, &to) } else { uring.carry() };
                    times.push((processor_time() - began) / waiting);
                    assert_eq!(carried, waiting, "every frame goes over, once");
                }
            }
            times.iter_mut().for_each(|times| times.sort_unstable());
            let [a, b] = &times;
            let of = |times: &[u64]| format!("{} ({})", times[ROUNDS / 2], times[ROUNDS / 10]);
            #[expect(clippy::cast_precision_loss, reason = "some thousand nanoseconds")]
            let ratio = b[ROUNDS / 2] as f64 / a[ROUNDS / 2] as f64;
            println!("{name:<8} {waiting:>14} {:>20} {:>20} {ratio:>7.2}", of(a), of(b));
        }
    }
}

fn make(name: &str) -> Tap {
    let tap = Tap::create(&TapConfig { name: name.to_owned(), persistent: false, vnet_hdr: true }).unwrap();
    tap.set_vnet_header_size(SHORT_LEN).unwrap();
    tap.set_offload(Offloads { checksum: true, tso4: true, tso6: true, uso: false }).unwrap();
    // The kernel would speak of itself by it.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
    let up = std::process::Command::new("ip").args(["link", "set", name, "up"]).status().unwrap();
    assert!(up.success());
    tap
}

/// What is written to it, the TAP's reader gets (packet(7)).
fn packet_socket(device: &str) -> OwnedFd {
    const PACKET_VNET_HDR: libc::c_int = 15;
    let name = std::ffi::CString::new(device).unwrap();
    // SAFETY: takes numbers alone.
    let fd: RawFd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let length = |of: usize| libc::socklen_t::try_from(of).unwrap();
    // The queue is to hold all segments of a round.
    let (yes, most): (libc::c_int, libc::c_int) = (1, 64 << 20);
    for (level, option, value) in
        [(libc::SOL_PACKET, PACKET_VNET_HDR, &yes), (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &most)]
    {
        // SAFETY: the value is an int, of an int's length.
        let result = unsafe {
            libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), length(size_of_val(value)))
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
    // SAFETY: plain data, for which all zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    // SAFETY: a zero-terminated string.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
    // SAFETY: an address of that family, and its length.
    let result = unsafe { libc::bind(fd, (&raw const address).cast(), length(size_of_val(&address))) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    socket
}

/// A vnet header and a TCP segment with so many bytes, large ones unfinished, to a MAC that nobody has: the kernel drops it as soon as
/// it has taken it from the second TAP.
fn frame(payload: u16) -> Vec<u8> {
    let large = payload > 1460;
    let header = VirtioNetHeader {
        flags: if large { NEEDS_CSUM } else { 0 },
        gso_type: if large { GSO_TCPV4 } else { 0 },
        hdr_len: if large { 54 } else { 0 },
        gso_size: if large { 1448 } else { 0 },
        csum_start: if large { 34 } else { 0 },
        csum_offset: if large { 16 } else { 0 },
        num_buffers: 0,
    };
    let mut frame = header.encode()[..SHORT_LEN].to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0]);
    let [high, low] = (40 + payload).to_be_bytes();
    frame.extend([0x45, 0, high, low, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, 80, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    assert_eq!(frame.len(), SHORT_LEN + HEADERS);
    frame.resize(SHORT_LEN + HEADERS + usize::from(payload), 7);
    frame
}

fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}

fn wait(tap: &Tap) {
    let mut fds = [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, None), Ok(1));
}

/// A call a frame and direction.
struct Plain {
    buffers: Vec<[u8; ROOM]>,
    lengths: [usize; BURST],
}

impl Plain {
    /// Carries all that waits; gives how many frames.
    fn carry(&mut self, from: &Tap, to: &Tap) -> u64 {
        let mut carried = 0;
        loop {
            let mut taken = 0;
            for (buffer, length) in self.buffers.iter_mut().zip(&mut self.lengths) {
                let (header, body) = buffer.split_at_mut(SHORT_LEN);
                match from.read_vectored(&mut [IoSliceMut::new(header), IoSliceMut::new(body)]) {
                    Ok(n) => *length = n,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
                taken += 1;
            }
            for (buffer, &length) in self.buffers.iter().zip(&self.lengths).take(taken) {
                let (header, body) = buffer[..length].split_at(SHORT_LEN);
                assert_eq!(to.write_vectored(&[IoSlice::new(header), IoSlice::new(body)]).unwrap(), length);
            }
            carried += u64::try_from(taken).unwrap();
            if taken < BURST {
                return carried;
            }
        }
    }
}

/// A call a burst and direction: both descriptors registered, one thread, completions taken when it asks for them.
struct Uring {
    ring: IoUring,
    buffers: Vec<[u8; ROOM]>,
    /// How many frames it expects: reads that find nothing cost as well.
    expected: usize,
}

const FROM: types::Fixed = types::Fixed(0);
const TO: types::Fixed = types::Fixed(1);
/// `RWF_NOWAIT` (preadv2(2)): fails where it would wait; a TAP's `O_NONBLOCK` alone does not have it fail.
const NOWAIT: i32 = 8;

impl Uring {
    fn new(from: &Tap, to: &Tap) -> Self {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        let ring = builder.build(u32::try_from(BURST).unwrap()).unwrap();
        ring.submitter().register_files(&[from.as_raw_fd(), to.as_raw_fd()]).unwrap();
        Self { ring, buffers: vec![[0; ROOM]; BURST], expected: 1 }
    }

    fn carry(&mut self) -> u64 {
        let mut carried = 0;
        loop {
            let wanted = self.expected.min(BURST);
            let taken = self.read(wanted);
            for (at, &length) in taken.iter().enumerate() {
                let write = opcode::Write::new(TO, self.buffers[at].as_ptr(), length);
                self.push(write.build().user_data(u64::from(length)));
            }
            self.ring.submit_and_wait(taken.len()).unwrap();
            for done in self.ring.completion() {
                assert_eq!(u64::try_from(done.result()), Ok(done.user_data()));
            }
            carried += u64::try_from(taken.len()).unwrap();
            self.expected = if taken.len() == wanted { 2 * wanted } else { taken.len() + 1 };
            if taken.len() < wanted {
                return carried;
            }
        }
    }

    /// Reads of so many frames; gives the lengths of those that there were, which are the first ones, since reads are made in turn.
    fn read(&mut self, wanted: usize) -> Vec<u32> {
        for at in 0..wanted {
            let buffer = self.buffers[at].as_mut_ptr();
            let read = opcode::Read::new(FROM, buffer, u32::try_from(ROOM).unwrap()).rw_flags(NOWAIT);
            self.push(read.build().user_data(u64::try_from(at).unwrap()));
        }
        self.ring.submit_and_wait(wanted).unwrap();
        let mut lengths = vec![0; wanted];
        for done in self.ring.completion() {
            match u32::try_from(done.result()) {
                Ok(length) => lengths[usize::try_from(done.user_data()).unwrap()] = length,
                Err(_) => assert_eq!(done.result(), -Errno::AGAIN.raw_os_error()),
            }
        }
        let there = lengths.iter().take_while(|&&length| length > 0).count();
        assert!(lengths[there..].iter().all(|&length| length == 0), "in turn: {lengths:?}");
        lengths.truncate(there);
        lengths
    }

    fn push(&mut self, entry: io_uring::squeue::Entry) {
        // SAFETY: buffers live as long as the ring, and are let alone until its completion has come: both callers wait for
        // as many as they have asked for.
        unsafe { self.ring.submission().push(&entry) }.unwrap();
    }
}
