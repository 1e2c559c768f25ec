//! Board files that are no JSON; edited, random and truncated ones.

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_oneof, proptest};

use super::*;

/// An edit of a text: at which share of it, how many bytes go, what comes.
pub(crate) type Edit = (proptest::sample::Index, usize, Vec<u8>);

pub(crate) fn edit() -> impl Strategy<Value = Edit> {
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
        "{\"path\": \"/\"},",
        "\"exact\": true,",
        "18446744073709551616",
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

pub(crate) fn edited(text: &str, edits: Vec<Edit>) -> Vec<u8> {
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

#[test]
fn what_is_no_json_is_no_board_at_all() {
    let mut safe = Board::default();
    safe.qm.fence();
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(40), "]".repeat(40));
    let long = format!("{{}}{}", " ".repeat(BOARD_BYTES_MAX));
    for (text, line, column, allowed) in [
        ("", 1, 1, "an object"),
        ("[]", 1, 1, "an object"),
        ("\u{feff}{}", 1, 1, "an object"),
        ("{", 1, 2, "a key in double quotes"),
        ("{\n  \"qm\": {},\n}", 3, 1, "a key in double quotes"),
        ("{\"qm\" {}}", 1, 7, "':'"),
        ("{\"qm\": }", 1, 8, "a value"),
        ("{\"qm\": {} \"host\": {}}", 1, 11, "',' or '}'"),
        ("{\"modules\": [\"é\" \"b\"]}", 1, 18, "',' or ']'"),
        ("{\"modules\": [\"a\",]}", 1, 18, "a value"),
        ("{} {}", 1, 4, "nothing after the end"),
        ("{}\n\0", 2, 1, "nothing after the end"),
        ("{\"name\": \"a\\u0041\"}", 1, 12, "without escapes"),
        ("{\"name\": \"a\0\"}", 1, 12, "without control characters"),
        ("{\"name\": \"a\n\"}", 1, 12, "without control characters"),
        ("{\"name\": \"a", 1, 12, "ends in"),
        ("{\"mend_drift\": tru}", 1, 16, "a value"),
        ("{\"qm\": {\"pids_max\": 01}}", 1, 22, "',' or '}'"),
        ("{\"qm\": {\"pids_max\": 1.}}", 1, 23, "a digit"),
        ("{\"qm\": {\"pids_max\": -}}", 1, 22, "a digit"),
        ("{'qm': 1}", 1, 2, "a key in double quotes"),
        (&deep, 1, 14, "at most 8 levels"),
        (&long, 1, 16_385, "at most 16384 bytes"),
    ] {
        read(text.as_bytes(), |board, faults| {
            let fault = faults.iter().last().expect(text);
            assert_eq!((fault.line, fault.column), (line, column), "{text}: {fault:?}");
            assert!(fault.allowed.contains(allowed), "{text}: {fault:?}");
            assert_eq!(*board, safe, "{text}");
        });
    }
    read(b"{\"name\": \"\xff\"}", |board, faults| {
        let fault = faults.iter().next().unwrap();
        assert_eq!((fault.allowed, fault.line, fault.column), ("a file in UTF-8", 1, 11));
        assert_eq!(*board, safe);
    });
}
