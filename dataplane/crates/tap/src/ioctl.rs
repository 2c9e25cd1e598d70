//! The ioctls of `/dev/net/tun` and of a namespace descriptor, each as one safe function.
//!
//! Owns every `unsafe` block of this crate. Numbers and layouts are those of `linux/if_tun.h`, `linux/if.h` and
//! `linux/nsfs.h`; what always holds is that the type given to an opcode is the one the kernel reads or writes there.

use core::ffi::{c_int, c_uint, c_void};
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, IntegerSetter, Ioctl, IoctlOutput, Opcode, Setter, Updater, ioctl, opcode};

/// Longest interface name, in bytes, without the terminating NUL (`IFNAMSIZ` - 1).
pub(crate) const NAME_MAX: usize = 15;

pub(crate) const IFF_TAP: u16 = 0x0002;
pub(crate) const IFF_MULTI_QUEUE: u16 = 0x0100;
pub(crate) const IFF_PERSIST: u16 = 0x0800;
pub(crate) const IFF_NO_PI: u16 = 0x1000;
pub(crate) const IFF_VNET_HDR: u16 = 0x4000;

pub(crate) const TUN_F_CSUM: c_uint = 0x01;
pub(crate) const TUN_F_TSO4: c_uint = 0x02;
pub(crate) const TUN_F_TSO6: c_uint = 0x04;
/// USO4 and USO6 (Linux 6.2): the kernel takes only both together.
pub(crate) const TUN_F_USO: c_uint = 0x20 | 0x40;

// Their names say `int` where the argument is a pointer to an ifreq: the sizes in these numbers are historical.
const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<c_int>(b'T', 203);
const TUNSETOFFLOAD: Opcode = opcode::write::<c_uint>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<c_uint>(b'T', 210);
const TUNGETVNETHDRSZ: Opcode = opcode::read::<c_int>(b'T', 215);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<c_int>(b'T', 216);
const NS_GET_NSTYPE: Opcode = opcode::none(0xb7, 3);

/// `struct ifreq` as far as TUN uses it: a name and flags, in 40 bytes on every 64-bit target.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct IfReq {
    name: [u8; NAME_MAX + 1],
    pub(crate) flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<IfReq>() == 40, "struct ifreq has 40 bytes where pointers have 64 bits");

impl IfReq {
    /// `None` if the name does not fit.
    pub(crate) fn new(name: &str, flags: u16) -> Option<IfReq> {
        let mut request = IfReq { name: [0; NAME_MAX + 1], flags, rest: [0; 22] };
        request.name.get_mut(..NAME_MAX)?.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(request)
    }

    /// The kernel's names are bytes without a stated encoding; one that is not UTF-8 shows its odd bytes replaced.
    pub(crate) fn name(&self) -> String {
        let end = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}

/// Attaches the descriptor to the device of that name, making it if there is none. The kernel writes the name back.
pub(crate) fn set_iff(tun: BorrowedFd<'_>, request: &mut IfReq) -> Result<()> {
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, and `IfReq` has its layout and size.
    let update = unsafe { Updater::<TUNSETIFF, IfReq>::new(request) };
    // SAFETY: the argument lives until the call returns; the kernel keeps no pointer to it.
    unsafe { ioctl(tun, update) }
}

/// Name and flags of the device that the descriptor is attached to; `EBADFD` when it is attached to none, `ENOTTY` (or
/// `EINVAL`) when it is no TUN descriptor.
pub(crate) fn get_iff(tun: BorrowedFd<'_>) -> Result<IfReq> {
    let mut request = IfReq { name: [0; NAME_MAX + 1], flags: 0, rest: [0; 22] };
    // SAFETY: TUNGETIFF writes one `struct ifreq`, and `IfReq` has its layout and size; any bytes are a valid `IfReq`.
    let update = unsafe { Updater::<TUNGETIFF, IfReq>::new(&mut request) };
    // SAFETY: the argument lives until the call returns; the kernel keeps no pointer to it.
    unsafe { ioctl(tun, update) }?;
    Ok(request)
}

pub(crate) fn set_persist(tun: BorrowedFd<'_>, persistent: bool) -> Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    let set = unsafe { IntegerSetter::<TUNSETPERSIST>::new_usize(usize::from(persistent)) };
    // SAFETY: as above: no memory is involved.
    unsafe { ioctl(tun, set) }
}

pub(crate) fn set_offload(tun: BorrowedFd<'_>, bits: c_uint) -> Result<()> {
    let Ok(bits) = usize::try_from(bits) else { return Err(Errno::INVAL) };
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let set = unsafe { IntegerSetter::<TUNSETOFFLOAD>::new_usize(bits) };
    // SAFETY: as above: no memory is involved.
    unsafe { ioctl(tun, set) }
}

pub(crate) fn set_vnet_header_size(tun: BorrowedFd<'_>, bytes: c_int) -> Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int through the pointer.
    let set = unsafe { Setter::<TUNSETVNETHDRSZ, c_int>::new(bytes) };
    // SAFETY: the argument lives until the call returns; the kernel keeps no pointer to it.
    unsafe { ioctl(tun, set) }
}

pub(crate) fn get_vnet_header_size(tun: BorrowedFd<'_>) -> Result<c_int> {
    // SAFETY: TUNGETVNETHDRSZ writes one int through the pointer.
    let get = unsafe { Getter::<TUNGETVNETHDRSZ, c_int>::new() };
    // SAFETY: the argument lives until the call returns; the kernel keeps no pointer to it.
    unsafe { ioctl(tun, get) }
}

/// NS_GET_NSTYPE gives its answer as the call's return value, for which rustix has no pattern.
struct NamespaceType;

// SAFETY: the opcode is NS_GET_NSTYPE, which takes no argument, touches no memory, and returns a CLONE_NEW* number.
unsafe impl Ioctl for NamespaceType {
    type Output = c_int;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        NS_GET_NSTYPE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        core::ptr::null_mut()
    }

    unsafe fn output_from_ptr(returned: IoctlOutput, _: *mut c_void) -> Result<c_int> {
        Ok(returned)
    }
}

/// The `CLONE_NEW*` number of the namespace that the descriptor names; `ENOTTY` when it names none.
pub(crate) fn namespace_type(namespace: BorrowedFd<'_>) -> Result<c_int> {
    // SAFETY: the argument is the null pointer, and this ioctl reads none.
    unsafe { ioctl(namespace, NamespaceType) }
}
