//! ICMP errors, which carry the packet that they are about (RFC 792; RFC 4443): whose flow that was, and its addresses
//! made those that the flow's other side knows (RFC 5508, section 4.2; RFC 3022, section 4.3).
//!
//! What is quoted may end anywhere behind 8 bytes of transport header, and goes on beyond the contiguous head. The sums
//! follow by differences, so that a quote that was wrong stays as wrong as it was, and no more.

use std::net::IpAddr;

use wire::{
    ChecksumDelta, ICMPV4_HEADER, IPV4_HEADER, IPV6_HEADER, PacketKind, Parsed, UDP_HEADER, protocol,
};

use crate::icmp_error::icmp_type;
use crate::translate::{Ends, Place};
use crate::{DropReason, Offload};

#[cfg(test)]
mod tests;

/// The packet that an ICMP error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    /// Its transport.
    pub(crate) protocol: u8,
    /// Its addresses and ports, in its own direction: it went where the error comes from.
    pub(crate) ends: Ends,
    place: Place,
}

impl Quote {
    /// What is quoted of a datagram behind its UDP header.
    pub(crate) fn payload<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        head.get(self.place.l4 + UDP_HEADER..self.place.end).unwrap_or_default()
    }
}

/// What an ICMP error is about. `None` for all other packets, for errors whose quote is too short or makes no sense, and for
/// those about later fragments and about ICMP other than echo, of which no flow is known.
pub(crate) fn quoted(head: &[u8], parsed: &Parsed) -> Option<Quote> {
    let kind = icmp_type(parsed, head)?;
    let (is_error, has_length) = match parsed.kind {
        PacketKind::Ipv4 => (matches!(kind, 3 | 4 | 11 | 12), matches!(kind, 3 | 11 | 12)),
        PacketKind::Ipv6 => (matches!(kind, 1..=4), matches!(kind, 1 | 3)),
        PacketKind::Arp => return None,
    };
    if !is_error {
        return None;
    }
    let icmp = usize::from(parsed.l4_offset);
    // Of one length in both families.
    let l3 = icmp + ICMPV4_HEADER;
    let mut end = usize::try_from(parsed.frame_len).ok()?.min(head.len());
    if has_length {
        // Where extensions follow, the message says how long the quote is (RFC 4884, section 4).
        let len = match parsed.kind {
            PacketKind::Ipv4 => usize::from(*head.get(icmp + 5)?) * 4,
            _ => usize::from(*head.get(icmp + 4)?) * 8,
        };
        if len > 0 {
            end = end.min(l3 + len);
        }
    }
    let place = inside(parsed.kind, head.get(..end)?, l3)?;
    // RFC 792 promises so many; ports and identifiers are in them.
    if place.l4 + 8 > place.end {
        return None;
    }
    let ends = place.ends(head)?;
    let is_icmp = match parsed.kind {
        PacketKind::Ipv4 => place.protocol == protocol::ICMP,
        _ => place.protocol == protocol::ICMPV6,
    };
    if is_icmp && !place.is_echo(head) {
        return None;
    }
    Some(Quote { protocol: place.protocol, ends, place })
}

/// Where the packet at `l3` has what, in `bytes` that may end before it does.
fn inside(kind: PacketKind, bytes: &[u8], l3: usize) -> Option<Place> {
    let ip = bytes.get(l3..)?;
    let (l4, len, protocol, whole) = match kind {
        PacketKind::Ipv4 => {
            let header = ip.first_chunk::<IPV4_HEADER>()?;
            let l4 = usize::from(header[0] & 0xf) * 4;
            let field = u16::from_be_bytes([header[6], header[7]]);
            if header[0] >> 4 != 4 || l4 < IPV4_HEADER || field & 0x1fff != 0 {
                return None;
            }
            let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            (l4, len, header[9], field & 0x2000 == 0)
        }
        PacketKind::Ipv6 => {
            let (header, rest) = ip.split_first_chunk::<IPV6_HEADER>()?;
            if header[0] >> 4 != 6 {
                return None;
            }
            let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
            let chain = wire::walk_extensions(header[6], rest, payload).ok()?;
            if chain.fragment.is_some_and(|fragment| fragment.offset != 0) {
                return None;
            }
            let whole = chain.fragment.is_none_or(wire::Ipv6Fragment::is_atomic);
            (IPV6_HEADER + chain.len, IPV6_HEADER + payload, chain.protocol, whole)
        }
        PacketKind::Arp => return None,
    };
    let transport_len = u32::try_from(len.checked_sub(l4)?).ok().filter(|_| whole);
    let end = bytes.len().min(l3 + len);
    Some(Place { kind, l3, l4: l3 + l4, end, protocol, later: false, transport_len })
}

/// Makes the quoted packet's addresses and ports `inner`, and the error's own `src` and `dst`.
///
/// # Errors
/// `Untranslatable`, and nothing done, for addresses of the other family and as
/// [`translate`](crate::translate::translate()) has it.
pub(crate) fn translate_quote(
    head: &mut [u8],
    parsed: &Parsed,
    quote: &Quote,
    inner: &Ends,
    src: IpAddr,
    dst: IpAddr,
) -> Result<(), DropReason> {
    edit(head, parsed, quote, inner, src, dst).ok_or(DropReason::Untranslatable)
}

fn edit(
    head: &mut [u8],
    parsed: &Parsed,
    quote: &Quote,
    inner: &Ends,
    src: IpAddr,
    dst: IpAddr,
) -> Option<()> {
    let outer = Place::of(parsed);
    let addresses = outer.address_delta(head, src, dst)?;
    let field = outer.l4 + 2;
    head.get(field..field + 2)?;
    let quote = quote.place.edit(head, Offload::Done, inner)?;
    outer.set_addresses(head, src, dst, addresses);
    let pseudo = if outer.kind == PacketKind::Ipv6 { addresses } else { ChecksumDelta::NONE };
    let sum = head.get_mut(field..)?.first_chunk_mut::<2>()?;
    // The type is not 0: no error is all zeros, and the difference is never the wrong zero.
    *sum = pseudo.and(quote).apply(u16::from_be_bytes(*sum)).to_be_bytes();
    Some(())
}
