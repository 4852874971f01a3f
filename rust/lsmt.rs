// SPDX-License-Identifier: GPL-2.0-only

//! The `lsmt` target: the merged view of a stack of LSMT layers.
//!
//! See `Documentation/admin-guide/device-mapper/dm-lsmt.rst` for the grammar.
//!
//! A read is looked up in the merged index and sent on to the layer that has it:
//! no allocation, no lock, no bio of its own. One that reaches into further extents
//! becomes a read for each run of them that follow each other in a layer.

use crate::{
    dm::{
        bio::{EndedBio, Mapped, MappedBio, ReadBio, Status},
        construct::{Arguments, Below, Constructor, DeviceName, Refusal},
        counters::Counters,
        device::Device,
        gather::Pending,
        limits::Limits,
        log::{dm_err, dm_warn},
        platform::{File, Kernel},
        status::{StatusKind, StatusWriter, TextHash},
        target::{DeviceVisitor, Target},
    },
    format::{
        self,
        lsmt::{Entry, Layer as LayerFile},
        map::{self, Map},
        platform::Platform as _,
        status::LsmtStatus,
        table::{LayerArg, LsmtArgs},
        Bytes, ReadAt as _, Sectors, SECTOR,
    },
};
use core::fmt::{self, Write as _};
use kernel::{ffi::c_int, prelude::*, sync::Arc};

// Indices of the counters.
const READS: usize = 0;
const ZERO_SECTORS: usize = 1;
const TAIL_SECTORS: usize = 2;
const READS_FAILED: usize = 3;

/// The most pieces that a bio is taken apart into at a time; dm core sends the rest again.
const MAX_PIECES: usize = 256;
/// After how many extents a loop gives others the CPU.
const RELAX: usize = 4096;
/// Pieces of so many sectors are sent on as they are: to list the pages of a long one costs more
/// than to have dm core send it.
const LONG_PIECE: u32 = 128;

/// A layer, as the data path needs it.
struct Layer {
    device: Device,
    /// Where the layer lies on the device: sector, and length in bytes.
    offset: Sectors,
    length: Bytes,
    /// The last sector of data, if it holds index bytes too.
    tail: Option<Tail>,
}

/// A sector of which only the beginning is data.
struct Tail {
    sector: Sectors,
    content: KBox<[u8; SECTOR as usize]>,
}

/// Where a piece of the disk comes from.
enum Source<'a> {
    /// No layer has it, or the topmost one with it has set it to zero.
    Zeros,
    Tail(&'a Tail),
    /// A layer, and the first sector on its device.
    Layer(&'a Layer, Sectors),
}

/// A stack of layers.
pub(crate) struct Lsmt {
    layers: KVec<Layer>,
    /// The largest logical block of a layer's device, in sectors.
    block: Sectors,
    map: Map<Kernel>,
    counters: Counters<4>,
}

/// A layer under construction: with its index, which is gone after the merge.
struct Opened {
    layer: Layer,
    file: LayerFile<Kernel>,
}

impl AsRef<[Entry]> for Opened {
    fn as_ref(&self) -> &[Entry] {
        self.file.entries()
    }
}

/// Layers, as the arguments of a table.
struct TableArgs<'a>(&'a [Layer]);

impl fmt::Display for TableArgs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format::table::write_lsmt(f, self.0.iter().map(Layer::argument))
    }
}

/// Layers, as attributes of an integrity measurement.
struct Attributes<'a>(&'a [Layer]);

impl fmt::Display for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, layer) in self.0.iter().enumerate() {
            let LayerArg {
                device,
                offset,
                length,
            } = layer.argument();
            write!(
                f,
                ",layer_{index}_device_name={device},layer_{index}_offset={offset},\
                 layer_{index}_length={length}"
            )?;
        }
        Ok(())
    }
}

