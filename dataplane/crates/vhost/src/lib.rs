//! A vhost-user back end: one socket, one guest, and the queue pairs of its virtio-net device.
//!
//! Owns the socket, the thread that answers the front end's messages, and the rings as workers see them: split and packed, with
//! frames copied burst by burst between the guest's memory and the caller's. What always holds: [`VhostRx`] and [`VhostTx`] never
//! wait (for a lock, the peer, or the message thread), each burst takes its ring's lock once by `try_lock`, and no index, length
//! or address from the guest is used before it is checked, nor read again after.
//!
//! Unsafe code is in `memory.rs` and `inflight.rs`, where memory that others write is reached, and at the calls of what is unsafe there.
//!
//! Known limits: a guest that truncates its memory file ends the process by `SIGBUS`; a peer that undoes `O_NONBLOCK` on an
//! eventfd it shares with us and fills it up can hold the worker that signals it.

mod chains;
mod connection;
mod device;
mod error;
mod eventfd;
mod features;
mod inflight;
mod memory;
mod packed;
mod port;
mod ring;
mod rx;
mod split;
mod tx;
mod vring;

pub use error::VhostError;
pub use features::Takes;
pub use port::{Mode, PeerState, VhostConfig, VhostPort};
pub use rx::{HEADER_LEN, RxBurst, RxFrame, RxRefused, VhostRx};
pub use tx::{Sent, TxBurst, TxRefused, VhostTx};

/// Largest queue a guest may choose, in descriptors; the specification's own limit.
pub const QUEUE_SIZE_MAX: u16 = 32768;
