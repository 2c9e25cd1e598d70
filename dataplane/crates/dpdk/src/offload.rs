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
    /// Of received packets: set where a TCP, UDP or SCTP checksum was wrong, and where it was left unfinished. What it was says
    /// [`crate::Mbuf::rx_l4_checksum`]; this is to see of a whole burst at once that no packet needs the question.
    pub const RX_L4_CKSUM_NOT_GOOD: u64 = sys::DPDK_SHIM_RX_L4_CKSUM_BAD;
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
    /// Check SCTP's.
    pub const SCTP_CKSUM: u64 = sys::DPDK_SHIM_RX_OFFLOAD_SCTP_CKSUM;
    /// Take the 802.1Q tag off: see [`crate::Mbuf::vlan_stripped`].
    pub const VLAN_STRIP: u64 = sys::DPDK_SHIM_RX_OFFLOAD_VLAN_STRIP;
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
    /// Put an 802.1Q tag in: see [`crate::Mbuf::insert_vlan`].
    pub const VLAN_INSERT: u64 = sys::DPDK_SHIM_TX_OFFLOAD_VLAN_INSERT;
    /// Cut UDP into datagrams.
    pub const UDP_TSO: u64 = sys::DPDK_SHIM_TX_OFFLOAD_UDP_TSO;
    /// Cut TCP into segments.
    pub const TCP_TSO: u64 = sys::DPDK_SHIM_TX_OFFLOAD_TCP_TSO;
    /// Send chains of several segments.
    pub const MULTI_SEGS: u64 = sys::DPDK_SHIM_TX_OFFLOAD_MULTI_SEGS;
}

/// The names of offloads, as operators know them, in no order.
fn names(offloads: u64, known: &[(u64, &'static str)]) -> Vec<&'static str> {
    known.iter().filter(|(bit, _)| offloads & bit != 0).map(|&(_, name)| name).collect()
}

/// The names of [`rx_offload`]s.
#[must_use]
pub fn rx_offload_names(offloads: u64) -> Vec<&'static str> {
    let known = [
        (rx_offload::IPV4_CKSUM, "ipv4-checksum"),
        (rx_offload::UDP_CKSUM, "udp-checksum"),
        (rx_offload::TCP_CKSUM, "tcp-checksum"),
        (rx_offload::SCTP_CKSUM, "sctp-checksum"),
        (rx_offload::VLAN_STRIP, "vlan-strip"),
        (rx_offload::TCP_LRO, "lro"),
        (rx_offload::SCATTER, "scatter"),
        (rx_offload::RSS_HASH, "rss-hash"),
    ];
    names(offloads, &known)
}

/// The names of [`tx_offload`]s.
#[must_use]
pub fn tx_offload_names(offloads: u64) -> Vec<&'static str> {
    let known = [
        (tx_offload::IPV4_CKSUM, "ipv4-checksum"),
        (tx_offload::UDP_CKSUM, "udp-checksum"),
        (tx_offload::TCP_CKSUM, "tcp-checksum"),
        (tx_offload::VLAN_INSERT, "vlan-insert"),
        (tx_offload::UDP_TSO, "uso"),
        (tx_offload::TCP_TSO, "tso"),
        (tx_offload::MULTI_SEGS, "multi-segs"),
    ];
    names(offloads, &known)
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

    /// The tag control information of an 802.1Q tag that the device took off ([`rx_offload::VLAN_STRIP`]); `None` if it took none.
    #[must_use]
    #[inline]
    pub fn vlan_stripped(&self) -> Option<u16> {
        let head = self.head();
        (head.ol_flags & sys::DPDK_SHIM_RX_VLAN_STRIPPED != 0).then_some(head.vlan_tci)
    }

    /// Has the device put in an 802.1Q tag with this tag control information; beside what [`Self::set_tx_offload`] asked for, which
    /// comes first. For devices with [`tx_offload::VLAN_INSERT`].
    #[inline]
    pub fn insert_vlan(&mut self, tci: u16) {
        let head = self.head_mut();
        head.vlan_tci = tci;
        head.ol_flags |= sys::DPDK_SHIM_TX_VLAN;
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
