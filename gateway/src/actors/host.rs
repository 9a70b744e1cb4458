//! The host of replicas: gives this gateway a replica of each shard that moves to it while it runs, and takes those away that
//! have left their shard.
//!
//! The new replica is empty and learns ([`new_replica`]). The log and the switch hear of it before it takes its first
//! turn: the log must know it before its first record is on disk, and it needs what the other replicas were told over
//! time, namely which gateways are up, whose clocks are outside, whose disks are full, and whether there is room here.
//!
//! A replica that is given up hands its last words to the log and falls silent. Then it leaves the list of replicas, so
//! that nobody sends to it any more, nor takes its end for a crash; messages of peers for its shard are dropped as for any
//! shard that is not here. The log marks it and the store deletes its files ([`selvedge_log::storage`]). Until that is done
//! the shard gets no other replica here.

use crate::actors::messages::host::{DropReplica, HoldReplica, ReplicaMade};
use crate::actors::messages::shard::GiveUp;
use crate::actors::messages::steward::ReplicaDropped;
use crate::actors::replicas::{ReplicaWays, Replicas};
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Recipient, WrapFuture};
use selvedge_fabric::configuration::DIRECTORY_GROUP;
use selvedge_fabric::replica::Replica;
use selvedge_fabric::ring::Ring;
use selvedge_fabric::steward::AGAIN_MS;
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_log::storage::{ReplicaSettings, new_replica};
use selvedge_types::ids::{GatewayId, ShardId};
use std::sync::Arc;
use std::time::Duration;

/// Starts the actor of a replica on the caller's thread.
pub type StartReplica = Box<dyn Fn(ShardId, Replica) -> ReplicaWays>;

/// The ways out of the host.
pub struct HostWays {
    pub start: StartReplica,
    /// To the log: a replica that it serves from now on.
    pub log: Recipient<ReplicaMade>,
    /// To the switch: a replica that must hear how the other gateways are.
    pub switch: Recipient<ReplicaMade>,
    /// To the steward: a replica that was given up.
    pub steward: Recipient<ReplicaDropped>,
}

/// Makes replicas while the gateway runs.
pub struct ReplicaHost {
    pub me: GatewayId,
    /// The ring with which the site began: it names the members of each shard's first configuration.
    pub ring: Arc<Ring>,
    pub settings: ReplicaSettings,
    /// Whether every replica that was ever here has a mark. If not, one that has none may be lost together with its votes.
    pub marks_are_complete: bool,
    pub replicas: Arc<Replicas>,
    pub ways: HostWays,
    pub log_limit: SharedLogLimit,
}

impl Actor for ReplicaHost {
    type Context = Context<Self>;
}

impl Handler<HoldReplica> for ReplicaHost {
    type Result = ();
    fn handle(&mut self, HoldReplica { shard, configuration }: HoldReplica, ctx: &mut Self::Context) {
        let earlier = self.replicas.given_up(shard);
        if self.replicas.get(shard).is_some() {
            return;
        }
        if earlier.is_some_and(|earlier| !earlier.is_deleted) {
            // The steward asks again, except for the directory, which a recovery may have given up before this start.
            if shard == DIRECTORY_GROUP {
                ctx.notify_later(HoldReplica { shard, configuration }, Duration::from_millis(AGAIN_MS));
            }
            return;
        }
        let forgotten = earlier.is_none() && !self.marks_are_complete;
        let damaged = forgotten.then(|| fastrand::u64(..));
        // The earlier replica voted in no configuration behind the one in which it was given up.
        let configuration = earlier.map_or(configuration, |earlier| earlier.through);
        let replica = match new_replica(self.me, shard, &self.ring, &self.settings, configuration, damaged) {
            Ok(replica) => replica,
            Err(e) => {
                if let Some(left_out) = self.log_limit.note("replica") {
                    tracing::error!(%shard, "can't take on a replica: {e}{left_out}");
                }
                return;
            }
        };
        tracing::info!(%shard, configuration, "taking on a replica, which learns until it becomes a member");
        // The actor shares this thread, so it takes no turn before this handler returns.
        let ways = (self.ways.start)(shard, replica);
        self.replicas.add(shard, ways);
        let made = ReplicaMade { shard, silent_until: configuration };
        self.ways.log.do_send(made);
        self.ways.switch.do_send(made);
    }
}

