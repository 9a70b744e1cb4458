//! How much of its bounds a shard uses, for operators.

use super::Machine;

/// Operators are warned when this percentage of a bound is used.
pub const WARN_PERCENT: u64 = 80;

/// How much of one bound is used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fullness {
    /// The rule that sets the bound.
    pub rule: &'static str,
    pub used: u64,
    pub most: u64,
    /// For a rule that bounds each device or client: the one that uses most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    #[serde(skip)]
    advice: &'static str,
}

impl Fullness {
    /// For a rule that bounds the whole shard. `advice` says what happens at the bound and what an operator
    /// can do.
    pub(super) fn new(rule: &'static str, used: usize, most: u32, advice: &'static str) -> Self {
        Self { rule, used: used as u64, most: u64::from(most), who: None, advice }
    }

    /// For a rule that bounds each device or client; `who` is the one that uses most.
    pub(super) fn of(self, who: Option<&str>) -> Self {
        Self { who: who.map(str::to_string), ..self }
    }

    /// Whether operators should be warned.
    pub fn is_near(&self) -> bool {
        self.used.saturating_mul(100) >= self.most.saturating_mul(WARN_PERCENT)
    }

    /// The used share of the bound, from 0 to 1, or more if the bound was lowered.
    pub fn share(&self) -> f64 {
        self.used as f64 / self.most.max(1) as f64
    }

    /// What happens at the bound, and what an operator can do.
    pub fn advice(&self) -> &'static str {
        self.advice
    }
}

impl Machine {
    /// How much of each bound is used, table by table.
    pub fn fullness(&self) -> Vec<Fullness> {
        self.tables.list().flat_map(|table| table.fullness(&self.rules)).collect()
    }
}
