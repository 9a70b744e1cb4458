//! Orders to the directory group: from a command to the outcome that was chosen.

use crate::actors::ways::Ways;
use selvedge_fabric::directory::{
    DIRECTORY_GROUP, DirectoryCommand, DirectoryItem, DirectoryOutcome, RequestKey,
};
use selvedge_fabric::forward::Forwardable;
use selvedge_fabric::machine::{Item, ItemOutcome};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How often an order is submitted again whose outcome was lost on the way from the leader.
const MAX_REPEATS: usize = 3;

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderEnd {
    Outcome(DirectoryOutcome),
    /// The directory group could not apply it, for a reason that passes.
    Early(String),
    /// Too many orders are under way.
    Busy,
    /// Nobody has answered in time. The order may still be carried out.
    Unanswered,
}

/// Submits a command, and waits at most so long for its outcome. An order is carried out at least once: repeated, it must
/// have the same outcome, by its key or by itself.
pub async fn order(
    ways: &Ways,
    key: Option<RequestKey>,
    command: DirectoryCommand,
    wait_ms: u64,
) -> OrderEnd {
    let end = Instant::now() + Duration::from_millis(wait_ms);
    for _ in 0..=MAX_REPEATS {
        let item = Item::Directory(Box::new(DirectoryItem::Command(key, command.clone())));
        let Some(outcome) = ways.order(DIRECTORY_GROUP, Forwardable::Item(item)) else {
            return OrderEnd::Busy;
        };
        match timeout_at(end, outcome).await {
            Ok(Ok(ItemOutcome::Directory(outcome))) => return OrderEnd::Outcome(*outcome),
            Ok(Ok(ItemOutcome::Refused(why))) => return OrderEnd::Early(why),
            // It was carried out, but its outcome was lost on the way: the same order brings it again.
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    OrderEnd::Unanswered
}
