//! Packets of every sort, and a judge of what becomes of them that shares no code with what it judges: sums are summed byte by byte,
//! fragments are put together, and what is left to finish is finished as its receiver would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tap::VirtioNetHeader;
use tap::vnet::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM};

use crate::dataplane::ROUTER;
use crate::talk::stream;

const ETHERNET: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    /// Without a checksum (RFC 768).
    UdpNone,
    Tcp,
    Sctp,
    Icmp,
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Specimen {
    pub(crate) v6: bool,
    pub(crate) transport: Transport,
    /// Bytes behind the transport header.
    pub(crate) payload: usize,
    /// Its source forbids fragments; IPv6 always does.
    pub(crate) whole: bool,
    /// Its checksum is left to be finished.
    pub(crate) partial: bool,
    /// It is to be cut into pieces of so many bytes.
    pub(crate) cut: Option<u16>,
    /// Its source has cut it into fragments of so many bytes.
    pub(crate) fragments: Option<usize>,
}

impl Specimen {
    /// All of them, those that leave nothing to be finished first.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for v6 in [false, true] {
            let plain = |transport, payload| Self {
                v6,
                transport,
                payload,
                whole: true,
                partial: false,
                cut: None,
                fragments: None,
            };
            // Odd lengths and even ones, the shortest, and those that fill 1,500 and 9,000 bytes.
            let ip = if v6 { 40 } else { 20 };
            for payload in [0, 1, 18, 701, 1_500 - ip - 8, 9_000 - ip - 8] {
                all.push(plain(Transport::Udp, payload));
            }
            for payload in [1, 512] {
                all.push(plain(Transport::Tcp, payload));
                all.push(plain(Transport::Sctp, payload));
                all.push(plain(Transport::Icmp, payload));
            }
            all.push(Self { fragments: Some(1_440), ..plain(Transport::Udp, 4_001) });
            all.push(Self { fragments: Some(1_000), ..plain(Transport::Icmp, 1_999) });
            if !v6 {
                all.push(plain(Transport::UdpNone, 33));
                all.push(Self { whole: false, ..plain(Transport::Udp, 7_001) });
                all.push(Self { whole: false, ..plain(Transport::Sctp, 3_000) });
                all.push(Self { whole: false, partial: true, ..plain(Transport::Udp, 2_999) });
            }
            for (transport, payload) in
                [(Transport::Udp, 1), (Transport::Udp, 1_400), (Transport::Tcp, 0), (Transport::Tcp, 333)]
            {
                all.push(Self { partial: true, ..plain(transport, payload) });
            }
            // Even, odd and short last pieces; as much as Linux sends in one (GSO_LEGACY_MAX_SIZE, the Ethernet header included); and
            // pieces that are too long for 1,500 bytes.
            let most = 65_535 - ETHERNET - ip - 20;
            for (payload, cut) in
                [(2_896, 1_448), (10_001, 1_400), (20_000, 1_001), (most, 1_428), (30_000, 4_000)]
            {
                let partial = true;
                all.push(Self { partial, cut: Some(cut), ..plain(Transport::Tcp, payload) });
            }
            for (payload, cut) in [(4_200, 1_400), (9_999, 1_001)] {
                all.push(Self { partial: true, cut: Some(cut), ..plain(Transport::Udp, payload) });
            }
        }
        all
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Udp | Transport::UdpNone => 17,
            Transport::Tcp => 6,
            Transport::Sctp => 132,
            Transport::Icmp if self.v6 => 58,
            Transport::Icmp => 1,
        }
    }

    pub(crate) fn ip_header(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    pub(crate) fn l4_header(&self) -> usize {
        match self.transport {
            Transport::Udp | Transport::UdpNone | Transport::Icmp => 8,
            Transport::Tcp => 20,
            Transport::Sctp => 12,
        }
    }

    /// What it is of the IP packets that leave, before any output fragments them: the longest's bytes.
    pub(crate) fn longest(&self) -> usize {
        let payload = self.cut.map_or(self.payload, |cut| self.payload.min(cut.into()));
        match self.fragments {
            Some(piece) => self.ip_header() + if self.v6 { 8 } else { 0 } + piece,
            None => self.ip_header() + self.l4_header() + payload,
        }
    }

    /// The frames that pod `from` sends to pod `to`, with what is left to finish of each.
    pub(crate) fn frames(&self, from: u8, to: u8) -> Vec<(VirtioNetHeader, Vec<u8>)> {
        let (src, dst) = (address(from, self.v6), address(to, self.v6));
        let payload = stream(self.payload);
        let mut l4 = match self.transport {
            Transport::Udp | Transport::UdpNone => {
                let length = u16::try_from(8 + self.payload).unwrap();
                [&[0x12, 0x34, 0, 53][..], &length.to_be_bytes(), &[0, 0]].concat()
            }
            Transport::Tcp => {
                vec![0x12, 0x34, 0, 80, 0, 0, 0, 9, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0, 0, 0, 0, 0]
            }
            Transport::Sctp => vec![0x12, 0x34, 0, 99, 0, 0, 0, 7, 0, 0, 0, 0],
            Transport::Icmp => vec![if self.v6 { 128 } else { 8 }, 0, 0, 0, 0, 5, 0, 6],
        };
        let header = l4.len();
        l4.extend(&payload);
        let pseudo = pseudo_header(src, dst, self.protocol(), l4.len());
        let field = self.checksum_field();
        match self.transport {
            Transport::UdpNone => {}
            Transport::Sctp => {
                let sum = crc32c(&l4);
                l4[8..12].copy_from_slice(&sum.to_le_bytes());
            }
            _ if self.partial => l4[field..field + 2].copy_from_slice(&fold(pseudo).to_be_bytes()),
            Transport::Icmp if !self.v6 => {
                let sum = !fold(sum(&l4));
                l4[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            }
            Transport::Udp | Transport::Tcp | Transport::Icmp => {
                let sum = !fold(pseudo + sum(&l4));
                l4[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            }
        }
        let mut frames = Vec::new();
        let piece = self.fragments.unwrap_or(l4.len());
        for (number, bytes) in l4.chunks(piece).enumerate() {
            let more = (number + 1) * piece < l4.len();
            let mut frame = [ROUTER.0, mac(from)].concat();
            frame.extend(self.ip(src, dst, bytes.len(), self.fragments.map(|_| (number * piece, more))));
            frame.extend(bytes);
            frames.push((self.vnet(header), frame));
        }
        frames
    }

    fn checksum_field(&self) -> usize {
        match self.transport {
            Transport::Tcp => 16,
            Transport::Icmp => 2,
            Transport::Udp | Transport::UdpNone => 6,
            Transport::Sctp => 8,
        }
    }

    fn vnet(&self, l4_header: usize) -> VirtioNetHeader {
        if !self.partial {
            return VirtioNetHeader::default();
        }
        let start = ETHERNET + self.ip_header();
        VirtioNetHeader {
            flags: NEEDS_CSUM,
            gso_type: self.gso(),
            hdr_len: u16::try_from(start + l4_header).unwrap(),
            gso_size: self.cut.unwrap_or(0),
            csum_start: u16::try_from(start).unwrap(),
            csum_offset: u16::try_from(self.checksum_field()).unwrap(),
            num_buffers: 0,
        }
    }

    pub(crate) fn gso(&self) -> u8 {
        match (self.cut, self.transport, self.v6) {
            (None, ..) => GSO_NONE,
            (_, Transport::Tcp, false) => GSO_TCPV4,
            (_, Transport::Tcp, true) => GSO_TCPV6,
            _ => GSO_UDP_L4,
        }
    }

    /// EtherType, IP header, and the fragment header of IPv6.
    fn ip(&self, src: IpAddr, dst: IpAddr, l4: usize, fragment: Option<(usize, bool)>) -> Vec<u8> {
        let offset = |(at, more): (usize, bool)| (u16::try_from(at / 8).unwrap(), more);
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let length = u16::try_from(20 + l4).unwrap();
                let fragments = match fragment.map(offset) {
                    Some((at, more)) => at | u16::from(more) << 13,
                    None => u16::from(self.whole) << 14,
                };
                let mut header = [&[0x45, 0][..], &length.to_be_bytes(), &[0x17, 0x2a]].concat();
                header.extend(fragments.to_be_bytes());
                header.extend([64, self.protocol(), 0, 0]);
                header.extend(src.octets());
                header.extend(dst.octets());
                let sum = !fold(sum(&header));
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                [&[8, 0][..], &header].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let more = if fragment.is_some() { 8 } else { 0 };
                let mut header = vec![0x86, 0xdd, 0x60, 0, 0, 0];
                header.extend(u16::try_from(l4 + more).unwrap().to_be_bytes());
                header.extend([if fragment.is_some() { 44 } else { self.protocol() }, 64]);
                header.extend(src.octets());
                header.extend(dst.octets());
                if let Some((at, more)) = fragment.map(offset) {
                    header.extend([self.protocol(), 0]);
                    header.extend((at << 3 | u16::from(more)).to_be_bytes());
                    header.extend([0, 0, 0x17, 0x2a]);
                }
                header
            }
            _ => unreachable!("both are of one family"),
        }
    }
}

