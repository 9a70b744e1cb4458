//! The topic map: rules that map topics to devices, streams and forms of payload.
//!
//! A pattern is a topic with placeholders and wildcards: `{name}` stands for one level and captures it, `+`
//! stands for one level, and a final `#` stands for any number of levels, including none. As in MQTT, a
//! pattern that begins with one of these does not match topics that begin with `$`. A template builds a name
//! from what was captured: `{line}-{device}`.
//!
//! The first rule that matches a topic applies. A match goes through the rules once and compares level by
//! level without allocating. There are few rules ([`MAX_TOPIC_RULES`]), and most fail at their first literal.

use super::excerpt::cut;
use super::time::TimeUnit;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The most rules of a topic map.
pub const MAX_TOPIC_RULES: usize = 256;

/// The most placeholders of a pattern.
pub const MAX_PLACEHOLDERS: usize = 8;

/// The most bytes of a pattern, of a template and of a key.
pub const MAX_TEMPLATE_BYTES: usize = 512;

/// The form of a rule's payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Form {
    /// [`Form::Number`] or [`Form::Json`], depending on the first character.
    #[default]
    Auto,
    /// One plain number, `true`, `false`, `on` or `off`.
    Number,
    /// A JSON number, an object with a value and perhaps time, sequence and boot, or an array of these.
    Json,
    /// A JSON object in which every number is a stream's value.
    Object,
    /// SenML in JSON (RFC 8428).
    SenmlJson,
    /// SenML in CBOR (RFC 8428).
    SenmlCbor,
    /// Sparkplug B. The topic's last levels are `{group}/{type}/{edge node}` and perhaps `/{device}`.
    SparkplugB,
    /// No readings: the topics are only routed. Excludes topics from a wider rule that follows.
    None,
}

impl TryFrom<String> for Form {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Ok(match name.as_str() {
            "auto" => Self::Auto,
            "number" => Self::Number,
            "json" => Self::Json,
            "object" => Self::Object,
            "senml-json" => Self::SenmlJson,
            "senml-cbor" => Self::SenmlCbor,
            "sparkplug-b" => Self::SparkplugB,
            "none" => Self::None,
            _ => {
                let right = "auto, number, json, object, senml-json, senml-cbor, sparkplug-b or none";
                return Err(format!("{:?} is not a decoder: set {right}", cut(name, 80)));
            }
        })
    }
}

impl Form {
    /// The form's name in settings.
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Number => "number",
            Self::Json => "json",
            Self::Object => "object",
            Self::SenmlJson => "senml-json",
            Self::SenmlCbor => "senml-cbor",
            Self::SparkplugB => "sparkplug-b",
            Self::None => "none",
        }
    }

    /// Whether its payloads are texts in UTF-8.
    pub(super) fn is_text(self) -> bool {
        !matches!(self, Self::SenmlCbor | Self::SparkplugB | Self::None)
    }
}

/// One `[[topics]]` of the settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRule {
    /// The pattern, for example `plant/+/{device}/sensors/{stream}`.
    pub topic: String,
    #[serde(default)]
    pub decoder: Form,
    /// A template of the device's name; by default `{device}`. SenML without one takes the base name.
    pub device: Option<String>,
    /// A template of the stream's name. The default is `{stream}`; where the payload names streams, it is
    /// `{key}` or, if the topic has `{stream}`, `{stream}.{key}`.
    pub stream: Option<String>,
    /// The key of the value (auto, json); by default `value`. Nested keys are dotted.
    pub value: Option<String>,
    /// The key of the time (auto, json, object); by default `ts`, and `timestamp` as well.
    pub time: Option<String>,
    /// The key of the sequence number (auto, json, object); by default `seq`.
    pub seq: Option<String>,
    /// The key of the boot number (auto, json, object); by default `boot`.
    pub boot: Option<String>,
    /// The unit of times that are numbers (auto, json, object); by default milliseconds.
    pub time_unit: Option<TimeUnit>,
}

/// Why the rules of a topic map are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicMapError {
    /// One rule is not valid.
    #[error("[[topics]] number {rule} ({topic:?}): {what}")]
    Rule {
        /// The position of the rule, counted from 1.
        rule: usize,
        /// The rule's pattern, cut if it is long.
        topic: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// There are more than [`MAX_TOPIC_RULES`].
    #[error(
        "{0} [[topics]]: at most {MAX_TOPIC_RULES} are allowed; use placeholders instead of one rule per device"
    )]
    TooMany(usize),
}

