//! From a frame's first bytes to what the pipeline needs to know of it.
//!
//! Total: any bytes give [`Parsed`] or a named [`Malformed`], never a panic. Nothing is allocated and nothing beyond the
//! headers is read. Judging addresses (multicast, loopback, spoofed) is the pipeline's, transport checksums the receiver's.

use crate::arp::ArpPacket;
use crate::bytes::{array, u16_at, v4_at, v6_at};
use crate::ethernet::{ETHERNET_HEADER, EtherType};
use crate::ipv4::IPV4_HEADER;
use crate::ipv6::{IPV6_HEADER, walk_extensions};
use crate::parsed::{Addrs, Fragment, PacketKind, Parsed};
use crate::{Malformed, checksum, protocol};

/// Reads the headers of an Ethernet frame.
///
/// `head` is the frame's contiguous beginning, at least 256 bytes or all of it; `total_len` is the whole frame's length over all its
/// segments, in bytes.
///
/// # Errors
/// The first thing wrong, outermost header first.
#[inline]
pub fn parse(head: &[u8], total_len: usize) -> Result<Parsed, Malformed> {
    match parse_plain_ipv4(head, total_len) {
        Some(parsed) => Ok(parsed),
        None => parse_any(head, total_len),
    }
}

/// The common case in a straight line: IPv4 without options or fragments, with TCP or UDP. Whatever is otherwise, or
/// wrong, is for [`parse_any`] to judge.
#[inline]
fn parse_plain_ipv4(head: &[u8], total_len: usize) -> Option<Parsed> {
    const L4: usize = ETHERNET_HEADER + IPV4_HEADER;
    // All of Ethernet, IPv4 and UDP, as an array: the compiler need not check what is read below.
    let b = head.first_chunk::<{ L4 + 8 }>()?;
    let ip_len = usize::from(u16_at(b, 16));
    let frame_len = ETHERNET_HEADER + ip_len;
    let plain = u16_at(b, 12) == EtherType::IPV4.0
        && b[14] == 0x45
        && u16_at(b, 20) & 0x3fff == 0
        && frame_len <= total_len
        && checksum::sum(&b[ETHERNET_HEADER..L4]) == 0xffff;
    if !plain {
        return None;
    }
    let tcp_flags = match b[23] {
        protocol::UDP if ip_len >= IPV4_HEADER + 8 => 0,
        protocol::TCP => {
            let b = head.first_chunk::<{ L4 + 20 }>()?;
            let header = usize::from(b[46] >> 4) * 4;
            if header < 20 || ip_len < IPV4_HEADER + header {
                return None;
            }
            b[47]
        }
        _ => return None,
    };
    Some(Parsed {
        kind: PacketKind::Ipv4,
        l3_offset: 14,
        l4_offset: 34,
        protocol: b[23],
        fragment: Fragment::Whole,
        src_port: u16_at(b, 34),
        dst_port: u16_at(b, 36),
        tcp_flags,
        frame_len: 14 + u32::from(u16_at(b, 16)),
        addrs: Addrs::V4 { src: v4_at(b, 26), dst: v4_at(b, 30) },
        ttl: b[22],
        dont_fragment: b[20] & 0x40 != 0,
        ipv4_options: false,
    })
}

fn parse_any(head: &[u8], total_len: usize) -> Result<Parsed, Malformed> {
    let head = &head[..head.len().min(total_len)];
    if head.len() < ETHERNET_HEADER {
        return Err(Malformed::FrameTooShort);
    }
    match EtherType(u16_at(head, 12)) {
        EtherType::IPV4 => parse_ipv4(head, total_len),
        EtherType::IPV6 => parse_ipv6(head, total_len),
        EtherType::ARP => parse_arp(head),
        _ => Err(Malformed::UnsupportedEtherType),
    }
}

fn parse_arp(head: &[u8]) -> Result<Parsed, Malformed> {
    ArpPacket::new_checked(&head[ETHERNET_HEADER..])?;
    Ok(Parsed {
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
    })
}

