//! The readings of a publish that were not counted, and why: for its answer, and for the quarantine.

use super::forward::{NamedReading, ShardReadings};
use super::machine::{Reason, SetAside};
use selvedge_types::ids::ShardId;
use selvedge_types::mqtt::AckCode;
use selvedge_types::uplink::StreamName;
use std::fmt::{self, Write};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3Default;

/// The longest reason in an answer, in bytes, without the count of what is left out.
pub const MAX_WHY_BYTES: usize = 480;

/// The readings of a publish that were submitted, by shard, to name those that are set aside. A publish of one
/// reading needs no list.
#[derive(Debug)]
pub(super) enum Sent {
    Nothing,
    One(Arc<StreamName>),
    Many(Vec<(ShardId, Vec<NamedReading>)>),
}

impl Sent {
    pub fn of(parts: &[(ShardId, ShardReadings)]) -> Self {
        match parts {
            [] => Self::Nothing,
            [(_, ShardReadings::One(reading))] => Self::One(reading.name.clone()),
            many => Self::Many(many.iter().map(|(shard, part)| (*shard, part.list().to_vec())).collect()),
        }
    }

    /// The readings that went to this shard.
    fn part(&self, shard: ShardId) -> &[NamedReading] {
        match self {
            Self::Many(parts) => parts.iter().find(|(of, _)| *of == shard).map_or(&[], |(_, list)| list),
            Self::Nothing | Self::One(_) => &[],
        }
    }

    fn name(&self, shard: ShardId, reading: u32) -> Option<&StreamName> {
        match self {
            Self::One(name) => Some(name),
            _ => self.part(shard).get(reading as usize).map(|r| &*r.name),
        }
    }
}

/// The parts of one publish that were not counted, and why.
#[derive(Debug, Default)]
pub(super) struct NotCounted {
    /// The reasons as text for people, bounded by [`MAX_WHY_BYTES`].
    why: String,
    /// How many further reasons `why` has no room for.
    more: u32,
    /// The shards that set readings aside: all of them, or those with these numbers.
    aside: Vec<(ShardId, Option<Vec<u32>>)>,
    /// The shards that recognised the publish as a resend: its readings were judged when it first came.
    recognised: Vec<ShardId>,
    /// Whether the first cause is a bound, rather than what the device sent.
    bound: bool,
    /// Whether the publish belongs in the quarantine: more is wrong with it than a field that is no number.
    lasting: bool,
    /// How many of the readings are too far behind to tell whether they were counted.
    far_behind: u32,
    /// The length of the payload, if the payload was not even kept.
    discarded_bytes: Option<u64>,
}

impl NotCounted {
    /// A publish whose payload holds no reading.
    pub fn unreadable(why: &str) -> Box<Self> {
        let mut not = Self { lasting: true, ..Self::default() };
        not.say(format_args!("{why}"));
        Box::new(not)
    }

    /// A publish that is larger than allowed.
    pub fn too_large(why: &str) -> Box<Self> {
        Box::new(Self { bound: true, ..*Self::unreadable(why) })
    }

    /// A publish so large that its payload, of this many bytes, was discarded while it arrived.
    pub fn discarded(why: &str, payload_bytes: u64) -> Box<Self> {
        Box::new(Self { discarded_bytes: Some(payload_bytes), ..*Self::too_large(why) })
    }

    /// A publish that holds readings, and fields that are none: only its client hears of these.
    pub fn skipped(names: &str) -> Box<Self> {
        let mut not = Self::default();
        not.say(format_args!("{names}"));
        Box::new(not)
    }

    /// Notes that a shard has set these readings aside.
    pub fn set_aside(&mut self, shard: ShardId, sent: &Sent, list: &[SetAside]) {
        self.bound |= !self.lasting && list.first().is_some_and(|s| s.reason.is_bound());
        self.lasting = true;
        for SetAside { reading, reason } in list {
            self.far_behind += u32::from(*reason == Reason::FarBehind);
            match sent.name(shard, *reading) {
                Some(name) => self.say(format_args!("{}/{}: {reason}", name.device, name.stream)),
                None => self.say(format_args!("{reason}")),
            }
        }
        self.aside.push((shard, Some(list.iter().map(|s| s.reading).collect())));
    }

    /// Notes that a shard has refused all readings of the publish at a bound.
    pub fn refused(&mut self, shard: ShardId, why: &str) {
        self.bound |= !self.lasting;
        self.lasting = true;
        self.say(format_args!("{why}"));
        self.aside.push((shard, None));
    }

    /// Notes that a shard has recognised the publish as a resend.
    pub fn recognised(&mut self, shard: ShardId) {
        self.recognised.push(shard);
    }

    /// Whether some shard has recognised the publish as a resend.
    pub fn is_recognised(&self) -> bool {
        !self.recognised.is_empty()
    }

