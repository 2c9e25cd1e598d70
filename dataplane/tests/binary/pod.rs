//! A kernel pod: a network namespace of its own with a TAP in it, as control makes them. Ends with its descriptors.

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};

use proto::dataplane::{Op, Router};
use tap::{Tap, TapConfig};

use crate::namespace::Namespace;

pub(crate) struct Pod {
    inside: Namespace,
    tap: Tap,
}

impl Deref for Pod {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.inside
    }
}

/// The gateway that pods are given.
pub(crate) fn gateway() -> Op {
    Op::SetRouter {
        router: Router {
            gateway4: "169.254.1.1".parse().unwrap(),
            gateway6: "fe80::1".parse().unwrap(),
            dns_servers: vec![],
            dns_search: vec![],
        },
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
        let inside = Namespace::new();
        let config = TapConfig { name: "eth0".into(), persistent: false, vnet_hdr: true };
        let tap = Tap::create_in(inside.as_fd(), &config).unwrap();
        let pod = Self { inside, tap };
        pod.ip(&format!("link set eth0 address 02:00:00:00:00:{number:02x} mtu 1500 addrgenmode none up"));
        pod
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    /// Another TAP in this namespace.
    pub(crate) fn second_tap(&self, name: &str) -> Tap {
        let config = TapConfig { name: name.into(), persistent: false, vnet_hdr: true };
        Tap::create_in(self.inside.as_fd(), &config).unwrap()
    }
}
