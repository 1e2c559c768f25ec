//! What each scenario does and what is right.

mod agent_compact;
mod agent_host;
mod agent_kernel;
mod agent_memcg;
mod agent_swap;
mod broken;
mod ffi;
mod ffi_limits;
mod fifth_boot;
mod guests;
mod handoff;
mod limits;
mod resize;
mod root;
mod systemd;
mod systemd_life;
mod systemd_limits;
mod unit;
mod var_qm;
mod virtio_mem;
mod virtio_mem_qm;
mod vmm;

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tempfile::NamedTempFile;
use xtask::guest::Host;

pub(crate) use agent_compact::*;
pub(crate) use agent_host::*;
pub(crate) use agent_kernel::*;
pub(crate) use agent_memcg::*;
pub(crate) use agent_swap::*;
pub(crate) use broken::*;
pub(crate) use ffi::*;
pub(crate) use fifth_boot::*;
pub(crate) use guests::*;
pub(crate) use handoff::*;
pub(crate) use limits::*;
pub(crate) use resize::*;
pub(crate) use root::*;
pub(crate) use systemd::*;
pub(crate) use systemd_life::*;
pub(crate) use systemd_limits::*;
pub(crate) use unit::*;
pub(crate) use var_qm::*;
pub(crate) use virtio_mem::*;
pub(crate) use virtio_mem_qm::*;
pub(crate) use vmm::*;

/// Prints the facts and knobs that most scenarios judge. The page size is the
/// kernel's own, from the auxiliary vector of a process: key 6.
pub(crate) const LOOK: &str = r#"
knob() { echo "$1 $(head -c 64 $2 2>/dev/null | tr -d '\0')"; }
look() {
    echo "mem_total $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
    echo "page $(od -A n -t d8 -w16 /proc/self/auxv | awk '$1 == 6 { print $2 }')"
    for file in memory.max memory.high memory.min memory.low memory.swap.max memory.oom.group \
        pids.max cpu.idle; do
        knob qm/$file /sys/fs/cgroup/qm/$file
    done
    knob host/memory.min /sys/fs/cgroup/host/memory.min
    echo "status $(plimsoll status --json)"
    echo "var_qm $(grep ' /var/qm ' /proc/mounts)"
    echo "pid1 $(cat /proc/1/comm) $(cat /proc/1/oom_score_adj)"
    [ -e /run/plimsoll/qm-start ] && echo "qm start" || echo "qm held"
    [ -d /proc/$(cat /run/qm/pid 2>/dev/null || echo none) ] && echo "qm_runs yes" || echo "qm_runs no"
}
supervisors() {
    for dir in /proc/[0-9]*; do
        case "$(tr '\0' ' ' <$dir/cmdline 2>/dev/null)" in @plimsoll*) echo ${dir#/proc/};; esac
    done
}
# Until QM's payload has said that it is there; at most 5 s.
qm_up() {
    for i in $(seq 50); do in-qm true 2>/dev/null && return; sleep 0.1; done
    echo "QM did not come up" >&2
}
"#;

/// For [`Guest::run_with`](xtask::guest::Guest::run_with): QEMU ends at a reboot,
/// but not after this line of a script that then waits for an answer. The script is
/// begun again by each boot, what it prints goes on.
pub(crate) fn reboots_where_asked(line: &str, host: &mut Host) -> anyhow::Result<()> {
    if line == "let me reboot" {
        host.qmp("set-action", json!({"reboot": "reset"}))?;
        host.say("yes")?;
    }
    Ok(())
}

/// A program to put into a guest.
pub(crate) fn program(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.as_file().set_permissions(Permissions::from_mode(0o755)).unwrap();
    file
}
