//! Any DPDK device: NIC, af_packet, ring, null, pcap, memif, virtio-user, bonding and the rest.
//!
//! Frames with nothing left to finish, which most are, go straight to the queue. What the device can finish itself it is asked to
//! (`ask`), what it cannot is finished before; what it found of checksums on receive is looked at only where it found one wrong or
//! missing (`checked`). A device on a VLAN has its tag put on and taken off here (`vlan`). Each worker of a port has receive
//! queues of it and one to send by.

mod ask;
mod checked;
mod vlan;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use dpdk::{Burst, RxQueue, TxQueue, ol_flags, rx_offload, tx_offload};
use pipeline::DropReason;
use tables::PortId;

use self::ask::Asks;
use self::vlan::Vlan;
use super::{Received, Sent, Staged, Tools, finish};
use crate::frame::Frame;

/// Whether a device's link is up. Written by the thread that watches links, read by the workers that send.
#[derive(Debug)]
pub(crate) struct LinkUp(AtomicBool);

impl LinkUp {
    pub(crate) const fn new(up: bool) -> Self {
        Self(AtomicBool::new(up))
    }

    /// Returns what it was before.
    pub(crate) fn set(&self, up: bool) -> bool {
        // Relaxed, as the load: it says nothing of other memory, and a burst sooner or later does not matter.
        self.0.swap(up, Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A worker's queues of a device.
pub(crate) struct Ethdev {
    rx: Vec<RxQueue>,
    /// The queue that is received from next.
    turn: usize,
    tx: TxQueue,
    link: Arc<LinkUp>,
    /// The device looks at checksums.
    checks: bool,
    asks: Asks,
    vlan: Option<Vlan>,
    /// The device sends no packet that lies in pieces.
    one_piece: bool,
    leaving: Burst,
}

impl Ethdev {
    /// Of a device that was set up as `in_use`, and sends packets of at most `max_segments` segments, on a `vlan` or on none.
    pub(crate) fn new(
        rx: Vec<RxQueue>,
        tx: TxQueue,
        link: Arc<LinkUp>,
        in_use: dpdk::InUse,
        max_segments: u16,
        vlan: Option<u16>,
    ) -> Self {
        let checks = rx_offload::TCP_CKSUM | rx_offload::UDP_CKSUM | rx_offload::SCTP_CKSUM;
        let vlan = vlan.map(|id| Vlan::new(id, in_use.tx_offloads & tx_offload::VLAN_INSERT != 0));
        Self {
            rx,
            turn: 0,
            tx,
            link,
            checks: in_use.rx_offloads & checks != 0,
            // A tag that we put in ourselves moves the headers, which the device is told the place of.
            asks: if vlan.as_ref().is_none_or(Vlan::is_inserted) {
                Asks::new(in_use.tx_offloads, max_segments)
            } else {
                Asks::default()
            },
            vlan,
            one_piece: in_use.tx_offloads & tx_offload::MULTI_SEGS == 0,
            leaving: Burst::new(),
        }
    }

    pub(crate) fn receive(
        &mut self,
        id: PortId,
        tools: &mut Tools,
        into: &mut Received,
        refused: &mut dyn FnMut(DropReason),
    ) {
        let room = into.room();
        // A burst is of one queue: some drivers give nothing to a burst that has little room left.
        for _ in 0..self.rx.len() {
            self.turn = if self.turn + 1 < self.rx.len() { self.turn + 1 } else { 0 };
            if self.rx[self.turn].rx_at_most(&mut into.frames, room) > 0 {
                break;
            }
        }
        if let Some(vlan) = &self.vlan {
            vlan.take_off(&mut into.frames, refused);
        }
        if self.checks {
            let flags = into.frames.iter().fold(0, |flags, mbuf| flags | mbuf.ol_flags());
            if flags & ol_flags::RX_L4_CKSUM_NOT_GOOD != 0 {
                checked::look_again(id, &mut tools.scratch, into, refused);
            }
        }
    }

    pub(crate) fn send(&mut self, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
        if !self.link.get() {
            sent.refuse(DropReason::TxDown, staged.len() as u64);
            // As many as a burst holds, freed together.
            self.leaving.extend(staged.drain().map(|packet| packet.buffer.0));
            return self.leaving.clear();
        }
        let Self { tx, leaving, vlan, asks, one_piece, .. } = self;
        let vlan = vlan.as_ref();
        let (finished, bytes) = staged.finished();
        if *one_piece {
            gather(finished, tools, sent);
        }
        if vlan.is_some() || *one_piece {
            flush_asking(tx, finished, vlan, sent);
        } else if !finished.is_empty() {
            flush(tx, finished, bytes, sent);
        }
        if staged.is_empty() {
            return;
        }
        for mut packet in staged.drain() {
            if asks.ask(&mut packet) {
                leave(tx, leaving, vlan, packet.buffer, sent);
            } else {
                finish::for_plain_port(packet, tools, sent, &mut |frame: Frame, sent: &mut Sent| {
                    leave(tx, leaving, vlan, frame, sent);
                });
            }
        }
        flush_asking(tx, leaving, vlan, sent);
    }
}

/// Copies frames that lie in pieces, as those of jumbo size from a device do.
fn gather(frames: &mut Burst, tools: &Tools, sent: &mut Sent) {
    if frames.iter().all(|mbuf| mbuf.segment_count() == 1) {
        return;
    }
    for mbuf in std::mem::take(frames) {
        match finish::in_one_piece(Frame(mbuf), tools) {
            // As many as there were.
            Some(frame) => drop(frames.push(frame.0)),
            None => sent.refuse(DropReason::NoBuffer, 1),
        }
    }
}

fn leave(tx: &mut TxQueue, leaving: &mut Burst, vlan: Option<&Vlan>, frame: Frame, sent: &mut Sent) {
    if leaving.is_full() {
        flush_asking(tx, leaving, vlan, sent);
    }
    if leaving.push(frame.0).is_err() {
        sent.refuse(DropReason::TxFull, 1);
    }
}

/// Sends frames that ask something of the device, a tag among it. The driver looks at them first, as it must
/// (`rte_eth_tx_prepare`); one that it refuses holds up none behind it. Tags are not among the bytes counted, whoever puts them in.
fn flush_asking(tx: &mut TxQueue, leaving: &mut Burst, vlan: Option<&Vlan>, sent: &mut Sent) {
    let mut lens = ArrayVec::<u64, { Burst::CAPACITY }>::new();
    for mut mbuf in std::mem::take(leaving) {
        let len = mbuf.total_len() as u64;
        if vlan.is_none_or(|vlan| vlan.put_on(&mut mbuf)) {
            lens.push(len);
            // As many as there were.
            drop(leaving.push(mbuf));
        } else {
            sent.refuse(DropReason::NoBuffer, 1);
        }
    }
    while !leaving.is_empty() {
        let fit = tx.prepare(leaving);
        let mut behind = Burst::new();
        if fit < leaving.len() {
            let mut all = std::mem::take(leaving).into_iter();
            leaving.extend(all.by_ref().take(fit));
            behind.extend(all);
        }
        let (there, went) = (leaving.len(), tx.tx(leaving));
        sent.packets += went as u64;
        sent.bytes += lens.drain(..there).take(went).sum::<u64>();
        sent.refuse(DropReason::TxFull, leaving.len() as u64);
        leaving.clear();
        let mut behind = behind.into_iter();
        if behind.next().is_some() {
            lens.pop_at(0);
            sent.refuse(DropReason::TxRefused, 1);
        }
        leaving.extend(behind);
    }
}

fn bytes_in(burst: &Burst) -> u64 {
    burst.iter().map(|mbuf| mbuf.total_len() as u64).sum()
}

/// Sends finished frames of `bytes` in all; what the queue refuses is dropped here, once, so that nothing waits behind it.
fn flush(tx: &mut TxQueue, leaving: &mut Burst, bytes: u64, sent: &mut Sent) {
    sent.packets += tx.tx(leaving) as u64;
    sent.bytes += bytes;
    if !leaving.is_empty() {
        sent.bytes -= bytes_in(leaving);
        sent.refuse(DropReason::TxFull, leaving.len() as u64);
        leaving.clear();
    }
}