fn parse_ipv4(head: &[u8], total_len: usize) -> Result<Parsed, Malformed> {
    let l3 = &head[ETHERNET_HEADER..];
    let Some(fixed) = l3.first_chunk::<IPV4_HEADER>() else {
        return Err(Malformed::Ipv4HeaderInvalid);
    };
    let header_len = usize::from(fixed[0] & 0xf) * 4;
    if fixed[0] >> 4 != 4 || header_len < IPV4_HEADER {
        return Err(Malformed::Ipv4HeaderInvalid);
    }
    let Some(header) = l3.get(..header_len) else {
        return Err(Malformed::Ipv4HeaderInvalid);
    };
    let ip_len = u16_at(fixed, 2);
    let end = ETHERNET_HEADER + usize::from(ip_len);
    if usize::from(ip_len) < header_len || end > total_len {
        return Err(Malformed::Ipv4LengthInvalid);
    }
    if checksum::sum(header) != 0xffff {
        return Err(Malformed::Ipv4ChecksumWrong);
    }
    let field = u16_at(fixed, 6);
    let offset = usize::from(field & 0x1fff) * 8;
    let more = field & 0x2000 != 0;
    let l4 = ETHERNET_HEADER + header_len;
    let protocol = fixed[9];
    let least = transport_header(protocol, protocol::ICMP);
    let fragment = fragment(offset, more, end - l4, header_len, least)?;
    let transport = transport(head, l4, end, protocol, least, fragment)?;
    Ok(Parsed {
        kind: PacketKind::Ipv4,
        l3_offset: 14,
        l4_offset: narrow(l4),
        protocol,
        fragment,
        src_port: transport.src_port,
        dst_port: transport.dst_port,
        tcp_flags: transport.tcp_flags,
        frame_len: 14 + u32::from(ip_len),
        addrs: Addrs::V4 { src: v4_at(fixed, 12), dst: v4_at(fixed, 16) },
        ttl: fixed[8],
        dont_fragment: field & 0x4000 != 0,
        ipv4_options: header_len > IPV4_HEADER,
    })
}

fn parse_ipv6(head: &[u8], total_len: usize) -> Result<Parsed, Malformed> {
    const FIXED: usize = ETHERNET_HEADER + IPV6_HEADER;
    let l3 = &head[ETHERNET_HEADER..];
    let Some(fixed) = l3.first_chunk::<IPV6_HEADER>() else {
        return Err(Malformed::Ipv6HeaderInvalid);
    };
    if fixed[0] >> 4 != 6 {
        return Err(Malformed::Ipv6HeaderInvalid);
    }
    let payload_len = u16_at(fixed, 4);
    let end = FIXED + usize::from(payload_len);
    let jumbogram = payload_len == 0 && fixed[6] == protocol::HOP_BY_HOP;
    if jumbogram || end > total_len {
        return Err(Malformed::Ipv6LengthInvalid);
    }
    let chain = walk_extensions(fixed[6], &head[FIXED..], usize::from(payload_len))?;
    let l4 = FIXED + chain.len;
    let least = transport_header(chain.protocol, protocol::ICMPV6);
    let fragment = match chain.fragment {
        Some(f) if !f.is_atomic() => {
            // What repeats in each fragment counts toward the packet put together; the data begins behind the
            // fragment header.
            let data = end - (FIXED + f.header + 8);
            fragment(usize::from(f.offset), f.more, data, f.header, least)?
        }
        _ => Fragment::Whole,
    };
    let transport = transport(head, l4, end, chain.protocol, least, fragment)?;
    Ok(Parsed {
        kind: PacketKind::Ipv6,
        l3_offset: 14,
        l4_offset: narrow(l4),
        protocol: chain.protocol,
        fragment,
        src_port: transport.src_port,
        dst_port: transport.dst_port,
        tcp_flags: transport.tcp_flags,
        frame_len: 14 + 40 + u32::from(payload_len),
        addrs: Addrs::V6 { src: v6_at(fixed, 8), dst: v6_at(fixed, 24) },
        ttl: fixed[7],
        dont_fragment: true,
        ipv4_options: false,
    })
}

/// Offsets of headers lie in the contiguous head. `walk_extensions` bounds the last one by the 65,535 bytes of payload, and its
/// position by the headers it has read: at most `MAX_EXTENSIONS` of 2,048 bytes.
#[inline]
fn narrow(offset: usize) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "at most 14 + 40 + 8 * 2,048 bytes")]
    let offset = offset as u16;
    offset
}

