//! Fragments that came before the first of their packet: they wait, and follow it or are given up.

use arrayvec::ArrayVec;
use pipeline::{BURST, DropReason, FragmentTicket, Packet, Tick, Transport};

use super::Worker;
use crate::frame::Frame;

impl Worker {
    pub(super) fn hold(&mut self, packet: Packet<Frame>, ticket: FragmentTicket) {
        if let Err((reason, packet)) = self.router.hold(ticket, packet) {
            self.shared.counters.drop_rx(packet.in_port, reason);
            self.discard(packet);
        }
        self.count_held();
    }

    /// Those whose first fragment has come go the same way.
    pub(super) fn follow_fragments(&mut self, now: Tick) {
        loop {
            let mut ready = ArrayVec::<(Result<Transport, DropReason>, Packet<Frame>), BURST>::new();
            if self.router.release(BURST, |transport, packet| ready.push((transport, packet))) == 0 {
                return;
            }
            self.count_held();
            for (transport, mut packet) in ready {
                match transport {
                    Ok(transport) => {
                        let verdict = self.router.follow(self.tables.get(), now, &mut packet, transport);
                        self.settle(packet, verdict, now);
                    }
                    Err(reason) => {
                        self.shared.counters.drop_rx(packet.in_port, reason);
                        self.discard(packet);
                    }
                }
            }
        }
    }

    pub(super) fn give_up_fragments(&mut self, now: Tick) {
        let mut late = ArrayVec::<(DropReason, Packet<Frame>), BURST>::new();
        self.router.give_up(now, BURST, |reason, packet| late.push((reason, packet)));
        for (reason, packet) in late {
            self.shared.counters.drop_rx(packet.in_port, reason);
            self.discard(packet);
        }
        self.count_held();
    }

    /// The end: what waits is dropped by name.
    pub(super) fn forget_fragments(&mut self) {
        let mut waiting = Vec::new();
        self.router.clear(|packet| waiting.push(packet));
        for packet in waiting {
            self.shared.counters.drop_rx(packet.in_port, DropReason::Shutdown);
            self.discard(packet);
        }
        self.count_held();
    }
}
