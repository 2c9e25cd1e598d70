//! A vhost-user back end: one socket, one guest, one queue pair of virtio-net.
//!
//! Owns the socket, the thread that answers the front end's messages, and the two rings as the worker sees them. Frames go
//! in and out as bytes without the virtio-net header; no offloads are offered. What always holds: [`VhostRx`] and
//! [`VhostTx`] never wait (for a lock, the peer, or the message thread), each burst takes its ring's lock once by
//! `try_lock`, and no index, length or address from the guest is used before vm-memory has checked it.
//!
//! Known limits, until the rings are our own: a guest that truncates its memory file ends the process by `SIGBUS`; a
//! peer that undoes `O_NONBLOCK` on an eventfd it shares with us and fills it up can hold the worker that signals it.

#![forbid(unsafe_code)]

mod connection;
mod device;
mod error;
mod eventfd;
mod memory;
mod port;
mod ring;
mod rx;
mod tx;
mod vring;

pub use error::VhostError;
pub use port::{Mode, PeerState, VhostConfig, VhostPort};
pub use rx::{Received, RxBurst, RxRefused, VhostRx};
pub use tx::{Sent, TxBurst, TxRefused, VhostTx};

/// Largest queue a guest may choose, in descriptors; the specification's own limit for split rings.
pub const QUEUE_SIZE_MAX: u16 = 32768;
