//! The back end against the `vhost` crate's own front end with rings driven by hand, and against DPDK's virtio-user.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests say what they expect by panicking"
)]

mod fuzz;
mod guest;
mod lifecycle;
mod malformed;
mod model;
mod reconnect;
mod rings;
mod testpmd;
