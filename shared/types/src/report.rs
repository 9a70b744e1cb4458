//! Reports: each gateway describes itself to the nodes every few seconds, so that they can show its site and ask it questions.
//!
//! A gateway publishes to `selvedge/{site}/report/{gateway}`, sealed in a direction of its own and bound to its number. Nothing is
//! retained or confirmed: the next one replaces it. A node ignores a report older, by (start, n), than the newest it received, so
//! a replayed report does no more than a late one would.
//!
//! A report also says how long the gateway's process has run: a node uses that clock to say when it asks ([`crate::question`]).
//!
//! Limit: after its own restart a node knows no report. Somebody who can replay messages can then show it an old report of a
//! gateway, until that gateway's next report arrives. The stamp `at` reveals it: it lags as far behind as the report is old.

use crate::ids::{GatewayId, ShardId, SiteId};
use crate::sealed::Sealable;
use crate::time::EpochMs;
use crate::uplink::split_topic;
use bincode::{Decode, Encode};

/// How often a gateway reports.
pub const REPORT_MS: u64 = 5_000;

/// A gateway that was not heard for this long is silent: three reports are missing.
pub const SILENT_MS: u64 = 3 * REPORT_MS + 1_000;

/// The most gateways of a site that a report names.
pub const MAX_MEMBERS: usize = 64;

/// The most shards of a site.
pub const MAX_SHARDS: usize = 1_024;

/// The most replicas of a shard.
pub const MAX_REPLICAS: usize = 8;

/// The most moves of replicas that a report names.
pub const MAX_REPORTED_MOVES_ENTRIES: usize = 16;

/// The most skipped fields that a report names: the latest ones.
pub const MAX_SKIPPED_FIELDS: usize = 32;

/// The longest release name, the longest trouble, and the longest name of a device or a field.
pub const MAX_TEXT_BYTES: usize = 400;

/// Where a gateway is in its life, as the site's directory has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum ReportedState {
    /// Admitted, but no replicas are placed on it yet.
    Joining,
    Active,
    /// Leaderships, devices and replicas are leaving it.
    Draining,
    /// Removed for good; replicas may still be placed on it.
    Gone,
}

impl ReportedState {
    /// The word for it in HTTP answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }
}

/// A gateway of the site, as the directory has it, or the settings as long as there is no directory.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReportedMember {
    pub gateway: GatewayId,
    /// How much it takes in relation to the others.
    pub weight: u32,
    pub state: ReportedState,
    /// Gateways of the same zone are likely to fail together.
    pub zone: Option<String>,
    /// Whether it votes and keeps the log, but no state.
    pub witness: bool,
    /// How many shards should have a replica on it, once all moves are done.
    pub wanted: u16,
}

impl ReportedMember {
    /// An active gateway that holds data, and of which nothing else is known.
    pub fn active(gateway: GatewayId, weight: u32) -> Self {
        Self { gateway, weight, state: ReportedState::Active, zone: None, witness: false, wanted: 0 }
    }
}

/// How far a move has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum MovePhase {
    /// The new gateway has received nothing yet.
    Waiting,
    /// The new gateway receives state, log and contents of batches.
    Learning,
    /// The shard chooses the stop entry that names its next replicas.
    Stopping,
}

impl MovePhase {
    /// The word for it in HTTP answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Learning => "learning",
            Self::Stopping => "stopping",
        }
    }
}

/// A move of one replica that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ReportedMove {
    /// `None` for the directory group.
    pub shard: Option<ShardId>,
    /// The directory slot that began it. With the shard it identifies the move.
    pub since: u64,
    /// `None` if a replica is added.
    pub leaves: Option<GatewayId>,
    /// `None` if a replica is taken away.
    pub comes: Option<GatewayId>,
    pub phase: MovePhase,
    pub done_bytes: u64,
    /// 0 until the size is known.
    pub total_bytes: u64,
}

/// A shard that the reporting gateway leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Led {
    pub shard: ShardId,
    /// Batches up to this one are confirmed.
    pub cursor: u64,
    /// The last batch that was cut.
    pub last: u64,
    /// The bytes of unconfirmed batches.
    pub outbox_bytes: u64,
    /// Parts of windows that are open or wait to be cut.
    pub waiting_parts: u64,
    /// How long the oldest closed part has waited to be cut.
    pub waiting_ms: u64,
}

/// A field of a device's publishes that is no number, and so no reading.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SkippedField {
    /// The device, cut if it is long.
    pub device: String,
    /// The field, cut if it is long.
    pub field: String,
    /// Why it was skipped the last time, in one word.
    pub why: String,
    /// How often, since the gateway's start.
    pub count: u64,
    /// When last, by the site's wall time.
    pub last: EpochMs,
}

