//! Recovery of a site that has lost majorities for good: what each survivor says, what follows from that, and the plan that
//! all survivors carry out.
//!
//! A person decides that the gateways that don't answer are gone. [`assess`] then looks at each group (a shard, or the
//! directory group) of which no majority of sound replicas is left, and chooses the survivor from which it goes on:
//!
//! - Only a sound replica on a full gateway counts. Among these, the one that has accepted in the highest ballot, and there
//!   the furthest, holds everything that another survivor knows to be chosen: whatever was chosen in an earlier ballot was
//!   proposed again in the higher one. If another survivor knows slots as chosen that this one lacks, it goes on from the
//!   one that knows most.
//! - If only damaged replicas are left, it goes on from what the one that had applied most has in its last snapshot.
//! - If none is left, it begins anew on some survivor.
//!
//! Groups that have their majority are not touched.
//!
//! Limits: [`MAX_SURVIVORS_ENTRIES`] survivors; each says at most one thing about each group.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The most survivors of one recovery.
pub const MAX_SURVIVORS_ENTRIES: usize = 64;
/// How far the number of a configuration that a recovery begins lies above the highest that the survivors know. What is left
/// of the earlier generation counts its own configurations on by one, so it does not reach the new ones.
pub const RECOVERY_JUMP: u32 = 1_000_000;

/// What a gateway says of one of its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurvivingReplica {
    /// The number of the shard; 65535 for the directory group.
    pub group: u16,
    pub configuration: u32,
    /// The members of that configuration.
    pub members: Vec<u16>,
    /// Whether it is one of them that never leads.
    pub witness: bool,
    /// Whether it has lost nothing.
    pub sound: bool,
    /// The ballot that it has promised last: round and gateway.
    pub ballot: (u64, u16),
    /// All slots up to this one are known to be chosen.
    pub commit: u64,
    /// All slots up to this one are chosen, or accepted in that ballot.
    pub prefix: u64,
    /// The last slot that it holds.
    pub last: u64,
    pub applied: u64,
    /// Uplink batches that the cloud has not confirmed.
    pub unconfirmed_batches: u64,
    /// The generation of the incarnation that its batches are sent under.
    pub generation: u64,
}

/// A gateway that a survivor knows of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownGateway {
    pub gateway: u16,
    /// Its address for operators; empty if it is not known.
    pub http: String,
    pub witness: bool,
}

/// A group, by a survivor's copy of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownGroup {
    pub group: u16,
    pub configuration: u32,
    pub members: Vec<u16>,
}

/// What names a plan: no two plans have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanName {
    pub generation: u64,
    /// 32 hexadecimal digits, drawn for this plan. They become a part of the site's incarnation.
    pub random: String,
}

/// What a survivor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    pub site: String,
    pub gateway: u16,
    /// The generation of the site that it knows; 0 before the first recovery.
    pub generation: u64,
    /// The last plan that it has taken, if any.
    pub plan: Option<RecoveryPlan>,
    /// The gateways that it reaches, itself among them.
    pub reachable: Vec<u16>,
    /// The gateways that are not gone, as far as it knows.
    pub gateways: Vec<KnownGateway>,
    pub groups: Vec<KnownGroup>,
    pub replicas: Vec<SurvivingReplica>,
}

/// From what a group goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GoesOnFrom {
    /// Everything that the survivor's log holds.
    Log,
    /// The survivor's last snapshot: its log is damaged.
    Snapshot,
    /// An empty state: no survivor has anything that counts.
    Nothing,
}

/// A group that goes on with one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedGroup {
    pub group: u16,
    /// The configuration that begins.
    pub configuration: u32,
    /// The survivor that is its only member.
    pub source: u16,
    pub from: GoesOnFrom,
}

/// What all survivors carry out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryPlan {
    pub site: String,
    pub name: PlanName,
    pub survivors: Vec<u16>,
    /// The gateways that are given up for good.
    pub lost: Vec<u16>,
    pub groups: Vec<PlannedGroup>,
}

