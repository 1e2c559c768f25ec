//! `plimsoll guest`: what a VMM's overhead is, and why.

use plimsoll_core::guests::model::{MODELS, Model, account};
use plimsoll_core::guests::{Field, Values};

use crate::cli::{FAILED, OK, USAGE};
use crate::kmsg::put;
use crate::start::Start;
use crate::sys::{STDERR, STDOUT};

/// The first option of `plimsoll guest explain`.
const OPTIONS: usize = 3;

/// Does the sum for what the options say.
pub(crate) fn explain(start: Start) -> u8 {
    let (mut model, mut values) = (Model::default(), Values::default());
    let mut at = OPTIONS;
    while at < start.argc() {
        let option = start.arg(at).unwrap_or_default();
        let text = start.arg(at + 1).unwrap_or_default();
        at += 2;
        let name = option.strip_prefix("--").unwrap_or_default();
        if name == "model" {
            let Some(named) = Model::named(text) else {
                put(STDERR, format_args!("--model: found {text}, allowed is {MODELS}\n"));
                return USAGE;
            };
            model = named;
        } else if let Some(field) = Field::named(name) {
            if let Err(wrong) = values.set(field, text) {
                put(STDERR, format_args!("--{wrong}\n"));
                return USAGE;
            }
        } else {
            put(STDERR, format_args!("found {option}, allowed is --model"));
            for field in Field::ALL {
                put(STDERR, format_args!(" --{}", field.name()));
            }
            put(STDERR, format_args!("\n"));
            return USAGE;
        }
    }
    put(STDOUT, format_args!("{}\n", model.name()));
    match account(model, &values, &mut |line| put(STDOUT, format_args!("{line}\n"))) {
        Ok(_) => OK,
        Err(wrong) => {
            put(STDERR, format_args!("--{wrong}\n"));
            FAILED
        }
    }
}
