//! The short way: plain packets of known flows, decided and rewritten in one pass over the burst.
//!
//! Plain is TCP or UDP over IP without options or extension headers, whole; what its sender left to finish of it stays so. Known is a flow whose
//! decision holds and whose next station's MAC is known. Whatever is otherwise in any way is left, untouched, to the other steps,
//! which judge it: so nothing here refuses a packet, and no rule stands here alone. In rounds with prefetches between, as `lookup`.

use arrayvec::ArrayVec;
use flow::{Action, Family, Flows, Handle, Life, Record, Signal, Table, Tuple, V4, V6};
use tables::{PortId, Tables};
use wire::{
    ETHERNET_HEADER, IPV4_HEADER, IPV6_HEADER, MacAddr, PacketKind, TCP_HEADER, UDP_HEADER, protocol,
};

use crate::adjacency::{Adjacency, words};
use crate::burst::{Ingress, Side};
use crate::decide::Desk;
use crate::tracker::{Tracker, rests};
use crate::translate::{Ends, Place};
use crate::{BURST, FlowCounts, GsoKind, Offload};

mod v4;
mod v6;

/// What became of a burst on the short way.
#[derive(Debug, Clone, Copy)]
pub struct Replayed {
    /// A bit for each packet that went it, by place.
    pub done: u32,
    /// By which port each of those leaves.
    pub outputs: [PortId; BURST],
    /// Bytes of all packets that are finished, done or not.
    pub bytes: usize,
    /// Of the longest of them.
    pub longest: usize,
}

impl Replayed {
    /// Nothing was done.
    pub(crate) const fn none(port: PortId) -> Self {
        Self { done: 0, outputs: [port; BURST], bytes: 0, longest: 0 }
    }
}

/// What a packet's sender left to finish. Where that is nothing by its type, nothing is asked.
pub trait Left: Copy {
    /// Bytes of the longest frame that the packet of `len` bytes becomes on the wire; `None` if what is left is not what a plain one, of
    /// this protocol and with its transport header at `l4`, may have left.
    fn longest(self, head: &[u8], len: usize, protocol: u8, l4: usize) -> Option<usize>;

    /// As a packet has it.
    fn offload(self) -> Offload;
}

/// Nothing.
impl Left for () {
    #[inline(always)]
    fn longest(self, _: &[u8], len: usize, _: u8, _: usize) -> Option<usize> {
        Some(len)
    }

    #[inline(always)]
    fn offload(self) -> Offload {
        Offload::Done
    }
}

impl Left for Offload {
    fn longest(self, head: &[u8], len: usize, protocol: u8, l4: usize) -> Option<usize> {
        let (field, header) = match protocol {
            protocol::TCP => (16, usize::from(head.get(l4 + 12)? >> 4) * 4),
            _ => (6, UDP_HEADER),
        };
        let usual = |start: u16, offset: u16| usize::from(start) == l4 && offset == field;
        match self {
            Self::Done => Some(len),
            Self::Partial { start, offset } => usual(start, offset).then_some(len),
            Self::Gso { kind, size, header_len, start, offset } => {
                let ours = match kind {
                    GsoKind::TcpV4 => protocol == protocol::TCP && l4 == ETHERNET_HEADER + IPV4_HEADER,
                    GsoKind::TcpV6 => protocol == protocol::TCP && l4 == ETHERNET_HEADER + IPV6_HEADER,
                    GsoKind::Udp => protocol == protocol::UDP,
                };
                let fits = ours && usual(start, offset) && size > 0 && usize::from(header_len) == l4 + header;
                fits.then_some(len.min(usize::from(header_len) + usize::from(size)))
            }
        }
    }

    fn offload(self) -> Offload {
        self
    }
}

/// What plain packets of a family look like, and how they go on.
trait Plain: Family<Addr: tables::Address> {
    /// Its name on the wire, and where a plain packet's transport header begins.
    const KIND: PacketKind;
    const L4: usize;

    fn table(flows: &Flows) -> &Table<Self>;

    /// What is in the second word of a plain packet behind the source's MAC, and in the third, with the bits that must be so.
    const PATTERN: [[u64; 2]; 2];

    /// The key of a plain packet of `len` bytes, and what it says of its connection. `tail` is of the key's last word what does not depend
    /// on the packet.
    fn plain(pattern: &Pattern, tail: u64, head: &[u8], len: usize) -> Option<(Self::Key, Signal)>;

    /// One hop less.
    fn forward(head: &mut [u8]);

    /// The same, and the ends of the key `from` become what packets to the key `reply` answer.
    fn translate(head: &mut [u8], from: &Self::Key, reply: &Self::Key);
}

