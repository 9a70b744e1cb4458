//! Verification of uplink messages: a frame's topic and bytes become one checked [`Incoming`], or a reason for refusal.
//!
//! The seal says that a message was made by a holder of the site's secret for this shard and number
//! ([`selvedge_seal`]). This adds what such a holder could still get wrong, so that the store never meets a
//! number, a name or a time that it can't hold.
//!
//! - Invariant: `1 <= first_kept <= seq <= last` of every accepted batch, and `first_kept <= last + 1` of
//!   every message.
//! - Invariant: every number fits a signed 64-bit integer, every time of a reading lies in
//!   [`selvedge_types::time::TIME_RANGE`], every window starts at a multiple of its width, and every name
//!   is at most [`MAX_NAME_BYTES`] long.

use super::incoming::{Incoming, IncomingBatch};
use selvedge_seal::{Opener, SealError, SiteSecret};
use selvedge_types::aggregate::Sample;
use selvedge_types::ids::{MAX_NAME_BYTES, SiteId};
use selvedge_types::time::{EpochMs, TIME_RANGE};
use selvedge_types::uplink::{Batch, LostBatch, Part, Up, parse_topic};
use xxhash_rust::xxh3::xxh3_64;

/// No shard of a site cuts this many batches; summed over all incarnations, the numbers still fit a database's integers.
const MAX_BATCHES: u64 = 1 << 53;

/// Opens and checks what comes from the uplink.
pub struct Verifier {
    opener: Opener<Up>,
    sites: Vec<SiteId>,
}

/// Why the node refused a frame; holds nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The topic is none of the uplink's, or of the way down.
    #[error("its topic is not one of the uplink's")]
    Topic,
    /// A site that this node does not serve.
    #[error("its site is not one that this node serves (settings `sites`)")]
    Site,
    /// The seal does not open.
    #[error("its seal: {0}")]
    Seal(#[from] SealError),
    /// Numbers that contradict each other.
    #[error("its numbers contradict each other")]
    Numbers,
    /// The batch in it does not decode.
    #[error("its batch does not decode")]
    Batch,
    /// A name, time, width or count out of its range.
    #[error("a name, time, width or count in it is out of range")]
    Range,
}

impl Refused {
    /// A short fixed word for the reason, to count it under.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Site => "site",
            Self::Seal(error) => error.reason(),
            Self::Numbers => "numbers",
            Self::Batch => "batch",
            Self::Range => "range",
        }
    }
}

impl Verifier {
    /// A verifier that knows the secrets of these sites.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a SiteId, &'a SiteSecret)>) -> Self {
        let (mut opener, mut sites) = (Opener::new(), vec![]);
        for (site, secret) in secrets {
            opener.add(site, secret);
            sites.push(site.clone());
        }
        Self { opener, sites }
    }

    /// Opens and checks one frame.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn verify(&mut self, topic: &str, payload: &[u8]) -> Result<Incoming, Refused> {
        let (way, site, shard) = parse_topic(topic).ok_or(Refused::Topic)?;
        if way != "up" {
            return Err(Refused::Topic);
        }
        if !self.sites.contains(&site) {
            return Err(Refused::Site);
        }
        let (incarnation, seq, message) = self.opener.open_of(&site, shard, payload)?;
        let (first_kept, last, body, lost) = match message {
            Up::Batch { first_kept, last, body } => (first_kept, last, Some(body), None),
            Up::Beacon { first_kept, last } => (first_kept, last, None, None),
            Up::Lost { first_kept, last, lost } => (first_kept, last, None, Some((seq, lost))),
        };
        let in_order = last <= MAX_BATCHES && (1..=last.saturating_add(1)).contains(&first_kept);
        let names_batch = body.is_some() || lost.is_some();
        if !in_order || (names_batch && !(first_kept..=last).contains(&seq)) {
            return Err(Refused::Numbers);
        }
        if !lost.is_none_or(|(_, lost)| is_possible(&lost)) {
            return Err(Refused::Range);
        }
        let content = body.map(|body| content(seq, &body)).transpose()?;
        Ok(Incoming { site, incarnation, shard, first_kept, last, content, lost })
    }
}

