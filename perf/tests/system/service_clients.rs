//! Clients of Services who ask for what is seldom asked: by SCTP, with more than fits a packet, of thousands of endpoints, and of a server
//! that sends what it should not.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::exchange::{By, inside};
use lab::netns::Netns;
use lab::node::{Options, Uplink, Vxlan};
use lab::pod::{Family, Pod};
use lab::wait::{PATIENCE, wait_until};
use rustix::net::{AddressFamily, Protocol, SocketType, ipproto, socket};
use serde_json::{Value, json};
use wire::checksum::{fold, pseudo_header_v4, pseudo_header_v6, sum};
use wire::protocol::TCP;

use crate::nodes::Bed;
use crate::service_changes::{placed, says};
use crate::services::{FILE, address, own, service, slices, wait_for};

/// A socket for whole packets of a protocol, without their IP header when it sends.
pub(crate) fn raw(netns: &Netns, family: Family, protocol: Protocol) -> UdpSocket {
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let made: OwnedFd = inside(netns, || socket(domain, SocketType::RAW, Some(protocol))).unwrap().unwrap();
    // It has the calls of a datagram socket, and those are all that is used.
    let socket = UdpSocket::from(made);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Of an SCTP packet (RFC 9260, sections 3.1 and 3.2) with one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sctp {
    pub(crate) ports: [u16; 2],
    pub(crate) tag: u32,
    pub(crate) chunk: u8,
}

const HEADER: usize = 12;
pub(crate) const INIT: u8 = 1;
pub(crate) const INIT_ACK: u8 = 2;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

impl Sctp {
    /// What follows its tag in INIT and INIT ACK: a window, streams, and the first TSN.
    const OPENING: [u8; 12] = [0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];

    pub(crate) fn send(self, socket: &UdpSocket, to: IpAddr, own_tag: u32) {
        let cookie = [0, 7, 0, 8, 1, 2, 3, 4];
        let value: Vec<u8> = match self.chunk {
            INIT => [&own_tag.to_be_bytes()[..], &Self::OPENING].concat(),
            INIT_ACK => [&own_tag.to_be_bytes()[..], &Self::OPENING, &cookie].concat(),
            COOKIE_ECHO => cookie[4..].to_vec(),
            _ => Vec::new(),
        };
        let mut packet = self.ports.map(u16::to_be_bytes).concat();
        packet.extend(self.tag.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([self.chunk, 0]);
        packet.extend(u16::try_from(4 + value.len()).unwrap().to_be_bytes());
        packet.extend(value);
        let sum = wire::checksum::crc32c(&packet).to_le_bytes();
        packet[8..HEADER].copy_from_slice(&sum);
        socket.send_to(&packet, (to, 0)).unwrap();
    }

    /// The next one, and whom it is from.
    pub(crate) fn hear(socket: &UdpSocket) -> Result<(Self, IpAddr)> {
        let mut buffer = [0; 256];
        let (length, from) = socket.recv_from(&mut buffer)?;
        // With its header where the family is IPv4 (raw(7)).
        let start = if from.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let packet = &mut buffer[start..length];
        ensure!(packet.len() > HEADER, "{packet:?}");
        let sum = packet[8..HEADER].to_vec();
        packet[8..HEADER].fill(0);
        ensure!(wire::checksum::crc32c(packet).to_le_bytes() == *sum, "a wrong checksum: {packet:?}");
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let tag = u32::from_be_bytes(packet[4..8].try_into()?);
        Ok((Self { ports: [port(0), port(2)], tag, chunk: packet[HEADER] }, from.ip()))
    }
}

/// The kernel here has no SCTP: associations are opened by hand, by the kernel's own way of packets.
#[test]
fn an_sctp_association_is_opened_with_a_service() {
    let bed = Bed::with(&Options { uplink: Uplink::Dedicated, masquerade: true, ..Options::default() }, 2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
    let mut web = service(7, &[("", "SCTP", 80)], &json!({}));
    web["spec"]["type"] = json!("NodePort");
    web["spec"]["ports"][0]["nodePort"] = json!(30_080);
    let mut objects = vec![web];
    objects.extend(placed(7, &[("", "SCTP", 9_999)], &[(b, second, "ready")]));
    bed.cluster.set(FILE, &objects).unwrap();
    wait_for(&bed, "it is there", |shown| shown.contains(":30080/sctp"));
    for family in Family::BOTH {
        let server = raw(&b.netns, family, ipproto::SCTP);
        let cluster = (address(7, family), 80);
        let [at_first, at_second] = [first, second].map(|node| (own(node, family), 30_080));
        let outside = &bed.cluster.lan.outside;
        for (port, (from, (at, number))) in (40_000..).zip([
            (&a.netns, cluster),
            (&first.host, cluster),
            (&second.host, cluster),
            (&a.netns, at_second),
            (outside, at_first),
            (outside, at_second),
        ]) {
            let client = raw(from, family, ipproto::SCTP);
            let (there, back) = ([port, number], [number, port]);
            // By whom the pod is asked is another's test; it answers him.
            let mut asker = None;
            for (asked, answered) in [(INIT, INIT_ACK), (COOKIE_ECHO, COOKIE_ACK)] {
                let first_tag = if asked == INIT { 0 } else { 2 };
                Sctp { ports: there, tag: first_tag, chunk: asked }.send(&client, at, 1);
                let (heard, who) = Sctp::hear(&server).with_context(|| format!("{port} {at}")).unwrap();
                assert_eq!((heard.ports[1], heard.tag, heard.chunk), (9_999, first_tag, asked));
                assert_eq!(*asker.get_or_insert((who, heard.ports[0])), (who, heard.ports[0]));
                Sctp { ports: [9_999, heard.ports[0]], tag: 1, chunk: answered }.send(&server, who, 2);
                let (heard, who) = Sctp::hear(&client).unwrap();
                assert_eq!((heard, who), (Sctp { ports: back, tag: 1, chunk: answered }, at));
            }
        }
    }
    bed.cluster.ledgers().unwrap();
}

/// Bytes of which no piece is taken for another.
fn pattern(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

/// A server at any of a pod's addresses hears a datagram whole, and its answer comes back whole.
fn datagram_returns(from: &Netns, to: &Pod, at: SocketAddr, length: usize) -> Result<()> {
    let asked = pattern(length);
    let server = inside(&to.netns, || UdpSocket::bind("[::]:5353"))??;
    let client = inside(from, || UdpSocket::bind(if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }))??;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    }
    let mut buffer = vec![0; 65_536];
    client.send_to(&asked, at)?;
    let (heard, who) = server.recv_from(&mut buffer).context("it was not heard")?;
    ensure!(buffer[..heard] == asked, "{heard} B were heard");
    server.send_to(&asked, who)?;
    let (heard, who) = client.recv_from(&mut buffer).context("it was not answered")?;
    ensure!(buffer[..heard] == asked && who == at, "{heard} B from {who}");
    Ok(())
}

/// All that a connection brings is heard, and comes back.
pub(crate) fn stream_returns(from: &Netns, to: &Pod, at: SocketAddr, length: usize) -> Result<()> {
    let asked = pattern(length);
    let listener = inside(&to.netns, || TcpListener::bind("[::]:8080"))??;
    let mut client = inside(from, || TcpStream::connect_timeout(&at, PATIENCE))??;
    let (mut server, _) = listener.accept()?;
    for stream in [&server, &client] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    std::thread::scope(|scope| {
        let answers = scope.spawn(move || -> Result<()> {
            let mut heard = vec![0; length];
            server.read_exact(&mut heard)?;
            Ok(server.write_all(&heard)?)
        });
        client.write_all(&asked)?;
        let mut heard = vec![0; length];
        client.read_exact(&mut heard)?;
        ensure!(heard == asked, "{length} B came back otherwise");
        answers.join().unwrap()
    })
}

#[test]
fn large_requests_and_answers_pass_by_services() {
    for (uplink, vxlan) in [(Uplink::Dedicated, Vxlan::Always), (Uplink::Kernel, Vxlan::Never)] {
        let bed = Bed::with(&Options { uplink, vxlan, masquerade: true, ..Options::default() }, 2);
        let [a, b] = [&bed.pods[0], &bed.pods[1]];
        let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
        let mut web = service(7, &[("http", "TCP", 80), ("dns", "UDP", 80)], &json!({}));
        web["spec"]["type"] = json!("NodePort");
        for port in web["spec"]["ports"].as_array_mut().unwrap() {
            port["nodePort"] = json!(30_080);
        }
        let mut objects = vec![web];
        let targets = [("http", "TCP", 8080), ("dns", "UDP", 5353)];
        objects.extend(placed(7, &targets, &[(b, second, "ready")]));
        bed.cluster.set(FILE, &objects).unwrap();
        wait_for(&bed, "it is there", |shown| shown.contains(":30080/udp"));
        for family in Family::BOTH {
            let cluster = SocketAddr::new(address(7, family), 80);
            let [at_first, at_second] =
                [first, second].map(|node| SocketAddr::new(own(node, family), 30_080));
            let outside = &bed.cluster.lan.outside;
            for (from, at) in [
                (&a.netns, cluster),
                (&first.host, cluster),
                (&second.host, cluster),
                (&a.netns, at_first),
                (&a.netns, at_second),
                (outside, at_first),
                (outside, at_second),
            ] {
                let what = format!("{uplink:?} {vxlan:?} {} at {at}", from.name());
                // DPDK's driver for a dedicated uplink here has the kernel put IPv4 fragments together, and has no room for the whole.
                let is_cut = uplink == Uplink::Dedicated && at.is_ipv4() && std::ptr::eq(from, outside);
                let length = if is_cut { 1_400 } else { 8_192 };
                // One fragment lost, all are.
                wait_until(&what, PATIENCE, || datagram_returns(from, b, at, length)).unwrap();
                stream_returns(from, b, at, 1 << 20).context(what).unwrap();
            }
        }
        bed.cluster.ledgers().unwrap();
    }
}

/// Slices of so many endpoints, one after the other, that are nobody's.
fn nobodys(number: u8, count: u32, ready: bool) -> Vec<Value> {
    const A_SLICE: u32 = 100;
    let slice = |family: Family, at: u32| {
        let of = |n: u32| match family {
            Family::V4 => IpAddr::from((0x0af5_0000 + n).to_be_bytes()).to_string(),
            Family::V6 => format!("fd00:10:245::{n:x}"),
        };
        let endpoint = |n: u32| json!({"addresses": [of(n + 1)], "conditions": {"ready": ready, "serving": ready, "terminating": false}});
        let ports = [json!({"name": "", "protocol": "TCP", "port": 8080})];
        let name = format!("service-{number}-{at}-{family:?}").to_lowercase();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": format!("service-{number}")}},
            "addressType": family.of(["IPv4", "IPv6"]),
            "ports": ports,
            "endpoints": (at * A_SLICE..(at + 1) * A_SLICE).map(endpoint).collect::<Vec<_>>(),
        })
    };
    let all = (0..count / A_SLICE).flat_map(|at| Family::BOTH.map(|family| slice(family, at)));
    all.collect()
}

