//! Every type that crosses a socket, its framing and its version.
//!
//! Three processes speak it: `podrouter-control` and the `podrouter` command line to the data plane ([`dataplane`]),
//! `podrouter-cni` and the command line to control ([`control`]). Messages are JSON with named fields behind a length
//! ([`Connection`]); fields may be added, none may change its meaning, so a peer one release older or newer still works.
//! Golden files in `tests/golden` hold every message.

#![forbid(unsafe_code)]

pub mod control;
pub mod dataplane;
mod framing;
pub mod spool;
mod tagged;
mod text;

pub use framing::{Connection, FrameError, MAX_FRAME};

/// Version of the protocol, exchanged in the hello. It moves when a message changes its meaning, not when fields are
/// added; a peer refuses one that differs by more than one.
pub const VERSION: u32 = 1;

/// Where the data plane listens unless told otherwise.
pub const DATAPLANE_SOCKET: &str = "/run/podrouter/dataplane.sock";

/// Where control listens unless told otherwise.
pub const CONTROL_SOCKET: &str = "/run/podrouter/control.sock";

/// Where a DEL is left while control is away, unless told otherwise: `detached` in control's state directory.
pub const SPOOL: &str = "/var/lib/podrouter/detached";

/// FNV-1a, 64 bits: for names that are the same at each start and in every release.
#[must_use]
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Exit codes of every binary, documented in each `--help`.
pub mod exit {
    /// It did what was asked.
    pub const OK: u8 = 0;
    /// It failed; the message says what and why.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong (clap's own code).
    pub const USAGE: u8 = 2;
    /// A configuration file or manifest is wrong; the message names file, field and value.
    pub const CONFIG: u8 = 3;
    /// DPDK would not start, or a permission is missing.
    pub const DPDK: u8 = 4;
}
