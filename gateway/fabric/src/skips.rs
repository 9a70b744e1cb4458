//! A table for operators, in memory: the fields of each device's publishes that were skipped, why, and how often.
//!
//! Limits: [`MAX_SKIP_DEVICES_ENTRIES`] devices, where a new one replaces the device heard from longest ago;
//! [`MAX_SKIP_NAMES_ENTRIES`] names for each device, of [`MAX_SKIP_NAME_BYTES`] each, where further fields are
//! counted together. That is less than 1 MiB.

use super::decode::{SkipReason, Skipped};
use bincode::{Decode, Encode};
use selvedge_types::report::{SkippedField, shown};
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;

/// How many devices' skipped fields are remembered.
pub const MAX_SKIP_DEVICES_ENTRIES: usize = 256;
/// How many skipped fields of one device are remembered by name.
pub const MAX_SKIP_NAMES_ENTRIES: usize = 16;
/// The most bytes of a skipped field's name; fields whose names begin alike are counted as one.
pub const MAX_SKIP_NAME_BYTES: usize = 128;

/// The count for one skipped field of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Skip {
    /// Why it was skipped the last time.
    pub why: SkipReason,
    pub count: u64,
    /// The wall time when it was last skipped.
    pub last: EpochMs,
}

/// The fields that were skipped of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct DeviceSkips {
    /// The skipped fields, by name.
    pub fields: BTreeMap<String, Skip>,
    /// How often other fields were skipped, for which there was no room by name.
    pub others: u64,
    /// The table's count of all skips at this device's last one: the lowest tells which device was heard from
    /// longest ago.
    used: u64,
}

/// The skipped fields of all devices that publish to this gateway.
#[derive(Debug, Default)]
pub struct Skips {
    devices: BTreeMap<String, DeviceSkips>,
    clock: u64,
}

impl DeviceSkips {
    /// Adds what another gateway skipped of the same device.
    pub fn merge(&mut self, other: Self) {
        for (name, skip) in other.fields {
            match self.fields.get_mut(&name) {
                Some(known) => {
                    let latest = if skip.last > known.last { skip } else { *known };
                    *known = Skip { count: known.count.saturating_add(skip.count), ..latest };
                }
                None => _ = self.fields.insert(name, skip),
            }
        }
        self.others = self.others.saturating_add(other.others);
    }
}

