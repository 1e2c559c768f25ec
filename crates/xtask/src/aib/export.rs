//! A board file as a manifest's part, and as the drop-ins that
//! automotive-image-builder writes from it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use plimsoll_core::board::Board;

use super::yaml::{self, Node, Value, scalar};
use super::{Entries, FS_UUID, HIGH, MAX, QM_VAR_FS_UUID, SHARED, Syntax, nested};
use crate::board;

/// Values that QM, or an image of automotive-image-builder, has anyway: nothing
/// is lost where the manifest can't say them.
const ANYWAY: [(&str, &str); 12] = [
    (FS_UUID, QM_VAR_FS_UUID),
    ("image.partitions.var_qm.label", "\"qm_var\""),
    ("image.partitions.var_qm.fstype", "\"ext4\""),
    ("qm.unit", "\"qm.service\""),
    ("qm.cgroup", "\"/qm.service\""),
    ("qm.memory_limit.min", "\"0\""),
    ("qm.memory_limit.low", "\"0\""),
    ("qm.memory_limit.swap_max", "\"0\""),
    ("qm.oom_score_adj", "500"),
    ("host.oom_score_adj", "-1000"),
    ("handoff.init", "\"/sbin/init\""),
    ("handoff.oom_score_adj", "0"),
];

/// systemd's timeouts in an image that isn't built for debugging.
const TIMEOUT: &str = "30s";
const QUADLET: &str = "usr/share/containers/systemd/qm.container.d/10-automotive.conf";
const MANAGER: &str = "usr/lib/systemd/system.conf.d/10-automotive.conf";
const SLICES: [&str; 2] = ["system.slice", "user.slice"];

/// What came of a board file.
#[derive(Debug)]
pub struct Exported {
    /// The manifest's part, as YAML.
    pub manifest: String,
    /// What the manifest has not from the board file, or the board file's that
    /// it has not: each with its path.
    pub notes: Vec<String>,
    max: String,
    high: String,
    cpu_weight: String,
    oom_protection: bool,
    memory_min_bytes: Option<u64>,
}

/// Makes a manifest's part of the board file `text`, which is at `path`.
///
/// # Errors
/// The board file's faults.
pub fn export(path: &Path, text: &str) -> Result<Exported> {
    let (board, faults) = board::read(text);
    if !faults.is_empty() {
        bail!("{}", board::describe(path, &faults));
    }
    // JSON is YAML.
    let root = yaml::read(text)
        .map_err(|refused| anyhow::anyhow!("{}", refused.why))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut writer = Writer::default();
    writer.object("", &root);
    Ok(writer.finish(&board))
}

#[derive(Default)]
struct Writer {
    shared: Entries,
    notes: Vec<String>,
}

impl Writer {
    fn object(&mut self, path: &str, node: &Node) {
        let Value::Mapping(entries) = &node.value else { return self.value(path, node) };
        for (key, value) in entries {
            let dot = if path.is_empty() { "" } else { "." };
            self.object(&format!("{path}{dot}{}", key.name), value);
        }
    }

    fn value(&mut self, path: &str, node: &Node) {
        let json = node.json();
        if SHARED.contains(&path) {
            let written = match &node.value {
                Value::Text(text) => scalar(text),
                _ => json,
            };
            self.shared.push((path.into(), written));
        } else if !ANYWAY.contains(&(path, &json)) {
            let found = match node.value {
                Value::Sequence(len) => format!("an array of {len}"),
                _ => json,
            };
            self.notes.push(format!("{path}: {found}, not in a manifest"));
        }
    }

    fn get(&self, path: &str) -> Option<String> {
        self.shared.iter().find(|(given, _)| given == path).map(|(_, value)| value.clone())
    }

    fn finish(mut self, board: &Board<'_>) -> Exported {
        let max = self.get(MAX).unwrap_or_else(|| {
            let max = board.qm.memory_max.to_string();
            self.shared.push((MAX.into(), scalar(&max)));
            self.notes.push(format!(
                "{MAX}: set to {max}, which the board file means without it; the manifest's would be infinity"
            ));
            max
        });
        let unquoted = |value: String| value.trim_matches('"').to_owned();
        let or = |path: &str, default: &str| self.get(path).unwrap_or_else(|| default.into());
        Exported {
            max: unquoted(max),
            high: unquoted(or(HIGH, "infinity")),
            cpu_weight: unquoted(or("qm.cpu_weight", "idle")),
            oom_protection: board.host.oom_score_adj.is_some(),
            memory_min_bytes: board.host.memory_min_bytes,
            manifest: nested(&self.shared, Syntax::Yaml),
            notes: self.notes,
        }
    }
}

impl Exported {
    /// The Quadlet drop-in of qm.container.
    #[must_use]
    pub fn quadlet(&self, package_mode: bool) -> String {
        let Self { max, high, cpu_weight, .. } = self;
        let writable = if package_mode { "ReadOnly=false\n" } else { "" };
        format!(
            "[Service]\nMemoryMax={max}\nMemoryHigh={high}\nCPUWeight={cpu_weight}\n\n[Container]\n{writable}"
        )
    }

    /// All the drop-ins: paths below the root, and contents.
    #[must_use]
    pub fn drop_ins(&self, package_mode: bool) -> Vec<(String, String)> {
        let timeouts = ["TimeoutStart", "TimeoutStop", "TimeoutAbort", "Restart", "DeviceTimeout"];
        let mut manager = String::from("[Manager]\n");
        for timeout in timeouts {
            manager += &format!("Default{timeout}Sec={TIMEOUT}\n");
        }
        if self.oom_protection {
            manager += "DefaultOOMScoreAdjust=-1000\n";
        }
        let mut files =
            vec![(QUADLET.into(), self.quadlet(package_mode)), (MANAGER.into(), manager)];
        if let Some(bytes) = self.memory_min_bytes {
            for slice in SLICES {
                let path = format!("usr/lib/systemd/system/{slice}.d/10-automotive.conf");
                let text = format!("[Slice]\nMemoryMin={bytes}\nDefaultMemoryMin={bytes}\n");
                files.push((path, text));
            }
        }
        files
    }
}
