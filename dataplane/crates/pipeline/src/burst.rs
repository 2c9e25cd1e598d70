//! What the steps of the path hand to each other: a [`Work`] for each packet whose headers could be read.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use tables::{Endpoint, EndpointId, Interface, NetworkId, PortEntry, PortId, PortRole, Tables};
use wire::{EthernetFrame, MacAddr, Parsed};

use crate::connection::Ends;
use crate::icmp_error::Complaint;
use crate::lookup::Replay;
use crate::{BURST, DropReason, Output, Verdict};

/// The packets of a burst that parsed.
pub(crate) type Works<'t> = ArrayVec<Work<'t>, BURST>;

/// One packet between two steps.
pub(crate) struct Work<'t> {
    /// Its place in the burst.
    pub(crate) at: usize,
    pub(crate) parsed: Parsed,
    pub(crate) ingress: Ingress<'t>,
    pub(crate) state: State<'t>,
}

/// How far a packet has come.
#[derive(Clone, Copy)]
pub(crate) enum State<'t> {
    /// Nothing decided.
    Live,
    /// To one of the router's own addresses, or the business of its link.
    ForRouter,
    /// It goes on, once its headers are rewritten.
    Onward(Hop<'t>, Option<Turn>),
    /// It goes on as the last one of its flow did.
    Replay(Replay),
    /// Dropped, and its source is to be told.
    Refused(DropReason, Complaint),
    /// No step has more to do.
    Done(Verdict),
}

/// Why a packet does not go on.
#[derive(Clone, Copy)]
pub(crate) enum Halt {
    /// It is the router's own business.
    ForRouter,
    /// Dropped, and its source is to be told.
    Refused(DropReason, Complaint),
    /// No step has more to do.
    Done(Verdict),
}

impl From<DropReason> for Halt {
    fn from(reason: DropReason) -> Self {
        Self::Done(Verdict::Drop(reason))
    }
}

impl From<Halt> for State<'_> {
    fn from(stop: Halt) -> Self {
        match stop {
            Halt::ForRouter => Self::ForRouter,
            Halt::Refused(reason, complaint) => Self::Refused(reason, complaint),
            Halt::Done(verdict) => Self::Done(verdict),
        }
    }
}

/// What a packet becomes on its way.
#[derive(Clone, Copy)]
pub(crate) enum Turn {
    /// It gets these ends.
    Ends(Ends),
    /// An ICMP error gets this source, and the destination of a packet with these ends; the packet that it quotes gets them turned round.
    Quote { becomes: Ends, src: IpAddr },
}

impl From<DropReason> for State<'_> {
    fn from(reason: DropReason) -> Self {
        Self::Done(Verdict::Drop(reason))
    }
}

/// The next link on a packet's way. It refers to what the tables say: a burst's decisions are small, and few bytes of them are copied.
#[derive(Clone, Copy)]
pub(crate) struct Hop<'t> {
    pub(crate) port: &'t PortEntry,
    pub(crate) to: Station<'t>,
    /// Whether it stays in the cluster.
    pub(crate) inside: bool,
}

/// Who takes the packet there.
#[derive(Clone, Copy)]
pub(crate) enum Station<'t> {
    /// The endpoint behind the port.
    Endpoint(&'t Endpoint),
    /// A neighbour whose MAC the port's owner knows or finds out.
    NextHop(IpAddr),
    /// The other end of a tunnel, with the MAC that stands for it.
    Peer(IpAddr, MacAddr),
    /// The one that sent the packet which is answered.
    Sender(MacAddr),
}

impl<'t> Hop<'t> {
    /// The endpoint there, if the address is its own: a route may lead others to the host's port.
    #[inline]
    pub(crate) fn holder(&self, addr: IpAddr) -> Option<&'t Endpoint> {
        match self.to {
            Station::Endpoint(endpoint) => {
                Some(endpoint).filter(|endpoint| endpoint.addresses.contains(&addr))
            }
            Station::NextHop(_) | Station::Peer(..) | Station::Sender(_) => None,
        }
    }

    #[inline]
    pub(crate) const fn output(&self) -> Output {
        match self.to {
            Station::Endpoint(_) | Station::Peer(..) | Station::Sender(_) => Output::Port(self.port.id),
            Station::NextHop(next_hop) => Output::Neighbour { port: self.port.id, next_hop },
        }
    }

    /// Sets a frame's source MAC, and its destination where that is known.
    #[inline]
    pub(crate) fn set_macs(&self, head: &mut [u8]) {
        if let Ok(mut frame) = EthernetFrame::new_checked(head) {
            match self.to {
                Station::Endpoint(endpoint) => frame.set_dst(endpoint.mac),
                Station::Sender(mac) | Station::Peer(_, mac) => frame.set_dst(mac),
                Station::NextHop(_) => {}
            }
            frame.set_src(self.port.mac);
        }
    }
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
    /// A link with neighbours, or a tunnel over one.
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
            // What comes out of a tunnel is as if the other node were on the link.
            PortRole::Uplink | PortRole::Tunnel { .. } => {
                let link = if let PortRole::Tunnel { uplink } = port.role { uplink } else { id };
                let interface = tables.interface(link)?;
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
pub(crate) fn to_endpoint(tables: &Tables, id: EndpointId) -> Option<Hop<'_>> {
    let endpoint = tables.endpoint(id)?;
    Some(Hop { port: tables.port(endpoint.port)?, to: Station::Endpoint(endpoint), inside: true })
}