    /// Whether there is nothing to tell people.
    pub fn is_silent(&self) -> bool {
        self.why.is_empty()
    }

    /// Whether the publish belongs in the quarantine.
    pub fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// The length of the payload, if it was discarded.
    pub fn discarded_bytes(&self) -> Option<u64> {
        self.discarded_bytes
    }

    /// How many readings were set aside as far behind.
    pub fn far_behind(&self) -> u32 {
        self.far_behind
    }

    /// The reasons as text for people, with the count of those left out.
    pub fn why(&self) -> String {
        match self.more {
            0 => self.why.clone(),
            more => format!("{}; and {more} more", self.why),
        }
    }

    /// The code to answer a publish with of which nothing was counted.
    pub fn code(&self) -> AckCode {
        if self.bound { AckCode::QuotaExceeded } else { AckCode::PayloadFormatInvalid }
    }

    /// The hashes of the readings that were counted. The last ones, as many as the second number says, lie in
    /// shards that recognised the publish.
    pub fn counted(&self, sent: &Sent) -> (Vec<u64>, u32) {
        let Sent::Many(parts) = sent else { return (Vec::new(), 0) };
        let mut counted = Vec::new();
        let is_recognised = |shard: &ShardId| self.recognised.contains(shard);
        let (before, now): (Vec<_>, Vec<_>) = parts.iter().partition(|(shard, _)| is_recognised(shard));
        for (shard, list) in now {
            let aside = self.aside.iter().find(|(of, _)| of == shard);
            let is_aside = |at: u32| {
                aside.is_some_and(|(_, aside)| aside.as_ref().is_none_or(|list| list.contains(&at)))
            };
            let kept = (0..).zip(list).filter(|(at, _)| !is_aside(*at));
            counted.extend(kept.map(|(_, reading)| reading_hash(reading)));
        }
        let judged = counted.len();
        counted.extend(before.iter().flat_map(|(_, list)| list).map(reading_hash));
        let recognised = counted.len() - judged;
        (counted, recognised as u32)
    }

    fn say(&mut self, what: fmt::Arguments<'_>) {
        if self.why.len() >= MAX_WHY_BYTES {
            self.more = self.more.saturating_add(1);
            return;
        }
        if !self.why.is_empty() {
            self.why.push_str("; ");
        }
        let _ = self.why.write_fmt(what); // writing to a text does not fail
        self.why.truncate(self.why.floor_char_boundary(MAX_WHY_BYTES));
    }
}

/// Identifies a reading of a quarantined publish by everything that its device said of it.
pub fn reading_hash(NamedReading { name, reading, .. }: &NamedReading) -> u64 {
    let mut hasher = Xxh3Default::new();
    for text in [&name.device, &name.stream] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&reading.value.to_bits().to_le_bytes());
    let numbers = [reading.time.map(|t| t.0 as u64), reading.seq, reading.boot];
    for number in numbers {
        hasher.update(&[u8::from(number.is_some())]);
        hasher.update(&number.unwrap_or(0).to_le_bytes());
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Reading;
    use selvedge_types::time::EpochMs;

    fn reading(stream: &str, value: f64) -> NamedReading {
        let name = Arc::new(StreamName { device: "d".into(), stream: stream.into() });
        let reading = Reading { stream: 0, time: Some(EpochMs(5)), value, seq: None, boot: None };
        NamedReading { name, maker: None, reading }
    }

    #[test]
    fn what_was_set_aside_is_named_within_a_bound_and_the_others_are_known_by_their_hashes() {
        let one = vec![reading("a", 1.0), reading("b", 2.0), reading("c", 3.0)];
        let two = vec![reading("e", 4.0)];
        let sent = Sent::Many(vec![(ShardId(1), one.clone()), (ShardId(2), two), (ShardId(3), one.clone())]);
        let mut not = NotCounted::default();
        not.set_aside(ShardId(1), &sent, &[SetAside { reading: 1, reason: Reason::StreamsFull }]);
        not.refused(ShardId(3), "no room");
        assert!(
            not.why().starts_with("d/b: the shard has as many streams as it may")
                && not.why().ends_with("; no room")
        );
        assert_eq!((not.code(), not.is_lasting()), (AckCode::QuotaExceeded, true));
        let kept = [&one[0], &one[2], &reading("e", 4.0)].map(reading_hash);
        assert_eq!(not.counted(&sent), (kept.to_vec(), 0));
        let many: Vec<_> = (0..500).map(|i| SetAside { reading: i, reason: Reason::FarBehind }).collect();
        not.set_aside(ShardId(2), &sent, &many);
        assert!(not.why().len() < MAX_WHY_BYTES + 20 && not.why().ends_with(" more"), "{}", not.why());
    }
}
