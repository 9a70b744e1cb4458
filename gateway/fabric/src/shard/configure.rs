//! How a replica moves from one configuration to the next.
//!
//! # Applying a stop
//!
//! When the machine has applied a stop, it names the next configuration, which begins after the stop's slot. The core
//! makes a new [`Consensus`] for it: ballots, promises and votes of the earlier configuration mean nothing in the later
//! one. A leader answers its pending batches and questions as at any loss of leadership, and names the members of the
//! next configuration.
//!
//! If this gateway is neither a member of the next configuration nor a learner that the directory names, its replica is
//! *retired*: a learner to which no replica sends anything. It records that the configuration begins, and after that it
//! writes nothing and casts no votes. It keeps its state until its host drops it. It answers batches and all questions
//! about windows, including stale ones, with the members of the configuration that it has no part in, so that whoever
//! sends to it goes on there. The host gives it up when every member of a later configuration is in it (see
//! [`crate::steward`]). Before that, this replica may be the only one that knows that the stop is chosen, or a member may
//! still have to fetch the state from it.
//!
//! # On disk
//!
//! The first record of a later configuration states that it begins ([`KIND_CONFIGURATION`](super::KIND_CONFIGURATION)).
//! It follows the stop and the record that the stop is chosen, and the replica sends nothing of the configuration until
//! this record is on disk. A process that restarts before that comes up in the earlier configuration, finds the stop,
//! and continues from there.
//!
//! # The group of the earlier configuration
//!
//! The core keeps that group as long as it has messages to send: its leader tells the followers that the stop is
//! chosen. The group writes no more records. A restart begins in the later configuration, where they would not count.
//! And in the log, a group's newest promise replaces the promises before it, so the newest must belong to the
//! configuration that counts. A promise that the earlier group still makes needs no record: it states that everything
//! up to the stop is chosen, which is on disk, and no ballot can choose anything else.
//!
//! # A new replica on a gateway that had one before
//!
//! After the host has given a retired replica up, the directory may want a replica on the same gateway again. The new
//! one does not know what its predecessor promised, or in which configurations. Together with a replica that is still
//! behind in one of those, it could form a majority there and choose another value than the stop. So a replica that is
//! made after its shard began receives the number of the present configuration, and votes in no configuration up to
//! that one ([`FoundReplica::learner`](super::FoundReplica::learner)).
//!
//! # Replicas that are behind
//!
//! Messages carry the number of their configuration, so any message shows which of the two replicas is behind. A
//! replica never silently drops a message of a configuration that is over: the group of that configuration takes it, if
//! the core still keeps that group, and otherwise the replica answers [`PeerMessage::Superseded`]. A replica that
//! receives this answer, or a message of a later configuration, fetches what it lacks from the sender
//! ([`super::transfer`]). Every replica that has the data supplies it, also one that does not lead or is retired.
//!
//! When a peer comes back, a replica sends it the number of the present configuration without being asked, if the peer
//! is a member of the present configuration or was one of the configuration before. Otherwise the only member of a
//! configuration might never learn that it is a member. Later configurations do not concern a retired replica, and no
//! replica announces them to it.
//!
//! # Invariants and limits
//!
//! Invariant: a replica's configuration is that of its machine, once the machine has applied everything that a restart
//! found.
//! Invariant: in the log, all records of a later configuration follow the record of its beginning. Behind the beginning
//! of the next configuration stand only those of its state records that trimming carried forward.
//! Invariant: a replica that may have lost votes is damaged in each configuration that it passes through, until one of
//! them repairs it.
//! Limits: the core keeps one earlier group beside the present one. In each turn it sends at most one
//! [`PeerMessage::Superseded`] to each peer, and only to peers that sent something or came back.

use super::transfer::Receiving;
use super::{Now, ShardCore, recover};
use crate::configuration::{Configuration, FIRST_CONFIGURATION, is_stop};
use crate::machine::Halt;
use crate::peer::PeerMessage;
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
    /// The replicas that answered that they are in a later configuration.
    moved_on: Vec<GatewayId>,
}

/// The position of a group in the sequence of this replica's writes. The tokens of each group start at 0; those of the
/// replica continue across groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The replica's token for the record of the configuration's beginning; 0 for the first group of a process.
    began: u64,
    /// The last token that the replica gave out.
    last: u64,
    /// The highest of the replica's tokens whose writes are on disk.
    durable: u64,
    /// The group's commit index when it was made.
    made_at: Slot,
    /// Above this slot, the log shows what was chosen, by the records that earlier groups of this process wrote.
    logged_after: Slot,
}

