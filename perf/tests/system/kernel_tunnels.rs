//! VXLAN where the nodes' kernels are the way, by a device of theirs; and what of it is told, refused and taken back.

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::exchange::inside;
use lab::iperf::{Load, transfer};
use lab::node::{Node, Options, Uplink, Vxlan};
use lab::ping::{Ping, reaches};
use lab::pod::{Family, Kind, Pod};
use lab::site::Site;
use lab::wait::{PATIENCE, wait_until};
use serde_json::json;

use crate::nodes::{Bed, pinged_while, reach_each_other};

const DEVICE: &str = "podrouter.vxlan";
/// Too much for handshakes alone.
const A_MEGABYTE: u64 = 1 << 20;
/// What two nodes have to get from one to the other in a tunnel: IPv4, with room left for what IPv6 would need.
const MTU: u16 = 1_430;

fn options(vxlan: Vxlan) -> Options {
    Options { uplink: Uplink::Kernel, vxlan, routed: true, ..Options::default() }
}

/// All that the kernel was told of other nodes.
fn told(node: &Node) -> String {
    let ip = |arguments: &[&str]| node.host.ip(arguments).unwrap_or_default();
    let routes = ["-4", "-6"].map(|family| ip(&[family, "route", "show", "table", "all", "proto", "112"]));
    let rules = ["-4", "-6"].map(|family| ip(&[family, "rule", "show"]));
    let links = [
        ip(&["-d", "link", "show", "dev", DEVICE]),
        ip(&["neigh", "show", "dev", DEVICE, "nud", "permanent"]),
    ];
    let stations = node.host.succeed("bridge", &["fdb", "show", "dev", DEVICE]).unwrap_or_default();
    [routes.concat(), rules.concat(), links.concat(), stations].concat()
}

/// How often the kernel refused something by this name.
fn refused(node: &Node, name: &str) -> Result<u64> {
    let said = node.host.succeed("nft", &["list", "counter", "inet", "podrouter", name])?;
    let count = said.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    Ok(count.unwrap_or_default().parse()?)
}

