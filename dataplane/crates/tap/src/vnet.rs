//! The virtio-net header (VIRTIO 1.2, section 5.1.6) that a TAP with `IFF_VNET_HDR` and a virtio ring put before frames.
//!
//! Owns its bytes and the check of its fields against the frame that follows; it reads no frame. Fields are little-endian,
//! as VIRTIO 1 has them and as TAPs have them on little-endian machines, the only ones this is built for. What always
//! holds: an [`Offload`] given by [`VirtioNetHeader::check`] points inside the frame it was checked against.

#[cfg(target_endian = "big")]
compile_error!("a TAP's vnet header is in the machine's order; only little-endian machines are supported");

/// `flags`: the checksum from `csum_start` is unfinished.
pub const NEEDS_CSUM: u8 = 1;
/// `flags`: the checksum was verified.
pub const DATA_VALID: u8 = 2;
/// `gso_type`: one plain packet.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4, to be cut up.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: UDP, to be cut into IP fragments (UFO; no current kernel gives it).
pub const GSO_UDP: u8 = 3;
/// `gso_type`: TCP over IPv6, to be cut up.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP, to be cut into datagrams (USO).
pub const GSO_UDP_L4: u8 = 5;
/// `gso_type`, added to TCPV4 or TCPV6: CWR is set, and only the first segment may keep it.
pub const GSO_ECN: u8 = 0x80;

/// Length of the header without `num_buffers`, in bytes: a TAP's default.
pub const SHORT_LEN: usize = 10;
/// Length of the header with `num_buffers`, in bytes: what VIRTIO 1 rings have.
pub const LONG_LEN: usize = 12;

const ETHERNET_LEN: usize = 14;
const TCP_MIN_LEN: usize = 20;
const TCP_CSUM_OFFSET: u16 = 16;
const UDP_LEN: usize = 8;
const UDP_CSUM_OFFSET: u16 = 6;

/// The header's fields as they are on the wire, unchecked. All zeros is "one finished packet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioNetHeader {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_*` numbers, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers: a hint, never to be relied on.
    pub hdr_len: u16,
    /// Payload bytes in each segment.
    pub gso_size: u16,
    /// Where the checksum's coverage starts, in bytes from the frame's first.
    pub csum_start: u16,
    /// Where the checksum field is, in bytes from `csum_start`.
    pub csum_offset: u16,
    /// Ring buffers that this frame takes up; not in the 10-byte header, where it reads as 0.
    pub num_buffers: u16,
}

/// What is to be cut up, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP into IP fragments.
    UdpFragments,
    /// UDP into datagrams.
    UdpDatagrams,
}

/// What a checked header says about its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Finished; `verified` if the sender vouches for the checksum.
    Done {
        /// `DATA_VALID` was set.
        verified: bool,
    },
    /// The checksum field at `start + offset` holds the pseudo-header's sum; the rest, from `start` on, is to be added.
    Partial {
        /// Bytes from the frame's first; at least 14.
        start: u16,
        /// Bytes from `start`; the two bytes there are inside the frame.
        offset: u16,
    },
    /// As `Partial`, and to be cut up.
    Gso {
        /// How to cut it.
        kind: GsoKind,
        /// `GSO_ECN` was set.
        ecn: bool,
        /// Payload bytes in each segment, not 0.
        size: u16,
        /// The L4 header's place: bytes from the frame's first, with its smallest form inside the frame.
        start: u16,
        /// The checksum field's place from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

/// Why a header was refused. Whoever wrote it is at fault: drop the frame and count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// Neither 10 nor 12 bytes.
    #[error("a vnet header has 10 or 12 bytes, not {0}")]
    Length(usize),
    /// The frame has no room for an Ethernet header.
    #[error("a frame of {0} bytes is shorter than an Ethernet header")]
    ShortFrame(usize),
    /// Flags that nobody negotiated.
    #[error("vnet header: flags {0:#04x} hold more than NEEDS_CSUM and DATA_VALID")]
    Flags(u8),
    /// A kind of segmentation that does not exist.
    #[error("vnet header: gso_type {0:#04x} is not one that VIRTIO 1.2 names")]
    GsoType(u8),
    /// Segmentation with no size.
    #[error("vnet header: gso_size is 0 in a frame that is to be cut up")]
    GsoSize,
    /// Segmentation of a finished packet (VIRTIO 1.2, 5.1.6.2: a driver that sets a gso type sets NEEDS_CSUM).
    #[error("vnet header: a frame that is to be cut up must have NEEDS_CSUM")]
    GsoWithoutCsum,
    /// A checksum outside the frame.
    #[error("vnet header: csum_start {start} with csum_offset {offset} is outside a frame of {length} bytes")]
    Csum {
        /// `csum_start`.
        start: u16,
        /// `csum_offset`.
        offset: u16,
        /// The frame's length in bytes.
        length: usize,
    },
    /// The checksum field is not where that protocol has it.
    #[error("vnet header: csum_offset {offset} does not belong to gso_type {gso_type:#04x}")]
    GsoCsumOffset {
        /// `gso_type`.
        gso_type: u8,
        /// `csum_offset`.
        offset: u16,
    },
    /// Headers longer than the frame.
    #[error("vnet header: hdr_len {hdr_len} is more than the frame's {length} bytes")]
    HdrLen {
        /// `hdr_len`.
        hdr_len: u16,
        /// The frame's length in bytes.
        length: usize,
    },
}

