//! `cargo xtask deny`: licences of all packages, and packages that may never
//! reach the target.
//!
//! It reads two tables of deny.toml, the file of cargo-deny: `licenses.allow`
//! and `bans.deny`. The bans hold for what the shipped binary is made of;
//! cargo-deny does more, this much needs nothing installed.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::arch::Arch;
use crate::{command, repository};

/// The package that is shipped.
const SHIPPED: &str = "plimsoll";

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// Checks; every violation is a line of the error.
pub fn check() -> Result<()> {
    let text = fs::read_to_string(repository().join("deny.toml")).context("no deny.toml")?;
    let deny: Deny = toml::from_str(&text).context("deny.toml")?;
    let mut wrong = Vec::new();
    for line in tree(&[
        "--workspace",
        "--all-features",
        "--edges=normal,build,dev",
        "--target=all",
        "--format={p}\t{l}",
    ])? {
        let (package, license) = line.split_once('\t').unwrap_or((&line, ""));
        if !is_allowed(license, &deny.licenses.allow) {
            wrong.push(format!("{package}: licence {license:?}"));
        }
    }
    for arch in Arch::ALL {
        for name in shipped(arch)? {
            for ban in deny.bans.deny.iter().filter(|ban| ban.name == name) {
                wrong.push(format!("{SHIPPED} for {arch} contains {name}: {}", ban.reason));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// Names of the packages that the shipped binary is made of: with its features
/// alone, and without what runs on the host, procedural macros and build
/// scripts.
fn shipped(arch: Arch) -> Result<BTreeSet<String>> {
    let target = format!("--target={arch}-unknown-linux-gnu");
    let package = format!("--package={SHIPPED}");
    let lines = tree(&[&package, "--edges=normal,no-proc-macro", &target, "--format={p}"])?;
    Ok(lines.iter().filter_map(|line| line.split_whitespace().next()).map(Into::into).collect())
}

/// The lines of `cargo tree`, each once.
fn tree(args: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = Command::new("cargo");
    command.current_dir(repository()).args(["tree", "--quiet", "--prefix=none", "--no-dedupe"]);
    let output = command::output(command.args(args))?;
    Ok(output.lines().filter(|line| !line.is_empty()).map(Into::into).collect())
}

/// Whether an SPDX expression can be met with the allowed licences. AND binds
/// stronger than OR; parentheses hold one level.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    // "(A OR B) AND C": a group is met as a whole, then stands for a licence.
    if let Some((before, rest)) = expression.split_once('(') {
        let Some((group, after)) = rest.split_once(')') else { return false };
        let met = if is_allowed(group, allowed) { "met" } else { "unmet" };
        let mut allowed = allowed.clone();
        allowed.insert("met".into());
        return is_allowed(&format!("{before}{met}{after}"), &allowed);
    }
    expression.split(" OR ").any(|all| all.split(" AND ").all(|one| allowed.contains(one.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"].map(String::from).into();
        for good in ["MIT", "GPL-2.0 OR MIT", "MIT/Apache-2.0", "(MIT OR GPL-2.0) AND Unicode-3.0"]
        {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-2.0", "MIT AND GPL-2.0", "(GPL-2.0) AND MIT", "(MIT"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
