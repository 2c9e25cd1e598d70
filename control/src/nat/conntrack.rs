//! What the kernel remembers of flows of datagrams (its connection tracking), where that is not what the table says by now.
//!
//! The first packet of a flow decides whether it is translated, and the others follow for as long as none is 30 s late. Who asks again and
//! again by one socket, and began before his port led anywhere, or led elsewhere, would so never get there. Connections begin anew by
//! themselves; datagrams do not. As kube-proxy does, what is out of date is forgotten: the next packet is the first one again.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use desired::NodePort;
use imbl::ordset::DiffItem;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as Transport, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use proto::dataplane::{FrontendKey, Protocol};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr as NetlinkAddress};
use rustix::io::Errno;
use wire::IpPrefix;

use crate::netlink;
use crate::wanted::Wanted;

const UDP: Protocol = Protocol(wire::protocol::UDP);

/// An entry's attributes beside those that the crate names (`enum ctattr_type` in linux/netfilter/nfnetlink_conntrack.h).
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Whether what is different may be something for datagrams that go on.
pub(super) fn concerns_datagrams(before: &Wanted, now: &Wanted) -> bool {
    let node_ports = before.node_ports.diff(&now.node_ports).map(|item| one(item).protocol);
    let externals = before.externals.diff(&now.externals).map(|item| one(item).protocol);
    let of_pods = |wanted: &Wanted| -> Vec<_> {
        wanted.ports.iter().filter(|own| own.mapping.protocol == UDP).cloned().collect()
    };
    node_ports.chain(externals).any(|protocol| protocol == UDP)
        || before.ports != now.ports && of_pods(before) != of_pods(now)
        || (&before.routers, &before.sources) != (&now.routers, &now.sources)
}

/// What is there on one side alone.
fn one<'a, T>(item: DiffItem<'a, 'a, T>) -> &'a T {
    match item {
        DiffItem::Add(own) | DiffItem::Remove(own) => own,
    }
}

/// Has the kernel forget the flows of datagrams that do not go as is wanted; how many.
///
/// # Errors
/// The kernel does not tell its connections, or its addresses.
pub(super) fn forget(wanted: &Wanted, within: &[IpPrefix]) -> io::Result<usize> {
    let here = netlink::run(None, async |kernel: netlink::Netlink| kernel.addresses().await);
    let here = here.map_err(io::Error::other)?;
    let now = Now { wanted, within, here: &here };
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    let mut forgotten = 0;
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        ask(&socket, family, NLM_F_DUMP, ConntrackMessage::Get(vec![]))?;
        let mut stale = Vec::new();
        answers(&socket, |attributes| {
            stale.extend(Flow::of(attributes).filter(|flow| now.is_stale(flow)));
        })?;
        for Flow { name, .. } in stale {
            ask(&socket, family, NLM_F_ACK, ConntrackMessage::Delete(name))?;
            match answers(&socket, |_| {}) {
                Ok(()) => forgotten += 1,
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(forgotten)
}

fn ask(
    socket: &Socket,
    family: NetfilterProtoFamily,
    flags: u16,
    message: ConntrackMessage,
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// All that is answered, to its end.
fn answers(socket: &Socket, mut each: impl FnMut(Vec<ConntrackAttribute>)) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &*bytes;
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Each begins at a multiple of four (netlink(7), NLMSG_ALIGN).
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                // Without a code it is what was asked for: that it is done.
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                    ..
                }) => each(attributes),
                _ => {}
            }
        }
    }
}

/// A flow of datagrams.
#[derive(Debug)]
struct Flow {
    source: IpAddr,
    /// Where it was sent.
    at: SocketAddr,
    /// Where it was led, which is who answers.
    to: SocketAddr,
    /// Whom it is answered to.
    seen: IpAddr,
    /// By what the kernel knows it.
    name: Vec<ConntrackAttribute>,
}

