//! Mappings: the load generator's only unsafe code of its own.
#![allow(unsafe_code)]

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::start::page_bytes;

/// Bytes in a page of the running kernel.
pub(crate) fn page() -> usize {
    usize::try_from(page_bytes()).unwrap_or(4096).max(1)
}

/// Bytes of so many MiB.
pub(crate) fn mib(mib: u64) -> Result<usize, Errno> {
    let bytes = mib.checked_mul(1 << 20).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.filter(|bytes| isize::try_from(*bytes).is_ok()).ok_or(Errno::NOMEM)
}

/// New anonymous memory, all zero, never given back.
pub(crate) fn anonymous(bytes: usize) -> Result<&'static mut [u8], Errno> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut(), bytes, prot, flags) }?;
    // SAFETY: the mapping has that many bytes, all zero, and is never unmapped.
    Ok(unsafe { core::slice::from_raw_parts_mut(at.cast(), bytes) })
}

/// Keeps the kernel from using huge pages for `memory`.
pub(crate) fn without_huge_pages(memory: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: how memory is backed does not change what is in it.
    unsafe {
        rustix::mm::madvise(memory.as_mut_ptr().cast(), memory.len(), Advice::LinuxNoHugepage)
    }
}

/// Gives whole pages of anonymous memory back to the kernel; they read as zero
/// from then on.
pub(crate) fn give_back(pages: &mut [u8]) -> Result<(), Errno> {
    if !pages.len().is_multiple_of(page()) {
        // The kernel would round up and take what is not the slice's.
        return Err(Errno::INVAL);
    }
    // SAFETY: the pages are borrowed exclusively and any bytes are valid; the
    // kernel refuses an address that is not a page's.
    unsafe { rustix::mm::madvise(pages.as_mut_ptr().cast(), pages.len(), Advice::LinuxDontNeed) }
}

/// The beginning of a file, mapped for reading and never unmapped. Others may
/// write to the file, so it is no slice.
pub(crate) struct Mapped {
    at: *const u8,
    bytes: usize,
}

impl Mapped {
    /// Maps the first `bytes` of `file`, which must be that long.
    pub(crate) fn new(file: &OwnedFd, bytes: usize) -> Result<Self, Errno> {
        let flags = MapFlags::SHARED;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            rustix::mm::mmap(core::ptr::null_mut(), bytes, ProtFlags::READ, flags, file, 0)
        }?;
        Ok(Self { at: at.cast(), bytes })
    }

    /// Reads one byte of each page of the first `bytes`.
    pub(crate) fn touch(&self, bytes: usize) {
        (0..bytes).step_by(page()).for_each(|offset| self.touch_at(offset));
    }

    /// Reads one byte at `offset`, which goes round at the end.
    pub(crate) fn touch_at(&self, offset: usize) {
        if let Some(offset) = offset.checked_rem(self.bytes) {
            // SAFETY: the offset is within the mapping. Volatile, since the
            // file may change and the value does not matter.
            let _ = unsafe { self.at.add(offset).read_volatile() };
        }
    }
}
