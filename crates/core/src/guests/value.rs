//! The sizes that the models count with, each within its range.

use crate::limit::Limit;
use crate::number::decimal;

const KIB: u16 = 1 << 10;
const MIB: u32 = 1 << 20;
/// The most memory there is, in bytes: 64 TiB, what x86's page tables of four
/// levels reach (MAXPHYADDR 46 bits).
const MEMORY_MAX: u64 = 1 << 46;

/// How a value is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As systemd writes sizes, such as `1000000K`; kept in bytes.
    Size,
    /// A whole number.
    Count,
    /// A percentage; kept in permyriad.
    Percent,
}

struct Range {
    name: &'static str,
    form: Form,
    /// It is a multiple of this.
    step: u16,
    min: u32,
    /// Below `min` where it has none.
    default: u32,
    max: u64,
    allowed: &'static str,
}

/// The enum and its table from one list, so that they can't differ.
macro_rules! fields {
    ($($(#[$doc:meta])+ $field:ident, $name:literal, $form:ident, $min:expr, $max:expr, $step:expr, $default:expr, $allowed:literal;)+) => {
        /// A value that a model counts with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Field {
            $($(#[$doc])+ $field,)+
        }

        const RANGES: &[Range] = &[$(Range {
            name: $name,
            form: Form::$form,
            min: $min,
            max: $max,
            step: $step,
            default: $default,
            allowed: $allowed,
        }),+];

        impl Field {
            /// All, in order.
            pub const ALL: &[Self] = &[$(Self::$field),+];
        }
    };
}

fields! {
    /// The guest's own memory, in bytes; the formulas count it in KiB.
    Memory, "memory", Size, MIB, MEMORY_MAX, KIB, 0, "`1M` to `64T`, a multiple of `1K`";
    /// Virtual CPUs; KVM's own maximum.
    Vcpus, "vcpus", Count, 1, 4096, 1, 1, "1 to 4096";
    /// Memory of all video devices, in bytes.
    Video, "video", Size, 0, 64 << 30, KIB, 0, "`0` to `64G`, a multiple of `1K`";
    /// Disks.
    Disks, "disks", Count, 0, 1024, 1, 0, "0 to 1024";
    /// Memory BARs of all devices that are passed through, in bytes.
    Mmio, "mmio", Size, 0, MEMORY_MAX, 1, 0, "`0` to `64T`";
    /// What `fixed` gives, in bytes; 600 MiB was EVE's.
    Overhead, "overhead", Size, 0, MEMORY_MAX, 1, 600 * MIB, "`0` to `64T`";
    /// What `proportional` gives, in permyriad of the memory; 30 % was EVE's proposal.
    Percent, "percent", Percent, 1, 10_000, 1, 3000, "`0.01%` to `100%`";
    /// What is left free above the use that was seen, in bytes: as much as a
    /// process touches in the 20 ms between a look and a write, at 1.5 GB/s.
    Margin, "margin", Size, 0, MEMORY_MAX, 1, 32 * MIB, "`0` to `64T`";
    /// The greatest memory.peak of earlier runs, in bytes; 0: there was none.
    Peak, "peak", Size, 0, MEMORY_MAX, 1, 0, "`0` to `64T`";
    /// The pool's reserve, in permyriad of the host's memory; EVE's proposal.
    Reserve, "reserve", Percent, 1, 10_000, 1, 2500, "`0.01%` to `100%`";
    /// The host's memory, in bytes.
    Host, "host", Size, MIB, MEMORY_MAX, 1, 0, "`1M` to `64T`";
    /// Memory of the other guests that run, all together, in bytes.
    Others, "others", Size, 0, MEMORY_MAX, 1, 0, "`0` to `64T`";
}

impl Field {
    const fn range(self) -> &'static Range {
        // There is one for each.
        &RANGES[self as usize]
    }

    /// Its name: an option's behind `--`, the last of a key's path.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.range().name
    }

    /// What is allowed, in words.
    #[must_use]
    pub const fn allowed(self) -> &'static str {
        self.range().allowed
    }

    /// The field of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|field| field.name() == name)
    }

    /// Whether JSON writes it as a number, not as a string.
    pub(crate) fn is_count(self) -> bool {
        self.range().form == Form::Count
    }

    /// The value that a text says, if it is allowed.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<u64> {
        let value = match self.range().form {
            Form::Count => decimal(text)?,
            form => match Limit::parse(text).ok()? {
                Limit::Bytes(bytes) if form == Form::Size => bytes,
                Limit::Permyriad(part) if form == Form::Percent => u64::from(part),
                _ => return None,
            },
        };
        self.allows(value).then_some(value)
    }

    /// Whether it may be this.
    pub(super) fn allows(self, value: u64) -> bool {
        let Range { min, max, step, .. } = *self.range();
        u64::from(min) <= value && value <= max && value.is_multiple_of(u64::from(step))
    }
}

