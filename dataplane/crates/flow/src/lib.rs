//! The flow table: what was decided for a connection, found again for each of its packets.
//!
//! One record holds both directions of a connection, under two keys. All workers share one table a family, without a lock: a
//! record goes FREE → CLAIMED → LIVE → DEAD → FREE; keys are written while CLAIMED and then fixed. What is translated follows
//! from the keys: the other direction's, turned round, is what a packet becomes. What is decided is one word a direction, so that
//! nobody sees half of it. The storage is lent as a slice of atomics, which may be a file that outlasts the process.
//!
//! Knows nothing of packets, tables or clocks: time is an argument, in units of [`Seconds`].

#![forbid(unsafe_code)]

mod action;
mod adopt;
mod bucket;
mod epoch;
mod evict;
mod family;
mod flows;
mod free;
mod layout;
mod life;
mod local;
mod record;
mod state;
mod sync;
mod table;
mod timeouts;

pub use action::{Action, MAX_ADJACENCIES};
pub use epoch::{Epochs, Seat};
pub use family::{Family, Key4, Key6, Tuple, V4, V6};
pub use flows::{Adopted, Flows, FlowsConfig, StorageError};
pub use life::{Binding, Life, Seconds};
pub use local::{Local, Shelf};
pub use record::Record;
pub use state::{Direction, Signal, State};
pub use sync::{AtomicU64, Words};
pub use table::{Found, Handle, Inserted, NewFlow, Row, Table};
pub use timeouts::{AFFINITY, Timeouts};
