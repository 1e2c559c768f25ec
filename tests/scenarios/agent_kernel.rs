//! To be written.

use crate::On;

pub(crate) fn cgroups_come_and_go(on: On) {
    let _ = on;
}

pub(crate) fn without_debugfs(on: On) {
    let _ = on;
}

pub(crate) fn without_mglru(on: On) {
    let _ = on;
}

pub(crate) fn without_psi(on: On) {
    let _ = on;
}

pub(crate) fn clients_of_all_kinds(on: On) {
    let _ = on;
}
