//! Drift of knobs that are systemd's, which answers, fails, or never does.

extern crate std;

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::*;
use crate::board;
use crate::board::Faults;
use crate::fake::FakeKernel;
use crate::plan::plan;

const MAX: &str = "823468032";
/// 25 % of 2010424 kB.
const FALLBACK: &str = "514666496";
const BOARD: &str = r#"{
    "qm": {"unit": "qm.service", "memory_limit": {"max": "40%", "high": "35%"}},
    "host": {"cgroups": ["/system.slice"]}
}"#;

struct Scene {
    kernel: FakeKernel,
    watch: Watch<'static>,
}

impl Scene {
    fn new(text: &str) -> Self {
        let mut kernel = FakeKernel::mounted();
        kernel.write("/sys/fs/cgroup/cgroup.subtree_control", b"+memory +pids +cpu").unwrap();
        let text = text.as_bytes().to_vec().leak();
        let board = board::read(text, board::decode_core, &mut Faults::default());
        let facts = Facts::gather(&mut kernel);
        let plan = plan(&board, &facts).unwrap();
        let watch = Watch::new(&mut kernel, &plan, &board, &facts);
        Self { kernel, watch }
    }

    /// systemd starts the unit: its cgroup, the knobs given, a process.
    fn start(&mut self, cgroup: &str, knobs: &[(&str, &str)]) {
        let _ = self.kernel.mkdir(&format!("/sys/fs/cgroup/{cgroup}"));
        for (knob, value) in knobs {
            self.write(&format!("{cgroup}/{knob}"), value);
        }
        self.kernel
            .set(&format!("/sys/fs/cgroup/{cgroup}/cgroup.events"), "populated 1\nfrozen 0\n");
    }

    /// QM under the limits that were wanted.
    fn start_qm(&mut self) {
        self.start(
            "qm.service",
            &[
                ("cpu.idle", "1"),
                ("memory.high", "720535552"),
                ("memory.max", MAX),
                ("memory.swap.max", "0"),
                ("memory.oom.group", "1"),
                ("pids.max", "4096"),
            ],
        );
    }

    fn write(&mut self, file: &str, value: &str) {
        self.kernel.write(&format!("/sys/fs/cgroup/{file}"), value.as_bytes()).unwrap();
    }

    fn shows(&self, knob: &str) -> String {
        self.kernel.text(&format!("/sys/fs/cgroup/qm.service/{knob}")).trim().to_string()
    }

    fn look(&mut self) -> bool {
        self.kernel.sleep_us(PERIOD_US);
        self.watch.look(&mut self.kernel)
    }

    /// What systemd is asked now, after the command itself.
    fn ask(&mut self) -> Option<Vec<String>> {
        let now = self.kernel.now_us();
        let question = self.watch.ask(now)?;
        let (command, _) = SET_PROPERTY.split_once('%').unwrap();
        let words = question.get().unwrap().strip_prefix(command).unwrap();
        Some(words.split_terminator('\0').map(String::from).collect())
    }

    fn said(&self, text: &str) -> usize {
        self.kernel.log.iter().filter(|(_, line)| line.contains(text)).count()
    }
}

#[test]
fn while_the_unit_is_not_there_nothing_is_amiss() {
    let mut scene = Scene::new(BOARD);
    assert!(!scene.look());
    // Made, but systemd has not yet written its knobs.
    scene.kernel.mkdir("/sys/fs/cgroup/qm.service").unwrap();
    assert!(!scene.look());
    scene.start_qm();
    assert!(!scene.look());
    scene.kernel.set("/sys/fs/cgroup/qm.service/cgroup.events", "populated 0\nfrozen 0\n");
    scene.write("qm.service/memory.max", "max");
    assert!(!scene.look());
    assert_eq!((scene.watch.drifts, scene.kernel.log.len()), (0, 0), "{:?}", scene.kernel.log);
    assert_eq!(scene.ask(), None);
}

#[test]
fn without_its_limits_qm_is_fenced_at_once_and_systemd_asked() {
    let mut scene = Scene::new(BOARD);
    scene.start("qm.service", &[]);
    scene.look();
    assert_eq!(scene.shows("memory.max"), MAX);
    assert_eq!(scene.shows("memory.high"), "max");
    assert_eq!(
        scene.ask().unwrap(),
        [
            "qm.service",
            "CPUWeight=idle",
            "MemoryMin=0",
            "MemoryLow=0",
            "MemoryHigh=720535552",
            "MemoryMax=823468032",
            "MemorySwapMax=0",
            "TasksMax=4096"
        ]
    );
    // One question at a time, and nothing is done meanwhile.
    assert_eq!(scene.ask(), None);
    scene.look();
    assert_eq!(scene.shows("memory.high"), "max");
    assert_eq!(scene.watch.mended, 0);
    scene.start_qm();
    scene.watch.answered(true);
    assert!(!scene.look());
    let mended = scene.watch.mended;
    assert_eq!((scene.watch.drifts, mended), (6, 6), "{:?}", scene.kernel.log);
    assert_eq!(scene.said("mended by systemd"), 6);
    assert_eq!(scene.said("fenced "), 1);
    assert!(!scene.look());
    assert_eq!(scene.watch.mended, 6);
}

