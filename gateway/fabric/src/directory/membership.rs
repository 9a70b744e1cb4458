//! Commands that admit, change and remove gateways.

use super::command::{Announcement, JoinRequest, UnsoundReplica};
use super::configuration::majority;
use super::gateway::{GatewayKey, GatewayRecord, GatewayRole, GatewayState, is_zone};
use super::invitation::{
    Admission, Invitation, InvitationEnd, InvitationId, MAX_INVITATION_MS, MAX_INVITATIONS_ENTRIES, TokenHash,
};
use super::outcome::{DirectoryOutcome, DirectoryRefusal};
use super::{Directory, DirectoryResult, State};
use crate::ring::{MAX_GATEWAYS, MAX_WEIGHT};
use selvedge_types::ids::GatewayId;

use DirectoryOutcome::{Done, Unchanged};

impl Directory {
    pub(super) fn invite(&mut self, token: TokenHash, lasts_ms: u64, admits: &Admission) -> DirectoryResult {
        let state = &mut self.state;
        if !(1..=MAX_INVITATION_MS).contains(&lasts_ms) {
            return Err(DirectoryRefusal::InvitationTime(lasts_ms));
        }
        let weight = admits.weight.unwrap_or(1);
        check_weight(weight)?;
        check_zone(admits.zone.as_deref())?;
        let id = token.invitation();
        if state.invitations.open_as(id).is_some() || state.invitations.end_of_id(id).is_some() {
            return Err(DirectoryRefusal::InvitationKnown);
        }
        if state.invitations.open.len() >= MAX_INVITATIONS_ENTRIES {
            return Err(DirectoryRefusal::TooManyInvitations);
        }
        let expires = state.elapsed.plus(lasts_ms);
        let mut invitation =
            Invitation { role: admits.role, weight, zone: admits.zone.clone(), replaces: None, expires };
        if let Some(replaced) = admits.replaces {
            let old = state.living(replaced)?;
            state.check_place(replaced, old.ring_id)?;
            invitation.role = old.role;
            invitation.weight = admits.weight.unwrap_or(old.weight);
            invitation.replaces = Some((replaced, old.ring_id, old.zone.clone()));
        }
        state.invitations.open.insert(token, invitation);
        Ok(DirectoryOutcome::Invited { expires })
    }

    pub(super) fn withdraw(&mut self, id: InvitationId) -> DirectoryResult {
        let invitations = &mut self.state.invitations;
        if let Some(token) = invitations.open_as(id) {
            invitations.end(token, InvitationEnd::Withdrawn);
            return Ok(Done);
        }
        match invitations.end_of_id(id) {
            Some(InvitationEnd::Used(gateway)) => {
                Err(DirectoryRefusal::JoinedAlready { invitation: id, gateway })
            }
            Some(InvitationEnd::Expired | InvitationEnd::Withdrawn) => Ok(Unchanged),
            None => Err(DirectoryRefusal::NoInvitation(id)),
        }
    }

