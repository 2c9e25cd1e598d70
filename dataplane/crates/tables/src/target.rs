//! Where a route leads, and how that fits the 32 bits of a trie's value.
//!
//! A value is the origin (2 bits), the kind (3 bits) and a number (27 bits). Targets of configured routes that name a port
//! or an endpoint are rows of their own, counted by the routes that lead there: so a port that is in use can be told at
//! once, and a million routes behind one next hop hold its address once.

use std::net::IpAddr;

use crate::chunked::Chunked;
use crate::id::{EndpointId, PortId};
use crate::map::Map;
use crate::network::Origin;

/// What the tables say of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// An endpoint of this node.
    Endpoint(EndpointId),
    /// A neighbour on this port forwards it.
    NextHop {
        /// Where the neighbour is.
        port: PortId,
        /// Its address, to be resolved by ARP or ND.
        addr: IpAddr,
        /// Whether what goes there stays in the cluster, and so keeps its source.
        inside: bool,
    },
    /// The destination itself is a neighbour on this port.
    Connected(PortId),
    /// One of the router's own addresses.
    Local,
    /// To be dropped without an answer.
    Blackhole,
    /// To be answered with "host unreachable" (RFC 792) or "address unreachable" (RFC 4443, section 3.1).
    Unreachable,
}

/// Where a configured route may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteTarget {
    /// A neighbour on this port, of the prefix's own family; or a tunnel's peer, of either.
    NextHop {
        /// Where the neighbour is.
        port: PortId,
        /// Its address.
        addr: IpAddr,
        /// Whether what goes there stays in the cluster: it is not masqueraded.
        inside: bool,
    },
    /// Each destination is itself a neighbour on this port.
    Connected(PortId),
    /// An endpoint of this node, such as the host where the kernel routes what leaves.
    Endpoint(EndpointId),
    /// Drop without an answer.
    Blackhole,
    /// Answer with "host unreachable" or "address unreachable".
    Unreachable,
}

impl RouteTarget {
    /// The port it names.
    pub(crate) fn port(self) -> Option<PortId> {
        match self {
            Self::NextHop { port, .. } | Self::Connected(port) => Some(port),
            Self::Endpoint(_) | Self::Blackhole | Self::Unreachable => None,
        }
    }
}

impl From<RouteTarget> for Target {
    fn from(target: RouteTarget) -> Self {
        match target {
            RouteTarget::NextHop { port, addr, inside } => Self::NextHop { port, addr, inside },
            RouteTarget::Connected(port) => Self::Connected(port),
            RouteTarget::Endpoint(id) => Self::Endpoint(id),
            RouteTarget::Blackhole => Self::Blackhole,
            RouteTarget::Unreachable => Self::Unreachable,
        }
    }
}

/// A trie's value. Never zero, since no kind is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed(pub(crate) u32);

const ORIGIN_AT: u32 = 30;
const KIND_AT: u32 = 27;
const NUMBER: u32 = (1 << KIND_AT) - 1;

/// The kinds of a value, in its three bits.
const ROW: u32 = 1;
const ENDPOINT: u32 = 2;
const CONNECTED: u32 = 3;
const LOCAL: u32 = 4;
const BLACKHOLE: u32 = 5;
const UNREACHABLE: u32 = 6;

impl Packed {
    const fn new(origin: Origin, kind: u32, number: u32) -> Self {
        Self((origin as u32) << ORIGIN_AT | kind << KIND_AT | number & NUMBER)
    }

    pub(crate) const fn endpoint(id: EndpointId) -> Self {
        Self::new(Origin::Endpoint, ENDPOINT, id.0)
    }

    pub(crate) const fn connected(port: PortId) -> Self {
        Self::new(Origin::Connected, CONNECTED, port.0 as u32)
    }

    /// The port says whose address it is.
    pub(crate) const fn local(port: PortId) -> Self {
        Self::new(Origin::Local, LOCAL, port.0 as u32)
    }

    pub(crate) const fn origin(self) -> Origin {
        Origin::of_bits(self.0 >> ORIGIN_AT)
    }

    pub(crate) const fn number(self) -> u32 {
        self.0 & NUMBER
    }

    const fn kind(self) -> u32 {
        self.0 >> KIND_AT & 7
    }
}

#[derive(Clone, Copy)]
struct Row {
    target: RouteTarget,
    routes: u32,
}

/// The targets of configured routes, each once.
#[derive(Clone, Default)]
pub(crate) struct Targets {
    rows: Chunked<Row>,
    index: Map<RouteTarget, u32>,
    /// How many of them name a port.
    on_port: Map<PortId, u32>,
}

