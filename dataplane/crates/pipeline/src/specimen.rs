//! Packets for property tests, built afresh for any addresses and ports, each checksum computed in the plainest way.
//!
//! A second opinion: nothing of `wire`'s sums is used here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use wire::protocol;

use crate::translate::Ends;
use crate::{GsoKind, Offload};

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    UdpZero,
    Sctp,
    EchoRequest,
    EchoReply,
    /// ICMP that is neither echo nor error.
    OtherIcmp,
    Esp,
    Gre,
}

/// Which part of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// IPv6 with a fragment header that means nothing (RFC 6946).
    Atomic,
    First,
    Later,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Done,
    Partial,
    Gso,
}

/// Everything of a packet but its addresses and ports.
#[derive(Clone, Debug)]
pub(crate) struct Specimen {
    pub(crate) v6: bool,
    pub(crate) kind: Kind,
    pub(crate) part: Part,
    pub(crate) finish: Finish,
    /// Options of the IPv4 header, in words.
    pub(crate) options: u8,
    /// IPv6 extension headers in front: which of hop-by-hop, destination options, routing and authentication.
    pub(crate) extensions: [bool; 4],
    /// Of a routing header.
    pub(crate) segments_left: u8,
    pub(crate) tcp_options: u8,
    pub(crate) ttl: u8,
    pub(crate) ident: u16,
    pub(crate) payload: Vec<u8>,
}

impl Specimen {
    pub(crate) const fn protocol(&self) -> u8 {
        match self.kind {
            Kind::Tcp => protocol::TCP,
            Kind::Udp | Kind::UdpZero => protocol::UDP,
            Kind::Sctp => protocol::SCTP,
            Kind::EchoRequest | Kind::EchoReply | Kind::OtherIcmp if self.v6 => protocol::ICMPV6,
            Kind::EchoRequest | Kind::EchoReply | Kind::OtherIcmp => protocol::ICMP,
            Kind::Esp => protocol::ESP,
            Kind::Gre => 47,
        }
    }

    /// Where the checksum is that an output may have to finish, and whether it is one of a pseudo-header too.
    const fn field(&self) -> Option<usize> {
        match self.kind {
            Kind::Tcp => Some(16),
            Kind::Udp | Kind::UdpZero => Some(6),
            Kind::EchoRequest | Kind::EchoReply | Kind::OtherIcmp => Some(2),
            Kind::Sctp | Kind::Esp | Kind::Gre => None,
        }
    }

    /// Where the transport's checksum is, whatever its kind.
    pub(crate) fn checksum_field(&self) -> Option<std::ops::Range<usize>> {
        if self.kind == Kind::Sctp { Some(8..12) } else { self.field().map(|at| at..at + 2) }
    }

    /// The ends as such a packet can have them.
    pub(crate) fn fit(&self, v4: [u32; 2], v6: [u128; 2], ports: [u16; 2]) -> Ends {
        let address = |side: usize| match self.v6 {
            true => IpAddr::V6(Ipv6Addr::from(v6[side])),
            false => IpAddr::V4(Ipv4Addr::from(v4[side])),
        };
        let [src_port, dst_port] = match self.kind {
            Kind::Tcp | Kind::Udp | Kind::UdpZero | Kind::Sctp => ports,
            Kind::EchoRequest => [ports[0], 0],
            Kind::EchoReply => [0, ports[1]],
            Kind::OtherIcmp | Kind::Esp | Kind::Gre => [0, 0],
        };
        Ends { src: address(0), dst: address(1), src_port, dst_port }
    }

    /// The transport header and payload, all of it.
    fn transport(&self, ends: &Ends) -> Vec<u8> {
        let (src, dst) = (ends.src_port.to_be_bytes(), ends.dst_port.to_be_bytes());
        let mut b = [src, dst].concat();
        match self.kind {
            Kind::Tcp => {
                b.extend([0, 0, 0, 9, 1, 2, 3, 4, (5 + self.tcp_options) << 4, 0x18, 0x20, 0, 0, 0, 0, 0]);
                b.extend(vec![1; usize::from(self.tcp_options) * 4]);
            }
            Kind::Udp | Kind::UdpZero => {
                b.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
                b.extend([0, 0]);
            }
            Kind::Sctp => b.extend([7, 7, 7, 7, 0, 0, 0, 0]),
            Kind::EchoRequest => {
                b = [[if self.v6 { 128 } else { 8 }, 0, 0, 0], [src[0], src[1], 0, 0]].concat()
            }
            Kind::EchoReply => {
                b = [[if self.v6 { 129 } else { 0 }, 0, 0, 0], [dst[0], dst[1], 0, 0]].concat()
            }
            Kind::OtherIcmp => b = vec![if self.v6 { 130 } else { 13 }, 0, 0, 0, 1, 2, 3, 4],
            Kind::Esp | Kind::Gre => b = vec![0, 0, 8, 0, 5, 6, 7, 8],
        }
        b.extend(&self.payload);
        self.guard(ends, &mut b);
        b
    }

