//! Bindings to DPDK: what the crate `dpdk` calls, and no more.
//!
//! Owns no policy and makes no promise: each function is as safe as its C original. What differs between DPDK
//! versions is settled in `shim.h` and `shim.c`. Only the crate `dpdk` may depend on this one.

#![allow(non_camel_case_types, reason = "the names are DPDK's")]

mod bindings {
    #![allow(
        clippy::all,
        clippy::undocumented_unsafe_blocks,
        non_upper_case_globals,
        non_snake_case,
        dead_code,
        unsafe_op_in_unsafe_fn,
        unnecessary_transmutes,
        reason = "generated; the names are DPDK's"
    )]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}
mod mbuf;

pub use bindings::*;
pub use mbuf::rte_mbuf;
