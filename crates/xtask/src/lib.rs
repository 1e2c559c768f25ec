//! The host's tool, as a library: the booted scenarios in tests/ are written
//! with [`guest::Guest`], the commands are the bin's.

use std::path::Path;

pub mod aib;
pub mod apt;
pub mod arch;
pub mod bench;
pub mod board;
pub mod boot_time;
pub mod cache;
mod chart;
pub mod command;
pub mod deny;
pub mod disk;
pub mod elf;
pub mod float;
pub mod fuzz;
pub mod guest;
pub mod image;
pub mod install;
pub mod latency;
pub mod modules;
pub mod packages;
pub mod picture;
pub mod progress;
pub mod qemu;
pub mod report;
pub mod rootfs;
pub mod shrink;
pub mod size;
pub mod stream;
pub mod target;
pub mod test;
pub mod vmm;

/// The workspace's directory.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
