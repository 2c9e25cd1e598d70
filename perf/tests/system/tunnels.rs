//! VXLAN between nodes: our own ends against each other, and against the kernel's.

use std::time::Duration;

use lab::iperf::{Load, transfer};
use lab::manifests::OTHER_NODE;
use lab::netns::Netns;
use lab::node::{HOST, Node, OTHER_POD, OUTSIDE, Options, POD_CIDRS, ROUTER, Vxlan};
use lab::ping::{Ping, reaches};
use lab::pod::{Family, Kind, Pod};
use lab::wait::{PATIENCE, wait_until};
use proto::dataplane::PortStatus;

use crate::nodes::{Bed, pinged_while, reach_each_other};
use crate::reach;

/// Too much for handshakes alone.
const A_MEGABYTE: u64 = 1 << 20;
const TUNNEL: &str = "uplink.vxlan";

fn tunnel(node: &Node) -> PortStatus {
    node.query().ports().unwrap().into_iter().find(|port| port.info.spec.name == TUNNEL).unwrap()
}

#[test]
fn in_a_tunnel_nodes_reach_each_other_as_without() {
    let bed = Bed::with(&Options { vxlan: Vxlan::Always, ..Options::default() }, 2);
    reach_each_other(&bed);
    let [a, b] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    for (node, other) in [(a, b), (b, a)] {
        let (here, there) = (tunnel(node), tunnel(other));
        assert!(here.tx_packets > 100 && here.tx_packets == there.rx_packets, "{here:?} {there:?}");
        assert_eq!((here.info.spec.mtu, here.role.as_str()), (1_430, "tunnel"));
    }
    // Large segments are cut for it, and pods know what fits.
    for family in Family::BOTH {
        let [to_b, client] = [bed.pods[1].address(family), bed.pods[0].address(family)];
        for (server, from, to) in
            [(&bed.pods[1].netns, &bed.pods[0].netns, to_b), (&bed.pods[0].netns, &b.host, client)]
        {
            let got = transfer(&a.run, server, from, &to, Load::Tcp, 1).unwrap();
            assert!(got.bytes > A_MEGABYTE, "{family:?}: {got:?}");
        }
    }
    assert_eq!(tunnel(a).tx_drops + tunnel(b).tx_drops, 0);
    bed.cluster.ledgers().unwrap();
}

