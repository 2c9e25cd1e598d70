//! A router between two nodes that takes less than they do: what comes of its word, from one worker's uplink to another's pod.

use std::net::Ipv4Addr;
use std::time::Duration;

use proto::dataplane::{
    Interface, InterfaceAddress, Limits, Op, PortKind, PortSpec, Request, Response, Route, RouteKey,
    RouteTarget, TunnelPeer, TunnelPeerKey,
};
use tap::VirtioNetHeader;

use crate::dataplane::{Dataplane, ROUTER};
use crate::ends::{Backend, Driver, End, FarEnd, patiently};
use crate::frames::{endpoint, udp};
use crate::pod::gateway;

const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2)];
const VNI: u32 = 7;
/// Of the tunnel, and of what is inside once the router has been heard.
const MTU: u16 = 1_450;
const NARROW: u16 = 1_350;

/// A UDP packet of so many bytes, of pod 1 to pod 2, who is elsewhere.
fn long(bytes: u16, may_be_fragmented: bool) -> Vec<u8> {
    let mut frame = udp(1, 2, 64);
    for at in frame.len()..14 + usize::from(bytes) {
        frame.push(at.to_le_bytes()[0] ^ at.to_le_bytes()[1]);
    }
    frame[16..18].copy_from_slice(&bytes.to_be_bytes());
    frame[38..40].copy_from_slice(&(bytes - 20).to_be_bytes());
    if may_be_fragmented {
        frame[20] = 0;
    }
    wire::Ipv4Packet::new_checked(&mut frame[14..]).unwrap().fill_checksum();
    frame
}

/// What the router says of a datagram of ours.
fn too_big() -> Vec<u8> {
    let ipv4 = |protocol, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]| {
        let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let mut packet = vec![0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 60, protocol, 0, 0];
        packet.extend(src.octets());
        packet.extend(dst.octets());
        packet.extend(payload);
        wire::Ipv4Packet::new_checked(&mut packet[..]).unwrap().fill_checksum();
        packet
    };
    let datagram = [&[0xc1, 0x23, 0x12, 0xb5, 5, 0x7c, 0, 0][..], &wire::vxlan_header(VNI)].concat();
    let mut quoted = ipv4(17, ENDS[0], ENDS[1], &datagram);
    quoted[2..4].copy_from_slice(&1_500_u16.to_be_bytes());
    let mut icmp = [&[3, 4, 0, 0, 0, 0][..], &(NARROW + 50).to_be_bytes(), &quoted].concat();
    wire::Icmpv4Packet::new_checked(&mut icmp[..]).unwrap().fill_checksum();
    let packet = ipv4(1, Ipv4Addr::new(203, 0, 113, 7), ENDS[0], &icmp);
    [&ROUTER.0[..], &[2, 0, 0, 0, 1, 2, 8, 0], &packet].concat()
}

