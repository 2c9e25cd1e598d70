//! TAP devices, the virtio-net header they carry, and the network namespaces they live in.
//!
//! Owns opening `/dev/net/tun`, the ioctls on a TAP's descriptor, and running code inside a namespace. It does not set
//! addresses, routes or link state (that is netlink, and control's), and it does not pass descriptors between processes
//! (that is `proto`'s). What always holds: a [`Tap`] is a TAP (never a TUN) without packet information, single queue,
//! non-blocking and close-on-exec; the `unsafe` blocks are the ioctls in `ioctl.rs` and nothing else.

mod device;
mod error;
mod ioctl;
pub mod netns;
pub mod vnet;

pub use device::{Offloads, Tap, TapConfig};
pub use error::TapError;
pub use netns::NetnsError;
pub use vnet::{VirtioNetHeader, VnetError};
