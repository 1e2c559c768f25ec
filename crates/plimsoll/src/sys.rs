//! The system calls that rustix does not offer without libc.
//!
//! One of the two files that may hold unsafe code (the other is `start.rs`).
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::process::Pid;
use syscalls::{Errno, Sysno, syscall};

use crate::start::{self, Start};

/// SIGCHLD: a child ended.
pub(crate) const SIGCHLD: u32 = 17;
/// SIGTERM: busybox reboot.
pub(crate) const SIGTERM: u32 = 15;
/// SIGINT: Ctrl-Alt-Del, where the kernel hands it to PID 1.
pub(crate) const SIGINT: u32 = 2;
/// SIGUSR1: busybox halt.
pub(crate) const SIGUSR1: u32 = 10;
/// SIGUSR2: busybox poweroff.
pub(crate) const SIGUSR2: u32 = 12;
/// SIGPIPE: a peer hung up; writing to it gives EPIPE as well.
pub(crate) const SIGPIPE: u32 = 13;
/// SIGKILL: cannot be held back.
pub(crate) const SIGKILL: u32 = 9;
/// SIGHUP: a terminal went away.
pub(crate) const SIGHUP: u32 = 1;
/// What a fault in the program's own code gives: SIGILL, SIGBUS, SIGFPE, SIGSEGV.
const FAULTS: [u32; 4] = [4, 7, 8, 11];

/// A file descriptor number nobody has: the working directory, for execveat.
const AT_EMPTY_PATH: usize = 0x1000;
const SFD_CLOEXEC_NONBLOCK: usize = 0o2_004_000;
const CLOCK_BOOTTIME: usize = 7;
const CLOCK_MONOTONIC: usize = 1;
/// Size of the kernel's signal set, in bytes.
const SIGSET_BYTES: usize = 8;

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's PID.
    Parent(Pid),
}

/// fork(2).
pub(crate) fn fork() -> Result<Fork, Errno> {
    // SAFETY: no flags but the signal at exit: a copy of the process, with the
    // stack's copy at the same address. There are no threads, and so no lock
    // that another thread could hold in the copy.
    let pid = unsafe { syscall!(Sysno::clone, SIGCHLD, 0, 0, 0, 0) }?;
    Ok(match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        None => Fork::Child,
        Some(pid) => Fork::Parent(pid),
    })
}

/// Ends the process.
pub(crate) fn exit(status: u8) -> ! {
    loop {
        // SAFETY: exit_group takes a number and does not return.
        let _ = unsafe { syscall!(Sysno::exit_group, usize::from(status)) };
    }
}

/// Words of a command, the null pointer at the end included.
const WORDS_MAX: usize = 32;

/// An argument vector: the words that fit, and at least one null pointer.
fn pointers(words: &[&CStr]) -> [*const c_char; WORDS_MAX] {
    let mut argv = [core::ptr::null(); WORDS_MAX];
    for (slot, word) in argv.iter_mut().take(WORDS_MAX - 1).zip(words) {
        *slot = word.as_ptr();
    }
    argv
}

/// execve(2) with the environment of `start`. Returns only an error.
pub(crate) fn exec(start: Start, path: &CStr, words: &[&CStr]) -> Errno {
    execve(path, pointers(words).as_ptr(), start.envp())
}

/// Becomes the next init: argv[0] is its path, as the kernel would have it; all
/// the other arguments and the environment are those that the kernel gave.
/// Returns only an error.
pub(crate) fn exec_init(start: Start, path: &CStr) -> Errno {
    if start.argc() == 0 {
        return exec(start, path, &[path]);
    }
    let argv = start.argv().cast_mut();
    // SAFETY: argc is at least 1, so the first slot is one of argv's; the
    // stack is writable.
    let old = unsafe { argv.replace(path.as_ptr()) };
    let errno = execve(path, argv, start.envp());
    // SAFETY: as above.
    unsafe { argv.write(old) };
    errno
}

fn execve(path: &CStr, argv: *const *const c_char, envp: *const *const c_char) -> Errno {
    // SAFETY: path is a C string; argv and envp end with a null pointer.
    match unsafe { syscall!(Sysno::execve, path.as_ptr(), argv, envp) } {
        Ok(_) => Errno::EIO,
        Err(errno) => errno,
    }
}

