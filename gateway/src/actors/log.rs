//! The log's actor and its threads: what shards want on disk gets there, with one fsync for many shards.
//!
//! Two threads do the disk's work, so that a snapshot does not delay a commit: one owns the log, the other the
//! snapshots and the contents of uplink batches. A third thread encodes states as snapshots, and a fourth reads again
//! what lies on disk ([`scrub`]). The actor carries work and results between them and the shards, around
//! [`StorageDesk`]. A thread that meets an error that it may not retry ends the process: what was not acknowledged was
//! not promised, and the rest is on disk.

use crate::actors::messages::host::ReplicaMade;
use crate::actors::messages::log::{Forget, GetLogFigures, Healed, Persist, Store};
use crate::actors::messages::shard::LogSaid;
use crate::actors::process::end_process;
use crate::actors::pulse;
use crate::actors::replicas::Replicas;
use crate::actors::room::SiteRoom;
use crate::actors::scrub;
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult};
use selvedge_fabric::replica::{Encoding, Said, StoreWork};
use selvedge_log::storage::{Done, Errand, FileKind, LogKeeper, LogWork, StorageDesk, Stores};
use selvedge_log::{Room, Scrubber};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How often the disk's room and the log's length are checked.
const LOOK_MS: u64 = 1_000;

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct WorkDone(Done);

/// Runs the core [`StorageDesk`] between the shards and the disk's threads.
pub struct LogActor {
    desk: StorageDesk,
    replicas: Arc<Replicas>,
    log: Sender<LogWork>,
    store: Sender<StoreWork>,
    encoder: Sender<Encoding>,
    epoch: Instant,
    room: Arc<SiteRoom>,
    /// Whether the timer is set.
    armed: bool,
    starting: Option<Starting>,
    /// The scrubber, and how many bytes a second it reads.
    scrub: Option<(Scrubber, u64)>,
}

/// What the threads get when they start.
struct Starting {
    log: LogKeeper,
    log_work: Receiver<LogWork>,
    stores: Stores,
    store_work: Receiver<StoreWork>,
    encodings: Receiver<Encoding>,
}

impl LogActor {
    /// An actor for these files and the replicas that it serves. When the log has more than `max_segments`, the shards in its oldest segment are asked
    /// for a snapshot. Records to write gather for `delay_ms`. `room` learns whether this gateway's disk is full.
    /// `scrub` reads the disk again at this many bytes a second.
    pub fn new(
        log: LogKeeper,
        stores: Stores,
        replicas: Arc<Replicas>,
        max_segments: u64,
        delay_ms: u64,
        room: Arc<SiteRoom>,
        scrub: Option<(Scrubber, u64)>,
    ) -> Self {
        room.mine(log.log().room() == Room::Full);
        let ((to_log, log_work), (to_store, store_work)) = (channel(), channel());
        let (encoder, encodings) = channel();
        Self {
            desk: StorageDesk::new(max_segments, log.log().room() == Room::Plenty, delay_ms),
            replicas,
            log: to_log,
            store: to_store,
            encoder,
            epoch: Instant::now(),
            room,
            armed: false,
            starting: Some(Starting { log, log_work, stores, store_work, encodings }),
            scrub,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Sets the timer for the time at which the gathered records must be written.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let Some(due_ms) = self.desk.due_ms().filter(|_| !self.armed) else { return };
        self.armed = true;
        let wait = Duration::from_millis(due_ms.saturating_sub(self.now_ms()));
        ctx.run_later(wait, |actor, ctx| {
            actor.armed = false;
            let errand = actor.desk.timer(actor.now_ms());
            actor.run(errand);
            actor.arm(ctx);
        });
    }

    fn run(&mut self, errands: impl IntoIterator<Item = Errand>) {
        for errand in errands {
            match errand {
                Errand::Log(work) => _ = self.log.send(work), // a thread that is gone has ended the process
                Errand::Store(work) => _ = self.store.send(work),
                Errand::Encode(encoding) => _ = self.encoder.send(encoding),
                Errand::Shard(shard, said) => {
                    if let Some(to) = self.replicas.all().get(&shard) {
                        to.said.do_send(LogSaid(said));
                    }
                }
                Errand::Dropped(shard) => {
                    tracing::info!(%shard, "the replica that was given up is deleted");
                    self.replicas.deleted(shard);
                }
                Errand::Room(room) => {
                    self.room.mine(!room);
                    match room {
                        true => tracing::info!("the disk has room again: taking readings"),
                        false => {
                            tracing::error!(
                                "the disk is full: gateways that have room lead its shards; where there is none, a shard takes no readings"
                            )
                        }
                    }
                    for replica in self.replicas.all().values() {
                        replica.said.do_send(LogSaid(Said::Room(room)));
                    }
                }
            }
        }
    }
}

impl Actor for LogActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        if let Some(starting) = self.starting.take() {
            let Starting { log, log_work, stores, store_work, encodings } = starting;
            let (to, me, encoded) = (ctx.address(), ctx.address(), ctx.address());
            let log_thread = std::thread::Builder::new().name("log".into());
            let store_thread = std::thread::Builder::new().name("store".into());
            let encoding_thread = std::thread::Builder::new().name("snapshots".into());
            let spawned = log_thread
                .spawn(move || keep_log(log, &log_work, &to))
                .and_then(|_| store_thread.spawn(move || keep_store(stores, &store_work, &me)))
                .and_then(|_| encoding_thread.spawn(move || encode(&encodings, &encoded)))
                .and_then(|_| match self.scrub.take() {
                    Some((scrubber, bytes_per_s)) => {
                        scrub::start(scrubber, bytes_per_s, self.log.clone(), self.store.clone())
                    }
                    None => Ok(()),
                });
            if let Err(e) = spawned {
                end_process(&format!("can't start the log's thread: {e}"));
            }
        }
        // A crash may have left something of the replicas that were given up.
        for (shard, gone) in self.replicas.all_given_up() {
            let errands = self.desk.give_up(shard, gone.through);
            self.run(errands);
        }
        pulse::every(ctx, LOOK_MS, |actor| {
            let _ = actor.log.send(LogWork::Look);
        });
    }
}