impl Targets {
    /// One more route leads there. [`None`] if there is no room for another target.
    pub(crate) fn acquire(&mut self, target: RouteTarget) -> Option<Packed> {
        let packed = |kind, number| Some(Packed::new(Origin::Configured, kind, number));
        match target {
            RouteTarget::Blackhole => return packed(BLACKHOLE, 0),
            RouteTarget::Unreachable => return packed(UNREACHABLE, 0),
            RouteTarget::NextHop { .. } | RouteTarget::Connected(_) | RouteTarget::Endpoint(_) => {}
        }
        if let Some(&number) = self.index.get(&target) {
            if let Some(row) = self.rows.get_mut(number) {
                row.routes += 1;
            }
            return packed(ROW, number);
        }
        let number = self.rows.vacant()?;
        self.rows.set(number, Row { target, routes: 1 });
        self.index.insert(target, number);
        if let Some(port) = target.port() {
            self.on_port.insert(port, self.on_port.get(&port).map_or(1, |count| count + 1));
        }
        packed(ROW, number)
    }

    /// One more route leads to what was acquired before.
    pub(crate) fn again(&mut self, packed: Packed) {
        if packed.kind() == ROW
            && let Some(row) = self.rows.get_mut(packed.number())
        {
            row.routes += 1;
        }
    }

    /// One route less leads there.
    pub(crate) fn release(&mut self, packed: Packed) {
        if packed.kind() != ROW {
            return;
        }
        let number = packed.number();
        let Some(row) = self.rows.get_mut(number) else { return };
        row.routes -= 1;
        if row.routes == 0 {
            let target = row.target;
            self.rows.remove(number);
            self.index.remove(&target);
            if let Some(port) = target.port() {
                match self.on_port.get(&port) {
                    Some(&count @ 2..) => self.on_port.insert(port, count - 1),
                    _ => {
                        self.on_port.remove(&port);
                    }
                }
            }
        }
    }

    /// What a trie's value says; [`None`] for 0.
    #[inline]
    pub(crate) fn resolve(&self, value: u32) -> Option<Target> {
        let packed = Packed(value);
        match packed.kind() {
            ROW => self.rows.get(packed.number()).map(|row| row.target.into()),
            ENDPOINT => Some(Target::Endpoint(EndpointId(packed.number()))),
            // Written from a u16.
            CONNECTED => u16::try_from(packed.number()).ok().map(|port| Target::Connected(PortId(port))),
            LOCAL => Some(Target::Local),
            BLACKHOLE => Some(Target::Blackhole),
            UNREACHABLE => Some(Target::Unreachable),
            _ => None,
        }
    }

    /// Whether any route leads there.
    pub(crate) fn has(&self, target: RouteTarget) -> bool {
        self.index.get(&target).is_some()
    }

    /// Whether any route leads to this port by its name.
    pub(crate) fn use_port(&self, port: PortId) -> bool {
        self.on_port.get(&port).is_some()
    }

    /// A target in use that `wanted` says yes to.
    pub(crate) fn find(&self, wanted: impl Fn(RouteTarget) -> bool) -> Option<RouteTarget> {
        self.rows.iter().map(|(_, row)| row.target).find(|&target| wanted(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        let targets = Targets::default();
        let id = EndpointId(crate::MAX_ENDPOINTS - 1);
        assert_eq!(targets.resolve(Packed::endpoint(id).0), Some(Target::Endpoint(id)));
        assert_eq!(Packed::endpoint(id).origin(), Origin::Endpoint);
        assert_eq!(targets.resolve(Packed::connected(PortId(1023)).0), Some(Target::Connected(PortId(1023))));
        assert_eq!(Packed::local(PortId(9)).origin(), Origin::Local);
        assert_eq!(targets.resolve(0), None);
    }

    #[test]
    fn targets_are_counted() {
        let mut targets = Targets::default();
        let hop = RouteTarget::NextHop { port: PortId(3), addr: IpAddr::from([192, 0, 2, 1]), inside: false };
        let first = targets.acquire(hop).unwrap();
        assert_eq!(targets.acquire(hop), Some(first));
        assert_eq!(targets.resolve(first.0), Some(hop.into()));
        let second = targets.acquire(RouteTarget::Connected(PortId(3))).unwrap();
        targets.release(second);
        targets.release(first);
        assert!(targets.use_port(PortId(3)) && !targets.use_port(PortId(4)));
        assert_eq!(targets.find(|target| target.port() == Some(PortId(3))), Some(hop));
        targets.release(first);
        assert_eq!(targets.find(|_| true), None);
        assert!(targets.index.is_empty() && !targets.use_port(PortId(3)));
    }
}
