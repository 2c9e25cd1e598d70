//! The binary itself, over its socket: real DPDK ports without hugepages, and TAPs in throw-away namespaces. Needs root
//! for the latter.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by panicking"
)]

mod changes;
mod dataplane;
mod dead_ends;
mod deploy;
mod devices;
mod ends;
mod flows;
mod frames;
mod guests;
mod hostile;
mod limits;
mod matrix;
mod namespace;
mod nat;
mod outside;
mod packet_socket;
mod path_mtus;
mod pod;
mod policies;
mod process;
mod restart;
mod routing;
mod specimens;
mod talk;
mod taps;
mod testpmd;
mod uplinks;
