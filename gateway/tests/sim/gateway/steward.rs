//! The part of a gateway's process that takes part in the site's growth: the steward that ships, and what the actors
//! around it do (`actors/steward`, `host`, `describer`).
//!
//! Sites whose members never change run without it. Everything that a steward does costs messages and turns, and the
//! seeds of those sites are worth more as they are.

use super::{Common, Live, Out};
use selvedge_fabric::directory::{
    Announcement, DIRECTORY_GROUP, Directory, DirectoryItem, FIRST_LEVEL, GatewayAddresses, Genesis,
};
use selvedge_fabric::forward::{ForwardEffects, Forwardable, Ticket};
use selvedge_fabric::link::{Incarnation, KnownPeer};
use selvedge_fabric::machine::Item;
use selvedge_fabric::peer::{PeerMessage, TableAnswer, TableQuestion};
use selvedge_fabric::replica::Said;
use selvedge_fabric::ring::{ReplicaSet, Ring};
use selvedge_fabric::shard::{Now, ShardEvent};
use selvedge_fabric::site_state::GatewayDescription;
use selvedge_fabric::steward::{AGAIN_MS, ReplicaView, Steward, StewardEffect};
use selvedge_gateway::front::ORDERS;
use selvedge_log::ReplicaMarks;
use selvedge_log::storage::{LogWork, ReplicaSettings, new_replica};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How often the steward looks whether anything is to be done.
pub const LOOK_MS: u64 = 200;
/// How many of the steward's items may be under way, as in a running gateway.
const MAX_ORDERS: usize = 256;

/// A steward and what its host remembers.
pub struct StewardDesk {
    core: Steward,
    /// The ring with which the site began.
    ring: Arc<Ring>,
    settings: ReplicaSettings,
    /// Whether every replica that was ever here had a mark when the process started.
    marks_are_complete: bool,
    /// The replicas that were given up: through which configuration, and whether they are deleted.
    given_up: BTreeMap<ShardId, (u32, bool)>,
    /// What the steward was last told of each replica.
    told: BTreeMap<ShardId, ReplicaView>,
    /// The gateways that are being emptied.
    draining: Vec<GatewayId>,
    /// Questions to gateways about themselves: whom, and until when an answer counts.
    asked: BTreeMap<u64, (GatewayId, u64)>,
    last_question: u64,
    /// The items under way, by their tokens.
    orders: BTreeSet<u64>,
    pub look_at: u64,
}

/// The announcement of a gateway with this data folder.
pub fn announcement(me: GatewayId, incarnation: u128) -> Announcement {
    Announcement {
        gateway: me,
        incarnation,
        key: crate::links::key_of(Incarnation(incarnation)),
        addresses: addresses(&me.to_string()),
        zone: None,
        level: FIRST_LEVEL,
    }
}

pub fn addresses(peer: &str) -> GatewayAddresses {
    GatewayAddresses { peer: peer.to_string(), ..GatewayAddresses::default() }
}

impl StewardDesk {
    pub fn new(
        me: GatewayId,
        incarnation: u128,
        genesis: &Genesis,
        settings: &ReplicaSettings,
        common: &Common,
        marks: &ReplicaMarks,
        now_ms: u64,
    ) -> Self {
        Self {
            core: Steward::new(me, genesis.clone(), Some(announcement(me, incarnation))),
            ring: common.ring.clone(),
            settings: settings.clone(),
            marks_are_complete: marks.is_complete(),
            given_up: marks.given_up().map(|(group, through)| (ShardId(group), (through, false))).collect(),
            told: BTreeMap::new(),
            draining: Vec::new(),
            asked: BTreeMap::new(),
            last_question: 0,
            orders: BTreeSet::new(),
            look_at: now_ms,
        }
    }

    pub fn draining(&self) -> &[GatewayId] {
        &self.draining
    }

    pub fn directory(&self) -> Option<&Arc<Directory>> {
        self.core.directory()
    }

    /// The replicas that are to be given up, once more, after a start.
    pub fn given_up(&self) -> impl Iterator<Item = (ShardId, u32)> {
        self.given_up.iter().map(|(shard, (through, _))| (*shard, *through))
    }