/// A packet.
struct Frame<'p, L> {
    head: &'p mut [u8],
    len: usize,
    at: u8,
    left: L,
}

/// One that looks plain.
struct Candidate<'f, 'p, K, L> {
    frame: &'f mut Frame<'p, L>,
    key: K,
    hash: u64,
    handle: Option<Handle>,
    signal: Signal,
}

/// What all packets by one port have in common. Words are little endian, as all that are compared with bytes here.
struct Link {
    port: PortId,
    /// The destination's MAC and the source's, and which bits of those are known, in words as [`Words`].
    macs: [u64; 2],
    mask: [u64; 2],
    /// Whether any station may have sent it.
    shared: bool,
    /// The last word of their keys, but for ports and protocol.
    tail: u64,
}

impl Link {
    fn of(tables: &Tables, port: PortId) -> Option<Self> {
        let ingress = Ingress::of(tables, port)?;
        // Whoever is on an uplink has a source address of one station: its group bit is 0.
        let (from, mask, shared) = match ingress.side {
            Side::Endpoint(endpoint) => (endpoint.mac, MacAddr([0xff; 6]), false),
            Side::Uplink(_) => (MacAddr::default(), MacAddr([1, 0, 0, 0, 0, 0]), true),
        };
        Some(Self {
            port,
            macs: words(ingress.port.mac, from),
            mask: words(MacAddr([0xff; 6]), mask),
            shared,
            tail: u64::from(ingress.network.0) << 16 | 1,
        })
    }

    /// What a family's plain packets by this link begin with.
    #[inline]
    const fn pattern(&self, [second, third]: [[u64; 2]; 2]) -> Pattern {
        Pattern {
            bits: [self.macs[0], self.macs[1] | second[0], third[0]],
            mask: [self.mask[0], self.mask[1] | second[1], third[1]],
            shared: self.shared,
        }
    }
}

/// The first 24 bytes of a frame.
type Words = [u64; 3];

/// What packets begin with.
struct Pattern {
    bits: Words,
    mask: Words,
    shared: bool,
}

impl Pattern {
    /// Whether these bytes are so.
    #[inline(always)]
    fn fits(&self, words: Words) -> bool {
        let differ = |at: usize| (words[at] ^ self.bits[at]) & self.mask[at];
        // No station has an address of zeros.
        differ(0) | differ(1) | differ(2) == 0 && (!self.shared || words[0] >> 48 | words[1] << 32 != 0)
    }
}

