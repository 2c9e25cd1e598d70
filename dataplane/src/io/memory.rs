//! Frames from memory, frames to memory: for tests and benches, and for a look at what would leave.
//!
//! A port that repeats its frames is the cheapest endless source with real headers: buffers come in bulk, from the warm end
//! of the pool, and each frame is copied from an array that holds nothing else. It costs what `net_null` with `copy=1`
//! costs, which is how other programs are given the same.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use dpdk::Burst;

use super::{Received, Sent, Staged, Tools, finish};
use crate::frame::{Frame, LARGE_ROOM, SMALL_ROOM};

/// Most bytes that are kept of what was sent; beyond, frames are counted and forgotten.
const KEEP: usize = 64 << 20;

/// pcap, microseconds, little endian (the libpcap file format), link type Ethernet.
const MAGIC: u32 = 0xa1b2_c3d4;
const GLOBAL_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const SNAP_LENGTH: u32 = 262_144;

/// Plays a pcap file once, or over and over, and keeps what it is given.
#[derive(Debug)]
pub(crate) struct Memory {
    source: Source,
    sent: Vec<u8>,
    tx_pcap: Option<PathBuf>,
    /// Buffers on their way from or to the pool.
    buffers: Burst,
}

/// What is received.
#[derive(Debug)]
enum Source {
    Once(std::vec::IntoIter<Vec<u8>>),
    Endless(Templates),
}

/// Frames that are played over and over, one behind the other in memory.
#[derive(Debug)]
struct Templates {
    bytes: Vec<u8>,
    /// Where each ends; it begins where the one before it ends.
    ends: Vec<usize>,
    /// The next one, and where it begins.
    next: usize,
    start: usize,
}

impl Templates {
    /// # Errors
    /// None at all, or one that does not fit a small buffer.
    fn new(frames: &[Vec<u8>]) -> anyhow::Result<Self> {
        if frames.is_empty() {
            bail!("there is no frame that could be repeated");
        }
        if let Some(number) = frames.iter().position(|frame| frame.len() > usize::from(SMALL_ROOM)) {
            bail!(
                "record {number} has more than the {SMALL_ROOM} bytes that a frame to be repeated may have"
            );
        }
        let bytes = frames.concat();
        let ends = frames.iter().scan(0, |end, frame| {
            *end += frame.len();
            Some(*end)
        });
        Ok(Self { ends: ends.collect(), bytes, next: 0, start: 0 })
    }

    #[inline]
    fn next(&mut self) -> &[u8] {
        let (start, end) = (self.start, self.ends[self.next]);
        self.next += 1;
        self.start = end;
        if self.next == self.ends.len() {
            (self.next, self.start) = (0, 0);
        }
        &self.bytes[start..end]
    }
}

impl Memory {
    /// Reads `rx_pcap` whole.
    ///
    /// # Errors
    /// A file that is missing, or is no pcap file of Ethernet frames.
    pub(crate) fn open(
        rx_pcap: Option<&Path>,
        tx_pcap: Option<PathBuf>,
        repeat: bool,
    ) -> anyhow::Result<Self> {
        let frames = match rx_pcap {
            Some(path) => {
                let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
                parse(&bytes).with_context(|| format!("{} is no usable pcap file", path.display()))?
            }
            None => Vec::new(),
        };
        let source = match repeat {
            true => Source::Endless(Templates::new(&frames)?),
            false => Source::Once(frames.into_iter()),
        };
        Ok(Self { source, sent: Vec::new(), tx_pcap, buffers: Burst::new() })
    }

    pub(crate) fn receive(&mut self, tools: &mut Tools, into: &mut Received) {
        match &mut self.source {
            Source::Once(frames) => {
                while into.room() > 0 {
                    let Some(bytes) = frames.as_slice().first() else { return };
                    // No buffer free: the frame stays where it is.
                    let Some(buffer) = tools.pools.frame(bytes) else { return };
                    frames.next();
                    // There is room: a frame that is given back would be freed by its own drop.
                    drop(into.frames.push(buffer.0));
                }
            }
            Source::Endless(templates) => {
                let room = into.room();
                tools.pools.small.alloc_burst(&mut into.frames, room);
                for mbuf in &mut into.frames {
                    let bytes = templates.next();
                    // No template is longer than an empty buffer.
                    if let Some(space) = mbuf.append(bytes.len()) {
                        copy(bytes, space);
                    }
                }
            }
        }
    }

