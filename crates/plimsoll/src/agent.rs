//! The memory agent in the worker: starts a child for each job, one at a time,
//! watches it, and counts what it reports.
//!
//! A child may be held up by the kernel; the worker is not. A second one is
//! never started beside one that is still there, killed or not.

use plimsoll_core::agent::compact::{Conditions, History, Look};
use plimsoll_core::agent::counters::{Counter, Counters, FRAME_BYTES};
use plimsoll_core::agent::psi::{Gate, Stall};
use plimsoll_core::agent::schedule::{Job, Schedule};
use plimsoll_core::agent::settings::{Knob, Settings, SwapKind};
use plimsoll_core::agent::swap::Swap;
use plimsoll_core::agent::virtio_mem::{State, Step, Target};
use plimsoll_core::board;
use plimsoll_core::facts::{mem_total_kib, read_text};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::linux::Linux;
use crate::pressure::{Source, Triggers};
use crate::sys::{self, Fork};
use crate::virtio_mem::{self, VirtioMem};
use crate::{compact, pass, swap};

/// A pass may take a part of its period; one that takes this long besides, in
/// microseconds, hangs.
const MEMCG_US: u64 = 120_000_000;
/// Making swap: 32 GiB at 10 MB/s, in microseconds.
const SWAP_US: u64 = 3_600_000_000;
/// QM's memory is reclaimed for so long at most, and no more often, in
/// microseconds: 10 s.
const SQUEEZE_US: u64 = 10_000_000;
/// How often the pressure is looked at while a compaction runs, in
/// microseconds: it is to be over within 100 ms of the limit. A trigger may
/// wake the worker sooner.
const GUARD_US: u64 = 50_000;
/// What a report says of a compaction, besides the counters.
const EXTRA: usize = 5;
/// A report in a pipe, in bytes; below PIPE_BUF, so that it arrives as one.
const REPORT_BYTES: usize = FRAME_BYTES + EXTRA * 8;

/// The agent.
pub(crate) struct Agent {
    pub(crate) settings: Settings,
    pub(crate) counters: Counters,
    /// How pages are evicted: 0 before the first pass, then [`WAY_LRU_GEN`], or
    /// by memory.reclaim, because of this error number and [`WAY_LRU_GEN`].
    pub(crate) way: u64,
    schedule: Schedule,
    history: History,
    /// The machine's pressure at the last look at fragmentation.
    stall: Option<Stall>,
    swap: Swap,
    pub(crate) virtio_mem: Option<VirtioMem>,
    /// What QM has above a limit that can't fall before it has less.
    pub(crate) squeeze_bytes: u64,
    /// When that may be tried again.
    squeeze_us: u64,
    running: Option<Running>,
}

/// Pages are evicted by commands to MGLRU.
pub(crate) const WAY_LRU_GEN: u64 = 1;

/// A child at work.
struct Running {
    work: Work,
    pid: Pid,
    pidfd: OwnedFd,
    pipe: OwnedFd,
    /// It has closed its end of the pipe, which poll would report until it is
    /// gone: milliseconds, while the kernel takes its mount down.
    silent: bool,
    deadline_us: u64,
    guard: Option<(Gate, Triggers)>,
    killed: bool,
    last: [u64; EXTRA],
    /// Whether it freed memory, or made swap.
    gained: bool,
}

#[derive(Clone, Copy)]
enum Work {
    Loop(Job),
    /// So many bytes of swap.
    Swap(u64),
    /// Reclaim so many bytes of QM.
    Reclaim(u64),
    /// A memory block for the host.
    Offline(Target),
}

/// What a child tells.
pub(crate) struct Report {
    pipe: OwnedFd,
    pub(crate) counters: Counters,
    /// See [`Agent::way`].
    pub(crate) way: u64,
    /// The look after a compaction that came to its end.
    pub(crate) after: Option<Look>,
    /// The memory block that is to go.
    pub(crate) block: Option<u64>,
}

impl Report {
    /// Sends what was counted since the last time.
    pub(crate) fn send(&mut self) {
        let mut bytes = [0; REPORT_BYTES];
        let extra = match self.after {
            None => [self.way, self.block.map_or(0, |block| 1 + block), 0, 0, 0],
            Some(look) => {
                let movable = look.small_movable_pages.unwrap_or(u64::MAX);
                [self.way, 1 + look.order, look.free_pages, look.small_pages, movable]
            }
        };
        if let Some((frame, rest)) = bytes.split_first_chunk_mut::<FRAME_BYTES>() {
            *frame = self.counters.to_frame();
            for (to, word) in rest.chunks_exact_mut(8).zip(extra) {
                to.copy_from_slice(&word.to_le_bytes());
            }
        }
        if rustix::io::write(&self.pipe, &bytes).is_ok() {
            self.counters = Counters::default();
        }
    }
}