/// What a gateway says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Report {
    pub gateway: GatewayId,
    /// Which start of its process.
    pub start: u64,
    /// Which report of this start.
    pub n: u64,
    /// How long the process has run.
    pub uptime_ms: u64,
    pub at: EpochMs,
    pub release: String,
    /// Why it can't do its work, if it can't.
    pub trouble: Option<String>,
    pub members: Vec<ReportedMember>,
    /// The number of shards.
    pub shards: u16,
    /// Who keeps which shard: for one shard after the other the same number of places in `members`, the preferred leader's
    /// first. A shard with fewer replicas than others has one of its places repeatedly.
    pub placed: Vec<u8>,
    /// The shards that it leads.
    pub led: Vec<Led>,
    /// The slot of the directory up to which the gateway had applied it: a report with a higher one knows more of the site.
    pub directory_slot: u64,
    /// Whether an operator has paused all moves.
    pub paused: bool,
    /// The moves of replicas under way. The gateway to which a replica moves knows its progress best.
    pub moves: Vec<ReportedMove>,
    pub connections: u64,
    /// Publishes of QoS 1 and 2 that it has acknowledged since its start.
    pub acked: u64,
    pub questions: u32,
    /// How long a question took lately.
    pub question_ms: u32,
    /// What it skipped last of publishes, the latest first.
    pub skipped: Vec<SkippedField>,
}

impl Sealable for Report {
    const VERSION: u8 = 2;
    const DIRECTION: u8 = 3;
    const WHAT: &'static str = "report";

    fn check(&self) -> Result<(), &'static str> {
        let (shards, placed) = (usize::from(self.shards), self.placed.len());
        let text = |text: &str| text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
        if self.members.len() > MAX_MEMBERS || !(1..=MAX_SHARDS).contains(&shards) {
            return Err("too many members or shards");
        }
        if !placed.is_multiple_of(shards) || !(1..=MAX_REPLICAS).contains(&(placed / shards)) {
            return Err("not the same number of replicas for every shard");
        }
        if self.placed.iter().any(|m| usize::from(*m) >= self.members.len()) {
            return Err("a replica on a gateway that is no member");
        }
        let sound = |led: &Led| led.shard.0 < self.shards && led.cursor <= led.last;
        if self.led.len() > shards || !self.led.iter().all(sound) {
            return Err("a led shard that does not exist");
        }
        if !text(&self.release) || !self.trouble.as_deref().is_none_or(text) {
            return Err("a text that is too long or holds control characters");
        }
        if !self.members.iter().filter_map(|m| m.zone.as_deref()).all(text) {
            return Err("a zone that is too long or holds control characters");
        }
        let moving = |m: &ReportedMove| {
            m.shard.is_none_or(|shard| shard.0 < self.shards)
                && m.done_bytes <= m.total_bytes
                && (m.leaves.is_some() || m.comes.is_some())
        };
        if self.moves.len() > MAX_REPORTED_MOVES_ENTRIES || !self.moves.iter().all(moving) {
            return Err("too many moves, or one that can't be");
        }
        let names = |s: &SkippedField| text(&s.device) && text(&s.field) && text(&s.why);
        if self.skipped.len() > MAX_SKIPPED_FIELDS || !self.skipped.iter().all(names) {
            return Err("too many skipped fields, or one with an invalid name");
        }
        Ok(())
    }
}

impl Report {
    /// Whether this one replaces the other.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.start, self.n) > (other.start, other.n)
    }

    /// The gateways that keep a shard, the preferred leader first.
    pub fn replicas(&self, shard: ShardId) -> impl Iterator<Item = GatewayId> {
        let each = self.placed.len() / usize::from(self.shards.max(1));
        let places = self.placed.chunks(each.max(1)).nth(usize::from(shard.0)).unwrap_or_default();
        let is_first = |(at, m): &(usize, &u8)| !places.iter().take(*at).any(|before| before == *m);
        let once = places.iter().enumerate().filter(move |place| is_first(place));
        once.filter_map(|(_, m)| self.members.get(usize::from(*m)).map(|m| m.gateway))
    }
}

/// A text as a report may hold it: cut, and without control characters.
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MAX_TEXT_BYTES {
            break;
        }
        out.push(c);
    }
    out
}

/// What a gateway's frames are bound to in a shard's stead.
pub fn place(gateway: GatewayId) -> ShardId {
    ShardId(gateway.0)
}

/// The topic of a gateway's reports.
pub fn report_topic(site: &SiteId, gateway: GatewayId) -> String {
    format!("selvedge/{site}/report/{}", gateway.0)
}

