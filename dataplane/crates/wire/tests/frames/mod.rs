//! Valid frames of every shape that the parser reads, and edits that spoil them.

#![expect(clippy::cast_possible_truncation, reason = "frames of some hundred bytes")]

use proptest::prelude::*;
use proptest::sample::{Index, select};
use wire::{IPV4_HEADER, IPV6_HEADER, Ipv4Packet, Ipv6Packet};

/// A change such as a broken or hostile sender makes.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Another byte.
    Set(Index, u8),
    /// Another bit.
    Flip(Index, u8),
    /// Bytes that headers give a meaning: lengths, versions, numbers of headers.
    SetKnown(Index, u8),
    /// Cut off.
    Truncate(Index),
    /// Padding, or what a length now reaches.
    Extend(u8),
}

impl Arbitrary for Edit {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let known = select(
            &[0, 1, 2, 4, 6, 8, 17, 20, 43, 44, 50, 51, 58, 59, 60, 132, 135, 0x40, 0x4f, 0x60, 255][..],
        );
        prop_oneof![
            3 => any::<(Index, u8)>().prop_map(|(at, value)| Self::Set(at, value)),
            3 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            3 => (any::<Index>(), known).prop_map(|(at, value)| Self::SetKnown(at, value)),
            1 => any::<Index>().prop_map(Self::Truncate),
            1 => (1u8..40).prop_map(Self::Extend),
        ]
        .boxed()
    }
}

pub(crate) fn edited(bytes: &mut Vec<u8>, edits: &[Edit]) {
    for edit in edits {
        let len = bytes.len();
        match edit {
            Edit::Extend(more) => bytes.resize(len + usize::from(*more), 0),
            _ if len == 0 => {}
            Edit::Set(at, value) | Edit::SetKnown(at, value) => bytes[at.index(len)] = *value,
            Edit::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Edit::Truncate(at) => bytes.truncate(at.index(len)),
        }
    }
}

/// A frame, and what there is to be read of it.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) l4_offset: usize,
    /// Bytes behind the IP packet.
    pub(crate) padding: usize,
    /// Protocol and ports.
    pub(crate) transport: (u8, u16, u16),
}

/// Protocol, ports and bytes of a transport's header with some data.
fn transport() -> impl Strategy<Value = ((u8, u16, u16), Vec<u8>)> {
    let data = prop::collection::vec(any::<u8>(), 0..64);
    (any::<[u8; 20]>(), data, 0usize..=10, select(&[6u8, 17, 132, 1, 58, 47, 50, 59, 255][..])).prop_map(
        |(mut header, data, words, protocol)| {
            header[12] = 0x50 + 0x10 * words as u8;
            let len = match protocol {
                6 => 20,
                17 | 1 | 58 => 8,
                132 => 12,
                _ => 0,
            };
            let mut bytes = header[..len].to_vec();
            if protocol == 6 {
                bytes.extend(vec![1; words * 4]);
            }
            bytes.extend(data);
            let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
            let ports = matches!(protocol, 6 | 17 | 132);
            let of = if ports { (protocol, port(0), port(2)) } else { (protocol, 0, 0) };
            (of, bytes)
        },
    )
}

fn ipv4() -> impl Strategy<Value = Frame> {
    let options = (0usize..=10).prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 4));
    (transport(), options, any::<[u8; IPV4_HEADER]>(), 0usize..20).prop_map(
        |((transport, data), options, mut header, padding)| {
            header[0] = 0x45 + (options.len() / 4) as u8;
            header[9] = transport.0;
            let mut bytes = [&[2; 12][..], &[8, 0], &header, &options, &data].concat();
            let len = (bytes.len() - 14) as u16;
            bytes[16..18].copy_from_slice(&len.to_be_bytes());
            if let Ok(mut packet) = Ipv4Packet::new_checked(&mut bytes[14..]) {
                packet.set_fragment(len & 1 == 0, false, 0);
                packet.fill_checksum();
            }
            bytes.resize(bytes.len() + padding, 0xee);
            Frame { bytes, l4_offset: 34 + options.len(), padding, transport }
        },
    )
}

fn ipv6() -> impl Strategy<Value = Frame> {
    let extension = (select(&[43u8, 51, 60, 135, 139, 140][..]), 0u8..3);
    (
        transport(),
        prop::collection::vec(extension, 0..6),
        any::<[u8; IPV6_HEADER]>(),
        any::<(bool, bool)>(),
        0usize..20,
    )
        .prop_map(|((transport, data), extensions, mut header, (hop_by_hop, atomic), padding)| {
            let mut chain = extensions;
            if hop_by_hop {
                chain.insert(0, (0, 1));
            }
            if atomic {
                chain.push((44, 0));
            }
            let next_of = |i: usize| chain.get(i).map_or(transport.0, |(number, _)| *number);
            header[0] = 0x60 | header[0] & 0xf;
            header[6] = next_of(0);
            let mut bytes = [&[2; 12][..], &[0x86, 0xdd], &header].concat();
            for (i, (number, units)) in chain.iter().enumerate() {
                // The authentication header counts words less two, the others 8 bytes less the first.
                let (field, len) = match number {
                    51 => (units + 1, usize::from(units + 3) * 4),
                    _ => (*units, usize::from(units + 1) * 8),
                };
                let mut extension = vec![0; len];
                extension[..2].copy_from_slice(&[next_of(i + 1), field]);
                bytes.extend(extension);
            }
            let l4_offset = bytes.len();
            bytes.extend(data);
            let len = (bytes.len() - 54) as u16;
            if let Ok(mut packet) = Ipv6Packet::new_checked(&mut bytes[14..]) {
                packet.set_payload_len(len);
            }
            bytes.resize(bytes.len() + padding, 0xee);
            Frame { bytes, l4_offset, padding, transport }
        })
}

/// Any valid frame with a whole packet.
pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![ipv4(), ipv6()]
}
