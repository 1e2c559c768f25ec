//! What a board file means: every check that takes more than one value.

use core::cmp::Ordering;

use heapless::String;

use super::faults::{Faults, KEY_PATH_MAX};
use super::keys::Kind;
use super::kind::Text;
use super::raw::{Raw, Values};
use super::{
    Board, CpuWeight, HIGH, Host, Identity, NOT_ABOVE_MAX, OnLimitFailure, PartitionSize, Qm,
    VarQm, VirtioMem, compare, guests, json, keys, payloads, text,
};
use crate::agent::settings::Origin;
use crate::limit::Limit;
use crate::number::decimal;
use crate::{record, systemd};

const VAR: &str = "image.partitions.var";
const VAR_QM: &str = "image.partitions.var_qm";
const ONE_SIZE: &str = "one of relative_size, size and external";
const APART: &str = "cgroups of which QM's is neither in nor above another";

/// Puts into `board` what the decoded file says. `text` is that file.
pub(super) fn board<'a>(board: &mut Board<'a>, raw: &Raw<'a>, text: &'a [u8], faults: &mut Faults) {
    let values = raw.top();
    qm(&mut board.qm, values, text, faults);
    host(&mut board.host, values);
    keep_apart(board, values, text, faults);
    board.qm.unit = values.text("qm.unit");
    if board.qm.unit.is_some_and(|unit| !systemd::owns(unit, board.qm.cgroup)) {
        faults.refuse_key(text, "qm.unit", Kind::Text(Text::Unit).range());
    }
    set(&mut board.image_bytes, values.text("image.image_size").and_then(text::some_size));
    board.var_qm = var_qm(values, board.image_bytes, text, faults);
    values.texts("modules[]", text::is_module, &mut board.modules);
    match values.text("handoff.init") {
        Some("none") => board.next_init = None,
        Some(path) => board.next_init = Some(path),
        None => {}
    }
    set(&mut board.init_oom_score_adj, values.number("handoff.oom_score_adj"));
    set(&mut board.mend_drift, values.flag("mend_drift"));
    board.virtio_mem = virtio_mem(values);
    board.agent.update(text, Origin::Board, faults);
    guests::read(board, text, faults);
    let host_score = board.host.oom_score_adj.unwrap_or(0);
    let qm_score = board.qm.oom_score_adj;
    payloads::Check { text, faults, host_score, qm_score }.all(raw, &mut board.payloads);
}

fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}

fn qm<'a>(qm: &mut Qm<'a>, values: Values<'_, 'a>, text: &[u8], faults: &mut Faults) {
    let limit = |path| values.text(path).and_then(text::limit);
    set(&mut qm.fallback_max, limit("qm.fallback_max"));
    qm.memory_max = limit("qm.memory_limit.max").unwrap_or(qm.fallback_max);
    set(&mut qm.memory_high, limit(HIGH));
    set(&mut qm.memory_min, limit("qm.memory_limit.min"));
    set(&mut qm.memory_low, limit("qm.memory_limit.low"));
    set(&mut qm.swap_max, limit("qm.memory_limit.swap_max"));
    qm.swap_named = values.has("qm.memory_limit.swap_max");
    let above = qm.memory_high != Limit::Infinity
        && compare(qm.memory_high, qm.memory_max) == Some(Ordering::Greater);
    // Against a default that stands for what was refused, it says nothing.
    if above && !faults.within("qm") {
        faults.refuse_key(text, HIGH, NOT_ABOVE_MAX);
    }
    set(&mut qm.cgroup, values.text("qm.cgroup"));
    set(&mut qm.oom_group, values.flag("qm.oom_group"));
    set(&mut qm.oom_score_adj, values.number("qm.oom_score_adj"));
    if let Some(raw) = json::raw(text, "qm.pids_max") {
        qm.pids_max = decimal(raw).and_then(|max| u32::try_from(max).ok());
    }
    if let Some(raw) = json::raw(text, "qm.cpu_weight") {
        let weight = decimal(raw).and_then(|weight| u16::try_from(weight).ok());
        qm.cpu_weight = weight.map_or(CpuWeight::Idle, CpuWeight::Weight);
    }
    if values.text("qm.on_limit_failure") == Some("hold") {
        qm.on_limit_failure = OnLimitFailure::Hold;
    }
}

fn virtio_mem(values: Values<'_, '_>) -> Option<VirtioMem> {
    let mut virtio_mem = VirtioMem::default();
    let min_available = values.text("virtio_mem.min_available").and_then(text::limit);
    set(&mut virtio_mem.min_available, min_available);
    let secs = values.number("virtio_mem.block_timeout_secs");
    set(&mut virtio_mem.block_timeout_secs, secs.map(|secs| u32::from(secs.unsigned_abs())));
    (values.flag("virtio_mem.enable") == Some(true)).then_some(virtio_mem)
}

fn host<'a>(host: &mut Host<'a>, values: Values<'_, 'a>) {
    set(&mut host.oom_score_adj, values.number("host.oom_score_adj").map(Some));
    if values.flag("image.enable_oom_protection") == Some(false) {
        host.oom_score_adj = None;
    }
    let min = values.text("image.cg_memory_min").and_then(text::some_size);
    set(&mut host.memory_min_bytes, min.map(Some));
    if values.flag("image.enable_reclaim_protection") == Some(false) {
        host.memory_min_bytes = None;
    }
    if values.has("host.cgroups") {
        host.cgroups.clear();
        values.texts("host.cgroups[]", text::is_cgroup, &mut host.cgroups);
    }
}

