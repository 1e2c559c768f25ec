//! What libFuzzer links to; its main function is libFuzzer's.
#![no_main]

use std::sync::LazyLock;

use xtask::fuzz::{TARGET_VARIABLE, TARGETS};

static CHECK: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var(TARGET_VARIABLE).expect(TARGET_VARIABLE);
    TARGETS.iter().find(|target| target.name == name).expect("a target's name").check
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| CHECK(data));
