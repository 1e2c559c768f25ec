//! What this machine is: memory, page size, cgroup controllers, kernel.

use heapless::String;

use crate::kernel::Kernel;
use crate::limit::Memory;
use crate::number::decimal;
use crate::split::lines;

/// Where cgroup2 is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// What the plan depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// MemTotal and page size: what a percentage is taken of.
    pub memory: Memory,
    /// Controllers that the root cgroup offers; all false without cgroup2.
    pub controllers: Controllers,
    /// Release of the running kernel, as in /lib/modules.
    pub release: String<64>,
}

/// The cgroup2 controllers plimsoll uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controllers {
    /// memory.*
    pub memory: bool,
    /// pids.*
    pub pids: bool,
    /// cpu.*
    pub cpu: bool,
}

impl Controllers {
    /// Reads the text of cgroup.controllers or cgroup.subtree_control.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let has = |name| text.split_ascii_whitespace().any(|word| word == name);
        Self { memory: has("memory"), pids: has("pids"), cpu: has("cpu") }
    }
}

impl Facts {
    /// Reads them. What can't be read is absent: no memory (then no percentage
    /// can be had), no controller.
    pub fn gather<K: Kernel>(kernel: &mut K) -> Self {
        let memory = memory(kernel);
        let mut buf = [0; 512];
        let controllers =
            Controllers::parse(read_text(kernel, "/sys/fs/cgroup/cgroup.controllers", &mut buf));
        let mut release = String::new();
        let _ = release
            .push_str(read_text(kernel, "/proc/sys/kernel/osrelease", &mut buf).trim_ascii());
        Self { memory, controllers, release }
    }
}

/// Reads what a percentage is taken of.
pub fn memory<K: Kernel>(kernel: &mut K) -> Memory {
    let mut buf = [0; 512];
    let page_bytes = kernel.page_size();
    let total_kib = mem_total_kib(read_text(kernel, "/proc/meminfo", &mut buf)).unwrap_or(0);
    let mut total_pages = total_kib.saturating_mul(1024).checked_div(page_bytes).unwrap_or(0);
    // A root with a limit of its own is a container's: systemd takes the
    // percentage of that (physical_memory() in limits-util.c).
    let limit = read_text(kernel, "/sys/fs/cgroup/memory.max", &mut buf).trim_ascii();
    if let Some(limit) = decimal(limit) {
        total_pages = total_pages.min(limit.checked_div(page_bytes).unwrap_or(0));
    }
    Memory { total_pages, page_bytes }
}

/// The beginning of a file as text, as much of it as fits and is UTF-8; empty
/// where it can't be read.
pub fn read_text<'b, K: Kernel>(kernel: &mut K, path: &str, buf: &'b mut [u8]) -> &'b str {
    let read = kernel.read_at(path, 0, buf).unwrap_or(0);
    let bytes = buf.get(..read).unwrap_or_default();
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => bytes
            .get(..error.valid_up_to())
            .and_then(|valid| core::str::from_utf8(valid).ok())
            .unwrap_or_default(),
    }
}

/// MemTotal out of /proc/meminfo, in KiB.
#[must_use]
pub fn mem_total_kib(meminfo: &str) -> Option<u64> {
    meminfo_kib(meminfo, "MemTotal:")
}

/// A line of /proc/meminfo, in KiB.
#[must_use]
pub fn meminfo_kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = lines(meminfo).find_map(|line| line.strip_prefix(name))?;
    decimal(line.split_ascii_whitespace().next()?)
}

/// The value of `key=` on the kernel's command line, the last one if repeated
/// (as the kernel has it). Values in quotes are not understood.
#[must_use]
pub fn cmdline_value<'t>(cmdline: &'t str, key: &str) -> Option<&'t str> {
    cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .next_back()
}