/// A group as the survivors have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AssessedGroup {
    pub group: u16,
    /// The members of its latest configuration that the survivors know.
    pub members: Vec<u16>,
    /// Those of them that survive with a sound replica.
    pub sound: Vec<u16>,
    /// How it goes on; `None` if it has its majority.
    pub goes_on: Option<PlannedGroup>,
    /// The last slot that is kept.
    pub kept: u64,
    /// Up to this slot, what is kept is known to have been chosen.
    pub commit: u64,
    pub unconfirmed_batches: u64,
}

/// What becomes of a site if the gateways that did not answer are given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assessment {
    pub plan: RecoveryPlan,
    pub groups: Vec<AssessedGroup>,
}

/// Why a site can't be recovered like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRecovery {
    /// There is nothing to look at, or too much.
    #[error("name 1 to {MAX_SURVIVORS_ENTRIES} gateways that survive")]
    Survivors,
    /// The gateways belong to several sites.
    #[error("the gateways belong to several sites: {0}")]
    Sites(String),
    /// A survivor has another plan, or is in another generation.
    #[error(
        "gateway {gateway} is in generation {found} of the site, and others are in {other}: a recovery is under way or was not finished; \
         start all survivors, and look at `selvedge site recover` again"
    )]
    Generations { gateway: u16, found: u64, other: u64 },
    /// A gateway that would be given up can still be reached.
    #[error(
        "gateway {by} still reaches gateway {gateway}, which did not answer here: name its address too (--gateway), or stop it for good \
         before it is given up"
    )]
    StillThere { gateway: u16, by: u16 },
    /// Nothing has lost its majority.
    #[error(
        "every group has a majority of sound replicas: nothing is to be recovered. Replace what is gone with `selvedge gateway invite \
         --replace GATEWAY`, or remove it with `selvedge gateway remove GATEWAY`"
    )]
    NothingLost,
    /// Only witnesses are left.
    #[error("only witnesses survive, and they hold no data: the site can't be recovered from them")]
    OnlyWitnesses,
    /// A configuration's number is at its end.
    #[error("the numbers of configurations are used up")]
    Numbers,
}

