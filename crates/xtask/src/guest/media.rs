//! What a guest boots from: its initramfs and its disks.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use super::Guest;
use crate::image::{Archive, Image};
use crate::{modules, packages, rootfs, target, vmm};

impl Guest {
    /// Writes the initramfs, and returns what the root has of this guest.
    pub(super) fn write_image(
        &self,
        kernel: &packages::Kernel,
        script: &str,
        end: &str,
        path: &Path,
    ) -> Result<Option<Archive>> {
        let arch = self.board.arch;
        let busybox = packages::busybox(arch, self.steps)?;
        let binaries = target::build(arch, self.steps)?;
        self.steps.run(format_args!("image for kernel {}", kernel.release), || {
            let of_board = self.board.board.modules.iter().copied();
            let added = self.modules.iter().map(String::as_str);
            let modules = modules::select(kernel, of_board.chain(added))?;
            let image = Image {
                plimsoll: &binaries.plimsoll,
                load: &binaries.load,
                busybox: &busybox,
                release: &kernel.release,
                modules: &modules,
                board: &self.board_file(),
                busybox_init: self.busybox_initramfs,
            };
            let mut initramfs = image.archive()?;
            if self.qemu {
                vmm::links(arch, &mut initramfs);
            }
            let mut root = self.root.then(|| image.root_files()).transpose()?;
            let archive = root.as_mut().unwrap_or(&mut initramfs);
            let get: String = self.get.iter().map(|path| format!("{path}\n")).collect();
            archive.file("etc/guest/run", 0o755, script.as_bytes());
            archive.file("etc/guest/get", 0o644, get.as_bytes());
            archive.file("etc/guest/end", 0o644, end.as_bytes());
            for (local, path) in &self.put {
                archive.host_tree(path.trim_matches('/'), local)?;
            }
            initramfs.write(BufWriter::new(File::create(path)?))?;
            Ok(root)
        })
    }

    /// The board file's text in the image. One that is no JSON gets no modules.
    fn board_file(&self) -> String {
        let text = self.board_text.as_ref().unwrap_or(&self.board.text);
        let json = serde_json::from_str(text).ok().filter(|_: &Value| !self.modules.is_empty());
        let Some(mut json) = json else { return text.clone() };
        if let Some(Value::Array(modules)) = json.pointer_mut("/modules") {
            modules.extend(self.modules.iter().map(|name| Value::from(name.as_str())));
        }
        json.to_string()
    }

    /// Writes the disks; where the board has a root of its own, it comes first, with
    /// these files in it.
    pub(super) fn write_disks(&self, root: Option<Archive>, dir: &Path) -> Result<Vec<PathBuf>> {
        let disks = self.disks.clone().unwrap_or_else(|| vec![self.board.disk()]);
        let base = self.root.then(|| rootfs::base(self.board.arch, self.steps)).transpose()?;
        self.steps.run("disks", || {
            let mut paths = Vec::new();
            let mut next = || {
                paths.push(dir.join(format!("disk{}", paths.len())));
                paths.last().cloned().unwrap_or_default()
            };
            if let (Some(base), Some(files)) = (base, root) {
                rootfs::copy(&base, files, &next())?;
            }
            let mut host_root = self.host_root.as_ref();
            for disk in disks {
                match host_root.take() {
                    Some(root) => disk.write_with(&next(), root)?,
                    None => disk.write(&next())?,
                }
            }
            Ok(paths)
        })
    }
}