/// Executes the file behind a descriptor, with an empty environment. Returns
/// only an error.
pub(crate) fn exec_fd(fd: BorrowedFd<'_>, words: &[&CStr]) -> Errno {
    let (argv, envp) = (pointers(words), [core::ptr::null::<c_char>()]);
    let fd = fd.as_raw_fd();
    // SAFETY: the path is an empty C string, argv and envp end with a null
    // pointer, and all of them outlive the call.
    let done = unsafe {
        syscall!(Sysno::execveat, fd, c"".as_ptr(), argv.as_ptr(), envp.as_ptr(), AT_EMPTY_PATH)
    };
    done.err().unwrap_or(Errno::EIO)
}

/// Executes this very program again, with an empty environment. Returns only
/// an error.
pub(crate) fn exec_self(words: &[&CStr]) -> Errno {
    execve(c"/proc/self/exe", pointers(words).as_ptr(), [core::ptr::null()].as_ptr())
}

/// Executes a program with an empty environment and the words of a text, each
/// of which must end with a NUL. Returns only an error.
pub(crate) fn exec_text(path: &CStr, text: &str) -> Errno {
    let mut argv = [core::ptr::null(); WORDS_MAX];
    if text.ends_with('\0') {
        let words = text.as_bytes().split_inclusive(|byte| *byte == 0);
        for (slot, word) in argv.iter_mut().take(WORDS_MAX - 1).zip(words) {
            *slot = word.as_ptr().cast();
        }
    }
    execve(path, argv.as_ptr(), [core::ptr::null()].as_ptr())
}

