//! What plimsoll decides, without touching anything.
//!
//! The order in which to read it is the way of the data: [`board`] (what is
//! wanted), [`facts`] (what this machine is), [`plan`] (what to do about it),
//! [`apply`] (do it through [`kernel`] and read it back), [`record`] (what came
//! of it). [`boot`] runs them in that order.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod agent;
pub mod apply;
pub mod board;
pub mod boot;
pub mod facts;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod guests;
pub mod json;
pub mod kernel;
pub mod limit;
pub mod number;
pub mod payload;
pub mod plan;
pub mod record;
pub mod root;
pub mod split;
pub mod status;
pub mod systemd;
mod uuid;
pub mod var_qm;
pub mod volume;
pub mod watch;

/// Longest path, in bytes: deep enough for a cgroup file under a nested
/// container, short enough for the stack.
pub const PATH_MAX: usize = 256;

/// A path made of parts; `ENAMETOOLONG` past [`PATH_MAX`].
pub fn path(parts: core::fmt::Arguments<'_>) -> kernel::Result<heapless::String<PATH_MAX>> {
    let mut path = heapless::String::new();
    core::fmt::write(&mut path, parts).map_err(|_| kernel::Errno::NAMETOOLONG)?;
    Ok(path)
}