    pub(super) fn join(&mut self, asked: &JoinRequest) -> DirectoryResult {
        let state = &mut self.state;
        let Some(invitation) = state.invitations.open.get(&asked.token) else {
            return match state.invitations.end_of(asked.token) {
                // A retry: the box did not receive the first answer.
                Some(InvitationEnd::Used(id)) if state.is_the_same(id, asked) => {
                    Ok(DirectoryOutcome::Joined { gateway: id })
                }
                Some(InvitationEnd::Used(id)) => Err(DirectoryRefusal::InvitationUsed(id)),
                Some(InvitationEnd::Withdrawn) => Err(DirectoryRefusal::InvitationWithdrawn),
                Some(InvitationEnd::Expired) => Err(DirectoryRefusal::InvitationExpired),
                None => Err(DirectoryRefusal::InvitationUnknown),
            };
        };
        if !asked.addresses.is_sound() {
            return Err(DirectoryRefusal::Address);
        }
        check_zone(asked.zone.as_deref())?;
        state.check_level(asked.level)?;
        state.check_unknown(None, asked.key, asked.incarnation)?;
        if state.gateways.living().count() >= MAX_GATEWAYS {
            return Err(DirectoryRefusal::TooManyGateways);
        }
        let id = state.gateways.next_id().ok_or(DirectoryRefusal::NoNumberLeft)?;
        let (mut ring_id, mut old_zone) = (id, None);
        if let Some((replaced, place, zone)) = &invitation.replaces {
            state.check_place(*replaced, *place)?;
            (ring_id, old_zone) = (*place, zone.clone());
        }
        let record = GatewayRecord {
            incarnation: Some(asked.incarnation),
            key: Some(asked.key),
            addresses: asked.addresses.clone(),
            weight: invitation.weight,
            zone: invitation.zone.clone().or_else(|| asked.zone.clone()).or(old_zone),
            role: invitation.role,
            state: GatewayState::Joining,
            ring_id,
            level: asked.level,
            changed: state.slot,
            since: state.elapsed,
        };
        state.gateways.all.insert(id, record);
        state.gateways.highest = state.gateways.highest.max(id);
        state.invitations.end(asked.token, InvitationEnd::Used(id));
        Ok(DirectoryOutcome::Joined { gateway: id })
    }

    pub(super) fn activate(&mut self, id: GatewayId) -> DirectoryResult {
        let (slot, now) = (self.state.slot, self.state.elapsed);
        let gateway = self.state.living_mut(id)?;
        match gateway.state {
            GatewayState::Joining => gateway.enter(GatewayState::Active, now),
            GatewayState::Active => return Ok(Unchanged),
            other => return Err(DirectoryRefusal::NotJoining(id, other)),
        }
        gateway.changed = slot;
        let ring_id = gateway.ring_id;
        // An active gateway at this position in the ring now drains. One that never became active holds nothing, and
        // goes.
        for (old, becomes) in
            [(GatewayState::Active, GatewayState::Draining), (GatewayState::Joining, GatewayState::Gone)]
        {
            if let Some(replaced) = self.state.gateways.in_place_of(id, ring_id, old)
                && let Some(replaced) = self.state.gateways.all.get_mut(&replaced)
            {
                replaced.enter(becomes, now);
                replaced.changed = slot;
            }
        }
        self.is_stale = true;
        Ok(Done)
    }

    pub(super) fn announce(&mut self, told: &Announcement) -> DirectoryResult {
        let id = told.gateway;
        let known = self.state.living(id)?;
        if known.incarnation.is_some_and(|i| i != told.incarnation)
            || known.key.is_some_and(|k| k != told.key)
        {
            return Err(DirectoryRefusal::NotTheSame(id));
        }
        if !told.addresses.is_sound() {
            return Err(DirectoryRefusal::Address);
        }
        check_zone(told.zone.as_deref())?;
        self.state.check_level(told.level)?;
        self.state.check_unknown(Some(id), told.key, told.incarnation)?;
        let slot = self.state.slot;
        let gateway = self.state.living_mut(id)?;
        let before = gateway.clone();
        gateway.incarnation = Some(told.incarnation);
        gateway.key = Some(told.key);
        gateway.addresses.clone_from(&told.addresses);
        gateway.zone = told.zone.clone().or_else(|| gateway.zone.take());
        gateway.level = told.level;
        if *gateway == before {
            return Ok(Unchanged);
        }
        gateway.changed = slot;
        if gateway.zone != before.zone {
            self.is_stale = true;
        }
        Ok(Done)
    }

    pub(super) fn drain(&mut self, id: GatewayId) -> DirectoryResult {
        let (slot, now) = (self.state.slot, self.state.elapsed);
        let gateway = self.state.living(id)?;
        match gateway.state {
            GatewayState::Active => self.state.check_not_last(id)?,
            GatewayState::Draining => return Ok(Unchanged),
            other => return Err(DirectoryRefusal::NotActive(id, other)),
        }
        let gateway = self.state.living_mut(id)?;
        gateway.enter(GatewayState::Draining, now);
        gateway.changed = slot;
        self.is_stale = true;
        Ok(Done)
    }

