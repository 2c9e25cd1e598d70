//! What a pod may send and be sent to: offered many times the rate, about the rate arrives, and what does not is named on its port.

use std::time::Instant;

use lab::iperf::{Load, transfer};
use lab::node::{Node, Options};
use lab::pod::{Family, Kind, Pod};
use serde_json::json;

use crate::{node, reach};

/// In bits a second, and what that is in bytes.
const RATE: u32 = 16_000_000;
const BYTES: u32 = RATE / 8;
/// What control chooses where the runtime names the largest number that it has: the rate's bytes in 100 ms.
const BURST: u32 = BYTES / 10;
/// Many times the rate, and little for any machine.
const FLOOD: Load = Load::Udp { megabits: 160 };
const SECONDS: u32 = 3;

/// Limited in one direction, as containerd asks for it.
fn limited(node: &Node, name: &str, direction: &str) -> Pod {
    let rate = format!("{direction}Rate");
    let burst = format!("{direction}Burst");
    let capabilities = json!({"bandwidth": {rate: RATE, burst: u32::MAX}});
    Pod::attach_with(node, name, Kind::Kernel, &capabilities).unwrap()
}

fn dropped(node: &Node, reason: &str) -> Vec<(String, String, u64)> {
    let rows = node.query().drops().unwrap().into_iter();
    let named = rows.filter(|row| row.reason == reason && row.packets > 0);
    named.map(|row| (row.port, row.direction, row.packets)).collect()
}

/// Sends ten times the rate, and holds what arrived against the time that it took by this test's own clock.
fn flood(node: &Node, from: &Pod, to: &Pod) {
    let begun = Instant::now();
    let got = transfer(&node.run, &to.netns, &from.netns, &to.address(Family::V4), FLOOD, SECONDS).unwrap();
    let took = begun.elapsed().as_secs_f64();
    let arrived = f64::from(u32::try_from(got.sent - got.lost).unwrap()) * 1_200.0;
    // From above by all the time that passed; from below by the time that the sender sent for.
    let most = took * f64::from(BYTES) + f64::from(BURST);
    let least = got.seconds * f64::from(BYTES) / 2.0;
    assert!(arrived <= most * 1.05, "{arrived} of at most {most}: {got:?}");
    assert!(arrived >= least, "{arrived} of at least {least}: {got:?}");
    assert!(got.lost > got.sent / 2, "{got:?}");
}

#[test]
fn a_pod_is_held_to_its_bandwidth_and_nobody_else() {
    let mut node = node(Options::default());
    let (sender, receiver) = (limited(&node, "sender", "egress"), limited(&node, "receiver", "ingress"));
    let [a, b] = ["a", "b"].map(|name| Pod::attach(&node, name, Kind::Kernel).unwrap());
    let port = |name: &str| {
        let role = format!("default/{name}");
        node.query().ports().unwrap().into_iter().find(|port| port.role == role).unwrap().info.spec
    };
    let (sends, receives) = (port("sender"), port("receiver"));
    let limit = |limit: Option<proto::dataplane::Limit>| limit.map(|limit| (limit.rate, limit.burst));
    let asked = Some((u64::from(BYTES), u64::from(BURST)));
    assert_eq!((limit(sends.limits.egress), limit(sends.limits.ingress)), (asked, None));
    assert_eq!((limit(receives.limits.egress), limit(receives.limits.ingress)), (None, asked));
    assert!(port("a").limits.is_none());

    // Below the rate nothing is lost, and without a limit neither: in the other direction, or between others.
    let modest = Load::Udp { megabits: 8 };
    let above = Load::Udp { megabits: 40 };
    for (from, to, load) in [(&sender, &receiver, modest), (&a, &sender, above), (&a, &b, above)] {
        let to_address = to.address(Family::V4);
        let got = transfer(&node.run, &to.netns, &from.netns, &to_address, load, 1).unwrap();
        assert!(got.sent > 500, "{got:?}");
    }
    for reason in ["egress-rate-exceeded", "ingress-rate-exceeded"] {
        assert_eq!(dropped(&node, reason), []);
    }

    flood(&node, &sender, &a);
    let egress = dropped(&node, "egress-rate-exceeded");
    assert!(
        matches!(&egress[..], [(port, way, 1_000..)] if *port == sends.name && way == "rx"),
        "{egress:?}"
    );
    flood(&node, &a, &receiver);
    let ingress = dropped(&node, "ingress-rate-exceeded");
    assert!(
        matches!(&ingress[..], [(port, way, 1_000..)] if *port == receives.name && way == "tx"),
        "{ingress:?}"
    );
    assert_eq!(dropped(&node, "egress-rate-exceeded"), egress);

    // TCP finds the rate, large segments and all.
    let got =
        transfer(&node.run, &a.netns, &sender.netns, &a.address(Family::V6), Load::Tcp, SECONDS).unwrap();
    assert!(got.bytes > u64::from(BYTES), "{got:?}");
    node.query().ledger().unwrap();

    // Limits are the attachment's, and outlast both processes.
    node.restart_control().unwrap();
    node.restart_dataplane().unwrap();
    for (pod, spec) in [("sender", &sends), ("receiver", &receives)] {
        let role = format!("default/{pod}");
        let now = node.query().ports().unwrap().into_iter().find(|port| port.role == role).unwrap();
        assert_eq!(now.info.spec.limits, spec.limits);
    }
    reach(&node, &sender.netns, &receiver.address(Family::V4));
    flood(&node, &sender, &a);
    let again = dropped(&node, "egress-rate-exceeded");
    assert!(matches!(&again[..], [(port, _, 1_000..)] if *port == sends.name), "{again:?}");
    node.query().ledger().unwrap();
}
