//! What cannot be forwarded is told to its sender, as RFC 792, RFC 4443, RFC 1191 and RFC 8201 say, and counted by name.

use lab::iperf::{Load, transfer};
use lab::node::{OUTSIDE, Options};
use lab::ping::Ping;
use lab::pod::Family;
use lab::wait::{PATIENCE, wait_until};

use crate::Bed;

#[test]
fn a_hop_limit_that_runs_out_is_told() {
    let bed = Bed::new(Options::default());
    let query = bed.node.query();
    for family in Family::BOTH {
        let before = query.dropped("ttl-exceeded").unwrap();
        let ping = Ping { count: 1, ttl: Some(1), ..Ping::default() };
        let pinged = ping.run(&bed.a.netns, &bed.b.address(family)).unwrap();
        let expected = match family {
            Family::V4 => "Time to live exceeded",
            Family::V6 => "Time exceeded: Hop limit",
        };
        assert!(pinged.received == 0 && pinged.text.contains(expected), "{}", pinged.text);
        assert_eq!(query.dropped("ttl-exceeded").unwrap(), before + 1);
    }
    query.ledger().unwrap();
}

#[test]
fn an_address_that_no_pod_has_is_unreachable() {
    let bed = Bed::new(Options::default());
    let query = bed.node.query();
    for (nobody, expected) in [
        ("10.244.1.250", "Destination Host Unreachable"),
        ("fd00:10:244:1::fafa", "Destination unreachable: Address unreachable"),
    ] {
        let before = query.dropped("unreachable").unwrap();
        for from in [&bed.a.netns, &bed.node.outside] {
            let pinged = Ping { count: 1, ..Ping::default() }.run(from, nobody).unwrap();
            assert!(pinged.received == 0 && pinged.text.contains(expected), "{}", pinged.text);
        }
        assert_eq!(query.dropped("unreachable").unwrap(), before + 2);
    }
    query.ledger().unwrap();
}

#[test]
fn a_neighbour_that_does_not_answer_is_given_up() {
    let bed = Bed::new(Options::default());
    let query = bed.node.query();
    for nobody in ["192.168.78.200", "fd00:78::200"] {
        let pinged = Ping { count: 2, ..Ping::default() }.run(&bed.a.netns, nobody).unwrap();
        assert_eq!(pinged.received, 0, "{}", pinged.text);
        // Held while it was asked for, and then not forgotten: each is a drop with a name.
        wait_until("the held packets are dropped", PATIENCE, || {
            let neighbours = query.neighbours()?;
            let held = neighbours.iter().any(|row| row.address.to_string() == nobody && row.held > 0);
            if held { Err(anyhow::anyhow!("{neighbours:?}")) } else { Ok(()) }
        })
        .unwrap();
    }
    assert!(query.dropped("neighbour-unreachable").unwrap() >= 4, "{:?}", query.drops_by_reason());
    query.ledger().unwrap();
}

#[test]
fn a_packet_too_big_is_told_and_tcp_adapts() {
    let bed = Bed::new(Options { uplink_mtu: 1300, pod_mtu: Some(1500), ..Options::default() });
    let query = bed.node.query();
    for family in Family::BOTH {
        let outside = family.of(OUTSIDE);
        let before = query.dropped("packet-too-big").unwrap();
        let ping = Ping { count: 1, size: Some(1400), whole: true, ..Ping::default() };
        let pinged = ping.run(&bed.a.netns, outside).unwrap();
        let expected = match family {
            Family::V4 => "Frag needed and DF set (mtu = 1300)",
            Family::V6 => "Packet too big: mtu=1300",
        };
        assert!(pinged.received == 0 && pinged.text.contains(expected), "{}", pinged.text);
        assert_eq!(query.dropped("packet-too-big").unwrap(), before + 1);
        // Between pods nothing is too big.
        let ping = Ping { size: Some(1400), whole: true, ..Ping::default() };
        assert!(ping.run(&bed.a.netns, &bed.b.address(family)).unwrap().complete());
        // Pod b has not been told before: its first full segment is.
        let got = transfer(&bed.node.run, &bed.node.outside, &bed.b.netns, outside, Load::Tcp, 1).unwrap();
        assert!(got.bytes > 1 << 20, "{got:?}");
    }
    query.ledger().unwrap();
}