impl Handler<ReplicaMade> for LogActor {
    type Result = ();
    fn handle(&mut self, ReplicaMade { shard, silent_until }: ReplicaMade, _: &mut Self::Context) {
        let room = Said::Room(self.desk.figures().room);
        self.run([Errand::Log(LogWork::Add { shard, silent_until }), Errand::Shard(shard, room)]);
    }
}

impl Handler<Forget> for LogActor {
    type Result = ();
    fn handle(&mut self, Forget { shard, through }: Forget, _: &mut Self::Context) {
        let errands = self.desk.give_up(shard, through);
        self.run(errands);
    }
}

impl Handler<Persist> for LogActor {
    type Result = ();
    fn handle(&mut self, Persist(request): Persist, ctx: &mut Self::Context) {
        let errand = self.desk.persist(self.now_ms(), request);
        self.run(errand);
        self.arm(ctx);
    }
}

impl Handler<Store> for LogActor {
    type Result = ();
    fn handle(&mut self, Store(work): Store, _: &mut Self::Context) {
        let errands = self.desk.store(self.now_ms(), work);
        self.run(errands);
    }
}

impl Handler<Healed> for LogActor {
    type Result = ();
    fn handle(&mut self, Healed(shard): Healed, _: &mut Self::Context) {
        self.run([Errand::Log(LogWork::Healed(shard))]);
    }
}

impl Handler<GetLogFigures> for LogActor {
    type Result = MessageResult<GetLogFigures>;
    fn handle(&mut self, _: GetLogFigures, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.desk.figures())
    }
}

impl Handler<WorkDone> for LogActor {
    type Result = ();
    fn handle(&mut self, WorkDone(done): WorkDone, ctx: &mut Self::Context) {
        count(&done);
        let errands = self.desk.done(self.now_ms(), done);
        self.run(errands);
        self.arm(ctx);
    }
}

/// Counts what scrubs found, and what was mended.
fn count(done: &Done) {
    let fault = |what: FileKind, count: usize| {
        metrics::counter!("selvedge_scrub_faults_total", "what" => what.name()).increment(count as u64);
    };
    match done {
        Done::RottenBatches(_, seqs) => fault(FileKind::Batch, seqs.len()),
        Done::RottenSnapshot(_) => fault(FileKind::Snapshot, 1),
        Done::RottenSegment(_) => fault(FileKind::Segment, 1),
        Done::Mended(what) => {
            metrics::counter!("selvedge_scrub_mended_total", "what" => what.name()).increment(1);
        }
        _ => {}
    }
}

fn keep_log(mut log: LogKeeper, work: &Receiver<LogWork>, to: &Addr<LogActor>) {
    while let Ok(next) = work.recv() {
        match log.perform(next) {
            Ok(done) => done.into_iter().for_each(|done| to.do_send(WorkDone(done))),
            Err(e) => end_process(&format!("keeping the log: {e}")),
        }
    }
}

fn keep_store(mut stores: Stores, work: &Receiver<StoreWork>, to: &Addr<LogActor>) {
    while let Ok(next) = work.recv() {
        match stores.perform(next) {
            Ok(done) => done.into_iter().for_each(|done| to.do_send(WorkDone(done))),
            Err(e) => end_process(&format!("saving a snapshot: {e}")),
        }
    }
}

fn encode(encodings: &Receiver<Encoding>, to: &Addr<LogActor>) {
    while let Ok(encoding) = encodings.recv() {
        let (shard, work) = encoding.perform();
        to.do_send(WorkDone(Done::Encoded(shard, work)));
    }
}
