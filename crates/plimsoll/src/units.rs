//! systemd's units from the outside: asked through systemctl, one question at a
//! time, each with a deadline; and what their cgroups do is heard at once.

use core::ffi::CStr;

use plimsoll_core::facts::read_text;
use plimsoll_core::systemd::{Text, split};
use plimsoll_core::watch::Watch;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::linux::{Linux, c_path};
use crate::sys::{self, Fork};

/// Where it may be.
const SYSTEMCTL: [&CStr; 2] = [c"/usr/bin/systemctl", c"/bin/systemctl"];
/// Exit status where it is in neither place, as a shell has it.
const NOT_EXECUTED: u8 = 127;
/// How long an answer may take, in microseconds: 5 s. QM is behind its fence
/// meanwhile; a manager that is slower than this is starting units.
pub(crate) const ANSWER_US: u64 = 5_000_000;
const DAEMON_RELOAD: &str = "systemctl\0daemon-reload\0--no-ask-password\0";
/// How long reading all units anew may take, in microseconds: 30 s, as it runs
/// the generators.
const RELOAD_US: u64 = 30_000_000;
/// Between two looks whether it is done, in microseconds.
const RELOAD_LOOK_US: u64 = 10_000;
/// From systemd's answer to what it has written, in microseconds: 100 ms. It
/// answers first.
const SETTLE_US: u64 = 100_000;

/// What the worker has to do with them.
pub(crate) struct Units {
    notify: Option<OwnedFd>,
    question: Option<Child>,
}

/// A systemctl at work, or another child with a deadline.
pub(crate) struct Child {
    name: &'static str,
    pid: Pid,
    /// What wakes the worker at its end; without it that waits for the next look.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) deadline_us: u64,
    pub(crate) killed: bool,
}

impl Units {
    pub(crate) fn new() -> Self {
        Self { notify: None, question: None }
    }

    /// Another process goes on with this one's memory: the child was not its.
    pub(crate) fn forget_child(&mut self) {
        self.question = None;
    }

    /// Listens for new cgroups beside QM's unit's, and for the first process in
    /// it. A cgroup that went takes what was asked here along, so this is asked
    /// again and again.
    pub(crate) fn listen(&mut self, cgroup: &str) {
        if self.notify.is_none() {
            self.notify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        }
        let Some(notify) = &self.notify else { return };
        for (dir, file, flags) in [
            (split(cgroup).0, "/.", WatchFlags::CREATE),
            (cgroup, "/cgroup.events", WatchFlags::MODIFY),
        ] {
            if let Ok(path) = Text::of("/sys/fs/cgroup%%", &[dir, file]).get().and_then(c_path) {
                let _ = inotify::add_watch(notify, &*path, flags);
            }
        }
    }

    /// Whether a cgroup was made or has begun or ended.
    pub(crate) fn heard(&self) -> bool {
        // Room for some events with a name; which they are makes no difference.
        let mut events = [0; 1024];
        self.notify
            .as_ref()
            .is_some_and(|notify| rustix::io::read(notify, &mut events).is_ok_and(|read| read > 0))
    }

    /// Minds the child, or asks the next question. When there is an answer: when
    /// to look at what came of it.
    pub(crate) fn tick(&mut self, watch: &mut Watch<'_>, now: u64) -> Option<u64> {
        let Some(child) = &mut self.question else {
            let question = watch.ask(now)?;
            self.question = Child::start(&question, ANSWER_US);
            if self.question.is_some() {
                return None;
            }
            watch.answered(false);
            return Some(now);
        };
        let late = child.killed;
        match child.end(now) {
            None if late && watch.ask(now).is_some() => watch.answered(false),
            None => return None,
            // It is there until the kernel lets it go, and no other before.
            Some(false) if child.killed && !late => watch.answered(false),
            Some(done) => {
                self.question = None;
                if late {
                    return None;
                }
                watch.answered(done);
            }
        }
        Some(now.saturating_add(SETTLE_US))
    }

    /// When [`Self::tick`] has something to do besides what [`Self::sources`]
    /// tells.
    pub(crate) fn deadline_us(&self) -> u64 {
        match &self.question {
            Some(child) if !child.killed => child.deadline_us,
            _ => u64::MAX,
        }
    }

    /// What wakes the worker before that.
    pub(crate) fn sources<'a>(&'a self, add: &mut dyn FnMut(BorrowedFd<'a>)) {
        if let Some(Child { pidfd: Some(pidfd), .. }) = &self.question {
            add(pidfd.as_fd());
        }
        if let Some(notify) = &self.notify {
            add(notify.as_fd());
        }
    }
}

/// Whether systemd is PID 1.
pub(crate) fn systemd_runs() -> bool {
    let mut buf = [0; 16];
    read_text(&mut Linux, "/proc/1/comm", &mut buf) == "systemd\n"
}

/// Has systemd read the drop-ins, where it runs already.
pub(crate) fn reload() {
    if !systemd_runs() {
        return;
    }
    let child = Child::start(&Text::of(DAEMON_RELOAD, &[]), RELOAD_US);
    let Some(mut child) = child else { return };
    while child.end(sys::now_us()).is_none() {
        sys::sleep_us(RELOAD_LOOK_US);
    }
}

impl Child {
    /// Runs a command whose words end with a NUL each.
    pub(crate) fn start(command: &Text, limit_us: u64) -> Option<Self> {
        Self::run("systemctl", limit_us, &mut || {
            for program in SYSTEMCTL {
                let _ = sys::exec_text(program, command.get().unwrap_or_default());
            }
            NOT_EXECUTED
        })
    }

    /// Has a child do some work; what it returns is its exit status.
    pub(crate) fn run(
        name: &'static str,
        limit_us: u64,
        work: &mut dyn FnMut() -> u8,
    ) -> Option<Self> {
        match sys::fork() {
            Ok(Fork::Child) => {
                // Nobody would watch it any more.
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                sys::block(&[]);
                sys::exit(work())
            }
            Ok(Fork::Parent(pid)) => {
                let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
                let deadline_us = sys::now_us().saturating_add(limit_us);
                Some(Self { name, pid, pidfd, deadline_us, killed: false })
            }
            Err(_) => {
                error!("{name}: no child");
                None
            }
        }
    }

    /// Whether it did what it was asked, if it has ended; past its deadline it
    /// is killed, and has not.
    pub(crate) fn end(&mut self, now: u64) -> Option<bool> {
        let status = match rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(None) if !self.killed && now >= self.deadline_us => {
                self.killed = true;
                let _ = rustix::process::kill_process(self.pid, Signal::KILL);
                error!("{}: no answer in time, killed", self.name);
                return Some(false);
            }
            Ok(None) => return None,
            Ok(Some((_, status))) => status.exit_status(),
            // Reaped by somebody else: it is gone as well.
            Err(_) => None,
        };
        if let Some(status) = status.filter(|status| *status != 0) {
            error!("{}: status {}", self.name, i64::from(status));
        }
        Some(status == Some(0))
    }
}
