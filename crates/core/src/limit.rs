//! Memory limits: the syntax of systemd's MemoryMax= and the bytes it makes of
//! them.
//!
//! Sources: parse_permyriad() in percent-util.c, safe_atoi() and parse_size()
//! in parse-util.c, config_parse_memory_limit() in load-fragment.c and
//! physical_memory_scale() in limits-util.c of systemd v255; the arithmetic is
//! the same in v252 and later.

use core::fmt;

use crate::number::{decimal, in_radix};
use crate::split::split_once;

/// 100 % in permyriad.
const WHOLE: u32 = 10_000;

/// Suffixes of a size and their powers of two, in the only order in which they
/// may follow one another. Without a suffix a number is bytes.
const SUFFIXES: [(&str, u32); 8] =
    [("E", 60), ("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10), ("B", 0), ("", 0)];

/// A limit as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// No limit.
    Infinity,
    /// Hundredths of a percent of the machine's memory, 0..=10000.
    Permyriad(u32),
    /// Bytes, below `u64::MAX`.
    Bytes(u64),
}

/// Why a text is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// Neither a percentage nor a size, or above 100 %.
    Invalid,
    /// A negative size, or one of 2^64 - 1 bytes or more.
    OutOfRange,
}

/// The memory that a percentage is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// MemTotal in pages, or the limit of the root cgroup where that is less.
    pub total_pages: u64,
    /// Size of the running kernel's page in bytes.
    pub page_bytes: u64,
}

impl Limit {
    /// Reads a limit as systemd reads the value of MemoryMax=. The empty text
    /// is `Infinity`, as there.
    ///
    /// # Errors
    /// What systemd ignores with a warning is an error here. A limit of 0 is
    /// none: it depends on the setting whether it may be 0.
    pub fn parse(text: &str) -> Result<Self, LimitError> {
        if text.is_empty() || text == "infinity" {
            return Ok(Self::Infinity);
        }
        match permyriad(text) {
            Some(permyriad) => Ok(Self::Permyriad(permyriad)),
            None => size(text).map(Self::Bytes),
        }
    }

    /// Bytes as systemd computes them: a percentage is rounded down to a page,
    /// a size is not. `u64::MAX` is no limit.
    #[must_use]
    pub fn bytes(&self, memory: Memory) -> u64 {
        let pages = match *self {
            Self::Infinity => return u64::MAX,
            Self::Bytes(bytes) => return bytes,
            Self::Permyriad(WHOLE) => Some(memory.total_pages),
            Self::Permyriad(part) => memory
                .total_pages
                .checked_mul(u64::from(part))
                .map(|parts| parts / u64::from(WHOLE)),
        };
        pages.and_then(|pages| pages.checked_mul(memory.page_bytes)).unwrap_or(u64::MAX)
    }