fn is_refused(node: &Node, name: &str, mut send: impl FnMut()) {
    let before = refused(node, name).unwrap();
    wait_until("it is refused", PATIENCE, || {
        send();
        let now = refused(node, name)?;
        ensure!(now > before, "{name} stays at {now}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_lies_between_knows_no_pods_and_they_reach_each_other() {
    let bed = Bed::with(&options(Vxlan::Always), 2);
    reach_each_other(&bed);
    let [a, b] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    for family in Family::BOTH {
        let (to_b, to_a) = (bed.pods[1].address(family), bed.pods[0].address(family));
        // The largest packet that crosses, and one more byte.
        let headers = family.of(["28", "48"]).parse::<u16>().unwrap();
        let ping = |size: u16| Ping { size: Some(size - headers), whole: true, ..Ping::default() };
        assert!(ping(MTU).run(&bed.pods[0].netns, &to_b).unwrap().complete(), "{family:?}");
        let short = Ping { count: 1, patience: Duration::from_millis(200), ..ping(MTU + 1) };
        assert_eq!(short.run(&bed.pods[0].netns, &to_b).unwrap().received, 0);
        let load = |server, client, to: &str| {
            let got = transfer(&a.run, server, client, to, Load::Tcp, 1).unwrap();
            assert!(got.bytes > A_MEGABYTE, "{family:?}: {got:?}");
        };
        load(&bed.pods[1].netns, &bed.pods[0].netns, &to_b);
        load(&bed.pods[0].netns, &b.host, &to_a);
        // Less than both ends think: the kernel cuts its datagrams up.
        bed.cluster.lan.narrow(b.site, Some(1_400)).unwrap();
        load(&bed.pods[1].netns, &bed.pods[0].netns, &to_b);
        bed.cluster.lan.narrow(b.site, None).unwrap();
    }
    // Nothing of all that was taken for somebody else's.
    for node in [a, b] {
        for name in ["tunnel-source-spoofed", "tunnel-invalid"] {
            assert_eq!(refused(node, name).unwrap(), 0, "{name}");
        }
    }
    bed.cluster.ledgers().unwrap();
}

/// Only a node that is known, only of what it has, and nobody else in its name.
#[test]
fn whom_the_kernels_tunnel_does_not_know_is_refused_by_name() {
    let bed = Bed::with(&Options { routed: false, ..options(Vxlan::Always) }, 2);
    let [a, b] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    // Flags, VNI 1, and no frame.
    let datagram = r"\x08\0\0\0\0\0\1\0frame";
    let send = |from: &lab::netns::Netns, to: &str| {
        from.succeed("bash", &["-c", &format!("printf '{datagram}' > /dev/udp/{to}/4789")]).unwrap();
    };
    let own = &a.site.host()[0];
    is_refused(a, "tunnel-peer-unknown", || send(&bed.cluster.lan.outside, own));
    is_refused(a, "tunnel-peer-unknown", || send(&bed.pods[0].netns, own));
    is_refused(a, "tunnel-port-closed", || send(&bed.pods[0].netns, &b.site.host()[0]));
    // The other node, in the name of this node's own pods, of this node, and of an address that the tunnel is not for.
    for (family, lie) in [(Family::V4, "10.244.1.99"), (Family::V6, "fd00:10:244:1::99")] {
        b.host.add_address("lo", lie).unwrap();
        let source = lie.parse::<IpAddr>().unwrap();
        let ping =
            Ping { count: 1, source: Some(source), patience: Duration::from_millis(200), ..Ping::default() };
        // To the node itself by the tunnel too, as what its pods send.
        let ip = family.of(["-4", "-6"]);
        b.host.ip(&[ip, "rule", "add", "from", lie, "lookup", "30112", "pref", "30113"]).unwrap();
        for to in [bed.pods[0].address(family), a.site.host()[usize::from(family == Family::V6)].clone()] {
            is_refused(a, "tunnel-source-spoofed", || {
                assert_eq!(ping.run(&b.host, &to).unwrap().received, 0);
            });
        }
    }
    bed.cluster.ledgers().unwrap();
}

/// With VNI 1, and in it what begins as a packet from an address: nobody looks at more.
fn datagram(source: &str) -> Vec<u8> {
    let source = source.parse().unwrap();
    let (kind, before, version) = match source {
        IpAddr::V4(_) => (0x0800_u16, 12, 0x45),
        IpAddr::V6(_) => (0x86dd, 8, 0x60),
    };
    let octets = match source {
        IpAddr::V4(own) => own.octets().to_vec(),
        IpAddr::V6(own) => own.octets().to_vec(),
    };
    let mut packet = vec![0; before];
    packet[0] = version;
    [[8, 0, 0, 0, 0, 0, 1, 0].as_slice(), &[0; 12], &kind.to_be_bytes(), &packet, &octets, &[0; 64]].concat()
}

/// A known node has its own and its pods' sources, and no others: no other pod's, none of the world's.
#[test]
fn what_a_known_node_says_is_its_own_or_refused() {
    let bed = Bed::with(&Options { routed: false, ..options(Vxlan::Always) }, 2);
    let [a, b] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    // One that is known, and has nothing to say.
    let sites: Vec<Site> = Site::first(3).collect();
    bed.cluster.tell(&sites).unwrap();
    let third = &sites[2].host()[0];
    wait_until("the third is known", PATIENCE, || {
        let ends = a.host.succeed("nft", &["list", "set", "inet", "podrouter", "tunnel_ends"])?;
        ensure!(ends.contains(third.as_str()), "{ends}");
        Ok(())
    })
    .unwrap();
    let say = |datagram: &[u8]| {
        let socket = inside(&b.host, || UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
        socket.send_to(datagram, (a.site.host()[0].as_str(), 4_789)).unwrap();
    };
    let refusals = ["tunnel-source-spoofed", "tunnel-invalid"].map(|name| move || refused(a, name).unwrap());
    for source in [bed.pods[1].address(Family::V4), bed.pods[1].address(Family::V6)]
        .iter()
        .chain(&b.site.host())
        .map(String::as_str)
    {
        say(&datagram(source));
    }
    let mut before = refusals.each_ref().map(|count| count());
    assert_eq!(before, [0, 0]);
    let own = bed.pods[0].address(Family::V6);
    for source in [
        "10.244.3.9",
        "fd00:10:244:3::9",
        third,
        "203.0.113.9",
        "2001:db8::9",
        "169.254.1.3",
        "fe80::1",
        "::",
        own.as_str(),
    ] {
        say(&datagram(source));
        before[0] += 1;
        wait_until(source, PATIENCE, || {
            let now = refusals.each_ref().map(|count| count());
            ensure!(now == before, "{now:?}, not {before:?}");
            Ok(())
        })
        .unwrap();
    }
    // Neither ARP, nor neighbour discovery, nor something without a name.
    let mut discovery = datagram(&b.site.host()[1]);
    (discovery[28], discovery[62]) = (58, 135);
    let others = [0x0806_u16, 0x8100].map(|kind| {
        let mut other = datagram("10.244.2.9");
        other[20..22].copy_from_slice(&kind.to_be_bytes());
        other
    });
    for other in others.iter().chain([&discovery]) {
        say(other);
    }
    before[1] += 3;
    wait_until("they are refused", PATIENCE, || {
        let now = refusals.each_ref().map(|count| count());
        ensure!(now == before, "{now:?}, not {before:?}");
        Ok(())
    })
    .unwrap();
    bed.cluster.ledgers().unwrap();
}

/// As many bits as a prefix has are its node's, no fewer and no more.
#[test]
fn a_range_of_any_length_is_its_nodes_own() {
    let bed = Bed::with(&Options { routed: false, ..options(Vxlan::Always) }, 2);
    let (a, outside) = (&bed.cluster.nodes[0], &bed.cluster.lan.outside);
    // Odd patterns, none in another's. There are no longer ones of pods than these, and none so wide that they have nothing else beside.
    let v4 = (8..=32).map(|len| (IpAddr::from([16 + 2 * len, 0xa5, 0x5a, 0x96]), len));
    let v6 = (16..=128).map(|len| {
        let first = 0x2000 + 2 * u16::from(len);
        (IpAddr::from([first, 0xb4c3, 0xd2e1, 0xf00f, 0x1e2d, 0x3c4b, 0x5a69, 0x7887]), len)
    });
    let ranges: Vec<(IpAddr, IpAddr)> = v4.chain(v6).map(|(address, len)| ends(address, len)).collect();
    let lengths = (8..=32_u8).chain(16..=128);
    let cidrs: Vec<String> =
        ranges.iter().zip(lengths).map(|((first, _), len)| format!("{first}/{len}")).collect();
    let end = lab::lan::GATEWAY[0];
    let node = json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": "wide", "annotations": {"podrouter.io/router-addresses": end}},
        "spec": {"podCIDRs": cidrs},
        "status": {"addresses": [{"type": "InternalIP", "address": end}]},
    });
    bed.cluster.set("wide.json", &[node]).unwrap();
    let element = format!("{{ {end} }}");
    let known = || a.host.succeed("nft", &["get", "element", "inet", "podrouter", "tunnel_ends", &element]);
    wait_until("it is known", PATIENCE, || known().map(drop)).unwrap();
    let socket = inside(outside, || UdpSocket::bind((end, 0))).unwrap().unwrap();
    let say = |source: IpAddr| {
        socket.send_to(&datagram(&source.to_string()), (a.site.host()[0].as_str(), 4_789)).unwrap();
    };
    let mut expected = 0;
    for ((first, last), prefix) in ranges.iter().zip(&cidrs) {
        [first, last].into_iter().for_each(|own| say(*own));
        [beside(*first, false), beside(*last, true)].into_iter().for_each(say);
        expected += 2;
        wait_until(prefix, PATIENCE, || {
            let refused = refused(a, "tunnel-source-spoofed")?;
            ensure!(refused == expected, "{refused} refused, not {expected}");
            Ok(())
        })
        .unwrap();
    }
    for name in ["tunnel-invalid", "tunnel-peer-unknown"] {
        assert_eq!(refused(a, name).unwrap(), 0, "{name}");
    }
}

/// The first address of a range and its last.
fn ends(address: IpAddr, len: u8) -> (IpAddr, IpAddr) {
    match address {
        IpAddr::V4(own) => {
            let rest = u32::MAX.checked_shr(len.into()).unwrap_or_default();
            ((own.to_bits() & !rest).to_be_bytes().into(), (own.to_bits() | rest).to_be_bytes().into())
        }
        IpAddr::V6(own) => {
            let rest = u128::MAX.checked_shr(len.into()).unwrap_or_default();
            ((own.to_bits() & !rest).to_be_bytes().into(), (own.to_bits() | rest).to_be_bytes().into())
        }
    }
}

/// The address behind another, or before it.
fn beside(address: IpAddr, behind: bool) -> IpAddr {
    match address {
        IpAddr::V4(own) if behind => (own.to_bits() + 1).to_be_bytes().into(),
        IpAddr::V4(own) => (own.to_bits() - 1).to_be_bytes().into(),
        IpAddr::V6(own) if behind => (own.to_bits() + 1).to_be_bytes().into(),
        IpAddr::V6(own) => (own.to_bits() - 1).to_be_bytes().into(),
    }
}

/// Errors of a node's kernel and of its data plane's, and what a node says by an address that no Node object names: it crosses, as that node's.
#[test]
fn what_a_node_has_to_tell_crosses_the_kernels_tunnel() {
    let mut bed = Bed::with(&options(Vxlan::Always), 1);
    let sites: Vec<Site> = Site::first(2).collect();
    bed.cluster.tell(&sites).unwrap();
    let (run, artefacts) = (bed.cluster.nodes[0].run.clone(), bed.cluster.nodes[0].artefacts.clone());
    let narrow = Options { pod_mtu: Some(1_300), ..options(Vxlan::Always) };
    bed.cluster.join(&run, &artefacts, narrow, sites[1]).unwrap();
    let [a, b] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    let there = Pod::attach(b, "there", Kind::Kernel).unwrap();
    let here = &bed.pods[0];
    for (family, at) in Family::BOTH.into_iter().zip(0..) {
        let to = there.address(family);
        wait_until("they reach each other", PATIENCE, || reaches(&here.netns, &to).map(drop)).unwrap();
        let told = |ping: Ping, to: &str, what: &str| {
            wait_until(what, PATIENCE, || {
                let once = Ping { count: 1, patience: Duration::from_secs(1), ..ping.clone() };
                let text = once.run(&here.netns, to)?.text;
                let from = [format!("From {} ", b.site.host()[at]), format!("From {}: ", b.site.host()[at])];
                ensure!(text.contains(what) && from.iter().any(|from| text.contains(from)), "{text}");
                Ok(())
            })
            .unwrap();
        };
        // Of three routers behind the first, the second is the other's kernel, the third its data plane.
        for ttl in [3, 4] {
            told(
                Ping { ttl: Some(ttl), ..Ping::default() },
                &to,
                family.of(["Time to live exceeded", "Time exceeded"]),
            );
        }
        let nobody = family.of(["10.244.2.250", "fd00:10:244:2::fafa"]);
        told(Ping::default(), nobody, "nreachable");
        let long = Ping { size: Some(1_372), whole: true, ..Ping::default() };
        told(long, &to, family.of(["mtu = 1300", "mtu=1300"]));
        let odd = family.of(["198.18.0.1", "2001:db8:18::1"]);
        a.host.add_address("lo", odd).unwrap();
        let ping = Ping { source: Some(odd.parse().unwrap()), ..Ping::default() };
        assert!(ping.run(&a.host, &to).unwrap().complete(), "{family:?}");
    }
    for node in [a, b] {
        for name in ["tunnel-source-spoofed", "tunnel-invalid"] {
            assert_eq!(refused(node, name).unwrap(), 0, "{name}");
        }
    }
    bed.cluster.ledgers().unwrap();
}

#[test]
fn the_kernels_tunnel_is_mended_follows_the_cluster_and_goes() {
    let mut bed = Bed::with(&options(Vxlan::Always), 2);
    let to_b = bed.pods[1].address(Family::V6);
    let whole = told(&bed.cluster.nodes[0]);
    let sites: Vec<Site> = Site::first(2).collect();
    for damage in [
        "link del podrouter.vxlan",
        "link set podrouter.vxlan down",
        "link set podrouter.vxlan mtu 1300",
        "link set podrouter.vxlan address 02:00:00:00:00:99",
        "neigh flush dev podrouter.vxlan nud permanent",
        "rule flush protocol 112",
        "route flush table 30112",
        "route flush proto 112",
    ] {
        let node = &bed.cluster.nodes[0];
        node.host.ip(&damage.split(' ').collect::<Vec<_>>()).unwrap();
        wait_until(damage, PATIENCE, || {
            let now = told(node);
            let [now, whole] = [&now, &whole].map(|text| steady(text));
            ensure!(now == whole, "{now}\n\nis not\n\n{whole}");
            Ok(())
        })
        .unwrap();
        wait_until("it goes on", PATIENCE, || reaches(&bed.pods[0].netns, &to_b).map(drop)).unwrap();
    }
    // Another control process takes over what is there, and nothing is lost meanwhile.
    let from = bed.pods[0].netns.clone();
    let (pinged, ()) = pinged_while(&from, &to_b, 5, || bed.cluster.nodes[0].restart_control().unwrap());
    assert!(pinged.complete(), "{}", pinged.text);
    // A node that is gone is forgotten.
    bed.cluster.tell(&sites[..1]).unwrap();
    let node = &bed.cluster.nodes[0];
    let theirs = bed.cluster.nodes[1].site.host()[0].clone();
    wait_until("the other is forgotten", PATIENCE, || {
        let now = told(node);
        ensure!(!now.contains(&theirs) && now.contains(DEVICE), "{now}");
        Ok(())
    })
    .unwrap();
    // Somebody's change that comes just after one of ours is seen too.
    node.host.succeed("nft", &["flush", "chain", "inet", "podrouter", "tunnel_inside"]).unwrap();
    bed.cluster.tell(&sites).unwrap();
    wait_until("it is back", PATIENCE, || reaches(&from, &to_b).map(drop)).unwrap();
    wait_until("all rules are", PATIENCE, || {
        let node = &bed.cluster.nodes[0];
        let rules = node.host.succeed("nft", &["list", "chain", "inet", "podrouter", "tunnel_inside"])?;
        ensure!(rules.contains("tunnel-source-spoofed"), "{rules}");
        Ok(())
    })
    .unwrap();
    bed.cluster.ledgers().unwrap();
    // Without tunnels, and without the whole, nothing of them stays.
    let node = &mut bed.cluster.nodes[0];
    node.options.vxlan = Vxlan::Never;
    node.restart_control().unwrap();
    wait_until("the device goes", PATIENCE, || {
        let now = told(&bed.cluster.nodes[0]);
        ensure!(!now.contains(DEVICE) && !now.contains("30112"), "{now}");
        Ok(())
    })
    .unwrap();
    bed.cluster.nodes[1].uninstall().unwrap();
    let left = told(&bed.cluster.nodes[1]);
    assert!(!left.contains(DEVICE) && !left.contains("112"), "{left}");
}

/// Anybody could send into it: so it goes while nftables does not take its rules, and does not come before they are there.
#[test]
fn without_its_rules_there_is_no_kernels_tunnel() {
    let mut bed = Bed::with(&options(Vxlan::Always), 2);
    let (from, to) = (bed.pods[0].netns.clone(), bed.pods[1].address(Family::V4));
    wait_until("they reach each other", PATIENCE, || reaches(&from, &to).map(drop)).unwrap();
    let node = &mut bed.cluster.nodes[0];
    // A table that a process owns is nobody else's to change, and goes with it.
    let mut owner = node.host.command("nft").arg("-i").stdin(Stdio::piped()).spawn().unwrap();
    let words = "delete table inet podrouter\nadd table inet podrouter { flags owner; }\n";
    owner.stdin.as_mut().unwrap().write_all(words.as_bytes()).unwrap();
    let is_closed = |node: &Node| {
        wait_until("there is no tunnel", PATIENCE, || {
            let (now, warnings) = (told(node), node.query().warnings()?.concat());
            ensure!(
                !now.contains(DEVICE) && warnings.contains("no tunnel to other nodes"),
                "{now}{warnings}"
            );
            Ok(())
        })
        .unwrap();
    };
    is_closed(node);
    node.restart_control().unwrap();
    is_closed(node);
    assert_eq!(
        Ping { count: 1, patience: Duration::from_millis(200), ..Ping::default() }
            .run(&from, &to)
            .unwrap()
            .received,
        0
    );
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("it is back", PATIENCE, || reaches(&from, &to).map(drop)).unwrap();
    wait_until("nothing is warned of", PATIENCE, || {
        let warnings = bed.cluster.nodes[0].query().warnings()?;
        ensure!(warnings.is_empty(), "{warnings:?}");
        Ok(())
    })
    .unwrap();
    bed.cluster.ledgers().unwrap();
}

/// Without what counts up from one device to the next.
fn steady(text: &str) -> String {
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| !line.contains("valid_lft"))
        .map(|line| {
            line.split_once(": ").map_or(line, |(number, rest)| if number.len() < 6 { rest } else { line })
        })
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    lines.join("\n")
}

/// Whoever is on one network speaks as without tunnels; whoever is not, in one.
#[test]
fn across_subnets_only_those_on_other_networks_are_tunnelled_to() {
    for uplink in [Uplink::Kernel, Uplink::Dedicated] {
        for routed in [true, false] {
            let options = Options { uplink, routed, vxlan: Vxlan::AcrossSubnets, ..Options::default() };
            let bed = Bed::with(&options, 2);
            reach_each_other(&bed);
            let node = &bed.cluster.nodes[0];
            let prefix = &bed.cluster.nodes[1].site.pod_cidrs()[0];
            let way = match uplink {
                Uplink::Kernel => node.host.ip(&["route", "show", prefix]).unwrap(),
                Uplink::Dedicated => {
                    let routes = node.query().text(&["show", "routes"]).unwrap();
                    routes.lines().find(|line| line.contains(prefix.as_str())).unwrap_or_default().to_owned()
                }
            };
            assert_eq!(way.contains("vxlan"), routed, "{way}");
        }
    }
}
