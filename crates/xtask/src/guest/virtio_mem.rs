//! virtio-mem: memory that the host adds and takes back.

use anyhow::{Context, Result};
use serde_json::{Value, json};

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
}

impl Host {
    /// Wants the guest's virtio-mem device to have so many bytes.
    pub fn request_memory(&mut self, bytes: u64) -> Result<()> {
        let request = json!({ "path": DEVICE, "property": "requested-size", "value": bytes });
        self.qmp("qom-set", request).map(drop)
    }

    /// How many bytes it has.
    pub fn plugged_memory(&mut self) -> Result<u64> {
        let devices = self.qmp("query-memory-devices", json!({}))?;
        devices.pointer("/0/data/size").and_then(Value::as_u64).context("no virtio-mem device")
    }
}