impl Flow {
    /// `None` where it is of another protocol.
    fn of(attributes: Vec<ConntrackAttribute>) -> Option<Self> {
        let (mut original, mut reply, mut name) = (None, None, Vec::new());
        for own in attributes {
            match &own {
                ConntrackAttribute::CtaTupleOrig(tuples) => original = Some(ends(tuples)?),
                ConntrackAttribute::CtaTupleReply(tuples) => {
                    reply = Some(ends(tuples)?);
                    continue;
                }
                ConntrackAttribute::Other(other) if [ID, ZONE].contains(&other.kind()) => {}
                _ => continue,
            }
            name.push(own);
        }
        let ((source, at), (to, seen)) = (original?, reply?);
        Some(Self { source: source.ip(), at, to, seen: seen.ip(), name })
    }
}

/// From where, and where to.
fn ends(tuples: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut from, mut to, mut ports, mut is_udp) = (None, None, (None, None), false);
    for tuple in tuples {
        match tuple {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(own) => from = Some(*own),
                        IPTuple::DestinationAddress(own) => to = Some(*own),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(own) => is_udp = *own == Transport::Udp,
                        ProtoTuple::SourcePort(own) => ports.0 = Some(*own),
                        ProtoTuple::DestinationPort(own) => ports.1 = Some(*own),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let ends = (SocketAddr::new(from?, ports.0?), SocketAddr::new(to?, ports.1?));
    is_udp.then_some(ends)
}

/// What the table says.
struct Now<'a> {
    wanted: &'a Wanted,
    /// In which of the node's addresses NodePorts are; empty: in all.
    within: &'a [IpPrefix],
    /// The kernel's own addresses.
    here: &'a BTreeSet<IpAddr>,
}

