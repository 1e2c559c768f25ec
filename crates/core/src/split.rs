//! Texts, split at an ASCII character. The library's functions for it look for
//! any pattern, which is a kilobyte of code.

/// What is before the first `at`, and what is behind it.
#[must_use]
pub fn split_once(text: &str, at: u8) -> Option<(&str, &str)> {
    let place = text.bytes().position(|byte| byte == at)?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

/// What is between one `at` and the next; at least one part, maybe empty.
#[must_use]
pub fn split(text: &str, at: u8) -> Split<'_> {
    Split { rest: Some(text), at }
}

/// The lines without their ends; at least one, maybe empty.
#[must_use]
pub fn lines(text: &str) -> Split<'_> {
    split(text.strip_suffix('\n').unwrap_or(text), b'\n')
}

/// See [`split`].
pub struct Split<'t> {
    rest: Option<&'t str>,
    at: u8,
}

impl<'t> Iterator for Split<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let rest = self.rest?;
        let split = split_once(rest, self.at);
        self.rest = split.map(|(_, behind)| behind);
        Some(split.map_or(rest, |(part, _)| part))
    }
}
