//! One replica of one group: joins voter, candidate and leader behind one `step`.

use super::acceptor::Acceptor;
use super::config::{ConfigError, GroupConfig, MAX_LEARNERS, Members, Recovered};
use super::effects::{Event, PaxosEffects, ProposeError, Role};
use super::election::{Candidate, Canvass};
use super::leader::{Leader, Progress};
use super::log::{Log, weight};
use super::message::{Ballot, Entry, MAX_COUNT, Message, Slot, Value};
use super::repair::Damage;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;

/// One replica of one Paxos group. The host steps it with any number of events and proposals, then takes the
/// effects of all of them at once with [`Consensus::take`]; until then, nothing is sent and nothing is written.
#[derive(Debug, Clone)]
pub struct Consensus {
    pub(super) config: GroupConfig,
    /// This replica's rank: its position in the list of members, which the learners continue. Inside the core,
    /// replicas go by their ranks.
    pub(super) me: usize,
    pub(super) now: u64,
    pub(super) acceptor: Acceptor,
    pub(super) state: State,
    /// The leader of the promised ballot, as far as known.
    pub(super) leader: Option<usize>,
    pub(super) up: Members,
    /// All gateways that can be reached, as the host listed them last: a learner may be added later.
    reachable: Vec<GatewayId>,
    /// The members that may lead: all but the witnesses.
    may_lead: Members,
    /// The members that should lead only if no other can.
    reluctant: Members,
    pub(super) room: bool,
    /// The highest ballot that this replica has seen, its own included.
    pub(super) seen: Ballot,
    /// When to try to lead, if there is no leader until then.
    pub(super) campaign_at: u64,
    /// Attempts to lead that failed since there last was a leader.
    pub(super) attempts: u32,
    pub(super) canvasses: u64,
    pub(super) damage: Option<Damage>,
    /// This replica follows and owes its leader an Accepted.
    pub(super) owes_ack: bool,
    /// The last token that came with effects.
    pub(super) token: u64,
    /// The highest token known to be on disk.
    pub(super) persisted: u64,
    pub(super) announced_commit: Slot,
    pub(super) announced_stop: bool,
    pub(super) logged_after: Slot,
    pub(super) effects: PaxosEffects,
}

/// What the replica is doing.
#[derive(Debug, Clone)]
pub(super) enum State {
    Following,
    Canvassing(Canvass),
    Preparing(Box<Candidate>),
    Leading(Box<Leader>),
}

impl Consensus {
    /// A replica that has never run: an empty log, nothing promised.
    ///
    /// # Errors
    /// Returns what is wrong with the configuration.
    pub fn new(config: GroupConfig) -> Result<Self, ConfigError> {
        Self::recover(config, Recovered::default())
    }

    /// A replica with the state that a restart found on disk.
    ///
    /// # Errors
    /// Returns what is wrong with the configuration or with what was found.
    pub fn recover(config: GroupConfig, found: Recovered) -> Result<Self, ConfigError> {
        config.check()?;
        let group = config.group;
        let count = config.members.len();
        let me = config.rank(config.me).unwrap_or(0);
        let absurd =
            |number| if number > MAX_COUNT { Err(ConfigError::Absurd { group, number }) } else { Ok(()) };
        absurd(found.snapshot_slot)?;
        // All slots up to the base are chosen, and the host has applied them.
        let floor = found.snapshot_slot.max(config.base);
        let mut log = Log::after(floor);
        let (mut promised, mut commit) = (Ballot::ZERO, floor);
        if found.damaged.is_some() {
            // The others must still be a majority without this one; a learner counts for none.
            if count < 3 && me < count {
                return Err(ConfigError::DamagedAlone { group, count });
            }
        } else {
            absurd(found.promised.round)?;
            promised = found.promised;
            commit = commit.max(found.commit);
            for entry in found.entries {
                absurd(entry.slot)?;
                absurd(entry.ballot.round)?;
                promised = promised.max(entry.ballot);
                if entry.slot <= floor {
                    continue;
                }
                let (wanted, slot) = (log.last() + 1, entry.slot);
                if !log.put(entry) {
                    return Err(ConfigError::Hole { group, wanted, found: slot });
                }
            }
            if commit > log.last() {
                return Err(ConfigError::CommitBeyondLog { group, commit, last: log.last() });
            }
        }
        let memory_bytes = config.limits.memory_bytes;
        Ok(Self {
            me,
            now: 0,
            acceptor: Acceptor::recover(promised, commit, log, memory_bytes, config.is_stop),
            state: State::Following,
            leader: None,
            up: Members::only(me),
            reachable: Vec::new(),
            may_lead: config.may_lead(),
            reluctant: Members::default(),
            room: true,
            seen: promised,
            campaign_at: 0,
            attempts: 0,
            canvasses: 0,
            damage: found
                .damaged
                .map(|nonce| Damage::new(nonce, Members::only(me).and(Members::first(count)))),
            owes_ack: false,
            token: 0,
            persisted: 0,
            announced_commit: floor,
            announced_stop: false,
            logged_after: commit,
            effects: PaxosEffects::default(),
            config,
        })
    }

