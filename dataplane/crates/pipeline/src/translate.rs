//! A packet's addresses and ports made others, in place.
//!
//! Every checksum follows by its difference (RFC 1624; RFC 3022, section 4.2), so that the payload is never read and may
//! lie in other segments. A finished checksum takes the change of addresses and of ports; a partial one, which holds the sum of
//! the pseudo-header, that of the addresses alone; SCTP's CRC32c has no pseudo-header, and ICMP's for IPv4 neither.
//!
//! Either all of it is done or nothing: what is refused leaves the bytes as they were.

use std::net::IpAddr;

use flow::Tuple;
use wire::{ChecksumDelta, Fragment, PacketKind, Parsed, checksum, protocol};

use crate::{DropReason, Offload, connection};

mod plain;
#[cfg(test)]
mod tests;

pub use plain::{Plain, PlainV4, PlainV6, translate_plain_v4, translate_plain_v6};
pub(crate) use plain::{end_around, fold_32, fold_64, hop_less_v4, hop_less_v6};

/// Addresses and ports as a packet's own header has them. An ICMP echo request has its identifier as source port, a reply
/// as destination port, and 0 for the other; what has no ports has 0 for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl From<&connection::Ends> for Ends {
    fn from(ends: &connection::Ends) -> Self {
        let &Tuple { src, dst, src_port, dst_port, .. } = ends;
        Self { src, dst, src_port, dst_port }
    }
}

impl Ends {
    /// Those of the packet that answers this one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port }
    }
}

/// What a packet has now. `None` for ARP, and for later fragments, whose ports the first one had.
pub(crate) fn ends(head: &[u8], parsed: &Parsed) -> Option<Ends> {
    if parsed.fragment == Fragment::Later {
        return None;
    }
    Place::of(parsed).ends(head)
}

/// Makes the packet's addresses and ports `to`. Of later fragments, and of protocols whose ports are not known (ESP, GRE, ICMP but
/// echo), it is the addresses alone.
///
/// # Errors
/// `Untranslatable` for ARP; addresses of the other family; a new destination in front of an IPv6 routing header that still has
/// stops to make, since the checksum is the last one's (RFC 8200, section 8.1); and new ports in the first fragment of an SCTP
/// packet, whose CRC32c changes by a length that only the last one knows.
pub fn translate(head: &mut [u8], parsed: &Parsed, offload: Offload, to: &Ends) -> Result<(), DropReason> {
    let place = Place::of(parsed);
    if parsed.fragment == Fragment::First && parsed.protocol == protocol::SCTP {
        let now = place.ends(head).ok_or(DropReason::Untranslatable)?;
        if (now.src_port, now.dst_port) != (to.src_port, to.dst_port) {
            return Err(DropReason::Untranslatable);
        }
    }
    match place.edit(head, offload, to) {
        Some(_) => Ok(()),
        None => Err(DropReason::Untranslatable),
    }
}

/// Where a packet lies: a frame's own, or one that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: PacketKind,
    /// Where its IP header begins.
    pub(crate) l3: usize,
    /// Where its transport header does.
    pub(crate) l4: usize,
    /// Where it ends; bytes behind are not its own.
    pub(crate) end: usize,
    /// The last next-header.
    pub(crate) protocol: u8,
    /// A later fragment: what is at `l4` is payload.
    pub(crate) later: bool,
    /// Bytes of transport header and payload of the whole packet. `None` where only the last fragment knows: a CRC32c then
    /// stays as it is.
    pub(crate) transport_len: Option<u32>,
}

/// Four bytes that hold ports, or an identifier and a sequence number.
#[derive(Clone, Copy)]
struct Ports {
    at: usize,
    old: [u8; 4],
    new: [u8; 4],
}

/// What guards a transport, and where: bytes from the transport header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    None,
    Sum { at: usize, pseudo_header: bool },
    Crc { at: usize },
}

impl Place {
    pub(crate) fn of(parsed: &Parsed) -> Self {
        Self {
            kind: parsed.kind,
            l3: usize::from(parsed.l3_offset),
            l4: usize::from(parsed.l4_offset),
            end: usize::try_from(parsed.frame_len).unwrap_or(usize::MAX),
            protocol: parsed.protocol,
            later: parsed.fragment == Fragment::Later,
            transport_len: (parsed.fragment == Fragment::Whole).then(|| parsed.transport_len()),
        }
    }

