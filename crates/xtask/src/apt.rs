//! Debian packages of any suite and architecture, through a private apt
//! configuration: nothing of the machine's own apt is changed, and no right of
//! root is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::{cache, command};

/// Names that tell Debian's archive from others in the machine's sources.
const DEBIAN_SUITES: [&str; 8] =
    ["stable", "testing", "unstable", "bullseye", "bookworm", "trixie", "forky", "sid"];

/// One suite for one architecture.
pub struct Apt {
    dir: PathBuf,
    arch: Arch,
}

/// What the archive says of a package.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Names of the packages it depends on, first alternatives only.
    pub depends: Vec<String>,
}

impl Apt {
    /// Fetches the package lists of `suite`, its security updates included
    /// where the machine's own sources have such.
    pub fn update(suite: &str, arch: Arch) -> Result<Self> {
        let dir = cache::root()?.join(format!("apt/{suite}-{arch}"));
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part))?;
        }
        fs::write(dir.join("status"), "")?;
        let apt = Self { dir, arch };
        let own = own_sources();
        let main = own.iter().find(|s| s.has_suite(""));
        let main = main.context("apt's sources in /etc/apt name no archive of Debian: add one")?;
        let security = own.iter().find(|s| s.has_suite("-security")).filter(|_| suite != "sid");

        let plain = main.stanza(suite, arch);
        let all =
            security.map(|s| format!("{plain}\n{}", s.stanza(&format!("{suite}-security"), arch)));
        if let Some(all) = all
            && apt.fetch_lists(&all).is_ok()
        {
            return Ok(apt);
        }
        apt.fetch_lists(&plain)?;
        Ok(apt)
    }

    fn fetch_lists(&self, sources: &str) -> Result<()> {
        fs::write(self.sources(), sources)?;
        let mut update = self.command("apt-get");
        command::output(update.args(["-oAPT::Update::Error-Mode=any", "-q", "update"]))?;
        Ok(())
    }

    /// The newest version of a package.
    pub fn show(&self, package: &str) -> Result<Package> {
        let text = command::output(self.command("apt-cache").args([
            "--no-all-versions",
            "show",
            package,
        ]))?;
        parse_package(&text).with_context(|| format!("no package {package}"))
    }

    /// Downloads a package and unpacks it into `into`, running nothing of it.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let downloads = tempfile::tempdir_in(&self.dir)?;
        let mut download = self.command("apt-get");
        download.current_dir(downloads.path()).args(["-q", "download", package]);
        command::output(&mut download)?;
        unpack_from(downloads.path(), into)
    }

    /// Downloads a package and all that it depends on, recommended ones left out,
    /// and unpacks them into `into`, running nothing of them.
    pub fn unpack_all(&self, package: &str, into: &Path) -> Result<()> {
        let downloads = tempfile::tempdir_in(&self.dir)?;
        fs::create_dir(downloads.path().join("partial"))?;
        let mut install = self.command("apt-get");
        install.arg(format!("-oDir::Cache::archives={}", downloads.path().display()));
        // dpkg's own lock is of no use here, and root's.
        install.args(["-oDebug::NoLocking=true", "-q", "--yes", "--download-only"]);
        command::output(install.args(["--no-install-recommends", "install", package]))?;
        unpack_from(downloads.path(), into)
    }

    /// The file that names the archive for apt.
    #[must_use]
    pub fn sources(&self) -> PathBuf {
        self.dir.join("debian.sources")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let dir = self.dir.display();
        let arch = self.arch.debian();
        command.env("LC_ALL", "C");
        command.arg(format!("-oDir::Etc::sourcelist={}", self.sources().display()));
        command.arg("-oDir::Etc::sourceparts=-");
        command.arg("-oDir::Etc::preferencesparts=-");
        command.arg(format!("-oDir::State::Lists={dir}/lists"));
        command.arg(format!("-oDir::State::status={dir}/status"));
        command.arg(format!("-oDir::Cache={dir}/cache"));
        command.args(["-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache="]);
        command.arg(format!("-oAPT::Architecture={arch}"));
        command.arg(format!("-oAPT::Architectures={arch}"));
        // apt's own user cannot write into our directories.
        command.args(["-oAPT::Sandbox::User=root", "-oAcquire::Languages=none"]);
        command
    }
}

/// Unpacks all packages of a directory.
fn unpack_from(downloads: &Path, into: &Path) -> Result<()> {
    for entry in fs::read_dir(downloads)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            command::output(Command::new("dpkg-deb").arg("-x").arg(path).arg(into))?;
        }
    }
    Ok(())
}

/// Where packages come from: one line or stanza of apt's sources.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    /// A keyring's path, or the key itself.
    signed_by: Option<String>,
}

