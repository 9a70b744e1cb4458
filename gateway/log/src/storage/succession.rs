//! What a recovery writes on a survivor's disk, before its replicas are made ([`selvedge_fabric::recovery`]).
//!
//! The process serves nothing meanwhile, and runs this at each start until its host has noted that it is done. Each step
//! looks at what is on disk first, so it may be stopped anywhere and begin again.

use super::open::{Folders, Found, OpenError, ReadStorage, found, read};
use crate::{LogError, LogOptions, ReplicaMark};
use selvedge_fabric::configuration::Succession;
use selvedge_fabric::machine::CountingRules;
use selvedge_fabric::shard::learns;
use selvedge_types::ids::ShardId;
use std::sync::Arc;

/// How many batches of a group that begins anew are deleted at a time.
const REMOVE_ENTRIES: usize = 1024;

/// What becomes of a group's replica on this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Succeeding {
    /// The group goes on from it, behind the last slot that it holds; if its records are damaged, from its snapshot.
    GoesOn(Succession),
    /// The group goes on from nothing here: no survivor has anything of it that counts.
    BeginsAnew(Succession),
    /// The group goes on elsewhere, in this configuration. The replica votes in no earlier one any more, and learns.
    Learns(u32),
    /// The same, but what it holds does not count: the group goes on from less. It is given up.
    Leaves(u32),
}

/// Carries out what a recovery orders for the groups of this gateway. When it returns, all of it is on disk.
///
/// # Errors
/// [`OpenError`]: something can't be read (nothing is changed then) or written. It may be repeated.
pub fn succeed(
    folders: Folders,
    settings: LogOptions,
    orders: &[(ShardId, Succeeding)],
    rules: &Arc<CountingRules>,
) -> Result<(), OpenError> {
    let ReadStorage { log, mut stores, mut marks, mut replays } = read(folders, settings)?;
    let damaged = log.recovery().damaged_groups.clone();
    let mut all = Vec::new();
    for (shard, order) in orders {
        let snapshot = found(&stores, *shard, rules)?;
        stores.batches.check_version(shard.0)?;
        all.push((*shard, order, snapshot, replays.remove(&shard.0).unwrap_or_default()));
    }
    let mut log = log.begin()?;
    marks.begin([], damaged.is_all())?;
    for (shard, order, snapshot, replay) in all {
        let group = shard.0;
        let (slot, configuration) = match &snapshot {
            Found::Machine(machine) => (machine.slot(), machine.configuration().cloned()),
            Found::Nothing | Found::Damaged => (0, None),
        };
        let configuration = configuration.as_ref();
        let newest = replay.newest_number(configuration);
        let (begins, anew) = match order {
            Succeeding::GoesOn(succession) => (succession.begins, false),
            Succeeding::BeginsAnew(succession) => (succession.begins, true),
            Succeeding::Learns(begins) | Succeeding::Leaves(begins) => (*begins, false),
        };
        if newest >= begins {
            continue; // this was done before
        }
        let mark = marks.get(group);
        match order {
            Succeeding::GoesOn(succession) | Succeeding::BeginsAnew(succession) => {
                let silent = matches!(mark, Some(ReplicaMark::Held { silent_until: 1.. }));
                let gone = matches!(mark, Some(ReplicaMark::GivenUp { .. }));
                let torn = damaged.contains(group)
                    || replay.is_damaged()
                    || replay.lacks_records(slot, configuration)
                    || (silent && !replay.came_later());
                let from_nothing = anew || gone || matches!(snapshot, Found::Damaged);
                let whole = !from_nothing && !torn;
                if from_nothing {
                    stores.snapshots.remove_all(group)?;
                    while stores.batches.remove_some(group, REMOVE_ENTRIES)? {}
                }
                let snapshot = if from_nothing { (0, None) } else { (slot, configuration) };
                let replay = if whole { replay } else { Default::default() };
                if !whole {
                    log.forget(group)?;
                    marks.hold(group, begins - 1)?;
                }
                log.commit(&replay.succeed(shard, succession, snapshot, whole))?;
            }
            Succeeding::Learns(_) => {
                let here = replay.has_records() || slot > 0 || matches!(mark, Some(ReplicaMark::Held { .. }));
                if here && !matches!(mark, Some(ReplicaMark::GivenUp { .. })) {
                    marks.hold(group, begins - 1)?;
                    if !replay.is_silent_until(begins - 1) {
                        log.commit(&[learns(shard, begins - 1)])?;
                    }
                }
            }
            Succeeding::Leaves(_) => {
                marks.give_up(group, begins - 1)?;
                log.forget(group)?;
            }
        }
    }
    log.close().map_err(|e: LogError| e.into())
}
