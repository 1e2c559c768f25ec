//! /var/qm: the separate partition for QM's data.

use heapless::String;

use crate::apply::{failed, noted};
use crate::board::VarQm;
use crate::kernel::{Errno, Kernel, Mount, MountFlags};
use crate::path;
use crate::record::{Note, Outcome, Record, cut};
use crate::split::split;
use crate::volume::{self, VolumeError};

/// Where it is mounted, in the root file system.
pub const MOUNT_POINT: &str = "/var/qm";

/// Between two looks for the device: short against a disk's probe, long
/// against the cost of a look.
pub(crate) const LOOK_US: u64 = 20_000;

/// Waits for the partition, checks that it is the one, mounts it below `root`,
/// which is empty or where the root file system is; whether it is mounted.
pub fn mount<K: Kernel>(
    kernel: &mut K,
    record: &mut Record,
    wanted: &VarQm<'_>,
    root: &str,
) -> bool {
    let target: String<32> = cut(format_args!("{root}{MOUNT_POINT}"));
    if kernel.is_mount_point(&target) == Ok(true) {
        return noted(kernel, record, "var-qm", MOUNT_POINT, Outcome::Skipped, "mounted already");
    }
    let begin = kernel.now_us();
    let found = wait(kernel, wanted, begin);
    record.waited_us = record.waited_us.saturating_add(kernel.now_us().saturating_sub(begin));
    let volume = match found {
        Ok(volume) => volume,
        Err(error) => {
            let (wanted, found) = (format_args!("{}", wanted.identity), format_args!("{error}"));
            let outcome = Outcome::Failed;
            let note = Note { step: "var-qm", target: MOUNT_POINT, wanted, found, outcome };
            record.note(kernel, &note);
            return false;
        }
    };
    match mount_volume(kernel, wanted, &volume.device, root, &target) {
        Ok(()) => {
            record.note(
                kernel,
                &Note {
                    step: "var-qm",
                    target: MOUNT_POINT,
                    wanted: format_args!("{}", volume.device),
                    found: format_args!("{}", volume.device),
                    outcome: Outcome::Agrees,
                },
            );
            true
        }
        Err(errno) => failed(kernel, record, "var-qm", &volume.device, errno),
    }
}

/// Looks until the device is there or the time is over. What waiting can't
/// mend ends it at once.
fn wait<K: Kernel>(
    kernel: &mut K,
    wanted: &VarQm<'_>,
    begin: u64,
) -> Result<volume::Volume, VolumeError> {
    let deadline = begin.saturating_add(u64::from(wanted.wait_secs) * 1_000_000);
    loop {
        match volume::find(kernel, &wanted.identity) {
            Err(VolumeError::NotFound { .. }) if kernel.now_us() < deadline => {
                kernel.sleep_us(LOOK_US)
            }
            found => return found,
        }
    }
}

fn mount_volume<K: Kernel>(
    kernel: &mut K,
    wanted: &VarQm<'_>,
    device: &str,
    root: &str,
    target: &str,
) -> Result<(), Errno> {
    // On a read-only root the image has them.
    let _ = kernel.mkdir(&path(format_args!("{root}/var"))?);
    let _ = kernel.mkdir(target);
    let mut flags = MountFlags { nosuid: true, nodev: true, ..MountFlags::default() };
    let mut data = String::new();
    options(wanted.options, &mut flags, &mut data)?;
    let mount = Mount { source: device, target, fstype: wanted.fstype, flags, data: &data };
    kernel.mount(&mount)?;
    match kernel.is_mount_point(target) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Errno::NODEV),
        Err(errno) => Err(errno),
    }
}

/// The words that are flags of mount(2) become flags, besides those given; the
/// others are the file system's.
pub(crate) fn options(
    options: &str,
    flags: &mut MountFlags,
    data: &mut String<128>,
) -> Result<(), Errno> {
    for word in split(options, b',').filter(|word| !word.is_empty()) {
        match word {
            "rw" | "defaults" => {}
            "nodev" => flags.nodev = true,
            "nosuid" => flags.nosuid = true,
            "noexec" => flags.noexec = true,
            "noatime" => flags.noatime = true,
            "strictatime" => flags.strictatime = true,
            "ro" => flags.rdonly = true,
            _ => {
                let comma = if data.is_empty() { "" } else { "," };
                for part in [comma, word] {
                    data.push_str(part).map_err(|_| Errno::NAMETOOLONG)?;
                }
            }
        }
    }
    Ok(())
}