    fn guard(&self, ends: &Ends, b: &mut [u8]) {
        if self.kind == Kind::Sctp {
            let crc = naive_crc32c(b);
            b[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        let Some(field) = self.field() else { return };
        if self.kind == Kind::UdpZero && self.finish == Finish::Done {
            return;
        }
        let pseudo = match (ends.src, ends.dst) {
            _ if self.protocol() == protocol::ICMP => Vec::new(),
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut p = [src.octets(), dst.octets()].concat();
                p.extend([0, self.protocol()]);
                p.extend(u16::try_from(b.len()).unwrap().to_be_bytes());
                p
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut p = [src.octets(), dst.octets()].concat();
                p.extend(u32::try_from(b.len()).unwrap().to_be_bytes());
                p.extend([0, 0, 0, self.protocol()]);
                p
            }
            _ => unreachable!("one family"),
        };
        let sum = match self.finish {
            Finish::Done => match !naive_sum(&[pseudo, b.to_vec()].concat()) {
                0 if self.protocol() == protocol::UDP => 0xffff,
                sum => sum,
            },
            Finish::Partial | Finish::Gso => naive_sum(&pseudo),
        };
        b[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// The IP packet.
    pub(crate) fn packet(&self, ends: &Ends) -> Vec<u8> {
        let mut data = self.transport(ends);
        let (mut offset, mut more) = (0u16, false);
        // Past any header, options included.
        let cut = if data.len() > 72 { 64 } else { data.len() & !7 };
        match self.part {
            Part::Whole | Part::Atomic => {}
            Part::First => {
                data.truncate(cut);
                more = true;
            }
            Part::Later => {
                data.drain(..cut.saturating_sub(8));
                offset = 64;
            }
        }
        self.ip(ends, offset, more, &data)
    }

    fn ip(&self, ends: &Ends, offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
        match (ends.src, ends.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src, dst, offset, more, data),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(src, dst, offset, more, data),
            _ => unreachable!("one family"),
        }
    }

    /// An Ethernet frame with an ICMP message of these bytes, whose checksum is computed here.
    pub(crate) fn icmp_frame(&self, ends: &Ends, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        message[2..4].fill(0);
        self.guard(ends, &mut message);
        self.ethernet(&self.ip(ends, 0, false, &message))
    }

    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
        let header = 20 + usize::from(self.options) * 4;
        let mut b = vec![0x45 + self.options, 0];
        b.extend(u16::try_from(header + data.len()).unwrap().to_be_bytes());
        b.extend(self.ident.to_be_bytes());
        b.extend((if more { 0x2000 } else { 0 } | offset >> 3).to_be_bytes());
        b.extend([self.ttl, self.protocol(), 0, 0]);
        b.extend(src.octets());
        b.extend(dst.octets());
        b.resize(header, 1);
        let sum = !naive_sum(&b);
        b[10..12].copy_from_slice(&sum.to_be_bytes());
        b.extend(data);
        b
    }

    fn ipv6(&self, src: Ipv6Addr, dst: Ipv6Addr, offset: u16, more: bool, data: &[u8]) -> Vec<u8> {
        let mut chain: Vec<(u8, Vec<u8>)> = Vec::new();
        let numbers = [protocol::HOP_BY_HOP, protocol::DESTINATION_OPTIONS, protocol::ROUTING, protocol::AH];
        for (number, _) in numbers.into_iter().zip(self.extensions).filter(|(_, there)| *there) {
            chain.push((
                number,
                match number {
                    protocol::AH => {
                        vec![0, 4, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5]
                    }
                    protocol::ROUTING => vec![0, 0, 4, self.segments_left, 0, 0, 0, 0],
                    _ => vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                },
            ));
        }
        if self.part != Part::Whole {
            let [a, b] = (offset | u16::from(more)).to_be_bytes();
            let [c, d] = self.ident.to_be_bytes();
            chain.push((protocol::FRAGMENT, vec![0, 0, a, b, 0, 0, c, d]));
        }
        let first = chain.first().map_or(self.protocol(), |(number, _)| *number);
        let mut rest = Vec::new();
        for (i, (_, header)) in chain.iter().enumerate() {
            let at = rest.len();
            rest.extend(header);
            rest[at] = chain.get(i + 1).map_or(self.protocol(), |(number, _)| *number);
        }
        rest.extend(data);
        let mut b = vec![0x60, 0, 0, 0];
        b.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        b.extend([first, self.ttl]);
        b.extend(src.octets());
        b.extend(dst.octets());
        b.extend(rest);
        b
    }

    /// The same as an Ethernet frame.
    pub(crate) fn frame(&self, ends: &Ends) -> Vec<u8> {
        self.ethernet(&self.packet(ends))
    }

    fn ethernet(&self, packet: &[u8]) -> Vec<u8> {
        let mut b = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        b.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        b.extend(packet);
        b
    }

    /// What its sender leaves to hardware; `l4` is where its transport header is.
    pub(crate) fn offload(&self, l4: u16) -> Offload {
        let offset = u16::try_from(self.field().unwrap_or_default()).unwrap();
        match (self.finish, self.kind) {
            (Finish::Done, _) => Offload::Done,
            (Finish::Partial, _) => Offload::Partial { start: l4, offset },
            (Finish::Gso, kind) => {
                let kind = match kind {
                    Kind::Tcp if self.v6 => GsoKind::TcpV6,
                    Kind::Tcp => GsoKind::TcpV4,
                    _ => GsoKind::Udp,
                };
                Offload::Gso { kind, size: 32, header_len: l4 + 20, start: l4, offset }
            }
        }
    }
}

/// Any packet.
pub(crate) fn specimens() -> impl Strategy<Value = Specimen> {
    let kind = prop::sample::select(vec![
        Kind::Tcp,
        Kind::Udp,
        Kind::UdpZero,
        Kind::Sctp,
        Kind::EchoRequest,
        Kind::EchoReply,
        Kind::OtherIcmp,
        Kind::Esp,
        Kind::Gre,
    ]);
    let part = prop_oneof![
        4 => Just(Part::Whole), 1 => Just(Part::Atomic), 1 => Just(Part::First), 1 => Just(Part::Later)
    ];
    let finish = prop_oneof![3 => Just(Finish::Done), 1 => Just(Finish::Partial), 1 => Just(Finish::Gso)];
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..200),
        1 => prop::collection::vec(any::<u8>(), 200..4000),
        1 => (0usize..20).prop_map(|len| vec![0; len]),
    ];
    let options = prop_oneof![2 => Just(0u8), 1 => 1u8..=10];
    let extensions = prop_oneof![1 => Just([false; 4]), 1 => any::<[bool; 4]>()];
    (any::<bool>(), kind, part, finish, options, extensions, 0u8..=10, 1u8..=255, any::<u16>(), payload)
        .prop_map(|(v6, kind, part, finish, options, extensions, tcp_options, ttl, ident, mut payload)| {
            let plain = matches!(kind, Kind::Tcp | Kind::Udp | Kind::UdpZero);
            let part = if !v6 && part == Part::Atomic { Part::Whole } else { part };
            let finish = match (part, finish) {
                (Part::First | Part::Later, _) => Finish::Done,
                (_, Finish::Gso) if !plain => Finish::Done,
                (_, finish) if plain || v6 && kind == Kind::EchoRequest => finish,
                _ => Finish::Done,
            };
            if matches!(part, Part::First | Part::Later) {
                payload.resize(payload.len() + 80, 0x5a);
            }
            let segments_left = 0;
            Specimen {
                v6,
                kind,
                part,
                finish,
                options,
                extensions,
                segments_left,
                tcp_options,
                ttl,
                ident,
                payload,
            }
        })
}

/// Word by word (RFC 1071, section 4.1), not complemented.
pub(crate) fn naive_sum(data: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in data.chunks(2) {
        sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// Bit by bit.
fn naive_crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
