// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What can be wrong with a stack of LSMT layers.

use super::super::{content, Extent, Layer};
use super::{flip, interesting, number, swap, word, Field, Which};
use crate::rng::Rng;

/// Bytes of the disk that layers here are for.
const DISK: u64 = 128 << 10;
const SECTOR: usize = 512;
/// Bytes of header and trailer.
const RECORD: usize = 4096;
/// Bytes of an entry of the index.
const ENTRY: usize = 16;

/// The 390 bytes of a record that are in use, and the rest.
const FIELDS: &[Field] = &[
    word("magic", 0, 8),
    word("second magic", 8, 8),
    word("second magic, its end", 16, 8),
    word("size", 24, 4),
    word("flags", 28, 4),
    number("index offset", 32, 8),
    number("index size", 40, 8),
    number("virtual size", 48, 8),
    word("UUID", 56, 8),
    word("end of the UUID", 85, 8),
    word("parent's UUID", 93, 8),
    word("reserved", 130, 2),
    word("version", 132, 1),
    word("sub-version", 133, 1),
    word("user tag", 134, 8),
    word("end of the user tag", 382, 8),
    word("rest", 390, 8),
    word("end of the rest", 4088, 8),
];

/// What a stack is like before something is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerForm {
    /// One layer.
    One,
    /// Two that overlap.
    Two,
    /// Two, the upper one of which has index bytes in the last sector of its data.
    OddEnd,
    /// Three, of which the middle one is empty and the top one has no size.
    Three,
    /// One whose index is padded.
    Padded,
}

impl LayerForm {
    pub const ALL: [Self; 5] = [
        Self::One,
        Self::Two,
        Self::OddEnd,
        Self::Three,
        Self::Padded,
    ];

    /// A right stack of this form, bottom first.
    pub fn make(self, rng: &mut Rng) -> Vec<Layer> {
        let data = content(40 * SECTOR, rng);
        let part = |from: usize, to: usize| &data[from * SECTOR..to * SECTOR];
        let lower = Layer::new(DISK)
            .data(4, part(0, 8))
            .data(90, part(8, 10))
            .data(200, part(10, 20));
        let mut upper = Layer::new(DISK)
            .data(0, part(20, 24))
            .data(16, part(24, 34))
            .zeros(100, 8);
        match self {
            Self::One => vec![upper],
            Self::Two => vec![lower, upper],
            Self::OddEnd => {
                upper.data.truncate(14 * SECTOR - 300);
                let index = upper.index.clone();
                vec![lower, upper.with_index(index)]
            }
            Self::Three => {
                let top = Layer::new(0).data(6, part(34, 40));
                vec![lower, Layer::new(DISK / 2), top]
            }
            Self::Padded => {
                let mut index = upper.index.clone();
                index.resize(16, Extent::PADDING);
                index.insert(1, Extent::PADDING);
                vec![upper.with_index(index)]
            }
        }
    }
}

/// The numbers of an entry.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Start,
    Length,
    Place,
}

impl Part {
    fn get(self, extent: &mut Extent) -> &mut u64 {
        match self {
            Self::Start => &mut extent.start,
            Self::Length => &mut extent.length,
            Self::Place => &mut extent.place,
        }
    }

    fn bits(self) -> u32 {
        match self {
            Self::Start => 50,
            Self::Length => 14,
            Self::Place => 55,
        }
    }
}

/// A thing that is wrong with one layer of a stack.
#[derive(Clone, Debug)]
pub struct LayerChange {
    /// Which layer, from the bottom.
    layer: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// A number in header or trailer.
    Record {
        which: Which,
        field: Field,
        value: u64,
    },
    /// A number of an entry.
    Entry {
        entry: usize,
        part: Part,
        value: u64,
    },
    /// A range of zeros becomes one of data, or the other way round.
    Zeroed(usize),
    /// Two entries are swapped.
    SwapEntries(usize, usize),
    /// An entry is there twice.
    Twice(usize),
    /// Padding stands before an entry.
    Pad(usize),
    /// An entry is gone.
    Remove(usize),
    /// A bit of an entry as it is stored.
    FlipEntry(usize),
    /// A bit of the whole file.
    Flip(usize),
    /// The layer is another one of the stack.
    Replace(usize),
    /// The table gives another length.
    Told(u64),
}

impl LayerChange {
    /// Whether it is about a record, of which most are refused.
    pub fn is_record(&self) -> bool {
        matches!(self.what, What::Record { .. })
    }
}

/// Everything that can be wrong with a stack of this form.
pub fn layer_changes(form: LayerForm) -> Vec<LayerChange> {
    let layers = form.make(&mut Rng::for_test("layers"));
    let count = layers.len();
    let mut changes = Vec::new();
    for (number, layer) in layers.into_iter().enumerate() {
        let mut whats = records(&layer);
        whats.extend(entries(&layer));
        let length = layer.bytes().len() as u64;
        whats.extend(
            (0..length as usize * 8)
                .step_by(length as usize * 8 / 61)
                .map(What::Flip),
        );
        let told = interesting(length, 20, &[512, 4096, 8191, 8192, length - 4096]);
        whats.extend(told.into_iter().map(What::Told));
        whats.extend((0..count).map(What::Replace));
        changes.extend(whats.into_iter().map(|what| LayerChange {
            layer: number,
            what,
        }));
    }
    changes
}