    pub(super) fn resume(&mut self, id: GatewayId) -> DirectoryResult {
        let (slot, now) = (self.state.slot, self.state.elapsed);
        let gateway = self.state.living(id)?;
        match gateway.state {
            GatewayState::Draining => {}
            GatewayState::Active => return Ok(Unchanged),
            other => return Err(DirectoryRefusal::NotDraining(id, other)),
        }
        if let Some(by) = self.replacement_of(id) {
            return Err(DirectoryRefusal::Replaced { gateway: id, by });
        }
        let gateway = self.state.living_mut(id)?;
        gateway.enter(GatewayState::Active, now);
        gateway.changed = slot;
        self.is_stale = true;
        Ok(Done)
    }

    pub(super) fn remove(
        &mut self,
        id: GatewayId,
        force: bool,
        unsound: &[UnsoundReplica],
    ) -> DirectoryResult {
        let (slot, now) = (self.state.slot, self.state.elapsed);
        match self.state.living(id) {
            Err(DirectoryRefusal::Gone(_)) => return Ok(Unchanged),
            known => known.map(|_| ())?,
        }
        self.state.check_not_last(id)?;
        if !force {
            self.state.check_left(id, unsound)?;
        }
        let gateway = self.state.living_mut(id)?;
        gateway.enter(GatewayState::Gone, now);
        gateway.changed = slot;
        let (gateways, configurations) = (&mut self.state.gateways, &self.state.configurations);
        gateways.drop_tombstones(|gone| configurations.has_voter(gone));
        self.is_stale = true;
        Ok(Done)
    }

    pub(super) fn reweigh(&mut self, id: GatewayId, weight: u32) -> DirectoryResult {
        check_weight(weight)?;
        let slot = self.state.slot;
        let gateway = self.state.living_mut(id)?;
        if gateway.weight == weight {
            return Ok(Unchanged);
        }
        (gateway.weight, gateway.changed) = (weight, slot);
        self.is_stale = true;
        Ok(Done)
    }

    pub(super) fn upgrade(&mut self, level: u32) -> DirectoryResult {
        let at = self.state.level;
        if level < at {
            return Err(DirectoryRefusal::LevelBack { found: level, level: at });
        }
        let behind = self.state.gateways.living().filter(|(_, g)| g.level < level);
        let behind: Vec<GatewayId> = behind.map(|(id, _)| id).collect();
        if !behind.is_empty() {
            return Err(DirectoryRefusal::NotUnderstood { level, gateways: behind });
        }
        self.state.level = level;
        Ok(if level == at { Unchanged } else { Done })
    }
}

impl State {
    /// The record of a gateway, or the refusal for one that is unknown or gone.
    fn living(&self, id: GatewayId) -> Result<&GatewayRecord, DirectoryRefusal> {
        match self.gateways.all.get(&id) {
            Some(gateway) if gateway.state != GatewayState::Gone => Ok(gateway),
            Some(_) => Err(DirectoryRefusal::Gone(id)),
            None => Err(DirectoryRefusal::UnknownGateway(id)),
        }
    }

    fn living_mut(&mut self, id: GatewayId) -> Result<&mut GatewayRecord, DirectoryRefusal> {
        self.living(id)?;
        self.gateways.all.get_mut(&id).ok_or(DirectoryRefusal::UnknownGateway(id))
    }

    /// Whether a repeated join request comes from the box that joined as `id`.
    fn is_the_same(&self, id: GatewayId, asked: &JoinRequest) -> bool {
        let same = |g: &GatewayRecord| g.key == Some(asked.key) && g.incarnation == Some(asked.incarnation);
        self.living(id).is_ok_and(same)
    }

    /// Refuses if another active or joining gateway already has this position in the ring.
    fn check_place(&self, replaced: GatewayId, ring_id: GatewayId) -> Result<(), DirectoryRefusal> {
        for state in [GatewayState::Active, GatewayState::Joining] {
            if let Some(by) = self.gateways.in_place_of(replaced, ring_id, state) {
                return Err(DirectoryRefusal::Replaced { gateway: replaced, by });
            }
        }
        Ok(())
    }

