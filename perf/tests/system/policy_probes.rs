//! Who reaches whom: everybody asks everybody at once, by TCP, UDP and SCTP, at two ports and in both families.
//!
//! An answer that came is a dot. That none came is a cross only once the data planes have counted as many packets that a policy
//! denies as there are questions without an answer: nobody has to wait for what does not come.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lab::exchange::inside;
use lab::netns::Netns;
use lab::node::Node;
use lab::pod::{Family, Pod};
use lab::wait::{PATIENCE, wait_until};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

use crate::service_clients::{INIT, INIT_ACK, Sctp, raw};

/// Where everybody listens.
pub(crate) const PORTS: [u16; 2] = [80, 81];
/// Longest wait for an answer, or for a packet to be counted, before all is asked again.
const ROUND: Duration = Duration::from_secs(3);
/// Time between two looks at the counters.
const LOOK: Duration = Duration::from_millis(20);
/// Clients' ports of SCTP, one a round.
const CLIENT_PORTS: [u16; 2] = [10_000, 60_000];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Tcp,
    Udp,
    Sctp,
}

use By::{Sctp as BySctp, Tcp, Udp};

/// One question. Pods are told as namespace and name: `x/a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ask {
    pub(crate) by: By,
    pub(crate) port: u16,
    /// IPv4, or else IPv6.
    pub(crate) v4: bool,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

/// Of `x/a` it is `x`.
pub(crate) fn namespace(name: &str) -> &str {
    name.split_once('/').unwrap().0
}

/// Of `x/a` it is `a`.
pub(crate) fn own_name(name: &str) -> &str {
    name.split_once('/').unwrap().1
}

impl Ask {
    pub(crate) fn is_from(&self, name: &str) -> bool {
        namespace(self.from) == name
    }

    pub(crate) fn is_to(&self, name: &str) -> bool {
        namespace(self.to) == name
    }

    pub(crate) fn is_from_pod(&self, name: &str) -> bool {
        own_name(self.from) == name
    }

    pub(crate) fn is_to_pod(&self, name: &str) -> bool {
        own_name(self.to) == name
    }
}

/// Somebody with ears and a voice, in a namespace of his own.
pub(crate) struct Party {
    pub(crate) name: &'static str,
    netns: Netns,
    pub(crate) addresses: [IpAddr; 2],
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    /// By family. The kernel here has no SCTP: packets are made by hand.
    sctp: [UdpSocket; 2],
}

impl Party {
    pub(crate) fn new(name: &'static str, pod: &Pod) -> Self {
        let netns = pod.netns.clone();
        let any = |port: &u16| format!("[::]:{port}");
        let (listeners, datagrams) = inside(&netns, || {
            let listeners: Vec<TcpListener> =
                PORTS.iter().map(|port| TcpListener::bind(any(port)).unwrap()).collect();
            let datagrams: Vec<UdpSocket> =
                PORTS.iter().map(|port| UdpSocket::bind(any(port)).unwrap()).collect();
            (listeners, datagrams)
        })
        .unwrap();
        let sctp = Family::BOTH.map(|family| raw(&netns, family, ipproto::SCTP));
        listeners.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        datagrams.iter().chain(&sctp).for_each(|socket| socket.set_nonblocking(true).unwrap());
        let addresses = Family::BOTH.map(|family| pod.address(family).parse().unwrap());
        Self { name, netns, addresses, listeners, datagrams, sctp }
    }

    /// Answers everybody who asks it; gives whom it was answered by itself, by SCTP.
    fn answer(&self) -> Result<Vec<(IpAddr, [u16; 2])>> {
        for listener in &self.listeners {
            while let Some((mut client, _)) = ready(listener.accept())? {
                // Whoever it was may have left.
                let _ = client.write_all(b"word");
            }
        }
        for socket in &self.datagrams {
            while let Some((_, who)) = ready(socket.recv_from(&mut [0; 16]))? {
                let _ = socket.send_to(b"word", who);
            }
        }
        let mut answered = Vec::new();
        for socket in &self.sctp {
            // It hears the kernel's other packets of the protocol too, of which there are none.
            while let Some((heard, who)) = heard(socket)? {
                let [theirs, own] = heard.ports;
                match heard.chunk {
                    INIT => Sctp { ports: [own, theirs], tag: 1, chunk: INIT_ACK }.send(socket, who, 2),
                    _ => answered.push((who, heard.ports)),
                }
            }
        }
        Ok(answered)
    }
}

/// What is there, if anything is; a socket may be told what became of an earlier packet, which says nothing of others.
fn ready<T>(result: std::io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn heard(socket: &UdpSocket) -> Result<Option<(Sctp, IpAddr)>> {
    match Sctp::hear(socket) {
        Ok(heard) => Ok(Some(heard)),
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(own) if own.kind() == ErrorKind::WouldBlock => Ok(None),
            _ => Err(error),
        },
    }
}

/// Everybody, on these nodes.
pub(crate) struct Field {
    pub(crate) parties: Vec<Party>,
    round: u16,
}

/// A round's questions, and who was answered.
#[derive(Default)]
struct Round {
    asked: BTreeSet<Ask>,
    answered: BTreeSet<Ask>,
    streams: Vec<(Ask, TcpStream)>,
    datagrams: Vec<(UdpSocket, BTreeMap<SocketAddr, Ask>)>,
    /// By who asks, whom and from which port.
    sctp: BTreeMap<(&'static str, IpAddr, [u16; 2]), Ask>,
}

impl Round {
    fn hear(&mut self, parties: &[Party]) -> Result<()> {
        for party in parties {
            for (who, ports) in party.answer()? {
                self.answered.extend(self.sctp.get(&(party.name, who, ports)));
            }
        }
        for (ask, stream) in &mut self.streams {
            let mut word = [0; 4];
            if !self.answered.contains(ask) && stream.read(&mut word).is_ok_and(|length| length > 0) {
                self.answered.insert(*ask);
            }
        }
        for (socket, asked) in &self.datagrams {
            while let Some((_, who)) = ready(socket.recv_from(&mut [0; 16]))? {
                self.answered.extend(asked.get(&who));
            }
        }
        Ok(())
    }
}

impl Field {
    pub(crate) fn new(parties: Vec<Party>) -> Self {
        Self { parties, round: 0 }
    }

