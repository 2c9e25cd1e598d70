//! Frames, and a router to put them through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use flow::Flows;
use pipeline::{
    Adjacencies, BURST, Buffer, DropReason, Ground, Learned, Offload, Outcome, Output, Packet, Router,
    RouterConfig, Tick, Tracking, VecBuffer, Verdict,
};
use smoltcp::wire::{
    EthernetFrame, Icmpv4Packet, Icmpv6Packet, IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};
use tables::{PortId, Tables};
use wire::{IpPrefix, MacAddr};

use crate::body;

pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
/// A station on the uplink.
pub(crate) const NEIGHBOUR: MacAddr = MacAddr([0x02, 0xbb, 0, 0, 0, 9]);
pub(crate) const BROADCAST: MacAddr = MacAddr::BROADCAST;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(crate) fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A router with a flow table of its own.
pub(crate) fn router(config: RouterConfig) -> Router<VecBuffer> {
    let tracking = Tracking::alone().unwrap();
    tracking.adjacencies.sync(&body::tables());
    Router::new(config, tracking)
}

/// A router among the ports of [`body::tables`].
pub(crate) struct Bench {
    pub(crate) tables: Tables,
    pub(crate) router: Router<VecBuffer>,
    pub(crate) now: Tick,
    pub(crate) learned: Vec<Learned>,
    pub(crate) adjacencies: Arc<Adjacencies>,
    flows: Arc<Flows>,
    fragment: bool,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(RouterConfig::default())
    }

    pub(crate) fn with(config: RouterConfig) -> Self {
        let tables = body::tables();
        let tracking = Tracking::alone().unwrap();
        let adjacencies = Arc::clone(&tracking.adjacencies);
        let flows = Arc::clone(&tracking.flows);
        adjacencies.sync(&tables);
        let router = Router::new(config, tracking);
        let fragment = config.fragment;
        Self { tables, router, now: Tick(0), learned: Vec::new(), adjacencies, flows, fragment }
    }

    pub(crate) fn ground(&self) -> Ground<'_> {
        let &Self { ref tables, ref flows, ref adjacencies, now, fragment, .. } = self;
        Ground { tables, flows, adjacencies, now, fragment }
    }

    /// What a trace says of a frame, and what becomes of that. `None` for fragments, which depend on others.
    fn foretold(&self, port: PortId, frame: &[u8], offload: Offload) -> Option<(Verdict, Vec<u8>)> {
        if wire::parse(frame, frame.len()).is_ok_and(|parsed| parsed.fragment != wire::Fragment::Whole) {
            return None;
        }
        let mut packet = Packet { buffer: VecBuffer::with_capacity(frame, 2048), in_port: port, offload };
        let steps = pipeline::trace_packet(&self.ground(), &mut packet, Vec::new());
        match steps.last().unwrap().outcome {
            Outcome::Verdict { verdict, .. } => Some((verdict, packet.buffer.head().to_vec())),
            ref other => panic!("{other}"),
        }
    }

    /// Makes the next generation, as the table writer does.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Tables)) {
        change(&mut self.tables);
        self.tables.seal(tables::Generation(self.tables.generation().0 + 1));
        self.adjacencies.sync(&self.tables);
    }

    /// Has the endpoint behind a port be told of these routes, and of servers that nobody without a way to them is to be told of.
    pub(crate) fn restrict(&mut self, port: PortId, routes: &[&str]) {
        let routes: Vec<IpPrefix> = routes.iter().map(|text| text.parse().unwrap()).collect();
        self.change(|tables| {
            let endpoint = tables.endpoint_by_name(&format!("endpoint-{port}")).unwrap().clone();
            tables.set_endpoint(tables::Endpoint { routes, ..endpoint }).unwrap();
            let servers = ["10.96.0.10", "fd00::10"].map(ip).to_vec();
            tables.set_resolver(tables::Resolver::new(servers, vec!["a".to_owned()]).unwrap());
        });
    }

    /// What becomes of a frame, and the bytes it has then. Time passes, so that no rate limit is met by accident.
    pub(crate) fn put(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.put_offloaded(port, frame, Offload::Done).into()
    }

    pub(crate) fn put_offloaded(&mut self, port: PortId, frame: &[u8], offload: Offload) -> Put {
        self.now = self.now.after_ms(1_000);
        body::check(&self.tables, port, offload, frame);
        self.put_now(port, frame, offload)
    }

    pub(crate) fn put_now(&mut self, port: PortId, frame: &[u8], offload: Offload) -> Put {
        let foretold = self.foretold(port, frame, offload);
        let suppressed = self.router.icmp_errors_suppressed();
        let mut packet = Packet { buffer: VecBuffer::with_capacity(frame, 2048), in_port: port, offload };
        let mut verdicts = ArrayVec::<Verdict, BURST>::new();
        self.router.run(&self.tables, self.now, std::slice::from_mut(&mut packet), &mut verdicts);
        self.learned = self.router.learned().collect();
        // A trace knows no limit of errors, and all else.
        if let Some(foretold) = foretold.filter(|_| self.router.icmp_errors_suppressed() == suppressed) {
            assert_eq!(foretold, (verdicts[0], packet.buffer.head().to_vec()), "a trace says otherwise");
        }
        Put { verdict: verdicts[0], packet }
    }

    /// As `put`, of a connection that may be translated: the frame alone says nothing of what it becomes.
    pub(crate) fn send(&mut self, port: PortId, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.send_offloaded(port, frame, Offload::Done).into()
    }

    pub(crate) fn send_offloaded(&mut self, port: PortId, frame: &[u8], offload: Offload) -> Put {
        self.now = self.now.after_ms(1_000);
        self.put_now(port, frame, offload)
    }

    /// The frame is dropped for that reason, and nobody is told.
    #[track_caller]
    pub(crate) fn drops(&mut self, port: PortId, frame: &[u8], reason: DropReason) {
        assert_eq!(self.put(port, frame).0, Verdict::Drop(reason));
        assert_eq!(self.learned, []);
    }
}

