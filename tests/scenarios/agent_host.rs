//! To be written.

use crate::On;

pub(crate) fn memory_goes_back_to_the_host(on: On) {
    let _ = on;
}

pub(crate) fn clocks_are_set_and_the_guest_paused(on: On) {
    let _ = on;
}
