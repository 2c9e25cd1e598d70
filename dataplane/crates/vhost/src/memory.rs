//! The guest's memory: its regions mapped into this process, and the addresses that the front end and the guest use for them.
//!
//! A front end names buffers by guest physical address, but the rings themselves by its own virtual address
//! (`SET_VRING_ADDR`); both are resolved here, to a [`Piece`] or a [`Part`]. What always holds: a region is mapped only if its
//! file is a regular one (memfd, tmpfs, hugetlbfs) that holds it whole at that moment, and whatever this gives lies in a
//! mapped region. The guest may write there at any time: bytes are copied, never borrowed, and each is read once.

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{FileOffset, MmapRegion};

/// Most regions a front end may have, as many as one `SET_MEM_TABLE` can bring. Each holds a descriptor and a mapping of
/// this process, which one guest must not use up for all.
pub(crate) const SLOTS_MAX: u64 = 32;

/// What `statfs` calls the two file systems that are memory (`linux/magic.h`); memfds are files of theirs.
const TMPFS: u32 = 0x0102_1994;
const HUGETLBFS: u32 = 0x9584_58f6;

/// Bytes of a small frame, and of the virtio-net header before it.
const FRONT: usize = 76;

/// Bytes of a virtio-net header, in one wide and one narrow word.
const HEADER: usize = size_of::<u64>() + size_of::<u32>();

/// A mapped range.
#[derive(Clone, Debug)]
struct Region {
    guest: u64,
    user: u64,
    size: u64,
    mapping: Arc<MmapRegion>,
}

impl Region {
    fn overlaps(&self, guest: u64, size: u64) -> bool {
        guest < self.guest.saturating_add(self.size) && self.guest < guest.saturating_add(size)
    }

    /// Bytes from the region's start to a guest physical address.
    #[inline]
    const fn offset(&self, guest: u64) -> Option<u64> {
        let offset = guest.wrapping_sub(self.guest);
        if offset < self.size { Some(offset) } else { None }
    }

    /// The address in this process of a byte that lies in the region.
    #[inline]
    fn host(&self, offset: u64) -> *mut u8 {
        #[expect(clippy::cast_possible_truncation, reason = "an offset into what is mapped here")]
        let offset = offset as usize;
        // Wrapping: whether it is inside is for the callers to say, who have asked.
        self.mapping.as_ptr().wrapping_add(offset)
    }
}

/// Bytes of guest memory, mapped as long as the [`Memory`] that gave it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    start: *mut u8,
    len: u32,
}

impl Piece {
    /// Of no bytes.
    pub(crate) const NONE: Self = Self { start: std::ptr::null_mut(), len: 0 };

    #[inline]
    pub(crate) const fn len(&self) -> usize {
        self.len as usize
    }

    /// Asks for the cache lines of a header and the packet's headers behind it, as they are to be used.
    #[inline]
    pub(crate) fn prefetch(&self, to_write: bool) {
        // A frame seldom begins with a line: 12 bytes of virtio-net header come before it.
        let last = self.start.wrapping_add(self.len().min(FRONT) - 1);
        if to_write {
            hint::prefetch_to_write(self.start);
            hint::prefetch_to_write(last);
        } else {
            hint::prefetch_at(self.start);
            hint::prefetch_at(last);
        }
    }

    /// Copies from `at` on, as much as there is and `out` has room for; gives how much.
    ///
    /// # Safety
    /// The memory that gave the piece is still there.
    #[inline]
    pub(crate) unsafe fn read(&self, at: usize, out: &mut [u8]) -> usize {
        let len = self.len().saturating_sub(at).min(out.len());
        // SAFETY: `at + len` is within the piece, which lies in a mapped region, as the caller has it. Our slice is no guest
        // memory, so the two do not overlap. The guest may write meanwhile: then what is copied is anything, as all that a
        // guest sends is, and is judged only once it is ours.
        unsafe { copy(self.start.wrapping_add(at), out.as_mut_ptr(), len) };
        len
    }

    /// Its first 12 bytes, if it has as many: a virtio-net header. They come by way of registers: what is written to memory in
    /// other widths than it is read again holds the core up.
    ///
    /// # Safety
    /// As for `read`.
    #[inline]
    pub(crate) unsafe fn read_header(&self) -> Option<[u8; HEADER]> {
        if self.len() < HEADER {
            return None;
        }
        let start = self.start.cast::<u64>();
        // SAFETY: within the piece, as just compared; else as in `read`.
        let [h0, h1, h2, h3, h4, h5, h6, h7] = unsafe { start.read_unaligned() }.to_ne_bytes();
        // SAFETY: as above.
        let [h8, h9, h10, h11] =
            unsafe { start.wrapping_add(1).cast::<u32>().read_unaligned() }.to_ne_bytes();
        Some([h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11])
    }