pub(crate) struct Put {
    pub(crate) verdict: Verdict,
    pub(crate) packet: Packet<VecBuffer>,
}

impl From<Put> for (Verdict, Vec<u8>) {
    fn from(put: Put) -> Self {
        (put.verdict, put.packet.buffer.head().to_vec())
    }
}

pub(crate) const fn by(port: PortId) -> Output {
    Output::Port(port)
}

pub(crate) fn ethernet(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ethertype.to_be_bytes(), payload].concat()
}

/// From whoever is behind `port`, to the router.
pub(crate) fn from(port: PortId, src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let station = if port == body::UPLINK || port == body::UPLINK2 { NEIGHBOUR } else { body::mac(port) };
    packet(body::port_mac(port), station, src, dst, protocol, payload)
}

/// With TTL 64 and DF.
pub(crate) fn packet(
    dst_mac: MacAddr,
    src_mac: MacAddr,
    src: &str,
    dst: &str,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    match (ip(src), ip(dst)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            let mut l3 = vec![0x45, 0, len[0], len[1], 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
            l3.extend(src.octets());
            l3.extend(dst.octets());
            l3.extend(payload);
            let mut frame = ethernet(dst_mac, src_mac, 0x0800, &l3);
            fill_header_checksum(&mut frame);
            frame
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let mut l3 = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
            l3.extend(src.octets());
            l3.extend(dst.octets());
            l3.extend(payload);
            ethernet(dst_mac, src_mac, 0x86dd, &l3)
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
}

pub(crate) fn fill_header_checksum(frame: &mut [u8]) {
    Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
}

/// The IPv4 frame with another TTL, flags and offset, and options.
pub(crate) fn edited_v4(frame: &[u8], ttl: u8, flags_offset: u16, options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let mut frame = frame.to_vec();
    frame.splice(34..34, options.iter().copied());
    let total = u16::try_from(frame.len() - 14).unwrap();
    frame[14] = 0x45 + u8::try_from(options.len() / 4).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[20..22].copy_from_slice(&flags_offset.to_be_bytes());
    frame[22] = ttl;
    fill_header_checksum(&mut frame);
    frame
}

/// The IPv6 frame with an extension header of `kind` in front of its payload.
pub(crate) fn extended_v6(frame: &[u8], kind: u8, mut header: [u8; 8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    header[0] = frame[20];
    frame[20] = kind;
    frame.splice(54..54, header);
    let payload = u16::try_from(frame.len() - 54).unwrap();
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    frame
}

pub(crate) fn with_hop_limit(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    if frame[12..14] == [8, 0] {
        return edited_v4(&frame, hops, 0x4000, &[]);
    }
    frame[21] = hops;
    frame
}

/// A datagram without a checksum.
pub(crate) fn udp(src_port: u16, dst_port: u16, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + data.len()).unwrap();
    [&src_port.to_be_bytes()[..], &dst_port.to_be_bytes(), &len.to_be_bytes(), &[0, 0], data].concat()
}

pub(crate) fn tcp(flags: u8, data: &[u8]) -> Vec<u8> {
    let mut header = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
    header.extend(data);
    header
}

pub(crate) fn icmp4(kind: u8, code: u8, data: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], data].concat();
    Icmpv4Packet::new_unchecked(&mut message[..]).fill_checksum();
    message
}

