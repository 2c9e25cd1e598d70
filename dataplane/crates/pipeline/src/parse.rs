//! First step: bytes become [`Parsed`] headers, and a port number becomes what is behind the port.
//!
//! What goes on from here is a whole frame without padding, for this station or a group, by a unicast sender, whose
//! [`Offload`] fits its headers.

use tables::Tables;
use wire::{PacketKind, Parsed, protocol};

use crate::address::macs;
use crate::burst::{Ingress, Side, State, Work, Works};
use crate::{Buffer, DropReason, GsoKind, Offload, Packet};

/// Parses the packets of the burst that have no bit in `done`. One that is refused gets no [`Work`], but a reason.
#[inline]
pub(crate) fn burst<'t, B: Buffer>(
    tables: &'t Tables,
    packets: &mut [Packet<B>],
    done: u32,
    works: &mut Works<'t>,
    mut refuse: impl FnMut(usize, DropReason),
) {
    // Bursts come from one queue: the port is looked up once a run, not once a packet.
    let mut last = None;
    let mut ingress = None;
    for (at, packet) in packets.iter_mut().enumerate().filter(|(at, _)| done >> at & 1 == 0) {
        if last != Some(packet.in_port) {
            last = Some(packet.in_port);
            ingress = Ingress::of(tables, packet.in_port);
        }
        let Some(ingress) = ingress else {
            refuse(at, DropReason::PortIdle);
            continue;
        };
        let parsed = match wire::parse(packet.buffer.head(), packet.buffer.frame_len()) {
            Ok(parsed) => parsed,
            Err(malformed) => {
                refuse(at, malformed.into());
                continue;
            }
        };
        if let Err(reason) = accept(tables, &ingress, &parsed, packet) {
            refuse(at, reason);
            continue;
        }
        // As many as packets, which are at most BURST.
        works.push(Work { at, parsed, ingress, state: State::Live });
    }
}

/// Whether the frame is for this station, by one that can be, and what it leaves to hardware can be done. Cuts its padding.
#[inline]
fn accept<B: Buffer>(
    tables: &Tables,
    ingress: &Ingress<'_>,
    parsed: &Parsed,
    packet: &mut Packet<B>,
) -> Result<(), DropReason> {
    let (dst, src) = macs(packet.buffer.head());
    if dst != ingress.port.mac && !dst.is_multicast() {
        // The gateway's MAC is as good on an endpoint's link, where there is nobody else.
        let gateway = matches!(ingress.side, Side::Endpoint(_)) && dst == tables.router().mac;
        if !gateway {
            return Err(DropReason::NotForUs);
        }
    }
    if !src.is_unicast() {
        return Err(DropReason::SourceInvalid);
    }
    if packet.offload != Offload::Done {
        packet.offload =
            checked(packet.offload, parsed, packet.buffer.head()).ok_or(DropReason::OffloadInvalid)?;
    }
    // Ethernet pads frames to 60 bytes; what comes from a TAP or guest may have anything behind the packet.
    let len = usize::try_from(parsed.frame_len).unwrap_or(usize::MAX);
    if packet.buffer.frame_len() > len {
        packet.buffer.truncate(len);
    }
    Ok(())
}

/// The offload as the headers have it, or `None` if it does not fit them. `header_len` is a hint that drivers get wrong
/// (virtio 1.2, section 5.1.6.2.1): the headers say it better.
fn checked(offload: Offload, parsed: &Parsed, head: &[u8]) -> Option<Offload> {
    let whole = parsed.fragment == wire::Fragment::Whole && parsed.kind != PacketKind::Arp;
    match offload {
        Offload::Done => Some(Offload::Done),
        Offload::Partial { start, offset } => {
            let end = u32::from(start) + u32::from(offset) + 2;
            // Behind the transport header's start lie at worst the packet's own data; in front of it, ours.
            (whole && start >= parsed.l4_offset && end <= parsed.frame_len).then_some(offload)
        }
        Offload::Gso { kind, size, start, offset, .. } => {
            let l4 = usize::from(parsed.l4_offset);
            let (family, number, field, header) = match kind {
                GsoKind::TcpV4 | GsoKind::TcpV6 => {
                    let family = if kind == GsoKind::TcpV4 { PacketKind::Ipv4 } else { PacketKind::Ipv6 };
                    (family, protocol::TCP, 16, u16::from(head.get(l4 + 12)? >> 4) * 4)
                }
                GsoKind::Udp => (parsed.kind, protocol::UDP, 6, 8),
            };
            let fits = whole
                && parsed.kind == family
                && parsed.protocol == number
                && start == parsed.l4_offset
                && offset == field
                && size > 0;
            let header_len = parsed.l4_offset + header;
            fits.then_some(Offload::Gso { kind, size, header_len, start, offset })
        }
    }
}
