//! /var/qm: the separate partition for QM's data.

use heapless::String;

use crate::apply::{failed, noted};
use crate::board::VarQm;
use crate::kernel::{Errno, Kernel, Mount, MountFlags};
use crate::record::{Note, Outcome, Record};
use crate::volume::{self, VolumeError};

/// Where it is mounted.
pub const MOUNT_POINT: &str = "/var/qm";

/// Between two looks for the device: short against a disk's probe, long
/// against the cost of a look.
const LOOK_US: u64 = 20_000;

/// Waits for the partition, checks that it is the one, mounts it; whether it
/// is mounted.
pub fn mount<K: Kernel>(kernel: &mut K, record: &mut Record, wanted: &VarQm<'_>) -> bool {
    if kernel.is_mount_point(MOUNT_POINT) == Ok(true) {
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
    match mount_volume(kernel, wanted, &volume.device) {
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

fn mount_volume<K: Kernel>(kernel: &mut K, wanted: &VarQm<'_>, device: &str) -> Result<(), Errno> {
    // On a read-only root the image has them.
    let _ = kernel.mkdir("/var");
    let _ = kernel.mkdir(MOUNT_POINT);
    let (flags, data) = options(wanted.options)?;
    let mount =
        Mount { source: device, target: MOUNT_POINT, fstype: wanted.fstype, flags, data: &data };
    kernel.mount(&mount)?;
    match kernel.is_mount_point(MOUNT_POINT) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Errno::NODEV),
        Err(errno) => Err(errno),
    }
}

/// The words that are flags of mount(2) as flags, nodev and nosuid always; the
/// others for the file system.
fn options(options: &str) -> Result<(MountFlags, String<128>), Errno> {
    let mut flags = MountFlags { nosuid: true, nodev: true, ..MountFlags::default() };
    let mut data: String<128> = String::new();
    for word in options.split(',').filter(|word| !word.is_empty()) {
        match word {
            "nodev" | "nosuid" | "rw" | "defaults" => {}
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
    Ok((flags, data))
}
