//! A replica as leader: it takes forwarded batches in the order of their numbers and turns gathered commands into
//! proposals.

use super::clock::ElapsedClock;
use super::{MAX_PENDING_BYTES, MAX_PROPOSAL_BYTES, MAX_SUBMISSION_BYTES, Now, ShardCore};
use crate::configuration::{Configuration, MAX_LEARNER_LAG_SLOTS, ReconfigureRefused, Stop};
use crate::detector::ReachReports;
use crate::machine::{BatchVerdict, Command, Origin, Proposal};
use crate::peer::{BusyReason, ForwardAnswer, PeerMessage};
use selvedge_paxos::{Ballot, Event, ProposeError, Role, Slot};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::ElapsedMs;
use selvedge_types::uplink::{LedgerId, SiteIncarnation};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The state of leading in one ballot.
#[derive(Debug)]
pub(super) struct Lead {
    ballot: Ballot,
    /// The slot of the ballot's own opening entry.
    opening: Slot,
    /// The opening entry is applied: the machine knows everything that earlier leaders chose.
    pub(super) opened: bool,
    /// For each origin, the start and the next number to take, beyond what the machine has applied.
    next: BTreeMap<GatewayId, (u64, u64)>,
    /// Batches that are taken in and not applied, and the gateway to answer.
    asked: BTreeMap<(Origin, u64), GatewayId>,
    pending: VecDeque<Command>,
    pending_bytes: usize,
    /// Counts elapsed time from when the opening entry was applied; none before.
    pub(super) clock: Option<ElapsedClock>,
    /// A tick that is proposed and not applied.
    ticking: Option<Slot>,
    rules_proposed: bool,
    /// The last confirmation of a ledger that was proposed.
    confirmed: Option<(LedgerId, u64)>,
    /// Wills that this gateway was given to publish, by client and epoch.
    wills: BTreeSet<(String, u64)>,
    /// Processes that are proposed as lost.
    lost: BTreeSet<Origin>,
    /// Batches that are proposed as lost and not confirmed.
    lost_batches: BTreeSet<u64>,
}

impl Lead {
    /// Queues a ledger's confirmation for a proposal, once.
    pub(super) fn confirm(&mut self, ledger: LedgerId, cursor: u64) {
        let said = self.confirmed.is_some_and(|(known, most)| known == ledger && cursor <= most);
        if !said {
            self.confirmed = Some((ledger, cursor));
            self.pending.push_back(Command::Confirmed { ledger, cursor });
        }
    }

    /// Queues the ledger's word on the generation before a recovery. Said twice, it changes nothing the second time.
    pub(super) fn settle_fence(&mut self, ledger: LedgerId, last: u64, beyond: bool) {
        let command = Command::Settled { ledger, last, beyond };
        if !self.pending.contains(&command) {
            self.pending.push_back(command);
        }
    }

    /// The gateway that waits for the verdict about this batch.
    pub(super) fn settle(&mut self, origin: Origin, n: u64) -> Option<GatewayId> {
        self.asked.remove(&(origin, n))
    }

    pub(super) fn applied(&mut self, slot: Slot) {
        self.opened |= slot >= self.opening;
        if self.ticking.is_some_and(|t| t <= slot) {
            self.ticking = None;
        }
    }

    pub(super) fn takes_ticks(&self) -> bool {
        self.opened && self.ticking.is_none()
    }
}

/// While anything waits to expire or to close, a leader notes the elapsed time in the log at least this often, in
/// milliseconds. This bounds the elapsed time that a change of leader loses.
pub const NOTE_ELAPSED_MS: u64 = 600_000;
/// How long a better leader must have been up before leadership goes to it.
pub const HAND_BACK_MS: u64 = 5_000;
/// The longest wait before leadership is handed back: the wait doubles each time leadership did not stay with the
/// better leader.
pub const MAX_HAND_BACK_MS: u64 = 320_000;

/// How long a leader with a full disk waits until it may know a majority that has room.
pub const FULL_HAND_BACK_MS: u64 = 500;

/// How well a gateway is connected: how many members of the configuration it has up, and how many gateways in all.
type Connected = (usize, usize);

