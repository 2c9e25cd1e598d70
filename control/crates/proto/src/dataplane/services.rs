//! Rows that the service step reads: frontends with their backends, and how packets leave a network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wire::{IpPrefix, protocol};

use super::large::FrontendFields;
use crate::text;

/// What a frontend is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrontendKey {
    #[serde(default)]
    pub network: u16,
    pub address: IpAddr,
    pub port: u16,
    #[serde(with = "text")]
    pub protocol: Protocol,
}

impl fmt::Display for FrontendKey {
    /// As `10.96.0.10:53/udp`, and the network where it is not the pods' own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol)?;
        if self.network == 0 { Ok(()) } else { write!(f, " of network {}", self.network) }
    }
}

/// An address and port that stand for any of several backends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "FrontendFields")]
pub struct Frontend {
    #[serde(flatten)]
    pub key: FrontendKey,
    /// For people; `namespace/service:port` where that is known.
    pub name: Arc<str>,
    /// Of the frontend's own address family, each address and port once.
    pub backends: Arc<[Backend]>,
    /// Whether what no backend takes is dropped rather than refused: others, elsewhere, would.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drops: bool,
    /// From where it may be asked; empty: from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "text::list")]
    pub sources: Vec<IpPrefix>,
    /// For how long a client stays with its backend after its last new flow; `None`: each flow is for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<NonZeroU32>,
}

/// One of those that serve a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    pub state: BackendState,
}

/// Whether a backend takes new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// It does.
    Serving,
    /// Those of this node's own pods, and of the node itself.
    ServingOwn,
    /// Those of everybody else.
    ServingOthers,
    /// It serves those that it has; one that serves nobody is no backend any more.
    Draining,
}

impl BackendState {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::ServingOwn => "serving-own",
            Self::ServingOthers => "serving-others",
            Self::Draining => "draining",
        }
    }
}

/// Source translation: of what leaves a network for outside, and of what would not be answered by the router.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Masquerade {
    #[serde(default)]
    pub network: u16,
    /// The source that pods' IPv4 packets to the outside get; `None` leaves them as they are.
    #[serde(default)]
    pub source4: Option<Ipv4Addr>,
    #[serde(default)]
    pub source6: Option<Ipv6Addr>,
    /// Destinations that see the pod's own address.
    #[serde(default, with = "text::list")]
    pub exclude: Vec<IpPrefix>,
    /// Whether link-local destinations see the translated source.
    #[serde(default)]
    pub link_local: bool,
    /// The router's own address among the pods': the source of what goes to a Service's backend whose answers would not come by the
    /// router. `None`: such packets are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service6: Option<Ipv6Addr>,
    /// The source ports to choose from.
    pub ports: PortRange,
}

/// Ports, the first and the last among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { first.fmt(f) } else { write!(f, "{first}-{last}") }
    }
}

/// An IP protocol: by name where people use one, by number else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

const NAMES: [(&str, u8); 5] = [
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("sctp", protocol::SCTP),
    ("icmp", protocol::ICMP),
    ("icmpv6", protocol::ICMPV6),
];

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = NAMES.iter().find(|(name, _)| *name == text).map(|&(_, number)| number);
        named.or_else(|| text.parse().ok()).map(Self).ok_or_else(|| {
            format!("`{text}` is no protocol: write tcp, udp, sctp, icmp, icmpv6 or a number up to 255")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_read_as_they_are_written() {
        assert!((0..=u8::MAX).map(Protocol).all(|one| one.to_string().parse() == Ok(one)));
        assert_eq!((Protocol(6).to_string(), Protocol(47).to_string()), ("tcp".into(), "47".into()));
        assert!("256".parse::<Protocol>().unwrap_err().contains("`256`"));
    }
}