fn records(layer: &Layer) -> Vec<What> {
    let length = layer.bytes().len() as u64;
    let index = (RECORD + layer.data.len()) as u64;
    let mut landmarks = vec![
        length,
        index,
        length - RECORD as u64,
        layer.index.len() as u64,
    ];
    landmarks.extend([512, 4096, 8192, DISK, DISK / 512]);
    landmarks.extend([32, 50, 55, 59, 60, 62].map(|shift| 1u64 << shift));
    let mut changes = Vec::new();
    for which in Which::ALL {
        let record = match which {
            Which::Header => &layer.header,
            _ => &layer.trailer,
        };
        for field in FIELDS {
            let values = field.values(record, &landmarks);
            changes.extend(values.into_iter().map(|value| What::Record {
                which,
                field: *field,
                value,
            }));
        }
    }
    changes
}

fn entries(layer: &Layer) -> Vec<What> {
    let count = layer.index.len();
    if count == 0 {
        return Vec::new();
    }
    let end = ((RECORD + layer.data.len()) / SECTOR) as u64;
    let mut landmarks = vec![7, 8, end, DISK / 512, 16383];
    for extent in &layer.index {
        landmarks.extend([extent.start, extent.start + extent.length, extent.place]);
    }
    let mut changes = vec![
        What::SwapEntries(0, 1),
        What::SwapEntries(0, count - 1),
        What::Twice(0),
        What::Twice(count - 1),
    ];
    for entry in [0, 1, count - 1] {
        changes.extend([What::Zeroed(entry), What::Pad(entry), What::Remove(entry)]);
        // Tag and flag, and a few bits of each number.
        let bits = [0, 49, 50, 63, 64, 118].into_iter().chain(119..128);
        changes.extend(bits.map(|bit| What::FlipEntry(entry * ENTRY * 8 + bit)));
        let Some(mut extent) = layer.index.get(entry).copied() else {
            continue;
        };
        for part in [Part::Start, Part::Length, Part::Place] {
            let was = *part.get(&mut extent);
            let values = interesting(was, part.bits(), &landmarks);
            changes.extend(
                values
                    .into_iter()
                    .map(|value| What::Entry { entry, part, value }),
            );
        }
    }
    changes
}

/// A stack with something wrong.
pub struct BrokenLayer {
    layers: Vec<Layer>,
    /// Layer and bit.
    flips: Vec<(usize, usize)>,
    told: Vec<Option<u64>>,
}

impl BrokenLayer {
    /// With nothing wrong yet.
    pub fn new(form: LayerForm, rng: &mut Rng) -> Self {
        let layers = form.make(rng);
        Self {
            told: vec![None; layers.len()],
            layers,
            flips: Vec::new(),
        }
    }

    /// Makes a change; one for which there is nothing to change makes none.
    pub fn apply(&mut self, change: &LayerChange) {
        let number = change.layer;
        if let What::Replace(other) = change.what {
            self.layers[number] = self.layers[other].clone();
            return;
        }
        let layer = &mut self.layers[number];
        match change.what {
            What::Record {
                which,
                ref field,
                value,
            } => which.set(field, value, &mut layer.header, &mut layer.trailer),
            What::Entry { entry, part, value } => {
                if let Some(extent) = layer.index.get_mut(entry) {
                    *part.get(extent) = value;
                }
            }
            What::Zeroed(entry) => {
                if let Some(extent) = layer.index.get_mut(entry) {
                    extent.zeroed ^= true;
                }
            }
            What::SwapEntries(one, other) => swap(&mut layer.index, one, other),
            What::Twice(entry) | What::Pad(entry) | What::Remove(entry) => {
                let mut index = layer.index.clone();
                let Some(&extent) = index.get(entry) else {
                    return;
                };
                match change.what {
                    What::Twice(_) => index.insert(entry, extent),
                    What::Pad(_) => index.insert(entry, Extent::PADDING),
                    _ => drop(index.remove(entry)),
                }
                *layer = layer.clone().with_index(index);
            }
            What::FlipEntry(bit) => {
                let index = RECORD + layer.data.len();
                self.flips.push((number, index * 8 + bit));
            }
            What::Flip(bit) => self.flips.push((number, bit)),
            What::Told(length) => self.told[number] = Some(length),
            What::Replace(_) => {}
        }
    }

    /// The files, and the lengths that the table gives.
    pub fn finish(self) -> Vec<(Vec<u8>, u64)> {
        let mut files: Vec<_> = self.layers.iter().map(Layer::bytes).collect();
        for (layer, bit) in self.flips {
            flip(&mut files[layer], bit);
        }
        let told = |(file, told): (Vec<u8>, Option<u64>)| {
            let told = told.unwrap_or(file.len() as u64);
            (file, told)
        };
        files.into_iter().zip(self.told).map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovbd::image::source::Std;
    use overlaybd_format::lsmt::Layer as OpenLayer;

    #[test]
    fn every_form_is_right() {
        for form in LayerForm::ALL {
            for (file, told) in BrokenLayer::new(form, &mut Rng::for_test("forms")).finish() {
                assert!(OpenLayer::<Std>::open(&file[..], told).is_ok(), "{form:?}");
            }
        }
    }

    #[test]
    fn changes_change() {
        for form in LayerForm::ALL {
            let right = BrokenLayer::new(form, &mut Rng::for_test("layers")).finish();
            let changes = layer_changes(form);
            let mut same = 0;
            for change in &changes {
                let mut broken = BrokenLayer::new(form, &mut Rng::for_test("layers"));
                broken.apply(change);
                same += usize::from(broken.finish() == right);
            }
            assert!(changes.len() > 500, "{form:?}: {}", changes.len());
            // A layer that replaces itself, and entries that are not there.
            assert!(same < 20, "{form:?}: {same} do nothing");
        }
    }
}