/// A router between nodes that takes less than they think says so, and pods learn of it.
#[test]
fn a_narrow_way_between_nodes_is_told_to_pods() {
    let bed = Bed::with(&Options { vxlan: Vxlan::Always, routed: true, ..Options::default() }, 2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    bed.cluster.lan.narrow(bed.cluster.nodes[1].site, Some(1_400)).unwrap();
    for family in Family::BOTH {
        let (to, left) = (b.address(family), family.of(["1350", "1330"]));
        let headers = family.of(["28", "48"]).parse::<u16>().unwrap();
        let ping = |size: u16| Ping { size: Some(size - headers), whole: true, ..once() };
        wait_until("the pod is told", PATIENCE, || {
            let long = ping(1_430).run(&a.netns, &to)?;
            let told = [format!("mtu = {left}"), format!("mtu={left}")];
            anyhow::ensure!(told.iter().any(|told| long.text.contains(told)), "{}", long.text);
            Ok(())
        })
        .unwrap();
        let whole = Ping { patience: PATIENCE, ..ping(left.parse().unwrap()) };
        assert!(whole.run(&a.netns, &to).unwrap().complete());
        let got = transfer(&bed.cluster.nodes[0].run, &b.netns, &a.netns, &to, Load::Tcp, 1).unwrap();
        assert!(got.bytes > A_MEGABYTE, "{family:?}: {got:?}");
    }
    let neighbours = bed.cluster.nodes[0].query().text(&["show", "neighbours"]).unwrap();
    assert!(neighbours.contains("1350") && neighbours.contains("1330"), "{neighbours}");
    bed.cluster.ledgers().unwrap();
}

#[test]
fn ipv6_crosses_a_network_that_has_none() {
    let underlay = Some(Family::V4);
    let bed = Bed::with(&Options { vxlan: Vxlan::Always, underlay, ..Options::default() }, 2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    for family in Family::BOTH {
        reach(&bed.cluster.nodes[0], &a.netns, &b.address(family));
        reach(
            &bed.cluster.nodes[1],
            &b.netns,
            &bed.cluster.nodes[0].site.host()[usize::from(family == Family::V6)],
        );
        let got = transfer(&bed.cluster.nodes[0].run, &b.netns, &a.netns, &b.address(family), Load::Tcp, 1)
            .unwrap();
        assert!(got.bytes > A_MEGABYTE, "{family:?}: {got:?}");
    }
    assert_eq!(tunnel(&bed.cluster.nodes[0]).info.spec.mtu, 1_450);
    bed.cluster.ledgers().unwrap();
}

/// Control starts again with another uplink: pods that asked for no MTU follow, in their kernels and at their ports, and packets between
/// them go on meanwhile.
#[test]
fn pods_follow_the_uplinks_mtu_and_what_a_tunnel_leaves_of_it() {
    let mut bed = crate::Bed::new(Options::default());
    let (from, to) = (bed.a.netns.clone(), bed.b.address(Family::V4));
    for (uplink_mtu, vxlan, expected) in
        [(1_500, Vxlan::Always, 1_430), (1_400, Vxlan::Always, 1_330), (1_500, Vxlan::Never, 1_500)]
    {
        let node = &mut bed.node;
        (node.options.uplink_mtu, node.options.vxlan) = (uplink_mtu, vxlan);
        let (pinged, ()) = pinged_while(&from, &to, 3, || node.restart_control().unwrap());
        assert!(pinged.complete(), "{} of {}", pinged.received, pinged.sent);
        for pod in [&bed.a, &bed.b] {
            let link = pod.netns.ip(&["link", "show", "dev", "eth0"]).unwrap();
            assert!(link.contains(&format!("mtu {expected} ")), "{link}");
        }
        let mut ports = bed.node.query().ports().unwrap();
        ports.retain(|port| port.info.spec.name != "uplink");
        assert!(ports.iter().all(|port| port.info.spec.mtu == expected), "{ports:?}");
        assert_eq!(ports.iter().any(|port| port.info.spec.name == TUNNEL), vxlan == Vxlan::Always);
        for family in Family::BOTH {
            let headers = family.of(["28", "48"]).parse::<u16>().unwrap();
            let ping = Ping { size: Some(expected - headers), whole: true, ..Ping::default() };
            assert!(ping.run(&from, &bed.b.address(family)).unwrap().complete());
        }
        reach(&bed.node, &from, OUTSIDE[0]);
    }
    bed.node.query().ledger().unwrap();
}

/// An end by the kernel of the outside host, which plays the other node: IPv4 in IPv4, IPv6 in IPv6.
fn kernels_end(outside: &Netns, family: Family, vni: u32, mac: &str, ours: &str) -> String {
    let name = format!("vx{}{vni}", family.of(["4", "6"]));
    let (local, remote) = (family.of(OUTSIDE), family.of(ROUTER));
    let vni = vni.to_string();
    let device = ["link", "add", &name, "address", mac, "mtu", "1430", "type", "vxlan", "id", &vni];
    let ends = ["dstport", "4789", "local", local, "nolearning"];
    outside.ip(&[device.as_slice(), &ends].concat()).unwrap();
    outside.sysctl(&format!("net.ipv6.conf.{name}.accept_dad"), "0").unwrap();
    outside.ip(&["link", "set", &name, "up"]).unwrap();
    outside.succeed("bridge", &["fdb", "append", ours, "dev", &name, "dst", remote]).unwrap();
    let via = family.of(["169.254.7.7", "fe80::7"]);
    outside.ip(&["neigh", "add", via, "lladdr", ours, "dev", &name, "nud", "permanent"]).unwrap();
    let to = family.of(POD_CIDRS);
    let src = family.of(OTHER_POD);
    let onlink = ["route", "replace", to, "via", via, "dev", &name, "onlink", "src", src];
    outside.ip(&onlink).unwrap();
    name
}

#[test]
fn the_kernels_vxlan_is_the_other_end() {
    // Pods have an MTU of their own, so that what the tunnel leaves of it has to be told to them.
    let options = Options { vxlan: Vxlan::Always, pod_mtu: Some(1_500), ..Options::default() };
    let node = crate::node(options);
    let [a, dpdk] = [("a", Kind::Kernel), ("d", Kind::VhostUser)]
        .map(|(name, kind)| Pod::attach(&node, name, kind).unwrap());
    let _reflector = lab::pktgen::reflector(&node, &dpdk).unwrap();
    let query = node.query();
    let ours = tunnel(&node).info.mac.to_string();
    let theirs = query.neighbours().unwrap();
    let theirs = theirs.iter().find(|row| row.port == TUNNEL && row.state == "permanent").unwrap();
    let theirs = theirs.mac.unwrap().to_string();
    assert!(query.text(&["show", "neighbours"]).unwrap().contains(&theirs), "of {OTHER_NODE}");
    let outside = &node.outside;
    for family in Family::BOTH {
        let device = kernels_end(outside, family, 1, &theirs, &ours);
        let (pod, other) = (a.address(family), family.of(OTHER_POD));
        reach(&node, &a.netns, other);
        reach(&node, outside, &pod);
        reach(&node, outside, &dpdk.address(family));
        for (server, client, to) in [(outside, &a.netns, other), (&a.netns, outside, pod.as_str())] {
            let got = transfer(&node.run, server, client, to, Load::Tcp, 1).unwrap();
            assert!(got.bytes > A_MEGABYTE, "{family:?}: {got:?}");
        }
        // The largest packet that crosses, and one more byte.
        let headers = family.of(["28", "48"]).parse::<u16>().unwrap();
        let ping = |size: u16| Ping { size: Some(size - headers), whole: true, ..once() };
        assert!(Ping { patience: PATIENCE, ..ping(1_430) }.run(&a.netns, other).unwrap().complete());
        let long = ping(1_431).run(&a.netns, other).unwrap();
        let told = family.of(["Frag needed and DF set (mtu = 1430)", "Packet too big: mtu=1430"]);
        assert!(long.received == 0 && long.text.contains(told), "{}", long.text);

        // Fragments of datagrams that are longer.
        let ping = Ping { size: Some(4_000), ..Ping::default() };
        assert!(ping.run(&a.netns, other).unwrap().complete());

        // A source that is not that node's, and another network's number.
        let lies = family.of(["10.244.9.9", "fd00:10:244:9::9"]);
        outside.add_address("lo", lies).unwrap();
        refused(&node, "tunnel-source-spoofed", || {
            Ping { source: Some(lies.parse().unwrap()), ..once() }.run(outside, &pod).unwrap().received
        });
        kernels_end(outside, family, 2, &theirs, &ours);
        refused(&node, "tunnel-vni-other", || once().run(outside, &pod).unwrap().received);
        outside.ip(&["link", "del", &format!("vx{}2", family.of(["4", "6"]))]).unwrap();

        // From an address that no node has.
        let nobody = family.of(["192.168.78.99", "fd00:78::99"]);
        outside.add_address("eth0", &format!("{nobody}/{}", family.of(["24", "64"]))).unwrap();
        outside.ip(&["link", "set", &device, "type", "vxlan", "local", nobody]).unwrap();
        outside
            .ip(&[
                "route",
                "replace",
                family.of(POD_CIDRS),
                "via",
                family.of(["169.254.7.7", "fe80::7"]),
                "dev",
                &device,
                "onlink",
                "src",
                other,
            ])
            .unwrap();
        wait_until("the address can be used", PATIENCE, || {
            let before = query.dropped("tunnel-peer-unknown")?;
            once().run(outside, &pod)?;
            if query.dropped("tunnel-peer-unknown")? > before {
                Ok(())
            } else {
                Err(anyhow::anyhow!("not seen"))
            }
        })
        .unwrap();
        outside.ip(&["link", "del", &device]).unwrap();
    }
    // Neither pod nor host speaks for this node's end.
    for from in [&a.netns, &node.host] {
        let before = query.dropped("tunnel-port-closed").unwrap();
        let script = format!("echo x > /dev/udp/{}/4789", OUTSIDE[0]);
        from.succeed("bash", &["-c", &script]).unwrap();
        wait_until("it is dropped", PATIENCE, || match query.dropped("tunnel-port-closed")? - before {
            0 => Err(anyhow::anyhow!("not yet")),
            _ => Ok(()),
        })
        .unwrap();
    }
    assert!(reaches(&a.netns, HOST[0]).is_ok());
    query.ledger().unwrap();
}

/// One whose answer is not waited for long, since none is to come.
fn once() -> Ping {
    Ping { count: 1, patience: Duration::from_millis(200), ..Ping::default() }
}

/// Nothing comes back, and each is counted by that name.
fn refused(node: &Node, reason: &str, send: impl FnOnce() -> u32) {
    let before = node.query().dropped(reason).unwrap();
    assert_eq!(send(), 0, "{reason}");
    assert!(node.query().dropped(reason).unwrap() > before, "{reason}: {:?}", node.query().drops_by_reason());
}
