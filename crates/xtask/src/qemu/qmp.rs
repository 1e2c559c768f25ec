//! QEMU's monitor: QMP, one JSON object to a line in each direction.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Longest wait for an answer. QEMU answers at once, but on a busy machine its
/// main loop may wait for the emulated CPU.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the monitor of a running QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Takes QEMU's greeting and begins.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU's monitor greets with {greeting}");
        }
        qmp.run("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command of QEMU's QMP reference, such as `query-status` or `stop`,
    /// and returns what it returns.
    pub fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut answer = self.read()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {}", error["desc"]);
            }
            // An event: it may come at any time.
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("no answer from QEMU's monitor")? == 0 {
            bail!("QEMU hung up on its monitor");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor says {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that has said all this already.
    fn monitor(said: &str) -> (Result<Qmp>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said.as_bytes()).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        (Qmp::new(ours), theirs)
    }

    #[test]
    fn events_are_passed_over() {
        let said = r#"{"QMP":{"version":{}}}
{"return":{}}
{"event":"STOP"}
{"return":{"status":"paused"}}
{"error":{"class":"CommandNotFound","desc":"no such command"}}
"#;
        let (qmp, theirs) = monitor(said);
        let mut qmp = qmp.unwrap();
        assert_eq!(qmp.run("query-status", json!({})).unwrap()["status"], "paused");
        let error = qmp.run("fly", json!({ "to": "moon" })).unwrap_err().to_string();
        assert!(error.contains("fly") && error.contains("no such command"), "{error}");
        assert!(qmp.run("stop", json!({})).is_err(), "it hung up");

        let lines = BufReader::new(theirs).lines().map(|line| line.unwrap());
        let asked: Vec<Value> = lines.take(3).map(|l| serde_json::from_str(&l).unwrap()).collect();
        assert_eq!(asked[0]["execute"], "qmp_capabilities");
        assert_eq!(asked[2], json!({ "execute": "fly", "arguments": { "to": "moon" } }));
    }

    #[test]
    fn something_else_than_a_monitor() {
        assert!(monitor("{}\n").0.is_err());
        assert!(monitor("hello\n").0.is_err());
        assert!(monitor("").0.is_err());
    }
}
