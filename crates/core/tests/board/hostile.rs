//! Edited, random and truncated board files.

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_oneof, proptest};

use super::*;

/// An edit of a text: at which share of it, how many bytes go, what comes.
type Edit = (proptest::sample::Index, usize, Vec<u8>);

fn edit() -> impl Strategy<Value = Edit> {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\n",
        " ",
        "null",
        "true",
        "-0",
        "0",
        "1e5",
        "0.5",
        "99999999999999999999",
        "\"\"",
        "\"\":0,",
        "\"size\": \"1 GiB\",",
        "\"qm\": {},",
        "\"x\": [1, {}],",
        "\"name\": \"a\",",
        "\u{e9}",
        "\u{7f}",
        "\0",
        "..",
    ];
    let come = prop_oneof![
        Just(Vec::new()),
        any::<u8>().prop_map(|byte| vec![byte]),
        proptest::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
    ];
    (any::<proptest::sample::Index>(), 0..4_usize, come)
}

fn edited(text: &str, edits: Vec<Edit>) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (at, go, come) in edits {
        let at = at.index(bytes.len() + 1);
        let end = (at + go).min(bytes.len());
        bytes.splice(at..end, come);
    }
    bytes
}

fn is_sound(text: &[u8]) -> bool {
    read(text, |_, faults| faults.is_empty())
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(text).is_ok()
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(4096))]

    #[test]
    fn any_edit_is_read_alike_by_both_decoders(
        edits in proptest::collection::vec(edit(), 1..6),
    ) {
        let bytes = edited(EVERY_KEY, edits);
        prop_assert!(!is_sound(&bytes) || is_json(&bytes));
    }

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!is_sound(&bytes) || is_json(&bytes));
    }
}

#[test]
fn no_truncation_is_accepted() {
    let whole = EVERY_KEY.trim_end();
    for end in 0..whole.len() {
        assert!(!is_sound(&whole.as_bytes()[..end]), "{end}");
    }
    assert!(is_sound(whole.as_bytes()));
}
