//! TAPs made in throw-away network namespaces, with the kernel's own stack as the other end. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests say what they expect by panicking")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tap::netns::{current_netns, in_netns, netns_id};
use tap::{Offloads, Tap, TapConfig, TapError, VirtioNetHeader};

/// A name that no other test on this machine uses.
fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn plain(name: &str) -> TapConfig {
    TapConfig { name: name.to_owned(), persistent: false, vnet_hdr: false }
}

/// A network namespace of its own, which ends with its last descriptor.
fn new_netns() -> OwnedFd {
    let made = std::thread::spawn(|| {
        // SAFETY: only the network namespace is unshared, not the table of file descriptors.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        current_netns().unwrap()
    });
    made.join().unwrap()
}

/// Runs a test inside a namespace of its own.
fn in_new_netns(test: impl FnOnce() + Send) {
    in_netns(new_netns().as_fd(), test).unwrap();
}

/// `ip` with these arguments in the calling thread's namespace; its output, or `None` if it failed.
fn ip(arguments: &str) -> Option<String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn has_carrier(name: &str) -> bool {
    ip(&format!("-o link show dev {name}")).unwrap().contains("LOWER_UP")
}

/// Waits for what closing the last descriptor brings about. Another test may be starting a process at that moment, which
/// holds a copy of each descriptor until it executes its program.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "not in time: {what}");
    }
}

#[test]
fn a_tap_is_made_and_ends_with_its_last_descriptor() {
    in_new_netns(|| {
        let name = unique_name();
        let tap = Tap::create(&plain(&name)).unwrap();
        assert_eq!((tap.name(), tap.vnet_hdr(), tap.persistent().unwrap()), (name.as_str(), false, false));
        assert_eq!(tap.vnet_header_size().unwrap(), 0);
        assert!(matches!(tap.set_vnet_header_size(12), Err(TapError::NoVnetHeader { .. })));
        assert!(ip(&format!("link show dev {name}")).is_some());
        let flags = rustix::fs::fcntl_getfl(&tap).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
        assert!(rustix::io::fcntl_getfd(&tap).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        drop(tap);
        eventually("it is gone", || ip(&format!("link show dev {name}")).is_none());
    });
}

#[test]
fn a_persistent_tap_survives_its_close_and_is_attached_again() {
    in_new_netns(|| {
        let name = unique_name();
        let config = TapConfig { persistent: true, vnet_hdr: true, ..plain(&name) };
        let first = Tap::create(&config).unwrap();
        assert_eq!(first.vnet_header_size().unwrap(), 10);
        first.set_vnet_header_size(12).unwrap();
        drop(first);
        let index = ip(&format!("-o link show dev {name}")).unwrap().split(':').next().unwrap().to_owned();

        let again = Tap::create(&config).unwrap();
        assert_eq!(again.vnet_header_size().unwrap(), 12, "what was set belongs to the device");
        let after = ip(&format!("-o link show dev {name}")).unwrap();
        assert!(after.starts_with(&format!("{index}:")), "another device: {after}");
        assert!(again.persistent().unwrap() && again.vnet_hdr());
        again.set_persistent(false).unwrap();
        drop(again);
        eventually("it is gone", || ip(&format!("link show dev {name}")).is_none());
    });
}

#[test]
fn a_device_that_is_held_or_of_another_kind_is_refused_with_a_remedy() {
    in_new_netns(|| {
        let name = unique_name();
        let _held = Tap::create(&plain(&name)).unwrap();
        let busy = Tap::create(&plain(&name)).unwrap_err().to_string();
        assert!(busy.contains(&name) && busy.contains("held by another process"), "{busy}");

        let invalid = Tap::create(&plain("lo")).unwrap_err().to_string();
        assert!(invalid.contains("TAP lo") && invalid.contains("choose another name"), "{invalid}");
    });
}

#[test]
fn a_duplicate_keeps_the_carrier() {
    in_new_netns(|| {
        let name = unique_name();
        let tap = Tap::create(&TapConfig { persistent: true, ..plain(&name) }).unwrap();
        ip(&format!("link set dev {name} up")).unwrap();
        assert!(has_carrier(&name));
        let duplicate = tap.try_clone().unwrap();
        drop(tap);
        assert!(has_carrier(&name));
        drop(duplicate);
        eventually("no carrier once the last descriptor is closed", || !has_carrier(&name));
    });
}

#[test]
fn a_passed_descriptor_is_read_for_what_it_is() {
    in_new_netns(|| {
        let name = unique_name();
        let tap = Tap::create(&TapConfig { persistent: true, vnet_hdr: true, ..plain(&name) }).unwrap();
        let flags = rustix::fs::fcntl_getfl(&tap).unwrap();
        rustix::fs::fcntl_setfl(&tap, flags - rustix::fs::OFlags::NONBLOCK).unwrap();

        let passed = Tap::from_fd(OwnedFd::from(tap)).unwrap();
        assert_eq!((passed.name(), passed.vnet_hdr()), (name.as_str(), true));
        assert!(passed.persistent().unwrap());
        assert!(rustix::fs::fcntl_getfl(&passed).unwrap().contains(rustix::fs::OFlags::NONBLOCK));

        assert_eq!(passed.vnet_header_size().unwrap(), 10);
        passed.set_vnet_header_size(12).unwrap();
        assert_eq!(passed.vnet_header_size().unwrap(), 12);
        assert!(matches!(passed.set_vnet_header_size(11), Err(TapError::VnetHeaderSize { bytes: 11, .. })));
        passed.set_offload(Offloads { checksum: true, tso4: true, tso6: true, uso: false }).unwrap();
        let alone = passed.set_offload(Offloads { tso4: true, ..Offloads::default() }).unwrap_err();
        assert!(alone.to_string().contains("TUNSETOFFLOAD"), "{alone}");
    });
}

#[test]
fn a_descriptor_attached_to_nothing_is_refused() {
    let unattached = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    assert!(matches!(Tap::from_fd(unattached.into()), Err(TapError::NotTun { .. })));
}

#[test]
fn a_tap_is_made_in_another_namespace_and_the_caller_stays() {
    let other = new_netns();
    let before = netns_id(current_netns().unwrap().as_fd()).unwrap();
    let name = unique_name();
    let tap = Tap::create_in(other.as_fd(), &plain(&name)).unwrap();
    assert_eq!(netns_id(current_netns().unwrap().as_fd()).unwrap(), before);
    eventually("it is gone", || ip(&format!("link show dev {name}")).is_none());
    let (inside, id) = in_netns(other.as_fd(), || {
        (ip(&format!("link show dev {name}")), netns_id(current_netns().unwrap().as_fd()).unwrap())
    })
    .unwrap();
    assert!(inside.is_some());
    assert_eq!(id, netns_id(other.as_fd()).unwrap());
    assert_ne!(id, before);
    drop(tap);
}

#[test]
fn a_closure_is_not_run_where_the_namespace_cannot_be_entered() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let message = in_netns(file.as_fd(), || unreachable!("it was entered")).unwrap_err().to_string();
    assert!(message.contains("no network namespace"), "{message}");
}

