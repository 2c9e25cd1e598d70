//! A frontend: an address, port and protocol that stand for any of several backends.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use wire::IpPrefix;

use crate::backends::Backends;
use crate::hash::{bits, with_address};
use crate::id::NetworkId;

/// What a frontend is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrontendKey {
    /// Where the address is.
    pub network: NetworkId,
    /// What clients send to.
    pub addr: IpAddr,
    /// The destination port; not 0.
    pub port: u16,
    /// TCP, UDP or SCTP, by its IP protocol number.
    pub protocol: u8,
}

impl FrontendKey {
    /// All but the address.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        word(self.network, self.port, self.protocol)
    }
}

#[inline]
pub(crate) fn word(network: NetworkId, port: u16, protocol: u8) -> u64 {
    u64::from(network.0) << 24 | u64::from(port) << 8 | u64::from(protocol)
}

/// By words: a derived one would hash the address a byte at a time.
impl Hash for FrontendKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(with_address(self.word(), bits(self.addr)));
    }
}

impl fmt::Display for FrontendKey {
    /// As `10.96.0.10:53/udp`, and the network where it is not the pods' own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", SocketAddr::new(self.addr, self.port))?;
        match self.protocol {
            6 => f.write_str("tcp")?,
            17 => f.write_str("udp")?,
            132 => f.write_str("sctp")?,
            other => other.fmt(f)?,
        }
        if self.network.0 == 0 { Ok(()) } else { write!(f, " in network {}", self.network) }
    }
}

/// An address, port and protocol, and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What it is found by.
    pub key: FrontendKey,
    /// What people call it, as `namespace/service:port`.
    pub name: Arc<str>,
    /// Each address and port once.
    pub backends: Backends,
    /// Whether what no backend takes is dropped rather than refused: others, elsewhere, would.
    pub drops: bool,
    /// From where it may be asked; empty: from anywhere.
    pub sources: Vec<IpPrefix>,
    /// For how long a client stays with its backend after its last new flow, in seconds; 0: each flow is for itself.
    pub affinity: u32,
}

impl Frontend {
    /// Whether a client of this address may ask.
    #[inline]
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|prefix| prefix.contains(client))
    }
}
