//! VXLAN headers (RFC 7348, section 5).

use crate::Malformed;

/// Bytes of a VXLAN header.
pub const VXLAN_HEADER: usize = 8;

/// The UDP port that IANA gave it.
pub const VXLAN_PORT: u16 = 4_789;

/// The flag that says that the VNI is valid.
const VALID: u8 = 0x08;

/// A view of a VXLAN header that is whole. Reserved bits are not looked at, as the RFC demands.
#[derive(Clone, Copy, Debug)]
pub struct VxlanPacket<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> VxlanPacket<T> {
    /// # Errors
    /// `TransportTruncated` below 8 bytes.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < VXLAN_HEADER {
            return Err(Malformed::TransportTruncated);
        }
        Ok(Self { bytes })
    }

    /// The network identifier, of 24 bits; [`None`] where the header says that it has none.
    #[inline]
    pub fn vni(&self) -> Option<u32> {
        let b = self.bytes.as_ref();
        (b[0] & VALID != 0).then(|| u32::from_be_bytes([0, b[4], b[5], b[6]]))
    }
}

/// A header with this network identifier, of which the low 24 bits count.
#[must_use]
pub const fn vxlan_header(vni: u32) -> [u8; VXLAN_HEADER] {
    let [_, a, b, c] = vni.to_be_bytes();
    [VALID, 0, 0, 0, a, b, c, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut header = vxlan_header(0xab_cdef);
        assert_eq!(header, [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
        assert_eq!(VxlanPacket::new_checked(header).unwrap().vni(), Some(0xab_cdef));
        assert!(VxlanPacket::new_checked(&header[..7]).is_err());
        // Reserved: ignored on receipt.
        (header[0], header[2], header[7]) = (0xff, 1, 1);
        assert_eq!(VxlanPacket::new_checked(header).unwrap().vni(), Some(0xab_cdef));
        header[0] = !VALID;
        assert_eq!(VxlanPacket::new_checked(header).unwrap().vni(), None);
    }
}