/// Takes over a descriptor that was handed on across exec; above the standard
/// three, which are never handed on.
pub(crate) fn adopt(fd: i32) -> Option<OwnedFd> {
    // SAFETY: whoever executed this program named it as ours to close, and
    // nothing else here was opened yet.
    (fd > 2).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// swapon(2).
pub(crate) fn swapon(path: &CStr, flags: u32) -> Result<(), Errno> {
    // SAFETY: path is a C string; the kernel reads it and a number.
    unsafe { syscall!(Sysno::swapon, path.as_ptr(), flags) }.map(|_| ())
}

/// swapoff(2).
pub(crate) fn swapoff(path: &CStr) -> Result<(), Errno> {
    // SAFETY: path is a C string; the kernel reads it.
    unsafe { syscall!(Sysno::swapoff, path.as_ptr()) }.map(|_| ())
}

/// Another policy and priority for the calling process; the load generator's.
#[allow(dead_code)]
pub(crate) fn set_scheduler(policy: u32, priority: i32) -> Result<(), Errno> {
    // SAFETY: the kernel reads one `sched_param`, which is one int.
    unsafe { syscall!(Sysno::sched_setscheduler, 0, policy, core::ptr::from_ref(&priority)) }
        .map(|_| ())
}

/// Sends a signal to every process but PID 1 and this one.
pub(crate) fn kill_all(signal: u32) {
    // SAFETY: kill takes two numbers.
    let _ = unsafe { syscall!(Sysno::kill, -1_isize, signal) };
}

/// Time since the kernel started, suspend included, in microseconds.
pub(crate) fn now_us() -> u64 {
    let mut time = [0_u64; 2];
    for clock in [CLOCK_BOOTTIME, CLOCK_MONOTONIC] {
        // SAFETY: the kernel writes two 64-bit words into `time`.
        if unsafe { syscall!(Sysno::clock_gettime, clock, time.as_mut_ptr()) }.is_ok() {
            break;
        }
    }
    let [secs, nanos] = time;
    secs.saturating_mul(1_000_000).saturating_add(nanos / 1000)
}

/// Sleeps; a signal ends it early.
#[inline(never)]
pub(crate) fn sleep_us(us: u64) {
    let time = [us / 1_000_000, us % 1_000_000 * 1000];
    // SAFETY: the kernel reads two 64-bit words.
    let _ = unsafe { syscall!(Sysno::nanosleep, time.as_ptr(), 0) };
}

/// Blocks exactly the signals named.
pub(crate) fn block(signals: &[u32]) {
    let set = set_of(signals);
    // SAFETY: 2 is SIG_SETMASK; the kernel reads one 64-bit word.
    let _ =
        unsafe { syscall!(Sysno::rt_sigprocmask, 2, core::ptr::from_ref(&set), 0, SIGSET_BYTES) };
}

/// A descriptor that delivers the signals named, which must be blocked.
pub(crate) fn signal_fd(signals: &[u32]) -> Result<OwnedFd, Errno> {
    let set = set_of(signals);
    // SAFETY: -1 asks for a new descriptor; the kernel reads one 64-bit word.
    let fd = unsafe {
        syscall!(
            Sysno::signalfd4,
            -1_isize,
            core::ptr::from_ref(&set),
            SIGSET_BYTES,
            SFD_CLOEXEC_NONBLOCK
        )
    }?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_of(signals: &[u32]) -> u64 {
    signals.iter().fold(0, |set, signal| set | 1 << (signal - 1))
}

/// What rt_sigaction takes.
#[repr(C)]
struct SigAction {
    handler: usize,
    flags: usize,
    #[cfg(target_arch = "x86_64")]
    restorer: usize,
    mask: u64,
}

/// SA_NODEFER: a fault in the handler comes again instead of being held back.
const SA_NODEFER: usize = 0x4000_0000;
/// SA_RESTORER: x86_64 takes no handler without one.
#[cfg(target_arch = "x86_64")]
const SA_RESTORER: usize = 0x0400_0000;

/// Has `handler` called on a fault in the program's own code. It must not
/// return.
pub(crate) fn on_fault(handler: extern "C" fn(i32) -> !) {
    let handler = handler as *const () as usize;
    let action = SigAction {
        handler,
        #[cfg(target_arch = "x86_64")]
        flags: SA_NODEFER | SA_RESTORER,
        #[cfg(not(target_arch = "x86_64"))]
        flags: SA_NODEFER,
        // Never used, since the handler does not return.
        #[cfg(target_arch = "x86_64")]
        restorer: handler,
        mask: 0,
    };
    for signal in FAULTS {
        // SAFETY: the kernel reads one SigAction, laid out as it expects; the
        // handler is a function that lives as long as the process.
        let _ = unsafe {
            syscall!(Sysno::rt_sigaction, signal, core::ptr::from_ref(&action), 0, SIGSET_BYTES)
        };
    }
}

/// How far below the caller's frame the stack may have been used, in bytes.
const STACK_BYTES: usize = 512 << 10;
/// MADV_DONTNEED: the memory goes back, and is zero when it is touched again.
const MADV_DONTNEED: usize = 4;

/// Gives back the stack below the caller's frame, which a process otherwise
/// keeps from the deepest call it ever made.
#[inline(never)]
pub(crate) fn give_back_stack() {
    let here = 0_u8;
    let page = usize::try_from(start::page_bytes()).unwrap_or(0);
    // A page further down than this frame: that is more than the rest of it, and
    // than the 128 bytes below that x86_64 lets a leaf use.
    let frame = core::ptr::from_ref(&here).addr();
    let end = frame.saturating_sub(page) & page.wrapping_neg();
    let begin = end.saturating_sub(STACK_BYTES);
    // SAFETY: what is below the frame of the function that runs is nobody's;
    // the kernel keeps a mebibyte below the stack free of other mappings.
    let _ = unsafe { syscall!(Sysno::madvise, begin, end - begin, MADV_DONTNEED) };
}

/// A large buffer outside of the stack, handed out once.
pub(crate) struct Once<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `take` hands the value out to one caller only.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    /// Not yet taken.
    pub(crate) const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// The value; `None` from the second call on.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn take(&'static self) -> Option<&'static mut T> {
        if self.taken.swap(true, Ordering::Relaxed) {
            return None;
        }
        // SAFETY: the flag was false, so no other reference exists.
        Some(unsafe { &mut *self.value.get() })
    }
}

/// Standard output.
// SAFETY: descriptor 1 is the caller's for the process's whole life; where it
// is closed, a write fails.
pub(crate) const STDOUT: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(1) };
/// Standard error.
// SAFETY: as for descriptor 1.
pub(crate) const STDERR: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(2) };