pub(crate) fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

/// A pod's, as `frames::endpoint` has it.
pub(crate) fn address(number: u8, v6: bool) -> IpAddr {
    if v6 { format!("fd00::{number}").parse().unwrap() } else { IpAddr::from([10, 0, 0, number]) }
}

/// What comes of a specimen at its destination, piece by piece.
#[derive(Default)]
pub(crate) struct Arrived {
    /// Payload, put together.
    pub(crate) payload: Vec<u8>,
    /// Frames that it came in.
    pub(crate) frames: usize,
    /// Of a large segment: the size of the pieces that it is still to be cut into.
    pub(crate) gso_size: u16,
    fragments: Vec<(usize, bool, Vec<u8>)>,
}

impl Arrived {
    /// Takes in a frame for pod `to`, or says what is wrong with it. What is for somebody else is none.
    pub(crate) fn take(
        &mut self,
        specimen: &Specimen,
        (from, to): (u8, u8),
        mtu: usize,
        header: VirtioNetHeader,
        frame: &[u8],
    ) -> Result<(), String> {
        let Some(ip) = Ip::read(frame)? else { return Ok(()) };
        let (src, dst) = (address(from, specimen.v6), address(to, specimen.v6));
        if (ip.src, ip.dst) != (src, dst) {
            return Ok(());
        }
        let check = |right: bool, what: &str| if right { Ok(()) } else { Err(format!("{what}: {header:?}")) };
        self.frames += 1;
        check(frame[..6] == mac(to) && frame[6..12] == ROUTER.0, "MAC addresses")?;
        check(ip.hops == 63, "TTL or hop limit")?;
        check(ip.protocol == specimen.protocol(), "protocol")?;
        let large = header.gso_type != GSO_NONE;
        check(large || frame.len() - ETHERNET <= mtu, "longer than the MTU")?;
        if large {
            check(header.gso_type == specimen.gso(), "kind of segmentation")?;
            check(Some(header.gso_size) == specimen.cut, "size of segments")?;
            check(header.flags & NEEDS_CSUM != 0, "a large segment has an unfinished checksum")?;
            let piece = specimen.ip_header() + specimen.l4_header() + usize::from(header.gso_size);
            check(piece <= mtu, "its segments are longer than the MTU")?;
            self.gso_size = header.gso_size;
        }
        if let Some((at, more)) = ip.fragment {
            check(header.flags & NEEDS_CSUM == 0, "a fragment's checksum is finished")?;
            self.fragments.push((at, more, ip.data));
            return self.put_together(specimen, src, dst);
        }
        let mut data = ip.data;
        if header.flags & NEEDS_CSUM != 0 {
            let field = specimen.checksum_field();
            check(usize::from(header.csum_start) == frame.len() - data.len(), "where the checksum begins")?;
            check(usize::from(header.csum_offset) == field, "where the checksum is")?;
            let pseudo = pseudo_header(src, dst, ip.protocol, data.len());
            check(data[field..field + 2] == fold(pseudo).to_be_bytes(), "the pseudo-header's sum")?;
            let sum = !fold(sum(&data));
            data[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self.transport(specimen, src, dst, &data)
    }

    fn put_together(&mut self, specimen: &Specimen, src: IpAddr, dst: IpAddr) -> Result<(), String> {
        self.fragments.sort_by_key(|fragment| fragment.0);
        let mut whole = Vec::new();
        for (at, more, data) in &self.fragments {
            if *at != whole.len() {
                return Ok(());
            }
            whole.extend(data);
            if !more {
                self.fragments.clear();
                return self.transport(specimen, src, dst, &whole);
            }
        }
        Ok(())
    }

    /// A whole transport packet, its checksum finished.
    fn transport(
        &mut self,
        specimen: &Specimen,
        src: IpAddr,
        dst: IpAddr,
        data: &[u8],
    ) -> Result<(), String> {
        let pseudo = pseudo_header(src, dst, specimen.protocol(), data.len());
        let right = match specimen.transport {
            Transport::UdpNone => data[6..8] == [0, 0],
            Transport::Udp => data[6..8] != [0, 0] && fold(pseudo + sum(data)) == 0xffff,
            Transport::Icmp if !specimen.v6 => fold(sum(data)) == 0xffff,
            Transport::Tcp | Transport::Icmp => fold(pseudo + sum(data)) == 0xffff,
            Transport::Sctp => {
                let mut zeroed = data.to_vec();
                zeroed[8..12].fill(0);
                data[8..12] == crc32c(&zeroed).to_le_bytes()
            }
        };
        if !right {
            return Err(format!("checksum of the transport, {} bytes", data.len()));
        }
        if specimen.transport == Transport::Tcp {
            let at = u32::from_be_bytes(data[4..8].try_into().unwrap()) - 9;
            if at as usize != self.payload.len() {
                return Err(format!("sequence number {at} after {} bytes", self.payload.len()));
            }
        }
        self.payload.extend(&data[specimen.l4_header()..]);
        Ok(())
    }

    /// All of it is there.
    pub(crate) fn is_complete(&self, specimen: &Specimen) -> bool {
        self.frames > 0 && self.fragments.is_empty() && self.payload.len() >= specimen.payload
    }
}

/// The MTU that an ICMP error for pod `to` tells of, if this is one and its checksum is right (RFC 1191; RFC 4443, section 3.2).
pub(crate) fn too_big(frame: &[u8], to: u8, v6: bool) -> Option<u32> {
    let ip = Ip::read(frame).ok()??;
    let data = &ip.data;
    let pseudo = if v6 { pseudo_header(ip.src, ip.dst, 58, data.len()) } else { 0 };
    let number: u32 = u32::from_be_bytes(data.get(4..8)?.try_into().unwrap());
    let is =
        if v6 { ip.protocol == 58 && data[..2] == [2, 0] } else { ip.protocol == 1 && data[..2] == [3, 4] };
    (is && ip.dst == address(to, v6) && fold(pseudo + sum(data)) == 0xffff).then_some(number)
}

/// What an IP packet says of itself.
struct Ip {
    src: IpAddr,
    dst: IpAddr,
    hops: u8,
    protocol: u8,
    fragment: Option<(usize, bool)>,
    data: Vec<u8>,
}

impl Ip {
    /// None if it is no IP packet.
    fn read(frame: &[u8]) -> Result<Option<Self>, String> {
        match frame.get(12..14) {
            Some([0x08, 0x00]) => {
                let header = &frame[14..34];
                if header[0] != 0x45 || fold(sum(header)) != 0xffff {
                    return Err(format!("IPv4 header {header:02x?}"));
                }
                let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
                let field = u16::from_be_bytes([header[6], header[7]]);
                let (at, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
                let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap());
                // Short frames may be padded.
                let data = frame.get(34..ETHERNET + length).ok_or("IPv4 length")?.to_vec();
                if frame.len() > 60 && frame.len() != ETHERNET + length {
                    return Err(format!("IPv4 length {length} in a frame of {}", frame.len()));
                }
                Ok(Some(Self {
                    src: address(12).into(),
                    dst: address(16).into(),
                    hops: header[8],
                    protocol: header[9],
                    fragment: (more || at > 0).then_some((at, more)),
                    data,
                }))
            }
            Some([0x86, 0xdd]) => {
                let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
                let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
                let mut data = frame.get(54..54 + length).ok_or("IPv6 length")?.to_vec();
                let mut ip = Self {
                    src: address(22).into(),
                    dst: address(38).into(),
                    hops: frame[21],
                    protocol: frame[20],
                    fragment: None,
                    data: Vec::new(),
                };
                if ip.protocol == 44 {
                    let field = u16::from_be_bytes([data[2], data[3]]);
                    ip.protocol = data[0];
                    ip.fragment = Some((usize::from(field & 0xfff8), field & 1 != 0));
                    data.drain(..8);
                }
                Ok(Some(Self { data, ..ip }))
            }
            _ => Ok(None),
        }
    }
}

/// Of big-endian words; an odd byte is a word's first (RFC 1071).
fn sum(data: &[u8]) -> u32 {
    data.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}

fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> u32 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    sum(&octets(src)) + sum(&octets(dst)) + u32::from(protocol) + u32::try_from(length).unwrap()
}

/// Bit by bit (RFC 9260, appendix A).
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}