fn look_of(extra: [u64; EXTRA]) -> Option<Look> {
    let [_, order, free_pages, small_pages, movable] = extra;
    let small_movable_pages = (movable != u64::MAX).then_some(movable);
    Some(Look { free_pages, order: order.checked_sub(1)?, small_pages, small_movable_pages })
}

impl Agent {
    pub(crate) fn new(settings: Settings, virtio_mem: Option<board::VirtioMem>) -> Self {
        Self {
            settings,
            counters: Counters::default(),
            way: 0,
            schedule: Schedule::new(sys::now_us()),
            history: History::default(),
            stall: Source::Machine.stall(),
            swap: Swap::default(),
            virtio_mem: virtio_mem.map(VirtioMem::new),
            squeeze_bytes: 0,
            squeeze_us: 0,
            running: None,
        }
    }

    /// Another process goes on with this one's memory: the child was not its.
    pub(crate) fn forget_child(&mut self) {
        self.running = None;
        if let Some(virtio_mem) = &mut self.virtio_mem {
            virtio_mem.forget();
        }
    }

    /// The settings were changed; they count at once.
    pub(crate) fn changed(&mut self) {
        self.swap.changed();
    }

    /// Runs a loop as soon as may be; false where there is no such loop.
    pub(crate) fn run_now(&mut self, name: &str) -> bool {
        match name {
            "memcg" => self.schedule.run_memcg_now(),
            "compact" => self.schedule.run_compact_now(),
            _ => return false,
        }
        true
    }

    /// When [`Self::tick`] has something to do; `u64::MAX` is never.
    pub(crate) fn deadline_us(&self, now: u64) -> u64 {
        match &self.running {
            Some(Running { killed: true, .. }) => u64::MAX,
            Some(Running { guard: Some(_), deadline_us, .. }) => {
                (*deadline_us).min(now.saturating_add(GUARD_US))
            }
            Some(Running { work: Work::Loop(_), deadline_us, .. }) => {
                (*deadline_us).min(self.shrink_us())
            }
            Some(running) => running.deadline_us,
            None => {
                let swap = if self.settings.is_on(Knob::GuestSwapEnable) {
                    self.swap.next_us()
                } else {
                    u64::MAX
                };
                self.schedule.deadline_us(&self.settings).min(swap).min(self.shrink_us())
            }
        }
    }

    fn shrink_us(&self) -> u64 {
        self.virtio_mem.as_ref().map_or(u64::MAX, |it| it.shrink.deadline_us())
    }

    /// What wakes the worker before that.
    pub(crate) fn sources<'a>(&'a self, add: &mut dyn FnMut(BorrowedFd<'a>, PollFlags)) {
        if let Some(kmsg) = self.virtio_mem.as_ref().and_then(VirtioMem::source) {
            add(kmsg.as_fd(), PollFlags::IN);
        }
        let Some(running) = &self.running else { return };
        add(running.pidfd.as_fd(), PollFlags::IN);
        if !running.silent {
            add(running.pipe.as_fd(), PollFlags::IN);
        }
        if let Some((_, triggers)) = running.guard.as_ref().filter(|_| !running.killed) {
            for trigger in triggers.descriptors() {
                add(trigger.as_fd(), PollFlags::PRI);
            }
        }
    }

    /// Minds the child, or starts the next one. Whether swap was made.
    pub(crate) fn tick(&mut self, qm_cgroup: &str) -> bool {
        if let Some(virtio_mem) = &mut self.virtio_mem {
            virtio_mem.hear();
        }
        let now = sys::now_us();
        if let Some(mut running) = self.running.take() {
            self.read_reports(&mut running);
            if !self.has_ended(&running) {
                self.guard(&mut running, now);
                self.running = Some(running);
                return false;
            }
            // What it said last may have come since.
            self.read_reports(&mut running);
            return self.ended(&running, now);
        }
        let Some(work) = self.next(now) else { return false };
        self.start(work, qm_cgroup, now);
        false
    }

