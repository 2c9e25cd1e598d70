//! vhost-user: VM and DPDK pods. Frames are copied between the guest's memory and our buffers, a burst at a time; large segments and
//! unfinished checksums pass in both directions, as far as the guest takes them.

use arrayvec::ArrayVec;
use dpdk::{Burst, Mbuf};
use pipeline::{DropReason, GsoKind, Offload, Packet};
use podrouter_vhost::{
    HEADER_LEN, RxFrame, RxRefused, Sent as Outcome, Takes, TxBurst, TxRefused, VhostRx, VhostTx,
};
use tables::PortId;

use super::{Received, Sent, Staged, Tools, finish, vnet};
use crate::frame::{Frame, SMALL_ROOM};

/// A worker's queue pairs of a guest: one, where the guest has no more than there are workers.
pub(crate) struct Vhost {
    pairs: Vec<(VhostRx, VhostTx)>,
    /// The pair that is received from first.
    turn: usize,
    /// Empty buffers for what comes next.
    buffers: Burst,
}

impl Vhost {
    pub(crate) fn new(pairs: Vec<(VhostRx, VhostTx)>) -> Self {
        Self { pairs, turn: 0, buffers: Burst::new() }
    }

    /// The guest has set up a queue to receive by.
    #[inline]
    pub(crate) fn can_send(&self) -> bool {
        self.pairs.iter().any(|(_, tx)| tx.is_ready())
    }

    pub(crate) fn receive(
        &mut self,
        id: PortId,
        tools: &mut Tools,
        into: &mut Received,
        refused: &mut dyn FnMut(DropReason),
    ) {
        // In turn, so that none waits for ever behind one that is always full.
        self.turn = (self.turn + 1) % self.pairs.len().max(1);
        let (later, first) = self.pairs.split_at_mut(self.turn);
        for (rx, _) in first.iter_mut().chain(later) {
            // Bounded, so that a guest which sends nothing but rubbish holds the worker no longer than others.
            let burst = rx.burst(into.room());
            if burst.is_broken() {
                refused(DropReason::DescriptorInvalid);
            }
            if burst.is_empty() {
                continue;
            }
            let missing = burst.len().saturating_sub(self.buffers.len());
            tools.pools.small.alloc_burst(&mut self.buffers, missing);
            for frame in burst.frames() {
                let taken = match frame {
                    Ok(frame) => take(&frame, id, &mut self.buffers, tools, into),
                    Err(RxRefused::TooShort) => Err(DropReason::FrameTooShort),
                    Err(RxRefused::Malformed) => Err(DropReason::DescriptorInvalid),
                };
                if let Err(reason) = taken {
                    refused(reason);
                }
            }
        }
    }

    pub(crate) fn send(&mut self, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
        let ready = self.pairs.iter().filter(|(_, tx)| tx.is_ready()).count();
        if ready > 1 {
            return self.send_by_flow(ready, tools, staged, sent);
        }
        // Where none is ready, the first says so for each frame.
        let tx = self.pairs.iter_mut().map(|(_, tx)| tx).enumerate();
        if let Some((_, tx)) = tx.max_by_key(|(number, tx)| (tx.is_ready(), usize::MAX - number)) {
            send_all(&mut tx.burst(staged.len()), tools, staged, sent);
        }
    }

    /// Spreads frames over the guest's queues, each flow to one of them.
    #[cold]
    fn send_by_flow(&mut self, ready: usize, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
        let mut by_queue: ArrayVec<Staged, QUEUES> =
            (0..ready.min(QUEUES)).map(|_| Staged::default()).collect();
        let queues = by_queue.len();
        for packet in staged.drain() {
            let len = packet.buffer.0.total_len();
            by_queue[spread(packet.buffer.0.data()) % queues].push(packet, len);
        }
        let ready = self.pairs.iter_mut().map(|(_, tx)| tx).filter(|tx| tx.is_ready());
        // One that has gone meanwhile leaves the last ones without a queue: they go by the first, or are refused there.
        let mut queue = by_queue.iter_mut();
        for (tx, staged) in ready.zip(&mut queue) {
            send_all(&mut tx.burst(staged.len()), tools, staged, sent);
        }
        if let Some((_, tx)) = self.pairs.first_mut() {
            queue.for_each(|staged| send_all(&mut tx.burst(staged.len()), tools, staged, sent));
        }
    }
}

/// Most queues of one guest that a worker spreads frames over.
const QUEUES: usize = 8;

/// A number of a frame's flow: its addresses, and its ports where they are in their usual place. Fragments of a packet have no
/// ports, or differ in what stands there: those of IPv4 go by addresses alone.
fn spread(frame: &[u8]) -> usize {
    let fold = |bytes: &[u8]| {
        bytes.iter().fold(0_usize, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
    };
    let hash = match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, ip @ ..] if ip.len() >= 24 => {
            let whole = ip[0] == 0x45 && ip[6] & 0x3f == 0 && ip[7] == 0;
            fold(&ip[12..if whole { 24 } else { 20 }])
        }
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ip @ ..] if ip.len() >= 44 => {
            fold(&ip[8..if matches!(ip[6], 6 | 17) { 44 } else { 40 }])
        }
        _ => 0,
    };
    hash ^ hash >> 7
}

fn send_all(burst: &mut TxBurst<'_>, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
    let (finished, _) = staged.finished();
    for mbuf in finished.iter() {
        give(burst, [0; HEADER_LEN], mbuf, sent);
    }
    finished.clear();
    if staged.is_empty() {
        return;
    }
    let takes = burst.takes();
    for packet in staged.drain() {
        if is_taken(takes, packet.offload) {
            give(burst, vnet::header(packet.offload).encode(), &packet.buffer.0, sent);
        } else {
            finish::for_plain_port(packet, tools, sent, &mut |frame: Frame, sent: &mut Sent| {
                give(burst, [0; HEADER_LEN], &frame.0, sent);
            });
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
    if mbuf.segment_count() == 1 && burst.send_whole(header, mbuf.data()) {
        sent.packets += 1;
        sent.bytes += mbuf.data().len() as u64;
    } else {
        give_spread(burst, header, mbuf, sent);
    }
}

#[inline(never)]
fn give_spread(burst: &mut TxBurst<'_>, header: [u8; HEADER_LEN], mbuf: &Mbuf, sent: &mut Sent) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_a_flow_are_spread_alike_and_flows_are_not() {
        let frame = |port: u8, ttl: u8, fragment: u8| {
            let mut frame = vec![2; 60];
            frame[12..14].copy_from_slice(&[8, 0]);
            frame[14..38].copy_from_slice(&[
                0x45, 0, 0, 46, 1, 2, fragment, 0, ttl, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 4, port, 0, 80,
            ]);
            frame
        };
        assert_eq!(spread(&frame(1, 64, 0)), spread(&frame(1, 63, 0x40)));
        assert_eq!(spread(&frame(1, 64, 0x20)), spread(&frame(9, 64, 0x20)), "fragments");
        let mut queues = [0; 4];
        (0..=255).for_each(|port| queues[spread(&frame(port, 64, 0)) % 4] += 1);
        assert!(queues.iter().all(|&flows| flows > 32), "{queues:?}");
        assert_eq!(spread(&[0; 20]), 0);
    }
}
