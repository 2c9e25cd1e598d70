//! Datagrams of a tunnel, between its uplink's queue and its own port: opened before anything is decided, made after all of it.
//!
//! What always holds: a datagram is received and sent once, by its uplink, whatever the tunnel's own counters say beside.

use arrayvec::ArrayVec;
use dpdk::{Burst, Mbuf};
use pipeline::{Buffer, DropReason, Offload, Output, Packet, Tick, tunnel};
use tables::Tunnel;
use wire::ETHERNET_HEADER;

use super::Worker;
use super::exit::{Lane, longest};
use crate::clock;
use crate::frame::Frame;
use crate::io::{Packets, Received, Sent, finish};

impl Worker {
    /// Moves what came by the tunnel from a burst of its uplink to one of its own port, counted as received by the uplink.
    pub(super) fn open_datagrams(&mut self, tunnel: &Tunnel, received: &mut Received, opened: &mut Received) {
        for mbuf in received.frames.iter() {
            hint::prefetch_slice(mbuf.data());
        }
        let is_datagram = |mbuf: &Mbuf| tunnel::looks_tunnelled(tunnel, mbuf.data());
        if received.frames.iter().any(is_datagram) {
            for mbuf in std::mem::take(&mut received.frames) {
                let packet = Packet { buffer: Frame(mbuf), in_port: tunnel.uplink, offload: Offload::Done };
                let other = if is_datagram(&packet.buffer.0) {
                    self.open_datagram(tunnel, packet, &mut |packet| {
                        drop(opened.frames.push(packet.buffer.0))
                    })
                } else {
                    Some(packet)
                };
                // As many as there were, here and above: none is given back.
                drop(other.map(|packet| received.frames.push(packet.buffer.0)));
            }
        }
        if received.packets.iter().any(|packet| is_datagram(&packet.buffer.0)) {
            for packet in std::mem::take::<Packets>(&mut received.packets) {
                let other = if is_datagram(&packet.buffer.0) {
                    self.open_datagram(tunnel, packet, &mut |packet| opened.packets.push(packet))
                } else {
                    Some(packet)
                };
                received.packets.extend(other);
            }
        }
    }

    /// Gives a packet back that is no datagram for this end after all.
    fn open_datagram(
        &mut self,
        tunnel: &Tunnel,
        mut packet: Packet<Frame>,
        out: &mut impl FnMut(Packet<Frame>),
    ) -> Option<Packet<Frame>> {
        let whole = packet.buffer.frame_len();
        let Self { tables, decapsulator, .. } = self;
        let opened = decapsulator.decapsulate(tables.get(), tunnel, &mut packet.buffer, packet.offload);
        let Some(result) = opened else { return Some(packet) };
        let counters = &self.shared.counters;
        let port = &counters.port(tunnel.uplink).rx;
        port.packets.add(1);
        port.bytes.add(whole as u64);
        match result {
            Ok(offload) => {
                (packet.in_port, packet.offload) = (tunnel.port, offload);
                out(packet);
            }
            Err(reason) => {
                counters.drop_rx(tunnel.uplink, reason);
                self.discard(packet);
            }
        }
        None
    }

    /// What is staged on a tunnel's port goes on in datagrams to its uplink, in pieces where that is what is left to do.
    pub(super) fn send_datagrams(&mut self, at: u16) {
        let slot = &mut *self.slots[usize::from(at)];
        let id = slot.id;
        let staged: ArrayVec<Packet<Frame>, { Burst::CAPACITY }> = slot.staged.drain().collect();
        let Some(&tunnel) = self.tables.get().tunnel(id) else {
            for packet in staged {
                self.refuse(id, DropReason::PortIdle, packet);
            }
            return;
        };
        let now = clock::now();
        let (mut sent, mut lane) = (Sent::default(), None);
        // Empty between two calls, and taken for the time of one.
        let mut pieces = std::mem::take(&mut self.pieces);
        let any_narrow = self.adjacencies.any_path_mtu(now);
        for packet in staged {
            if any_narrow && let Some(mtu) = self.too_narrow(&tunnel, &packet, now) {
                self.send_fragments(&tunnel, &mut lane, packet, mtu, now, &mut sent);
                continue;
            }
            if packet.offload == Offload::Done {
                self.send_datagram(&tunnel, &mut lane, packet.buffer, now, &mut sent);
                continue;
            }
            finish::for_plain_port(packet, &mut self.tools, &mut sent, &mut |frame, _: &mut Sent| {
                pieces.push(frame);
            });
            for frame in pieces.drain(..) {
                self.send_datagram(&tunnel, &mut lane, frame, now, &mut sent);
            }
        }
        self.pieces = pieces;
        let counters = &self.shared.counters;
        let port = &counters.port(id).tx;
        port.packets.add(sent.packets);
        port.bytes.add(sent.bytes);
        counters.ledger.split_extra.add(sent.split_extra);
        for (reason, n) in sent.refused {
            counters.drop_tx(id, reason, n);
        }
    }

    /// What the way to its peer carries, if that is less than the tunnel's own MTU and the packet is longer.
    fn too_narrow(&self, tunnel: &Tunnel, packet: &Packet<Frame>, now: Tick) -> Option<u16> {
        let (tables, head) = (self.tables.get(), packet.buffer.head());
        let mtu = tunnel::narrowed(tables, &self.adjacencies, tunnel, head, now)?;
        (longest(packet) > usize::from(mtu) + ETHERNET_HEADER).then_some(mtu)
    }

    /// As on a port with that MTU: `route` has refused what forbids it, and told its source, but for what was on its way already.
    #[cold]
    fn send_fragments(
        &mut self,
        tunnel: &Tunnel,
        lane: &mut Option<Lane>,
        packet: Packet<Frame>,
        mtu: u16,
        now: Tick,
        sent: &mut Sent,
    ) {
        match finish::fragments(&packet, mtu, &mut self.tools) {
            Ok(frames) => {
                sent.split_extra += (frames.len() as u64).saturating_sub(1);
                for frame in frames {
                    self.send_datagram(tunnel, lane, frame, now, sent);
                }
            }
            Err(reason) => sent.refuse(reason, 1),
        }
        self.discard(packet);
    }

    fn send_datagram(
        &mut self,
        tunnel: &Tunnel,
        lane: &mut Option<Lane>,
        frame: Frame,
        now: Tick,
        sent: &mut Sent,
    ) {
        let Some(mut buffer) = finish::in_one_piece(frame, &self.tools) else {
            return sent.refuse(DropReason::NoBuffer, 1);
        };
        let len = buffer.frame_len();
        let Self { tables, adjacencies, encapsulator, .. } = self;
        let output = encapsulator.encapsulate(tables.get(), adjacencies, tunnel, &mut buffer);
        let packet = Packet { buffer, in_port: tunnel.port, offload: Offload::Done };
        match output {
            Ok(output) => {
                sent.packets += 1;
                sent.bytes += len as u64;
                match output {
                    Output::Port(port) => self.stage_by(lane, port, packet, now),
                    Output::Neighbour { .. } => self.output(packet, output, now),
                }
            }
            Err(reason) => {
                sent.refuse(reason, 1);
                self.discard(packet);
            }
        }
    }
}
