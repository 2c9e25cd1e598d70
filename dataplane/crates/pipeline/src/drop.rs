//! Why a packet went nowhere: a value with a name, a description and a counter.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $description:literal;)*) => {
        /// Why a packet was dropped. Each has a name (stable: dashboards use it), a description, and a counter per port,
        /// direction and worker.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name, as in `ttl-exceeded`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for whoever reads the counter.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }
        }
    };
}

drop_reasons! {
    // What `wire::parse` refuses.
    /// [`wire::Malformed::FrameTooShort`]
    FrameTooShort = "frame-too-short", "The frame ends within its Ethernet header.";
    /// [`wire::Malformed::UnsupportedEtherType`]
    UnsupportedEtherType = "unsupported-ethertype", "Neither IPv4, IPv6 nor ARP.";
    /// [`wire::Malformed::ArpInvalid`]
    ArpInvalid = "arp-invalid", "An ARP packet that is not for Ethernet and IPv4, or is cut short (RFC 826).";
    /// [`wire::Malformed::Ipv4HeaderInvalid`]
    Ipv4HeaderInvalid = "ipv4-header-invalid", "IPv4 version or header length is wrong (RFC 1812, section 5.2.2).";
    /// [`wire::Malformed::Ipv4LengthInvalid`]
    Ipv4LengthInvalid = "ipv4-length-invalid", "IPv4 total length is less than the header or more than the frame.";
    /// [`wire::Malformed::Ipv4ChecksumWrong`]
    Ipv4ChecksumWrong = "ipv4-checksum-wrong", "The IPv4 header's checksum does not add up.";
    /// [`wire::Malformed::Ipv6HeaderInvalid`]
    Ipv6HeaderInvalid = "ipv6-header-invalid", "IPv6 version is wrong or the header is cut short.";
    /// [`wire::Malformed::Ipv6LengthInvalid`]
    Ipv6LengthInvalid = "ipv6-length-invalid", "IPv6 payload length is more than the frame, or a jumbogram.";
    /// [`wire::Malformed::Ipv6ExtensionInvalid`]
    Ipv6ExtensionInvalid = "ipv6-extension-invalid", "An IPv6 extension header is cut short, misplaced or one too many.";
    /// [`wire::Malformed::ExtensionsTooLong`]
    ExtensionsTooLong = "extensions-too-long", "The headers are longer than the contiguous part of the packet.";
    /// A DHCP message that says nothing.
    DhcpInvalid = "dhcp-invalid", "A DHCP message that is cut short, of no known kind, or not from its own station (RFC 2131, RFC 8415).";
    /// [`wire::Malformed::TransportTruncated`]
    TransportTruncated = "transport-truncated", "The packet ends within its TCP, UDP, SCTP or ICMP header.";
    /// [`wire::Malformed::FragmentInvalid`]
    FragmentInvalid = "fragment-invalid", "A fragment that ends past 65,535 bytes or is not a multiple of 8 bytes.";

    // What the receiving side refuses.
    /// Vnet header of a TAP or guest.
    OffloadInvalid = "offload-invalid", "The checksum or segmentation request that came with the frame does not fit it.";
    /// What a device found, and a second sum confirmed.
    TransportChecksumWrong = "transport-checksum-wrong", "The checksum of TCP, UDP or SCTP does not add up.";
    /// Not of the VLAN that the port is on.
    VlanOther = "vlan-other", "The frame has another VLAN's tag than the port's, or none.";
    /// Longer than a port's buffers.
    FrameTooLong = "frame-too-long", "The frame is longer than the port's MTU allows.";
    /// Descriptor chain of a guest.
    DescriptorInvalid = "descriptor-invalid", "A guest's descriptor chain loops, lies outside its memory, or is empty.";
    /// Pool exhausted.
    NoBuffer = "no-buffer", "No packet buffer was free.";
    /// Beyond the rate that whoever is behind the port may send at.
    EgressRateExceeded = "egress-rate-exceeded", "The pod sends more than its egress bandwidth allows.";
    /// A port that no row of the tables mentions.
    PortIdle = "port-idle", "The port has neither endpoint nor interface yet.";
    /// L2 destination is another station.
    NotForUs = "not-for-us", "The frame's destination MAC is another station's.";
    /// L2 source is not the endpoint's.
    SourceMacSpoofed = "source-mac-spoofed", "The source MAC is not the one that the endpoint was given.";
    /// L3 source is not the endpoint's.
    SourceAddressSpoofed = "source-address-spoofed", "The source address is not one of the endpoint's.";
    /// Multicast, broadcast, loopback, unspecified (RFC 1812, section 5.3.7).
    SourceInvalid = "source-invalid", "No host may have this source address (RFC 1812, section 5.3.7; RFC 4291, section 2.5).";
    /// Loopback, unspecified, or link-local beyond its link.
    DestinationInvalid = "destination-invalid", "The destination is loopback, unspecified, or on another link.";
    /// Multicast or broadcast: not forwarded between pods.
    Multicast = "multicast", "Multicast and broadcast stay on their link; there is no other station on it.";

    // Datagrams of a tunnel.
    /// Neither IPv4 nor IPv6 for forwarding behind a VXLAN header (RFC 7348).
    TunnelInvalid = "tunnel-invalid", "A VXLAN datagram without network identifier, cut short, or with something other than a routed IP packet in it (RFC 7348).";
    /// Of a network that is not this one's.
    TunnelVniOther = "tunnel-vni-other", "A VXLAN datagram with another network identifier.";
    /// From an address that no node has; or the node has gone.
    TunnelPeerUnknown = "tunnel-peer-unknown", "The other end of the tunnel is no node that is known.";
    /// From a node that does not have the inner source.
    TunnelSourceSpoofed = "tunnel-source-spoofed", "The packet in the tunnel is not from an address of the node that sent it.";
    /// RFC 6040, section 4.2.
    TunnelCongestion = "tunnel-congestion", "Congestion was met in the tunnel by a packet whose sender cannot be told (RFC 6040).";
    /// A pod or the host sends to a tunnel's port of another node.
    TunnelPortClosed = "tunnel-port-closed", "A pod or the host sends to another node's end of the tunnel, which is for this node alone.";

    // Packets to the router itself.
    /// ARP for an address that is not the router's.
    ArpNotForUs = "arp-not-for-us", "ARP asks for, or tells of, an address that is not the router's or a neighbour's.";
    /// ND message that RFC 4861 tells to discard.
    NdInvalid = "nd-invalid", "Neighbour discovery with a wrong hop limit, code, length or option (RFC 4861, section 7.1).";
    /// ND for an address that is not the router's.
    NdNotForUs = "nd-not-for-us", "Neighbour discovery for an address that is not the router's.";
    /// ICMP to the router with a bad checksum.
    IcmpChecksumWrong = "icmp-checksum-wrong", "An ICMP message to the router whose checksum does not add up.";
    /// A fragment to one of the router's own addresses.
    FragmentToRouter = "fragment-to-router", "A fragment to the router itself, which puts none together.";
    /// Nothing of the router listens there.
    NoService = "no-service", "A packet to the router itself that it has no answer to.";

    // Forwarding.
    /// No route.
    NoRoute = "no-route", "No route to the destination.";
    /// `RouteTarget::Blackhole`.
    Blackhole = "blackhole", "A route that drops without a word.";
    /// `RouteTarget::Unreachable`.
    Unreachable = "unreachable", "An address of this node that no pod has.";
    /// TTL or hop limit reached 0.
    TtlExceeded = "ttl-exceeded", "The TTL or hop limit ran out (RFC 792, RFC 4443).";
    /// Above the output's MTU and may not be fragmented.
    PacketTooBig = "packet-too-big", "Larger than the output port's MTU, and not to be fragmented (RFC 1191, RFC 8201).";
    /// Addresses, ports or a checksum that cannot be changed where they stand.
    Untranslatable = "untranslatable", "Its addresses or ports are to be translated, and its headers do not allow it.";
    /// The output port is the input port of a point-to-point link.
    SamePort = "same-port", "It would leave by the point-to-point link that it came from.";

    // Connections.
    /// A policy of the sender.
    PolicyEgress = "policy-egress", "The sender's policy does not allow it.";
    /// A policy of the receiver.
    PolicyIngress = "policy-ingress", "The receiver's policy does not allow it.";
    /// A frontend without backends that serve.
    NoBackend = "no-backend", "A Service without an endpoint that takes new connections.";
    /// A frontend without backends that serve here.
    NoLocalBackend = "no-local-backend", "A Service for this node's endpoints alone, of which none takes new connections.";
    /// A client outside of a frontend's source ranges.
    ServiceSourceDenied = "service-source-denied", "Not from an address that may ask for this Service (spec.loadBalancerSourceRanges).";
    /// To a backend that would not answer by us, and no source is known by which it would.
    ServiceSourceUnknown = "service-source-unknown", "To a Service's endpoint that would not answer by this node, which has no podCIDR of that family to be asked from.";
    /// From a backend, of a connection that is not known.
    ReplyUnbound = "reply-unbound", "An answer from behind a Service, of a connection that is not known: it cannot be translated.";
    /// Another worker decides the same flow.
    FlowContended = "flow-contended", "Another worker was deciding the same connection; its next packet finds the decision.";
    /// No record is free.
    FlowTableFull = "flow-table-full", "The flow table has no room, and the packet would have to be translated.";
    /// No port is free for a translated source.
    SourcePortsExhausted = "source-ports-exhausted", "No source port is free for a translated connection to this destination.";
    /// The answers would be another connection's.
    FlowClash = "flow-clash", "Its answers would look like those of another connection that is translated.";

    // Fragments.
    /// Two fragments have the same byte of a packet, or one came twice.
    FragmentOverlap = "fragment-overlap", "Fragments of one packet overlap (RFC 5722, RFC 8200, section 4.5).";
    /// They do not agree on the packet's length.
    FragmentInconsistent = "fragment-inconsistent", "Fragments of one packet disagree about its length.";
    /// No entry for one more packet.
    FragmentTableFull = "fragment-table-full", "Too many packets are under way in fragments.";
    /// No room to wait, or in too many pieces.
    FragmentQueueFull = "fragment-queue-full", "Too many fragments wait for the first of their packet, or come too much out of order.";
    /// The first fragment did not come.
    FragmentTimeout = "fragment-timeout", "The first fragment of its packet did not come in time.";

    // Neighbours.
    /// The pending queue of one neighbour, or all of them, is full.
    NeighbourQueueFull = "neighbour-queue-full", "Too many packets wait for this neighbour's address already.";
    /// The table of neighbours is full.
    NeighbourTableFull = "neighbour-table-full", "No room for one more neighbour.";
    /// It never answered.
    NeighbourUnreachable = "neighbour-unreachable", "The neighbour did not answer ARP or ND.";

    // Output.
    /// The port is gone, or is not a worker's yet.
    PortGone = "port-gone", "The output port has been removed.";
    /// The hand-over ring to the port's owner is full.
    HandoverFull = "handover-full", "The ring to the worker that owns the output port is full.";
    /// Beyond the rate that whoever is behind the port may be sent to at.
    IngressRateExceeded = "ingress-rate-exceeded", "More is sent to the pod than its ingress bandwidth allows.";
    /// NIC queue, virtqueue or TAP takes no more.
    TxFull = "tx-full", "The output port takes no more: its queue is full.";
    /// `rte_eth_tx_prepare` has refused it.
    TxRefused = "tx-refused", "The output device's driver will not do what it was asked to do with the packet.";
    /// The peer of a vhost-user port is away, a TAP is down, or a device has no link.
    TxDown = "tx-down", "Nobody is on the other end of the output port.";
    /// A large segment that cannot be cut up.
    SegmentInvalid = "segment-invalid", "A large segment or unfinished checksum that does not fit its headers.";
    /// What waited when the worker ended.
    Shutdown = "shutdown", "It was still held when the data plane ended.";
}

impl From<wire::Malformed> for DropReason {
    fn from(malformed: wire::Malformed) -> Self {
        use wire::Malformed as M;
        match malformed {
            M::FrameTooShort => Self::FrameTooShort,
            M::UnsupportedEtherType => Self::UnsupportedEtherType,
            M::ArpInvalid => Self::ArpInvalid,
            M::Ipv4HeaderInvalid => Self::Ipv4HeaderInvalid,
            M::Ipv4LengthInvalid => Self::Ipv4LengthInvalid,
            M::Ipv4ChecksumWrong => Self::Ipv4ChecksumWrong,
            M::Ipv6HeaderInvalid => Self::Ipv6HeaderInvalid,
            M::Ipv6LengthInvalid => Self::Ipv6LengthInvalid,
            M::Ipv6ExtensionInvalid => Self::Ipv6ExtensionInvalid,
            M::ExtensionsTooLong => Self::ExtensionsTooLong,
            M::TransportTruncated => Self::TransportTruncated,
            M::FragmentInvalid => Self::FragmentInvalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_descriptions_are_sentences() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert!(reason.description().ends_with('.'), "{reason:?}");
        }
    }
}
