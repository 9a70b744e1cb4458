//! The steward of a gateway: what the directory's state asks of this gateway, and of its replicas.
//!
//! # Protocol
//!
//! Every gateway has a replica of the directory group, and so a copy of the directory that lags at most a little. All
//! that a gateway must do for the site's growth follows from its own copy and from what its replicas say, so gateways
//! send each other no orders:
//!
//! - A gateway to which a replica moves, or that votes in a shard, holds a replica of it ([`StewardEffect::Hold`]).
//! - It tells each of its replicas which learners the directory names ([`StewardEffect::Learners`]). The leader among
//!   them sends these everything.
//! - The leader of a shard whose move is under way proposes the stop entry again and again, until its replica says that
//!   another configuration has begun ([`StewardEffect::Reconfigure`]). The replica itself refuses as long as the new
//!   member lacks anything.
//! - The leader of a shard that is in a later configuration than the directory knows reports it, again and again, until
//!   the copy shows it.
//! - A gateway gives up the replica of a shard in which it has no part any more ([`StewardEffect::Drop`]), as soon as
//!   nobody can need anything of it; see below.
//! - After a recovery ([`crate::recovery`]), every survivor has the directory take it in, and asks nothing else of a copy
//!   that does not show it.
//! - The leader of the directory group plans ([`plan`]), from what the gateways say of themselves, and proposes what
//!   the plan says.
//!
//! Orders that come too late do no harm: a shard refuses a stop entry of another configuration or of an older slot of
//! the directory, and the directory refuses a command that no longer fits. A stop entry may be chosen just after its
//! move was given up. Then the shard has a member that the directory does not want there, reports it, and the next move
//! takes it away.
//!
//! # Giving a replica up
//!
//! A replica may be given up when the directory names this gateway neither as a voter nor as a learner of the shard's
//! reported configuration, no move brings it in, and every voter of that configuration has just said that it is in it and
//! not damaged.
//!
//! - A leader of that configuration reported it, so all earlier ones are over, and the votes that this gateway gave in them
//!   decide nothing any more.
//! - A voter that is in the configuration has applied all that came before. It holds what the replica could give it: the
//!   state and the log behind it, and the contents of batches. It cut those itself, or it fetched them before it counted as
//!   a member that has everything; and what it has lost since, it fetches from the other members, not from here.
//! - All voters must say so, not only a majority: until then the replica is one more copy, and costs nothing but disk.
//! - A stop entry that names this gateway may be chosen just then: its copy of the directory may not show the move yet. The
//!   replica refuses to be given up once it has applied the stop. Otherwise the gateway makes another replica, which votes in
//!   that configuration, because the earlier one did not. If that move is given up as well, nobody has it make one; so the
//!   steward keeps a replica until a later configuration than the one in which it knows that it was named.
//!
//! The numbers of forwarded batches and whatever else a shard knows of a gateway are state of the shard, and moved with it.
//!
//! # Invariants and limits
//!
//! Invariant: what a steward does depends on its inputs alone. It counts no time but that of `now_ms`.
//! Invariant: whatever is lost on the way is asked for again, at most every [`AGAIN_MS`].
//! Limit: descriptions of gateways count for [`FRESH_MS`]. They only inform the plan: a stale one delays a move or ends
//! it early.
//! Limit: a voter that is away keeps a replica that has left the shard from being given up. Once an operator has it replaced,
//! another configuration follows.
//! Limit: after a restart a steward does not know that it was named. A group of two members can then be left with one that
//! votes, if the stop entry of a move that was given up is chosen later than that.

use crate::configuration::{Configuration, MAX_LEARNER_LAG_SLOTS, Stop};
use crate::directory::{
    Announcement, DIRECTORY_GROUP, Directory, DirectoryCommand, DirectoryItem, DirectoryStep, GatewayRecord,
    GatewayRole, GatewayState, Genesis, Seen, SeenGateway, SeenLearner, ShardConfiguration, SiteRecovery,
    in_order, plan,
};
use crate::link::KnownPeer;
use crate::ring::ReplicaSet;
use crate::site_state::{GatewayDescription, ReplicaRole, TransferProgress};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;