/// Decides when leadership goes to a better leader: to a member that is better connected, that is, one that has more of
/// the members up, or as many members and more gateways; back to the shard's preferred one, so that leaders stay spread
/// as the ring says after gateways were away; from a gateway whose wall clock lies outside the interval that the
/// others agree on to one whose clock does not; and from one whose disk is full, if a majority has room. A leader
/// hands over only while it has nothing under way, unless its disk is full: what it has under way then may stay so
/// forever.
///
/// Being connected comes before being preferred: leadership does not go back to a member that is connected less well
/// than its leader, so the two rules never pass it to and fro. A full disk or a clock that is outside come before both.
/// What a gateway says of whom it has up lags behind by a heartbeat and the time that its detector needs, which is far
/// less than the wait before leadership changes: the loss of a gateway moves no leader.
#[derive(Debug)]
pub(super) struct HandBack {
    me: GatewayId,
    /// The members of the configuration, the preferred leader first.
    members: Vec<GatewayId>,
    /// The members that never lead.
    witnesses: Vec<GatewayId>,
    up: Vec<GatewayId>,
    /// The gateways whose wall clocks are outside.
    outside: Vec<GatewayId>,
    /// The gateways whose disks are full.
    full: Vec<GatewayId>,
    /// The gateways that each of the others has up.
    said: ReachReports,
    to: Option<GatewayId>,
    due_ms: Option<u64>,
    wait_ms: u64,
}

impl HandBack {
    pub(super) fn new(me: GatewayId, configuration: &Configuration) -> Self {
        let Configuration { members, witnesses, .. } = configuration.clone();
        let (up, outside, full, said) = (Vec::new(), Vec::new(), Vec::new(), ReachReports::new());
        Self {
            me,
            members,
            witnesses,
            up,
            outside,
            full,
            said,
            to: None,
            due_ms: None,
            wait_ms: HAND_BACK_MS,
        }
    }

    /// Takes over the members and witnesses of a configuration that begins, and looks for a better leader among them.
    pub(super) fn configured(&mut self, now: Now, configuration: &Configuration) {
        let Configuration { members, witnesses, .. } = configuration.clone();
        (self.members, self.witnesses, self.to, self.due_ms) = (members, witnesses, None, None);
        self.weigh(now, &[]);
    }

    pub(super) fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    pub(super) fn peers(&mut self, now: Now, up: &[GatewayId], restarted: &[GatewayId]) {
        self.up = up.to_vec();
        self.weigh(now, restarted);
    }

    pub(super) fn said(&mut self, now: Now, said: &ReachReports) {
        self.said.clone_from(said);
        self.weigh(now, &[]);
    }

    pub(super) fn clocks(&mut self, now: Now, outside: &[GatewayId]) {
        self.outside = outside.to_vec();
        self.weigh(now, &[]);
    }

    pub(super) fn full(&mut self, now: Now, full: &[GatewayId]) {
        let was = self.is_full();
        self.full = full.to_vec();
        if was != self.is_full() {
            (self.to, self.due_ms) = (None, None); // whoever it was, it is for another reason now
        }
        self.weigh(now, &[]);
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.contains(&self.me)
    }

    /// Whether a majority of the members can be reached and takes entries, as far as this replica knows. A witness
    /// without room takes none while it keeps what an absent full member lacks. (A full member may be in this list
    /// although it has room, because it is being emptied.)
    pub(super) fn majority_takes_entries(&self) -> bool {
        let no_room = |m: &GatewayId| self.witnesses.contains(m) && self.full.contains(m);
        let able = |m: &&GatewayId| **m == self.me || (self.up.contains(m) && !no_room(m));
        self.members.iter().filter(able).count() > self.members.len() / 2
    }

    /// The gateways that should lead only if no other can.
    pub(super) fn reluctant(&self) -> Vec<GatewayId> {
        self.outside.iter().chain(&self.full).copied().collect()
    }

