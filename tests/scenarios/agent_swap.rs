//! To be written.

use crate::On;

pub(crate) fn swap_is_made(on: On) {
    let _ = on;
}

pub(crate) fn swap_on_zram(on: On) {
    let _ = on;
}
