//! The first instructions, and the memory functions that the compiler calls.
//!
//! One of the two files that may hold unsafe code (the other is `sys.rs`).
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicUsize, Ordering};

cfg_if::cfg_if! {
    if #[cfg(target_arch = "x86_64")] {
        // The kernel enters with the stack pointer at argc and everything else
        // undefined. A zero frame pointer ends backtraces.
        global_asm!(
            ".globl _start",
            "_start:",
            "xor %ebp, %ebp",
            "mov %rsp, %rdi",
            "and $-16, %rsp",
            "call {entry}",
            "ud2",
            entry = sym entry,
            options(att_syntax)
        );
    } else if #[cfg(target_arch = "aarch64")] {
        global_asm!(
            ".globl _start",
            "_start:",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, sp",
            "bl {entry}",
            "udf #0",
            entry = sym entry
        );
    } else {
        compile_error!("plimsoll runs on x86_64 and aarch64");
    }
}

/// What the kernel put on the stack: argc, then argv and the environment, each
/// ended by a null pointer. It stays there as long as the process lives.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    stack: *const usize,
}

impl Start {
    /// Number of arguments.
    pub(crate) fn argc(self) -> usize {
        // SAFETY: the kernel puts argc at the stack pointer of `_start`.
        unsafe { self.stack.read() }
    }

    /// The argument vector, ended by a null pointer.
    pub(crate) fn argv(self) -> *const *const c_char {
        // SAFETY: argv follows argc.
        unsafe { self.stack.add(1) }.cast()
    }

    /// The environment, ended by a null pointer.
    pub(crate) fn envp(self) -> *const *const c_char {
        // SAFETY: the environment follows argv and its null pointer.
        unsafe { self.stack.add(2 + self.argc()) }.cast()
    }

    /// Argument `n`, if there is one and it is UTF-8.
    pub(crate) fn arg(self, n: usize) -> Option<&'static str> {
        if n >= self.argc() {
            return None;
        }
        // SAFETY: n is below argc, so the slot is one of argv's.
        let arg = unsafe { self.argv().add(n).read() };
        // SAFETY: the kernel ends each argument with a NUL; they are never unmapped.
        unsafe { CStr::from_ptr(arg) }.to_str().ok()
    }
}

/// Bytes in a page, as the kernel's auxiliary vector has it: 4096 until
/// [`entry`] has looked.
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);

/// Bytes in a page of the running kernel; never 0, so that dividing by it can't
/// panic.
pub(crate) fn page_bytes() -> u64 {
    PAGE_BYTES.load(Ordering::Relaxed).max(1) as u64
}

/// AT_PAGESZ: the key of the page size.
const AT_PAGESZ: usize = 6;

/// Finds the page size in the auxiliary vector, which follows the environment.
fn read_page_bytes(start: Start) {
    let mut at = start.envp().cast::<usize>();
    // SAFETY: the environment ends with a null pointer, which is 0.
    while unsafe { at.read() } != 0 {
        // SAFETY: the slot was not the last one.
        at = unsafe { at.add(1) };
    }
    // SAFETY: pairs of key and value follow, ended by the key 0.
    at = unsafe { at.add(1) };
    loop {
        // SAFETY: at is the key of a pair, at most the last one's.
        let (key, value) = unsafe { (at.read(), at.add(1).read()) };
        match key {
            0 => return,
            AT_PAGESZ => return PAGE_BYTES.store(value, Ordering::Relaxed),
            // SAFETY: the pair was not the last one.
            _ => at = unsafe { at.add(2) },
        }
    }
}

/// Where `_start` goes on.
extern "C" fn entry(stack: *const usize) -> ! {
    let start = Start { stack };
    read_page_bytes(start);
    crate::main(start)
}

/// Copies `n` bytes.
///
/// # Safety
/// As C's memcpy.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memcpy(dest: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller's regions are valid for n bytes; the code touches only
    // them. Written in assembly, since a loop would be compiled into a call of
    // this very function.
    unsafe {
        cfg_if::cfg_if! {
            if #[cfg(target_arch = "x86_64")] {
                asm!("rep movsq", "mov {rest}, %rcx", "rep movsb",
                     inout("rcx") n / 8 => _, inout("rdi") dest => _, inout("rsi") src => _,
                     rest = in(reg) n % 8, options(att_syntax, nostack, preserves_flags));
            } else {
                asm!(
                    "b 3f",
                    "2: ldr {t}, [{s}], #8",
                    "str {t}, [{d}], #8",
                    "sub {n}, {n}, #8",
                    "3: cmp {n}, #8",
                    "b.hs 2b",
                    "b 5f",
                    "4: ldrb {t:w}, [{s}], #1",
                    "strb {t:w}, [{d}], #1",
                    "sub {n}, {n}, #1",
                    "5: cbnz {n}, 4b",
                    n = inout(reg) n => _, d = inout(reg) dest => _, s = inout(reg) src => _,
                    t = out(reg) _, options(nostack)
                );
            }
        }
    }
    dest
}

