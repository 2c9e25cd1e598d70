//! Addresses and ports of bursts changed there and back, in general and for plain IPv4, against one hop less alone.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use measured::Group;
use pipeline::{Ends, Offload, PlainV4, translate, translate_plain_v4};
use wire::{Ipv4Packet, Parsed, checksum, protocol};

mod measured;

/// Two bursts, which stay in the first cache.
const PACKETS: u32 = 64;
const HEADERS: usize = 128;

/// Frames begin at a cache line, as in packet buffers.
#[repr(align(64))]
struct Head([u8; HEADERS]);

/// A finished packet of 50 bytes of IP, and what it is translated to.
fn packet(number: u32, protocol: u8) -> Option<(Head, Parsed, Ends)> {
    let (src, dst) = (Ipv4Addr::from(0x0a00_0000 + number), Ipv4Addr::new(10, 96, 0, 1));
    let mut b = [0; HEADERS];
    b[12..14].copy_from_slice(&[8, 0]);
    b[14..24].copy_from_slice(&[0x45, 0, 0, 50, 0, 0, 0x40, 0, 255, protocol]);
    b[26..30].copy_from_slice(&src.octets());
    b[30..34].copy_from_slice(&dst.octets());
    b[34..38].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    let field = match protocol {
        protocol::TCP => {
            b[46] = 0x50;
            50
        }
        _ => {
            b[39] = 30;
            40
        }
    };
    Ipv4Packet::new_checked(&mut b[14..]).ok()?.fill_checksum();
    let sum = checksum::pseudo_header_v4(src, dst, protocol, 30) + checksum::sum(&b[34..64]);
    b[field..field + 2].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
    let parsed = wire::parse(&b, 64).ok()?;
    let to =
        Ends { src: IpAddr::V4(src), dst: IpAddr::from([10, 0, 1, 7]), src_port: 40_000, dst_port: 8080 };
    Some((Head(b), parsed, to))
}

fn plain(ends: &Ends) -> PlainV4 {
    let bits = |addr| if let IpAddr::V4(addr) = addr { u64::from(Ipv4Addr::to_bits(addr)) } else { 0 };
    PlainV4 {
        addrs: [bits(ends.src) << 32 | bits(ends.dst)],
        ports: u32::from(ends.src_port) << 16 | u32::from(ends.dst_port),
    }
}

fn run(c: &mut Criterion) {
    let mut group = Group::new(c, "translate", u64::from(PACKETS));
    for (name, protocol) in [("tcp", protocol::TCP), ("udp", protocol::UDP)] {
        let mut burst: Vec<_> = (0..PACKETS).filter_map(|number| packet(number, protocol)).collect();
        let from = |to: &Ends| Ends { dst: IpAddr::from([10, 96, 0, 1]), dst_port: 80, ..*to };
        // As keys of flows have them, both ways.
        let keys: Vec<_> = burst.iter().map(|(_, _, to)| [plain(&from(to)), plain(to)]).collect();
        let mut way = 0;
        group.bench("plain", name, || {
            way ^= 1;
            for ((head, parsed, _), keys) in burst.iter_mut().zip(&keys) {
                translate_plain_v4(&mut head.0, parsed.protocol, keys[way ^ 1], keys[way]);
            }
            black_box(&mut burst);
        });
        group.bench("any", name, || {
            way ^= 1;
            let mut done = 0;
            for (head, parsed, to) in &mut burst {
                let to = if way == 1 { *to } else { from(to) };
                done += usize::from(translate(&mut head.0, parsed, Offload::Done, &to).is_ok());
            }
            black_box(&mut burst);
            done
        });
        group.bench("one hop less alone", name, || {
            for (head, _, _) in &mut burst {
                if let Ok(mut packet) = Ipv4Packet::new_checked(&mut head.0[14..])
                    && packet.decrement_ttl() == 0
                {
                    packet.set_ttl(255);
                }
            }
            black_box(&mut burst);
        });
    }
}

criterion_group!(all, run);
criterion_main!(all);
