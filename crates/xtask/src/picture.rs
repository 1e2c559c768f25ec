//! A report as an SVG picture: a terminal's lines, for documents.

use std::fmt::Write as _;

/// Height of a line and width of a character at 13 px, in pixels.
const LINE: usize = 18;
const CHARACTER: usize = 8;
/// Space around the text, in pixels.
const MARGIN: usize = 16;

/// Draws the lines of `text`; those that end in "agree" in green, in "DIFFER"
/// in red.
#[must_use]
pub fn svg(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let (width, height) = (columns * CHARACTER + 2 * MARGIN, lines.len() * LINE + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#14181f\"/>\n\
         <g font-family=\"monospace\" font-size=\"13\" xml:space=\"preserve\">\n"
    );
    for (n, line) in lines.iter().enumerate() {
        let colour = match line.rsplit(' ').next() {
            Some("agree") => "#9fd8a4",
            Some("DIFFER" | "differ") => "#ff8a80",
            _ => "#e6e6e6",
        };
        let (y, length) = (MARGIN + (n + 1) * LINE - 5, line.chars().count() * CHARACTER);
        let line = line.replace('&', "&amp;").replace('<', "&lt;");
        let _infallible = writeln!(
            svg,
            "<text x=\"{MARGIN}\" y=\"{y}\" textLength=\"{length}\" fill=\"{colour}\">{line}</text>"
        );
    }
    svg + "</g>\n</svg>\n"
}
