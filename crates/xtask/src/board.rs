//! Board files as the host sees them: the same reading and checking as in the
//! binary, with serde_json for the decoding.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use plimsoll_core::board::{self, Board, Faults, Identity, Uuid};

use crate::arch::Arch;
use crate::disk::{Disk, VarQm};
use crate::repository;

/// A board of boards/.
#[derive(Clone, Debug)]
pub struct BoardFile {
    /// The file's name without `.json`.
    pub name: String,
    /// The architecture that ends its name.
    pub arch: Arch,
    /// Its text.
    pub text: String,
    /// What it says.
    pub board: Board<'static>,
}

impl BoardFile {
    /// Reads boards/NAME.json, which has to be free of faults.
    pub fn load(name: &str) -> Result<Self> {
        let path = repository().join("boards").join(format!("{name}.json"));
        let text = fs::read_to_string(&path).with_context(|| format!("no board {name}"))?;
        let (board, faults) = read(&text);
        if !faults.is_empty() {
            bail!("{}", describe(&path, &faults));
        }
        let arch = Arch::of_board(name).context("a QEMU board's name ends in its architecture")?;
        Ok(Self { name: name.into(), arch, text, board })
    }

    /// The disk that the board file describes.
    #[must_use]
    pub fn disk(&self) -> Disk {
        let bytes = self.board.image_bytes;
        let var_qm = self.board.var_qm.as_ref().and_then(|wanted| {
            let mut made = VarQm::new(wanted.size.bytes(bytes)?);
            let Identity { partition_uuid, fs_uuid, label } = wanted.identity;
            let uuid = |uuid: Uuid| uuid::Uuid::from_bytes(uuid.0);
            made.partition_uuid = partition_uuid.map_or(made.partition_uuid, uuid);
            made.fs_uuid = fs_uuid.map_or(made.fs_uuid, uuid);
            made.label = label.map_or(made.label, Into::into);
            Some(made)
        });
        Disk { bytes, var_qm }
    }
}

/// Reads a board file's text. The text is leaked, a few KiB in a short-lived
/// process: the board borrows from it.
#[must_use]
pub fn read(text: &str) -> (Board<'static>, Faults) {
    let mut faults = Faults::default();
    let text = text.as_bytes().to_vec().leak();
    let board = board::read(text, |text| serde_json::from_slice(text).ok(), &mut faults);
    (board, faults)
}

/// `cargo xtask check`: whether the file at `path` is free of faults; each
/// fault is one line, `FILE:LINE:COLUMN: KEY: ...`.
pub fn check(path: &Path) -> Result<()> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut faults = Faults::default();
    board::read(text.leak(), |text| serde_json::from_slice(text).ok(), &mut faults);
    if !faults.is_empty() {
        bail!("{}", describe(path, &faults));
    }
    Ok(())
}

/// One line for each fault.
pub(crate) fn describe(path: &Path, faults: &Faults) -> String {
    let path = path.display();
    let mut lines: Vec<_> = faults.iter().map(|fault| format!("{path}:{fault}")).collect();
    if faults.more() > 0 {
        lines.push(format!("{path}: {} faults more", faults.more()));
    }
    lines.join("\n")
}