impl Opened {
    /// Opens the layer that `args` name, number `index` from the bottom.
    fn new(
        ti: &mut Constructor<'_>,
        arguments: Arguments<'_>,
        args: LayerArg<'_>,
        index: usize,
    ) -> Result<Self, Refusal> {
        let below = Below {
            name: &ti.device_name(),
            layer: Some(index),
            device: args.device,
        };
        let device = ti.open_word(Lsmt::NAME, arguments, &below)?;
        let refuse = |error: format::Error<Error>| {
            Refusal::unreadable(Lsmt::NAME, format_args!("{below}"), &error)
        };
        let file = File::new(Lsmt::NAME, &below, &device, args.offset, args.length)?;
        let layer = LayerFile::open(&file, args.length).map_err(refuse)?;
        let tail = Tail::read(&file, &layer).map_err(refuse)?;
        Ok(Self {
            layer: Layer {
                offset: args.offset,
                length: args.length,
                tail,
                device,
            },
            file: layer,
        })
    }
}

impl Tail {
    /// Reads the data in front of the index, if they share a sector.
    fn read(
        file: &File<'_>,
        layer: &LayerFile<Kernel>,
    ) -> Result<Option<Self>, format::Error<Error>> {
        let Some((sector, valid)) = layer.partial_tail() else {
            return Ok(None);
        };
        let offset = sector.saturating_mul(SECTOR);
        let no_memory = |_| format::Error::NoMemory;
        let mut content = KBox::new([0; SECTOR as usize], GFP_KERNEL).map_err(no_memory)?;
        if let Some(data) = content.get_mut(..usize::from(valid)) {
            let failed = |error| format::Error::Read { offset, error };
            file.read_exact_at(offset, data).map_err(failed)?;
        }
        Ok(Some(Self { sector, content }))
    }
}

impl Layer {
    /// The layer, as tables name it.
    fn argument(&self) -> LayerArg<'_> {
        LayerArg {
            device: self.device.name(),
            offset: self.offset,
            length: self.length,
        }
    }

    /// The part of the device that holds the layer, rounded out to logical blocks of `block`
    /// sectors, as far as the device has whole ones: first sector and number of sectors.
    fn extent(&self, block: Sectors) -> (Sectors, Sectors) {
        // Logical block sizes are powers of two.
        let mask = block.saturating_sub(1);
        let end = self.offset.saturating_add(self.length.div_ceil(SECTOR));
        let start = self.offset & !mask;
        let end = end.saturating_add(mask).min(self.device.bytes() / SECTOR) & !mask;
        (start, end.saturating_sub(start))
    }

    /// The logical block size of the device, in sectors.
    fn block(&self) -> Sectors {
        (u64::from(self.device.logical_block_size()) / SECTOR).max(1)
    }
}

impl Lsmt {
    /// Opens the layers that a table line names, bottom first.
    fn open(ti: &mut Constructor<'_>, arguments: Arguments<'_>) -> Result<KVec<Opened>, Refusal> {
        let invalid = |error: format::table::ArgError| Refusal::invalid(error.reason());
        let mut args = LsmtArgs::parse(arguments.words()).map_err(invalid)?;
        // All words are looked at before a device is.
        let mut rest = LsmtArgs::parse(arguments.words()).map_err(invalid)?;
        while rest.next_layer().map_err(invalid)?.is_some() {}
        rest.finish().map_err(invalid)?;

        let mut layers = KVec::with_capacity(args.layers().into(), GFP_KERNEL)?;
        while let Some(layer) = args.next_layer().map_err(invalid)? {
            let opened = Opened::new(ti, arguments, layer, layers.len())?;
            layers.push(opened, GFP_KERNEL)?;
        }
        Ok(layers)
    }

    /// Says so if a layer names another parent than the one that it lies on. No
    /// more than that: older images have no names, or wrong ones.
    fn check_parents(name: &DeviceName, layers: &[Opened]) {
        for (index, pair) in layers.windows(2).enumerate() {
            if let [lower, upper] = pair {
                if format::lsmt::parent_mismatch(lower.file.uuid(), upper.file.parent_uuid()) {
                    dm_warn!(
                        Self::NAME,
                        "{name}: layer {}: parent UUID is not that of the layer below",
                        index.saturating_add(1)
                    );
                }
            }
        }
    }

