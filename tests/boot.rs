//! Boards booted in QEMU: each scenario on both architectures, with the kernels
//! of two or three Debian suites.
//!
//! A scenario is a script for the guest's shell that prints what it sees; what
//! is right is judged here. One boot proves many things, since a boot takes
//! seconds.

mod scenarios;

use plimsoll_core::limit::{Limit, Memory};
use serde_json::{Value, json};
use xtask::guest::{Guest, Outcome};
use xtask::packages::Suite;

/// The board and kernel a scenario runs on.
#[derive(Clone, Copy)]
struct On {
    board: &'static str,
    suite: Suite,
}

impl On {
    fn guest(self) -> Guest {
        let guest = Guest::new(self.board, self.suite).expect("the board can be built");
        // One thread emulates both CPUs of others. With much to do, one waits in vain
        // for locks that the other holds: a third more time, and QM is felt by it.
        if xtask::rootfs::is_of_board(self.board) { guest.qemu_args(["-smp", "1"]) } else { guest }
    }

    /// A guest in which minutes go by in seconds, the same on a busy machine as
    /// on a quiet one.
    fn waiting_guest(self) -> Guest {
        /// 250 million instructions a second, about what the emulator does.
        const CLOCK_SHIFT: u8 = 2;
        self.guest().virtual_time(CLOCK_SHIFT)
    }