const OUR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
const OUR_IP: [u8; 4] = [10, 99, 0, 2];
const KERNEL_IP: [u8; 4] = [10, 99, 0, 1];

/// Sends a frame with an empty vnet header before it.
fn send(tap: &Tap, frame: &[u8]) {
    let header = VirtioNetHeader::default().encode();
    let written = tap.write_vectored(&[IoSlice::new(&header), IoSlice::new(frame)]).unwrap();
    assert_eq!(written, header.len() + frame.len());
}

/// Reads frames until one is what the test wants; checks each one's vnet header.
fn receive(tap: &Tap, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    loop {
        let mut ready = [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(poll(&mut ready, Some(&limit)).unwrap(), 1, "the kernel did not answer");
        let (mut header, mut frame) = ([0; 12], vec![0; 2048]);
        let read = tap
            .read_vectored(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(&mut frame)])
            .unwrap()
            .checked_sub(header.len())
            .unwrap();
        VirtioNetHeader::decode(&header).unwrap().check(read).unwrap();
        frame.truncate(read);
        if wanted(&frame) {
            return frame;
        }
    }
}

fn internet_checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()).to_be_bytes()
}

#[test]
fn the_kernel_answers_arp_and_ping_through_the_tap() {
    in_new_netns(|| {
        let name = unique_name();
        let tap = Tap::create(&TapConfig { vnet_hdr: true, ..plain(&name) }).unwrap();
        tap.set_vnet_header_size(12).unwrap();
        tap.set_offload(Offloads { checksum: true, tso4: true, tso6: true, uso: false }).unwrap();
        ip(&format!("address add 10.99.0.1/24 dev {name}")).unwrap();
        ip(&format!("link set dev {name} up")).unwrap();

        // ARP (RFC 826): who has 10.99.0.1?
        let mut arp = [[0xff; 6], OUR_MAC].concat();
        arp.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
        arp.extend([&OUR_MAC[..], &OUR_IP, &[0; 6], &KERNEL_IP].concat());
        send(&tap, &arp);
        let answer = receive(&tap, |frame| frame[12..14] == [0x08, 0x06] && frame[20..22] == [0, 2]);
        assert_eq!(answer[28..32], KERNEL_IP);
        let kernel_mac = answer[22..28].to_vec();

        // ICMP echo (RFC 792) in IPv4 (RFC 791).
        let mut ip_header = vec![0x45, 0, 0, 28 + 8, 0, 1, 0, 0, 64, 1, 0, 0];
        ip_header.extend([OUR_IP, KERNEL_IP].concat());
        let sum = internet_checksum(&ip_header);
        ip_header[10..12].copy_from_slice(&sum);
        let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 7];
        echo.extend(b"payload!");
        let sum = internet_checksum(&echo);
        echo[2..4].copy_from_slice(&sum);
        send(&tap, &[&kernel_mac[..], &OUR_MAC, &[0x08, 0x00], &ip_header, &echo].concat());

        let answer = receive(&tap, |frame| frame[12..14] == [0x08, 0] && frame[23] == 1 && frame[34] == 0);
        assert_eq!(answer[..6], OUR_MAC);
        assert_eq!(answer[26..30], KERNEL_IP);
        assert_eq!(answer[38..], echo[4..]);

        ip(&format!("link set dev {name} down")).unwrap();
        let down = tap.write_vectored(&[IoSlice::new(&[0; 12]), IoSlice::new(&arp)]).unwrap_err();
        assert_eq!(down.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        let empty = loop {
            if let Err(error) = tap.read_vectored(&mut [IoSliceMut::new(&mut [0; 2048])]) {
                break error;
            }
        };
        assert_eq!(empty.kind(), std::io::ErrorKind::WouldBlock);

        ip(&format!("link delete dev {name}")).unwrap();
        let deleted = tap.write_vectored(&[IoSlice::new(&[0; 12]), IoSlice::new(&arp)]).unwrap_err();
        assert_eq!(deleted.raw_os_error(), Some(rustix::io::Errno::BADFD.raw_os_error()));
        let message = tap.set_persistent(true).unwrap_err().to_string();
        assert!(message.contains(&name) && message.contains("was deleted"), "{message}");
    });
}
