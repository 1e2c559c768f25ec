//! virtio-mem in the worker: hears in the kernel's log what the host wants, and
//! decides on each block; and in a child, which takes one offline.

use heapless::String;
use plimsoll_core::agent::counters::Counter;
use plimsoll_core::agent::virtio_mem::{
    Meminfo, Shrink, State, Step, Target, heard, highest_block,
};
use plimsoll_core::board::VirtioMem as Policy;
use plimsoll_core::boot::{ONLINE, UNPLUG_ONLINE};
use plimsoll_core::facts::read_text;
use plimsoll_core::kernel::{Errno, Kernel as _, Result};
use plimsoll_core::number::in_radix;
use plimsoll_core::path;
use plimsoll_core::record::cut;
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;

use crate::agent::Report;
use crate::cgroup::Cgroup;
use crate::file::File;
use crate::linux::{Linux, open};
use crate::{start, sys};

/// Longest record of /dev/kmsg, in bytes: CONSOLE_EXT_LOG_MAX of 6.1; later kernels
/// have less.
const RECORD_BYTES_MAX: usize = 8192;
/// Records read before others have their turn: a log of 1 MiB has about so many.
const RECORDS_MAX: usize = 8192;
const BLOCK_BYTES: &str = "/sys/devices/system/memory/block_size_bytes";
/// How long the driver may take to have a block that is offline, in microseconds:
/// 2 s. It begins at once and needs milliseconds; a part of a block it leaves.
const DRIVER_US: u64 = 2_000_000;
/// Between two looks whether it has, in microseconds.
const DRIVER_LOOK_US: u64 = 5_000;
/// From one line about progress to the next, in microseconds: 5 s.
const PROGRESS_US: u64 = 5_000_000;

/// The worker's side.
pub(crate) struct VirtioMem {
    pub(crate) shrink: Shrink,
    policy: Policy,
    kmsg: Option<OwnedFd>,
    /// Whether it was said that there are more devices than are minded.
    too_many: bool,
    /// What was said last of how it stands, and when.
    said: (State, u64),
    /// When the work under way began, and MemTotal then.
    begun: (u64, u64),
}

impl VirtioMem {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            shrink: Shrink::new(policy.min_available),
            policy,
            kmsg: None,
            too_many: false,
            said: (State::Idle, 0),
            begun: (0, 0),
        }
    }

    /// Begins anew in another process, with a place in the log of its own.
    pub(crate) fn forget(&mut self) {
        *self = Self::new(self.policy);
        self.kmsg = open(c"/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK).ok();
    }

    /// Wakes the worker when there is something in the log.
    pub(crate) fn source(&self) -> Option<&OwnedFd> {
        self.kmsg.as_ref()
    }

    pub(crate) fn timeout_us(&self) -> u64 {
        u64::from(self.policy.block_timeout_secs).saturating_mul(1_000_000)
    }

    /// Reads what the log has.
    #[inline(never)]
    pub(crate) fn hear(&mut self) {
        let Some(kmsg) = &self.kmsg else { return };
        let mut record = [0; RECORD_BYTES_MAX];
        let mut new = false;
        for _ in 0..RECORDS_MAX {
            match rustix::io::read(kmsg, &mut record) {
                Ok(read) => {
                    let said = heard(record.get(..read).unwrap_or_default());
                    if let Some((device, size)) = said {
                        new = true;
                        if !self.shrink.hear(device, size) && !self.too_many {
                            self.too_many = true;
                            warn!("virtio-mem: virtio{device} and later ones: too many devices");
                        }
                    }
                }
                // Records were lost, or one is too long: the next one counts.
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::INVAL) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => {
                    self.kmsg = None;
                    break;
                }
            }
        }
        if new {
            self.said = (State::Idle, 0);
            self.prepare();
        }
    }

    /// The driver is there, and its request not acted upon. Loaded after the boot,
    /// it has not been told what to leave alone.
    fn prepare(&mut self) {
        let mut buf = [0; 32];
        for (file, value) in [ONLINE, UNPLUG_ONLINE] {
            let shown = read_text(&mut Linux, file, &mut buf).trim_ascii_end();
            if !shown.is_empty()
                && shown != value
                && let Err(errno) = Linux.write(file, value.as_bytes())
            {
                warn!("virtio-mem: {file}: wanted {value}, {errno}");
            }
        }
        let bytes = in_radix(read_text(&mut Linux, BLOCK_BYTES, &mut buf).trim_ascii_end(), 16);
        self.shrink.block_bytes = bytes.unwrap_or(0);
    }

    /// What is to be done now.
    pub(crate) fn next(&mut self, now: u64) -> Step {
        if now < self.shrink.deadline_us() {
            return Step::Wait;
        }
        let memory = meminfo();
        let step = self.shrink.next(memory, start::page_bytes(), now);
        self.begun = (now, memory.total);
        self.say(now);
        step
    }

    /// A block was tried: which one, if there was any, and whether it went.
    pub(crate) fn ended(&mut self, target: Target, block: Option<u64>, went: bool) {
        let now = sys::now_us();
        let (began, total) = self.begun;
        self.shrink.took(now.saturating_sub(began));
        let fell = went.then(|| total.saturating_sub(meminfo().total));
        self.shrink.tried(target, block, fell, now);
        self.say(now);
    }

    /// How it stands, where that is new.
    fn say(&mut self, now: u64) {
        let state = self.shrink.state();
        let (said, at) = self.said;
        let same = core::mem::discriminant(&said) == core::mem::discriminant(&state);
        let goes_on = state == State::Shrinking && now.saturating_sub(at) >= PROGRESS_US;
        if same && !goes_on {
            return;
        }
        self.said = (state, now);
        let shrink = &self.shrink;
        info!(
            "virtio-mem: {}: {} MiB given back, {} left, {} missing; {} MiB/s, {} s left",
            state.word(),
            mib(shrink.freed()),
            mib(shrink.left()),
            mib(shrink.missing()),
            mib(shrink.rate()),
            shrink.left_secs(),
        );
    }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn meminfo() -> Meminfo {
    let mut buf = [0; 256];
    Meminfo::parse(read_text(&mut Linux, "/proc/meminfo", &mut buf))
}

