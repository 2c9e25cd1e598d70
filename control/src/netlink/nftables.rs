//! Elements of nftables' sets, and the number of what nftables has. All else of it is told by the program `nft`.
//!
//! That reads a whole set for each element that it takes out, and takes longer to start than the kernel does for all of this.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use super::NetlinkError;

/// Elements to add to a set, or to take out of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SetChange {
    pub(crate) add: bool,
    pub(crate) set: String,
    pub(crate) keys: Vec<Vec<u8>>,
}

// <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>: kinds of messages, and of attributes.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_ELEMENTS: u16 = SUBSYSTEM << 8 | 12;
const DELETE_ELEMENTS: u16 = SUBSYSTEM << 8 | 14;
const GET_GENERATION: u16 = SUBSYSTEM << 8 | 16;
const ERROR: u16 = 2;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;

const TABLE: u16 = 1;
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const VALUE: u16 = 1;
const NESTED: u16 = 0x8000;

const INET: u8 = 1;
const OF_NFTABLES: [u8; 4] = [0, 0, 0, 10];

/// Of netlink's header, and of nftables' behind it.
const HEADERS: usize = 16 + 4;

/// An attribute has a length of 16 bits, and an element takes 44 bytes at most.
const AT_ONCE: usize = 1_000;

/// A socket to nftables in the namespace of the thread that opened it. To close it takes as long as the kernel takes to let go of what was
/// taken out of sets, some ten milliseconds: so it is kept.
#[derive(Debug)]
pub(crate) struct Nftables(OwnedFd);

impl Nftables {
    /// # Errors
    /// No socket could be had.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, Some(netlink::NETFILTER));
        let refused =
            |errno| NetlinkError::Refused { what: "opening a socket to nftables".to_owned(), errno };
        socket.map(Self).map_err(refused)
    }

    /// Changes sets of one table, whose family is `inet`, in the order given and all at once, or nothing. After a fault the socket is of no
    /// more use.
    ///
    /// # Errors
    /// The kernel refuses: a set is not there, or not an element that is to go.
    pub(crate) fn change(&self, table: &str, changes: &[SetChange]) -> Result<(), NetlinkError> {
        self.ask("changing nftables' sets", &transaction(table, changes)).map(drop)
    }

    /// The number of what nftables has: one more with each transaction, whosever it is.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(crate) fn generation(&self) -> Result<u32, NetlinkError> {
        let what = "asking for nftables' generation";
        let answer = self.ask(what, &message(GET_GENERATION, REQUEST, [0; 4], &[]))?;
        let number = answer.get(HEADERS + 4..).and_then(|rest| rest.first_chunk());
        let short = || NetlinkError::Failed { what: what.to_owned(), why: "the answer is short".to_owned() };
        number.map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(short)
    }

    /// Puts a request; the first answer to it.
    fn ask(&self, what: &str, request: &[u8]) -> Result<Vec<u8>, NetlinkError> {
        let refused = |errno| NetlinkError::Refused { what: what.to_owned(), errno };
        let exchange = || {
            // It is one message or none.
            sockopt::set_socket_send_buffer_size_force(&self.0, request.len() + 4_096)?;
            rustix::net::send(&self.0, request, SendFlags::empty())?;
            // The kernel has answered by the time that it took it; of several faults the first one counts, of which the head is enough.
            let mut answer = vec![0; 4_096];
            let (_, length) = rustix::net::recv(&self.0, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
            answer.truncate(length);
            Ok(answer)
        };
        let answer = exchange().map_err(refused)?;
        let is_error = answer.get(4..6) == Some(&ERROR.to_ne_bytes());
        let code = answer.get(16..).and_then(|rest| rest.first_chunk()).map(|code| i32::from_ne_bytes(*code));
        match code.filter(|code| is_error && *code != 0) {
            Some(code) => Err(refused(Errno::from_raw_os_error(code.saturating_neg()))),
            None => Ok(answer),
        }
    }
}

