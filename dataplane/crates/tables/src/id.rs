//! The numbers by which things are named inside the data plane.

use std::fmt;

/// Ports a data plane can have; [`PortId`]s are below it.
pub const MAX_PORTS: u16 = 1024;
/// Endpoints a data plane can have; [`EndpointId`]s are below it.
pub const MAX_ENDPOINTS: u32 = 262_144;
/// Routes that a guest can be told of: as many as fit one option of DHCPv4, the longest there are (RFC 3442).
pub const MAX_ENDPOINT_ROUTES: usize = 16;
/// Distinct targets that configured routes can have between them.
pub const MAX_NEXT_HOPS: u32 = 262_144;

/// The number of a set of tables. Rises by at least one with each that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

/// A port, below [`MAX_PORTS`]: an index into the tables of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortId(pub u16);

/// A routing domain. 0 is the pods' own; addresses of different networks may overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NetworkId(pub u16);

/// An endpoint, below [`MAX_ENDPOINTS`]. [`Tables`](crate::Tables) assigns it; it stays the same while an endpoint of that name
/// exists. Afterwards the number may go to another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EndpointId(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