/// The rules of a gateway, ready to match.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicMap {
    rules: Vec<Rule>,
}

/// A checked [`TopicRule`], with its defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pattern: Pattern,
    pub(super) form: Form,
    pub(super) device: Option<Template>,
    pub(super) stream: Option<Template>,
    pub(super) keys: Keys,
}

/// The meanings of keys in a JSON object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Keys {
    pub(super) value: String,
    pub(super) time: String,
    /// A second key for the time, if the rule names none.
    pub(super) or_time: Option<&'static str>,
    pub(super) seq: String,
    pub(super) boot: String,
    pub(super) time_unit: TimeUnit,
}

/// A common key for the time.
const OTHER_TIME: &str = "timestamp";

impl Keys {
    /// Whether the key names the time.
    pub(super) fn is_time(&self, key: &str) -> bool {
        key == self.time || Some(key) == self.or_time
    }
}

impl TopicRule {
    /// The rules that apply without any configuration.
    pub fn defaults() -> Vec<Self> {
        let rule = |topic: &str, decoder| Self { topic: topic.into(), decoder, ..Self::default() };
        vec![
            rule("d/{device}/{stream}", Form::Auto),
            rule("d/{device}", Form::Object),
            rule("spBv1.0/#", Form::SparkplugB),
        ]
    }
}

/// The default rules that no single pattern of `rules` covers completely.
pub fn defaults_behind(rules: &[TopicRule]) -> Vec<TopicRule> {
    let patterns: Vec<_> = rules.iter().filter_map(|rule| Pattern::new(&rule.topic).ok()).collect();
    let free = |rule: &TopicRule| {
        Pattern::new(&rule.topic).is_ok_and(|own| !patterns.iter().any(|pattern| pattern.covers(&own)))
    };
    TopicRule::defaults().into_iter().filter(free).collect()
}

impl Default for TopicMap {
    fn default() -> Self {
        Self { rules: TopicRule::defaults().into_iter().filter_map(|rule| Rule::new(rule).ok()).collect() }
    }
}

impl TopicMap {
    /// A map of these rules; the default map if there are none.
    ///
    /// # Errors
    /// Names the first invalid rule and what is wrong with it.
    pub fn new(rules: Vec<TopicRule>) -> Result<Self, TopicMapError> {
        if rules.is_empty() {
            return Ok(Self::default());
        }
        if rules.len() > MAX_TOPIC_RULES {
            return Err(TopicMapError::TooMany(rules.len()));
        }
        let mut checked: Vec<Rule> = Vec::with_capacity(rules.len());
        for (n, rule) in rules.into_iter().enumerate() {
            let topic = cut(rule.topic.clone(), 80);
            let wrong = |what| TopicMapError::Rule { rule: n + 1, topic: topic.clone(), what };
            let rule = Rule::new(rule).map_err(wrong)?;
            if let Some(earlier) = checked.iter().position(|other| other.pattern.covers(&rule.pattern)) {
                return Err(wrong(format!(
                    "it can never match, because number {} comes before it and takes all its topics; move or remove one",
                    earlier + 1
                )));
            }
            checked.push(rule);
        }
        Ok(Self { rules: checked })
    }

    /// The first rule that matches a topic, and what its placeholders stand for there.
    pub(super) fn find<'m, 'a>(&'m self, topic: &'a str) -> Option<(&'m Rule, Captures<'a>)> {
        self.rules.iter().find_map(|rule| Some((rule, rule.pattern.matches(topic)?)))
    }
}

