//! Float arithmetic in machine code. Moving bytes through vector registers is
//! none: compilers copy memory that way.

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Mnemonic};

use crate::arch::Arch;

/// Addresses of the float arithmetic in `code`, which begins at `address`.
#[must_use]
pub fn find(arch: Arch, code: &[u8], address: u64) -> Vec<u64> {
    match arch {
        Arch::X86_64 => {
            let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
            let floats = decoder.into_iter().filter(|i| {
                i.cpuid_features().iter().any(|feature| {
                    is_x87(*feature) || (is_vector(*feature) && is_x86_float(i.mnemonic()))
                })
            });
            floats.map(|i| i.ip()).collect()
        }
        Arch::Aarch64 => {
            let words = code.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
            let floats = words.zip((address..).step_by(4)).filter(|(word, _)| is_arm_float(*word));
            floats.map(|(_, address)| address).collect()
        }
    }
}

const fn is_x87(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    matches!(feature, F::FPU | F::FPU287 | F::FPU387)
}

const fn is_vector(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    matches!(
        feature,
        F::SSE | F::SSE2 | F::SSE3 | F::SSSE3 | F::SSE4_1 | F::AVX | F::AVX2 | F::FMA | F::AVX512F
    )
}

/// Whether a vector instruction computes with floats: its name begins with an
/// operation and has a float format in it (`ss`, `sd`, `ps`, `pd`).
fn is_x86_float(mnemonic: Mnemonic) -> bool {
    const OPERATIONS: [&str; 17] = [
        "add", "sub", "mul", "div", "sqrt", "rsqrt", "rcp", "min", "max", "cmp", "comi", "ucomi",
        "cvt", "round", "hadd", "fm", "fnm",
    ];
    let name = format!("{mnemonic:?}").to_lowercase();
    let name = name.strip_prefix('v').unwrap_or(&name);
    OPERATIONS.iter().any(|operation| name.starts_with(operation))
        && ["ss", "sd", "ps", "pd"].iter().any(|format| name.contains(format))
}

/// A group of A64 encodings: the bits that are fixed, and their values.
type Group = (u32, u32);

/// Arm ARM, C4.1 "A64 instruction set encoding": scalar float.
const ARM_SCALAR: [Group; 8] = [
    // Conversion between float and fixed-point
    (0x5f20_0000, 0x1e00_0000),
    // Conversion between float and integer
    (0x5f20_fc00, 0x1e20_0000),
    // Data-processing, 1 source
    (0x5f20_7c00, 0x1e20_4000),
    // Compare
    (0x5f20_3c00, 0x1e20_2000),
    // Conditional compare
    (0x5f20_0c00, 0x1e20_0400),
    // Data-processing, 2 sources
    (0x5f20_0c00, 0x1e20_0800),
    // Conditional select
    (0x5f20_0c00, 0x1e20_0c00),
    // Data-processing, 3 sources
    (0x5f00_0000, 0x1f00_0000),
];

/// The same, advanced SIMD with floats.
const ARM_VECTOR: [Group; 6] = [
    // Three same
    (0x8f20_c400, 0x0e20_c400),
    // Two registers: absolute, negate, compare with zero
    (0x8fbf_cc00, 0x0ea0_c800),
    // Two registers: round, convert, square root, estimates
    (0x8f3f_8c00, 0x0e21_8800),
    // By element: multiply-add
    (0x8f80_b400, 0x0f80_1000),
    // By element: multiply
    (0x8f80_f400, 0x0f80_9000),
    // Pairwise and across lanes
    (0x8f3f_cc00, 0x0e30_c800),
];

/// FMOV, which moves bits: between registers, between a float and a general
/// register (scalar, upper half), immediate.
const ARM_MOVES: [Group; 4] = [
    (0xff3f_fc00, 0x1e20_4000),
    (0x7f3e_fc00, 0x1e26_0000),
    (0x7f3e_fc00, 0x1e2e_0000),
    (0xff20_1fe0, 0x1e20_1000),
];

