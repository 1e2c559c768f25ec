//! cgroup2 as the kernel keeps it (Documentation/admin-guide/cgroup-v2.rst):
//! a controller's files exist where the parent has the controller enabled.

extern crate std;

use std::format;
use std::string::String;
use std::vec::Vec;

use super::{CGROUP, EACCES, FakeKernel, is_below, parent};
use crate::kernel::{Errno, Result};

/// A file of a controller, and what it reads when new.
const KNOBS: [(&str, &str); 13] = [
    ("cpu.idle", "0\n"),
    ("cpu.weight", "100\n"),
    ("memory.current", "0\n"),
    ("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n"),
    ("memory.high", "max\n"),
    ("memory.low", "0\n"),
    ("memory.max", "max\n"),
    ("memory.min", "0\n"),
    ("memory.oom.group", "0\n"),
    ("memory.swap.current", "0\n"),
    ("memory.swap.max", "max\n"),
    ("pids.current", "0\n"),
    ("pids.max", "max\n"),
];
/// Controllers of which a process beside child groups isn't allowed.
const DOMAIN: [&str; 2] = ["io", "memory"];
/// Values allowed for pids.max end here: PID_MAX_LIMIT + 1.
const PIDS_MAX: u64 = 4 * 1024 * 1024 + 1;

const ERANGE: Errno = Errno(34);

impl FakeKernel {
    /// Makes the files of a new cgroup; the root has those of the core alone.
    pub(super) fn fill_cgroup(&mut self, dir: &str) {
        let controllers = if dir == CGROUP {
            self.controllers.join(" ")
        } else {
            self.set(&format!("{dir}/cgroup.events"), "populated 0\nfrozen 0\n");
            String::new()
        };
        self.set(&format!("{dir}/cgroup.controllers"), format!("{controllers}\n"));
        self.set(&format!("{dir}/cgroup.subtree_control"), "\n");
        self.set(&format!("{dir}/cgroup.procs"), "");
        if dir != CGROUP {
            for controller in self.words(&format!("{}/cgroup.subtree_control", parent(dir))) {
                self.give(dir, &controller);
            }
        }
    }

    pub(super) fn write_cgroup(&mut self, path: &str, data: &[u8]) -> Result<()> {
        let dir = parent(path);
        let text = core::str::from_utf8(data).map_err(|_| Errno::INVAL)?.trim_ascii();
        let value = match path.rsplit('/').next().unwrap_or_default() {
            "cgroup.subtree_control" => return self.write_subtree_control(dir, text),
            "cgroup.procs" => return self.move_process(dir, text),
            "memory.max" | "memory.high" | "memory.min" | "memory.low" | "memory.swap.max" => {
                self.memory(text)?
            }
            "memory.oom.group" => flag(text)?,
            "pids.max" if text == "max" => "max".into(),
            "pids.max" => within(text, 0..PIDS_MAX, Errno::INVAL)?,
            "cpu.idle" => {
                let idle = flag(text)?;
                // An idle group has the least share, which is no weight; back
                // from idle it has the default.
                let weight = if idle == "1" { "0\n" } else { "100\n" };
                if self.text(path).trim_ascii() != idle {
                    self.set(&format!("{dir}/cpu.weight"), weight);
                }
                idle
            }
            "cpu.weight" => {
                let weight = within(text, 1..10_001, ERANGE)?;
                if self.text(&format!("{dir}/cpu.idle")).trim_ascii() == "1" {
                    return Err(Errno::INVAL);
                }
                weight
            }
            _ => return Err(EACCES),
        };
        self.set(path, value + "\n");
        Ok(())
    }

    /// page_counter_memparse and back: whole pages, and from i64::MAX bytes on
    /// "max".
    fn memory(&self, text: &str) -> Result<String> {
        if text == "max" {
            return Ok("max".into());
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" => 0,
            "K" | "k" => 10,
            "M" | "m" => 20,
            "G" | "g" => 30,
            "T" | "t" => 40,
            _ => return Err(Errno::INVAL),
        };
        let bytes = number(digits)?.saturating_mul(1 << shift);
        let pages = bytes / self.page_size;
        if pages >= i64::MAX.unsigned_abs() / self.page_size {
            return Ok("max".into());
        }
        Ok(format!("{}", pages * self.page_size))
    }