    /// Refuses if a gateway other than `but`, tombstones included, has this key or data folder.
    fn check_unknown(
        &self,
        but: Option<GatewayId>,
        key: GatewayKey,
        incarnation: u128,
    ) -> Result<(), DirectoryRefusal> {
        for (id, gateway) in self.gateways.all.iter().filter(|(id, _)| Some(**id) != but) {
            if gateway.key == Some(key) {
                return Err(DirectoryRefusal::KeyKnown(*id));
            }
            if gateway.incarnation == Some(incarnation) {
                return Err(DirectoryRefusal::IncarnationKnown(*id));
            }
        }
        Ok(())
    }

    /// Notes since when every gateway understands a higher level than the site's.
    pub(super) fn note_level(&mut self) {
        let common = self.gateways.common_level();
        if common <= self.level {
            self.next_level = None;
        } else if self.next_level.is_none_or(|(level, _)| level != common) {
            self.next_level = Some((common, self.elapsed));
        }
    }

    fn check_level(&self, found: u32) -> Result<(), DirectoryRefusal> {
        if found < self.level {
            Err(DirectoryRefusal::LevelTooLow { found, level: self.level })
        } else {
            Ok(())
        }
    }

    /// Refuses if `id` is the only active gateway that holds data.
    fn check_not_last(&self, id: GatewayId) -> Result<(), DirectoryRefusal> {
        let mut full = self.gateways.active_full();
        let is_last = full.next().is_some_and(|(first, _)| first == id) && full.next().is_none();
        if is_last { Err(DirectoryRefusal::LastFull(id)) } else { Ok(()) }
    }

    /// Refuses if a group in which `id` votes would be left without a majority, or without a good replica on a full
    /// gateway.
    fn check_left(&self, id: GatewayId, unsound: &[UnsoundReplica]) -> Result<(), DirectoryRefusal> {
        let groups = self.configurations.0.iter().flat_map(|(shard, configuration)| {
            // The stop entry of a move under way may be chosen already, so the next voters are checked as well.
            let next = self.moves.under_way.get(shard).map(|m| m.next_voters(configuration));
            next.into_iter().chain([configuration.voters.clone()]).map(move |voters| (shard, voters))
        });
        for (shard, voters) in groups.filter(|(_, voters)| voters.contains(&id)) {
            let left: Vec<GatewayId> =
                voters.iter().copied().filter(|g| *g != id && self.living(*g).is_ok()).collect();
            if left.len() < majority(voters.len()) {
                let (left, voters) = (left.len() as u8, voters.len() as u8); // at most MAX_REPLICAS
                return Err(DirectoryRefusal::NoMajority { gateway: id, shard: *shard, left, voters });
            }
            let good = |g: &&GatewayId| {
                let bad = UnsoundReplica { shard: *shard, gateway: **g };
                self.living(**g).is_ok_and(|r| r.role == GatewayRole::Full) && !unsound.contains(&bad)
            };
            if left.iter().find(good).is_none() {
                return Err(DirectoryRefusal::LastGoodReplica { gateway: id, shard: *shard });
            }
            // A voter that is away or behind may never come back: without it, the group could not even replace the one
            // that is removed.
            let is_sound =
                |g: &&GatewayId| !unsound.contains(&UnsoundReplica { shard: *shard, gateway: **g });
            let sound = left.iter().filter(is_sound).count();
            if sound < majority(voters.len()) {
                let (left, voters) = (sound as u8, voters.len() as u8); // at most MAX_REPLICAS
                return Err(DirectoryRefusal::NoSoundMajority { gateway: id, shard: *shard, left, voters });
            }
        }
        Ok(())
    }
}

fn check_weight(weight: u32) -> Result<(), DirectoryRefusal> {
    if (1..=MAX_WEIGHT).contains(&weight) { Ok(()) } else { Err(DirectoryRefusal::Weight(weight)) }
}

fn check_zone(zone: Option<&str>) -> Result<(), DirectoryRefusal> {
    if is_zone(zone) { Ok(()) } else { Err(DirectoryRefusal::Zone) }
}
