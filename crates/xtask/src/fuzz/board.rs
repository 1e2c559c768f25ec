//! Board files.

use plimsoll_core::board::{self, Faults, Raw};
use plimsoll_core::limit::{Limit, Memory};

/// The documented board's memory, in small pages.
const MEMORY: Memory = Memory { total_pages: 2 << 18, page_bytes: 4096 };

/// A decoder for [`board::read`] that is not the board's own.
type Decoder = fn(&[u8]) -> Option<Raw<'_>>;

/// All decoders read the same board, whose QM is limited where anything was
/// refused; and what is accepted is JSON.
pub(super) fn check(data: &[u8]) {
    let (mut own, mut faults) = (data.to_vec(), Faults::default());
    let board = board::read(&mut own, board::decode_core, &mut faults);
    let others: [Decoder; 2] = [board::decode_serde, |text| serde_json::from_slice(text).ok()];
    for decode in others {
        let (mut text, mut other_faults) = (data.to_vec(), Faults::default());
        assert_eq!(board, board::read(&mut text, decode, &mut other_faults));
        assert_eq!(faults, other_faults);
    }
    assert!(faults.iter().all(|fault| fault.allowed != "a file that can be decoded"));
    if faults.is_empty() {
        serde_json::from_slice::<serde_json::Value>(data).expect("what is accepted is JSON");
    } else {
        assert_ne!(board.qm.memory_max, Limit::Infinity);
    }
    // Whatever is wrong on one machine, it is said, not a panic.
    let _ = board.against(MEMORY);
}