    /// Bytes as the kernel's file shows them, a multiple of the page; `None`
    /// is "max".
    #[must_use]
    pub fn kernel_bytes(&self, memory: Memory) -> Option<u64> {
        // PAGE_COUNTER_MAX in include/linux/page_counter.h, of a 64-bit kernel.
        let unlimited_pages = i64::MAX.unsigned_abs().checked_div(memory.page_bytes)?;
        let pages = match self {
            Self::Infinity => return None,
            limit => limit.bytes(memory).checked_div(memory.page_bytes)?,
        };
        if pages < unlimited_pages { pages.checked_mul(memory.page_bytes) } else { None }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Infinity => f.write_str("infinity"),
            Self::Permyriad(part) if part % 100 == 0 => write!(f, "{}%", u64::from(part / 100)),
            Self::Permyriad(part) => {
                write!(f, "{}.{:02}%", u64::from(part / 100), u64::from(part % 100))
            }
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

/// A percentage with at most two decimals, a permille with at most one, or a
/// permyriad, up to 100 %.
fn permyriad(text: &str) -> Option<u32> {
    let (number, places) = if let Some(number) = text.strip_suffix('‱') {
        (number, 0)
    } else if let Some(number) = text.strip_suffix('‰') {
        (number, 1)
    } else {
        (text.strip_suffix('%')?, 2)
    };
    let (whole, decimals) = match split_once(number, b'.') {
        Some((_, "")) => return None,
        Some((whole, decimals)) => (whole, decimals),
        None => (number, ""),
    };
    let mut parts = integer(whole)?;
    if decimals.len() > places {
        return None;
    }
    for place in 0..places {
        let digit = match decimals.as_bytes().get(place) {
            Some(digit) => char::from(*digit).to_digit(10)?,
            None => 0,
        };
        parts = parts.checked_mul(10)?.checked_add(digit)?;
    }
    (parts <= WHOLE).then_some(parts)
}

/// safe_atoi(): C's prefixes for hexadecimal and octal, Python's for binary and
/// octal, blanks and a sign before the number. Negative ones are `None`.
fn integer(text: &str) -> Option<u32> {
    let text = text.trim_start_matches(is_space);
    let (text, radix) = match text.get(..2) {
        Some("0b" | "0B") => (text.get(2..)?, 2),
        Some("0o" | "0O") => (text.get(2..)?, 8),
        _ => (text, 0),
    };
    let text = text.trim_start_matches(is_space);
    let (text, negative) = match text.strip_prefix('-') {
        Some(text) => (text, true),
        None => (text.strip_prefix('+').unwrap_or(text), false),
    };
    let (digits, radix) = match (radix, text.get(..2)) {
        (0, Some("0x" | "0X")) => (text.get(2..)?, 16),
        (0, _) if text.starts_with('0') => (text, 8),
        (0, _) => (text, 10),
        (radix, _) => (text, radix),
    };
    if digits.starts_with('+') {
        return None;
    }
    let value = u32::try_from(in_radix(digits, radix)?).ok()?;
    (value == 0 || !negative).then_some(value)
}

/// parse_size() to base 1024: terms in descending order of their suffixes.
fn size(text: &str) -> Result<u64, LimitError> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut suffixes = SUFFIXES.iter();
    loop {
        rest = rest.trim_start_matches(is_space);
        if let Some(negative) = rest.strip_prefix('-') {
            return number(negative).and(Err(LimitError::OutOfRange));
        }
        let (whole, after) = number(rest.strip_prefix('+').unwrap_or(rest))?;
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => Fraction::parse(after)?,
            None => (Fraction::ZERO, after),
        };
        let after = after.trim_start_matches(is_blank);
        let (shift, after) = suffixes
            .find_map(|(suffix, shift)| Some((*shift, after.strip_prefix(suffix)?)))
            .ok_or(LimitError::Invalid)?;
        let next = whole.checked_add(u64::from(fraction != Fraction::ZERO));
        if next.is_none_or(|next| next > u64::MAX >> shift) {
            return Err(LimitError::OutOfRange);
        }
        total = total
            .checked_add((whole << shift) + fraction.shifted(shift))
            .ok_or(LimitError::OutOfRange)?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    if total == u64::MAX { Err(LimitError::OutOfRange) } else { Ok(total) }
}

/// The decimal number at the beginning, and what follows it.
fn number(text: &str) -> Result<(u64, &str), LimitError> {
    let after = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(after).unwrap_or_default();
    if digits.is_empty() {
        return Err(LimitError::Invalid);
    }
    Ok((decimal(digits).ok_or(LimitError::OutOfRange)?, after))
}

/// WHITESPACE of string-util.h.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// isspace() of the C locale, which strtol() skips.
fn is_space(c: char) -> bool {
    is_blank(c) || matches!(c, '\x0b' | '\x0c')
}

/// What stands after a size's decimal point: `mantissa` times two to the power
/// of `exponent`. systemd keeps it in a double that it divides by ten once per
/// digit; this is that rounding done in integers, so that no byte differs.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fraction {
    /// 0, or with the top bit at [`Self::MANTISSA_BITS`].
    mantissa: u64,
    exponent: i32,
}

