//! To be written.

use crate::On;

pub(crate) fn cold_memory_is_evicted(on: On) {
    let _ = on;
}

pub(crate) fn pressure_stops_eviction(on: On) {
    let _ = on;
}
