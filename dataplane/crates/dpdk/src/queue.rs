//! Queues of a port: one burst in, one burst out.
//!
//! What always holds: a queue has one handle, which can change threads but not be shared, so no two threads poll a
//! queue at a time; and its port runs for as long as the handle exists. The calls go through `rte_eth_fp_ops`, as
//! DPDK's inline functions do, without their callbacks (packet capture by `dpdk-dumpcap` does not see us).

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::mbuf::as_raw;
use crate::port::PortInner;

#[expect(clippy::cast_possible_truncation, reason = "64")]
const CAPACITY: u16 = Burst::CAPACITY as u16;

/// Receives from one queue of a port. It cannot be shared by threads, nor copied:
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<dpdk::RxQueue>();
/// ```
/// ```compile_fail,E0277
/// fn copy<T: Clone>() {}
/// copy::<dpdk::RxQueue>();
/// ```
/// It can be given to another thread:
/// ```
/// fn give<T: Send>() {}
/// give::<dpdk::RxQueue>();
/// ```
pub struct RxQueue {
    port: Arc<PortInner>,
    queue: u16,
    _not_sync: PhantomData<Cell<()>>,
}

/// Sends to one queue of a port. It cannot be shared by threads, nor copied:
///
/// ```compile_fail,E0277
/// fn share<T: Sync>() {}
/// share::<dpdk::TxQueue>();
/// ```
/// ```compile_fail,E0277
/// fn copy<T: Clone>() {}
/// copy::<dpdk::TxQueue>();
/// ```
/// It can be given to another thread:
/// ```
/// fn give<T: Send>() {}
/// give::<dpdk::TxQueue>();
/// ```
pub struct TxQueue {
    port: Arc<PortInner>,
    queue: u16,
    _not_sync: PhantomData<Cell<()>>,
}

fn ops(port: &PortInner) -> &'static sys::rte_eth_fp_ops {
    let all = (&raw const sys::rte_eth_fp_ops).cast::<sys::rte_eth_fp_ops>();
    // SAFETY: DPDK gave this id, so it is below RTE_MAX_ETHPORTS, the array's length.
    let one = unsafe { all.add(usize::from(port.id())) };
    // SAFETY: DPDK writes a port's entry when it starts and stops, and this port runs while a queue of it exists.
    unsafe { &*one }
}

/// A queue's data, as its driver keeps it.
///
/// # Safety
/// The table is of a started port that has that queue.
unsafe fn data(table: sys::rte_ethdev_qdata, queue: u16) -> *mut std::ffi::c_void {
    // SAFETY: the caller's promise: the table has an entry for each queue.
    let entry = unsafe { table.data.add(usize::from(queue)) };
    // SAFETY: as above; written before the port was started.
    unsafe { *entry }
}

/// Receives into the free room of `burst`.
///
/// # Safety
/// The port is started, has that queue, and nothing else receives from it meanwhile.
#[inline]
pub(crate) unsafe fn receive(port: &PortInner, queue: u16, burst: &mut Burst, most: usize) -> usize {
    let room = burst.room_mut();
    let wanted = u16::try_from(room.len().min(most)).unwrap_or(CAPACITY);
    let ops = ops(port);
    let Some(call) = ops.rx_pkt_burst else { return 0 };
    if wanted == 0 {
        return 0;
    }
    // SAFETY: the caller's promise.
    let data = unsafe { data(ops.rxq, queue) };
    // SAFETY: the caller's promise, and `room` has `wanted` places.
    let got = usize::from(unsafe { call(data, as_raw(room), wanted) });
    // SAFETY: the driver wrote `got` mbufs to the room's start, and gave them up.
    unsafe { burst.grow(got) };
    got
}

impl RxQueue {
    pub(crate) fn new(port: Arc<PortInner>, queue: u16) -> Self {
        Self { port, queue, _not_sync: PhantomData }
    }

    /// The port's number.
    #[must_use]
    pub fn port_id(&self) -> u16 {
        self.port.id()
    }

    /// The queue's number in its port.
    #[must_use]
    pub fn queue_id(&self) -> u16 {
        self.queue
    }

    /// Receives what is there into the free room of `burst`; returns how many. Never waits. Some drivers give
    /// nothing unless there is room for four or more.
    #[inline]
    pub fn rx(&mut self, burst: &mut Burst) -> usize {
        self.rx_at_most(burst, Burst::CAPACITY)
    }

    /// As [`Self::rx`], but no more than `most`: for callers whose own bursts are shorter.
    #[inline]
    pub fn rx_at_most(&mut self, burst: &mut Burst, most: usize) -> usize {
        // SAFETY: the port is started while a handle exists, and `&mut self` on the queue's only handle makes this
        // its only caller.
        unsafe { receive(&self.port, self.queue, burst, most) }
    }
}

impl TxQueue {
    pub(crate) fn new(port: Arc<PortInner>, queue: u16) -> Self {
        Self { port, queue, _not_sync: PhantomData }
    }

    /// The port's number.
    #[must_use]
    pub fn port_id(&self) -> u16 {
        self.port.id()
    }

    /// The queue's number in its port.
    #[must_use]
    pub fn queue_id(&self) -> u16 {
        self.queue
    }

    /// Sends from the front of `burst`; returns how many went. What the port refused stays in the burst, in order:
    /// the caller's to send again or to drop.
    #[inline]
    pub fn tx(&mut self, burst: &mut Burst) -> usize {
        let count = u16::try_from(burst.len()).unwrap_or(CAPACITY);
        let ops = ops(&self.port);
        let Some(call) = ops.tx_pkt_burst else { return 0 };
        if count == 0 {
            return 0;
        }
        // SAFETY: the port runs while this handle of its queue exists.
        let data = unsafe { data(ops.txq, self.queue) };
        // SAFETY: the queue is started, `&mut self` makes this its only caller, and the burst holds `count` mbufs.
        let sent = usize::from(unsafe { call(data, burst.as_raw_mut(), count) });
        // SAFETY: the driver took the first `sent` mbufs, and none of the others.
        unsafe { burst.shift(sent) };
        sent
    }

    /// Has the driver check and prepare packets that ask for offloads, before [`Self::tx`]; returns how many from
    /// the front are fit to send. The one behind them cannot be sent.
    #[inline]
    pub fn prepare(&mut self, burst: &mut Burst) -> usize {
        let count = u16::try_from(burst.len()).unwrap_or(CAPACITY);
        let ops = ops(&self.port);
        let Some(call) = ops.tx_pkt_prepare else { return burst.len() };
        if count == 0 {
            return 0;
        }
        // SAFETY: as in `tx`.
        let data = unsafe { data(ops.txq, self.queue) };
        // SAFETY: as in `tx`; the mbufs stay ours.
        usize::from(unsafe { call(data, burst.as_raw_mut(), count) })
    }
}
