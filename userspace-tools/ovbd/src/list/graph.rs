// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which images stand on which layers, as a picture: images whose lower layers are the same stand
//! on one stack up to where they part.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::model::{Image, Listing, Verity};

mod svg;

pub use svg::svg;

/// How many digits of a digest tell layers apart for people.
const DIGITS: usize = 12;

/// Stacks of layers that have their bottom in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph<'a> {
    /// What stands at the bottom.
    stacks: Vec<Stack<'a>>,
    /// How many images have a layer, wherever in their stacks.
    users: BTreeMap<&'a str, usize>,
}

/// A layer, and what stands on it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stack<'a> {
    /// Number of the layer's device.
    number: &'a str,
    /// What people know it by.
    label: String,
    /// Layers on it.
    layers: Vec<Stack<'a>>,
    /// Images of which it is the topmost layer.
    images: Vec<&'a Image>,
}

impl<'a> Graph<'a> {
    /// The graph of all images.
    pub fn new(listing: &'a Listing) -> Self {
        let mut graph = Self::default();
        for image in &listing.images {
            graph.add(listing, image);
        }
        graph
    }

    fn add(&mut self, listing: &'a Listing, image: &'a Image) {
        let mut numbers: Vec<&str> = image.layers.iter().map(|l| l.number.as_str()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            *self.users.entry(number).or_default() += 1;
        }
        let mut stacks = &mut self.stacks;
        let mut layers = image.layers.iter().peekable();
        while let Some(lower) = layers.next() {
            let known = stacks.iter().position(|s| s.number == lower.number);
            let at = known.unwrap_or(stacks.len());
            if known.is_none() {
                stacks.push(Stack {
                    number: &lower.number,
                    label: label(listing, image, &lower.number),
                    layers: Vec::new(),
                    images: Vec::new(),
                });
            }
            let stack = &mut stacks[at];
            if layers.peek().is_none() {
                stack.images.push(image);
                return;
            }
            stacks = &mut stack.layers;
        }
    }

    fn users(&self, number: &str) -> usize {
        self.users.get(number).copied().unwrap_or(0)
    }
}

/// A layer's file; of one in a store, the beginning of its digest. Marked if it is verified.
fn label(listing: &Listing, image: &Image, number: &str) -> String {
    let lower = image.layers.iter().find(|lower| lower.number == number);
    let file = lower.and_then(|lower| listing.file(lower));
    let Some(name) = file.and_then(|file| file.file_name()) else {
        let name = lower.and_then(|lower| lower.name.clone());
        return name.unwrap_or_else(|| number.to_owned());
    };
    let name = name.to_string_lossy();
    let is_digest = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let shown: String = match is_digest {
        true => name.chars().take(DIGITS).collect(),
        false => name.into_owned(),
    };
    match lower.and_then(|lower| listing.verity(lower)) {
        None => shown,
        Some(Verity {
            corrupted: false, ..
        }) => format!("{shown} ✓"),
        Some(_) => format!("{shown} ✗ CORRUPTED"),
    }
}

/// What is said of an image: its name, what it is, where it is mounted.
fn describe(image: &Image) -> String {
    let mut text = image.name.clone();
    for reference in &image.references {
        let _ = write!(text, "  {reference}");
    }
    for mount in &image.mounts {
        let _ = write!(text, "  {}", mount.display());
    }
    text
}

/// Draws the graph with characters, each layer above those that stand on it.
pub fn text(graph: &Graph<'_>) -> String {
    let mut text = String::new();
    for stack in &graph.stacks {
        draw(graph, stack, "", "", &mut text);
    }
    text
}

fn draw(graph: &Graph<'_>, stack: &Stack<'_>, first: &str, rest: &str, text: &mut String) {
    let users = match graph.users(stack.number) {
        1 => String::new(),
        users => format!("  ({users} images)"),
    };
    let _ = writeln!(text, "{first}▒ {}{users}", stack.label);
    let count = stack.images.len() + stack.layers.len();
    let branch = |at: usize| match at + 1 == count {
        true => ("└─", "  "),
        false => ("├─", "│ "),
    };
    for (at, image) in stack.images.iter().enumerate() {
        let (corner, _) = branch(at);
        let _ = writeln!(text, "{rest}{corner}● {}", describe(image));
    }
    for (at, layer) in stack.layers.iter().enumerate() {
        let (corner, line) = branch(stack.images.len() + at);
        let (first, rest) = (format!("{rest}{corner}"), format!("{rest}{line}"));
        draw(graph, layer, &first, &rest, text);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::list::model::{Inner, Lower, State};
    use crate::verity::RootHash;

    /// Images by name, with the names of their layers' files, bottom first.
    pub fn listing(images: &[(&str, &[&str])]) -> Listing {
        let lower = |file: &&str| Lower {
            number: format!("n-{file}"),
            name: None,
            file: Some(format!("/layers/{file}").into()),
            direct_io: None,
        };
        let image = |(name, layers): &(&str, &[&str])| Image {
            name: (*name).to_owned(),
            device: format!("/dev/mapper/{name}").into(),
            number: String::new(),
            uuid: String::new(),
            state: State::Live,
            bytes: 0,
            open_count: 0,
            mounts: vec![format!("/mnt/{name}").into()],
            references: Vec::new(),
            layers: layers.iter().map(lower).collect(),
            memory_bytes: None,
            counters: None,
        };
        Listing {
            images: images.iter().map(image).collect(),
            layers: Vec::new(),
        }
    }

    #[test]
    fn verified_layers_are_marked() {
        let inner = |name: &str, lower: Lower, verity| Inner {
            name: name.to_owned(),
            role: "",
            number: String::new(),
            uuid: String::new(),
            state: State::Live,
            open_count: 1,
            used_by: Vec::new(),
            lowers: vec![lower],
            ignore_crc: false,
            verity,
            memory_bytes: None,
            counters: None,
        };
        let on = |name: &str| Lower {
            number: name.to_owned(),
            name: Some(name.to_owned()),
            file: None,
            direct_io: None,
        };
        for (corrupted, mark) in [(false, "▒ base ✓\n"), (true, "▒ base ✗ CORRUPTED\n")] {
            let mut listing = listing(&[("web", &["base"])]);
            let file = std::mem::replace(&mut listing.images[0].layers[0], on("zfile"));
            let verity = Verity {
                root_hash: RootHash::new([1; 32]),
                signed: false,
                corrupted,
            };
            listing.layers.push(inner("zfile", on("verity"), None));
            listing.layers.push(inner("verity", file, Some(verity)));
            let picture = text(&Graph::new(&listing));
            assert!(picture.starts_with(mark), "{picture}");
        }
    }

    #[test]
    fn stacks_part_where_images_do() {
        let long = "0123456789abcdef".repeat(4);
        let listing = listing(&[
            ("web", &["base", "app", "top"]),
            ("web2", &["base", "app", "top"]),
            ("db", &["base", "db"]),
            ("plain", &["base"]),
            ("odd", &[&long, "top"]),
        ]);
        let expected = "\
▒ base  (4 images)
├─● plain  /mnt/plain
├─▒ app  (2 images)
│ └─▒ top  (3 images)
│   ├─● web  /mnt/web
│   └─● web2  /mnt/web2
└─▒ db
  └─● db  /mnt/db
▒ 0123456789ab
└─▒ top  (3 images)
  └─● odd  /mnt/odd
";
        assert_eq!(text(&Graph::new(&listing)), expected);
        assert_eq!(text(&Graph::new(&Listing::default())), "");
    }
}