    /// Everybody asks everybody else, as a new client.
    fn ask(&mut self) -> Result<Round> {
        self.round += 1;
        let own = CLIENT_PORTS[0] + self.round % (CLIENT_PORTS[1] - CLIENT_PORTS[0]);
        let mut round = Round::default();
        for party in &self.parties {
            let others: Vec<&Party> = self.parties.iter().filter(|other| other.name != party.name).collect();
            for (family, v4) in [(0, true), (1, false)] {
                let asks = |by: By| {
                    others.iter().flat_map(move |other| {
                        let to = other.addresses[family];
                        let ask = move |port| Ask { by, port, v4, from: party.name, to: other.name };
                        PORTS.map(|port| (ask(port), SocketAddr::new(to, port)))
                    })
                };
                let (streams, socket) = inside(&party.netns, || {
                    let streams: Result<Vec<_>> = asks(Tcp).map(|(ask, at)| Ok((ask, begin(at)?))).collect();
                    let any = if v4 { "0.0.0.0:0" } else { "[::]:0" };
                    (streams, UdpSocket::bind(any))
                })?;
                let socket = socket?;
                socket.set_nonblocking(true)?;
                for (_, at) in asks(Udp) {
                    socket.send_to(b"word", at)?;
                }
                for (ask, at) in asks(BySctp) {
                    let ports = [own, at.port()];
                    Sctp { ports, tag: 0, chunk: INIT }.send(&party.sctp[family], at.ip(), 1);
                    round.sctp.insert((party.name, at.ip(), [at.port(), own]), ask);
                }
                round.streams.extend(streams?);
                round.datagrams.push((socket, asks(Udp).map(|(ask, at)| (at, ask)).collect()));
                for by in [Tcp, Udp, BySctp] {
                    round.asked.extend(asks(by).map(|(ask, _)| ask));
                }
            }
        }
        Ok(round)
    }

    /// Waits until those reach each other who should, and nobody else does.
    ///
    /// # Errors
    /// The table as it was at last.
    pub(crate) fn expect(
        &mut self,
        nodes: &[Node],
        what: &str,
        allowed: &dyn Fn(&Ask) -> bool,
    ) -> Result<()> {
        let mut table = String::new();
        let settled = wait_until(what, PATIENCE, || {
            let before = denied(nodes)?;
            let mut round = self.ask()?;
            let wanted: BTreeSet<Ask> = round.asked.iter().copied().filter(|ask| allowed(ask)).collect();
            let forbidden = u64::try_from(round.asked.len() - wanted.len())?;
            let (began, mut looked, mut counted) = (Instant::now(), Instant::now(), 0);
            while began.elapsed() < ROUND {
                round.hear(&self.parties)?;
                if !round.answered.is_subset(&wanted) || counted > forbidden {
                    break;
                }
                if round.answered == wanted && counted == forbidden {
                    break;
                }
                if looked.elapsed() > LOOK {
                    counted = denied(nodes)? - before;
                    looked = Instant::now();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            table = self.table(&round, &wanted);
            if round.answered != wanted || counted < forbidden {
                bail!("{counted} packets were counted as denied, {forbidden} are to be\n{table}");
            }
            Ok(())
        });
        println!("{what}:\n{table}");
        settled
    }

    /// As policy suites draw it: sources' rows and destinations' columns, dots and crosses; `+` for what passed and should not,
    /// `-` for what should have and did not.
    fn table(&self, round: &Round, wanted: &BTreeSet<Ask>) -> String {
        let names: Vec<&str> = self.parties.iter().map(|party| party.name).collect();
        let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for by in [Tcp, Udp, BySctp] {
            for port in PORTS {
                for v4 in [true, false] {
                    let mut table = format!("     {}\n", names.join(" "));
                    for &from in &names {
                        table += &format!(" {from}");
                        for &to in &names {
                            let ask = Ask { by, port, v4, from, to };
                            let sign = match (round.answered.contains(&ask), wanted.contains(&ask)) {
                                _ if from == to => '.',
                                (true, true) => '.',
                                (false, false) => 'X',
                                (true, false) => '+',
                                (false, true) => '-',
                            };
                            table += &format!("  {sign} ");
                        }
                        table += "\n";
                    }
                    let title = format!("{by:?} {port} {}", if v4 { "IPv4" } else { "IPv6" });
                    tables.entry(table).or_default().push(title);
                }
            }
        }
        tables.iter().map(|(table, titles)| format!("  {}\n{table}", titles.join(", "))).collect()
    }
}

/// A connection that is on its way.
pub(crate) fn begin(at: SocketAddr) -> Result<TcpStream> {
    let domain = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(domain, SocketType::STREAM, flags, None)?;
    match connect(&socket, &at) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Packets that a policy denied, on all nodes.
pub(crate) fn denied(nodes: &[Node]) -> Result<u64> {
    let mut sum = 0;
    for node in nodes {
        let reasons = node.query().drops_by_reason()?;
        sum += ["policy-ingress", "policy-egress"].iter().filter_map(|own| reasons.get(*own)).sum::<u64>();
    }
    Ok(sum)
}