/// Over very many slices; those that are not ready are asked by nobody, and all that are have their turn.
#[test]
fn a_service_has_thousands_of_endpoints() {
    const COUNT: u32 = 3_000;
    let bed = Bed::new(2);
    let [a, b] = [&bed.pods[0], &bed.pods[1]];
    let ports = [("", "TCP", 80)];
    let mut objects = vec![service(7, &ports, &json!({})), service(8, &ports, &json!({}))];
    objects.extend(nobodys(7, COUNT, false));
    // Among the others, by name.
    objects.extend(slices(7, "15x", &[("", "TCP", 8080)], &[(b, "ready")]));
    objects.extend(nobodys(8, COUNT, true));
    bed.cluster.set(FILE, &objects).unwrap();
    let count = 2 * usize::try_from(COUNT).unwrap();
    let rows = |shown: &str, number: u8| shown.matches(&format!("service-{number} ")).count();
    wait_for(&bed, "they are there", |shown| (rows(shown, 7), rows(shown, 8)) == (2, count));
    let query = bed.cluster.nodes[0].query();
    for family in Family::BOTH {
        let at = SocketAddr::new(address(7, family), 80);
        for from in [&a.netns, &b.netns, &bed.cluster.nodes[0].host, &bed.cluster.nodes[1].host] {
            for _ in 0..8 {
                says(from, b, 8080, at, By::Tcp).unwrap();
            }
        }
        let (source, own) = (a.address(family), address(8, family).to_string());
        let backends: BTreeSet<String> = (40_000..40_020)
            .map(|port| {
                let port = ["--source-port", &format!("{port}")].map(str::to_owned);
                let told = query.text(&["trace", &source, &own, "tcp", "80", &port[0], &port[1]]).unwrap();
                let line = told.lines().find(|line| line.contains("to backend")).unwrap_or(&told);
                assert!(line.ends_with(&format!("one of {COUNT} that take it")), "{told}");
                line.to_owned()
            })
            .collect();
        assert!(backends.len() > 10, "{backends:?}");
    }
    // Nearly all go.
    bed.cluster.set(FILE, &objects[..2]).unwrap();
    wait_for(&bed, "they are gone", |shown| (rows(shown, 7), rows(shown, 8)) == (2, 2));
    bed.cluster.ledgers().unwrap();
}