    /// Copies a virtio-net header of 12 bytes and a frame behind it, if there is room for both.
    ///
    /// # Safety
    /// As for `read`.
    #[inline]
    pub(crate) unsafe fn write_frame(&self, header: (u64, u32), frame: &[u8]) -> bool {
        if self.len() < HEADER + frame.len() {
            return false;
        }
        let start = self.start.cast::<u64>();
        // SAFETY: within the piece, as just compared; else as in `write`.
        unsafe { start.write_unaligned(header.0.to_le()) };
        let rest = start.wrapping_add(1).cast::<u32>();
        // SAFETY: as above.
        unsafe { rest.write_unaligned(header.1.to_le()) };
        // SAFETY: as above.
        unsafe { copy(frame.as_ptr(), self.start.wrapping_add(HEADER), frame.len()) };
        true
    }

    /// Copies to `at` and on, as much as there is room for; gives how much.
    ///
    /// # Safety
    /// The memory that gave the piece is still there.
    #[inline]
    pub(crate) unsafe fn write(&self, at: usize, bytes: &[u8]) -> usize {
        let len = self.len().saturating_sub(at).min(bytes.len());
        // SAFETY: as in `read`; nothing of ours lives in guest memory, and nobody holds a reference into it.
        unsafe { copy(bytes.as_ptr(), self.start.wrapping_add(at), len) };
        len
    }
}

/// Copies bytes, few of them without a call.
///
/// # Safety
/// As for `copy_nonoverlapping`.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    type Half = [u8; 32];
    if (size_of::<Half>()..=2 * size_of::<Half>()).contains(&len) {
        let last = len - size_of::<Half>();
        // Both halves are read before either is written; they overlap where there are fewer than 64 bytes.
        // SAFETY: the caller's promise, for the first 32 bytes.
        let first = unsafe { from.cast::<Half>().read_unaligned() };
        // SAFETY: the same for the last 32.
        let second = unsafe { from.wrapping_add(last).cast::<Half>().read_unaligned() };
        // SAFETY: as above.
        unsafe { to.cast::<Half>().write_unaligned(first) };
        // SAFETY: as above.
        unsafe { to.wrapping_add(last).cast::<Half>().write_unaligned(second) };
    } else {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
    }
}

/// A table that both sides share, in one region: descriptors, or what is available, or what is used. It keeps its memory.
#[derive(Debug)]
pub(crate) struct Part {
    start: NonNull<u8>,
    len: usize,
    _memory: Arc<Memory>,
}

// SAFETY: it is memory that other processes write anyway; all access to it is atomic.
unsafe impl Send for Part {}

impl Part {
    /// Where a number of `size` bytes is, which is inside and aligned.
    #[inline]
    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        let at = self.start.as_ptr().wrapping_add(offset);
        assert!(offset + size <= self.len && at.addr().is_multiple_of(size), "offset {offset} of a table");
        at
    }

    #[inline]
    fn u16_at(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: in the table, which is mapped as long as `self`, and aligned, as `at` has seen. It is reached by atomic
        // operations alone.
        unsafe { AtomicU16::from_ptr(self.at(offset, 2).cast()) }
    }

    #[inline]
    fn u32_at(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// A little-endian number, `offset` bytes from the start.
    #[inline]
    pub(crate) fn load(&self, offset: usize, order: Ordering) -> u16 {
        u16::from_le(self.u16_at(offset).load(order))
    }

    #[inline]
    pub(crate) fn store(&self, offset: usize, value: u16, order: Ordering) {
        self.u16_at(offset).store(value.to_le(), order);
    }

    /// Sixteen bytes, a descriptor, as two little-endian numbers.
    #[inline]
    pub(crate) fn load_pair(&self, offset: usize) -> (u64, u64) {
        let first = self.at(offset, 16).cast::<u64>();
        // SAFETY: in the table, which is mapped as long as `self`, and aligned, as `at` has seen. It is reached by atomic
        // operations alone.
        let first = unsafe { AtomicU64::from_ptr(first) };
        // SAFETY: the second half of the sixteen bytes.
        let second = unsafe { AtomicU64::from_ptr(first.as_ptr().wrapping_add(1)) };
        let load = |number: &AtomicU64| u64::from_le(number.load(Ordering::Relaxed));
        (load(first), load(second))
    }

    /// Four bytes, as one little-endian number.
    #[inline]
    pub(crate) fn store_u32(&self, offset: usize, value: u32) {
        self.u32_at(offset).store(value.to_le(), Ordering::Relaxed);
    }

    /// Asks for the cache line that holds this offset.
    #[inline]
    pub(crate) fn prefetch(&self, offset: usize) {
        hint::prefetch_at(self.start.as_ptr().wrapping_add(offset));
    }
}

/// The table of regions, by guest physical address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    regions: Vec<Region>,
}