    /// The board file, to be changed.
    fn board_file(self) -> Value {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../boards/");
        let text = std::fs::read_to_string(format!("{root}{}.json", self.board)).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

macro_rules! on_boards {
    ($scenarios:tt, $($module:ident: $board:literal, $suite:ident;)*) => {
        $(on_boards!(@ $module, $board, $suite, $scenarios);)*
    };
    (@ $module:ident, $board:literal, $suite:ident, [$($scenario:ident),* $(,)?]) => {
        mod $module {
            const ON: crate::On =
                crate::On { board: $board, suite: xtask::packages::Suite::$suite };
            $(
                #[test]
                fn $scenario() {
                    crate::scenarios::$scenario(ON);
                }
            )*
        }
    };
}

on_boards! {
    [
        the_board_as_it_is,
        qm_does_its_worst,
        limits_in_percent_at_1_gib,
        limits_in_bytes_and_none_at_512_mib,
        var_qm_full,
        var_qm_missing,
        var_qm_of_another_uuid,
        var_qm_with_a_zeroed_superblock,
        var_qm_twice,
        handoff_to_busybox_init,
        handoff_to_nothing,
        handoff_to_plimsoll,
        board_file_with_mistakes,
        board_file_that_is_no_json,
        board_file_missing,
        no_memory_controller,
        no_cgroup2,
        read_only_sys,
        no_kmsg,
        a_knob_that_refuses,
        the_boot_itself_is_killed,
        root_by_label,
        root_by_uuid,
        root_by_partuuid,
        root_that_comes_late,
        root_missing,
        root_though_the_boot_is_killed,
        init_on_a_mounted_root,
        started_late,
        a_unit_of_systemd,
    ],
    x86_64_bookworm: "qemu-x86_64", Bookworm;
    x86_64_trixie: "qemu-x86_64", Trixie;
    aarch64_bookworm: "qemu-aarch64", Bookworm;
    aarch64_trixie: "qemu-aarch64", Trixie;
}

/// Of no interface that kernels differ in.
mod one_kernel {
    on_boards! {
        [clients_of_all_kinds, guests_share_a_pool, a_guests_memory_changes, var_qm_gone_at_the_fifth_boot],
        x86_64_trixie: "qemu-x86_64", Trixie;
        aarch64_trixie: "qemu-aarch64", Trixie;
    }
}

/// Newer kernels have changed what lies below the initramfs.
mod newest {
    on_boards! {
        [root_by_label],
        x86_64_sid: "qemu-x86_64", Sid;
        aarch64_sid: "qemu-aarch64", Sid;
    }
}

/// The agent's scenarios: on one kernel more, since its interfaces differ most.
mod agent {
    on_boards! {
        [
            cold_memory_is_evicted,
            pressure_stops_eviction,
            fragments_are_compacted,
            cgroups_come_and_go,
            without_debugfs,
            without_mglru,
            without_psi,
            memory_goes_back_to_the_host,
            clocks_are_set_and_the_guest_paused,
            swap_is_made,
            swap_on_zram,
        ],
        x86_64_bookworm: "qemu-x86_64", Bookworm;
        x86_64_trixie: "qemu-x86_64", Trixie;
        x86_64_sid: "qemu-x86_64", Sid;
        aarch64_bookworm: "qemu-aarch64", Bookworm;
        aarch64_trixie: "qemu-aarch64", Trixie;
        aarch64_sid: "qemu-aarch64", Sid;
    }
}

/// A virtual machine whose host takes memory back.
mod virtio_mem {
    on_boards! {
        [memory_is_given_back_without_a_kill, memory_comes_and_goes_beside_qm],
        x86_64_trixie: "qemu-x86_64", Trixie;
        aarch64_trixie: "qemu-aarch64", Trixie;
    }
}

/// The board as the host of real VMMs.
mod vmm {
    on_boards! {
        [libvirts_old_factor_kills],
        x86_64_trixie: "qemu-x86_64", Trixie;
        aarch64_trixie: "qemu-aarch64", Trixie;
    }
}

/// With systemd as init and podman's qm.container as QM.
mod systemd {
    on_boards! {
        [
            systemd_is_content,
            systemd_without_plimsoll,
            limits_through_systemd,
            qm_is_held_by_its_condition,
            systemd_lives_its_life,
            limits_are_as_systemd_computes_them,
            freedom_from_interference,
        ],
        x86_64_trixie: "qemu-systemd-x86_64", Trixie;
        aarch64_trixie: "qemu-systemd-aarch64", Trixie;
    }

    mod pages_16k {
        on_boards! {
            [limits_with_pages_of_16_kib],
            aarch64_trixie: "qemu-systemd-aarch64", Trixie;
        }
    }
}

/// `key value` lines of a guest's output.
struct Seen {
    text: String,
    errors: String,
    serial: String,
}

impl Seen {
    fn new(outcome: &Outcome) -> Self {
        Self { text: outcome.text(), errors: outcome.stderr_text(), serial: outcome.serial.clone() }
    }

    /// What follows `key ` on the first line that has it.
    fn get(&self, key: &str) -> &str {
        let found = self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("the guest did not print {key}:\n{self}"))
    }

    fn number(&self, key: &str) -> u64 {
        let text = self.get(key);
        text.parse().unwrap_or_else(|_| panic!("{key} {text}: no number\n{self}"))
    }

    /// Compares one line; the guest's whole output is shown if it differs.
    #[track_caller]
    fn expect(&self, key: &str, value: impl std::fmt::Display) {
        assert_eq!(self.get(key), value.to_string(), "{key}\n{self}");
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "--- the guest printed\n{}", self.text)?;
        writeln!(f, "--- and as errors\n{}", self.errors)?;
        let ours =
            self.serial.lines().filter(|line| line.contains("plimsoll") || line.contains("oom"));
        writeln!(f, "--- its console, in part")?;
        ours.into_iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// What a limit is in bytes on the guest that printed `mem_total` and `page`.
fn bytes(seen: &Seen, limit: &str) -> String {
    let page_bytes = seen.number("page");
    let total_pages = seen.number("mem_total") * 1024 / page_bytes;
    let limit = Limit::parse(limit).expect("a limit of the scenario is right");
    let bytes = limit.kernel_bytes(Memory { total_pages, page_bytes });
    bytes.map_or_else(|| "max".into(), |bytes| bytes.to_string())
}

/// The record of the boot as the guest printed it after `record `.
fn record(seen: &Seen) -> Value {
    let status: Value = serde_json::from_str(seen.get("status"))
        .unwrap_or_else(|error| panic!("status is no JSON: {error}\n{seen}"));
    status["boot"].clone()
}

/// Whether the record has a step like this one.
fn has(record: &Value, step: &str, target: &str, outcome: &str) -> bool {
    record["entries"].as_array().into_iter().flatten().any(|entry| {
        entry["step"] == step
            && entry["target"].as_str().is_some_and(|text| text.contains(target))
            && entry["outcome"] == outcome
    })
}

/// Sets a value deep in a board file, making the objects on the way.
fn set(board: &mut Value, path: &[&str], value: Value) {
    let mut at = board;
    for key in path {
        if at.is_null() {
            *at = json!({});
        }
        at = &mut at[*key];
    }
    *at = value;
}
