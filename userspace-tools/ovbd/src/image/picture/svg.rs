// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A picture as SVG, readable on light and dark ground.

use std::fmt::Write;

use super::super::size::Human;
use super::palette;
use super::plan::{Cell, Plan, Row};
use super::term::percent;
use super::{Columns, LayerShare, Picture};

// All lengths in the SVG's own unit, about a pixel.
const WIDTH: usize = 1200;
const MARGIN: usize = 24;
const LABELS: usize = 300;
const STRIP: usize = WIDTH - 2 * MARGIN - LABELS;
const STRIP_HEIGHT: usize = 26;
const STRIP_GAP: usize = 8;
const PLAN_COLUMNS: usize = 128;
const PLAN_ROWS: usize = 48;
const LABEL: usize = 72;
const CELL: usize = (WIDTH - 2 * MARGIN - LABEL) / PLAN_COLUMNS;
const ROW: usize = 13;
const GAP: usize = 24;

/// How faint data are drawn that higher layers hide.
const HIDDEN_OPACITY: f64 = 0.22;

const CSS: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}\
.title{font-size:20px;font-weight:600}.small{font-size:11px;fill:#6e7781}\
.number{font-variant-numeric:tabular-nums}\
.ground{fill:#fff}.track{fill:#f0f2f4}.tick{stroke:#d0d7de}.zero{fill:url(#zero)}\
.hatch{stroke:#8c959f;stroke-width:2}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#8d96a0}\
.ground{fill:#0d1117}.track{fill:#1b222b}.tick{stroke:#30363d}}";

/// Draws the picture.
pub fn svg(picture: &Picture<'_>) -> String {
    let strips = picture.layers.len() + 1;
    let strips_top = 92;
    let strips_height = strips * (STRIP_HEIGHT + STRIP_GAP);
    let plan_top = strips_top + strips_height + 64;
    let plan = Plan::new(picture, PLAN_COLUMNS as u64, PLAN_ROWS);
    let plan_height: usize = plan.rows.iter().map(row_height).sum();
    let height = plan_top + plan_height + MARGIN;
    let mut drawing = Drawing {
        text: String::new(),
    };
    drawing.open(height);
    drawing.title(picture);
    drawing.strips(picture, strips_top);
    drawing.plan(&plan, plan_top);
    drawing.text.push_str("</svg>\n");
    drawing.text
}

struct Drawing {
    text: String,
}

/// Writing to a string cannot fail.
macro_rules! draw {
    ($drawing:expr, $($arg:tt)*) => {
        let _ = writeln!($drawing.text, $($arg)*);
    };
}

impl Drawing {
    fn open(&mut self, height: usize) {
        draw!(
            self,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">"#
        );
        draw!(self, "<style>{CSS}</style>");
        draw!(
            self,
            r#"<defs><pattern id="zero" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line class="hatch" x1="0" y1="0" x2="0" y2="5"/></pattern></defs>"#
        );
        draw!(
            self,
            r#"<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>"#
        );
    }

    fn title(&mut self, picture: &Picture<'_>) {
        let count = picture.layers.len();
        let plural = if count == 1 { "" } else { "s" };
        let data: u64 = picture.layers.iter().map(|layer| layer.seen).sum();
        self.words(
            MARGIN,
            42,
            "title",
            &format!("{} disk of {count} layer{plural}", Human(picture.size())),
        );
        self.words(
            MARGIN,
            64,
            "small",
            &format!(
                "{} of data in {} extents; pale: hidden by a higher layer; hatched: set to zero",
                Human(data),
                picture.map().data_segments()
            ),
        );
    }

    fn words(&mut self, x: usize, y: usize, class: &str, words: &str) {
        let words = escape(words);
        draw!(
            self,
            r#"<text class="{class}" x="{x}" y="{y}">{words}</text>"#
        );
    }

    /// A strip for each layer, topmost first, and one for the disk.
    fn strips(&mut self, picture: &Picture<'_>, top: usize) {
        let columns = picture.columns(STRIP);
        let width = columns.sectors.len();
        let scale = STRIP as f64 / width as f64;
        let mut y = top;
        for (number, layer) in picture.layers.iter().enumerate().rev() {
            self.label(y, Some(number), layer);
            self.track(y);
            let colour = palette::svg(number);
            let hidden = |column| {
                let share = columns.part(columns.data[number][column], column);
                (share > 0.0).then_some((0, opacity(share) * HIDDEN_OPACITY))
            };
            self.runs(y, width, scale, hidden, |_| format!(r#"fill="{colour}""#));
            let zeroed = |column| {
                let share = columns.part(columns.zeroed[number][column], column);
                (share > 0.0).then_some((0, 1.0))
            };
            self.runs(y, width, scale, zeroed, |_| r#"class="zero""#.to_owned());
            let seen = |column| {
                let share = columns.part(columns.seen[number][column], column);
                (share > 0.0).then_some((0, opacity(share)))
            };
            self.runs(y, width, scale, seen, |_| format!(r#"fill="{colour}""#));
            y += STRIP_HEIGHT + STRIP_GAP;
        }
        self.merged(picture, &columns, y, scale);
        self.axis(picture, y + STRIP_HEIGHT);
    }

    /// The strip of the disk itself.
    fn merged(&mut self, picture: &Picture<'_>, columns: &Columns, y: usize, scale: f64) {
        let whole = LayerShare {
            name: "the disk".to_owned(),
            data: picture.layers.iter().map(|layer| layer.seen).sum(),
            ..LayerShare::default()
        };
        self.label(y, None, &whole);
        self.track(y);
        let top = |column| {
            let (layer, share) = columns.top(column)?;
            Some((layer, opacity(share)))
        };
        self.runs(y, columns.sectors.len(), scale, top, |layer| {
            format!(r#"fill="{}""#, palette::svg(layer))
        });
    }

    fn label(&mut self, y: usize, number: Option<usize>, layer: &LayerShare) {
        let middle = y + STRIP_HEIGHT / 2;
        let x = MARGIN + 22;
        if let Some(number) = number {
            let (colour, top) = (palette::svg(number), middle - 6);
            draw!(
                self,
                r#"<rect fill="{colour}" x="{MARGIN}" y="{top}" width="12" height="12" rx="2"/>"#
            );
        }
        self.words(x, middle - 1, "", &shorten(&layer.name, 36));
        let seen = match number {
            Some(_) if layer.data > 0 => format!(", {} seen", percent(layer.seen, layer.data)),
            _ => String::new(),
        };
        let zeroed = match layer.zeroed {
            0 => String::new(),
            bytes => format!(", {} set to zero", Human(bytes)),
        };
        let numbers = format!("{}{seen}{zeroed}", Human(layer.data));
        self.words(x, middle + 12, "small number", &numbers);
    }

    fn track(&mut self, y: usize) {
        let x = MARGIN + LABELS;
        draw!(
            self,
            r#"<rect class="track" x="{x}" y="{y}" width="{STRIP}" height="{STRIP_HEIGHT}" rx="3"/>"#
        );
    }

    /// Rectangles for columns that have something; neighbours that look alike become one.
    fn runs(
        &mut self,
        y: usize,
        width: usize,
        scale: f64,
        look: impl Fn(usize) -> Option<(usize, f64)>,
        paint: impl Fn(usize) -> String,
    ) {
        let mut column = 0;
        while column < width {
            let this = look(column);
            let end = (column + 1..width)
                .find(|next| look(*next) != this)
                .unwrap_or(width);
            if let Some((what, opacity)) = this {
                let x = (MARGIN + LABELS) as f64 + column as f64 * scale;
                let length = (end - column) as f64 * scale;
                let paint = paint(what);
                draw!(
                    self,
                    r#"<rect {paint} opacity="{opacity:.2}" x="{x:.1}" y="{y}" width="{length:.1}" height="{STRIP_HEIGHT}"/>"#
                );
            }
            column = end;
        }
    }

    fn axis(&mut self, picture: &Picture<'_>, y: usize) {
        const PARTS: usize = 4;
        for part in 0..=PARTS {
            let x = MARGIN + LABELS + STRIP * part / PARTS;
            let (from, to) = (y, y + 6);
            draw!(
                self,
                r#"<line class="tick" x1="{x}" y1="{from}" x2="{x}" y2="{to}"/>"#
            );
            let anchor = match part {
                0 => "start",
                PARTS => "end",
                _ => "middle",
            };
            let at = Human(picture.size() / PARTS as u64 * part as u64);
            let y = y + 20;
            draw!(
                self,
                r#"<text class="small number" x="{x}" y="{y}" text-anchor="{anchor}">{at}</text>"#
            );
        }
    }

    /// The disk row by row.
    fn plan(&mut self, plan: &Plan, top: usize) {
        let words = format!("The disk row by row, each cell {}", Human(plan.cell));
        self.words(MARGIN, top - 12, "small", &words);
        let mut y = top;
        for row in &plan.rows {
            match row {
                Row::Gap { length } => {
                    let words = format!("⋮  {} of zeros", Human(*length));
                    self.words(MARGIN + LABEL, y + GAP - 6, "small", &words);
                }
                Row::Cells { start, cells } => {
                    let label = Human(*start).to_string();
                    self.words(MARGIN, y + ROW - 2, "small number", &label);
                    self.row(y, cells);
                }
            }
            y += row_height(row);
        }
    }

    /// A row of the plan; neighbours that look alike become one rectangle.
    fn row(&mut self, y: usize, cells: &[Cell]) {
        let (x, width) = (MARGIN + LABEL, cells.len() * CELL);
        draw!(
            self,
            r#"<rect class="track" x="{x}" y="{y}" width="{width}" height="{ROW}"/>"#
        );
        let look = |cell: &Cell| cell.map(|(layer, share)| (layer, opacity(share)));
        let mut from = 0;
        for run in cells.chunk_by(|a, b| look(a) == look(b)) {
            if let Some((layer, opacity)) = run.first().and_then(look) {
                let (x, width) = (x + from * CELL, run.len() * CELL);
                let colour = palette::svg(layer);
                draw!(
                    self,
                    r#"<rect fill="{colour}" opacity="{opacity:.2}" x="{x}" y="{y}" width="{width}" height="{ROW}"/>"#
                );
            }
            from += run.len();
        }
    }
}

fn row_height(row: &Row) -> usize {
    match row {
        Row::Gap { .. } => GAP,
        Row::Cells { .. } => ROW + 1,
    }
}

/// How strong to draw what fills `share` of a column: the least bit has to be visible.
fn opacity(share: f64) -> f64 {
    let strong = 0.35 + 0.65 * share.sqrt();
    (strong * 20.0).round() / 20.0
}

fn shorten(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    let kept: String = name.chars().take(most - 1).collect();
    kept + "…"
}

/// Characters that mean something in SVG, or must not be in it, as others.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            other if other.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_picture() {
        assert_eq!(escape("a<b>&c\u{1b}[1m"), "a&lt;b&gt;&amp;c\u{fffd}[1m");
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(shorten("äöü", 3), "äöü");
    }

    #[test]
    fn little_is_visible_and_all_is_full() {
        assert!(opacity(1e-9) > 0.3);
        assert_eq!(opacity(1.0), 1.0);
    }
}
