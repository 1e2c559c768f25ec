//! The chart: a row for each architecture, the driver alone and plimsoll side by
//! side.

use anyhow::Result;
use plotters::prelude::*;

use super::figures::{Compared, Point, Report, Run};
use crate::chart::{
    AXIS, Area, BLUE, CAPTION, Drawn, FONT, GREY, Line, ORANGE, WORDS, draw_lines, svg,
};

/// Of a row, in pixels.
const SIZE: (u32, u32) = (1000, 330);
/// Height of the axis of MiB: the guest's 2048, and room for words.
const MIB: u64 = 2300;
/// Height of the mark of a kill, in MiB, and its colour.
const MARK: u64 = 130;
const RED: RGBColor = RGBColor(200, 0, 60);

impl Report {
    /// The chart of the first runs, as an SVG picture.
    pub fn chart(&self) -> Result<String> {
        let rows = self.compared.len();
        let height = SIZE.1 * u32::try_from(rows)?;
        svg((SIZE.0, height), |area| {
            for (row, compared) in area.split_evenly((rows, 1)).iter().zip(&self.compared) {
                self.draw(row, compared)?;
            }
            Ok(())
        })
    }

    fn draw<'a>(&self, area: &Area<'a>, compared: &Compared) -> Drawn<'a> {
        let Compared { arch, alone, plimsoll } = compared;
        let sides = [(alone, "the driver alone"), (plimsoll, "with plimsoll")];
        let first = |runs: &'_ [Run]| runs.first().map_or(Vec::new(), |run| run.points.clone());
        let last = sides.iter().filter_map(|(runs, _)| Some(first(runs).last()?.ms / 1000)).max();
        for ((runs, name), area) in sides.into_iter().zip(area.split_evenly((1, 2))) {
            let caption = format!("{arch}, {name}: MiB over seconds");
            self.draw_run(&area, &caption, &first(runs), last.unwrap_or(1))?;
        }
        Ok(())
    }

    fn draw_run<'a>(
        &self,
        area: &Area<'a>,
        caption: &str,
        points: &[Point],
        last: u64,
    ) -> Drawn<'a> {
        let mut chart = ChartBuilder::on(area)
            .caption(caption, (FONT, CAPTION))
            .margin(WORDS)
            .x_label_area_size(AXIS / 2)
            .y_label_area_size(AXIS)
            .build_cartesian_2d(0..last, 0..MIB)?;
        chart.configure_mesh().light_line_style(WHITE).label_style((FONT, WORDS)).draw()?;
        let leave = [self.held_secs, self.held_secs + self.left_secs];
        for (secs, words) in leave.into_iter().zip(["five leave", "all leave"]) {
            chart.draw_series([PathElement::new([(secs, 0), (secs, MIB)], GREY)])?;
            let style = (FONT, WORDS).into_font().color(&GREY);
            chart.draw_series([Text::new(words, (secs + last / 100, MIB * 99 / 100), style)])?;
        }
        let kills = points.windows(2).filter_map(|pair| match pair {
            [before, after] if after.kills > before.kills => Some(after.ms / 1000),
            _ => None,
        });
        let marks =
            kills.map(|secs| PathElement::new([(secs, 0), (secs, MARK)], RED.stroke_width(2)));
        let killed = chart.draw_series(marks)?;
        let [Some(first), Some(end)] = [points.first(), points.last()] else { return Ok(()) };
        killed.label(format!("killed: {}", end.kills - first.kills)).legend(|(x, y)| {
            let x = x + WORDS / 2;
            PathElement::new([(x, y - 5), (x, y + 5)], RED.stroke_width(2))
        });
        let line = |name, colour, of: fn(&Point) -> u64| Line {
            name,
            colour,
            points: points.iter().map(|point| (point.ms / 1000, of(point) >> 10)).collect(),
        };
        let lines = [
            line("MemTotal", BLUE, |point| point.total_kib),
            line("MemAvailable", ORANGE, |point| point.available_kib),
        ];
        draw_lines(&mut chart, &lines, SeriesLabelPosition::MiddleRight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_both_sides() {
        let run = |killed: u64| {
            let points = (0..200).map(|n| {
                let (total, kills) = (1_900_000 - n * 6000, n * killed / 200);
                format!("at {} {total} {} {kills}\n", n * 1000, total / 5)
            });
            let head = "alone 400000\nkernel 6.12\nshrink_ms 650\nheld_alive 9\n";
            Run::new(&(head.to_owned() + &points.collect::<String>())).unwrap()
        };
        let compared = Compared { arch: "x86_64", alone: vec![run(30)], plimsoll: vec![run(0)] };
        let report = Report {
            date: String::new(),
            command: String::new(),
            held_secs: 60,
            left_secs: 30,
            compared: vec![compared],
        };
        let svg = report.chart().unwrap();
        for text in ["x86_64, the driver alone", "with plimsoll", "killed: 29", "killed: 0"] {
            assert!(svg.contains(text), "{text}\n{svg}");
        }
    }
}
