//! Every kind of port with every other, and packets of every sort from each to each.
//!
//! A kind is a TAP, a guest with offloads and one without, a device that finishes checksums and segments itself and one that
//! does not, and another node at the far end of a tunnel. Of each there are three ports: one to send by, one to receive by, and one to receive jumbo packets by.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use proto::dataplane::{
    Interface, InterfaceAddress, Limits, Op, Peer, Policy, PortKind, PortSpec, Route, RouteKey, RouteTarget,
    Rule, RuleVerdict, TunnelPeer, TunnelPeerKey,
};
use tap::Offloads;

use crate::dataplane::{Dataplane, PATIENCE, ROUTER};
use crate::ends::{Backend, Driver, End, FarEnd};
use crate::frames::endpoint;
use crate::packet_socket::Packets;
use crate::pod::{Pod, gateway};
use crate::specimens::{Arrived, Specimen, Transport, too_big};
use crate::talk::stream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `uso`: the kernel knows large UDP segments (Linux 6.2).
    Tap {
        uso: bool,
    },
    Guest {
        offloads: bool,
    },
    Device {
        offloads: bool,
    },
    Tunnel,
}

impl Kind {
    fn all() -> [Self; 6] {
        let uso = Offloads { checksum: true, tso4: true, tso6: true, uso: true };
        let uso = Pod::bare(99).second_tap("t0").set_offload(uso).is_ok();
        [
            Self::Tap { uso },
            Self::Guest { offloads: true },
            Self::Guest { offloads: false },
            Self::Device { offloads: true },
            Self::Device { offloads: false },
            Self::Tunnel,
        ]
    }

    /// Whether somebody behind such a port can send it with this left to finish.
    fn gives(self, specimen: &Specimen) -> bool {
        match self {
            Self::Tap { uso } => uso || specimen.cut.is_none() || specimen.transport == Transport::Tcp,
            Self::Guest { offloads: true } => true,
            // virtio-user takes unfinished checksums from its back end, and no large segments.
            Self::Device { offloads: true } => specimen.cut.is_none(),
            // What is unfinished in a tunnel DPDK's virtio finishes, and of a packet in two buffers sums the first alone
            // (virtio_rx_offload is called before the second is there).
            Self::Tunnel => specimen.cut.is_none() && !(specimen.partial && specimen.longest() > 1_900),
            Self::Guest { offloads: false } | Self::Device { offloads: false } => !specimen.partial,
        }
    }

    /// Whether a large segment passes such a port whole.
    fn takes(self, specimen: &Specimen) -> bool {
        match self {
            Self::Device { offloads: true } => specimen.transport == Transport::Tcp,
            Self::Tap { uso } => uso || specimen.transport == Transport::Tcp,
            Self::Guest { offloads } => offloads,
            Self::Device { offloads: false } | Self::Tunnel => false,
        }
    }

    /// Whether an unfinished checksum may pass such a port.
    fn finishes(self) -> bool {
        !matches!(self, Self::Guest { offloads: false } | Self::Device { offloads: false } | Self::Tunnel)
    }
}

/// A port, and who is behind it.
struct Station {
    kind: Kind,
    /// The pod's.
    number: u8,
    port: String,
    mtu: u16,
    end: End,
    _pod: Option<Pod>,
}

impl Station {
    fn new(dataplane: &mut Dataplane, kind: Kind, number: u8, mtu: u16) -> Self {
        let port = format!("port{number}");
        let socket = dataplane.dir.path().join(&port);
        let spec =
            |kind| PortSpec { name: port.clone(), kind, mac: Some(ROUTER), mtu, limits: Limits::default() };
        let (end, pod) = match kind {
            Kind::Tap { .. } => {
                let pod = Pod::bare(number);
                pod.set("ipv6/conf/all/disable_ipv6", "1");
                pod.ip("link set eth0 mtu 9000");
                dataplane.try_add(spec(PortKind::Tap), &[pod.fd()]).unwrap();
                (End::Tap(Packets::on(&pod, "eth0")), Some(pod))
            }
            Kind::Guest { offloads } => {
                let vhost = PortKind::Vhost { path: socket.clone(), server: true, queue_pairs: 1 };
                dataplane.try_add(spec(vhost), &[]).unwrap();
                (End::Guest(Driver::connect(&socket, offloads)), None)
            }
            Kind::Device { offloads } => {
                let backend = Backend::start(&socket, 1);
                let mut device = Backend::device(&format!("net_virtio_user{number}"), &socket, 1);
                device.offloads = offloads;
                dataplane.try_add(spec(PortKind::Ethdev(device)), &[]).unwrap();
                (End::Device(backend), None)
            }
            Kind::Tunnel => {
                let backend = Backend::start(&socket, 1);
                let device = Backend::device(&format!("net_virtio_user{number}"), &socket, 1);
                let under = format!("under{number}");
                // The header of a datagram, and what it is in.
                let link = PortSpec { name: under.clone(), mtu: mtu + 50, ..spec(PortKind::Ethdev(device)) };
                dataplane.try_add(link, &[]).unwrap();
                let vni = 7 + u32::from(number);
                dataplane
                    .try_add(spec(PortKind::Vxlan { uplink: under, vni, udp_port: 4_789 }), &[])
                    .unwrap();
                let ends = [1, 2].map(|end| Ipv4Addr::new(172, 16, number, end));
                (End::Tunnel(FarEnd { backend, ends, vni }), None)
            }
        };
        Self { kind, number, port, mtu, end, _pod: pod }
    }
}

