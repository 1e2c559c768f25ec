//! How much more than its guest's memory a VMM may use, worked out from sizes.

use core::fmt;

use super::value::{Field, Values};
use super::{KIB, MIB, pool};

/// A way to the overhead. docs/guests.md says when to choose which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Model {
    /// One size for every guest. Source: EVE-OS from 2020-09 on, 600 MiB
    /// (lf-edge/eve PR 1418).
    Fixed,
    /// A part of the guest's memory. Source: the proposal in EVE's wiki,
    /// "Proportional QEMU memory overhead allocation", 30 %.
    Proportional,
    /// The sum of components. Source: EVE-OS since 2023-07,
    /// pkg/pillar/hypervisor/vmm_overhead.go: 350 MiB + 20 MiB + 2.5 % of the
    /// memory + 3 MiB a vCPU + 1 % of MMIO.
    #[default]
    Eve,
    /// The limit, in KiB, is 1.5 * (memory + video) + 204800, truncated, and
    /// 32768 a disk. Source: libvirt 1.0.2, qemuSetupCgroup(), commit 3c83df679
    /// of 2013-01; withdrawn in 1.1.2.
    Libvirt,
    /// The limit, in KiB, is 1.02 * (memory + video) + 204800, truncated.
    /// Source: libvirt before that commit, whose diff has it.
    Libvirt2012,
    /// 1/512 of the memory + 220 MiB for the pod's processes + 8 MiB a vCPU +
    /// 8 MiB for the I/O thread + 16 MiB for video, and 1 GiB where anything is
    /// passed through. Source: KubeVirt's GetMemoryOverhead() in
    /// renderresources.go, without what single features add (TPM, SEV, probes,
    /// arm64's firmware) and without its ratio.
    Kubevirt,
    /// What earlier runs used above the memory, and a margin; before the first
    /// that used more than the memory, as [`Model::Eve`].
    Measured,
    /// A share of a reserve that all guests have together ([`pool`]).
    Pool,
}

/// All, and their names in the same order.
const ALL: [Model; 8] = [
    Model::Fixed,
    Model::Proportional,
    Model::Eve,
    Model::Libvirt,
    Model::Libvirt2012,
    Model::Kubevirt,
    Model::Measured,
    Model::Pool,
];
const NAMES: [&str; 8] =
    ["fixed", "proportional", "eve", "libvirt", "libvirt-2012", "kubevirt", "measured", "pool"];

/// The names in words.
pub const MODELS: &str =
    "`fixed`, `proportional`, `eve`, `libvirt`, `libvirt-2012`, `kubevirt`, `measured` or `pool`";

impl Model {
    /// The model of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.get(NAMES.iter().position(|of| *of == name)?).copied()
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.get(self as usize).copied().unwrap_or_default()
    }
}

/// What a model comes to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// What the VMM may use besides the guest's memory.
    pub overhead_bytes: u64,
    /// memory.max of its cgroup: the memory and the overhead.
    pub limit_bytes: u64,
}