    fn next(&mut self, now: u64) -> Option<Work> {
        match self.virtio_mem.as_mut().map_or(Step::Wait, |it| it.next(now)) {
            Step::Wait => {}
            Step::Reclaim(bytes) => return Some(Work::Reclaim(bytes)),
            Step::Offline(target) => return Some(Work::Offline(target)),
        }
        if self.squeeze_bytes > 0 && now >= self.squeeze_us {
            self.squeeze_us = now.saturating_add(SQUEEZE_US);
            return Some(Work::Reclaim(self.squeeze_bytes));
        }
        if let Some(job) = self.schedule.next(&self.settings, now) {
            return Some(Work::Loop(job));
        }
        if !self.settings.is_on(Knob::GuestSwapEnable) || now < self.swap.next_us() {
            return None;
        }
        let present = swap::present().ok();
        let percent = self.settings.get(Knob::GuestSwapSizePercent);
        let threshold_secs = self.settings.get(Knob::GuestSwapCreateThresholdSecs);
        self.swap.tick(now, mem_total_bytes(), present, percent, threshold_secs).map(Work::Swap)
    }

    fn start(&mut self, work: Work, qm_cgroup: &str, now: u64) {
        let (limit_us, guard) = match work {
            Work::Loop(Job::Memcg { .. }) => {
                let rules = self.settings.rules().filter(|rule| !rule.disable);
                let longest = rules.map(|rule| rule.period_secs).max().unwrap_or(0);
                (longest.saturating_mul(1_000_000).saturating_add(MEMCG_US), None)
            }
            Work::Loop(Job::Compact { forced }) => {
                let stall = Source::Machine.stall();
                let limit = self.settings.get(Knob::CompactPeriodPsiPercentLimit);
                let before = core::mem::replace(&mut self.stall, stall);
                if !forced
                    && let (Some(stall), Some(before)) = (stall, before)
                    && stall.exceeds(before, limit)
                {
                    self.counters.add(Counter::CompactPeriodPressure, 1);
                    return self.history.passed_without();
                }
                let limit = self.settings.get(Knob::CompactPsiPercentLimit);
                let guard = stall
                    .map(|stall| (Gate::new(limit, stall), Triggers::new(Source::Machine, limit)));
                (self.settings.get(Knob::CompactSecMax).saturating_mul(1_000_000), guard)
            }
            Work::Swap(_) => (SWAP_US, None),
            Work::Reclaim(_) => (SQUEEZE_US, None),
            Work::Offline(_) => (self.virtio_mem.as_ref().map_or(0, VirtioMem::timeout_us), None),
        };
        match self.spawn(work, qm_cgroup) {
            Ok((pid, pidfd, pipe)) => {
                let deadline_us = now.saturating_add(limit_us);
                self.running = Some(Running {
                    work,
                    pid,
                    pidfd,
                    pipe,
                    silent: false,
                    deadline_us,
                    guard,
                    killed: false,
                    last: [0; EXTRA],
                    gained: false,
                });
            }
            Err(error) => {
                self.counters.add(Counter::ErrorJob, 1);
                error!("agent: no child (error {})", i64::from(error.raw_os_error()));
                match work {
                    Work::Swap(_) => self.swap.made(now, false),
                    Work::Offline(_) => {
                        self.virtio_mem.iter_mut().for_each(|it| it.shrink.not_begun(now));
                    }
                    Work::Loop(_) | Work::Reclaim(_) => {}
                }
            }
        }
    }

