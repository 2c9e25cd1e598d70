//! vhost-user: VM and DPDK pods. Frames are copied between the guest's memory and our buffers, a burst at a time; large segments and
//! unfinished checksums pass in both directions, as far as the guest takes them.

use dpdk::{Burst, Mbuf};
use pipeline::{DropReason, GsoKind, Offload, Packet};
use podrouter_vhost::{
    HEADER_LEN, RxFrame, RxRefused, Sent as Outcome, Takes, TxBurst, TxRefused, VhostRx, VhostTx,
};
use tables::PortId;

use super::{Received, Sent, Staged, Tools, finish, vnet};
use crate::frame::{Frame, SMALL_ROOM};

/// One queue pair of a guest.
pub(crate) struct Vhost {
    rx: VhostRx,
    tx: VhostTx,
    /// Empty buffers for what comes next.
    buffers: Burst,
}

impl Vhost {
    pub(crate) fn new(rx: VhostRx, tx: VhostTx) -> Self {
        Self { rx, tx, buffers: Burst::new() }
    }

    pub(crate) fn receive(
        &mut self,
        id: PortId,
        tools: &mut Tools,
        into: &mut Received,
        refused: &mut dyn FnMut(DropReason),
    ) {
        // Bounded, so that a guest which sends nothing but rubbish holds the worker no longer than others.
        let burst = self.rx.burst(into.room());
        if burst.is_empty() {
            return;
        }
        let missing = burst.len().saturating_sub(self.buffers.len());
        tools.pools.small.alloc_burst(&mut self.buffers, missing);
        for frame in burst.frames() {
            let taken = match frame {
                Ok(frame) => take(&frame, id, &mut self.buffers, tools, into),
                Err(RxRefused::TooShort) => Err(DropReason::FrameTooShort),
                Err(RxRefused::Malformed | RxRefused::RingBroken) => Err(DropReason::DescriptorInvalid),
            };
            if let Err(reason) = taken {
                refused(reason);
            }
        }
    }

    pub(crate) fn send(&mut self, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
        let mut burst = self.tx.burst(staged.len());
        let (finished, _) = staged.finished();
        for mbuf in finished.iter() {
            give(&mut burst, [0; HEADER_LEN], mbuf, sent);
        }
        finished.clear();
        if staged.is_empty() {
            return;
        }
        let takes = burst.takes();
        for packet in staged.drain() {
            if is_taken(takes, packet.offload) {
                give(&mut burst, vnet::header(packet.offload).encode(), &packet.buffer.0, sent);
            } else {
                finish::for_plain_port(packet, tools, sent, &mut |frame: Frame, sent: &mut Sent| {
                    give(&mut burst, [0; HEADER_LEN], &frame.0, sent);
                });
            }
        }
    }
}

/// Copies a frame into a buffer, or into several where it is long.
#[inline]
fn take(
    frame: &RxFrame<'_>,
    id: PortId,
    buffers: &mut Burst,
    tools: &mut Tools,
    into: &mut Received,
) -> Result<(), DropReason> {
    let header = frame.header();
    let mbuf = if frame.len() <= usize::from(SMALL_ROOM) {
        let mut mbuf = buffers.pop().ok_or(DropReason::NoBuffer)?;
        let space = mbuf.append(frame.len()).ok_or(DropReason::FrameTooLong)?;
        frame.copy(0, space);
        mbuf
    } else {
        take_long(frame, tools)?
    };
    if !vnet::says_anything(&header) && into.packets.is_empty() {
        // There is room: a frame that is given back would be freed by its own drop.
        drop(into.frames.push(mbuf));
        return Ok(());
    }
    // From the first one on that is not finished, a burst is of packets.
    let buffer = Frame(mbuf);
    let offload = vnet::offload(&header, &buffer).ok_or(DropReason::OffloadInvalid)?;
    into.unfold(id).push(Packet { buffer, in_port: id, offload });
    Ok(())
}

#[cold]
fn take_long(frame: &RxFrame<'_>, tools: &mut Tools) -> Result<Mbuf, DropReason> {
    if !tools.refill() {
        return Err(DropReason::NoBuffer);
    }
    let mut at = 0;
    for mbuf in &mut tools.chain {
        let space = mbuf.data_mut();
        let here = space.len().min(frame.len() - at);
        frame.copy(at, &mut space[..here]);
        at += here;
    }
    if at < frame.len() {
        return Err(DropReason::FrameTooLong);
    }
    tools.take(frame.len()).map(|frame| frame.0).ok_or(DropReason::NoBuffer)
}

/// Whether the guest takes such a packet as it is.
const fn is_taken(takes: Takes, offload: Offload) -> bool {
    match offload {
        Offload::Done => true,
        Offload::Partial { .. } => takes.checksum,
        Offload::Gso { kind, .. } => match kind {
            GsoKind::TcpV4 => takes.tso4,
            GsoKind::TcpV6 => takes.tso6,
            GsoKind::Udp => takes.uso,
        },
    }
}

#[inline]
fn give(burst: &mut TxBurst<'_>, header: [u8; HEADER_LEN], mbuf: &Mbuf, sent: &mut Sent) {
    let len = mbuf.total_len();
    match burst.send(header, len, mbuf.segments()) {
        Outcome::Ok => {
            sent.packets += 1;
            sent.bytes += len as u64;
        }
        Outcome::Full => sent.refuse(DropReason::TxFull, 1),
        Outcome::NotConnected => sent.refuse(DropReason::TxDown, 1),
        Outcome::Refused(TxRefused::Length) => sent.refuse(DropReason::FrameTooLong, 1),
        Outcome::Refused(TxRefused::Malformed | TxRefused::RingBroken) => {
            sent.refuse(DropReason::DescriptorInvalid, 1);
        }
    }
}