/// The least bytes of a transport's header; 0 for those that are not looked into. ICMP messages have 8 in either family
/// (RFC 792; RFC 4443), and each family its own number for them.
#[inline]
const fn transport_header(protocol: u8, icmp: u8) -> usize {
    match protocol {
        protocol::TCP => 20,
        protocol::UDP => 8,
        protocol::SCTP => 12,
        _ if protocol == icmp => 8,
        _ => 0,
    }
}

/// Which part of a packet this is, from the `len` bytes of data at `offset`. `repeated` bytes of header in front of them
/// count toward the packet's 65,535; `least` is the transport's header, which the first fragment has alone.
fn fragment(
    offset: usize,
    more: bool,
    len: usize,
    repeated: usize,
    least: usize,
) -> Result<Fragment, Malformed> {
    if offset == 0 && !more {
        return Ok(Fragment::Whole);
    }
    if len == 0 || more && !len.is_multiple_of(8) || repeated + offset + len > 65_535 {
        return Err(Malformed::FragmentInvalid);
    }
    if offset == 0 {
        return Ok(Fragment::First);
    }
    // Such a fragment overwrites flags or ports that the first one showed (RFC 3128).
    if offset < least {
        return Err(Malformed::FragmentInvalid);
    }
    Ok(Fragment::Later)
}

#[derive(Default)]
struct Transport {
    src_port: u16,
    dst_port: u16,
    tcp_flags: u8,
}