    fn spawn(&self, work: Work, qm_cgroup: &str) -> rustix::io::Result<(Pid, OwnedFd, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK)?;
        match sys::fork() {
            Ok(Fork::Child) => {
                // Nobody would watch it any more.
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                let counters = Counters::default();
                let (way, after, block) = (self.way, None, None);
                let mut report = Report { pipe: write, counters, way, after, block };
                self.work(work, qm_cgroup, &mut report);
                report.send();
                sys::exit(0)
            }
            Ok(Fork::Parent(pid)) => match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => Ok((pid, pidfd, read)),
                Err(error) => {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                    Err(error)
                }
            },
            Err(error) => Err(rustix::io::Errno::from_raw_os_error(error.into_raw())),
        }
    }

    /// In the child.
    fn work(&self, work: Work, qm_cgroup: &str, report: &mut Report) {
        let settings = &self.settings;
        match work {
            Work::Loop(Job::Memcg { rules, forced }) => {
                pass::run(pass::Order { settings, qm_cgroup, rules, forced }, report);
            }
            Work::Loop(Job::Compact { forced }) => {
                compact::run(&Conditions::of(settings), &self.history, forced, report);
            }
            Work::Reclaim(bytes) => virtio_mem::reclaim(qm_cgroup, bytes),
            Work::Offline(target) => virtio_mem::offline(target, report),
            Work::Swap(bytes) => {
                let made = match settings.swap_kind() {
                    SwapKind::File => swap::file(bytes, settings.swap_path()),
                    SwapKind::Zram => swap::zram(bytes, settings.swap_algorithm()),
                };
                match made {
                    Ok(()) => report.counters.add(Counter::SwapMadeBytes, bytes),
                    Err((step, errno)) => {
                        report.counters.add(Counter::SwapFailed, 1);
                        error!("swap: {bytes} bytes not made: {}: {errno}", step.words());
                    }
                }
            }
        }
    }

    fn read_reports(&mut self, running: &mut Running) {
        let mut bytes = [0; REPORT_BYTES];
        loop {
            match rustix::io::read(&running.pipe, &mut bytes) {
                Ok(REPORT_BYTES) => {}
                read => {
                    running.silent = read == Ok(0);
                    return;
                }
            }
            let Some((frame, extra)) = bytes.split_first_chunk::<FRAME_BYTES>() else { return };
            let counters = Counters::from_frame(frame);
            let gains = [Counter::MemcgEvictedPages, Counter::SwapMadeBytes, Counter::BlocksGiven];
            running.gained |= gains.iter().any(|gain| counters.get(*gain) > 0);
            self.counters.merge(&counters);
            for (word, bytes) in running.last.iter_mut().zip(extra.chunks_exact(8)) {
                *word = bytes.try_into().map_or(0, u64::from_le_bytes);
            }
        }
    }

    /// Whether the child is gone, and reaps it.
    fn has_ended(&mut self, running: &Running) -> bool {
        match rustix::process::waitpid(Some(running.pid), WaitOptions::NOHANG) {
            Ok(None) => false,
            Ok(Some((_, status))) => {
                if !running.killed && status.exit_status() != Some(0) {
                    self.counters.add(Counter::ErrorJob, 1);
                }
                true
            }
            // Reaped by somebody else: it is gone as well.
            Err(_) => true,
        }
    }

    /// Ends a child that goes on too long, or while pressure is too high.
    fn guard(&mut self, running: &mut Running, now: u64) {
        if running.killed {
            return;
        }
        let pressed = match (&mut running.guard, Source::Machine) {
            (Some((gate, _)), machine) => machine.stall().is_some_and(|stall| gate.trips(stall)),
            (None, _) => false,
        };
        let late = now >= running.deadline_us;
        // The host waits; the loop has its next period.
        let shrink = self.virtio_mem.as_mut().filter(|_| matches!(running.work, Work::Loop(_)));
        let gives_way = shrink.is_some_and(|it| {
            it.next(now);
            it.shrink.state() == State::Shrinking
        });
        if !pressed && !late && !gives_way {
            return;
        }
        running.killed = true;
        let _ = rustix::process::pidfd_send_signal(&running.pidfd, Signal::KILL);
        if gives_way {
            return;
        }
        let reason = match running.work {
            Work::Loop(Job::Compact { .. }) if pressed => Counter::CompactAbortedPressure,
            Work::Loop(Job::Compact { .. }) => Counter::CompactAbortedTime,
            Work::Offline(_) => Counter::BlocksRefused,
            _ => Counter::ErrorJob,
        };
        self.counters.add(reason, 1);
    }

    fn ended(&mut self, running: &Running, now: u64) -> bool {
        match running.work {
            Work::Loop(Job::Memcg { .. }) => {
                let [way, ..] = running.last;
                self.way = way;
                if running.gained {
                    self.schedule.freed();
                }
                false
            }
            Work::Loop(Job::Compact { .. }) => {
                match look_of(running.last) {
                    Some(after) => self.history.compacted(after),
                    None => self.history.passed_without(),
                }
                false
            }
            Work::Swap(_) => {
                self.swap.made(now, running.gained);
                if running.gained
                    && let Some(virtio_mem) = &mut self.virtio_mem
                {
                    virtio_mem.shrink.reclaim_again();
                }
                running.gained
            }
            Work::Reclaim(_) => false,
            Work::Offline(target) => {
                let [_, block, ..] = running.last;
                if let Some(virtio_mem) = &mut self.virtio_mem {
                    virtio_mem.ended(target, block.checked_sub(1), running.gained);
                }
                false
            }
        }
    }
}

fn mem_total_bytes() -> u64 {
    let mut buf = [0; 256];
    let text = read_text(&mut Linux, "/proc/meminfo", &mut buf);
    mem_total_kib(text).unwrap_or(0).saturating_mul(1024)
}
