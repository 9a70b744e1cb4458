//! Questions of a node to a site, and the answers of the site's gateways.
//!
//! The protocol: a node publishes a question to `selvedge/{site}/ask/{gateway}`, for a gateway that it has heard a report of. That
//! gateway answers on `selvedge/{site}/answer/{node}`, where the node has a number that its process drew. Both are sealed,
//! each in a direction of its own: a question is bound to gateway and node, an answer to the node; and an answer names its
//! question, whose id the node drew at random.
//!
//! **When.** Clocks of sites may be wrong, so a question says when it was asked by the clock of the gateway's own process: which
//! start of it, and how long it has run, both as the last report had it and with the time since then added. After
//! `wait_ms` more the question is dead; until then the gateway remembers its id. So a question that is replayed is
//! refused, also after the gateway's restart.
//!
//! Response topic and correlation data stand inside the seal instead of in MQTT 5's properties: the broker in the middle sees
//! who asks whom, and sizes.
//!
//! Limits: a question has at most [`MAX_QUESTION_BYTES`], an answer at most [`MAX_ANSWER_BYTES`]; what does not fit has a
//! [`SiteWindowPlace`] to go on from.

use crate::aggregate::Aggregate;
use crate::balance::Policy;
use crate::frame;
use crate::ids::{GatewayId, MAX_NAME_BYTES, ShardId, SiteId};
use crate::params::{BadParameter, Parameters, bad};
use crate::pattern::Pattern;
use crate::sealed::{SEAL_OVERHEAD_BYTES, Sealable};
use crate::sequences::Sequences;
use crate::site_window::SiteWindow;
use crate::time::{EpochMs, TIME_RANGE};
use crate::uplink::{StreamName, split_topic};
use crate::window_query::WindowQuery;
use bincode::{Decode, Encode};
use std::sync::Arc;

/// The longest sealed question: three names and numbers.
pub const MAX_QUESTION_BYTES: usize = 4 * MAX_NAME_BYTES + 512;

/// The longest sealed answer: with its topic it fits into an MQTT packet of 256 KiB.
pub const MAX_ANSWER_BYTES: usize = 192 * 1024;

/// What of an answer is not rows and names.
pub const ANSWER_HEAD_BYTES: usize = SEAL_OVERHEAD_BYTES + 96 + 4 * MAX_SHARDS + PLACE_BYTES;

/// The longest that a question may wait for its answer.
pub const MAX_WAIT_MS: u32 = 30_000;

/// The most rows of one answer.
pub const MAX_ROWS: u32 = 10_000;

const PLACE_BYTES: usize = 2 * MAX_NAME_BYTES + 32;
const MAX_SHARDS: usize = crate::report::MAX_SHARDS;

/// A question's name: drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct QuestionId(pub u128);

/// A node's process: drawn at random when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct NodeId(pub u64);

/// What a node asks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NodeQuestion {
    /// Its name, which the answer gives back.
    pub id: QuestionId,
    pub node: NodeId,
    /// The start of the gateway's process that is asked.
    pub start: u64,
    /// How long that process had run when it was asked, as far as the node knows.
    pub uptime_ms: u64,
    /// How long after that an answer is of use; at most [`MAX_WAIT_MS`].
    pub wait_ms: u32,
    /// How replicas are chosen.
    pub policy: Policy,
    pub about: About,
}

/// What a node can ask a site.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum About {
    /// Recent windows, including those that are still open.
    Aggregates(SiteQuery),
}

/// A query for windows that a site answers: what a node asks it, or anybody at one of its gateways.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SiteQuery {
    /// The device, or devices: `*` stands for any characters, `\*` for itself.
    pub device: String,
    /// The stream or a pattern of streams; `None` selects all.
    pub stream: Option<String>,
    /// Windows that end after this.
    pub from: EpochMs,
    /// Windows that start before this.
    pub to: EpochMs,
    /// Merged to this width, in milliseconds.
    pub every_ms: Option<u32>,
    /// The most rows: 1 to [`MAX_ROWS`].
    pub limit: u32,
    /// Only rows behind this one, for the next page.
    pub after: Option<SiteWindowPlace>,
    /// Any replica may answer from what it has applied.
    pub stale: bool,
}