/// How long the steward waits before it asks for the same thing again.
pub const AGAIN_MS: u64 = 1_000;
/// How long it waits before it asks again for a stop entry, which a shard refuses until its new member has caught up: a
/// small shard takes less than [`AGAIN_MS`] for that.
pub const STOP_AGAIN_MS: u64 = 150;
/// How long a gateway's description of itself counts.
pub const FRESH_MS: u64 = 5_000;

/// What a replica on this gateway says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaView {
    pub configuration: Configuration,
    /// Whether it leads, and has applied everything that earlier leaders chose.
    pub leads: bool,
}

/// Something for the host to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StewardEffect {
    /// Hold a replica of this shard. If there is none yet, the new one votes in no configuration up to this one, or up to
    /// the one in which an earlier replica was given up.
    Hold { shard: ShardId, configuration: u32 },
    /// Give up the replica of this shard, whose latest configuration this is, and delete its data.
    Drop { shard: ShardId, configuration: u32 },
    /// Tell the replica of this shard that these are its learners.
    Learners { shard: ShardId, learners: Vec<GatewayId> },
    /// Hold the replica of this shard, which moves here, to this rate; `None` when it does not any more.
    TransferRate { shard: ShardId, bytes_per_s: Option<NonZeroU64> },
    /// Have the replica of this shard propose this stop entry.
    Reconfigure { shard: ShardId, stop: Stop },
    /// Forward this item to the directory group.
    Submit(DirectoryItem),
    /// These gateways hold the groups now, by group.
    Placed(BTreeMap<ShardId, ReplicaSet>),
    /// These are the site's other gateways.
    Peers(BTreeMap<GatewayId, KnownPeer>),
    /// The gateways that were removed, as far as the directory keeps their tombstones.
    Removed(Vec<GatewayId>),
    /// These gateways are being emptied: they should lead nothing.
    Draining(Vec<GatewayId>),
    /// Ask every gateway that can be reached to describe itself: [`Steward::described`].
    Describe,
    /// The site may use forms of this level, which this gateway's release does not understand: it must stop.
    TooOld { level: u32 },
}

/// Something that was asked for, and is asked for again until it is seen to be done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Errand {
    Begin,
    Announce,
    Hold(ShardId),
    Drop(ShardId),
    Stop(ShardId),
    Report(ShardId),
    /// A proposal of the plan, in encoded form.
    Propose(Vec<u8>),
    Describe,
    Recover,
}

impl Errand {
    /// How long after it was run it is run again.
    fn again_ms(&self) -> u64 {
        match self {
            Self::Stop(_) => STOP_AGAIN_MS,
            _ => AGAIN_MS,
        }
    }
}

/// The steward of one gateway.
#[derive(Debug)]
pub struct Steward {
    me: GatewayId,
    genesis: Genesis,
    /// What this gateway announces of itself.
    announcement: Option<Announcement>,
    directory: Option<Arc<Directory>>,
    /// When the copy of the directory came.
    copied_ms: u64,
    up: BTreeSet<GatewayId>,
    full: BTreeSet<GatewayId>,
    replicas: BTreeMap<ShardId, ReplicaView>,
    /// The learners that each replica was told.
    told: BTreeMap<ShardId, Vec<GatewayId>>,
    /// The rate that each replica that moves here was told.
    rates: BTreeMap<ShardId, NonZeroU64>,
    /// The last configuration of each shard in which this gateway was to become a member.
    named: BTreeMap<ShardId, u32>,
    descriptions: BTreeMap<GatewayId, (u64, GatewayDescription)>,
    placed: BTreeMap<ShardId, ReplicaSet>,
    peers: BTreeMap<GatewayId, KnownPeer>,
    removed: Vec<GatewayId>,
    draining: Vec<GatewayId>,
    /// What a recovery wants of the directory, until the copy shows it.
    recovery: Option<SiteRecovery>,
    /// When each errand was last run.
    errands: BTreeMap<Errand, u64>,
    out: Vec<StewardEffect>,
}

