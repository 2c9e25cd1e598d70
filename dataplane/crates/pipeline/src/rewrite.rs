//! Fourth step, of packets that go on: MACs, and one hop less.
//!
//! Nothing else of a packet changes; the header checksum follows the TTL by its difference (RFC 1624).

use wire::{Ipv4Packet, Ipv6Packet, PacketKind};

use crate::burst::{State, Works};
use crate::{Buffer, Packet, Verdict};

#[inline]
pub(crate) fn burst<B: Buffer>(packets: &mut [Packet<B>], works: &mut Works<'_>) {
    for work in works {
        let State::Onward(hop) = &work.state else { continue };
        let head = packets[work.at].buffer.head_mut();
        hop.set_macs(head);
        let l3 = head.get_mut(usize::from(work.parsed.l3_offset)..).unwrap_or_default();
        match work.parsed.kind {
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
        work.state = State::Done(Verdict::Forward(hop.output()));
    }
}
