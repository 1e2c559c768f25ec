//! What a VMM says on its QMP socket.

use plimsoll_core::guests::qmp::{ASK_BYTES_MAX, Session, Sizes};
use plimsoll_core::guests::resize::{Gate, Resize};

/// Memory that no guest has more of, in bytes: 64 TiB.
const MEMORY_MAX: u64 = 1 << 46;
/// From one message to the next, in microseconds.
const STEP_US: u64 = 300_000;

/// A line a message, to one session: what is asked stays a question, sizes stay
/// within what can be, and a change of size asks for no more than there is.
pub(super) fn check(data: &[u8]) {
    let mut session = Session::new(0);
    let target = data.first().map_or(0, |byte| u64::from(*byte) << 30);
    let mut resize = Resize::new(0, target);
    for (line, now) in data.split(|byte| *byte == b'\n').zip((0..).map(|at| at * STEP_US)) {
        match session.hear(line, now) {
            Ok(Some(sizes)) => {
                let gate =
                    Gate { available: u64::MAX, margin: 0, pressed: false, vmm_pressed: false };
                within(&sizes);
                if let Some(asked) = resize.next(&sizes, gate, now) {
                    within(&asked);
                    assert_eq!(asked.size(), sizes.size());
                    session.request(asked);
                }
            }
            Ok(None) => {}
            Err(_) => return,
        }
        match session.ask(now + STEP_US / 2, true) {
            Ok(Some(question)) => {
                assert!(question.len() <= ASK_BYTES_MAX && question.ends_with("}\n"));
                let question: serde_json::Value = serde_json::from_str(&question).expect("JSON");
                assert!(question["id"].as_u64().is_some() && question["execute"].is_string());
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

fn within(sizes: &Sizes) {
    assert!(sizes.size().max(sizes.requested()) <= sizes.max());
    assert!(sizes.claimed() <= sizes.fixed + sizes.max() && sizes.claimed() <= MEMORY_MAX);
}
