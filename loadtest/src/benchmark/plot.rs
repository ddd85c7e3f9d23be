//! One section as a plot: latency on the left, throughput on the right.
//!
//! Enters: a [`Section`]. Leaves: SVG text. Never: a colour alone to tell series apart; a background that the page decides.

use std::ops::Range;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;

use super::sections::{Section, Series};

const SIZE: (u32, u32) = (1_000, 420);
/// Okabe and Ito's colours, distinct for all common kinds of colour vision, dark enough on white; each goes with a marker of its own.
const COLOURS: [RGBColor; 5] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 128, 96), RGBColor(170, 80, 140), RGBColor(80, 80, 80)];
const INK: RGBColor = RGBColor(51, 51, 51);
const GRID: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Batch and value.
type Points = Vec<(f64, f64)>;

/// What one panel shows.
struct Panel<'a> {
    title: String,
    unit: &'a str,
    batches: Vec<u32>,
    /// Label, solid line with markers, dashed line; values as they are.
    lines: Vec<(&'a str, Points, Points)>,
    legend: SeriesLabelPosition,
}

/// The plot of a section with at least one measured cell.
pub(super) fn svg(section: &Section<'_>) -> anyhow::Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let draw = || -> Result<(), String> {
            root.fill(&WHITE).map_err(|it| it.to_string())?;
            let (left, right) = root.split_horizontally(SIZE.0 / 2);
            panel(&left, &latency(section))?;
            panel(&right, &throughput(section))?;
            root.present().map_err(|it| it.to_string())
        };
        draw().map_err(|it| anyhow!("the plot of {} cannot be drawn: {it}", section.model))?;
    }
    Ok(text)
}

/// Places of values whose logarithm was taken, labelled at these.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        from + (part * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

fn measured<'a>(section: &'a Section<'_>) -> impl Iterator<Item = &'a Series<'a>> {
    section.series.iter().filter(|it| it.points().next().is_some())
}

fn latency<'a>(section: &'a Section<'_>) -> Panel<'a> {
    let of = |series: &'a Series<'a>| {
        let p50 = series.points().map(|(batch, it)| (f64::from(batch), it.latency_ms.p50)).collect();
        let p95 = series.points().filter_map(|(batch, it)| Some((f64::from(batch), it.latency_ms.p95?))).collect();
        (series.label.as_str(), p50, p95)
    };
    Panel {
        title: format!("{}: latency, p50 and p95 (dashed)", section.model),
        unit: "ms a batch (log scale)",
        batches: section.batches().into_iter().collect(),
        lines: measured(section).map(of).collect(),
        legend: SeriesLabelPosition::UpperLeft,
    }
}

fn throughput<'a>(section: &'a Section<'_>) -> Panel<'a> {
    let of = |series: &'a Series<'a>| {
        let rates = series.points().map(|(batch, it)| (f64::from(batch), it.texts_per_second)).collect();
        (series.label.as_str(), rates, Vec::new())
    };
    Panel {
        title: format!("{}: throughput", section.model),
        unit: "texts a second (log scale)",
        batches: section.batches().into_iter().collect(),
        lines: measured(section).map(of).collect(),
        legend: SeriesLabelPosition::LowerRight,
    }
}

fn panel(area: &Area<'_>, panel: &Panel<'_>) -> Result<(), String> {
    let values = || panel.lines.iter().flat_map(|it| it.1.iter().chain(&it.2)).map(|it| it.1);
    let (low, high) = (values().fold(f64::INFINITY, f64::min) / 1.15, values().fold(0.0, f64::max) * 1.15);
    let (first, last) = (panel.batches.first().copied().unwrap_or(1), panel.batches.last().copied().unwrap_or(1));
    let across = Axis {
        range: f64::from(first).log2() - 0.3..f64::from(last).log2() + 0.3,
        ticks: panel.batches.iter().map(|it| f64::from(*it).log2()).collect(),
    };
    let up = Axis { range: low.log10()..high.log10(), ticks: ticks(low, high).into_iter().map(f64::log10).collect() };
    let mut chart = ChartBuilder::on(area);
    chart.caption(&panel.title, (FONT, 17).into_font().color(&INK)).margin(12).x_label_area_size(46).y_label_area_size(66);
    let mut chart = chart.build_cartesian_2d(across, up).map_err(|it| it.to_string())?;
    let label = || (FONT, 14).into_font().color(&INK);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("texts a batch").y_desc(panel.unit).x_labels(panel.batches.len().max(2)).y_labels(40);
    mesh.x_label_formatter(&|it| format!("{:.0}", it.exp2())).y_label_formatter(&|it| number(10_f64.powf(*it)));
    mesh.axis_style(INK).bold_line_style(GRID).light_line_style(TRANSPARENT).label_style(label()).axis_desc_style(label());
    mesh.draw().map_err(|it| it.to_string())?;
    for (i, (name, solid, dashed)) in panel.lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let place = |points: &Points| points.iter().map(|it| (it.0.log2(), it.1.log10())).collect::<Vec<_>>();
        chart.draw_series(DashedLineSeries::new(place(dashed), 5, 4, colour.stroke_width(1))).map_err(|it| it.to_string())?;
        let line = chart.draw_series(LineSeries::new(place(solid), colour.stroke_width(2))).map_err(|it| it.to_string())?;
        line.label(*name).legend(move |(x, y)| {
            let line = PathElement::new(vec![(x, y), (x + 24, y)], colour.stroke_width(2));
            EmptyElement::at((0, 0)) + line + marker((x + 12, y), i, colour)
        });
        let points = place(solid).into_iter().map(|at| EmptyElement::at(at) + marker((0, 0), i, colour));
        chart.draw_series(points).map_err(|it| it.to_string())?;
    }
    let mut labels = chart.configure_series_labels();
    labels.position(panel.legend.clone()).background_style(WHITE).border_style(GRID).label_font(label()).margin(10).legend_area_size(34);
    labels.draw().map_err(|it| it.to_string())
}

/// A shape for each place in the list, in pixels: circle, triangle, square, diamond.
fn marker((x, y): (i32, i32), place: usize, colour: RGBColor) -> Polygon<(i32, i32)> {
    let (corners, radius, turn) = [(16, 4.5, 0.0), (3, 6.5, 0.5), (4, 5.5, 0.25), (4, 6.5, 0.5)][place % 4];
    let corner = |i: i32| {
        let angle = std::f64::consts::PI * (2.0 * f64::from(i) / f64::from(corners) + turn);
        (x + (radius * angle.cos()).round() as i32, y - (radius * angle.sin()).round() as i32)
    };
    Polygon::new((0..corners).map(corner).collect::<Vec<_>>(), colour.filled())
}

/// 1, 2, 5, 10, ... within the range; every power of ten alone where that would be crowded, finer where it would be lonely.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = high.log10() - low.log10();
    let steps: &[f64] = if decades > 3.5 {
        &[1.0]
    } else if decades > 0.9 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    };
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let all = powers.flat_map(|power| steps.iter().map(move |it| it * 10_f64.powi(power)));
    all.filter(|it| (low..=high).contains(it)).collect()
}

/// Without digits that say nothing.
fn number(value: f64) -> String {
    let rounded = format!("{value:.3}");
    rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let check = |low: f64, high: f64, expected: &[&str]| {
            assert_eq!(ticks(low, high).into_iter().map(number).collect::<Vec<_>>(), expected);
        };
        check(1.8, 120.0, &["2", "5", "10", "20", "50", "100"]);
        check(200.0, 420.0, &["200", "250", "300", "400"]);
        check(0.5, 9_000.0, &["1", "10", "100", "1000"]);
    }
}