impl Fraction {
    const ZERO: Self = Self { mantissa: 0, exponent: 0 };
    /// Bits of a double's mantissa, the implied one among them.
    const MANTISSA_BITS: u32 = 53;
    /// Bits added before a division: enough that two of the quotient's are cut
    /// off by rounding, few enough that the sum with the mantissa's fits.
    const GUARD_BITS: u32 = 10;

    /// The digits at the beginning (there may be none) and what follows them.
    fn parse(text: &str) -> Result<(Self, &str), LimitError> {
        let (digits, after) = match number(text) {
            Err(LimitError::Invalid) => return Ok((Self::ZERO, text)),
            found => found?,
        };
        let mut fraction = Self::rounded(digits, 0);
        for _ in after.len()..text.len() {
            fraction = fraction.tenth();
        }
        Ok((fraction, after))
    }

    /// `value` times two to the power of `exponent`, rounded to the nearest,
    /// ties to even.
    fn rounded(value: u64, exponent: i32) -> Self {
        if value == 0 {
            return Self::ZERO;
        }
        let bits = u64::BITS - value.leading_zeros();
        let cut = bits.saturating_sub(Self::MANTISSA_BITS);
        let grown = Self::MANTISSA_BITS.saturating_sub(bits);
        let half = if cut == 0 { 0 } else { 1 << (cut - 1) };
        let rest = value & ((1 << cut) - 1);
        let mut mantissa = (value >> cut) << grown;
        if cut != 0 && (rest > half || (rest == half && mantissa % 2 == 1)) {
            mantissa += 1;
        }
        let mut exponent = exponent + cut.cast_signed() - grown.cast_signed();
        if mantissa >> Self::MANTISSA_BITS != 0 {
            mantissa >>= 1;
            exponent += 1;
        }
        Self { mantissa, exponent }
    }

    fn tenth(self) -> Self {
        let dividend = self.mantissa << Self::GUARD_BITS;
        // A remainder makes the quotient odd: it can't be taken for a tie.
        let quotient = (dividend / 10) | u64::from(!dividend.is_multiple_of(10));
        Self::rounded(quotient, self.exponent - Self::GUARD_BITS.cast_signed())
    }

