// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Colours for layers.

/// Colours that people with the common kinds of colour blindness can tell apart, too, each for
/// SVG and as one of a terminal's 256. The first is for the bottom layer, which mostly covers
/// the most and therefore is calm.
const COLOURS: [(&str, u8); 8] = [
    ("#4c78a8", 67),
    ("#f58518", 208),
    ("#54a24b", 71),
    ("#e45756", 167),
    ("#72b7b2", 73),
    ("#b279a2", 139),
    ("#eeca3b", 220),
    ("#9d755d", 137),
];

/// The colour of a layer, for SVG.
pub(super) fn svg(layer: usize) -> String {
    match COLOURS.get(layer) {
        Some((colour, _)) => (*colour).to_owned(),
        // Steps by the golden angle never come close to where they were.
        None => format!(
            "hsl({}, {}%, {}%)",
            (layer * 137) % 360,
            45 + layer % 3 * 10,
            42 + layer % 4 * 6
        ),
    }
}

/// The colour of a layer, as one of a terminal's 256.
pub(super) fn terminal(layer: usize) -> u8 {
    match COLOURS.get(layer) {
        Some((_, colour)) => *colour,
        None => {
            // The middle of the terminal's cube of 6 × 6 × 6 colours, neither dark nor pale.
            let step = (layer * 37) % 64;
            let (red, green, blue) = (step / 16, step / 4 % 4, step % 4);
            (16 + 36 * (red + 1) + 6 * (green + 1) + blue + 1) as u8
        }
    }
}

/// A character for a layer where there is no colour.
pub(super) fn letter(layer: usize) -> char {
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    LETTERS.get(layer).map_or('#', |letter| char::from(*letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_a_colour() {
        for layer in 0..255 {
            assert!(!svg(layer).is_empty());
            assert!(terminal(layer) >= 16);
            assert!(letter(layer).is_ascii());
        }
    }
}