pub(crate) fn icmp6(src: &str, dst: &str, kind: u8, code: u8, data: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], data].concat();
    Icmpv6Packet::new_unchecked(&mut message[..]).fill_checksum(&v6(src), &v6(dst));
    message
}

/// A ping in either family, with identifier 0x0102, sequence number 3 and `data`.
pub(crate) fn ping(port: PortId, src: &str, dst: &str, data: &[u8]) -> Vec<u8> {
    let data = [&[1, 2, 0, 3], data].concat();
    match ip(dst) {
        IpAddr::V4(_) => from(port, src, dst, ICMP, &icmp4(8, 0, &data)),
        IpAddr::V6(_) => from(port, src, dst, ICMPV6, &icmp6(src, dst, 128, 0, &data)),
    }
}

/// What smoltcp reads in a frame of ours, all checksums verified.
#[derive(Debug)]
pub(crate) struct Read<'f> {
    pub(crate) dst_mac: MacAddr,
    pub(crate) src_mac: MacAddr,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) hops: u8,
    pub(crate) payload: &'f [u8],
}

pub(crate) fn read(frame: &[u8]) -> Read<'_> {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let (dst_mac, src_mac) = (MacAddr(ethernet.dst_addr().0), MacAddr(ethernet.src_addr().0));
    let l3 = &frame[14..];
    if frame[12..14] == [8, 0] {
        let packet = Ipv4Packet::new_checked(l3).unwrap();
        assert!(packet.verify_checksum());
        assert_eq!(packet.version(), 4);
        assert_eq!(usize::from(packet.total_len()), l3.len());
        let (src, dst) = (packet.src_addr().into(), packet.dst_addr().into());
        let payload = &l3[usize::from(packet.header_len())..];
        return Read { dst_mac, src_mac, src, dst, hops: packet.hop_limit(), payload };
    }
    assert_eq!(frame[12..14], [0x86, 0xdd]);
    let packet = Ipv6Packet::new_checked(l3).unwrap();
    assert_eq!((packet.version(), packet.total_len()), (6, l3.len()));
    let (src, dst) = (packet.src_addr().into(), packet.dst_addr().into());
    Read { dst_mac, src_mac, src, dst, hops: packet.hop_limit(), payload: &l3[40..] }
}

impl Read<'_> {
    /// Type, code and what is behind the checksum, which is right by smoltcp.
    pub(crate) fn icmp(&self) -> (u8, u8, &[u8]) {
        match (self.src, self.dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                assert!(Icmpv4Packet::new_checked(self.payload).unwrap().verify_checksum());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                assert!(Icmpv6Packet::new_checked(self.payload).unwrap().verify_checksum(&src, &dst));
            }
            _ => panic!("{self:?}"),
        }
        (self.payload[0], self.payload[1], &self.payload[4..])
    }

    pub(crate) fn transport_checksum_is_right(&self, protocol: u8) -> bool {
        let (src, dst): (IpAddress, IpAddress) = (self.src.into(), self.dst.into());
        match protocol {
            TCP => TcpPacket::new_checked(self.payload).unwrap().verify_checksum(&src, &dst),
            // smoltcp takes a missing one for right.
            UDP => {
                let packet = UdpPacket::new_checked(self.payload).unwrap();
                packet.checksum() != 0 && packet.verify_checksum(&src, &dst)
            }
            _ => panic!("{protocol}"),
        }
    }
}
