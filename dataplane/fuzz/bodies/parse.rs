//! Any bytes are a frame to `wire::parse`: its answer is exactly the one that smoltcp's views give.
//!
//! Where `parse` is stricter than smoltcp, or the other way round, `reference` says so. smoltcp's own checksum
//! verification is not used: it always succeeds in a fuzzing build.

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv4Packet, IpProtocol, Ipv4Packet,
    Ipv6ExtHeader, Ipv6FragmentHeader, Ipv6Packet, TcpPacket, UdpPacket, checksum,
};
use wire::{Addrs, Fragment, FragmentFields, Malformed, PacketKind, Parsed};

pub(crate) fn body(frame: &[u8]) {
    compare(frame);
    // A random header has the right checksum once in 65,536 times: make it right, to get behind that check.
    let mut fixed = frame.to_vec();
    if fix_ipv4_checksum(&mut fixed) && fixed != frame {
        compare(&fixed);
    }
}

/// Makes an IPv4 header's checksum right, if there is a header.
pub(crate) fn fix_ipv4_checksum(frame: &mut [u8]) -> bool {
    let Some(l3) = frame.get_mut(14..) else { return false };
    match wire::Ipv4Packet::new_checked(l3) {
        Ok(mut packet) => {
            packet.fill_checksum();
            true
        }
        Err(_) => false,
    }
}

fn compare(frame: &[u8]) {
    let ours = wire::parse(frame, frame.len());
    let expected = reference(frame);
    assert_eq!(ours, expected.map(|(parsed, _)| parsed));
    if let Ok((parsed, fields)) = expected {
        assert_eq!(parsed.fragment_fields(frame), fields);
        edit(frame, &parsed);
    }
    // Other segments behind the contiguous bytes change nothing, but that long headers are refused.
    for head in [256, 64] {
        if let Some(head) = frame.get(..head) {
            let of_head = wire::parse(head, frame.len());
            // Below 256 bytes the head may end within the IP header.
            let refused =
                of_head == Err(Malformed::ExtensionsTooLong) || head.len() < 256 && of_head.is_err();
            assert!(of_head == ours || refused, "{of_head:?} of {} bytes, {ours:?} of all", head.len());
        }
    }
    // Bytes behind the frame's end change nothing at all.
    let mut longer = frame.to_vec();
    longer.extend([0xff; 16]);
    assert_eq!(wire::parse(&longer, frame.len()), ours);
}

/// What a router does to a packet leaves it valid, and shows where it was done.
fn edit(frame: &[u8], parsed: &Parsed) {
    let mut frame = frame.to_vec();
    let Some(l3) = frame.get_mut(14..) else { return };
    let ttl = match parsed.kind {
        PacketKind::Arp => return,
        PacketKind::Ipv4 => wire::Ipv4Packet::new_checked(l3).map(|mut p| p.decrement_ttl()),
        PacketKind::Ipv6 => wire::Ipv6Packet::new_checked(l3).map(|mut p| p.decrement_hop_limit()),
    };
    assert_eq!(ttl, Ok(parsed.ttl.saturating_sub(1)));
    let expected = Parsed { ttl: parsed.ttl.saturating_sub(1), ..*parsed };
    assert_eq!(wire::parse(&frame, frame.len()), Ok(expected));
}

type Reference = Result<(Parsed, Option<FragmentFields>), Malformed>;

fn reference(frame: &[u8]) -> Reference {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Malformed::FrameTooShort)?;
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => reference_ipv4(ethernet.payload()),
        EthernetProtocol::Ipv6 => reference_ipv6(ethernet.payload()),
        EthernetProtocol::Arp => reference_arp(ethernet.payload()),
        EthernetProtocol::Unknown(_) => Err(Malformed::UnsupportedEtherType),
    }
}

fn reference_arp(bytes: &[u8]) -> Reference {
    let repr = ArpPacket::new_checked(bytes).and_then(|p| ArpRepr::parse(&p));
    // smoltcp takes any operation: InARP, RARP and all else.
    match repr {
        Ok(ArpRepr::EthernetIpv4 { operation: ArpOperation::Request | ArpOperation::Reply, .. }) => {}
        _ => return Err(Malformed::ArpInvalid),
    }
    let parsed = Parsed {
        kind: PacketKind::Arp,
        l3_offset: 14,
        l4_offset: 42,
        protocol: 0,
        fragment: Fragment::Whole,
        src_port: 0,
        dst_port: 0,
        tcp_flags: 0,
        frame_len: 42,
        addrs: Addrs::None,
        ttl: 0,
        dont_fragment: false,
        ipv4_options: false,
    };
    Ok((parsed, None))
}