/// A packet of TCP (RFC 9293, section 3.1), with a payload or without.
fn segment(from: SocketAddr, to: SocketAddr, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = [from, to].map(|end| end.port().to_be_bytes()).concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    let length = u16::try_from(segment.len()).unwrap();
    let pseudo_header = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => pseudo_header_v4(from, to, TCP, length),
        (IpAddr::V6(from), IpAddr::V6(to)) => pseudo_header_v6(from, to, TCP, length.into()),
        _ => unreachable!("both are of one family"),
    };
    let sum = !fold(pseudo_header + sum(&segment));
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// How many packets have reached a namespace that bear the address of a pod or a router where a Service's should be.
struct Leaks<'a>(&'a Netns);

impl<'a> Leaks<'a> {
    fn watch(netns: &'a Netns) -> Self {
        // What the namespace only forwards to others is not counted.
        let rules = "add table inet leaks; add chain inet leaks in { type filter hook input priority -300; }; \
                     add rule inet leaks in ip saddr 10.244.0.0/16 tcp sport { 8080, 30080 } counter; \
                     add rule inet leaks in ip6 saddr fd00:10:244::/48 tcp sport { 8080, 30080 } counter";
        netns.succeed("nft", &[rules]).unwrap();
        Self(netns)
    }

    fn none(&self) {
        let counted = self.0.succeed("nft", &["list", "table", "inet", "leaks"]).unwrap();
        assert_eq!(counted.matches("counter packets 0 ").count(), 2, "{}: {counted}", self.0.name());
    }
}