fn transaction(table: &str, changes: &[SetChange]) -> Vec<u8> {
    let mut messages: Vec<(u16, u16, Vec<u8>)> = Vec::new();
    for SetChange { add, set, keys } in changes {
        let (kind, flags) = if *add { (NEW_ELEMENTS, REQUEST | CREATE) } else { (DELETE_ELEMENTS, REQUEST) };
        let named = [attribute(TABLE, &name(table)), attribute(SET, &name(set))].concat();
        for keys in keys.chunks(AT_ONCE) {
            let element =
                |key: &Vec<u8>| attribute(ELEMENT | NESTED, &attribute(KEY | NESTED, &attribute(VALUE, key)));
            let elements: Vec<u8> = keys.iter().flat_map(element).collect();
            messages.push((kind, flags, [&*named, &attribute(ELEMENTS | NESTED, &elements)].concat()));
        }
    }
    // Faults are told in any case, and before this.
    if let Some((_, flags, _)) = messages.last_mut() {
        *flags |= ACK;
    }
    let inside =
        messages.iter().flat_map(|(kind, flags, content)| message(*kind, *flags, [INET, 0, 0, 0], content));
    let bound = |kind| message(kind, REQUEST, OF_NFTABLES, &[]);
    bound(BATCH_BEGIN).into_iter().chain(inside).chain(bound(BATCH_END)).collect()
}

/// The second header is of a family, a version, and what a batch is for.
fn message(kind: u16, flags: u16, second: [u8; 4], content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADERS + content.len()).unwrap_or(u32::MAX);
    let [kind, flags] = [kind, flags].map(u16::to_ne_bytes);
    // Neither a number of its own nor a sender: requests are put one after the other.
    [&length.to_ne_bytes()[..], &kind, &flags, &[0; 8], &second, content].concat()
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + content.len()).unwrap_or(u16::MAX);
    let padding = content.len().next_multiple_of(4) - content.len();
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), content, &[0; 3][..padding]].concat()
}

fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths and kinds, of messages and of attributes, one in the other.
    #[test]
    fn a_transaction_is_between_bounds_and_only_its_end_is_acknowledged() {
        let keys = |count: u16| (0..count).map(|n| [&[10, 0], &n.to_be_bytes()[..]].concat()).collect();
        let change = |add, keys| SetChange { add, set: "ends".to_owned(), keys };
        let text = transaction("own", &[change(false, keys(1)), change(true, keys(1_001))]);
        let (mut rest, mut heads) = (text.as_slice(), Vec::new());
        while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
            let (own, behind) = rest.split_at(length);
            let [kind, flags] = [4, 6].map(|at| u16::from_ne_bytes([own[at], own[at + 1]]));
            heads.push((length, kind, flags, own[16..20].to_vec()));
            rest = behind;
        }
        let (bound, inet) = (vec![0, 0, 0, 10], vec![1, 0, 0, 0]);
        // Names are 8 and 12 bytes long with their heads, an element is 16.
        assert_eq!(
            heads,
            [
                (20, 0x10, 1, bound.clone()),
                (20 + 8 + 12 + 4 + 16, 0xa0e, 1, inet.clone()),
                (20 + 8 + 12 + 4 + 16_000, 0xa0c, 0x401, inet.clone()),
                (20 + 8 + 12 + 4 + 16, 0xa0c, 0x405, inet),
                (20, 0x11, 1, bound),
            ]
        );
        let first = &text[40..80];
        let (names, elements) = first.split_at(20);
        assert_eq!(names, b"\x08\0\x01\0own\0\x09\0\x02\0ends\0\0\0\0");
        let key = [8, 0, 1, 0, 10, 0, 0, 0];
        let expected = [&[20, 0, 3, 0x80, 16, 0, 1, 0x80, 12, 0, 1, 0x80][..], &key].concat();
        assert_eq!(elements, expected);
    }
}
