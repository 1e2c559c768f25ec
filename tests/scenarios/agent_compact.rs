//! To be written.

use crate::On;

pub(crate) fn fragments_are_compacted(on: On) {
    let _ = on;
}
