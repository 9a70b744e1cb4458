//! Names: the devices and streams of a shard, numbered, and the client that made each stream known.
//!
//! A stream becomes known with the first sound reading that names it, unless its tombstone shows that the
//! reading was counted or is too far behind. It stays until it is retired; then its number is free again.
//! Before that, whatever refers to the stream by its number (its parts in the outbox) is finished: see
//! `retire`.
//!
//! Names come from outside, so each shard bounds them: their number, their bytes, the streams of each device,
//! and the streams and bytes of each client that makes names known. So no client takes the room of others
//! ([`Names::admits`]). A gateway names the client only for streams that may be new. If the stream that it
//! believed known has been retired meanwhile, the new stream counts for no client.
//!
//! Invariant: every device and every maker has a stream.
//! Invariant: what counts towards a bound depends on the state alone, not on who else still holds a name in
//! memory.

use super::slots::Slots;
use crate::machine::judged::Reason;
use crate::machine::rules::CountingRules;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// A device with its streams, in the order of their names.
#[derive(Debug)]
pub struct NamedDevice {
    pub name: Arc<str>,
    pub streams: Vec<u32>,
    /// Readings that were set aside because their stream was new and a bound was reached.
    pub refused: u64,
}

/// A stream's name and its owners.
#[derive(Debug)]
pub struct NamedStream {
    pub device: u32,
    pub name: Arc<str>,
    /// The number of the client that made the stream known, or [`NO_MAKER`].
    maker: u32,
}

/// A client that made streams known, with their number.
#[derive(Debug)]
struct Maker {
    client: Arc<str>,
    streams: u32,
    /// Derived: the bytes of these streams' names, each with its device's name.
    bytes: usize,
}

const NO_MAKER: u32 = u32::MAX;

/// All names of a shard. The hash maps are only used for lookups: their order differs between replicas and
/// must not show.
#[derive(Debug, Default)]
pub struct Names {
    pub devices: Slots<NamedDevice>,
    pub streams: Slots<NamedStream>,
    makers: Slots<Maker>,
    by_name: HashMap<Arc<str>, u32>,
    /// Derived: the same in the order of the names, for queries. `by_name` is the quicker one for readings.
    ordered: BTreeMap<Arc<str>, u32>,
    by_client: HashMap<Arc<str>, u32>,
    /// Stream names, with the number of streams that have each. Devices of the same kind share them.
    words: HashMap<Arc<str>, u32>,
    bytes: usize,
}

impl Names {
    pub fn device(&self, device: &str) -> Option<u32> {
        self.by_name.get(device).copied()
    }

