//! Numbers in texts. One reader for all of them: one for each type would be
//! compiled anew.

/// A whole number in digits of `radix`, which a '+' may precede.
#[must_use]
pub fn in_radix(text: &str, radix: u32) -> Option<u64> {
    u64::from_str_radix(text, radix).ok()
}

/// A whole decimal number, which a '+' may precede.
#[must_use]
pub fn decimal(text: &str) -> Option<u64> {
    in_radix(text, 10)
}