/// Site and gateway of a report's topic.
pub fn parse_report_topic(topic: &str) -> Option<(SiteId, GatewayId)> {
    let ("report", site, gateway) = split_topic(topic)? else { return None };
    let number = gateway.parse::<u16>().ok().filter(|n| n.to_string() == gateway)?;
    Some((SiteId::new(site).ok()?, GatewayId(number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    fn report() -> Report {
        let member = |n| ReportedMember::active(GatewayId(n), 1);
        let last = ReportedMember {
            state: ReportedState::Draining,
            zone: Some("hall".into()),
            witness: true,
            wanted: 2,
            ..member(3)
        };
        let moves = ReportedMove {
            shard: Some(ShardId(1)),
            since: 7,
            leaves: Some(GatewayId(3)),
            comes: None,
            phase: MovePhase::Stopping,
            done_bytes: 4,
            total_bytes: 6,
        };
        let led =
            Led { shard: ShardId(1), cursor: 3, last: 5, outbox_bytes: 9, waiting_parts: 2, waiting_ms: 7 };
        Report {
            gateway: GatewayId(2),
            start: 4,
            n: 6,
            uptime_ms: 1_000,
            at: EpochMs(2_000),
            release: "0.1.0".into(),
            trouble: Some("no".into()),
            members: vec![member(1), member(2), last],
            shards: 2,
            placed: vec![0, 1, 2, 1, 2, 0],
            led: vec![led],
            directory_slot: 11,
            paused: true,
            moves: vec![moves],
            connections: 8,
            acked: 10,
            questions: 1,
            question_ms: 2,
            skipped: vec![SkippedField {
                device: "pump".into(),
                field: "state".into(),
                why: "text".into(),
                count: 3,
                last: EpochMs(5),
            }],
        }
    }

    #[test]
    fn a_report_has_these_bytes() {
        let bytes = frame::encode(Report::VERSION, &report());
        let golden = [
            &[2, 2, 4, 6, 251, 0xe8, 3, 251, 0xa0, 0x0f, 5][..],
            b"0.1.0",
            &[
                1, 2, b'n', b'o', 3, 1, 1, 1, 0, 0, 0, 2, 1, 1, 0, 0, 0, 3, 1, 2, 1, 4, b'h', b'a', b'l',
                b'l', 1, 2, 2, 6, 0, 1, 2, 1, 2, 0, 1, 1, 3, 5, 9, 2, 7, 11, 1, 1, 1, 1, 7, 1, 3, 0, 2, 4, 6,
                8, 10, 1, 2, 1,
            ],
            b"\x04pump\x05state\x04text\x03\x0a",
        ];
        assert_eq!(bytes, golden.concat());
        assert_eq!(frame::decode::<Report>("report", 2, &bytes).unwrap(), report());
    }

    #[test]
    fn a_report_says_who_keeps_a_shard() {
        let site = SiteId::new("plant-7").unwrap();
        assert_eq!(report().replicas(ShardId(1)).collect::<Vec<_>>(), [2, 3, 1].map(GatewayId));
        assert_eq!(report().replicas(ShardId(2)).count(), 0);
        let topic = report_topic(&site, GatewayId(2));
        assert_eq!(parse_report_topic(&topic), Some((site, GatewayId(2))));
        for bad in ["selvedge/plant-7/report/02", "selvedge/plant-7/up/2", "selvedge/plant-7/report/2/3"] {
            assert_eq!(parse_report_topic(bad), None);
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        type Spoil = fn(&mut Report);
        let spoils: [Spoil; 14] = [
            |r| r.shards = 0,
            |r| r.shards = 4,
            |r| r.placed = vec![],
            |r| r.placed[0] = 3,
            |r| r.members = vec![r.members[0].clone(); 65],
            |r| r.led[0].shard = ShardId(2),
            |r| r.led[0].cursor = 6,
            |r| r.release = "x".repeat(401),
            |r| r.trouble = Some("a\nb".into()),
            |r| r.members[0].zone = Some("x".repeat(401)),
            |r| r.moves = vec![r.moves[0]; 17],
            |r| r.moves[0].shard = Some(ShardId(2)),
            |r| r.moves[0].done_bytes = 7,
            |r| r.moves[0].leaves = None,
        ];
        assert_eq!(report().check(), Ok(()));
        for (i, spoil) in spoils.iter().enumerate() {
            let mut bad = report();
            spoil(&mut bad);
            assert!(bad.check().is_err(), "{i}");
        }
        assert!(shown(&"é\n".repeat(400)).len() <= MAX_TEXT_BYTES);
    }

    #[test]
    fn a_report_of_a_later_start_is_newer() {
        let (old, mut new) = (report(), report());
        assert!(!new.is_newer_than(&old));
        new.n += 1;
        assert!(new.is_newer_than(&old));
        (new.start, new.n) = (5, 1);
        assert!(new.is_newer_than(&old) && !old.is_newer_than(&new));
    }
}
