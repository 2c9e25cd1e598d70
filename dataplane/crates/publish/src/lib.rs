//! Hands a generation, an immutable value with a number, from one writer to many workers.
//!
//! A [`Publisher`] belongs to the writer, a [`Reader`] to each worker. A worker takes the new value at a burst boundary of
//! its own choosing and keeps it for the whole burst; it never waits for the writer on the path of a packet, and
//! never frees a value: the old one goes back through its mailbox, and the writer frees it.
//!
//! What always holds: a reader's generation only rises; once [`Publisher::committed`] has said `g`, no reader uses, or
//! will ever use, a value older than `g`. Knows nothing of what a value is.

#![forbid(unsafe_code)]

mod publisher;
mod reader;
mod seat;
mod sync;

pub use publisher::{NotNewer, Publisher};
pub use reader::Reader;