impl Handler<DropReplica> for ReplicaHost {
    type Result = ();
    fn handle(&mut self, DropReplica { shard, configuration }: DropReplica, ctx: &mut Self::Context) {
        let Some(replica) = self.replicas.get(shard) else { return };
        let gives_up = replica.give_up.send(GiveUp { configuration });
        ctx.wait(gives_up.into_actor(self).map(move |gives_up, actor, _| {
            if gives_up.unwrap_or(false) {
                tracing::info!(%shard, configuration, "the replica has left its shard: giving it up");
                actor.replicas.give_up(shard, configuration);
                actor.ways.steward.do_send(ReplicaDropped(shard));
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::messages::shard::{GetStatus, LoadBatch, LogSaid, ShardEvents, ShardReport};
    use selvedge_fabric::machine::CountingRules;
    use selvedge_fabric::ring::Member;
    use selvedge_fabric::shard::Now;
    use selvedge_fabric::site_state::ReplicaRole;
    use selvedge_types::time::EpochMs;
    use std::sync::Mutex;

    const ME: GatewayId = GatewayId(1);
    const NONE: ShardId = ShardId(u16::MAX);
    /// The replica gives itself up in this configuration or a later one.
    const GIVES_UP_IN: u32 = 5;
    const NOW: Now = Now { mono_ms: 1, wall: EpochMs(1_764_000_000_000), sure: true };

    /// What happened: which replica started, and who heard of it.
    type Heard = Arc<Mutex<Vec<String>>>;

    /// Stands for the actors around the host. Notes what reaches it.
    struct Around {
        name: &'static str,
        heard: Heard,
        replicas: Arc<Replicas>,
    }

    impl Actor for Around {
        type Context = Context<Self>;
    }

    impl Handler<ReplicaMade> for Around {
        type Result = ();
        fn handle(&mut self, ReplicaMade { shard, silent_until }: ReplicaMade, _: &mut Self::Context) {
            let listed = self.replicas.get(shard).is_some();
            let line = format!("{} hears of {shard} until {silent_until}, listed: {listed}", self.name);
            self.heard.lock().unwrap().push(line);
        }
    }

    impl Handler<ReplicaDropped> for Around {
        type Result = ();
        fn handle(&mut self, ReplicaDropped(shard): ReplicaDropped, _: &mut Self::Context) {
            let listed = self.replicas.get(shard).is_some();
            self.heard
                .lock()
                .unwrap()
                .push(format!("{} hears that {shard} is gone, listed: {listed}", self.name));
        }
    }

    impl Handler<GiveUp> for Around {
        type Result = bool;
        fn handle(&mut self, GiveUp { configuration }: GiveUp, _: &mut Self::Context) -> bool {
            configuration >= GIVES_UP_IN
        }
    }

    impl Handler<ShardEvents> for Around {
        type Result = ();
        fn handle(&mut self, _: ShardEvents, _: &mut Self::Context) {}
    }

    impl Handler<LogSaid> for Around {
        type Result = ();
        fn handle(&mut self, _: LogSaid, _: &mut Self::Context) {}
    }

    impl Handler<LoadBatch> for Around {
        type Result = ();
        fn handle(&mut self, _: LoadBatch, _: &mut Self::Context) {}
    }

    impl Handler<GetStatus> for Around {
        type Result = ShardReport;
        fn handle(&mut self, _: GetStatus, _: &mut Self::Context) -> ShardReport {
            unreachable!("nobody asks")
        }
    }

    fn ring() -> Ring {
        let members: Vec<_> = (1..=5).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
        Ring::new(8, &members, 3).unwrap()
    }

    fn elsewhere() -> Vec<ShardId> {
        (0..8).map(ShardId).filter(|shard| !ring().replicas(*shard).contains(&ME)).collect()
    }

    fn host(heard: &Heard, marks_are_complete: bool) -> ReplicaHost {
        let replicas = Arc::new(Replicas::default());
        let around = |name| Around { name, heard: heard.clone(), replicas: replicas.clone() }.start();
        let (started, replica) = (heard.clone(), around("the replica"));
        let start = move |shard: ShardId, made: Replica| {
            let role = made.core().status(NOW).role;
            let votes = made.core().consensus().config().members.contains(&ME);
            started.lock().unwrap().push(format!("{shard} starts as {role:?}, votes: {votes}"));
            ReplicaWays {
                events: replica.clone().recipient(),
                said: replica.clone().recipient(),
                load: replica.clone().recipient(),
                status: replica.clone().recipient(),
                give_up: replica.clone().recipient(),
            }
        };
        let settings = ReplicaSettings {
            rules: Arc::new(CountingRules::default()),
            limits: selvedge_paxos::Limits::default(),
            outbox_budget_bytes: 1 << 20,
            incarnation: 1,
            shelf_bytes: 1 << 10,
            is_witness: false,
        };
        ReplicaHost {
            me: ME,
            ring: Arc::new(ring()),
            settings,
            marks_are_complete,
            replicas: replicas.clone(),
            ways: HostWays {
                start: Box::new(start),
                log: around("the log").recipient(),
                switch: around("the switch").recipient(),
                steward: around("the steward").recipient(),
            },
            log_limit: SharedLogLimit::default(),
        }
    }

    /// Orders these replicas one after the other. Returns what happened, and the shards that are listed in the end.
    fn hold(marks_are_complete: bool, shards: &[ShardId]) -> (Vec<String>, Vec<ShardId>) {
        actix::System::new().block_on(async {
            let heard = Heard::default();
            let host = host(&heard, marks_are_complete);
            let (replicas, log, switch) =
                (host.replicas.clone(), host.ways.log.clone(), host.ways.switch.clone());
            let host = host.start();
            for shard in shards {
                host.send(HoldReplica { shard: *shard, configuration: 2 }).await.unwrap();
            }
            // Mailboxes keep their order: when this is handled, so is all that the host sent.
            log.send(ReplicaMade { shard: NONE, silent_until: 0 }).await.unwrap();
            switch.send(ReplicaMade { shard: NONE, silent_until: 0 }).await.unwrap();
            let mut heard = heard.lock().unwrap().clone();
            heard.retain(|line| !line.contains(&format!("of {NONE} ")));
            heard.sort();
            (heard, replicas.all().keys().copied().collect())
        })
    }

    #[test]
    fn a_replica_is_made_once_and_the_log_and_the_switch_hear_of_it() {
        let [one, two, ..] = elsewhere()[..] else { panic!("this gateway holds nearly all shards") };
        let (heard, listed) = hold(true, &[one, one, two, one]);
        let told = |shard| {
            // Until the directory names it as a learner.
            let starts = format!("{shard} starts as {:?}, votes: false", ReplicaRole::Retired);
            let hears = |name| format!("{name} hears of {shard} until 2, listed: true");
            [starts, hears("the log"), hears("the switch")]
        };
        let mut due = [told(one), told(two)].concat();
        due.sort();
        assert_eq!(heard, due);
        assert_eq!(listed, [one, two]);
    }

    #[test]
    fn a_replica_that_may_follow_a_lost_one_is_made_as_a_damaged_one() {
        let shard = elsewhere()[0];
        let (heard, _) = hold(false, &[shard]);
        assert!(heard.contains(&format!("{shard} starts as {:?}, votes: false", ReplicaRole::Damaged)));
    }

    #[test]
    fn a_replica_leaves_the_list_when_it_gives_itself_up_and_comes_back_only_after_its_data_is_deleted() {
        actix::System::new().block_on(async {
            let (heard, shard) = (Heard::default(), elsewhere()[0]);
            let host = host(&heard, true);
            let (replicas, log) = (host.replicas.clone(), host.ways.log.clone());
            let host = host.start();
            let hold = |configuration| host.send(HoldReplica { shard, configuration });
            let drop = |configuration| host.send(DropReplica { shard, configuration });
            drop(GIVES_UP_IN).await.unwrap(); // there is none
            hold(2).await.unwrap();
            drop(GIVES_UP_IN - 1).await.unwrap();
            hold(2).await.unwrap(); // the mailbox waits for the replica's answer
            assert!(replicas.get(shard).is_some(), "the replica refuses");
            let ways = replicas.get(shard).unwrap();
            drop(GIVES_UP_IN).await.unwrap();
            hold(2).await.unwrap();
            assert!(replicas.get(shard).is_none(), "it is not deleted yet");
            assert!(ways.events.connected());
            replicas.deleted(shard);
            hold(2).await.unwrap();
            assert!(replicas.get(shard).is_some());
            log.send(ReplicaMade { shard: NONE, silent_until: 0 }).await.unwrap();
            let mut lines = heard.lock().unwrap().clone();
            lines.retain(|line| line.starts_with("the log hears of") || line.starts_with("the steward"));
            lines.retain(|line| !line.contains(&NONE.to_string()));
            let due = [
                format!("the log hears of {shard} until 2, listed: true"),
                format!("the steward hears that {shard} is gone, listed: false"),
                format!("the log hears of {shard} until {GIVES_UP_IN}, listed: true"),
            ];
            assert_eq!(lines, due);
        });
    }

    #[test]
    fn a_shard_that_the_site_does_not_have_gets_no_replica() {
        assert_eq!(hold(true, &[ShardId(8)]), (vec![], vec![]));
    }
}
