//! Queries at the site: recent windows, and which devices there are.
//!
//! A shard keeps its latest batches (`recent_bytes`) and all unconfirmed ones, so that every replica can answer without the
//! cloud. A window is answered as the merge of its parts in those, of its closed parts that are in no batch yet and of its open one:
//! see [`super::scan`].

use super::Machine;
use super::counting::Counting;
use super::judged::Reason;
use bincode::{Decode, Encode};
use selvedge_types::frame::encoded_bytes;
use selvedge_types::question::Place;
use selvedge_types::time::EpochMs;
use std::ops::Bound;
use std::sync::Arc;

/// The most windows, devices or streams of one answer.
pub const MAX_ANSWER_ENTRIES: usize = 10_000;

/// The most bytes of the windows of one answer, as encoded: a link's frame holds it with room to spare.
pub const MAX_ANSWER_BYTES: u32 = 1024 * 1024;

/// A list of devices ends when so many streams were looked at for it.
pub const DEVICES_STREAMS: usize = 8_192;

/// Which windows are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The device, or devices: `*` stands for any characters, `\*` for itself.
    pub device: &'a str,
    /// The stream, or streams likewise; nothing: all of them.
    pub stream: Option<&'a str>,
    /// Windows that end after this.
    pub from: EpochMs,
    /// Windows that start before this.
    pub to: EpochMs,
    /// The width wanted, in milliseconds: windows of the greatest kept width that divides it are merged to
    /// it. Nothing: the stream's first width as it is kept.
    pub every_ms: Option<u32>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DeviceInfo {
    /// Its name.
    pub device: Arc<str>,
    /// How many streams it has in this shard.
    pub streams: u32,
    /// The wall time at which something new of it last came.
    pub seen: EpochMs,
    /// Readings of further streams that were not let in.
    pub refused: u64,
}

/// A stream of a device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StreamInfo {
    /// Its name.
    pub stream: Arc<str>,
    /// The widths it is counted in.
    pub windows_ms: Vec<u32>,
    /// The wall time at which something new last came.
    pub seen: EpochMs,
    /// Its watermark.
    pub watermark: EpochMs,
    /// How many of its readings were set aside, by reason.
    pub set_aside: Vec<(Reason, u64)>,
    /// The client that made it known, if that is known; empty: clients without an id of their own.
    pub client: Option<Arc<str>>,
}

/// How much of an answer is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Page {
    /// From this row on.
    pub after: Option<Place>,
    /// The most rows; [`MAX_ANSWER_ENTRIES`] at most.
    pub limit: u32,
    /// The most bytes, as encoded.
    pub bytes: u32,
}

impl Default for Page {
    /// All that may be had.
    fn default() -> Self {
        Self { after: None, limit: MAX_ANSWER_ENTRIES as u32, bytes: MAX_ANSWER_BYTES }
    }
}

impl Machine {
    /// The devices after `after` by name, at most `most` and [`MAX_ANSWER_ENTRIES`], and at least one but no more than have
    /// [`DEVICES_STREAMS`] streams; and whether there are more behind them.
    pub fn devices(&self, after: Option<&str>, most: usize) -> (Vec<DeviceInfo>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = &self.tables.counting.names;
        let (mut list, mut left) = (Vec::new(), DEVICES_STREAMS);
        for (_, id) in names.devices_from(from) {
            if list.len() >= most.min(MAX_ANSWER_ENTRIES) || left == 0 {
                return (list, true);
            }
            left = left.saturating_sub(names.devices[id].streams.len());
            list.push(self.device_info(id));
        }
        (list, false)
    }

    /// A device; nothing if it is not known.
    pub fn device(&self, device: &str) -> Option<DeviceInfo> {
        self.tables.counting.names.device(device).map(|id| self.device_info(id))
    }

    fn device_info(&self, id: u32) -> DeviceInfo {
        let Counting { names, streams, .. } = &self.tables.counting;
        let device = &names.devices[id];
        // The wall time at the latest elapsed time, not the latest wall time: that may have leapt and come back.
        let streams = device.streams.iter().map(|s| &streams.list[*s as usize]);
        let seen = streams.max_by_key(|s| (s.heard, s.seen)).map(|s| s.seen);
        DeviceInfo {
            device: device.name.clone(),
            streams: device.streams.len() as u32,
            seen: seen.unwrap_or_default(),
            refused: device.refused,
        }
    }

    /// The first streams of a device by name: see [`Machine::streams_behind`].
    pub fn streams(&self, device: &str) -> Vec<StreamInfo> {
        self.streams_behind(device, None).0
    }

    /// The streams of a device after `after` by name, at least one and no more than take [`MAX_ANSWER_BYTES`], and whether there are
    /// more behind them; none if there is no such device.
    pub fn streams_behind(&self, device: &str, after: Option<&str>) -> (Vec<StreamInfo>, bool) {
        let Counting { names, streams, classes, .. } = &self.tables.counting;
        let Some(device) = names.device(device) else { return (Vec::new(), false) };
        let info = |id: &u32| {
            let stream = &streams.list[*id as usize];
            let class = &classes[usize::from(stream.class)];
            StreamInfo {
                stream: names.of(*id).1.clone(),
                windows_ms: class.windows_ms.clone(),
                seen: stream.seen,
                watermark: self.clocks.now().told(stream.watermark, class),
                set_aside: stream.reasons().collect(),
                client: names.maker(*id).cloned(),
            }
        };
        let behind = |id: &&u32| after.is_none_or(|after| &**names.of(**id).1 > after);
        let (mut list, mut left) = (Vec::new(), MAX_ANSWER_BYTES as usize);
        for stream in names.devices[device].streams.iter().filter(behind).map(info) {
            let bytes = encoded_bytes(&stream);
            if !list.is_empty() && bytes > left {
                return (list, true);
            }
            left = left.saturating_sub(bytes);
            list.push(stream);
        }
        (list, false)
    }
}
