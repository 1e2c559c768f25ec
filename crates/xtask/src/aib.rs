//! automotive-image-builder's manifests: `cargo xtask import` makes a board file
//! of one, `cargo xtask export` makes of a board file the manifest's part and
//! the drop-ins that automotive-image-builder writes from it. What one side
//! cannot say is listed.
//!
//! What is said of automotive-image-builder holds for its main branch of May
//! 2026.

mod export;
mod import;
#[cfg(test)]
mod tests;
mod yaml;

use std::fmt;

pub use self::export::{Exported, export};
pub use self::import::{Imported, import};
use self::yaml::Place;

/// Keys that a manifest and a board file share, name, values and meaning.
const SHARED: [&str; 14] = [
    "name",
    "qm.memory_limit.max",
    "qm.memory_limit.high",
    "qm.cpu_weight",
    "image.image_size",
    "image.enable_oom_protection",
    "image.enable_reclaim_protection",
    "image.cg_memory_min",
    "image.partitions.var.relative_size",
    "image.partitions.var.size",
    "image.partitions.var_qm.relative_size",
    "image.partitions.var_qm.size",
    "image.partitions.var_qm.external",
    "image.partitions.var_qm.uuid",
];
const MAX: &str = "qm.memory_limit.max";
const HIGH: &str = "qm.memory_limit.high";
const VAR: &str = "image.partitions.var";
const VAR_QM: &str = "image.partitions.var_qm";
const FS_UUID: &str = "image.partitions.var_qm.fs_uuid";
/// UUID of the file system in every qm_var partition that
/// automotive-image-builder makes; its var-qm.mount goes by it.
const QM_VAR_FS_UUID: &str = "\"e241b638-7301-406c-b11f-d538be5211a6\"";

/// What is wrong with a manifest, and where.
#[derive(Debug)]
pub struct Fault {
    place: Place,
    text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place: Place { line, column }, text } = self;
        write!(f, "{line}:{column}: {text}")
    }
}

/// Paths of keys with their values, each written in the syntax that is wanted.
type Entries = Vec<(String, String)>;

/// How nested keys are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Syntax {
    Json,
    Yaml,
}

/// Writes `entries` as nested objects, names in the order in which they come
/// first.
fn nested(entries: &[(String, String)], syntax: Syntax) -> String {
    let entries: Vec<_> = entries.iter().map(|(path, value)| (&**path, &**value)).collect();
    match syntax {
        Syntax::Json => level(&entries, syntax, 0) + "\n",
        Syntax::Yaml => level(&entries, syntax, 0),
    }
}

fn level(entries: &[(&str, &str)], syntax: Syntax, depth: usize) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (path, _) in entries {
        let name = path.split('.').next().unwrap_or(path);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut lines = Vec::new();
    for name in names {
        let below: Vec<_> = entries
            .iter()
            .filter_map(|(path, value)| Some((path.strip_prefix(name)?.strip_prefix('.')?, *value)))
            .collect();
        let value = entries.iter().find(|(path, _)| *path == name).map(|(_, value)| *value);
        let value = value.map_or_else(|| level(&below, syntax, depth + 1), Into::into);
        lines.push(match syntax {
            Syntax::Json => format!("{}\"{name}\": {value}", "    ".repeat(depth + 1)),
            Syntax::Yaml if below.is_empty() => format!("{}{name}: {value}\n", "  ".repeat(depth)),
            Syntax::Yaml => format!("{}{name}:\n{value}", "  ".repeat(depth)),
        });
    }
    match syntax {
        Syntax::Json => format!("{{\n{}\n{}}}", lines.join(",\n"), "    ".repeat(depth)),
        Syntax::Yaml => lines.concat(),
    }
}
