//! virtio-mem and virtio-balloon: memory that the host adds and takes back.

use anyhow::Result;
use serde_json::json;

use super::{Guest, Host};

/// The device's path in QEMU's object tree.
const DEVICE: &str = "/machine/peripheral/vmem";

impl Guest {
    /// Memory of its own, as QEMU takes it (`512M`), and a virtio-mem device with up
    /// to `size` more, none of it at first; and the driver's module.
    #[must_use]
    pub fn virtio_mem(self, memory: &str, size: &str) -> Self {
        let backend = format!("memory-backend-ram,id=vmem-ram,size={size}");
        // What was never written costs this machine nothing.
        let device = "virtio-mem-pci,id=vmem,memdev=vmem-ram,requested-size=0";
        self.memory(&format!("{memory},maxmem=4G"))
            .qemu_args(["-object", &backend, "-device", device])
            .module("virtio_mem")
    }

    /// A balloon; one that the guest takes from when it runs out of memory is not
    /// taken off MemTotal.
    #[must_use]
    pub fn balloon(self, deflate_on_oom: bool) -> Self {
        let deflate = if deflate_on_oom { "on" } else { "off" };
        self.qemu_args(["-device", &format!("virtio-balloon-pci,deflate-on-oom={deflate}")])
            .module("virtio_balloon")
    }
}

impl Host {
    /// Wants the guest's virtio-mem device to have so many bytes.
    pub fn request_memory(&mut self, bytes: u64) -> Result<()> {
        let request = json!({ "path": DEVICE, "property": "requested-size", "value": bytes });
        self.qmp("qom-set", request).map(drop)
    }

    /// Wants the balloon to leave so many bytes, of those without virtio-mem.
    pub fn leave_memory(&mut self, bytes: u64) -> Result<()> {
        self.qmp("balloon", json!({ "value": bytes })).map(drop)
    }
}
