//! Boards that host virtual machines.

use anyhow::Result;

use super::Guest;
use crate::vmm;

impl Guest {
    /// The board has a QEMU of its own: `qemu-system-x86_64` or `-aarch64`, and a
    /// kernel and an initramfs for its guest in /vmm/guest.
    #[must_use]
    pub fn with_qemu(mut self) -> Self {
        self.qemu = true;
        self
    }

    /// Adds the disk that has it.
    pub(super) fn attach_qemu(&mut self) -> Result<()> {
        if self.qemu {
            let disk = vmm::disk(self.board.arch, self.steps)?;
            self.qemu_args.extend(vmm::qemu_args(&disk));
        }
        Ok(())
    }
}
