//! Reads classic pcap files: of either byte order, with micro- or nanoseconds, of Ethernet frames.
//!
//! pcapng is not read (`editcap -F pcap` converts); times in the file are not used.

use std::path::{Path, PathBuf};

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PcapError {
    #[error("--pcap {}: {error}", .path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("--pcap {}: {reason}", .path.display())]
    Format { path: PathBuf, reason: String },
}

/// Its frames, in order.
pub(crate) fn read(path: &Path) -> Result<Vec<Vec<u8>>, PcapError> {
    let bytes = std::fs::read(path).map_err(|error| PcapError::Read { path: path.to_owned(), error })?;
    frames(&bytes).map_err(|reason| PcapError::Format { path: path.to_owned(), reason })
}

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const ETHERNET: u32 = 1;
/// No interface takes more, with segmentation by the device or without.
const LONGEST: usize = 65_550;

fn frames(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let magic = bytes.first_chunk::<4>().ok_or("the file is empty, or nearly")?;
    let little = match *magic {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => true,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => false,
        [0x0a, 0x0d, 0x0d, 0x0a] => {
            return Err("pcapng is not read: convert it with `editcap -F pcap`".into());
        }
        _ => return Err("not a pcap file: its first bytes are none of the known ones".into()),
    };
    let word = |at: usize| -> Option<u32> {
        let four = *bytes.get(at..)?.first_chunk::<4>()?;
        Some(if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) })
    };
    let link = word(20).ok_or("the file header is cut off")?;
    // The upper bits say whether an FCS follows each frame.
    if link & 0xffff != ETHERNET {
        return Err(format!("link type {} is not Ethernet (1)", link & 0xffff));
    }
    let mut frames = Vec::new();
    let mut at = FILE_HEADER;
    while at < bytes.len() {
        let number = frames.len() + 1;
        let len = word(at + 8).ok_or_else(|| format!("record {number}: its header is cut off"))?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if !(14..=LONGEST).contains(&len) {
            return Err(format!("record {number}: {len} bytes are no Ethernet frame (14 to {LONGEST})"));
        }
        let start = at + RECORD_HEADER;
        let frame =
            bytes.get(start..start + len).ok_or_else(|| format!("record {number}: its frame is cut off"))?;
        frames.push(frame.to_vec());
        at = start + len;
    }
    if frames.is_empty() { Err("it has no packets".into()) } else { Ok(frames) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(little: bool, frames: &[&[u8]]) -> Vec<u8> {
        let word = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
        let mut out = word(0xa1b2_c3d4).to_vec();
        for value in [0x0004_0002, 0, 0, 65_535, 1] {
            out.extend(word(value));
        }
        for frame in frames {
            let len = u32::try_from(frame.len()).unwrap();
            for value in [1, 2, len, len] {
                out.extend(word(value));
            }
            out.extend_from_slice(frame);
        }
        out
    }

    #[test]
    fn both_byte_orders() {
        let (one, two): (&[u8], &[u8]) = (&[7; 60], &[8; 1514]);
        for little in [true, false] {
            assert_eq!(frames(&file(little, &[one, two])), Ok(vec![one.to_vec(), two.to_vec()]));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = file(true, &[&[7; 60], &[8; 60]]);
        for (bytes, part) in [
            (&good[..2], "empty"),
            (&good[..23], "file header"),
            (&good[..24], "no packets"),
            (&good[..30], "record 1: its header"),
            (&good[..150], "record 2: its frame"),
            (b"\x0a\x0d\x0d\x0a....", "pcapng"),
            (b"GIF89a", "not a pcap"),
        ] {
            let error = frames(bytes).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
        let mut wifi = good.clone();
        wifi[20] = 105;
        assert!(frames(&wifi).unwrap_err().contains("105"));
        assert!(frames(&file(true, &[&[1; 13]])).unwrap_err().contains("13 bytes"));
    }
}
