//! A thread of the generator: a task for each of its connections, and one tally for all of them.

use super::{LOOK_MS, Shared, Stage, Tally};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Runs a task for each of `connections` on this thread, until all have ended, or the run is over, or `is_done` at its
/// stage. The first task that fails ends the run.
pub(super) fn run<T, F>(
    connections: Vec<T>,
    shared: &Arc<Shared>,
    task: impl Fn(T, Arc<Shared>, Rc<RefCell<Tally>>) -> F,
    is_done: impl Fn(Stage) -> bool,
) -> Result<Tally, String>
where
    F: Future<Output = Result<(), String>> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut tasks = JoinSet::new();
        for connection in connections {
            let task = task(connection, shared.clone(), tally.clone());
            let shared = shared.clone();
            tasks.spawn_local(async move {
                if let Err(why) = task.await {
                    shared.fail(why);
                }
            });
        }
        let over = async {
            while shared.stage() != Stage::Over && !is_done(shared.stage()) {
                tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            }
        };
        tokio::select! {
            () = async { while tasks.join_next().await.is_some() {} } => {}
            () = over => {}
        }
    });
    drop(local); // the tasks hold the tally
    Rc::into_inner(tally).map(RefCell::into_inner).ok_or_else(|| "a connection did not end".into())
}
