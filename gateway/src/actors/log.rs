//! The log's actor and its threads: what shards want on disk gets there, many shards to one fsync.
//!
//! Two threads do the disk's work, so that a snapshot does not hold up a commit: one owns the log, the
//! other the snapshots and the contents of uplink batches. The actor carries between them and the shards,
//! around [`GroupCommit`]. A thread that meets an error which it may not retry ends the process: what was
//! not acknowledged was not promised, and what was is on disk.

use crate::actors::shard::{LogSaid, ShardActor};
use crate::logic::commit::{GroupCommit, Submission};
use crate::logic::machine::CutBatch;
use crate::wal::{BatchStore, Groups, Log, LogError, OldestSegment, Record, Room, SnapshotStore};
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message};
use selvedge_shared::ids::ShardId;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How often a full disk is looked at again, and the log's length is.
const LOOK_MS: u64 = 1_000;

/// Records of one shard, to be made durable.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Persist(pub Submission);

/// Something for the store of snapshots and batches.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Store {
    /// Make a snapshot durable, with the contents of the batches it lists.
    Snapshot {
        /// The shard.
        shard: ShardId,
        /// The last slot it covers.
        slot: u64,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Contents that are not in the store yet.
        batches: Vec<CutBatch>,
    },
    /// Keep a batch's content out of memory.
    Batch(ShardId, CutBatch),
    /// Forget the contents of batches up to a seq.
    Remove(ShardId, u64),
    /// Read a batch's content.
    Load(ShardId, u64),
    /// The shard's damage is repaired.
    Healed(ShardId),
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
enum Done {
    Written,
    Room(bool),
    Oldest(Option<OldestSegment>, u64),
    Snapshot { shard: ShardId, slot: u64, saved: bool },
    Loaded { shard: ShardId, seq: u64, body: Option<Vec<u8>> },
}

enum LogWork {
    Write(Vec<Record>),
    Look,
    Keep { shard: ShardId, from: u64 },
    Healed(ShardId),
}

/// Whom the log's threads serve.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Serve(pub BTreeMap<ShardId, Addr<ShardActor>>);

/// Figures of the log for operators.
#[derive(Debug, Clone, Copy, Default, Message)]
#[rtype(result = "LogFigures")]
pub struct GetLogFigures;

/// Figures of the log.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, actix::MessageResponse)]
pub struct LogFigures {
    /// The disk has room for new readings.
    pub room: bool,
    /// Log segments on disk.
    pub segments: u64,
}

/// The log's actor.
pub struct LogActor {
    commit: GroupCommit,
    shards: BTreeMap<ShardId, Addr<ShardActor>>,
    log: Sender<LogWork>,
    store: Sender<Store>,
    starting: Option<(Receiver<LogWork>, Log, Receiver<Store>, Stores)>,
    max_segments: u64,
    figures: LogFigures,
}

/// Where snapshots and batches are kept.
pub struct Stores {
    /// Snapshots.
    pub snapshots: SnapshotStore,
    /// Contents of uplink batches.
    pub batches: BatchStore,
}

impl LogActor {
    /// An actor for these files. When the log has more than `max_segments`, shards that hold the oldest one
    /// are asked for a snapshot.
    pub fn new(log: Log, stores: Stores, max_segments: u64) -> Self {
        let ((to_log, log_work), (to_store, store_work)) = (channel(), channel());
        Self {
            commit: GroupCommit::default(),
            shards: BTreeMap::new(),
            log: to_log,
            store: to_store,
            starting: Some((log_work, log, store_work, stores)),
            max_segments,
            figures: LogFigures { room: true, segments: 0 },
        }
    }

    fn write(&mut self) {
        if let Some(records) = self.commit.next_write() {
            let _ = self.log.send(LogWork::Write(records)); // a thread that is gone has ended the process
        }
    }

    fn tell(&self, shard: ShardId, said: LogSaid) {
        if let Some(to) = self.shards.get(&shard) {
            to.do_send(said);
        }
    }
}

impl Actor for LogActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        if let Some((log_work, log, store_work, stores)) = self.starting.take() {
            let (to, me) = (ctx.address(), ctx.address());
            let log_thread = std::thread::Builder::new().name("log".into());
            let store_thread = std::thread::Builder::new().name("store".into());
            let spawned = log_thread
                .spawn(move || keep_log(log, &log_work, &to))
                .and_then(|_| store_thread.spawn(move || keep_store(stores, &store_work, &me)));
            if let Err(e) = spawned {
                end_process(&format!("can't start the log's thread: {e}"));
            }
        }
        ctx.run_interval(Duration::from_millis(LOOK_MS), |actor, _| {
            let _ = actor.log.send(LogWork::Look);
        });
    }
}

impl Handler<Serve> for LogActor {
    type Result = ();
    fn handle(&mut self, Serve(shards): Serve, _: &mut Self::Context) {
        self.shards = shards;
    }
}

impl Handler<Persist> for LogActor {
    type Result = ();
    fn handle(&mut self, Persist(submission): Persist, _: &mut Self::Context) {
        self.commit.submit(submission);
        self.write();
    }
}

