//! Tables: the kinds of state that a machine holds.
//!
//! Whatever a machine keeps for its site, besides its clocks, its rules and the numbers of forwarded batches, is in a table. All tables
//! have the same few methods, and [`super::tables::Tables`] lists them in the order in which they are asked, tick, and stand in a
//! snapshot. The machine knows no more of most of them; a step that needs two tables, such as a publish of a persistent
//! session, is written out in the machine.
//!
//! Invariant: what a table does follows from its own state, the command and the [`Moment`] alone.

use super::applied::Applied;
use super::clocks::Now;
use super::command::Item;
use super::fullness::Fullness;
use super::outcomes::ItemOutcome;
use super::rules::CountingRules;
use super::snapshot::{Reader, RestoreError, Writer};
use selvedge_types::time::ElapsedMs;
use std::sync::Arc;

/// When a command is applied, and by which rules: all that a table may go by besides its own state and the command.
#[derive(Debug)]
pub(super) struct Moment {
    pub slot: u64,
    pub now: Now,
    /// The rules in force.
    pub rules: Arc<CountingRules>,
}

/// One kind of a shard's state. Readings do not come this way: they are judged by [`super::counting::Counting::judge`].
pub(super) trait Table {
    /// Applies an item of this table; nothing, and nothing done, if it is an item of another one.
    fn apply(&mut self, item: &Item, at: &Moment, applied: &mut Applied) -> Option<ItemOutcome>;

    /// Does what is due. Time passes for a table only here and with the items that it applies.
    fn tick(&mut self, _at: &Moment, _applied: &mut Applied) {}

    /// The elapsed time from which on [`Table::tick`] has something to do; nothing when it never has as things are. It may move what is
    /// derived from the state, and nothing else.
    fn next_due(&mut self, _rules: &CountingRules) -> Option<ElapsedMs> {
        None
    }

    /// Writes all of its state that is not derived, in one order whatever its history was.
    fn snapshot(&self, to: &mut Writer);

    /// Takes the state that [`Table::snapshot`] wrote, into a table that is new.
    ///
    /// # Errors
    /// When it does not decode or contradicts itself.
    fn restore(&mut self, from: &mut Reader<'_>, at: &Moment) -> Result<(), RestoreError>;

    /// How much of each of its bounds is used; nothing of bounds that hold without anybody's help.
    fn fullness(&self, _rules: &CountingRules) -> Vec<Fullness> {
        Vec::new()
    }
}

/// A table that was stored and restored, by the default rules.
#[cfg(test)]
pub(super) fn stored_and_restored<Of: Table + Default>(table: &Of) -> Of {
    let now = super::clocks::Clocks::default().now();
    let at = Moment { slot: 0, now, rules: Arc::default() };
    let (mut stored, mut restored) = (Writer(Vec::new()), Of::default());
    table.snapshot(&mut stored);
    restored.restore(&mut Reader(&stored.0), &at).unwrap();
    restored
}