fn is_arm_float(word: u32) -> bool {
    let is_in = |groups: &[Group]| groups.iter().any(|(mask, value)| word & mask == *value);
    (is_in(&ARM_SCALAR) || is_in(&ARM_VECTOR)) && !is_in(&ARM_MOVES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodings are an assembler's.
    #[test]
    fn x86_floats() {
        let floats: [&[u8]; 12] = [
            &[0xf2, 0x0f, 0x58, 0xc1],       // addsd
            &[0x0f, 0x59, 0xc1],             // mulps
            &[0xf3, 0x0f, 0x5e, 0xc1],       // divss
            &[0xf2, 0x48, 0x0f, 0x2a, 0xc0], // cvtsi2sd
            &[0xf2, 0x48, 0x0f, 0x2c, 0xc0], // cvttsd2si
            &[0x66, 0x0f, 0x2e, 0xc1],       // ucomisd
            &[0x66, 0x0f, 0x51, 0xc1],       // sqrtpd
            &[0xc5, 0xfd, 0x58, 0xc1],       // vaddpd
            &[0xc4, 0xe2, 0xf1, 0xa9, 0xc2], // vfmadd213sd
            &[0xd8, 0xc1],                   // fadd
            &[0xdd, 0x00],                   // fld
            &[0xf3, 0x0f, 0x5f, 0xc1],       // maxss
        ];
        for code in floats {
            assert_eq!(find(Arch::X86_64, code, 16), [16], "{code:02x?}");
        }
    }

    #[test]
    fn x86_moves_and_integers() {
        let others: [&[u8]; 12] = [
            &[0x0f, 0x29, 0x07],             // movaps
            &[0xf2, 0x0f, 0x10, 0x06],       // movsd
            &[0x0f, 0x57, 0xc0],             // xorps
            &[0x66, 0x48, 0x0f, 0x6e, 0xc0], // movq
            &[0x66, 0x0f, 0x70, 0xc8, 0x01], // pshufd
            &[0x0f, 0xc6, 0xc8, 0x01],       // shufps
            &[0x66, 0x0f, 0xd4, 0xc1],       // paddq
            &[0x66, 0x0f, 0x74, 0xc1],       // pcmpeqb
            &[0x66, 0x0f, 0xd7, 0xc0],       // pmovmskb
            &[0x0f, 0x50, 0xc0],             // movmskps
            &[0xa7],                         // cmpsd, the one of strings
            &[0x48, 0x0f, 0xaf, 0xc6],       // imul
        ];
        for code in others {
            assert_eq!(find(Arch::X86_64, code, 0), [0; 0], "{code:02x?}");
        }
    }

    #[test]
    fn arm_floats() {
        // fadd, frintz, fcmp, fccmp, scvtf (general), fcvtzu, fmul (vector),
        // fdiv, fabs, scvtf (vector), frintn, fmul (element), faddp
        let floats = [
            0x1e62_2820,
            0x1e65_c020,
            0x1e61_2000,
            0x1e61_0400,
            0x9e62_0020,
            0x1e39_0020,
            0x6e62_dc20,
            0x6e22_fc20,
            0x4ee0_f820,
            0x4e21_d820,
            0x4e21_8820,
            0x4fa2_9020,
            0x7e70_d820_u32,
        ];
        for word in floats {
            assert_eq!(find(Arch::Aarch64, &word.to_le_bytes(), 8), [8], "{word:08x}");
        }
    }

    #[test]
    fn arm_moves_and_integers() {
        // fmov (three kinds), str q, dup, cmeq, orr, uminv, cnt, mul, pmul, ext
        let others = [
            0x1e60_4020,
            0x1e27_0001,
            0x9e66_0020,
            0x3d80_0020,
            0x4e01_0c20,
            0x4e20_9820,
            0x4ea2_1c20,
            0x6e31_a820,
            0x0e20_5820,
            0x4ea2_9c20,
            0x2e22_9c20,
            0x6e02_4020_u32,
        ];
        for word in others {
            assert_eq!(find(Arch::Aarch64, &word.to_le_bytes(), 0), [0; 0], "{word:08x}");
        }
    }
}
