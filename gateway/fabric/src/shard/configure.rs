//! How a replica goes from one configuration to the next.
//!
//! **A stop is applied.** The machine then names the next configuration, which begins after the stop's slot with a [`Consensus`] of its own: ballots,
//! promises and votes of the one before mean nothing in it. If this gateway is no member, it becomes a learner that nobody sends
//! anything, unless the directory has it learn: the replica is *retired*, writes and votes nothing any more, and keeps its state
//! until the host drops it, which it may do when a leader of a later configuration serves: before, this replica may be the only one that
//! knows that the stop is chosen. A leader's pending batches and questions are answered as at any loss of leadership.
//!
//! **On disk** the first record of a configuration says that it begins ([`KIND_CONFIGURATION`](super::KIND_CONFIGURATION)). It comes behind the stop and the
//! record that this is chosen, and nothing of the configuration leaves before it is on disk. Before that, a restart comes up in the
//! configuration before, finds the stop, and goes on from there.
//!
//! **The group before** stays as long as it has something to say: a leader tells its followers that the stop is chosen. It writes nothing
//! any more. Its records would count for nothing after a restart, which begins in the later configuration, and in the log the newest
//! promise of a group replaces the one before: it must be one of the configuration that counts. Promises that this group still
//! makes need no record: each says that everything up to the stop is chosen, which is on disk, and no ballot chooses anything else.
//!
//! **Silence.** A retired replica may be dropped, and the directory may want one at the same gateway again later. That one knows nothing of what its
//! predecessor promised, nor in which configurations; a laggard of one of those and the new replica could be a majority there, and choose another value than the
//! stop. So a replica that is made after the shard began is told the present configuration, and votes in none up to it
//! ([`FoundReplica::learner`](super::FoundReplica::learner)).
//!
//! **Who is behind** learns it from any message. A message of a configuration that is over is answered by
//! [`PeerMessage::Superseded`], never dropped in silence; a message of a later configuration, and that answer, have the receiver fetch from their sender what
//! it lacks ([`super::transfer`]). Whatever replica has it gives it, leader or not, retired or not. Whoever comes back is told of the present configuration without
//! asking, if it is a member of it or was one of the configuration before: the only member of a configuration may be one that does not know
//! of it. Later configurations do not concern a retired replica, and nobody tells it of them.
//!
//! Invariant: a replica's configuration is that of its machine, once all that a restart has found is applied.
//! Invariant: in the log, all of a configuration stands behind its beginning, and nothing but state records that were carried forward is behind the
//! beginning of a later one.
//! Invariant: a replica that may have lost votes is damaged in each configuration that it comes through, until one of them repairs it.
//! Limits: one group beside the present one. To each peer, one answer in a turn, and only if something came from it.

use super::transfer::Receiving;
use super::{Now, ShardCore, recover};
use crate::configuration::{Configuration, FIRST_CONFIGURATION, is_stop};
use crate::machine::Halt;
use crate::peer::{PeerMessage, QueryAnswer};
use selvedge_paxos::{
    ConfigError, Consensus, Event, GroupConfig, Limits, MAX_LEARNERS, Message, PaxosEffects, Recovered, Role,
    Slot,
};
use selvedge_types::ids::{GatewayId, ShardId};

/// The group of a configuration that is over.
#[derive(Debug)]
pub(super) struct Group {
    number: u32,
    pub(super) consensus: Consensus,
    place: Place,
    /// Those that have said that they are in a later configuration.
    moved_on: Vec<GatewayId>,
}

/// Where a group stands in what this replica writes. Tokens of a group count from 0, those of the replica go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The replica's token at which the group began: that of the record that says so.
    began: u64,
    /// The replica's last token.
    last: u64,
    /// The highest token that is on disk.
    durable: u64,
    /// The slot through which everything was chosen when the group was made.
    made_at: Slot,
    /// Where the log shows what was chosen, as far as the groups before wrote it in this process.
    logged_after: Slot,
}

impl Place {
    /// That of a group that a process begins with.
    pub(super) fn of(consensus: &Consensus) -> Self {
        let made_at = consensus.commit();
        Self { began: 0, last: 0, durable: 0, made_at, logged_after: made_at }
    }

    /// The replica's token for a group's token.
    pub(super) fn token(&mut self, token: u64) -> u64 {
        self.last = self.last.max(self.began + token);
        self.last
    }

    /// Whether it is on disk that the group began.
    pub(super) fn is_durable(&self) -> bool {
        self.durable >= self.began
    }
}

/// What of a group is the same in all its configurations.
pub(super) struct Who<'a> {
    pub shard: ShardId,
    pub me: GatewayId,
    pub learners: &'a [GatewayId],
    pub limits: &'a Limits,
}