    /// The gateway that should lead rather than this replica, if any.
    fn better(&self) -> Option<GatewayId> {
        let roomy = |g: &GatewayId| *g != self.me && self.up.contains(g) && !self.full.contains(g);
        let fit = |g: &GatewayId| roomy(g) && !self.outside.contains(g);
        let mut leaders = self.members.iter().copied().filter(|m| !self.witnesses.contains(m));
        if self.is_full() {
            let able = self.members.iter().filter(|m| roomy(m)).count();
            let majority = self.members.len() / 2 + 1;
            let chosen = leaders.clone().find(fit).or_else(|| leaders.find(roomy));
            return chosen.filter(|_| able >= majority && !canary::makes(Canary::FullKeepsLeading));
        }
        if self.outside.contains(&self.me) {
            return leaders.find(fit);
        }
        let mine = self.connected(self.me);
        let better = leaders.clone().filter(fit).filter(|m| self.connected(*m) > mine);
        // The first one of those that are connected best.
        let better = better.min_by_key(|m| Reverse(self.connected(*m)));
        if better.is_some() && !canary::makes(Canary::WorseConnectedLeads) {
            return better;
        }
        leaders.next().filter(|m| fit(m) && self.connected(*m) >= mine)
    }

    /// How well a gateway is connected. One that has not said yet whom it has up is taken to be connected like this one.
    fn connected(&self, gateway: GatewayId) -> Connected {
        let members = |up: &mut dyn Iterator<Item = &GatewayId>| {
            up.fold((0, 0), |(members, all), g| (members + usize::from(self.members.contains(g)), all + 1))
        };
        match self.said.get(&gateway).filter(|_| gateway != self.me) {
            Some(said) => members(&mut said.iter()),
            None => members(&mut self.up.iter()),
        }
    }

    fn weigh(&mut self, now: Now, restarted: &[GatewayId]) {
        let to = self.better();
        if to != self.to || to.is_some_and(|to| restarted.contains(&to)) {
            let wait_ms = if self.is_full() { FULL_HAND_BACK_MS } else { HAND_BACK_MS };
            (self.to, self.due_ms, self.wait_ms) = (to, None, wait_ms);
        }
        if to.is_some() {
            self.due_ms.get_or_insert(now.mono_ms + self.wait_ms);
        }
    }
}

/// The site gives up a gateway that is not within the leader's reach for this long, not even by a detour: its
/// connections count as ended.
pub const LOST_AFTER_MS: u64 = 15_000;

/// Since when each gateway that is not within reach has been so.
#[derive(Debug)]
pub(super) struct Absent {
    me: GatewayId,
    within: BTreeSet<GatewayId>,
    since_ms: BTreeMap<GatewayId, u64>,
}

impl Absent {
    pub(super) fn new(me: GatewayId) -> Self {
        Self { me, within: BTreeSet::new(), since_ms: BTreeMap::new() }
    }

    pub(super) fn reach(&mut self, now: Now, within: &BTreeSet<GatewayId>) {
        let before = std::mem::replace(&mut self.within, within.clone());
        for gone in before.difference(&self.within) {
            self.since_ms.insert(*gone, now.mono_ms);
        }
        self.since_ms.retain(|gateway, _| !self.within.contains(gateway));
    }

    /// When to give up a gateway; never while it is within reach. One that was never reached counts from now on.
    fn lost_at_ms(&mut self, now: Now, gateway: GatewayId) -> Option<u64> {
        if gateway == self.me || self.within.contains(&gateway) {
            return None;
        }
        Some(*self.since_ms.entry(gateway).or_insert(now.mono_ms) + LOST_AFTER_MS)
    }
}

impl ShardCore {
    /// When to give up the next gateway that holds connections, if this replica leads.
    pub(super) fn lost_due_ms(&mut self, now: Now) -> Option<u64> {
        let lead = self.lead.as_ref().filter(|lead| lead.opened)?;
        let at = |origin: &Origin| !lead.lost.contains(origin);
        let processes = self.machine.processes().filter(at);
        processes.filter_map(|origin| self.absent.lost_at_ms(now, origin.gateway)).min()
    }