    /// Takes in an event. `now` is the host's monotonic clock in milliseconds.
    pub fn step(&mut self, now: u64, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::Message { from, message } => {
                if let Some(rank) = self.config.rank(from)
                    && rank != self.me
                    && message.is_sound(from)
                    && (self.is_member(rank) || message.may_come_from_a_learner())
                {
                    self.hear(rank, message);
                }
            }
            Event::Peers { up, restarted } => self.peers(&up, &restarted),
            Event::Persisted { token } => self.persisted(token),
            Event::Timer => self.timer(),
            Event::Read { id } => self.read(id),
            Event::TrimMemory { through } => self.acceptor.trim(through),
            Event::Learned { from, values } => self.learn(from, values),
            Event::SnapshotInstalled { slot } => self.jump(slot),
            Event::Room(room) => self.room = room,
            Event::Reluctant(who) => {
                let mut reluctant = Members::default();
                who.iter().filter_map(|g| self.config.rank(*g)).for_each(|rank| reluctant.insert(rank));
                self.reluctant = reluctant.and(self.members());
            }
            Event::Learners(learners) => self.learners(learners),
            Event::StepDown => {
                if matches!(self.state, State::Leading(_)) && self.stopped().is_none() {
                    self.resign(self.config.limits.yield_ms);
                }
            }
        }
        if self.stopped().is_some() && matches!(self.state, State::Canvassing(_) | State::Preparing(_)) {
            self.follow(None); // nobody needs another leader in this configuration
        }
        self.check_healed();
    }

    /// Proposes a value. It is chosen when the commit index reaches the slot while the ballot is still the same;
    /// after a change of leadership its fate is unknown until some value is chosen in that slot.
    ///
    /// # Errors
    /// Returns why the value was not proposed; nothing of it is kept then.
    pub fn propose(&mut self, now: u64, value: Value) -> Result<(Ballot, Slot), ProposeError> {
        self.now = self.now.max(now);
        let limits = &self.config.limits;
        let State::Leading(leader) = &mut self.state else {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        };
        if value.len() > limits.value_bytes {
            return Err(ProposeError::TooLarge { bytes: value.len(), limit: limits.value_bytes });
        }
        if self.acceptor.stop().is_some() && !canary::makes(Canary::ProposesAfterStop) {
            return Err(ProposeError::Stopping);
        }
        if !self.room {
            return Err(ProposeError::NoRoom);
        }
        let open = self.acceptor.prefix() - self.acceptor.commit();
        let open_bytes = self.acceptor.open_bytes().saturating_add(weight(value.len()));
        let window_full = open >= limits.window_entries || (open > 0 && open_bytes > limits.window_bytes);
        if window_full || self.acceptor.is_full() || self.acceptor.prefix() >= MAX_COUNT {
            return Err(ProposeError::WindowFull);
        }
        let slot = self.acceptor.lead(value);
        leader.stalled_since_ms.get_or_insert(self.now);
        Ok((leader.ballot, slot))
    }

    /// Takes what the host must do about all the steps since the last call.
    pub fn take(&mut self) -> PaxosEffects {
        self.pump();
        let records = self.acceptor.take_records();
        if std::mem::take(&mut self.owes_ack)
            && let (State::Following, Some(leader)) = (&self.state, self.leader)
        {
            let (ballot, upto) = (self.acceptor.promised(), self.acceptor.prefix());
            let may_vote = self.is_member(self.me) || canary::makes(Canary::LearnerVotes);
            let damaged = self.damage.is_some();
            let (commit, vote) = (self.acceptor.commit(), may_vote && !damaged);
            let recorded = self.acceptor.recorded_commit();
            let accepted = Message::Accepted { ballot, upto, commit, recorded, vote, damaged };
            if canary::makes(Canary::AcceptedBeforeFsync) {
                self.send(leader, accepted);
            } else {
                self.send_after(leader, accepted);
            }
        }
        if !records.is_empty() {
            self.token += 1;
            match &mut self.state {
                State::Leading(leader) => {
                    leader.wrote(self.token, self.acceptor.prefix(), self.acceptor.recorded_commit());
                }
                State::Preparing(candidate) => {
                    candidate.token.get_or_insert(self.token);
                }
                State::Following | State::Canvassing(_) => {}
            }
        }
        let mut effects = std::mem::take(&mut self.effects);
        effects.records = records;
        effects.token = self.token;
        if self.acceptor.commit() > self.announced_commit {
            self.announced_commit = self.acceptor.commit();
            effects.commit = Some(self.announced_commit);
        }
        if !self.announced_stop {
            effects.stopped = self.stopped();
            self.announced_stop = effects.stopped.is_some();
        }
        effects
    }

    /// When the group next needs [`Event::Timer`]; none as long as nothing is outstanding.
    pub fn deadline(&self) -> Option<u64> {
        if let Some(damage) = &self.damage {
            return if self.stopped().is_none() { self.damage_deadline(damage) } else { None };
        }
        match &self.state {
            State::Following => self.seeks_leader().then_some(self.campaign_at),
            State::Canvassing(canvass) => Some(canvass.until_ms),
            State::Preparing(candidate) => Some(candidate.until_ms.min(candidate.resend_at_ms)),
            State::Leading(leader) => leader.deadline(self.up, self.stopped(), &self.config.limits),
        }
    }

    /// The part that this replica plays in its group now.
    pub fn role(&self) -> Role {
        match &self.state {
            _ if self.damage.is_some() => Role::Damaged,
            _ if !self.is_member(self.me) => Role::Learner,
            State::Following => Role::Follower,
            State::Canvassing(_) | State::Preparing(_) => Role::Candidate,
            State::Leading(_) => Role::Leader,
        }
    }

    /// The leader, as far as this replica knows.
    pub fn leader(&self) -> Option<GatewayId> {
        self.leader.and_then(|rank| self.config.gateway(rank))
    }

    /// The highest ballot promised here; a leader's own.
    pub fn ballot(&self) -> Ballot {
        self.acceptor.promised()
    }

    /// The commit index: all slots up to it are chosen.
    pub fn commit(&self) -> Slot {
        self.acceptor.commit()
    }

    /// The accepted prefix: all slots up to it are known to be chosen, or accepted in [`Consensus::ballot`].
    pub fn prefix(&self) -> Slot {
        self.acceptor.prefix()
    }

    /// The last slot that holds an entry here, chosen or not.
    pub fn last_slot(&self) -> Slot {
        self.acceptor.log().last()
    }

    /// The first slot still in memory.
    pub fn first_slot(&self) -> Slot {
        self.acceptor.log().first()
    }

    /// The entry of this slot, chosen or not, if it is in memory.
    pub fn entry(&self, slot: Slot) -> Option<&Entry> {
        self.acceptor.log().get(slot)
    }

    /// Chosen entries from this slot on, as many as weigh no more than `max_bytes` together, and at least one if
    /// there is one; none if the slot is no longer in memory. (Their ballots have no meaning.)
    pub fn committed_entries(&self, from: Slot, max_bytes: usize) -> impl Iterator<Item = &Entry> {
        self.acceptor.log().chunk(from, self.acceptor.commit(), max_bytes)
    }

    /// Above this slot, and up to the commit index, the records that this replica has given its host since the
    /// start show what was chosen: for each slot, the last entry before a record of a commit index that reaches it.
    /// At or below this slot they may not, because this process found those entries on disk, or jumped over them.
    /// None while the replica is damaged.
    pub fn logged_after(&self) -> Option<Slot> {
        self.damage.is_none().then_some(self.logged_after)
    }

    /// The slot of the stop that ends this configuration, if it is known to be chosen.
    pub fn stopped(&self) -> Option<Slot> {
        self.acceptor.stopped()
    }

    /// While this replica leads: the slot up to which another member or a learner has everything on disk, as far as
    /// it has said so (0: it has not answered yet).
    pub fn progress(&self, of: GatewayId) -> Option<Slot> {
        let State::Leading(leader) = &self.state else { return None };
        let rank = self.config.rank(of)?;
        leader.followers.get(rank).filter(|_| rank != self.me).map(|f| f.matched)
    }

    /// While this replica leads: whether another member or a learner has said, since its process was last seen to
    /// start, that it has lost no records.
    pub fn is_undamaged(&self, of: GatewayId) -> bool {
        let State::Leading(leader) = &self.state else { return false };
        let follower = self.config.rank(of).and_then(|rank| leader.followers.get(rank));
        follower.is_some_and(|f| f.undamaged)
    }

    /// While this replica leads: the slot up to which every member that is no witness has everything on disk, and
    /// knows it to be chosen even after a restart, as far as they have said so. `None` if one of them has not answered
    /// yet, or lost records and is not repaired. No witness need keep what lies at or below this slot. (A member that
    /// has an entry and does not know that it is chosen would have to ask for it.)
    pub fn floor(&self) -> Option<Slot> {
        let State::Leading(leader) = &self.state else { return None };
        let full = self.others().filter(|rank| self.may_lead.contains(*rank));
        let floor = leader.floor(full)?.min(self.acceptor.commit());
        if canary::makes(Canary::WitnessTrimsTooEarly) {
            return Some(self.acceptor.commit());
        }
        Some(floor).filter(|floor| *floor > 0)
    }

    /// The commit index as the records given to the host so far state it. A restart finds no lower one, and the log
    /// shows that the slots up to it are chosen.
    pub fn recorded_commit(&self) -> Slot {
        self.acceptor.recorded_commit()
    }

    /// The configuration that the group was set up with, and its present learners.
    pub fn config(&self) -> &GroupConfig {
        &self.config
    }

    pub(super) fn is_member(&self, rank: usize) -> bool {
        rank < self.config.members.len()
    }

    pub(super) fn members(&self) -> Members {
        Members::first(self.config.members.len())
    }

    /// Whether this replica looks for a leader when its turn comes: it campaigns, or says that it does not lead.
    pub(super) fn seeks_leader(&self) -> bool {
        self.stopped().is_none() && !self.is_led() && self.sees_quorum()
    }

    /// Whether this replica campaigns at all: it is neither a learner nor a witness, and its configuration goes on.
    pub(super) fn may_campaign(&self) -> bool {
        let may_lead = match canary::makes(Canary::WitnessLeads) {
            true => self.members().contains(self.me),
            false => self.may_lead.contains(self.me),
        };
        may_lead && self.stopped().is_none()
    }

    /// The number of members that make a majority.
    pub(super) fn quorum(&self) -> usize {
        self.config.members.len() / 2 + 1
    }

    pub(super) fn sees_quorum(&self) -> bool {
        self.up.and(self.members()).len() >= self.quorum()
    }

    /// Whether the leader is known and up.
    pub(super) fn is_led(&self) -> bool {
        self.leader.is_some_and(|leader| self.up.contains(leader))
    }

    /// The ranks of all other members; learners are not among them.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.config.members.len()).filter(move |&rank| rank != me)
    }

    pub(super) fn send(&mut self, to: usize, message: Message) {
        if let Some(to) = self.config.gateway(to) {
            self.effects.send.push((to, message));
        }
    }

    pub(super) fn send_after(&mut self, to: usize, message: Message) {
        if let Some(to) = self.config.gateway(to) {
            self.effects.send_after.push((to, message));
        }
    }

    fn hear(&mut self, from: usize, message: Message) {
        match message {
            Message::Canvass { attempt, commit } => self.on_canvass(from, attempt, commit),
            Message::Canvassed { attempt, granted, seen } => self.on_canvassed(from, attempt, granted, seen),
            Message::Prepare { ballot, from: slot } => self.on_prepare(from, ballot, slot),
            Message::Promise { ballot, from: slot, commit, entries, more } => {
                self.on_promise(from, ballot, slot, commit, entries, more);
            }
            Message::Behind { ballot, .. } => self.on_behind(ballot),
            Message::Accept { ballot, prev, values, commit } => {
                self.on_accept(from, ballot, prev, values, commit)
            }
            Message::Accepted { ballot, upto, commit, recorded, vote, damaged } => {
                self.on_accepted(from, ballot, upto, (commit, recorded), vote, damaged)
            }
            Message::Lagging { ballot, prefix } => self.on_lagging(from, ballot, prefix),
            Message::Refused { promised } => self.on_refused(promised),
            Message::Confirm { ballot, n } => self.on_confirm(from, ballot, n),
            Message::Confirmed { ballot, n } => self.on_confirmed(from, ballot, n),
            Message::Resigned { ballot } => self.on_resigned(from, ballot),
            Message::Recovering { nonce } => self.on_recovering(from, nonce),
            Message::Standing { nonce, promised, damaged } => {
                self.on_standing(from, nonce, promised, damaged)
            }
            Message::Rejoin { nonce, above } => self.on_rejoin(from, nonce, above),
            Message::Mark { nonce, slot } => self.on_mark(nonce, slot),
        }
    }

    /// Phase 2 at a follower.
    fn on_accept(&mut self, from: usize, ballot: Ballot, prev: Slot, values: Vec<Value>, commit: Slot) {
        self.seen = self.seen.max(ballot);
        if ballot < self.acceptor.promised() {
            let promised = self.acceptor.promised();
            // The sender's ballot is spent. It may not know, because the promise above it may not have reached it;
            // this needs no durability.
            self.send(from, Message::Refused { promised });
            return;
        }
        if ballot > self.acceptor.promised() && !self.room {
            return; // to join the ballot, the replica must write it
        }
        self.effects.leadership_changed |= ballot > self.acceptor.promised();
        self.follow(Some(from));
        self.acceptor.promise(ballot);
        if !self.is_led() {
            self.be_patient(); // it lives, but the failure detector does not know yet
        }
        if self.acceptor.accept(prev, values, commit, self.room) {
            self.owes_ack = true;
        } else {
            let prefix = self.acceptor.prefix();
            self.send(from, Message::Lagging { ballot, prefix });
        }
    }

    fn on_confirm(&mut self, from: usize, ballot: Ballot, n: u64) {
        let promised = self.acceptor.promised();
        if promised > ballot {
            self.send(from, Message::Refused { promised });
        } else if self.damage.is_none() && self.is_member(self.me) {
            // A promise of a higher ballot that is not on disk yet has reached no other replica, so ignoring it
            // would be safe. It is honoured all the same.
            self.send(from, Message::Confirmed { ballot, n });
        }
    }

    fn persisted(&mut self, token: u64) {
        self.persisted = self.persisted.max(token.min(self.token));
        match &mut self.state {
            State::Leading(leader) => {
                leader.persisted(self.persisted);
                self.count_votes();
            }
            State::Preparing(candidate) => {
                candidate.durable |= candidate.token.is_some_and(|t| t <= self.persisted);
                self.lead_if_complete();
            }
            State::Following | State::Canvassing(_) => {}
        }
    }

    fn peers(&mut self, up: &[GatewayId], restarted: &[GatewayId]) {
        let before = self.up;
        self.reachable = up.to_vec();
        self.up = Members::only(self.me);
        let (mut fresh, mut lost_leader) = (Members::default(), false);
        for rank in (0..self.config.replicas()).filter(|&rank| rank != self.me) {
            let Some(id) = self.config.gateway(rank) else { continue };
            let is_up = up.contains(&id);
            let restarted = before.contains(rank) && restarted.contains(&id);
            if is_up {
                self.up.insert(rank);
                if !before.contains(rank) || restarted {
                    fresh.insert(rank);
                }
            }
            lost_leader |= self.leader == Some(rank) && (!is_up || restarted);
        }
        let commit = self.acceptor.commit();
        let quorum = self.sees_quorum();
        let stopped = self.stopped().is_some();
        match &mut self.state {
            // A leader whose configuration has ended needs no majority to tell the others so.
            State::Leading(_) if !quorum && !stopped => self.resign(0),
            State::Leading(leader) => {
                for (rank, follower) in leader.followers.iter_mut().enumerate() {
                    if fresh.contains(rank) {
                        follower.reset(commit);
                    }
                }
            }
            State::Canvassing(_) | State::Preparing(_) if !quorum => self.follow(None),
            State::Canvassing(_) | State::Preparing(_) => {}
            State::Following if lost_leader => self.follow(None),
            State::Following => {}
        }
        if matches!(self.state, State::Following) && self.leader.is_none() && self.up != before {
            self.attempts = 0;
            self.schedule();
        }
    }

    /// Replaces the learners. What a leader knows of those that stay remains.
    fn learners(&mut self, wanted: Vec<GatewayId>) {
        let members = self.config.members.len();
        let learns = (!self.is_member(self.me)).then_some(self.config.me);
        let mut learners: Vec<_> = learns.into_iter().collect();
        for id in wanted {
            if learners.len() < MAX_LEARNERS && !self.config.members.contains(&id) && !learners.contains(&id)
            {
                learners.push(id);
            }
        }
        let old = std::mem::replace(&mut self.config.learners, learners);
        self.me = self.config.rank(self.config.me).unwrap_or(self.me);
        let mut up = self.up.and(self.members());
        up.insert(self.me);
        for (rank, learner) in (members..).zip(&self.config.learners) {
            if self.reachable.contains(learner) {
                up.insert(rank);
            }
        }
        self.up = up;
        let commit = self.acceptor.commit();
        if let State::Leading(leader) = &mut self.state {
            let mut known = leader.followers.split_off(members);
            for learner in &self.config.learners {
                let at = old.iter().position(|l| l == learner);
                let progress = at.and_then(|at| known.get_mut(at)).map(std::mem::take);
                leader.followers.push(progress.unwrap_or_else(|| Progress::unknown(commit)));
            }
        }
    }

    fn timer(&mut self) {
        if self.damage.is_some() {
            return self.ask_around();
        }
        match &self.state {
            State::Following => {
                if self.seeks_leader() && self.campaign_at <= self.now {
                    self.canvass();
                }
            }
            State::Canvassing(canvass) => {
                if canvass.until_ms <= self.now {
                    self.fail_attempt();
                }
            }
            State::Preparing(_) => self.prepare_timer(),
            State::Leading(_) => self.leader_timer(),
        }
    }

    /// A member reports values that were chosen.
    fn learn(&mut self, from: Slot, values: Vec<Value>) {
        let follows = matches!(self.state, State::Following | State::Canvassing(_));
        if !follows || !self.room || from > MAX_COUNT {
            return;
        }
        for (slot, value) in (from..).zip(values) {
            let next = self.acceptor.commit() + 1;
            let grows = next > self.acceptor.log().last();
            if slot > next || slot > MAX_COUNT || (slot == next && grows && self.acceptor.is_full()) {
                return;
            }
            if self.stopped().is_some() {
                return; // this slot belongs to the next configuration
            }
            if slot == next {
                self.acceptor.learn(value);
                self.owes_ack = true;
            }
        }
    }

    /// The host's machine has jumped to a snapshot.
    fn jump(&mut self, slot: Slot) {
        if slot > MAX_COUNT {
            return;
        }
        if slot > self.acceptor.commit() && self.stopped().is_some() {
            return; // a snapshot of a later configuration
        }
        self.announced_commit = self.announced_commit.max(slot);
        if slot <= self.acceptor.commit() {
            self.acceptor.trim(slot);
            return;
        }
        match self.state {
            // Slots chosen without this leader's knowledge were chosen in another's ballot.
            State::Leading(_) => self.resign(0),
            State::Canvassing(_) | State::Preparing(_) => self.fail_attempt(),
            State::Following => {}
        }
        self.acceptor.jump(slot);
        self.logged_after = self.logged_after.max(slot);
        self.owes_ack = true;
    }

    /// Stops leading, or trying to, and from now on takes `leader` for the leader (none: no leader is known).
    pub(super) fn follow(&mut self, leader: Option<usize>) {
        if let State::Leading(old) = &mut self.state {
            self.effects.reads_failed.append(&mut old.reads.asked);
            self.effects.reads_failed.append(&mut old.reads.waiting);
        }
        let was = matches!(self.state, State::Following) && self.leader == leader;
        if !was {
            self.effects.leadership_changed = true;
            self.state = State::Following;
            self.leader = leader;
            self.owes_ack = false;
            if let Some(damage) = &mut self.damage {
                damage.begin_with_new_leader(self.now);
            }
        }
        if leader.is_some() {
            self.attempts = 0;
        } else if !was {
            self.schedule();
        }
    }

    /// This replica's turn to campaign among those that are up, from 0; reluctant replicas come last, and those that
    /// never lead after them.
    pub(super) fn turn(&self) -> u64 {
        let up = self.up.and(self.may_lead);
        let willing = up.without(self.reluctant);
        let turn = match willing.contains(self.me) {
            true => willing.before(self.me),
            false => willing.len() + up.without(willing).before(self.me),
        };
        turn as u64
    }

    /// Sets when to try to lead if there is no leader: the first in turn at once, the others later. After failed
    /// attempts the waits grow and spread further apart, so that duels end.
    pub(super) fn schedule(&mut self) {
        let rank = self.turn();
        let stagger = self.config.limits.stagger_ms;
        let wait = if self.attempts == 0 {
            rank * stagger
        } else {
            ((rank + 1) * stagger) << self.attempts.min(MAX_ATTEMPT_DOUBLINGS)
        };
        self.campaign_at = self.now + wait;
    }
}

/// How often the wait between attempts to lead doubles.
const MAX_ATTEMPT_DOUBLINGS: u32 = 5;
