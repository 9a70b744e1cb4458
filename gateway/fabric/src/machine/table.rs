//! Tables: the kinds of state that a machine holds.
//!
//! All state of a machine is in tables, except for its clocks, its rules and the numbers of forwarded
//! batches. Tables share the few methods of [`Table`]. [`super::tables::Tables`] lists them in the order in
//! which they see items and ticks, and stand in a snapshot. The machine uses most tables through these
//! methods only; a step that needs two tables, such as a publish of a persistent session, is written out in
//! the machine.
//!
//! Invariant: what a table does depends on its own state, the command and the [`Moment`] alone.

use super::applied::Applied;
use super::clocks::MachineTime;
use super::command::Item;
use super::fullness::Fullness;
use super::outcomes::ItemOutcome;
use super::rules::CountingRules;
use super::snapshot::{Reader, RestoreError, Writer};
use selvedge_types::time::ElapsedMs;
use std::sync::Arc;

/// When a command is applied, and by which rules: all that a table may consult besides its own state and the
/// command.
#[derive(Debug)]
pub(super) struct Moment {
    pub slot: u64,
    pub now: MachineTime,
    /// The rules in force.
    pub rules: Arc<CountingRules>,
}

/// One kind of a shard's state. Readings take another path: [`super::counting::Counting::judge`] judges them.
pub(super) trait Table {
    /// Applies an item of this table. For an item of another table it does nothing and returns `None`.
    fn apply(&mut self, item: &Item, at: &Moment, applied: &mut Applied) -> Option<ItemOutcome>;

    /// Does what is due. Time passes for a table only here and with the items that it applies.
    fn tick(&mut self, _at: &Moment, _applied: &mut Applied) {}

    /// The elapsed time at which [`Table::tick`] will next have something to do; `None` if nothing is due as
    /// things stand. It may correct indexes that are derived from the state, and nothing else.
    fn next_due(&mut self, _rules: &CountingRules) -> Option<ElapsedMs> {
        None
    }

    /// Writes all state that is not derived, in an order that does not depend on its history.
    fn snapshot(&self, to: &mut Writer);

    /// Reads into an empty table what [`Table::snapshot`] wrote.
    ///
    /// # Errors
    /// The bytes do not decode, or contradict each other.
    fn restore(&mut self, from: &mut Reader<'_>, at: &Moment) -> Result<(), RestoreError>;

    /// How much of each bound is used. It omits bounds at which no operator has to act.
    fn fullness(&self, _rules: &CountingRules) -> Vec<Fullness> {
        Vec::new()
    }
}

/// Stores a table and restores it, under the default rules.
#[cfg(test)]
pub(super) fn stored_and_restored<Of: Table + Default>(table: &Of) -> Of {
    let now = super::clocks::Clocks::default().now();
    let at = Moment { slot: 0, now, rules: Arc::default() };
    let (mut stored, mut restored) = (Writer(Vec::new()), Of::default());
    table.snapshot(&mut stored);
    restored.restore(&mut Reader(&stored.0), &at).unwrap();
    restored
}
