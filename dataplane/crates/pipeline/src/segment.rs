//! What an output port cannot do itself, done in software: checksums finished, large segments cut up, IPv4 packets
//! fragmented.
//!
//! Frames are whole and contiguous here. What comes out is finished: checksums computed anew, nothing left to offload.

use wire::{ETHERNET_HEADER, IPV6_HEADER, Ipv4Packet, Ipv6Packet, PacketKind, TcpFlags, checksum, protocol};

use crate::{DropReason, GsoKind, Offload};

mod fragment;

pub use fragment::Fragmenter;

/// Finishes a partial checksum: it covers `start` to the end of `frame`, and stands at `start + offset`, in bytes.
///
/// # Errors
/// `SegmentInvalid` if that is not inside the frame.
pub fn finish_checksum(
    frame: &mut [u8],
    start: impl Into<usize>,
    offset: impl Into<usize>,
) -> Result<(), DropReason> {
    let covered = frame.get_mut(start.into()..).ok_or(DropReason::SegmentInvalid)?;
    // The field holds the sum of the pseudo-header, so that summing it in completes it. Zero would mean "none" in UDP; all
    // ones is the same number (RFC 768).
    let finished = checksum::udp_nonzero(checksum::internet_checksum(covered));
    let field = covered.get_mut(offset.into()..).and_then(<[u8]>::first_chunk_mut::<2>);
    *field.ok_or(DropReason::SegmentInvalid)? = finished.to_be_bytes();
    Ok(())
}

/// Cuts a large segment up, as a NIC with TSO or USO would.
#[derive(Debug)]
pub struct Segmenter<'f> {
    headers: &'f [u8],
    payload: &'f [u8],
    l4: usize,
    size: usize,
    family: PacketKind,
    protocol: u8,
}

impl<'f> Segmenter<'f> {
    /// Of a whole frame with its [`Offload::Gso`].
    ///
    /// # Errors
    /// `SegmentInvalid` if there is nothing to cut, or the frame's headers are not of that kind.
    pub fn new(frame: &'f [u8], offload: Offload) -> Result<Self, DropReason> {
        let invalid = DropReason::SegmentInvalid;
        let Offload::Gso { kind, size, .. } = offload else {
            return Err(invalid);
        };
        let parsed = wire::parse(frame, frame.len()).map_err(|_| invalid)?;
        let frame = usize::try_from(parsed.frame_len).ok().and_then(|len| frame.get(..len)).ok_or(invalid)?;
        let l4 = usize::from(parsed.l4_offset);
        let fits = match kind {
            GsoKind::TcpV4 => parsed.kind == PacketKind::Ipv4 && parsed.protocol == protocol::TCP,
            GsoKind::TcpV6 => parsed.kind == PacketKind::Ipv6 && parsed.protocol == protocol::TCP,
            GsoKind::Udp => parsed.protocol == protocol::UDP,
        };
        if !fits || size == 0 || parsed.fragment != wire::Fragment::Whole {
            return Err(invalid);
        }
        let header = match parsed.protocol {
            protocol::TCP => usize::from(frame.get(l4 + 12).ok_or(invalid)? >> 4) * 4,
            _ => 8,
        };
        let (headers, payload) = frame.split_at_checked(l4 + header).ok_or(invalid)?;
        Ok(Self {
            headers,
            payload,
            l4,
            size: usize::from(size),
            family: parsed.kind,
            protocol: parsed.protocol,
        })
    }

    /// How many frames it makes: at least one.
    #[must_use]
    pub const fn segments(&self) -> usize {
        let pieces = self.payload.len().div_ceil(self.size);
        if pieces == 0 { 1 } else { pieces }
    }

    /// Bytes of the longest of them.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.headers.len() + self.payload.len().min(self.size)
    }

    /// Writes frame number `index` to the beginning of `out`, and returns its length; `None` if there is no such frame, or it
    /// does not fit.
    #[must_use]
    pub fn write(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        if index >= self.segments() {
            return None;
        }
        let begin = index * self.size;
        let piece = self.payload.get(begin..self.payload.len().min(begin + self.size))?;
        let len = self.headers.len() + piece.len();
        let out = out.get_mut(..len)?;
        let (headers, payload) = out.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        payload.copy_from_slice(piece);
        let pseudo_header = self.write_l3(index, out)?;
        self.write_l4(index, begin, pseudo_header, out.get_mut(self.l4..)?)?;
        Some(len)
    }

    /// Lengths, identification and header checksum. Returns the sum of the pseudo-header.
    fn write_l3(&self, index: usize, out: &mut [u8]) -> Option<u32> {
        let total = u16::try_from(out.len() - ETHERNET_HEADER).ok()?;
        let transport = u16::try_from(out.len() - self.l4).ok()?;
        let l3 = out.get_mut(ETHERNET_HEADER..)?;
        if self.family == PacketKind::Ipv4 {
            let mut packet = Ipv4Packet::new_checked(l3).ok()?;
            packet.set_total_len(total);
            // Each is a packet of its own, and may be fragmented later (RFC 6864).
            let number = u16::try_from(index).ok()?;
            packet.set_ident(packet.ident().wrapping_add(number));
            packet.fill_checksum();
            Some(checksum::pseudo_header_v4(packet.src(), packet.dst(), self.protocol, transport))
        } else {
            let mut packet = Ipv6Packet::new_checked(l3).ok()?;
            packet.set_payload_len(total - u16::try_from(IPV6_HEADER).ok()?);
            Some(checksum::pseudo_header_v6(packet.src(), packet.dst(), self.protocol, transport.into()))
        }
    }

    fn write_l4(&self, index: usize, begin: usize, pseudo_header: u32, l4: &mut [u8]) -> Option<()> {
        let field = if self.protocol == protocol::TCP {
            let seq = u32::from_be_bytes(*l4.get(4..)?.first_chunk()?);
            let seq = seq.wrapping_add(u32::try_from(begin).ok()?);
            l4.get_mut(4..8)?.copy_from_slice(&seq.to_be_bytes());
            let flags = l4.get_mut(13)?;
            if index > 0 {
                // Told once (RFC 3168, section 6.1.2).
                *flags &= !TcpFlags::CWR;
            }
            if index + 1 < self.segments() {
                *flags &= !(TcpFlags::FIN | TcpFlags::PSH);
            }
            16
        } else {
            let len = u16::try_from(l4.len()).ok()?;
            l4.get_mut(4..6)?.copy_from_slice(&len.to_be_bytes());
            6
        };
        l4.get_mut(field..field + 2)?.fill(0);
        let sum = checksum::fold(pseudo_header + checksum::sum(l4));
        let finished = if field == 6 { checksum::udp_nonzero(!sum) } else { !sum };
        l4.get_mut(field..field + 2)?.copy_from_slice(&finished.to_be_bytes());
        Some(())
    }
}