impl Handler<Store> for LogActor {
    type Result = ();
    fn handle(&mut self, work: Store, _: &mut Self::Context) {
        let _ = match work {
            Store::Healed(shard) => self.log.send(LogWork::Healed(shard)).map_err(|_| ()),
            work => self.store.send(work).map_err(|_| ()),
        };
    }
}

impl Handler<GetLogFigures> for LogActor {
    type Result = LogFigures;
    fn handle(&mut self, _: GetLogFigures, _: &mut Self::Context) -> LogFigures {
        self.figures
    }
}

impl Handler<Done> for LogActor {
    type Result = ();
    fn handle(&mut self, done: Done, _: &mut Self::Context) {
        match done {
            Done::Written => {
                for (shard, token) in self.commit.written() {
                    self.tell(shard, LogSaid::Persisted(token));
                }
                self.write();
            }
            Done::Room(room) => {
                if self.figures.room != room {
                    self.figures.room = room;
                    match room {
                        true => tracing::info!("the disk has room again: readings are taken"),
                        false => {
                            tracing::error!("the disk is full: no readings are taken until there is room")
                        }
                    }
                    for shard in self.shards.values() {
                        shard.do_send(LogSaid::Room(room));
                    }
                }
            }
            Done::Oldest(oldest, segments) => {
                self.figures.segments = segments;
                if let Some(oldest) = oldest.filter(|_| segments > self.max_segments || !self.figures.room) {
                    for group in oldest.slots.keys() {
                        self.tell(ShardId(*group), LogSaid::SnapshotWanted);
                    }
                }
            }
            Done::Snapshot { shard, slot, saved } => {
                if saved {
                    let _ = self.log.send(LogWork::Keep { shard, from: slot + 1 });
                }
                self.tell(shard, LogSaid::SnapshotSaved { slot, saved });
            }
            Done::Loaded { shard, seq, body } => self.tell(shard, LogSaid::Loaded { seq, body }),
        }
    }
}

fn keep_log(mut log: Log, work: &Receiver<LogWork>, to: &Addr<LogActor>) {
    let must = |what: &str, result: Result<(), LogError>| {
        if let Err(e) = result {
            end_process(&format!("{what}: {e}"));
        }
    };
    let mut room = Room::Plenty;
    while let Ok(next) = work.recv() {
        match next {
            LogWork::Write(records) => {
                must("writing the log", log.commit(&records).map(|_| ()));
                to.do_send(Done::Written);
            }
            LogWork::Look => match log.retry_reserve() {
                Ok(now) => {
                    to.do_send(Done::Oldest(log.oldest(), log.stats().segments));
                    room = now;
                }
                Err(e) => must("claiming log space", Err(e)),
            },
            LogWork::Keep { shard, from } => {
                log.keep_from(shard.0, from);
                match log.trim() {
                    Err(e) if e.is_full() => tracing::warn!("no room to trim the log: {e}"),
                    result => must("trimming the log", result.map(|_| ())),
                }
            }
            LogWork::Healed(shard) => must("marking a repair", log.repaired(&Groups::these([shard.0]))),
        }
        if log.room() != room {
            room = log.room();
        }
        to.do_send(Done::Room(room == Room::Plenty));
    }
}

fn keep_store(mut stores: Stores, work: &Receiver<Store>, to: &Addr<LogActor>) {
    while let Ok(next) = work.recv() {
        match next {
            Store::Snapshot { shard, slot, bytes, batches } => {
                let saved = save(&mut stores, shard, slot, &bytes, &batches);
                match &saved {
                    Err(e) if !e.is_full() => end_process(&format!("saving a snapshot: {e}")),
                    Err(e) => tracing::warn!(%shard, "no room for a snapshot, trying again later: {e}"),
                    Ok(()) => {}
                }
                to.do_send(Done::Snapshot { shard, slot, saved: saved.is_ok() });
            }
            Store::Batch(shard, batch) => {
                // The log still holds what it was made of, so a failure costs a replay, nothing else.
                if let Err(e) = stores.batches.put(shard.0, batch.seq, &batch.bytes) {
                    tracing::warn!(%shard, seq = batch.seq, "can't keep an uplink batch: {e}");
                }
            }
            Store::Remove(shard, through) => {
                if let Err(e) = stores.batches.remove_through(shard.0, through) {
                    tracing::warn!(%shard, "can't remove confirmed uplink batches: {e}");
                }
            }
            Store::Load(shard, seq) => {
                let body = stores.batches.get(shard.0, seq).unwrap_or_else(|e| {
                    tracing::error!(%shard, seq, "can't read an uplink batch: {e}");
                    None
                });
                to.do_send(Done::Loaded { shard, seq, body });
            }
            Store::Healed(_) => {} // goes to the log
        }
    }
}

fn save(
    stores: &mut Stores,
    shard: ShardId,
    slot: u64,
    bytes: &[u8],
    batches: &[CutBatch],
) -> Result<(), LogError> {
    for batch in batches {
        stores.batches.put(shard.0, batch.seq, &batch.bytes)?;
    }
    stores.batches.sync(shard.0, u64::MAX)?;
    stores.snapshots.save(shard.0, slot, bytes)
}

/// Ends the process at once: nothing may be promised on what may not be on disk.
pub fn end_process(why: &str) -> ! {
    tracing::error!("{why}; ending, to be started again");
    std::process::exit(70)
}