/// The parameters of a query that a site answers, asked over HTTP at one of its gateways or through a node.
pub const SITE_PARAMETERS: [&str; 9] =
    ["device", "stream", "from", "to", "every", "consistency", "policy", "limit", "after"];

impl SiteQuery {
    /// Reads the [`SITE_PARAMETERS`]: what is asked, and how replicas are chosen.
    ///
    /// # Errors
    /// Names the parameter that is wrong.
    pub fn read(p: &Parameters) -> Result<(Self, Policy), BadParameter> {
        let WindowQuery { device, stream, from, to, limit } = WindowQuery::read(p)?;
        let device = device.ok_or_else(|| {
            bad("device", "is missing; name one, such as press-4, or several, such as press-* (\\* for the character) or *")
        })?;
        let every = p.duration("every")?.map(u32::try_from).transpose();
        let every_ms = every.map_err(|_| bad("every", "is not between 1ms and 49d"))?;
        let stale = match p.text("consistency")? {
            None | Some("linearizable") => false,
            Some("stale") => true,
            Some(_) => return Err(bad("consistency", "is not one of: linearizable, stale")),
        };
        let policy = p.text("policy")?.map_or(Some(Policy::default()), Policy::parse);
        let policy = policy.ok_or_else(|| bad("policy", format!("is not one of: {}", Policy::NAMES)))?;
        let after = p.after(|text| SiteWindowPlace::parse(text).filter(SiteWindowPlace::is_sound))?;
        Ok((Self { device, stream, from, to, every_ms, limit, after, stale }, policy))
    }
}

/// A row's place in the order of all: by device, stream and start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct SiteWindowPlace {
    pub device: String,
    pub stream: String,
    pub start: EpochMs,
}

impl SiteWindowPlace {
    /// Where a window stands in the order of all.
    pub fn of(window: &SiteWindow) -> Self {
        let (device, stream, start) = window.order();
        Self { device: device.to_string(), stream: stream.to_string(), start }
    }

    /// Parses what [`SiteWindowPlace::to_string`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let start: i64 = parts.next()?.parse().ok()?;
        let length: usize = parts.next()?.parse().ok()?;
        let (device, stream) = parts.next()?.split_at_checked(length)?;
        Some(Self { device: device.into(), stream: stream.into(), start: EpochMs(start) })
    }

    /// What rows are ordered by.
    pub fn order(&self) -> (&str, &str, EpochMs) {
        (&self.device, &self.stream, self.start)
    }

    /// Whether its names are as long as names are.
    pub fn is_sound(&self) -> bool {
        self.device.len() <= MAX_NAME_BYTES && self.stream.len() <= MAX_NAME_BYTES
    }
}

impl std::fmt::Display for SiteWindowPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}{}", self.start.0, self.device.len(), self.device, self.stream)
    }
}

/// The reply to a [`NodeQuestion`], named by its id.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct GatewayAnswer {
    pub id: QuestionId,
    pub gateway: GatewayId,
    pub outcome: QuestionOutcome,
}

/// What a gateway found, or that it did not look.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum QuestionOutcome {
    /// Windows were asked for.
    Windows(SiteWindows),
    /// Too much is asked at once: later, or another gateway.
    Busy,
}

/// The windows that a question selects, as far as they fit into one answer, and which may be missing among them.
#[derive(Debug, Clone, PartialEq, Default, Encode, Decode)]
pub struct SiteWindows {
    /// The streams that the rows name by index.
    pub streams: Vec<StreamName>,
    /// By device, stream and start.
    pub rows: Vec<WindowRow>,
    /// The place to continue from, if the rows don't all fit.
    pub next: Option<SiteWindowPlace>,
    /// How many shards were asked.
    pub shards: u16,
    /// The shards that did not answer in time.
    pub missing: Vec<ShardId>,
    /// What closed before this time some shard did not look at, for it is no longer kept there or too much was asked for;
    /// nothing: all was looked at.
    pub since: Option<EpochMs>,
    /// The number of batches that the site should still have, but could not read.
    pub lacking: u32,
}