    /// The devices from this bound on, in the order of their names.
    pub fn devices_from<'a>(
        &'a self,
        from: Bound<&str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, u32)> + use<'a> {
        self.ordered.range::<str, _>((from, Bound::Unbounded)).map(|(name, id)| (name, *id))
    }

    /// The streams of a device from this bound on, in the order of their names.
    pub fn streams_from(&self, device: u32, from: Bound<&str>) -> &[u32] {
        let streams = &self.devices[device].streams;
        let is_before = |id: &u32| match from {
            Bound::Included(from) => &*self.streams[*id].name < from,
            Bound::Excluded(from) => &*self.streams[*id].name <= from,
            Bound::Unbounded => false,
        };
        &streams[streams.partition_point(is_before)..]
    }

    /// The index of the stream in its device's list, or the index at which it belongs.
    fn place(&self, device: u32, stream: &str) -> Result<usize, usize> {
        let streams = &self.devices[device].streams;
        streams.binary_search_by(|id| (*self.streams[*id].name).cmp(stream))
    }

    pub fn find(&self, device: &str, stream: &str) -> Option<u32> {
        let device = self.device(device)?;
        let place = self.place(device, stream).ok()?;
        Some(self.devices[device].streams[place])
    }

    /// The names of the device and of the stream. The stream must exist.
    pub fn of(&self, stream: u32) -> (&Arc<str>, &Arc<str>) {
        let s = &self.streams[stream];
        (&self.devices[s.device].name, &s.name)
    }

    /// The client that made the stream known; `None` for streams that count for no client.
    pub fn maker(&self, stream: u32) -> Option<&Arc<str>> {
        self.makers.get(self.streams[stream].maker).map(|m| &m.client)
    }

    /// The bytes of all names: of devices, of streams (each name once) and of the clients that made them
    /// known.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The client that made the most streams known, with their number.
    pub fn busiest_maker(&self) -> Option<(&str, u32)> {
        let most = self.makers.iter().max_by_key(|(id, m)| (m.streams, std::cmp::Reverse(*id)));
        most.map(|(_, m)| (&*m.client, m.streams))
    }

    /// The device with the most streams, with their number.
    pub fn largest_device(&self) -> Option<(&str, usize)> {
        let most = self.devices.iter().max_by_key(|(id, d)| (d.streams.len(), std::cmp::Reverse(*id)));
        most.map(|(_, d)| (&*d.name, d.streams.len()))
    }

    /// Whether a stream that is not known may become known.
    ///
    /// # Errors
    /// Names the bound that is reached.
    pub fn admits(
        &self,
        device: &str,
        stream: &str,
        maker: Option<&str>,
        rules: &CountingRules,
    ) -> Result<(), Reason> {
        let known = self.device(device);
        let of_device = known.map_or(0, |id| self.devices[id].streams.len());
        if of_device >= rules.max_streams_per_device as usize {
            return Err(Reason::DeviceFull);
        }
        let known_maker = maker.and_then(|client| self.by_client.get(client)).map(|id| &self.makers[*id]);
        if known_maker.is_some_and(|m| m.streams >= rules.max_streams_per_client) {
            return Err(Reason::NamesOfClientFull);
        }
        let of_client = known_maker.map_or(0, |m| m.bytes) + device.len() + stream.len();
        if maker.is_some() && of_client > rules.max_names_bytes as usize / 2 {
            return Err(Reason::NamesOfClientFull);
        }
        if self.streams.len() >= rules.max_streams as usize {
            return Err(Reason::StreamsFull);
        }
        let mut more = if known.is_none() { device.len() } else { 0 };
        more += if self.words.contains_key(stream) { 0 } else { stream.len() };
        more += maker.filter(|client| !self.by_client.contains_key(*client)).map_or(0, str::len);
        if self.bytes + more > rules.max_names_bytes as usize {
            return Err(Reason::NamesFull);
        }
        Ok(())
    }

    /// Makes a stream known and returns its number. The stream must not be known yet (see [`Names::find`]).
    pub fn add(&mut self, device: &str, stream: &str, maker: Option<&str>) -> u32 {
        let device = match self.device(device) {
            Some(device) => device,
            None => self.add_device(device),
        };
        let maker = maker.map_or(NO_MAKER, |client| match self.by_client.get(client) {
            Some(maker) => *maker,
            None => {
                // A device that is its own client shares one name with it.
                let known = self.by_name.get_key_value(client).map(|(name, _)| name.clone());
                let client: Arc<str> = known.unwrap_or_else(|| client.into());
                self.bytes += client.len();
                let maker = self.makers.insert(Maker { client: client.clone(), streams: 0, bytes: 0 });
                self.by_client.insert(client, maker);
                maker
            }
        });
        let name = self.word(stream);
        let id = self.streams.insert(NamedStream { device, name, maker });
        self.list(id);
        id
    }

    fn add_device(&mut self, device: &str) -> u32 {
        let name: Arc<str> = device.into();
        self.bytes += name.len();
        let id = self.devices.insert(NamedDevice { name: name.clone(), streams: Vec::new(), refused: 0 });
        self.ordered.insert(name.clone(), id);
        self.by_name.insert(name, id);
        id
    }

    /// The shared copy of a stream name, with one more stream that uses it.
    fn word(&mut self, stream: &str) -> Arc<str> {
        let known = self.words.get_key_value(stream).map(|(word, _)| word.clone());
        let word = known.unwrap_or_else(|| {
            self.bytes += stream.len();
            stream.into()
        });
        *self.words.entry(word.clone()).or_default() += 1;
        word
    }

    /// Adds a new stream to its device's list, and counts it for its maker.
    fn list(&mut self, id: u32) {
        let NamedStream { device, name, maker } = &self.streams[id];
        let (device, maker) = (*device, *maker);
        let bytes = self.devices[device].name.len() + name.len();
        let place = self.place(device, name).unwrap_or_else(|place| place);
        self.devices[device].streams.insert(place, id);
        if maker != NO_MAKER {
            self.makers[maker].streams += 1;
            self.makers[maker].bytes += bytes;
        }
    }

    /// Removes a stream that exists, and its device and its maker with their last stream.
    pub fn remove(&mut self, id: u32) {
        let (device, name) = (self.streams[id].device, self.streams[id].name.clone());
        if let Ok(place) = self.place(device, &name) {
            self.devices[device].streams.remove(place);
        }
        let maker = self.streams.remove(id).map_or(NO_MAKER, |s| s.maker);
        let bytes = self.devices[device].name.len() + name.len();
        if self.devices[device].streams.is_empty()
            && let Some(device) = self.devices.remove(device)
        {
            self.bytes -= device.name.len();
            self.by_name.remove(&device.name);
            self.ordered.remove(&device.name);
        }
        if let Some(uses) = self.words.get_mut(&name) {
            *uses -= 1;
            if *uses == 0 {
                self.words.remove(&name);
                self.bytes -= name.len();
            }
        }
        if maker != NO_MAKER {
            self.makers[maker].streams -= 1;
            self.makers[maker].bytes -= bytes;
            if self.makers[maker].streams == 0
                && let Some(maker) = self.makers.remove(maker)
            {
                self.bytes -= maker.client.len();
                self.by_client.remove(&maker.client);
            }
        }
    }

    /// Counts a reading whose new stream was refused, if the device is known.
    pub fn note_refused(&mut self, device: &str) {
        if let Some(id) = self.device(device) {
            let refused = &mut self.devices[id].refused;
            *refused = refused.saturating_add(1);
        }
    }
}

