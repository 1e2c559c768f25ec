//! One disk over several boots: QM's data stays, and one day its partition is gone.

use serde_json::json;

use super::var_qm::qm_is_held;
use super::{LOOK, reboots_where_asked};
use crate::{On, Seen, set};

/// The script is begun again by each boot, and counts them on the host's
/// partition. QM's entry is taken out of the GPT as partitioning tools do it: both
/// copies are whole, and the host's entry stays.
const SCRIPT: &str = r#"
mkdir -p /tmp/host
mount -t ext4 /dev/vda2 /tmp/host
boot=$(($(cat /tmp/host/boots 2>/dev/null || echo 0) + 1))
echo $boot >/tmp/host/boots
umount /tmp/host

# put AT TEXT: writes what printf makes of it to the disk.
put() { printf "$2" | dd of=/dev/vda bs=1 seek=$1 conv=notrunc 2>/dev/null; }
# crc AT BYTES: of a piece of the disk, as printf takes it, little-endian.
crc() {
    sum=$(dd if=/dev/vda bs=4 skip=$(($1 / 4)) count=$(($2 / 4)) 2>/dev/null | crc32)
    echo "$sum" | sed 's/^\(..\)\(..\)\(..\)\(..\).*/\\x\4\\x\3\\x\2\\x\1/'
}
# take_out HEADER ENTRIES: the first entry of a GPT at these sectors.
take_out() {
    dd if=/dev/zero of=/dev/vda bs=128 seek=$(($2 * 4)) count=1 conv=notrunc 2>/dev/null
    put $(($1 * 512 + 88)) "$(crc $(($2 * 512)) 16384)"
    put $(($1 * 512 + 16)) '\x00\x00\x00\x00'
    put $(($1 * 512 + 16)) "$(crc $(($1 * 512)) 92)"
}

if [ $boot -lt 5 ]; then
    qm_up
    in-qm "echo $boot >>/var/qm/marker"
    echo "boot_$boot $(in-qm cat /var/qm/marker | tr '\n' ' ')"
    [ $boot != 1 ] || { echo 'let me reboot'; read -r answer <&5; }
    if [ $boot = 4 ]; then
        last=$(($(cat /sys/class/block/vda/size) - 1))
        take_out 1 2
        take_out $last $((last - 32))
    fi
    sync
    plimsoll reboot
    sleep 100
fi
look
echo "in_qm $(in-qm true 2>&1)"
echo "partitions $(ls /sys/class/block | tr '\n' ' ')"
echo "boots $boot"
"#;

/// QM has what it wrote, boot for boot. At the fifth its partition is not there:
/// QM is held, which is said, and the host boots, once.
pub(crate) fn var_qm_gone_at_the_fifth_boot(on: On) {
    let mut board = on.board_file();
    set(&mut board, &["image", "partitions", "var_qm", "wait_secs"], json!(2));
    let guest = on.guest().board_json(&board);
    let outcome = guest.run_with(&format!("{LOOK}{SCRIPT}"), reboots_where_asked);
    let outcome = outcome.unwrap();
    let seen = Seen::new(&outcome);
    for boot in 1..=4 {
        let marks: String = (1..=boot).map(|n| format!("{n} ")).collect();
        seen.expect(&format!("boot_{boot}"), marks);
    }
    seen.expect("boots", 5);
    assert!(outcome.powered_off, "{seen}");
    // The kernel began five times.
    assert_eq!(outcome.serial.matches("] Linux version ").count(), 5, "{}", outcome.serial);
    let partitions = seen.get("partitions");
    assert!(partitions.contains("vda2") && !partitions.contains("vda1"), "{seen}");
    qm_is_held(&seen);
}