impl Rule {
    fn new(rule: TopicRule) -> Result<Self, String> {
        let pattern = Pattern::new(&rule.topic)?;
        let names_streams = matches!(rule.decoder, Form::Object | Form::SenmlJson | Form::SenmlCbor);
        let fixed = matches!(rule.decoder, Form::SparkplugB | Form::None);
        let form = rule.decoder.name();
        let unused = |key: &str| Err(format!("decoder {form} does not use {key}; remove it"));
        if fixed && (rule.device.is_some() || rule.stream.is_some()) {
            return unused("a device or stream template");
        }
        if rule.value.is_some() && !matches!(rule.decoder, Form::Auto | Form::Json) {
            return unused("value");
        }
        let meta =
            rule.time.is_some() || rule.seq.is_some() || rule.boot.is_some() || rule.time_unit.is_some();
        if meta && !matches!(rule.decoder, Form::Auto | Form::Json | Form::Object) {
            return unused("time, seq, boot or time_unit");
        }
        if rule.decoder == Form::SparkplugB && !(pattern.rest && pattern.names.is_empty()) {
            return Err(
                "a Sparkplug B topic ends with # and has no placeholders, for example spBv1.0/#".into()
            );
        }

        let has = |name: &str| pattern.names.iter().any(|n| n == name);
        let device = rule.device.or_else(|| has("device").then(|| "{device}".into()));
        let stream = rule.stream.or_else(|| match (names_streams, has("stream")) {
            (true, true) => Some("{stream}.{key}".into()),
            (true, false) => Some("{key}".into()),
            (false, true) => Some("{stream}".into()),
            (false, false) => None,
        });
        let device = device.map(|t| Template::new("device", &t, &pattern)).transpose()?;
        let stream = stream.map(|t| Template::new("stream", &t, &pattern)).transpose()?;
        let senml = matches!(rule.decoder, Form::SenmlJson | Form::SenmlCbor);
        if device.is_none() && !fixed && !senml {
            return Err("it names no device: put {device} into the topic, or give device = \"...\"".into());
        }
        if stream.is_none() && !fixed {
            return Err("it names no stream: put {stream} into the topic, or give stream = \"...\"".into());
        }
        if device.as_ref().is_some_and(Template::has_key) {
            return Err("device can't hold {key}, which is a key of the payload".into());
        }
        let keyed = stream.as_ref().is_some_and(Template::has_key);
        if names_streams && !keyed {
            return Err("stream must hold {key}, or all keys of the payload would be one stream".into());
        }
        if keyed && !names_streams {
            return Err(format!("stream holds {{key}}, but decoder {form} reads no keys as streams"));
        }

        let key = |name: &str, given: Option<String>, usual: &str| match given {
            Some(key) if key.is_empty() || key.len() > MAX_TEMPLATE_BYTES => {
                Err(format!("{name} must be a key of 1 to {MAX_TEMPLATE_BYTES} bytes"))
            }
            Some(key) => Ok(key),
            None => Ok(usual.into()),
        };
        let taken = [&rule.value, &rule.seq, &rule.boot].iter().any(|key| key.as_deref() == Some(OTHER_TIME));
        let keys = Keys {
            value: key("value", rule.value, "value")?,
            or_time: (rule.time.is_none() && !taken).then_some(OTHER_TIME),
            time: key("time", rule.time, "ts")?,
            seq: key("seq", rule.seq, "seq")?,
            boot: key("boot", rule.boot, "boot")?,
            time_unit: rule.time_unit.unwrap_or_default(),
        };
        let mut all = vec![&keys.time, &keys.seq, &keys.boot];
        if !names_streams {
            all.push(&keys.value);
        }
        all.sort_unstable();
        if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!(
                "key {:?} can't mean two things: value, time, seq and boot must differ",
                pair[0]
            ));
        }
        Ok(Self { pattern, form: rule.decoder, device, stream, keys })
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Level {
    Literal(String),
    Any,
    Kept,
}

