//! Virtual machines that the board hosts: what their VMMs may use.
//!
//! A limit on a VMM's cgroup is the guest's memory and an overhead. [`model`]
//! works the overhead out from sizes, [`pool`] shares a reserve out among the
//! guests that run. [`qmp`] asks a VMM for sizes, [`resize`] changes them.

pub mod host;
pub mod model;
pub mod pool;
pub mod qmp;
pub mod resize;
mod value;

pub use self::model::{Account, Model, account};
pub use self::pool::{Action, Pool};
pub use self::value::{Field, Values};

/// Guests that a board may have: an ECU hosts two to five, a gateway of EVE's
/// kind a dozen.
pub const GUESTS_MAX: usize = 16;
/// Longest name of a guest, in bytes: that of a payload.
pub const NAME_MAX: usize = 55;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
