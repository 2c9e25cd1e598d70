//! The short way: plain IPv4 packets of known flows, decided and rewritten in one pass over the burst.
//!
//! Plain is TCP or UDP, whole, without options, with nothing left to offload; known is a flow whose decision holds. Whatever is
//! otherwise in any way is left, untouched, to the other steps, which judge it: so nothing here refuses a packet, and no rule stands
//! here alone. In rounds with prefetches between, as `lookup`.

use arrayvec::ArrayVec;
use flow::{Family, Handle, Key4, Signal, V4};
use tables::{PortId, Tables};
use wire::{ETHERNET_HEADER, IPV4_HEADER, MacAddr, TCP_HEADER, UDP_HEADER, protocol};

use crate::burst::{Ingress, Side};
use crate::decide::{Desk, rests};
use crate::tracker::{Tracker, widen};
use crate::translate::{PlainV4, translate_plain_v4};
use crate::{BURST, Buffer, FlowCounts, Offload, Output, Packet, Verdict};

const L4: usize = ETHERNET_HEADER + IPV4_HEADER;
const LEAST: usize = L4 + UDP_HEADER;

/// A packet that looks plain.
struct Candidate {
    at: usize,
    key: Key4,
    hash: u64,
    handle: Option<Handle>,
    signal: Signal,
}

/// What all packets by one port have in common.
struct Link {
    port: PortId,
    /// Who they are to be sent to, and by whom if only one can.
    to: MacAddr,
    from: Option<MacAddr>,
    /// The last word of their keys, but for ports and protocol.
    network: u64,
}

impl Link {
    fn of(tables: &Tables, port: PortId) -> Option<Self> {
        let ingress = Ingress::of(tables, port)?;
        let from = match ingress.side {
            Side::Endpoint(endpoint) => Some(endpoint.mac),
            Side::Uplink(_) => None,
        };
        Some(Self { port, to: ingress.port.mac, from, network: u64::from(ingress.network.0) << 16 | 1 })
    }
}

/// Gives each packet that can go the short way its verdict. The answer has a bit for each of them, by place.
pub(crate) fn burst<B: Buffer>(
    desk: &Desk<'_, '_>,
    tracker: &Tracker,
    packets: &mut [Packet<B>],
    verdicts: &mut ArrayVec<Verdict, BURST>,
    counts: &mut FlowCounts,
) -> u32 {
    let mut done = 0;
    for packet in packets.iter() {
        hint::prefetch_slice(packet.buffer.head());
    }
    // Bursts come from one queue.
    let Some(link) = packets.first().and_then(|first| Link::of(desk.tables, first.in_port)) else {
        return done;
    };
    let table = &tracker.flows.v4;
    let mut candidates = ArrayVec::<Candidate, BURST>::new();
    for (at, packet) in packets.iter().enumerate() {
        if let Some((key, signal)) = plain(&link, packet) {
            let hash = table.hash(&key);
            table.prefetch(hash);
            candidates.push(Candidate { at, key, hash, handle: None, signal });
        }
    }
    for candidate in &mut candidates {
        candidate.handle = table.first(candidate.hash);
        if let Some(handle) = candidate.handle {
            table.prefetch_record(handle);
        }
    }
    for candidate in &candidates {
        if let Some(output) = replay(desk, tracker, &link, candidate, &mut packets[candidate.at], counts) {
            verdicts[candidate.at] = Verdict::Forward(output);
            done |= 1 << candidate.at;
        }
    }
    counts.replayed += u64::from(done.count_ones());
    done
}

