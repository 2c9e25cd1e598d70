//! What devices did to a received packet, and what they are to do to a sent one.

use dpdk_sys as sys;

use crate::mbuf::Mbuf;

/// Per-packet flags (`ol_flags`) for transmission; combine with `|`.
pub mod ol_flags {
    use dpdk_sys as sys;

    /// The packet is IPv4; with any checksum or segmentation of it.
    pub const TX_IPV4: u64 = sys::DPDK_SHIM_TX_IPV4;
    /// The packet is IPv6.
    pub const TX_IPV6: u64 = sys::DPDK_SHIM_TX_IPV6;
    /// Fill in the IPv4 header's checksum (set to zero by the caller).
    pub const TX_IP_CKSUM: u64 = sys::DPDK_SHIM_TX_IP_CKSUM;
    /// Fill in TCP's checksum (the caller has put the pseudo-header's sum there).
    pub const TX_TCP_CKSUM: u64 = sys::DPDK_SHIM_TX_TCP_CKSUM;
    /// The same for UDP.
    pub const TX_UDP_CKSUM: u64 = sys::DPDK_SHIM_TX_UDP_CKSUM;
    /// Fill in SCTP's CRC32c.
    pub const TX_SCTP_CKSUM: u64 = sys::DPDK_SHIM_TX_SCTP_CKSUM;
    /// Cut TCP into segments of `tso_segsz` bytes.
    pub const TX_TCP_SEG: u64 = sys::DPDK_SHIM_TX_TCP_SEG;
    /// Cut UDP into datagrams of `tso_segsz` bytes.
    pub const TX_UDP_SEG: u64 = sys::DPDK_SHIM_TX_UDP_SEG;
}

/// What a port can do on receive, for `PortConfig::rx_offloads` and `PortInfo::rx_offload_capa`.
pub mod rx_offload {
    use dpdk_sys as sys;

    /// Check the IPv4 header's checksum.
    pub const IPV4_CKSUM: u64 = sys::DPDK_SHIM_RX_OFFLOAD_IPV4_CKSUM;
    /// Check UDP's; on virtio it lets the peer send unfinished ones.
    pub const UDP_CKSUM: u64 = sys::DPDK_SHIM_RX_OFFLOAD_UDP_CKSUM;
    /// Check TCP's; on virtio it lets the peer send unfinished ones.
    pub const TCP_CKSUM: u64 = sys::DPDK_SHIM_RX_OFFLOAD_TCP_CKSUM;
    /// Merge TCP segments.
    pub const TCP_LRO: u64 = sys::DPDK_SHIM_RX_OFFLOAD_TCP_LRO;
    /// Spread a packet over several segments.
    pub const SCATTER: u64 = sys::DPDK_SHIM_RX_OFFLOAD_SCATTER;
    /// Write the RSS hash to the mbuf.
    pub const RSS_HASH: u64 = sys::DPDK_SHIM_RX_OFFLOAD_RSS_HASH;
}

/// What a port can do on transmit, for `PortConfig::tx_offloads` and `PortInfo::tx_offload_capa`.
pub mod tx_offload {
    use dpdk_sys as sys;

    /// Fill in the IPv4 header's checksum.
    pub const IPV4_CKSUM: u64 = sys::DPDK_SHIM_TX_OFFLOAD_IPV4_CKSUM;
    /// Fill in UDP's.
    pub const UDP_CKSUM: u64 = sys::DPDK_SHIM_TX_OFFLOAD_UDP_CKSUM;
    /// Fill in TCP's.
    pub const TCP_CKSUM: u64 = sys::DPDK_SHIM_TX_OFFLOAD_TCP_CKSUM;
    /// Cut TCP into segments.
    pub const TCP_TSO: u64 = sys::DPDK_SHIM_TX_OFFLOAD_TCP_TSO;
    /// Send chains of several segments.
    pub const MULTI_SEGS: u64 = sys::DPDK_SHIM_TX_OFFLOAD_MULTI_SEGS;
}

/// What the device found of a checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RxChecksum {
    /// It did not look.
    Unknown,
    /// Right.
    Good,
    /// Wrong.
    Bad,
    /// Not there, but the packet is sound: it came from a peer on this machine that left the sum to be finished.
    Unfinished,
}