/// Copies `n` bytes between regions that may overlap.
///
/// # Safety
/// As C's memmove.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memmove(dest: *mut u8, src: *const u8, n: usize) -> *mut u8 {
    if dest.addr().wrapping_sub(src.addr()) >= n {
        // SAFETY: copying upwards never reads a byte it has written, as dest
        // is not within src's region.
        return unsafe { memcpy(dest, src, n) };
    }
    // SAFETY: the caller's regions are valid for n bytes; downwards, from the
    // last byte to the first.
    unsafe {
        cfg_if::cfg_if! {
            if #[cfg(target_arch = "x86_64")] {
                asm!("std", "rep movsb", "cld", inout("rcx") n => _,
                     inout("rdi") dest.wrapping_add(n).wrapping_sub(1) => _,
                     inout("rsi") src.wrapping_add(n).wrapping_sub(1) => _, options(nostack));
            } else {
                asm!(
                    "b 3f",
                    "2: sub {n}, {n}, #1",
                    "ldrb {t:w}, [{s}, {n}]",
                    "strb {t:w}, [{d}, {n}]",
                    "3: cbnz {n}, 2b",
                    n = inout(reg) n => _, d = in(reg) dest, s = in(reg) src,
                    t = out(reg) _, options(nostack)
                );
            }
        }
    }
    dest
}

/// Fills `n` bytes.
///
/// # Safety
/// As C's memset.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memset(dest: *mut u8, byte: i32, n: usize) -> *mut u8 {
    let [byte, ..] = byte.to_le_bytes();
    let eight = u64::from_ne_bytes([byte; 8]);
    // SAFETY: the caller's region is valid for n bytes.
    unsafe {
        cfg_if::cfg_if! {
            if #[cfg(target_arch = "x86_64")] {
                asm!("rep stosq", "mov {rest}, %rcx", "rep stosb",
                     inout("rcx") n / 8 => _, inout("rdi") dest => _, in("rax") eight,
                     rest = in(reg) n % 8, options(att_syntax, nostack, preserves_flags));
            } else {
                asm!(
                    "b 3f",
                    "2: str {b}, [{d}], #8",
                    "sub {n}, {n}, #8",
                    "3: cmp {n}, #8",
                    "b.hs 2b",
                    "b 5f",
                    "4: strb {b:w}, [{d}], #1",
                    "sub {n}, {n}, #1",
                    "5: cbnz {n}, 4b",
                    n = inout(reg) n => _, d = inout(reg) dest => _, b = in(reg) eight,
                    options(nostack)
                );
            }
        }
    }
    dest
}

/// Compares `n` bytes.
///
/// # Safety
/// As C's memcmp.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    let mut at = 0;
    while at < n {
        // SAFETY: at is below n, and the caller's regions are valid for n bytes.
        let x = unsafe { a.add(at).read() };
        // SAFETY: as above.
        let y = unsafe { b.add(at).read() };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        at += 1;
    }
    0
}

/// Whether `n` bytes differ.
///
/// # Safety
/// As BSD's bcmp.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, n) }
}

/// Length of a C string.
///
/// # Safety
/// As C's strlen.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn strlen(string: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: every byte up to the NUL is the caller's. Volatile, since the
    // loop would be compiled into a call of this very function.
    while unsafe { string.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}

/// What the compiler's library for aarch64 asks before it takes the newer
/// atomic instructions: it is told that the CPU has none, which is always
/// right. (Without the library's atomics our code would have other target
/// features than `core`, which keeps the two from being optimised together.)
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
extern "C" fn getauxval(_key: u64) -> u64 {
    0
}

/// What a distribution's build of the same library refers to, in a constructor
/// that nothing runs here.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
static __stack_chk_guard: usize = 0;

/// See [`__stack_chk_guard`].
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
extern "C" fn __stack_chk_fail() -> ! {
    crate::sys::exit(101)
}
