//! A running guest as seen from outside, and the lines that it prints.

use std::fs;
use std::io::{self, Stdout, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::qemu::qmp::Qmp;

/// This machine, as a guest's host.
#[derive(Debug)]
pub struct Host {
    qemu: u32,
    monitor: Qmp,
    control: UnixStream,
}

impl Host {
    pub(super) fn new(qemu: u32, monitor: Qmp, control: UnixStream) -> Self {
        Self { qemu, monitor, control }
    }

    /// What of the guest's memory is resident in QEMU, in KiB: that of its greatest
    /// mapping. QEMU's translated code, which only grows, is not of the guest.
    pub fn ram_rss_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps", self.qemu);
        let smaps = fs::read_to_string(&path).with_context(|| format!("no {path}"))?;
        let numbers = |name: &'static str| {
            smaps.lines().filter_map(move |line| {
                line.strip_prefix(name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()
            })
        };
        let ram = numbers("Size:").zip(numbers("Rss:")).max();
        Ok(ram.with_context(|| format!("no mappings in {path}"))?.1)
    }

    /// Runs a command of QEMU's QMP reference: `stop`, `cont`, `query-status`.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.monitor.run(command, arguments)
    }

    /// Sends a line to the guest, where the script gets it by `read -r line <&5`.
    pub fn say(&mut self, line: &str) -> Result<()> {
        Ok(self.control.write_all(format!("{line}\n").as_bytes())?)
    }
}

/// Hands on what is written line by line, and to our own output where wanted.
pub(super) struct Lines {
    to: Sender<String>,
    output: Option<Stdout>,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn new(to: Sender<String>, output: Option<Stdout>) -> Self {
        Self { to, output, line: Vec::new() }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.pop_if(|last| *last == b'\n').is_some() {
                // Nobody listens once the run has failed.
                let _ = self.to.send(String::from_utf8_lossy(&self.line).into_owned());
                self.line.clear();
            }
        }
        if let Some(output) = &mut self.output {
            output.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.as_mut().map_or(Ok(()), Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn whole_lines_however_they_come() {
        let (to, lines) = channel();
        let mut writer = Lines::new(to, None);
        for part in [b"a".as_slice(), b"b\n", b"\nc\xc3", b"\xa4\n", b"d"] {
            writer.write_all(part).unwrap();
        }
        drop(writer);
        assert_eq!(lines.iter().collect::<Vec<_>>(), ["ab", "", "cä"]);
    }
}
