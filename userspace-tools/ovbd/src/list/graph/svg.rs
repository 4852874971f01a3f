// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The graph as SVG, readable on light and dark ground: layers as boxes that lie on each other, and
//! the images on top. Many images of the same layers share a box, so that a host with a hundred of
//! them is a picture, not a ribbon.

use std::fmt::Write;

use super::{describe, Graph, Stack};
use crate::list::model::Image;

// All lengths in the SVG's own unit, about a pixel.
const MARGIN: usize = 24;
const TITLE: usize = 40;
const COLUMN: usize = 168;
const ROW: usize = 46;
const GAP: usize = 4;
/// About how many letters fit into a column, and how many small ones.
const LETTERS: usize = 20;
const SMALL_LETTERS: usize = 28;
/// More images of the same layers share a box.
const APART: usize = 3;

const CSS: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f;text-anchor:middle}\
.title{font-size:18px;font-weight:600;text-anchor:start}\
.small{font-size:10px;opacity:.75}\
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

/// Columns that a layer takes: one for each box with images above.
fn width(stack: &Stack<'_>) -> usize {
    let images = match stack.images.len() {
        few @ ..=APART => few,
        _ => 1,
    };
    images + stack.layers.iter().map(width).sum::<usize>()
}

/// What is written on a box, and said about it.
struct Text {
    label: String,
    /// A second line, if there is one.
    more: String,
    hint: String,
}

impl Text {
    fn of_layer(label: &str, users: usize) -> Self {
        let more = match users {
            0 | 1 => String::new(),
            users => format!("{users} images"),
        };
        Self {
            label: label.to_owned(),
            hint: format!(
                "{label}: {users} image{}",
                if users == 1 { "" } else { "s" }
            ),
            more,
        }
    }

    /// An image, or many of the same layers.
    fn of_images(images: &[&Image]) -> Self {
        let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
        let hints: Vec<String> = images.iter().map(|image| describe(image)).collect();
        let references = images.iter().flat_map(|image| &image.references);
        let reference = references.map(ToString::to_string).next();
        Self {
            label: match names[..] {
                [first, _, ..] => format!("{first} and {} more", names.len() - 1),
                _ => names.concat(),
            },
            more: reference.unwrap_or_default(),
            hint: hints.join("\n"),
        }
    }
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
        let text = Text::of_layer(&stack.label, users);
        self.block(column, row, width(stack), class, &text);
        let mut column = column;
        let together = match stack.images.len() {
            ..=APART => 1,
            all => all,
        };
        for images in stack.images.chunks(together) {
            self.block(column, row + 1, 1, "image", &Text::of_images(images));
            column += 1;
        }
        for layer in &stack.layers {
            self.stack(layer, column, row + 1);
            column += width(layer);
        }
    }

    /// A box, counted in columns from the left and rows from the bottom.
    fn block(&mut self, column: usize, row: usize, wide: usize, class: &str, text: &Text) {
        let x = MARGIN + column * COLUMN;
        let y = MARGIN + TITLE + (self.rows - 1 - row) * ROW;
        let (w, h) = (wide * COLUMN - GAP, ROW - GAP);
        let _ = write!(
            self.text,
            "<g><title>{}</title><rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" \
             height=\"{h}\" rx=\"4\"/>",
            escape(&text.hint),
        );
        let middle = x + w / 2;
        let first = if text.more.is_empty() { 26 } else { 19 };
        self.line(middle, y + first, "", &shorten(&text.label, LETTERS * wide));
        if !text.more.is_empty() {
            let small = " class=\"small\"";
            let more = shorten_front(&text.more, SMALL_LETTERS * wide);
            self.line(middle, y + 33, small, &more);
        }
        self.text.push_str("</g>\n");
    }

    fn line(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let text = escape(text);
        let _ = write!(self.text, "<text{class} x=\"{x}\" y=\"{y}\">{text}</text>");
    }
}

fn shorten(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let kept: String = text.chars().take(letters.saturating_sub(1)).collect();
    kept + "…"
}

/// The same for what matters at its end, as references do.
fn shorten_front(text: &str, letters: usize) -> String {
    let count = text.chars().count();
    if count <= letters {
        return text.to_owned();
    }
    let kept = text.chars().skip(count - letters.saturating_sub(1));
    ['…'].into_iter().chain(kept).collect()
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
        assert!(picture.contains(">3 images<"), "{picture}");
        assert!(svg(&Graph::new(&Listing::default())).ends_with("</svg>\n"));
    }

    #[test]
    fn many_images_of_the_same_layers_share_a_box() {
        let names: Vec<String> = (0..100).map(|number| format!("web{number}")).collect();
        let stacks: [&[&str]; 2] = [&["base", "app"], &["base"]];
        let images = |count: usize| {
            let images = names[..count].iter().zip(stacks.into_iter().cycle());
            images
                .map(|(name, layers)| (name.as_str(), layers))
                .collect::<Vec<_>>()
        };
        for (count, boxes) in [(6, 6), (8, 2), (100, 2)] {
            let listing = listing(&images(count));
            let graph = Graph::new(&listing);
            assert_eq!(graph.stacks.iter().map(width).sum::<usize>(), boxes);
            let picture = svg(&graph);
            assert_eq!(picture.matches("class=\"image\"").count(), boxes);
            // All of them are named, if not in sight.
            let named = names[..count].iter();
            assert!(named
                .clone()
                .all(|name| picture.contains(&format!("/mnt/{name}"))));
        }
    }

    #[test]
    fn long_labels_are_cut() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdefg", 6), "abcde…");
        assert_eq!(shorten_front("abcdef", 6), "abcdef");
        assert_eq!(shorten_front("abcdefg", 6), "…cdefg");
        assert_eq!(escape("\u{1}\""), "\u{fffd}&quot;");
    }
}
