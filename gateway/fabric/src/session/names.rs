//! What a publish holds: its readings by shard, with names that everything that waits for them shares.

use super::{MAX_PUBLISH_BYTES, SessionContext, SessionEffects};
use crate::decode::{Decoded, Few, Skipped, name_skipped};
use crate::forward::{NamedReading, ShardReadings};
use crate::machine::Reading;
use crate::not_counted::NotCounted;
use crate::ring::Ring;
use selvedge_types::ids::ShardId;
use selvedge_types::mqtt::Publish;
use selvedge_types::uplink::StreamName;
use std::borrow::Cow;
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// How many streams' names a connection caches at first, and at most once it has shown that it carries more.
const RECENT_NAMES_ENTRIES: (usize, usize) = (8, 256);

/// The decoded content of a publish.
pub(crate) enum Meaning {
    /// The topic maps to no stream.
    Unmapped,
    /// The topic maps to streams.
    Parts {
        /// The readings by shard; empty if the publish holds none.
        parts: Few<(ShardId, ShardReadings)>,
        /// The parts that are no readings, as far as the client should hear of them.
        not: Option<Box<NotCounted>>,
        /// The fields that are no readings.
        skipped: Vec<Skipped<'static>>,
    },
}

/// A cache of streams that a connection published recently: everything that waits for them shares their names. Each
/// stream has one place, by its hash; a stream that takes another's place makes the table larger, up to the bound.
#[derive(Debug, Default)]
pub(crate) struct RecentNames {
    places: Vec<Option<(u64, Arc<StreamName>, ShardId)>>,
    /// The client id, which a name that is not cached goes out with; empty for all clients without an id of their
    /// own.
    maker: Arc<str>,
}

impl RecentNames {
    /// An empty cache for this client.
    pub(crate) fn of(client: &str) -> Self {
        Self { maker: client.into(), ..Self::default() }
    }

    /// The stream's name, its shard, and its maker if the stream may be new there.
    fn find(
        &mut self,
        ring: &Ring,
        device: Cow<'_, str>,
        stream: Cow<'_, str>,
    ) -> (Arc<StreamName>, ShardId, Option<Arc<str>>) {
        let hash = xxh3_64_with_seed(stream.as_bytes(), xxh3_64(device.as_bytes()));
        let (least, most) = RECENT_NAMES_ENTRIES;
        if self.places.is_empty() {
            self.places.resize(least, None);
        }
        let mut at = hash as usize % self.places.len();
        match &self.places[at] {
            Some((_, name, shard)) if name.device == device && name.stream == stream => {
                return (name.clone(), *shard, None);
            }
            Some(_) if self.places.len() < most => {
                let mut larger = vec![None; self.places.len() * 2];
                for known in self.places.drain(..).flatten() {
                    let at = known.0 as usize % larger.len();
                    larger[at] = Some(known);
                }
                at = hash as usize % larger.len();
                self.places = larger;
            }
            _ => {}
        }
        let shard = ring.shard_of(&device);
        let name = Arc::new(StreamName { device: device.into_owned(), stream: stream.into_owned() });
        self.places[at] = Some((hash, name.clone(), shard));
        (name, shard, Some(self.maker.clone()))
    }

    /// Empties the cache after something was not counted: the shard may not know the streams, so their makers must
    /// go along again.
    pub(super) fn forget(&mut self) {
        self.places.fill(None);
    }

    /// Decodes a publish. A request for births that it may cause goes to `out`.
    pub(crate) fn decode(
        &mut self,
        site: SessionContext<'_>,
        publish: &Publish,
        out: &mut SessionEffects,
    ) -> Meaning {
        let owned = |skipped: Vec<Skipped<'_>>| match skipped.is_empty() {
            true => Vec::new(),
            false => skipped.into_iter().map(Skipped::into_owned).collect(),
        };
        let none = |not, skipped| Meaning::Parts { parts: Few::new(), not, skipped };
        let (list, skipped) = match site.decoder.decode(site.now, &publish.topic, &publish.payload) {
            Decoded::Readings { list, skipped, rebirth } => {
                out.rebirths.extend(rebirth);
                (list, owned(skipped))
            }
            Decoded::NoReading { skipped } => return none(None, owned(skipped)),
            Decoded::NotMapped => return Meaning::Unmapped,
            Decoded::Malformed(mut e) => {
                out.rebirths.extend(e.rebirth.take());
                let why = e.to_string();
                let not =
                    if e.too_large { NotCounted::too_large(&why) } else { NotCounted::unreadable(&why) };
                return none(Some(not), e.skipped);
            }
        };
        let (mut parts, mut bytes) = (Few::<(ShardId, ShardReadings)>::new(), 0);
        for r in list {
            bytes += r.device.len() + r.stream.len() + 48;
            let reading = Reading { stream: 0, time: r.time, value: r.value, seq: r.seq, boot: r.boot };
            let (name, shard, maker) = self.find(site.ring, r.device, r.stream);
            let reading = NamedReading { name, maker, reading };
            match parts.iter_mut().find(|(of, _)| *of == shard) {
                None => parts.push((shard, ShardReadings::One(reading))),
                Some((_, ShardReadings::More(readings))) => readings.push(reading),
                Some((_, part)) => {
                    if let ShardReadings::One(first) =
                        std::mem::replace(part, ShardReadings::More(Vec::new()))
                    {
                        *part = ShardReadings::More(vec![first, reading]);
                    }
                }
            }
        }
        if bytes > MAX_PUBLISH_BYTES {
            let why = format!(
                "its readings and their names take {bytes} bytes, {MAX_PUBLISH_BYTES} are allowed: split it"
            );
            return none(Some(NotCounted::too_large(&why)), skipped);
        }
        let not = (!skipped.is_empty()).then(|| NotCounted::skipped(&name_skipped(&skipped)));
        Meaning::Parts { parts, not, skipped }
    }
}
