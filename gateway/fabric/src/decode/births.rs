//! Births: what Sparkplug B births have defined, and when an edge node is asked to send them again.
//!
//! A birth names metrics with their types, and gives them aliases that data messages use. `bdSeq` pairs a
//! birth with the death that its session left as a will. A death with another `bdSeq` belongs to an earlier
//! session and arrives late, so it changes nothing. `seq` counts the messages of an edge node modulo 256 from
//! one birth to the next. A gap means that messages were lost on the way to this gateway, perhaps a birth
//! among them.
//!
//! Invariant: an edge node is asked for its births at most once in [`REBIRTH_WAIT_MS`], and less and less
//! often if that does not help.
//! Limits: births take at most [`MAX_SPARKPLUG_STATE_BYTES`], and at most [`MAX_EDGE_NODES_ENTRIES`] edge
//! nodes are known. At these bounds the births that no message has used for longest are forgotten, and the
//! edge nodes whose last birth, or last request for one, is the oldest.

use super::{DecodeError, PublishPlace, Rebirth, check_name};
use selvedge_types::sparkplug::{Metric, MetricValue, Payload};
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The approximate memory that all births together may take. The ones unused for longest are forgotten first.
pub const MAX_SPARKPLUG_STATE_BYTES: usize = 4 * 1024 * 1024;

/// The most edge nodes that are known at a time.
pub const MAX_EDGE_NODES_ENTRIES: usize = 2_048;

/// The time before an edge node is asked for its births again, in milliseconds. It doubles each time that the
/// request did not help.
pub const REBIRTH_WAIT_MS: i64 = 60_000;

/// The longest time before an edge node is asked again, in milliseconds.
pub const MAX_REBIRTH_WAIT_MS: i64 = 3_600_000;

/// The bytes that a birth, and each of its metrics, counts in addition to its name.
const BIRTH_BYTES: usize = 256;
const METRIC_BYTES: usize = 128;

/// A `seq` further ahead than this belongs to a message that arrives late or twice.
const MAX_SEQ_GAP: u8 = 127;

/// The metric that pairs a birth with its death.
pub(super) const BD_SEQ: &str = "bdSeq";

/// The births and sequence numbers of all edge nodes that are known.
#[derive(Debug, Default)]
pub(super) struct Births {
    /// In the order of device names, so the devices of an edge node follow it.
    known: BTreeMap<String, Birth>,
    bytes: usize,
    nodes: BTreeMap<String, EdgeNode>,
    /// Counts messages, to find the births and edge nodes unused for longest.
    clock: u64,
    figures: SparkplugFigures,
}

/// Totals since the process started.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SparkplugFigures {
    /// Messages that are missing according to gaps in `seq`.
    pub missing: u64,
    /// Births that edge nodes were asked to send again.
    pub rebirths: u64,
    /// Deaths of earlier sessions that arrived after a later birth.
    pub late_deaths: u64,
}

/// The metrics that one birth defined.
#[derive(Debug, Default)]
pub(super) struct Birth {
    used: u64,
    bytes: usize,
    aliases: BTreeMap<u64, (Arc<str>, u32)>,
    types: BTreeMap<Arc<str>, u32>,
}

/// An edge node between its birth and its death, or one that was asked for its births.
#[derive(Debug, Default)]
struct EdgeNode {
    used: u64,
    bd_seq: Option<u64>,
    /// The `seq` of its last message since its birth.
    seq: Option<u8>,
    /// Messages since its birth are missing.
    has_gap: bool,
    asked_at: Option<EpochMs>,
    wait_ms: i64,
}

impl Births {
    pub(super) fn figures(&self) -> SparkplugFigures {
        self.figures
    }

    /// The birth of an edge node or device that a message of it refers to.
    pub(super) fn of(&mut self, name: &str) -> Option<&Birth> {
        self.clock += 1;
        let birth = self.known.get_mut(name)?;
        birth.used = self.clock;
        Some(birth)
    }

    /// Takes in a birth of an edge node, which has `bdSeq` among its metrics. The births of its devices are
    /// forgotten.
    pub(super) fn node_is_born(&mut self, node: &str, payload: &Payload) -> Result<(), Box<DecodeError>> {
        let birth = Birth::of(&payload.metrics, node.len())?;
        self.forget(node, true);
        self.learn(node.into(), birth);
        let (bd_seq, seq) = (bd_seq(payload), payload.seq.map(|seq| seq as u8));
        let known = self.node(node);
        (known.bd_seq, known.seq, known.has_gap) = (bd_seq, seq, false);
        Ok(())
    }

    /// Takes in a birth of a device of an edge node.
    pub(super) fn device_is_born(&mut self, name: &str, payload: &Payload) -> Result<(), Box<DecodeError>> {
        let birth = Birth::of(&payload.metrics, name.len())?;
        self.forget(name, false);
        self.learn(name.into(), birth);
        Ok(())
    }

    /// Takes in a death of an edge node. Another `bdSeq` than that of the birth shows that it belongs to an
    /// earlier session.
    pub(super) fn node_is_dead(&mut self, node: &str, payload: Option<&Payload>) {
        let of_session = self.nodes.get(node).and_then(|known| known.bd_seq);
        let dead = payload.and_then(bd_seq);
        if of_session.zip(dead).is_some_and(|(of_session, dead)| of_session != dead) {
            self.figures.late_deaths += 1;
            return;
        }
        self.forget(node, true);
        if let Some(known) = self.nodes.get_mut(node) {
            // The time of the last request stays, so that the edge node is not asked again at once.
            (known.bd_seq, known.seq, known.has_gap) = (None, None, false);
        }
    }

