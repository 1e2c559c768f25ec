//! The text of a UUID.

use core::fmt;

use crate::board::Uuid;

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", u32::from(*byte))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn text() {
        let text = "edfe9f90-3a4d-11f0-b8f8-e89c256c3906";
        assert_eq!(crate::volume::QM_VAR.to_string(), text);
    }
}
