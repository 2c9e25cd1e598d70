//! Topologies for podrouter on one machine: network namespaces, veth pairs, processes, and a whole node made of them.
//!
//! `cargo lab` and the system tests in `tests/` share it. Every namespace, process and file belongs to a [`run::Run`]
//! and goes when its value is dropped, also after an error, a failed assertion or a signal; what a killed run left
//! behind is taken away by the next one. Nothing here links DPDK: the router's processes are run, never called.

#![forbid(unsafe_code)]

pub mod api;
pub mod artefacts;
pub mod bridge;
pub mod client;
pub mod cluster;
pub mod exchange;
pub mod iperf;
pub mod lan;
pub mod manifests;
pub mod netns;
pub mod node;
pub mod packages;
pub mod ping;
pub mod pktgen;
pub mod pod;
pub mod process;
pub mod query;
pub mod run;
pub mod signals;
pub mod site;
pub mod table;
pub mod telemetry;
pub mod vm;
pub mod wait;
