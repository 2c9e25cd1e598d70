//! The guest's memory: its regions mapped into this process, and the front end's addresses translated.
//!
//! A front end names buffers by guest physical address, but the rings themselves by its own virtual address
//! (`SET_VRING_ADDR`); both are resolved in the same table. What always holds: a region is mapped only if its file is a
//! regular one (memfd, tmpfs, hugetlbfs) that holds it whole at that moment, and a translated address lies in a mapped
//! region.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Most regions a front end may have, as many as one `SET_MEM_TABLE` can bring. Each holds a descriptor and a mapping of
/// this process, which one guest must not use up for all.
pub(crate) const SLOTS_MAX: u64 = 32;

/// What `statfs` calls the two file systems that are memory (`linux/magic.h`); memfds are files of theirs.
const TMPFS: u32 = 0x0102_1994;
const HUGETLBFS: u32 = 0x9584_58f6;

pub(crate) type Mapped = GuestMemoryMmap<()>;

/// A range in the front end's own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UserRange {
    user: u64,
    guest: u64,
    size: u64,
}

/// The table of regions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    mapped: Arc<Mapped>,
    ranges: Vec<UserRange>,
}

impl Memory {
    /// A table of exactly these regions (`SET_MEM_TABLE`).
    pub(crate) fn from_table(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Memory, String> {
        if regions.len() != files.len() {
            return Err(format!("{} regions came with {} descriptors", regions.len(), files.len()));
        }
        regions
            .iter()
            .zip(files)
            .try_fold(Memory::default(), |memory, (region, file)| memory.with(region, file))
    }

    /// This table and one more region (`ADD_MEM_REG`).
    pub(crate) fn with(&self, region: &VhostUserMemoryRegion, file: File) -> Result<Memory, String> {
        let (guest, size, user) = (region.guest_phys_addr, region.memory_size, region.user_addr);
        if user.checked_add(size).is_none() {
            return Err(format!("region at user address {user:#x} wraps around"));
        }
        if u64::try_from(self.ranges.len()).is_ok_and(|slots| slots >= SLOTS_MAX) {
            return Err(format!("more than {SLOTS_MAX} memory regions"));
        }
        let failed = |error: &dyn std::fmt::Display| {
            format!("mapping {size:#x} bytes of guest memory at {guest:#x}: {error}")
        };
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
        let mapping = GuestRegionMmap::new(mapping, GuestAddress(guest))
            .ok_or_else(|| failed(&"the region wraps around the address space"))?;
        let mapped = self.mapped.insert_region(Arc::new(mapping)).map_err(|error| failed(&error))?;
        let mut ranges = self.ranges.clone();
        ranges.push(UserRange { user, guest, size });
        Ok(Memory { mapped: Arc::new(mapped), ranges })
    }

    /// This table without one region (`REM_MEM_REG`).
    pub(crate) fn without(&self, guest: u64, user: u64, size: u64) -> Result<Memory, String> {
        let range = UserRange { user, guest, size };
        let missing = || format!("no region of {size:#x} bytes at {guest:#x} to remove");
        let at = self.ranges.iter().position(|held| *held == range).ok_or_else(missing)?;
        let (mapped, _) = self.mapped.remove_region(GuestAddress(guest), size).map_err(|_| missing())?;
        let mut ranges = self.ranges.clone();
        ranges.remove(at);
        Ok(Memory { mapped: Arc::new(mapped), ranges })
    }

    /// The mapped regions.
    pub(crate) fn mapped(&self) -> &Arc<Mapped> {
        &self.mapped
    }

    /// The guest physical address of an address in the front end's own space.
    pub(crate) fn guest_address(&self, user: u64) -> Option<GuestAddress> {
        self.ranges.iter().find_map(|range| {
            let offset = user.checked_sub(range.user).filter(|offset| *offset < range.size)?;
            range.guest.checked_add(offset).map(GuestAddress)
        })
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::MemfdFlags;

    use super::*;

    fn file(size: u64) -> File {
        let file = File::from(rustix::fs::memfd_create("memory", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(size).unwrap();
        file
    }

    #[test]
    fn addresses_are_translated_inside_regions_only() {
        let low = VhostUserMemoryRegion::new(0, 0x2000, 0x7000_0000, 0);
        let high = VhostUserMemoryRegion::new(0x10_0000, 0x1000, 0x9000_0000, 0x1000);
        let memory = Memory::from_table(&[high, low], vec![file(0x2000), file(0x2000)]).unwrap();
        assert_eq!(memory.guest_address(0x7000_0000), Some(GuestAddress(0)));
        assert_eq!(memory.guest_address(0x7000_1fff), Some(GuestAddress(0x1fff)));
        assert_eq!(memory.guest_address(0x7000_2000), None);
        assert_eq!(memory.guest_address(0x6fff_ffff), None);
        assert_eq!(memory.guest_address(0x9000_0010), Some(GuestAddress(0x10_0010)));

        let smaller = memory.without(0, 0x7000_0000, 0x2000).unwrap();
        assert_eq!(smaller.guest_address(0x7000_0000), None);
        assert_eq!(smaller.guest_address(0x9000_0000), Some(GuestAddress(0x10_0000)));
        assert!(smaller.without(0, 0x7000_0000, 0x2000).is_err());
    }

    #[test]
    fn a_region_of_a_file_that_is_not_memory_is_refused() {
        let region = VhostUserMemoryRegion::new(0, 0x1000, 0x7000_0000, 0);
        let elsewhere = File::open("/proc/version").unwrap();
        let reason = Memory::default().with(&region, elsewhere).unwrap_err();
        assert!(reason.contains("use a memfd"), "{reason}");
    }

    #[test]
    fn a_region_past_its_files_end_or_over_another_is_refused() {
        let region = VhostUserMemoryRegion::new(0, 0x3000, 0x7000_0000, 0);
        assert!(Memory::default().with(&region, file(0x2000)).is_err());
        let memory = Memory::default().with(&region, file(0x3000)).unwrap();
        let over = VhostUserMemoryRegion::new(0x2000, 0x1000, 0x8000_0000, 0);
        assert!(memory.with(&over, file(0x1000)).is_err());
        assert!(Memory::from_table(&[region], Vec::new()).is_err());
    }
}