impl Place {
    /// The position of the group with which a process begins.
    pub(super) fn of(consensus: &Consensus) -> Self {
        let made_at = consensus.commit();
        Self { began: 0, last: 0, durable: 0, made_at, logged_after: made_at }
    }

    /// Converts a token of the group to the replica's.
    pub(super) fn token(&mut self, token: u64) -> u64 {
        self.last = self.last.max(self.began + token);
        self.last
    }

    /// Whether the record of the configuration's beginning is on disk.
    pub(super) fn is_durable(&self) -> bool {
        self.durable >= self.began
    }
}

/// The parts of a group's set-up that are the same in all configurations.
pub(super) struct Who<'a> {
    pub shard: ShardId,
    pub me: GatewayId,
    pub learners: &'a [GatewayId],
    pub limits: &'a Limits,
}

impl Who<'_> {
    /// Makes the group of a configuration. A member that must not vote (`votes` is false) takes part as a learner: it
    /// receives what the others choose, and never leads.
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
                // A group must have a member. This placeholder never speaks, so the group has no leader.
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
    /// Whether this gateway is neither a member of the present configuration nor a learner.
    pub fn is_retired(&self) -> bool {
        !self.configuration.has_member(self.me) && !self.learners.contains(&self.me)
    }

    /// Whether a snapshot, made here or fetched, is being made durable.
    pub fn saves_snapshot(&self) -> bool {
        self.saving.is_some()
    }

    /// The slot above which the log shows what was chosen, by the records that this process wrote. `None` while
    /// the replica is damaged.
    pub(super) fn logged_after(&self) -> Option<Slot> {
        let after = self.consensus.logged_after()?;
        if let Some(base) = &self.base {
            return Some(base.slot);
        }
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

    /// Fetches what this replica lacks from a replica that is in a later configuration.
    fn catch_up(&mut self, now: Now, from: GatewayId) {
        if from == self.me || self.consensus.stopped().is_some() {
            return; // this replica has the stop and will apply it
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
        // A replica that was away may still follow the leader of an ended configuration, or not know that it is a
        // member.
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

    /// Tells the earlier group which peers are up, without those that have moved on to a later configuration.
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

    /// Reports to each group that its writes up to this token of the replica are on disk.
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

    /// Begins the configuration that the machine names, if that is later than the present one: the machine has applied
    /// the stop, or a snapshot of a later configuration has replaced it. Returns whether a configuration has begun.
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
            // Too few other members are left to repair this damaged replica, so it must not vote there.
            Err(ConfigError::DamagedAlone { .. }) => who.recover(&next, found, false),
            made => made,
        };
        let halt =
            |e: ConfigError| Halt::Configuration { shard, configuration: next.number, why: e.to_string() };
        let consensus = made.map_err(halt)?;

        // Who asked learns where the shard is now.
        let before = std::mem::replace(&mut self.configuration, next.clone());
        self.stop_leading(None);
        let asked = std::mem::take(&mut self.asked);
        for (to, id, _) in asked.into_values() {
            self.answer_not_leader(to, id, None);
        }
        self.tail.clear();
        self.tail_bytes = 0;

        let (began, durable, logged_after) = (self.place.last + 1, self.place.durable, self.logged_after());
        let place = Place { began, last: began, durable, ..Place::of(&consensus) };
        let place = std::mem::replace(&mut self.place, place);
        let old = std::mem::replace(&mut self.consensus, consensus);
        self.former = before.members;
        self.previous = None;
        if old.stopped() == Some(slot) {
            // The records that this process wrote in the earlier configuration show what was chosen there.
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
        if let Some(base) = &mut self.base {
            base.configured();
        }
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

    /// Sends the messages of the earlier group. Returns false if there were any. Drops the group when it waits for
    /// nothing more.
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

    /// Tells the peers that have gathered in `superseded` which configuration is the present one.
    pub(super) fn tell_superseded(&mut self) {
        let (shard, configuration) = (self.id, self.configuration.number);
        for to in std::mem::take(&mut self.superseded) {
            self.out.send.push((to, PeerMessage::Superseded { shard, configuration }));
        }
    }
}
