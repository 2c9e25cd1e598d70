//! The path of a packet, rule by rule, on frames made here: the verdict and the bytes, judged by smoltcp where it can.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests say what they expect by panicking")]

#[path = "../../../../fuzz/bodies/pipeline.rs"]
mod body;

mod answers;
mod any_bytes;
mod dhcp;
mod dhcp6;
mod errors;
mod flows;
mod forwarding;
mod frames;
mod links;
mod neighbours;
mod parts;
mod path_mtus;
mod policies;
mod segments;
mod services;
mod sources;
mod trace;
mod tunnels;