/// A [`SiteWindow`] as it is sent: its names stand once for all of them.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct WindowRow {
    pub stream: u32,
    /// The width in milliseconds.
    pub width_ms: u32,
    pub start: EpochMs,
    pub aggregate: Aggregate,
    /// How many of them came late.
    pub late: u64,
    /// Of how many parts it is the merge.
    pub parts: u32,
    /// No window in the answer is open.
    pub closed: bool,
    pub watermark: EpochMs,
    /// How many readings were set aside, as in [`crate::uplink::Part`].
    pub set_aside: u64,
    /// The sequence numbers of its readings.
    pub sequences: Sequences,
}

impl Sealable for NodeQuestion {
    const DIRECTION: u8 = 4;
    const WHAT: &'static str = "question";
    const MAX_BYTES: usize = MAX_QUESTION_BYTES;

    fn check(&self) -> Result<(), &'static str> {
        if !(1..=MAX_WAIT_MS).contains(&self.wait_ms) {
            return Err("a wait of nothing or too much");
        }
        let About::Aggregates(a) = &self.about;
        let named = |name: &str| !name.is_empty() && Pattern::parse(name).is_ok();
        if !named(&a.device) || !a.stream.as_deref().is_none_or(named) {
            return Err("a name or pattern that is empty or too long");
        }
        if a.from >= a.to || a.every_ms == Some(0) || !(1..=MAX_ROWS).contains(&a.limit) {
            return Err("times, width or limit that ask for nothing or too much");
        }
        if !a.after.as_ref().is_none_or(SiteWindowPlace::is_sound) {
            return Err("an invalid place to continue at");
        }
        Ok(())
    }
}

impl Sealable for GatewayAnswer {
    const DIRECTION: u8 = 5;
    const WHAT: &'static str = "answer";
    const MAX_BYTES: usize = MAX_ANSWER_BYTES;

    fn check(&self) -> Result<(), &'static str> {
        let QuestionOutcome::Windows(w) = &self.outcome else { return Ok(()) };
        let named = |s: &StreamName| s.device.len() <= MAX_NAME_BYTES && s.stream.len() <= MAX_NAME_BYTES;
        if !w.streams.iter().all(named) || !w.next.as_ref().is_none_or(SiteWindowPlace::is_sound) {
            return Err("a name that is too long");
        }
        let in_time = |at: EpochMs| TIME_RANGE.contains(&at.0);
        let sound = |r: &WindowRow| {
            (r.stream as usize) < w.streams.len()
                && r.width_ms > 0
                && r.aggregate.is_sound()
                && r.sequences.is_sound()
                && in_time(r.aggregate.first.time)
                && in_time(r.aggregate.last.time)
                && (in_time(r.start) || in_time(r.start.plus(i64::from(r.width_ms))))
        };
        if w.rows.len() > MAX_ROWS as usize || !w.rows.iter().all(sound) {
            return Err("an invalid row");
        }
        if w.missing.len() > usize::from(w.shards) || usize::from(w.shards) > MAX_SHARDS {
            return Err("more shards than there are");
        }
        Ok(())
    }
}

impl SiteWindows {
    /// Puts windows, which come in order, into an answer, as many as fit.
    pub fn fill(all: impl IntoIterator<Item = SiteWindow>, most_bytes: usize) -> Self {
        let (mut windows, mut bytes) = (Self::default(), 0);
        for window in all {
            let SiteWindow { device, stream, width_ms, start, aggregate, late, parts, closed, .. } = window;
            let SiteWindow { watermark, set_aside, sequences, .. } = window;
            let name = StreamName { device: device.to_string(), stream: stream.to_string() };
            let known = windows.streams.last() == Some(&name);
            let stream = (windows.streams.len() - usize::from(known)) as u32;
            let row = WindowRow {
                stream,
                width_ms,
                start,
                aggregate,
                late,
                parts,
                closed,
                watermark,
                set_aside,
                sequences,
            };
            bytes += frame::encoded_bytes(&row) + if known { 0 } else { frame::encoded_bytes(&name) };
            if bytes > most_bytes || windows.rows.len() >= MAX_ROWS as usize {
                let StreamName { device, stream } = name;
                windows.next = Some(SiteWindowPlace { device, stream, start: row.start });
                return windows;
            }
            if !known {
                windows.streams.push(name);
            }
            windows.rows.push(row);
        }
        windows
    }