/// Reclaims memory of QM, in a child: how much comes of it, the next look tells.
pub(crate) fn reclaim(qm_cgroup: &str, bytes: u64) {
    let text: String<24> = cut(format_args!("{bytes}"));
    let _ = Cgroup::open(qm_cgroup).and_then(|qm| qm.write(c"memory.reclaim", text.as_bytes()));
}

/// Takes a block offline, in a child; the driver has it then.
pub(crate) fn offline(target: Target, report: &mut Report) {
    let block = match find(target) {
        Ok(Some(block)) => block,
        Ok(None) => return,
        Err(errno) => return error!("virtio-mem: /proc/iomem: {errno}"),
    };
    report.block = Some(block);
    report.send();
    if let Err(errno) = take_offline(block) {
        report.counters.add(Counter::BlocksRefused, 1);
        warn!("virtio-mem: memory block {block} stays: {errno}");
    } else {
        report.counters.add(Counter::BlocksGiven, 1);
    }
}

fn find(target: Target) -> Result<Option<u64>> {
    let iomem = open(c"/proc/iomem", OFlags::RDONLY)?;
    let Target { device, below, block_bytes } = target;
    highest_block(File(iomem), device, block_bytes, below, |block| is(block, "online"))
        .map_err(|_| Errno::IO)
}

fn state_of(block: u64) -> Result<String<{ plimsoll_core::PATH_MAX }>> {
    path(format_args!("/sys/devices/system/memory/memory{block}/state"))
}

fn is(block: u64, state: &str) -> bool {
    let mut buf = [0; 32];
    state_of(block).is_ok_and(|file| read_text(&mut Linux, &file, &mut buf).trim_ascii() == state)
}

fn take_offline(block: u64) -> Result<()> {
    let file = state_of(block)?;
    // Returns when its memory has moved, or with a signal that ends the process.
    Linux.write(&file, b"offline")?;
    let end_us = sys::now_us().saturating_add(DRIVER_US);
    while is(block, "offline") {
        if sys::now_us() >= end_us {
            // The driver took a part of it, or nothing.
            return Linux.write(&file, ONLINE.1.as_bytes());
        }
        sys::sleep_us(DRIVER_LOOK_US);
    }
    Ok(())
}