/// Judges what the survivors say. `now_ms` is the wall time, and `random` 32 hexadecimal digits that were just drawn.
///
/// # Errors
/// [`NoRecovery`], when the site can't or need not be recovered.
pub fn assess(survivors: &[Survivor], now_ms: u64, random: String) -> Result<Assessment, NoRecovery> {
    let first = survivors.first().ok_or(NoRecovery::Survivors)?;
    let ids: BTreeSet<u16> = survivors.iter().map(|s| s.gateway).collect();
    if survivors.len() > MAX_SURVIVORS_ENTRIES || ids.len() != survivors.len() {
        return Err(NoRecovery::Survivors);
    }
    if let Some(other) = survivors.iter().find(|s| s.site != first.site) {
        return Err(NoRecovery::Sites(format!("{} and {}", first.site, other.site)));
    }
    if let Some(s) = survivors.iter().find(|s| s.generation != first.generation) {
        let (gateway, found, other) = (s.gateway, s.generation, first.generation);
        return Err(NoRecovery::Generations { gateway, found, other });
    }
    let lost: BTreeSet<u16> = survivors
        .iter()
        .flat_map(|s| s.gateways.iter().map(|g| g.gateway))
        .filter(|g| !ids.contains(g))
        .collect();
    for s in survivors {
        if let Some(gateway) = s.reachable.iter().find(|g| !ids.contains(g)) {
            return Err(NoRecovery::StillThere { gateway: *gateway, by: s.gateway });
        }
    }
    let witnesses: BTreeSet<u16> =
        survivors.iter().flat_map(|s| s.gateways.iter().filter(|g| g.witness).map(|g| g.gateway)).collect();
    let full = ids.iter().copied().find(|id| !witnesses.contains(id)).ok_or(NoRecovery::OnlyWitnesses)?;

    // The latest members of each group that a survivor knows, whoever says so.
    let mut latest: BTreeMap<u16, (u32, &[u16])> = BTreeMap::new();
    let replicas = || survivors.iter().flat_map(|s| s.replicas.iter().map(move |r| (s.gateway, r)));
    let said =
        survivors.iter().flat_map(|s| s.groups.iter().map(|g| (g.group, g.configuration, &*g.members)));
    for (group, number, members) in
        said.chain(replicas().map(|(_, r)| (r.group, r.configuration, &*r.members)))
    {
        let known = latest.entry(group).or_insert((number, members));
        if number > known.0 {
            *known = (number, members);
        }
    }
    let mut groups = Vec::new();
    for (group, (number, members)) in latest {
        let here: Vec<(u16, &SurvivingReplica)> = replicas().filter(|(_, r)| r.group == group).collect();
        let sound: Vec<u16> =
            here.iter().filter(|(g, r)| r.sound && members.contains(g)).map(|(g, _)| *g).collect();
        let unconfirmed_batches = here.iter().map(|(_, r)| r.unconfirmed_batches).max().unwrap_or(0);
        let commit = here.iter().map(|(_, r)| r.commit).max().unwrap_or(0);
        let mut assessed = AssessedGroup {
            group,
            members: members.to_vec(),
            goes_on: None,
            kept: here.iter().map(|(_, r)| r.last).max().unwrap_or(0),
            commit,
            unconfirmed_batches,
            sound,
        };
        if assessed.sound.len() <= members.len() / 2 {
            let configuration = number.checked_add(RECOVERY_JUMP).ok_or(NoRecovery::Numbers)?;
            let holds: Vec<_> =
                here.into_iter().filter(|(g, r)| !r.witness && !witnesses.contains(g)).collect();
            let (source, from, kept) = source(&holds).unwrap_or((full, GoesOnFrom::Nothing, 0));
            assessed.kept = kept;
            assessed.commit = commit.min(kept);
            assessed.goes_on = Some(PlannedGroup { group, configuration, source, from });
        }
        groups.push(assessed);
    }
    let planned: Vec<PlannedGroup> = groups.iter().filter_map(|g| g.goes_on.clone()).collect();
    if planned.is_empty() {
        return Err(NoRecovery::NothingLost);
    }
    let known = survivors.iter().flat_map(|s| {
        let plan = s.plan.as_ref().map_or(0, |plan| plan.name.generation);
        s.replicas.iter().map(|r| r.generation).chain([s.generation, plan])
    });
    let generation = known.max().unwrap_or(0).saturating_add(1).max(now_ms);
    let plan = RecoveryPlan {
        site: first.site.clone(),
        name: PlanName { generation, random },
        survivors: ids.into_iter().collect(),
        lost: lost.into_iter().collect(),
        groups: planned,
    };
    Ok(Assessment { plan, groups })
}

/// The plan that some of these survivors have taken, and those who still lack it: a recovery that was not finished. `None`
/// if there is none.
pub fn unfinished(survivors: &[Survivor]) -> Option<(RecoveryPlan, Vec<u16>)> {
    let plan = survivors.iter().filter_map(|s| s.plan.as_ref()).max_by_key(|plan| plan.name.generation)?;
    let lacks = |s: &&Survivor| s.plan.as_ref() != Some(plan) && plan.survivors.contains(&s.gateway);
    let lacking: Vec<u16> = survivors.iter().filter(lacks).map(|s| s.gateway).collect();
    (!lacking.is_empty()).then(|| (plan.clone(), lacking))
}

impl RecoveryPlan {
    /// Checks what a gateway can check of a plan that it is handed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, site: &str, gateway: u16) -> Result<(), String> {
        let is = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_string()) };
        let hex = |text: &str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        is(self.site == site, "it is for another site")?;
        is(self.survivors.contains(&gateway), "this gateway is not among its survivors")?;
        is(self.survivors.len() <= MAX_SURVIVORS_ENTRIES, "it has too many survivors")?;
        is(self.lost.iter().all(|g| !self.survivors.contains(g)), "a gateway is both lost and a survivor")?;
        is((1..=1 << 62).contains(&self.name.generation), "its generation is out of range")?;
        is(hex(&self.name.random), "its random part is not 32 hexadecimal digits")?;
        let groups: BTreeSet<u16> = self.groups.iter().map(|g| g.group).collect();
        is(groups.len() == self.groups.len(), "a group is named twice")?;
        let sound = |g: &PlannedGroup| g.configuration > RECOVERY_JUMP && self.survivors.contains(&g.source);
        is(self.groups.iter().all(sound), "a group has no survivor, or no new configuration")
    }
}

