//! What is offered to a guest, and what it took of that (VIRTIO 1.2, 5.1.3 and 6; the vhost-user specification).
//!
//! What is offered depends on the port's configuration alone, never on a connection: a guest that negotiated with an earlier
//! process finds the same.

use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

const fn bit(number: u32) -> u64 {
    1 << number
}

/// There is a way to say more, by protocol features.
pub(crate) const PROTOCOL_FEATURES: u64 = bit(30);
/// A driver may lay out a chain as it likes; always so since VIRTIO 1.
const ANY_LAYOUT: u64 = bit(27);

/// How rings work. MTU, STATUS and GUEST_ANNOUNCE are the front end's to fill in (its configuration space): offering them
/// lets it.
const RINGS: u64 = PROTOCOL_FEATURES
    | ANY_LAYOUT
    | bit(VIRTIO_F_VERSION_1)
    | bit(VIRTIO_F_RING_PACKED)
    | bit(VIRTIO_F_IN_ORDER)
    | bit(VIRTIO_RING_F_INDIRECT_DESC)
    | bit(VIRTIO_RING_F_EVENT_IDX)
    | bit(VIRTIO_NET_F_MRG_RXBUF)
    | bit(VIRTIO_NET_F_MTU)
    | bit(VIRTIO_NET_F_STATUS)
    | bit(VIRTIO_NET_F_GUEST_ANNOUNCE);

/// Unfinished checksums and large segments, both ways. ECN segments are not among them: what says that CWR is to be kept in the
/// first segment alone would be lost on the way, so guests cut those themselves.
const OFFLOADS: u64 = bit(VIRTIO_NET_F_CSUM)
    | bit(VIRTIO_NET_F_GUEST_CSUM)
    | bit(VIRTIO_NET_F_GUEST_TSO4)
    | bit(VIRTIO_NET_F_GUEST_TSO6)
    | bit(VIRTIO_NET_F_GUEST_USO4)
    | bit(VIRTIO_NET_F_GUEST_USO6)
    | bit(VIRTIO_NET_F_HOST_TSO4)
    | bit(VIRTIO_NET_F_HOST_TSO6)
    | bit(VIRTIO_NET_F_HOST_USO);

/// What a port offers.
pub(crate) const fn offered(offloads: bool, queue_pairs: u16) -> u64 {
    RINGS | if offloads { OFFLOADS } else { 0 } | if queue_pairs > 1 { bit(VIRTIO_NET_F_MQ) } else { 0 }
}

/// What a guest took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features(pub(crate) u64);

impl Features {
    const fn has(self, number: u32) -> bool {
        self.0 & bit(number) != 0
    }

    pub(crate) const fn protocol(self) -> bool {
        self.0 & PROTOCOL_FEATURES != 0
    }

    pub(crate) const fn packed(self) -> bool {
        self.has(VIRTIO_F_RING_PACKED)
    }

    pub(crate) const fn event_index(self) -> bool {
        self.has(VIRTIO_RING_F_EVENT_IDX)
    }

    /// A frame to the guest may be spread over several chains.
    pub(crate) const fn mergeable(self) -> bool {
        self.has(VIRTIO_NET_F_MRG_RXBUF)
    }

    /// Bytes of virtio-net header before each frame (VIRTIO 1.2, 5.1.6.1): a legacy driver's has `num_buffers` only where it merges.
    pub(crate) const fn header_len(self) -> usize {
        if self.mergeable() || self.has(VIRTIO_F_VERSION_1) { 12 } else { 10 }
    }

    pub(crate) const fn takes(self) -> Takes {
        Takes {
            checksum: self.has(VIRTIO_NET_F_GUEST_CSUM),
            tso4: self.has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: self.has(VIRTIO_NET_F_GUEST_TSO6),
            uso: self.has(VIRTIO_NET_F_GUEST_USO4) && self.has(VIRTIO_NET_F_GUEST_USO6),
        }
    }
}

/// What a guest takes unfinished. The large segments imply the checksum (VIRTIO 1.2, 5.1.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    /// Checksums of which the pseudo-header's sum alone is there.
    pub checksum: bool,
    /// Large segments of TCP over IPv4.
    pub tso4: bool,
    /// Large segments of TCP over IPv6.
    pub tso6: bool,
    /// Several UDP datagrams in one.
    pub uso: bool,
}
