//! The plan of every board in boards/, as it stands in tests/golden/. What
//! changes a plan shows here; UPDATE=1 writes the files anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plimsoll_core::board::{self, Faults};
use plimsoll_core::facts::{Controllers, Facts};
use plimsoll_core::limit::Memory;
use plimsoll_core::plan;

/// The documented machine, and the same memory in pages of 16 KiB.
const MACHINES: [(&str, u64); 2] = [("4 KiB", 4096), ("16 KiB", 16384)];
const MEM_TOTAL_KIB: u64 = 2_010_424;

#[test]
fn every_board_has_its_golden_plan() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut boards = 0;
    for entry in fs::read_dir(root.join("boards")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        boards += 1;
        let mut text = fs::read(&path).unwrap();
        let mut faults = Faults::default();
        let board = board::read(&mut text, board::decode_core, &mut faults);
        assert!(faults.is_empty(), "{}: {faults:?}", path.display());
        let mut plans = String::new();
        for (pages, page_bytes) in MACHINES {
            let memory = Memory { total_pages: MEM_TOTAL_KIB * 1024 / page_bytes, page_bytes };
            let controllers = Controllers { memory: true, pids: true, cpu: true };
            let facts = Facts { memory, controllers, release: heapless::String::default() };
            board.against(memory).unwrap();
            writeln!(plans, "# MemTotal {MEM_TOTAL_KIB} kB, pages of {pages}").unwrap();
            let steps = plan::plan(&board, &facts).unwrap();
            plan::outline(&board, &steps, &mut |line| writeln!(plans, "{line}").unwrap());
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let golden = root.join(format!("tests/golden/plan-{name}.txt"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&golden, &plans).unwrap();
        }
        let wanted = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(plans, wanted, "{}: UPDATE=1 writes it anew", golden.display());
    }
    assert!(boards >= 2, "{boards} boards");
}
