//! CRC-32 as GPT has it and CRC-32C as ext4 has it, four bits a step: a table
//! of 64 bytes each, and a GPT's 16 KiB in 32 768 steps.

type Table = [u32; 16];

/// IEEE 802.3, bits reflected.
const IEEE: Table = table(0xedb8_8320);
/// Castagnoli, bits reflected.
const CASTAGNOLI: Table = table(0x82f6_3b78);

const fn table(polynomial: u32) -> Table {
    let mut table = [0; 16];
    let mut i = 0_u32;
    while i < 16 {
        let mut value = i;
        let mut bit = 0;
        while bit < 4 {
            value = (value >> 1) ^ (polynomial & 0_u32.wrapping_sub(value & 1));
            bit += 1;
        }
        table[i as usize] = value;
        i += 1;
    }
    table
}

fn step(table: &Table, state: u32, bytes: &[u8]) -> u32 {
    let nibble = |state: u32| (state >> 4) ^ table[(state & 15) as usize];
    bytes.iter().fold(state, |state, &byte| nibble(nibble(state ^ u32::from(byte))))
}

/// A CRC-32 in the making: the data may come in pieces.
pub(super) struct Crc32(u32);

impl Crc32 {
    pub(super) const fn new() -> Self {
        Self(!0)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0 = step(&IEEE, self.0, bytes);
    }

    pub(super) const fn finish(self) -> u32 {
        !self.0
    }
}

/// CRC-32C of `bytes` from the seed ~0, not inverted at its end: the
/// kernel's crc32c(~0, ...).
pub(super) fn crc32c_raw(bytes: &[u8]) -> u32 {
    step(&CASTAGNOLI, !0, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the catalogue of parametrised CRC algorithms.
    #[test]
    fn check_values() {
        let mut crc = Crc32::new();
        crc.update(b"1234");
        crc.update(b"");
        crc.update(b"56789");
        assert_eq!(crc.finish(), 0xcbf4_3926);
        assert_eq!(!crc32c_raw(b"123456789"), 0xe306_9283);
    }
}