fn transport(
    head: &[u8],
    at: usize,
    end: usize,
    protocol: u8,
    least: usize,
    fragment: Fragment,
) -> Result<Transport, Malformed> {
    if least == 0 || fragment == Fragment::Later {
        return Ok(Transport::default());
    }
    if at + least > end {
        return Err(Malformed::TransportTruncated);
    }
    let Some(header) = head.get(at..at + least) else {
        return Err(Malformed::ExtensionsTooLong);
    };
    if least == 8 && protocol != protocol::UDP {
        return Ok(Transport::default());
    }
    let [src, src_low, dst, dst_low] = array(header, 0);
    let mut transport = Transport {
        src_port: u16::from_be_bytes([src, src_low]),
        dst_port: u16::from_be_bytes([dst, dst_low]),
        tcp_flags: 0,
    };
    if protocol == protocol::TCP {
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < 20 || at + header_len > end {
            return Err(Malformed::TransportTruncated);
        }
        transport.tcp_flags = header[13];
    }
    Ok(transport)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const V4: Addrs = Addrs::V4 { src: Ipv4Addr::new(10, 0, 0, 1), dst: Ipv4Addr::new(10, 0, 0, 2) };
    const V6: Addrs = Addrs::V6 { src: ip6(1), dst: ip6(2) };

    const fn ip6(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
    }

    const UDP: [u8; 8] = [0x30, 0x39, 0x00, 0x35, 0x00, 0x08, 0xbe, 0xef];
    const TCP: [u8; 20] =
        [0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 0x12, 0xff, 0xff, 0x12, 0x34, 0, 0];

    /// 10.0.0.1 → 10.0.0.2 with a fragment field, options and payload; length and checksum are made right.
    fn ipv4(protocol: u8, field: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut b = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];
        b.extend([0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        b.extend(options);
        b[14] += u8::try_from(options.len() / 4).unwrap();
        b.extend(payload);
        let len = u16::try_from(b.len() - 14).unwrap();
        b[16..18].copy_from_slice(&len.to_be_bytes());
        b[20..22].copy_from_slice(&field.to_be_bytes());
        fix_checksum(b)
    }

    fn fix_checksum(mut b: Vec<u8>) -> Vec<u8> {
        let end = 14 + usize::from(b[14] & 0xf) * 4;
        b[24..26].fill(0);
        let sum = checksum::internet_checksum(&b[14..end]);
        b[24..26].copy_from_slice(&sum.to_be_bytes());
        b
    }

    /// fd00::1 → fd00::2.
    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut b = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
        b.extend([0x60, 0, 0, 0, 0, 0, next, 64]);
        b.extend(ip6(1).octets());
        b.extend(ip6(2).octets());
        b[18..20].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        b.extend(payload);
        b
    }

    fn whole(b: &[u8]) -> Result<Parsed, Malformed> {
        parse(b, b.len())
    }

    /// Applies an edit and answers what is wrong then.
    fn err(mut b: Vec<u8>, edit: impl Fn(&mut Vec<u8>)) -> Malformed {
        edit(&mut b);
        whole(&b).unwrap_err()
    }

    #[test]
    fn plain_ipv4() {
        let udp = Parsed {
            kind: PacketKind::Ipv4,
            l3_offset: 14,
            l4_offset: 34,
            protocol: 17,
            fragment: Fragment::Whole,
            src_port: 12345,
            dst_port: 53,
            tcp_flags: 0,
            frame_len: 42,
            addrs: V4,
            ttl: 64,
            dont_fragment: true,
            ipv4_options: false,
        };
        let mut b = ipv4(17, 0x4000, &[], &UDP);
        assert_eq!(whole(&b), Ok(udp));
        assert_eq!(parse_plain_ipv4(&b, b.len()), Some(udp));
        assert_eq!((udp.transport_len(), udp.ip_len()), (8, 28));
        // Ethernet's padding is no part of it.
        b.resize(60, 0xaa);
        assert_eq!(whole(&b), Ok(udp));
        let b = ipv4(6, 0, &[], &TCP);
        let tcp = Parsed {
            protocol: 6,
            src_port: 40_000,
            dst_port: 443,
            tcp_flags: 0x12,
            frame_len: 54,
            dont_fragment: false,
            ..udp
        };
        assert_eq!((whole(&b), parse_plain_ipv4(&b, b.len())), (Ok(tcp), Some(tcp)));
    }

    #[test]
    fn segmented_and_huge() {
        let mut b = ipv4(6, 0x4000, &[], &TCP);
        b[16..18].copy_from_slice(&65_535u16.to_be_bytes());
        let b = fix_checksum(b);
        assert_eq!(parse(&b, 65_549).map(|p| p.frame_len), Ok(65_549));
        assert_eq!(parse(&b, 65_548), Err(Malformed::Ipv4LengthInvalid));
        // More bytes than the frame is said to have count for nothing.
        let b = ipv4(17, 0, &[], &UDP);
        assert_eq!(parse(&b, 41), Err(Malformed::Ipv4LengthInvalid));
        assert_eq!(parse(&b, 33), Err(Malformed::Ipv4HeaderInvalid));
        assert_eq!(parse(&b, 13), Err(Malformed::FrameTooShort));
    }

    #[test]
    fn options_move_the_ports() {
        let b = ipv4(17, 0, &[1, 1, 1, 0, 1, 1, 1, 0], &UDP);
        let p = whole(&b).unwrap();
        assert_eq!((p.l4_offset, p.src_port, p.dst_port, p.ipv4_options), (42, 12345, 53, true));
    }

    #[test]
    fn other_transports() {
        let sctp = [0x80, 0x44, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0];
        let p = whole(&ipv4(132, 0, &[], &sctp)).unwrap();
        assert_eq!((p.protocol, p.src_port, p.dst_port, p.l4_offset), (132, 32_836, 80, 34));
        let echo = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
        for (b, protocol) in [(ipv4(1, 0, &[], &echo), 1), (ipv6(58, &echo), 58), (ipv4(47, 0, &[], &[]), 47)]
        {
            let p = whole(&b).unwrap();
            assert_eq!((p.protocol, p.src_port, p.dst_port, p.tcp_flags), (protocol, 0, 0, 0));
        }
        // Each family's ICMP is just another number to the other.
        assert!(whole(&ipv4(58, 0, &[], &[])).is_ok() && whole(&ipv6(1, &[])).is_ok());
        assert!(whole(&ipv6(59, &[])).is_ok());
    }

    #[test]
    fn plain_ipv6() {
        let p = whole(&ipv6(6, &TCP)).unwrap();
        let tcp = Parsed {
            kind: PacketKind::Ipv6,
            l3_offset: 14,
            l4_offset: 54,
            protocol: 6,
            fragment: Fragment::Whole,
            src_port: 40_000,
            dst_port: 443,
            tcp_flags: 0x12,
            frame_len: 74,
            addrs: V6,
            ttl: 64,
            dont_fragment: true,
            ipv4_options: false,
        };
        assert_eq!(p, tcp);
    }

    #[test]
    fn ipv6_extensions() {
        let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0];
        payload.extend(UDP);
        let p = whole(&ipv6(0, &payload)).unwrap();
        assert_eq!((p.l4_offset, p.protocol, p.src_port, p.dst_port), (70, 17, 12345, 53));
        // Cut within the packet: malformed. Merely not contiguous: too long.
        assert_eq!(whole(&ipv6(0, &payload[..12])), Err(Malformed::Ipv6ExtensionInvalid));
        let b = ipv6(0, &payload);
        assert_eq!(parse(&b[..65], b.len()), Err(Malformed::ExtensionsTooLong));
        assert_eq!(parse(&b[..77], b.len()), Err(Malformed::ExtensionsTooLong));
        assert!(parse(&b[..78], b.len()).is_ok());
        // A jumbogram says length 0 and has hop-by-hop options.
        let jumbo = [59, 0, 0xc2, 4, 0, 1, 0, 0];
        assert_eq!(err(ipv6(0, &jumbo), |b| b[19] = 0), Malformed::Ipv6LengthInvalid);
    }

    #[test]
    fn arp() {
        let b = crate::build_arp_request(
            crate::MacAddr::BROADCAST,
            crate::MacAddr([2, 0, 0, 0, 0, 1]),
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(10, 0, 0, 2),
        );
        let p = whole(&b).unwrap();
        assert_eq!((p.kind, p.l3_offset, p.l4_offset, p.frame_len), (PacketKind::Arp, 14, 42, 42));
        assert_eq!((p.addrs, p.fragment_fields(&b)), (Addrs::None, None));
        assert_eq!(err(b.to_vec(), |b| b.truncate(41)), Malformed::ArpInvalid);
        assert_eq!(err(b.to_vec(), |b| b[21] = 3), Malformed::ArpInvalid);
    }

    #[test]
    fn refuses_headers() {
        let good = || ipv4(17, 0, &[], &UDP);
        assert_eq!(whole(&[]), Err(Malformed::FrameTooShort));
        assert_eq!(err(good(), |b| b.truncate(13)), Malformed::FrameTooShort);
        // A VLAN tag, and an 802.3 length.
        assert_eq!(err(good(), |b| b[12] = 0x81), Malformed::UnsupportedEtherType);
        assert_eq!(err(good(), |b| b[12] = 0), Malformed::UnsupportedEtherType);
        assert_eq!(err(good(), |b| b[14] = 0x65), Malformed::Ipv4HeaderInvalid);
        assert_eq!(err(good(), |b| b[14] = 0x44), Malformed::Ipv4HeaderInvalid);
        assert_eq!(err(good(), |b| b[14] = 0x4f), Malformed::Ipv4HeaderInvalid);
        assert_eq!(err(good(), |b| b.truncate(33)), Malformed::Ipv4HeaderInvalid);
        assert_eq!(err(good(), |b| b[17] = 19), Malformed::Ipv4LengthInvalid);
        assert_eq!(err(good(), |b| b[17] = 29), Malformed::Ipv4LengthInvalid);
        assert_eq!(err(good(), |b| b[22] = 63), Malformed::Ipv4ChecksumWrong);
        let good = || ipv6(17, &UDP);
        assert_eq!(err(good(), |b| b[14] = 0x45), Malformed::Ipv6HeaderInvalid);
        assert_eq!(err(good(), |b| b.truncate(53)), Malformed::Ipv6HeaderInvalid);
        assert_eq!(err(good(), |b| b[19] = 9), Malformed::Ipv6LengthInvalid);
    }

    #[test]
    fn refuses_cut_transports() {
        for (protocol, header) in [(6, &TCP[..]), (17, &UDP), (132, &TCP[..12]), (1, &UDP), (58, &UDP)] {
            for cut in 0..header.len() {
                let (v4, v6) = (ipv4(protocol, 0, &[], &header[..cut]), ipv6(protocol, &header[..cut]));
                if protocol != 58 {
                    assert_eq!(whole(&v4), Err(Malformed::TransportTruncated), "{protocol} {cut}");
                    let first = whole(&ipv4(protocol, 0x2000, &[], &header[..cut & !7]));
                    assert!(first.is_err(), "first fragment of {protocol}");
                }
                if protocol != 1 {
                    assert_eq!(whole(&v6), Err(Malformed::TransportTruncated), "{protocol} {cut}");
                }
            }
        }
        // A data offset below the least, and one past the packet's end though not the frame's.
        for data_offset in [0x40, 0x60] {
            assert_eq!(err(ipv4(6, 0, &[], &TCP), |b| b[46] = data_offset), Malformed::TransportTruncated);
            let padded = err(ipv6(6, &TCP), |b| {
                b[66] = data_offset;
                b.resize(100, 0);
            });
            assert_eq!(padded, Malformed::TransportTruncated);
        }
    }

    #[test]
    fn ipv4_fragments() {
        let first = ipv4(17, 0x2000, &[], &[&UDP[..], &[0; 8]].concat());
        let p = whole(&first).unwrap();
        assert_eq!((p.fragment, p.src_port, p.l4_offset), (Fragment::First, 12345, 34));
        let fields = crate::FragmentFields { ident: 0x1234, offset: 0, len: 16, more: true };
        assert_eq!(p.fragment_fields(&first), Some(fields));
        let last = ipv4(17, 2, &[], &UDP[..5]);
        let p = whole(&last).unwrap();
        assert_eq!((p.fragment, p.src_port, p.dst_port, p.protocol), (Fragment::Later, 0, 0, 17));
        let fields = crate::FragmentFields { ident: 0x1234, offset: 16, len: 5, more: false };
        assert_eq!(p.fragment_fields(&last), Some(fields));

        let bad = Err(Malformed::FragmentInvalid);
        assert_eq!(whole(&ipv4(17, 0x2000, &[], &[&UDP[..], &[0; 7]].concat())), bad, "not by eights");
        assert_eq!(whole(&ipv4(47, 0x2000, &[], &[])), bad, "empty first");
        assert_eq!(whole(&ipv4(17, 2, &[], &[])), bad, "empty last");
        assert_eq!(whole(&ipv4(6, 2, &[], &TCP)), bad, "overlaps the TCP header");
        assert!(whole(&ipv4(6, 3, &[], &TCP)).is_ok());
        // 20 of header, 8,189 × 8 of offset: three bytes are left of 65,535.
        assert!(whole(&ipv4(17, 0x1ffd, &[], &[0; 3])).is_ok());
        assert_eq!(whole(&ipv4(17, 0x1ffd, &[], &[0; 4])), bad, "past 65,535");
    }

    #[test]
    fn ipv6_fragments() {
        let with = |header: [u8; 8], payload: &[u8]| ipv6(44, &[&header[..], payload].concat());
        let first = with([60, 0, 0, 1, 0, 0, 0, 7], &[&[17, 0, 1, 4, 0, 0, 0, 0], &UDP[..]].concat());
        let p = whole(&first).unwrap();
        assert_eq!((p.fragment, p.protocol, p.l4_offset, p.dst_port), (Fragment::First, 17, 70, 53));
        let fields = crate::FragmentFields { ident: 7, offset: 0, len: 16, more: true };
        assert_eq!(p.fragment_fields(&first), Some(fields));
        let last = with([60, 0, 0, 16, 0, 0, 0, 7], &[1, 2, 3]);
        let p = whole(&last).unwrap();
        assert_eq!((p.fragment, p.protocol, p.l4_offset, p.dst_port), (Fragment::Later, 60, 62, 0));
        let fields = crate::FragmentFields { ident: 7, offset: 16, len: 3, more: false };
        assert_eq!(p.fragment_fields(&last), Some(fields));
        let atomic = with([17, 0, 0, 0, 0, 0, 0, 7], &UDP);
        let p = whole(&atomic).unwrap();
        assert_eq!((p.fragment, p.protocol, p.l4_offset, p.dst_port), (Fragment::Whole, 17, 62, 53));
        assert_eq!(p.fragment_fields(&atomic), None);

        let bad = Err(Malformed::FragmentInvalid);
        assert_eq!(whole(&with([17, 0, 0, 1, 0, 0, 0, 7], &[0; 9])), bad, "not by eights");
        assert_eq!(whole(&with([17, 0, 0, 16, 0, 0, 0, 7], &[])), bad, "empty last");
        assert!(whole(&with([17, 0, 0xff, 0xf8, 0, 0, 0, 7], &[0; 7])).is_ok());
        assert_eq!(whole(&with([17, 0, 0xff, 0xf8, 0, 0, 0, 7], &[0; 8])), bad, "past 65,535");
        // The whole chain of headers belongs into the first fragment (RFC 7112).
        let cut = with([17, 0, 0, 1, 0, 0, 0, 7], &UDP[..0]);
        assert_eq!(whole(&cut), bad);
        let cut = with([6, 0, 0, 1, 0, 0, 0, 7], &TCP[..16]);
        assert_eq!(whole(&cut), Err(Malformed::TransportTruncated));
    }
}
