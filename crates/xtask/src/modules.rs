//! The modules of a kernel package that a board names.
//!
//! Nothing is run: what a module depends on is read from its ELF section
//! `.modinfo`, what is built in from the package's modules.builtin.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};

use crate::packages::Kernel;

/// What goes into /lib/modules/RELEASE of an image.
#[derive(Debug, Default)]
pub struct Modules {
    /// File name and content, in the order to load.
    pub files: Vec<(String, Vec<u8>)>,
    /// modules.builtin with flat names.
    pub builtin: String,
}

/// The modules called `wanted`, checked: each is a module or built in, and what
/// it depends on comes before it. A board names what its kernels need together;
/// what this one has built in is left out.
pub fn select<'a>(kernel: &Kernel, wanted: impl Iterator<Item = &'a str>) -> Result<Modules> {
    let mut there = BTreeMap::new();
    index(&kernel.modules, &mut there)?;
    let builtin = builtin(&kernel.modules)?;
    let mut before = BTreeSet::new();
    let mut modules = Modules::default();
    // A path names a file that the image has of its own.
    for name in wanted.filter(|name| !name.starts_with('/')).map(normal) {
        let Some(path) = there.get(&name) else {
            if builtin.contains(&name) {
                continue;
            }
            bail!("kernel {} has no module {name}", kernel.release);
        };
        let content = read(path)?;
        for needed in depends(&content).with_context(|| format!("in {}", path.display()))? {
            if !before.contains(&needed) && !builtin.contains(&needed) {
                bail!("in kernel {}, module {name} needs {needed} before it", kernel.release);
            }
        }
        modules.files.push((format!("{name}.ko"), content));
        before.insert(name);
    }
    modules.builtin = builtin.iter().map(|name| format!("{name}.ko\n")).collect();
    Ok(modules)
}

/// The kernel takes '-' and '_' for the same.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// Module name of a path like `kernel/fs/ext4/ext4.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?;
    Some(normal(name))
}

fn index(dir: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            index(&entry.path(), found)?;
        } else if let Some(name) = module_name(&entry.path()) {
            found.insert(name, entry.path());
        }
    }
    Ok(())
}

fn builtin(dir: &Path) -> Result<BTreeSet<String>> {
    let path = dir.join("modules.builtin");
    let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    Ok(text.lines().filter_map(|line| module_name(Path::new(line))).collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(content);
    }
    let mut plain = Vec::new();
    lzma_rust2::XzReader::new(content.as_slice(), true)
        .read_to_end(&mut plain)
        .with_context(|| format!("cannot decompress {}", path.display()))?;
    Ok(plain)
}

/// The value of `depends=` in a module's `.modinfo`.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let elf: ElfFile64 = ElfFile64::parse(module)?;
    let section = elf.section_by_name(".modinfo").context("no section .modinfo")?;
    Ok(parse_depends(section.data()?))
}

fn parse_depends(modinfo: &[u8]) -> Vec<String> {
    let strings = modinfo.split(|byte| *byte == 0).filter_map(|s| str::from_utf8(s).ok());
    let values = strings.filter_map(|s| s.strip_prefix("depends="));
    values.flat_map(|v| v.split(',')).filter(|v| !v.is_empty()).map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = |path| module_name(Path::new(path));
        assert_eq!(name("kernel/a/crc32c-intel.ko.xz").as_deref(), Some("crc32c_intel"));
        assert_eq!(name("kernel/fs/ext4.ko").as_deref(), Some("ext4"));
        assert_eq!(name("modules.builtin"), None);
    }

    #[test]
    fn depends_of_modinfo() {
        let modinfo = b"license=GPL\0depends=virtio,virtio-ring\0vermagic=6.1\0\xff\0";
        assert_eq!(parse_depends(modinfo), ["virtio", "virtio_ring"]);
        assert!(parse_depends(b"depends=\0").is_empty());
        assert!(parse_depends(b"").is_empty());
    }
}
