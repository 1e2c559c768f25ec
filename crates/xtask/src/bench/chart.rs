//! The chart: what a pass costs, and how memory comes back after bursts.

use anyhow::Result;
use plotters::prelude::*;

use super::figures::Report;
use super::samples::Tool;
use crate::chart::{
    AXIS, Area, BLUE, CAPTION, Drawn, FONT, GREY, Line, ORANGE, WORDS, draw_lines, svg,
};

/// Of the whole chart, in pixels.
const SIZE: (u32, u32) = (1000, 420);

impl Report {
    /// The chart as an SVG picture.
    pub fn chart(&self) -> Result<String> {
        svg(SIZE, |area| self.draw(area))
    }

    fn draw<'a>(&self, area: &Area<'a>) -> Drawn<'a> {
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
        draw_memory(&right, &memory)
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

/// The least and the greatest x and y; the axes' ends, so never the same.
fn bounds(lines: &[Line]) -> ((u64, u64), (u64, u64)) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let ends = |of: fn(&(u64, u64)) -> u64| {
        let min = points().map(of).min().unwrap_or(1).max(1);
        (min, points().map(of).max().unwrap_or(1).max(min + 1))
    };
    (ends(|point| point.0), ends(|point| point.1))
}
