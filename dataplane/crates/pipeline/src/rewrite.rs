//! Third step, of packets that go on: new ends where the connection has them, MACs, and one hop less.
//!
//! Header checksums follow by their difference (RFC 1624).

use std::net::IpAddr;

use wire::{Addrs, Fragment, Ipv4Packet, Ipv6Packet, PacketKind, Parsed, protocol};

use crate::adjacency::Adjacencies;
use crate::burst::{State, Turn, Works};
use crate::connection::Ends;
use crate::icmp_quote::{quoted, translate_quote};
use crate::translate::{PlainV4, translate, translate_plain_v4};
use crate::{Buffer, DropReason, Offload, Output, Packet, Verdict};

#[inline]
pub(crate) fn burst<B: Buffer>(adjacencies: &Adjacencies, packets: &mut [Packet<B>], works: &mut Works<'_>) {
    for work in works {
        let (output, turn) = match &work.state {
            State::Onward(hop, turn) => {
                hop.set_macs(packets[work.at].buffer.head_mut());
                (hop.output(), *turn)
            }
            State::Replay(replay) => {
                let adjacency = replay.adjacency;
                adjacency.set_macs(packets[work.at].buffer.head_mut());
                let output = match adjacencies.next_hop(replay.index) {
                    Some(next_hop) if !adjacency.is_resolved() => {
                        Output::Neighbour { port: adjacency.port(), next_hop }
                    }
                    _ => Output::Port(adjacency.port()),
                };
                (output, replay.turn.map(Turn::Ends))
            }
            _ => continue,
        };
        let packet = &mut packets[work.at];
        let (head, offload) = (packet.buffer.head_mut(), packet.offload);
        let turned = match turn {
            None => Ok(()),
            Some(Turn::Ends(ends)) => {
                if let Some((from, to)) = plain(&work.parsed, offload, &ends) {
                    translate_plain_v4(head, work.parsed.protocol, from, to);
                    work.state = State::Done(Verdict::Forward(output));
                    continue;
                }
                translate(head, &work.parsed, offload, &(&ends).into())
            }
            Some(Turn::Quote { becomes, src }) => match quoted(head, &work.parsed) {
                Some(quote) => {
                    let inner = (&becomes.reversed()).into();
                    translate_quote(head, &work.parsed, &quote, &inner, src, becomes.dst)
                }
                None => Err(DropReason::Untranslatable),
            },
        };
        if let Err(reason) = turned {
            work.state = reason.into();
            continue;
        }
        hop_less(packet.buffer.head_mut(), &work.parsed);
        work.state = State::Done(Verdict::Forward(output));
    }
}

/// What a packet has and becomes, where that is as plain as [`translate_plain_v4`] wants it.
#[inline]
fn plain(parsed: &Parsed, offload: Offload, becomes: &Ends) -> Option<(PlainV4, PlainV4)> {
    let is_plain = parsed.fragment == Fragment::Whole
        && !parsed.ipv4_options
        && matches!(parsed.protocol, protocol::TCP | protocol::UDP)
        && offload == Offload::Done;
    match (parsed.addrs, becomes.src, becomes.dst) {
        (Addrs::V4 { src, dst }, IpAddr::V4(new_src), IpAddr::V4(new_dst)) if is_plain => Some((
            PlainV4::new([src, dst], [parsed.src_port, parsed.dst_port]),
            PlainV4::new([new_src, new_dst], [becomes.src_port, becomes.dst_port]),
        )),
        _ => None,
    }
}

#[inline]
fn hop_less(head: &mut [u8], parsed: &Parsed) {
    let l3 = head.get_mut(usize::from(parsed.l3_offset)..).unwrap_or_default();
    match parsed.kind {
        PacketKind::Ipv4 => {
            if let Ok(mut packet) = Ipv4Packet::new_checked(l3) {
                packet.decrement_ttl();
            }
        }
        PacketKind::Ipv6 => {
            if let Ok(mut packet) = Ipv6Packet::new_checked(l3) {
                packet.decrement_hop_limit();
            }
        }
        PacketKind::Arp => {}
    }
}