    /// Proposes to give up gateways that can't be reached for long.
    fn give_up_lost(&mut self, now: Now) {
        let Some(lead) = self.lead.as_mut().filter(|lead| lead.opened) else { return };
        let absent = &mut self.absent;
        lead.lost.retain(|origin| !absent.within.contains(&origin.gateway));
        for origin in self.machine.processes() {
            let due = absent.lost_at_ms(now, origin.gateway).is_some_and(|at| at <= now.mono_ms);
            if due && lead.lost.insert(origin) {
                lead.pending.push_back(Command::Lost { origin });
            }
        }
    }

    /// Proposes, once in a ballot, that a batch is lost, if it is unconfirmed.
    pub(super) fn give_up_batch(&mut self, seq: u64) {
        let Some(lead) = self.lead.as_mut().filter(|lead| lead.opened) else { return };
        let cursor = self.machine.outbox_stats().cursor;
        lead.lost_batches = lead.lost_batches.split_off(&(cursor + 1));
        let open = self.machine.batch_record(seq).is_some_and(|record| seq > cursor && !record.lost);
        if open && lead.lost_batches.insert(seq) {
            lead.pending.push_back(Command::LostBatch { seq });
        }
    }

    /// Gives this gateway the wills that no other gateway publishes, each once in a ballot.
    pub(super) fn publish_wills(&mut self) {
        let Some(lead) = self.lead.as_mut().filter(|lead| lead.opened) else { return };
        if !lead.wills.is_empty() {
            let open: BTreeSet<_> =
                self.machine.orphaned_wills().map(|w| (w.client.as_str(), w.epoch)).collect();
            lead.wills.retain(|(client, epoch)| open.contains(&(client.as_str(), *epoch)));
        }
        for will in self.machine.orphaned_wills() {
            if lead.wills.insert((will.client.clone(), will.epoch)) {
                self.out.wills.push(will.clone());
            }
        }
    }

    /// Gives up leading in favour of a better leader, if there has been one for long enough.
    pub(super) fn hand_back_if_due(&mut self, now: Now) {
        let due = self.hand_back.due_ms.is_some_and(|due| due <= now.mono_ms);
        let Some(lead) = self.lead.as_ref().filter(|l| due && l.opened) else { return };
        let back = &mut self.hand_back;
        let idle = lead.asked.is_empty()
            && lead.pending.is_empty()
            && self.consensus.last_slot() == self.consensus.commit();
        if idle || (back.is_full() && back.to.is_some()) {
            back.wait_ms = (back.wait_ms * 2).min(MAX_HAND_BACK_MS);
            back.due_ms = Some(now.mono_ms + back.wait_ms);
            self.consensus.step(now.mono_ms, Event::StepDown);
        } else {
            back.due_ms = Some(now.mono_ms + 50); // busy: a little later
        }
    }

    /// The elapsed time now; none unless this replica leads and serves.
    pub(super) fn elapsed_now(&mut self, now: Now) -> Option<ElapsedMs> {
        let lead = self.lead.as_mut().filter(|lead| lead.opened)?;
        let begin = || ElapsedClock::new(self.machine.elapsed(), now.mono_ms);
        Some(lead.clock.get_or_insert_with(begin).now(now.mono_ms))
    }

    /// When the next tick is due; none while the machine is lent.
    pub(super) fn tick_at(&mut self) -> Option<ElapsedMs> {
        let due = Arc::get_mut(&mut self.machine)?.next_tick_due()?; // not while it is lent
        Some(due.min(self.machine.elapsed().plus(NOTE_ELAPSED_MS)))
    }

    pub(super) fn leadership_changed(&mut self) {
        let ballot = self.consensus.ballot();
        let leads = self.consensus.role() == Role::Leader;
        if leads && self.lead.as_ref().is_some_and(|l| l.ballot == ballot) {
            return;
        }
        self.stop_leading(self.consensus.leader());
        if leads {
            self.lead = Some(Lead {
                ballot,
                opening: self.consensus.last_slot(),
                opened: self.machine.slot() >= self.consensus.last_slot(),
                next: BTreeMap::new(),
                asked: BTreeMap::new(),
                pending: VecDeque::new(),
                pending_bytes: 0,
                clock: None,
                ticking: None,
                rules_proposed: false,
                confirmed: None,
                wills: BTreeSet::new(),
                lost: BTreeSet::new(),
                lost_batches: BTreeSet::new(),
            });
        }
    }

