//! The world's part in growth: operators, who give orders through any gateway and repeat them until they see them
//! carried out, and boxes that come and go.

use super::{End, World};
use crate::gateway::{Place, steward};
use crate::invariants::placement;
use selvedge_fabric::directory::{
    Admission, DIRECTORY_GROUP, Directory, DirectoryCommand, DirectoryItem, FIRST_LEVEL, GatewayRecord,
    GatewayRole, GatewayState, JoinRequest, TokenHash,
};
use selvedge_fabric::link::Incarnation;
use selvedge_paxos::Role;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// How often operators look, and how long they wait before they repeat an order.
const LOOK_MS: u64 = 250;
const AGAIN_MS: u64 = 1_000;
/// How often an order is repeated that the site may refuse for good.
const MAX_TRIES: u64 = 8;
const INVITATION_MS: u64 = 60_000;
/// How long a removed gateway that comes back was stopped before.
const BACK_AFTER_MS: u64 = 1_000;
/// A box may be lost only while this many others can hold replicas, so that each group goes on with three members.
const MIN_OTHERS: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    Drain(GatewayId),
    Resume(GatewayId),
    Reweigh(GatewayId, u32),
    /// `lost`: its box is gone, so there is no way back.
    Remove {
        at: GatewayId,
        once_empty: bool,
        lost: bool,
    },
    Join {
        incarnation: u128,
        replaces: Option<GatewayId>,
        witness: bool,
    },
}

#[derive(Debug)]
struct Given {
    order: Order,
    again_at: u64,
    tries: u64,
}

/// The operators of a site, and what they know of boxes.
#[derive(Debug, Default)]
pub(super) struct Operators {
    given: Vec<Given>,
    pub due: u64,
    /// The data folders of all gateways that the site ever had. No number is given twice.
    met: BTreeMap<GatewayId, u128>,
    /// How long the box of a removed gateway runs on, and how long it comes back for afterwards.
    removals: BTreeMap<GatewayId, (u64, Option<u64>)>,
    /// How long after its admission a box is started, by its data folder.
    starts_after: BTreeMap<u128, u64>,
    boxes: u128,
    pub joined: u64,
    pub removed: u64,
}

impl Operators {
    pub fn of(gateways: &[GatewayId]) -> Self {
        let met = gateways.iter().map(|id| (*id, u128::from(id.0))).collect();
        Self { met, boxes: 100, ..Self::default() }
    }

    pub fn give(&mut self, order: Order) {
        if !self.given.iter().any(|given| given.order == order) {
            self.given.push(Given { order, again_at: 0, tries: 0 });
        }
    }

    /// Admits a new box with an empty disk.
    pub fn join(&mut self, replaces: Option<GatewayId>, starts_after_ms: u64) {
        self.boxes += 1;
        self.starts_after.insert(self.boxes, starts_after_ms);
        self.give(Order::Join { incarnation: self.boxes, replaces, witness: false });
    }

    /// Admits a new box as a witness.
    pub fn join_witness(&mut self) {
        self.boxes += 1;
        self.give(Order::Join { incarnation: self.boxes, replaces: None, witness: true });
    }

    pub fn remove(&mut self, at: GatewayId, once_empty: bool, runs_on_ms: u64, back_for_ms: Option<u64>) {
        if once_empty {
            self.give(Order::Drain(at));
        }
        self.removals.entry(at).or_insert((runs_on_ms, back_for_ms));
        self.give(Order::Remove { at, once_empty, lost: false });
    }

    /// A box is lost. An operator notices at that time.
    pub fn is_lost(&mut self, at: GatewayId, noticed_at: u64) {
        self.given.retain(|given| !matches!(given.order, Order::Remove { at: other, .. } if other == at));
        let order = Order::Remove { at, once_empty: false, lost: true };
        self.given.push(Given { order, again_at: noticed_at, tries: 0 });
    }

    /// From now on only what can't be taken back is ordered.
    pub fn calm(&mut self) {
        self.given.retain(|given| matches!(given.order, Order::Remove { lost: true, .. }));
        self.removals.clear();
    }

    pub fn is_idle(&self) -> bool {
        self.given.is_empty()
    }

    /// Whether a gateway that still holds replicas may be removed any time.
    fn removes_a_holder(&self, but: GatewayId) -> bool {
        let removes = |g: &Given| matches!(g.order, Order::Remove { at, once_empty: false, .. } if at != but);
        self.given.iter().any(removes)
    }
}

impl World {
    /// Whether the site is where its directory wants it. Sites whose members do not change always are.
    pub(super) fn is_placed(&self) -> bool {
        !self.plan.growth || self.operators.is_idle() && placement::unsettled(&self.places).is_none()
    }