/// Header lengths for the device, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TxOffload {
    /// From [`ol_flags`].
    pub flags: u64,
    /// Ethernet header, 802.1Q tags included.
    pub l2_len: u8,
    /// IP header, options or extension headers included.
    pub l3_len: u16,
    /// TCP or UDP header.
    pub l4_len: u8,
    /// Payload of each segment, when it is to be cut up.
    pub tso_segsz: u16,
}

const L3_SHIFT: u32 = sys::DPDK_SHIM_L2_LEN_BITS;
const L4_SHIFT: u32 = L3_SHIFT + sys::DPDK_SHIM_L3_LEN_BITS;
const SEGSZ_SHIFT: u32 = L4_SHIFT + sys::DPDK_SHIM_L4_LEN_BITS;
/// These bits say whose the buffer is: changing them would free it to the wrong place.
const BUFFER_FLAGS: u64 = sys::DPDK_SHIM_MBUF_INDIRECT | sys::DPDK_SHIM_MBUF_EXTERNAL;

const TX_FLAGS: u64 = ol_flags::TX_IPV4
    | ol_flags::TX_IPV6
    | ol_flags::TX_IP_CKSUM
    | ol_flags::TX_TCP_CKSUM
    | ol_flags::TX_UDP_CKSUM
    | ol_flags::TX_SCTP_CKSUM
    | ol_flags::TX_TCP_SEG
    | ol_flags::TX_UDP_SEG;

impl Mbuf {
    /// All flags, as DPDK numbers them.
    #[must_use]
    #[inline]
    pub fn ol_flags(&self) -> u64 {
        self.head().ol_flags
    }

    /// The RSS hash, if the device computed one.
    #[must_use]
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        let head = self.head();
        (head.ol_flags & sys::DPDK_SHIM_RX_RSS_HASH != 0).then_some(head.hash_rss)
    }

    /// What the device found of the IPv4 header's checksum.
    #[must_use]
    pub fn rx_ip_checksum(&self) -> RxChecksum {
        match self.ol_flags() & sys::DPDK_SHIM_RX_IP_CKSUM_MASK {
            sys::DPDK_SHIM_RX_IP_CKSUM_GOOD => RxChecksum::Good,
            sys::DPDK_SHIM_RX_IP_CKSUM_BAD => RxChecksum::Bad,
            sys::DPDK_SHIM_RX_IP_CKSUM_NONE => RxChecksum::Unfinished,
            _ => RxChecksum::Unknown,
        }
    }

    /// What the device found of the TCP or UDP checksum.
    #[must_use]
    pub fn rx_l4_checksum(&self) -> RxChecksum {
        match self.ol_flags() & sys::DPDK_SHIM_RX_L4_CKSUM_MASK {
            sys::DPDK_SHIM_RX_L4_CKSUM_GOOD => RxChecksum::Good,
            sys::DPDK_SHIM_RX_L4_CKSUM_BAD => RxChecksum::Bad,
            sys::DPDK_SHIM_RX_L4_CKSUM_NONE => RxChecksum::Unfinished,
            _ => RxChecksum::Unknown,
        }
    }

    /// Says what the device is to do on transmit, in place of all earlier flags; `TxOffload::default()` for
    /// nothing. False, and nothing changed, if the headers do not lie in the first segment, a length does not fit
    /// its field, or a flag is none of [`ol_flags`]: drivers read and write the headers by these lengths, and by
    /// other flags what nobody filled in (a security session, outer headers).
    #[must_use]
    pub fn set_tx_offload(&mut self, offload: TxOffload) -> bool {
        let TxOffload { flags, l2_len, l3_len, l4_len, tso_segsz } = offload;
        let headers = usize::from(l2_len) + usize::from(l3_len) + usize::from(l4_len);
        let head = self.head_mut();
        let fits = flags & !TX_FLAGS == 0
            && headers <= usize::from(head.data_len)
            && u32::from(l2_len) >> sys::DPDK_SHIM_L2_LEN_BITS == 0
            && u32::from(l3_len) >> sys::DPDK_SHIM_L3_LEN_BITS == 0;
        if !fits {
            return false;
        }
        head.ol_flags = head.ol_flags & BUFFER_FLAGS | flags;
        head.tx_offload = u64::from(l2_len)
            | u64::from(l3_len) << L3_SHIFT
            | u64::from(l4_len) << L4_SHIFT
            | u64::from(tso_segsz) << SEGSZ_SHIFT;
        true
    }
}
