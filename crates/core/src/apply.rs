//! Doing a step and reading it back.

use core::fmt;

use heapless::String;

use crate::facts::{CGROUP_ROOT, read_text};
use crate::kernel::{Errno, Kernel, Result};
use crate::plan::{CONTROLLERS, Step};
use crate::record::{Note, Outcome, Record, cut, refusal};
use crate::split::split;
use crate::{PATH_MAX, path};

/// Does one step and notes it; whether the kernel shows what was wanted.
pub fn step<K: Kernel>(kernel: &mut K, record: &mut Record, step: &Step<'_>) -> bool {
    match *step {
        Step::Cgroup { path } => cgroup(kernel, record, path),
        Step::Enable { path } => enable(kernel, record, path),
        // A drop-in says it (`systemd`).
        Step::Write { unit: Some(_), .. } => true,
        Step::Write { path, knob, value, .. } => match knob_path(path, knob) {
            Ok(file) => write(kernel, record, "limit", &file, format_args!("{value}")),
            Err(errno) => failed(kernel, record, "limit", path, errno),
        },
    }
}

/// The file of a knob.
pub fn knob_path(cgroup: &str, knob: &str) -> Result<String<PATH_MAX>> {
    path(format_args!("{CGROUP_ROOT}{cgroup}/{knob}"))
}

fn cgroup<K: Kernel>(kernel: &mut K, record: &mut Record, cgroup: &str) -> bool {
    let made =
        path(format_args!("{CGROUP_ROOT}{cgroup}")).and_then(|full| match kernel.mkdir(&full) {
            Ok(()) | Err(Errno::EXIST) => Ok(full),
            Err(errno) => Err(errno),
        });
    match made {
        Ok(full) => noted(kernel, record, "cgroup", &full, Outcome::Agrees, ""),
        Err(errno) => failed(kernel, record, "cgroup", cgroup, errno),
    }
}

/// One write for all controllers, since each costs the kernel some
/// milliseconds; if it is refused, one for each, so that a missing one does not
/// take the others along.
fn enable<K: Kernel>(kernel: &mut K, record: &mut Record, path: &str) -> bool {
    let file = match knob_path(path, "cgroup.subtree_control") {
        Ok(file) => file,
        Err(errno) => return failed(kernel, record, "controllers", path, errno),
    };
    let mut refused = kernel.write(&file, CONTROLLERS.as_bytes()).err();
    if refused.is_some() {
        for word in split(CONTROLLERS, b' ') {
            refused = kernel.write(&file, word.as_bytes()).err().or(refused);
        }
    }
    let mut buf = [0; 256];
    let shown = read_text(kernel, &file, &mut buf).trim_ascii_end();
    let enabled = |word: &str| split(shown, b' ').any(|name| word.strip_prefix('+') == Some(name));
    let all = split(CONTROLLERS, b' ').all(enabled);
    let reason = refused.map(refusal).unwrap_or_default();
    record.note(
        kernel,
        &Note {
            step: "controllers",
            target: &file,
            wanted: format_args!("{CONTROLLERS}"),
            found: format_args!("{shown} {reason}"),
            outcome: if all { Outcome::Agrees } else { Outcome::Failed },
        },
    );
    all
}

/// Writes a knob and reads it back.
pub fn write<K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    step: &str,
    file: &str,
    value: fmt::Arguments<'_>,
) -> bool {
    let wanted: String<32> = cut(value);
    let refused = kernel.write(file, wanted.as_bytes()).err();
    if refused == Some(Errno::NOENT) && file.ends_with("/memory.swap.max") {
        // A kernel without swap has no swap to limit; systemd tolerates it too.
        return noted(kernel, record, step, file, Outcome::Skipped, "no swap accounting");
    }
    let shown = shows(kernel, file);
    let agrees = shown == wanted;
    let (outcome, found) = match refused {
        _ if agrees => (Outcome::Agrees, shown),
        Some(errno) => (Outcome::Failed, refusal(errno)),
        None => (Outcome::Differs, shown),
    };
    let (wanted, found) = (format_args!("{wanted}"), format_args!("{found}"));
    record.note(kernel, &Note { step, target: file, wanted, found, outcome });
    agrees
}

/// What a knob shows, without the newline; empty where it can't be read.
pub fn shows<K: Kernel>(kernel: &mut K, file: &str) -> String<32> {
    let mut buf = [0; 32];
    let mut shown = String::new();
    let _ = shown.push_str(read_text(kernel, file, &mut buf).trim_ascii_end());
    shown
}

/// Notes a refusal; false.
pub fn failed<K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    step: &str,
    target: &str,
    errno: Errno,
) -> bool {
    noted(kernel, record, step, target, Outcome::Failed, &refusal(errno));
    false
}

/// Notes an outcome that has no value; true.
pub fn noted<K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    step: &str,
    target: &str,
    outcome: Outcome,
    found: &str,
) -> bool {
    let (wanted, found) = (format_args!(""), format_args!("{found}"));
    record.note(kernel, &Note { step, target, wanted, found, outcome });
    true
}