impl Memory {
    /// A table of exactly these regions (`SET_MEM_TABLE`).
    pub(crate) fn from_table(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Self, String> {
        if regions.len() != files.len() {
            return Err(format!("{} regions came with {} descriptors", regions.len(), files.len()));
        }
        let each = regions.iter().zip(files);
        each.into_iter().try_fold(Self::default(), |memory, (region, file)| memory.with(region, file))
    }

    /// This table and one more region (`ADD_MEM_REG`).
    pub(crate) fn with(&self, region: &VhostUserMemoryRegion, file: File) -> Result<Self, String> {
        let (guest, size, user) = (region.guest_phys_addr, region.memory_size, region.user_addr);
        let failed = |error: &dyn std::fmt::Display| {
            format!("mapping {size:#x} bytes of guest memory at {guest:#x}: {error}")
        };
        if user.checked_add(size).is_none() || guest.checked_add(size).is_none() {
            return Err(failed(&format!("the region, at user address {user:#x}, wraps around")));
        }
        if u64::try_from(self.regions.len()).is_ok_and(|slots| slots >= SLOTS_MAX) {
            return Err(format!("more than {SLOTS_MAX} memory regions"));
        }
        if self.regions.iter().any(|held| held.overlaps(guest, size)) {
            return Err(failed(&"it overlaps another region"));
        }
        // A page of any other file may take for ever to come (FUSE, NFS), and the worker would wait for it.
        let system = rustix::fs::fstatfs(&file).map_err(|error| failed(&error))?.f_type;
        if ![TMPFS, HUGETLBFS].iter().any(|magic| i128::from(*magic) == i128::from(system)) {
            return Err(failed(&"its file is not in memory: use a memfd, tmpfs or hugetlbfs"));
        }
        // A page past the file's end maps well, and is SIGBUS when touched; vm-memory does not look.
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        let held = region.mmap_offset.checked_add(size).is_some_and(|end| end <= metadata.len());
        if !metadata.is_file() || !held {
            return Err(failed(&format!("its file does not hold them ({} bytes)", metadata.len())));
        }
        let length = usize::try_from(size).map_err(|error| failed(&error))?;
        let mapping = MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), length)
            .map_err(|error| failed(&error))?;
        let mut regions = self.regions.clone();
        regions.push(Region { guest, user, size, mapping: Arc::new(mapping) });
        regions.sort_by_key(|region| region.guest);
        Ok(Self { regions })
    }

    /// This table without one region (`REM_MEM_REG`).
    pub(crate) fn without(&self, guest: u64, user: u64, size: u64) -> Result<Self, String> {
        let same = |held: &Region| (held.guest, held.user, held.size) == (guest, user, size);
        let at = self.regions.iter().position(same);
        let at = at.ok_or_else(|| format!("no region of {size:#x} bytes at {guest:#x} to remove"))?;
        let mut regions = self.regions.clone();
        regions.remove(at);
        Ok(Self { regions })
    }

    /// `len` bytes from a guest physical address on, where one region holds them. `near` is the region that the last address was
    /// in, where most are again.
    #[inline]
    pub(crate) fn piece(&self, guest: u64, len: u32, near: &mut usize) -> Option<Piece> {
        let inside = |region: &Region| {
            let offset = region.offset(guest)?;
            (u64::from(len) <= region.size - offset).then(|| Piece { start: region.host(offset), len })
        };
        if let Some(piece) = self.regions.get(*near).and_then(inside) {
            return Some(piece);
        }
        let (at, piece) =
            self.regions.iter().enumerate().find_map(|(at, region)| Some((at, inside(region)?)))?;
        *near = at;
        Some(piece)
    }

    /// The same in as many pieces as there are regions that they lie in. `None` if one byte is in none.
    #[cold]
    pub(crate) fn pieces(&self, mut guest: u64, len: u32, mut take: impl FnMut(Piece)) -> Option<()> {
        let mut left = len;
        while left > 0 {
            let (region, offset) =
                self.regions.iter().find_map(|region| Some((region, region.offset(guest)?)))?;
            let here = u32::try_from(region.size - offset).unwrap_or(u32::MAX).min(left);
            take(Piece { start: region.host(offset), len: here });
            left -= here;
            guest = guest.checked_add(u64::from(here))?;
        }
        Some(())
    }

    /// A table of `len` bytes at an address in the front end's own space. `what` is its name for the error, `align` what the
    /// specification asks of its address (VIRTIO 1.2, 2.7 and 2.8).
    pub(crate) fn part(
        memory: &Arc<Self>,
        what: &str,
        user: u64,
        len: usize,
        align: u64,
    ) -> Result<Part, String> {
        if !user.is_multiple_of(align) {
            return Err(format!("{what} at user address {user:#x} is not aligned to {align}"));
        }
        let found = memory.regions.iter().find_map(|region| {
            let offset = user.checked_sub(region.user).filter(|&offset| offset < region.size)?;
            Some((region, offset))
        });
        let Some((region, offset)) = found else {
            return Err(format!("{what} at user address {user:#x} is in no memory region"));
        };
        if u64::try_from(len).map_or(true, |len| len > region.size - offset) {
            return Err(format!("{what} at user address {user:#x} ({len} bytes) leaves its memory region"));
        }
        let start = NonNull::new(region.host(offset));
        let aligned = |start: &NonNull<u8>| (start.as_ptr().addr() as u64).is_multiple_of(align);
        let start = start.filter(aligned);
        let start = start.ok_or_else(|| format!("{what}: its region's file offset is not aligned"))?;
        Ok(Part { start, len, _memory: Arc::clone(memory) })
    }
}
