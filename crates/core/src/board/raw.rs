//! The board file as decoded, before any check.
//!
//! Unknown keys are ignored here because the walk over the text refuses them.
//! What is a number or a word (`qm.cpu_weight`) or has a fraction
//! (`relative_size`) has no field: it is taken from the text.

use core::fmt;
use core::marker::PhantomData;

use heapless::Vec;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::{COMMAND_WORDS_MAX, HOST_CGROUPS_MAX, MODULES_MAX, PAYLOADS_MAX};

/// A board file as decoded; what it leaves out is `None` or empty.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Raw<'a> {
    #[serde(borrow)]
    pub(super) qm: Qm<'a>,
    #[serde(borrow)]
    pub(super) image: Image<'a>,
    #[serde(borrow)]
    pub(super) host: Host<'a>,
    #[serde(borrow)]
    pub(super) handoff: Handoff<'a>,
    #[serde(borrow)]
    pub(super) modules: List<&'a str, MODULES_MAX>,
    #[serde(borrow)]
    pub(super) payloads: List<Payload<'a>, PAYLOADS_MAX>,
    pub(super) mend_drift: Option<bool>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Qm<'a> {
    #[serde(borrow)]
    pub(super) memory_limit: MemoryLimit<'a>,
    #[serde(borrow)]
    pub(super) cgroup: Option<&'a str>,
    pub(super) oom_group: Option<bool>,
    pub(super) oom_score_adj: Option<i16>,
    #[serde(borrow)]
    pub(super) fallback_max: Option<&'a str>,
    #[serde(borrow)]
    pub(super) on_limit_failure: Option<&'a str>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct MemoryLimit<'a> {
    #[serde(borrow)]
    pub(super) max: Option<&'a str>,
    #[serde(borrow)]
    pub(super) high: Option<&'a str>,
    #[serde(borrow)]
    pub(super) min: Option<&'a str>,
    #[serde(borrow)]
    pub(super) low: Option<&'a str>,
    #[serde(borrow)]
    pub(super) swap_max: Option<&'a str>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Image<'a> {
    pub(super) enable_oom_protection: Option<bool>,
    pub(super) enable_reclaim_protection: Option<bool>,
    #[serde(borrow)]
    pub(super) cg_memory_min: Option<&'a str>,
    #[serde(borrow)]
    pub(super) image_size: Option<&'a str>,
    #[serde(borrow)]
    pub(super) partitions: Partitions<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Partitions<'a> {
    #[serde(borrow)]
    pub(super) var: Partition<'a>,
    #[serde(borrow)]
    pub(super) var_qm: Option<Partition<'a>>,
}

/// Of `var` only the size is ever set.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Partition<'a> {
    #[serde(borrow)]
    pub(super) size: Option<&'a str>,
    pub(super) external: Option<bool>,
    #[serde(borrow)]
    pub(super) uuid: Option<&'a str>,
    #[serde(borrow)]
    pub(super) fs_uuid: Option<&'a str>,
    #[serde(borrow)]
    pub(super) label: Option<&'a str>,
    #[serde(borrow)]
    pub(super) options: Option<&'a str>,
    pub(super) wait_secs: Option<u32>,
    #[serde(borrow)]
    pub(super) on_failure: Option<&'a str>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Host<'a> {
    #[serde(borrow)]
    pub(super) cgroups: Option<List<&'a str, HOST_CGROUPS_MAX>>,
    pub(super) oom_score_adj: Option<i16>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Handoff<'a> {
    #[serde(borrow)]
    pub(super) init: Option<&'a str>,
    pub(super) oom_score_adj: Option<i16>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Payload<'a> {
    #[serde(borrow)]
    pub(super) name: Option<&'a str>,
    #[serde(borrow)]
    pub(super) side: Option<&'a str>,
    #[serde(borrow)]
    pub(super) command: Option<List<&'a str, COMMAND_WORDS_MAX>>,
    pub(super) oom_score_adj: Option<i16>,
    #[serde(borrow)]
    pub(super) restart: Option<&'a str>,
    pub(super) restart_max: Option<u8>,
}

/// A JSON array of at most `N`.
#[derive(Debug)]
pub(super) struct List<T, const N: usize>(pub(super) Vec<T, N>);

impl<T, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for List<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const N: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
            type Value = List<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = List::default();
                while let Some(item) = seq.next_element()? {
                    list.0.push(item).map_err(|_| A::Error::custom("too long"))?;
                }
                Ok(list)
            }
        }

        deserializer.deserialize_seq(Items(PhantomData))
    }
}