impl Station {
    /// What leads to whoever is behind the port.
    fn rows(&self) -> Vec<Op> {
        let endpoint = endpoint(self.number, &self.port);
        let End::Tunnel(FarEnd { ends: [own, theirs], .. }) = self.end else {
            return vec![Op::SetEndpoints { endpoints: vec![endpoint] }];
        };
        let own = InterfaceAddress { address: own.into(), prefix_len: 24 };
        let port = format!("under{}", self.number);
        let key = TunnelPeerKey { port: self.port.clone(), address: theirs.into() };
        let peer = TunnelPeer { key, mac: endpoint.mac };
        let route = |&address| Route {
            key: RouteKey { network: 0, prefix: wire::IpPrefix::host(address) },
            target: RouteTarget::NextHop { port: self.port.clone(), address: theirs.into(), inside: true },
        };
        vec![
            Op::SetInterfaces { interfaces: vec![Interface { port, network: 0, addresses: vec![own] }] },
            Op::SetTunnelPeers { peers: vec![peer] },
            Op::SetRoutes { routes: endpoint.addresses.iter().map(route).collect() },
        ]
    }
}

/// Sends a specimen until it has arrived, or its source has been told that it is too long; says what is wrong.
fn walk(from: &mut Station, to: &mut Station, specimen: &Specimen) -> Result<(), String> {
    let mtu = usize::from(to.mtu);
    let refused = specimen.longest() > mtu && (specimen.v6 || specimen.whole || specimen.cut.is_some());
    from.end.take();
    to.end.take();
    let frames = specimen.frames(from.number, to.number);
    for (header, frame) in &frames {
        from.end.give(*header, frame);
    }
    let began = Instant::now();
    let mut arrived = Arrived::default();
    let mut again = Duration::from_millis(100);
    loop {
        for (header, frame) in to.end.take() {
            arrived.take(specimen, (from.number, to.number), mtu, header, &frame)?;
            if header.flags & tap::vnet::NEEDS_CSUM != 0 && !to.kind.finishes() {
                return Err("an unfinished checksum where nobody finishes it".into());
            }
        }
        if refused {
            for (_, frame) in from.end.take() {
                if let Some(told) = too_big(&frame, from.number, specimen.v6) {
                    let right = told as usize == mtu && arrived.frames == 0;
                    return if right {
                        Ok(())
                    } else {
                        Err(format!("MTU {told} is told, {} came", arrived.frames))
                    };
                }
            }
            // Errors are few a second; what is lost of them is not told again by itself.
            if began.elapsed() > again {
                again += Duration::from_millis(100);
                from.end.give(frames[0].0, &frames[0].1);
            }
        } else if arrived.is_complete(specimen) {
            break;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{} frames, {} bytes came", arrived.frames, arrived.payload.len()));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    if arrived.payload != stream(specimen.payload) {
        return Err("the payload differs".into());
    }
    let pieces = match specimen.cut {
        Some(_) if to.kind.takes(specimen) => 1,
        Some(cut) => specimen.payload.div_ceil(cut.into()),
        None if specimen.fragments.is_some() => frames.len(),
        None if specimen.longest() > mtu => {
            // All but the last are multiples of eight bytes.
            let room = (mtu - 20) / 8 * 8;
            (specimen.l4_header() + specimen.payload).div_ceil(room)
        }
        None => 1,
    };
    if arrived.frames != pieces {
        return Err(format!("{} frames came, not {pieces}", arrived.frames));
    }
    Ok(())
}

#[test]
fn packets_of_every_sort_pass_between_all_kinds_of_ports() {
    let mut dataplane = Dataplane::start(&["--mbufs", "16384", "--large-mbufs", "4096"]);
    let mut number = 0;
    let mut stations = |dataplane: &mut Dataplane, mtu| -> Vec<Station> {
        let station = |kind| {
            number += 1;
            Station::new(dataplane, kind, number, mtu)
        };
        Kind::all().map(station).into()
    };
    let mut senders = stations(&mut dataplane, 9_000);
    let mut receivers = stations(&mut dataplane, 1_500);
    receivers.extend(stations(&mut dataplane, 9_000));
    let all = senders.iter().chain(&receivers);
    let rows = all.clone().flat_map(Station::rows);
    dataplane.commit(0, std::iter::once(gateway()).chain(rows).collect());
    let names: Vec<_> = all.map(|station| station.port.clone()).collect();
    dataplane.until("everybody is there", |d| names.iter().all(|name| d.port(name).up));

    let specimens = Specimen::all();
    let mut wrong = String::new();
    let mut walked = 0;
    for from in &mut senders {
        for to in &mut receivers {
            let kind = from.kind;
            for specimen in specimens.iter().filter(|specimen| kind.gives(specimen)) {
                // The first is decided, the second does as the first did.
                for turn in ["first", "again"] {
                    walked += 1;
                    if let Err(why) = walk(from, to, specimen) {
                        // What was dropped at both ports so far.
                        let dropped = [&from.port, &to.port].map(|port| dataplane.dropped(port));
                        let (from, to, mtu) = (from.kind, to.kind, to.mtu);
                        writeln!(
                            wrong,
                            "{from:?} to {to:?}, mtu {mtu}, {turn}: {specimen:?}: {why}; {dropped:?}"
                        )
                        .unwrap();
                    }
                }
                assert!(wrong.lines().count() < 8, "among others:\n{wrong}");
            }
        }
    }
    assert!(wrong.is_empty(), "of {walked}:\n{wrong}");
    assert!(walked > 3_000, "{walked} of them");
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
}

/// Has each send these to each; none arrives, and each is dropped where it came in, for this reason.
fn refused(
    dataplane: &mut Dataplane,
    senders: &mut [Station],
    receivers: &mut [Station],
    specimens: &[Specimen],
    reason: &str,
) {
    for from in senders {
        for to in &mut *receivers {
            let before = dataplane.drops(&from.port, reason);
            for specimen in specimens {
                for (header, frame) in specimen.frames(from.number, to.number) {
                    from.end.give(header, &frame);
                }
            }
            let after = before + specimens.len() as u64;
            let what = format!("{:?} to {:?}: {reason}", from.kind, to.kind);
            dataplane.until(&what, |d| d.drops(&from.port, reason) == after);
            // A TAP's kernel has something to say of its own now and then.
            let ours = |frame: &[u8]| frame[6..12] == ROUTER.0;
            assert!(!to.end.take().iter().any(|(_, frame)| ours(frame)), "{what}");
        }
    }
}

/// Who is behind a port takes and gives what its policy allows, whatever kind of port it is, and what protocol.
#[test]
fn policies_hold_on_every_kind_of_port() {
    let mut dataplane = Dataplane::start(&[]);
    let kinds = Kind::all().into_iter().filter(|kind| *kind != Kind::Tunnel).collect::<Vec<_>>();
    let stations = |dataplane: &mut Dataplane, first: u8| -> Vec<Station> {
        (first..).zip(&kinds).map(|(number, kind)| Station::new(dataplane, *kind, number, 1_500)).collect()
    };
    let (mut senders, mut receivers) = (stations(&mut dataplane, 1), stations(&mut dataplane, 11));
    let policies = |of: &[Station], ingress: Option<Vec<Rule>>, egress: Option<Vec<Rule>>| {
        let policy = |own: &Station| Policy {
            endpoint: format!("pod{}", own.number),
            ingress: ingress.clone(),
            egress: egress.clone(),
        };
        Op::SetPolicies { policies: of.iter().map(policy).collect() }
    };
    let anything = Rule {
        id: 1,
        name: "shop/anything ingress[0]".into(),
        says: String::new(),
        peer: Peer::Any,
        protocol: None,
        ports: None,
        verdict: RuleVerdict::Allow,
    };
    let rows = senders.iter().chain(&receivers).flat_map(Station::rows);
    let closed = policies(&receivers, Some(vec![]), None);
    dataplane.commit(0, std::iter::once(gateway()).chain(rows).chain([closed]).collect());
    let names: Vec<_> = senders.iter().chain(&receivers).map(|station| station.port.clone()).collect();
    dataplane.until("everybody is there", |d| names.iter().all(|name| d.port(name).up));

    let plain =
        |own: &Specimen| own.payload < 600 && !own.partial && own.cut.is_none() && own.fragments.is_none();
    let specimens: Vec<Specimen> = Specimen::all().into_iter().filter(plain).collect();
    // The others are segments of a connection that nobody knows: they may be answers, and then no policy is against them.
    let begins = |own: &Specimen| !matches!(own.transport, Transport::Tcp | Transport::Sctp);
    let first: Vec<Specimen> = specimens.iter().copied().filter(begins).collect();
    refused(&mut dataplane, &mut senders, &mut receivers, &first, "policy-ingress");
    dataplane.commit(1, vec![policies(&receivers, Some(vec![anything]), None)]);
    let mut walked = 0;
    for from in &mut senders {
        for to in &mut receivers {
            for specimen in &specimens {
                walk(from, to, specimen)
                    .unwrap_or_else(|why| panic!("{:?} to {:?}: {specimen:?}: {why}", from.kind, to.kind));
                walked += 1;
            }
        }
    }
    assert!(walked >= 25 * 16, "{walked} of them");
    dataplane.commit(2, vec![policies(&senders, None, Some(vec![]))]);
    refused(&mut dataplane, &mut senders, &mut receivers, &first, "policy-egress");
    dataplane.assert_ledger();
    assert!(dataplane.terminate().success());
}