fn reference_ipv4(bytes: &[u8]) -> Reference {
    let packet = Ipv4Packet::new_unchecked(bytes);
    // smoltcp checks the lengths together, and not the version.
    if bytes.len() < 20 || packet.version() != 4 {
        return Err(Malformed::Ipv4HeaderInvalid);
    }
    let header_len = usize::from(packet.header_len());
    if header_len < 20 || header_len > bytes.len() {
        return Err(Malformed::Ipv4HeaderInvalid);
    }
    packet.check_len().map_err(|_| Malformed::Ipv4LengthInvalid)?;
    if checksum::data(&bytes[..header_len]) != 0xffff {
        return Err(Malformed::Ipv4ChecksumWrong);
    }
    let data = packet.payload();
    let part = Part { offset: packet.frag_offset(), more: packet.more_frags(), data, repeated: header_len };
    let fragment = part.judge(packet.next_header(), IpProtocol::Icmp)?;
    let (src_port, dst_port, tcp_flags) = transport(packet.next_header(), IpProtocol::Icmp, data, fragment)?;
    let parsed = Parsed {
        kind: PacketKind::Ipv4,
        l3_offset: 14,
        l4_offset: 14 + u16::from(packet.header_len()),
        protocol: packet.next_header().into(),
        fragment,
        src_port,
        dst_port,
        tcp_flags,
        frame_len: 14 + u32::from(packet.total_len()),
        addrs: Addrs::V4 { src: packet.src_addr(), dst: packet.dst_addr() },
        ttl: packet.hop_limit(),
        dont_fragment: packet.dont_frag(),
        ipv4_options: header_len > 20,
    };
    Ok((parsed, part.fields(fragment, u32::from(packet.ident()))))
}

fn reference_ipv6(bytes: &[u8]) -> Reference {
    let packet = Ipv6Packet::new_unchecked(bytes);
    if bytes.len() < 40 || packet.version() != 6 {
        return Err(Malformed::Ipv6HeaderInvalid);
    }
    packet.check_len().map_err(|_| Malformed::Ipv6LengthInvalid)?;
    // smoltcp takes a jumbogram for an empty packet.
    if packet.payload_len() == 0 && packet.next_header() == IpProtocol::HopByHop {
        return Err(Malformed::Ipv6LengthInvalid);
    }
    let payload = packet.payload();
    let chain = chain(packet.next_header(), payload)?;
    let behind = &payload[chain.len..];
    let (mut fragment, mut fields) = (Fragment::Whole, None);
    if let Some((at, header)) = &chain.fragment {
        let part = Part {
            offset: header.frag_offset() * 8,
            more: header.more_frags(),
            data: &payload[at + 8..],
            repeated: *at,
        };
        fragment = part.judge(chain.protocol, IpProtocol::Icmpv6)?;
        fields = part.fields(fragment, header.ident());
    }
    let (src_port, dst_port, tcp_flags) = transport(chain.protocol, IpProtocol::Icmpv6, behind, fragment)?;
    let parsed = Parsed {
        kind: PacketKind::Ipv6,
        l3_offset: 14,
        l4_offset: u16::try_from(54 + chain.len).unwrap_or(0),
        protocol: chain.protocol.into(),
        fragment,
        src_port,
        dst_port,
        tcp_flags,
        frame_len: 54 + u32::from(packet.payload_len()),
        addrs: Addrs::V6 { src: packet.src_addr(), dst: packet.dst_addr() },
        ttl: packet.hop_limit(),
        dont_fragment: true,
        ipv4_options: false,
    };
    Ok((parsed, fields))
}

struct Chain<'a> {
    protocol: IpProtocol,
    len: usize,
    fragment: Option<(usize, Ipv6FragmentHeader<&'a [u8]>)>,
}

