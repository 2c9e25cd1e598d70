//! DPDK's own virtio-user as the guest, in `dpdk-testpmd` (Debian package dpdk-dev). Needs root.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use podrouter_vhost::{Mode, PeerState, Sent, VhostConfig};

use crate::guest::{Host, eventually, frame, send};

/// What loading plug-ins and 256 MB of zeroed memory may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A running testpmd; ended, and its runtime folder removed, however the test ends.
struct Testpmd {
    child: Child,
    prefix: String,
    log: PathBuf,
}

impl Testpmd {
    /// `device` is more of the device's arguments, each after a comma.
    fn start(socket: &Path, device: &str, queues: usize, mode: &str) -> Testpmd {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix =
            format!("podrouter-vhost-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let log = socket.with_extension("log");
        let output = std::fs::File::create(&log).unwrap();
        // It writes to a back end that has gone, and should not die of that.
        let child = Command::new("sh")
            .args(["-c", "trap '' PIPE; exec dpdk-testpmd \"$@\"", "dpdk-testpmd"])
            // Two threads that may share one core: a test machine has few.
            .args(["--no-huge", "--no-pci", "-m", "256", "--lcores", "0@0,1@(0-1)"])
            .arg(format!("--file-prefix={prefix}"))
            .arg(format!("--vdev=net_virtio_user0,path={},queues={queues}{device}", socket.display()))
            // It would throw away what arrives before it forwards.
            .args(["--", "--total-num-mbufs=8192", "--no-mlockall", "--no-flush-rx"])
            .arg(format!("--forward-mode={mode}"))
            .args([format!("--rxq={queues}"), format!("--txq={queues}")])
            // It runs until its standard input ends.
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("dpdk-testpmd starts (apt-get install dpdk-dev)");
        Testpmd { child, prefix, log }
    }

    fn log(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Repeats `step` until it says that all is done.
    fn until(&mut self, what: &str, mut step: impl FnMut() -> bool) {
        let start = Instant::now();
        while !step() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "testpmd ended ({ended:?}) before {what}: {}", self.log());
            assert!(start.elapsed() < LIMIT, "not in time: {what}: {}", self.log());
            std::thread::yield_now();
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _waited = self.child.wait();
        let _never_made = std::fs::remove_dir_all(Path::new("/var/run/dpdk").join(&self.prefix));
    }
}

#[test]
fn frames_that_testpmd_generates_arrive_until_it_is_killed_and_from_the_next_one() {
    let mut host = Host::start();
    for _ in 0..2 {
        let mut testpmd = Testpmd::start(&host.path, "", 1, "txonly");
        let mut frames = 0;
        testpmd.until("2000 frames", || {
            for bytes in received(&mut host) {
                // Its default: 64 bytes, UDP in IPv4 from 198.18.0.1.
                assert_eq!(bytes.len(), 64);
                assert_eq!((&bytes[12..14], &bytes[26..30]), (&[8, 0][..], &[198, 18, 0, 1][..]));
                frames += 1;
            }
            frames >= 2000
        });
        assert_eq!(host.port.state(), PeerState::Running);
        // It is killed in full flight, and what is in the ring then is read to the end or not at all.
        drop(testpmd);
        eventually("its end", || {
            received(&mut host);
            host.port.state() == PeerState::Disconnected
        });
    }
}

/// Every frame that is sent comes back, once and in order, with its MAC addresses swapped and nothing else changed.
fn every_frame_comes_back(host: &mut Host, testpmd: &mut Testpmd, total: usize) {
    let first = first_that_comes_back(host, testpmd);
    let (mut sent, mut returned) = (first, first);
    testpmd.until("all frames came back", || {
        let mut burst = host.tx.burst(32);
        // No more under way than its ring of 256 holds, or its own drops would show as ours.
        while sent < first + total && sent - returned < 64 {
            let frame = numbered(sent);
            match send(&mut burst, &[&frame[..20], &frame[20..]]) {
                Sent::Ok => sent += 1,
                Sent::Full => break,
                other => assert_eq!(other, Sent::Ok, "frame {sent}"),
            }
        }
        burst.flush();
        for bytes in received(host) {
            assert_eq!(bytes, swapped(returned), "frame {returned}");
            returned += 1;
        }
        returned == first + total
    });
}

/// The number of the first frame that is sure to come back. DPDK's driver throws away what its ring holds at the end of
/// its start (`virtqueue_rxvq_flush` in `virtio_dev_start`), so frames are sent now and then until one is answered.
fn first_that_comes_back(host: &mut Host, testpmd: &mut Testpmd) -> usize {
    let (mut sent, mut returned) = (0, None);
    let mut at = Instant::now();
    testpmd.until("a first frame came back", || {
        if returned.is_none() && at.elapsed() > Duration::from_millis(20) {
            at = Instant::now();
            sent += usize::from(host.send(&numbered(sent)) == Sent::Ok);
        }
        for bytes in received(host) {
            let next = returned.map_or(0..sent, |last| last + 1..last + 2);
            returned = next.into_iter().find(|number| bytes == swapped(*number));
            assert!(returned.is_some(), "an unknown frame, or one out of order");
        }
        returned.is_some_and(|last| last + 1 == sent)
    });
    sent
}

/// What has arrived.
fn received(host: &mut Host) -> Vec<Vec<u8>> {
    host.receive().into_iter().map(|frame| frame.expect("testpmd's chains are well-formed")).collect()
}

/// A frame as macswap gives it back.
fn swapped(number: usize) -> Vec<u8> {
    let sent = numbered(number);
    [&sent[6..12], &sent[..6], &sent[12..]].concat()
}

fn numbered(number: usize) -> Vec<u8> {
    let mut bytes = frame(number, 60 + number % 1400);
    bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes[14..22].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
    bytes
}

#[test]
fn every_frame_comes_back_from_testpmd_and_again_from_the_next_one() {
    let mut host = Host::start();
    for _ in 0..2 {
        let mut testpmd = Testpmd::start(&host.path, "", 1, "macswap");
        every_frame_comes_back(&mut host, &mut testpmd, 3000);
        drop(testpmd);
        host.reaches(PeerState::Disconnected);
    }
}

/// Rings of each kind that the driver knows, each of which it drives by other code.
const KINDS: [&str; 5] = [
    ",mrg_rxbuf=0,in_order=0",
    ",in_order=0",
    ",packed_vq=1",
    ",packed_vq=1,mrg_rxbuf=0,in_order=0",
    ",packed_vq=1,vectorized=1,mrg_rxbuf=0,in_order=1",
];

#[test]
fn every_frame_comes_back_whatever_the_kind_of_rings() {
    for kind in KINDS {
        let mut host = Host::start();
        let mut testpmd = Testpmd::start(&host.path, kind, 1, "macswap");
        every_frame_comes_back(&mut host, &mut testpmd, 1500);
    }
}

#[test]
fn every_frame_comes_back_where_testpmd_makes_the_socket_and_again_after_our_end() {
    for kind in ["", ",packed_vq=1"] {
        let mut host = Host::start_as(Mode::Client);
        let mut testpmd = Testpmd::start(&host.path, &format!("{kind},server=1"), 1, "macswap");
        every_frame_comes_back(&mut host, &mut testpmd, 1500);
        // Another back end takes over, as after the death of the first; testpmd goes on.
        let mut host = Host::start_in(host.end(), |config| VhostConfig { mode: Mode::Client, ..config });
        every_frame_comes_back(&mut host, &mut testpmd, 1500);
    }
}

#[test]
fn every_frame_comes_back_by_the_queue_pair_that_it_went_by() {
    for kind in ["", ",packed_vq=1"] {
        let mut host = Host::start_with(|config| VhostConfig { queue_pairs: 4, ..config });
        let mut testpmd = Testpmd::start(&host.path, kind, 4, "macswap");
        every_frame_comes_back(&mut host, &mut testpmd, 500);
        for pair in 0..3 {
            // The same, with another pair in the place of the first.
            let (rx, tx) = &mut host.others[pair];
            std::mem::swap(&mut host.rx, rx);
            std::mem::swap(&mut host.tx, tx);
            every_frame_comes_back(&mut host, &mut testpmd, 500);
        }
    }
}