    /// The windows, each with its names.
    pub fn into_windows(self) -> impl Iterator<Item = SiteWindow> {
        let names: Vec<_> =
            self.streams.iter().map(|of| (Arc::from(&*of.device), Arc::from(&*of.stream))).collect();
        self.rows.into_iter().filter_map(move |row| {
            let (device, stream): (Arc<str>, Arc<str>) = names.get(row.stream as usize).cloned()?;
            let WindowRow { width_ms, start, aggregate, late, parts, closed, watermark, .. } = row;
            let WindowRow { set_aside, sequences, .. } = row;
            Some(SiteWindow {
                device,
                stream,
                width_ms,
                start,
                aggregate,
                late,
                parts,
                closed,
                watermark,
                set_aside,
                sequences,
            })
        })
    }

    /// Whether no shard answered.
    pub fn is_nothing(&self) -> bool {
        self.missing.len() >= usize::from(self.shards)
    }
}

/// The topic on which a gateway receives questions.
pub fn ask_topic(site: &SiteId, gateway: GatewayId) -> String {
    format!("selvedge/{site}/ask/{}", gateway.0)
}

/// The topic on which a node receives answers.
pub fn answer_topic(site: &SiteId, node: NodeId) -> String {
    format!("selvedge/{site}/answer/{:016x}", node.0)
}

/// The site of a question's topic, if it is for this gateway.
pub fn parse_ask_topic(topic: &str, me: GatewayId) -> Option<SiteId> {
    let ("ask", site, _) = split_topic(topic)? else { return None };
    let site = SiteId::new(site).ok()?;
    (ask_topic(&site, me) == topic).then_some(site)
}

