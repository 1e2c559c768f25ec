//! What must not be in the shipped binary, looked for in its ELF file.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol};

use crate::arch::Arch;
use crate::float;

/// Symbols of an allocator or a libc; any of them in the binary means that one
/// was linked. Demangled names end in these. (getauxval is not one of them: the
/// start-up code has its own, for the compiler's library on aarch64.)
const FOREIGN: [&str; 11] = [
    "__rust_alloc",
    "__rust_dealloc",
    "__rdl_alloc",
    "malloc",
    "free",
    "calloc",
    "realloc",
    "__libc_start_main",
    "__errno_location",
    "pthread_create",
    "printf",
];

/// One thing found that must not be there.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The file is to be loaded by another program.
    Interpreter,
    /// The file is to be linked when it is loaded.
    Dynamic,
    /// A symbol of a libc or an allocator.
    Symbol(String),
    /// Float arithmetic at this address.
    Float(u64),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interpreter => f.write_str("has an interpreter"),
            Self::Dynamic => f.write_str("has a dynamic section"),
            Self::Symbol(name) => write!(f, "has the symbol {name}"),
            Self::Float(address) => write!(f, "has float arithmetic at {address:#x}"),
        }
    }
}

/// Everything in `path` that must not be there. The file has its symbols.
pub fn inspect(path: &Path, arch: Arch) -> Result<Vec<Found>> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let elf: ElfFile64 = ElfFile64::parse(data.as_slice())?;
    let mut found = Vec::new();
    let headers = elf.elf_program_headers();
    if headers.iter().any(|header| header.p_type(Endianness::Little) == PT_INTERP) {
        found.push(Found::Interpreter);
    }
    if elf.section_by_name(".dynamic").is_some() {
        found.push(Found::Dynamic);
    }
    let symbols = elf.symbols().filter_map(|symbol| symbol.name().ok());
    let foreign = symbols.filter(|name| FOREIGN.contains(name));
    found.extend(foreign.map(|name| Found::Symbol(name.into())));
    let text = elf.section_by_name(".text").context("no section .text")?;
    let floats = float::find(arch, text.data()?, text.address());
    found.extend(floats.into_iter().map(Found::Float));
    Ok(found)
}
