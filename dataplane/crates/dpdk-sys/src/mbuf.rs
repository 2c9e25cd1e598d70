//! `struct rte_mbuf`, by hand.
//!
//! Owns the layout; every field's offset is asserted against the C compiler's when this crate is compiled. A DPDK
//! built without IOVA in the mbuf (`next` in the first cache line) is refused here, by the same assertions.

use core::ffi::c_void;
use core::mem::{offset_of, size_of};

use crate::bindings as c;

/// A packet buffer's header. Two cache lines; the second holds what is needed for chains and for transmit offloads.
#[repr(C, align(64))]
pub struct rte_mbuf {
    /// Start of the segment's buffer, before its headroom.
    pub buf_addr: *mut c_void,
    /// The same address as devices see it.
    pub buf_iova: u64,
    /// From `buf_addr` to the data, in bytes.
    pub data_off: u16,
    /// Atomic in C. Ours are never shared: see the crate `dpdk`.
    pub refcnt: u16,
    /// Segments in the chain; valid in the first.
    pub nb_segs: u16,
    /// The port it came from.
    pub port: u16,
    /// Flags of both directions.
    pub ol_flags: u64,
    /// What the device made of the headers.
    pub packet_type: u32,
    /// Bytes in the whole chain; valid in the first segment.
    pub pkt_len: u32,
    /// Bytes in this segment.
    pub data_len: u16,
    /// VLAN tag, where the device strips it.
    pub vlan_tci: u16,
    /// RSS hash, the first member of a union of eight bytes.
    pub hash_rss: u32,
    /// The rest of that union.
    pub hash_hi: u32,
    /// Outer VLAN tag.
    pub vlan_tci_outer: u16,
    /// Bytes in this segment's buffer, headroom included.
    pub buf_len: u16,
    /// Where it goes back to.
    pub pool: *mut c::rte_mempool,
    /// The next segment, or null.
    pub next: *mut rte_mbuf,
    /// Header lengths and segment size, packed from the lowest bit.
    pub tx_offload: u64,
    rest: [u64; 6],
}

macro_rules! same_offset {
    ($($field:ident = $c:ident),* $(,)?) => {
        $(const _: () = assert!(
            offset_of!(rte_mbuf, $field) == c::$c as usize,
            concat!("this DPDK has rte_mbuf.", stringify!($field), " elsewhere"),
        );)*
    };
}

same_offset! {
    buf_addr = DPDK_SHIM_MBUF_BUF_ADDR,
    data_off = DPDK_SHIM_MBUF_DATA_OFF,
    refcnt = DPDK_SHIM_MBUF_REFCNT,
    nb_segs = DPDK_SHIM_MBUF_NB_SEGS,
    port = DPDK_SHIM_MBUF_PORT,
    ol_flags = DPDK_SHIM_MBUF_OL_FLAGS,
    packet_type = DPDK_SHIM_MBUF_PACKET_TYPE,
    pkt_len = DPDK_SHIM_MBUF_PKT_LEN,
    data_len = DPDK_SHIM_MBUF_DATA_LEN,
    vlan_tci = DPDK_SHIM_MBUF_VLAN_TCI,
    hash_rss = DPDK_SHIM_MBUF_HASH,
    vlan_tci_outer = DPDK_SHIM_MBUF_VLAN_TCI_OUTER,
    buf_len = DPDK_SHIM_MBUF_BUF_LEN,
    pool = DPDK_SHIM_MBUF_POOL,
    next = DPDK_SHIM_MBUF_NEXT,
    tx_offload = DPDK_SHIM_MBUF_TX_OFFLOAD,
}
const _: () = assert!(
    size_of::<rte_mbuf>() == c::DPDK_SHIM_MBUF_SIZE as usize,
    "this DPDK has an rte_mbuf of another size"
);
// Bit-fields start at the lowest bit only on little-endian machines.
const _: () = assert!(cfg!(target_endian = "little"), "tx_offload is laid out for little-endian machines");