/// smoltcp reads single headers; their order and number are for its user to judge.
fn chain(first: IpProtocol, payload: &[u8]) -> Result<Chain<'_>, Malformed> {
    let bad = Malformed::Ipv6ExtensionInvalid;
    let mut chain = Chain { protocol: first, len: 0, fragment: None };
    let mut walked = 0;
    loop {
        let rest = &payload[chain.len..];
        // The authentication header (51) counts in words of 32 bits, less two.
        let number = u8::from(chain.protocol);
        if !matches!(number, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
            return Ok(chain);
        }
        walked += 1;
        if walked > 8 || (number == 0 && walked > 1) || rest.len() < 8 {
            return Err(bad);
        }
        let (next, size) = if number == 51 {
            if rest[1] == 0 {
                return Err(bad);
            }
            (rest[0].into(), (usize::from(rest[1]) + 2) * 4)
        } else if number == 44 {
            if chain.fragment.is_some() {
                return Err(bad);
            }
            let header = Ipv6FragmentHeader::new_checked(&rest[2..8]).map_err(|_| bad)?;
            chain.fragment = Some((chain.len, header));
            (rest[0].into(), 8)
        } else {
            let header = Ipv6ExtHeader::new_checked(rest).map_err(|_| bad)?;
            (header.next_header(), header.payload().len() + 2)
        };
        if size > rest.len() {
            return Err(bad);
        }
        chain.protocol = next;
        chain.len += size;
        // Behind a later fragment's header comes data.
        if number == 44 && chain.fragment.as_ref().is_some_and(|(_, f)| f.frag_offset() != 0) {
            return Ok(chain);
        }
    }
}

/// A fragment as its header tells of it.
struct Part<'a> {
    offset: u16,
    more: bool,
    data: &'a [u8],
    repeated: usize,
}

impl Part<'_> {
    /// smoltcp judges fragments only where it puts them together.
    fn judge(&self, protocol: IpProtocol, icmp: IpProtocol) -> Result<Fragment, Malformed> {
        let ends = usize::from(self.offset) + self.data.len();
        let valid = !self.data.is_empty()
            && (!self.more || self.data.len() & 7 == 0)
            && self.repeated + ends < 0x1_0000
            && (self.offset == 0 || usize::from(self.offset) >= least(protocol, icmp));
        match (self.offset, self.more, valid) {
            (0, false, _) => Ok(Fragment::Whole),
            (_, _, false) => Err(Malformed::FragmentInvalid),
            (0, true, true) => Ok(Fragment::First),
            (_, _, true) => Ok(Fragment::Later),
        }
    }

    fn fields(&self, fragment: Fragment, ident: u32) -> Option<FragmentFields> {
        let len = u16::try_from(self.data.len()).unwrap_or(0);
        let fields = FragmentFields { ident, offset: self.offset, len, more: self.more };
        (fragment != Fragment::Whole).then_some(fields)
    }
}

fn least(protocol: IpProtocol, icmp: IpProtocol) -> usize {
    match protocol {
        IpProtocol::Tcp => 20,
        IpProtocol::Udp => 8,
        IpProtocol::Unknown(132) => 12,
        other if other == icmp => 8,
        _ => 0,
    }
}

fn transport(
    protocol: IpProtocol,
    icmp: IpProtocol,
    bytes: &[u8],
    fragment: Fragment,
) -> Result<(u16, u16, u8), Malformed> {
    let truncated = Malformed::TransportTruncated;
    if fragment == Fragment::Later {
        return Ok((0, 0, 0));
    }
    if bytes.len() < least(protocol, icmp) {
        return Err(truncated);
    }
    match protocol {
        IpProtocol::Tcp => {
            let p = TcpPacket::new_checked(bytes).map_err(|_| truncated)?;
            let flags = [p.cwr(), p.ece(), p.urg(), p.ack(), p.psh(), p.rst(), p.syn(), p.fin()];
            let flags = flags.into_iter().fold(0, |all, flag| all << 1 | u8::from(flag));
            Ok((p.src_port(), p.dst_port(), flags))
        }
        // The length field is the receiver's to judge, so that smoltcp's check of it is not wanted.
        IpProtocol::Udp => {
            let p = UdpPacket::new_unchecked(bytes);
            Ok((p.src_port(), p.dst_port(), 0))
        }
        IpProtocol::Unknown(132) => {
            let word = |at: usize| u16::from(bytes[at]) << 8 | u16::from(bytes[at + 1]);
            Ok((word(0), word(2), 0))
        }
        IpProtocol::Icmp if icmp == IpProtocol::Icmp => {
            Icmpv4Packet::new_checked(bytes).map_err(|_| truncated)?;
            Ok((0, 0, 0))
        }
        _ => Ok((0, 0, 0)),
    }
}
