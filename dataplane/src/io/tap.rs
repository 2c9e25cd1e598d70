//! TAPs: kernel pods and the host. Large segments and unfinished checksums pass in both directions, in the vnet header.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use pipeline::{Buffer, DropReason, GsoKind, Offload, Packet};
use tables::PortId;
use tap::vnet::SHORT_LEN;
use tap::{Offloads, Tap, TapError};

use super::{CHAIN, Packets, Sent, Staged, Tools, finish, vnet};
use crate::frame::Frame;

/// Bytes after which a burst ends: what was read is written while it is in the nearest caches still.
const BURST_BYTES: usize = 64 << 10;

/// One TAP device.
#[derive(Debug)]
pub(crate) struct TapPort {
    tap: Tap,
    /// Whether the kernel knows large UDP segments, and so takes them as well.
    uso: bool,
}

impl TapPort {
    /// Takes over the descriptor that control sent.
    ///
    /// # Errors
    /// A descriptor that is no TAP with a vnet header.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, TapError> {
        let tap = Tap::from_fd(fd)?;
        tap.set_vnet_header_size(SHORT_LEN)?;
        let offloads = Offloads { checksum: true, tso4: true, tso6: true, uso: true };
        // Linux 6.2 and newer give and take USO; an older one refuses all of the request for it.
        let uso = tap.set_offload(offloads).is_ok();
        if !uso {
            tap.set_offload(Offloads { uso: false, ..offloads })?;
        }
        Ok(Self { tap, uso })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    pub(crate) fn receive(
        &mut self,
        id: PortId,
        tools: &mut Tools,
        into: &mut Packets,
        refused: &mut dyn FnMut(DropReason),
    ) {
        let mut bytes = 0;
        // Bounded, so that a pod which sends nothing but rubbish holds the worker no longer than others.
        for _ in 0..into.remaining_capacity() {
            if bytes >= BURST_BYTES || !tools.refill() {
                return;
            }
            let mut header = [0; SHORT_LEN];
            let mut pieces: ArrayVec<IoSliceMut<'_>, { CHAIN + 1 }> = ArrayVec::new();
            pieces.push(IoSliceMut::new(&mut header));
            pieces.extend(tools.chain.iter_mut().map(|mbuf| IoSliceMut::new(mbuf.data_mut())));
            let length = match self.tap.read_vectored(&mut pieces) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Empty, down, or gone: either way there is nothing to take.
                Err(_) => return,
            };
            drop(pieces);
            bytes += length;
            let Some(frame) = tools.take(length.saturating_sub(SHORT_LEN)) else {
                refused(DropReason::FrameTooShort);
                continue;
            };
            match vnet::offload(&header, &frame) {
                Some(offload) => into.push(Packet { buffer: frame, in_port: id, offload }),
                None => refused(DropReason::OffloadInvalid),
            }
        }
    }

    pub(crate) fn send(&mut self, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
        for packet in staged.drain() {
            let udp = matches!(packet.offload, Offload::Gso { kind: GsoKind::Udp, .. });
            if udp && !self.uso {
                finish::for_plain_port(packet, tools, sent, &mut |frame, sent| {
                    self.write(&frame, Offload::Done, sent);
                });
            } else {
                self.write(&packet.buffer, packet.offload, sent);
            }
        }
    }

    fn write(&self, frame: &Frame, offload: Offload, sent: &mut Sent) {
        let header = vnet::header(offload).encode();
        let mut pieces: ArrayVec<IoSlice<'_>, 16> = ArrayVec::new();
        pieces.push(IoSlice::new(&header[..SHORT_LEN]));
        if frame.0.segments().any(|piece| pieces.try_push(IoSlice::new(piece)).is_err()) {
            return sent.refuse(DropReason::FrameTooLong, 1);
        }
        let result = loop {
            match self.tap.write_vectored(&pieces) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match result {
            Ok(_) => {
                sent.packets += 1;
                sent.bytes += frame.frame_len() as u64;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory) => {
                sent.refuse(DropReason::TxFull, 1);
            }
            // EINVAL: the kernel does not believe the header. Anything else: the device is down or gone.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                sent.refuse(DropReason::SegmentInvalid, 1);
            }
            Err(_) => sent.refuse(DropReason::TxDown, 1),
        }
    }
}
