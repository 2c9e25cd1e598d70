//! Frames and pcap files, and the rows of the pods that send them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use proto::dataplane::{Backend, BackendState, Endpoint, EndpointKind, Frontend, FrontendKey, Op, Protocol};
use wire::MacAddr;

use crate::dataplane::ROUTER;

pub(crate) fn endpoint(number: u8, port: &str) -> Endpoint {
    Endpoint {
        name: format!("pod{number}"),
        port: port.into(),
        network: 0,
        mac: MacAddr([2, 0, 0, 0, 0, number]),
        addresses: vec![IpAddr::from([10, 0, 0, number]), format!("fd00::{number}").parse().unwrap()],
        routes: vec![],
        kind: EndpointKind::Pod,
    }
}

/// A Service at `at` for TCP and UDP, with the same backends for both.
pub(crate) fn service(at: SocketAddr, backends: &[(SocketAddr, BackendState)]) -> Op {
    let backend =
        |&(at, state): &(SocketAddr, BackendState)| Backend { address: at.ip(), port: at.port(), state };
    let frontend = |protocol| Frontend {
        key: FrontendKey { network: 0, address: at.ip(), port: at.port(), protocol: Protocol(protocol) },
        name: format!("shop/{at}").into(),
        backends: backends.iter().map(backend).collect(),
        drops: false,
        sources: vec![],
        affinity_seconds: None,
    };
    Op::SetFrontends { frontends: [6, 17].map(|own| frontend(own).into()).into() }
}

/// A UDP datagram from pod `from` to 10.0.0.`to`, 60 bytes.
pub(crate) fn udp(from: u8, to: u8, ttl: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&ROUTER.0);
    frame.extend_from_slice(&[2, 0, 0, 0, 0, from, 8, 0]);
    frame.extend_from_slice(&[0x45, 0, 0, 46, 0, 1, 0x40, 0, ttl, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
    frame.extend_from_slice(&[0x12, 0x34, 0, 53, 0, 26, 0, 0]);
    frame.extend_from_slice(&[b'x'; 18]);
    let checksum = wire::checksum::internet_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Asserts that every checksum of an IPv4 or IPv6 frame with UDP or TCP is right, and that it fits 1,500 bytes of MTU.
/// Gives its L4 payload.
pub(crate) fn assert_valid(frame: &[u8]) -> Vec<u8> {
    use wire::checksum::{fold, internet_checksum, pseudo_header_v4, pseudo_header_v6, sum};
    assert!(frame.len() <= 1514, "{} bytes", frame.len());
    let address4 = |at: usize| std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
    let address6 = |at: usize| std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let (protocol, at, pseudo) = if frame[12..14] == [8, 0] {
        assert_eq!((frame[14], internet_checksum(&frame[14..34])), (0x45, 0), "IPv4 header");
        assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])) + 14, frame.len());
        let length = u16::try_from(frame.len() - 34).unwrap();
        (frame[23], 34, pseudo_header_v4(address4(26), address4(30), frame[23], length))
    } else {
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])) + 54, frame.len());
        let length = u32::try_from(frame.len() - 54).unwrap();
        (frame[20], 54, pseudo_header_v6(address6(22), address6(38), frame[20], length))
    };
    assert_eq!(fold(pseudo + sum(&frame[at..])), 0xffff, "L4 checksum of {frame:02x?}");
    let header = if protocol == 6 { usize::from(frame[at + 12] >> 4) * 4 } else { 8 };
    frame[at + header..].to_vec()
}

pub(crate) fn pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        file.extend_from_slice(&[0; 8]);
        file.extend_from_slice(&length);
        file.extend_from_slice(&length);
        file.extend_from_slice(frame);
    }
    std::fs::write(path, file).unwrap();
}

pub(crate) fn frames_of(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut frames = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        frames.push(bytes[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    frames
}
