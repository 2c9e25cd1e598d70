//! A network namespace of its own. Ends with its descriptor, and with those of the devices in it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;

use tap::netns::{current_netns, in_netns};

pub(crate) struct Namespace {
    netns: OwnedFd,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            // SAFETY: only the network namespace is unshared, not the table of file descriptors.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            current_netns().unwrap()
        });
        Self { netns: made.join().unwrap() }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// On a thread inside; sockets made there stay there, and so do processes.
    pub(crate) fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        in_netns(self.netns.as_fd(), what).unwrap()
    }

    pub(crate) fn ip(&self, arguments: &str) {
        let status = self.run(|| Command::new("ip").args(arguments.split_whitespace()).status().unwrap());
        assert!(status.success(), "ip {arguments}");
    }

    /// What a program prints, and whether it liked what it saw.
    pub(crate) fn output(&self, program: &str, arguments: &str) -> (String, bool) {
        let output = self.run(|| Command::new(program).args(arguments.split_whitespace()).output().unwrap());
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    }

    /// Writes a setting under /proc/sys/net.
    pub(crate) fn set(&self, setting: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{setting}"), value).unwrap());
    }

    /// A veth pair between this namespace and another, both ends up, with checksums and segments finished by the
    /// kernel: a packet socket cannot take them otherwise.
    pub(crate) fn veth(&self, device: &str, other: &Self, device_there: &str) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.netns.as_raw_fd());
        self.ip(&format!("link add {device} type veth peer name {device_there} netns {there}"));
        for (namespace, device) in [(self, device), (other, device_there)] {
            namespace.ip(&format!("link set {device} addrgenmode none up"));
            let features = format!("-K {device} tx off tso off gso off gro off");
            assert!(namespace.output("ethtool", &features).1, "ethtool {features}");
        }
    }

    /// One of the kernel's own counters, as `Tcp` and `OutRsts`.
    pub(crate) fn counter(&self, group: &str, name: &str) -> u64 {
        let text = self.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.split(' ').position(|one| one == name).unwrap();
        values.split(' ').nth(at).unwrap().parse().unwrap()
    }

    /// Packets that a device here has received and sent, by the kernel's count (proc(5), `/proc/net/dev`).
    pub(crate) fn packets(&self, device: &str) -> [u64; 2] {
        let text = self.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':')).unwrap();
        let fields: Vec<&str> = line.split_whitespace().collect();
        [1, 9].map(|at| fields[at].parse().unwrap())
    }

    /// Whether all that TCP has sent from here is acknowledged, so that nobody has an acknowledgement left to send.
    pub(crate) fn is_acknowledged(&self) -> bool {
        let table =
            |name| self.run(|| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap());
        ["tcp", "tcp6"].map(table).iter().flat_map(|text| text.lines().skip(1)).all(|line| {
            let queues = line.split_ascii_whitespace().nth(4).unwrap();
            queues.starts_with("00000000:")
        })
    }
}
