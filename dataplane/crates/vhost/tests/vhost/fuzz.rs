//! A front end that sends anything: messages of random kinds, sizes, fields and descriptors, into rings of random bytes.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use podrouter_vhost::{PeerState, Sent};
use proptest::prelude::*;
use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost::vhost_user::Frontend;

use crate::guest::{
    EVENT_IDX, GUEST_BASE, Guest, Host, INDIRECT_DESC, LIMIT, MEMORY, MRG_RXBUF, PACKED, USER_BASE,
    VERSION_1, frame, readable, send as give,
};

/// One thing that a hostile guest does.
#[derive(Clone, Debug)]
enum Step {
    /// A message: its number, flags, the size its header claims where that is not the body's, and what comes with it.
    Message { request: u32, flags: u32, claim: Option<u32>, body: Vec<u8>, descriptors: Vec<Kind> },
    /// Bytes written somewhere into a ring or its buffers.
    Poke { ring: usize, at: u64, bytes: Vec<u8> },
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Eventfd,
    Memory(u64),
    Pipe,
}

impl Kind {
    fn open(self) -> OwnedFd {
        match self {
            Kind::Eventfd => rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            Kind::Memory(size) => {
                let file = rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).unwrap();
                rustix::fs::ftruncate(&file, size).unwrap();
                file
            }
            Kind::Pipe => std::io::pipe().unwrap().1.into(),
        }
    }
}

/// Numbers that mean something somewhere, and any.
fn word() -> impl Strategy<Value = u64> {
    let size = u64::try_from(MEMORY).unwrap();
    prop_oneof![
        4 => 0u64..4,
        // Two fields of 32 bits: a ring, and a number of descriptors, an index or a switch.
        4 => (0u64..3, prop_oneof![Just(0u64), Just(1), Just(7), Just(8), Just(16), Just(32_768), Just(65_536)])
            .prop_map(|(ring, value)| value << 32 | ring),
        3 => (0..size / 16).prop_map(|at| USER_BASE + 16 * at),
        2 => (0..size / 4096).prop_map(|at| GUEST_BASE + 4096 * at),
        2 => prop_oneof![Just(0x1000u64), Just(size), Just(GUEST_BASE), Just(USER_BASE), Just(u64::MAX)],
        1 => Just(VERSION_1 | MRG_RXBUF),
        2 => any::<u64>(),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Eventfd),
        3 => prop_oneof![Just(0u64), Just(0x1000), Just(0x10_0000)].prop_map(Kind::Memory),
        1 => Just(Kind::Pipe),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    // What the requests of the specification have for a body: nothing, a word, a ring's state or addresses, regions.
    let words = prop_oneof![Just(0usize), Just(1), Just(1), Just(1), Just(5), Just(5), 2usize..10];
    let body = words.prop_flat_map(|words| proptest::collection::vec(word(), words));
    let message = (
        prop_oneof![6 => 1u32..45, 1 => any::<u32>()],
        prop_oneof![6 => Just(1u32), 4 => Just(9), 1 => any::<u32>()],
        prop_oneof![9 => Just(None), 1 => any::<u32>().prop_map(Some), 1 => (0u32..100).prop_map(Some)],
        body,
        proptest::collection::vec(kind(), 0..4),
    )
        .prop_map(|(request, flags, claim, words, descriptors)| Step::Message {
            request,
            flags,
            claim,
            body: words.iter().flat_map(|word| word.to_ne_bytes()).collect(),
            descriptors,
        });
    let poke = (0usize..2, prop_oneof![0u64..0x200, 0x8000u64..0x8030, 0xa000u64..0xa090], word(), word())
        .prop_map(|(ring, at, first, second)| Step::Poke {
            ring,
            at,
            bytes: [first.to_le_bytes(), second.to_le_bytes()].concat(),
        });
    prop_oneof![3 => message, 1 => poke]
}

fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) {
    let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(OwnedFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
    // It may have been thrown out, or not be listened to any more.
    let _refused =
        sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// What a worker does meanwhile, which must not depend on what the guest does.
fn work(host: &mut Host) {
    let mut out = vec![0; 2048];
    let burst = host.rx.burst(8);
    for frame in burst.frames().flatten() {
        let length = frame.len().min(out.len());
        assert!(frame.copy(0, &mut out[..length]));
        let _anything = frame.header();
    }
    drop(burst);
    let mut burst = host.tx.burst(4);
    for _ in 0..4 {
        give(&mut burst, &[&out[..200], &out[..1000]]);
    }
    drop(burst);
    host.rx.arm_doorbell();
    host.rx.disarm_doorbell();
}

/// A front end that behaves gets an answer: the message thread lives, and has let go of the connection before.
fn answers(path: &Path) {
    let mut stream = UnixStream::connect(path).unwrap();
    let request: Vec<u8> = [1u32, 1, 0].iter().flat_map(|field| field.to_ne_bytes()).collect();
    stream.write_all(&request).unwrap();
    assert!(readable(&stream, LIMIT), "GET_FEATURES is answered");
    stream.read_exact(&mut [0; 20]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_guest_that_does_anything_harms_itself_alone(
        set_up in any::<bool>(),
        packed in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        let mut host = Host::start();
        let stream = UnixStream::connect(&host.path).unwrap();
        let guest = set_up.then(|| {
            let frontend = Frontend::from_stream(stream.try_clone().unwrap(), 2);
            let kind = if packed { PACKED } else { 0 };
            Guest::over(frontend, VERSION_1 | MRG_RXBUF | INDIRECT_DESC | EVENT_IDX | kind, 16, 0)
        });
        for step in &steps {
            match step {
                Step::Message { request, flags, claim, body, descriptors } => {
                    let size = claim.unwrap_or(u32::try_from(body.len()).unwrap());
                    let header = [*request, *flags, size].map(u32::to_ne_bytes).concat();
                    let descriptors: Vec<OwnedFd> = descriptors.iter().map(|kind| kind.open()).collect();
                    send(&stream, &[&header[..], body].concat(), &descriptors);
                }
                Step::Poke { ring, at, bytes } => {
                    if let Some(guest) = &guest {
                        let ring = &guest.rings[*ring];
                        ring.write(ring.descriptors + at, bytes);
                    }
                }
            }
            work(&mut host);
        }
        drop((stream, guest));
        answers(&host.path);

        let mut good = Guest::connect(&host.path);
        host.reaches(PeerState::Running);
        good.transmit().transmit(0, &frame(1, 90));
        prop_assert_eq!(host.receive(), [Ok(frame(1, 90))]);
        good.receive().provide(0, 0x600);
        prop_assert_eq!(host.send(&frame(1, 90)), Sent::Ok);
    }
}
