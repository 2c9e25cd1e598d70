//! Fragments of IPv4 packets (RFC 791, section 3.2; RFC 1812, section 4.2.2.7).

use arrayvec::ArrayVec;
use wire::{ETHERNET_HEADER, IPV4_HEADER, Ipv4Packet, PacketKind};

use crate::DropReason;

/// Cuts an IPv4 packet up so that each piece fits an MTU. Fragments may be cut further.
#[derive(Debug)]
pub struct Fragmenter<'f> {
    first_header: &'f [u8],
    /// Of all but the first: without options that are not to be copied.
    later_header: ArrayVec<u8, { ETHERNET_HEADER + 60 }>,
    payload: &'f [u8],
    size: usize,
    /// Of the packet itself, which may be a fragment.
    offset: usize,
    more: bool,
}

impl<'f> Fragmenter<'f> {
    /// Of a whole, finished frame, for a link that takes IP packets of `mtu` bytes.
    ///
    /// # Errors
    /// `PacketTooBig` if the packet forbids it, as all IPv6 packets do; `SegmentInvalid` if it is none, or the MTU has no room for its header and
    /// 8 bytes.
    pub fn new(frame: &'f [u8], mtu: u16) -> Result<Self, DropReason> {
        let invalid = DropReason::SegmentInvalid;
        let parsed = wire::parse(frame, frame.len()).map_err(|_| invalid)?;
        let frame = usize::try_from(parsed.frame_len).ok().and_then(|len| frame.get(..len)).ok_or(invalid)?;
        if parsed.kind != PacketKind::Ipv4 || parsed.dont_fragment {
            return Err(if parsed.kind == PacketKind::Arp { invalid } else { DropReason::PacketTooBig });
        }
        let packet = Ipv4Packet::new_checked(&frame[ETHERNET_HEADER..]).map_err(|_| invalid)?;
        let (offset, more) = (usize::from(packet.fragment_offset()), packet.more_fragments());
        let header = packet.header_len();
        let later_header = later_header(frame, packet.options()).ok_or(invalid)?;
        let (first_header, payload) = frame.split_at_checked(ETHERNET_HEADER + header).ok_or(invalid)?;
        // Offsets count in eights, so that every piece but the last is a multiple of 8.
        let size = usize::from(mtu).saturating_sub(header) & !7;
        let size =
            if frame.len() - ETHERNET_HEADER <= usize::from(mtu) { payload.len().max(8) } else { size };
        if size == 0 {
            return Err(invalid);
        }
        Ok(Self { first_header, later_header, payload, size, offset, more })
    }

    /// How many frames it makes: 1 if the packet fits as it is.
    #[must_use]
    pub const fn fragments(&self) -> usize {
        let pieces = self.payload.len().div_ceil(self.size);
        if pieces == 0 { 1 } else { pieces }
    }

    /// Writes frame number `index` to the beginning of `out`, and returns its length; `None` if there is no such frame, or it
    /// does not fit.
    #[must_use]
    pub fn write(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        if index >= self.fragments() {
            return None;
        }
        let begin = index * self.size;
        let piece = self.payload.get(begin..self.payload.len().min(begin + self.size))?;
        let header = if index == 0 { self.first_header } else { &self.later_header };
        let len = header.len() + piece.len();
        let out = out.get_mut(..len)?;
        let (front, data) = out.split_at_mut(header.len());
        front.copy_from_slice(header);
        data.copy_from_slice(piece);
        let mut packet = Ipv4Packet::new_checked(&mut out[ETHERNET_HEADER..]).ok()?;
        packet.set_total_len(u16::try_from(len - ETHERNET_HEADER).ok()?);
        let more = self.more || index + 1 < self.fragments();
        packet.set_fragment(false, more, u16::try_from(self.offset + begin).ok()?);
        packet.fill_checksum();
        Some(len)
    }
}

/// The header with those options alone that bear the "copied" bit (RFC 791, section 3.1).
fn later_header(frame: &[u8], mut options: &[u8]) -> Option<ArrayVec<u8, { ETHERNET_HEADER + 60 }>> {
    let mut header = ArrayVec::new();
    header.try_extend_from_slice(frame.get(..ETHERNET_HEADER + IPV4_HEADER)?).ok()?;
    // 0 ends the list, 1 is a filler of one byte.
    while let &[kind, ..] = options
        && kind != 0
    {
        let len = if kind == 1 { 1 } else { usize::from(*options.get(1).unwrap_or(&0)) };
        let Some((option, rest)) =
            options.split_at_checked(len).filter(|_| len == 1 && kind == 1 || len >= 2)
        else {
            break;
        };
        if kind & 0x80 != 0 {
            header.try_extend_from_slice(option).ok()?;
        }
        options = rest;
    }
    while !(header.len() - ETHERNET_HEADER).is_multiple_of(4) {
        header.try_push(0).ok()?;
    }
    header[ETHERNET_HEADER] = 0x40 | u8::try_from((header.len() - ETHERNET_HEADER) / 4).ok()?;
    Some(header)
}
