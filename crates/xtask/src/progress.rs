//! What the user sees while something is done: one line per step, with its
//! time, on stderr; a spinner or a bar where a step takes longer.

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A step that ends sooner shows no bar: it would only flicker.
const BAR_AFTER: Duration = Duration::from_secs(2);
/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Where steps are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// On stderr.
    Shown,
    /// Nowhere: scenarios run several guests at once.
    Quiet,
}

impl Steps {
    /// Runs `work` as a step called `what`; its line appears when it is done,
    /// a spinner with the elapsed time after two seconds.
    pub fn run<T>(self, what: impl Display, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self == Self::Quiet {
            return work();
        }
        let start = Instant::now();
        let bar = self.wait(what.to_string());
        let result = work();
        drop(bar);
        let mark = if result.is_ok() { "" } else { "  FAILED" };
        self.line(start.elapsed(), format_args!("{what}{mark}"));
        result
    }

    /// Says something that has no duration.
    pub fn say(self, what: impl Display) {
        if self == Self::Shown {
            eprintln!("{:>9}  {what}", "");
        }
    }

    /// A spinner for something whose end is known elsewhere: it shows itself
    /// after two seconds and vanishes when dropped.
    #[must_use]
    pub fn wait(self, what: impl Into<String>) -> Option<Spinner> {
        let shown = self == Self::Shown && std::io::stderr().is_terminal();
        shown.then(|| Spinner::start(what.into()))
    }

    fn line(self, took: Duration, what: impl Display) {
        eprintln!("{:>9}  {what}", seconds(took));
    }
}

/// A duration as `1.234 s`.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    format!("{}.{:03} s", duration.as_secs(), duration.subsec_millis())
}

/// See [`Steps::wait`].
pub struct Spinner {
    done: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Spinner {
    fn start(what: String) -> Self {
        let (done, wait) = channel();
        let thread = std::thread::spawn(move || {
            if wait.recv_timeout(BAR_AFTER) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_style(ProgressStyle::default_spinner())
                .with_message(what)
                .with_elapsed(BAR_AFTER);
            bar.enable_steady_tick(TICK);
            let _ended = wait.recv();
            bar.finish_and_clear();
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        let _gone = self.done.send(());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