impl Skips {
    /// Counts one skipped field of a device.
    pub fn note(&mut self, now: EpochMs, field: &Skipped<'_>) {
        self.clock += 1;
        if !self.devices.contains_key(&*field.device) && self.devices.len() >= MAX_SKIP_DEVICES_ENTRIES {
            let oldest = self.devices.iter().min_by_key(|(_, d)| d.used).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| self.devices.remove(&oldest));
        }
        let device = match self.devices.get_mut(&*field.device) {
            Some(device) => device,
            None => self.devices.entry(field.device.to_string()).or_default(),
        };
        device.used = self.clock;
        let is_full = device.fields.len() >= MAX_SKIP_NAMES_ENTRIES;
        let name = field.name.get(..field.name.floor_char_boundary(MAX_SKIP_NAME_BYTES)).unwrap_or_default();
        match device.fields.get_mut(name) {
            Some(skip) => *skip = Skip { why: field.why, count: skip.count.saturating_add(1), last: now },
            None if !is_full => {
                let skip = Skip { why: field.why, count: 1, last: now };
                device.fields.insert(name.to_string(), skip);
            }
            None => device.others = device.others.saturating_add(1),
        }
    }

    /// The fields that were skipped last, latest first, at most `most` of them: the part that nodes receive.
    pub fn latest(&self, most: usize) -> Vec<SkippedField> {
        let fields = self.devices.iter().flat_map(|(device, d)| d.fields.iter().map(move |f| (device, f)));
        let mut fields: Vec<_> = fields.collect();
        fields.sort_by_key(|(_, (_, skip))| std::cmp::Reverse(skip.last));
        let told = |(device, (field, skip)): (&String, (&String, &Skip))| SkippedField {
            device: shown(device),
            field: shown(field),
            why: skip.why.label().into(),
            count: skip.count,
            last: skip.last,
        };
        fields.into_iter().take(most).map(told).collect()
    }

    /// The skipped fields of each device, or of this one only, by the device's name.
    pub fn list(&self, device: Option<&str>) -> Vec<(String, DeviceSkips)> {
        let wanted = self.devices.iter().filter(|(name, _)| device.is_none_or(|device| device == *name));
        wanted.map(|(name, skips)| (name.clone(), skips.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(device: &str, name: &str) -> Skipped<'static> {
        Skipped { device: device.to_string().into(), name: name.to_string().into(), why: SkipReason::Text }
    }

    #[test]
    fn fields_are_counted_by_device_and_name() {
        let mut skips = Skips::default();
        for ms in 1..=3 {
            skips.note(EpochMs(ms), &field("pump", "state"));
        }
        skips.note(EpochMs(4), &field("press", "mode"));
        let list = skips.list(Some("pump"));
        assert_eq!(list.len(), 1);
        let skip = Skip { why: SkipReason::Text, count: 3, last: EpochMs(3) };
        assert_eq!(list[0].1.fields.get("state"), Some(&skip));
        assert_eq!(skips.list(None).len(), 2);
        let latest: Vec<_> =
            skips.latest(8).into_iter().map(|s| (s.device, s.field, s.why, s.count)).collect();
        let told = |device: &str, field: &str, count| (device.into(), field.into(), "text".into(), count);
        assert_eq!(latest, [told("press", "mode", 1), told("pump", "state", 3)]);
        assert_eq!(skips.latest(1).len(), 1);
    }

    #[test]
    fn what_gateways_skipped_of_a_device_adds_up() {
        let skip = |count, ms| Skip { why: SkipReason::Text, count, last: EpochMs(ms) };
        let of = |fields: &[(&str, Skip)], others| {
            let fields = fields.iter().map(|(name, skip)| (name.to_string(), *skip)).collect();
            DeviceSkips { fields, others, used: 0 }
        };
        let mut all = of(&[("a", skip(2, 5))], 1);
        all.merge(of(&[("a", Skip { why: SkipReason::Null, ..skip(u64::MAX, 9) }), ("b", skip(1, 1))], 3));
        let a = Skip { why: SkipReason::Null, ..skip(u64::MAX, 9) };
        assert_eq!(all, of(&[("a", a), ("b", skip(1, 1))], 4));
    }

    #[test]
    fn neither_names_nor_devices_grow_beyond_their_bounds() {
        let mut skips = Skips::default();
        for n in 0..MAX_SKIP_NAMES_ENTRIES + 5 {
            skips.note(EpochMs(1), &field("pump", &format!("k{n}")));
        }
        assert_eq!(skips.list(None)[0].1.fields.len(), MAX_SKIP_NAMES_ENTRIES);
        assert_eq!(skips.list(None)[0].1.others, 5);
        for end in ["x", "y"] {
            skips.note(EpochMs(1), &field("long", &("ä".repeat(200) + end)));
        }
        let long = &skips.list(Some("long"))[0].1.fields;
        assert!(long.len() == 1 && long.keys().all(|name| name.len() <= MAX_SKIP_NAME_BYTES), "{long:?}");
        for n in 0..MAX_SKIP_DEVICES_ENTRIES {
            skips.note(EpochMs(2), &field("known", "k"));
            skips.note(EpochMs(2), &field(&format!("d{n}"), "k"));
        }
        assert_eq!(skips.list(None).len(), MAX_SKIP_DEVICES_ENTRIES);
        assert!(skips.list(Some("pump")).is_empty(), "the one heard from longest ago made way");
        assert_eq!(skips.list(Some("known")).len(), 1, "one that is heard from stays");
    }
}
