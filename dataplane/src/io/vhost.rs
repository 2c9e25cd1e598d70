//! vhost-user: VM and DPDK pods. Frames are copied between the guest's memory and our buffers.

use arrayvec::ArrayVec;
use pipeline::DropReason;
use podrouter_vhost::{Received as Taken, RxRefused, Sent as Outcome, TxRefused, VhostRx, VhostTx};

use super::{Received, Sent, Staged, Tools, finish};
use crate::frame::Frame;

/// Most pieces of one frame.
const PIECES: usize = 8;

/// One queue pair of a guest.
pub(crate) struct Vhost {
    rx: VhostRx,
    tx: VhostTx,
}

impl Vhost {
    pub(crate) fn new(rx: VhostRx, tx: VhostTx) -> Self {
        Self { rx, tx }
    }

    pub(crate) fn receive(
        &mut self,
        tools: &mut Tools,
        into: &mut Received,
        refused: &mut dyn FnMut(DropReason),
    ) {
        let mut burst = self.rx.burst();
        // Bounded, so that a guest which sends nothing but rubbish holds the worker no longer than others.
        for _ in 0..into.room() {
            // No buffer free: the frame stays with the guest.
            let Some(mut mbuf) = tools.pools.small.alloc() else { break };
            let room = mbuf.tailroom();
            let Some(space) = mbuf.append(room) else { break };
            match burst.receive(space) {
                Taken::Frame(length) => {
                    mbuf.truncate(length);
                    // There is room: a frame that is given back would be freed by its own drop.
                    drop(into.frames.push(mbuf));
                }
                Taken::Empty => break,
                Taken::Refused(reason) => refused(match reason {
                    RxRefused::TooLong => DropReason::FrameTooLong,
                    RxRefused::TooShort => DropReason::FrameTooShort,
                    RxRefused::Malformed | RxRefused::RingBroken => DropReason::DescriptorInvalid,
                }),
            }
        }
        burst.flush();
    }

    pub(crate) fn send(&mut self, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
        let mut burst = self.tx.burst();
        for packet in staged.drain() {
            finish::for_plain_port(packet, tools, sent, &mut |frame: Frame, sent: &mut Sent| {
                let mut pieces: ArrayVec<&[u8], PIECES> = ArrayVec::new();
                if frame.0.segments().any(|piece| pieces.try_push(piece).is_err()) {
                    return sent.refuse(DropReason::FrameTooLong, 1);
                }
                match burst.send(&pieces) {
                    Outcome::Ok => {
                        sent.packets += 1;
                        sent.bytes += frame.0.total_len() as u64;
                    }
                    Outcome::Full => sent.refuse(DropReason::TxFull, 1),
                    Outcome::NotConnected => sent.refuse(DropReason::TxDown, 1),
                    Outcome::Refused(TxRefused::Length) => sent.refuse(DropReason::FrameTooLong, 1),
                    Outcome::Refused(TxRefused::Malformed | TxRefused::RingBroken) => {
                        sent.refuse(DropReason::DescriptorInvalid, 1);
                    }
                }
            });
        }
        burst.flush();
    }
}