    /// Whether a gateway has a part in the present configuration of a group of which it has a replica: as a member, or
    /// as one that learns the directory. Other replicas are retired and stay as they are.
    pub(super) fn takes_part(&self, id: GatewayId, shard: ShardId) -> bool {
        let newest = self.configurations.from(shard, 0).last();
        shard == DIRECTORY_GROUP || newest.is_none_or(|newest| newest.has_member(id))
    }

    /// Operators look what has become of their orders, and give the next ones.
    pub(super) fn operate(&mut self) {
        if !self.plan.growth || self.operators.due > self.now {
            return;
        }
        self.operators.due = self.now + LOOK_MS;
        let Some(newest) = placement::newest(&self.places).cloned() else { return };
        self.meet(&newest);
        self.part(&newest);
        let now = self.now;
        let given = std::mem::take(&mut self.operators.given);
        for mut order in given {
            if Self::is_done(&order.order, &newest) || order.tries >= MAX_TRIES && !order.is_lasting() {
                self.trace(|| format!("an operator is done with {:?}", order.order));
                continue;
            }
            if order.again_at <= now {
                (order.again_at, order.tries) = (now + AGAIN_MS, order.tries + 1);
                if self.may_order(&order.order, &newest) {
                    self.order(&order.order);
                }
            }
            self.operators.given.push(order);
        }
    }

    fn is_done(order: &Order, newest: &Directory) -> bool {
        match order {
            Order::Drain(at) => newest.gateway(*at).is_none_or(|g| g.state == GatewayState::Draining),
            Order::Resume(at) => newest.gateway(*at).is_none_or(|g| g.state == GatewayState::Active),
            Order::Reweigh(at, weight) => newest.gateway(*at).is_none_or(|g| g.weight == *weight),
            Order::Remove { at, .. } => newest.gateway(*at).is_none(),
            Order::Join { incarnation, .. } => {
                let mut all = newest.gateways().chain(newest.tombstones());
                all.any(|(_, g)| g.incarnation == Some(*incarnation))
            }
        }
    }

    /// Whether an operator gives this order now. They look before they remove a gateway, as the HTTP API does for them.
    fn may_order(&self, order: &Order, newest: &Directory) -> bool {
        let Order::Remove { at, once_empty, lost } = order else { return true };
        let lives = self.places.values().filter_map(|place| place.live.as_ref());
        let mut replicas = lives.flat_map(|live| &live.replicas);
        let all_known = replicas.all(|(shard, replica)| {
            let known = newest.configuration(*shard).map_or(0, |known| known.number);
            replica.core().configuration().number <= known
        });
        let ready = match (lost, once_empty) {
            (true, _) => true,
            (_, true) => {
                let drains = newest.gateway(*at).is_some_and(|g| g.state == GatewayState::Draining);
                drains && !newest.holds_place(*at)
            }
            _ => self.may_lose(*at),
        };
        all_known && ready
    }

    /// Whether the site can lose this gateway: no group has lost a member that is still one, or its records, and each has
    /// three.
    pub(super) fn may_lose(&self, at: GatewayId) -> bool {
        let Some(newest) = placement::newest(&self.places) else { return false };
        let active = |(id, g): &(GatewayId, &GatewayRecord)| {
            *id != at && g.state == GatewayState::Active && self.places.contains_key(id)
        };
        let is_whole = |place: &Place| {
            let damaged = place.live.as_ref().map_or(place.damaged, |live| {
                live.replicas.values().any(|r| r.core().consensus().role() == Role::Damaged)
            });
            place.rots.is_empty() && !place.gone && !damaged
        };
        let there = |id: &GatewayId| *id == at || self.places.get(id).is_some_and(is_whole);
        let all_there = |members: &[GatewayId]| members.len() >= MIN_OTHERS && members.iter().all(there);
        newest.gateways().filter(active).count() >= MIN_OTHERS
            && !self.operators.removes_a_holder(at)
            && newest.configurations().all(|(shard, known)| {
                let next = newest.moves().get(&shard).map(|m| m.next_voters(known));
                all_there(&known.voters)
                    && next.is_none_or(|next| all_there(&next))
                    && self.configurations.from(shard, known.number).all(|c| all_there(&c.members))
            })
    }

