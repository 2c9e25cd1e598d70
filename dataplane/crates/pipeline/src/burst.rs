//! What the steps of the path hand to each other: a [`Work`] for each packet whose headers could be read.

use arrayvec::ArrayVec;
use tables::{Endpoint, EndpointId, Interface, NetworkId, PortEntry, PortId, PortRole, Tables};
use wire::{MacAddr, Parsed};

use crate::icmp_error::Complaint;
use crate::{BURST, DropReason, Output, Verdict};

/// The packets of a burst that parsed.
pub(crate) type Works<'t> = ArrayVec<Work<'t>, BURST>;

/// One packet between two steps.
pub(crate) struct Work<'t> {
    /// Its place in the burst.
    pub(crate) at: usize,
    pub(crate) parsed: Parsed,
    pub(crate) ingress: Ingress<'t>,
    pub(crate) state: State,
}

/// How far a packet has come.
#[derive(Clone, Copy)]
pub(crate) enum State {
    /// Nothing decided.
    Live,
    /// To one of the router's own addresses, or the business of its link.
    ForRouter,
    /// It goes on, once its headers are rewritten.
    Onward(Hop),
    /// Dropped, and its source is to be told.
    Refused(DropReason, Complaint),
    /// No step has more to do.
    Done(Verdict),
}

impl From<DropReason> for State {
    fn from(reason: DropReason) -> Self {
        Self::Done(Verdict::Drop(reason))
    }
}

/// The next link on a packet's way.
#[derive(Clone, Copy)]
pub(crate) struct Hop {
    pub(crate) output: Output,
    pub(crate) src: MacAddr,
    /// `None` until the port's owner knows its neighbour.
    pub(crate) dst: Option<MacAddr>,
    pub(crate) mtu: u16,
}

/// The port that a packet came by, and what is there.
#[derive(Clone, Copy)]
pub(crate) struct Ingress<'t> {
    pub(crate) port: &'t PortEntry,
    pub(crate) side: Side<'t>,
    pub(crate) network: NetworkId,
}

/// What a port leads to.
#[derive(Clone, Copy)]
pub(crate) enum Side<'t> {
    /// One endpoint, on a point-to-point link.
    Endpoint(&'t Endpoint),
    /// A link with neighbours.
    Uplink(&'t Interface),
}

impl<'t> Ingress<'t> {
    /// `None` for ports that are not there, or have no role.
    #[inline]
    pub(crate) fn of(tables: &'t Tables, id: PortId) -> Option<Self> {
        let port = tables.port(id)?;
        match port.role {
            PortRole::Idle => None,
            PortRole::Endpoint(endpoint) => {
                let endpoint = tables.endpoint(endpoint)?;
                Some(Self { port, side: Side::Endpoint(endpoint), network: endpoint.network })
            }
            PortRole::Uplink => {
                let interface = tables.interface(id)?;
                Some(Self { port, side: Side::Uplink(interface), network: interface.network })
            }
        }
    }

    pub(crate) const fn is_uplink(&self) -> bool {
        matches!(self.side, Side::Uplink(_))
    }
}

/// The way to an endpoint of this node.
#[inline]
pub(crate) fn to_endpoint(tables: &Tables, id: EndpointId) -> Option<Hop> {
    let endpoint = tables.endpoint(id)?;
    let port = tables.port(endpoint.port)?;
    Some(Hop { output: Output::Port(port.id), src: port.mac, dst: Some(endpoint.mac), mtu: port.mtu })
}
