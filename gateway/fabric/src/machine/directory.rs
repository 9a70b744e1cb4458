//! The directory as a table of the directory group's machine.
//!
//! No other machine has one: in a shard's machine this table stays empty, and stands in no snapshot.

use super::applied::Applied;
use super::command::Item;
use super::outcomes::ItemOutcome;
use super::rules::CountingRules;
use super::snapshot::{Reader, RestoreError, Writer};
use super::table::{Moment, Table};
use crate::directory::{Directory, DirectoryItem};
use selvedge_types::time::ElapsedMs;
use std::sync::Arc;

/// The directory, once it is begun. It is shared with the gateway's other parts, which read this replica's applied
/// copy; a change to a shared one makes a new one.
#[derive(Debug, Default)]
pub(super) struct DirectoryTable(pub Option<Arc<Directory>>);

impl Table for DirectoryTable {
    fn apply(&mut self, item: &Item, at: &Moment, _: &mut Applied) -> Option<ItemOutcome> {
        let Item::Directory(item) = item else { return None };
        Some(match (&mut self.0, &**item) {
            (Some(_), DirectoryItem::Begin(_)) => ItemOutcome::Done,
            (None, DirectoryItem::Begin(genesis)) => match Directory::genesis(genesis) {
                Ok(directory) => {
                    self.0 = Some(Arc::new(directory));
                    ItemOutcome::Done
                }
                Err(e) => ItemOutcome::Refused(e.to_string()),
            },
            (Some(directory), DirectoryItem::Command(request, command)) => {
                let directory = Arc::make_mut(directory);
                let outcome = directory.apply(at.slot, at.now.elapsed, *request, command);
                ItemOutcome::Directory(Box::new(outcome))
            }
            (None, DirectoryItem::Command(..)) => {
                ItemOutcome::Refused("the site's directory has not begun: try again".to_string())
            }
        })
    }

    fn tick(&mut self, at: &Moment, _: &mut Applied) {
        if let Some(directory) = &mut self.0
            && directory.next_due().is_some_and(|due| due <= at.now.elapsed)
        {
            Arc::make_mut(directory).advance(at.slot, at.now.elapsed);
        }
    }

    fn next_due(&mut self, _: &CountingRules) -> Option<ElapsedMs> {
        self.0.as_ref()?.next_due()
    }

    fn snapshot(&self, to: &mut Writer) {
        to.put(self.0.as_ref().map(|directory| directory.snapshot()));
    }

    fn restore(&mut self, from: &mut Reader<'_>, _: &Moment) -> Result<(), RestoreError> {
        let bytes: Option<Vec<u8>> = from.take("directory")?;
        let directory = bytes.map(|bytes| Directory::restore(&bytes)).transpose();
        self.0 = directory.map_err(|e| RestoreError::Table("directory", e.to_string()))?.map(Arc::new);
        Ok(())
    }
}
