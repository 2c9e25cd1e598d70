//! Where packed rings are, kept in a file so that it outlasts this process: the front end's own (INFLIGHT_SHMFD of the vhost-user
//! specification), or ours where the front end has none, as QEMU has none for network devices.
//!
//! Nothing is in flight between two bursts, and a burst is given back in order: so of all that the specification would have kept of
//! each descriptor, the place where the next burst begins says everything. A split ring says it itself, by its used index; a packed
//! one does not. What always holds: whenever the process is killed, either the last burst is visible and its end is here, or it is
//! not and its start is.

use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::MemfdFlags;
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{FileOffset, MmapRegion};

use crate::packed::Place;

/// Bytes of `QueueRegionPacked` before its descriptors, and of a descriptor's state in it; a split ring's take less.
const HEADER: u64 = 32;
const STATE: u64 = 32;
/// Rings' regions begin at cache lines.
const ALIGN: u64 = 64;
/// Where in the region `used_idx`, `old_used_idx`, `used_wrap_counter` and `old_used_wrap_counter` are: one word, that is written
/// at once.
const PLACES: u64 = 16;
/// `features`, `version` and `desc_num`, which begin a region.
const VERSION: u64 = 8;

const fn stride(size: u16) -> u64 {
    (HEADER + STATE * size as u64).next_multiple_of(ALIGN)
}

/// The file, mapped.
#[derive(Clone, Debug)]
pub(crate) struct Inflight {
    mapping: Arc<MmapRegion>,
    stride: u64,
    rings: u16,
    /// It is ours, and may be of a ring that is no more.
    ours: bool,
}

impl Inflight {
    /// A new file for so many rings (`GET_INFLIGHT_FD`).
    pub(crate) fn create(rings: u16, size: u16) -> Result<(VhostUserInflight, File, Self), String> {
        let len = stride(size) * u64::from(rings);
        let failed =
            |error: &dyn std::fmt::Display| format!("a file for the state of {rings} rings: {error}");
        let file = rustix::fs::memfd_create("vhost-inflight", MemfdFlags::CLOEXEC);
        let file = File::from(file.map_err(|error| failed(&error))?);
        file.set_len(len).map_err(|error| failed(&error))?;
        let copy = file.try_clone().map_err(|error| failed(&error))?;
        let message = VhostUserInflight::new(len, 0, rings, size);
        let inflight = Self::open(&message, copy)?;
        Ok((message, file, inflight))
    }

    /// One that the front end kept (`SET_INFLIGHT_FD`).
    pub(crate) fn open(message: &VhostUserInflight, file: File) -> Result<Self, String> {
        let VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size } = *message;
        let stride = stride(queue_size);
        let held = file.metadata().map_or(0, |metadata| metadata.len());
        let end = mmap_offset.checked_add(mmap_size);
        if mmap_size < stride * u64::from(num_queues) || end.is_none_or(|end| end > held) {
            return Err(format!(
                "in-flight state of {num_queues} rings of {queue_size} descriptors does not fit {mmap_size} bytes of a \
                 file that has {held}"
            ));
        }
        let mapping = map(file, mmap_offset, mmap_size)?;
        Ok(Self { mapping, stride, rings: num_queues, ours: false })
    }

    /// Ours, at this path, for so many rings of any size; made if it is not there, or is of another length.
    pub(crate) fn remembered(path: &Path, rings: u16) -> Result<Self, String> {
        let len = ALIGN * u64::from(rings);
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(failed)?;
        if file.metadata().map_err(failed)?.len() != len {
            file.set_len(0).and_then(|()| file.set_len(len)).map_err(failed)?;
        }
        Ok(Self { mapping: map(file, 0, len)?, stride: ALIGN, rings, ours: true })
    }

    /// One ring's part.
    pub(crate) fn ring(&self, index: usize) -> Option<InflightRing> {
        let index = u16::try_from(index).ok().filter(|&index| index < self.rings)?;
        let at = usize::try_from(u64::from(index) * self.stride).ok()?;
        let start = NonNull::new(self.mapping.as_ptr().wrapping_add(at))?;
        Some(InflightRing { start, ours: self.ours, _mapping: Arc::clone(&self.mapping) })
    }
}

fn map(file: File, offset: u64, len: u64) -> Result<Arc<MmapRegion>, String> {
    let length = usize::try_from(len).map_err(|error| error.to_string())?;
    let mapping = MmapRegion::from_file(FileOffset::new(file, offset), length);
    Ok(Arc::new(mapping.map_err(|error| format!("mapping the state of rings: {error}"))?))
}

/// What is kept of one ring.
#[derive(Debug)]
pub(crate) struct InflightRing {
    start: NonNull<u8>,
    ours: bool,
    _mapping: Arc<MmapRegion>,
}

// SAFETY: it is shared memory, reached by atomic operations alone, and mapped as long as this lives.
unsafe impl Send for InflightRing {}

impl InflightRing {
    fn word(&self, at: u64) -> &AtomicU64 {
        #[expect(clippy::cast_possible_truncation, reason = "within a region's header")]
        let place = self.start.as_ptr().wrapping_add(at as usize);
        // SAFETY: regions begin at multiples of 64 bytes of a mapping, and have at least 32; it is mapped as long as `self`.
        unsafe { AtomicU64::from_ptr(place.cast()) }
    }

    /// Where the ring was, if anything is known. `is_used` says whether the descriptor at a place was used there.
    pub(crate) fn place(&self, is_used: impl Fn(Place) -> bool) -> Option<Place> {
        // Relaxed: whoever wrote it is gone.
        if self.word(VERSION).load(Ordering::Relaxed) & 0xffff != 1 {
            return None;
        }
        let [u0, u1, o0, o1, used_wrap, old_wrap, ..] =
            self.word(PLACES).load(Ordering::Relaxed).to_le_bytes();
        let used = Place { index: u16::from_le_bytes([u0, u1]), wrap: used_wrap != 0 };
        let old = Place { index: u16::from_le_bytes([o0, o1]), wrap: old_wrap != 0 };
        // They differ where the process ended in the middle of a burst's publication: did the guest see it?
        Some(if used == old || is_used(old) { used } else { old })
    }

    /// Whether it may be of another ring than the one that is there now.
    pub(crate) const fn is_a_guess(&self) -> bool {
        self.ours
    }

    fn write(&self, used: Place, old: Place) {
        let ([u0, u1], [o0, o1]) = (used.index.to_le_bytes(), old.index.to_le_bytes());
        let word = [u0, u1, o0, o1, u8::from(used.wrap), u8::from(old.wrap), 0, 0];
        // Release: what the guest sees before or after is ordered by the ring's own flags; the compiler must keep to that.
        self.word(PLACES).store(u64::from_le_bytes(word), Ordering::Release);
    }

    /// A burst that began at `from` is about to be shown, and ends at `to`.
    #[inline]
    pub(crate) fn leads(&self, from: Place, to: Place) {
        self.write(to, from);
    }

    /// The ring is there.
    #[inline]
    pub(crate) fn is_at(&self, place: Place) {
        self.write(place, place);
    }

    /// It begins there.
    pub(crate) fn begin(&self, place: Place) {
        self.is_at(place);
        self.word(VERSION).store(1, Ordering::Relaxed);
    }

    /// The front end has taken the ring back, and knows where it is.
    pub(crate) fn forget(&self) {
        self.word(VERSION).store(0, Ordering::Relaxed);
    }
}