fn start(workers: &str) -> (Dataplane, End, End) {
    let mut dataplane = Dataplane::start(&["--workers", workers]);
    let socket = |name: &str| dataplane.dir.path().join(name);
    let (guest, back) = (socket("guest"), socket("back"));
    let backend = Backend::start(&back, 1);
    let device = Backend::device("net_virtio_user0", &back, 1);
    let ports = [
        ("under", MTU + 50, PortKind::Ethdev(device)),
        ("over", MTU, PortKind::Vxlan { uplink: "under".into(), vni: VNI, udp_port: 4_789 }),
        ("pod", 1_500, PortKind::Vhost { path: guest.clone(), server: true, queue_pairs: 1 }),
    ];
    for (name, mtu, kind) in ports {
        let spec = PortSpec { name: name.into(), kind, mac: Some(ROUTER), mtu, limits: Limits::default() };
        dataplane.try_add(spec, &[]).unwrap();
    }
    let pod = End::Guest(Driver::connect(&guest, false));
    let far = endpoint(2, "over");
    let addresses = vec![InterfaceAddress { address: ENDS[0].into(), prefix_len: 24 }];
    let key = TunnelPeerKey { port: "over".into(), address: ENDS[1].into() };
    let target = RouteTarget::NextHop { port: "over".into(), address: ENDS[1].into(), inside: true };
    let key4 = RouteKey { network: 0, prefix: wire::IpPrefix::host(far.addresses[0]) };
    dataplane.commit(
        0,
        vec![
            gateway(),
            Op::SetInterfaces { interfaces: vec![Interface { port: "under".into(), network: 0, addresses }] },
            Op::SetEndpoints { endpoints: vec![endpoint(1, "pod")] },
            Op::SetTunnelPeers { peers: vec![TunnelPeer { key, mac: far.mac }] },
            Op::SetRoutes { routes: vec![Route { key: key4, target }] },
        ],
    );
    dataplane.until("all ports are up", |d| ["under", "over", "pod"].iter().all(|name| d.port(name).up));
    (dataplane, pod, End::Tunnel(FarEnd { backend, ends: ENDS, vni: VNI }))
}

/// What comes at the far end, until it is so many frames.
fn come(far: &mut End, frames: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    patiently("the far end has it", || {
        all.extend(far.take().into_iter().map(|(_, frame)| frame));
        all.len() >= frames
    });
    // And no more.
    std::thread::sleep(Duration::from_millis(20));
    all.extend(far.take().into_iter().map(|(_, frame)| frame));
    assert_eq!(all.len(), frames);
    all
}

#[test]
fn what_may_be_fragmented_is_and_what_may_not_is_told_of() {
    for workers in ["0", "0,1"] {
        let (mut dataplane, mut pod, mut far) = start(workers);
        let plain = VirtioNetHeader::default();
        let path_mtu = |dataplane: &mut Dataplane| {
            let Response::Neighbours { neighbours } = dataplane.call(&Request::ShowNeighbours) else {
                panic!()
            };
            neighbours.iter().find(|one| one.state == "permanent").unwrap().path_mtu
        };
        for may_be in [true, false] {
            pod.give(plain, &long(MTU, may_be));
            assert_eq!(come(&mut far, 1)[0].len(), 14 + usize::from(MTU));
        }
        assert_eq!(path_mtu(&mut dataplane), None);

        let End::Tunnel(end) = &mut far else { panic!() };
        end.backend.give(0, plain, &too_big());
        dataplane.until("the router is heard", |d| path_mtu(d) == Some(NARROW));

        for bytes in [NARROW + 1, MTU] {
            let sent = long(bytes, true);
            pod.give(plain, &sent);
            let pieces = come(&mut far, 2);
            assert!(pieces.iter().all(|piece| piece.len() <= 14 + usize::from(NARROW)));
            let mut payload = vec![0; usize::from(bytes) - 20];
            for piece in &pieces {
                let offset = usize::from(u16::from_be_bytes([piece[20], piece[21]]) & 0x1fff) * 8;
                payload[offset..offset + piece.len() - 34].copy_from_slice(&piece[34..]);
            }
            assert_eq!(payload, sent[34..]);
        }
        pod.give(plain, &long(NARROW, false));
        come(&mut far, 1);
        pod.give(plain, &long(NARROW + 1, false));
        let mut told = Vec::new();
        patiently("the pod is told", || {
            told.extend(
                pod.take().into_iter().filter(|(_, frame)| frame[12..14] == [8, 0] && frame[23] == 1),
            );
            !told.is_empty()
        });
        let (_, frame) = &told[0];
        assert_eq!((&frame[34..36], &frame[40..42]), (&[3, 4][..], &NARROW.to_be_bytes()[..]));
        assert_eq!(dataplane.drops("pod", "packet-too-big"), 1);
        come(&mut far, 0);
        dataplane.assert_ledger();
        assert!(dataplane.terminate().success());
    }
}
