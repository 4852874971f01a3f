// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How device-mapper's requests and answers look in memory (`linux/dm-ioctl.h`).
//!
//! Buffers are byte arrays with explicit offsets: no layout of ours has to agree with the kernel's,
//! and the tests can check both directions without a kernel.

use crate::sys::{DM_DATA_SIZE_AT, DM_HEADER_LEN};

/// The interface version that is asked for. Kernels since 2.6.36 speak it; what is newer in them
/// (deferred removal, target versions) is used by flag or command.
const VERSION: [u32; 3] = [4, 0, 0];

const DATA_START_AT: usize = 16;
const TARGET_COUNT_AT: usize = 20;
const OPEN_COUNT_AT: usize = 24;
const FLAGS_AT: usize = 28;
const EVENT_NR_AT: usize = 32;
const DEV_AT: usize = 40;
const NAME_AT: usize = 48;
const UUID_AT: usize = 176;
const UUID_END: usize = 305;

/// Longest name of a device in bytes.
pub const NAME_MAX: usize = UUID_AT - NAME_AT - 1;
/// Longest UUID of a device in bytes.
pub const UUID_MAX: usize = UUID_END - UUID_AT - 1;
/// Longest name of a target in bytes.
const KIND_MAX: usize = 15;

/// Bytes of `struct dm_target_spec`.
const SPEC_LEN: usize = 40;
const ALIGN: usize = 8;

/// Commands, by their number in the ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    ListDevices = 2,
    Create = 3,
    Remove = 4,
    Suspend = 6,
    Info = 7,
    Load = 9,
    Deps = 11,
    Status = 12,
    Message = 14,
    TargetVersion = 17,
}

/// Flags of requests and answers.
pub mod flags {
    pub const READ_ONLY: u32 = 1 << 0;
    pub const SUSPEND: u32 = 1 << 1;
    pub const STATUS_TABLE: u32 = 1 << 4;
    pub const ACTIVE: u32 = 1 << 5;
    pub const INACTIVE: u32 = 1 << 6;
    pub const BUFFER_FULL: u32 = 1 << 8;
    pub const SKIP_LOCKFS: u32 = 1 << 10;
    pub const NO_FLUSH: u32 = 1 << 11;
    pub const QUERY_INACTIVE: u32 = 1 << 12;
    pub const UEVENT_GENERATED: u32 = 1 << 13;
    pub const DEFERRED_REMOVE: u32 = 1 << 17;
}

