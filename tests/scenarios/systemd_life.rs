//! What happens to plimsoll and its limits in a system's life: other sizes of
//! memory and pages, and everything systemd can do to what runs under it.

use xtask::guest::Guest;

use super::{QM_STATE, reboots_where_asked};
use crate::{On, Seen, bytes};

const LIMITS: &str = r#"
printf '[Service]\nMemoryMax=40%%\nMemoryHigh=35%%\nExecStart=sleep 1000\n' >/run/systemd/system/own.service
systemctl daemon-reload
systemctl start own
systemctl start qm
for unit in own qm; do
    for key in MemoryMax MemoryHigh; do
        echo "$unit/$key $(systemctl show $unit --property $key --value)"
    done
done
for file in memory.max memory.high; do
    echo "own/$file $(cat /sys/fs/cgroup/system.slice/own.service/$file)"
    echo "qm/$file $(cat /sys/fs/cgroup/qm.service/$file)"
done
echo "mem_total $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "page $(od -A n -t d8 -w16 /proc/self/auxv | awk '$1 == 6 { print $2 }')"
"#;

/// The same bytes as systemd makes of 40 % and 35 %.
fn are_as_systemd_computes_them(guest: Guest) -> Seen {
    let seen = Seen::new(&guest.run(LIMITS).unwrap());
    for (key, file, limit) in
        [("MemoryMax", "memory.max", "40%"), ("MemoryHigh", "memory.high", "35%")]
    {
        let own = seen.get(&format!("own/{key}"));
        assert_eq!(own, bytes(&seen, limit), "{key}\n{seen}");
        for of in [format!("qm/{key}"), format!("own/{file}"), format!("qm/{file}")] {
            seen.expect(&of, own);
        }
    }
    seen
}

/// At the memory sizes that the other scenarios do not have.
pub(crate) fn limits_are_as_systemd_computes_them(on: On) {
    for memory in ["1100M", "3G"] {
        are_as_systemd_computes_them(on.guest().memory(memory));
    }
}

/// With pages of 16 KiB, down to which a limit is rounded.
pub(crate) fn limits_with_pages_of_16_kib(on: On) {
    let seen = are_as_systemd_computes_them(on.guest().pages_16k());
    seen.expect("page", 16384);
}

/// The script is begun again by each start of user space.
const LIFE: &str = r#"
look() {
    echo "$1/supervisors $(grep -c . /sys/fs/cgroup/plimsoll/cgroup.procs)"
    echo "$1/pids $(echo $(cat /sys/fs/cgroup/plimsoll/cgroup.procs))"
    echo "$1/state $(systemctl is-system-running --wait)"
    echo "$1/max $(cat /sys/fs/cgroup/qm.service/memory.max) $(systemctl show qm --property MemoryMax --value)"
    echo "$1/failed $(systemctl --failed --no-legend)"
}
if [ -e /var/lib/rebooted ]; then
    look reboot
    echo "mounted_clean $(dmesg | grep -c 'EXT4-fs.*mounted filesystem') $(dmesg | grep -cE 'EXT4-fs.*(recover|orphan)')"
    echo "qm_kept $(cat /var/qm/kept)"
    : >/run/orderly
    exit
fi
if [ ! -e /run/again ]; then
    qm_state
    echo "mem_total $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
    echo "page $(od -A n -t d8 -w16 /proc/self/auxv | awk '$1 == 6 { print $2 }')"
    look begin
    systemctl daemon-reexec; sleep 1; look reexec
    systemctl isolate multi-user.target; sleep 1; look isolate
    : >/run/again
    systemctl soft-reboot
    sleep 1000
fi
echo "soft_reboots $(systemctl show --property SoftRebootsCount --value)"
qm_state
look soft_reboot
echo "var_qm $(systemctl show var-qm.mount --property ActiveState --value) $(grep -c ' /var/qm ' /proc/mounts)"
echo kept >/var/qm/kept
echo 'let me reboot'
read -r answer <&5
: >/var/lib/rebooted
systemctl reboot
sleep 1000
"#;

/// daemon-reexec, isolate, soft-reboot: the supervisor's processes live on and
/// QM has its limits. At a reboot and in the end all is unmounted clean.
pub(crate) fn systemd_lives_its_life(on: On) {
    let script = format!("{QM_STATE}{LIFE}");
    let outcome = on.guest().run_with(&script, reboots_where_asked).unwrap();
    let seen = Seen::new(&outcome);
    let max = bytes(&seen, "40%");
    for at in ["begin", "reexec", "isolate", "soft_reboot", "reboot"] {
        seen.expect(&format!("{at}/supervisors"), 2);
        if at != "reboot" {
            seen.expect(&format!("{at}/pids"), seen.get("begin/pids"));
        }
        seen.expect(&format!("{at}/state"), "running");
        seen.expect(&format!("{at}/max"), format!("{max} {max}"));
        seen.expect(&format!("{at}/failed"), "");
    }
    seen.expect("soft_reboots", 1);
    seen.expect("var_qm", "active 1");
    assert!(outcome.powered_off, "{seen}");
    seen.expect("qm_kept", "kept");
    // Root and /var/qm, and no journal to be replayed.
    seen.expect("mounted_clean", "2 0");
    for line in ["All filesystems unmounted.", "All loop devices detached."] {
        assert_eq!(outcome.serial.matches(line).count(), 2, "{line}\n{}", outcome.serial);
    }
}
