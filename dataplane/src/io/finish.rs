//! What a port without offloads needs first: checksums finished, large segments cut up.

use pipeline::{DropReason, Offload, Packet, segment};

use super::{Sent, Tools};
use crate::frame::Frame;

/// Gives `out` the frame, or the frames, that go on the wire for `packet`.
pub(crate) fn for_plain_port(
    mut packet: Packet<Frame>,
    tools: &mut Tools,
    sent: &mut Sent,
    out: &mut impl FnMut(Frame, &mut Sent),
) {
    match packet.offload {
        Offload::Done => out(packet.buffer, sent),
        Offload::Partial { start, offset } => {
            if packet.buffer.0.segment_count() > 1 {
                // Only a frame longer than a TAP's buffer is in pieces, and no plain port takes one so long.
                sent.refuse(DropReason::FrameTooLong, 1);
            } else if let Err(reason) = segment::finish_checksum(packet.buffer.0.data_mut(), start, offset) {
                sent.refuse(reason, 1);
            } else {
                out(packet.buffer, sent);
            }
        }
        Offload::Gso { .. } => cut(&packet, tools, sent, out),
    }
}

fn cut(packet: &Packet<Frame>, tools: &mut Tools, sent: &mut Sent, out: &mut impl FnMut(Frame, &mut Sent)) {
    let Tools { pools, scratch } = tools;
    let mbuf = &packet.buffer.0;
    let whole: &[u8] = if mbuf.segment_count() == 1 {
        mbuf.data()
    } else {
        scratch.clear();
        for piece in mbuf.segments() {
            scratch.extend_from_slice(piece);
        }
        scratch
    };
    let segmenter = match segment::Segmenter::new(whole, packet.offload) {
        Ok(segmenter) => segmenter,
        Err(reason) => return sent.refuse(reason, 1),
    };
    let count = segmenter.segments();
    sent.split_extra += (count as u64).saturating_sub(1);
    for index in 0..count {
        let Some(mut mbuf) = pools.small.alloc() else {
            return sent.refuse(DropReason::NoBuffer, (count - index) as u64);
        };
        let room = mbuf.tailroom();
        let Some(space) = mbuf.append(room) else {
            return sent.refuse(DropReason::NoBuffer, (count - index) as u64);
        };
        match segmenter.write(index, space) {
            Some(len) => {
                mbuf.truncate(len);
                out(Frame(mbuf), sent);
            }
            None => sent.refuse(DropReason::FrameTooLong, 1),
        }
    }
}