/// The eight bytes at `at`, which with the array's length is known when this is compiled.
#[inline(always)]
fn word<const LEN: usize>(bytes: &[u8; LEN], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Takes each packet that can go the short way as far as the port that it leaves by.
/// `view` has a packet's head and length and what is left of it, or `None` for one that came by another port.
#[inline]
pub(crate) fn burst<T, L: Left>(
    desk: &Desk<'_, '_>,
    tracker: &Tracker,
    port: PortId,
    packets: &mut [T],
    view: impl Fn(&mut T, PortId) -> Option<(&mut [u8], usize, L)>,
    counts: &mut FlowCounts,
) -> Replayed {
    let mut replayed = Replayed::none(port);
    let mut frames = ArrayVec::<Frame<'_, L>, BURST>::new();
    for (packet, at) in packets.iter_mut().zip(0..) {
        if let Some((head, len, left)) = view(packet, port) {
            hint::prefetch_slice(head);
            replayed.bytes += len;
            replayed.longest = replayed.longest.max(len);
            frames.push(Frame { head, len, at, left });
        }
    }
    let Some(link) = Link::of(desk.tables, port) else { return replayed };
    pass::<V4, L>(desk, tracker, &link, &mut frames, &mut replayed, counts);
    if replayed.done.count_ones() as usize != frames.len() {
        pass::<V6, L>(desk, tracker, &link, &mut frames, &mut replayed, counts);
    }
    counts.replayed += u64::from(replayed.done.count_ones());
    replayed
}

/// One family's packets, but those that are done.
#[inline]
fn pass<F: Plain, L: Left>(
    desk: &Desk<'_, '_>,
    tracker: &Tracker,
    link: &Link,
    frames: &mut [Frame<'_, L>],
    replayed: &mut Replayed,
    counts: &mut FlowCounts,
) {
    let table = F::table(&tracker.flows);
    let pattern = link.pattern(F::PATTERN);
    let mut candidates = ArrayVec::<Candidate<'_, '_, F::Key, L>, BURST>::new();
    for frame in frames {
        if replayed.done >> frame.at & 1 == 0
            && let Some((key, signal)) = F::plain(&pattern, link.tail, frame.head, frame.len)
        {
            let hash = table.hash(&key);
            table.prefetch(hash);
            candidates.push(Candidate { frame, key, hash, handle: None, signal });
        }
    }
    for candidate in &mut candidates {
        candidate.handle = table.first(candidate.hash);
        if let Some(handle) = candidate.handle {
            table.prefetch_record(handle);
        }
    }
    for candidate in &mut candidates {
        if let Some(adjacency) = replay::<F, L>(desk, table, link, candidate, counts) {
            let at = candidate.frame.at;
            replayed.outputs[usize::from(at) % BURST] = adjacency.port();
            replayed.done |= 1 << at;
        }
    }
}

/// Does as the last packet of the flow did.
#[inline(always)]
fn replay<F: Plain, L: Left>(
    desk: &Desk<'_, '_>,
    table: &Table<F>,
    link: &Link,
    candidate: &mut Candidate<'_, '_, F::Key, L>,
    counts: &mut FlowCounts,
) -> Option<Adjacency> {
    let Candidate { frame: Frame { head, len, left, .. }, key, handle, signal, .. } = candidate;
    let record = table.record((*handle)?)?;
    let (life, action) = (record.life(), record.action());
    if !record.is(key) {
        return None;
    }
    let adjacency = desk.adjacencies.get(action.adjacency())?;
    let longest = left.longest(head, *len, F::tuple(key).protocol, F::L4)?;
    if !adjacency.is_resolved() || longest > usize::from(adjacency.mtu()) + ETHERNET_HEADER {
        return None;
    }
    let settled = action.is_current(desk.tables.stamp(), link.port.0)
        && life.is_settled(record.direction(), desk.now)
        && *signal == Signal::Data;
    if !settled && !admits(desk, link.port, record, (life, action), *signal, counts) {
        return None;
    }
    if action.is_translated() {
        let reply = record.other_key();
        match left.offload() {
            Offload::Done => F::translate(head, key, &reply),
            left => translate_unfinished::<F>(head, *len, left, &reply)?,
        }
    } else {
        F::forward(head);
    }
    adjacency.set_macs(head);
    Some(adjacency)
}

/// As `translate`, of a packet whose checksum is that of its pseudo-header alone, and one hop less.
fn translate_unfinished<F: Plain>(head: &mut [u8], len: usize, left: Offload, reply: &F::Key) -> Option<()> {
    let Tuple { src, dst, src_port, dst_port, protocol, .. } = F::tuple(reply);
    let ends = Ends { src: dst.into(), dst: src.into(), src_port: dst_port, dst_port: src_port };
    let transport_len = u32::try_from(len - F::L4).ok();
    let place = Place {
        kind: F::KIND,
        l3: ETHERNET_HEADER,
        l4: F::L4,
        end: len,
        protocol,
        later: false,
        transport_len,
    };
    place.edit(head, left, &ends)?;
    F::forward(head);
    Some(())
}

/// Whether a packet does as the last one of its direction, though there is more to see to than to forward it: the tables are newer, and the
/// decision is brought up to date if it holds; or it changes the record. Apart, so that the others have the registers.
#[inline(never)]
fn admits<F: Plain>(
    desk: &Desk<'_, '_>,
    in_port: PortId,
    record: Record<'_, F>,
    (life, action): (Life, Action),
    signal: Signal,
    counts: &mut FlowCounts,
) -> bool {
    if !life.is_live() || !action.is_for(in_port.0) || signal == Signal::Open && life.state().is_over() {
        return false;
    }
    let stamp = desk.tables.stamp();
    if action.generation() != stamp {
        if !desk.tables.unchanged(action.generation(), &rests(record)) {
            return false;
        }
        counts.revalidated += 1;
        record.confirm(action.at(stamp));
    }
    record.touch(life, signal, desk.now);
    true
}

/// What a segment or datagram says of its connection: its header begins at `at`, a TCP header without options ends at `END`, and `len`
/// bytes are left for it.
#[inline(always)]
fn signal<const END: usize>(protocol: u8, head: &[u8], at: usize, len: usize) -> Option<Signal> {
    match protocol {
        protocol::UDP if len >= UDP_HEADER => Some(Signal::Data),
        protocol::TCP => {
            let b = head.first_chunk::<END>()?;
            let header = usize::from(b[at + 12] >> 4) * 4;
            (header >= TCP_HEADER && len >= header).then(|| Signal::of_tcp(b[at + 13]))
        }
        _ => None,
    }
}

/// The protocol in a key's last word.
#[expect(clippy::cast_possible_truncation, reason = "cut to 8 bits")]
const fn protocol_of(tail: u64) -> u8 {
    (tail >> 8) as u8
}