/// One value of each [`Field`], all within their ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values([u64; RANGES.len()]);

impl Default for Values {
    fn default() -> Self {
        let mut values = [0; RANGES.len()];
        for (value, range) in values.iter_mut().zip(RANGES) {
            *value = u64::from(range.default);
        }
        Self(values)
    }
}

impl Values {
    /// A value; 0 where it is missing.
    #[must_use]
    pub fn get(&self, field: Field) -> u64 {
        self.0.get(field as usize).copied().unwrap_or_default()
    }

    /// Sets a value, whether it is within its range or not: a sum that it breaks is
    /// refused.
    pub(super) fn put(&mut self, field: Field, value: u64) {
        if let Some(of) = self.0.get_mut(field as usize) {
            *of = value;
        }
    }

    /// A value that can't be done without.
    ///
    /// # Errors
    /// It is missing: what there is of it is not allowed.
    pub fn given(&self, field: Field) -> Result<u64, Field> {
        let value = self.get(field);
        if field.allows(value) { Ok(value) } else { Err(field) }
    }

    /// Takes a value as it is written; `None` where it is not allowed.
    pub fn set(&mut self, field: Field, text: &str) -> Option<()> {
        *self.0.get_mut(field as usize)? = field.parse(text)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_absurd_sizes_are_refused() {
        for (field, text, allowed) in [
            (Field::Memory, "0", false),
            (Field::Memory, "1023K", false),
            (Field::Memory, "1M", true),
            (Field::Memory, "1048577", false),
            (Field::Memory, "64T", true),
            (Field::Memory, "65T", false),
            (Field::Memory, "16E", false),
            (Field::Memory, "40%", false),
            (Field::Memory, "infinity", false),
            (Field::Memory, "", false),
            (Field::Memory, "1G\0", false),
            (Field::Vcpus, "0", false),
            (Field::Vcpus, "4096", true),
            (Field::Vcpus, "4097", false),
            (Field::Vcpus, "1K", false),
            (Field::Vcpus, "99999999999999999999", false),
            (Field::Video, "0", true),
            (Field::Video, "16384K", true),
            (Field::Video, "65G", false),
            (Field::Disks, "-1", false),
            (Field::Disks, "1025", false),
            (Field::Mmio, "1", true),
            (Field::Percent, "30%", true),
            (Field::Percent, "0%", false),
            (Field::Percent, "101%", false),
            (Field::Percent, "30", false),
            (Field::Reserve, "25.5%", true),
            (Field::Host, "0", false),
            (Field::Overhead, "600M", true),
        ] {
            let set = Values::default().set(field, text);
            assert_eq!(set.is_some(), allowed, "{} {text:?}", field.name());
        }
    }

    #[test]
    fn what_is_missing_says_so() {
        let values = Values::default();
        for field in Field::ALL {
            let missing = matches!(field, Field::Memory | Field::Host);
            assert_eq!(values.given(*field).err(), missing.then_some(*field), "{field:?}");
            assert_eq!(Field::named(field.name()), Some(*field));
        }
    }
}
