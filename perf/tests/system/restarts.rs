//! Either process is killed as by a crash, and started again: the node comes back to the same state by itself.

use std::time::Duration;

use lab::node::{HOST_DEVICE, OUTSIDE, Options};
use lab::ping::Ping;
use lab::pod::{Family, INTERFACE, Kind, Pod};

use crate::{Bed, reach};

#[test]
fn no_packet_is_lost_while_control_is_away() {
    let mut bed = Bed::new(Options::default());
    bed.talk();
    let routes = bed.node.query().json(&["show", "routes"]).unwrap();
    let ports: Vec<_> = bed.node.query().ports().unwrap().into_iter().map(|port| port.info).collect();

    let ping = Ping { count: 2_400, interval: Duration::from_millis(5), ..Ping::default() };
    let Bed { a, b, node } = &mut bed;
    std::thread::scope(|scope| {
        let pinging = Family::BOTH.map(|family| {
            let (ping, from, to) = (&ping, &a.netns, b.address(family));
            scope.spawn(move || ping.run(from, &to))
        });
        // At any moment of its start, from its first instruction to all being well (Numerical Recipes, section 7.1).
        let mut series = 1u32;
        for _ in 0..100 {
            series = series.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            node.crash_control(Duration::from_millis(u64::from(series >> 8) % 80)).unwrap();
        }
        node.settle().unwrap();
        for pinging in pinging {
            let pinged = pinging.join().unwrap().unwrap();
            assert!(pinged.complete(), "{} of {}", pinged.received, pinged.sent);
        }
    });

    // Compared, found equal, and left alone: not even the generation has moved.
    assert_eq!(bed.node.query().json(&["show", "routes"]).unwrap(), routes);
    let after: Vec<_> = bed.node.query().ports().unwrap().into_iter().map(|port| port.info).collect();
    assert_eq!(after, ports);
    // And it has not forgotten how to attach.
    let c = Pod::attach(&bed.node, "c", Kind::Kernel).unwrap();
    let taken = [&bed.a, &bed.b].map(|pod| pod.addresses.clone());
    assert!(c.addresses.iter().all(|address| !taken.concat().contains(address)), "{:?}", c.addresses);
    reach(&bed.node, &c.netns, &bed.a.address(Family::V6));
    bed.node.query().ledger().unwrap();
}

#[test]
fn pods_keep_device_address_and_carrier_while_the_data_plane_is_away() {
    let mut bed = Bed::new(Options::default());
    bed.talk();
    let before = [&bed.a, &bed.b].map(seen_by_the_pod);
    let host = bed.node.host.ip(&["-o", "link", "show", "dev", HOST_DEVICE]).unwrap();
    let instance = bed.node.query().json(&["status"]).unwrap()["dataplane"]["instance"].clone();

    bed.node.restart_dataplane().unwrap();
    let status = bed.node.query().json(&["status"]).unwrap();
    assert_ne!(status["dataplane"]["instance"], instance, "it is another process");
    assert_eq!([&bed.a, &bed.b].map(seen_by_the_pod), before);
    assert_eq!(bed.node.host.ip(&["-o", "link", "show", "dev", HOST_DEVICE]).unwrap(), host);
    bed.talk();
    for family in Family::BOTH {
        reach(&bed.node, &bed.a.netns, family.of(OUTSIDE));
        reach(&bed.node, &bed.node.host, &bed.b.address(family));
    }
    bed.node.query().ledger().unwrap();
}

#[test]
fn both_away_at_once_come_back_by_the_journal() {
    let mut bed = Bed::new(Options::default());
    let addresses = [&bed.a, &bed.b].map(|pod| pod.addresses.clone());
    bed.node.restart_both().unwrap();
    bed.talk();
    // The journal holds the attachments: they can be taken away, and their addresses are still taken.
    let c = Pod::attach(&bed.node, "c", Kind::Kernel).unwrap();
    assert!(c.addresses.iter().all(|address| !addresses.concat().contains(address)), "{:?}", c.addresses);
    bed.a.detach(&bed.node).unwrap();
    reach(&bed.node, &c.netns, &bed.b.address(Family::V4));
    bed.node.query().ledger().unwrap();
}

/// What a pod would notice: its device's index, MAC, MTU, flags and how often the carrier changed; addresses; routes.
fn seen_by_the_pod(pod: &Pod) -> [String; 4] {
    let link = pod.netns.ip(&["-o", "link", "show", "dev", INTERFACE]).unwrap();
    assert!(link.contains("LOWER_UP"), "{link}");
    [
        link,
        pod.netns.succeed("cat", &[&format!("/sys/class/net/{INTERFACE}/carrier_changes")]).unwrap(),
        pod.netns.ip(&["-o", "address", "show", "dev", INTERFACE]).unwrap(),
        pod.netns.ip(&["route", "show"]).unwrap() + &pod.netns.ip(&["-6", "route", "show"]).unwrap(),
    ]
}