/// The site of an answer's topic, if it is for this node.
pub fn parse_answer_topic(topic: &str, me: NodeId) -> Option<SiteId> {
    let ("answer", site, _) = split_topic(topic)? else { return None };
    let site = SiteId::new(site).ok()?;
    (answer_topic(&site, me) == topic).then_some(site)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Sample;
    use crate::params::DEFAULT_LIMIT_ENTRIES;
    use crate::pattern::MAX_TEXT_BYTES;

    fn question() -> NodeQuestion {
        NodeQuestion {
            id: QuestionId(7),
            node: NodeId(9),
            start: 3,
            uptime_ms: 1_000,
            wait_ms: 500,
            policy: Policy::PowerOfTwo,
            about: About::Aggregates(SiteQuery {
                device: "d*".into(),
                stream: Some("t".into()),
                from: EpochMs(0),
                to: EpochMs(10),
                every_ms: None,
                limit: 5,
                after: Some(SiteWindowPlace { device: "d".into(), stream: "s".into(), start: EpochMs(1) }),
                stale: true,
            }),
        }
    }

    fn window(start: i64) -> SiteWindow {
        let sample = Sample { time: EpochMs(start), slot: 1, index: 0, value: 1.5 };
        SiteWindow {
            device: "d".into(),
            stream: if start < 3_000 { "a" } else { "b" }.into(),
            width_ms: 1_000,
            start: EpochMs(start),
            aggregate: Aggregate::of(sample),
            late: 0,
            parts: 1,
            closed: false,
            watermark: EpochMs(4),
            set_aside: 0,
            sequences: Sequences::default(),
        }
    }

    fn answer() -> GatewayAnswer {
        let windows =
            SiteWindows { shards: 2, missing: vec![ShardId(1)], ..SiteWindows::fill([window(0)], 1_000) };
        GatewayAnswer { id: QuestionId(7), gateway: GatewayId(2), outcome: QuestionOutcome::Windows(windows) }
    }

    #[test]
    fn questions_and_answers_have_these_bytes() {
        let asked = [1, 7, 9, 3, 251, 0xe8, 3, 251, 0xf4, 1, 3, 0, 2, b'd', b'*', 1, 1, b't'];
        let rest = [0, 20, 0, 5, 1, 1, b'd', 1, b's', 2, 1];
        assert_eq!(frame::encode(NodeQuestion::VERSION, &question()), [&asked[..], &rest].concat());
        let bytes = frame::encode(GatewayAnswer::VERSION, &answer());
        assert_eq!(bytes[..15], [1, 7, 2, 0, 1, 1, b'd', 1, b'a', 1, 0, 251, 0xe8, 3, 0]);
        assert_eq!(bytes[bytes.len() - 12..], [0, 1, 0, 8, 0, 0, 0, 2, 1, 1, 0, 0]);
        let busy = GatewayAnswer { outcome: QuestionOutcome::Busy, ..answer() };
        assert_eq!(frame::encode(GatewayAnswer::VERSION, &busy), [1, 7, 2, 1]);
        assert_eq!(frame::decode::<GatewayAnswer>("answer", 1, &bytes).unwrap(), answer());
        assert_eq!((question().check(), answer().check(), busy.check()), (Ok(()), Ok(()), Ok(())));
    }

    fn asked(given: &[(&str, &str)]) -> Result<(SiteQuery, Policy), BadParameter> {
        let given = given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        SiteQuery::read(&Parameters::new(given, &SITE_PARAMETERS)?)
    }

    #[test]
    fn a_query_is_read_from_parameters_and_what_is_wrong_is_named() {
        let (plain, policy) = asked(&[("device", "press-*")]).unwrap();
        assert_eq!((plain.stale, plain.every_ms, plain.limit), (false, None, DEFAULT_LIMIT_ENTRIES));
        assert_eq!(
            (plain.from.0, plain.to.0, policy),
            (*TIME_RANGE.start(), TIME_RANGE.end() + 1, Policy::PowerOfTwo)
        );
        let after = SiteWindowPlace { device: "d".into(), stream: "s".into(), start: EpochMs(5) };
        let text = after.to_string();
        let full = [
            ("device", "d"),
            ("stream", "t*"),
            ("every", "10s"),
            ("consistency", "stale"),
            ("policy", "round_robin"),
        ];
        let (full, policy) = asked(&[&full[..], &[("after", &text), ("limit", "7")]].concat()).unwrap();
        assert_eq!((full.stream.as_deref(), full.every_ms, full.limit), (Some("t*"), Some(10_000), 7));
        assert_eq!((full.after, full.stale, policy), (Some(after), true, Policy::RoundRobin));
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        let far = format!("7.{}.{long}", long.len());
        for (given, named, right) in [
            (&[][..], "device", "press-4"),
            (&[("device", "")], "device", "empty"),
            (&[("device", &long)], "device", "512"),
            (&[("device", "*****")], "device", "more than 4"),
            (&[("device", "d"), ("stream", &long)], "stream", "512"),
            (&[("device", "d"), ("from", "2"), ("to", "1")], "to", "after `from`"),
            (&[("device", "d"), ("every", "60d")], "every", "49d"),
            (&[("device", "d"), ("consistency", "maybe")], "consistency", "stale"),
            (&[("device", "d"), ("policy", "best")], "policy", "p2c"),
            (&[("device", "d"), ("limit", "10001")], "limit", "10000"),
            (&[("device", "d"), ("after", "here")], "after", "`next`"),
            (&[("device", "d"), ("after", &far)], "after", "`next`"),
            (&[("device", "d"), ("device", "d")], "device", "twice"),
            (&[("devise", "d")], "devise", "device, stream"),
        ] {
            let error = asked(given).unwrap_err();
            assert_eq!(error.parameter, named, "{given:?}");
            assert!(error.why.contains(right) && error.why.len() < 200, "{error}");
        }
    }

    #[test]
    fn topics_are_read_by_whom_they_are_for() {
        let site = SiteId::new("plant-7").unwrap();
        let topic = answer_topic(&site, NodeId(9));
        assert_eq!(topic, "selvedge/plant-7/answer/0000000000000009");
        assert_eq!(parse_answer_topic(&topic, NodeId(9)), Some(site.clone()));
        assert_eq!(parse_answer_topic(&topic, NodeId(8)), None);
        assert_eq!(parse_ask_topic("selvedge/plant-7/ask/2", GatewayId(2)), Some(site));
        assert_eq!(parse_ask_topic("selvedge/plant-7/ask/02", GatewayId(2)), None);
    }

    #[test]
    fn what_asks_for_nothing_or_too_much_is_refused() {
        type Spoil = fn(&mut NodeQuestion, &mut SiteQuery);
        let spoils: [Spoil; 10] = [
            |q, _| q.wait_ms = 0,
            |q, _| q.wait_ms = MAX_WAIT_MS + 1,
            |_, a| a.device = String::new(),
            |_, a| a.stream = Some("x".repeat(MAX_TEXT_BYTES + 1)),
            |_, a| a.device = "*****".to_string(),
            |_, a| a.to = a.from,
            |_, a| a.every_ms = Some(0),
            |_, a| a.limit = 0,
            |_, a| a.limit = MAX_ROWS + 1,
            |_, a| a.after.as_mut().unwrap().stream = "x".repeat(MAX_NAME_BYTES + 1),
        ];
        for (i, spoil) in spoils.iter().enumerate() {
            let mut bad = question();
            let About::Aggregates(mut about) = bad.about.clone();
            spoil(&mut bad, &mut about);
            bad.about = About::Aggregates(about);
            assert!(bad.check().is_err(), "{i}");
        }
    }

    #[test]
    fn the_largest_question_can_be_sealed() {
        let long = "x".repeat(MAX_NAME_BYTES);
        let after =
            Some(SiteWindowPlace { device: long.clone(), stream: long.clone(), start: EpochMs(i64::MIN) });
        let about = SiteQuery {
            device: long.clone(),
            stream: Some(long),
            from: EpochMs(i64::MIN),
            to: EpochMs(i64::MAX),
            every_ms: Some(u32::MAX),
            limit: MAX_ROWS,
            after,
            stale: true,
        };
        let largest = NodeQuestion {
            id: QuestionId(u128::MAX),
            node: NodeId(u64::MAX),
            start: u64::MAX,
            uptime_ms: u64::MAX,
            wait_ms: MAX_WAIT_MS,
            policy: Policy::PowerOfTwo,
            about: About::Aggregates(about),
        };
        assert_eq!(largest.check(), Ok(()));
        let bytes = frame::encode(NodeQuestion::VERSION, &largest);
        assert!(bytes.len() + SEAL_OVERHEAD_BYTES <= NodeQuestion::MAX_BYTES);
    }

    #[test]
    fn an_answer_takes_what_fits_and_says_where_to_go_on() {
        let all = || (0..20_000).map(|i| window(i * 1_000));
        let few = SiteWindows::fill(all(), 600);
        assert_eq!((few.streams.len(), few.rows[0].stream), (2, 0));
        assert!(few.rows.iter().skip(3).all(|r| r.stream == 1));
        let next = few.next.clone().unwrap();
        assert_eq!((next.stream.as_str(), next.start.0), ("b", few.rows.len() as i64 * 1_000));
        assert_eq!(SiteWindowPlace::parse(&next.to_string()), Some(next));
        let count = few.rows.len();
        assert!(few.into_windows().eq(all().take(count)), "what was put in comes out");
        let most = SiteWindows::fill(all(), MAX_ANSWER_BYTES - ANSWER_HEAD_BYTES);
        let long = "x".repeat(MAX_NAME_BYTES);
        let windows = SiteWindows {
            next: Some(SiteWindowPlace { device: long.clone(), stream: long, start: EpochMs(i64::MIN) }),
            shards: MAX_SHARDS as u16,
            missing: vec![ShardId(u16::MAX); MAX_SHARDS],
            ..most
        };
        assert!(windows.is_nothing());
        let outcome = QuestionOutcome::Windows(windows);
        let full = GatewayAnswer { id: QuestionId(u128::MAX), gateway: GatewayId(u16::MAX), outcome };
        assert_eq!(full.check(), Ok(()));
        let bytes = frame::encode(GatewayAnswer::VERSION, &full);
        assert!(bytes.len() + SEAL_OVERHEAD_BYTES <= GatewayAnswer::MAX_BYTES);
    }

    #[test]
    fn a_place_is_told_from_what_is_none() {
        let odd = SiteWindowPlace { device: "a.é/5".into(), stream: "7.b".into(), start: EpochMs(-5) };
        assert_eq!(SiteWindowPlace::parse(&odd.to_string()), Some(odd));
        for bad in ["", "1", "1.2", "1.3.ab", "x.1.ab", "1.1.é", "1.-1.ab"] {
            assert_eq!(SiteWindowPlace::parse(bad), None, "{bad}");
        }
    }
}
