//! The chart: what a pass costs, and how memory comes back after bursts.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use super::figures::Report;
use super::samples::Tool;

/// Of the whole chart, in pixels.
const SIZE: (u32, u32) = (1000, 420);
const FONT: &str = "sans-serif";

/// Of captions and of words, in pixels.
const CAPTION: i32 = 16;
const WORDS: i32 = 13;
/// Space for the words at an axis, in pixels.
const AXIS: u32 = 64;

/// Okabe and Ito's colours, which the colour-blind tell apart.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);
const GREY: RGBColor = RGBColor(120, 120, 120);

/// A line in a chart.
struct Line {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(u64, u64)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

impl Report {
    /// The chart as an SVG picture.
    pub fn chart(&self) -> Result<String> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        self.draw(&area).map_err(|error| anyhow!("the chart: {error}"))?;
        drop(area);
        Ok(svg)
    }

    fn draw<'a>(&self, area: &Area<'a>) -> Drawn<'a> {
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        let line = |name, colour, points| Line { name, colour, points };
        let kernel = [Tool::KernelList, Tool::KernelCommands];
        let costs = [
            line("peer", ORANGE, self.samples.costs(&[Tool::Peer])),
            line("plimsoll", BLUE, self.samples.costs(&[Tool::Plimsoll])),
            line("the kernel alone", GREY, self.samples.costs(&kernel)),
        ];
        draw_costs(&left, &costs)?;
        let curve = |tool| self.memory.get(&tool).cloned().unwrap_or_default();
        let memory = [
            line("peer", ORANGE, curve(Tool::Peer)),
            line("plimsoll", BLUE, curve(Tool::Plimsoll)),
        ];
        draw_memory(&right, &memory)?;
        area.present()
    }
}

fn draw_costs<'a>(area: &Area<'a>, lines: &[Line]) -> Drawn<'a> {
    let ((x_min, x_max), (y_min, y_max)) = bounds(lines);
    let mut chart = ChartBuilder::on(area)
        .caption("CPU time of a pass, in microseconds", (FONT, CAPTION))
        .margin(WORDS)
        .x_label_area_size(AXIS / 2)
        .y_label_area_size(AXIS)
        .build_cartesian_2d((x_min..x_max).log_scale(), (y_min..y_max).log_scale())?;
    chart.configure_mesh().x_desc("cgroups").label_style((FONT, WORDS)).draw()?;
    draw_lines(&mut chart, lines, SeriesLabelPosition::UpperLeft)
}

fn draw_memory<'a>(area: &Area<'a>, lines: &[Line]) -> Drawn<'a> {
    let ((_, x_max), (_, y_max)) = bounds(lines);
    let mut chart = ChartBuilder::on(area)
        .caption("Memory after bursts, in MiB", (FONT, CAPTION))
        .margin(WORDS)
        .x_label_area_size(AXIS / 2)
        .y_label_area_size(AXIS)
        .build_cartesian_2d(0..x_max, 0..y_max)?;
    chart.configure_mesh().x_desc("seconds").label_style((FONT, WORDS)).draw()?;
    draw_lines(&mut chart, lines, SeriesLabelPosition::UpperRight)
}

/// Draws the lines that have points, and their names.
fn draw_lines<'c, 'a: 'c, X, Y>(
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
    chart.configure_series_labels().position(names).label_font((FONT, WORDS)).draw()
}

/// The least and the greatest x and y; the axes' ends, so never the same.
fn bounds(lines: &[Line]) -> ((u64, u64), (u64, u64)) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let ends = |of: fn(&(u64, u64)) -> u64| {
        let min = points().map(of).min().unwrap_or(1).max(1);
        (min, points().map(of).max().unwrap_or(1).max(min + 1))
    };
    (ends(|point| point.0), ends(|point| point.1))
}
