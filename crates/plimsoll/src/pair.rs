//! Two processes that bring each other back: each watches the other through a
//! pidfd, whichever of them is the parent, and forks it anew when it ends.

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::sys::{self, Fork};

/// Revivals in a window; whoever kills faster waits for the next one.
const REVIVALS_MAX: u32 = 16;
/// The window, in microseconds.
const REVIVAL_WINDOW_US: u64 = 60_000_000;

/// The other process, and how often one was brought back.
#[derive(Default)]
pub(crate) struct Pair {
    /// It, and the descriptor that tells its end.
    pub(crate) peer: Option<(Pid, OwnedFd)>,
    /// Times one of the two was brought back.
    pub(crate) revivals: u32,
    window_begin_us: u64,
    in_window: u32,
}

impl Pair {
    /// Makes a new peer; in the new process its parent is the peer, and true.
    pub(crate) fn revive(&mut self, now: u64) -> bool {
        if now.saturating_sub(self.window_begin_us) >= REVIVAL_WINDOW_US {
            (self.window_begin_us, self.in_window) = (now, 0);
        }
        if self.in_window >= REVIVALS_MAX {
            return false;
        }
        self.in_window += 1;
        let me = rustix::process::getpid();
        match sys::fork() {
            Ok(Fork::Child) => {
                self.watch(me);
                true
            }
            Ok(Fork::Parent(pid)) => {
                self.watch(pid);
                if self.peer.is_none() {
                    // A kernel without pidfds, or without memory for one: alone
                    // for this window, rather than with peers nobody counts.
                    error!("supervisor: no pidfd, nobody brings it back");
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                    self.in_window = REVIVALS_MAX;
                }
                false
            }
            Err(_) => false,
        }
    }

    fn watch(&mut self, pid: Pid) {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        self.peer = pidfd.ok().map(|fd| (pid, fd));
    }

    /// The peer has ended: says so, and reaps it if it was a child.
    pub(crate) fn lost(&mut self, name: &str) {
        if let Some((pid, _)) = self.peer.take() {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            self.revivals = self.revivals.saturating_add(1);
            warn!(
                "supervisor: the {name} ({}) ended: brought back",
                i64::from(pid.as_raw_nonzero().get())
            );
        }
    }

    /// Has the peer made anew, with what this process knows now.
    pub(crate) fn renew(&mut self) {
        if let Some((pid, pidfd)) = self.peer.take() {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            // Nobody's fault: not one of those that are counted.
            self.in_window = self.in_window.saturating_sub(1);
        }
    }
}