    /// Ends a leadership of this replica: answers each batch that waits here for a verdict, and names the next leader.
    pub(super) fn stop_leading(&mut self, next: Option<GatewayId>) {
        let Some(old) = self.lead.take() else { return };
        for ((origin, n), to) in old.asked {
            let (leader, replicas) = (next.map(|g| g.0), self.configuration.replicas());
            let answer = ForwardAnswer::NotLeader { leader, replicas };
            self.out.send.push((to, PeerMessage::Forwarded { shard: self.id, origin, n, answer }));
        }
    }

    /// Proposes the stop that the directory orders, or puts the reason into
    /// [`ShardEffects::refused`](super::ShardEffects::refused).
    pub(super) fn reconfigure(&mut self, now: Now, stop: Stop) {
        if let Err(why) = self.propose_stop(now, &stop) {
            self.out.refused.push((stop.directory, why));
        }
    }

    fn propose_stop(&mut self, now: Now, stop: &Stop) -> Result<(), ReconfigureRefused> {
        if !self.serves() {
            return Err(ReconfigureRefused::NotLeader { leader: self.consensus.leader() });
        }
        let newcomer = self.configuration.check_next(stop)?;
        if let Some(gateway) = newcomer {
            let commit = self.consensus.commit();
            let has = self.consensus.progress(gateway).ok_or(ReconfigureRefused::NoLearner(gateway))?;
            // A gateway that has not answered yet may have no replica at all.
            if has == 0 || has.saturating_add(MAX_LEARNER_LAG_SLOTS) < commit {
                return Err(ReconfigureRefused::LearnerBehind { gateway, has, commit });
            }
            if !self.consensus.is_undamaged(gateway) {
                return Err(ReconfigureRefused::LearnerDamaged(gateway));
            }
        }
        self.consensus.propose(now.mono_ms, stop.encode().into())?;
        Ok(())
    }

    pub(super) fn on_forward(&mut self, from: GatewayId, origin: Origin, n: u64, submission: Arc<[u8]>) {
        let answer = match self.take_in(from, origin, n, submission) {
            Ok(()) => return,
            Err(answer) => answer,
        };
        self.out.send.push((from, PeerMessage::Forwarded { shard: self.id, origin, n, answer }));
    }

    /// Queues the batch for a proposal, or returns the answer to give instead.
    fn take_in(
        &mut self,
        from: GatewayId,
        origin: Origin,
        n: u64,
        submission: Arc<[u8]>,
    ) -> Result<(), ForwardAnswer> {
        let verdict = |verdict| ForwardAnswer::Verdict { slot: 0, verdict };
        let (applied_start, applied_n) = self.machine.origin(origin.gateway).unwrap_or((0, 0));
        let again = canary::makes(Canary::ForwardedTwice);
        if (origin.start, n) <= (applied_start, applied_n) && origin.start == applied_start && !again {
            let (slot, verdict) = self.answer_again(origin, n);
            return Err(ForwardAnswer::Verdict { slot, verdict });
        }
        let Some(lead) = &mut self.lead else {
            let leader = self.consensus.leader().map(|g| g.0);
            return Err(ForwardAnswer::NotLeader { leader, replicas: self.configuration.replicas() });
        };
        if !lead.opened {
            return Err(ForwardAnswer::Busy { why: BusyReason::Window });
        }
        let applied_next = if origin.start == applied_start { applied_n + 1 } else { 1 };
        let (start, next) = match lead.next.get(&origin.gateway) {
            Some((start, next)) if *start == origin.start => (*start, (*next).max(applied_next)),
            Some((start, _)) if *start > origin.start => return Err(verdict(BatchVerdict::OldStart)),
            _ if applied_start > origin.start => return Err(verdict(BatchVerdict::OldStart)),
            _ => (origin.start, applied_next),
        };
        if again && n < next && !lead.asked.contains_key(&(origin, n)) {
            lead.asked.insert((origin, n), from);
            lead.pending.push_back(Command::Forwarded { origin, n, submission });
            return Ok(());
        }
        if n < next {
            lead.asked.insert((origin, n), from); // under way
            return Ok(());
        }
        if n > next {
            return Err(verdict(BatchVerdict::Gap { last: next - 1 }));
        }
        if !self.room || !self.hand_back.majority_takes_entries() {
            return Err(ForwardAnswer::Busy { why: BusyReason::Disk });
        }
        let outbox = self.machine.outbox_stats();
        let most = u64::from(self.machine.rules().max_outbox_batches);
        if outbox.bytes > self.outbox_budget_bytes || outbox.batches >= most {
            return Err(ForwardAnswer::Busy { why: BusyReason::Outbox });
        }
        if lead.pending_bytes + submission.len() > MAX_PENDING_BYTES {
            return Err(ForwardAnswer::Busy { why: BusyReason::Window });
        }
        // A batch that can never be proposed uses up its number as a malformed one does, so that the batches behind
        // it can go on.
        let submission = if submission.len() > MAX_SUBMISSION_BYTES { Arc::from([]) } else { submission };
        lead.next.insert(origin.gateway, (start, n + 1));
        lead.asked.insert((origin, n), from);
        lead.pending_bytes += submission.len();
        lead.pending.push_back(Command::Forwarded { origin, n, submission });
        Ok(())
    }

