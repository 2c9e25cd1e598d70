//! Third step, of packets that go on: new ends where the connection has them, MACs, and one hop less.
//!
//! Header checksums follow by their difference (RFC 1624).

use wire::{Ipv4Packet, Ipv6Packet, PacketKind, Parsed};

use crate::adjacency::Adjacencies;
use crate::burst::{State, Turn, Works};
use crate::icmp_quote::translate_quote;
use crate::translate::translate;
use crate::{Buffer, Output, Packet, Verdict};

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
            Some(Turn::Ends(ends)) => translate(head, &work.parsed, offload, &(&ends).into()),
            Some(Turn::Quote { quote, inner, src, dst }) => {
                translate_quote(head, &work.parsed, &quote, &(&inner).into(), src, dst)
            }
        };
        if let Err(reason) = turned {
            work.state = reason.into();
            continue;
        }
        hop_less(packet.buffer.head_mut(), &work.parsed);
        work.state = State::Done(Verdict::Forward(output));
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