    /// Nothing is left of a replica that was given up.
    pub fn deleted(&mut self, shard: ShardId) {
        if let Some((_, is_deleted)) = self.given_up.get_mut(&shard) {
            *is_deleted = true;
        }
    }

    /// An item that was submitted is settled.
    pub fn settled(&mut self, ticket: Ticket) {
        if ticket.connection == ORDERS {
            self.orders.remove(&ticket.token);
        }
    }
}

impl Live {
    /// The directory as this gateway has applied it.
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        self.steward.as_ref()?.directory()
    }

    /// Takes to the steward what a turn of a replica brought.
    pub(super) fn tell_steward(&mut self, now: Now, shard: ShardId, directory: Option<Arc<Directory>>) {
        let (Some(desk), Some(replica)) = (&mut self.steward, self.replicas.get(&shard)) else { return };
        if let Some(directory) = directory {
            desk.core.copied(now.mono_ms, directory);
        }
        let core = replica.core();
        let view = ReplicaView { configuration: core.configuration().clone(), leads: core.serves() };
        if desk.told.get(&shard) != Some(&view) {
            desk.told.insert(shard, view.clone());
            desk.core.replica(now.mono_ms, shard, view);
        }
    }

    /// Lets the steward look, if that is due. Returns whether it may want something done.
    pub fn look_as_steward(&mut self, now: Now) -> bool {
        let Some(desk) = self.steward.as_mut().filter(|desk| desk.look_at <= now.mono_ms) else {
            return false;
        };
        desk.look_at = (now.mono_ms / LOOK_MS + 1) * LOOK_MS;
        desk.asked.retain(|_, (_, until)| *until > now.mono_ms);
        desk.core.full(self.full.iter().copied());
        desk.core.peers(now.mono_ms, &self.up.iter().copied().collect());
        true
    }

    /// Does what the steward wants. Returns whether there was anything.
    pub(super) fn steward(&mut self, now: Now, out: &mut Out) -> bool {
        let effects = self.steward.as_mut().map(|desk| desk.core.take()).unwrap_or_default();
        let some = !effects.is_empty();
        for effect in effects {
            match effect {
                StewardEffect::Hold { shard, configuration } => self.hold(now, shard, configuration),
                StewardEffect::Drop { shard, configuration } => self.give_up(now, shard, configuration),
                StewardEffect::TransferRate { shard, bytes_per_s } => {
                    self.event(now, shard, ShardEvent::TransferRate { bytes_per_s });
                }
                StewardEffect::Learners { shard, learners } => {
                    self.event(now, shard, ShardEvent::Learners(learners));
                }
                StewardEffect::Reconfigure { shard, stop } => {
                    self.event(now, shard, ShardEvent::Reconfigure(stop));
                }
                StewardEffect::Submit(item) => self.submit(item),
                StewardEffect::Placed(sets) => self.place(now, sets, out),
                StewardEffect::Peers(peers) => self.name_peers(peers),
                StewardEffect::Removed(removed) => self.links.remember_removed(removed),
                StewardEffect::Draining(draining) => {
                    if let Some(desk) = &mut self.steward {
                        desk.draining = draining;
                    }
                    self.look_at_room(now);
                }
                StewardEffect::Describe => self.ask_all(now, out),
                StewardEffect::TooOld { level } => unreachable!("nobody raises the level to {level}"),
            }
        }
        some
    }

    fn hold(&mut self, now: Now, shard: ShardId, configuration: u32) {
        let Some(desk) = self.steward.as_ref().filter(|_| !self.replicas.contains_key(&shard)) else {
            return;
        };
        let earlier = desk.given_up.get(&shard).copied();
        if earlier.is_some_and(|(_, is_deleted)| !is_deleted) {
            return; // the steward asks again
        }
        let nonce =
            (self.origin.start << 20) | (u64::from(self.me.0) << 10) | (1 << 9) | (u64::from(shard.0) % 512);
        let damaged = (earlier.is_none() && !desk.marks_are_complete).then_some(nonce);
        let silent_until = earlier.map_or(configuration, |(through, _)| through);
        let made = new_replica(self.me, shard, &desk.ring, &desk.settings, silent_until, damaged);
        self.replicas.insert(shard, made.expect("the site has this shard"));
        self.log_work.push_back(LogWork::Add { shard, silent_until });
        let room = self.desk.figures().room;
        if let Some(replica) = self.replicas.get_mut(&shard) {
            replica.said(now, Said::Room(room));
            replica.step(now, ShardEvent::Peers { up: self.up.clone(), restarted: Vec::new() });
            if !self.outside.is_empty() {
                replica.step(now, ShardEvent::Clocks { outside: self.outside.clone() });
            }
            if !self.told_full.is_empty() {
                replica.step(now, ShardEvent::Full { who: self.told_full.iter().copied().collect() });
            }
        }
    }

    /// Gives a replica up that has left its shard, unless the replica knows better.
    fn give_up(&mut self, now: Now, shard: ShardId, configuration: u32) {
        let may = self.replicas.get(&shard).is_some_and(|replica| replica.may_be_given_up(configuration));
        let Some(desk) = self.steward.as_mut().filter(|_| may) else { return };
        desk.given_up.insert(shard, (configuration, false));
        desk.told.remove(&shard);
        desk.core.dropped(shard);
        self.replicas.remove(&shard);
        let errands = self.desk.give_up(shard, configuration);
        self.run(now, errands);
    }

    /// Forwards an item to the directory group. The steward submits again what did not get through.
    pub fn submit(&mut self, item: DirectoryItem) {
        let Some(desk) = self.steward.as_mut().filter(|desk| desk.orders.len() < MAX_ORDERS) else { return };
        self.last_order += 1;
        desk.orders.insert(self.last_order);
        let ticket = Ticket { connection: ORDERS, token: self.last_order };
        self.forward.submit(DIRECTORY_GROUP, ticket, Forwardable::Item(Item::Directory(Box::new(item))));
    }

    fn place(&mut self, now: Now, sets: BTreeMap<ShardId, ReplicaSet>, out: &mut Out) {
        let Some(desk) = &self.steward else { return };
        let (ring, mut effects) = (Arc::new(desk.ring.placed(sets)), ForwardEffects::default());
        self.forward.set_ring(now.mono_ms, ring, &mut effects);
        self.forwarded(now, effects, out);
    }

    fn name_peers(&mut self, peers: BTreeMap<GatewayId, KnownPeer>) {
        self.agreement.set_peers(peers.keys().copied());
        self.full.retain(|gateway| *gateway == self.me || peers.contains_key(gateway));
        self.links.name(peers);
    }

    fn ask_all(&mut self, now: Now, out: &mut Out) {
        let Some(desk) = &mut self.steward else { return };
        for gateway in &self.up {
            desk.last_question += 1;
            let id = desk.last_question;
            desk.asked.insert(id, (*gateway, now.mono_ms + AGAIN_MS));
            out.send.push((*gateway, PeerMessage::AskTable { id, question: TableQuestion::Gateway }));
        }
    }

    /// A gateway asks how this one is.
    pub(super) fn describe(&self, now: Now, to: GatewayId, id: u64, out: &mut Out) {
        let described = GatewayDescription {
            release: "sim".to_string(),
            uptime_ms: now.mono_ms,
            trouble: None,
            warnings: 0,
            connections: self.edge.front.connections() as u64,
            acked: self.edge.front.acked(),
            room: self.has_room(),
            clock_sure: now.sure,
            replicas: self.replicas.values().map(|r| (&r.core().status(now)).into()).collect(),
        };
        let answer = TableAnswer::Gateway(Box::new(described));
        out.send.push((to, PeerMessage::TableAnswer { id, answer }));
    }

    /// A gateway has described itself.
    pub(super) fn described(&mut self, now: Now, from: GatewayId, id: u64, answer: TableAnswer) {
        let Some(desk) = &mut self.steward else { return };
        let TableAnswer::Gateway(description) = answer else { return };
        let asked = desk.asked.remove(&id);
        if asked.is_some_and(|(whom, until)| whom == from && now.mono_ms < until) {
            desk.core.described(now.mono_ms, from, *description);
        }
    }
}
