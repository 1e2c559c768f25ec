//! A manifest as a board file.

use std::collections::HashSet;
use std::rc::Rc;

use plimsoll_core::board::keys;

use super::yaml::{self, Key, Node, Place, Value, quoted};
use super::{
    Entries, FS_UUID, Fault, HIGH, MAX, QM_VAR_FS_UUID, SHARED, Syntax, VAR, VAR_QM, nested,
};
use crate::board;

/// Other keys that a manifest may have, by the object that they are in.
const MANIFEST: [(&str, &[&str]); 4] = [
    ("", &["version", "target", "content", "network", "auth", "kernel", "experimental"]),
    ("qm", &["content", "container_checksum", "user_namespaces"]),
    (
        "image",
        &[
            "sealed",
            "selinux_mode",
            "selinux_policy",
            "selinux_booleans",
            "hostname",
            "ostree_ref",
            "boot_checks",
            "disable_gettys",
        ],
    ),
    (
        "image.partitions",
        &["root", "aboot", "ukiboot", "ukibootctl", "boot", "efi", "vbmeta", "sbl"],
    ),
];
/// The same of /var's partition, whose device plimsoll leaves to others.
const MANIFEST_VAR: &[&str] = &["external", "uuid"];
/// Objects in which a key that isn't known may be meant to limit QM or to give
/// it a partition, so that it is a fault.
const CLOSED: [&str; 4] = ["qm.memory_limit", "image.partitions", VAR, VAR_QM];
/// Letters of a name for each that may be wrong in a misspelt one, and at most
/// so many wrong: `hihg`, `var_qn`, `relativ_sise`.
const LETTERS_PER_MISTAKE: usize = 3;
const MISTAKES_MAX: usize = 2;
/// Longest name that is compared with others, in bytes.
const NAME_MAX: usize = 64;

/// What came of a manifest.
#[derive(Debug)]
pub struct Imported {
    /// The board file's text, free of faults.
    pub board: String,
    /// What the board file has not from the manifest, or the manifest's that it
    /// has not: each with its path.
    pub notes: Vec<String>,
}

/// Makes a board file of a manifest's text. `name` goes before the manifest's.
///
/// # Errors
/// All that is wrong with the manifest, in the order of the file.
pub fn import(text: &str, name: Option<&str>) -> Result<Imported, Vec<Fault>> {
    let root = yaml::read(text)
        .map_err(|refused| vec![Fault { place: refused.place, text: refused.why }])?;
    let mut reader = Reader::default();
    reader.object("", &root);
    let made = reader.board(name);
    let board = nested(&made, Syntax::Json);
    let (_, faults) = board::read(&board);
    for fault in faults.iter() {
        if reader.is_at_fault(&fault.path) {
            continue;
        }
        let found = match &*fault.value {
            "" | "{" => "nothing",
            value => value,
        };
        let string = if reader.lacks_quotes(&fault.path) { "a string, " } else { "" };
        let text = format!("found {found}, allowed is {string}{}", fault.allowed);
        reader.refuse_at(&fault.path, text);
    }
    if faults.more() > 0 {
        reader.refuse_at("", format!("{} faults more", faults.more()));
    }
    if reader.faults.is_empty() {
        return Ok(Imported { board, notes: reader.notes });
    }
    reader.faults.sort_by_key(|fault| (fault.place.line, fault.place.column));
    Err(reader.faults)
}

#[derive(Default)]
struct Reader {
    /// Values of [`SHARED`] keys.
    taken: Vec<(&'static str, Rc<Node>)>,
    /// Where what stands at a path begins.
    places: Vec<(String, Place)>,
    notes: Vec<String>,
    faults: Vec<Fault>,
}

impl Reader {
    /// Reads an object that has shared keys somewhere below it.
    fn object(&mut self, path: &str, node: &Node) {
        self.places.push((path.into(), node.place));
        let Value::Mapping(entries) = &node.value else {
            return self.refuse_at(path, format!("found {}, allowed is an object", node.json()));
        };
        let mut names = HashSet::new();
        for (key, value) in entries {
            let below =
                if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
            if key.name == "<<" {
                self.refuse(key.place, &below, "merging is not read here, allowed are keys".into());
            } else if !names.insert(&key.name) {
                self.refuse(key.place, &below, "given twice, allowed is once".into());
            } else if let Some(shared) = SHARED.iter().find(|shared| **shared == below) {
                if let Value::Odd(odd) = &value.value {
                    let text =
                        format!("found {odd}, allowed is a decimal number, or a string in quotes");
                    self.refuse(value.place, &below, text);
                }
                self.places.push((below, value.place));
                self.taken.push((shared, Rc::clone(value)));
            } else if shared_below(&below).next().is_some() {
                self.object(&below, value);
            } else if known(path).any(|known| known == key.name) {
                self.leave(&below, value);
                self.places.push((below, value.place));
            } else {
                self.unknown(path, &below, key);
            }
        }
    }

    /// Notes what a board file can't say, one level down at most.
    fn leave(&mut self, path: &str, node: &Node) {
        let path = path.escape_debug();
        match &node.value {
            Value::Mapping(entries) if !entries.is_empty() => {
                for (key, _) in entries {
                    let name = key.name.escape_debug();
                    self.notes.push(format!("{path}.{name}: not in a board file"));
                }
            }
            _ => self.notes.push(format!("{path}: not in a board file")),
        }
    }