impl Source {
    fn has_suite(&self, suffix: &str) -> bool {
        let is_debian = |suite: &String| {
            suite.strip_suffix(suffix).is_some_and(|base| DEBIAN_SUITES.contains(&base))
        };
        self.suites.iter().any(is_debian)
    }

    fn stanza(&self, suite: &str, arch: Arch) -> String {
        let signed_by = self.signed_by.as_ref().map(|key| format!("Signed-By: {key}\n"));
        format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nArchitectures: {}\n\
             Targets: Packages\n{}",
            self.uri,
            arch.debian(),
            signed_by.unwrap_or_default()
        )
    }
}

/// The machine's own sources, as far as they can be read.
fn own_sources() -> Vec<Source> {
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    paths.extend(parts.map(|entry| entry.path()));
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        match path.extension().and_then(|e| e.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(parse_line)),
            Some("sources") => sources.extend(stanzas(&text).iter().filter_map(parse_stanza)),
            _ => {}
        }
    }
    sources
}

/// `deb [signed-by=KEY] URI SUITE COMPONENT...`
fn parse_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let signed_by = options.split_whitespace().find_map(|o| o.strip_prefix("signed-by="));
    Some(Source {
        uri: uri.into(),
        suites: vec![suite.into()],
        signed_by: signed_by.map(Into::into),
    })
}

fn parse_stanza(fields: &Stanza) -> Option<Source> {
    if !field(fields, "Types")?.split_whitespace().any(|word| word == "deb")
        || field(fields, "Enabled").is_some_and(|word| word == "no")
    {
        return None;
    }
    Some(Source {
        uri: field(fields, "URIs")?.split_whitespace().next()?.into(),
        suites: field(fields, "Suites")?.split_whitespace().map(Into::into).collect(),
        signed_by: field(fields, "Signed-By").map(Into::into),
    })
}

fn parse_package(text: &str) -> Option<Package> {
    let stanzas = stanzas(text);
    let fields = stanzas.first()?;
    let depends = field(fields, "Depends").unwrap_or_default();
    let depends = depends.split(',').filter_map(|d| d.split_whitespace().next());
    Some(Package {
        name: field(fields, "Package")?.into(),
        version: field(fields, "Version")?.into(),
        depends: depends.map(Into::into).collect(),
    })
}

/// Fields in their order: name and value.
type Stanza = Vec<(String, String)>;

/// Debian's control format: `Name: value` lines, continued on indented lines,
/// stanzas apart by empty lines, comments with '#'.
fn stanzas(text: &str) -> Vec<Stanza> {
    let mut stanzas = vec![Stanza::new()];
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            stanzas.push(Stanza::new());
        } else if let Some(fields) = stanzas.last_mut() {
            if line.starts_with(char::is_whitespace) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.to_string(), value.trim().to_string()));
            }
        }
    }
    stanzas.retain(|fields| !fields.is_empty());
    stanzas
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let field = fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    field.map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_sources() {
        let source =
            parse_line("deb [arch=amd64 signed-by=/k.gpg] http://m/debian sid main").unwrap();
        assert_eq!(source.uri, "http://m/debian");
        assert_eq!(source.suites, ["sid"]);
        assert_eq!(source.signed_by.as_deref(), Some("/k.gpg"));
        assert!(source.has_suite(""));
        assert_eq!(parse_line("# deb http://m/debian sid main"), None);
        assert_eq!(parse_line("deb-src http://m/debian sid main"), None);
        assert_eq!(parse_line("deb [oops http://m/debian sid main"), None);
    }

    #[test]
    fn deb822_sources() {
        let text = "Types: deb deb-src\n# comment\nURIs: http://m/debian-security\nSuites: bookworm-security\n\
                    Signed-By:\n -----BEGIN\n .\n key\n\n\nTypes: deb-src\nURIs: x\nSuites: sid\n";
        let sources: Vec<_> = stanzas(text).iter().filter_map(parse_stanza).collect();
        assert_eq!(sources.len(), 1);
        assert!(sources[0].has_suite("-security") && !sources[0].has_suite(""));
        assert_eq!(sources[0].signed_by.as_deref(), Some("\n -----BEGIN\n .\n key"));
    }

    #[test]
    fn package() {
        let text =
            "Package: a\nVersion: 1-2\nDepends: b (= 1), c | d,\n e\n\nPackage: old\nVersion: 0\n";
        let depends = ["b", "c", "e"].map(String::from).to_vec();
        assert_eq!(
            parse_package(text),
            Some(Package { name: "a".into(), version: "1-2".into(), depends })
        );
        assert_eq!(parse_package(""), None);
    }
}