/// The key of a plain packet, and what it says of its connection.
#[inline]
fn plain<B: Buffer>(link: &Link, packet: &Packet<B>) -> Option<(Key4, Signal)> {
    let head = packet.buffer.head();
    let b = head.first_chunk::<LEAST>()?;
    let ip_len = usize::from(u16::from_be_bytes([b[16], b[17]]));
    let from = MacAddr([b[6], b[7], b[8], b[9], b[10], b[11]]);
    let from_right = match link.from {
        Some(mac) => mac == from,
        None => from.is_unicast(),
    };
    let fits = packet.in_port == link.port
        && packet.offload == Offload::Done
        && [b[12], b[13], b[14]] == [0x08, 0x00, 0x45]
        && [b[20] & 0x3f, b[21]] == [0, 0]
        && b[22] > 1
        && MacAddr([b[0], b[1], b[2], b[3], b[4], b[5]]) == link.to
        && from_right
        && ETHERNET_HEADER + ip_len == packet.buffer.frame_len()
        && header_is_right(b);
    if !fits {
        return None;
    }
    let signal = match b[23] {
        protocol::UDP if ip_len >= IPV4_HEADER + UDP_HEADER => Signal::Data,
        protocol::TCP => {
            let b = head.first_chunk::<{ L4 + TCP_HEADER }>()?;
            let header = usize::from(b[46] >> 4) * 4;
            if header < TCP_HEADER || ip_len < IPV4_HEADER + header {
                return None;
            }
            Signal::of_tcp(b[47])
        }
        _ => return None,
    };
    let word = |at: usize| u64::from(u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]));
    let key = [word(26) << 32 | word(30), word(34) << 32 | link.network | u64::from(b[23]) << 8];
    Some((key, signal))
}

/// Whether the header's 20 bytes sum up to all ones (RFC 1071); in the processor's own byte order, which makes no difference to that.
#[inline]
fn header_is_right(b: &[u8; LEAST]) -> bool {
    let word = |at: usize| u64::from(u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]));
    let sum = word(14) + word(18) + word(22) + word(26) + word(30);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// Does as the last packet of the flow did.
#[inline]
fn replay<B: Buffer>(
    desk: &Desk<'_, '_>,
    tracker: &Tracker,
    link: &Link,
    candidate: &Candidate,
    packet: &mut Packet<B>,
    counts: &mut FlowCounts,
) -> Option<Output> {
    let table = &tracker.flows.v4;
    let (handle, key) = (candidate.handle?, &candidate.key);
    let life = table.verify(handle, key)?;
    let action = table.decided(handle);
    let usable = life.is_live() && action.is_some() && action.in_port() == link.port.0;
    if !usable || candidate.signal == Signal::Open && life.state().is_over() {
        return None;
    }
    let adjacency = desk.adjacencies.get(action.adjacency())?;
    if packet.buffer.frame_len() > usize::from(adjacency.mtu()) + ETHERNET_HEADER {
        return None;
    }
    let stamp = desk.tables.stamp();
    if action.generation() != stamp {
        let other = V4::tuple(&table.other_key(handle));
        let mine = V4::tuple(key);
        let rests = match handle.direction() {
            flow::Direction::Forward => rests(&widen(mine), &widen(other.reversed())),
            flow::Direction::Reply => rests(&widen(other), &widen(mine.reversed())),
        };
        if !desk.tables.unchanged(action.generation(), &rests) {
            return None;
        }
        counts.revalidated += 1;
        table.decide(handle, action, action.at(stamp));
    }
    table.touch(handle, life, candidate.signal, desk.now);

    let head = packet.buffer.head_mut();
    if action.is_translated() {
        let of = |key: &Key4| PlainV4 { addrs: key[0], ports: ports(key) };
        let protocol = head.get(23).copied().unwrap_or(0);
        translate_plain_v4(head, protocol, of(key), of(&table.other_key(handle)).reversed());
    } else if let Some(b) = head.first_chunk_mut::<LEAST>() {
        hop_less(b);
    }
    if let Some(macs) = head.first_chunk_mut::<12>() {
        let MacAddr(dst) = adjacency.dst();
        let MacAddr(src) = adjacency.src();
        macs[..6].copy_from_slice(&dst);
        macs[6..].copy_from_slice(&src);
    }
    Some(match desk.adjacencies.next_hop(action.adjacency()) {
        Some(next_hop) if !adjacency.is_resolved() => Output::Neighbour { port: adjacency.port(), next_hop },
        _ => Output::Port(adjacency.port()),
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the upper half is meant")]
const fn ports(key: &Key4) -> u32 {
    (key[1] >> 32) as u32
}

/// TTL one less, and the header's checksum by that difference (RFC 1624, equation 3).
#[inline]
fn hop_less(b: &mut [u8; LEAST]) {
    b[22] -= 1;
    let old = u32::from(u16::from_be_bytes([b[24], b[25]]));
    let sum = (!old & 0xffff) + 0xfeff;
    let sum = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = (!sum).to_be_bytes();
    [b[24], b[25]] = [high, low];
}
