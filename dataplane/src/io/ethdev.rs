//! Any DPDK device: NIC, af_packet, ring, null, pcap, memif, virtio-user and the rest.

use dpdk::{Burst, RxQueue, TxQueue};
use pipeline::{DropReason, Offload, Packet};
use tables::PortId;

use super::{Packets, Sent, Staged, Tools, finish};
use crate::frame::Frame;

/// One queue pair of a device.
pub(crate) struct Ethdev {
    rx: RxQueue,
    tx: TxQueue,
    received: Burst,
    leaving: Burst,
}

impl Ethdev {
    pub(crate) fn new(rx: RxQueue, tx: TxQueue) -> Self {
        Self { rx, tx, received: Burst::new(), leaving: Burst::new() }
    }

    pub(crate) fn receive(&mut self, id: PortId, into: &mut Packets) {
        self.rx.rx_at_most(&mut self.received, into.remaining_capacity());
        for mbuf in self.received.drain() {
            into.push(Packet { buffer: Frame(mbuf), in_port: id, offload: Offload::Done });
        }
    }

    pub(crate) fn send(&mut self, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
        let Self { tx, leaving, .. } = self;
        for packet in staged.drain(..) {
            finish::for_plain_port(packet, tools, sent, &mut |frame: Frame, sent: &mut Sent| {
                if leaving.is_full() {
                    flush(tx, leaving, sent);
                }
                if leaving.push(frame.0).is_err() {
                    sent.refuse(DropReason::TxFull, 1);
                }
            });
        }
        flush(tx, leaving, sent);
    }
}

/// Sends what is in `leaving`; what the queue refuses is dropped here, once, so that nothing waits behind it.
fn flush(tx: &mut TxQueue, leaving: &mut Burst, sent: &mut Sent) {
    let bytes: usize = leaving.iter().map(dpdk::Mbuf::total_len).sum();
    let n = tx.tx(leaving);
    let kept: usize = leaving.iter().map(dpdk::Mbuf::total_len).sum();
    sent.packets += n as u64;
    sent.bytes += (bytes - kept) as u64;
    sent.refuse(DropReason::TxFull, leaving.len() as u64);
    leaving.clear();
}