    /// Turns gathered commands into proposals, as far as the group's window allows.
    pub(super) fn propose(&mut self, now: Now) {
        self.give_up_lost(now);
        let Some(elapsed) = self.elapsed_now(now) else { return };
        let (wall, sure) = match now.sure {
            true => (now.wall, true),
            false => (self.machine.continued(elapsed).unwrap_or(now.wall), false),
        };
        let tick_at = self.tick_at();
        let Some(lead) = &mut self.lead else { return };
        if !lead.rules_proposed {
            lead.rules_proposed = true;
            lead.pending.extend(self.machine.rules_command());
            if self.machine.incarnation().is_none() {
                let generation = u64::try_from(wall.0).unwrap_or(0);
                let random = self.incarnation;
                lead.pending.push_back(Command::Incarnation(SiteIncarnation { generation, random }));
            }
        }
        if lead.ticking.is_none() && tick_at.is_some_and(|at| at <= elapsed) {
            lead.pending.push_back(Command::Tick);
        }
        while !lead.pending.is_empty() {
            let (mut commands, mut bytes) = (Vec::new(), 0);
            while let Some(command) = lead.pending.front() {
                let size = match command {
                    Command::Forwarded { submission, .. } => submission.len() + 32,
                    Command::Rules(_) => MAX_PROPOSAL_BYTES, // goes alone
                    _ => 32,
                };
                if bytes > 0 && bytes + size > MAX_PROPOSAL_BYTES {
                    break;
                }
                bytes += size;
                commands.extend(lead.pending.pop_front());
            }
            let ticks = commands.contains(&Command::Tick);
            let value = Proposal { elapsed, wall, sure, commands };
            match self.consensus.propose(now.mono_ms, value.encode().into()) {
                Ok((_, slot)) => {
                    let taken: usize = value.commands.iter().map(forwarded_bytes).sum();
                    lead.pending_bytes = lead.pending_bytes.saturating_sub(taken);
                    if ticks {
                        lead.ticking = Some(slot);
                    }
                }
                Err(ProposeError::TooLarge { .. }) => {
                    // The group's limit is below what a proposal may take. The batches are refused as above, the
                    // other commands are proposed again without them, and a command that is too large by itself is
                    // dropped.
                    let taken: usize = value.commands.iter().map(forwarded_bytes).sum();
                    lead.pending_bytes = lead.pending_bytes.saturating_sub(taken);
                    for mut command in value.commands.into_iter().rev() {
                        match &mut command {
                            _ if taken == 0 => continue,
                            Command::Forwarded { submission, .. } => *submission = Arc::from([]),
                            Command::Tick => continue,
                            _ => {}
                        }
                        lead.pending.push_front(command);
                    }
                }
                Err(_) => {
                    // The window is full or leadership is ending: the commands go back to their places.
                    let mut commands = value.commands;
                    if ticks {
                        commands.retain(|c| *c != Command::Tick);
                    }
                    for command in commands.into_iter().rev() {
                        lead.pending.push_front(command);
                    }
                    lead.pending.retain(|c| *c != Command::Tick);
                    return;
                }
            }
        }
    }
}

