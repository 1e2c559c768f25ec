//! What was downloaded or built once: outside the checkout, shared by all
//! checkouts and safe for several processes at once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

/// The cache directory: `PLIMSOLL_CACHE`, else `$XDG_CACHE_HOME/plimsoll`, else
/// `~/.cache/plimsoll`. Made if it is not there.
pub fn root() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = if let Some(dir) = set("PLIMSOLL_CACHE") {
        dir
    } else if let Some(dir) = set("XDG_CACHE_HOME") {
        dir.join("plimsoll")
    } else if let Some(home) = set("HOME") {
        home.join(".cache/plimsoll")
    } else {
        bail!("no place for the cache: set PLIMSOLL_CACHE or HOME");
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Holds the lock called `name` until the returned file is dropped, waiting for
/// another process that has it.
pub fn lock(name: &str) -> Result<File> {
    let path = root()?.join(format!("{name}.lock"));
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The directory `dir`, filled by `fill` if it is not there yet. It appears
/// complete or not at all.
pub fn dir(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().context("a cache entry has a parent")?;
    fs::create_dir_all(parent)?;
    let temp = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
    let content = temp.path().join("content");
    fs::create_dir(&content)?;
    fill(&content)?;
    fs::rename(&content, dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// Whether `path` is there and was written less than `max_age` ago.
#[must_use]
pub fn is_fresh(path: &Path, max_age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|m| m.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < max_age))
}

/// Replaces the file `path`, atomically.
pub fn write(path: &Path, data: &[u8]) -> Result<()> {
    let parent = path.parent().context("a cache entry has a parent")?;
    fs::create_dir_all(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    std::io::Write::write_all(&mut file, data)?;
    file.persist(path)?;
    Ok(())
}
