//! Reads a namespace's devices, addresses and routes by rtnetlink(7), for CHECK.
//!
//! Only dumps are asked for; nothing is changed. Messages come from the kernel, yet every length is checked: an odd one
//! ends the message, not the program.

use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use wire::{IpPrefix, MacAddr};

/// What a namespace holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<MacAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix_len: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpPrefix,
    pub(crate) gateway: Option<IpAddr>,
}

/// Enters the namespace with this thread, for good, and reads it. The caller has one thread and needs no other network
/// afterwards; Unix sockets that are open stay so.
pub(crate) fn read(netns: BorrowedFd<'_>) -> io::Result<Seen> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
    // Protocol 0 of this family is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut seen = Seen::default();
    dump(&socket, GET_LINK, |body| seen.links.extend(link(body)))?;
    dump(&socket, GET_ADDR, |body| seen.addresses.extend(address(body)))?;
    dump(&socket, GET_ROUTE, |body| seen.routes.extend(route(body)))?;
    Ok(seen)
}

/// Request types (linux/rtnetlink.h); what answers each is two less.
const GET_LINK: u16 = 18;
const GET_ADDR: u16 = 22;
const GET_ROUTE: u16 = 26;
/// netlink(7): the message types that end a dump, and the flags that ask for one (REQUEST, ROOT, MATCH).
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP: u16 = 0x301;

fn dump(socket: &OwnedFd, request: u16, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    // nlmsghdr, then rtgenmsg: one byte of family (any), padded.
    let mut message = [0; 20];
    message[0..4].copy_from_slice(&20_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&request.to_ne_bytes());
    message[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    send(socket, &message, SendFlags::empty())?;
    // The kernel never makes a dump's parts longer than 32 KB (netlink(7)).
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((kind, body, next)) = message_of(rest) {
            match kind {
                DONE => return Ok(()),
                ERROR => {
                    let errno = body.first_chunk().map_or(0, |&bytes| i32::from_ne_bytes(bytes));
                    return Err(io::Error::from_raw_os_error(errno.wrapping_neg()));
                }
                _ if kind == request - 2 => each(body),
                _ => {}
            }
            rest = next;
        }
    }
}

/// The first message's type and body, and what follows it.
fn message_of(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes behind a fixed part: types and values.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let &[l0, l1, k0, k1] = rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]), value))
    })
}

/// `ifinfomsg` of 16 bytes: the index at 4.
fn link(body: &[u8]) -> Option<Link> {
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let mut link = Link { index, name: String::new(), mac: None };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            ADDRESS => link.mac = value.try_into().ok().map(MacAddr),
            NAME => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            _ => {}
        }
    }
    Some(link)
}

/// `ifaddrmsg` of 8 bytes: the prefix length at 1, the device's index at 4.
fn address(body: &[u8]) -> Option<Address> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let prefix_len = *body.get(1)?;
    let link = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let (mut address, mut local) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            ADDRESS => address = ip(value),
            LOCAL => local = ip(value),
            _ => {}
        }
    }
    // On a point-to-point device ADDRESS is the other end's.
    Some(Address { link, address: local.or(address)?, prefix_len })
}

/// `rtmsg` of 12 bytes: family at 0, destination's length at 1.
fn route(body: &[u8]) -> Option<Route> {
    const DESTINATION: u16 = 1;
    const GATEWAY: u16 = 5;
    let any: IpAddr = match i32::from(*body.first()?) {
        2 => [0; 4].into(),
        10 => [0; 16].into(),
        _ => return None,
    };
    let (mut destination, mut gateway) = (any, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            DESTINATION => destination = ip(value)?,
            GATEWAY => gateway = ip(value),
            _ => {}
        }
    }
    Some(Route { destination: IpPrefix::containing(destination, *body.get(1)?)?, gateway })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn bodies_as_the_kernel_writes_them() {
        let mut body = vec![0; 16];
        body[4] = 7;
        body.extend(attribute(3, b"eth0\0"));
        body.extend(attribute(1, &[2, 0, 0, 0, 0, 1]));
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(link(&body), Some(Link { index: 7, name: "eth0".into(), mac }));

        let mut body = vec![2, 32, 0, 0, 7, 0, 0, 0];
        body.extend(attribute(1, &[169, 254, 1, 1]));
        body.extend(attribute(2, &[10, 244, 1, 5]));
        assert_eq!(
            address(&body),
            Some(Address { link: 7, address: "10.244.1.5".parse().unwrap(), prefix_len: 32 })
        );

        let mut body = vec![2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        body.extend(attribute(5, &[169, 254, 1, 1]));
        assert_eq!(
            route(&body),
            Some(Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap())
            })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = (message_of(&bytes), link(&bytes), address(&bytes), route(&bytes));
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
        }
    }
}
