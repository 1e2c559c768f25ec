//! Waiting for a guest that may end or hang instead.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::qemu::Running;

/// How often a wait looks whether QEMU still runs.
const POLL: Duration = Duration::from_millis(50);
/// Lines of the command's output, and of the console's, that an error shows.
const LAST_LINES: usize = 25;

/// QEMU connects to its ports as it starts, before the guest runs.
pub(super) fn accept(
    listener: &UnixListener,
    running: &mut Running,
    deadline: Instant,
) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(error.into());
            }
            Err(_) => check_alive(running, deadline)?,
        }
        std::thread::sleep(POLL / 10);
    }
}

/// Waits for one result.
pub(super) fn wait_for<T>(
    receiver: &Receiver<Result<T>>,
    running: &mut Running,
    deadline: Instant,
) -> Result<T> {
    let next = next(receiver, running, deadline)?;
    next.ok_or_else(|| anyhow!("a reader of the guest's output died"))?
}

/// Waits for the next of many; `None` after the last.
pub(super) fn next<T>(
    receiver: &Receiver<T>,
    running: &mut Running,
    deadline: Instant,
) -> Result<Option<T>> {
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(next) => return Ok(Some(next)),
            Err(RecvTimeoutError::Timeout) => check_alive(running, deadline)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// Whether QEMU runs and there is time left.
pub(super) fn check_alive(running: &mut Running, deadline: Instant) -> Result<()> {
    if let Some(status) = running.ended()? {
        bail!("the guest ended without reporting (QEMU: {status})");
    }
    if Instant::now() >= deadline {
        bail!("the guest did not report in time");
    }
    Ok(())
}

/// The error of a guest that never reported, with what its command and its console
/// said.
pub(super) fn explained(error: &anyhow::Error, said: &str, running: &mut Running) -> anyhow::Error {
    // What QEMU wrote before it ended may still be on its way.
    let _ended = running.wait(Instant::now() + POLL);
    let serial = running.serial();
    let panic = serial.lines().find(|line| line.contains("Kernel panic"));
    let reason = panic.map_or_else(|| format!("{error:#}"), Into::into);
    let [said, serial] = [said, &serial].map(|text| {
        let lines: Vec<_> = text.lines().collect();
        lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
    });
    anyhow!("{reason}\nThe command's last lines:\n{said}\nThe serial console's:\n{serial}")
}