#[derive(Debug, Clone, PartialEq)]
struct Pattern {
    levels: Vec<Level>,
    rest: bool,
    /// The names of the captured levels, in order.
    names: Vec<String>,
}

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_TEMPLATE_BYTES || text.contains('\0') {
            return Err(format!("topic must have 1 to {MAX_TEMPLATE_BYTES} bytes and no NUL"));
        }
        let mut pattern = Self { levels: Vec::new(), rest: false, names: Vec::new() };
        for level in text.split('/') {
            if pattern.rest {
                return Err("# may only be at the end of topic".into());
            }
            if level == "#" {
                pattern.rest = true;
            } else if level == "+" {
                pattern.levels.push(Level::Any);
            } else if let Some(name) = level.strip_prefix('{').and_then(|l| l.strip_suffix('}')) {
                check_placeholder(name)?;
                if name == "key" {
                    return Err(
                        "{key} is reserved for keys of the payload; give the placeholder another name".into(),
                    );
                }
                if pattern.names.iter().any(|n| n == name) {
                    return Err(format!("{{{name}}} occurs in topic twice"));
                }
                if pattern.names.len() == MAX_PLACEHOLDERS {
                    return Err(format!(
                        "topic has more than {MAX_PLACEHOLDERS} placeholders; use + for some"
                    ));
                }
                pattern.names.push(name.into());
                pattern.levels.push(Level::Kept);
            } else if level.contains(['+', '#', '{', '}']) {
                return Err(format!(
                    "{level:?} mixes text with +, # or a placeholder; each takes a whole level of topic"
                ));
            } else {
                pattern.levels.push(Level::Literal(level.into()));
            }
        }
        Ok(pattern)
    }

    fn matches<'a>(&self, topic: &'a str) -> Option<Captures<'a>> {
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Literal(_))) {
            return None;
        }
        let mut captures = Captures { kept: [""; MAX_PLACEHOLDERS], rest: "" };
        let mut kept = captures.kept.iter_mut();
        // `None` once all levels are used up. A topic that ends in '/' has an empty last level.
        let mut left = Some(topic);
        for level in &self.levels {
            let (here, after) = match left?.split_once('/') {
                Some((here, after)) => (here, Some(after)),
                None => (left?, None),
            };
            left = after;
            match level {
                Level::Literal(text) if text != here => return None,
                Level::Kept => *kept.next()? = here,
                Level::Literal(_) | Level::Any => {}
            }
        }
        match left {
            Some(rest) if self.rest => captures.rest = rest,
            Some(_) => return None,
            None => {}
        }
        Some(captures)
    }

    /// Whether it matches every topic that `other` matches.
    fn covers(&self, other: &Self) -> bool {
        let takes = |pair: (&Level, &Level)| match pair {
            (Level::Literal(a), Level::Literal(b)) => a == b,
            (Level::Literal(_), _) => false,
            _ => true,
        };
        // A placeholder or wildcard at the start matches no topic that begins with `$`.
        let outside = |text: &str| text.starts_with('$');
        let system = matches!(other.levels.first(), Some(Level::Literal(text)) if outside(text))
            && !matches!(self.levels.first(), Some(Level::Literal(_)));
        let (all, length) = (self.levels.len(), other.levels.len());
        let long = if self.rest { all <= length } else { all == length && !other.rest };
        long && !system && self.levels.iter().zip(&other.levels).all(takes)
    }
}

/// The levels of a topic that a pattern captured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Captures<'a> {
    kept: [&'a str; MAX_PLACEHOLDERS],
    rest: &'a str,
}

impl<'a> Captures<'a> {
    /// The levels that `#` stands for.
    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Kept(usize),
    Key,
}

/// A template that builds a name from captured levels and a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template(Vec<Piece>);

impl Template {
    fn new(kind: &str, text: &str, pattern: &Pattern) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_TEMPLATE_BYTES {
            return Err(format!("{kind} must have 1 to {MAX_TEMPLATE_BYTES} bytes"));
        }
        let mut pieces = Vec::new();
        let mut left = text;
        while !left.is_empty() {
            let (plain, hole) =
                left.split_once('{').map_or((left, None), |(plain, hole)| (plain, Some(hole)));
            if plain.contains('}') {
                return Err(format!("{kind} {text:?} has a }} without its {{"));
            }
            if !plain.is_empty() {
                pieces.push(Piece::Text(plain.into()));
            }
            let Some(hole) = hole else { break };
            let (name, after) =
                hole.split_once('}').ok_or_else(|| format!("{kind} {text:?} has a {{ without its }}"))?;
            check_placeholder(name)?;
            pieces.push(match pattern.names.iter().position(|n| n == name) {
                Some(n) => Piece::Kept(n),
                None if name == "key" => Piece::Key,
                None => return Err(format!("{kind} uses {{{name}}}, which topic does not have")),
            });
            left = after;
        }
        Ok(Self(pieces))
    }

    fn has_key(&self) -> bool {
        self.0.contains(&Piece::Key)
    }

    /// The name. Borrowed if it is just one level or the key.
    pub(super) fn fill<'a>(&self, captures: &Captures<'a>, key: Cow<'a, str>) -> Cow<'a, str> {
        match self.0.as_slice() {
            [Piece::Kept(n)] => Cow::Borrowed(captures.kept.get(*n).copied().unwrap_or_default()),
            [Piece::Key] => key,
            pieces => {
                let piece = |piece: &'_ Piece| -> String {
                    match piece {
                        Piece::Text(text) => text.clone(),
                        Piece::Kept(n) => captures.kept.get(*n).copied().unwrap_or_default().into(),
                        Piece::Key => key.clone().into_owned(),
                    }
                };
                Cow::Owned(pieces.iter().map(piece).collect())
            }
        }
    }
}

fn check_placeholder(name: &str) -> Result<(), String> {
    let sound =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if sound {
        return Ok(());
    }
    Err(format!("{{{name}}} is not a placeholder: a name has lower-case letters, digits and underscores"))
}
