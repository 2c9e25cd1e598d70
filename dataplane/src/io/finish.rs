//! What a port cannot take as it is: checksums finished, large segments cut up, packets above the MTU fragmented.

use arrayvec::ArrayVec;
use pipeline::{DropReason, Offload, Packet, segment};

use super::{Sent, Tools};
use crate::frame::{Frame, SMALL_ROOM};

/// Frames that one large segment may become: 64 KiB in pieces of 64 bytes. A pod that names a smaller size would have us
/// make tens of thousands of frames of one.
pub(crate) const MOST_SEGMENTS: usize = 1_024;

/// 65,535 bytes in pieces for the least MTU, 1,280, are 53.
pub(crate) type Fragments = ArrayVec<Frame, 64>;

/// Bytes of an Ethernet header, which no MTU counts.
const ETHERNET: u16 = 14;

/// Gives `out` the frame, or the frames, that go on the wire for `packet`.
pub(crate) fn for_plain_port(
    packet: Packet<Frame>,
    tools: &mut Tools,
    sent: &mut Sent,
    out: &mut impl FnMut(Frame, &mut Sent),
) {
    match packet.offload {
        Offload::Done => out(packet.buffer, sent),
        Offload::Partial { start, offset } => {
            let Some(mut frame) = in_one_piece(packet.buffer, tools) else {
                return sent.refuse(DropReason::NoBuffer, 1);
            };
            match segment::finish_checksum(frame.0.data_mut(), start, offset) {
                Ok(()) => out(frame, sent),
                Err(reason) => sent.refuse(reason, 1),
            }
        }
        Offload::Gso { .. } => cut(&packet, tools, sent, out),
    }
}

/// A frame whose bytes lie side by side: a copy, where they came in pieces. None where it is longer than any buffer, or none is free.
pub(crate) fn in_one_piece(frame: Frame, tools: &Tools) -> Option<Frame> {
    if frame.0.segment_count() == 1 {
        return Some(frame);
    }
    let mut whole = tools.pools.large.alloc()?;
    frame.0.copy_to_slice(whole.append(frame.0.total_len())?);
    Some(Frame(whole))
}

/// The fragments of a packet above `mtu` that allows it (RFC 1812, section 4.2.2.7), finished; all of them or none. Rare,
/// so that a copy does no harm.
#[cold]
pub(crate) fn fragments(
    packet: &Packet<Frame>,
    mtu: u16,
    tools: &mut Tools,
) -> Result<Fragments, DropReason> {
    let Tools { pools, scratch, .. } = tools;
    scratch.clear();
    packet.buffer.0.segments().for_each(|piece| scratch.extend_from_slice(piece));
    match packet.offload {
        Offload::Done => {}
        Offload::Partial { start, offset } => segment::finish_checksum(scratch, start, offset)?,
        // TCP forbids fragments (it sets DF); who does not gets none of its large segments cut twice.
        Offload::Gso { .. } => return Err(DropReason::PacketTooBig),
    }
    let fragmenter = segment::Fragmenter::new(scratch, mtu)?;
    let pool = if mtu > SMALL_ROOM - ETHERNET { &pools.large } else { &pools.small };
    let mut frames = Fragments::new();
    for index in 0..fragmenter.fragments() {
        let mut mbuf = pool.alloc().ok_or(DropReason::NoBuffer)?;
        let room = mbuf.tailroom();
        let space = mbuf.append(room).ok_or(DropReason::NoBuffer)?;
        let len = fragmenter.write(index, space).ok_or(DropReason::FrameTooLong)?;
        mbuf.truncate(len);
        frames.try_push(Frame(mbuf)).map_err(|_| DropReason::PacketTooBig)?;
    }
    Ok(frames)
}

fn cut(packet: &Packet<Frame>, tools: &mut Tools, sent: &mut Sent, out: &mut impl FnMut(Frame, &mut Sent)) {
    let Tools { pools, scratch, .. } = tools;
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
    if count > MOST_SEGMENTS {
        return sent.refuse(DropReason::SegmentInvalid, 1);
    }
    let pool = if segmenter.longest() > usize::from(SMALL_ROOM) { &pools.large } else { &pools.small };
    sent.split_extra += (count as u64).saturating_sub(1);
    for index in 0..count {
        let Some(mut mbuf) = pool.alloc() else {
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
