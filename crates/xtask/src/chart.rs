//! What the charts have in common.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

pub(crate) const FONT: &str = "sans-serif";
/// Of captions and of words, in pixels.
pub(crate) const CAPTION: i32 = 16;
pub(crate) const WORDS: i32 = 13;
/// Space for the words at an axis, in pixels.
pub(crate) const AXIS: u32 = 64;

/// Okabe and Ito's colours, which the colour-blind tell apart.
pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(crate) const ORANGE: RGBColor = RGBColor(213, 94, 0);
pub(crate) const GREY: RGBColor = RGBColor(120, 120, 120);

/// A line in a chart.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) colour: RGBColor,
    pub(crate) points: Vec<(u64, u64)>,
}

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Drawn<'a> =
    Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// What `draw` draws on an area of so many pixels, as an SVG picture.
pub(crate) fn svg(
    size: (u32, u32),
    draw: impl for<'a> FnOnce(&Area<'a>) -> Drawn<'a>,
) -> Result<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let drawn = area.fill(&WHITE).and_then(|()| draw(&area)).and_then(|()| area.present());
    drawn.map_err(|error| anyhow!("the chart: {error}"))?;
    drop(area);
    Ok(svg)
}

/// Draws the lines that have points, and their names.
pub(crate) fn draw_lines<'c, 'a: 'c, X, Y>(
    chart: &mut ChartContext<'c, SVGBackend<'a>, Cartesian2d<X, Y>>,
    lines: &[Line],
    names: SeriesLabelPosition,
) -> Drawn<'a>
where
    X: Ranged<ValueType = u64>,
    Y: Ranged<ValueType = u64>,
{
    for Line { name, colour, points } in lines.iter().filter(|line| !line.points.is_empty()) {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + WORDS, y)], colour));
    }
    let mut labels = chart.configure_series_labels();
    labels.position(names).label_font((FONT, WORDS)).background_style(WHITE.mix(0.8)).draw()
}