    /// Its own bytes, as many as are at hand.
    fn own<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[..bytes.len().min(self.end)]
    }

    /// The addresses and ports there.
    pub(crate) fn ends(&self, bytes: &[u8]) -> Option<Ends> {
        let bytes = self.own(bytes);
        let (src, dst) = match self.kind {
            PacketKind::Ipv4 => {
                let [src, dst] = self.addresses_v4(bytes)?;
                (IpAddr::V4(src.into()), IpAddr::V4(dst.into()))
            }
            PacketKind::Ipv6 => {
                let [src, dst] = self.addresses_v6(bytes)?;
                (IpAddr::V6(src.into()), IpAddr::V6(dst.into()))
            }
            PacketKind::Arp => return None,
        };
        let (src_port, dst_port) = match self.echo(bytes) {
            Some(reply) => {
                let ident = u16::from_be_bytes(read(bytes, self.l4 + 4)?);
                if reply { (0, ident) } else { (ident, 0) }
            }
            None if self.has_ports() => {
                let [a, b, c, d] = read(bytes, self.l4)?;
                (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
            }
            None => (0, 0),
        };
        Some(Ends { src, dst, src_port, dst_port })
    }

    /// Makes them `to`. Answers what that does to the sum of the packet's bytes; `None`, and nothing done, if it cannot be.
    pub(crate) fn edit(&self, bytes: &mut [u8], offload: Offload, to: &Ends) -> Option<ChecksumDelta> {
        let addresses = self.address_delta(self.own(bytes), to.src, to.dst)?;
        let (ports, guard) = if self.later { (None, Guard::None) } else { self.transport(bytes, to)? };
        let own = bytes.len().min(self.end);
        let bytes = &mut bytes[..own];
        let mut total = addresses.and(self.set_addresses(bytes, to.src, to.dst, addresses));
        let mut delta = ChecksumDelta::NONE;
        if let Some(Ports { at, old, new }) = ports {
            bytes.get_mut(at..at + 4)?.copy_from_slice(&new);
            delta = ChecksumDelta::replace_u32(u32::from_be_bytes(old), u32::from_be_bytes(new));
            total = total.and(delta);
        }
        match (guard, ports) {
            (Guard::Sum { at, pseudo_header }, _) => {
                let pseudo = if pseudo_header { addresses } else { ChecksumDelta::NONE };
                let partial = is_partial(offload, self.l4, at);
                if let Some(field) = chunk_mut::<2>(bytes, self.l4 + at) {
                    let old = u16::from_be_bytes(*field);
                    let both = pseudo.and(delta);
                    let new = match self.protocol {
                        _ if partial => pseudo.apply_partial(old),
                        protocol::UDP => both.apply_udp(old),
                        _ => both.apply(old),
                    };
                    *field = new.to_be_bytes();
                    total = total.and(ChecksumDelta::replace_u16(old, new));
                    if new == 0 && !pseudo_header && !partial {
                        self.guard_zeros(bytes);
                    }
                }
            }
            (Guard::Crc { at }, Some(Ports { old: old_ports, new: new_ports, .. })) => {
                let behind = self.transport_len.and_then(|len| len.checked_sub(4));
                if let (Some(field), Some(behind)) = (chunk_mut::<4>(bytes, self.l4 + at), behind) {
                    let old = u32::from_le_bytes(*field);
                    let new = checksum::crc32c_replace(old, old_ports, new_ports, behind);
                    *field = new.to_le_bytes();
                    total = total.and(ChecksumDelta::replace_u32(old.swap_bytes(), new.swap_bytes()));
                }
            }
            (Guard::Crc { .. } | Guard::None, _) => {}
        }
        Some(total)
    }

    /// An echo reply that is all zeros has no other checksum than all ones; the difference gives the other zero (RFC 1624,
    /// section 3), and there is no pseudo-header to prevent that. Where the payload is not zero, either is right.
    /// To a sum over them they are the same.
    fn guard_zeros(&self, bytes: &mut [u8]) {
        if let Some(header @ [0, 0, 0, 0, 0, 0, 0, 0]) = chunk_mut::<8>(bytes, self.l4) {
            header[2..4].fill(0xff);
        }
    }

    /// What new addresses do to a sum over them. `None` where they cannot be set.
    pub(crate) fn address_delta(&self, bytes: &[u8], src: IpAddr, dst: IpAddr) -> Option<ChecksumDelta> {
        match (self.kind, src, dst) {
            (PacketKind::Ipv4, IpAddr::V4(src), IpAddr::V4(dst)) => {
                let [old_src, old_dst] = self.addresses_v4(bytes)?;
                let src = ChecksumDelta::replace_ipv4(old_src.into(), src);
                Some(src.and(ChecksumDelta::replace_ipv4(old_dst.into(), dst)))
            }
            (PacketKind::Ipv6, IpAddr::V6(src), IpAddr::V6(dst)) => {
                let [old_src, old_dst] = self.addresses_v6(bytes)?;
                if old_dst != dst.octets() && self.has_stops(bytes) {
                    return None;
                }
                let src = ChecksumDelta::replace_ipv6(old_src.into(), src);
                Some(src.and(ChecksumDelta::replace_ipv6(old_dst.into(), dst)))
            }
            _ => None,
        }
    }

    /// Sets addresses that [`address_delta`](Self::address_delta) has approved, and the IPv4 header's checksum. Answers what
    /// the latter does to a sum over the header.
    pub(crate) fn set_addresses(
        &self,
        bytes: &mut [u8],
        src: IpAddr,
        dst: IpAddr,
        delta: ChecksumDelta,
    ) -> ChecksumDelta {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let Some(header) = chunk_mut::<20>(bytes, self.l3) else { return ChecksumDelta::NONE };
                header[12..16].copy_from_slice(&src.octets());
                header[16..20].copy_from_slice(&dst.octets());
                let old = u16::from_be_bytes([header[10], header[11]]);
                let new = delta.apply(old);
                header[10..12].copy_from_slice(&new.to_be_bytes());
                ChecksumDelta::replace_u16(old, new)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                if let Some(header) = chunk_mut::<40>(bytes, self.l3) {
                    header[8..24].copy_from_slice(&src.octets());
                    header[24..40].copy_from_slice(&dst.octets());
                }
                ChecksumDelta::NONE
            }
            _ => ChecksumDelta::NONE,
        }
    }

    fn addresses_v4(&self, bytes: &[u8]) -> Option<[[u8; 4]; 2]> {
        Some([read(bytes, self.l3 + 12)?, read(bytes, self.l3 + 16)?])
    }

    fn addresses_v6(&self, bytes: &[u8]) -> Option<[[u8; 16]; 2]> {
        Some([read(bytes, self.l3 + 8)?, read(bytes, self.l3 + 24)?])
    }

    const fn has_ports(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
    }

    /// Whether it is an ICMP echo of the packet's family, and then whether it is the reply.
    fn echo(&self, bytes: &[u8]) -> Option<bool> {
        let (request, reply) = match (self.kind, self.protocol) {
            (PacketKind::Ipv4, protocol::ICMP) => (8, 0),
            (PacketKind::Ipv6, protocol::ICMPV6) => (128, 129),
            _ => return None,
        };
        let kind = *bytes.get(self.l4)?;
        (kind == request || kind == reply).then_some(kind == reply)
    }

    pub(crate) fn is_echo(&self, bytes: &[u8]) -> bool {
        self.echo(bytes).is_some()
    }

    /// What ports the transport has, and what guards it. `None` if its first bytes are not there.
    fn transport(&self, bytes: &[u8], to: &Ends) -> Option<(Option<Ports>, Guard)> {
        let bytes = self.own(bytes);
        if self.has_ports() {
            let ([a, b], [c, d]) = (to.src_port.to_be_bytes(), to.dst_port.to_be_bytes());
            let ports = Ports { at: self.l4, old: read(bytes, self.l4)?, new: [a, b, c, d] };
            let guard = match self.protocol {
                protocol::TCP => Guard::Sum { at: 16, pseudo_header: true },
                protocol::UDP => Guard::Sum { at: 6, pseudo_header: true },
                _ => Guard::Crc { at: 8 },
            };
            return Some((Some(ports), guard));
        }
        let icmp6 = (self.kind, self.protocol) == (PacketKind::Ipv6, protocol::ICMPV6);
        match self.echo(bytes) {
            Some(reply) => {
                let at = self.l4 + 4;
                let old @ [_, _, c, d] = read(bytes, at)?;
                let [a, b] = if reply { to.dst_port } else { to.src_port }.to_be_bytes();
                let guard = Guard::Sum { at: 2, pseudo_header: icmp6 };
                Some((Some(Ports { at, old, new: [a, b, c, d] }), guard))
            }
            None if icmp6 => Some((None, Guard::Sum { at: 2, pseudo_header: true })),
            None => Some((None, Guard::None)),
        }
    }

    /// Whether an IPv6 routing header has segments left, so that the destination is a stop on the way and another one is in the
    /// pseudo-header (RFC 8200, section 8.1).
    fn has_stops(&self, bytes: &[u8]) -> bool {
        let mut at = self.l3 + 40;
        let Some(&(mut next)) = bytes.get(self.l3 + 6) else { return false };
        while at < self.l4 {
            let Some([following, len, _, segments_left]) = read::<4>(bytes, at) else { return false };
            if next == protocol::ROUTING && segments_left > 0 {
                return true;
            }
            at += match next {
                protocol::FRAGMENT => 8,
                protocol::AH => (usize::from(len) + 2) * 4,
                _ => (usize::from(len) + 1) * 8,
            };
            next = following;
        }
        false
    }
}

/// Whether the output finishes this very checksum. One further in is an encapsulated packet's, whose sum comes out the same
/// whatever its addresses outside: the outer one is finished then.
fn is_partial(offload: Offload, l4: usize, field: usize) -> bool {
    match offload {
        Offload::Done => false,
        Offload::Partial { start, offset } | Offload::Gso { start, offset, .. } => {
            usize::from(start) == l4 && usize::from(offset) == field
        }
    }
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn chunk_mut<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..)?.first_chunk_mut()
}
