//! Safe DPDK: EAL, pools, mbufs, bursts, ports and queues.
//!
//! Owns every call into `dpdk-sys` and the ownership rules around them; knows nothing of what a packet means. What
//! always holds: an [`Mbuf`] has exactly one owner; a burst sent in part keeps exactly what was refused; a queue is
//! polled by one thread at a time; a pool's memory stays mapped for as long as an mbuf of it may exist; a port is
//! stopped and closed only when no queue of it is left. Calls cross into C once a burst, never once a packet.
//!
//! One [`Eal`] a process: [`Eal::init`], then [`Pool::new`], then [`Port::open`]. DPDK's lookup tables are here too, for benches
//! that compare with them.

mod burst;
mod eal;
mod errno;
mod fib;
mod hash;
mod hotplug;
mod log;
mod lpm;
mod mbuf;
mod memory;
mod offload;
mod pool;
mod port;
mod port_info;
mod queue;
mod segments;
mod table;
mod thread;

pub use burst::{Burst, Drain, IntoIter};
pub use eal::{Eal, EalConfig, EalError};
pub use errno::Errno;
pub use fib::{Fib, Fib6, FibLookup};
pub use hash::{HASH_BURST, Hash, HashAnswers, HashSharing};
pub use hotplug::HotplugError;
pub use lpm::{Lpm, Lpm6, RouteRoom};
pub use mbuf::Mbuf;
pub use memory::Huge;
pub use offload::{
    RxChecksum, TxOffload, ol_flags, rx_offload, rx_offload_names, tx_offload, tx_offload_names,
};
pub use pool::{Pool, PoolConfig, PoolError};
pub use port::{InUse, Port, PortConfig, PortError};
pub use port_info::{Link, PortInfo, Stats};
pub use queue::{RxQueue, TxQueue};
pub use segments::{Segments, SegmentsMut};
pub use table::{TableError, cycles, cycles_hz};
pub use thread::ThreadToken;