#[test]
fn where_systemd_does_not_do_it_the_kernels_files_are_written() {
    let mut scene = Scene::new(BOARD);
    scene.start_qm();
    scene.write("qm.service/memory.high", "max");
    assert!(scene.look());
    assert!(scene.ask().is_some());
    scene.watch.answered(false);
    assert!(!scene.look());
    assert_eq!(scene.shows("memory.high"), "720535552");
    assert_eq!((scene.watch.drifts, scene.watch.mended), (1, 1));
    assert_eq!(scene.said("mended by systemd"), 0);
}

#[test]
fn a_fight_is_fought_in_the_kernels_files_and_systemd_asked_ever_less() {
    let mut scene = Scene::new(BOARD);
    scene.start_qm();
    let mut asked = 0;
    for _ in 0..600 {
        scene.write("qm.service/memory.max", "max");
        scene.look();
        assert_eq!(scene.shows("memory.max"), MAX);
        if scene.ask().is_some() {
            asked += 1;
            scene.watch.answered(true);
        }
    }
    assert!((8..=16).contains(&asked), "{asked}");
    // Asked once more for what was mended without it, then all is quiet.
    let mut more = 0;
    for _ in 0..200 {
        scene.look();
        if scene.ask().is_some() {
            more += 1;
            scene.watch.answered(true);
        }
    }
    assert_eq!(more, 1);
    // And a new drift is asked about at once.
    scene.write("qm.service/memory.high", "max");
    scene.look();
    assert!(scene.ask().is_some());
}