impl VirtioNetHeader {
    /// Reads a header of exactly 10 or 12 bytes; checks no field (that is [`VirtioNetHeader::check`]).
    ///
    /// # Errors
    /// Any other length.
    pub fn decode(bytes: &[u8]) -> Result<VirtioNetHeader, VnetError> {
        let (short, num_buffers) = match *bytes {
            [ref short @ .., low, high] if bytes.len() == LONG_LEN => {
                (short, u16::from_le_bytes([low, high]))
            }
            _ => (bytes, 0),
        };
        let &[flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = short else {
            return Err(VnetError::Length(bytes.len()));
        };
        Ok(VirtioNetHeader {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
            num_buffers,
        })
    }

    /// The 12 bytes of the long header; its first 10 are the short one.
    pub fn encode(&self) -> [u8; LONG_LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = self.num_buffers.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }

    /// Checks every field against the length of the frame that follows the header, in bytes.
    ///
    /// What it cannot see is whether the frame's own headers agree (an IPv6 packet said to be `TCPV4`, a TCP header with
    /// options): the parser reads those, and `hdr_len` is never used for them.
    ///
    /// # Errors
    /// Any field that points outside the frame, contradicts another, or has no meaning.
    pub fn check(&self, frame_len: usize) -> Result<Offload, VnetError> {
        if frame_len < ETHERNET_LEN {
            return Err(VnetError::ShortFrame(frame_len));
        }
        if self.flags & !(NEEDS_CSUM | DATA_VALID) != 0 {
            return Err(VnetError::Flags(self.flags));
        }
        if usize::from(self.hdr_len) > frame_len {
            return Err(VnetError::HdrLen { hdr_len: self.hdr_len, length: frame_len });
        }
        let kind = match (self.gso_type & !GSO_ECN, self.gso_type & GSO_ECN != 0) {
            (GSO_NONE, false) => None,
            (GSO_TCPV4, _) => Some(GsoKind::TcpV4),
            (GSO_TCPV6, _) => Some(GsoKind::TcpV6),
            (GSO_UDP, false) => Some(GsoKind::UdpFragments),
            (GSO_UDP_L4, false) => Some(GsoKind::UdpDatagrams),
            _ => return Err(VnetError::GsoType(self.gso_type)),
        };
        if self.flags & NEEDS_CSUM == 0 {
            return match kind {
                None => Ok(Offload::Done { verified: self.flags & DATA_VALID != 0 }),
                Some(_) => Err(VnetError::GsoWithoutCsum),
            };
        }

        let (start, offset) = (self.csum_start, self.csum_offset);
        let field_end = usize::from(start) + usize::from(offset) + 2;
        if usize::from(start) < ETHERNET_LEN || field_end > frame_len {
            return Err(VnetError::Csum { start, offset, length: frame_len });
        }
        let Some(kind) = kind else { return Ok(Offload::Partial { start, offset }) };

        if self.gso_size == 0 {
            return Err(VnetError::GsoSize);
        }
        let (l4_len, csum_offset) = match kind {
            GsoKind::TcpV4 | GsoKind::TcpV6 => (TCP_MIN_LEN, TCP_CSUM_OFFSET),
            GsoKind::UdpFragments | GsoKind::UdpDatagrams => (UDP_LEN, UDP_CSUM_OFFSET),
        };
        if offset != csum_offset {
            return Err(VnetError::GsoCsumOffset { gso_type: self.gso_type, offset });
        }
        if usize::from(start) + l4_len > frame_len {
            return Err(VnetError::Csum { start, offset, length: frame_len });
        }
        let ecn = self.gso_type & GSO_ECN != 0;
        Ok(Offload::Gso { kind, ecn, size: self.gso_size, start, offset })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn literal_bytes_read_as_the_specification_lays_them_out() {
        let bytes = [1, 0x81, 0x36, 0, 0xa4, 0x05, 0x22, 0, 0x10, 0, 2, 0];
        let header = VirtioNetHeader::decode(&bytes).unwrap();
        let expected = VirtioNetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4 | GSO_ECN,
            hdr_len: 54,
            gso_size: 1444,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 2,
        };
        assert_eq!(header, expected);
        assert_eq!(header.encode(), bytes);
        let short = VirtioNetHeader::decode(&bytes[..SHORT_LEN]).unwrap();
        assert_eq!(short, VirtioNetHeader { num_buffers: 0, ..expected });
        let gso = Offload::Gso { kind: GsoKind::TcpV4, ecn: true, size: 1444, start: 34, offset: 16 };
        assert_eq!(header.check(9000), Ok(gso));
        for length in [0, 1, 9, 11, 13] {
            assert_eq!(VirtioNetHeader::decode(&[0; 13][..length]), Err(VnetError::Length(length)));
        }
    }

    #[test]
    fn each_hostile_field_is_refused_by_its_name() {
        let good = VirtioNetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6,
            hdr_len: 74,
            gso_size: 1400,
            csum_start: 54,
            csum_offset: 16,
            num_buffers: 0,
        };
        assert!(good.check(4000).is_ok());
        let refused = |header: VirtioNetHeader, length: usize| header.check(length).unwrap_err();
        assert_eq!(refused(good, 13), VnetError::ShortFrame(13));
        assert_eq!(refused(VirtioNetHeader { flags: 9, ..good }, 4000), VnetError::Flags(9));
        assert_eq!(refused(VirtioNetHeader { gso_type: 2, ..good }, 4000), VnetError::GsoType(2));
        assert_eq!(refused(VirtioNetHeader { gso_type: 0x80, ..good }, 4000), VnetError::GsoType(0x80));
        assert_eq!(refused(VirtioNetHeader { gso_type: 0x85, ..good }, 4000), VnetError::GsoType(0x85));
        assert_eq!(refused(VirtioNetHeader { gso_size: 0, ..good }, 4000), VnetError::GsoSize);
        assert_eq!(refused(VirtioNetHeader { flags: 0, ..good }, 4000), VnetError::GsoWithoutCsum);
        assert_eq!(
            refused(VirtioNetHeader { hdr_len: 4001, ..good }, 4000),
            VnetError::HdrLen { hdr_len: 4001, length: 4000 }
        );
        assert_eq!(
            refused(VirtioNetHeader { csum_offset: 6, ..good }, 4000),
            VnetError::GsoCsumOffset { gso_type: GSO_TCPV6, offset: 6 }
        );
        for (start, offset) in [(13, 16), (u16::MAX, u16::MAX), (3983, 16), (3981, 16)] {
            let header = VirtioNetHeader { csum_start: start, csum_offset: offset, ..good };
            assert_eq!(refused(header, 4000), VnetError::Csum { start, offset, length: 4000 });
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_points_inside_the_frame(
            bytes in proptest::array::uniform12(any::<u8>()),
            flags in 0u8..4,
            gso_type in prop_oneof![Just(0u8), Just(1), Just(3), Just(4), Just(5), Just(0x81), any::<u8>()],
            start in 0u16..200,
            offset in prop_oneof![Just(6u16), Just(16), 0u16..200],
            raw in any::<bool>(),
            length in 0usize..300,
        ) {
            let mut header = VirtioNetHeader::decode(&bytes).unwrap();
            prop_assert_eq!(header.encode(), bytes);
            if !raw {
                let hdr_len = header.hdr_len % 320;
                header = VirtioNetHeader { flags, gso_type, csum_start: start, csum_offset: offset, hdr_len, ..header };
            }
            match header.check(length) {
                Err(_) => {}
                Ok(Offload::Done { .. }) => prop_assert_eq!(header.flags & NEEDS_CSUM, 0),
                Ok(Offload::Partial { start, offset }) => {
                    prop_assert!(usize::from(start) >= 14);
                    prop_assert!(usize::from(start) + usize::from(offset) + 2 <= length);
                }
                Ok(Offload::Gso { kind, size, start, offset, .. }) => {
                    let l4 = if matches!(kind, GsoKind::TcpV4 | GsoKind::TcpV6) { 20 } else { 8 };
                    prop_assert!(size > 0 && usize::from(start) >= 14);
                    prop_assert!(usize::from(start) + l4 <= length);
                    prop_assert!(usize::from(offset) + 2 <= l4);
                }
            }
        }
    }
}
