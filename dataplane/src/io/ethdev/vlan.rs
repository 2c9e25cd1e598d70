//! A device on a VLAN (IEEE 802.1Q): its tag is put on what leaves and taken off what comes, by the device or else here.
//!
//! Nothing behind this file sees a tag, and no counter of bytes does. Devices without a VLAN pay nothing.

use dpdk::{Burst, Mbuf};
use pipeline::DropReason;

/// EtherType of a customer's tag, and the bytes of one.
const TPID: [u8; 2] = [0x81, 0x00];
const TAG: usize = 4;
/// Both MAC addresses, which stand before a tag.
const MACS: usize = 12;
/// The part of the tag control information that names the VLAN; the rest is priority.
const VID: u16 = 0x0fff;

/// The VLAN that a device is on.
#[derive(Debug)]
pub(super) struct Vlan {
    id: u16,
    /// The device puts the tag in.
    inserts: bool,
}

impl Vlan {
    pub(super) const fn new(id: u16, inserts: bool) -> Self {
        Self { id, inserts }
    }

    /// Whether frames keep their shape, since the device puts the tag in.
    pub(super) const fn is_inserted(&self) -> bool {
        self.inserts
    }

    /// Takes the tags off; frames of another VLAN and of none go.
    pub(super) fn take_off(&self, frames: &mut Burst, refused: &mut dyn FnMut(DropReason)) {
        if frames.is_empty() {
            return;
        }
        for mut mbuf in std::mem::take(frames) {
            let ours = match mbuf.vlan_stripped() {
                Some(tci) => tci & VID == self.id,
                None => self.take_off_one(&mut mbuf),
            };
            if ours {
                // As many as came.
                drop(frames.push(mbuf));
            } else {
                refused(DropReason::VlanOther);
            }
        }
    }

    fn take_off_one(&self, mbuf: &mut Mbuf) -> bool {
        let data = mbuf.data_mut();
        let Some(&[a, b, c, d]) = data.get(MACS..).and_then(<[u8]>::first_chunk::<TAG>) else { return false };
        let ours = [a, b] == TPID && u16::from_be_bytes([c, d]) & VID == self.id;
        if ours {
            data.copy_within(..MACS, TAG);
        }
        ours && mbuf.adj(TAG)
    }

    /// Puts the tag on; `false` if there is no room for it.
    pub(super) fn put_on(&self, mbuf: &mut Mbuf) -> bool {
        if self.inserts {
            mbuf.insert_vlan(self.id);
            return true;
        }
        if mbuf.prepend(TAG).is_none() {
            return false;
        }
        let data = mbuf.data_mut();
        data.copy_within(TAG..TAG + MACS, 0);
        data[MACS..MACS + 2].copy_from_slice(&TPID);
        data[MACS + 2..MACS + TAG].copy_from_slice(&self.id.to_be_bytes());
        true
    }
}
