//! `plimsoll guest`: what a VMM's overhead is, and why.

use plimsoll_core::guests::model::{MODELS, Model, account};
use plimsoll_core::guests::{Field, Values};

use crate::cli::{OK, USAGE};
use crate::kmsg::put;
use crate::start::Start;
use crate::sys::{STDERR, STDOUT};

/// The first option of `plimsoll guest explain`.
const OPTIONS: usize = 3;

/// Does the sum for what the options say.
pub(crate) fn explain(start: Start) -> u8 {
    let Err((option, found, allowed)) = sum(start) else { return OK };
    let found = if found.is_empty() { "nothing" } else { found };
    put(STDERR, format_args!("--{option}: found {found}, allowed is {allowed}\n"));
    USAGE
}

fn sum(start: Start) -> Result<(), (&'static str, &'static str, &'static str)> {
    let (mut model, mut values) = (Model::default(), Values::default());
    for at in (OPTIONS..start.argc()).step_by(2) {
        let option = start.arg(at).unwrap_or_default();
        let option = option.strip_prefix("--").unwrap_or(option);
        let text = start.arg(at + 1).unwrap_or_default();
        let (taken, allowed) = match Field::named(option) {
            _ if option == "model" => (Model::named(text).map(|named| model = named), MODELS),
            Some(field) => (values.set(field, text), field.allowed()),
            None => (None, "an option of docs/guests.md"),
        };
        taken.ok_or((option, text, allowed))?;
    }
    let done = account(model, &values, &mut |line| put(STDOUT, format_args!("{line}\n")));
    // Within its range no value is too much for a sum.
    done.map(drop).map_err(|field| (field.name(), "", field.allowed()))
}