impl Steward {
    /// A steward that knows no directory yet. `genesis` follows from the site's settings, and begins the directory if
    /// no gateway has begun it.
    pub fn new(me: GatewayId, genesis: Genesis, announcement: Option<Announcement>) -> Self {
        Self {
            me,
            genesis,
            announcement,
            directory: None,
            copied_ms: 0,
            up: BTreeSet::from([me]),
            full: BTreeSet::new(),
            replicas: BTreeMap::new(),
            told: BTreeMap::new(),
            rates: BTreeMap::new(),
            named: BTreeMap::new(),
            descriptions: BTreeMap::new(),
            placed: BTreeMap::new(),
            peers: BTreeMap::new(),
            removed: Vec::new(),
            draining: Vec::new(),
            recovery: None,
            errands: BTreeMap::new(),
            out: Vec::new(),
        }
    }

    /// Has the directory take in a recovery, before anything else is asked of it.
    pub fn recovers(&mut self, recovery: SiteRecovery) {
        self.recovery = Some(recovery);
    }

    /// The directory as far as this gateway's replica has applied it.
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        self.directory.as_ref()
    }

    /// Takes a new copy of the directory.
    pub fn copied(&mut self, now_ms: u64, directory: Arc<Directory>) {
        // Every gateway understands the level when it is chosen, so this is an older release on the same data.
        if self.announcement.as_ref().is_some_and(|told| told.level < directory.level()) {
            self.out.push(StewardEffect::TooOld { level: directory.level() });
        }
        let set = |c: &ShardConfiguration| ReplicaSet { configuration: c.number, members: c.voters.clone() };
        let placed: BTreeMap<_, _> = directory.configurations().map(|(shard, c)| (shard, set(c))).collect();
        if placed != self.placed {
            self.placed.clone_from(&placed);
            self.out.push(StewardEffect::Placed(placed));
        }
        let peers = directory.gateways().filter(|(id, _)| *id != self.me);
        let peers: BTreeMap<_, _> = peers.map(|(id, g)| (id, KnownPeer::of(g))).collect();
        if peers != self.peers {
            self.peers.clone_from(&peers);
            self.out.push(StewardEffect::Peers(peers));
        }
        let removed: Vec<_> = directory.tombstones().map(|(id, _)| id).collect();
        if removed != self.removed {
            self.removed.clone_from(&removed);
            self.out.push(StewardEffect::Removed(removed));
        }
        // A witness leads nothing and has no devices to lose.
        let is_emptied = |g: &GatewayRecord| g.state == GatewayState::Draining && g.role == GatewayRole::Full;
        let draining = directory.gateways().filter(|(_, g)| is_emptied(g));
        let draining: Vec<_> = draining.map(|(id, _)| id).collect();
        if draining != self.draining {
            self.draining.clone_from(&draining);
            self.out.push(StewardEffect::Draining(draining));
        }
        for (shard, configuration) in directory.configurations() {
            if Self::learners(&directory, shard).contains(&self.me) {
                self.named.insert(shard, configuration.number);
            }
        }
        (self.directory, self.copied_ms) = (Some(directory), now_ms);
        self.look(now_ms);
    }

    /// Takes which gateways can be reached. This one always can.
    pub fn peers(&mut self, now_ms: u64, up: &BTreeSet<GatewayId>) {
        self.up.clone_from(up);
        self.up.insert(self.me);
        self.look(now_ms);
    }

    /// Takes which gateways' disks are full.
    pub fn full(&mut self, full: impl IntoIterator<Item = GatewayId>) {
        self.full = full.into_iter().collect();
    }

    /// Takes what the replica of a shard says of itself.
    pub fn replica(&mut self, now_ms: u64, shard: ShardId, view: ReplicaView) {
        if self.replicas.insert(shard, view).is_none() {
            self.told.remove(&shard); // a new replica knows no learners
            self.rates.remove(&shard);
        }
        self.errands.remove(&Errand::Stop(shard));
        self.look(now_ms);
    }

    /// Takes that the replica of a shard was given up.
    pub fn dropped(&mut self, shard: ShardId) {
        self.replicas.remove(&shard);
        self.told.remove(&shard);
        self.rates.remove(&shard);
    }

    /// Takes a gateway's description of itself.
    pub fn described(&mut self, now_ms: u64, gateway: GatewayId, description: GatewayDescription) {
        if self.up.contains(&gateway) && description.is_sound() {
            self.descriptions.insert(gateway, (now_ms, description));
        }
    }

    /// Looks whether anything is to be done. The host calls it a few times a second.
    pub fn look(&mut self, now_ms: u64) {
        self.errands.retain(|errand, ran_ms| now_ms < ran_ms.saturating_add(errand.again_ms()));
        let Some(directory) = self.directory.clone() else {
            if self.begins(now_ms, Errand::Begin) {
                self.out.push(StewardEffect::Submit(DirectoryItem::Begin(self.genesis.clone())));
            }
            return;
        };
        if let Some(recovery) = self.recovery.take_if(|r| r.generation > directory.generation()) {
            // What this copy says is over: it knows nothing of the recovery.
            self.name_learners(&directory);
            if self.begins(now_ms, Errand::Recover) {
                self.submit(DirectoryCommand::Recover(Box::new(recovery.clone())));
            }
            self.recovery = Some(recovery);
            return;
        }
        self.announce(now_ms, &directory);
        self.hold(now_ms, &directory);
        self.drop_retired(now_ms, &directory);
        self.name_learners(&directory);
        self.set_rates(&directory);
        self.stop(now_ms, &directory);
        self.report(now_ms, &directory);
        if self.leads(DIRECTORY_GROUP) {
            self.plan(now_ms, &directory);
        }
    }

    /// The effects since the last call.
    pub fn take(&mut self) -> Vec<StewardEffect> {
        std::mem::take(&mut self.out)
    }

    /// Notes that an errand is run now. Returns false if it was run a short while ago.
    fn begins(&mut self, now_ms: u64, errand: Errand) -> bool {
        if self.errands.contains_key(&errand) {
            return false;
        }
        self.errands.insert(errand, now_ms);
        true
    }

    fn leads(&self, shard: ShardId) -> bool {
        self.replicas.get(&shard).is_some_and(|view| view.leads)
    }

    fn submit(&mut self, command: DirectoryCommand) {
        self.out.push(StewardEffect::Submit(DirectoryItem::Command(None, command)));
    }

    fn announce(&mut self, now_ms: u64, directory: &Directory) {
        let Some(told) = self.announcement.clone() else { return };
        let Some(known) = directory.gateway(self.me) else { return };
        let same = known.incarnation == Some(told.incarnation)
            && known.key == Some(told.key)
            && known.addresses == told.addresses
            && (told.zone.is_none() || known.zone == told.zone)
            && known.level == told.level;
        if !same && self.begins(now_ms, Errand::Announce) {
            self.submit(DirectoryCommand::Announce(Box::new(told)));
        }
    }

    fn hold(&mut self, now_ms: u64, directory: &Directory) {
        for (shard, configuration) in directory.configurations() {
            let comes = directory.moves().get(&shard).and_then(|m| m.comes);
            let mine = configuration.voters.contains(&self.me) || comes == Some(self.me);
            if mine && !self.replicas.contains_key(&shard) && self.begins(now_ms, Errand::Hold(shard)) {
                self.out.push(StewardEffect::Hold { shard, configuration: configuration.number });
            }
        }
    }

    fn drop_retired(&mut self, now_ms: u64, directory: &Directory) {
        let has_left = |(shard, view): &(&ShardId, &ReplicaView)| {
            let known = directory.configuration(**shard)?;
            let has_part = known.voters.contains(&self.me)
                || known.learners.contains(&self.me)
                || Self::learners(directory, **shard).contains(&self.me)
                || self.named.get(shard).is_some_and(|named| *named >= known.number);
            let is_over = view.configuration.number <= known.number && **shard != DIRECTORY_GROUP;
            let within_reach = known.voters.iter().all(|voter| self.up.contains(voter));
            (is_over && !has_part && within_reach).then_some(known)
        };
        let left: Vec<_> =
            self.replicas.iter().filter_map(|held| Some((*held.0, has_left(&held)?))).collect();
        if left.is_empty() {
            return;
        }
        for (shard, known) in left {
            let is_in = |voter: &GatewayId| {
                let fresh = |(at_ms, _): &&(u64, _)| now_ms < at_ms.saturating_add(FRESH_MS);
                let said = self.descriptions.get(voter).filter(fresh);
                let of_shard = said.and_then(|(_, said)| said.replicas.iter().find(|r| r.shard == shard));
                of_shard.is_some_and(|replica| {
                    replica.configuration == known.number
                        && !matches!(replica.role, ReplicaRole::Damaged | ReplicaRole::Retired)
                })
            };
            if known.voters.iter().all(is_in) && self.begins(now_ms, Errand::Drop(shard)) {
                self.out.push(StewardEffect::Drop { shard, configuration: known.number });
            }
        }
        if self.begins(now_ms, Errand::Describe) {
            self.out.push(StewardEffect::Describe);
        }
    }

    /// The learners that the directory names for a group: the gateway to which a replica moves, and for the directory
    /// group every gateway that does not vote in it.
    fn learners(directory: &Directory, shard: ShardId) -> Vec<GatewayId> {
        let mut learners: Vec<_> = directory.moves().get(&shard).and_then(|m| m.comes).into_iter().collect();
        if shard == DIRECTORY_GROUP {
            let voters = directory.configuration(shard).map_or(&[][..], |c| &c.voters);
            let others = directory.gateways().map(|(id, _)| id).filter(|id| !voters.contains(id));
            let others: Vec<_> = others.filter(|id| !learners.contains(id)).collect();
            learners.extend(others);
        }
        learners
    }

    fn name_learners(&mut self, directory: &Directory) {
        for shard in self.replicas.keys() {
            let learners = Self::learners(directory, *shard);
            let told = self.told.entry(*shard).or_default();
            if *told != learners {
                told.clone_from(&learners);
                self.out.push(StewardEffect::Learners { shard: *shard, learners });
            }
        }
    }

    /// All moves under way share the rate of the site evenly.
    fn set_rates(&mut self, directory: &Directory) {
        let moves = directory.moves();
        let share = NonZeroU64::new(directory.rate_bytes_per_s() / moves.len().max(1) as u64);
        for shard in self.replicas.keys() {
            let comes = moves.get(shard).is_some_and(|m| m.comes == Some(self.me));
            let bytes_per_s = share.filter(|_| comes);
            let told = match bytes_per_s {
                Some(rate) => self.rates.insert(*shard, rate),
                None => self.rates.remove(shard),
            };
            if told != bytes_per_s {
                self.out.push(StewardEffect::TransferRate { shard: *shard, bytes_per_s });
            }
        }
    }

    fn stop(&mut self, now_ms: u64, directory: &Directory) {
        for (shard, m) in directory.moves() {
            let Some(view) = self.replicas.get(shard).filter(|view| view.leads) else { continue };
            let Some(known) = directory.configuration(*shard) else { continue };
            if view.configuration.number != known.number || m.is_done(known) || directory.is_paused() {
                continue;
            }
            let members = in_order(m.next_voters(known), &directory.wanted(*shard));
            let lives = |g: &&GatewayId| self.up.contains(g) && directory.gateway(**g).is_some();
            let within_reach = members.iter().filter(lives).count();
            if within_reach <= members.len() / 2 {
                continue;
            }
            let is_witness =
                |g: &GatewayId| directory.gateway(*g).is_some_and(|g| g.role == GatewayRole::Witness);
            let witnesses = members.iter().copied().filter(is_witness).collect();
            let stop = Stop { ends: known.number, members, witnesses, directory: m.since };
            if self.begins(now_ms, Errand::Stop(*shard)) {
                self.out.push(StewardEffect::Reconfigure { shard: *shard, stop });
            }
        }
    }

    fn report(&mut self, now_ms: u64, directory: &Directory) {
        let news: Vec<_> = self
            .replicas
            .iter()
            .filter(|(_, view)| view.leads)
            .filter(|(shard, view)| {
                directory.configuration(**shard).is_some_and(|c| view.configuration.number > c.number)
            })
            .map(|(shard, view)| (*shard, view.configuration.clone()))
            .collect();
        for (shard, Configuration { number, members, .. }) in news {
            if self.begins(now_ms, Errand::Report(shard)) {
                let configuration = ShardConfiguration { number, voters: members, learners: Vec::new() };
                self.submit(DirectoryCommand::Report { shard, configuration });
            }
        }
    }

    fn plan(&mut self, now_ms: u64, directory: &Directory) {
        let all_active = directory.gateways().all(|(_, g)| g.state == GatewayState::Active);
        let rises = directory.next_level().is_some();
        if all_active && !rises && directory.moves().is_empty() && directory.misplaced().next().is_none() {
            return; // nothing is to be done
        }
        if self.begins(now_ms, Errand::Describe) {
            self.out.push(StewardEffect::Describe);
        }
        for step in plan(directory, &self.seen(now_ms, directory)) {
            // The other steps follow from each gateway's own copy of the directory.
            let DirectoryStep::Propose(command) = step else { continue };
            let encoded = bincode::encode_to_vec(&command, bincode::config::standard());
            if encoded.is_ok_and(|encoded| self.begins(now_ms, Errand::Propose(encoded))) {
                self.submit(command);
            }
        }
    }

    fn seen(&self, now_ms: u64, directory: &Directory) -> Seen {
        let fresh = |(at_ms, description): &(u64, GatewayDescription)| {
            (now_ms < at_ms.saturating_add(FRESH_MS)).then(|| description.clone())
        };
        let said: BTreeMap<GatewayId, GatewayDescription> =
            self.descriptions.iter().filter_map(|(id, said)| Some((*id, fresh(said)?))).collect();
        let gateway = |id: &GatewayId| {
            let said = said.get(id);
            // What a gateway has not said lately may be anything: a drain waits for it.
            let devices = said.map_or(u32::MAX, |d| u32::try_from(d.connections).unwrap_or(u32::MAX));
            let leads = said.map_or(u32::MAX, |d| u32::try_from(d.leads()).unwrap_or(u32::MAX));
            (*id, SeenGateway { has_room: !self.full.contains(id), leads, devices })
        };
        let joining = directory.gateways().filter(|(_, g)| g.state == GatewayState::Joining);
        let come = directory.moves().iter().filter_map(|(shard, m)| Some((*shard, m.comes?)));
        let learners = come.chain(joining.map(|(id, _)| (DIRECTORY_GROUP, id)));
        let learner = |(shard, id): (ShardId, GatewayId)| {
            let of = |d: &GatewayDescription| d.replicas.iter().find(|r| r.shard == shard).copied();
            let own = of(said.get(&id)?)?;
            let commit = said.values().filter_map(of).map(|r| r.commit).max()?;
            let known = directory.configuration(shard)?.number;
            let is_ready = own.configuration == known
                && own.role == ReplicaRole::Learner
                && own.applied.saturating_add(MAX_LEARNER_LAG_SLOTS) >= commit;
            let TransferProgress { done_bytes, total_bytes } = own.transfer;
            Some(((shard, id), SeenLearner { done_bytes, total_bytes, is_ready }))
        };
        Seen {
            elapsed: directory.elapsed().plus(now_ms.saturating_sub(self.copied_ms)),
            gateways: self.up.iter().map(gateway).collect(),
            learners: learners.filter_map(learner).collect::<BTreeMap<_, _>>(),
        }
    }
}