#[test]
fn reported_only_where_the_board_says_so_but_never_without_limit() {
    let mut scene = Scene::new(&BOARD.replacen('{', r#"{"mend_drift": false,"#, 1));
    scene.start_qm();
    scene.write("qm.service/memory.max", "901120000");
    scene.write("qm.service/memory.high", "max");
    assert!(scene.look() && scene.look());
    assert_eq!((scene.watch.drifts, scene.watch.mended, scene.ask()), (2, 0, None));
    assert_eq!(scene.shows("memory.max"), "901120000");
    scene.write("qm.service/memory.max", "max");
    scene.look();
    assert_eq!(scene.shows("memory.max"), FALLBACK);
    assert!(scene.look());
    assert_eq!(scene.said("fenced "), 1);
}

#[test]
fn the_hosts_slices_are_systemds_too() {
    let mut scene = Scene::new(BOARD);
    scene.start("system.slice", &[("memory.min", "67108864")]);
    assert!(!scene.look());
    scene.write("system.slice/memory.min", "0");
    assert!(scene.look());
    assert_eq!(scene.ask().unwrap(), ["system.slice", "MemoryMin=67108864"]);
}

#[test]
fn swap_that_was_made_is_allowed_through_systemd() {
    let mut scene = Scene::new(BOARD);
    scene.start_qm();
    let limit = Value::Number(4096);
    scene.watch.want(&mut scene.kernel, "/qm.service", "memory.swap.max", limit);
    scene.look();
    assert!(scene.ask().unwrap().contains(&"MemorySwapMax=4096".to_string()));
    scene.write("qm.service/memory.swap.max", "4096");
    scene.watch.answered(true);
    assert!(!scene.look());
    assert_eq!(scene.watch.drifts, 0);
}

#[test]
fn a_missing_knob_is_nobodys_but_for_the_fence() {
    let mut scene = Scene::new(BOARD);
    scene.start_qm();
    scene.kernel.files.remove("/sys/fs/cgroup/qm.service/memory.swap.max");
    assert!(!scene.look());
    scene.kernel.files.remove("/sys/fs/cgroup/qm.service/memory.max");
    assert!(scene.look() && scene.look() && scene.look());
    assert_eq!((scene.watch.drifts, scene.said("fenced")), (1, 0));
}

#[test]
fn a_worker_that_takes_over_asks_anew() {
    let mut scene = Scene::new(BOARD);
    scene.start_qm();
    scene.write("qm.service/memory.high", "max");
    scene.look();
    assert!(scene.ask().is_some());
    scene.watch.forget_question();
    for _ in 0..3 {
        scene.look();
    }
    assert_eq!(scene.shows("memory.high"), "720535552", "mended directly meanwhile");
    assert!(scene.ask().is_some());
}

/// QM's limits on a machine of so many MiB, in MiB: 40 % and 35 %.
fn follow(scene: &mut Scene, mib: u64) -> u64 {
    let text = BOARD.as_bytes().to_vec().leak();
    let board = board::read(text, board::decode_core, &mut Faults::default());
    let memory = Memory { total_pages: mib << 8, page_bytes: 4096 };
    scene.watch.follow(&mut scene.kernel, &board.qm, memory)
}

/// QM's limits are plimsoll's own to write.
fn without_systemd(max: &str) -> Scene {
    let mut scene = Scene::new(BOARD);
    scene.start_qm();
    scene.write("qm.service/memory.max", max);
    let text = BOARD.replace(r#""unit": "qm.service", "#, "").into_bytes().leak();
    let board = board::read(text, board::decode_core, &mut Faults::default());
    let facts = Facts::gather(&mut scene.kernel);
    let plan = plan(&board, &facts).unwrap();
    scene.watch = Watch::new(&mut scene.kernel, &plan, &board, &facts);
    scene
}

#[test]
fn a_percentage_follows_the_machines_memory() {
    let mut scene = Scene::new(BOARD);
    scene.start_qm();
    scene.kernel.set("/sys/fs/cgroup/qm.service/memory.current", "1048576");
    assert_eq!(follow(&mut scene, 1000), 0);
    scene.look();
    let asked = scene.ask().unwrap();
    for setting in ["MemoryMax=419430400", "MemoryHigh=367001600"] {
        assert!(asked.contains(&setting.to_string()), "{asked:?}");
    }
    assert_eq!(scene.watch.drifts, 0);
    // The same memory again is nothing new.
    let lines = scene.kernel.log.len();
    assert_eq!((follow(&mut scene, 1000), scene.kernel.log.len()), (0, lines));
    // Unreadable: what was wanted stays.
    assert_eq!((follow(&mut scene, 0), scene.kernel.log.len()), (0, lines));
}

/// The kernel's files at once, and systemd as soon as it has time.
#[test]
fn a_percentage_follows_while_systemd_answers() {
    let mut scene = Scene::new(BOARD);
    scene.start_qm();
    follow(&mut scene, 4000);
    assert_eq!(scene.shows("memory.max"), "1677721600");
    assert!(scene.ask().unwrap().contains(&"MemoryMax=1677721600".into()));
    follow(&mut scene, 8000);
    assert_eq!(scene.shows("memory.max"), "3355443200");
    assert!(scene.ask().is_none());
    // What it was asked first comes last.
    scene.write("qm.service/memory.max", "1677721600");
    scene.watch.answered(true);
    scene.look();
    assert_eq!((&*scene.shows("memory.max"), scene.watch.drifts), ("3355443200", 0));
    assert_eq!(scene.said("mended by systemd"), 0);
    scene.look();
    assert!(scene.ask().unwrap().contains(&"MemoryMax=3355443200".into()));
    scene.watch.answered(true);
    scene.look();
    // A machine that grows for long is followed all the time.
    for gib in 9..20 {
        follow(&mut scene, gib << 10);
        scene.look();
        scene.look();
        assert!(scene.ask().is_some(), "{gib}");
        scene.watch.answered(true);
        scene.look();
    }
    scene.look();
    assert_eq!((scene.ask(), scene.watch.drifts), (None, 0));
}

#[test]
fn a_fence_does_not_fall_below_what_is_in_use() {
    let mut scene = without_systemd(MAX);
    // 400 MiB with a sixteenth to spare: 396 MiB are 21 too many.
    scene.kernel.set("/sys/fs/cgroup/qm.service/memory.current", (396_u64 << 20).to_string());
    assert_eq!(follow(&mut scene, 1000), 21 << 20);
    assert_eq!((&*scene.shows("memory.high"), &*scene.shows("memory.max")), ("367001600", MAX));
    scene.look();
    assert_eq!(scene.watch.drifts, 0, "it is as wanted meanwhile");
    scene.kernel.set("/sys/fs/cgroup/qm.service/memory.current", (375_u64 << 20).to_string());
    assert_eq!(follow(&mut scene, 1000), 0);
    assert_eq!(scene.shows("memory.max"), "419430400");
    // Up at once, whatever is in use.
    assert_eq!(follow(&mut scene, 2000), 0);
    assert_eq!(scene.shows("memory.max"), "838860800");
}

#[test]
fn a_fallback_follows_as_a_fallback() {
    let mut scene = without_systemd(FALLBACK);
    assert_eq!(follow(&mut scene, 1000), 0);
    assert_eq!(scene.shows("memory.max"), "262144000");
}