fn content(seq: u64, body: &[u8]) -> Result<IncomingBatch, Refused> {
    let batch = Batch::decode(body).map_err(|_| Refused::Batch)?;
    let fits = |name: &str| (1..=MAX_NAME_BYTES).contains(&name.len());
    let names = batch.streams.iter().all(|s| fits(&s.device) && fits(&s.stream));
    if !names || !batch.parts.iter().all(is_in_range) {
        return Err(Refused::Range);
    }
    Ok(IncomingBatch { seq, body_hash: xxh3_64(body), batch })
}

/// Whether such a batch may have been.
fn is_possible(lost: &LostBatch) -> bool {
    let widest = i64::from(u32::MAX);
    let times = EpochMs(*TIME_RANGE.start()).plus(-widest)..=EpochMs(*TIME_RANGE.end()).plus(widest);
    i64::try_from(lost.readings).is_ok()
        && lost.parts > 0
        && lost.from < lost.to
        && times.contains(&lost.from)
        && times.contains(&lost.to)
}

fn is_in_range(part: &Part) -> bool {
    let time = |at: EpochMs| EpochMs::in_range(at.0).is_some();
    let number = |n: u64| i64::try_from(n).is_ok();
    let sample = |s: &Sample| time(s.time) && number(s.slot);
    let a = &part.aggregate;
    // The window of the earliest time begins before it. The watermark is only kept and shown: any will do.
    let start = time(part.start) || time(part.start.plus(i64::from(part.width_ms)));
    number(a.count)
        && part.late <= a.count
        && number(part.set_aside)
        && sample(&a.first)
        && sample(&a.last)
        && start
        && part.start.window_start(part.width_ms) == part.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_seal::Sealer;
    use selvedge_types::aggregate::Aggregate;
    use selvedge_types::ids::ShardId;
    use selvedge_types::sequences::Sequences;
    use selvedge_types::uplink::{StreamName, ack_topic, up_topic};

    struct World {
        site: SiteId,
        verifier: Verifier,
        sealer: Sealer<Up>,
    }

    fn world() -> World {
        let site = SiteId::new("plant-7").unwrap();
        let secret = SiteSecret::generate().unwrap();
        World {
            verifier: Verifier::new([(&site, &secret)]),
            sealer: Sealer::new(&secret, &site).unwrap(),
            site,
        }
    }

    impl World {
        fn say(&mut self, seq: u64, message: &Up) -> Result<Incoming, Refused> {
            let bytes = self.sealer.seal(ShardId(3), seq, message).unwrap();
            self.verifier.verify(&up_topic(&self.site, ShardId(3)), &bytes)
        }
    }

    fn good() -> Batch {
        let sample = Sample { time: EpochMs(12_000), slot: 1, index: 0, value: 1.5 };
        let part = Part {
            stream: 0,
            width_ms: 10_000,
            start: EpochMs(10_000),
            aggregate: Aggregate::of(sample),
            late: 1,
            watermark: EpochMs(i64::MIN),
            set_aside: 0,
            sequences: Sequences::default(),
        };
        Batch { streams: vec![StreamName { device: "d".into(), stream: "s".into() }], parts: vec![part] }
    }

    fn up(first_kept: u64, last: u64, batch: &Batch) -> Up {
        Up::Batch { first_kept, last, body: batch.encode() }
    }

    #[test]
    fn a_sound_batch_and_a_beacon_are_let_in() {
        let mut w = world();
        let got = w.say(5, &up(4, 6, &good())).unwrap();
        assert_eq!((got.shard, got.first_kept, got.last), (ShardId(3), 4, 6));
        assert_eq!(got.content.map(|c| (c.seq, c.batch)), Some((5, good())));
        assert_eq!(w.say(0, &Up::Beacon { first_kept: 1, last: 0 }).unwrap().content, None);
    }

    #[test]
    fn a_lost_batch_is_let_in_with_what_is_possible_of_it() {
        let mut w = world();
        let lost = LostBatch { readings: 7, parts: 2, from: EpochMs(10_000), to: EpochMs(20_000) };
        let up = |lost| Up::Lost { first_kept: 4, last: 6, lost };
        let got = w.say(5, &up(lost)).unwrap();
        assert_eq!((got.content, got.lost), (None, Some((5, lost))));
        assert_eq!(w.say(7, &up(lost)), Err(Refused::Numbers));
        for bad in [
            LostBatch { parts: 0, ..lost },
            LostBatch { readings: u64::MAX, ..lost },
            LostBatch { to: lost.from, ..lost },
            LostBatch { from: EpochMs(i64::MIN), ..lost },
            LostBatch { to: EpochMs(i64::MAX), ..lost },
        ] {
            assert_eq!(w.say(5, &up(bad)), Err(Refused::Range), "{bad:?}");
        }
    }

    #[test]
    fn foreign_topics_and_sites_are_refused() {
        let mut w = world();
        let bytes = w.sealer.seal(ShardId(3), 5, &up(4, 6, &good())).unwrap();
        let other = SiteId::new("other").unwrap();
        let mut at = |topic: String| w.verifier.verify(&topic, &bytes).unwrap_err();
        assert_eq!(at(ack_topic(&w.site, ShardId(3))), Refused::Topic);
        assert_eq!(at("selvedge/plant-7/up/x".into()), Refused::Topic);
        assert_eq!(at(up_topic(&other, ShardId(3))), Refused::Site);
        assert_eq!(at(up_topic(&w.site, ShardId(4))), Refused::Seal(SealError::NotAuthentic));
    }

    #[test]
    fn contradictory_numbers_are_refused() {
        let mut w = world();
        for (seq, first_kept, last) in
            [(5, 0, 6), (5, 6, 6), (5, 1, 4), (0, 0, 0), (5, 8, 6), (u64::MAX, 1, u64::MAX)]
        {
            let refused = w.say(seq, &up(first_kept, last, &good()));
            assert_eq!(refused, Err(Refused::Numbers), "{seq} {first_kept} {last}");
        }
        assert_eq!(w.say(0, &Up::Beacon { first_kept: 3, last: 1 }), Err(Refused::Numbers));
        assert_eq!(w.say(0, &Up::Beacon { first_kept: 1, last: u64::MAX }), Err(Refused::Numbers));
    }

    #[test]
    fn what_the_store_could_not_hold_is_refused() {
        let mut w = world();
        type Spoil = fn(&mut Batch);
        let spoils: [Spoil; 9] = [
            |b| b.parts[0].aggregate.count = u64::MAX,
            |b| b.parts[0].late = 2,
            |b| b.parts[0].start = EpochMs(i64::MAX),
            |b| b.parts[0].start = EpochMs(10_001),
            |b| b.parts[0].start = EpochMs(i64::MIN),
            |b| b.parts[0].aggregate.first.slot = u64::MAX,
            |b| {
                let a = &mut b.parts[0].aggregate;
                (a.first.time, a.last.time) = (EpochMs(i64::MIN), EpochMs(i64::MIN));
            },
            |b| b.parts[0].set_aside = u64::MAX,
            |b| b.streams[0].device = "x".repeat(MAX_NAME_BYTES + 1),
        ];
        for (i, spoil) in spoils.iter().enumerate() {
            let mut batch = good();
            spoil(&mut batch);
            assert_eq!(w.say(5, &up(4, 6, &batch)), Err(Refused::Range), "{i}");
        }
        let garbage = Up::Batch { first_kept: 4, last: 6, body: vec![1, 2, 3] };
        assert_eq!(w.say(5, &garbage), Err(Refused::Batch));
    }
}