    fn unknown(&mut self, parent: &str, path: &str, key: &Key) {
        let mut allowed: Vec<&str> = Vec::new();
        for below in shared_below(parent) {
            let name = below.split('.').next().unwrap_or(below);
            if !allowed.contains(&name) {
                allowed.push(name);
            }
        }
        allowed.extend(known(parent));
        let distance = |name: &str| strsim::osa_distance(name, &key.name);
        let near =
            allowed.iter().filter(|_| key.name.len() <= NAME_MAX).min_by_key(|name| distance(name));
        let near = near.filter(|name| {
            distance(name) <= (name.len() / LETTERS_PER_MISTAKE).clamp(1, MISTAKES_MAX)
        });
        if let Some(near) = near {
            self.refuse(key.place, path, format!("unknown key, did you mean {near}?"));
        } else if CLOSED.contains(&parent) {
            let allowed = allowed.join(", ");
            self.refuse(key.place, path, format!("unknown key, allowed are {allowed}"));
        } else {
            self.notes
                .push(format!("{}: not known here, not in a board file", path.escape_debug()));
        }
    }

    /// What the board file says, with what the manifest means where it says
    /// nothing.
    fn board(&mut self, name: Option<&str>) -> Entries {
        let has_qm = self.has("qm");
        let mut made = Entries::new();
        match name {
            Some(name) => made.push(("name".into(), quoted(name))),
            None if self.has("name") => {}
            None => self.refuse_at(
                "name",
                "found nothing, allowed is 1 to 55 bytes; or give --name".into(),
            ),
        }
        for (path, node) in &self.taken {
            if *path == "name" && name.is_some() {
                continue;
            }
            if path.starts_with(VAR_QM) && !has_qm {
                self.notes.push(format!("{path}: without qm there is no such partition"));
                continue;
            }
            made.push(((*path).into(), node.json()));
        }
        let mut meant: Vec<(String, &str, &str)> = Vec::new();
        if has_qm {
            let why = "which the manifest means without it: QM may take all memory";
            meant.push((MAX.into(), "\"infinity\"", why));
            let why = "which the manifest means without it";
            meant.push((HIGH.into(), "\"infinity\"", why));
        } else {
            let why = "which the manifest means without qm";
            meant.extend(
                ["oom", "reclaim"].map(|protection| {
                    (format!("image.enable_{protection}_protection"), "false", why)
                }),
            );
        }
        let var_has = |key| self.has(&format!("{VAR}.{key}"));
        if self.has(VAR) && !var_has("size") && !var_has("external") {
            let why = "automotive-image-builder's default where var is given";
            meant.push((format!("{VAR}.relative_size"), "0.3", why));
        }
        let has_size = |(path, value): &(String, String)| {
            path.starts_with(VAR_QM)
                && (value == "true"
                    || path.ends_with("size") && value.contains(|c| c > '0' && c <= '9'))
        };
        if made.iter().any(has_size) {
            let why = "by which automotive-image-builder mounts it";
            meant.push((FS_UUID.into(), QM_VAR_FS_UUID, why));
        }
        if has_qm {
            let why = "the unit of automotive-image-builder's QM";
            meant.push(("qm.unit".into(), "\"qm.service\"", why));
        }
        for (path, value, why) in meant {
            if made.iter().all(|(given, _)| *given != path) {
                self.notes.push(format!("{path}: set to {value}, {why}"));
                made.push((path, value.into()));
            }
        }
        let place = |path: &str| SHARED.iter().position(|shared| *shared == path);
        made.sort_by_key(|(path, _)| place(path).unwrap_or(SHARED.len()));
        made
    }

    fn has(&self, path: &str) -> bool {
        self.places.iter().any(|(given, _)| given == path)
    }

    /// Whether there is a fault of what stands at `path` or below, which may be
    /// why it is found at fault again.
    fn is_at_fault(&self, path: &str) -> bool {
        let within = |fault: &Fault| {
            fault.text.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', ':']))
        };
        self.faults.iter().any(within)
    }

    /// Whether YAML makes of the value at `path` something else than the string
    /// that it has to be.
    fn lacks_quotes(&self, path: &str) -> bool {
        let is_string = keys::all().any(|key| key.path == path && key.kind.name() == "string");
        let is_text = |node: &Node| matches!(node.value, Value::Text(_));
        is_string && self.taken.iter().any(|(taken, node)| *taken == path && !is_text(node))
    }

    /// A fault of what stands at `path`, or of what should hold it.
    fn refuse_at(&mut self, path: &str, text: String) {
        let mut above = path;
        let place = loop {
            if let Some((_, place)) = self.places.iter().find(|(given, _)| given == above) {
                break *place;
            }
            above = match above.rsplit_once('.') {
                Some((above, _)) => above,
                None if !above.is_empty() => "",
                None => break Place { line: 1, column: 1 },
            };
        };
        self.refuse(place, path, text);
    }

    fn refuse(&mut self, place: Place, path: &str, text: String) {
        let colon = if path.is_empty() { "" } else { ": " };
        self.faults.push(Fault { place, text: format!("{}{colon}{text}", path.escape_debug()) });
    }
}

/// Shared keys below `path`, without it.
fn shared_below(path: &str) -> impl Iterator<Item = &'static str> + '_ {
    SHARED.iter().filter_map(move |shared| {
        if path.is_empty() { Some(*shared) } else { shared.strip_prefix(path)?.strip_prefix('.') }
    })
}

/// Other names that the manifest's object at `path` may have.
fn known(path: &str) -> impl Iterator<Item = &'static str> + '_ {
    let var = if path == VAR { MANIFEST_VAR } else { &[] };
    let names = MANIFEST.iter().filter(move |(object, _)| *object == path);
    names.flat_map(|(_, names)| *names).chain(var).copied()
}