/// The survivor from which a group goes on, from what, and the last slot that is kept.
fn source(holds: &[(u16, &SurvivingReplica)]) -> Option<(u16, GoesOnFrom, u64)> {
    let sound = || holds.iter().filter(|(_, r)| r.sound);
    let chosen = sound().map(|(_, r)| (r.configuration, r.commit)).max();
    // Of equal ones, the gateway with the lowest number.
    let furthest =
        sound().max_by_key(|(g, r)| (r.configuration, r.ballot, r.prefix, r.last, std::cmp::Reverse(*g)));
    let covers = furthest.filter(|(_, r)| Some((r.configuration, r.prefix)) >= chosen);
    let knows_most =
        || sound().max_by_key(|(g, r)| (r.configuration, r.commit, r.last, std::cmp::Reverse(*g)));
    if let Some((gateway, replica)) = covers.or_else(knows_most) {
        return Some((*gateway, GoesOnFrom::Log, replica.last));
    }
    let damaged = holds.iter().max_by_key(|(g, r)| (r.applied, std::cmp::Reverse(*g)));
    damaged.map(|(gateway, replica)| (*gateway, GoesOnFrom::Snapshot, replica.applied))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(group: u16, members: &[u16], last: u64) -> SurvivingReplica {
        SurvivingReplica {
            group,
            configuration: 4,
            members: members.to_vec(),
            witness: false,
            sound: true,
            ballot: (5, 1),
            commit: last,
            prefix: last,
            last,
            applied: last,
            unconfirmed_batches: 2,
            generation: 900,
        }
    }

    fn survivor(gateway: u16, replicas: Vec<SurvivingReplica>) -> Survivor {
        let known = |gateway| KnownGateway { gateway, http: String::new(), witness: false };
        Survivor {
            site: "plant-7".into(),
            gateway,
            generation: 0,
            plan: None,
            reachable: vec![gateway],
            gateways: (1..=5).map(known).collect(),
            groups: vec![],
            replicas,
        }
    }

    fn judge(survivors: &[Survivor]) -> Result<Assessment, NoRecovery> {
        assess(survivors, 500, "0".repeat(32))
    }

    fn source_of(replicas: &[(u16, SurvivingReplica)]) -> (u16, GoesOnFrom) {
        let all: Vec<Survivor> = replicas.iter().map(|(g, r)| survivor(*g, vec![r.clone()])).collect();
        let plan = judge(&all).unwrap().plan;
        (plan.groups[0].source, plan.groups[0].from)
    }

    #[test]
    fn groups_without_a_majority_go_on_and_the_others_stay() {
        let [one, two] =
            [1, 2].map(|g| survivor(g, vec![replica(0, &[1, 2, 3], 7), replica(1, &[1, 4, 5], 9)]));
        let found = judge(&[one.clone(), two]).unwrap();
        assert_eq!((&*found.plan.survivors, &*found.plan.lost), (&[1, 2][..], &[3, 4, 5][..]));
        let [kept, lost] = &found.groups[..] else { panic!("{found:?}") };
        assert_eq!((kept.goes_on.as_ref(), &*kept.sound), (None, &[1, 2][..]));
        let planned = PlannedGroup { group: 1, configuration: 1_000_004, source: 1, from: GoesOnFrom::Log };
        assert_eq!((lost.goes_on.as_ref(), lost.kept), (Some(&planned), 9));
        assert_eq!(found.plan.name.generation, 901, "later than what any survivor knows");
        assert_eq!(found.plan.check("plant-7", 1), Ok(()));
        assert!(found.plan.check("plant-7", 3).is_err() && found.plan.check("plant-8", 1).is_err());
        // A group of which nobody has anything, by the copy of the directory.
        let mut alone = one;
        alone.groups = vec![KnownGroup { group: 2, configuration: 1, members: vec![3, 4, 5] }];
        let anew = judge(&[alone]).unwrap().plan.groups.pop().unwrap();
        assert_eq!((anew.group, anew.source, anew.from), (2, 1, GoesOnFrom::Nothing));
    }

    #[test]
    fn the_source_is_the_furthest_in_the_highest_ballot_unless_another_knows_more() {
        let members = [1, 2, 3, 4, 5];
        let of = |ballot: u64, commit, prefix, last| SurvivingReplica {
            ballot: (ballot, 1),
            commit,
            prefix,
            ..replica(0, &members, last)
        };
        // What the first holds beyond its prefix comes from an older ballot.
        assert_eq!(source_of(&[(1, of(5, 5, 5, 10)), (2, of(6, 8, 8, 8))]).0, 2);
        // In the same ballot, the longer prefix has all that the other knows to be chosen.
        assert_eq!(source_of(&[(1, of(6, 99, 101, 101)), (2, of(6, 100, 100, 100))]).0, 1);
        // A ballot that has not come far does not count against what is known to be chosen.
        assert_eq!(source_of(&[(1, of(7, 5, 5, 5)), (2, of(6, 8, 9, 9))]).0, 2);
        assert_eq!(source_of(&[(1, of(6, 8, 9, 9)), (2, of(6, 8, 9, 9))]).0, 1, "of equal ones, the first");
        let later = SurvivingReplica { configuration: 5, ..of(1, 3, 3, 3) };
        assert_eq!(source_of(&[(1, of(7, 9, 9, 9)), (2, later)]).0, 2);
        let bad = SurvivingReplica { sound: false, ..of(9, 50, 50, 50) };
        assert_eq!(source_of(&[(1, bad.clone()), (2, of(6, 8, 9, 9))]), (2, GoesOnFrom::Log));
        assert_eq!(
            source_of(&[(1, bad), (2, SurvivingReplica { sound: false, ..of(1, 2, 2, 2) })]),
            (1, GoesOnFrom::Snapshot)
        );
        let witness = SurvivingReplica { witness: true, ..of(9, 50, 50, 50) };
        assert_eq!(source_of(&[(1, witness), (2, of(6, 8, 9, 9))]).0, 2);
    }

    #[test]
    fn a_site_that_need_not_or_must_not_be_recovered_is_left_alone() {
        let [one, two] = [1, 2].map(|g| survivor(g, vec![replica(0, &[1, 2, 3], 7)]));
        assert_eq!(judge(&[]), Err(NoRecovery::Survivors));
        assert_eq!(judge(&[one.clone(), one.clone()]), Err(NoRecovery::Survivors));
        assert_eq!(judge(&[one.clone(), two.clone()]), Err(NoRecovery::NothingLost));
        let reaches = Survivor { reachable: vec![1, 3], ..one.clone() };
        assert_eq!(judge(&[reaches]), Err(NoRecovery::StillThere { gateway: 3, by: 1 }));
        let elsewhere = Survivor { site: "plant-8".into(), ..two.clone() };
        assert!(matches!(judge(&[one.clone(), elsewhere]), Err(NoRecovery::Sites(_))));
        let mut only = one.clone();
        only.gateways[0].witness = true;
        assert_eq!(judge(&[only]), Err(NoRecovery::OnlyWitnesses));

        // A recovery that did not reach everybody is finished, not repeated.
        let plan = judge(std::slice::from_ref(&one)).unwrap().plan;
        let plan = RecoveryPlan { survivors: vec![1, 2], ..plan };
        let has = Survivor { plan: Some(plan.clone()), ..one };
        assert_eq!(unfinished(&[has.clone(), two]), Some((plan, vec![2])));
        assert_eq!(unfinished(&[has]), None);
    }
}
