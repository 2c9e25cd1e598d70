//! What each generated packet carries in its payload: whose it is, which one, and when it was to be sent.
//!
//! 18 bytes, so that an IPv4 packet with it fits the shortest Ethernet frame (60 bytes without FCS).

/// Bytes of a stamp: magic, run, flow, sequence number, time.
pub(crate) const STAMP: usize = 4 + 2 + 2 + 4 + 6;

const MAGIC: [u8; 4] = *b"pktg";

/// One packet's identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// Tells runs, directions and warm-up apart, so that a straggler is not counted.
    pub(crate) run: u16,
    /// The flow's index.
    pub(crate) flow: u16,
    /// Counts the flow's packets; wraps.
    pub(crate) seq: u32,
    /// When it was to be sent, in nanoseconds of the sender's clock; 48 bits of them.
    pub(crate) intended_ns: u64,
}

impl Stamp {
    pub(crate) fn to_bytes(self) -> [u8; STAMP] {
        let mut out = [0; STAMP];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&self.run.to_be_bytes());
        out[6..8].copy_from_slice(&self.flow.to_be_bytes());
        out[8..12].copy_from_slice(&self.seq.to_be_bytes());
        out[12..].copy_from_slice(&self.intended_ns.to_be_bytes()[2..]);
        out
    }

    /// The stamp at the front of a payload, if one is there.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; STAMP] = payload.first_chunk()?;
        let [m0, m1, m2, m3, r0, r1, f0, f1, s0, s1, s2, s3, t0, t1, t2, t3, t4, t5] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return None;
        }
        Some(Self {
            run: u16::from_be_bytes([r0, r1]),
            flow: u16::from_be_bytes([f0, f1]),
            seq: u32::from_be_bytes([s0, s1, s2, s3]),
            intended_ns: u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let stamp = Stamp { run: 0x1234, flow: 7, seq: u32::MAX, intended_ns: (1 << 48) - 1 };
        assert_eq!(Stamp::read(&stamp.to_bytes()), Some(stamp));
        assert_eq!(Stamp::read(&stamp.to_bytes()[..17]), None);
        assert_eq!(Stamp::read(&[0; 64]), None);
    }
}