    /// A remapped bio has to keep to the logical blocks of the device that it
    /// goes to: refuses layers in which one would not. `block` is the largest of them.
    fn check_alignment(
        name: &DeviceName,
        layers: &[Layer],
        map: &Map<Kernel>,
        block: Sectors,
    ) -> Result<(), Refusal> {
        if block <= 1 {
            return Ok(());
        }
        for (index, layer) in layers.iter().enumerate() {
            // A read that ends in a tail is cut before that.
            if let (Some(tail), 2..) = (&layer.tail, layer.block()) {
                dm_err!(
                    Self::NAME,
                    "{name}: layer {index}: data end within sector {}, in a logical block of {} bytes",
                    tail.sector,
                    layer.block().saturating_mul(SECTOR)
                );
                return Err(Refusal::invalid(c"Data end within logical block"));
            }
        }
        let mut passed = 0_usize;
        for segment in map.iter() {
            passed = passed.wrapping_add(1);
            if passed % RELAX == 0 {
                Kernel::relax();
            }
            // Sectors that the segment is past the beginning of a block of its layer's device.
            let past = match segment.target {
                map::Target::Zero => 0,
                map::Target::Data { layer, sector } => {
                    layers.get(usize::from(layer)).map_or(0, |layer| {
                        // Logical block sizes are powers of two.
                        let mask = layer.block().saturating_sub(1);
                        layer.offset.wrapping_add(sector) & mask
                    })
                }
            };
            // Where a segment starts follows from the lengths of those before it.
            if past != 0 || segment.len % block != 0 {
                dm_err!(
                    Self::NAME,
                    "{name}: extent at sector {} is not aligned to logical blocks of {} bytes",
                    segment.start,
                    block.saturating_mul(SECTOR)
                );
                return Err(Refusal::invalid(c"Extent not aligned to logical block"));
            }
        }
        Ok(())
    }

    /// What is at `sector` of the disk, and in how many sectors from there on.
    fn source(&self, sector: Sectors) -> Option<(Source<'_>, u32)> {
        let segment = self.map.lookup(sector)?;
        let mut len = segment.len;
        let source = match segment.target {
            map::Target::Zero => Source::Zeros,
            map::Target::Data { layer, sector } => {
                let layer = self.layers.get(usize::from(layer))?;
                match &layer.tail {
                    Some(tail) if tail.sector <= sector => {
                        len = 1;
                        Source::Tail(tail)
                    }
                    tail => {
                        if let Some(tail) = tail {
                            len = len.min(tail.sector.saturating_sub(sector));
                        }
                        // No overflow: the device holds the layer, and that the sector.
                        Source::Layer(layer, layer.offset.wrapping_add(sector))
                    }
                }
            }
        };
        Some((source, u32::try_from(len).unwrap_or(u32::MAX)))
    }

    /// Counts a read of `sectors` sectors of `source`.
    fn count(&self, source: &Source<'_>, sectors: u32) {
        self.counters.add(READS, 1);
        match source {
            Source::Zeros => self.counters.add(ZERO_SECTORS, sectors.into()),
            Source::Tail(_) => self.counters.add(TAIL_SECTORS, 1),
            Source::Layer(..) => {}
        }
    }

    /// Maps a read.
    fn read<'a>(&'a self, mut bio: ReadBio<'a, Self>) -> Mapped<'a> {
        let Some((source, sectors)) = self.source(bio.sector()) else {
            return bio.kill();
        };
        if sectors < bio.sectors().min(LONG_PIECE) {
            match self.gather(bio) {
                Ok(mapped) => return mapped,
                // There is no memory for that now: one by one, dm core has some.
                Err(given_back) => bio = given_back,
            }
        }
        bio.accept(sectors);
        self.count(&source, bio.sectors());
        match source {
            Source::Zeros => {
                let segments = bio.segments();
                segments.cursor(0).zero(segments.len());
                bio.end(Status::OK)
            }
            Source::Tail(tail) => {
                bio.segments().cursor(0).write(tail.content.as_slice());
                bio.end(Status::OK)
            }
            Source::Layer(layer, sector) => bio.remap(&layer.device, sector),
        }
    }

    /// Maps a read of several sources, or as many as can be had at once.
    fn gather<'a>(&'a self, bio: ReadBio<'a, Self>) -> Result<Mapped<'a>, ReadBio<'a, Self>> {
        let mut sector = bio.sector();
        let mut gather = bio.gather();
        for _ in 0..MAX_PIECES {
            let Some((source, sectors)) = self.source(sector) else {
                break;
            };
            let sectors = sectors.min(gather.left());
            if sectors == 0 || sectors >= LONG_PIECE {
                break;
            }
            match &source {
                Source::Zeros => gather.zero(sectors),
                Source::Tail(tail) => gather.write(&tail.content),
                Source::Layer(layer, first) => {
                    if !gather.read(&layer.device, *first, sectors) {
                        break;
                    }
                }
            }
            self.count(&source, sectors);
            sector = sector.saturating_add(sectors.into());
        }
        gather.submit()
    }
}