    /// Times two to the power of `shift`, rounded down.
    fn shifted(self, shift: u32) -> u64 {
        let shift = self.exponent + shift.cast_signed();
        if shift >= 0 {
            self.mantissa << shift
        } else {
            self.mantissa.checked_shr(shift.unsigned_abs()).unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Limit, LimitError, Memory};

    fn kib(total_kib: u64, page_bytes: u64) -> Memory {
        Memory { total_pages: total_kib * 1024 / page_bytes, page_bytes }
    }

    #[test]
    fn percentages_give_the_documented_bytes() {
        for (total_kib, page_bytes, text, bytes) in [
            (2_010_424, 4096, "40%", 823_468_032),
            (2_010_424, 4096, "35%", 720_535_552),
            (2_010_428, 4096, "40%", 823_468_032),
            (2_010_428, 4096, "35%", 720_535_552),
            (2_010_424, 4096, "100%", 2_010_424 * 1024),
            (2_010_424, 4096, "0%", 0),
            // 2012132 kB: what systemctl showed on a Debian trixie.
            (2_012_132, 4096, "40%", 824_168_448),
            (2_012_132, 4096, "35%", 721_145_856),
            // 502606 pages of 4 KiB: 125651 of 16 KiB, 31412 of 64 KiB.
            (2_010_424, 16_384, "40%", 50_260 * 16_384),
            (2_010_424, 65_536, "40%", 12_564 * 65_536),
            (2_010_424, 65_536, "35%", 10_994 * 65_536),
        ] {
            let memory = kib(total_kib, page_bytes);
            let limit = Limit::parse(text).unwrap();
            assert_eq!(limit.bytes(memory), bytes, "{text} of {memory:?}");
            assert_eq!(limit.kernel_bytes(memory), Some(bytes), "{text} of {memory:?}");
        }
    }

    #[test]
    fn what_systemd_accepts() {
        let g = 1 << 30;
        for (text, limit) in [
            ("", Limit::Infinity),
            ("infinity", Limit::Infinity),
            ("40%", Limit::Permyriad(4000)),
            ("40.5%", Limit::Permyriad(4050)),
            ("40.05%", Limit::Permyriad(4005)),
            ("405‰", Limit::Permyriad(4050)),
            ("40.5‰", Limit::Permyriad(405)),
            ("4050‱", Limit::Permyriad(4050)),
            (" \t+40%", Limit::Permyriad(4000)),
            ("0x28%", Limit::Permyriad(4000)),
            ("050%", Limit::Permyriad(4000)),
            ("0o50%", Limit::Permyriad(4000)),
            ("0b101000%", Limit::Permyriad(4000)),
            ("-0%", Limit::Permyriad(0)),
            ("0", Limit::Bytes(0)),
            ("007", Limit::Bytes(7)),
            ("+1", Limit::Bytes(1)),
            ("1B", Limit::Bytes(1)),
            ("3K", Limit::Bytes(3072)),
            ("1.5G", Limit::Bytes(g + g / 2)),
            ("1.G", Limit::Bytes(g)),
            ("1.9", Limit::Bytes(1)),
            ("0.1K", Limit::Bytes(102)),
            // The double is rounded up to 1.
            ("1.9999999999999999999G", Limit::Bytes(2 * g)),
            (" 1G 500M", Limit::Bytes(g + (500 << 20))),
            ("1G500M 1", Limit::Bytes(g + (500 << 20) + 1)),
            ("1 G", Limit::Bytes(g)),
            ("1B 1", Limit::Bytes(2)),
            ("15E", Limit::Bytes(15 << 60)),
            ("18446744073709551614", Limit::Bytes(u64::MAX - 1)),
        ] {
            assert_eq!(Limit::parse(text), Ok(limit), "{text:?}");
        }
    }

    #[test]
    fn what_systemd_refuses() {
        let invalid = " |%|banana|Infinity|infinity |40 %|40% |40,5%|.5%|40.%|40.505%|40.55‰|40.5‱|\
            100.01%|101%|1001‰|10001‱|08%|0x%|0b2%|+0b1%|++1%|4294967297%|1k|1KiB|1MB|1kB|1 2|\
            1M1G|1G1G|1G |1.5.5G|.5G|+ 1|0x10|1e3|1\0|1G,5M|−1";
        let out_of_range = "-1|-1%|-1G|1G -1M|16E|99999999999999999999%|15.99999999999999999999E|\
            18446744073709551615|18446744073709551616|18446744073709551615.5|\
            0.18446744073709551616G";
        for text in invalid.split('|') {
            assert_eq!(Limit::parse(text), Err(LimitError::Invalid), "{text:?}");
        }
        for text in out_of_range.split('|') {
            assert_eq!(Limit::parse(text), Err(LimitError::OutOfRange), "{text:?}");
        }
    }

    #[test]
    fn what_the_kernel_shows() {
        let memory = kib(2_010_424, 4096);
        let max_pages = i64::MAX.unsigned_abs() / 4096;
        for (limit, shown) in [
            (Limit::Infinity, None),
            (Limit::Bytes(0), Some(0)),
            (Limit::Bytes(4095), Some(0)),
            (Limit::Bytes(4097), Some(4096)),
            (Limit::Bytes(max_pages * 4096 - 1), Some((max_pages - 1) * 4096)),
            (Limit::Bytes(max_pages * 4096), None),
            (Limit::Bytes(u64::MAX - 1), None),
        ] {
            assert_eq!(limit.kernel_bytes(memory), shown, "{limit}");
        }
        assert_eq!(Limit::Bytes(81_920).kernel_bytes(kib(1 << 20, 65_536)), Some(65_536));
    }
}
