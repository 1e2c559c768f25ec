//! Board files.

use plimsoll_core::board::{self, Faults};
use plimsoll_core::limit::{Limit, Memory};

/// The documented board's memory, in small pages.
const MEMORY: Memory = Memory { total_pages: 2 << 18, page_bytes: 4096 };

/// Both decoders read the same board, whose QM is limited where anything was
/// refused; and what is accepted is JSON.
pub(super) fn check(data: &[u8]) {
    let (mut small, mut large) = (data.to_vec(), data.to_vec());
    let (mut faults, mut large_faults) = (Faults::default(), Faults::default());
    let board = board::read(&mut small, board::decode_core, &mut faults);
    let decode = |text| serde_json::from_slice(text).ok();
    assert_eq!(board, board::read(&mut large, decode, &mut large_faults));
    assert_eq!(faults, large_faults);
    assert!(faults.iter().all(|fault| fault.allowed != "a file that can be decoded"));
    if faults.is_empty() {
        serde_json::from_slice::<serde_json::Value>(data).expect("what is accepted is JSON");
    } else {
        assert_ne!(board.qm.memory_max, Limit::Infinity);
    }
    // Whatever is wrong on one machine, it is said, not a panic.
    let _ = board.against(MEMORY);
}