    /// Takes in a death of a device.
    pub(super) fn device_is_dead(&mut self, name: &str) {
        self.forget(name, false);
    }

    /// Notes the `seq` of a message other than a birth of the edge node itself.
    pub(super) fn note_seq(&mut self, node: &str, seq: Option<u64>) {
        let Some((known, seq)) = self.nodes.get_mut(node).zip(seq) else { return };
        let (Some(last), seq) = (known.seq, seq as u8) else { return };
        let ahead = seq.wrapping_sub(last);
        if ahead == 0 || ahead > MAX_SEQ_GAP {
            return;
        }
        known.seq = Some(seq);
        if ahead > 1 {
            known.has_gap = true;
            self.figures.missing += u64::from(ahead - 1);
        }
    }

    /// The request for an edge node's births, if they are needed and it was not asked lately. They are needed
    /// if messages are missing, or if `unknown` says that a metric can't be read without them. `topic` is
    /// where the edge node receives commands.
    pub(super) fn rebirth(
        &mut self,
        now: EpochMs,
        node: &str,
        topic: impl FnOnce() -> String,
        unknown: bool,
    ) -> Option<Box<Rebirth>> {
        if !unknown && !self.nodes.get(node).is_some_and(|known| known.has_gap) {
            return None;
        }
        let known = self.node(node);
        match known.asked_at.map(|at| now.0.abs_diff(at.0)) {
            Some(since) if since < known.wait_ms as u64 => return None,
            Some(since) if since < 2 * known.wait_ms as u64 => {
                known.wait_ms = (2 * known.wait_ms).min(MAX_REBIRTH_WAIT_MS);
            }
            _ => known.wait_ms = REBIRTH_WAIT_MS,
        }
        known.asked_at = Some(now);
        self.figures.rebirths += 1;
        let payload = Payload::rebirth(u64::try_from(now.0).unwrap_or(0)).write();
        Some(Box::new(Rebirth { topic: topic(), payload }))
    }

    fn node(&mut self, node: &str) -> &mut EdgeNode {
        self.clock += 1;
        if !self.nodes.contains_key(node) && self.nodes.len() >= MAX_EDGE_NODES_ENTRIES {
            let oldest = self.nodes.iter().min_by_key(|(_, node)| node.used).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| self.nodes.remove(&oldest));
        }
        let known = self.nodes.entry(node.into()).or_default();
        known.used = self.clock;
        known
    }

    /// Forgets the birth of an edge node or device; `with_devices` also forgets those of an edge node's
    /// devices.
    fn forget(&mut self, name: &str, with_devices: bool) {
        let mut gone: Vec<String> = self.known.contains_key(name).then(|| name.into()).into_iter().collect();
        if with_devices {
            let prefix = format!("{name}/");
            let after = self.known.range(prefix.clone()..).map(|(name, _)| name);
            gone.extend(after.take_while(|name| name.starts_with(&prefix)).cloned());
        }
        for name in gone {
            if let Some(birth) = self.known.remove(&name) {
                self.bytes -= birth.bytes;
            }
        }
    }

    fn learn(&mut self, name: String, mut birth: Birth) {
        while self.bytes + birth.bytes > MAX_SPARKPLUG_STATE_BYTES {
            let oldest = self.known.iter().min_by_key(|(_, birth)| birth.used).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            self.forget(&oldest, false);
        }
        self.clock += 1;
        birth.used = self.clock;
        self.bytes += birth.bytes;
        self.known.insert(name, birth);
    }
}

impl Birth {
    fn of(metrics: &[Metric], name_bytes: usize) -> Result<Self, Box<DecodeError>> {
        let mut birth = Self { bytes: BIRTH_BYTES + name_bytes, ..Self::default() };
        for (n, metric) in metrics.iter().enumerate() {
            let wrong =
                |what: String, right: &str| Err(DecodeError::new(PublishPlace::Record(n), what, right));
            let Some(name) = &metric.name else {
                return wrong("a birth's metric has no name".into(), "name every metric of a birth");
            };
            check_name("metric", name, || PublishPlace::Record(n))?;
            let name: Arc<str> = name.as_str().into();
            let datatype = metric.datatype.unwrap_or(0);
            birth.bytes += METRIC_BYTES + name.len();
            if let Some(alias) = metric.alias
                && birth.aliases.insert(alias, (name.clone(), datatype)).is_some()
            {
                return wrong(
                    format!("alias {alias} stands for two metrics"),
                    "give every metric an alias of its own",
                );
            }
            birth.types.insert(name, datatype);
        }
        Ok(birth)
    }

    /// The name and the type that an alias stands for.
    pub(super) fn alias(&self, alias: u64) -> Option<(&str, u32)> {
        self.aliases.get(&alias).map(|(name, datatype)| (&**name, *datatype))
    }

    /// The type that the birth gave a metric.
    pub(super) fn datatype(&self, name: &str) -> Option<u32> {
        self.types.get(name).copied()
    }
}

/// The number that pairs a birth with its death.
fn bd_seq(payload: &Payload) -> Option<u64> {
    let metric = payload.metrics.iter().find(|m| m.name.as_deref() == Some(BD_SEQ))?;
    match metric.value {
        Some(MetricValue::Long(n)) => Some(n),
        Some(MetricValue::Int(n)) => Some(n.into()),
        _ => None,
    }
}
