//! Each of DPDK's virtual drivers as an uplink, attached by its arguments while the data plane runs.
//!
//! ```text
//! pod ── TAP ── data plane ── the driver ══ `eth0` neighbour
//! 10.0.0.2, fd00::2         192.0.2.1, fd00:78::1   .9, ::9
//! ```
//! A kernel is the judge: it drops what has a wrong checksum, and each byte of a conversation is compared. Where a driver
//! speaks to another program, that is testpmd, which forwards between it and the neighbour's kernel. Drivers that lead
//! nowhere are in `dead_ends.rs`.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use proto::dataplane::{Interface, InterfaceAddress, Op};

use crate::dataplane::Dataplane;
use crate::frames::endpoint;
use crate::namespace::Namespace;
use crate::outside::{NODE, ROUTER as NEIGHBOUR};
use crate::pod::{Pod, gateway};
use crate::talk::{connect, echo, exchange, listen, receive, stream, udp};
use crate::testpmd::Testpmd;

/// The neighbour's device, whoever makes it.
const DEVICE: &str = "eth0";

struct Uplink {
    /// As `--vdev` would have them.
    devargs: String,
    way: Way,
    /// Devices of the data plane's namespace of which each carries a share.
    shares: &'static [&'static str],
    /// The driver has the kernel put IPv4 fragments together (packet(7), PACKET_FANOUT_FLAG_DEFRAG) and cuts off what is
    /// longer than its buffers, so that the neighbour's large datagrams are lost.
    defragments: bool,
    /// A driver that is never quite closed (DPDK 22.11 with libxdp 1.3): its socket stays open, so that nobody else can have the
    /// device, and the buffers that wait there for frames are lost.
    once: bool,
}

/// What is between the uplink's driver and the neighbour.
enum Way {
    /// A veth pair, of which the driver has the end `uplink`.
    Veth,
    /// Nothing: the driver makes the neighbour's device, in the namespace of the data plane.
    Driver,
    /// testpmd, with this device for the uplink's driver to speak to; one of the two makes the socket.
    Testpmd { device: String, socket: PathBuf, listens: bool },
}

impl Uplink {
    fn new(devargs: impl Into<String>, way: Way) -> Self {
        Self { devargs: devargs.into(), way, shares: &[], defragments: false, once: false }
    }

    /// By a socket in `folder`: the arguments of either end, made from the socket's path.
    fn to_testpmd(folder: &Path, ours: impl Fn(&str) -> String, theirs: impl Fn(&str) -> String) -> Self {
        let socket = folder.join("peer");
        let path = socket.to_str().unwrap();
        let (devargs, device) = (ours(path), theirs(path));
        Self::new(devargs, Way::Testpmd { device, socket, listens: true })
    }
}

/// Attaches an uplink and has the pod and the neighbour talk over it; takes it away and does so again, if that can be. `uplink`
/// is told where sockets may be, and what namespace the data plane is in.
fn carries(arguments: &[&str], uplink: impl FnOnce(&Path, &Namespace) -> Uplink) {
    let (node, outside) = (Namespace::new(), Namespace::new());
    let mut dataplane = node.run(|| Dataplane::start(arguments));
    let pod = Pod::new(2);
    dataplane.tap("pod", pod.fd());
    let uplink = uplink(dataplane.dir.path(), &node);
    let neighbour = if matches!(uplink.way, Way::Driver) { &node } else { &outside };
    if matches!(uplink.way, Way::Veth) {
        node.veth("uplink", neighbour, DEVICE);
        node.set("ipv6/conf/uplink/disable_ipv6", "1");
    }
    for &generation in if uplink.once { &[0][..] } else { &[0, 2] } {
        let mut testpmd = None;
        let attach = |dataplane: &mut Dataplane| dataplane.attach("uplink", &uplink.devargs);
        match &uplink.way {
            Way::Testpmd { device, socket, listens } => {
                // What the last one has left behind.
                drop(std::fs::remove_file(socket));
                if !listens {
                    attach(&mut dataplane);
                }
                let devices = [device.clone(), format!("net_tap0,iface={DEVICE}")];
                let log = dataplane.dir.path().join("testpmd");
                let started = neighbour.run(|| Testpmd::start(&log, &devices, &["--forward-mode=io"]));
                dataplane.until("testpmd has started its ports", |_| started.log().contains("link statuses"));
                if *listens {
                    attach(&mut dataplane);
                }
                testpmd = Some(started);
            }
            Way::Veth | Way::Driver => attach(&mut dataplane),
        }
        settle(neighbour);
        dataplane.commit(generation, rows());
        dataplane.until("the link is up", |d| d.port("uplink").up);
        talk(&pod, neighbour, &uplink);
        for device in uplink.shares {
            let [received, sent] = node.packets(device);
            assert!(received > 100 && sent > 100, "{device}: {received} to the kernel, {sent} from it");
        }
        let port = dataplane.port("uplink");
        assert!(port.rx_packets > 100 && port.tx_packets > 100, "{port:?}");
        // TCP makes up for what a driver refuses, until nobody sees that it crawls.
        assert!(port.tx_drops * 20 < port.tx_packets, "{:?}", dataplane.dropped("uplink"));
        let removals = vec![
            Op::RemoveInterfaces { ports: vec!["uplink".into()] },
            Op::RemoveEndpoints { names: vec!["pod2".into()] },
        ];
        dataplane.commit(generation + 1, removals);
        dataplane.remove("uplink");
        dataplane.assert_ledger();
        drop(testpmd);
    }
    assert!(dataplane.terminate().success());
    let log = dataplane.log();
    assert!(!log.contains("does not add up"), "{log}");
    assert_eq!(log.contains("still in use"), uplink.once, "{log}");
}

