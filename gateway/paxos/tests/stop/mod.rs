//! The stop values of the tests' hosts, such as `STOP(1,2,4,5w,6l)`: the members of the next configuration by rank,
//! of which those with a `w` are witnesses, and its learners, with an `l`.

#![allow(dead_code)] // Each test uses its part.

use selvedge_paxos::{GroupConfig, Limits, Slot};
use selvedge_types::ids::{GatewayId, ShardId};
use std::fmt;

/// Who takes part in a configuration, and as what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Cast {
    pub members: Vec<GatewayId>,
    pub witnesses: Vec<GatewayId>,
    pub learners: Vec<GatewayId>,
}

impl Cast {
    /// Members only.
    pub fn of(members: impl IntoIterator<Item = u16>) -> Self {
        Self { members: members.into_iter().map(GatewayId).collect(), ..Self::default() }
    }

    /// From a list such as `1,2,4w,5l`.
    pub fn parse(text: &str) -> Self {
        let mut cast = Self::default();
        for word in text.split(',').filter(|w| !w.is_empty()) {
            let id = GatewayId(word.trim_end_matches(['w', 'l']).parse().expect("a gateway's number"));
            if word.ends_with('l') {
                cast.learners.push(id);
            } else {
                cast.members.push(id);
            }
            if word.ends_with('w') {
                cast.witnesses.push(id);
            }
        }
        cast
    }

    /// What a stop begins; none if the value is none.
    pub fn after(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        Some(Self::parse(text.strip_prefix("STOP(")?.strip_suffix(')')?))
    }

    pub fn has(&self, id: GatewayId) -> bool {
        self.members.contains(&id) || self.learners.contains(&id)
    }

    pub fn config(&self, me: GatewayId, configuration: u32, base: Slot, limits: Limits) -> GroupConfig {
        GroupConfig {
            configuration,
            witnesses: self.witnesses.clone(),
            learners: self.learners.clone(),
            base,
            is_stop,
            ..GroupConfig::new(ShardId(7), me, self.members.clone(), limits)
        }
    }
}

/// The stop that begins the configuration.
impl fmt::Display for Cast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = |m: &GatewayId| format!("{}{}", m.0, if self.witnesses.contains(m) { "w" } else { "" });
        let learner = |l: &GatewayId| format!("{}l", l.0);
        let all = self.members.iter().map(member).chain(self.learners.iter().map(learner));
        write!(f, "STOP({})", all.collect::<Vec<_>>().join(","))
    }
}

pub fn is_stop(value: &[u8]) -> bool {
    value.starts_with(b"STOP(")
}