    /// All of it or nothing: EINVAL for what is no controller, ENOENT for one
    /// that isn't available here, EBUSY where processes or children forbid it.
    fn write_subtree_control(&mut self, dir: &str, text: &str) -> Result<()> {
        let enabled = self.words(&format!("{dir}/cgroup.subtree_control"));
        let available = self.words(&format!("{dir}/cgroup.controllers"));
        let has_processes = dir != CGROUP && !self.words(&format!("{dir}/cgroup.procs")).is_empty();
        let mut wanted = enabled.clone();
        for word in text.split_whitespace() {
            let (enable, name) = match word.split_at_checked(1) {
                Some(("+", name)) => (true, name),
                Some(("-", name)) => (false, name),
                _ => return Err(Errno::INVAL),
            };
            // What the kernel was built with; cgroup.controllers may lack some.
            if !["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"].contains(&name) {
                return Err(Errno::INVAL);
            }
            wanted.retain(|other| other != name);
            if enable {
                if !available.iter().any(|other| other == name) {
                    return Err(Errno::NOENT);
                }
                if has_processes && DOMAIN.contains(&name) {
                    return Err(Errno::BUSY);
                }
                wanted.push(name.into());
            }
        }
        let children = self.children(dir);
        let lost: Vec<_> = enabled.iter().filter(|name| !wanted.contains(name)).collect();
        for child in &children {
            let in_use = self.words(&format!("{child}/cgroup.subtree_control"));
            if in_use.iter().any(|name| lost.contains(&name)) {
                return Err(Errno::BUSY);
            }
        }
        for child in &children {
            wanted.iter().filter(|name| !enabled.contains(name)).for_each(|n| self.give(child, n));
            lost.iter().for_each(|name| self.take(child, name));
        }
        self.set(&format!("{dir}/cgroup.subtree_control"), wanted.join(" ") + "\n");
        Ok(())
    }

    /// 0 is the writer, PID 1 here. Any other process is taken to exist.
    fn move_process(&mut self, dir: &str, text: &str) -> Result<()> {
        let pid = format!("{}", number(text)?.max(1));
        let subtree = self.words(&format!("{dir}/cgroup.subtree_control"));
        if dir != CGROUP && subtree.iter().any(|name| DOMAIN.contains(&name.as_str())) {
            return Err(Errno::BUSY);
        }
        let is_procs = |path: &str| is_below(path, CGROUP) && path.ends_with("/cgroup.procs");
        for (path, list) in self.files.iter_mut().filter(|(path, _)| is_procs(path)) {
            let text = String::from_utf8_lossy(list).into_owned();
            let mut pids: Vec<_> = text.lines().filter(|other| **other != pid).collect();
            if parent(path) == dir {
                pids.push(&pid);
            }
            *list = pids.iter().flat_map(|pid| [pid, "\n"]).collect::<String>().into();
        }
        Ok(())
    }

    fn children(&self, dir: &str) -> Vec<String> {
        self.dirs.iter().filter(|path| *path != dir && parent(path) == dir).cloned().collect()
    }

    fn words(&self, path: &str) -> Vec<String> {
        self.text(path).split_whitespace().map(String::from).collect()
    }

    fn give(&mut self, dir: &str, controller: &str) {
        let mut available = self.words(&format!("{dir}/cgroup.controllers"));
        available.push(controller.into());
        self.set(&format!("{dir}/cgroup.controllers"), available.join(" ") + "\n");
        for (name, value) in knobs(controller) {
            self.set(&format!("{dir}/{name}"), value);
        }
    }

    fn take(&mut self, dir: &str, controller: &str) {
        let mut available = self.words(&format!("{dir}/cgroup.controllers"));
        available.retain(|other| other != controller);
        self.set(&format!("{dir}/cgroup.controllers"), available.join(" ") + "\n");
        for (name, _) in knobs(controller) {
            self.files.remove(&format!("{dir}/{name}"));
        }
    }
}

fn knobs(controller: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    KNOBS.into_iter().filter(move |(name, _)| name.split('.').next() == Some(controller))
}

/// A decimal number; the kernel would take hexadecimal and octal too.
fn number(text: &str) -> Result<u64> {
    if text.starts_with('+') { Err(Errno::INVAL) } else { text.parse().map_err(|_| Errno::INVAL) }
}

fn within(text: &str, range: core::ops::Range<u64>, outside: Errno) -> Result<String> {
    let value = number(text)?;
    if range.contains(&value) { Ok(format!("{value}")) } else { Err(outside) }
}

fn flag(text: &str) -> Result<String> {
    within(text, 0..2, Errno::INVAL)
}