    pub(crate) fn send(&mut self, tools: &mut Tools, staged: &mut Staged, sent: &mut Sent) {
        let Self { sent: kept, tx_pcap, buffers, .. } = self;
        for packet in staged.drain() {
            finish::for_plain_port(packet, tools, sent, &mut |frame: Frame, sent: &mut Sent| {
                let len = frame.0.total_len();
                sent.packets += 1;
                sent.bytes += len as u64;
                if tx_pcap.is_some() && kept.len() + len + RECORD_HEADER <= KEEP {
                    let length = u32::try_from(len).unwrap_or(SNAP_LENGTH).to_le_bytes();
                    kept.extend_from_slice(&[0; 8]);
                    kept.extend_from_slice(&length);
                    kept.extend_from_slice(&length);
                    frame.0.segments().for_each(|piece| kept.extend_from_slice(piece));
                }
                // Freed together: a call into C for each would cost more than all the rest here.
                if buffers.is_full() {
                    buffers.clear();
                }
                drop(buffers.push(frame.0));
            });
        }
        buffers.clear();
    }

    /// Writes what was sent; called when the port is taken away, never by a worker.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        let Some(path) = &self.tx_pcap else { return Ok(()) };
        let mut file = Vec::with_capacity(GLOBAL_HEADER + self.sent.len());
        file.extend_from_slice(&MAGIC.to_le_bytes());
        file.extend_from_slice(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend_from_slice(&SNAP_LENGTH.to_le_bytes());
        file.extend_from_slice(&1_u32.to_le_bytes());
        file.extend_from_slice(&self.sent);
        std::fs::write(path, file).with_context(|| format!("writing {}", path.display()))
    }
}

fn parse(bytes: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let word = |at: usize| -> Option<u32> {
        bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
    };
    // Microsecond and nanosecond files differ in their time stamps alone, which are not used.
    if !matches!(word(0), Some(MAGIC | 0xa1b2_3c4d)) {
        bail!("it does not begin with the magic number of a little-endian pcap file (pcapng is not read)");
    }
    match word(20).map(|link| link & 0xffff) {
        Some(1) => {}
        other => bail!("its link type is {other:?}; only Ethernet (1) is read"),
    }
    let mut frames = Vec::new();
    let mut at = GLOBAL_HEADER;
    while at < bytes.len() {
        let length = word(at + 8).with_context(|| format!("record {} is cut short", frames.len()))? as usize;
        let frame = bytes.get(at + RECORD_HEADER..at + RECORD_HEADER + length);
        let frame = frame.with_context(|| format!("record {} is cut short", frames.len()))?;
        if length > usize::from(LARGE_ROOM) {
            bail!("record {} has {length} bytes: at most {LARGE_ROOM} fit a buffer", frames.len());
        }
        frames.push(frame.to_vec());
        at += RECORD_HEADER + length;
    }
    Ok(frames)
}

/// Copies bytes of one length, those of a small frame without a call: a source is to cost as little as net_null.
#[inline]
fn copy(from: &[u8], to: &mut [u8]) {
    const HALF: usize = 32;
    if let (Some(first), Some(last), HALF..=64) =
        (from.first_chunk::<HALF>(), from.last_chunk::<HALF>(), from.len())
        && let Some(behind) = to.len().checked_sub(HALF)
    {
        to[..HALF].copy_from_slice(first);
        to[behind..].copy_from_slice(last);
    } else {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcap_file_is_read_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let mut memory = Memory::open(None, Some(path.clone()), false).unwrap();
        for frame in [&b"first frame"[..], b"second"] {
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            memory.sent.extend_from_slice(&[0; 8]);
            memory.sent.extend_from_slice(&length);
            memory.sent.extend_from_slice(&length);
            memory.sent.extend_from_slice(frame);
        }
        memory.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(parse(&bytes).unwrap(), vec![b"first frame".to_vec(), b"second".to_vec()]);
        for cut in 1..RECORD_HEADER + 6 {
            let error = format!("{:#}", parse(&bytes[..bytes.len() - cut]).unwrap_err());
            assert!(error.contains("record 1"), "{error}");
        }
        assert!(parse(b"not a pcap file").is_err());
        let missing =
            format!("{:#}", Memory::open(Some(Path::new("/nonexistent.pcap")), None, false).unwrap_err());
        assert!(missing.contains("/nonexistent.pcap"));
    }
    #[test]
    fn frames_are_repeated_in_order_and_without_end() {
        let frames = [b"one".to_vec(), b"three".to_vec(), b"".to_vec()];
        let mut templates = Templates::new(&frames).unwrap();
        for turn in 0..7 {
            assert_eq!(templates.next(), frames[turn % frames.len()]);
        }
        assert!(Templates::new(&[]).is_err(), "nothing would come for ever");
        assert!(Templates::new(&[vec![0; usize::from(SMALL_ROOM) + 1]]).is_err());
    }
}
