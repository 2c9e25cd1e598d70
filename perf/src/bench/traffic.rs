//! The packets of a bench: who speaks to whom, in 64 bytes each, as a pcap file that every contestant plays.
//!
//! One pod sends all of them, so that they come by one port; flows differ in ports and, where there are Services, in
//! addresses. Their order is a fixed shuffle: neighbours in the file are no neighbours in any table.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use wire::MacAddr;
use wire::checksum::{fold, internet_checksum, pseudo_header_v4, sum};

/// The sender, behind the port that receives.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
pub(crate) const CLIENT_MAC: MacAddr = MacAddr([0x02, 0x6c, 0x61, 0x62, 0, 1]);
/// The receiver, behind the port that sends.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 20);
pub(crate) const SERVER_MAC: MacAddr = MacAddr([0x02, 0x6c, 0x61, 0x62, 0, 2]);
/// The router, on both ports.
pub(crate) const ROUTER_MAC: MacAddr = MacAddr([0x02, 0x6c, 0x61, 0x62, 0, 3]);

/// Bytes of a frame, as it lies in a buffer.
pub(crate) const FRAME: usize = 64;

/// Of a Service, and of the backend behind it.
pub(crate) const SERVICE_PORT: u16 = 80;
pub(crate) const BACKEND_PORT: u16 = 8080;

/// Flows of one destination: source ports from [`FIRST_PORT`].
pub(crate) const FLOWS_A_DESTINATION: u32 = 32_768;
const FIRST_PORT: u16 = 16_384;

const UDP: u8 = 17;

/// Address of a Service, by number.
pub(crate) fn service(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + number)
}

/// Where the packets of a bench go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The receiver itself, on ports from 1024.
    Pod,
    /// Services, the first of so many in turn.
    Services(u32),
}

/// The packets of a bench.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) flows: u32,
    pub(crate) to: Destination,
}

/// Addresses and ports of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) dst: Ipv4Addr,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
}

impl Traffic {
    /// The flow with this number, below `flows`.
    pub(crate) fn flow(&self, number: u32) -> Flow {
        let (source, destination) = (number % FLOWS_A_DESTINATION, number / FLOWS_A_DESTINATION);
        let src_port = FIRST_PORT + u16::try_from(source).unwrap_or(0);
        match self.to {
            Destination::Pod => {
                let dst_port = 1024 + u16::try_from(destination).unwrap_or(u16::MAX - 1024);
                Flow { dst: SERVER, src_port, dst_port }
            }
            // A few flows spread over all Services too.
            Destination::Services(services) => {
                let number = (destination + number) % services.max(1);
                Flow { dst: service(number), src_port, dst_port: SERVICE_PORT }
            }
        }
    }

    /// Writes them all to a pcap file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let written = File::create(path).and_then(|file| {
            let mut file = BufWriter::new(file);
            // Microseconds, little endian, version 2.4, link type Ethernet (the libpcap file format).
            for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1] {
                file.write_all(&u32::to_le_bytes(word))?;
            }
            let length = u32::try_from(FRAME).unwrap_or(0).to_le_bytes();
            for number in shuffled(self.flows) {
                file.write_all(&[0; 8])?;
                file.write_all(&length)?;
                file.write_all(&length)?;
                file.write_all(&frame(self.flow(number)))?;
            }
            file.flush()
        });
        written.with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// 0 to `n - 1`, each once, in an order that is always the same.
fn shuffled(n: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..n).collect();
    // Knuth's generator (MMIX) and his shuffle: any order without pattern will do.
    let mut state = 1_u64;
    for at in (1..all.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(state >> 33).unwrap_or(0) % (at + 1);
        all.swap(at, other);
    }
    all
}

/// A UDP datagram with checksums, from the client to the router.
fn frame(flow: Flow) -> [u8; FRAME] {
    let mut bytes = [0_u8; FRAME];
    let (ethernet, ip) = bytes.split_at_mut(14);
    ethernet[..6].copy_from_slice(&ROUTER_MAC.0);
    ethernet[6..12].copy_from_slice(&CLIENT_MAC.0);
    ethernet[12..].copy_from_slice(&[0x08, 0x00]);
    let ip_length = u16::try_from(ip.len()).unwrap_or(0);
    let udp_length = ip_length - 20;
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&ip_length.to_be_bytes());
    ip[8] = 64;
    ip[9] = UDP;
    ip[12..16].copy_from_slice(&CLIENT.octets());
    ip[16..20].copy_from_slice(&flow.dst.octets());
    let header = internet_checksum(&ip[..20]);
    ip[10..12].copy_from_slice(&header.to_be_bytes());
    let udp = &mut ip[20..];
    udp[..2].copy_from_slice(&flow.src_port.to_be_bytes());
    udp[2..4].copy_from_slice(&flow.dst_port.to_be_bytes());
    udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
    let all = !fold(pseudo_header_v4(CLIENT, flow.dst, UDP, udp_length) + sum(udp));
    // Zero would say that there is none (RFC 768).
    let all = if all == 0 { 0xffff } else { all };
    udp[6..8].copy_from_slice(&all.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn frames_are_whole_and_their_checksums_right() {
        let frame = frame(Flow { dst: SERVER, src_port: 4711, dst_port: 53 });
        let parsed = wire::parse(&frame, frame.len()).unwrap();
        assert_eq!((parsed.src_port, parsed.dst_port, parsed.protocol), (4711, 53, UDP));
        assert_eq!(internet_checksum(&frame[14..34]), 0);
        let udp = &frame[34..];
        let length = u16::try_from(udp.len()).unwrap();
        assert_eq!(fold(pseudo_header_v4(CLIENT, SERVER, UDP, length) + sum(udp)), 0xffff);
    }

    #[test]
    fn each_flow_is_another() {
        for to in [Destination::Pod, Destination::Services(1), Destination::Services(100)] {
            let flows = if to == Destination::Services(1) { FLOWS_A_DESTINATION } else { 200_000 };
            let traffic = Traffic { flows, to };
            let all: HashSet<Flow> = (0..flows).map(|number| traffic.flow(number)).collect();
            assert_eq!(all.len(), flows as usize, "{to:?}");
        }
    }

    #[test]
    fn a_shuffle_has_each_number_once() {
        let mut all = shuffled(1_000);
        assert_ne!(all[..4], [0, 1, 2, 3]);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1_000));
    }
}
