//! A kernel pod: a network namespace of its own with a TAP in it, as control makes them. Ends with its descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;

use proto::dataplane::{Op, Router};
use tap::netns::{current_netns, in_netns};
use tap::{Tap, TapConfig};

pub(crate) struct Pod {
    netns: OwnedFd,
    tap: Tap,
}

/// The gateway that pods are given.
pub(crate) fn gateway() -> Op {
    Op::SetRouter {
        router: Router { gateway4: "169.254.1.1".parse().unwrap(), gateway6: "fe80::1".parse().unwrap() },
    }
}

impl Pod {
    /// Pod number `number` of `frames::endpoint`, ready to talk.
    pub(crate) fn new(number: u8) -> Self {
        let pod = Self::bare(number);
        pod.ip(&format!("addr add 10.0.0.{number}/32 dev eth0"));
        pod.ip("route add 169.254.1.1 dev eth0 scope link");
        pod.ip("route add default via 169.254.1.1 dev eth0");
        pod.ip(&format!("addr add fd00::{number}/128 dev eth0 nodad"));
        pod.ip("-6 route add default via fe80::1 dev eth0");
        pod
    }

    /// The device is up, with its MAC and no address.
    pub(crate) fn bare(number: u8) -> Self {
        let made = std::thread::spawn(|| {
            // SAFETY: only the network namespace is unshared, not the table of file descriptors.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            current_netns().unwrap()
        });
        let netns = made.join().unwrap();
        let config = TapConfig { name: "eth0".into(), persistent: false, vnet_hdr: true };
        let tap = Tap::create_in(netns.as_fd(), &config).unwrap();
        let pod = Self { netns, tap };
        pod.ip(&format!("link set eth0 address 02:00:00:00:00:{number:02x} mtu 1500 addrgenmode none up"));
        pod
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    /// Another TAP in this namespace.
    pub(crate) fn second_tap(&self, name: &str) -> Tap {
        let config = TapConfig { name: name.into(), persistent: false, vnet_hdr: true };
        Tap::create_in(self.netns.as_fd(), &config).unwrap()
    }

    pub(crate) fn ip(&self, arguments: &str) {
        let status = self.run(|| Command::new("ip").args(arguments.split_whitespace()).status().unwrap());
        assert!(status.success(), "ip {arguments}");
    }

    /// On a thread inside; sockets made there stay there.
    pub(crate) fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        in_netns(self.netns.as_fd(), what).unwrap()
    }
}
