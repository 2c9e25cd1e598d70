//! A frontend: an address, port and protocol that stand for any of several backends.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use wire::IpPrefix;

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
    /// From where it may be asked; empty: from anywhere.
    pub sources: Vec<IpPrefix>,
    /// For how long a client stays with its backend after its last new flow, in seconds; 0: each flow is for itself.
    pub affinity: u32,
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
#[repr(u8)]
pub enum BackendState {
    /// It serves those that it has; one that serves nobody is no backend any more.
    Draining = 0,
    /// It takes those of this node's own pods, and of the node itself.
    ServingOwn = Asker::Own as u8,
    /// It takes those of everybody else.
    ServingOthers = Asker::Other as u8,
    /// It takes all.
    Serving = Asker::Own as u8 | Asker::Other as u8,
}

/// Who asks for a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Asker {
    /// A pod of this node, or the node itself.
    Own = 1,
    /// Anybody else.
    Other = 2,
}

impl BackendState {
    /// Whether it takes new flows of whoever asks.
    #[inline]
    #[must_use]
    pub const fn takes(self, asker: Asker) -> bool {
        self as u8 & asker as u8 != 0
    }
}

impl Frontend {
    /// Whether a client of this address may ask.
    #[inline]
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|prefix| prefix.contains(client))
    }

    /// The backend for a flow of this hash: of those that take it, the one that weighs most for it (rendezvous hashing). The same hash
    /// finds the same backend whatever their order, and while others come and go; [`None`] if none takes it. Two multiplications or
    /// three a backend.
    #[must_use]
    pub fn choose(&self, hash: u64, asker: Asker) -> Option<&Backend> {
        let mut heaviest = (0, usize::MAX);
        for (place, backend) in self.backends.iter().enumerate() {
            let own = with_address(u64::from(backend.port), bits(backend.addr));
            let takes = u64::from(backend.state.takes(asker));
            // No branch: which one wins is what no predictor knows. Above zero where it takes the flow.
            let weight = (fold(hash, own) | 1) * takes;
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
