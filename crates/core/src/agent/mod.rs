//! The memory agent: aging and eviction, compaction, pressure, swap.
//!
//! All of Kata's mem-agent, with its names, units and documented defaults. What
//! decides is here; the supervisor's children do it.

pub mod compact;
pub mod counters;
pub mod lines;
pub mod lru_gen;
pub mod memcg;
pub mod psi;
pub mod schedule;
pub mod settings;
pub mod swap;
pub mod virtio_mem;