    /// Gives an order to the site, through some gateway.
    fn order(&mut self, order: &Order) {
        let commands = match *order {
            Order::Drain(gateway) => vec![DirectoryCommand::Drain { gateway }],
            Order::Resume(gateway) => vec![DirectoryCommand::Resume { gateway }],
            Order::Reweigh(gateway, weight) => vec![DirectoryCommand::Reweigh { gateway, weight }],
            Order::Remove { at, .. } => {
                vec![DirectoryCommand::Remove { gateway: at, force: false, unsound: Vec::new() }]
            }
            Order::Join { incarnation, replaces, witness } => {
                let token = TokenHash([incarnation as u8; 32]);
                let role = if witness { GatewayRole::Witness } else { GatewayRole::Full };
                let admits = Admission { role, replaces, ..Admission::default() };
                let join = JoinRequest {
                    token,
                    incarnation,
                    key: crate::links::key_of(Incarnation(incarnation)),
                    addresses: steward::addresses(&format!("box-{incarnation}")),
                    zone: None,
                    level: FIRST_LEVEL,
                };
                let invite = DirectoryCommand::Invite { token, lasts_ms: INVITATION_MS, admits };
                vec![invite, DirectoryCommand::Join(Box::new(join))]
            }
        };
        let at = self.pick();
        self.trace(|| format!("an operator orders at {at}: {order:?}"));
        let Some(place) = self.places.get_mut(&at).filter(|place| !place.gone) else { return };
        let Some(live) = &mut place.live else { return };
        for command in commands {
            live.submit(DirectoryItem::Command(None, command));
        }
        place.due = 0;
    }

    /// Sets up the boxes of gateways that were admitted.
    fn meet(&mut self, newest: &Directory) {
        let ids: Vec<GatewayId> = newest.gateways().map(|(id, _)| id).collect();
        for (id, record) in newest.gateways() {
            if let Some(known) = self.operators.met.get(&id) {
                let same = record.incarnation.is_none_or(|found| found == *known);
                assert!(same, "{id} was given to {known} and to {:?}", record.incarnation);
                continue;
            }
            let incarnation = record.incarnation.expect("it joined with one");
            self.operators.met.insert(id, incarnation);
            let peers = ids.iter().copied().filter(|peer| *peer != id).collect();
            let after_ms = self.operators.starts_after.get(&incarnation).copied().unwrap_or(0);
            let mut place = Place::new(id, incarnation, peers, self.plan.witness);
            place.is_witness = record.role == GatewayRole::Witness;
            place.back_at = self.now + if self.faults { after_ms } else { 0 };
            self.trace(|| format!("{id} was admitted, and starts after {after_ms} ms"));
            self.places.insert(id, place);
            self.operators.joined += 1;
            self.calm_since = self.now;
        }
    }

    /// Stops the boxes of gateways that were removed.
    fn part(&mut self, newest: &Directory) {
        let is_gone = |id: &GatewayId| newest.gateway(*id).is_none() && *id <= newest.highest_id();
        let fresh = self.places.iter().filter(|(id, place)| !place.gone && is_gone(id));
        let fresh: Vec<GatewayId> = fresh.map(|(id, _)| *id).collect();
        for at in fresh {
            self.operators.removed += 1;
            self.place(at).gone = true;
            let (runs_on_ms, back_for_ms) = self.operators.removals.remove(&at).unwrap_or((0, None));
            self.trace(|| {
                format!("{at} was removed, and runs for {runs_on_ms} ms, and again {back_for_ms:?}")
            });
            if !self.faults {
                self.leaves(at, false);
                continue;
            }
            let stops_at = self.now + runs_on_ms;
            if let Some(back_for_ms) = back_for_ms {
                self.ends.push((stops_at, End::Stop { at, down_ms: BACK_AFTER_MS }));
                self.ends.push((stops_at + BACK_AFTER_MS + back_for_ms, End::Leaves(at)));
            } else {
                self.ends.push((stops_at, End::Leaves(at)));
            }
        }
    }

    /// A box leaves the site for good: it is switched off, or (`lost`) lost with its disk.
    pub(super) fn leaves(&mut self, at: GatewayId, lost: bool) {
        if !self.places.contains_key(&at) {
            return;
        }
        self.trace(|| format!("{at} has left for good, lost: {lost}"));
        self.place(at).live = None;
        self.wires.process_ended(&mut self.random, self.now, at, lost);
        self.down(at, u64::MAX);
        self.send_devices_away(at);
        self.places.remove(&at);
    }

    /// All boxes that were removed and still run leave.
    pub(super) fn removed_leave(&mut self) {
        let gone: Vec<GatewayId> = self.places.iter().filter(|(_, p)| p.gone).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|at| self.leaves(at, false));
    }

    pub(super) fn send_devices_away(&mut self, at: GatewayId) {
        for d in 0..self.devices.list.len() {
            if self.devices.list[d].connection.as_ref().is_some_and(|c| c.gateway == at) {
                self.devices.lost(d, self.now);
            }
        }
    }
}

impl Given {
    fn is_lasting(&self) -> bool {
        matches!(self.order, Order::Remove { lost: true, .. })
    }
}
