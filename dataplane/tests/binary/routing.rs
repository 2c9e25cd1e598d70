//! Packets through real ports: routed, answered, dropped by name, or held for a neighbour.

use proto::dataplane::{
    Interface, InterfaceAddress, Op, PortKind, Request, Response, Route, RouteKey, RouteTarget,
};

use crate::dataplane::Dataplane;
use crate::frames::{endpoint, frames_of, pcap, udp};

#[test]
fn what_a_memory_port_plays_is_routed_answered_or_dropped_by_name() {
    let mut dataplane = Dataplane::start(&[]);
    let (input, back, out) = (
        dataplane.dir.path().join("in"),
        dataplane.dir.path().join("back"),
        dataplane.dir.path().join("out"),
    );
    let spoofed = udp(9, 2, 64);
    pcap(&input, &[udp(1, 2, 64), udp(1, 2, 1), udp(1, 77, 64), spoofed, vec![0xff; 9], udp(1, 2, 2)]);
    dataplane.add("a", PortKind::Memory { rx_pcap: Some(input), tx_pcap: Some(back.clone()), repeat: false });
    dataplane.add("b", PortKind::Memory { rx_pcap: None, tx_pcap: Some(out.clone()), repeat: false });
    dataplane.commit(0, vec![Op::SetEndpoints { endpoints: vec![endpoint(1, "a"), endpoint(2, "b")] }]);
    dataplane.until("all frames are played", |d| d.port("a").rx_packets == 6 && d.port("a").tx_packets == 2);

    assert_eq!(dataplane.port("b").tx_packets, 2);
    for (reason, count) in
        [("ttl-exceeded", 1), ("no-route", 1), ("source-mac-spoofed", 1), ("frame-too-short", 1)]
    {
        assert_eq!(dataplane.drops("a", reason), count, "{reason}");
    }
    assert_eq!(dataplane.port("a").rx_drops, 4);
    dataplane.assert_ledger();

    dataplane.commit(1, vec![Op::RemoveEndpoints { names: vec!["pod1".into(), "pod2".into()] }]);
    for name in ["a", "b"] {
        assert_eq!(dataplane.call(&Request::RemovePort { name: name.into() }), Response::Done);
    }
    let forwarded = frames_of(&out);
    let mut expected = udp(1, 2, 63);
    expected[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 0x02, 0x70, 0x6f, 0x64, 0, 1]);
    assert_eq!(forwarded.len(), 2);
    assert_eq!(forwarded[0], expected);
    let errors: Vec<_> = frames_of(&back).iter().map(|frame| (frame[23], frame[34], frame[35])).collect();
    assert_eq!(errors, [(1, 11, 0), (1, 3, 0)], "ICMP time exceeded, then net unreachable");
    assert!(dataplane.terminate().success());
}

#[test]
fn neighbours_are_asked_for_and_packets_wait_a_bounded_while() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    pcap(&source, &(0..20).map(|_| udp(1, 2, 64)).collect::<Vec<_>>());
    let mut dataplane = Dataplane::start(&["--vdev", "net_null0,no-rx=1"]);
    dataplane.ethdev("uplink", "net_null0");
    dataplane.add("a", PortKind::Memory { rx_pcap: Some(source), tx_pcap: None, repeat: false });
    let interface = Interface {
        port: "uplink".into(),
        network: 0,
        addresses: vec![InterfaceAddress { address: "192.0.2.1".parse().unwrap(), prefix_len: 24 }],
    };
    let route = Route {
        key: RouteKey { network: 0, prefix: "10.0.0.0/24".parse().unwrap() },
        target: RouteTarget::NextHop {
            port: "uplink".into(),
            address: "192.0.2.9".parse().unwrap(),
            inside: false,
        },
    };
    dataplane.commit(
        0,
        vec![
            Op::SetInterfaces { interfaces: vec![interface] },
            Op::SetRoutes { routes: vec![route] },
            Op::SetEndpoints { endpoints: vec![endpoint(1, "a")] },
        ],
    );
    // Nobody answers on net_null: three questions, then those that waited are given up, and their source is told.
    dataplane.until("the neighbour is given up", |d| {
        let Response::Neighbours { neighbours } = d.call(&Request::ShowNeighbours) else { panic!() };
        neighbours.iter().any(|n| n.port == "uplink" && n.state == "failed" && n.held == 0)
    });
    dataplane.assert_ledger();
    assert_eq!(dataplane.port("uplink").tx_packets, 3, "three ARP requests");
    let full = dataplane.drops("uplink", "neighbour-queue-full");
    let unreachable = dataplane.drops("a", "neighbour-unreachable");
    assert_eq!(full + unreachable, 20, "{full} did not fit, {unreachable} waited in vain");
    assert!(full > 0 && unreachable > 0);
    assert_eq!(dataplane.port("a").tx_packets, unreachable, "host unreachable for each that waited");
}