impl Who<'_> {
    /// The group in a configuration. A member that does not vote takes part as a learner, which gets what others have chosen, and leads nobody.
    pub(super) fn recover(
        &self,
        configuration: &Configuration,
        found: Recovered,
        votes: bool,
    ) -> Result<Consensus, ConfigError> {
        let Configuration { number, mut members, mut witnesses, base, .. } = configuration.clone();
        if !votes {
            members.retain(|m| *m != self.me);
            witnesses.clear();
            if members.is_empty() {
                // Nobody can lead it any more, and a group has members.
                members.push(GatewayId(u16::from(self.me == GatewayId(0))));
            }
        }
        let mut learners: Vec<_> = (!members.contains(&self.me)).then_some(self.me).into_iter().collect();
        for learner in self.learners {
            if learners.len() < MAX_LEARNERS && !members.contains(learner) && !learners.contains(learner) {
                learners.push(*learner);
            }
        }
        let group = GroupConfig::new(self.shard, self.me, members, self.limits.clone());
        let group = GroupConfig { configuration: number, witnesses, learners, base, is_stop, ..group };
        Consensus::recover(group, found)
    }
}

impl ShardCore {
    /// Whether this gateway has no part in the present configuration any more.
    pub fn is_retired(&self) -> bool {
        !self.configuration.has_member(self.me) && !self.learners.contains(&self.me)
    }

    /// The log shows what was chosen above this slot, as far as this process has written it.
    pub(super) fn logged_after(&self) -> Option<Slot> {
        let after = self.consensus.logged_after()?;
        Some(if after == self.place.made_at { self.place.logged_after } else { after })
    }

    pub(super) fn on_paxos(&mut self, now: Now, from: GatewayId, configuration: u32, message: Message) {
        let event = Event::Message { from, message };
        let present = self.configuration.number;
        if configuration == present {
            self.consensus.step(now.mono_ms, event);
        } else if configuration > present {
            self.catch_up(now, from);
        } else if self.previous.as_ref().is_some_and(|group| group.number == configuration) {
            self.step_previous(now, event);
        } else {
            self.superseded.insert(from);
        }
    }

    pub(super) fn on_superseded(&mut self, now: Now, from: GatewayId, configuration: u32) {
        if configuration > self.configuration.number {
            return self.catch_up(now, from);
        }
        let up = self.known_up.clone();
        let Some(previous) = &mut self.previous else { return };
        if configuration > previous.number && !previous.moved_on.contains(&from) {
            previous.moved_on.push(from);
            self.tell_previous(now, up, Vec::new());
        }
    }

    /// Somebody is in a later configuration: what this replica lacks is fetched there.
    fn catch_up(&mut self, now: Now, from: GatewayId) {
        if from == self.me || self.consensus.stopped().is_some() {
            return; // it is about to go on by itself
        }
        if self.consensus.role() == Role::Leader {
            self.consensus.step(now.mono_ms, Event::StepDown);
        }
        if self.receiving.is_none() {
            self.receiving = Some(Receiving::new(now, from));
            self.pull(now);
        }
    }

    pub(super) fn on_peers(&mut self, now: Now, up: Vec<GatewayId>, restarted: Vec<GatewayId>) {
        // Who was away may believe in a leader of a configuration that is over, or not know that it is a member.
        let known = &self.known_up;
        let fresh = |g: &GatewayId| !known.contains(g) || restarted.contains(g);
        let fresh: Vec<_> = up.iter().copied().filter(fresh).collect();
        if self.configuration.number > FIRST_CONFIGURATION {
            let concerned = |g: &&GatewayId| self.former.contains(g) || self.configuration.has_member(**g);
            self.superseded.extend(fresh.iter().filter(concerned));
        }
        if let Some(previous) = &mut self.previous {
            previous.moved_on.retain(|g| !fresh.contains(g));
        }
        self.known_up.clone_from(&up);
        self.tell_previous(now, up.clone(), restarted.clone());
        let up = if self.is_retired() { Vec::new() } else { up };
        self.consensus.step(now.mono_ms, Event::Peers { up, restarted });
    }

    /// The group before no longer sees those that have moved on.
    fn tell_previous(&mut self, now: Now, mut up: Vec<GatewayId>, restarted: Vec<GatewayId>) {
        if let Some(previous) = &mut self.previous {
            up.retain(|g| !previous.moved_on.contains(g));
            previous.consensus.step(now.mono_ms, Event::Peers { up, restarted });
        }
    }

    pub(super) fn step_previous(&mut self, now: Now, event: Event) {
        if let Some(previous) = &mut self.previous {
            previous.consensus.step(now.mono_ms, event);
        }
    }