/// A line of the arithmetic at a time.
type Lines<'l> = &'l mut dyn FnMut(fmt::Arguments<'_>);

/// Works a model out; `line` gets the arithmetic, as it is done.
///
/// # Errors
/// A value that the model can't do without is missing, or too much for the sum.
pub fn account(model: Model, values: &Values, line: Lines<'_>) -> Result<Account, Field> {
    let memory = values.given(Field::Memory)?;
    let mut sum = Sum { total: 0, unit: 1, line };
    let with_memory = matches!(model, Model::Libvirt | Model::Libvirt2012);
    if model == Model::Pool {
        values.given(Field::Host)?;
    }
    add(model, values, &mut sum).ok_or(Field::Memory)?;
    let Sum { total, line, .. } = sum;
    let (overhead, limit) = if with_memory {
        (total.checked_sub(memory), Some(total))
    } else {
        (Some(total), total.checked_add(memory))
    };
    let overhead_bytes = overhead.ok_or(Field::Memory)?;
    let limit_bytes = limit.ok_or(Field::Memory)?;
    line(format_args!("{overhead_bytes:>16}  overhead, in bytes"));
    line(format_args!("{limit_bytes:>16}  limit: memory and overhead"));
    Ok(Account { overhead_bytes, limit_bytes })
}

/// Adds the model's terms; `None` where they don't fit.
fn add(model: Model, values: &Values, sum: &mut Sum<'_>) -> Option<()> {
    let get = |field| values.get(field);
    let memory = get(Field::Memory);
    match model {
        Model::Fixed => sum.add("fixed", get(Field::Overhead), 1, 1),
        Model::Proportional => sum.add("part of memory", memory, get(Field::Percent), 10_000),
        Model::Libvirt => sum.libvirt(values, 3, 2, get(Field::Disks)),
        Model::Libvirt2012 => sum.libvirt(values, 102, 100, 0),
        Model::Kubevirt => sum.kubevirt(values),
        Model::Measured => match get(Field::Peak).checked_sub(memory) {
            Some(above @ 1..) => sum.measured(above, get(Field::Margin)),
            _ => sum.eve(values),
        },
        Model::Eve => sum.eve(values),
        Model::Pool => sum.pool(values),
    }
}

/// A sum that says what it adds.
struct Sum<'l> {
    /// In bytes.
    total: u64,
    /// What the terms are in, in bytes.
    unit: u64,
    line: Lines<'l>,
}