/// A device in a snapshot: its number, its name, and how many readings were refused.
pub type DeviceImage = (u32, String, u64);
/// A maker in a snapshot: its number and its client id.
pub type MakerImage = (u32, String);
/// A stream in a snapshot: its number, its device's number, its name, its maker's number.
pub type StreamImage = (u32, u32, String, u32);

impl Names {
    pub fn device_images(&self) -> impl Iterator<Item = (u32, &str, u64)> {
        self.devices.iter().map(|(id, d)| (id, &*d.name, d.refused))
    }

    pub fn maker_images(&self) -> impl Iterator<Item = (u32, &str)> {
        self.makers.iter().map(|(id, m)| (id, &*m.client))
    }

    pub fn stream_images(&self) -> impl Iterator<Item = (u32, u32, &str, u32)> {
        self.streams.iter().map(|(id, s)| (id, s.device, &*s.name, s.maker))
    }

    /// Restores a device. Returns false if it contradicts the others or its number exceeds `most`.
    pub fn restore_device(&mut self, (id, name, refused): DeviceImage, most: u32) -> bool {
        let name: Arc<str> = name.into();
        self.bytes += name.len();
        let device = NamedDevice { name: name.clone(), streams: Vec::new(), refused };
        self.ordered.insert(name.clone(), id);
        self.devices.restore(id, device, most) && self.by_name.insert(name, id).is_none()
    }

    /// Restores a maker. Returns false if it contradicts the others or its number exceeds `most`.
    pub fn restore_maker(&mut self, (id, client): MakerImage, most: u32) -> bool {
        let known = self.by_name.get_key_value(client.as_str()).map(|(name, _)| name.clone());
        let client: Arc<str> = known.unwrap_or_else(|| client.into());
        self.bytes += client.len();
        let maker = Maker { client: client.clone(), streams: 0, bytes: 0 };
        self.makers.restore(id, maker, most) && self.by_client.insert(client, id).is_none()
    }

    /// Restores a stream, after all devices and makers. Returns false if it contradicts them or its number
    /// exceeds `most`.
    pub fn restore_stream(&mut self, (id, device, name, maker): StreamImage, most: u32) -> bool {
        let made = maker == NO_MAKER || self.makers.get(maker).is_some();
        if !made || self.devices.get(device).is_none() || self.place(device, &name).is_ok() {
            return false;
        }
        let name = self.word(&name);
        let sound = self.streams.restore(id, NamedStream { device, name, maker }, most);
        if sound {
            self.list(id);
        }
        sound
    }

    /// Whether every device and every maker has a stream.
    pub fn is_whole(&self) -> bool {
        self.devices.iter().all(|(_, d)| !d.streams.is_empty())
            && self.makers.iter().all(|(_, m)| m.streams > 0)
    }
}