    pub(super) fn on_learners(&mut self, now: Now, mut learners: Vec<GatewayId>) {
        learners.truncate(MAX_LEARNERS);
        let was_retired = self.is_retired();
        self.learners.clone_from(&learners);
        self.consensus.step(now.mono_ms, Event::Learners(learners));
        if self.is_retired() != was_retired {
            let up = if self.is_retired() { Vec::new() } else { self.known_up.clone() };
            self.consensus.step(now.mono_ms, Event::Peers { up, restarted: Vec::new() });
        }
    }

    /// Everything up to this token is on disk.
    pub(super) fn persisted(&mut self, now: Now, token: u64) {
        self.place.durable = self.place.durable.max(token.min(self.place.last));
        let persisted = |began: u64| token.checked_sub(began).map(|token| Event::Persisted { token });
        if let Some(event) = persisted(self.place.began) {
            self.consensus.step(now.mono_ms, event);
        }
        let began = self.previous.as_ref().map(|group| group.place.began);
        if let Some(event) = began.and_then(persisted) {
            self.step_previous(now, event);
        }
    }

    /// Goes on in the configuration that the machine names: it has applied the stop of the present one, or was replaced by a snapshot of a
    /// later one. Gives false if that is the present one.
    pub(super) fn begin_next(&mut self, now: Now) -> Result<bool, Halt> {
        let Some(next) = self.machine.configuration().filter(|c| c.number > self.configuration.number) else {
            return Ok(false);
        };
        let next = next.clone();
        let (shard, me, slot) = (self.id, self.me, self.machine.slot());
        let damaged = self.nonce;
        let found = Recovered { snapshot_slot: slot, damaged, ..Recovered::default() };
        let who = Who { shard, me, learners: &self.learners, limits: &self.limits };
        let made = match who.recover(&next, found.clone(), next.number > self.silent_until) {
            // Too few others are left to be repaired by, so it can't vote there.
            Err(ConfigError::DamagedAlone { .. }) => who.recover(&next, found, false),
            made => made,
        };
        let halt =
            |e: ConfigError| Halt::Configuration { shard, configuration: next.number, why: e.to_string() };
        let consensus = made.map_err(halt)?;

        self.stop_leading(None);
        let asked = std::mem::take(&mut self.asked);
        for (to, id, _) in asked.into_values() {
            self.answer(to, id, QueryAnswer::NotLeader { leader: None });
        }
        self.tail.clear();
        self.tail_bytes = 0;

        let (began, durable, logged_after) = (self.place.last + 1, self.place.durable, self.logged_after());
        let place = Place { began, last: began, durable, ..Place::of(&consensus) };
        let place = std::mem::replace(&mut self.place, place);
        let old = std::mem::replace(&mut self.consensus, consensus);
        let before = std::mem::replace(&mut self.configuration, next.clone());
        self.former = before.members;
        self.previous = None;
        if old.stopped() == Some(slot) {
            // What this process has written of the configuration before shows what was chosen there.
            self.place.logged_after = logged_after.unwrap_or(self.place.made_at);
            let number = before.number;
            self.previous = Some(Group { number, consensus: old, place, moved_on: Vec::new() });
        }
        self.out.token = began;
        self.out.records.push(recover::configuration(shard, &next));
        if damaged.is_some() {
            self.out.records.push(recover::begun_anew(shard, next.number, slot));
        }
        self.hand_back.configured(now, &next);
        if self.is_retired() {
            self.receiving = None;
        } else {
            let up = self.known_up.clone();
            self.consensus.step(now.mono_ms, Event::Peers { up, restarted: Vec::new() });
        }
        self.consensus.step(now.mono_ms, Event::Reluctant(self.hand_back.reluctant()));
        self.consensus.step(now.mono_ms, Event::Room(self.room));
        self.out.configured = Some(next);
        self.pull(now);
        Ok(true)
    }

    /// Takes what the group before has to say; false if it said something. It goes once it has nothing more to say.
    pub(super) fn previous_is_quiet(&mut self) -> bool {
        let Some(previous) = &mut self.previous else { return true };
        let PaxosEffects { send, send_after, behind, .. } = previous.consensus.take();
        let (group, configuration) = (self.id, previous.number);
        if previous.consensus.deadline().is_none() {
            self.previous = None;
        }
        let quiet = send.is_empty() && send_after.is_empty() && behind.is_empty();
        let wrap = |(to, message)| (to, PeerMessage::Paxos { group, configuration, message });
        self.out.send.extend(send.into_iter().map(wrap));
        self.out.send_after.extend(send_after.into_iter().map(wrap));
        for to in behind {
            self.invite(to);
        }
        quiet
    }

    /// Answers those whose configuration is over.
    pub(super) fn tell_superseded(&mut self) {
        let (shard, configuration) = (self.id, self.configuration.number);
        for to in std::mem::take(&mut self.superseded) {
            self.out.send.push((to, PeerMessage::Superseded { shard, configuration }));
        }
    }
}
