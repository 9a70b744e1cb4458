//! Queries at the site: recent windows, and which devices and streams there are.
//!
//! A shard keeps all unconfirmed batches and, within `recent_bytes`, the latest confirmed ones, so every
//! replica can answer without the cloud. The answer for a window merges its parts in these batches, its
//! closed parts that no batch holds yet, and its open part: see [`super::scan`].

use super::Machine;
use super::counting::Counting;
use super::judged::Reason;
use bincode::{Decode, Encode};
use selvedge_types::frame::encoded_bytes;
use selvedge_types::question::SiteWindowPlace;
use selvedge_types::time::EpochMs;
use std::ops::Bound;
use std::sync::Arc;

/// The most windows, devices or streams in one answer.
pub const MAX_ANSWER_ENTRIES: usize = 10_000;

/// The most bytes of the encoded windows in one answer. A frame of a link holds that with room to spare.
pub const MAX_ANSWER_BYTES: u32 = 1024 * 1024;

/// A page of devices ends after devices that together have this many streams.
pub const DEVICES_STREAMS: usize = 8_192;

/// The windows that a query asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// A device, or a pattern of devices: `*` stands for any characters, `\*` for an asterisk.
    pub device: &'a str,
    /// A stream or a pattern of streams, written likewise; `None` asks for all.
    pub stream: Option<&'a str>,
    /// Asks for windows that end after this time.
    pub from: EpochMs,
    /// Asks for windows that start before this time.
    pub to: EpochMs,
    /// The width asked for, in milliseconds. The answer merges windows of the greatest kept width that
    /// divides it. `None` asks for the stream's first width as it is kept.
    pub every_ms: Option<u32>,
}

/// A device of the shard, as the lists of devices show it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DeviceInfo {
    pub device: Arc<str>,
    /// The number of its streams in this shard.
    pub streams: u32,
    /// The wall time of the latest new reading of any of its streams.
    pub seen: EpochMs,
    /// How many readings were set aside because their stream was new and a bound was reached.
    pub refused: u64,
}

/// A stream of a device, as the lists of streams show it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StreamInfo {
    pub stream: Arc<str>,
    /// The widths of its windows.
    pub windows_ms: Vec<u32>,
    /// The wall time of its latest new reading.
    pub seen: EpochMs,
    /// As far as it may be reported: limited by the time that the shard believes.
    pub watermark: EpochMs,
    /// How many of its readings were set aside, by reason.
    pub set_aside: Vec<(Reason, u64)>,
    /// The client that made the stream known; empty for clients without an id of their own, `None` if it is
    /// not known.
    pub client: Option<Arc<str>>,
}

/// The part of an answer that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Page {
    /// The first row of the page; `None` starts with the first row of all.
    pub after: Option<SiteWindowPlace>,
    /// The most rows, up to [`MAX_ANSWER_ENTRIES`].
    pub limit: u32,
    /// The most bytes of encoded rows, up to [`MAX_ANSWER_BYTES`].
    pub bytes: u32,
}

impl Default for Page {
    /// As much as one answer may hold, from the first row on.
    fn default() -> Self {
        Self { after: None, limit: MAX_ANSWER_ENTRIES as u32, bytes: MAX_ANSWER_BYTES }
    }
}

impl Machine {
    /// A page of devices in the order of their names, after `after`: at most `most` and at most
    /// [`MAX_ANSWER_ENTRIES`]. It ends early once its devices have [`DEVICES_STREAMS`] streams, but has at
    /// least one device if any is left. The flag says whether more devices follow.
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

    /// Looks a device up by name; `None` if the shard does not know it.
    pub fn device(&self, device: &str) -> Option<DeviceInfo> {
        self.tables.counting.names.device(device).map(|id| self.device_info(id))
    }

    fn device_info(&self, id: u32) -> DeviceInfo {
        let Counting { names, streams, .. } = &self.tables.counting;
        let device = &names.devices[id];
        // The wall time that goes with the latest elapsed time, not the latest wall time, which may have
        // leapt and come back.
        let streams = device.streams.iter().map(|s| &streams.list[*s as usize]);
        let seen = streams.max_by_key(|s| (s.heard, s.seen)).map(|s| s.seen);
        DeviceInfo {
            device: device.name.clone(),
            streams: device.streams.len() as u32,
            seen: seen.unwrap_or_default(),
            refused: device.refused,
        }
    }

    /// The first page of a device's streams: see [`Machine::streams_behind`].
    pub fn streams(&self, device: &str) -> Vec<StreamInfo> {
        self.streams_behind(device, None).0
    }

    /// A page of a device's streams in the order of their names, after `after`. It holds at most
    /// [`MAX_ANSWER_BYTES`], but at least one stream if any is left. The flag says whether more streams
    /// follow. The page is empty if there is no such device.
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
