//! What a received frame is to us.

use wire::checksum::{fold, pseudo_header_v4, pseudo_header_v6, sum};
use wire::{Addrs, Fragment, Parsed, UDP_HEADER, protocol};

use crate::stamp::Stamp;

/// A received frame.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    /// A generated packet, ours or another's.
    Stamped(Stamp),
    /// A generated packet whose checksum is wrong.
    Corrupt,
    /// Anything else that its headers describe.
    Other(Parsed),
    /// Its headers make no sense.
    Malformed,
}

pub(crate) fn classify(bytes: &[u8]) -> Frame {
    let Ok(parsed) = wire::parse(bytes, bytes.len()) else { return Frame::Malformed };
    if parsed.protocol != protocol::UDP || parsed.fragment != Fragment::Whole {
        return Frame::Other(parsed);
    }
    let payload = usize::from(parsed.l4_offset) + UDP_HEADER;
    match bytes.get(payload..).and_then(Stamp::read) {
        None => Frame::Other(parsed),
        Some(_) if udp_checksum(bytes, &parsed) == Some(false) => Frame::Corrupt,
        Some(stamp) => Frame::Stamped(stamp),
    }
}

/// Whether the UDP checksum is right; none where there is none (zero, over IPv4: RFC 768).
pub(crate) fn udp_checksum(bytes: &[u8], parsed: &Parsed) -> Option<bool> {
    let end = usize::try_from(parsed.frame_len).ok()?;
    let udp = bytes.get(usize::from(parsed.l4_offset)..end)?;
    let len = u16::try_from(udp.len()).ok()?;
    let pseudo = match parsed.addrs {
        Addrs::V4 { .. } if udp.get(6..8)? == [0, 0] => return None,
        Addrs::V4 { src, dst } => pseudo_header_v4(src, dst, protocol::UDP, len),
        Addrs::V6 { src, dst } => pseudo_header_v6(src, dst, protocol::UDP, len.into()),
        Addrs::None => return None,
    };
    Some(fold(pseudo + sum(udp)) == 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{Ends, Template};
    use wire::MacAddr;

    #[test]
    fn tells_ours_from_others() {
        let ends = Ends {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
        };
        let template = Template::new(ends, 100).unwrap();
        let mut frame = vec![0; 100];
        let stamp = Stamp { run: 1, flow: 2, seq: 3, intended_ns: 4 };
        template.write(&mut frame, (5, 6), stamp);
        assert_eq!(classify(&frame), Frame::Stamped(stamp));
        frame[99] ^= 1;
        assert_eq!(classify(&frame), Frame::Corrupt);
        frame[42] = 0;
        assert!(matches!(classify(&frame), Frame::Other(_)));
        assert_eq!(classify(&frame[..30]), Frame::Malformed);
    }
}
