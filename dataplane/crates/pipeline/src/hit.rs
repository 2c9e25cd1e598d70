//! The short way: plain IPv4 packets of known flows, decided and rewritten in one pass over the burst.
//!
//! Plain is TCP or UDP, whole, without options, with nothing left to offload; known is a flow whose decision holds. Whatever is
//! otherwise in any way is left, untouched, to the other steps, which judge it: so nothing here refuses a packet, and no rule stands
//! here alone. In rounds with prefetches between, as `lookup`.

use arrayvec::ArrayVec;
use flow::{Handle, Key4, Signal};
use tables::{PortId, Tables};
use wire::{ETHERNET_HEADER, IPV4_HEADER, MacAddr, TCP_HEADER, UDP_HEADER, protocol};

use crate::adjacency::Adjacency;
use crate::burst::{Ingress, Side};
use crate::decide::Desk;
use crate::tracker::{Tracker, rests};
use crate::translate::{PlainV4, translate_plain_v4};
use crate::{BURST, Buffer, FlowCounts, Offload, Output, Packet, Verdict};

const L4: usize = ETHERNET_HEADER + IPV4_HEADER;
const LEAST: usize = L4 + UDP_HEADER;

/// A packet that looks plain.
struct Candidate {
    key: Key4,
    hash: u64,
    handle: Option<Handle>,
    signal: Signal,
    at: u8,
}

/// What all packets by one port have in common.
struct Link {
    port: PortId,
    /// The first eight bytes, which are the destination's MAC and the beginning of the source's, and the four behind: what they are, and
    /// which bits of them are known.
    macs: (u64, u32),
    mask: (u64, u32),
    /// The last word of their keys, but for ports and protocol.
    network: u64,
}

impl Link {
    fn of(tables: &Tables, port: PortId) -> Option<Self> {
        let ingress = Ingress::of(tables, port)?;
        // Whoever is on an uplink has a source address of one station: its group bit is 0.
        let (from, mask) = match ingress.side {
            Side::Endpoint(endpoint) => (endpoint.mac.0, [0xff; 6]),
            Side::Uplink(_) => ([0; 6], [1, 0, 0, 0, 0, 0]),
        };
        let words = |to: [u8; 6], from: [u8; 6]| {
            let ([a, b, c, d, e, f], [g, h, rest @ ..]) = (to, from);
            (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u32::from_ne_bytes(rest))
        };
        Some(Self {
            port,
            macs: words(ingress.port.mac.0, from),
            mask: words([0xff; 6], mask),
            network: u64::from(ingress.network.0) << 16 | 1,
        })
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
    let mut done = 0_u32;
    for packet in packets.iter() {
        hint::prefetch_slice(packet.buffer.head());
    }
    // Bursts come from one queue.
    let Some(link) = packets.first().and_then(|first| Link::of(desk.tables, first.in_port)) else {
        return done;
    };
    let table = &tracker.flows.v4;
    let mut candidates = ArrayVec::<Candidate, BURST>::new();
    for (packet, at) in packets.iter().zip(0..) {
        if let Some((key, signal)) = plain(&link, packet) {
            let hash = table.hash(&key);
            table.prefetch(hash);
            candidates.push(Candidate { key, hash, handle: None, signal, at });
        }
    }
    for candidate in &mut candidates {
        candidate.handle = table.first(candidate.hash);
        if let Some(handle) = candidate.handle {
            table.prefetch_record(handle);
        }
    }
    for candidate in &candidates {
        let packet = &mut packets[usize::from(candidate.at)];
        let Some((adjacency, index)) = replay(desk, tracker, &link, candidate, packet, counts) else {
            continue;
        };
        done |= 1 << candidate.at;
        let port = adjacency.port();
        let output = if adjacency.is_resolved() {
            Output::Port(port)
        } else {
            desk.adjacencies
                .next_hop(index)
                .map_or(Output::Port(port), |next_hop| Output::Neighbour { port, next_hop })
        };
        verdicts[usize::from(candidate.at)] = Verdict::Forward(output);
    }
    counts.replayed += u64::from(done.count_ones());
    done
}

/// The key of a plain packet, and what it says of its connection.
#[inline(always)]
fn plain<B: Buffer>(link: &Link, packet: &Packet<B>) -> Option<(Key4, Signal)> {
    let head = packet.buffer.head();
    let b = head.first_chunk::<LEAST>()?;
    let ne32 = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let be32 = |at: usize| u64::from(u32::from_be(ne32(at)));
    let first = u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    let macs = (first ^ link.macs.0) & link.mask.0 | u64::from((ne32(8) ^ link.macs.1) & link.mask.1);
    let ip_len = usize::from(u16::from_be_bytes([b[16], b[17]]));
    // EtherType, version and header length; then flags and offset of fragments.
    let others = (ne32(12) ^ u32::from_ne_bytes([0x08, 0x00, 0x45, 0]))
        & u32::from_ne_bytes([0xff, 0xff, 0xff, 0])
        | u32::from(b[20] & 0x3f | b[21]);
    let fits = macs | u64::from(others) == 0
        && b[22] > 1
        && packet.in_port == link.port
        && packet.offload == Offload::Done
        && ETHERNET_HEADER + ip_len == packet.buffer.frame_len()
        && header_is_right(b)
        // No station has an address of zeros.
        && [b[6], b[7], b[8], b[9], b[10], b[11]] != [0; 6];
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
    let key = [be32(26) << 32 | be32(30), be32(34) << 32 | link.network | u64::from(b[23]) << 8];
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
#[inline(always)]
fn replay<B: Buffer>(
    desk: &Desk<'_, '_>,
    tracker: &Tracker,
    link: &Link,
    candidate: &Candidate,
    packet: &mut Packet<B>,
    counts: &mut FlowCounts,
) -> Option<(Adjacency, u32)> {
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
        if !desk.tables.unchanged(action.generation(), &rests(table, handle)) {
            return None;
        }
        counts.revalidated += 1;
        table.confirm(handle, action.at(stamp));
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
    Some((adjacency, action.adjacency()))
}

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