/// What a server sends beside its connection's window, or after its client has ended it, comes from where the client has asked or not at
/// all; whoever saw another address would reset the connection.
#[test]
fn what_a_server_sends_beside_its_window_never_bears_its_own_address() {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    for uplink in [Uplink::Dedicated, Uplink::Kernel] {
        let bed = Bed::with(&Options { uplink, masquerade: true, ..Options::default() }, 2);
        let [a, b] = [&bed.pods[0], &bed.pods[1]];
        let [first, second] = [&bed.cluster.nodes[0], &bed.cluster.nodes[1]];
        let outside = &bed.cluster.lan.outside;
        let mut web = service(7, &[("", "TCP", 80)], &json!({}));
        web["spec"]["type"] = json!("NodePort");
        web["spec"]["ports"][0]["nodePort"] = json!(30_080);
        let mut objects = vec![web];
        objects.extend(placed(7, &[("", "TCP", 8080)], &[(b, second, "ready")]));
        bed.cluster.set(FILE, &objects).unwrap();
        wait_for(&bed, "it is there", |shown| shown.contains(":30080/tcp"));
        let leaks = [&a.netns, &first.host, &second.host, outside].map(Leaks::watch);
        for family in Family::BOTH {
            let listen = SocketAddr::new(b.address(family).parse().unwrap(), 8080);
            let boom = raw(&b.netns, family, ipproto::TCP);
            let cluster = SocketAddr::new(address(7, family), 80);
            let [at_first, at_second] =
                [first, second].map(|node| SocketAddr::new(own(node, family), 30_080));
            for (from, at) in [
                (&a.netns, cluster),
                (&first.host, cluster),
                (&second.host, cluster),
                (outside, at_first),
                (outside, at_second),
            ] {
                let listener = inside(&b.netns, || TcpListener::bind(listen)).unwrap().unwrap();
                let mut client = inside(from, || TcpStream::connect_timeout(&at, PATIENCE)).unwrap().unwrap();
                let (mut server, peer) = listener.accept().unwrap();
                for stream in [&server, &client] {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                }
                let goes_astray = |sequence: u32| {
                    for (flags, payload) in [
                        (ACK, &b"boom"[..]),
                        (ACK, b""),
                        (SYN | ACK, b""),
                        (FIN | ACK, b""),
                        (RST | ACK, b""),
                    ] {
                        let packet = segment(listen, peer, sequence, flags, payload);
                        boom.send_to(&packet, (peer.ip(), 0)).unwrap();
                    }
                };
                for sequence in [0, 0x4000_0000, 0x8000_0000, 0xc000_0000] {
                    goes_astray(sequence);
                    // Behind them, on the same way.
                    let mut word = [0; 4];
                    server.write_all(b"word").unwrap();
                    client.read_exact(&mut word).unwrap();
                    client.write_all(&word).unwrap();
                    server.read_exact(&mut word).unwrap();
                }
                // The client leaves with something unread, which ends the connection at once (RFC 2525, section 2.17).
                server.write_all(b"word").unwrap();
                client.peek(&mut [0]).unwrap();
                drop(client);
                let ended = server.read(&mut [0]).unwrap_err();
                assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
                goes_astray(0);
            }
        }
        bed.cluster.ledgers().unwrap();
        leaks.iter().for_each(Leaks::none);
    }
}

/// Also where its server is bound to no address of its own, and so picks one by the route to whom it answers.
#[test]
fn a_pod_that_asks_itself_is_answered_by_datagrams_of_any_length() {
    let bed = Bed::new(1);
    let pod = &bed.pods[0];
    let mut objects = vec![service(7, &[("", "UDP", 80)], &json!({}))];
    objects.extend(slices(7, "all", &[("", "UDP", 5353)], &[(pod, "ready")]));
    bed.cluster.set(FILE, &objects).unwrap();
    wait_for(&bed, "it is there", |shown| shown.contains("service-7"));
    for family in Family::BOTH {
        for length in [4, 8_192] {
            let at = SocketAddr::new(address(7, family), 80);
            let what = format!("{length} B to {at}");
            wait_until(&what, PATIENCE, || datagram_returns(&pod.netns, pod, at, length)).unwrap();
        }
    }
    bed.cluster.ledgers().unwrap();
}
