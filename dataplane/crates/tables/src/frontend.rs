//! A frontend: an address, port and protocol that stand for any of several backends.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::hash::{bits, fold, with_address};
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
    pub name: String,
    /// Each address and port once.
    pub backends: Vec<Backend>,
    /// Whether what no backend takes is dropped rather than refused: others, elsewhere, would.
    pub drops: bool,
}

/// One of those that serve a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Of the frontend's family and network.
    pub addr: IpAddr,
    /// Not 0.
    pub port: u16,
    /// Whether it takes new flows.
    pub state: BackendState,
}

/// Whether a backend takes new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendState {
    /// It does.
    Serving,
    /// It serves those that it has; one that serves nobody is no backend any more.
    Draining,
}

impl Frontend {
    /// The backend for a flow of this hash: of those that serve, the one that weighs most for it (rendezvous hashing). The same hash
    /// finds the same backend whatever their order, and while others come and go; [`None`] if none serves. Two multiplications or
    /// three a backend.
    #[must_use]
    pub fn choose(&self, hash: u64) -> Option<&Backend> {
        let mut heaviest = (0, usize::MAX);
        for (place, backend) in self.backends.iter().enumerate() {
            let own = with_address(u64::from(backend.port), bits(backend.addr));
            let serves = u64::from(backend.state == BackendState::Serving);
            // No branch: which one wins is what no predictor knows. Above zero where it serves.
            let weight = (fold(hash, own) | 1) * serves;
            heaviest = if weight > heaviest.0 { (weight, place) } else { heaviest };
        }
        self.backends.get(heaviest.1)
    }

    /// Asks for what [`Frontend::choose`] reads.
    #[inline]
    pub fn prefetch(&self) {
        if let (Some(first), Some(last)) = (self.backends.first(), self.backends.last()) {
            hint::prefetch_read(first);
            hint::prefetch_read(last);
        }
    }

    /// The backend of this address and port, serving or not.
    #[must_use]
    pub fn backend(&self, addr: IpAddr, port: u16) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.addr == addr && backend.port == port)
    }
}
