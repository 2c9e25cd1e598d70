//! A TAP device: made or attached by name, or taken over by descriptor; its settings, reads and writes.
//!
//! Owns the descriptor. What always holds: the device is a single-queue TAP without packet information, and the
//! descriptor is non-blocking and close-on-exec. Several [`Tap`]s may share one device by `try_clone` or by a passed
//! descriptor: the device keeps its carrier, and the kernel its queue of packets, until the last one is closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::TapError;
use crate::ioctl::{self, IfReq};
use crate::netns;

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapConfig {
    /// Interface name, 1 to 15 bytes.
    pub name: String,
    /// Whether the device outlives its last descriptor (without carrier, till the next one attaches). `false` leaves a
    /// device that is persistent already as it is.
    pub persistent: bool,
    /// Whether each packet is preceded by a [virtio-net header](crate::vnet), without which there are no offloads. A new device has
    /// the header of 10 bytes; see [`Tap::set_vnet_header_size`].
    pub vnet_hdr: bool,
}

/// Which unfinished packets the kernel may hand over through the TAP (`TUNSETOFFLOAD`). Without `checksum` the kernel
/// refuses the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums left for us to finish (`NEEDS_CSUM`).
    pub checksum: bool,
    /// TCP segments over IPv4 larger than the MTU.
    pub tso4: bool,
    /// TCP segments over IPv6 larger than the MTU.
    pub tso6: bool,
    /// UDP of either family larger than the MTU, to be cut into datagrams (`TUN_F_USO4` and `TUN_F_USO6`): since Linux
    /// 6.2, and refused before.
    pub uso: bool,
}

/// An open TAP.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    vnet_hdr: bool,
}

impl Tap {
    /// Makes the device, or attaches to it if it is there (persistent, and held by nobody), in the calling thread's
    /// network namespace. The descriptor pins that namespace until the last copy of it is closed.
    ///
    /// # Errors
    /// A bad name, no TUN driver, no privilege, a device held by another process or of another kind.
    pub fn create(config: &TapConfig) -> Result<Tap, TapError> {
        check_name(&config.name)?;
        let name = || config.name.clone();
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(|errno| TapError::Open { name: name(), errno })?;

        let vnet = if config.vnet_hdr { ioctl::IFF_VNET_HDR } else { 0 };
        let mut request = IfReq::new(&config.name, ioctl::IFF_TAP | ioctl::IFF_NO_PI | vnet)
            .ok_or_else(|| TapError::NameLength { name: name() })?;
        ioctl::set_iff(fd.as_fd(), &mut request).map_err(|errno| TapError::Attach { name: name(), errno })?;

        let tap = Tap { fd, name: request.name(), vnet_hdr: config.vnet_hdr };
        if config.persistent {
            tap.set_persistent(true)?;
        }
        Ok(tap)
    }

    /// [`Tap::create`] inside another network namespace, on a thread of its own: the caller's stays where it is.
    ///
    /// # Errors
    /// As `create`, and when the namespace cannot be entered.
    pub fn create_in(netns: BorrowedFd<'_>, config: &TapConfig) -> Result<Tap, TapError> {
        netns::in_netns(netns, || Tap::create(config))
            .map_err(|source| TapError::Netns { name: config.name.clone(), source })?
    }

    /// Takes over a descriptor that another process opened, after checking that it is a TAP as this crate makes them.
    /// Sets `O_NONBLOCK`, which all holders of a passed descriptor share.
    ///
    /// # Errors
    /// The descriptor is no TUN descriptor, is attached to nothing, or to a device of another kind.
    pub fn from_fd(fd: OwnedFd) -> Result<Tap, TapError> {
        let request = ioctl::get_iff(fd.as_fd()).map_err(|errno| TapError::NotTun { errno })?;
        let name = request.name();
        let found = if request.flags & ioctl::IFF_TAP == 0 {
            Some("a TUN device, which carries packets without Ethernet headers")
        } else if request.flags & ioctl::IFF_NO_PI == 0 {
            Some("a TAP that puts packet information before each frame")
        } else if request.flags & ioctl::IFF_MULTI_QUEUE != 0 {
            Some("a multi-queue TAP")
        } else {
            None
        };
        if let Some(found) = found {
            return Err(TapError::WrongKind { name, found });
        }
        let setting =
            |errno| TapError::Setting { name: name.clone(), operation: "setting O_NONBLOCK", errno };
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(setting)?;
        if !flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(setting)?;
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(setting)?;
        Ok(Tap { fd, name, vnet_hdr: request.flags & ioctl::IFF_VNET_HDR != 0 })
    }

    /// The interface name when this was opened; the kernel may have renamed the device since.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether each packet is preceded by a virtio-net header.
    pub fn vnet_hdr(&self) -> bool {
        self.vnet_hdr
    }

    /// Bytes of virtio-net header before each packet: 0 without [`TapConfig::vnet_hdr`], else 10 (the kernel's default)
    /// or what was set. Asks the kernel, since another holder may have set it.
    ///
    /// # Errors
    /// The device was deleted.
    pub fn vnet_header_size(&self) -> Result<usize, TapError> {
        if !self.vnet_hdr {
            return Ok(0);
        }
        let operation = "reading the vnet header's size (TUNGETVNETHDRSZ)";
        let bytes =
            ioctl::get_vnet_header_size(self.as_fd()).map_err(|errno| self.setting(operation, errno))?;
        usize::try_from(bytes).map_err(|_| self.setting(operation, Errno::INVAL))
    }