impl Now<'_> {
    fn is_stale(&self, flow: &Flow) -> bool {
        let Flow { source, at, to, seen, .. } = flow;
        let key = FrontendKey { network: 0, address: at.ip(), port: at.port(), protocol: UDP };
        if self.wanted.externals.contains(&key) {
            // It is marked whatever is remembered of it, but has the source that it was given before.
            let own_source = self.is_here(*source) && !self.wanted.sources.contains(seen);
            return to != at || own_source;
        }
        if !self.is_here(at.ip()) {
            return false;
        }
        match self.leads_to(*at) {
            Some(now) => *to != now,
            // Somebody else's translation is none of ours.
            None => to != at && self.is_ours(to.ip()),
        }
    }

    /// As the rules of `host_ports`, in their order.
    fn leads_to(&self, at: SocketAddr) -> Option<SocketAddr> {
        let (address, port, v4) = (at.ip(), at.port(), at.is_ipv4());
        if address.is_loopback() && !v4 {
            return None;
        }
        for own in &self.wanted.ports {
            let mapping = own.mapping;
            let is_meant = match mapping.host {
                Some(host) if host.is_unspecified() => host.is_ipv4() == v4,
                Some(host) => host == address,
                None => true,
            };
            if mapping.protocol == UDP
                && mapping.host_port == port
                && is_meant
                && let Some(pod) = own.backend(v4)
            {
                return Some(SocketAddr::new(pod, mapping.container_port));
            }
        }
        let is_on = self.within.is_empty() || self.within.iter().any(|prefix| prefix.contains(address));
        let router = self.wanted.routers.iter().find(|own| own.is_ipv4() == v4)?;
        let is_there = self.wanted.node_ports.contains(&NodePort { v4, protocol: UDP, port });
        (is_on && is_there).then_some(SocketAddr::new(*router, port))
    }

    fn is_here(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.here.contains(&address)
    }

    /// Whether only we would lead anything there.
    fn is_ours(&self, address: IpAddr) -> bool {
        self.wanted.routers.contains(&address)
            || self.wanted.prefixes.iter().any(|prefix| prefix.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use desired::HostPort;
    use proto::control::PortMapping;

    fn flow(source: &str, at: &str, to: &str, seen: &str) -> Flow {
        let name = vec![];
        Flow {
            source: source.parse().unwrap(),
            at: at.parse().unwrap(),
            to: to.parse().unwrap(),
            seen: seen.parse().unwrap(),
            name,
        }
    }

    #[test]
    fn a_flow_is_stale_where_the_table_would_lead_it_elsewhere() {
        let here: BTreeSet<IpAddr> =
            ["192.168.77.11", "203.0.113.9"].map(|own| own.parse().unwrap()).into_iter().collect();
        let mapping = PortMapping { host: None, host_port: 53, container_port: 5353, protocol: UDP };
        let pod = HostPort {
            mapping,
            addresses: vec!["10.244.1.2".parse().unwrap()],
            endpoint: "shop/dns".to_owned(),
        };
        let external =
            FrontendKey { network: 0, address: "203.0.113.9".parse().unwrap(), port: 53, protocol: UDP };
        let wanted = Wanted {
            sources: vec!["192.168.77.11".parse().unwrap()],
            prefixes: ["10.244.1.0/24".parse().unwrap()].into_iter().collect(),
            ports: vec![pod],
            node_ports: [NodePort { v4: true, protocol: UDP, port: 30_053 }].into_iter().collect(),
            routers: vec!["10.244.1.1".parse().unwrap()],
            externals: [external].into_iter().collect(),
            ..Wanted::default()
        };
        let stale = |within: &[&str], flow: Flow| {
            let within: Vec<IpPrefix> = within.iter().map(|own| own.parse().unwrap()).collect();
            Now { wanted: &wanted, within: &within, here: &here }.is_stale(&flow)
        };
        let client = "198.51.100.9";
        for (at, to, is_stale) in [
            // To a Service's port: from before it was, and since.
            ("192.168.77.11:30053", "192.168.77.11:30053", true),
            ("127.0.0.1:30053", "127.0.0.1:30053", true),
            ("192.168.77.11:30053", "10.244.1.1:30053", false),
            // To a pod's: from before it was, by a pod that was there before, and since.
            ("192.168.77.11:53", "192.168.77.11:53", true),
            ("192.168.77.11:53", "10.244.1.9:5353", true),
            ("192.168.77.11:53", "10.244.1.2:5353", false),
            // To ports that are none, or were.
            ("192.168.77.11:54", "192.168.77.11:54", false),
            ("192.168.77.11:54", "10.244.1.9:5353", true),
            ("192.168.77.11:30054", "10.244.1.1:30054", true),
            ("192.168.77.11:54", "172.17.0.2:54", false),
            // To somebody else's address, by whom it is not ours to say.
            ("192.0.2.1:30053", "192.0.2.1:30053", false),
            ("10.96.0.7:54", "10.244.1.9:5353", false),
            // To an external one.
            ("203.0.113.9:53", "203.0.113.9:53", false),
            ("203.0.113.9:53", "10.244.1.2:5353", true),
        ] {
            assert_eq!(stale(&[], flow(client, at, to, client)), is_stale, "{at} {to}");
        }
        let own = "203.0.113.9";
        assert!(stale(&[], flow(own, "203.0.113.9:53", "203.0.113.9:53", own)));
        assert!(!stale(&[], flow(own, "203.0.113.9:53", "203.0.113.9:53", "192.168.77.11")));
        let to_node = || flow(client, "192.168.77.11:30053", "192.168.77.11:30053", client);
        assert!(stale(&["192.168.0.0/16"], to_node()) && !stale(&["10.0.0.0/8"], to_node()));
    }

    #[test]
    fn only_what_datagrams_follow_is_looked_for() {
        let of = |protocol| Wanted {
            node_ports: [NodePort { v4: true, protocol: Protocol(protocol), port: 1 }].into_iter().collect(),
            ..Wanted::default()
        };
        assert!(concerns_datagrams(&Wanted::default(), &of(17)) && concerns_datagrams(&of(17), &of(6)));
        assert!(!concerns_datagrams(&Wanted::default(), &of(6)) && !concerns_datagrams(&of(17), &of(17)));
    }
}