#[vtable]
impl Target for Lsmt {
    const NAME: &'static CStr = c"lsmt";
    const VERSION: [u32; 3] = [1, 2, 0];
    const FEATURES: u64 = crate::dm::target::NOWAIT;

    type PerBio = Pending;
    type Shared = ();

    fn construct(
        ti: &mut Constructor<'_>,
        arguments: Arguments<'_>,
        _shared: &Arc<()>,
    ) -> Result<Pin<KBox<Self>>, Refusal> {
        ti.check_read_only()?;
        let name = ti.device_name();
        let opened = Self::open(ti, arguments)?;
        Self::check_parents(&name, &opened);

        let sizes = opened.iter().map(|layer| layer.file.virtual_size());
        let refuse = |error| Refusal::unreadable(Self::NAME, format_args!("{name}"), &error);
        let size = map::virtual_size(sizes).map_err(|e| refuse(e.into()))?;
        ti.check_length(Self::NAME, size.saturating_mul(SECTOR))?;
        let map = Map::build(&opened, size).map_err(|error| match error {
            format::Error::Invalid(invalid) => refuse(invalid.into()),
            _ => refuse(format::Error::NoMemory),
        })?;

        let mut layers = KVec::with_capacity(opened.len(), GFP_KERNEL)?;
        for Opened { layer, .. } in opened {
            layers.push(layer, GFP_KERNEL)?;
        }
        let block = layers.iter().map(Layer::block).max().unwrap_or(1);
        Self::check_alignment(&name, &layers, &map, block)?;
        let target = Self {
            layers,
            block,
            map,
            counters: Counters::new()?,
        };
        Ok(KBox::pin(target, GFP_KERNEL)?)
    }

    fn map<'a>(&'a self, bio: MappedBio<'a, Self>) -> Mapped<'a> {
        match bio.into_read() {
            Ok(bio) => self.read(bio),
            Err(bio) => bio.kill(),
        }
    }

    fn ended(&self, bio: EndedBio<'_>) {
        if bio.is_lost() {
            self.counters.add(READS_FAILED, 1);
        }
    }

    fn status(&self, kind: StatusKind, out: &mut StatusWriter<'_>) -> fmt::Result {
        match kind {
            StatusKind::Info => {
                let [reads, zero_sectors, tail_sectors, io_errors] = self.counters.sums();
                let status = LsmtStatus {
                    layers: self.layers.len() as u64,
                    extents: self.map.segments(),
                    size: self.map.size(),
                    reads,
                    zero_sectors,
                    tail_sectors,
                    io_errors,
                };
                write!(out, "{status}")
            }
            StatusKind::Table => write!(out, "{}", TableArgs(&self.layers)),
            StatusKind::Ima => {
                let (layers, size) = (self.layers.len(), self.map.size());
                write!(out, ",nr_layers={layers},size={size}")?;
                let attributes = Attributes(&self.layers);
                // The list is of about 28 layers at most.
                if !out.is_measured(&attributes, ";".len()) {
                    if let Some(hash) = TextHash::of(&TableArgs(&self.layers)) {
                        return write!(out, ",layers_hash={hash};");
                    }
                }
                write!(out, "{attributes};")
            }
        }
    }

    fn message(&self, arguments: Arguments<'_>) -> Result {
        arguments.expect_reset_stats()?;
        self.counters.reset();
        Ok(())
    }

    fn iterate_devices(&self, visit: &mut DeviceVisitor<'_>) -> c_int {
        for layer in &self.layers {
            let (start, sectors) = layer.extent(self.block);
            let stop = visit.visit(&layer.device, start, sectors);
            if stop != 0 {
                return stop;
            }
        }
        0
    }

    fn io_hints(&self, limits: &mut Limits<'_>) {
        limits.clear_alignment();
    }
}