    /// Sets the size of the virtio-net header, in bytes: 10, or 12 with `num_buffers`. Belongs to the device: it holds for
    /// all its descriptors, and for a persistent device also for those that attach later.
    ///
    /// # Errors
    /// Another size, a TAP without that header, or a device that was deleted.
    pub fn set_vnet_header_size(&self, bytes: usize) -> Result<(), TapError> {
        if !self.vnet_hdr {
            return Err(TapError::NoVnetHeader { name: self.name.clone() });
        }
        let size = match bytes {
            10 => 10,
            12 => 12,
            _ => return Err(TapError::VnetHeaderSize { name: self.name.clone(), bytes }),
        };
        ioctl::set_vnet_header_size(self.as_fd(), size)
            .map_err(|errno| self.setting("setting the vnet header's size (TUNSETVNETHDRSZ)", errno))
    }

    /// Says which unfinished packets we take from the kernel. What we may give it needs no setting.
    ///
    /// # Errors
    /// A TAP without vnet header, segmentation without checksums, USO of a kernel that has none, or a device that was deleted.
    pub fn set_offload(&self, offloads: Offloads) -> Result<(), TapError> {
        if !self.vnet_hdr && offloads != Offloads::default() {
            return Err(TapError::NoVnetHeader { name: self.name.clone() });
        }
        let mut bits = 0;
        for (wanted, bit) in [
            (offloads.checksum, ioctl::TUN_F_CSUM),
            (offloads.tso4, ioctl::TUN_F_TSO4),
            (offloads.tso6, ioctl::TUN_F_TSO6),
            (offloads.uso, ioctl::TUN_F_USO),
        ] {
            if wanted {
                bits |= bit;
            }
        }
        ioctl::set_offload(self.as_fd(), bits)
            .map_err(|errno| self.setting("setting offloads (TUNSETOFFLOAD)", errno))
    }

    /// Whether the device outlives its last descriptor.
    ///
    /// # Errors
    /// The device was deleted.
    pub fn persistent(&self) -> Result<bool, TapError> {
        ioctl::get_iff(self.as_fd())
            .map(|request| request.flags & ioctl::IFF_PERSIST != 0)
            .map_err(|errno| self.setting("reading flags (TUNGETIFF)", errno))
    }

    /// Makes the device outlive its last descriptor, or not; `false` is how a device is removed: the last close ends it.
    ///
    /// # Errors
    /// The device was deleted.
    pub fn set_persistent(&self, persistent: bool) -> Result<(), TapError> {
        ioctl::set_persist(self.as_fd(), persistent)
            .map_err(|errno| self.setting("setting persistence (TUNSETPERSIST)", errno))
    }

    /// A second holder of the same open device: its carrier stays until both are closed.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn try_clone(&self) -> Result<Tap, TapError> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
            .map_err(|errno| self.setting("duplicating its descriptor", errno))?;
        Ok(Tap { fd, name: self.name.clone(), vnet_hdr: self.vnet_hdr })
    }

    /// Reads one packet (with its vnet header, if the TAP carries one) into the buffers in turn; gives its length. What
    /// does not fit is cut off by the kernel, silently: offer 64 KB and the header where segmentation is on.
    ///
    /// # Errors
    /// `WouldBlock` when no packet waits, also while the device is down; `EBADFD` once it is deleted.
    pub fn read_vectored(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        Ok(rustix::io::readv(&self.fd, buffers)?)
    }

    /// Writes one packet, gathered from the buffers, the vnet header first if the TAP carries one.
    ///
    /// # Errors
    /// `EINVAL` for a frame or header that the kernel refuses; `EIO` while the device is down; `EBADFD` once it is
    /// deleted.
    pub fn write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.fd, buffers)?)
    }

    fn setting(&self, operation: &'static str, errno: Errno) -> TapError {
        TapError::Setting { name: self.name.clone(), operation, errno }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> OwnedFd {
        tap.fd
    }
}

/// The kernel's own rule (`dev_valid_name`), and no `%`, with which it would choose a name of its own.
fn check_name(name: &str) -> Result<(), TapError> {
    if name.is_empty() || name.len() > ioctl::NAME_MAX {
        return Err(TapError::NameLength { name: name.to_owned() });
    }
    let bad = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    let found = match name.find(bad) {
        Some(at) => name[at..].chars().take(1).collect(),
        None if name == "." || name == ".." => name.to_owned(),
        None => return Ok(()),
    };
    Err(TapError::NameCharacter { name: name.to_owned(), found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_before_the_kernel_sees_them() {
        for name in ["", "sixteen-bytes-xx", "a/b", "a b", "a:b", "tap%d", ".", "..", "a\0b", "a\tb"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["tap0", "fifteen-bytes-x", "é", "eth0.5", "..."] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
        let config = TapConfig { name: "sixteen-bytes-xx".to_owned(), persistent: false, vnet_hdr: false };
        let message = Tap::create(&config).unwrap_err().to_string();
        assert!(message.contains("sixteen-bytes-xx") && message.contains("16 bytes"), "{message}");
    }

    #[test]
    fn a_descriptor_of_another_kind_is_refused_with_what_to_pass() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let message = Tap::from_fd(file.into()).unwrap_err().to_string();
        assert!(message.contains("not an attached TAP") && message.contains("TUNSETIFF"), "{message}");
    }
}
