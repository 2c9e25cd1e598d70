//! How a packet's way through the path ends: one [`Verdict`] each.

use std::net::IpAddr;

use tables::PortId;

use crate::{DropReason, FragmentTicket};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, its headers edited in place.
    Forward(Output),
    /// It goes nowhere, and nobody is told.
    Drop(DropReason),
    /// A policy forbids it: it goes nowhere, and nobody is told.
    Denied {
        /// Which direction of the policy.
        reason: DropReason,
        /// The port of the endpoint whose policy it is, whichever it came by.
        port: PortId,
    },
    /// A fragment that came before the first of its packet: it waits ([`Router::hold`](crate::Router::hold)).
    Hold(FragmentTicket),
    /// It was for the router, which has understood it and has nothing to say.
    Consume(ConsumeReason),
    /// The packet itself ended as `fate` says; its buffer now holds one packet of the router's own, which counts as
    /// originated and goes to `output`. Nothing is left to finish in it.
    Answer {
        /// What became of the packet that came.
        fate: Fate,
        /// Where the router's packet goes.
        output: Output,
    },
}

/// Where a frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// By this port; its Ethernet header is complete.
    Port(PortId),
    /// By this port, once its owner has filled in the destination MAC of `next_hop`. The source MAC is set.
    Neighbour {
        /// The port.
        port: PortId,
        /// Whose MAC is wanted: the destination itself, or the next hop on the way there.
        next_hop: IpAddr,
    },
}

impl Output {
    /// The port, whoever completes the frame.
    #[must_use]
    pub const fn port(self) -> PortId {
        match self {
            Self::Port(port) | Self::Neighbour { port, .. } => port,
        }
    }
}

/// What became of a packet that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Dropped, and its source told why by ICMP.
    Dropped(DropReason),
    /// It asked the router something, and was answered.
    Consumed(ConsumeReason),
}

impl From<Fate> for Verdict {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Dropped(reason) => Self::Drop(reason),
            Fate::Consumed(reason) => Self::Consume(reason),
        }
    }
}

/// Which of the router's own protocols took a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ConsumeReason {
    /// Address resolution for IPv4 (RFC 826).
    Arp,
    /// Neighbour discovery (RFC 4861).
    Nd,
    /// A ping to one of the router's addresses.
    Echo,
    /// A report of who listens to which IPv6 group (RFC 3810): the link has no third station to tell.
    Mld,
    /// A DHCP client's message (RFC 2131, RFC 8415): a pod's is answered, any other is heard.
    Dhcp,
    /// A router's word that the way to a tunnel's end carries less than was sent (RFC 1191, RFC 8201).
    PathMtu,
}

impl ConsumeReason {
    /// All of them, in the order of their numbers.
    pub const ALL: &[Self] = &[Self::Arp, Self::Nd, Self::Echo, Self::Mld, Self::Dhcp, Self::PathMtu];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The stable name, as in `arp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arp => "arp",
            Self::Nd => "nd",
            Self::Echo => "echo",
            Self::Mld => "mld",
            Self::Dhcp => "dhcp",
            Self::PathMtu => "path-mtu",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consume_reasons_are_numbered_in_order_and_named_once() {
        let names: std::collections::BTreeSet<_> = ConsumeReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), ConsumeReason::COUNT);
        for (number, reason) in ConsumeReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
        }
    }
}
