//! Kernels and busybox out of Debian's packages, without installing them.
//!
//! A suite is named, never a version. Which version it has is asked at most
//! once a day; without a network what was unpacked before is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::apt::{Apt, Package};
use crate::arch::Arch;
use crate::cache;
use crate::progress::Steps;

/// How long a suite's version counts as known: Debian publishes four times a
/// day, a kernel about once in two weeks.
const RESOLVED_FOR: Duration = Duration::from_hours(24);

/// What kernel packages are made of: metapackages name the image, and newer
/// images are split into binary, modules and base.
const KERNEL_PARTS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];

/// A Debian suite whose kernel boards boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Suite {
    /// Debian 12
    Bookworm,
    /// Debian 13
    Trixie,
    /// the rolling one
    Sid,
}

impl Suite {
    /// Its name in the archive.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The image that QEMU boots.
    pub image: PathBuf,
    /// The directory with its modules and modules.builtin.
    pub modules: PathBuf,
}

/// One of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// For virtual machines.
    Cloud,
    /// With pages of 16 KiB, for aarch64, from trixie on.
    Pages16k,
}

/// A kernel, unpacked.
pub fn kernel(suite: Suite, flavour: Flavour, arch: Arch, steps: Steps) -> Result<Kernel> {
    let package = match flavour {
        Flavour::Cloud => format!("linux-image-cloud-{}", arch.debian()),
        Flavour::Pages16k => format!("linux-image-{}-16k", arch.debian()),
    };
    let root = unpacked(&package, Needs::Of(&KERNEL_PARTS), suite, arch, steps)?;
    find_kernel(&root).with_context(|| format!("no kernel in {}", root.display()))
}

/// busybox, static. One version for all kernels: it is not what is tested.
pub fn busybox(arch: Arch, steps: Steps) -> Result<PathBuf> {
    let root = unpacked("busybox-static", Needs::Of(&[]), Suite::Bookworm, arch, steps)?;
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| root.join(place));
    places.into_iter().find(|p| p.is_file()).context("no busybox in Debian's busybox-static")
}

/// Prometheus's own check of metrics, for this machine.
pub fn promtool(steps: Steps) -> Result<PathBuf> {
    let arch = Arch::of_host().context("promtool is there for x86_64 and aarch64")?;
    let promtool = unpacked("prometheus", Needs::Of(&[]), Suite::Bookworm, arch, steps)?
        .join("usr/bin/promtool");
    promtool.is_file().then_some(promtool).context("no promtool in Debian's prometheus")
}

/// Which of the packages that one depends on are unpacked with it.
#[derive(Clone, Copy, Debug)]
pub enum Needs<'a> {
    /// Those whose names begin with one of these.
    Of(&'a [&'a str]),
    /// All of them, as apt would install them.
    All,
}

/// The directory with the package's files and those of the packages it needs.
pub fn unpacked(
    package: &str,
    needs: Needs<'_>,
    suite: Suite,
    arch: Arch,
    steps: Steps,
) -> Result<PathBuf> {
    let suite = suite.name();
    let stamp = cache::root()?.join(format!("resolved/{suite}-{arch}-{package}"));
    if cache::is_fresh(&stamp, RESOLVED_FOR)
        && let Some(dir) = resolved(&stamp)
    {
        return Ok(dir);
    }
    let _lock = cache::lock(&format!("apt-{suite}-{arch}"))?;
    if cache::is_fresh(&stamp, RESOLVED_FOR)
        && let Some(dir) = resolved(&stamp)
    {
        return Ok(dir);
    }
    let fetched = steps.run(format!("package {package} of {suite} for {arch}"), || {
        fetch(package, needs, suite, arch, &stamp)
    });
    fetched.or_else(|error| {
        let dir = resolved(&stamp).ok_or(error)?;
        steps.say(format_args!("no answer from the archive: {package} as it was last unpacked"));
        Ok(dir)
    })
}

/// The directory that a stamp names, if it is there.
fn resolved(stamp: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(stamp).ok()?;
    let dir = packages_dir().ok()?.join(name);
    dir.is_dir().then_some(dir)
}

fn fetch(
    package: &str,
    needs: Needs<'_>,
    suite: &str,
    arch: Arch,
    stamp: &Path,
) -> Result<PathBuf> {
    let apt = Apt::update(suite, arch)?;
    let packages = match needs {
        Needs::Of(parts) => closure(&apt, package, parts)?,
        Needs::All => vec![apt.show(package)?],
    };
    let first = packages.first().context("a closure holds at least its start")?;
    // Of a kernel's metapackage, the version is that of the kernel and its build.
    let name = format!("{}_{}_{}", first.name, first.version.replace(':', "%3a"), arch.debian());
    let dir = packages_dir()?.join(&name);
    cache::dir(&dir, |into| match needs {
        Needs::Of(_) => packages.iter().try_for_each(|p| apt.unpack(&p.name, into)),
        Needs::All => apt.unpack_all(package, into),
    })?;
    cache::write(stamp, name.as_bytes())?;
    Ok(dir)
}

/// The package and those of its dependencies, at any depth, that are `parts`.
fn closure(apt: &Apt, package: &str, parts: &[&str]) -> Result<Vec<Package>> {
    let mut found: Vec<Package> = Vec::new();
    let mut wanted = vec![package.to_string()];
    while let Some(name) = wanted.pop() {
        if found.iter().any(|p| p.name == name) {
            continue;
        }
        let package = apt.show(&name)?;
        let followed = |name: &&String| parts.iter().any(|prefix| name.starts_with(prefix));
        wanted.extend(package.depends.iter().filter(followed).cloned());
        found.push(package);
    }
    Ok(found)
}

fn packages_dir() -> Result<PathBuf> {
    Ok(cache::root()?.join("packages"))
}

/// Kernels lie in boot/ or beside their modules, modules in lib/ or usr/lib/.
fn find_kernel(root: &Path) -> Option<Kernel> {
    let bases = ["lib/modules", "usr/lib/modules"].map(|base| root.join(base));
    let releases = bases.iter().flat_map(fs::read_dir).flatten().flatten();
    for modules in releases.map(|entry| entry.path()) {
        let release = modules.file_name()?.to_str()?.to_string();
        let images = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
        if let Some(image) = images.into_iter().find(|image| image.is_file()) {
            return Some(Kernel { release, image, modules });
        }
    }
    None
}
