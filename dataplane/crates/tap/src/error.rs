//! What can go wrong with a TAP, each message with its remedy.
//!
//! An `Errno` is a field called `errno`, not a source: the message already says it, with what it means here.

use rustix::io::Errno;

use crate::ioctl::NAME_MAX;
use crate::netns::NetnsError;

/// Why a TAP could not be made, opened, taken over or set.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Refused before the kernel was asked.
    #[error(
        "TAP name {name:?} has {length} bytes; an interface name has 1 to {NAME_MAX}: choose a shorter one",
        length = name.len()
    )]
    NameLength {
        /// The name as it was given.
        name: String,
    },
    /// Refused before the kernel was asked, which would answer only `EINVAL`.
    #[error(
        "TAP name {name:?} holds {found:?}; an interface name has no '/', ':', '%', white space or control \
         character, and is neither \".\" nor \"..\""
    )]
    NameCharacter {
        /// The name as it was given.
        name: String,
        /// The first part of it that is not allowed.
        found: String,
    },
    /// `/dev/net/tun` could not be opened.
    #[error("opening /dev/net/tun for TAP {name}: {errno}{}", open_remedy(*errno))]
    Open {
        /// The device that was to be made.
        name: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The device could not be made or attached (`TUNSETIFF`).
    #[error("attaching to TAP {name}: {errno}{}", attach_remedy(*errno))]
    Attach {
        /// The device that was to be made or attached.
        name: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A descriptor that was handed over is not attached to any TUN or TAP device (`TUNGETIFF`).
    #[error(
        "the descriptor is not an attached TAP (TUNGETIFF: {errno}): pass one that was opened on /dev/net/tun and \
         given a name with TUNSETIFF"
    )]
    NotTun {
        /// The kernel's answer.
        errno: Errno,
    },
    /// A descriptor that was handed over is a device of another kind.
    #[error("device {name} is {found}: podrouter needs a single-queue TAP opened with IFF_TAP | IFF_NO_PI")]
    WrongKind {
        /// The device's name.
        name: String,
        /// What it is, in words.
        found: &'static str,
    },
    /// A setting of an open TAP was refused.
    #[error("TAP {name}: {operation}: {errno}{}", setting_remedy(*errno))]
    Setting {
        /// The device's name.
        name: String,
        /// What was being set, with the ioctl's name.
        operation: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A header size other than 10 or 12 was asked for.
    #[error("TAP {name}: a vnet header has 10 or 12 bytes, not {bytes}")]
    VnetHeaderSize {
        /// The device's name.
        name: String,
        /// The size that was asked for, in bytes.
        bytes: usize,
    },
    /// A vnet header size was asked for, or offloads, on a TAP that carries no vnet header.
    #[error("TAP {name} carries no vnet header: create it with vnet_hdr (IFF_VNET_HDR)")]
    NoVnetHeader {
        /// The device's name.
        name: String,
    },
    /// The namespace in which the TAP was to be made could not be entered.
    #[error("making TAP {name}: {source}")]
    Netns {
        /// The device that was to be made.
        name: String,
        /// Why the namespace could not be entered.
        source: NetnsError,
    },
}

fn open_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            ": the kernel's TUN driver is not there; load it with `modprobe tun`, and in a container mount the \
             device /dev/net/tun"
        }
        Errno::PERM | Errno::ACCESS => {
            ": the device is closed to this process; run as root, or allow /dev/net/tun in the container's device rules"
        }
        Errno::MFILE | Errno::NFILE => {
            ": out of file descriptors; raise the limit (`ulimit -n`, LimitNOFILE=)"
        }
        _ => "",
    }
}

fn attach_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            ": making or opening a TAP needs CAP_NET_ADMIN in the namespace's user namespace; run as root or add the \
             capability"
        }
        Errno::BUSY => {
            ": the device is held by another process; end that one, or take its descriptor instead of opening \
             the device again"
        }
        Errno::INVAL => {
            ": a device of that name exists and is no single-queue TAP; remove it with `ip link del`, or choose \
             another name"
        }
        _ => "",
    }
}

fn setting_remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM => ": needs CAP_NET_ADMIN",
        Errno::INVAL => ": this kernel's TUN driver does not know it",
        Errno::BADFD => ": the device was deleted; make it again",
        _ => "",
    }
}
