//! Any DPDK device: NIC, af_packet, ring, null, pcap, memif, virtio-user and the rest.

use dpdk::{Burst, RxQueue, TxQueue};
use pipeline::DropReason;

use super::{Received, Sent, Staged, Tools, finish};
use crate::frame::Frame;

/// One queue pair of a device.
pub(crate) struct Ethdev {
    rx: RxQueue,
    tx: TxQueue,
    leaving: Burst,
}

impl Ethdev {
    pub(crate) fn new(rx: RxQueue, tx: TxQueue) -> Self {
        Self { rx, tx, leaving: Burst::new() }
    }

    pub(crate) fn receive(&mut self, into: &mut Received) {
        let room = into.room();
        self.rx.rx_at_most(&mut into.frames, room);
    }

    pub(crate) fn send(&mut self, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
        let Self { tx, leaving, .. } = self;
        let (finished, bytes) = staged.finished();
        if !finished.is_empty() {
            flush(tx, finished, bytes, sent);
        }
        for packet in staged.drain() {
            finish::for_plain_port(packet, tools, sent, &mut |frame: Frame, sent: &mut Sent| {
                if leaving.is_full() {
                    flush(tx, leaving, bytes_in(leaving), sent);
                }
                if leaving.push(frame.0).is_err() {
                    sent.refuse(DropReason::TxFull, 1);
                }
            });
        }
        if !leaving.is_empty() {
            flush(tx, leaving, bytes_in(leaving), sent);
        }
    }
}

fn bytes_in(burst: &Burst) -> u64 {
    burst.iter().map(|mbuf| mbuf.total_len() as u64).sum()
}

/// Sends what is in `leaving`, of `bytes` in all; what the queue refuses is dropped here, once, so that nothing waits behind it.
fn flush(tx: &mut TxQueue, leaving: &mut Burst, bytes: u64, sent: &mut Sent) {
    sent.packets += tx.tx(leaving) as u64;
    sent.bytes += bytes;
    if !leaving.is_empty() {
        sent.bytes -= bytes_in(leaving);
        sent.refuse(DropReason::TxFull, leaving.len() as u64);
        leaving.clear();
    }
}