/// A limit on QM must not be one on the host, nor protection of the host be
/// QM's.
fn keep_apart(board: &mut Board<'_>, values: Values<'_, '_>, text: &[u8], faults: &mut Faults) {
    let touches = |qm: &str, host: &str| text::is_inside(qm, host) || text::is_inside(host, qm);
    let touched =
        |board: &Board<'_>| board.host.cgroups.iter().any(|host| touches(board.qm.cgroup, host));
    if values.has("qm.cgroup") && touched(board) {
        faults.refuse_key(text, "qm.cgroup", APART);
        board.qm.cgroup = Qm::default().cgroup;
    }
    if touched(board) {
        faults.refuse_key(text, "host.cgroups", APART);
        let qm = board.qm.cgroup;
        board.host.cgroups.retain(|host| !touches(qm, host));
    }
}

fn var_qm<'a>(
    values: Values<'_, 'a>,
    image_bytes: u64,
    text: &[u8],
    faults: &mut Faults,
) -> Option<VarQm<'a>> {
    let var = size(values, VAR, text, faults);
    let own = size(values, VAR_QM, text, faults);
    fits(&[(VAR, var), (VAR_QM, own)], image_bytes, text, faults);
    if !values.has(VAR_QM) {
        return may_hide_var_qm(faults).then(VarQm::unknown);
    }
    if own.is_none() && !faults.within(VAR_QM) {
        faults.refuse_key(text, VAR_QM, ONE_SIZE);
    }
    if let Some(PartitionSize::Bytes(0) | PartitionSize::RelativeBillionths(0)) = own {
        return None;
    }
    let mut var_qm = VarQm::unknown();
    var_qm.start_qm_without = values.text("image.partitions.var_qm.on_failure") == Some("start");
    if may_hide_identity(faults) {
        return Some(var_qm);
    }
    set(&mut var_qm.size, own);
    var_qm.identity = Identity {
        partition_uuid: values.text("image.partitions.var_qm.uuid").and_then(text::uuid),
        fs_uuid: values.text("image.partitions.var_qm.fs_uuid").and_then(text::uuid),
        label: values.text("image.partitions.var_qm.label"),
    };
    set(&mut var_qm.options, values.text("image.partitions.var_qm.options"));
    var_qm.wait_secs = values
        .number("image.partitions.var_qm.wait_secs")
        .map_or(VarQm::WAIT_SECS, |secs| u32::from(secs.unsigned_abs()));
    Some(var_qm)
}

/// The size given of a partition. With `external` or two sizes there is a
/// fault, and as in automotive-image-builder `size` goes before `relative_size`.
fn size(
    values: Values<'_, '_>,
    partition: &str,
    text: &[u8],
    faults: &mut Faults,
) -> Option<PartitionSize> {
    let key = |name| path(format_args!("{partition}.{name}"));
    let relative = json::raw(text, &key("relative_size")).and_then(text::billionths);
    let relative = relative.map(PartitionSize::RelativeBillionths);
    let bytes = values.text(&key("size")).and_then(text::size).map(PartitionSize::Bytes);
    let external = (values.flag(&key("external")) == Some(true)).then_some(PartitionSize::External);
    if external.is_some() && bytes.or(relative).is_some() {
        faults.refuse_key(text, &key("external"), ONE_SIZE);
    } else if bytes.is_some() && relative.is_some() {
        faults.refuse_key(text, &key("relative_size"), ONE_SIZE);
    }
    external.or(bytes).or(relative)
}

/// Partitions must leave room for the root's; the first that doesn't is a fault.
fn fits(
    partitions: &[(&str, Option<PartitionSize>)],
    image_bytes: u64,
    text: &[u8],
    faults: &mut Faults,
) {
    const BILLION: u128 = 1_000_000_000;
    let mut sum: u128 = 0;
    for (partition, size) in partitions {
        let (name, share) = match *size {
            None | Some(PartitionSize::External) => continue,
            Some(PartitionSize::Bytes(bytes)) => ("size", u128::from(bytes) * BILLION),
            Some(PartitionSize::RelativeBillionths(part)) => {
                ("relative_size", u128::from(part) * u128::from(image_bytes))
            }
        };
        sum += share;
        if sum >= u128::from(image_bytes) * BILLION {
            let key = path(format_args!("{partition}.{name}"));
            return faults.refuse_key(text, &key, "all partitions together less than image_size");
        }
    }
}

/// Whether a refused value may have been the one that gives QM a partition.
fn may_hide_var_qm(faults: &Faults) -> bool {
    let may = |path: &str| {
        matches!(path, "image" | "image.partitions" | VAR_QM) || keys::find(path).is_none()
    };
    faults.more() > 0 || faults.iter().any(|fault| may(&fault.path))
}

/// Whether a refused value may have been one that tells the partition from
/// others.
fn may_hide_identity(faults: &Faults) -> bool {
    let may = |path: &str| match path.strip_prefix(VAR_QM).and_then(|key| key.strip_prefix('.')) {
        Some("uuid" | "fs_uuid" | "label") => true,
        Some(_) => keys::find(path).is_none(),
        None => false,
    };
    faults.more() > 0 || faults.iter().any(|fault| may(&fault.path))
}

/// A path made of parts that are known to be short.
pub(super) fn path(parts: core::fmt::Arguments<'_>) -> String<KEY_PATH_MAX> {
    record::cut(parts)
}
