//! TCP and UDP, between pods and to the outside: full-size segments, checksums left to devices, many packets at once.

use lab::iperf::{Load, transfer};
use lab::node::{HOST, OUTSIDE, Options};
use lab::pod::Family;
use proto::dataplane::WorkerFlows;

use crate::Bed;

/// Enough for a slow and busy machine to show that data flows, and too much for handshakes alone.
const A_MEGABYTE: u64 = 1 << 20;

#[test]
fn tcp_between_pods_the_host_and_the_outside() {
    let bed = Bed::new(Options::default());
    for family in Family::BOTH {
        let (a, b) = (bed.a.address(family), bed.b.address(family));
        let ways = [
            (&bed.b.netns, &bed.a.netns, b.as_str()),
            (&bed.node.outside, &bed.a.netns, family.of(OUTSIDE)),
            (&bed.a.netns, &bed.node.outside, a.as_str()),
            (&bed.b.netns, &bed.node.host, b.as_str()),
            (&bed.node.host, &bed.b.netns, family.of(HOST)),
        ];
        for (server, client, address) in ways {
            let got = transfer(&bed.node.run, server, client, address, Load::Tcp, 1).unwrap();
            assert!(got.bytes > A_MEGABYTE, "{} to {address}: {got:?}", client.name());
        }
    }
    // Large segments and unfinished checksums of known flows go the short way, as all others do.
    let workers = bed.node.query().workers().unwrap();
    let flows =
        |count: fn(&WorkerFlows) -> u64| workers.iter().map(|worker| count(&worker.flows)).sum::<u64>();
    let (replayed, decided) = (flows(|flows| flows.replayed), flows(|flows| flows.decided));
    assert!(replayed > 10 * decided, "{replayed} replayed, {decided} decided");
    bed.node.query().ledger().unwrap();
}

#[test]
fn udp_between_pods_and_the_outside() {
    let bed = Bed::new(Options::default());
    let load = Load::Udp { megabits: 10 };
    for family in Family::BOTH {
        let b = bed.b.address(family);
        let ways = [(&bed.b.netns, b.as_str()), (&bed.node.outside, family.of(OUTSIDE))];
        for (server, address) in ways {
            let got = transfer(&bed.node.run, server, &bed.a.netns, address, load, 2).unwrap();
            // A rate far below what any machine can do; what is lost is lost by a mistake.
            assert!(got.sent > 1_000 && got.lost == 0, "to {address}: {got:?}");
        }
    }
    bed.node.query().ledger().unwrap();
}