impl Sum<'_> {
    /// Adds `of * times / by`, rounded down to the unit.
    fn add(&mut self, what: &str, of: u64, times: u64, by: u64) -> Option<()> {
        let unit = if self.unit == KIB { " KiB" } else { "" };
        let bytes = of.checked_mul(times)?.checked_div(by)?.checked_mul(self.unit)?;
        self.total = self.total.checked_add(bytes)?;
        let line = &mut *self.line;
        if by > 1 {
            line(format_args!("{bytes:>16}  {what}: {of}{unit} * {times} / {by}"));
        } else if times > 1 {
            line(format_args!("{bytes:>16}  {what}: {of} * {times}{unit}"));
        } else {
            line(format_args!("{bytes:>16}  {what}"));
        }
        Some(())
    }

    fn eve(&mut self, values: &Values) -> Option<()> {
        self.add("350 MiB for what is unknown", 350 * MIB, 1, 1)?;
        self.add("20 MiB for QEMU and its libraries", 20 * MIB, 1, 1)?;
        self.add("2.5 % of memory", values.get(Field::Memory), 25, 1000)?;
        self.add("3 MiB a vCPU", values.get(Field::Vcpus), 3 * MIB, 1)?;
        self.add("1 % of MMIO", values.get(Field::Mmio), 1, 100)
    }

    fn libvirt(&mut self, values: &Values, times: u64, by: u64, disks: u64) -> Option<()> {
        self.unit = KIB;
        let both = values.get(Field::Memory).checked_add(values.get(Field::Video))? / KIB;
        self.add("memory and video", both, times, by)?;
        self.add("200 MiB", 204_800, 1, 1)?;
        self.add("32 MiB a disk", disks, 32_768, 1)
    }

    fn kubevirt(&mut self, values: &Values) -> Option<()> {
        self.add("page tables", values.get(Field::Memory), 1, 512)?;
        self.add("220 MiB for the pod", 220 * MIB, 1, 1)?;
        self.add("8 MiB a vCPU", values.get(Field::Vcpus), 8 * MIB, 1)?;
        self.add("24 MiB for I/O thread and video", 24 * MIB, 1, 1)?;
        let passed = u64::from(values.get(Field::Mmio) > 0);
        self.add("1 GiB with devices passed through", passed, 1024 * MIB, 1)
    }

    fn measured(&mut self, above: u64, margin: u64) -> Option<()> {
        self.add("peak above memory", above, 1, 1)?;
        self.add("margin", margin, 1, 1)
    }

    fn pool(&mut self, values: &Values) -> Option<()> {
        let reserve = values.get(Field::Host).checked_mul(values.get(Field::Reserve))? / 10_000;
        let memory = values.get(Field::Memory);
        let all = memory.checked_add(values.get(Field::Others))?;
        (self.line)(format_args!("{reserve:>16}  reserve, of which {memory} / {all} is"));
        self.add("the share, to 64 KiB", pool::share(reserve, memory, all)?, 1, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory in MiB, vCPUs, with one disk and 16 MiB of video.
    fn sized(memory_mib: u64, vcpus: u64) -> Values {
        let mut values = Values::default();
        values.set(Field::Memory, &format!("{memory_mib}M")).unwrap();
        values.set(Field::Vcpus, &vcpus.to_string()).unwrap();
        values.set(Field::Disks, "1").unwrap();
        values.set(Field::Video, "16M").unwrap();
        values
    }

    fn overhead(model: Model, values: &Values) -> u64 {
        let Account { overhead_bytes, limit_bytes } = account(model, values, &mut |_| ()).unwrap();
        assert_eq!(limit_bytes, values.get(Field::Memory) + overhead_bytes);
        overhead_bytes
    }

    /// To the nearest, halves to even.
    fn mib(bytes: u64) -> u64 {
        let (whole, rest) = (bytes / MIB, bytes % MIB);
        whole + u64::from(rest > MIB / 2 || (rest == MIB / 2 && whole % 2 == 1))
    }

    /// oVirt's MemoryUtils: the table has it, no model needs it.
    fn ovirt(memory: u64, vcpus: u64) -> u64 {
        64 * MIB + memory / 512 + 8 * MIB * vcpus + 16 * MIB
    }

    #[test]
    fn the_table_of_the_facts() {
        // eve, eve 2021 (600 MiB or 2.5 %), 30 %, kubevirt, oVirt, libvirt.
        for (memory, vcpus, wanted) in [
            (256, 1, [379, 600, 77, 252, 88, 384]),
            (512, 1, [386, 600, 154, 253, 89, 512]),
            (1024, 2, [402, 600, 307, 262, 98, 768]),
            (2048, 2, [427, 600, 614, 264, 100, 1280]),
            (4096, 4, [484, 600, 1229, 284, 120, 2304]),
            (8192, 4, [587, 600, 2458, 292, 128, 4352]),
            (16384, 8, [804, 600, 4915, 340, 176, 8448]),
            (122_880, 16, [3490, 3072, 36864, 612, 448, 61696]),
        ] {
            let values = sized(memory, vcpus);
            let mut part = values;
            part.set(Field::Percent, "2.5%").unwrap();
            let of = |model| overhead(model, &values);
            let eve_2021 = of(Model::Fixed).max(overhead(Model::Proportional, &part));
            let found = [
                of(Model::Eve),
                eve_2021,
                of(Model::Proportional),
                of(Model::Kubevirt),
                ovirt(memory * MIB, vcpus),
                of(Model::Libvirt),
            ];
            assert_eq!(found.map(mib), wanted, "{memory} MiB, {vcpus} vCPUs");
        }
    }

    #[test]
    fn to_the_byte() {
        let mut values = Values::default();
        values.set(Field::Memory, "1000000K").unwrap();
        let of = |values: &Values, model| account(model, values, &mut |_| ()).unwrap();
        // MemOverhead in a log of EVE's.
        assert_eq!(of(&values, Model::Eve).overhead_bytes, 416_718_848);
        assert_eq!(of(&values, Model::Eve).limit_bytes, 1_024_000_000 + 416_718_848);
        values.set(Field::Mmio, "268435456").unwrap();
        assert_eq!(of(&values, Model::Eve).overhead_bytes, 416_718_848 + 2_684_354);
        assert_eq!(of(&values, Model::Kubevirt).overhead_bytes, 2_000_000 + (252 + 1024) * MIB);
        // hard_limit * 1.5 + 204800, and * 1.02: truncated, in KiB.
        values.set(Field::Memory, "1048577K").unwrap();
        assert_eq!(of(&values, Model::Libvirt).limit_bytes, (1_572_865 + 204_800) * KIB);
        assert_eq!(of(&values, Model::Libvirt2012).limit_bytes, (1_069_548 + 204_800) * KIB);
        values.set(Field::Disks, "3").unwrap();
        assert_eq!(of(&values, Model::Libvirt).limit_bytes, (1_572_865 + 303_104) * KIB);
        assert_eq!(of(&values, Model::Libvirt2012).limit_bytes, (1_069_548 + 204_800) * KIB);
        assert_eq!(of(&values, Model::Fixed).overhead_bytes, 629_145_600);
    }

    /// 1.5 and 1.02 are doubles in libvirt.
    #[test]
    #[allow(clippy::float_arithmetic, clippy::cast_precision_loss)]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn integers_truncate_as_libvirts_doubles_do() {
        let mut kib: u64 = 1024;
        while kib <= 1 << 36 {
            for kib in [kib, kib + 1, kib * 50 / 50, kib / 50 * 50, kib | 49] {
                assert_eq!(kib * 3 / 2 + 204_800, (kib as f64 * 1.5 + 204_800.0) as u64, "{kib}");
                assert_eq!(kib * 102 / 100 + 204_800, (kib as f64 * 1.02 + 204_800.0) as u64);
            }
            kib += kib / 1000 + 1;
        }
    }

    #[test]
    fn measured_is_a_guess_until_a_run_used_more_than_the_memory() {
        let mut values = sized(1024, 1);
        let guess = overhead(Model::Eve, &values);
        for (peak, wanted) in [("0", guess), ("1G", guess), ("1025M", 33 * MIB)] {
            values.set(Field::Peak, peak).unwrap();
            assert_eq!(overhead(Model::Measured, &values), wanted, "{peak}");
        }
    }

    #[test]
    fn a_share_of_the_pool_needs_the_host() {
        let mut values = sized(1024, 1);
        let missing = account(Model::Pool, &values, &mut |_| ()).unwrap_err();
        assert_eq!(missing, Field::Host);
        values.set(Field::Host, "8G").unwrap();
        assert_eq!(overhead(Model::Pool, &values), 2048 * MIB);
        values.set(Field::Others, "3G").unwrap();
        assert_eq!(overhead(Model::Pool, &values), 512 * MIB);
    }

    #[test]
    fn the_greatest_of_everything_fits_every_model() {
        let mut values = Values::default();
        for field in Field::ALL {
            let greatest = field.allowed().split(' ').nth(2).unwrap();
            values.set(*field, greatest.trim_matches(['`', ','])).unwrap();
        }
        for (model, name) in ALL.into_iter().zip(NAMES) {
            assert!(overhead(model, &values) > 0, "{name}");
            assert_eq!((Model::named(name), model.name()), (Some(model), name));
            assert!(MODELS.contains(&format!("`{name}`")));
        }
        for model in ALL {
            let missing = account(model, &Values::default(), &mut |_| ()).unwrap_err();
            assert_eq!(missing, Field::Memory);
        }
        assert_eq!(Model::named("EVE"), None);
    }

    #[test]
    fn the_arithmetic_is_shown() {
        let mut values = Values::default();
        values.set(Field::Memory, "1000000K").unwrap();
        let mut text = String::new();
        account(Model::Eve, &values, &mut |line| text += &format!("{line}\n")).unwrap();
        let wanted = "       367001600  350 MiB for what is unknown
        20971520  20 MiB for QEMU and its libraries
        25600000  2.5 % of memory: 1024000000 * 25 / 1000
         3145728  3 MiB a vCPU: 1 * 3145728
               0  1 % of MMIO: 0 * 1 / 100
       416718848  overhead, in bytes
      1440718848  limit: memory and overhead
";
        assert_eq!(text, wanted);
        // What is printed above the sum adds up to it.
        for model in ALL {
            let mut values = sized(3000, 7);
            values.set(Field::Host, "16G").unwrap();
            values.set(Field::Peak, "4G").unwrap();
            let mut lines = Vec::new();
            let account =
                account(model, &values, &mut |line| lines.push(line.to_string())).unwrap();
            let terms = lines.iter().filter(|line| !line.contains("of which"));
            let numbers: Vec<u64> = terms
                .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
                .collect();
            let (sums, terms) = (&numbers[numbers.len() - 2..], &numbers[..numbers.len() - 2]);
            assert_eq!(sums, [account.overhead_bytes, account.limit_bytes]);
            assert!(sums.contains(&terms.iter().sum()), "{lines:?}");
        }
    }
}
