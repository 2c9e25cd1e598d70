//! The table's sets, and what is in them: written with the table in nftables' own words, changed in the kernel's.
//!
//! None has ranges in it, since of such a set nft reads and compares all for one element. The prefixes of one length have a set of their own,
//! where an address is looked for by as many of its first bits.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use proto::dataplane::{FrontendKey, Protocol, Router};
use wire::IpPrefix;

use crate::netlink::SetChange;
use crate::wanted::{Difference, Part, Wanted};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    NodePorts {
        v4: bool,
    },
    /// Services' ports on external addresses.
    Externals {
        v4: bool,
    },
    /// The same as ICMP errors quote them.
    Quoted {
        v4: bool,
    },
    /// All nodes' ranges and addresses of one length.
    Cluster {
        v4: bool,
        len: u8,
    },
    TunnelEnds,
    /// What may come in the tunnel, of one length, by the end that it comes from.
    TunnelSources {
        v4: bool,
        len: u8,
    },
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NodePorts { v4 } => write!(f, "node_ports_{}", family(v4)),
            Self::Externals { v4 } => write!(f, "externals_{}", family(v4)),
            Self::Quoted { v4 } => write!(f, "externals_quoted_{}", family(v4)),
            Self::Cluster { v4, len } => write!(f, "cluster_{}_{len}", family(v4)),
            Self::TunnelEnds => f.write_str("tunnel_ends"),
            Self::TunnelSources { v4, len } => write!(f, "tunnel_sources_{}_{len}", family(v4)),
        }
    }
}

pub(super) fn family(v4: bool) -> &'static str {
    if v4 { "ip" } else { "ip6" }
}

/// The prefix is the first of its addresses: how long it is, its set says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Address(IpAddr),
    Port(Protocol, u16),
    External(FrontendKey),
    /// The same, as it is inside an ICMP message.
    Quoted(FrontendKey),
    Source {
        end: IpAddr,
        inside: IpAddr,
    },
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Port(protocol, port) => write!(f, "{protocol} . {port}"),
            Self::External(FrontendKey { address, protocol, port, .. }) => {
                write!(f, "{address} . {protocol} . {port}")
            }
            Self::Quoted(FrontendKey { address, protocol, port, .. }) => {
                write!(f, "{} . {} . {port}", number(*address), protocol.0)
            }
            Self::Source { end, inside } => write!(f, "{end} . {}", number(*inside)),
        }
    }
}

impl Element {
    /// As the kernel has it: each field as in a packet, up to a multiple of four bytes.
    fn key(self) -> Vec<u8> {
        match self {
            Self::Address(address) => octets(address),
            Self::Port(protocol, port) => end_of(protocol, port).to_vec(),
            Self::External(own) | Self::Quoted(own) => {
                [&octets(own.address)[..], &end_of(own.protocol, own.port)].concat()
            }
            Self::Source { end, inside } => [octets(end), octets(inside)].concat(),
        }
    }
}

fn end_of(Protocol(protocol): Protocol, port: u16) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol, 0, 0, 0, high, low, 0, 0]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(own) => own.octets().to_vec(),
        IpAddr::V6(own) => own.octets().to_vec(),
    }
}

/// What is inside a datagram has no name in nftables' words, and is a number.
pub(super) fn number(address: IpAddr) -> String {
    match address {
        IpAddr::V4(own) => format!("{:#x}", own.to_bits()),
        IpAddr::V6(own) => format!("{:#x}", own.to_bits()),
    }
}

pub(super) type Sets = BTreeMap<Set, Vec<Element>>;

/// All that the table has.
pub(super) fn whole(wanted: &Wanted, router: &Router) -> Sets {
    let mut sets = of(&wanted.whole(router));
    // Rules name these also while nothing is in them.
    let node_ports = wanted.routers.iter().map(|own| Set::NodePorts { v4: own.is_ipv4() });
    for set in node_ports.chain(wanted.by_kernel.tunnel.map(|_| Set::TunnelEnds)) {
        sets.entry(set).or_default();
    }
    sets
}

fn of(part: &Part) -> Sets {
    let mut sets = Sets::new();
    let mut add = |set, element| sets.entry(set).or_default().push(element);
    for port in &part.node_ports {
        add(Set::NodePorts { v4: port.v4 }, Element::Port(port.protocol, port.port));
    }
    for &external in &part.externals {
        let v4 = external.address.is_ipv4();
        add(Set::Externals { v4 }, Element::External(external));
        add(Set::Quoted { v4 }, Element::Quoted(external));
    }
    for prefix in &part.cluster {
        let (v4, len) = kind(*prefix);
        add(Set::Cluster { v4, len }, Element::Address(prefix.addr()));
    }
    for end in &part.ends {
        add(Set::TunnelEnds, Element::Address(*end));
    }
    for (end, source) in &part.sources {
        let (v4, len) = kind(*source);
        add(Set::TunnelSources { v4, len }, Element::Source { end: *end, inside: source.addr() });
    }
    sets
}

fn kind(prefix: IpPrefix) -> (bool, u8) {
    (prefix.addr().is_ipv4(), prefix.len())
}

/// What is to change, and of which sets.
pub(super) fn changes(Difference { gone, new }: &Difference) -> (Vec<Set>, Vec<SetChange>) {
    let all = [(false, of(gone)), (true, of(new))].into_iter().flat_map(|(add, sets)| {
        sets.into_iter().map(move |(set, elements)| {
            let keys = elements.into_iter().map(Element::key).collect();
            (set, SetChange { add, set: set.to_string(), keys })
        })
    });
    all.unzip()
}

/// The mask of the first `len` bits.
pub(super) fn mask(v4: bool, len: u8) -> IpAddr {
    if v4 {
        let bits = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or_default();
        IpAddr::V4(bits.into())
    } else {
        let bits = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or_default();
        IpAddr::V6(bits.into())
    }
}