/// Gives the neighbour its addresses and its way to the pod; again, if need be.
fn settle(neighbour: &Namespace) {
    neighbour.ip(&format!("link set {DEVICE} up"));
    neighbour.ip(&format!("addr replace 192.0.2.9/24 dev {DEVICE}"));
    for address in ["fd00:78::9/64", "fe80::9/64"] {
        neighbour.ip(&format!("addr replace {address} dev {DEVICE} nodad"));
    }
    for (pod, node) in ["10.0.0.2/32", "fd00::2/128"].iter().zip(NODE) {
        neighbour.ip(&format!("route replace {pod} via {node} dev {DEVICE}"));
    }
}

fn rows() -> Vec<Op> {
    let addresses = NODE
        .iter()
        .zip([24, 64])
        .map(|(address, prefix_len)| InterfaceAddress { address: address.parse().unwrap(), prefix_len });
    let interface = Interface { port: "uplink".into(), network: 0, addresses: addresses.collect() };
    vec![
        gateway(),
        Op::SetInterfaces { interfaces: vec![interface] },
        Op::SetEndpoints { endpoints: vec![endpoint(2, "pod")] },
    ]
}

/// Pings, datagrams and a connection in both families, opened from either side.
fn talk(pod: &Namespace, neighbour: &Namespace, uplink: &Uplink) {
    for (there, here) in NEIGHBOUR.iter().zip(["10.0.0.2", "fd00::2"]) {
        for (from, to) in [(pod, *there), (neighbour, here)] {
            // With a deadline it waits for answers, without one for twice the time that the first took.
            let (text, answered) = from.output("ping", &format!("-n -c 3 -i 0.01 -w 60 {to}"));
            assert!(answered && !text.contains("DUP!"), "{text}");
        }
        let at = |host: &str, port: u16| SocketAddr::new(host.parse().unwrap(), port);
        let (client, server) = (udp(pod, at(here, 4000)), udp(neighbour, at(there, 4001)));
        for length in [0, 1, 333, 1452] {
            echo(&client, at(there, 4001), &server, length);
        }
        in_fragments(&client, &server);
        if !(uplink.defragments && here.contains('.')) {
            in_fragments(&server, &client);
        }
        for (from, to, host) in [(pod, neighbour, *there), (neighbour, pod, here)] {
            let listener = listen(to, at(host, 5000));
            let (one, other) = connect(from, at(host, 5000), &listener);
            exchange(&one, &other, 200_000);
        }
    }
}

/// A datagram that no frame holds.
fn in_fragments(from: &UdpSocket, to: &UdpSocket) {
    let (sent, mut got) = (stream(4_001), vec![0; 5_000]);
    from.send_to(&sent, to.local_addr().unwrap()).unwrap();
    let (n, _) = receive(to, &mut got);
    assert!(got[..n] == sent, "{n} bytes came of {}", sent.len());
}

#[test]
fn af_packet() {
    carries(&[], |_, _| Uplink {
        defragments: true,
        ..Uplink::new("net_af_packet0,iface=uplink", Way::Veth)
    });
}

#[test]
fn af_xdp() {
    carries(&[], |_, _| Uplink { once: true, ..Uplink::new("net_af_xdp0,iface=uplink", Way::Veth) });
}

#[test]
fn pcap_on_a_device() {
    carries(&[], |_, _| Uplink::new("net_pcap0,iface=uplink", Way::Veth));
}

#[test]
fn tap() {
    carries(&[], |_, _| Uplink::new(format!("net_tap0,iface={DEVICE}"), Way::Driver));
}

#[test]
fn memif_as_client_and_as_server() {
    for [ours, theirs] in [["client", "server"], ["server", "client"]] {
        let device =
            |role| move |path: &str| format!("net_memif0,role={role},socket={path},socket-abstract=no");
        carries(&[], |folder, _| {
            let mut uplink = Uplink::to_testpmd(folder, device(ours), device(theirs));
            if let Way::Testpmd { listens, .. } = &mut uplink.way {
                *listens = theirs == "server";
            }
            uplink
        });
    }
}

#[test]
fn virtio_user_with_split_and_packed_rings() {
    for packed in ["", ",packed_vq=1"] {
        carries(&[], |folder, _| {
            let ours = |path: &str| format!("net_virtio_user0,path={path}{packed}");
            Uplink::to_testpmd(folder, ours, |path| format!("net_vhost0,iface={path},queues=1"))
        });
    }
}

/// Two devices as one, which take turns (mode 0); what they carry goes on by a bridge, but not from one to the other.
#[test]
fn bonding() {
    let arguments = ["--vdev", "net_tap0,iface=one", "--vdev", "net_tap1,iface=two"];
    carries(&arguments, |_, node| {
        node.ip(&format!("link add {DEVICE} type bridge"));
        let shares = &["one", "two"];
        for device in shares {
            node.ip(&format!("link set {device} master {DEVICE} up"));
            node.ip(&format!("link set {device} type bridge_slave isolated on"));
        }
        let devargs = "net_bonding0,mode=0,slave=net_tap0,slave=net_tap1";
        Uplink { shares, ..Uplink::new(devargs, Way::Driver) }
    });
}
