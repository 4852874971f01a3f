// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The graph as SVG, readable on light and dark ground: layers as boxes that lie on each other, and
//! the images on top.

use std::fmt::Write;

use super::{describe, Graph, Stack};

// All lengths in the SVG's own unit, about a pixel.
const MARGIN: usize = 24;
const TITLE: usize = 40;
const COLUMN: usize = 168;
const ROW: usize = 40;
const GAP: usize = 4;
/// About how many letters fit into a column.
const LETTERS: usize = 20;

const CSS: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f;text-anchor:middle}\
.title{font-size:18px;font-weight:600;text-anchor:start}\
.ground{fill:#fff}.layer{fill:#d0d7de}.shared{fill:#9cc3ec}.image{fill:#a6dcae}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ground{fill:#0d1117}\
.layer{fill:#373e47}.shared{fill:#1f4b7a}.image{fill:#1f5c34}}";

/// Draws the graph.
pub fn svg(graph: &Graph<'_>) -> String {
    let columns: usize = graph.stacks.iter().map(width).sum();
    let rows = graph.stacks.iter().map(height).max().unwrap_or(0);
    let mut drawing = Drawing {
        graph,
        rows,
        text: String::new(),
    };
    let (wide, high) = (
        2 * MARGIN + columns.max(2) * COLUMN,
        2 * MARGIN + TITLE + rows * ROW,
    );
    let _ = write!(
        drawing.text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{high}\" \
         viewBox=\"0 0 {wide} {high}\">\n<style>{CSS}</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"{}\">Images and the layers that they stand on</text>\n",
        MARGIN + 14,
    );
    let mut column = 0;
    for stack in &graph.stacks {
        drawing.stack(stack, column, 0);
        column += width(stack);
    }
    drawing.text.push_str("</svg>\n");
    drawing.text
}

/// Columns that a layer takes: one for each image above.
fn width(stack: &Stack<'_>) -> usize {
    stack.images.len() + stack.layers.iter().map(width).sum::<usize>()
}

/// Rows of a layer and all above.
fn height(stack: &Stack<'_>) -> usize {
    let above = stack.layers.iter().map(height).max().unwrap_or(0);
    1 + above.max(usize::from(!stack.images.is_empty()))
}

struct Drawing<'a> {
    graph: &'a Graph<'a>,
    rows: usize,
    text: String,
}

impl Drawing<'_> {
    fn stack(&mut self, stack: &Stack<'_>, column: usize, row: usize) {
        let users = self.graph.users(stack.number);
        let class = if users > 1 { "shared" } else { "layer" };
        let hint = format!("{}: {users} images", stack.label);
        self.block(column, row, width(stack), class, &stack.label, &hint);
        let mut column = column;
        for image in &stack.images {
            let hint = describe(image);
            self.block(column, row + 1, 1, "image", &image.name, &hint);
            column += 1;
        }
        for layer in &stack.layers {
            self.stack(layer, column, row + 1);
            column += width(layer);
        }
    }

    /// A box, counted in columns from the left and rows from the bottom.
    fn block(
        &mut self,
        column: usize,
        row: usize,
        wide: usize,
        class: &str,
        label: &str,
        hint: &str,
    ) {
        let x = MARGIN + column * COLUMN;
        let y = MARGIN + TITLE + (self.rows - 1 - row) * ROW;
        let (w, h) = (wide * COLUMN - GAP, ROW - GAP);
        let fitting = shorten(label, LETTERS * wide);
        let _ = writeln!(
            self.text,
            "<g><title>{}</title><rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" \
             height=\"{h}\" rx=\"4\"/><text x=\"{}\" y=\"{}\">{}</text></g>",
            escape(hint),
            x + w / 2,
            y + h / 2 + 5,
            escape(&fitting),
        );
    }
}

fn shorten(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let kept: String = text.chars().take(letters.saturating_sub(1)).collect();
    kept + "…"
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no other control characters.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::graph::tests::listing;
    use crate::list::Listing;

    #[test]
    fn layers_are_as_wide_as_what_stands_on_them() {
        let images = listing(&[
            ("web", &["base", "app"]),
            ("web2", &["base", "app"]),
            ("plain", &["base"]),
            ("a<b&c", &["other"]),
        ]);
        let graph = Graph::new(&images);
        assert_eq!(graph.stacks.iter().map(width).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(graph.stacks.iter().map(height).collect::<Vec<_>>(), [3, 2]);
        let picture = svg(&graph);
        assert_eq!(picture.matches("class=\"shared\"").count(), 2);
        assert_eq!(picture.matches("class=\"layer\"").count(), 1);
        assert_eq!(picture.matches("class=\"image\"").count(), 4);
        let wide = format!("width=\"{}\"", 3 * COLUMN - GAP);
        assert_eq!(picture.matches(&wide).count(), 1);
        assert!(picture.contains(">a&lt;b&amp;c<"), "{picture}");
        assert!(svg(&Graph::new(&Listing::default())).ends_with("</svg>\n"));
    }

    #[test]
    fn long_labels_are_cut() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdefg", 6), "abcde…");
        assert_eq!(escape("\u{1}\""), "\u{fffd}&quot;");
    }
}