fn forwarded_bytes(command: &Command) -> usize {
    match command {
        Command::Forwarded { submission, .. } => submission.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::time::EpochMs;

    fn ids(list: &[u16]) -> Vec<GatewayId> {
        list.iter().copied().map(GatewayId).collect()
    }

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, wall: EpochMs(0), sure: true }
    }

    /// Of the leader `me` in a group of 1, 2 and 3, preferred in this order.
    fn hand_back(me: u16) -> HandBack {
        HandBack::new(GatewayId(me), &Configuration::first(ids(&[1, 2, 3]), Vec::new()))
    }

    /// The better leader that `me` sees. `reaches` lists for each gateway that is up which ones it has up.
    fn better(me: u16, reaches: &[(u16, &[u16])], outside: &[u16]) -> Option<u16> {
        let mut back = hand_back(me);
        let own = reaches.iter().find(|(of, _)| *of == me).unwrap().1;
        let said = reaches.iter().filter(|(of, _)| own.contains(of) && *of != me);
        let said = said.map(|(of, up)| (GatewayId(*of), ids(up).into_iter().collect())).collect();
        back.clocks(at(0), &ids(outside));
        back.peers(at(0), &ids(own), &[]);
        back.said(at(0), &said);
        assert_eq!(back.to.is_some(), back.due_ms.is_some());
        back.to.map(|to| to.0)
    }

    #[test]
    fn who_should_lead_instead() {
        let all: &[u16] = &[1, 2, 3];
        let whole = [(1, all), (2, all), (3, all)];
        assert_eq!(
            [1, 2, 3].map(|me| better(me, &whole, &[])),
            [None, Some(1), Some(1)],
            "the preferred one"
        );
        // 1 and 2 don't reach each other.
        let apart: [(u16, &[u16]); 3] = [(1, &[1, 3]), (2, &[2, 3]), (3, all)];
        assert_eq!([1, 2, 3].map(|me| better(me, &apart, &[])), [Some(3), Some(3), None], "3 reaches both");
        assert_eq!(better(1, &apart, &[3]), None, "its clock is off, so it leads only if no other can");
        assert_eq!(
            better(3, &apart, &[3]),
            Some(1),
            "and it gives leading up to one that is connected less well"
        );
        // All reach all members, and only 3 reaches gateway 4 as well.
        let distant: [(u16, &[u16]); 3] = [(1, all), (2, all), (3, &[1, 2, 3, 4])];
        assert_eq!([1, 2, 3].map(|me| better(me, &distant, &[])), [Some(3), Some(3), None]);
        // Members count for more than other gateways.
        let many: [(u16, &[u16]); 3] = [(1, &[1, 3, 4, 5, 6]), (2, all), (3, all)];
        assert_eq!([1, 2, 3].map(|me| better(me, &many, &[])), [Some(3), None, None]);
        // 3 has said nothing yet.
        assert_eq!(better(1, &[(1, &[1, 3])], &[]), None);
    }

    #[test]
    fn nobody_hands_over_for_what_passes_before_the_wait_is_over() {
        let mut back = hand_back(1);
        back.peers(at(0), &ids(&[1, 2, 3]), &[]);
        let says = |up: &[u16]| ReachReports::from([(GatewayId(2), ids(up).into_iter().collect())]);
        // 3 is gone: this leader has noticed, and 2 has not said so yet.
        back.said(at(0), &says(&[1, 2, 3]));
        back.peers(at(1_000), &ids(&[1, 2]), &[]);
        assert_eq!((back.to, back.due_ms), (Some(GatewayId(2)), Some(1_000 + HAND_BACK_MS)));
        back.said(at(1_600), &says(&[1, 2]));
        assert_eq!((back.to, back.due_ms), (None, None));
        // The link is cut for long.
        back.said(at(2_000), &says(&[1, 2, 3]));
        back.said(at(2_100), &says(&[1, 2, 3]));
        assert_eq!(back.due_ms, Some(2_000 + HAND_BACK_MS), "the wait does not begin anew");
    }
}
