//! Guests as JSON.

use core::fmt;

use super::{Hosted, Hosting};
use crate::json::Json;

impl fmt::Display for Json<&Hosted<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hosted { guest, runs, limit_bytes, memory_bytes, resize, sizes, .. } = self.0;
        let (name, model) = (guest.name, guest.model.name());
        let overhead = limit_bytes.saturating_sub(*memory_bytes);
        write!(
            f,
            r#"{{"name":"{name}","model":"{model}","runs":{runs},"memory_bytes":{memory_bytes},"#
        )?;
        write!(f, r#""overhead_bytes":{overhead},"limit_bytes":{limit_bytes}"#)?;
        if !guest.qmp.is_empty() {
            write!(f, r#","qmp":{}"#, *sizes.end() > 0)?;
        }
        if let Some(resize) = resize {
            write!(f, r#","resize":{}"#, Json(resize))?;
        }
        f.write_str("}")
    }
}

/// As a list of guests.
impl fmt::Display for Json<&Hosting<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = r#"{"guests":["#;
        for hosted in &self.0.hosted {
            write!(f, "{comma}{}", Json(hosted))?;
            comma = ",";
        }
        if comma != "," {
            f.write_str(comma)?;
        }
        write!(f, r#"],"reserve_free_bytes":{}}}"#, self.0.pool.free_bytes())
    }
}
