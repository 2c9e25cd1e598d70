//! A packet socket that tells and is told what is left to finish of each frame (packet(7), PACKET_VNET_HDR). The calls are the C
//! library's, since no safe crate of ours knows such an address.

use std::os::fd::{FromRawFd, OwnedFd};

use tap::VirtioNetHeader;
use tap::vnet::SHORT_LEN;

use crate::ends::{Taken, patiently};
use crate::namespace::Namespace;

/// Longest that there can be: 64 KiB of IP packet, and its Ethernet header.
const LONGEST: usize = 65_536 + 14;

/// The kernel's side of a TAP, seen by a packet socket (packet(7)): what it sends, the TAP's reader gets, and the other way round.
pub(crate) struct Packets {
    socket: OwnedFd,
}

impl Packets {
    pub(crate) fn on(inside: &Namespace, device: &str) -> Self {
        const PACKET_VNET_HDR: libc::c_int = 15;
        const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
        let name = std::ffi::CString::new(device).unwrap();
        let socket = inside.run(|| {
            let protocol = u16::to_be(0x0003);
            // SAFETY: takes numbers alone.
            let fd = unsafe {
                libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, i32::from(protocol))
            };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: just opened, and nobody else's.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: a zero-terminated string.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            let yes: libc::c_int = 1;
            for option in [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
                // SAFETY: the value is an int, of an int's length.
                let result = unsafe {
                    libc::setsockopt(fd, libc::SOL_PACKET, option, (&raw const yes).cast(), length_of(&yes))
                };
                assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            }
            // SAFETY: plain data, for which all zero is a value.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
            address.sll_protocol = protocol;
            address.sll_ifindex = index.cast_signed();
            // SAFETY: an address of that family, and its length.
            let result = unsafe { libc::bind(fd, (&raw const address).cast(), length_of(&address)) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            socket
        });
        Self { socket }
    }

    pub(crate) fn take(&mut self) -> Vec<Taken> {
        let mut all = Vec::new();
        let mut bytes = vec![0; SHORT_LEN + LONGEST];
        while let Ok(n) = rustix::io::read(&self.socket, &mut bytes[..]) {
            let header = VirtioNetHeader::decode(&bytes[..SHORT_LEN]).unwrap();
            all.push((header, bytes[SHORT_LEN..n].to_vec()));
        }
        all
    }

    pub(crate) fn give(&mut self, header: VirtioNetHeader, frame: &[u8]) {
        let bytes = [&header.encode()[..SHORT_LEN], frame].concat();
        patiently("the kernel takes a frame", || match rustix::io::write(&self.socket, &bytes) {
            Ok(n) => n == bytes.len(),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => false,
            Err(error) => panic!("{error}: {header:?}, {} bytes", frame.len()),
        });
    }
}

/// As socket calls take it.
fn length_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).unwrap()
}
