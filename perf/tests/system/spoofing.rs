//! A pod sends from its own addresses or not at all.

use lab::node::Options;
use lab::ping::Ping;
use lab::pod::{Family, INTERFACE};

use crate::Bed;

#[test]
fn a_foreign_source_address_is_dropped_by_name() {
    let bed = Bed::new(Options::default());
    let query = bed.node.query();
    for (family, foreign) in [(Family::V4, "10.244.1.77"), (Family::V6, "fd00:10:244:1::77")] {
        let length = if family == Family::V4 { 32 } else { 128 };
        bed.a.netns.add_address(INTERFACE, &format!("{foreign}/{length}")).unwrap();
        let before = query.dropped("source-address-spoofed").unwrap();
        let received = bed.node.query().ports().unwrap();
        let ping = Ping { source: Some(foreign.parse().unwrap()), ..Ping::default() };
        let pinged = ping.run(&bed.a.netns, &bed.b.address(family)).unwrap();
        assert_eq!(pinged.received, 0, "{}", pinged.text);
        assert_eq!(query.dropped("source-address-spoofed").unwrap(), before + u64::from(pinged.sent));
        // Not even once did it come out at the other pod.
        let sent_to_b = |ports: &[proto::dataplane::PortStatus]| {
            ports.iter().find(|port| port.info.spec.name == port_of(ports, "b")).unwrap().tx_packets
        };
        assert_eq!(sent_to_b(&received), sent_to_b(&query.ports().unwrap()));
    }
    bed.talk();
    query.ledger().unwrap();
}

#[test]
fn a_foreign_source_mac_is_dropped_by_name() {
    let bed = Bed::new(Options::default());
    let query = bed.node.query();
    bed.talk();
    let before = query.dropped("source-mac-spoofed").unwrap();
    bed.a.netns.ip(&["link", "set", INTERFACE, "address", "02:00:00:00:be:ef"]).unwrap();
    let ping = Ping { count: 2, ..Ping::default() };
    let pinged = ping.run(&bed.a.netns, &bed.b.address(Family::V4)).unwrap();
    assert_eq!(pinged.received, 0, "{}", pinged.text);
    assert!(query.dropped("source-mac-spoofed").unwrap() >= before + 2, "{:?}", query.drops_by_reason());
    query.ledger().unwrap();
}

/// The port whose endpoint is a pod of this name.
fn port_of(ports: &[proto::dataplane::PortStatus], pod: &str) -> String {
    let role = format!("default/{pod}");
    ports.iter().find(|port| port.role == role).map(|port| port.info.spec.name.clone()).unwrap()
}
