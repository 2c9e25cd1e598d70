//! Between the virtio-net header, which TAPs and virtio rings put before frames, and what the pipeline knows of a frame.

use pipeline::{Buffer, GsoKind, Offload};
use tap::vnet::{self, VirtioNetHeader};

use crate::frame::Frame;

/// Where in a TCP header the data offset is (RFC 9293, section 3.1), and the length of a UDP header.
const TCP_DATA_OFFSET: usize = 12;
const UDP_LEN: u16 = 8;

/// Whether a header, of either length, says that something is to be finished.
#[inline]
pub(super) const fn says_anything(header: &[u8; vnet::LONG_LEN]) -> bool {
    header[0] & vnet::NEEDS_CSUM != 0 || header[1] != vnet::GSO_NONE
}

/// What the sender left to finish; `None` for a header that does not fit its frame, for it is input like any other.
pub(super) fn offload(header: &[u8], frame: &Frame) -> Option<Offload> {
    let checked = VirtioNetHeader::decode(header).ok()?.check(frame.frame_len()).ok()?;
    Some(match checked {
        vnet::Offload::Done { .. } => Offload::Done,
        vnet::Offload::Partial { start, offset } => Offload::Partial { start, offset },
        vnet::Offload::Gso { kind, size, start, offset, .. } => {
            let tcp_len = || {
                let byte = *frame.head().get(usize::from(start) + TCP_DATA_OFFSET)?;
                Some(u16::from(byte >> 4) * 4).filter(|&len| len >= 20)
            };
            let (kind, l4_len) = match kind {
                vnet::GsoKind::TcpV4 => (GsoKind::TcpV4, tcp_len()?),
                vnet::GsoKind::TcpV6 => (GsoKind::TcpV6, tcp_len()?),
                vnet::GsoKind::UdpDatagrams => (GsoKind::Udp, UDP_LEN),
                vnet::GsoKind::UdpFragments => return None,
            };
            let header_len =
                start.checked_add(l4_len).filter(|&len| usize::from(len) <= frame.head().len())?;
            Offload::Gso { kind, size, header_len, start, offset }
        }
    })
}

/// How a receiver is told of it.
pub(super) fn header(offload: Offload) -> VirtioNetHeader {
    match offload {
        Offload::Done => VirtioNetHeader::default(),
        Offload::Partial { start, offset } => VirtioNetHeader {
            flags: vnet::NEEDS_CSUM,
            csum_start: start,
            csum_offset: offset,
            ..VirtioNetHeader::default()
        },
        Offload::Gso { kind, size, header_len, start, offset } => VirtioNetHeader {
            flags: vnet::NEEDS_CSUM,
            gso_type: match kind {
                GsoKind::TcpV4 => vnet::GSO_TCPV4,
                GsoKind::TcpV6 => vnet::GSO_TCPV6,
                GsoKind::Udp => vnet::GSO_UDP_L4,
            },
            hdr_len: header_len,
            gso_size: size,
            csum_start: start,
            csum_offset: offset,
            num_buffers: 0,
        },
    }
}
