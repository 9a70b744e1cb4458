//! Names: devices and streams as small numbers, given in the order in which they first appear.
//!
//! Numbers are never given back: a stream that is gone for good keeps its place until the shard's bound
//! of streams is raised. What is known of its sequence numbers would be lost with it, and a reading
//! that was on its way would count twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// One device: its name and its streams, ordered by name.
#[derive(Debug)]
pub(super) struct Device {
    pub name: Arc<str>,
    pub streams: Vec<u32>,
}

/// One stream: whose, and its name.
#[derive(Debug)]
pub(super) struct Stream {
    pub device: u32,
    pub name: Arc<str>,
}

/// The directory. The hash maps are only ever looked up, never walked, so that their order, which
/// differs between replicas, can't show.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub devices: Vec<Device>,
    pub streams: Vec<Stream>,
    by_name: HashMap<Arc<str>, u32>,
    /// Stream names: devices of a kind share them.
    words: HashSet<Arc<str>>,
}

impl Names {
    pub fn device(&self, device: &str) -> Option<u32> {
        self.by_name.get(device).copied()
    }

    /// Where the stream is in its device's list, or where it would be.
    fn place(&self, device: u32, stream: &str) -> Result<usize, usize> {
        let streams = &self.devices[device as usize].streams;
        streams.binary_search_by(|id| (*self.streams[*id as usize].name).cmp(stream))
    }

    pub fn find(&self, device: &str, stream: &str) -> Option<u32> {
        let device = self.device(device)?;
        let place = self.place(device, stream).ok()?;
        Some(self.devices[device as usize].streams[place])
    }

    /// Gives a new stream (see [`Names::find`]) the next number.
    pub fn add(&mut self, device: &str, stream: &str) -> u32 {
        let device = match self.device(device) {
            Some(device) => device,
            None => {
                let name: Arc<str> = device.into();
                self.by_name.insert(name.clone(), self.devices.len() as u32);
                self.devices.push(Device { name, streams: Vec::new() });
                self.devices.len() as u32 - 1
            }
        };
        let name = match self.words.get(stream) {
            Some(word) => word.clone(),
            None => {
                let word: Arc<str> = stream.into();
                self.words.insert(word.clone());
                word
            }
        };
        let id = self.streams.len() as u32;
        let place = self.place(device, stream).unwrap_or_else(|place| place);
        self.devices[device as usize].streams.insert(place, id);
        self.streams.push(Stream { device, name });
        id
    }

    /// The names of a stream that exists: its device's and its own.
    pub fn of(&self, stream: u32) -> (&Arc<str>, &Arc<str>) {
        let s = &self.streams[stream as usize];
        (&self.devices[s.device as usize].name, &s.name)
    }
}
