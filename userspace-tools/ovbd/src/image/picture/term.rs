// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A picture made of characters.

use std::fmt::Write;

use super::super::size::Human;
use super::palette;
use super::plan::{Cell, Plan, Row};
use super::{Columns, Picture};

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Characters a line.
    pub width: usize,
    /// With colours.
    pub colour: bool,
}

/// Lines of the plan, at most.
const PLAN_LINES: usize = 16;

/// The least and the most columns that make sense.
const COLUMNS: (usize, usize) = (16, 160);

/// What of a layer's data is hidden by higher layers.
const HIDDEN: char = '░';

/// Where a layer only sets things to zero.
const ZEROED: char = '·';

/// Draws the picture: strips, then the plan. Ends with a newline.
pub fn terminal(picture: &Picture<'_>, style: Style) -> String {
    let mut canvas = Canvas {
        text: String::new(),
        style,
    };
    let plural = if picture.layers.len() == 1 { "" } else { "s" };
    canvas.line(&format!(
        "{} disk, {} layer{plural}, {} extents",
        Human(picture.size()),
        picture.layers.len(),
        picture.map().data_segments()
    ));
    canvas.strips(picture);
    canvas.plan(picture);
    canvas.text
}

struct Canvas {
    text: String,
    style: Style,
}

impl Canvas {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.end_line();
    }

    /// Spaces at the end of a line are of no use.
    fn end_line(&mut self) {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }

    /// A character in the colour of a layer.
    fn coloured(&mut self, layer: usize, text: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = if self.style.colour {
            let colour = palette::terminal(layer);
            write!(self.text, "\x1b[38;5;{colour}m{text}\x1b[0m")
        } else {
            write!(self.text, "{text}")
        };
    }

    fn dim(&mut self, text: impl std::fmt::Display) {
        let _ = if self.style.colour {
            write!(self.text, "\x1b[2m{text}\x1b[0m")
        } else {
            write!(self.text, "{text}")
        };
    }

    /// How many columns are left for the disk beside `beside` characters.
    fn columns(&self, beside: usize) -> usize {
        let (least, most) = COLUMNS;
        self.style.width.saturating_sub(beside).clamp(least, most)
    }

    /// One line for each layer, topmost first.
    fn strips(&mut self, picture: &Picture<'_>) {
        let labels: Vec<_> = picture.layers.iter().map(label).collect();
        let beside = labels.iter().map(|l| l.chars().count()).max().unwrap_or(0);
        let columns = picture.columns(self.columns(beside + 8));
        let width = columns.sectors.len();
        self.line(&format!(
            "\n    one column: {}   ▁▂▃▄▅▆▇█ data, seen   {HIDDEN} hidden   {ZEROED} set to zero",
            Human(picture.size() / width as u64)
        ));
        self.line(&format!("    ┌{}┐", "─".repeat(width)));
        for (layer, label) in labels.iter().enumerate().rev() {
            self.coloured(layer, format_args!("{:>3}", palette::letter(layer)));
            self.text.push_str(" │");
            for column in 0..width {
                self.strip_cell(&columns, layer, column);
            }
            self.text.push_str("│ ");
            self.line(label);
        }
        self.line(&format!("    └{}┘", "─".repeat(width)));
        let end = Human(picture.size()).to_string();
        let gap = (width + 2).saturating_sub(1 + end.chars().count());
        self.line(&format!("    0{}{end}", " ".repeat(gap)));
    }

    fn strip_cell(&mut self, columns: &Columns, layer: usize, column: usize) {
        let seen = columns.part(columns.seen[layer][column], column);
        if seen > 0.0 {
            self.coloured(layer, eighths(seen));
        } else if columns.data[layer][column] > 0 {
            self.dim(HIDDEN);
        } else if columns.zeroed[layer][column] > 0 {
            self.dim(ZEROED);
        } else {
            self.text.push(' ');
        }
    }

    /// The disk, row by row. With colours, a line of text holds two rows.
    fn plan(&mut self, picture: &Picture<'_>) {
        let rows = if self.style.colour { 2 } else { 1 };
        let width = round_width(self.columns(14));
        let plan = Plan::new(picture, (width * rows) as u64, PLAN_LINES);
        self.line(&format!(
            "\n    which layer serves what, row by row; one cell: {}",
            Human(plan.cell)
        ));
        for row in &plan.rows {
            match row {
                Row::Gap { length } => {
                    let text = format!("{:>11} │ {} of zeros", "⋮", Human(*length));
                    self.dim(text);
                }
                Row::Cells { start, cells } => {
                    let _ = write!(self.text, "{:>11} │", Human(*start).to_string());
                    for column in 0..width.min(cells.len()) {
                        let layer = |cell: usize| cells.get(cell).copied().flatten();
                        self.plan_cell(layer(column), layer(column + width));
                    }
                }
            }
            self.end_line();
        }
    }

    fn plan_cell(&mut self, upper: Cell, lower: Cell) {
        let (upper, lower) = (upper.map(|cell| cell.0), lower.map(|cell| cell.0));
        if !self.style.colour {
            self.text.push(upper.map_or(' ', palette::letter));
            return;
        }
        match (upper, lower) {
            (None, None) => self.text.push(' '),
            (Some(upper), Some(lower)) if upper == lower => self.coloured(upper, '█'),
            (Some(upper), None) => self.coloured(upper, '▀'),
            (None, Some(lower)) => self.coloured(lower, '▄'),
            (Some(upper), Some(lower)) => {
                let (front, back) = (palette::terminal(upper), palette::terminal(lower));
                let _ = write!(self.text, "\x1b[38;5;{front};48;5;{back}m▀\x1b[0m");
            }
        }
    }
}

/// The power of two that fits into `width`, so that rows begin at round numbers.
fn round_width(width: usize) -> usize {
    1 << width.max(1).ilog2()
}

/// A block as high as `part`, which is more than 0 and at most 1.
fn eighths(part: f64) -> char {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let height = (part * 8.0).ceil() as usize;
    BLOCKS[height.clamp(1, 8) - 1]
}

/// A layer's name and numbers.
fn label(layer: &super::LayerShare) -> String {
    let hidden = match layer.data {
        0 => String::new(),
        data => format!(", {} seen", percent(layer.seen, data)),
    };
    format!("{}  {}{hidden}", layer.name, Human(layer.data))
}

/// A part in percent, with 0 % and 100 % only if that is exact.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if part == 0 || part >= whole {
        return if part == 0 { "0 %" } else { "100 %" }.to_owned();
    }
    let value = part as f64 * 100.0 / whole as f64;
    match value {
        v if v < 0.5 => "<1 %".to_owned(),
        v if v > 99.5 => ">99 %".to_owned(),
        v => format!("{v:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_become_blocks() {
        for (part, block) in [
            (1e-9, '▁'),
            (0.125, '▁'),
            (0.126, '▂'),
            (0.99, '█'),
            (1.0, '█'),
        ] {
            assert_eq!(eighths(part), block);
        }
    }

    #[test]
    fn percentages_do_not_lie() {
        for (part, whole, text) in [
            (0, 10, "0 %"),
            (10, 10, "100 %"),
            (1, 1000, "<1 %"),
            (999, 1000, ">99 %"),
            (1, 3, "33 %"),
        ] {
            assert_eq!(percent(part, whole), text);
        }
    }
}