/// A request in the making, and then its answer.
#[derive(Clone, Debug)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// A request about nothing yet.
    pub fn new() -> Self {
        let mut buffer = Self(vec![0; DM_HEADER_LEN]);
        for (i, part) in VERSION.into_iter().enumerate() {
            buffer.set_u32(i * 4, part);
        }
        buffer.set_u32(DATA_START_AT, DM_HEADER_LEN as u32);
        buffer
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn set_u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    /// Callers have checked the length ([`super::Name`], [`super::Uuid`]); a longer text would be
    /// cut, never written beyond its field.
    fn set_text(&mut self, at: usize, max: usize, text: &str) {
        let bytes = &text.as_bytes()[..text.len().min(max)];
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Addresses the device by name, or names a new one.
    pub fn name(mut self, name: &str) -> Self {
        self.set_text(NAME_AT, NAME_MAX, name);
        self
    }

    /// Addresses the device by UUID, or gives one to a new device.
    pub fn uuid(mut self, uuid: &str) -> Self {
        self.set_text(UUID_AT, UUID_MAX, uuid);
        self
    }

    /// Addresses the device by number.
    pub fn dev(mut self, dev: u64) -> Self {
        self.set_u64(DEV_AT, dev);
        self
    }

    /// Sets flags.
    pub fn flags(mut self, flags: u32) -> Self {
        let flags = self.header_u32(FLAGS_AT) | flags;
        self.set_u32(FLAGS_AT, flags);
        self
    }

    /// What udev's rules will be told: flags in the upper half, a cookie in the lower.
    pub fn event_nr(mut self, value: u32) -> Self {
        self.set_u32(EVENT_NR_AT, value);
        self
    }

    /// Appends a target. All of a table's targets are appended in one request.
    pub fn target(mut self, start: u64, length: u64, kind: &str, params: &str) -> Self {
        let at = self.0.len();
        let next = (SPEC_LEN + params.len() + 1).next_multiple_of(ALIGN);
        self.0.resize(at + next, 0);
        self.set_u64(at, start);
        self.set_u64(at + 8, length);
        self.set_u32(at + 20, next as u32);
        self.set_text(at + 24, KIND_MAX, kind);
        self.set_text(at + SPEC_LEN, params.len(), params);
        let count = self.header_u32(TARGET_COUNT_AT) + 1;
        self.set_u32(TARGET_COUNT_AT, count);
        self
    }

    /// Appends a message for the target at `sector`.
    pub fn message(mut self, sector: u64, text: &str) -> Self {
        self.0.extend_from_slice(&sector.to_ne_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    /// Makes room for `bytes` of answer.
    pub fn room(mut self, bytes: usize) -> Self {
        self.0.resize(DM_HEADER_LEN + bytes, 0);
        self
    }

    /// The bytes for the ioctl.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn header_u32(&self, at: usize) -> u32 {
        u32_at(&self.0, at).unwrap_or(0)
    }

    /// The answer's flags.
    pub fn answer_flags(&self) -> u32 {
        self.header_u32(FLAGS_AT)
    }

    /// How often the device is open.
    pub fn open_count(&self) -> u32 {
        self.header_u32(OPEN_COUNT_AT)
    }

    /// How many targets the live table has.
    pub fn target_count(&self) -> u32 {
        self.header_u32(TARGET_COUNT_AT)
    }

    /// The device's number.
    pub fn answer_dev(&self) -> u64 {
        u64_at(&self.0, DEV_AT).unwrap_or(0)
    }

    /// The device's name.
    pub fn answer_name(&self) -> String {
        text(&self.0[NAME_AT..UUID_AT])
    }

    /// The device's UUID, empty if it has none.
    pub fn answer_uuid(&self) -> String {
        text(&self.0[UUID_AT..UUID_END])
    }

    /// What follows the header, as far as the kernel says that it wrote it.
    fn answer(&self) -> &[u8] {
        let start = self.header_u32(DATA_START_AT) as usize;
        let end = (self.header_u32(DM_DATA_SIZE_AT) as usize).min(self.0.len());
        self.0.get(start..end).unwrap_or_default()
    }

    /// The answer to `ListDevices`: names and numbers.
    pub fn device_list(&self) -> Vec<(String, u64)> {
        let mut devices = Vec::new();
        let mut rest = self.answer();
        while let (Some(dev), Some(next)) = (u64_at(rest, 0), u32_at(rest, 8)) {
            if dev == 0 {
                break;
            }
            devices.push((text(&rest[12..]), dev));
            match rest.get(next as usize..) {
                Some(following) if next != 0 => rest = following,
                _ => break,
            }
        }
        devices
    }

    /// The answer to `Deps`: the devices that the table stands on.
    pub fn dep_list(&self) -> Vec<u64> {
        let answer = self.answer();
        let count = u32_at(answer, 0).unwrap_or(0) as usize;
        (0..count)
            .map_while(|i| u64_at(answer, 8 + i * 8))
            .collect()
    }

    /// The answer to `Status`: a line a target.
    pub fn target_lines(&self) -> Vec<Target> {
        let answer = self.answer();
        let mut lines = Vec::new();
        let mut at = 0;
        for _ in 0..self.target_count() {
            let Some(spec) = answer.get(at..at + SPEC_LEN) else {
                break;
            };
            lines.push(Target {
                start: u64_at(spec, 0).unwrap_or(0),
                length: u64_at(spec, 8).unwrap_or(0),
                kind: text(&spec[24..]),
                params: text(&answer[at + SPEC_LEN..]),
            });
            // Here, unlike in a request, the distance counts from the first target.
            at = u32_at(spec, 20).unwrap_or(0) as usize;
            if at == 0 {
                break;
            }
        }
        lines
    }

    /// The answer to `TargetVersion`: major, minor, patch.
    pub fn target_version(&self) -> Option<[u32; 3]> {
        let answer = self.answer();
        Some([u32_at(answer, 4)?, u32_at(answer, 8)?, u32_at(answer, 12)?])
    }
}

/// A line of a table or of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// First sector.
    pub start: u64,
    /// Length in sectors.
    pub length: u64,
    /// The target's name, "zfile" for example.
    pub kind: String,
    /// The words that follow it.
    pub params: String,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let part = bytes.get(at..at.checked_add(4)?)?;
    part.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(8)?)?;
    part.try_into().ok().map(u64::from_ne_bytes)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel leaves a buffer: header as sent, `data` behind it, the size set.
    fn answered(request: Buffer, data: &[u8]) -> Buffer {
        let mut buffer = request.room(data.len());
        buffer.0[DM_HEADER_LEN..].copy_from_slice(data);
        let length = buffer.0.len() as u32;
        buffer.set_u32(DM_DATA_SIZE_AT, length);
        buffer
    }

    #[test]
    fn a_request_has_the_kernels_layout() {
        let request = Buffer::new()
            .name("web")
            .flags(flags::READ_ONLY)
            .event_nr(0x0040_1234);
        let bytes = &request.0;
        assert_eq!(bytes.len(), 312);
        assert_eq!(bytes[0..12], [4u32, 0, 0].map(u32::to_ne_bytes).concat());
        assert_eq!(bytes[16..20], 312u32.to_ne_bytes());
        assert_eq!(bytes[28..32], 1u32.to_ne_bytes());
        assert_eq!(bytes[32..36], 0x0040_1234u32.to_ne_bytes());
        assert_eq!(&bytes[48..52], b"web\0");
    }

    #[test]
    fn texts_stay_in_their_fields() {
        let long = "x".repeat(400);
        let request = Buffer::new().name(&long).uuid(&long);
        assert_eq!(request.answer_name().len(), NAME_MAX);
        assert_eq!(request.answer_uuid().len(), UUID_MAX);
        assert_eq!(request.0[UUID_END - 1..], [0; 8]);
    }

    #[test]
    fn targets_are_aligned_and_linked() {
        let request = Buffer::new()
            .target(0, 8, "linear", "7:0 0")
            .target(8, 1, "zero", "");
        let bytes = &request.0;
        assert_eq!(request.target_count(), 2);
        // 40 + 6 bytes, rounded up to 8.
        assert_eq!(u32_at(bytes, 312 + 20), Some(48));
        assert_eq!(&bytes[312 + 24..312 + 31], b"linear\0");
        assert_eq!(&bytes[312 + 40..312 + 46], b"7:0 0\0");
        assert_eq!(u64_at(bytes, 360), Some(8));
        assert_eq!(u64_at(bytes, 368), Some(1));
        assert_eq!(bytes.len(), 360 + 48);
    }

    #[test]
    fn a_message_follows_its_sector() {
        let request = Buffer::new().message(5, "reset_stats");
        assert_eq!(u64_at(&request.0, 312), Some(5));
        assert_eq!(&request.0[320..], b"reset_stats\0");
    }

    fn list_entry(dev: u64, next: u32, name: &str, length: usize) -> Vec<u8> {
        let mut entry = [&dev.to_ne_bytes()[..], &next.to_ne_bytes(), name.as_bytes()].concat();
        entry.resize(length, 0);
        entry
    }

    #[test]
    fn a_device_list_is_walked() {
        let data = [
            list_entry(0xfd00, 32, "one", 32),
            list_entry(0xfd01, 0, "two", 32),
        ]
        .concat();
        let list = answered(Buffer::new(), &data).device_list();
        assert_eq!(
            list,
            [("one".to_owned(), 0xfd00), ("two".to_owned(), 0xfd01)]
        );
        // No devices: one record with number 0.
        let none = answered(Buffer::new(), &list_entry(0, 0, "", 16));
        assert!(none.device_list().is_empty());
        // Nothing at all, and a link to nowhere.
        assert!(answered(Buffer::new(), &[]).device_list().is_empty());
        let cut = answered(Buffer::new(), &list_entry(0xfd00, 9999, "one", 24));
        assert_eq!(cut.device_list().len(), 1);
    }

    #[test]
    fn status_lines_count_from_the_first() {
        let mut data = Vec::new();
        for (start, next, kind, params) in [(0u64, 56u32, "zfile", "lz4 1"), (16, 112, "zero", "")]
        {
            let mut spec = [start.to_ne_bytes(), 16u64.to_ne_bytes()].concat();
            spec.extend([0u32.to_ne_bytes(), next.to_ne_bytes()].concat());
            spec.extend(kind.bytes());
            spec.resize(SPEC_LEN, 0);
            spec.extend(params.bytes());
            spec.resize(56, 0);
            data.extend(spec);
        }
        let mut answer = answered(Buffer::new(), &data);
        answer.set_u32(TARGET_COUNT_AT, 2);
        let lines = answer.target_lines();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].params, "lz4 1");
        assert_eq!((lines[1].start, lines[1].kind.as_str()), (16, "zero"));
        // More targets claimed than present.
        answer.set_u32(TARGET_COUNT_AT, 9);
        assert_eq!(answer.target_lines().len(), 2);
    }

    #[test]
    fn deps_are_bounded_by_the_answer() {
        let data = [
            &9u32.to_ne_bytes()[..],
            &[0; 4],
            &0x700u64.to_ne_bytes(),
            &0x701u64.to_ne_bytes(),
        ]
        .concat();
        assert_eq!(answered(Buffer::new(), &data).dep_list(), [0x700, 0x701]);
    }
}
